//! What containerd's clients, shims and runtimes make for themselves outside of a rig, and leave.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Sockets of shims, states of runtimes and fifos of clients, whatever containerd's own
/// directories are.
const PLACE: &str = "/run/containerd";

/// What was there before, which is somebody else's.
pub(crate) struct Traces(BTreeSet<PathBuf>);

impl Traces {
    pub(crate) fn before() -> Traces {
        Traces(directories(Path::new(PLACE)))
    }

    /// Removes the directories that came since. What is in use has something in it, but for fifos:
    /// a client that was killed leaves them.
    pub(crate) fn clear(&self) {
        let found = directories(Path::new(PLACE));
        // The deepest first.
        for dir in found.difference(&self.0).collect::<Vec<_>>().into_iter().rev() {
            if dir.parent().is_some_and(|parent| parent.ends_with("fifo")) {
                let _ = fs::remove_dir_all(dir);
            }
            let _ = fs::remove_dir(dir);
        }
    }
}

/// A directory and all below it.
fn directories(top: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![top.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
        todo.extend(below.map(|entry| entry.path()));
        found.insert(dir);
    }
    found
}
