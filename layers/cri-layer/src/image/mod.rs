//! What is known of images: containerd's names, and behind each a configuration, a chain of
//! layers, and the accounts in its files.
//!
//! What a digest names never changes, so it is kept for ever; what a name names is kept until
//! containerd says that it changed. A pod's start therefore asks containerd nothing about images
//! it has used before.

pub(crate) mod accounts;
pub(crate) mod pull;
pub(crate) mod reference;
mod unpack;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::StreamExt;
use hops::{
    Cx, HopError, Result,
    proto::containerd::{
        services::{
            content::v1::ReadContentRequest,
            images::v1::{GetImageRequest, ListImagesRequest},
        },
        types::Descriptor,
    },
};
use oci_spec::image::{Config, ImageConfiguration, ImageIndex, ImageManifest};
use sha2::{Digest, Sha256};

use crate::{names::hex, neighbour::Neighbour};
use accounts::Accounts;
use reference::Reference;

/// The label on every image that CRI uses (containerd's `imageLabelKey`).
pub(crate) const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");

/// The largest manifest or configuration that is read, in bytes (containerd's own limit).
const MAX_DOCUMENT: i64 = 8 << 20;

/// An image, as far as running it asks.
#[derive(Debug)]
pub(crate) struct Image {
    /// The configuration's digest, by which CRI knows an image.
    pub(crate) id: String,
    /// The snapshot of its last layer.
    pub(crate) chain: String,
    /// Of everything in the content store that belongs to it, in bytes.
    pub(crate) size: u64,
    /// Its layers, first first, with the digests of their contents.
    pub(crate) layers: Vec<(Descriptor, String)>,
    /// How it wants to be run.
    pub(crate) config: Config,
    /// The configuration as it is stored, for `verbose`.
    pub(crate) document: Vec<u8>,
}

/// The images of one containerd.
pub(crate) struct Images {
    containerd: Neighbour,
    snapshotter: String,
    names: Mutex<BTreeMap<String, Descriptor>>,
    images: Mutex<HashMap<String, Arc<Image>>>,
    accounts: Mutex<HashMap<String, Arc<Accounts>>>,
}

impl Images {
    pub(crate) fn new(containerd: Neighbour, snapshotter: String) -> Images {
        Images {
            containerd,
            snapshotter,
            names: Mutex::default(),
            images: Mutex::default(),
            accounts: Mutex::default(),
        }
    }

    /// Every name and what it names, as containerd has it now.
    ///
    /// # Errors
    /// Those of containerd.
    pub(crate) async fn list(&self, cx: &Cx) -> Result<BTreeMap<String, Descriptor>> {
        let reply = self.containerd.call(cx, ListImagesRequest::default()).await?;
        let named = |image: hops::proto::containerd::services::images::v1::Image| {
            Some((image.name, image.target?))
        };
        let names: BTreeMap<_, _> = reply.images.into_iter().filter_map(named).collect();
        lock(&self.names).clone_from(&names);
        Ok(names)
    }

    /// Forgets what `name` named.
    pub(crate) fn forget(&self, name: &str) {
        lock(&self.names).remove(name);
    }

    /// The image that a user means: a reference, an image's id, or the beginning of one.
    ///
    /// # Errors
    /// Those of containerd; an image that is not there is `None`.
    pub(crate) async fn resolve(&self, cx: &Cx, text: &str) -> Result<Option<Arc<Image>>> {
        if text.is_empty() {
            return Ok(None);
        }
        let name = match Reference::parse(text) {
            _ if reference::is_digest(text) => text.to_owned(),
            Ok(reference) => reference.name(),
            Err(_) => String::new(),
        };
        if let Some(target) = self.target_of(cx, &name).await? {
            return self.image(cx, &target).await.map(Some);
        }
        let id = if text.contains(':') { text.to_owned() } else { format!("sha256:{text}") };
        if !id.starts_with("sha256:")
            || !id["sha256:".len()..].bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Ok(None);
        }
        if let Some(image) = lock(&self.images).values().find(|image| image.id == id) {
            return Ok(Some(image.clone()));
        }
        let mut found: Option<Arc<Image>> = None;
        for (_, image) in self.all(cx).await? {
            if !image.id.starts_with(&id) {
                continue;
            }
            if found.as_ref().is_some_and(|other| other.id != image.id) {
                return Err(HopError::invalid(format!("ambiguous image id prefix {text:?}")));
            }
            found = Some(image);
        }
        Ok(found)
    }

    /// Every name with the image it names, leaving out those whose content is not all there.
    ///
    /// # Errors
    /// Those of containerd.
    pub(crate) async fn all(&self, cx: &Cx) -> Result<Vec<(String, Arc<Image>)>> {
        let mut all = Vec::new();
        for (name, target) in self.list(cx).await? {
            match self.image(cx, &target).await {
                Ok(image) => all.push((name, image)),
                Err(error) => {
                    tracing::debug!(%error, name, "an image that cannot be read is left out")
                }
            }
        }
        Ok(all)
    }

    /// The names of an image that are known: those with a tag, and repositories with a digest.
    pub(crate) fn references(&self, id: &str) -> (Vec<String>, Vec<String>) {
        let (names, images) = (lock(&self.names), lock(&self.images));
        let (mut tags, mut digests) = (Vec::new(), Vec::new());
        for (name, target) in names.iter() {
            if images.get(&target.digest).is_none_or(|image| image.id != id) {
                continue;
            }
            let Ok(reference) = Reference::parse(name) else { continue };
            if reference::is_digest(name) {
                continue;
            }
            if reference.tag.is_some() {
                tags.push(name.clone());
            }
            digests.push(format!("{}@{}", reference.repository, target.digest));
        }
        digests.sort();
        digests.dedup();
        (tags, digests)
    }

    async fn target_of(&self, cx: &Cx, name: &str) -> Result<Option<Descriptor>> {
        if name.is_empty() {
            return Ok(None);
        }
        if let Some(target) = lock(&self.names).get(name) {
            return Ok(Some(target.clone()));
        }
        match self.containerd.call(cx, GetImageRequest { name: name.to_owned() }).await {
            Ok(reply) => {
                let target = reply.image.and_then(|image| image.target);
                if let Some(target) = &target {
                    lock(&self.names).insert(name.to_owned(), target.clone());
                }
                Ok(target)
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What `target`, a manifest or an index, describes for this machine.
    ///
    /// # Errors
    /// Those of containerd; `NotFound` when an index has nothing for this machine; `DataLoss` for
    /// documents that cannot be read.
    pub(crate) async fn image(&self, cx: &Cx, target: &Descriptor) -> Result<Arc<Image>> {
        if let Some(image) = lock(&self.images).get(&target.digest) {
            return Ok(image.clone());
        }
        let mut document = self.document(cx, &target.digest).await?;
        let mut size = document.len() as u64;
        // Media types of indexes and manifests are often left out or wrong; the fields are not.
        if let Ok(index) = ImageIndex::from_reader(document.as_slice()) {
            let digest = for_this_machine(&index).ok_or_else(|| {
                HopError::not_found(format!(
                    "no match for platform in manifest {}: not found",
                    target.digest
                ))
            })?;
            document = self.document(cx, &digest).await?;
            size += document.len() as u64;
        }
        let damaged = |what: &str, e: oci_spec::OciSpecError| {
            let digest = &target.digest;
            HopError::new(hops::Kind::DataLoss, format!("failed to read {what} of {digest}: {e}"))
        };
        let manifest =
            ImageManifest::from_reader(document.as_slice()).map_err(|e| damaged("manifest", e))?;
        let id = manifest.config().digest().to_string();
        let document = self.document(cx, &id).await?;
        let configuration = ImageConfiguration::from_reader(document.as_slice())
            .map_err(|e| damaged("config", e))?;
        let blobs = manifest.layers().iter().chain([manifest.config()]);
        size += blobs.map(oci_spec::image::Descriptor::size).sum::<u64>();
        let diffs = configuration.rootfs().diff_ids();
        let layers = manifest.layers().iter().zip(diffs).map(|(layer, diff)| {
            let descriptor = Descriptor {
                media_type: layer.media_type().to_string(),
                digest: layer.digest().to_string(),
                size: i64::try_from(layer.size()).unwrap_or(i64::MAX),
                ..Descriptor::default()
            };
            (descriptor, diff.clone())
        });
        let image = Arc::new(Image {
            id,
            chain: chain_id(diffs),
            size,
            layers: layers.collect(),
            config: configuration.config().clone().unwrap_or_default(),
            document,
        });
        lock(&self.images).insert(target.digest.clone(), image.clone());
        Ok(image)
    }

    async fn document(&self, cx: &Cx, digest: &str) -> Result<Vec<u8>> {
        let read = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let mut parts = self.containerd.open(cx, read).await?;
        let mut whole = Vec::new();
        while let Some(part) = parts.next().await {
            whole.extend_from_slice(&part?.data);
            if whole.len() as i64 > MAX_DOCUMENT {
                return Err(HopError::invalid(format!(
                    "{digest} is larger than {MAX_DOCUMENT} bytes"
                )));
            }
        }
        Ok(whole)
    }
}

fn for_this_machine(index: &ImageIndex) -> Option<String> {
    let architecture = architecture();
    let fits = |m: &&oci_spec::image::Descriptor| match m.platform() {
        Some(p) => p.os().to_string() == "linux" && p.architecture().to_string() == architecture,
        None => true,
    };
    index.manifests().iter().find(fits).map(|m| m.digest().to_string())
}

/// This machine's architecture by its name in images, which is Go's.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The name of a chain of layers (OCI image specification, "Layer ChainID").
pub(crate) fn chain_id(diffs: &[String]) -> String {
    let mut diffs = diffs.iter();
    let first = diffs.next().cloned().unwrap_or_default();
    diffs.fold(first, |chain, diff| {
        format!("sha256:{}", hex(&Sha256::digest(format!("{chain} {diff}"))))
    })
}

/// A lock whose holder cannot have left half a change behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_named_by_all_its_layers() {
        let diffs: Vec<String> = ["sha256:a", "sha256:b"].map(str::to_owned).into();
        assert_eq!(chain_id(&diffs[..1]), "sha256:a");
        let both = hex(&Sha256::digest("sha256:a sha256:b"));
        assert_eq!(chain_id(&diffs), format!("sha256:{both}"));
    }
}
