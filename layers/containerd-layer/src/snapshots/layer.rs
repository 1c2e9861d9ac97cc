//! A layer being unpacked: a directory without a record, so that layers can be unpacked side by
//! side and take their places on each other in order.

use super::{SnapshotOptions, Snapshotter, Usage, remove_tree};
use crate::{
    Error, Result,
    error::At,
    metadata::{Snapshot, SnapshotKind, identifier},
};
use std::{fs, path::PathBuf, process, sync::atomic::Ordering, time::SystemTime};

/// A directory to unpack into. Dropped before [`Snapshotter::commit_layer`], it is removed.
#[derive(Debug)]
pub struct Layer {
    dir: PathBuf,
    committed: bool,
}

impl Layer {
    /// Where to unpack.
    pub fn root(&self) -> PathBuf {
        self.dir.join("fs")
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = remove_tree(&self.dir)
        {
            tracing::warn!(%error, "a layer that was given up stays until the next start");
        }
    }
}

impl Snapshotter {
    /// Makes a directory for a layer whose parent may not be ready yet.
    pub fn layer(&self) -> Result<Layer> {
        let number = self.0.unnamed.fetch_add(1, Ordering::Relaxed);
        let dir = self.0.dirs.join(format!("new-{}-{number}", process::id()));
        self.furnish(&dir, SnapshotKind::Committed, None)?;
        Ok(Layer { dir, committed: false })
    }

    /// Puts an unpacked layer on its parent as the committed snapshot `name`.
    ///
    /// # Errors
    /// `AlreadyExists`, or what [`Self::prepare`] says about the parent.
    pub fn commit_layer(
        &self,
        ns: &str,
        mut layer: Layer,
        name: &str,
        parent: &str,
        usage: Usage,
        options: SnapshotOptions,
    ) -> Result<()> {
        identifier::validate_labels(&options.labels)?;
        let mut place = None;
        let result = self.0.metadata.change(|tx| {
            self.committed(tx, ns, parent)?;
            if tx.find::<Snapshot>(ns, &self.key(name))?.is_some() {
                return Err(Error::already_exists(format_args!("snapshot {name:?}")));
            }
            let id = tx.next("snapshot")?;
            let now = SystemTime::now();
            let snapshot = Snapshot {
                name: name.to_owned(),
                parent: parent.to_owned(),
                kind: SnapshotKind::Committed,
                id,
                labels: options.labels,
                created_at: now,
                updated_at: now,
                size: usage.size,
                inodes: usage.inodes,
            };
            tx.put(ns, &self.key(name), &snapshot)?;
            tx.lease_resource(ns, options.lease.as_deref(), &self.resource(), name)?;
            let dir = self.dir(id);
            fs::rename(&layer.dir, &dir).at("renaming to", &dir)?;
            place = Some(dir);
            Ok(())
        });
        if let Some(dir) = place {
            layer.dir = dir;
        }
        layer.committed = result.is_ok();
        result
    }
}
