//! When garbage is collected: soon after something was deleted, away from every call, or within
//! the call of a client that asked to wait for it.

use crate::{Result, Store, gc::Collected};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::AbortHandle, time::timeout};

/// How long nothing may be deleted before a collection that nobody waits for begins. What deletes
/// much deletes it in a row.
const QUIET: Duration = Duration::from_secs(1);

/// The longest that a row of deletions puts a collection off.
const PATIENCE: Duration = Duration::from_secs(10);

/// The collector of one store.
#[derive(Debug)]
pub(crate) struct Collector {
    store: Store,
    wanted: Arc<Wanted>,
    background: AbortHandle,
}

/// How many collections were asked for, and how many of the askers have had theirs.
#[derive(Debug, Default)]
struct Wanted {
    bell: Notify,
    asked: AtomicU64,
    had: AtomicU64,
}

impl Collector {
    /// Begins to wait for work.
    pub(crate) fn start(store: Store) -> Collector {
        let wanted = Arc::<Wanted>::default();
        let background = tokio::spawn(wait(store.clone(), wanted.clone())).abort_handle();
        Collector { store, wanted, background }
    }

    /// Asks for a collection that nobody waits for.
    pub(crate) fn schedule(&self) {
        self.wanted.asked.fetch_add(1, Ordering::Relaxed);
        self.wanted.bell.notify_one();
    }

    /// Collects now.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn run(&self) -> Result<()> {
        collect(&self.store, &self.wanted).await.map(drop)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.background.abort();
    }
}

/// Collects, for everyone who asked until now.
async fn collect(store: &Store, wanted: &Wanted) -> Result<Collected> {
    let asked = wanted.asked.load(Ordering::Relaxed);
    let collected = store.blocking(Store::collect_garbage).await?;
    wanted.had.fetch_max(asked, Ordering::Relaxed);
    Ok(collected)
}

async fn wait(store: Store, wanted: Arc<Wanted>) {
    loop {
        wanted.bell.notified().await;
        let quiet = async { while timeout(QUIET, wanted.bell.notified()).await.is_ok() {} };
        // Whichever of the two ends it: garbage is collected.
        let _ = timeout(PATIENCE, quiet).await;
        if wanted.had.load(Ordering::Relaxed) == wanted.asked.load(Ordering::Relaxed) {
            // Somebody who waits for his collection was here meanwhile.
            continue;
        }
        match collect(&store, &wanted).await {
            Ok(collected) => tracing::debug!(?collected, "collected garbage"),
            Err(error) => tracing::warn!(%error, "collecting garbage"),
        }
    }
}
