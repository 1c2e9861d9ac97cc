//! The runtime itself: its version, its state, its containers' usage
//! (`docker_service.go`, `docker_stats_linux.go`, Kubernetes 1.20).

use async_trait::async_trait;
use futures_util::StreamExt;
use hops::{
    Cx, Handle, HandleStream, HopError, Kind, Result,
    docker::{
        ContainerInspect, ContainerStats as DockerStats, Flag, Json, Request, SizeQuery,
        StatsQuery, Version,
        models::{ContainerMemoryStats, SystemVersion},
    },
    op::no_input,
    proto::runtime::v1::*,
};

use crate::{engine::Engine, time::now};

/// CRI's version of itself, since Kubernetes 1.5.
const API: &str = "0.1.0";

impl Engine {
    async fn docker_version(&self, cx: &Cx) -> Result<SystemVersion> {
        let version = self.docker.handle(cx, Request::<Version>::default()).await;
        Ok(version.map_err(|e| e.context("docker: failed to get docker version"))?.0)
    }
}

#[async_trait]
impl Handle<VersionRequest> for Engine {
    async fn handle(&self, cx: &Cx, _op: VersionRequest) -> Result<VersionResponse> {
        let docker = self.docker_version(cx).await?;
        Ok(VersionResponse {
            version: API.to_owned(),
            runtime_name: "docker".to_owned(),
            runtime_version: docker.version.unwrap_or_default(),
            // Docker says 1.41; CRI wants a semantic version.
            runtime_api_version: format!("{}.0", docker.api_version.unwrap_or_default()),
        })
    }
}

#[async_trait]
impl Handle<StatusRequest> for Engine {
    async fn handle(&self, cx: &Cx, _op: StatusRequest) -> Result<StatusResponse> {
        let condition = |kind: &str, found: Result<()>, reason: &str, words: &str| {
            let (reason, message) = match &found {
                Ok(()) => (String::new(), String::new()),
                Err(error) => (reason.to_owned(), format!("{words}{error}")),
            };
            RuntimeCondition { r#type: kind.to_owned(), status: found.is_ok(), reason, message }
        };
        let docker = self.docker_version(cx).await.map(drop);
        let network = self.network.status();
        let status = RuntimeStatus {
            conditions: vec![
                condition("RuntimeReady", docker, "DockerDaemonNotReady", ""),
                condition(
                    "NetworkReady",
                    network,
                    "NetworkPluginNotReady",
                    "docker: network plugin is not ready: ",
                ),
            ],
        };
        Ok(StatusResponse { status: Some(status), ..StatusResponse::default() })
    }
}

#[async_trait]
impl Handle<UpdateRuntimeConfigRequest> for Engine {
    async fn handle(
        &self,
        _cx: &Cx,
        _op: UpdateRuntimeConfigRequest,
    ) -> Result<UpdateRuntimeConfigResponse> {
        // Only the kubenet plugin wanted the pods' CIDR; cni, as here, does not.
        Ok(UpdateRuntimeConfigResponse {})
    }
}

#[async_trait]
impl Handle<RuntimeConfigRequest> for Engine {
    async fn handle(&self, cx: &Cx, _op: RuntimeConfigRequest) -> Result<RuntimeConfigResponse> {
        let driver = self.info(cx).await?.cgroup_driver;
        let systemd = driver.is_some_and(|d| d.to_string() == "systemd");
        let driver = if systemd { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs };
        let linux = LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(RuntimeConfigResponse { linux: Some(linux) })
    }
}

/// What the kernel cannot take back without hurting: usage less inactive file pages, as the kubelet
/// counts it.
fn working_set(memory: &ContainerMemoryStats) -> u64 {
    let usage = memory.usage.unwrap_or(0);
    let stats = memory.stats.as_ref();
    let inactive = ["total_inactive_file", "inactive_file"]
        .into_iter()
        .find_map(|key| stats.and_then(|s| s.get(key)))
        .copied()
        .unwrap_or(0);
    usage.saturating_sub(inactive)
}

impl Engine {
    async fn usage(&self, cx: &Cx, id: &str) -> Result<ContainerStats> {
        let root = self.info(cx).await?.docker_root_dir.unwrap_or_default();
        let query = StatsQuery { stream: Some(Flag(false)), one_shot: None };
        let request = Request::<DockerStats>::of(id).query(query);
        let mut samples = self.docker.stream(cx, request, no_input()).await?;
        let Json(sample) = samples.next().await.ok_or_else(|| {
            HopError::new(Kind::Unknown, format!("no stats of container {id:?}"))
        })??;
        let sized = Request::<ContainerInspect>::of(id).query(SizeQuery { size: Some(Flag(true)) });
        let size = self.docker.handle(cx, sized).await?.0.size_rw.unwrap_or(0);
        let status = self.status(cx, id).await?;
        let timestamp = now();
        let count = |value: u64| Some(UInt64Value { value });
        let cpu = sample.cpu_stats.and_then(|c| c.cpu_usage?.total_usage).unwrap_or(0);
        let memory = sample.memory_stats.unwrap_or_default();
        Ok(ContainerStats {
            attributes: Some(ContainerAttributes {
                id: status.id,
                metadata: status.metadata,
                labels: status.labels,
                annotations: status.annotations,
            }),
            cpu: Some(CpuUsage {
                timestamp,
                usage_core_nano_seconds: count(cpu),
                ..CpuUsage::default()
            }),
            memory: Some(MemoryUsage {
                timestamp,
                working_set_bytes: count(working_set(&memory)),
                ..MemoryUsage::default()
            }),
            writable_layer: Some(FilesystemUsage {
                timestamp,
                fs_id: Some(FilesystemIdentifier { mountpoint: root }),
                used_bytes: count(u64::try_from(size).unwrap_or(0)),
                inodes_used: None,
            }),
            swap: None,
        })
    }
}

#[async_trait]
impl Handle<ContainerStatsRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: ContainerStatsRequest) -> Result<ContainerStatsResponse> {
        let stats = Some(self.usage(cx, &op.container_id).await?);
        Ok(ContainerStatsResponse { stats })
    }
}

#[async_trait]
impl Handle<ListContainerStatsRequest> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        op: ListContainerStatsRequest,
    ) -> Result<ListContainerStatsResponse> {
        let filter = op.filter.unwrap_or_default();
        let running = ContainerStateValue { state: ContainerState::ContainerRunning.into() };
        let filter = ContainerFilter {
            id: filter.id,
            state: Some(running),
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
        };
        let list = ListContainersRequest { filter: Some(filter) };
        let mut stats = Vec::new();
        for container in self.handle(cx, list).await?.containers {
            match self.usage(cx, &container.id).await {
                Ok(of_container) => stats.push(of_container),
                // It went away meanwhile.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ListContainerStatsResponse { stats })
    }
}

// Verbs of newer kubelets; dockershim was gone before them.
hops::refuse!(
    Engine: PodSandboxStatsRequest,
        ListPodSandboxStatsRequest,
        CheckpointContainerRequest,
        ListMetricDescriptorsRequest,
        ListPodSandboxMetricsRequest;
    stream: GetEventsRequest
);
