//! Containers: made in a sandbox, and started.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use hops::{
    Cx, HopError, Kind, Result,
    proto::{
        containerd::{services::snapshots::v1::MountsRequest, types::Mount},
        runtime::v1::{
            ContainerConfig, ContainerEventType, CreateContainerRequest, CreateContainerResponse,
            Mount as Wanted, NamespaceMode, StartContainerRequest, StartContainerResponse,
        },
    },
};
use oci_spec::runtime::Process;

use super::{
    Core,
    sandbox::{Allocation, Sandbox},
    task::{Life, Task},
};
use crate::{
    image::lock,
    io::{
        Fifos, Pump,
        log::{Discard, Lines, Log, Stream},
        reader, writer,
    },
    names::{container_name, now, random_id},
    record::{ContainerRecord, Exit, Proto, Record, extension},
    spec::{container::Plan, mounts::clean, spec_any, volumes},
};

/// A container.
pub(crate) struct Container {
    record: RwLock<Arc<ContainerRecord>>,
    pub(crate) task: Arc<Task>,
    /// Its first process, from which further ones are made.
    pub(crate) process: Option<Process>,
    /// Its root filesystem; after a restart it is asked for.
    rootfs: Mutex<Vec<Mount>>,
    /// Where its output goes, while it runs.
    pub(crate) log: Mutex<Option<Arc<Log>>>,
    /// Holds its input open.
    stdin: Mutex<Option<std::fs::File>>,
}

impl Container {
    pub(crate) fn new(
        record: ContainerRecord,
        task: Arc<Task>,
        process: Option<Process>,
        rootfs: Vec<Mount>,
    ) -> Arc<Container> {
        Arc::new(Container {
            record: RwLock::new(Arc::new(record)),
            task,
            process,
            rootfs: Mutex::new(rootfs),
            log: Mutex::default(),
            stdin: Mutex::default(),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.task.id
    }

    pub(crate) fn record(&self) -> Arc<ContainerRecord> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_record(&self, record: ContainerRecord) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
    }

    /// containerd's error for a container that must be running.
    pub(crate) fn expect_running(&self) -> Result<()> {
        let life = self.task.life();
        if life.running() {
            return Ok(());
        }
        let state = super::status::state_of(&life).as_str_name();
        Err(HopError::new(
            Kind::FailedPrecondition,
            format!("container is in {state} state, not running"),
        ))
    }
}

impl Core {
    /// The container `id`.
    ///
    /// # Errors
    /// `NotFound` in containerd's words.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.containers.get(id).map_err(|e| {
            e.context(format_args!("an error occurred when try to find container {id:?}"))
        })
    }

    pub(crate) async fn create_container(
        self: &Arc<Self>,
        cx: &Cx,
        op: CreateContainerRequest,
    ) -> Result<CreateContainerResponse> {
        let sandbox = self.sandboxes.get(&op.pod_sandbox_id).map_err(|e| {
            e.context(format_args!("failed to find sandbox id {:?}", op.pod_sandbox_id))
        })?;
        if !sandbox.ready() {
            return Err(HopError::not_found(format!(
                "failed to get sandbox container task: no running task found: task {} not found: not found",
                sandbox.id()
            )));
        }
        let config =
            op.config.ok_or_else(|| HopError::invalid("create container: config is missing"))?;
        let Some(metadata) = &config.metadata else {
            return Err(HopError::invalid("container config must include metadata"));
        };
        let pod = sandbox.record.config.metadata.clone().unwrap_or_default();
        let (id, name) = (random_id()?, container_name(metadata, &pod));
        self.names.reserve("container", &name, &id)?;
        let made = self.make(cx, &sandbox, &id, &name, config).await;
        let container = match made {
            Ok(container) => container,
            Err(error) => {
                if let Err(error) = self.erase(&cx.detached(), &id).await {
                    tracing::warn!(%error, id, "a container that was not made is not all gone");
                }
                self.names.release(&name, &id);
                return Err(error);
            }
        };
        self.containers.insert(&id, container);
        self.happened(&id, ContainerEventType::ContainerCreatedEvent);
        Ok(CreateContainerResponse { container_id: id })
    }

    async fn make(
        self: &Arc<Self>,
        cx: &Cx,
        sandbox: &Sandbox,
        id: &str,
        name: &str,
        config: ContainerConfig,
    ) -> Result<Arc<Container>> {
        let wanted = config.image.clone().unwrap_or_default().image;
        let image = self
            .images
            .resolve(cx, &wanted)
            .await
            .and_then(|image| image.ok_or_else(|| HopError::not_found("not found")))
            .map_err(|e| e.context(format_args!("failed to resolve image {wanted:?}")))?;
        let root = self.config.container_root(id);
        std::fs::create_dir_all(&root)
            .map_err(|e| HopError::from(e).context("failed to create container root directory"))?;
        let declared = image.config.volumes().clone().unwrap_or_default();
        let volumes_root = root.join("volumes");
        let image_volumes = volumes::make(&volumes_root, &declared, &config.mounts)?;
        let mut extra = self.sandbox_mounts(sandbox, &config);
        extra.extend(image_volumes.iter().cloned());
        let accounts = self.images.accounts(cx, &image).await?;
        let sandbox_pid = sandbox.task.life().pid;
        let mut spec = crate::spec::container::spec(Plan {
            id,
            config: &config,
            sandbox_id: sandbox.id(),
            sandbox: &sandbox.record.config,
            sandbox_pid,
            target_pid: self.target_pid(sandbox, &config)?,
            image: &image,
            accounts: &accounts,
            extra,
            node: &self.node,
        })
        .map_err(|e| e.context(format_args!("failed to generate container {id:?} spec")))?;
        if self.config.disable_cgroup {
            crate::spec::without_cgroups(&mut spec);
        }
        let directory = &sandbox.record.config.log_directory;
        let log_path = match (directory.as_str(), config.log_path.as_str()) {
            ("", _) | (_, "") => String::new(),
            (directory, path) => clean(&format!("{directory}/{path}")).display().to_string(),
        };
        let record = ContainerRecord {
            id: id.to_owned(),
            name: name.to_owned(),
            sandbox_id: sandbox.id().to_owned(),
            config: Proto(config),
            image_ref: image.id.clone(),
            log_path,
            stop_signal: image.config.stop_signal().clone().unwrap_or_default(),
            created_at: now(),
        };
        let handler = &sandbox.record.runtime_handler;
        let allocation = Allocation {
            id,
            image_name: wanted,
            image: &image,
            runtime: self.config.runtime_of(handler).unwrap_or(&self.config.runtime).to_owned(),
            spec: spec_any(&spec)?,
            extensions: extension(&record)?,
            kind: ContainerRecord::KIND,
            labels: &record.config.labels,
        };
        let rootfs = self.allocate(cx, allocation).await?;
        volumes::fill(&volumes_root, &image_volumes, &rootfs)?;
        let task = Task::new(id, Some(root), Life::default());
        let process = spec.process().clone();
        Ok(Container::new(record, task, process, rootfs))
    }

    /// The sandbox's files and shared memory, as mounts.
    fn sandbox_mounts(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Vec<Wanted> {
        let files = self.config.sandbox_state(sandbox.id());
        let linux = config.linux.as_ref();
        let context = linux.and_then(|l| l.security_context.as_ref());
        let readonly = context.is_some_and(|c| c.readonly_rootfs);
        let file = |name: &str| {
            let from = files.join(name);
            from.exists().then(|| Wanted {
                container_path: format!("/etc/{name}"),
                host_path: from.display().to_string(),
                readonly,
                ..Wanted::default()
            })
        };
        let shm = match sandbox.host().ipc {
            true => "/dev/shm".into(),
            false => self.config.sandbox_state(sandbox.id()).join("shm"),
        };
        let shm = Wanted {
            container_path: "/dev/shm".to_owned(),
            host_path: shm.display().to_string(),
            ..Wanted::default()
        };
        let mut mounts: Vec<_> =
            ["hostname", "hosts", "resolv.conf"].into_iter().filter_map(file).collect();
        mounts.push(shm);
        mounts
    }

    /// The process whose pid namespace the container wants to be in, where it names one.
    fn target_pid(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<u32>> {
        let linux = config.linux.as_ref();
        let context = linux.and_then(|l| l.security_context.as_ref());
        let Some(options) = context.and_then(|c| c.namespace_options.as_ref()) else {
            return Ok(None);
        };
        if options.pid() != NamespaceMode::Target {
            return Ok(None);
        }
        let id = &options.target_id;
        let invalid = |why: String| HopError::invalid(format!("invalid target container: {why}"));
        let target = self.container(id).map_err(|e| invalid(e.message))?;
        if target.record().sandbox_id != sandbox.id() {
            return Err(invalid(format!(
                "container {id:?} does not belong to sandbox {:?}",
                sandbox.id()
            )));
        }
        target.expect_running().map_err(|e| invalid(e.message))?;
        Ok(Some(target.task.life().pid))
    }

    pub(crate) async fn start_container(
        self: &Arc<Self>,
        cx: &Cx,
        op: StartContainerRequest,
    ) -> Result<StartContainerResponse> {
        let container = self.container(&op.container_id)?;
        let task = &container.task;
        let turn = task.turn.lock().await;
        let life = task.life();
        if life.started_at > 0 || life.exit.is_some() {
            return Err(HopError::new(
                Kind::FailedPrecondition,
                format!(
                    "failed to set starting state for container {:?}: container is in {} state",
                    container.id(),
                    super::status::state_of(&life).as_str_name()
                ),
            ));
        }
        let record = container.record();
        let sandbox = self
            .sandboxes
            .get(&record.sandbox_id)
            .map_err(|e| e.context(format_args!("sandbox {:?} not found", record.sandbox_id)))?;
        if !sandbox.ready() {
            return Err(HopError::new(
                Kind::FailedPrecondition,
                format!("sandbox container {:?} is not running", sandbox.id()),
            ));
        }
        let started = self.start_with_streams(cx, &container, &record).await;
        if let Err(error) = started {
            let pump = lock(&task.pump).take();
            if let Some(pump) = pump {
                pump.finish().await;
            }
            task.life.send_modify(|life| {
                life.pid = 0;
                life.exit = Some(Exit::start_error(error.message.clone()));
            });
            task.keep();
            return Err(error);
        }
        task.keep();
        drop(turn);
        self.happened(container.id(), ContainerEventType::ContainerStartedEvent);
        Ok(StartContainerResponse {})
    }

    async fn start_with_streams(
        &self,
        cx: &Cx,
        container: &Container,
        record: &ContainerRecord,
    ) -> Result<()> {
        let fifos = self.fifos(record);
        fifos
            .make()
            .and_then(|()| self.open_streams(container, record, &fifos))
            .map_err(|e| HopError::from(e).context("failed to create container io"))?;
        let mut rootfs = std::mem::take(&mut *lock(&container.rootfs));
        if rootfs.is_empty() {
            let mounts = MountsRequest {
                snapshotter: self.config.snapshotter.clone(),
                key: record.id.clone(),
            };
            rootfs = self.containerd.call(cx, mounts).await?.mounts;
        }
        self.start(cx, &container.task, rootfs, &fifos, record.config.tty).await
    }

    fn fifos(&self, record: &ContainerRecord) -> Fifos {
        let dir = self.config.container_state(&record.id).join("io");
        Fifos::of(&dir, &record.id, record.config.stdin, record.config.tty)
    }

    /// Opens a container's log and begins to copy its output there.
    ///
    /// # Errors
    /// Those of opening the log and the fifos.
    pub(crate) fn open_streams(
        &self,
        container: &Container,
        record: &ContainerRecord,
        fifos: &Fifos,
    ) -> std::io::Result<()> {
        let log = match record.log_path.as_str() {
            "" => None,
            path => Some(Arc::new(Log::open(Path::new(path))?)),
        };
        let mut pump = Pump::new();
        let streams = [(&fifos.stdout, Stream::Stdout), (&fifos.stderr, Stream::Stderr)];
        for (path, stream) in streams {
            let Some(path) = path else { continue };
            match &log {
                Some(log) => pump.add(reader(path)?, Lines::new(stream, log.clone()))?,
                None => pump.add(reader(path)?, Discard)?,
            }
        }
        if let Some(path) = &fifos.stdin {
            *lock(&container.stdin) = Some(writer(path)?);
        }
        *lock(&container.log) = log;
        *lock(&container.task.pump) = Some(pump);
        Ok(())
    }

    /// The streams of a container that was running when this engine was opened.
    ///
    /// # Errors
    /// As [`Core::open_streams`].
    pub(crate) fn reopen_streams(&self, container: &Container) -> std::io::Result<()> {
        let record = container.record();
        let fifos = self.fifos(&record);
        fifos.make()?;
        self.open_streams(container, &record, &fifos)
    }
}
