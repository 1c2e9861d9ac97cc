//! What an earlier daemon left: its bundles name the shims, and the shims know the tasks.

use super::{
    Bundle, Exit, Shim, Task, Tasks,
    bundle::{Home, SANDBOXES, TASKS},
    launch::program_of,
    mourn::exit_event,
    shim::ShimLog,
};
use crate::{Store, metadata};
use hops::{
    Cx,
    proto::containerd::{
        services::containers::v1::Container,
        task::v2::{StateRequest, StateResponse},
        v1::types::Status,
    },
};
use prost::Message;
use std::path::PathBuf;
use tokio::sync::watch;

impl Tasks {
    /// Finds the tasks of the daemon before this one. A task that ended meanwhile is published as
    /// such; one whose shim is gone is cleaned up.
    pub(crate) async fn load(&self, store: &Store) {
        let bundles = Bundle::all(Home(&self.0.state, TASKS));
        let sandboxes = Bundle::all(Home(&self.0.state, SANDBOXES));
        if !bundles.is_empty() || !sandboxes.is_empty() {
            self.0.events.await_return();
        }
        self.load_sandboxes(sandboxes).await;
        for (ns, id, bundle) in bundles {
            let runtime = runtime_of(store, &ns, &id);
            let found = self.find(&ns, &id, &bundle).await;
            let program = bundle.program().or_else(|| program_of(&runtime).ok());
            match (found, program) {
                (Some((shim, state)), Some(program)) => {
                    self.adopt((ns, id, bundle), (runtime, program), shim, state);
                }
                (_, Some(program)) => {
                    tracing::info!(ns, id, "cleaning up a task whose shim is gone");
                    self.bury(&ns, &id, &program, &bundle).await;
                }
                (_, None) => {
                    if let Err(e) = bundle.remove() {
                        tracing::warn!(ns, id, error = %e, "removing a bundle without a shim");
                    }
                }
            }
        }
    }

    /// The shim of a bundle and what it says about the task, if it lives and has it.
    async fn find(&self, ns: &str, id: &str, bundle: &Bundle) -> Option<(Shim, StateResponse)> {
        let shim = self.attach(&bundle.endpoint()?).await.ok()?;
        let cx = Cx::background().in_namespace(ns.to_owned());
        let state = shim.ask(&cx, StateRequest { id: id.to_owned(), ..Default::default() }).await;
        match state {
            Ok(state) => Some((shim, state)),
            Err(e) => {
                tracing::warn!(ns, id, error = %e, "a shim does not know its task");
                None
            }
        }
    }

    fn adopt(
        &self,
        (ns, id, bundle): (String, String, Bundle),
        (runtime, program): (String, PathBuf),
        shim: Shim,
        state: StateResponse,
    ) {
        follow_log(&ns, &id, &bundle, &shim);
        if state.status() == Status::Stopped {
            let exit = Exit { pid: state.pid, status: state.exit_status, at: state.exited_at };
            self.known().published.insert((ns.clone(), id.clone(), exit.pid));
            self.0.events.emit(&ns, "/tasks/exit", &exit_event(&id, exit));
        }
        tracing::info!(ns, id, pid = state.pid, "found a running task");
        self.add(Task { ns, id, runtime, program, bundle, shim, end: watch::Sender::new(None) });
    }
}

/// Goes on to read the log of a shim that an earlier daemon started.
pub(super) fn follow_log(ns: &str, id: &str, bundle: &Bundle, shim: &Shim) {
    if bundle.path().join("log").exists() {
        match ShimLog::open(bundle) {
            Ok(log) => log.follow(shim),
            Err(e) => tracing::warn!(ns, id, error = %e, "the log of a shim"),
        }
    }
}

/// The runtime of a container, empty when the container is gone.
fn runtime_of(store: &Store, ns: &str, id: &str) -> String {
    let record = store.metadata().get::<metadata::Container>(ns, id);
    let container = record.ok().and_then(|r| Container::decode(r.0.as_slice()).ok());
    container.and_then(|c| c.runtime).unwrap_or_default().name
}
