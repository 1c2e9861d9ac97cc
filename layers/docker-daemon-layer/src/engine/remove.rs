//! `DELETE /containers/{id}`.

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Result,
    docker::{ContainerRemove, Request},
    proto::containerd::services::{
        containers::v1::DeleteContainerRequest, snapshots::v1::RemoveSnapshotRequest,
    },
};

use super::{Engine, conflict, container::Container, start::ignore_missing};
use crate::record::Phase;

#[async_trait]
impl Handle<Request<ContainerRemove>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ContainerRemove>) -> Result<()> {
        let on = |flag: Option<hops::docker::Flag>| flag.is_some_and(|f| f.0);
        if on(call.query.link) {
            return Err(HopError::invalid("links are not supported"));
        }
        let container = self.find(&call.id)?;
        self.remove(cx, &container, on(call.query.force), on(call.query.v)).await
    }
}

impl Engine {
    /// Removes a container and all that is its own. A failure leaves it dead, to be removed again.
    pub(super) async fn remove(
        &self,
        cx: &Cx,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<()> {
        let id = &container.id;
        if container.going.swap(true, Ordering::SeqCst) {
            return Err(conflict(format!("removal of container {id} is already in progress")));
        }
        let removed = self.remove_now(cx, container, force, volumes).await;
        if removed.is_err() {
            container.going.store(false, Ordering::SeqCst);
        }
        removed
    }

    async fn remove_now(
        &self,
        cx: &Cx,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<()> {
        let id = &container.id;
        let phase = container.phase();
        if phase.runs() {
            if !force {
                let hint = match phase {
                    Phase::Paused => {
                        "Unpause and then stop the container before attempting \
                                      removal or force remove"
                    }
                    _ => "Stop the container before attempting removal or force remove",
                };
                return Err(conflict(format!(
                    "You cannot remove a {} container {id}. {hint}",
                    phase.word()
                )));
            }
            container.note(|r| r.stopped_by_hand = true);
            self.tell(container, "kill", &[("signal", "9".to_owned())]);
            self.kill_hard(cx, container).await.map_err(|e| {
                e.context(format!("Could not kill running container {id}, cannot remove"))
            })?;
        }
        let _turn = container.turn.lock().await;
        if container.phase().runs() {
            return Err(conflict(format!(
                "You cannot remove a running container {id}. Stop the container before \
                 attempting removal or force remove"
            )));
        }
        container.set(|r| r.state.phase = Phase::Removing);
        if let Err(error) = self.take_apart(cx, container).await {
            container.note(|r| {
                r.state.phase = Phase::Dead;
                r.state.error = error.message.clone();
            });
            return Err(
                error.context(format!("container {id}: driver failed to remove root filesystem"))
            );
        }
        if volumes {
            self.remove_volumes(&container.look(|r| r.anonymous_volumes.clone()));
        }
        self.forget_execs(id);
        let name = container.name();
        self.write().containers.remove(id);
        self.release(id, &name);
        self.tell(container, "destroy", &[]);
        container.life.send_modify(|life| life.removed = true);
        Ok(())
    }

    async fn take_apart(&self, cx: &Cx, container: &Container) -> Result<()> {
        let named = self.named(cx);
        if container.look(|r| r.in_containerd) {
            let delete = DeleteContainerRequest { id: container.id.clone() };
            ignore_missing(self.containerd.handle(&named, delete).await)?;
            container.set(|r| r.in_containerd = false);
        }
        let remove = RemoveSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            key: container.id.clone(),
        };
        ignore_missing(self.containerd.handle(&named, remove).await)?;
        match std::fs::remove_dir_all(&container.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}
