//! From a name at a registry to an image that can be run.
//!
//! Everything is checked by its digest. The image's record is written last, in one transaction; a
//! pull that fails leaves finished blobs and snapshots, which the next pull uses and the garbage
//! collector otherwise takes, and nothing half done.

use super::{
    Config, Descriptor, Index, LARGEST_MANIFEST, Manifest, Platform, Progress, chain_ids,
    manifest::{Shape, media, nesting},
    reference::Reference,
    registry::{Access, Repository},
    unpack::{Layers, Watcher},
};
use crate::{
    Digest, Error, Result, Store,
    error::During,
    metadata::{Image, Labels},
};
use std::{collections::HashMap, fmt, sync::Arc};

/// What to pull and what to make of it.
#[derive(Clone)]
pub struct Pull {
    /// The namespace it goes to.
    pub namespace: String,
    /// The full name, such as `docker.io/library/busybox:latest`.
    pub reference: String,
    /// The platform wanted of an index.
    pub platform: Platform,
    /// Where to unpack; nothing fetches only.
    pub snapshotter: Option<String>,
    /// How the registry is reached.
    pub access: Access,
    /// Labels of the image.
    pub labels: Labels,
    /// Told how far each blob is; called from several threads.
    pub progress: Option<Watcher>,
}

impl fmt::Debug for Pull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pull")
            .field("namespace", &self.namespace)
            .field("reference", &self.reference)
            .field("platform", &self.platform)
            .finish_non_exhaustive()
    }
}

impl Pull {
    /// A pull of `reference` for this machine, unpacked for overlayfs.
    pub fn new(namespace: &str, reference: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            reference: reference.to_owned(),
            platform: Platform::host(),
            snapshotter: Some("overlayfs".to_owned()),
            access: Access::default(),
            labels: Labels::new(),
            progress: None,
        }
    }

    /// Has `progress` told how far each blob is.
    #[must_use]
    pub fn watched(mut self, progress: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }
}

impl Store {
    /// Pulls an image: resolves the name, fetches what is not here, unpacks what is not unpacked,
    /// names the result. Does nothing but ask the registry when all is here.
    ///
    /// # Errors
    /// `NotFound` with containerd's `failed to resolve reference "…": …: not found`;
    /// `FailedPrecondition` for content that is not what its digest says; `DataLoss` for broken
    /// layers; `ResourceExhausted` for a full disk; `Unavailable` for a registry that is gone.
    pub async fn pull(&self, pull: Pull) -> Result<Image> {
        let reference = Reference::parse(&pull.reference)?;
        let snapshotter = match &pull.snapshotter {
            Some(name) => Some(self.snapshots(name)?.clone()),
            None => None,
        };
        let _together = self.collecting().read().await;
        let repository = Arc::new(self.registry().repository(&reference, &pull.access)?);
        let target = repository.resolve().await?;
        let source = (
            format!("containerd.io/distribution.source.{}", reference.host),
            reference.repository.clone(),
        );
        let layers = Layers {
            store: self.clone(),
            ns: pull.namespace.clone(),
            repository: Some(Arc::clone(&repository)),
            snapshotter,
            labels: Labels::from([source]),
            progress: pull.progress.clone(),
        };
        let target = self.fetch_manifests(&layers, &repository, target, &pull.platform, 0).await?;
        let (_, manifest) = self.manifest(&pull.namespace, &target, &pull.platform)?;
        self.finish(&layers, &manifest).await?;
        let (ns, name) = (pull.namespace, pull.reference);
        self.blocking(move |store| store.set_image(&ns, &name, target, pull.labels)).await
    }

    /// Fetches an index and the manifest below it that fits, or the manifest itself. Answers the
    /// target with the media type that its bytes turned out to have.
    async fn fetch_manifests(
        &self,
        layers: &Layers,
        repository: &Repository,
        mut target: Descriptor,
        platform: &Platform,
        depth: usize,
    ) -> Result<Descriptor> {
        let bytes = self.fetch_manifest(layers, repository, &target).await?;
        if !media::is_index(&target.media_type) && !media::is_manifest(&target.media_type) {
            target.media_type = sniff(&bytes)?.to_owned();
        }
        if media::is_index(&target.media_type) {
            nesting(&target, depth)?;
            let mut fitting = Index::parse(&bytes)?.fitting(platform);
            if fitting.is_empty() {
                return Err(Error::not_found(format_args!(
                    "no match for platform in manifest {}",
                    target.digest
                )));
            }
            // An index can stand in an index: its manifest is fetched by the same rule.
            let chosen = fitting.swap_remove(0);
            let below = self.fetch_manifests(layers, repository, chosen, platform, depth + 1);
            Box::pin(below).await?;
        }
        Ok(target)
    }

    async fn fetch_manifest(
        &self,
        layers: &Layers,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>> {
        if self.content().has(&layers.ns, &descriptor.digest)? {
            return self.content().read(&layers.ns, &descriptor.digest, LARGEST_MANIFEST);
        }
        let digest = &descriptor.digest;
        let bytes =
            repository.manifest(descriptor).await.during(|| format!("manifest {digest}"))?;
        // A document that is not what it is called does not get into the store.
        if media::is_index(&descriptor.media_type) {
            Index::parse(&bytes)?;
        } else if media::is_manifest(&descriptor.media_type) {
            Manifest::parse(&bytes)?;
        }
        let mut labels = layers.labels.clone();
        labels.extend(references(&bytes)?);
        let (ns, digest) = (layers.ns.clone(), digest.clone());
        self.blocking(move |store| {
            store.content().put_as(&ns, &bytes, digest, labels).map(|_| bytes)
        })
        .await
    }

    /// Refuses sizes that contradict each other or what is here: what has two sizes is two things.
    fn agree(&self, ns: &str, manifest: &Manifest) -> Result<()> {
        let mut sizes = HashMap::new();
        for part in manifest.layers.iter().chain([&manifest.config]) {
            let (digest, size) = (&part.digest, part.size);
            let known = match sizes.insert(digest, size) {
                None if self.content().has(ns, digest)? => self.content().info(ns, digest)?.size,
                known => known.unwrap_or(size),
            };
            if known != size {
                return Err(Error::precondition(format_args!(
                    "{digest}: failed size validation: {known} != {size}"
                )));
            }
        }
        Ok(())
    }

    /// Fetches the configuration and the layers of a manifest that is here, and unpacks them.
    async fn finish(&self, layers: &Layers, manifest: &Manifest) -> Result<()> {
        if manifest.config.size > LARGEST_MANIFEST {
            return Err(Error::invalid(format_args!(
                "image config of {} bytes is larger than the limit of {LARGEST_MANIFEST}",
                manifest.config.size
            )));
        }
        self.agree(&layers.ns, manifest)?;
        layers.fetch(&manifest.config).await?;
        let store = self.clone();
        let ns = layers.ns.clone();
        let config = manifest.config.clone();
        let real: Vec<_> =
            manifest.layers.iter().filter(|l| media::is_layer(&l.media_type)).cloned().collect();
        if real.len() < manifest.layers.len() {
            // An artifact's blobs are fetched and kept, but become no files.
            for other in manifest.layers.iter().filter(|l| !media::is_layer(&l.media_type)) {
                layers.fetch(other).await?;
            }
        }
        if layers.snapshotter.is_none() {
            return layers.run(&real, &[]).await;
        }
        let diff_ids = store.config(&ns, manifest)?.rootfs.diff_ids;
        layers.run(&real, &diff_ids).await?;
        if let (Some(snapshotter), Some(top)) = (&layers.snapshotter, chain_ids(&diff_ids).pop()) {
            let label = format!("containerd.io/gc.ref.snapshot.{}", snapshotter.name());
            let labels = Labels::from([(label, top.to_string())]);
            self.blocking(move |store| store.content().add_labels(&ns, &config.digest, labels))
                .await?;
        }
        Ok(())
    }

    /// Unpacks an image whose content is here and answers the name of its topmost snapshot.
    ///
    /// # Errors
    /// `NotFound` for content that is missing; otherwise as [`Self::pull`].
    pub async fn unpack(
        &self,
        ns: &str,
        target: &Descriptor,
        platform: &Platform,
        snapshotter: &str,
    ) -> Result<String> {
        let _together = self.collecting().read().await;
        self.unpack_here(ns, target, platform, snapshotter).await
    }

    /// As [`Self::unpack`], for a caller that keeps the garbage collector away already.
    pub(super) async fn unpack_here(
        &self,
        ns: &str,
        target: &Descriptor,
        platform: &Platform,
        snapshotter: &str,
    ) -> Result<String> {
        let layers = Layers {
            store: self.clone(),
            ns: ns.to_owned(),
            repository: None,
            snapshotter: Some(self.snapshots(snapshotter)?.clone()),
            labels: Labels::new(),
            progress: None,
        };
        let (_, manifest) = self.manifest(ns, target, platform)?;
        self.finish(&layers, &manifest).await?;
        let config: Config = self.config(ns, &manifest)?;
        Ok(chain_ids(&config.rootfs.diff_ids).pop().map(String::from).unwrap_or_default())
    }
}

/// The labels by which the garbage collector follows a manifest or index to its children, as
/// containerd names them.
pub(super) fn references(bytes: &[u8]) -> Result<Labels> {
    let label = |child: String, digest: &Digest| {
        (format!("containerd.io/gc.ref.content.{child}"), digest.to_string())
    };
    if media::is_index(sniff(bytes)?) {
        let children = Index::parse(bytes)?.manifests;
        let labels = children.iter().enumerate().map(|(i, m)| label(format!("m.{i}"), &m.digest));
        return Ok(labels.collect());
    }
    let manifest = Manifest::parse(bytes)?;
    let layers = manifest.layers.iter().enumerate();
    let mut labels: Labels = layers.map(|(i, l)| label(format!("l.{i}"), &l.digest)).collect();
    labels.extend([label("config".to_owned(), &manifest.config.digest)]);
    Ok(labels)
}

/// What a document without a media type is.
fn sniff(bytes: &[u8]) -> Result<&'static str> {
    let shape = Shape::of("manifest", bytes)?;
    let docker = shape.media_type.starts_with("application/vnd.docker.");
    match (shape.is_index(), shape.is_manifest()) {
        // containerd refuses a document that is both.
        (true, true) => Err(Error::invalid(format_args!(
            "manifest {}: expected either an index or a manifest, not both",
            Digest::of(bytes)
        ))),
        (true, false) => Ok(if docker { media::DOCKER_INDEX } else { media::OCI_INDEX }),
        (false, true) => Ok(if docker { media::DOCKER_MANIFEST } else { media::OCI_MANIFEST }),
        (false, false) => Err(Error::invalid(format_args!(
            "manifest {}: neither an index nor a manifest",
            Digest::of(bytes)
        ))),
    }
}
