//! Namespaces: made by name, or by the first thing put into them; removed when empty.

use super::{Change, Container, Content, Image, Labels, Metadata, Namespace, Snapshot, identifier};
use crate::{Error, Result};

impl Metadata {
    /// Makes a namespace.
    ///
    /// # Errors
    /// `AlreadyExists` or `InvalidArgument`.
    pub fn create_namespace(&self, name: &str, labels: Labels) -> Result<()> {
        identifier::validate(name)?;
        identifier::validate_labels(&labels)?;
        self.change(|tx| tx.create("", name, &Namespace { labels }))
    }

    /// Removes an empty namespace.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` saying what is still in it.
    pub fn remove_namespace(&self, name: &str) -> Result<()> {
        self.change(|tx| {
            tx.get::<Namespace>("", name)?;
            let left = occupants(tx, name)?;
            if !left.is_empty() {
                return Err(Error::precondition(format_args!(
                    "namespace {name:?} must be empty, but it still has {}",
                    left.join(", ")
                )));
            }
            tx.remove::<Namespace>("", name)?;
            Ok(())
        })
    }
}

fn occupants(tx: &Change, ns: &str) -> Result<Vec<String>> {
    let mut left = Vec::new();
    if !tx.list::<Image>(ns)?.is_empty() {
        left.push("images".to_owned());
    }
    if !tx.list::<Content>(ns)?.is_empty() {
        left.push("blobs".to_owned());
    }
    if !tx.list::<Container>(ns)?.is_empty() {
        left.push("containers".to_owned());
    }
    for (key, _) in tx.list::<Snapshot>(ns)? {
        let snapshotter = key.split('/').next().unwrap_or_default();
        let line = format!("snapshots on {snapshotter:?} snapshotter");
        if !left.contains(&line) {
            left.push(line);
        }
    }
    Ok(left)
}
