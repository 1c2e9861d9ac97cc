//! Everything below one root, opened once per process and cloned freely.

use crate::{
    Error, Kind, Result,
    content::ContentStore,
    error::At,
    images::registry::{Options, Registry},
    metadata::Metadata,
    snapshots::{Driver, Snapshotter},
};
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::RwLock;

/// containerd's storage: metadata, content, snapshots and images.
///
/// Functions that are not `async` block: for page-cache reads, or for as long as an fsync takes.
/// From async code call those that write through [`Store::blocking`].
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    state: PathBuf,
    metadata: Arc<Metadata>,
    content: ContentStore,
    snapshotters: Vec<Snapshotter>,
    registry: Registry,
    /// Read by whatever puts several things together that do not refer to each other yet, written
    /// by the garbage collector.
    collecting: RwLock<()>,
}

impl Store {
    /// Opens the store in `root` (kept) and `state` (lost at reboot), makes what is missing, and
    /// removes what an earlier process left unfinished.
    ///
    /// # Errors
    /// When another process has it open, or a directory cannot be made.
    pub fn open(root: &Path, state: &Path) -> Result<Self> {
        Self::open_with(root, state, Options::default())
    }

    /// As [`Self::open`], with registries reached as `registries` says.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_with(root: &Path, state: &Path, registries: Options) -> Result<Self> {
        for dir in [root, state] {
            fs::DirBuilder::new().recursive(true).mode(0o711).create(dir).at("creating", dir)?;
        }
        let metadata = Arc::new(Metadata::open(&root.join("metadata.redb"))?);
        let snapshotters = [Driver::Overlayfs, Driver::Native]
            .map(|driver| Snapshotter::open(root, driver, Arc::clone(&metadata)));
        Ok(Self(Arc::new(Inner {
            root: root.to_owned(),
            state: state.to_owned(),
            content: ContentStore::open(root, Arc::clone(&metadata))?,
            snapshotters: snapshotters.into_iter().collect::<Result<_>>()?,
            registry: Registry::new(registries),
            collecting: RwLock::new(()),
            metadata,
        })))
    }

    /// The directory that is kept.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The directory that is lost at reboot.
    pub fn state(&self) -> &Path {
        &self.0.state
    }

    /// The database.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// The blobs.
    pub fn content(&self) -> &ContentStore {
        &self.0.content
    }

    /// The snapshotter called `name`; the empty name is the default, overlayfs.
    ///
    /// # Errors
    /// `InvalidArgument` in containerd's words for one that is not here.
    pub fn snapshots(&self, name: &str) -> Result<&Snapshotter> {
        let name = if name.is_empty() { Driver::Overlayfs.name() } else { name };
        self.0
            .snapshotters
            .iter()
            .find(|s| s.name() == name)
            .ok_or_else(|| Error::invalid(format_args!("snapshotter not loaded: {name}")))
    }

    /// All snapshotters.
    pub fn snapshotters(&self) -> &[Snapshotter] {
        &self.0.snapshotters
    }

    /// The client that images are pulled and pushed with.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(crate) fn collecting(&self) -> &RwLock<()> {
        &self.0.collecting
    }

    /// Runs blocking work on tokio's blocking threads.
    ///
    /// # Errors
    /// The work's own; `Cancelled` when the runtime is shutting down.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .unwrap_or_else(|e| Err(Error::new(Kind::Cancelled, e.to_string())))
    }
}
