//! Layered directories, with containerd's layout and mounts:
//! `io.containerd.snapshotter.v1.<name>/snapshots/<id>/{fs,work}`.
//!
//! The record is the truth. A directory is made before its record is committed and removed after
//! the record is gone, so whatever a kill leaves is a directory without a record, swept when the
//! store opens. Ids never come back.

mod layer;
mod mounts;
mod tree;

pub use layer::Layer;
pub use mounts::Mount;
pub use tree::Usage;
pub(crate) use {
    mounts::in_user_namespace,
    tree::{copy_xattrs, xattrs},
};

use crate::{
    Error, Result,
    error::At,
    filters::Filters,
    metadata::{Change, Labels, Metadata, Snapshot, SnapshotKind, View, identifier},
};
use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::SystemTime,
};

/// How a snapshotter makes a child of a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Stacked by the kernel; nothing is copied.
    Overlayfs,
    /// A full copy of the parent.
    Native,
}

impl Driver {
    /// containerd's name of the snapshotter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Native => "native",
        }
    }
}

/// One snapshotter's directories.
#[derive(Debug, Clone)]
pub struct Snapshotter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    driver: Driver,
    metadata: Arc<Metadata>,
    dirs: PathBuf,
    mounting: mounts::Mounting,
    unnamed: AtomicU64,
}

/// What to make of a new snapshot, besides its key and parent.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// Its labels.
    pub labels: Labels,
    /// The lease that keeps it.
    pub lease: Option<String>,
}

impl Snapshotter {
    pub(crate) fn open(root: &Path, driver: Driver, metadata: Arc<Metadata>) -> Result<Self> {
        let root = root.join(format!("io.containerd.snapshotter.v1.{}", driver.name()));
        let dirs = root.join("snapshots");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dirs).at("creating", &dirs)?;
        let mounting = mounts::Mounting::probe();
        let unnamed = AtomicU64::new(0);
        let snapshotter = Self(Arc::new(Inner { driver, metadata, dirs, mounting, unnamed }));
        snapshotter.repair()?;
        Ok(snapshotter)
    }

    /// containerd's name of the snapshotter.
    pub fn name(&self) -> &'static str {
        self.0.driver.name()
    }

    /// Whether a snapshot holds all of its parents' files too.
    pub fn copies(&self) -> bool {
        self.0.driver == Driver::Native
    }

    /// Removes directories without a record, and records whose directory did not survive.
    fn repair(&self) -> Result<()> {
        let prefix = self.key("");
        let mut known = HashSet::new();
        let mut lost = Vec::new();
        for (ns, key, snapshot) in self.0.metadata.view()?.all::<Snapshot>()? {
            if key.starts_with(&prefix) {
                if !self.dir(snapshot.id).join("fs").is_dir() {
                    tracing::warn!(%ns, key, "removing a snapshot whose directory is gone");
                    lost.push((ns, key));
                }
                known.insert(snapshot.id.to_string());
            }
        }
        if !lost.is_empty() {
            self.0.metadata.change(|tx| {
                lost.iter().try_for_each(|(ns, key)| tx.remove::<Snapshot>(ns, key).map(drop))
            })?;
        }
        for entry in fs::read_dir(&self.0.dirs).at("listing", &self.0.dirs)? {
            let entry = entry.at("listing", &self.0.dirs)?;
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
                tracing::info!(dir = ?entry.path(), "removing a directory that no snapshot knows");
                fs::remove_dir_all(entry.path()).at("removing", entry.path())?;
            }
        }
        Ok(())
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.name())
    }

    fn dir(&self, id: u64) -> PathBuf {
        self.0.dirs.join(id.to_string())
    }

    fn upper(&self, id: u64) -> PathBuf {
        self.dir(id).join("fs")
    }

    /// A snapshot's record.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn stat(&self, ns: &str, name: &str) -> Result<Snapshot> {
        find(&self.0.metadata.view()?, &self.key(name), ns)?.ok_or_else(|| missing(name))
    }

    /// The snapshots of a namespace that the filters accept.
    pub fn list(&self, ns: &str, filters: &Filters) -> Result<Vec<Snapshot>> {
        let prefix = self.key("");
        let all = self.0.metadata.list::<Snapshot>(ns)?;
        Ok(all
            .into_iter()
            .filter(|(key, snapshot)| key.starts_with(&prefix) && filters.matches(snapshot))
            .map(|(_, snapshot)| snapshot)
            .collect())
    }

    /// Makes a writable snapshot on `parent` (empty for none) and says how to mount it.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` for the parent, `InvalidArgument` for an uncommitted one.
    pub fn prepare(
        &self,
        ns: &str,
        name: &str,
        parent: &str,
        options: SnapshotOptions,
    ) -> Result<Vec<Mount>> {
        self.make(ns, name, parent, SnapshotKind::Active, options)
    }

    /// Makes a read-only snapshot on `parent` and says how to mount it.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn view(
        &self,
        ns: &str,
        name: &str,
        parent: &str,
        options: SnapshotOptions,
    ) -> Result<Vec<Mount>> {
        self.make(ns, name, parent, SnapshotKind::View, options)
    }

    fn make(
        &self,
        ns: &str,
        name: &str,
        parent: &str,
        kind: SnapshotKind,
        options: SnapshotOptions,
    ) -> Result<Vec<Mount>> {
        if name.is_empty() {
            return Err(Error::invalid("snapshot key must not be empty"));
        }
        identifier::validate_labels(&options.labels)?;
        let mut made = None;
        let result = self.0.metadata.change(|tx| {
            let below = self.committed(tx, ns, parent)?;
            let id = tx.next("snapshot")?;
            let now = SystemTime::now();
            let snapshot = Snapshot {
                name: name.to_owned(),
                parent: parent.to_owned(),
                kind,
                id,
                labels: options.labels,
                created_at: now,
                updated_at: now,
                size: 0,
                inodes: 0,
            };
            if tx.find::<Snapshot>(ns, &self.key(name))?.is_some() {
                return Err(Error::already_exists(format_args!("snapshot {name:?}")));
            }
            tx.put(ns, &self.key(name), &snapshot)?;
            tx.lease_resource(ns, options.lease.as_deref(), &self.resource(), name)?;
            made = Some(self.dir(id));
            self.furnish(&self.dir(id), kind, below.as_ref())?;
            let chain = self.chain(tx, ns, parent)?;
            Ok(self.describe(id, kind, &chain))
        });
        if let (Err(_), Some(dir)) = (&result, made) {
            remove_tree(&dir)?;
        }
        result
    }

    /// Makes `dir/{fs,work}`, `fs` owned and moded as the parent's, or filled with its copy.
    fn furnish(&self, dir: &Path, kind: SnapshotKind, below: Option<&Snapshot>) -> Result<()> {
        let upper = dir.join("fs");
        fs::DirBuilder::new().mode(0o700).create(dir).at("creating", dir)?;
        fs::DirBuilder::new().mode(0o755).create(&upper).at("creating", &upper)?;
        if let Some(parent) = below {
            let parent = self.upper(parent.id);
            let meta = fs::metadata(&parent).at("reading", &parent)?;
            chown(&upper, Some(meta.uid()), Some(meta.gid())).at("owning", &upper)?;
            if self.0.driver == Driver::Native {
                tree::copy(&parent, &upper)?;
            }
        }
        if kind == SnapshotKind::Active && self.0.driver == Driver::Overlayfs {
            let work = dir.join("work");
            fs::DirBuilder::new().mode(0o711).create(&work).at("creating", &work)?;
        }
        Ok(())
    }

    /// The snapshot `parent`, which must be committed; nothing for the empty name.
    fn committed(&self, tx: &Change, ns: &str, parent: &str) -> Result<Option<Snapshot>> {
        if parent.is_empty() {
            return Ok(None);
        }
        let Some(snapshot) = tx.find::<Snapshot>(ns, &self.key(parent))? else {
            return Err(Error::not_found(format_args!("parent snapshot {parent} does not exist")));
        };
        if snapshot.kind != SnapshotKind::Committed {
            return Err(Error::invalid(format_args!(
                "failed to create snapshot: parent {:?} is not committed snapshot",
                internal(ns, &snapshot)
            )));
        }
        Ok(Some(snapshot))
    }

    /// Directory numbers from `name` down to the lowest parent.
    fn chain(&self, tx: &impl Lookup, ns: &str, name: &str) -> Result<Vec<u64>> {
        let (mut ids, mut name) = (Vec::new(), name.to_owned());
        while !name.is_empty() {
            let Some(snapshot) = tx.snapshot(ns, &self.key(&name))? else {
                return Err(Error::not_found(format_args!("parent snapshot {name}")));
            };
            ids.push(snapshot.id);
            name = snapshot.parent;
        }
        Ok(ids)
    }

    /// How to mount an active snapshot or a view.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a committed one.
    pub fn mounts(&self, ns: &str, name: &str) -> Result<Vec<Mount>> {
        let view = self.0.metadata.view()?;
        let snapshot = find(&view, &self.key(name), ns)?.ok_or_else(|| missing(name))?;
        if snapshot.kind == SnapshotKind::Committed {
            return Err(Error::precondition(format_args!(
                "failed to get active mount: requested snapshot {} not active or view",
                internal(ns, &snapshot)
            )));
        }
        let chain = self.chain(&view, ns, &snapshot.parent)?;
        Ok(self.describe(snapshot.id, snapshot.kind, &chain))
    }

    fn describe(&self, id: u64, kind: SnapshotKind, chain: &[u64]) -> Vec<Mount> {
        let lower: Vec<PathBuf> = match self.0.driver {
            Driver::Overlayfs => chain.iter().map(|id| self.upper(*id)).collect(),
            Driver::Native => Vec::new(),
        };
        vec![self.0.mounting.mount(&self.dir(id), kind, &lower)]
    }

    /// Makes an active snapshot a parent for others under the name `name`.
    ///
    /// # Errors
    /// `AlreadyExists` for the name, `NotFound` or `FailedPrecondition` for the key.
    pub fn commit(&self, ns: &str, name: &str, key: &str, options: SnapshotOptions) -> Result<()> {
        identifier::validate_labels(&options.labels)?;
        // The name is what containerd looks at first.
        if self.stat(ns, name).is_ok() {
            return Err(Error::already_exists(format_args!("snapshot {name:?}")));
        }
        let active = self.stat(ns, key)?;
        let usage = tree::usage(&self.upper(active.id))?;
        self.0.metadata.change(|tx| {
            if tx.find::<Snapshot>(ns, &self.key(name))?.is_some() {
                return Err(Error::already_exists(format_args!("snapshot {name:?}")));
            }
            let mut snapshot: Snapshot =
                tx.find(ns, &self.key(key))?.ok_or_else(|| missing(key))?;
            if snapshot.kind != SnapshotKind::Active {
                return Err(Error::precondition(format_args!(
                    "failed to commit snapshot: snapshot {:?} is not active",
                    internal(ns, &snapshot)
                )));
            }
            tx.remove::<Snapshot>(ns, &self.key(key))?;
            snapshot.name = name.to_owned();
            snapshot.kind = SnapshotKind::Committed;
            snapshot.labels = options.labels;
            snapshot.updated_at = SystemTime::now();
            (snapshot.size, snapshot.inodes) = (usage.size, usage.inodes);
            tx.lease_resource(ns, options.lease.as_deref(), &self.resource(), name)?;
            tx.put(ns, &self.key(name), &snapshot)
        })?;
        // A committed snapshot is only ever a lower directory.
        let work = self.dir(active.id).join("work");
        if work.exists() { remove_tree(&work) } else { Ok(()) }
    }

    /// Removes a snapshot that has no children: record first, then its directory.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` while it has children.
    pub fn remove(&self, ns: &str, name: &str) -> Result<()> {
        self.sweep(&[self.forget(ns, name)?])
    }

    /// Removes the record of a snapshot that has no children, and answers the number of the
    /// directory that is to be swept. A process that ends before it did sweeps at its next start.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub(crate) fn forget(&self, ns: &str, name: &str) -> Result<u64> {
        let removed = self.0.metadata.change(|tx| {
            let prefix = self.key("");
            let children = tx.list::<Snapshot>(ns)?;
            if !children.iter().any(|(key, _)| *key == self.key(name)) {
                return Err(missing(name));
            }
            if children.iter().any(|(key, s)| key.starts_with(&prefix) && s.parent == name) {
                return Err(Error::precondition("cannot remove snapshot with child"));
            }
            tx.remove::<Snapshot>(ns, &self.key(name))
        })?;
        Ok(removed.id)
    }

    /// Removes the directories of snapshots whose records the caller removed.
    pub(crate) fn sweep(&self, ids: &[u64]) -> Result<()> {
        ids.iter().try_for_each(|id| remove_tree(&self.dir(*id)))
    }

    /// Changes a snapshot's labels.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` for a label.
    pub fn update(
        &self,
        ns: &str,
        name: &str,
        change: impl FnOnce(&mut Labels),
    ) -> Result<Snapshot> {
        self.stat(ns, name)?;
        self.0.metadata.change(|tx| {
            tx.update(ns, &self.key(name), |snapshot: &mut Snapshot| {
                change(&mut snapshot.labels);
                snapshot.updated_at = SystemTime::now();
                identifier::validate_labels(&snapshot.labels)
            })
        })
    }

    /// Disk use of the snapshot alone, without its parents.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn usage(&self, ns: &str, name: &str) -> Result<Usage> {
        let snapshot = self.stat(ns, name)?;
        match snapshot.kind {
            SnapshotKind::Committed => Ok(Usage { size: snapshot.size, inodes: snapshot.inodes }),
            SnapshotKind::Active | SnapshotKind::View => tree::usage(&self.upper(snapshot.id)),
        }
    }

    /// The directory that a snapshot's own files are in.
    pub fn directory(&self, ns: &str, name: &str) -> Result<PathBuf> {
        Ok(self.upper(self.stat(ns, name)?.id))
    }

    /// The directories of a committed snapshot and its parents, topmost first.
    pub fn directories(&self, ns: &str, name: &str) -> Result<Vec<PathBuf>> {
        let ids = self.chain(&self.0.metadata.view()?, ns, name)?;
        Ok(ids.into_iter().map(|id| self.upper(id)).collect())
    }

    /// The kind that a lease calls this snapshotter's snapshots by.
    fn resource(&self) -> String {
        format!("snapshots/{}", self.name())
    }
}

/// What [`View`] and [`Change`] have in common here.
trait Lookup {
    fn snapshot(&self, ns: &str, key: &str) -> Result<Option<Snapshot>>;
}

impl Lookup for View {
    fn snapshot(&self, ns: &str, key: &str) -> Result<Option<Snapshot>> {
        self.find(ns, key)
    }
}

impl Lookup for Change {
    fn snapshot(&self, ns: &str, key: &str) -> Result<Option<Snapshot>> {
        self.find(ns, key)
    }
}

fn find(view: &View, key: &str, ns: &str) -> Result<Option<Snapshot>> {
    view.find(ns, key)
}

fn missing(name: &str) -> Error {
    Error::not_found(format_args!("snapshot {name} does not exist"))
}

/// A snapshot's name as containerd's snapshotters have it, and show it in errors.
fn internal(ns: &str, snapshot: &Snapshot) -> String {
    format!("{ns}/{}/{}", snapshot.id, snapshot.name)
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", dir),
        _ => Ok(()),
    }
}
