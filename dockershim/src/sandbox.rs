//! Sandboxes (`pkg/kubelet/dockershim/docker_sandbox.go`, Kubernetes 1.20).

use std::collections::HashMap;

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Result,
    docker::{
        ContainerList, ContainerListQuery, ContainerStart, Flag, Request,
        models::{
            ContainerCreateBody, ContainerInspectResponse, ContainerSummary,
            ContainerSummaryStateEnum, HostConfig, PortBinding,
        },
    },
    proto::runtime::v1::*,
};

use crate::{
    checkpoint::{Checkpoint, Data},
    engine::Engine,
    labels, names, network, resolv, security,
    time::nanos,
};

/// The only runtime handler, besides the empty one.
const RUNTIME: &str = "docker";
const CPU_SHARES: i64 = 2;
const OOM_SCORE_ADJ: i64 = -998;
/// Seconds that a sandbox has to end.
const GRACE: i64 = 10;

/// Ports that Docker publishes for a sandbox on a network of Docker's own.
type Ports = (Vec<String>, HashMap<String, Option<Vec<PortBinding>>>);

fn ports(mappings: &[PortMapping]) -> Ports {
    let mut exposed = Vec::new();
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for mapping in mappings.iter().filter(|m| m.host_port != 0) {
        let protocol = match mapping.protocol() {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let port = format!("{}/{protocol}", mapping.container_port);
        let binding = PortBinding {
            host_ip: Some(mapping.host_ip.clone()),
            host_port: Some(mapping.host_port.to_string()),
        };
        exposed.push(port.clone());
        bindings.entry(port).or_default().get_or_insert_default().push(binding);
    }
    (exposed, bindings)
}

fn host_network(linux: Option<&LinuxPodSandboxConfig>) -> bool {
    let namespaces = linux.and_then(|l| l.security_context.as_ref()?.namespace_options.as_ref());
    namespaces.is_some_and(|n| n.network() == NamespaceMode::Node)
}

fn uses_host_network(sandbox: &ContainerInspectResponse) -> bool {
    let hc = sandbox.host_config.as_ref();
    hc.and_then(|hc| hc.network_mode.as_deref()) == Some("host")
}

fn pid(sandbox: &ContainerInspectResponse) -> i64 {
    sandbox.state.as_ref().and_then(|s| s.pid).unwrap_or(0)
}

impl Engine {
    /// Docker's settings for a sandbox.
    async fn sandbox_body(
        &self,
        cx: &Cx,
        config: &PodSandboxConfig,
    ) -> Result<ContainerCreateBody> {
        let mut of = labels::make(&config.labels, &config.annotations);
        of.insert(labels::TYPE.into(), labels::TYPE_SANDBOX.into());
        of.insert(labels::CONTAINER_NAME.into(), names::SANDBOX.into());
        let mut hc = HostConfig {
            ipc_mode: Some("shareable".into()),
            // Networks are CNI's business.
            network_mode: Some("none".into()),
            oom_score_adj: Some(self.oom_score_adj(OOM_SCORE_ADJ)),
            cpu_shares: Some(CPU_SHARES),
            ..HostConfig::default()
        };
        let linux = config.linux.clone().unwrap_or_default();
        let context = linux.security_context.unwrap_or_default();
        security::sandbox(&context, &mut hc)?;
        hc.cgroup_parent = self.cgroup_parent(cx, &linux.cgroup_parent).await?;
        hc.sysctls = Some(linux.sysctls).filter(|s| !s.is_empty());
        let (exposed, bindings) = ports(&config.port_mappings);
        hc.port_bindings = Some(bindings).filter(|b| !b.is_empty());
        Ok(ContainerCreateBody {
            hostname: Some(config.hostname.clone()).filter(|h| !h.is_empty()),
            user: security::user(context.run_as_user.as_ref(), "", context.run_as_group.as_ref())?,
            image: Some(self.config.sandbox_image.clone()),
            labels: Some(of),
            exposed_ports: Some(exposed).filter(|e| !e.is_empty()),
            host_config: Some(hc),
            ..ContainerCreateBody::default()
        })
    }

    /// Everything that comes after a sandbox's container was created.
    async fn start_sandbox(&self, cx: &Cx, id: &str, config: &PodSandboxConfig) -> Result<()> {
        let m = config.metadata.clone().unwrap_or_default();
        let on_host = host_network(config.linux.as_ref());
        let checkpoint = Checkpoint::of(config, on_host);
        self.checkpoints.write(id, &checkpoint)?;
        self.docker.handle(cx, Request::<ContainerStart>::of(id)).await.map_err(|e| {
            e.context(format_args!("failed to start sandbox container for pod {:?}", m.name))
        })?;
        if let Some(dns) = &config.dns_config {
            let sandbox = self.inspect(cx, id).await.map_err(|e| {
                e.context(format_args!("failed to inspect sandbox container for pod {:?}", m.name))
            })?;
            resolv::rewrite(sandbox.resolv_conf_path.as_deref().unwrap_or_default(), dns).map_err(
                |e| e.context(format_args!("rewrite resolv.conf failed for pod {:?}", m.name)),
            )?;
        }
        if on_host {
            return Ok(());
        }
        let sandbox = network::Sandbox {
            namespace: &m.namespace,
            name: &m.name,
            id,
            pid: pid(&self.inspect(cx, id).await?),
            data: &checkpoint.data,
        };
        if let Err(error) = self.network.set_up(cx, sandbox).await {
            // A plugin may have succeeded before the one that failed.
            if let Err(error) = self.network.tear_down(cx, sandbox).await {
                tracing::warn!(%error, sandbox = id, "cleaning up the sandbox's network");
            }
            return Err(error.context(format_args!(
                "failed to set up sandbox container {id:?} network for pod {:?}",
                m.name
            )));
        }
        Ok(())
    }

    /// The sandbox's container and what its name says.
    async fn sandbox(
        &self,
        cx: &Cx,
        id: &str,
    ) -> Result<(ContainerInspectResponse, PodSandboxMetadata)> {
        let sandbox = self.inspect(cx, id).await?;
        let metadata = names::parse_sandbox(sandbox.name.as_deref().unwrap_or_default())?;
        Ok((sandbox, metadata))
    }

    async fn list(
        &self,
        cx: &Cx,
        all: bool,
        filters: &[(&str, Vec<String>)],
    ) -> Result<Vec<ContainerSummary>> {
        let query = ContainerListQuery {
            all: all.then_some(Flag(true)),
            filters: labels::filters(filters),
            ..ContainerListQuery::default()
        };
        Ok(self.docker.handle(cx, Request::<ContainerList>::default().query(query)).await?.0)
    }

    /// Containers by Docker's filters, running or not.
    pub(crate) async fn list_all(
        &self,
        cx: &Cx,
        filters: &[(&str, Vec<String>)],
    ) -> Result<Vec<ContainerSummary>> {
        self.list(cx, true, filters).await
    }
}

#[async_trait]
impl Handle<RunPodSandboxRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: RunPodSandboxRequest) -> Result<RunPodSandboxResponse> {
        let config = op.config.ok_or_else(|| HopError::invalid("sandbox config is nil"))?;
        let Some(metadata) = &config.metadata else {
            return Err(HopError::invalid("sandbox config: metadata is nil"));
        };
        if !["", RUNTIME].contains(&op.runtime_handler.as_str()) {
            let handler = &op.runtime_handler;
            return Err(HopError::invalid(format!("RuntimeHandler {handler:?} not supported")));
        }
        self.ensure_sandbox_image(cx).await?;
        let body = self.sandbox_body(cx, &config).await.map_err(|e| {
            e.context(format_args!(
                "failed to make sandbox docker config for pod {:?}",
                metadata.name
            ))
        })?;
        let id = self.create(cx, names::sandbox(metadata), body).await.map_err(|e| {
            e.context(format_args!("failed to create a sandbox for pod {:?}", metadata.name))
        })?;
        self.set_network_ready(&id, false);
        if let Err(error) = self.start_sandbox(cx, &id, &config).await {
            // The real one leaves the container to the kubelet's garbage collection.
            if let Err(left) = self.remove(cx, &id, true).await
                && !left.is_not_found()
            {
                tracing::warn!(%left, sandbox = id, "removing a sandbox that did not start");
            }
            self.forget_network(&id);
            self.checkpoints.remove(&id)?;
            return Err(error);
        }
        self.set_network_ready(&id, true);
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }
}

#[async_trait]
impl Handle<StopPodSandboxRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: StopPodSandboxRequest) -> Result<StopPodSandboxResponse> {
        let id = op.pod_sandbox_id.as_str();
        let status = self.sandbox(cx, id).await;
        let checkpoint = self.checkpoints.read(id);
        let (metadata, on_host) = match (&status, &checkpoint) {
            (Ok((sandbox, metadata)), _) => (metadata.clone(), uses_host_network(sandbox)),
            (Err(_), Ok(checkpoint)) => {
                let metadata = PodSandboxMetadata {
                    name: checkpoint.name.clone(),
                    namespace: checkpoint.namespace.clone(),
                    ..PodSandboxMetadata::default()
                };
                (metadata, checkpoint.data.host_network)
            }
            // Nothing knows of it: there is nothing to stop.
            (Err(error), Err(_)) if error.is_not_found() => {
                self.checkpoints.remove(id)?;
                return Ok(StopPodSandboxResponse {});
            }
            (Err(error), Err(_)) => {
                return Err(error.clone().context("failed to get sandbox status"));
            }
        };
        let mut first = Ok(());
        if !on_host && self.network_ready(id) != Some(false) {
            // Asked again, as the real one does: the process may have ended since.
            let pid = self.inspect(cx, id).await.map_or(0, |sandbox| pid(&sandbox));
            let data = checkpoint.map_or_else(|_| Data::default(), |c| c.data);
            let sandbox = network::Sandbox {
                namespace: &metadata.namespace,
                name: &metadata.name,
                id,
                pid,
                data: &data,
            };
            match self.network.tear_down(cx, sandbox).await {
                Ok(()) => self.set_network_ready(id, false),
                Err(error) => first = Err(error),
            }
        }
        match self.stop(cx, id, GRACE).await {
            Err(error) if error.is_not_found() => self.checkpoints.remove(id)?,
            Err(error) if first.is_ok() => first = Err(error),
            _ => {}
        }
        first.map(|()| StopPodSandboxResponse {})
    }
}

#[async_trait]
impl Handle<RemovePodSandboxRequest> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        op: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse> {
        let id = op.pod_sandbox_id.as_str();
        let of_sandbox = [("label", vec![format!("{}={id}", labels::SANDBOX_ID)])];
        let mut first = Ok(());
        for container in self.list_all(cx, &of_sandbox).await? {
            let container_id = container.id.unwrap_or_default();
            let removed = self.handle(cx, RemoveContainerRequest { container_id }).await;
            first = first.and(removed.map(drop));
        }
        match self.remove(cx, id, true).await {
            Err(error) if !error.is_not_found() => first = first.and(Err(error)),
            _ => self.forget_network(id),
        }
        first = first.and(self.checkpoints.remove(id));
        first.map(|()| RemovePodSandboxResponse {})
    }
}

#[async_trait]
impl Handle<PodSandboxStatusRequest> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        op: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse> {
        let id = op.pod_sandbox_id;
        let (sandbox, metadata) = self.sandbox(cx, &id).await?;
        let running = sandbox.state.as_ref().is_some_and(|s| s.running == Some(true));
        let addressed = !uses_host_network(&sandbox) && self.network_ready(&id) != Some(false);
        let mut ips = match running && addressed {
            true => network::addresses(pid(&sandbox)),
            false => Vec::new(),
        }
        .into_iter();
        let docker = sandbox.config.unwrap_or_default().labels.unwrap_or_default();
        let (labels, annotations) = labels::split(&docker);
        let namespaces = security::namespaces_of(&sandbox.host_config.unwrap_or_default());
        let status = PodSandboxStatus {
            id,
            metadata: Some(metadata),
            state: state(running),
            created_at: nanos(sandbox.created.as_deref()),
            network: Some(PodSandboxNetworkStatus {
                ip: ips.next().unwrap_or_default(),
                additional_ips: ips.map(|ip| PodIp { ip }).collect(),
            }),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace { options: Some(namespaces) }),
            }),
            labels,
            annotations,
            runtime_handler: String::new(),
        };
        Ok(PodSandboxStatusResponse { status: Some(status), ..Default::default() })
    }
}

fn state(running: bool) -> i32 {
    match running {
        true => PodSandboxState::SandboxReady,
        false => PodSandboxState::SandboxNotready,
    }
    .into()
}

#[async_trait]
impl Handle<ListPodSandboxRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: ListPodSandboxRequest) -> Result<ListPodSandboxResponse> {
        let all = op.filter.is_none();
        let filter = op.filter.unwrap_or_default();
        let wanted = filter.state.as_ref().map(|s| s.state);
        let filters = [
            ("label", labels::selector(labels::TYPE_SANDBOX, &filter.label_selector)),
            ("id", Some(filter.id).filter(|id| !id.is_empty()).into_iter().collect()),
        ];
        let only_running = wanted == Some(state(true));
        let containers = self.list(cx, !only_running, &filters).await?;
        let mut items: Vec<PodSandbox> = containers.into_iter().filter_map(summary).collect();
        if all {
            // What Docker has lost and dockershim still has to clean up after.
            for id in self.checkpoints.ids()? {
                if items.iter().any(|item| item.id == id) {
                    continue;
                }
                if let Ok(checkpoint) = self.checkpoints.read(&id) {
                    items.push(PodSandbox {
                        id,
                        metadata: Some(PodSandboxMetadata {
                            name: checkpoint.name,
                            namespace: checkpoint.namespace,
                            ..PodSandboxMetadata::default()
                        }),
                        state: state(false),
                        ..PodSandbox::default()
                    });
                }
            }
        }
        items.retain(|item| wanted.is_none_or(|state| item.state == state));
        Ok(ListPodSandboxResponse { items })
    }
}

/// A sandbox in Docker's list; a container that dockershim did not make is passed over.
fn summary(container: ContainerSummary) -> Option<PodSandbox> {
    let name = container.names.unwrap_or_default().into_iter().next().unwrap_or_default();
    let metadata = match names::parse_sandbox(&name) {
        Ok(metadata) => metadata,
        Err(error) => {
            tracing::debug!(%error, "listing sandboxes");
            return None;
        }
    };
    let (labels, annotations) = labels::split(&container.labels.unwrap_or_default());
    Some(PodSandbox {
        id: container.id.unwrap_or_default(),
        metadata: Some(metadata),
        state: state(container.state == Some(ContainerSummaryStateEnum::RUNNING)),
        created_at: container.created.unwrap_or(0) * 1_000_000_000,
        labels,
        annotations,
        runtime_handler: String::new(),
    })
}
