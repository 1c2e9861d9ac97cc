//! What is done when a shim dies before its tasks were deleted: its program, executed once more to
//! `delete`, takes the containers away, and the daemon says what the shim no longer can.

use super::{Bundle, Exit, Shim, Task, Tasks};
use hops::proto::{
    Timestamp,
    containerd::events::{TaskDelete, TaskExit},
};
use std::{path::Path, time::Duration, time::SystemTime};
use tokio::sync::watch;

/// containerd's exit status for a task of which nothing is known.
const UNKNOWN: u32 = 255;
/// How long the clean-up after a shim may take until its tasks' ends are given up.
const BURIAL: Duration = Duration::from_secs(30);

impl Tasks {
    /// Cleans up after the tasks of a shim that has gone.
    pub(super) async fn lost(&self, shim: &Shim) {
        let bereaved: Vec<_> = {
            let mut known = self.known();
            known.forget(shim);
            known.tasks.values().filter(|task| task.shim == *shim).cloned().collect::<Vec<_>>()
        };
        for task in bereaved {
            tracing::warn!(ns = task.ns, id = task.id, "the shim of a task died");
            // Deleted in this moment: then nothing is left to do.
            if self.take(&task).is_some() {
                let exit = self.bury(&task.ns, &task.id, &task.program, &task.bundle).await;
                task.end.send_replace(Some(exit));
            }
        }
        self.lost_sandboxes(shim).await;
    }

    /// Removes a task whose shim is gone, and publishes its end.
    pub(super) async fn bury(&self, ns: &str, id: &str, program: &Path, bundle: &Bundle) -> Exit {
        let exit = self.remains(ns, id, program, bundle).await;
        self.0.events.emit(ns, "/tasks/exit", &exit_event(id, exit));
        let gone = TaskDelete {
            container_id: id.to_owned(),
            pid: exit.pid,
            exit_status: exit.status,
            exited_at: exit.at,
            ..Default::default()
        };
        self.0.events.emit(ns, "/tasks/delete", &gone);
        exit
    }

    /// Removes what a dead shim left in a bundle, and the bundle; answers what is known of its end.
    pub(super) async fn remains(
        &self,
        ns: &str,
        id: &str,
        program: &Path,
        bundle: &Bundle,
    ) -> Exit {
        let deleted = self.0.launcher.delete(program, (ns, id, bundle.path())).await;
        let exit = match deleted {
            Ok(deleted) => {
                Exit { pid: deleted.pid, status: deleted.exit_status, at: deleted.exited_at }
            }
            Err(e) => {
                tracing::warn!(ns, id, error = %e, "cleaning up after a dead shim");
                let at = Some(Timestamp::from(SystemTime::now()));
                Exit { pid: 0, status: UNKNOWN, at }
            }
        };
        let bundle = bundle.clone();
        let removed = tokio::task::spawn_blocking(move || bundle.remove()).await;
        if let Ok(Err(e)) = removed {
            tracing::warn!(ns, id, error = %e, "removing the bundle of a dead shim");
        }
        exit
    }

    /// How a task ended whose shim is gone; nothing when that cannot be found out.
    pub(super) async fn ended(&self, task: &Task) -> Option<Exit> {
        end_of(&task.end).await
    }
}

/// The end that is told when the clean-up after a dead shim is done; nothing when it takes too long.
pub(super) async fn end_of(end: &watch::Sender<Option<Exit>>) -> Option<Exit> {
    let mut end = end.subscribe();
    match tokio::time::timeout(BURIAL, end.wait_for(Option::is_some)).await {
        Ok(Ok(exit)) => *exit,
        _ => None,
    }
}

/// The event of the end of a task's init.
pub(super) fn exit_event(id: &str, exit: Exit) -> TaskExit {
    TaskExit {
        container_id: id.to_owned(),
        id: id.to_owned(),
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: exit.at,
    }
}
