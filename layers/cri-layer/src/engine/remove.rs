//! Ends: of containers and of sandboxes. Each of these verbs, asked again, succeeds.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use hops::{
    Cx, HopError, Result,
    proto::{
        containerd::services::{
            containers::v1::DeleteContainerRequest, snapshots::v1::RemoveSnapshotRequest,
        },
        runtime::v1::{
            ContainerEventType, RemoveContainerRequest, RemoveContainerResponse,
            RemovePodSandboxRequest, RemovePodSandboxResponse, StopContainerRequest,
            StopContainerResponse, StopPodSandboxRequest, StopPodSandboxResponse,
        },
    },
};
use nix::sys::signal::Signal;

use super::{
    Core,
    container::Container,
    sandbox::{Sandbox, unmount_shm},
    task::SIGKILL,
};

impl Core {
    pub(crate) async fn stop_container(
        self: &Arc<Self>,
        cx: &Cx,
        op: StopContainerRequest,
    ) -> Result<StopContainerResponse> {
        let Ok(container) = self.containers.get(&op.container_id) else {
            return Ok(StopContainerResponse {});
        };
        let signal = match u64::try_from(op.timeout) {
            Ok(seconds) if seconds > 0 => {
                let signal = stop_signal(&container.record().stop_signal)?;
                Some((signal, Duration::from_secs(seconds)))
            }
            _ => None,
        };
        self.stop(cx, &container.task, signal).await?;
        Ok(StopContainerResponse {})
    }

    pub(crate) async fn remove_container(
        self: &Arc<Self>,
        cx: &Cx,
        op: RemoveContainerRequest,
    ) -> Result<RemoveContainerResponse> {
        if let Ok(container) = self.containers.get(&op.container_id) {
            self.remove(cx, &container).await?;
        }
        Ok(RemoveContainerResponse {})
    }

    async fn remove(self: &Arc<Self>, cx: &Cx, container: &Arc<Container>) -> Result<()> {
        let (id, task) = (container.id(), &container.task);
        self.stop(cx, task, None).await?;
        let _turn = task.turn.lock().await;
        // Somebody else may have removed it while this call waited.
        if !self.containers.get(id).is_ok_and(|there| Arc::ptr_eq(&there, container)) {
            return Ok(());
        }
        self.delete_left_over(cx, task).await?;
        self.erase(cx, id).await?;
        // Told while it can still be described.
        self.happened(id, ContainerEventType::ContainerDeletedEvent);
        self.containers.remove(id);
        self.samples.forget(id);
        self.names.release(&container.record().name, id);
        Ok(())
    }

    /// Takes back everything of a container that has no task. What is gone is taken back.
    ///
    /// # Errors
    /// Those of containerd and of removing its directories.
    pub(crate) async fn erase(&self, cx: &Cx, id: &str) -> Result<()> {
        self.forget_in_containerd(cx, id).await?;
        remove_tree(&self.config.container_state(id))?;
        remove_tree(&self.config.container_root(id))?;
        Ok(())
    }

    /// Removes a container and its snapshot from containerd: the snapshot first, so that a removal
    /// that was interrupted finds the container again.
    async fn forget_in_containerd(&self, cx: &Cx, id: &str) -> Result<()> {
        let remove = RemoveSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            key: id.to_owned(),
        };
        gone(self.containerd.call(cx, remove).await)?;
        let delete = DeleteContainerRequest { id: id.to_owned() };
        gone(self.containerd.call(cx, delete).await)
            .map_err(|e| e.context(format_args!("failed to delete containerd container {id:?}")))
    }

    pub(crate) async fn stop_pod_sandbox(
        self: &Arc<Self>,
        cx: &Cx,
        op: StopPodSandboxRequest,
    ) -> Result<StopPodSandboxResponse> {
        if let Ok(sandbox) = self.sandboxes.get(&op.pod_sandbox_id) {
            self.stop_sandbox(cx, &sandbox).await?;
        }
        Ok(StopPodSandboxResponse {})
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let mut all = self.containers.all();
        all.retain(|container| container.record().sandbox_id == sandbox);
        all
    }

    async fn stop_sandbox(self: &Arc<Self>, cx: &Cx, sandbox: &Arc<Sandbox>) -> Result<()> {
        for container in self.containers_of(sandbox.id()) {
            self.stop(cx, &container.task, None).await.map_err(|e| {
                e.context(format_args!("failed to stop container {:?}", container.id()))
            })?;
        }
        unmount_shm(&self.config.sandbox_state(sandbox.id()))
            .map_err(|e| HopError::from(e).context("failed to unmount sandbox shm"))?;
        self.stop(cx, &sandbox.task, None).await.map_err(|e| {
            e.context(format_args!("failed to stop sandbox container {:?}", sandbox.id()))
        })?;
        self.detach(cx, &sandbox.record).await
    }

    pub(crate) async fn remove_pod_sandbox(
        self: &Arc<Self>,
        cx: &Cx,
        op: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse> {
        let Ok(sandbox) = self.sandboxes.get(&op.pod_sandbox_id) else {
            return Ok(RemovePodSandboxResponse {});
        };
        self.stop_sandbox(cx, &sandbox).await.map_err(|e| {
            e.context(format_args!("failed to forcibly stop sandbox {:?}", sandbox.id()))
        })?;
        for container in self.containers_of(sandbox.id()) {
            self.remove(cx, &container).await.map_err(|e| {
                e.context(format_args!("failed to remove container {:?}", container.id()))
            })?;
        }
        self.demolish(cx, &sandbox).await?;
        self.happened(sandbox.id(), ContainerEventType::ContainerDeletedEvent);
        self.sandboxes.remove(sandbox.id());
        Ok(RemovePodSandboxResponse {})
    }

    /// Takes back everything of a sandbox, however far it came. Containers are not looked for.
    ///
    /// # Errors
    /// The first of them; nothing is tried after it, so that it is found and tried again.
    pub(crate) async fn demolish(self: &Arc<Self>, cx: &Cx, sandbox: &Arc<Sandbox>) -> Result<()> {
        let id = sandbox.id();
        self.stop(cx, &sandbox.task, None).await?;
        let _turn = sandbox.task.turn.lock().await;
        let state = self.config.sandbox_state(id);
        unmount_shm(&state)?;
        self.detach(cx, &sandbox.record).await?;
        self.delete_left_over(cx, &sandbox.task).await?;
        self.forget_in_containerd(cx, id).await?;
        remove_tree(&state)?;
        if sandbox.task.life().started_at == 0 {
            self.sandboxes.remove(id);
        }
        self.names.release(&sandbox.record.name, id);
        Ok(())
    }
}

/// What is not there is removed.
fn gone(answer: Result<()>) -> Result<()> {
    match answer {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Removes a directory with all that is in it, where it is there.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The number of an image's stop signal: a name with or without `SIG`, or a number; SIGTERM for
/// none.
fn stop_signal(text: &str) -> Result<u32> {
    let name = text.trim().to_uppercase();
    if name.is_empty() {
        return Ok(Signal::SIGTERM as u32);
    }
    let invalid =
        || HopError::invalid(format!("failed to parse stop signal {text:?}: unknown signal"));
    if let Ok(number) = name.parse::<u32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let bare = name.strip_prefix("SIG").unwrap_or(&name);
    if bare == "KILL" {
        return Ok(SIGKILL);
    }
    // Real-time signals count from the C library's 34 up and from 64 down.
    let offset = |rest: &str, from: u32, up: bool| {
        let by = match rest {
            "" => 0,
            rest => rest.get(1..)?.parse::<u32>().ok()?,
        };
        let number = if up { from.checked_add(by)? } else { from.checked_sub(by)? };
        (34..=64).contains(&number).then_some(number)
    };
    let realtime = bare
        .strip_prefix("RTMIN")
        .and_then(|rest| offset(rest, 34, true))
        .or_else(|| bare.strip_prefix("RTMAX").and_then(|rest| offset(rest, 64, false)));
    match realtime {
        Some(number) => Ok(number),
        None => format!("SIG{bare}").parse::<Signal>().map(|s| s as u32).map_err(|_| invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_names_or_numbers() {
        for (text, number) in [
            ("", 15),
            ("SIGINT", 2),
            ("quit", 3),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("SIGRTMIN", 34),
        ] {
            assert_eq!(stop_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["SIGWHAT", "0", "65", "SIGRTMIN+40"] {
            assert!(stop_signal(bad).is_err(), "{bad}");
        }
    }
}
