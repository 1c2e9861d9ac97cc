//! Images as containerd keeps them, read the way Docker speaks of them: the id of an image is the
//! digest of its configuration.

pub(crate) mod archive;
pub(crate) mod pull;
pub mod reference;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use futures_util::StreamExt;
use hops::{
    Containerd, Cx, HopError, Kind, Result,
    proto::containerd::{
        services::{
            content::v1::ReadContentRequest,
            images::v1::{GetImageRequest, Image as Stored, ListImagesRequest},
            snapshots::v1::UsageRequest,
        },
        types::Descriptor,
    },
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use reference::{Reference, is_digest, is_id};

/// What an image's manifest and configuration say.
#[derive(Debug)]
pub(crate) struct Image {
    /// The digest that the name stands for: of the index or the manifest.
    pub(crate) target: String,
    /// `sha256:…` of the configuration.
    pub(crate) id: String,
    /// The configuration document.
    pub(crate) document: Value,
    /// The uncompressed layers' digests.
    pub(crate) diff_ids: Vec<String>,
    /// The snapshots that the layers were unpacked to.
    pub(crate) chain: Vec<String>,
    /// The compressed layers' sizes in bytes.
    blobs: Vec<i64>,
    /// The unpacked layers' sizes in bytes, once asked for.
    sizes: OnceLock<Vec<i64>>,
}

impl Image {
    /// The snapshot of the topmost layer; empty for an image without layers.
    pub(crate) fn top(&self) -> &str {
        self.chain.last().map_or("", String::as_str)
    }

    /// The `config` of the configuration document.
    pub(crate) fn config(&self) -> &Value {
        &self.document["config"]
    }
}

/// The images of one namespace of containerd.
pub(crate) struct Images {
    containerd: Arc<dyn Containerd>,
    namespace: String,
    snapshotter: String,
    by_target: Mutex<HashMap<String, Arc<Image>>>,
    /// What a name stood for when it was last asked for; containerd's events take names out.
    by_name: Mutex<HashMap<String, Arc<Image>>>,
}

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Images {
    pub(crate) fn new(
        containerd: Arc<dyn Containerd>,
        namespace: String,
        snapshotter: String,
    ) -> Images {
        Images {
            containerd,
            namespace,
            snapshotter,
            by_target: Mutex::default(),
            by_name: Mutex::default(),
        }
    }

    fn named(&self, cx: &Cx) -> Cx {
        cx.in_namespace(self.namespace.clone())
    }

    /// A name stands for something else from now on, or for nothing; `None` is any name.
    pub(crate) fn forget(&self, name: Option<&str>) {
        match name {
            Some(name) => drop(lock(&self.by_name).remove(name)),
            None => lock(&self.by_name).clear(),
        }
    }

    /// Reads a blob whole.
    async fn blob(&self, cx: &Cx, digest: &str) -> Result<Vec<u8>> {
        let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let mut chunks =
            self.containerd.stream(&self.named(cx), request, hops::op::no_input()).await?;
        let mut blob = Vec::new();
        while let Some(chunk) = chunks.next().await {
            blob.extend_from_slice(&chunk?.data);
        }
        Ok(blob)
    }

    async fn json(&self, cx: &Cx, digest: &str) -> Result<Value> {
        serde_json::from_slice(&self.blob(cx, digest).await?)
            .map_err(|e| HopError::new(Kind::DataLoss, format!("{digest}: {e}")))
    }

    /// Reads what `target` says, once.
    pub(crate) async fn of(&self, cx: &Cx, target: &Descriptor) -> Result<Arc<Image>> {
        if let Some(image) = lock(&self.by_target).get(&target.digest) {
            return Ok(image.clone());
        }
        let mut manifest = self.json(cx, &target.digest).await?;
        let is_index = INDEXES.contains(&target.media_type.as_str());
        if is_index || manifest.get("manifests").is_some() {
            let digest = platform_manifest(&manifest).ok_or_else(|| {
                HopError::not_found(format!(
                    "no matching manifest for linux/{} in the manifest list entries",
                    architecture()
                ))
            })?;
            manifest = self.json(cx, &digest).await?;
        }
        let damaged =
            |what: &str| HopError::new(Kind::DataLoss, format!("{}: {what}", target.digest));
        let id = manifest["config"]["digest"]
            .as_str()
            .ok_or_else(|| damaged("the manifest names no config"))?
            .to_owned();
        let document = self.json(cx, &id).await?;
        let diff_ids: Vec<String> = document["rootfs"]["diff_ids"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|d| d.as_str().map(str::to_owned))
            .collect();
        let blobs = manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|layer| layer["size"].as_i64().unwrap_or(0))
            .collect();
        let image = Arc::new(Image {
            target: target.digest.clone(),
            id,
            chain: chain_ids(&diff_ids),
            document,
            diff_ids,
            blobs,
            sizes: OnceLock::new(),
        });
        lock(&self.by_target).insert(target.digest.clone(), image.clone());
        Ok(image)
    }

    /// The unpacked size of each layer in bytes; of the compressed one where containerd does not
    /// know it.
    pub(crate) async fn sizes<'a>(&self, cx: &Cx, image: &'a Image) -> &'a [i64] {
        if let Some(sizes) = image.sizes.get() {
            return sizes;
        }
        let mut sizes = Vec::new();
        for (at, key) in image.chain.iter().enumerate() {
            let request = UsageRequest { snapshotter: self.snapshotter.clone(), key: key.clone() };
            let usage = self.containerd.handle(&self.named(cx), request).await;
            sizes.push(match usage {
                Ok(usage) => usage.size,
                Err(_) => image.blobs.get(at).copied().unwrap_or(0),
            });
        }
        image.sizes.get_or_init(|| sizes)
    }

    /// Every name and its image; one that cannot be read is left out.
    pub(crate) async fn list(&self, cx: &Cx) -> Result<Vec<(Stored, Arc<Image>)>> {
        let stored =
            self.containerd.handle(&self.named(cx), ListImagesRequest::default()).await?.images;
        let mut list = Vec::new();
        for stored in stored {
            let Some(target) = stored.target.clone() else { continue };
            match self.of(cx, &target).await {
                Ok(image) => list.push((stored, image)),
                Err(error) => tracing::debug!(image = stored.name, %error, "unreadable"),
            }
        }
        Ok(list)
    }

    /// The image of a name in full.
    async fn by_name(&self, cx: &Cx, name: &str) -> Result<Option<Arc<Image>>> {
        if let Some(image) = lock(&self.by_name).get(name) {
            return Ok(Some(image.clone()));
        }
        let request = GetImageRequest { name: name.to_owned() };
        let target = match self.containerd.handle(&self.named(cx), request).await {
            Ok(reply) => reply.image.and_then(|image| image.target),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let Some(target) = target else { return Ok(None) };
        let image = self.of(cx, &target).await?;
        lock(&self.by_name).insert(name.to_owned(), image.clone());
        Ok(Some(image))
    }

    /// Finds the image that people mean by `text`: a name, an id, a beginning of one, or a name
    /// with a digest.
    ///
    /// # Errors
    /// Docker's `No such image`.
    pub(crate) async fn find(&self, cx: &Cx, text: &str) -> Result<Arc<Image>> {
        let reference = Reference::parse(text);
        if let Ok(reference) = &reference {
            let full = reference.clone().tagged();
            if let Some(image) = self.by_name(cx, &full.full()).await? {
                return Ok(image);
            }
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let digest = reference.as_ref().ok().and_then(|r| r.digest.as_ref());
        let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex || digest.is_some() || is_digest(text) || is_id(text) {
            let mut found: Option<Arc<Image>> = None;
            for (stored, image) in self.list(cx).await? {
                let by_digest = digest.is_some_and(|d| {
                    *d == image.target
                        && Reference::parse(&stored.name).ok().map(|r| r.familiar_name())
                            == reference.as_ref().ok().map(Reference::familiar_name)
                });
                let by_id = digest.is_none()
                    && is_hex
                    && image.id.trim_start_matches("sha256:").starts_with(hex);
                if by_digest || by_id {
                    if found.as_ref().is_some_and(|f| f.id != image.id) {
                        return Err(HopError::not_found(format!("No such image: {text}")));
                    }
                    found = Some(image);
                }
            }
            if let Some(image) = found {
                return Ok(image);
            }
        }
        let shown = match reference {
            Ok(reference) if !is_hex => reference.tagged().familiar(),
            _ => text.to_owned(),
        };
        Err(HopError::not_found(format!("No such image: {shown}")))
    }
}

/// This machine's architecture as images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The manifest for this machine in an index.
fn platform_manifest(index: &Value) -> Option<String> {
    let manifests = index["manifests"].as_array()?;
    let fits = |m: &&Value| match m.get("platform") {
        Some(p) => p["os"] == "linux" && p["architecture"] == architecture(),
        None => manifests.len() == 1,
    };
    manifests.iter().find(fits)?["digest"].as_str().map(str::to_owned)
}

/// The chain ids of layers (OCI image specification, "Layer ChainID").
fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => {
                let digest = Sha256::digest(format!("{parent} {diff_id}").as_bytes());
                let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
                format!("sha256:{hex}")
            }
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_the_specifications() {
        let ids = chain_ids(&["sha256:aa".to_owned(), "sha256:bb".to_owned()]);
        let expected: String =
            Sha256::digest(b"sha256:aa sha256:bb").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(ids, ["sha256:aa".to_owned(), format!("sha256:{expected}")]);
    }
}
