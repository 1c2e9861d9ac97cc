//! Containers (`pkg/kubelet/dockershim/docker_container.go`, Kubernetes 1.20).

use std::{fs, io, path::Path};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Kind, Result,
    docker::{
        Changed, ContainerStart, ContainerUpdate, ImageInspect, Json, Request,
        models::{
            ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum,
            ContainerSummary, ContainerSummaryStateEnum, ContainerUpdateBody, DeviceMapping,
            HealthConfig, HostConfig, ImageInspect as DockerImage, RestartPolicy,
            RestartPolicyNameEnum,
        },
    },
    proto::runtime::v1::*,
};

use crate::{engine::Engine, image, labels, names, security, time::nanos};

/// A refusal of what only newer kubelets ask.
fn unsupported(words: &str) -> HopError {
    HopError::new(Kind::Unimplemented, words)
}

/// Docker's `-v` notation of a mount.
fn bind(mount: &Mount) -> String {
    let mut options = Vec::new();
    if mount.readonly {
        options.push("ro");
    }
    if mount.selinux_relabel {
        options.push("Z");
    }
    match mount.propagation() {
        MountPropagation::PropagationPrivate => {}
        MountPropagation::PropagationHostToContainer => options.push("rslave"),
        MountPropagation::PropagationBidirectional => options.push("rshared"),
    }
    let bind = format!("{}:{}", mount.host_path, mount.container_path);
    if options.is_empty() { bind } else { format!("{bind}:{}", options.join(",")) }
}

fn apply_resources(resources: &LinuxContainerResources, hc: &mut HostConfig) {
    let set = |value: i64| Some(value).filter(|v| *v != 0);
    let text = |value: &str| Some(value.to_owned()).filter(|v| !v.is_empty());
    hc.memory = set(resources.memory_limit_in_bytes);
    // No more memory with swap than without: no swap.
    hc.memory_swap = hc.memory;
    hc.cpu_shares = set(resources.cpu_shares);
    hc.cpu_quota = set(resources.cpu_quota);
    hc.cpu_period = set(resources.cpu_period);
    hc.cpuset_cpus = text(&resources.cpuset_cpus);
    hc.cpuset_mems = text(&resources.cpuset_mems);
}

impl Engine {
    async fn container_body(
        &self,
        cx: &Cx,
        sandbox: &str,
        config: &ContainerConfig,
        pod: &PodSandboxConfig,
    ) -> Result<ContainerCreateBody> {
        if let Some(mount) = config.mounts.iter().find(|m| m.image.is_some()) {
            return Err(unsupported(&format!(
                "mount {:?}: image volumes are not supported",
                mount.container_path
            )));
        }
        if !config.cdi_devices.is_empty() {
            return Err(unsupported("CDI devices are not supported"));
        }
        let mut of = labels::make(&config.labels, &config.annotations);
        of.insert(labels::TYPE.into(), labels::TYPE_CONTAINER.into());
        let log = Path::new(&pod.log_directory).join(&config.log_path);
        of.insert(labels::LOG_PATH.into(), log.to_string_lossy().into_owned());
        of.insert(labels::SANDBOX_ID.into(), sandbox.to_owned());
        let device = |d: &Device| DeviceMapping {
            path_on_host: Some(d.host_path.clone()),
            path_in_container: Some(d.container_path.clone()),
            cgroup_permissions: Some(d.permissions.clone()),
        };
        let mut hc = HostConfig {
            binds: Some(config.mounts.iter().map(bind).collect()),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            devices: Some(config.devices.iter().map(device).collect()),
            ..HostConfig::default()
        };
        let linux = config.linux.clone().unwrap_or_default();
        if let Some(resources) = &linux.resources {
            apply_resources(resources, &mut hc);
            hc.oom_score_adj = Some(self.oom_score_adj(resources.oom_score_adj));
        }
        let context = linux.security_context.unwrap_or_default();
        security::container(&context, sandbox, &mut hc)?;
        let parent = pod.linux.as_ref().map(|l| l.cgroup_parent.as_str()).unwrap_or_default();
        hc.cgroup_parent = self.cgroup_parent(cx, parent).await?;
        let some = |words: &[String]| Some(words.to_vec()).filter(|w| !w.is_empty());
        let user = security::user(
            context.run_as_user.as_ref(),
            &context.run_as_username,
            context.run_as_group.as_ref(),
        )?;
        Ok(ContainerCreateBody {
            user,
            entrypoint: some(&config.command),
            cmd: some(&config.args),
            env: Some(config.envs.iter().map(|e| format!("{}={}", e.key, e.value)).collect()),
            image: config.image.as_ref().map(|i| i.image.clone()),
            working_dir: Some(config.working_dir.clone()).filter(|d| !d.is_empty()),
            labels: Some(of),
            open_stdin: Some(config.stdin),
            stdin_once: Some(config.stdin_once),
            tty: Some(config.tty),
            // The kubelet has probes of its own.
            healthcheck: Some(HealthConfig {
                test: Some(vec!["NONE".into()]),
                ..HealthConfig::default()
            }),
            host_config: Some(hc),
            ..ContainerCreateBody::default()
        })
    }

    /// Where the kubelet expects a container's log, and where Docker writes it.
    async fn log_paths(&self, cx: &Cx, id: &str) -> Result<(String, String)> {
        let container = self
            .inspect(cx, id)
            .await
            .map_err(|e| e.context(format_args!("failed to get container {id:?} log path")))?;
        let docker = container.config.unwrap_or_default().labels.unwrap_or_default();
        let expected = docker.get(labels::LOG_PATH).cloned().unwrap_or_default();
        Ok((expected, container.log_path.unwrap_or_default()))
    }

    /// Links the log path that the kubelet knows to Docker's own log.
    async fn link_log(&self, cx: &Cx, id: &str) -> Result<()> {
        let (expected, real) = self.log_paths(cx, id).await?;
        if expected.is_empty() {
            return Ok(());
        }
        if real.is_empty() {
            tracing::warn!(container = id, "Docker keeps no log file for the container");
            return Ok(());
        }
        let parent = Path::new(&expected).parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent)
            .and_then(|()| remove_file(&expected))
            .and_then(|()| std::os::unix::fs::symlink(&real, &expected))
            .map_err(|e| {
                HopError::from(e).context(format_args!(
                    "failed to create symbolic link {expected:?} to the container log file {real:?} for container {id:?}"
                ))
            })
    }

    /// The status of a container, and how Docker describes its image.
    pub(crate) async fn status(&self, cx: &Cx, id: &str) -> Result<ContainerStatus> {
        let container = self.inspect(cx, id).await?;
        let image = container.image.clone().unwrap_or_default();
        let docker_image = match self.docker.handle(cx, Request::<ImageInspect>::of(&image)).await {
            Ok(found) => Some(found.0.base),
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                return Err(error.context(format_args!(
                    "unable to inspect docker image {image:?} while inspecting docker container {id:?}"
                )));
            }
        };
        container_status(container, docker_image)
    }
}

fn remove_file(path: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn container_status(
    container: ContainerInspectResponse,
    image: Option<DockerImage>,
) -> Result<ContainerStatus> {
    let metadata = names::parse_container(container.name.as_deref().unwrap_or_default())?;
    let config = container.config.unwrap_or_default();
    let state = container.state.unwrap_or_default();
    let created_at = nanos(container.created.as_deref());
    let mut started_at = nanos(state.started_at.as_deref());
    let mut finished_at = nanos(state.finished_at.as_deref());
    let exit_code = i32::try_from(state.exit_code.unwrap_or(0)).unwrap_or(-1);
    let running = state.running == Some(true)
        || matches!(state.status, Some(ContainerStateStatusEnum::PAUSED));
    let (now, reason) = if running {
        finished_at = 0;
        (ContainerState::ContainerRunning, "")
    } else if finished_at != 0 {
        let reason = match (state.oom_killed, exit_code) {
            (Some(true), _) => "OOMKilled",
            (_, 0) => "Completed",
            _ => "Error",
        };
        (ContainerState::ContainerExited, reason)
    } else if exit_code != 0 {
        // It could not be started; Docker then tells neither time.
        (started_at, finished_at) = (created_at, created_at);
        (ContainerState::ContainerExited, "ContainerCannotRun")
    } else {
        (ContainerState::ContainerCreated, "")
    };
    let id = container.image.unwrap_or_default();
    let (name, image_ref) = match &image {
        Some(image) => {
            let name = image.repo_tags.iter().flatten().next();
            (name.cloned(), image::pullable_ref(&id, image))
        }
        None => (None, format!("{}{id}", image::DOCKER)),
    };
    let docker = config.labels.unwrap_or_default();
    let (labels, annotations) = labels::split(&docker);
    let mounts = container.mounts.unwrap_or_default().into_iter().map(|mount| Mount {
        container_path: mount.destination.unwrap_or_default(),
        host_path: mount.source.unwrap_or_default(),
        readonly: mount.rw == Some(false),
        ..Mount::default()
    });
    Ok(ContainerStatus {
        id: container.id.unwrap_or_default(),
        metadata: Some(metadata),
        state: now.into(),
        created_at,
        started_at,
        finished_at,
        exit_code,
        image: Some(ImageSpec {
            image: name.or(config.image).unwrap_or_default(),
            ..ImageSpec::default()
        }),
        image_ref,
        reason: reason.to_owned(),
        message: state.error.unwrap_or_default(),
        labels,
        annotations,
        mounts: mounts.collect(),
        log_path: docker.get(labels::LOG_PATH).cloned().unwrap_or_default(),
        image_id: id,
        ..ContainerStatus::default()
    })
}

#[async_trait]
impl Handle<CreateContainerRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: CreateContainerRequest) -> Result<CreateContainerResponse> {
        let sandbox = op.pod_sandbox_id;
        let config = op.config.ok_or_else(|| HopError::invalid("container config is nil"))?;
        let Some(metadata) = &config.metadata else {
            return Err(HopError::invalid("container config: metadata is nil"));
        };
        let Some(pod) = &op.sandbox_config else {
            return Err(HopError::invalid(format!(
                "sandbox config is nil for container {:?}",
                metadata.name
            )));
        };
        let body = self.container_body(cx, &sandbox, &config, pod).await?;
        let of_pod = pod.metadata.clone().unwrap_or_default();
        let id = self.create(cx, names::container(metadata, &of_pod), body).await?;
        Ok(CreateContainerResponse { container_id: id })
    }
}

#[async_trait]
impl Handle<StartContainerRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: StartContainerRequest) -> Result<StartContainerResponse> {
        let id = op.container_id;
        let started = self.docker.handle(cx, Request::<ContainerStart>::of(&id)).await;
        let started = started.and_then(|changed| match changed {
            Changed(true) => Ok(()),
            // Docker is content with it; a container of CRI is started once, as containerd has it.
            Changed(false) => Err(HopError::new(
                Kind::FailedPrecondition,
                "container is in CONTAINER_RUNNING state",
            )),
        });
        let started =
            started.map_err(|e| e.context(format_args!("failed to start container {id:?}")));
        match self.link_log(cx, &id).await {
            // A container that does not exist has no log either: its own error says more.
            Err(error) if started.is_ok() => return Err(error),
            _ => {}
        }
        started.map(|()| StartContainerResponse {})
    }
}

#[async_trait]
impl Handle<StopContainerRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: StopContainerRequest) -> Result<StopContainerResponse> {
        match self.stop(cx, &op.container_id, op.timeout).await {
            // CRI: stopping what is gone is a success.
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(StopContainerResponse {}),
        }
    }
}

#[async_trait]
impl Handle<RemoveContainerRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: RemoveContainerRequest) -> Result<RemoveContainerResponse> {
        let id = op.container_id;
        match self.log_paths(cx, &id).await {
            Ok((log, _)) if !log.is_empty() => remove_file(&log)?,
            Ok(_) => {}
            // CRI: removing what is gone is a success.
            Err(error) if error.is_not_found() => return Ok(RemoveContainerResponse {}),
            Err(error) => return Err(error),
        }
        match self.remove(cx, &id, true).await {
            Err(error) if !error.is_not_found() => {
                Err(error.context(format_args!("failed to remove container {id:?}")))
            }
            _ => Ok(RemoveContainerResponse {}),
        }
    }
}

#[async_trait]
impl Handle<ContainerStatusRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: ContainerStatusRequest) -> Result<ContainerStatusResponse> {
        let status = Some(self.status(cx, &op.container_id).await?);
        Ok(ContainerStatusResponse { status, ..Default::default() })
    }
}

fn state(state: Option<ContainerSummaryStateEnum>) -> ContainerState {
    use ContainerSummaryStateEnum::{CREATED, DEAD, EXITED, PAUSED, RUNNING, STOPPING};
    match state {
        Some(RUNNING | PAUSED | STOPPING) => ContainerState::ContainerRunning,
        Some(EXITED | DEAD) => ContainerState::ContainerExited,
        Some(CREATED) => ContainerState::ContainerCreated,
        _ => ContainerState::ContainerUnknown,
    }
}

/// A container in Docker's list; one that dockershim did not make is passed over.
fn summary(container: ContainerSummary) -> Option<Container> {
    let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
    let metadata = match names::parse_container(&name) {
        Ok(metadata) => metadata,
        Err(error) => {
            tracing::debug!(%error, "listing containers");
            return None;
        }
    };
    let docker = container.labels.unwrap_or_default();
    let (labels, annotations) = labels::split(&docker);
    let image_id = container.image_id.unwrap_or_default();
    Some(Container {
        id: container.id.unwrap_or_default(),
        pod_sandbox_id: docker.get(labels::SANDBOX_ID).cloned().unwrap_or_default(),
        metadata: Some(metadata),
        image: Some(ImageSpec {
            image: container.image.unwrap_or_default(),
            ..ImageSpec::default()
        }),
        image_ref: image_id.clone(),
        state: state(container.state).into(),
        created_at: container.created.unwrap_or(0) * 1_000_000_000,
        labels,
        annotations,
        image_id,
    })
}

#[async_trait]
impl Handle<ListContainersRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: ListContainersRequest) -> Result<ListContainersResponse> {
        let filter = op.filter.unwrap_or_default();
        let mut of = labels::selector(labels::TYPE_CONTAINER, &filter.label_selector);
        if !filter.pod_sandbox_id.is_empty() {
            of.push(format!("{}={}", labels::SANDBOX_ID, filter.pod_sandbox_id));
        }
        let id = Some(filter.id).filter(|id| !id.is_empty());
        let filters = [("label", of), ("id", id.into_iter().collect())];
        let found = self.list_all(cx, &filters).await?;
        let wanted = filter.state.map(|s| s.state);
        let mut containers: Vec<_> = found.into_iter().filter_map(summary).collect();
        containers.retain(|c| wanted.is_none_or(|state| c.state == state));
        Ok(ListContainersResponse { containers })
    }
}

#[async_trait]
impl Handle<UpdateContainerResourcesRequest> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        op: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse> {
        let mut hc = HostConfig::default();
        apply_resources(&op.linux.unwrap_or_default(), &mut hc);
        let body = ContainerUpdateBody {
            cpu_shares: hc.cpu_shares,
            cpu_quota: hc.cpu_quota,
            cpu_period: hc.cpu_period,
            cpuset_cpus: hc.cpuset_cpus,
            cpuset_mems: hc.cpuset_mems,
            memory: hc.memory,
            memory_swap: hc.memory_swap,
            ..ContainerUpdateBody::default()
        };
        let request = Request::<ContainerUpdate>::of(&op.container_id).body(Json(body));
        self.docker.handle(cx, request).await.map_err(|e| {
            e.context(format_args!("failed to update container {:?}", op.container_id))
        })?;
        Ok(UpdateContainerResourcesResponse {})
    }
}

#[async_trait]
impl Handle<ReopenContainerLogRequest> for Engine {
    async fn handle(
        &self,
        _cx: &Cx,
        _op: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse> {
        // Docker rotates its logs itself.
        Err(HopError::new(Kind::Unknown, "docker does not support reopening container log files"))
    }
}
