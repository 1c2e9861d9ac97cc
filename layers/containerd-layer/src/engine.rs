//! The engine: everything that containerd is between its wires. It implements the verbs of the
//! `Containerd` face (in [`crate::services`], [`crate::tasks`] and [`crate::events`]), and the one
//! verb of `ShimEvents`.

use crate::{
    Config, Result, Store,
    collector::Collector,
    error::At,
    events::Exchange,
    images::registry::Options,
    services::{introspection, streaming::Streams},
    tasks::Tasks,
};
use hops::trace::Spans;
use std::sync::Arc;

/// containerd. Clones are the same daemon.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    events: Exchange,
    tasks: Tasks,
    collector: Collector,
    streams: Streams,
    uuid: String,
    /// Plugins that are not to be there.
    disabled: Vec<String>,
}

impl Engine {
    /// Opens the store, and finds the tasks of the daemon before this one. Calls to shims are
    /// measured by `spans`.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub async fn open(config: &Config, spans: Spans) -> Result<Engine> {
        let (root, state) = (config.root.clone(), config.state.clone());
        let registries = Options { hosts_dirs: config.hosts_dirs.clone(), ..Options::default() };
        let opened =
            tokio::task::spawn_blocking(move || Store::open_with(&root, &state, registries));
        let store = opened.await.unwrap_or_else(|e| Err(crate::Error::internal(e)))?;
        let events = Exchange::default();
        let tasks = Tasks::new(config, events.clone(), spans);
        tasks.load(&store).await;
        let uuid = introspection::uuid(store.root()).at("reading the uuid in", store.root())?;
        let collector = Collector::start(store.clone());
        let streams = Streams::default();
        let disabled = config.disabled.clone();
        Ok(Engine(Arc::new(Inner { store, events, tasks, collector, streams, uuid, disabled })))
    }

    /// The storage under it.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Where its events are.
    pub fn events(&self) -> &Exchange {
        &self.0.events
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Whether a plugin, `type.id`, is not to be there.
    pub(crate) fn is_disabled(&self, kind: &str, id: &str) -> bool {
        self.0.disabled.iter().any(|name| name.strip_suffix(id) == Some(&format!("{kind}.")))
    }

    pub(crate) fn uuid(&self) -> &str {
        &self.0.uuid
    }

    /// Runs work that waits for the disk where it holds nobody up.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.0.store.blocking(work).await
    }

    /// Has what nothing refers to any more removed: before this returns when `now`, else soon.
    pub(crate) async fn collect(&self, now: bool) -> hops::Result<()> {
        if now {
            self.0.collector.run().await?;
        } else {
            self.0.collector.schedule();
        }
        Ok(())
    }

    pub(crate) fn collector(&self) -> &Collector {
        &self.0.collector
    }
}
