//! When garbage is collected: soon after something was deleted, away from every call, or within
//! the call of a client that asked to wait for it.

use crate::{Result, Store};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Notify, task::AbortHandle};

/// How long nothing may be deleted before a collection that nobody waits for begins. What deletes
/// much deletes it in a row.
const QUIET: Duration = Duration::from_secs(1);

/// The collector of one store.
#[derive(Debug)]
pub(crate) struct Collector {
    store: Store,
    wanted: Arc<Notify>,
    background: AbortHandle,
}

impl Collector {
    /// Begins to wait for work.
    pub(crate) fn start(store: Store) -> Collector {
        let wanted = Arc::new(Notify::new());
        let background = tokio::spawn(wait(store.clone(), wanted.clone())).abort_handle();
        Collector { store, wanted, background }
    }

    /// Asks for a collection that nobody waits for.
    pub(crate) fn schedule(&self) {
        self.wanted.notify_one();
    }

    /// Collects now.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn run(&self) -> Result<()> {
        self.store.blocking(|store| store.collect_garbage().map(drop)).await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.background.abort();
    }
}

async fn wait(store: Store, wanted: Arc<Notify>) {
    loop {
        wanted.notified().await;
        while tokio::time::timeout(QUIET, wanted.notified()).await.is_ok() {}
        match store.blocking(Store::collect_garbage).await {
            Ok(collected) => tracing::debug!(?collected, "collected garbage"),
            Err(error) => tracing::warn!(%error, "collecting garbage"),
        }
    }
}
