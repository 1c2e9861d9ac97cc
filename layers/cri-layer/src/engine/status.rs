//! What there is and how it is doing: statuses and lists.

use std::{collections::HashMap, sync::Arc};

use hops::{
    Cx, Result,
    proto::{
        containerd::services::containers::v1::GetContainerRequest,
        runtime::v1::{
            Container as Listed, ContainerResources, ContainerState, ContainerStatus,
            ContainerStatusRequest, ContainerStatusResponse, ImageSpec, LinuxPodSandboxStatus,
            ListContainersRequest, ListContainersResponse, ListPodSandboxRequest,
            ListPodSandboxResponse, Namespace, PodIp, PodSandbox, PodSandboxNetworkStatus,
            PodSandboxState, PodSandboxStatus, PodSandboxStatusRequest, PodSandboxStatusResponse,
        },
    },
};
use serde_json::{Value, json};

use super::{
    Core,
    container::Container,
    index::selects,
    sandbox::{Sandbox, addresses},
    task::Life,
};
use crate::names::now;

/// CRI's word for how far a container has come.
pub(crate) fn state_of(life: &Life) -> ContainerState {
    match (&life.exit, life.started_at) {
        (Some(_), _) => ContainerState::ContainerExited,
        (None, 0) => ContainerState::ContainerCreated,
        (None, _) => ContainerState::ContainerRunning,
    }
}

/// The reason of an end that has none of its own (containerd's `completeExitReason` and
/// `errorExitReason`).
fn reason(exit: &crate::record::Exit) -> String {
    match (exit.reason.as_str(), exit.code) {
        ("", 0) => "Completed".to_owned(),
        ("", _) => "Error".to_owned(),
        (reason, _) => reason.to_owned(),
    }
}

impl Core {
    /// The sandbox `id`, which has been started.
    ///
    /// # Errors
    /// `NotFound` in containerd's words.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let found = self.sandboxes.get(id).and_then(|sandbox| match visible(&sandbox) {
            true => Ok(sandbox),
            false => Err(hops::HopError::not_found("not found")),
        });
        found.map_err(|e| e.context("an error occurred when try to find sandbox"))
    }

    pub(crate) async fn pod_sandbox_status(
        &self,
        cx: &Cx,
        op: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse> {
        let sandbox = self.sandbox(&op.pod_sandbox_id)?;
        let info = match op.verbose {
            true => self.sandbox_info(cx, &sandbox).await?,
            false => HashMap::new(),
        };
        Ok(PodSandboxStatusResponse {
            status: Some(self.status_of_sandbox(&sandbox)),
            info,
            containers_statuses: self.statuses_in(sandbox.id()),
            timestamp: now(),
        })
    }

    pub(crate) fn status_of_sandbox(&self, sandbox: &Sandbox) -> PodSandboxStatus {
        let record = &sandbox.record;
        let context = record.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        let options = context.and_then(|c| c.namespace_options.clone()).unwrap_or_default();
        // The addresses are the namespace's, and go with it.
        let attached = !sandbox.host().network && self.config.netns(sandbox.id()).exists();
        let mut ips = addresses(record.network.as_ref().filter(|_| attached)).into_iter();
        PodSandboxStatus {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            state: sandbox_state(sandbox).into(),
            created_at: record.created_at,
            network: Some(PodSandboxNetworkStatus {
                ip: ips.next().unwrap_or_default(),
                additional_ips: ips.map(|ip| PodIp { ip }).collect(),
            }),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace { options: Some(options) }),
            }),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            runtime_handler: record.runtime_handler.clone(),
        }
    }

    /// The statuses of every container in a sandbox.
    pub(crate) fn statuses_in(&self, sandbox: &str) -> Vec<ContainerStatus> {
        let all = self.containers.all();
        let own = all.iter().filter(|container| container.record().sandbox_id == sandbox);
        own.map(|container| self.status_of(container)).collect()
    }

    pub(crate) async fn list_pod_sandbox(
        &self,
        _cx: &Cx,
        op: ListPodSandboxRequest,
    ) -> Result<ListPodSandboxResponse> {
        let filter = op.filter.unwrap_or_default();
        let mut all = self.sandboxes.all();
        all.retain(|sandbox| {
            visible(sandbox)
                && sandbox.id().starts_with(&filter.id)
                && filter.state.is_none_or(|s| s.state() == sandbox_state(sandbox))
                && selects(&filter.label_selector, &sandbox.record.config.labels)
        });
        let items = all.iter().map(|sandbox| {
            let record = &sandbox.record;
            PodSandbox {
                id: record.id.clone(),
                metadata: record.config.metadata.clone(),
                state: sandbox_state(sandbox).into(),
                created_at: record.created_at,
                labels: record.config.labels.clone(),
                annotations: record.config.annotations.clone(),
                runtime_handler: record.runtime_handler.clone(),
            }
        });
        Ok(ListPodSandboxResponse { items: items.collect() })
    }

    pub(crate) async fn container_status(
        &self,
        cx: &Cx,
        op: ContainerStatusRequest,
    ) -> Result<ContainerStatusResponse> {
        let container = self.container(&op.container_id)?;
        let info = match op.verbose {
            true => self.container_info(cx, &container).await?,
            false => HashMap::new(),
        };
        Ok(ContainerStatusResponse { status: Some(self.status_of(&container)), info })
    }

    pub(crate) fn status_of(&self, container: &Container) -> ContainerStatus {
        let (record, life) = (container.record(), container.task.life());
        let config = &record.config;
        let state = state_of(&life);
        let (tags, digests) = self.images.references(&record.image_ref);
        let own = config.image.clone().unwrap_or_default();
        let image = ImageSpec {
            image: tags.first().or(digests.first()).cloned().unwrap_or_else(|| own.image.clone()),
            ..own
        };
        let exit = life.exit.unwrap_or_default();
        let resources = config.linux.as_ref().and_then(|l| l.resources.clone());
        ContainerStatus {
            id: record.id.clone(),
            metadata: config.metadata.clone(),
            state: state.into(),
            created_at: record.created_at,
            started_at: life.started_at,
            finished_at: exit.at,
            exit_code: exit.code,
            image: Some(image),
            image_ref: digests.first().unwrap_or(&record.image_ref).clone(),
            reason: match state {
                ContainerState::ContainerExited => reason(&exit),
                _ => String::new(),
            },
            message: exit.message,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: record.log_path.clone(),
            resources: Some(ContainerResources { linux: resources, windows: None }),
            image_id: record.image_ref.clone(),
            user: None,
        }
    }

    pub(crate) async fn list_containers(
        &self,
        _cx: &Cx,
        op: ListContainersRequest,
    ) -> Result<ListContainersResponse> {
        let filter = op.filter.unwrap_or_default();
        let mut listed = Vec::new();
        for container in self.containers.all() {
            let (record, state) = (container.record(), state_of(&container.task.life()));
            if record.id.starts_with(&filter.id)
                && record.sandbox_id.starts_with(&filter.pod_sandbox_id)
                && filter.state.is_none_or(|s| s.state() == state)
                && selects(&filter.label_selector, &record.config.labels)
            {
                listed.push(Listed {
                    id: record.id.clone(),
                    pod_sandbox_id: record.sandbox_id.clone(),
                    metadata: record.config.metadata.clone(),
                    image: record.config.image.clone(),
                    image_ref: record.image_ref.clone(),
                    state: state.into(),
                    created_at: record.created_at,
                    labels: record.config.labels.clone(),
                    annotations: record.config.annotations.clone(),
                    image_id: record.image_ref.clone(),
                });
            }
        }
        Ok(ListContainersResponse { containers: listed })
    }

    async fn sandbox_info(&self, cx: &Cx, sandbox: &Sandbox) -> Result<HashMap<String, String>> {
        let life = sandbox.task.life();
        let handler = &sandbox.record.runtime_handler;
        let closed = !sandbox.host().network && !self.config.netns(sandbox.id()).exists();
        let info = json!({
            "pid": if life.running() { life.pid } else { 0 },
            "processStatus": if sandbox.ready() { "running" } else { "deleted" },
            "netNamespaceClosed": closed,
            "image": self.config.sandbox_image,
            "snapshotKey": sandbox.id(),
            "snapshotter": self.config.snapshotter,
            "runtimeHandler": handler,
            "runtimeType": self.config.runtime_of(handler),
            "runtimeSpec": self.runtime_spec(cx, sandbox.id()).await?,
            "cniResult": sandbox.record.network,
        });
        Ok(HashMap::from([("info".to_owned(), info.to_string())]))
    }

    async fn container_info(
        &self,
        cx: &Cx,
        container: &Container,
    ) -> Result<HashMap<String, String>> {
        let (record, life) = (container.record(), container.task.life());
        let info = json!({
            "sandboxID": record.sandbox_id,
            "pid": if life.running() { life.pid } else { 0 },
            "removing": false,
            "snapshotKey": record.id,
            "snapshotter": self.config.snapshotter,
            "runtimeSpec": self.runtime_spec(cx, &record.id).await?,
        });
        Ok(HashMap::from([("info".to_owned(), info.to_string())]))
    }

    /// The `config.json` of a container, as containerd keeps it.
    async fn runtime_spec(&self, cx: &Cx, id: &str) -> Result<Value> {
        let reply = self.containerd.call(cx, GetContainerRequest { id: id.to_owned() }).await?;
        let spec = reply.container.and_then(|c| c.spec).map(|any| any.value).unwrap_or_default();
        Ok(serde_json::from_slice(&spec).unwrap_or(Value::Null))
    }
}

/// A sandbox that is being started is nobody's yet.
fn visible(sandbox: &Sandbox) -> bool {
    let life = sandbox.task.life();
    life.started_at > 0 || life.exit.is_some()
}

fn sandbox_state(sandbox: &Sandbox) -> PodSandboxState {
    match sandbox.ready() {
        true => PodSandboxState::SandboxReady,
        false => PodSandboxState::SandboxNotready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Exit;

    #[test]
    fn an_end_has_a_reason() {
        let exit = |code, reason: &str| Exit { code, reason: reason.into(), ..Exit::default() };
        assert_eq!(reason(&exit(0, "")), "Completed");
        assert_eq!(reason(&exit(3, "")), "Error");
        assert_eq!(reason(&exit(137, "OOMKilled")), "OOMKilled");
        assert_eq!(reason(&Exit::start_error("no such file".into())), "StartError");
    }
}
