//! The contract of the `Containerd` face: what any implementation must do, ours in process, ours
//! through client and server, and the real containerd.
//!
//! Each chapter works in a namespace of its own and leaves it empty.

mod containers;
mod content;
mod images;
mod namespaces;
mod snapshots;
mod tasks;

pub use tasks::task;

use hops::{Containerd, Cx, HopError, Kind};
use std::{
    fmt::Display,
    path::PathBuf,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
};

/// What a broken promise is: which one, and what was seen.
pub type Verdict<T = ()> = Result<T, String>;

/// What the contract is run on.
#[derive(Clone)]
pub struct Subject {
    /// The implementation.
    pub face: Arc<dyn Containerd>,
    /// How its tasks can be run; without it the chapter on tasks is skipped.
    pub runtime: Option<Runtime>,
    /// Chapters that are not run, by their names, for an implementation that is known to lack them.
    pub skip: Vec<&'static str>,
}

/// How a task can be run.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// The runtime's name, such as `io.containerd.runc.v2`.
    pub name: String,
    /// A root filesystem with a `/bin/sh`, a `sleep` and a `true`.
    pub rootfs: PathBuf,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

/// Runs the contract's chapters.
///
/// # Errors
/// The first promise that is broken, with its chapter.
pub async fn suite(subject: &Subject) -> Verdict {
    macro_rules! chapters {
        ($($chapter:ident),*) => {$(
            if !subject.skip.contains(&stringify!($chapter)) {
                $chapter::chapter(subject)
                    .await
                    .map_err(|e| format!("{}: {e}", stringify!($chapter)))?;
            }
        )*};
    }
    chapters!(namespaces, content, images, snapshots, containers, tasks);
    Ok(())
}

impl Subject {
    /// A context in a namespace that no other chapter or run uses.
    fn fresh(&self, chapter: &str) -> (Cx, String) {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let ns = format!("suite-{chapter}-{}-{run}", std::process::id());
        (Cx::background().in_namespace(ns.clone()), ns)
    }

    /// Calls a verb that must succeed.
    async fn call<O: hops::Op>(&self, cx: &Cx, op: O) -> Verdict<O::Reply>
    where
        dyn Containerd: hops::Handle<O>,
    {
        self.face.handle(cx, op).await.map_err(|e| format!("{}: {:?}: {e}", O::NAME, e.kind))
    }

    /// Calls a verb that must be refused for this reason; answers the refusal's words.
    async fn refused<O: hops::Op>(&self, cx: &Cx, op: O, kind: Kind) -> Verdict<String>
    where
        dyn Containerd: hops::Handle<O>,
    {
        match self.face.handle(cx, op).await {
            Ok(_) => Err(format!("{}: should be refused as {kind:?}", O::NAME)),
            Err(e) => as_kind(O::NAME, &e, kind).map(|()| e.message),
        }
    }
}

fn as_kind(verb: &str, error: &HopError, kind: Kind) -> Verdict {
    if error.kind == kind {
        return Ok(());
    }
    Err(format!("{verb}: should be refused as {kind:?}, not {:?}: {error}", error.kind))
}

/// Requires that two things are the same.
fn same<T: PartialEq + std::fmt::Debug>(what: impl Display, found: T, wanted: T) -> Verdict {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{what}: should be {wanted:?}, not {found:?}"))
}

/// Requires that something is there.
fn some<T>(what: impl Display, found: Option<T>) -> Verdict<T> {
    found.ok_or_else(|| format!("{what}: is missing"))
}

/// Requires that a text has a part.
fn says(text: &str, part: &str) -> Verdict {
    if text.contains(part) { Ok(()) } else { Err(format!("{text:?} should say {part:?}")) }
}

/// A field mask.
fn mask(paths: &[&str]) -> prost_types::FieldMask {
    prost_types::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() }
}
