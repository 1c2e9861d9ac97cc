//! Sandboxes: the process that waits, and what it holds for a pod.

use std::{collections::HashMap, fs, io, path::Path, sync::Arc};

use hops::{
    Cx, HopError, Result,
    cni::Attached,
    proto::{
        Any,
        containerd::{
            services::{
                containers::v1::{
                    Container as Contained, CreateContainerRequest as CreateContained,
                    container::Runtime,
                },
                snapshots::v1::PrepareSnapshotRequest,
            },
            types::Mount,
        },
        runtime::v1::{
            ContainerEventType, DnsConfig, PodSandboxConfig, RunPodSandboxRequest,
            RunPodSandboxResponse,
        },
    },
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{
    Core,
    task::{Life, Task},
};
use crate::{
    image::Image,
    io::Fifos,
    names::{now, random_id, sandbox_name},
    record::{Exit, KIND_LABEL, Proto, Record, SandboxRecord, extension},
    spec::{
        self,
        sandbox::{HostNamespaces, Plan},
        spec_any,
    },
};

/// The size of a pod's `/dev/shm`, in bytes (containerd's `defaultShmSize`).
const SHM_BYTES: u64 = 64 << 20;

/// A sandbox.
pub(crate) struct Sandbox {
    pub(crate) record: SandboxRecord,
    pub(crate) task: Arc<Task>,
}

impl Sandbox {
    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    /// Whether its process runs.
    pub(crate) fn ready(&self) -> bool {
        let life = self.task.life();
        life.running() && life.ended.is_none()
    }

    /// Which of the host's namespaces it uses.
    pub(crate) fn host(&self) -> HostNamespaces {
        HostNamespaces::of(&self.record.config)
    }
}

/// What containerd is to keep for a container, and what it runs on.
pub(crate) struct Allocation<'a> {
    pub(crate) id: &'a str,
    pub(crate) image_name: String,
    pub(crate) image: &'a Image,
    pub(crate) runtime: String,
    pub(crate) spec: Any,
    pub(crate) extensions: HashMap<String, Any>,
    pub(crate) kind: &'static str,
    pub(crate) labels: &'a HashMap<String, String>,
}

impl Core {
    pub(crate) async fn run_pod_sandbox(
        self: &Arc<Self>,
        cx: &Cx,
        op: RunPodSandboxRequest,
    ) -> Result<RunPodSandboxResponse> {
        let config =
            op.config.ok_or_else(|| HopError::invalid("run pod sandbox: config is missing"))?;
        let Some(metadata) = &config.metadata else {
            return Err(HopError::invalid("sandbox config must include metadata"));
        };
        let handler = op.runtime_handler;
        let runtime = self.config.runtime_of(&handler).map(str::to_owned).ok_or_else(|| {
            HopError::invalid(format!(
                "failed to get sandbox runtime: no runtime for {handler:?} is configured"
            ))
        })?;
        let context = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        spec::check_namespaces(context.and_then(|c| c.namespace_options.as_ref()))?;
        let id = random_id()?;
        let name = sandbox_name(metadata);
        self.names.reserve("sandbox", &name, &id)?;
        let mut record = SandboxRecord {
            id: id.clone(),
            name: name.clone(),
            config: Proto(config),
            network: None,
            runtime_handler: handler,
            created_at: now(),
        };
        if let Err(error) = self.run(cx, &mut record, runtime).await {
            // What the pod needed is taken back in the background's name: its caller's deadline
            // may have passed.
            let sandbox = match self.sandboxes.get(&id) {
                Ok(sandbox) => sandbox,
                Err(_) => Arc::new(Sandbox { record, task: Task::new(&id, None, Life::default()) }),
            };
            if let Err(left) = self.demolish(&cx.detached(), &sandbox).await {
                tracing::warn!(error = %left, id, "a sandbox that did not start is not all gone");
                // The kubelet shall see it, and remove it when it can be.
                let exit = Exit::start_error(error.message.clone());
                sandbox.task.life.send_modify(|life| life.exit = Some(exit));
                self.sandboxes.insert(&id, sandbox);
            }
            return Err(error);
        }
        self.happened(&id, ContainerEventType::ContainerCreatedEvent);
        self.happened(&id, ContainerEventType::ContainerStartedEvent);
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn run(
        self: &Arc<Self>,
        cx: &Cx,
        record: &mut SandboxRecord,
        runtime: String,
    ) -> Result<()> {
        let id = record.id.clone();
        let image = self.sandbox_image(cx).await?;
        let host = HostNamespaces::of(&record.config);
        let netns = (!host.network).then(|| self.config.netns(&id));
        if netns.is_some() {
            record.network = Some(self.attach(cx, record).await?);
        }
        let files = self.config.sandbox_state(&id);
        write_files(&files, &record.config, &self.node)
            .map_err(|e| HopError::from(e).context("failed to setup sandbox files"))?;
        let shm = files.join("shm");
        if !host.ipc {
            mount_shm(&shm)
                .map_err(|e| HopError::from(e).context("failed to mount sandbox shm"))?;
        }
        let mut spec = spec::sandbox::spec(&Plan {
            id: &id,
            config: &record.config,
            image: &image,
            user: self.sandbox_user(cx, &record.config, &image).await?,
            netns,
            files: &files,
            shm: &shm,
        })
        .map_err(|e| e.context("failed to generate sandbox container spec"))?;
        if self.config.disable_cgroup {
            spec::without_cgroups(&mut spec);
        }
        let task = Task::new(&id, None, Life::default());
        let allocation = Allocation {
            id: &id,
            image_name: self.config.sandbox_image.clone(),
            image: &image,
            runtime,
            spec: spec_any(&spec)?,
            extensions: extension(record)?,
            kind: SandboxRecord::KIND,
            labels: &record.config.labels,
        };
        let rootfs = self.allocate(cx, allocation).await?;
        // It is in the index before it can end, so that its end finds it.
        let sandbox = Arc::new(Sandbox { record: record.clone(), task: task.clone() });
        self.sandboxes.insert(&id, sandbox);
        let _turn = task.turn.lock().await;
        self.start(cx, &task, rootfs, &Fifos::default(), false)
            .await
            .map_err(|e| e.context("failed to start sandbox container"))
    }

    /// The image of the pause process, pulled where it is missing.
    async fn sandbox_image(&self, cx: &Cx) -> Result<Arc<Image>> {
        let name = &self.config.sandbox_image;
        match self.images.resolve(cx, name).await? {
            Some(image) => Ok(image),
            None => self
                .images
                .pull(cx, name, None)
                .await
                .map_err(|e| e.context(format_args!("failed to get sandbox image {name:?}"))),
        }
    }

    /// The user of the pause process: the pod's, or else the image's, or else root.
    async fn sandbox_user(
        &self,
        cx: &Cx,
        config: &PodSandboxConfig,
        image: &Image,
    ) -> Result<(u32, u32)> {
        let context = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        let user = context.and_then(|c| c.run_as_user).map(|uid| uid.value);
        let group = context.and_then(|c| c.run_as_group).map(|gid| gid.value);
        let text = match (user, group) {
            (Some(user), Some(group)) => format!("{user}:{group}"),
            (Some(user), None) => user.to_string(),
            (None, Some(group)) => {
                return Err(HopError::invalid(format!(
                    "user group \"{group}\" is specified without user"
                )));
            }
            (None, None) => image.config.user().clone().unwrap_or_default(),
        };
        let numbers = text.split_once(':').map(|(user, group)| (user.parse(), group.parse()));
        match numbers {
            _ if text.is_empty() => Ok((0, 0)),
            Some((Ok(user), Ok(group))) => Ok((user, group)),
            _ => self.images.accounts(cx, image).await?.resolve(&text),
        }
    }

    /// Has containerd keep a container and make its root filesystem. The container comes first: it
    /// holds the snapshot against the garbage collection before there is one.
    ///
    /// # Errors
    /// Those of containerd. What was made of it stays for the caller to take back.
    pub(crate) async fn allocate(&self, cx: &Cx, of: Allocation<'_>) -> Result<Vec<Mount>> {
        let image_labels = of.image.config.labels().iter().flatten();
        let valid = |key: &str, value: &str| key.len() + value.len() <= 4096;
        let mut labels: HashMap<String, String> = image_labels
            .filter(|(key, value)| valid(key, value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        labels.extend(of.labels.clone());
        labels.insert(KIND_LABEL.to_owned(), of.kind.to_owned());
        let snapshotter = self.config.snapshotter.clone();
        let contained = Contained {
            id: of.id.to_owned(),
            labels,
            image: of.image_name,
            runtime: Some(Runtime { name: of.runtime, options: None }),
            spec: Some(of.spec),
            snapshotter: snapshotter.clone(),
            snapshot_key: of.id.to_owned(),
            extensions: of.extensions,
            ..Contained::default()
        };
        let create = CreateContained { container: Some(contained) };
        let failed = |e: HopError| e.context("failed to create containerd container");
        self.containerd.call(cx, create).await.map_err(failed)?;
        let prepare = PrepareSnapshotRequest {
            snapshotter,
            key: of.id.to_owned(),
            parent: of.image.chain.clone(),
            ..PrepareSnapshotRequest::default()
        };
        match self.containerd.call(cx, prepare.clone()).await {
            Err(error) if error.is_not_found() => {
                self.images.unpack(cx, of.image).await.map_err(failed)?;
                Ok(self.containerd.call(cx, prepare).await.map_err(failed)?.mounts)
            }
            prepared => Ok(prepared.map_err(failed)?.mounts),
        }
    }
}

/// Writes the files that every container of a pod sees.
fn write_files(dir: &Path, config: &PodSandboxConfig, node: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let hostname = if config.hostname.is_empty() { node } else { &config.hostname };
    fs::write(dir.join("hostname"), format!("{hostname}\n"))?;
    fs::write(dir.join("hosts"), of_host("/etc/hosts")?)?;
    let resolv = match &config.dns_config {
        Some(dns) => resolv_conf(dns).into_bytes(),
        None => of_host("/etc/resolv.conf")?,
    };
    fs::write(dir.join("resolv.conf"), resolv)
}

/// A file of the host; empty where there is none.
fn of_host(path: &str) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

fn mount_shm(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let data = format!("mode=1777,size={SHM_BYTES}");
    Ok(mount(Some("shm"), path, Some("tmpfs"), flags, Some(data.as_str()))?)
}

/// Unmounts a sandbox's `/dev/shm`, where it is mounted.
pub(crate) fn unmount_shm(state: &Path) -> io::Result<()> {
    use nix::errno::Errno;
    match umount2(&state.join("shm"), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The addresses of a pod's own interface, the first of them first.
pub(crate) fn addresses(network: Option<&Attached>) -> Vec<String> {
    let Some(network) = network else { return Vec::new() };
    let in_pod = |at: Option<usize>| {
        let interface = at.and_then(|at| network.interfaces.get(at));
        interface.is_none_or(|interface| !interface.sandbox.is_empty())
    };
    let ips = network.ips.iter().filter(|ip| in_pod(ip.interface));
    ips.map(|ip| ip.address.split('/').next().unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use hops::cni::{Interface, Ip};

    use super::*;

    #[test]
    fn name_service_is_written_as_the_resolver_reads_it() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let dns = DnsConfig {
            servers: list(&["10.0.0.10", "8.8.8.8"]),
            searches: list(&["svc.cluster.local", "cluster.local"]),
            options: list(&["ndots:5"]),
        };
        let text = "search svc.cluster.local cluster.local\nnameserver 10.0.0.10\n\
                    nameserver 8.8.8.8\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), text);
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }

    #[test]
    fn a_pods_addresses_are_those_of_its_own_interface() {
        let interface = |sandbox: &str| Interface { sandbox: sandbox.into(), ..Default::default() };
        let ip = |address: &str, interface| Ip {
            address: address.into(),
            interface,
            ..Default::default()
        };
        let network = Attached {
            interfaces: vec![interface(""), interface("/run/netns/x")],
            ips: vec![ip("10.0.0.1/16", Some(0)), ip("10.0.0.2/16", Some(1)), ip("fd::2/64", None)],
            ..Default::default()
        };
        assert_eq!(addresses(Some(&network)), ["10.0.0.2", "fd::2"]);
        assert!(addresses(None).is_empty());
    }
}
