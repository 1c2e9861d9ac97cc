//! `POST /containers/{id}/start`: network, files, streams, and then the task.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Kind, Result,
    docker::{Changed, ContainerStart, Request, models::HostConfig},
    proto::{
        Any,
        containerd::services::{
            containers::v1::{
                Container as Stored, CreateContainerRequest, DeleteContainerRequest,
                container::Runtime,
            },
            tasks::v1::{CloseIoRequest, CreateTaskRequest, DeleteTaskRequest, StartRequest},
        },
    },
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Engine, conflict, container::Container, lock};
use crate::{
    network,
    record::{Endpoint, Phase, Record},
    spec::{self, Surroundings, rootfs},
    stdio::{
        log::{Keeping, Writer},
        pump::{Ends, Paths, feed, pump},
    },
    time,
};

/// The type of a container's specification, as containerd's clients name it.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

#[async_trait]
impl Handle<Request<ContainerStart>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ContainerStart>) -> Result<Changed> {
        let container = self.find(&call.id)?;
        let turn = container.turn.lock().await;
        match container.phase() {
            Phase::Paused => {
                return Err(conflict("cannot start a paused container, try unpause instead"));
            }
            Phase::Running => return Ok(Changed(false)),
            Phase::Removing | Phase::Dead => {
                return Err(conflict("container is marked for removal and cannot be started"));
            }
            _ => {}
        }
        let started = self.start(cx, &container).await;
        if started.is_err() && container.look(|r| r.host.auto_remove) == Some(true) {
            drop(turn);
            let engine = self.clone();
            // The caller may hang up on the error; the removal goes on.
            let removal = tokio::spawn(async move {
                engine.remove(&engine.background(), &container, true, true).await
            });
            let _ = removal.await;
        }
        started?;
        Ok(Changed(true))
    }
}

/// What a start has made, to be undone when it fails.
struct Joined {
    netns: Option<PathBuf>,
    ipcns: Option<PathBuf>,
    pidns: Option<PathBuf>,
    shm: Option<PathBuf>,
    /// Where hosts, hostname and resolv.conf are.
    files: PathBuf,
    hostname: String,
}

impl Engine {
    /// Starts a container whose turn the caller holds.
    pub(super) async fn start(&self, cx: &Cx, container: &Arc<Container>) -> Result<()> {
        let named = self.named(cx);
        let failed = match self.launch(&named, container).await {
            Ok(pid) => {
                container.note(|r| {
                    r.state = crate::record::State {
                        phase: Phase::Running,
                        pid: i64::from(pid),
                        started: time::now(),
                        finished: r.state.finished,
                        ..Default::default()
                    };
                    r.stopped_by_hand = false;
                });
                container.life.send_modify(|life| {
                    life.runs = true;
                    life.error.clear();
                });
                self.tell(container, "start", &[]);
                return Ok(());
            }
            Err(error) => error,
        };
        let program = container.look(|r| r.args.first().cloned()).unwrap_or_default();
        let (code, error) = exit_code_of(&program, failed);
        if let Some(pump) = lock(&container.pump).take() {
            pump.abort();
        }
        container.hub.end();
        self.clean_up(&named, container).await;
        container.note(|r| {
            r.state.phase = if r.state.started == 0 { Phase::Created } else { Phase::Exited };
            r.state.pid = 0;
            r.state.exit_code = code;
            r.state.error = error.message.clone();
        });
        container.life.send_modify(|life| {
            life.runs = false;
            life.exits += 1;
            life.exit_code = code;
            life.error = error.message.clone();
        });
        Err(error)
    }

    async fn launch(&self, cx: &Cx, container: &Arc<Container>) -> Result<u32> {
        let mut record = container.record();
        let joined = self.join(cx, container, &record).await?;
        let mounts: Vec<_> = record.rootfs.iter().map(Into::into).collect();
        let layers = rootfs::layers(&mounts);
        make_bind_sources(&record)?;
        let spec = spec::build(
            &record,
            &Surroundings {
                files: &joined.files,
                netns: joined.netns,
                ipcns: joined.ipcns,
                pidns: joined.pidns,
                shm: joined.shm,
                cgroup_parent: &self.config.cgroup_parent,
                cgroups: self.cgroups,
                layers: &layers,
                hostname: &joined.hostname,
            },
        )?;
        if record.in_containerd {
            // A new specification: the container's surroundings are others than the last time.
            let delete = DeleteContainerRequest { id: container.id.clone() };
            ignore_missing(self.containerd.handle(cx, delete).await)?;
        }
        let create = CreateContainerRequest {
            container: Some(Stored {
                id: container.id.clone(),
                image: record.config.image.take().unwrap_or_default(),
                runtime: Some(Runtime { name: self.config.runtime.clone(), options: None }),
                spec: Some(Any {
                    type_url: SPEC_TYPE.to_owned(),
                    value: spec.to_string().into_bytes(),
                }),
                snapshotter: self.config.snapshotter.clone(),
                snapshot_key: container.id.clone(),
                ..Stored::default()
            }),
        };
        self.containerd.handle(cx, create).await?;
        container.set(|r| r.in_containerd = true);

        let paths = self.streams(container);
        paths.remove();
        paths.make()?;
        let ends = paths.open()?;
        let task = CreateTaskRequest {
            container_id: container.id.clone(),
            rootfs: mounts,
            stdin: Paths::text(&paths.stdin),
            stdout: Paths::text(&paths.stdout),
            stderr: Paths::text(&paths.stderr),
            terminal: record.tty(),
            ..CreateTaskRequest::default()
        };
        let pid = self.containerd.handle(cx, task).await?.pid;
        // From here on the streams are the process's own: what the runtime wrote into them when
        // it failed is in its error.
        let carried = self.carry(container, ends);
        // Known before the start: an exit that comes at once is this process's.
        container.note(|r| r.state.pid = i64::from(pid));
        let start = StartRequest { container_id: container.id.clone(), ..Default::default() };
        let started = match carried {
            Ok(()) => self.containerd.handle(cx, start).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            let delete = DeleteTaskRequest { container_id: container.id.clone() };
            let _ = self.containerd.handle(cx, delete).await;
            return Err(error);
        }
        self.feed(container, &paths);
        Ok(pid)
    }

    /// The fifos of a container's process.
    pub(super) fn streams(&self, container: &Container) -> Paths {
        let (stdin, tty) = container.look(|r| (r.config.open_stdin == Some(true), r.tty()));
        Paths::of(&self.io_dir(), &container.id, stdin, tty)
    }

    /// Starts to empty the fifos.
    ///
    /// # Errors
    /// Those of opening the log.
    pub(super) fn carry(&self, container: &Arc<Container>, ends: Ends) -> Result<()> {
        let keeping = container.look(|r| Keeping::of(r.host.log_config.as_ref()))?;
        let log = Writer::open(&container.log_path(), keeping, container.log.clone())?;
        let task = tokio::spawn(pump(ends, Some(log), container.hub.clone()));
        *lock(&container.pump) = Some(task);
        Ok(())
    }

    /// Starts to feed the process's input, which has to have been opened by its other side: what
    /// is written into a fifo that nobody holds is lost.
    pub(super) fn feed(&self, container: &Arc<Container>, paths: &Paths) {
        if let (Some(path), Some(input)) = (paths.stdin.clone(), container.hub.take_input()) {
            let (engine, id) = (self.clone(), container.id.clone());
            let close = move || -> futures_util::future::BoxFuture<'static, ()> {
                Box::pin(async move {
                    let request =
                        CloseIoRequest { container_id: id, stdin: true, ..Default::default() };
                    let _ = engine.containerd.handle(&engine.background(), request).await;
                })
            };
            tokio::spawn(feed(path, input, close));
        }
    }

    /// Makes or finds the namespaces that the container is to stand in, and its files.
    async fn join(&self, cx: &Cx, container: &Arc<Container>, record: &Record) -> Result<Joined> {
        let mut joined = Joined {
            netns: None,
            ipcns: None,
            pidns: None,
            shm: None,
            files: container.dir.clone(),
            hostname: record.config.hostname.clone().unwrap_or_default(),
        };
        let mode = record.network_mode().to_owned();
        let mut endpoint = None;
        if let Some(other) = mode.strip_prefix("container:") {
            let other = self.running(other, "network")?;
            joined.netns = Some(proc_ns(&other, "net"));
            joined.files = other.dir.clone();
            joined.hostname = other.look(|r| r.config.hostname.clone()).unwrap_or(joined.hostname);
            container.set(|r| r.network_of = Some(other.id.clone()));
        } else if !["host", "none"].contains(&mode.as_str()) {
            endpoint = Some(self.connect(cx, container, record, &mode).await?);
        }
        if let Some(other) = shared(&record.host.ipc_mode) {
            let other = self.running(other, "IPC")?;
            if !matches!(
                other.look(|r| r.host.ipc_mode.clone()).as_deref(),
                Some("shareable" | "host")
            ) {
                return Err(HopError::new(
                    Kind::Internal,
                    format!(
                        "cannot join IPC of a non-shareable container {}: shm mount is missing",
                        other.id
                    ),
                ));
            }
            joined.ipcns = Some(proc_ns(&other, "ipc"));
            joined.shm = other.look(|r| r.shm.clone()).or_else(|| Some("/dev/shm".into()));
        } else if record.host.ipc_mode.as_deref() == Some("host") {
            joined.shm = Some("/dev/shm".into());
        } else if record.host.ipc_mode.as_deref() == Some("shareable") {
            let dir = self.make_shm(container, &record.host)?;
            container.set(|r| r.shm = Some(dir.clone()));
            joined.shm = Some(dir);
        }
        if let Some(other) = shared(&record.host.pid_mode) {
            joined.pidns = Some(proc_ns(self.running(other, "PID")?.as_ref(), "pid"));
        }
        if joined.files == container.dir {
            network::files::write(&container.dir, record, endpoint.as_ref(), &joined.hostname)?;
        }
        joined.netns = joined.netns.or_else(|| endpoint.map(|e| e.netns));
        Ok(joined)
    }

    /// The container whose namespace is to be shared, which has to run.
    fn running(&self, name: &str, namespace: &str) -> Result<Arc<Container>> {
        let other = self.find(name)?;
        if !other.phase().runs() {
            return Err(conflict(format!(
                "cannot join {namespace} of a non running container: {}",
                other.id
            )));
        }
        Ok(other)
    }

    /// A tmpfs of the container's own that others can mount as well.
    fn make_shm(&self, container: &Container, host: &HostConfig) -> Result<PathBuf> {
        let dir = container.dir.join("mounts/shm");
        fs::create_dir_all(&dir)?;
        let options = format!("mode=1777,size={}", host.shm_size.unwrap_or(64 << 20));
        let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("shm"), &dir, Some("tmpfs"), flags, Some(options.as_str()))
            .map_err(|e| HopError::internal(format!("mounting shm tmpfs: {e}")))?;
        Ok(dir)
    }

    /// Undoes what a start made outside containerd's task. What is gone already is no failure.
    pub(super) async fn clean_up(&self, cx: &Cx, container: &Container) {
        if let Some(endpoint) = container.look(|r| r.network.clone()) {
            self.disconnect(cx, container, &endpoint).await;
        }
        if let Some(dir) = container.look(|r| r.shm.clone()) {
            let _ = umount2(&dir, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        }
        self.streams(container).remove();
        container.set(|r| {
            r.network = None;
            r.network_of = None;
            r.shm = None;
        });
    }

    /// Makes the container's network namespace and attaches it to the network `bridge`.
    async fn connect(
        &self,
        cx: &Cx,
        container: &Arc<Container>,
        record: &Record,
        mode: &str,
    ) -> Result<Endpoint> {
        if mode != "bridge" {
            return Err(HopError::not_found(format!("network {mode} not found")));
        }
        let (Some(cni), Some(bridge)) = (&self.cni, &self.config.bridge) else {
            return Err(HopError::not_found("network bridge not found"));
        };
        let dir = self.config.exec_root.join("netns");
        let endpoint =
            network::bridge::attach(cni, cx, bridge, &dir, record, container.id.as_str()).await?;
        container.set(|r| r.network = Some(endpoint.clone()));
        Ok(endpoint)
    }

    async fn disconnect(&self, cx: &Cx, container: &Container, endpoint: &Endpoint) {
        if let (Some(cni), Some(bridge)) = (&self.cni, &self.config.bridge) {
            let record = container.record();
            if let Err(error) = network::bridge::detach(cni, cx, bridge, &record, endpoint).await {
                tracing::warn!(container = container.id, %error, "network");
            }
        }
    }
}

/// The other container in `container:<name>`.
fn shared(mode: &Option<String>) -> Option<&str> {
    mode.as_deref()?.strip_prefix("container:")
}

fn proc_ns(container: &Container, kind: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/{kind}", container.look(|r| r.state.pid)))
}

/// Makes the host directories that `-v` names and that are not there, as Docker does.
fn make_bind_sources(record: &Record) -> Result<()> {
    for point in record.mounts.iter().filter(|p| p.typ.as_deref() == Some("bind")) {
        if let Some(source) = point.source.as_deref()
            && !Path::new(source).exists()
        {
            fs::create_dir_all(source).map_err(|e| {
                HopError::invalid(format!("error while creating mount source path '{source}': {e}"))
            })?;
        }
    }
    Ok(())
}

/// Success where something was missing that was to be removed.
pub(super) fn ignore_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The exit code of a container that did not start, and the error as dockerd gives it
/// (`translateContainerdStartErr` of 20.10): what the runtime said stays as it is.
pub(super) fn exit_code_of(program: &str, mut error: HopError) -> (i64, HopError) {
    let words = error.message.to_lowercase();
    let missing = ["executable file not found", "no such file or directory"];
    let (code, invalid) = if words.contains("not a directory") {
        error.message += ": Are you trying to mount a directory onto a file (or vice-versa)? Check \
                          if the specified host path exists and is the expected type";
        (127, true)
    } else if words.contains("permission denied") {
        (126, true)
    } else if error.message.contains(program) && missing.iter().any(|m| words.contains(m)) {
        (127, true)
    } else {
        (128, false)
    };
    if invalid {
        error.kind = Kind::InvalidArgument;
    }
    (code, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_dockerd() {
        let of = |words: &str| exit_code_of("prog", HopError::new(Kind::Unknown, words)).0;
        assert_eq!(of("exec: \"prog\": executable file not found in $PATH: unknown"), 127);
        assert_eq!(of("exec: \"prog\": stat prog: no such file or directory"), 127);
        assert_eq!(of("exec: \"/x\": permission denied: unknown"), 126);
        assert_eq!(of("mount x: not a directory"), 127);
        assert_eq!(of("something else"), 128);
    }
}
