//! Tasks: the containers that run, each kept by a shim outside of this process.
//!
//! The shim is the truth about its tasks; this module knows where the shims are. It starts one
//! ([`launch`]) in a bundle ([`bundle`]), or uses the one that already has the task's pod, speaks
//! to it over one connection, and when that connection ends has the shim's program clean up what
//! the shim had ([`mourn`]). A shim may also have been started for a sandbox ([`sandbox`]), whose
//! tasks it then has. A daemon that starts finds the bundles of the one before it
//! ([`Tasks::load`]).

mod bundle;
mod controller;
mod create;
mod endpoint;
mod launch;
mod load;
mod mourn;
mod sandbox;
mod service;
mod shim;

pub(crate) use launch::find_program;

use crate::{Config, Error, Result, events::Exchange};
use bundle::Bundle;
use endpoint::Endpoint;
use hops::{
    proto::{
        Timestamp,
        containerd::{events::TaskExit, types::Envelope},
    },
    trace::Spans,
};
use launch::Launcher;
use prost::Message;
use sandbox::Sandbox;
use shim::Shim;
use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The tasks of every namespace. Clones are the same tasks.
#[derive(Debug, Clone)]
pub(crate) struct Tasks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: PathBuf,
    launcher: Launcher,
    events: Exchange,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    tasks: HashMap<(String, String), Arc<Task>>,
    sandboxes: HashMap<(String, String), Arc<Sandbox>>,
    shims: HashMap<String, Shim>,
    /// Exits that were published without their shim; it may still try to.
    published: HashSet<(String, String, u32)>,
}

impl Known {
    /// Has the next who wants the shim at this one's address connect anew.
    fn forget(&mut self, shim: &Shim) {
        if self.shims.get(shim.address()).is_some_and(|known| known == shim) {
            self.shims.remove(shim.address());
        }
    }
}

/// One task.
#[derive(Debug)]
pub(crate) struct Task {
    ns: String,
    id: String,
    runtime: String,
    program: PathBuf,
    bundle: Bundle,
    shim: Shim,
    /// How it ended, once its shim cannot say so any more.
    end: watch::Sender<Option<Exit>>,
}

/// The end of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exit {
    pid: u32,
    status: u32,
    at: Option<Timestamp>,
}

impl Tasks {
    pub(crate) fn new(config: &Config, events: Exchange, spans: Spans) -> Tasks {
        let launcher = Launcher {
            address: config.address.clone(),
            ttrpc: config.ttrpc_address(),
            publish_binary: config.publish_binary.clone(),
            debug: matches!(config.level.as_str(), "debug" | "trace"),
            spans,
        };
        Tasks(Arc::new(Inner {
            state: config.state.clone(),
            launcher,
            events,
            known: Mutex::default(),
        }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // The maps are whole after every statement, so a panicked holder left them usable.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task of a container.
    ///
    /// # Errors
    /// `NotFound` in containerd's words.
    fn get(&self, ns: &str, id: &str) -> Result<Arc<Task>> {
        let key = (ns.to_owned(), id.to_owned());
        self.known()
            .tasks
            .get(&key)
            .cloned()
            .ok_or_else(|| Error::new(crate::Kind::NotFound, format!("task {id} not found")))
    }

    /// The tasks of a namespace in the order of their ids.
    fn list(&self, ns: &str) -> Vec<Arc<Task>> {
        let known = self.known();
        let mut tasks: Vec<_> = known.tasks.values().filter(|t| t.ns == ns).cloned().collect();
        tasks.sort_by(|a, b| a.id.cmp(&b.id));
        tasks
    }

    /// Makes a task known.
    fn add(&self, task: Task) -> Arc<Task> {
        let task = Arc::new(task);
        self.known().tasks.insert((task.ns.clone(), task.id.clone()), task.clone());
        task
    }

    /// Forgets a task; whoever gets it back is the one to clean up after it.
    fn take(&self, task: &Task) -> Option<Arc<Task>> {
        self.known().tasks.remove(&(task.ns.clone(), task.id.clone()))
    }

    /// Whether another task or a sandbox has the same shim.
    fn shared(&self, shim: &Shim) -> bool {
        let known = self.known();
        known.tasks.values().any(|task| task.shim == *shim)
            || known.sandboxes.values().any(|sandbox| sandbox.shim == *shim)
    }

    /// Whether an event of a shim is not one that was published in its place already.
    pub(crate) fn is_news(&self, envelope: &Envelope) -> bool {
        if envelope.topic != "/tasks/exit" {
            return true;
        }
        let mut known = self.known();
        if known.published.is_empty() {
            return true;
        }
        let exit = envelope.event.as_ref().map(|e| TaskExit::decode(e.value.as_slice()));
        match exit {
            Some(Ok(exit)) if exit.id == exit.container_id => {
                let key = (envelope.namespace.clone(), exit.container_id, exit.pid);
                !known.published.remove(&key)
            }
            _ => true,
        }
    }
}
