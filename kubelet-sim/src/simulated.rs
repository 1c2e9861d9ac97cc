//! A container runtime in memory, for tests: it keeps what it is told, refuses what a real one
//! refuses, and ends a container when its test says so. Nothing is run.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use hops::{Cx, Handle, HopError, Kind, Op, Result, proto::runtime::v1::*};

/// One container.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) sandbox: String,
    pub(crate) config: ContainerConfig,
    pub(crate) status: ContainerStatus,
}

/// What it keeps.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    pub(crate) images: BTreeSet<String>,
    pub(crate) sandboxes: BTreeMap<String, (PodSandboxConfig, PodSandboxState)>,
    pub(crate) containers: BTreeMap<String, Held>,
    /// The verbs that were called, in order.
    pub(crate) calls: Vec<&'static str>,
    /// By container name: the exit code of each start, or `None` to run on. Runs on when empty.
    pub(crate) script: BTreeMap<String, VecDeque<Option<i32>>>,
    /// The exit codes of `ExecSync`, 0 when empty.
    pub(crate) execs: VecDeque<i32>,
    /// The clock, in nanoseconds since 1970.
    pub(crate) now: i64,
    made: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Simulated(Mutex<Inside>);

impl Simulated {
    /// A runtime that has `images`.
    pub(crate) fn with_images(images: &[&str]) -> Simulated {
        let images = images.iter().map(|i| (*i).to_owned()).collect();
        Simulated(Mutex::new(Inside { images, now: 1_000_000_000, ..Inside::default() }))
    }

    pub(crate) fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }

    fn called<O: Op>(&self) -> MutexGuard<'_, Inside> {
        let mut inside = self.inside();
        inside.calls.push(O::NAME);
        inside
    }
}

impl Inside {
    fn id(&mut self) -> String {
        self.made += 1;
        format!("{:08x}", self.made)
    }

    fn container(&mut self, id: &str) -> Result<&mut Held> {
        let missing = || HopError::not_found(format!("no such container: {id}"));
        self.containers.get_mut(id).ok_or_else(missing)
    }

    pub(crate) fn end(&mut self, id: &str, exit_code: i32) {
        let now = self.now;
        let held = self.containers.get_mut(id).unwrap();
        held.status.state = ContainerState::ContainerExited.into();
        held.status.exit_code = exit_code;
        held.status.finished_at = now;
        held.status.reason = if exit_code == 0 { "Completed" } else { "Error" }.into();
    }

    /// The id of the newest container of this name.
    pub(crate) fn newest(&self, name: &str) -> String {
        let named = self
            .containers
            .iter()
            .filter(|(_, h)| h.config.metadata.as_ref().unwrap().name == name);
        named.max_by_key(|(id, _)| (*id).clone()).unwrap().0.clone()
    }
}

fn selected(
    labels: &std::collections::HashMap<String, String>,
    by: &std::collections::HashMap<String, String>,
) -> bool {
    by.iter().all(|(k, v)| labels.get(k) == Some(v))
}

#[async_trait]
impl Handle<RunPodSandboxRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: RunPodSandboxRequest) -> Result<RunPodSandboxResponse> {
        let mut inside = self.called::<RunPodSandboxRequest>();
        let id = inside.id();
        let config = op.config.unwrap();
        let taken = inside.sandboxes.values().any(|(c, _)| c.metadata == config.metadata);
        if taken {
            return Err(HopError::new(Kind::Unknown, "name is reserved"));
        }
        inside.sandboxes.insert(id.clone(), (config, PodSandboxState::SandboxReady));
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }
}

#[async_trait]
impl Handle<PodSandboxStatusRequest> for Simulated {
    async fn handle(
        &self,
        _: &Cx,
        op: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse> {
        let inside = self.called::<PodSandboxStatusRequest>();
        let id = op.pod_sandbox_id;
        let (config, state) =
            inside.sandboxes.get(&id).ok_or_else(|| HopError::not_found("no such sandbox"))?;
        let status = PodSandboxStatus {
            id,
            metadata: config.metadata.clone(),
            state: (*state).into(),
            network: Some(PodSandboxNetworkStatus { ip: "10.1.0.9".into(), ..Default::default() }),
            ..PodSandboxStatus::default()
        };
        Ok(PodSandboxStatusResponse { status: Some(status), ..Default::default() })
    }
}

#[async_trait]
impl Handle<StopPodSandboxRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: StopPodSandboxRequest) -> Result<StopPodSandboxResponse> {
        let mut inside = self.called::<StopPodSandboxRequest>();
        let of: Vec<_> = inside
            .containers
            .iter()
            .filter(|(_, h)| h.sandbox == op.pod_sandbox_id)
            .filter(|(_, h)| h.status.state() == ContainerState::ContainerRunning)
            .map(|(id, _)| id.clone())
            .collect();
        for id in of {
            inside.end(&id, 137);
        }
        if let Some((_, state)) = inside.sandboxes.get_mut(&op.pod_sandbox_id) {
            *state = PodSandboxState::SandboxNotready;
        }
        Ok(StopPodSandboxResponse {})
    }
}

#[async_trait]
impl Handle<RemovePodSandboxRequest> for Simulated {
    async fn handle(
        &self,
        _: &Cx,
        op: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse> {
        let mut inside = self.called::<RemovePodSandboxRequest>();
        if inside.containers.values().any(|h| h.sandbox == op.pod_sandbox_id) {
            return Err(HopError::new(Kind::FailedPrecondition, "the sandbox has containers"));
        }
        inside.sandboxes.remove(&op.pod_sandbox_id);
        Ok(RemovePodSandboxResponse {})
    }
}

#[async_trait]
impl Handle<ListPodSandboxRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: ListPodSandboxRequest) -> Result<ListPodSandboxResponse> {
        let inside = self.called::<ListPodSandboxRequest>();
        let by = op.filter.unwrap_or_default().label_selector;
        let found = inside.sandboxes.iter().filter(|(_, (c, _))| selected(&c.labels, &by));
        let items = found.map(|(id, (config, state))| PodSandbox {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: (*state).into(),
            created_at: i64::from_str_radix(id, 16).unwrap(),
            ..PodSandbox::default()
        });
        Ok(ListPodSandboxResponse { items: items.collect() })
    }
}

#[async_trait]
impl Handle<CreateContainerRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: CreateContainerRequest) -> Result<CreateContainerResponse> {
        let mut inside = self.called::<CreateContainerRequest>();
        let config = op.config.unwrap();
        let image = config.image.clone().unwrap().image;
        if !inside.images.iter().any(|i| format!("sha256:{i}") == image) {
            return Err(HopError::not_found(format!("no such image: {image}")));
        }
        let id = inside.id();
        let status = ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            created_at: inside.now,
            annotations: config.annotations.clone(),
            ..ContainerStatus::default()
        };
        inside.containers.insert(id.clone(), Held { sandbox: op.pod_sandbox_id, config, status });
        Ok(CreateContainerResponse { container_id: id })
    }
}

#[async_trait]
impl Handle<StartContainerRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: StartContainerRequest) -> Result<StartContainerResponse> {
        let mut inside = self.called::<StartContainerRequest>();
        let now = inside.now;
        let held = inside.container(&op.container_id)?;
        held.status.state = ContainerState::ContainerRunning.into();
        held.status.started_at = now;
        let name = held.config.metadata.clone().unwrap().name;
        let scripted = inside.script.get_mut(&name).and_then(VecDeque::pop_front).flatten();
        if let Some(exit_code) = scripted {
            inside.end(&op.container_id, exit_code);
        }
        Ok(StartContainerResponse {})
    }
}

#[async_trait]
impl Handle<StopContainerRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: StopContainerRequest) -> Result<StopContainerResponse> {
        let mut inside = self.called::<StopContainerRequest>();
        if inside.container(&op.container_id)?.status.state() == ContainerState::ContainerRunning {
            inside.end(&op.container_id, if op.timeout == 0 { 137 } else { 143 });
        }
        Ok(StopContainerResponse {})
    }
}

#[async_trait]
impl Handle<RemoveContainerRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: RemoveContainerRequest) -> Result<RemoveContainerResponse> {
        let mut inside = self.called::<RemoveContainerRequest>();
        if inside.container(&op.container_id)?.status.state() == ContainerState::ContainerRunning {
            return Err(HopError::new(Kind::FailedPrecondition, "the container is running"));
        }
        inside.containers.remove(&op.container_id);
        Ok(RemoveContainerResponse {})
    }
}

#[async_trait]
impl Handle<ListContainersRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: ListContainersRequest) -> Result<ListContainersResponse> {
        let inside = self.called::<ListContainersRequest>();
        let by = op.filter.unwrap_or_default().label_selector;
        let found = inside.containers.iter().filter(|(_, h)| selected(&h.config.labels, &by));
        let containers = found.map(|(id, held)| Container {
            id: id.clone(),
            pod_sandbox_id: held.sandbox.clone(),
            metadata: held.config.metadata.clone(),
            state: held.status.state,
            created_at: i64::from_str_radix(id, 16).unwrap(),
            ..Container::default()
        });
        Ok(ListContainersResponse { containers: containers.collect() })
    }
}

#[async_trait]
impl Handle<ContainerStatusRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: ContainerStatusRequest) -> Result<ContainerStatusResponse> {
        let mut inside = self.called::<ContainerStatusRequest>();
        let status = Some(inside.container(&op.container_id)?.status.clone());
        Ok(ContainerStatusResponse { status, ..Default::default() })
    }
}

#[async_trait]
impl Handle<ExecSyncRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: ExecSyncRequest) -> Result<ExecSyncResponse> {
        let mut inside = self.called::<ExecSyncRequest>();
        inside.container(&op.container_id)?;
        let exit_code = inside.execs.pop_front().unwrap_or(0);
        Ok(ExecSyncResponse { exit_code, ..Default::default() })
    }
}

#[async_trait]
impl Handle<ImageStatusRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: ImageStatusRequest) -> Result<ImageStatusResponse> {
        let inside = self.called::<ImageStatusRequest>();
        let name = op.image.unwrap().image;
        let image = inside.images.contains(&name).then(|| Image {
            id: format!("sha256:{name}"),
            repo_tags: vec![name],
            ..Image::default()
        });
        Ok(ImageStatusResponse { image, ..Default::default() })
    }
}

#[async_trait]
impl Handle<PullImageRequest> for Simulated {
    async fn handle(&self, _: &Cx, op: PullImageRequest) -> Result<PullImageResponse> {
        let mut inside = self.called::<PullImageRequest>();
        let name = op.image.unwrap().image;
        if name.starts_with("missing") {
            return Err(HopError::not_found(format!("manifest for {name} not found")));
        }
        inside.images.insert(name.clone());
        Ok(PullImageResponse { image_ref: format!("sha256:{name}") })
    }
}

hops::refuse!(
    Simulated: VersionRequest,
        UpdateContainerResourcesRequest,
        ReopenContainerLogRequest,
        ExecRequest,
        AttachRequest,
        PortForwardRequest,
        ContainerStatsRequest,
        ListContainerStatsRequest,
        PodSandboxStatsRequest,
        ListPodSandboxStatsRequest,
        UpdateRuntimeConfigRequest,
        StatusRequest,
        CheckpointContainerRequest,
        ListMetricDescriptorsRequest,
        ListPodSandboxMetricsRequest,
        RuntimeConfigRequest,
        ListImagesRequest,
        RemoveImageRequest,
        ImageFsInfoRequest;
    stream: GetEventsRequest
);
