//! After a start of the daemon, or of containerd: which containers run, and what became of those
//! that did.

use std::{collections::HashMap, fs, sync::Arc, time::Duration};

use hops::{
    Result,
    docker::models::RestartPolicyNameEnum as Policy,
    proto::containerd::{
        services::tasks::v1::ListTasksRequest,
        v1::types::{Process, Status},
    },
};

use super::{Engine, container::Container, exits::End};
use crate::{
    record::{Phase, Record},
    time,
};

/// The exit code of a container of whose end nobody knows anything (dockerd).
const LOST: u32 = 255;

impl Engine {
    /// Reads the records.
    pub(super) fn load(&self) -> Result<()> {
        for entry in fs::read_dir(self.config.data_root.join("containers"))? {
            let dir = entry?.path();
            let record = match Record::load(&dir) {
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "no container's");
                    continue;
                }
            };
            let mut registry = self.write();
            registry.names.insert(record.name.clone(), record.id.clone());
            registry.containers.insert(record.id.clone(), Container::new(dir, record));
        }
        Ok(())
    }

    /// Finds the running containers again, goes on with removals that were interrupted, and starts
    /// what is always to run.
    pub(super) async fn restore(&self) -> Result<()> {
        self.reconcile().await?;
        for container in self.all() {
            let removing = matches!(container.phase(), Phase::Removing)
                || (!container.phase().runs()
                    && container
                        .look(|r| r.host.auto_remove == Some(true) && r.state.started != 0));
            if removing {
                let _ = self.remove(&self.background(), &container, true, true).await;
            } else if self.is_to_run(&container) {
                container.note(|r| r.state.phase = Phase::Restarting);
                self.start_later(container, Duration::ZERO);
            }
        }
        Ok(())
    }

    /// Whether the policy wants a container that does not run.
    fn is_to_run(&self, container: &Container) -> bool {
        container.look(|r| {
            let policy = r.host.restart_policy.as_ref().and_then(|p| p.name);
            !r.state.phase.runs()
                && r.state.started != 0
                && match policy {
                    Some(Policy::ALWAYS) => true,
                    Some(Policy::UNLESS_STOPPED) => !r.stopped_by_hand,
                    Some(Policy::ON_FAILURE) => !r.stopped_by_hand && r.state.exit_code != 0,
                    _ => false,
                }
        })
    }

    /// Compares what is remembered with what containerd runs.
    pub(super) async fn reconcile(&self) -> Result<()> {
        let list = ListTasksRequest::default();
        let tasks = self.containerd.handle(&self.background(), list).await?.tasks;
        let tasks: HashMap<String, Process> =
            tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
        for container in self.all() {
            if !container.phase().runs() {
                continue;
            }
            let task = tasks.get(&container.id);
            match task.map(|t| t.status()) {
                Some(Status::Running | Status::Paused | Status::Pausing | Status::Created) => {
                    self.take_up(&container, task);
                }
                _ => {
                    let at = task
                        .and_then(|t| t.exited_at)
                        .map_or_else(time::now, |t| t.seconds * 1_000_000_000 + i64::from(t.nanos));
                    let code = task.map_or(LOST, |t| t.exit_status);
                    self.ended_with(&container, task.map(|t| t.pid), End { code, at }).await;
                }
            }
        }
        Ok(())
    }

    /// Goes on with a container that ran all the while.
    fn take_up(&self, container: &Arc<Container>, task: Option<&Process>) {
        let paused = task.is_some_and(|t| t.status() == Status::Paused);
        container.note(|r| {
            r.state.phase = if paused { Phase::Paused } else { Phase::Running };
            if let Some(task) = task {
                r.state.pid = i64::from(task.pid);
            }
        });
        if super::lock(&container.pump).is_some() {
            return;
        }
        let paths = self.streams(container);
        let ends = paths.make().and_then(|()| paths.open());
        let carried = ends.map_err(Into::into).and_then(|ends| self.carry(container, ends));
        if let Err(error) = carried {
            tracing::warn!(container = container.id, %error, "its streams");
        }
        self.feed(container, &paths);
    }
}
