//! A sandbox: the group of containers that a shim has, when containerd makes it one by the service
//! `containerd.runtime.sandbox.v1.Sandbox` (containerd 1.7, docs/sandbox-api.md in 2.x).
//!
//! The real shim's answer to it was the `pause` plugin of containerd 1.7, which kept nothing and
//! answered every call with success. This one keeps what it was told: a network that the shim
//! enters, so that members without a network namespace of their own are in it; a process
//! ([`Pause`]) whose other namespaces members can enter; and an end, which is waited for. States
//! are named as containerd's CRI and its shim conformance suite (containerd/shimtest) name them.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use hops::{
    HopError, Kind, Result,
    proto::{
        Timestamp,
        containerd::runtime::sandbox::v1::{
            CreateSandboxRequest, SandboxStatusResponse, StartSandboxResponse,
        },
    },
};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, raise},
};

use super::{
    logger,
    pause::Pause,
    process::Exit,
    rootfs::{self, Rootfs},
};

const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// The shim's one sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    id: String,
    created_at: Option<Timestamp>,
    network: Option<Network>,
    /// Where its root filesystem is mounted, if it was given one.
    rootfs: Option<PathBuf>,
    process: Option<Pause>,
    /// Set once; shared with those who wait for it.
    exit: Arc<OnceLock<Exit>>,
    stop: Option<Stop>,
}

/// A stop that is under way.
#[derive(Clone, Copy, Debug)]
struct Stop {
    /// When the members that still run are killed.
    deadline: Instant,
    /// Whether they have been.
    killed: bool,
}

/// What is next in a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To wait for the members that run.
    Wait,
    /// To kill them.
    Kill,
    /// To end the sandbox itself.
    End,
}

/// The network that the shim is in on behalf of the sandbox.
#[derive(Debug)]
struct Network {
    path: String,
    /// The shim's own.
    home: File,
}

impl Network {
    /// Enters the network namespace at `path`.
    ///
    /// # Errors
    /// When it cannot be opened or entered, or is none.
    fn enter(path: String) -> Result<Network> {
        let context = |e: io::Error| {
            HopError::from(e).context(format_args!("failed to enter network namespace {path:?}"))
        };
        let home = File::open("/proc/self/ns/net").map_err(context)?;
        let sandbox = File::open(&path).map_err(context)?;
        setns(&sandbox, CloneFlags::CLONE_NEWNET).map_err(|e| context(e.into()))?;
        Ok(Network { path, home })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A namespace that the shim stayed in could not go with the sandbox.
        if let Err(error) = setns(&self.home, CloneFlags::CLONE_NEWNET) {
            logger::warn(format_args!("leaving the sandbox's network: {error}"));
        }
    }
}

impl Sandbox {
    /// Makes the sandbox, which does not run yet. Of the request's options and annotations the
    /// sandbox has no use, as in containerd 1.7.
    ///
    /// # Errors
    /// Those of mounting its root filesystem and of entering its network.
    pub(super) fn create(op: CreateSandboxRequest) -> Result<Sandbox> {
        if op.sandbox_id.is_empty() {
            return Err(HopError::invalid("sandbox id must not be empty: invalid argument"));
        }
        let rootfs = Rootfs::mount(Path::new(&op.bundle_path), &op.rootfs)?;
        let network = Some(op.netns_path).filter(|path| !path.is_empty());
        let network = network.map(Network::enter).transpose()?;
        Ok(Sandbox {
            id: op.sandbox_id,
            created_at: Some(SystemTime::now().into()),
            network,
            rootfs: rootfs.map(Rootfs::keep),
            process: None,
            exit: Arc::default(),
            stop: None,
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whether something may be begun in it.
    ///
    /// # Errors
    /// `FailedPrecondition` once it has ended or is to.
    pub(super) fn admit(&self) -> Result<()> {
        if self.exit.get().is_none() && self.stop.is_none() {
            return Ok(());
        }
        let words = format!("sandbox {} is stopped: failed precondition", self.id);
        Err(HopError::new(Kind::FailedPrecondition, words))
    }

    /// Starts it; one that runs already is answered for again.
    ///
    /// # Errors
    /// Those of [`Sandbox::admit`] and [`Pause::start`].
    pub(super) fn start(&mut self) -> Result<StartSandboxResponse> {
        self.admit()?;
        let process = match self.process.take() {
            Some(process) => process,
            None => Pause::start()?,
        };
        let pid = self.process.insert(process).pid();
        Ok(StartSandboxResponse { pid, created_at: self.created_at, spec: None })
    }

    /// What it is now, in words as well when it is to be `verbose`.
    pub(super) fn status(&self, verbose: bool) -> SandboxStatusResponse {
        let pid = self.pid();
        let state = if pid == 0 || self.stop.is_some() { NOT_READY } else { READY };
        let mut status = SandboxStatusResponse {
            sandbox_id: self.id.clone(),
            pid,
            state: state.to_owned(),
            created_at: self.created_at,
            exited_at: self.exit.get().and_then(|exit| exit.at),
            ..Default::default()
        };
        if verbose {
            status.info.insert("pid".into(), pid.to_string());
            status.info.insert("state".into(), state.into());
            let network = self.network.as_ref().map(|network| network.path.clone());
            status.info.extend(network.map(|path| ("networkSandboxPath".into(), path)));
        }
        status
    }

    /// The pid of its process; 0 when it does not run.
    pub(super) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Pause::pid)
    }

    /// Its end, shared with whoever waits for it.
    pub(super) fn exit(&self) -> Arc<OnceLock<Exit>> {
        self.exit.clone()
    }

    /// Begins to stop it, with `timeout` for its members. A stop that is under way is not put off.
    pub(super) fn stop(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let stop = self.stop.get_or_insert(Stop { deadline, killed: false });
        stop.deadline = stop.deadline.min(deadline);
    }

    /// What is next in its stop, given whether a member still runs; `None` when it is not stopping.
    pub(super) fn next(&mut self, has_members: bool) -> Option<Next> {
        let stop = self.stop.as_mut()?;
        if !has_members {
            return Some(Next::End);
        }
        if stop.killed || Instant::now() < stop.deadline {
            return Some(Next::Wait);
        }
        stop.killed = true;
        Some(Next::Kill)
    }

    /// When [`Sandbox::next`] has to be asked although nothing has happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stop.filter(|stop| !stop.killed).map(|stop| stop.deadline)
    }

    /// Ends its process; one that was never started is over at once.
    pub(super) fn end(&mut self) {
        match &self.process {
            Some(process) => {
                if let Err(error) = process.kill() {
                    logger::warn(format_args!("killing the sandbox {}: {error}", self.id));
                }
            }
            None if self.exit.get().is_none() => {
                self.exited(0);
                // Who waits is looked after when a process ends, and here there was none.
                let _ = raise(Signal::SIGCHLD);
            }
            None => {}
        }
    }

    /// Notes that the child `pid` has ended with `status`: whether it was the sandbox's process.
    pub(super) fn reaped(&mut self, pid: u32, status: u32) -> bool {
        let own = self.pid() == pid;
        if own {
            self.exited(status);
        }
        own
    }

    fn exited(&mut self, status: u32) {
        let now = Exit { status, at: Some(SystemTime::now().into()) };
        self.exit.get_or_init(|| now);
        (self.process, self.network) = (None, None);
    }

    /// Lets go of its root filesystem.
    ///
    /// # Errors
    /// Those of unmounting.
    pub(super) fn release(&mut self) -> nix::Result<()> {
        self.rootfs.take().map_or(Ok(()), |rootfs| rootfs::detach(&rootfs))
    }
}

/// The signal by which members learn that their sandbox is to stop.
pub(super) const STOP: u32 = Signal::SIGTERM as u32;
/// The one by which they are stopped.
pub(super) const KILL: u32 = Signal::SIGKILL as u32;
