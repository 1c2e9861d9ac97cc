//! `Oci`: shim → OCI runtime, since Docker 1.11's containerd executed runc (April 2016).
//!
//! The wire is a command line and a bundle directory: `config.json` and a root filesystem. The
//! verbs are runc's commands; the standard streams of a container are file descriptors that the
//! runtime's process inherits.

use std::{os::fd::OwnedFd, path::PathBuf};

use oci_spec::runtime;
use serde::{Deserialize, Serialize};

use crate::{Handle, Hop, Op};

/// The standard streams given to a container's process; `None` is `/dev/null`.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// `create`: makes a container whose process waits for [`Start`].
#[derive(Debug, Default)]
pub struct Create {
    /// The container's id.
    pub id: String,
    /// The bundle: the directory that holds `config.json`.
    pub bundle: PathBuf,
    /// Where the runtime writes the init process's pid.
    pub pid_file: Option<PathBuf>,
    /// A unix socket to which the terminal's master is sent; needed when the process wants one.
    pub console_socket: Option<PathBuf>,
    /// Do without `pivot_root`, for a root filesystem on a ramdisk.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// The init process's standard streams.
    pub stdio: Stdio,
}

/// `start`: lets a created container's process run.
#[derive(Debug, Default)]
pub struct Start {
    /// The container's id.
    pub id: String,
}

/// `state`: what a container is doing.
#[derive(Debug, Default)]
pub struct State {
    /// The container's id.
    pub id: String,
}

/// `kill`: sends a signal.
#[derive(Debug, Default)]
pub struct Kill {
    /// The container's id.
    pub id: String,
    /// The signal's number.
    pub signal: i32,
    /// To every process of the container, not only its init.
    pub all: bool,
}

/// `delete`: removes what `create` made.
#[derive(Debug, Default)]
pub struct Delete {
    /// The container's id.
    pub id: String,
    /// Kill it first, and be content when it does not exist.
    pub force: bool,
}

/// `exec --detach`: one more process in a container.
#[derive(Debug, Default)]
pub struct Exec {
    /// The container's id.
    pub id: String,
    /// The process, as `config.json` would describe it.
    pub process: runtime::Process,
    /// Where the runtime writes the process's pid.
    pub pid_file: Option<PathBuf>,
    /// As [`Create::console_socket`].
    pub console_socket: Option<PathBuf>,
    /// The process's standard streams.
    pub stdio: Stdio,
}

/// `pause`: freezes every process of a container.
#[derive(Debug, Default)]
pub struct Pause {
    /// The container's id.
    pub id: String,
}

/// `resume`: thaws it.
#[derive(Debug, Default)]
pub struct Resume {
    /// The container's id.
    pub id: String,
}

/// `update`: changes a container's cgroup limits.
#[derive(Debug, Default)]
pub struct Update {
    /// The container's id.
    pub id: String,
    /// The new limits; what is absent stays.
    pub resources: runtime::LinuxResources,
}

/// `ps --format json`: the pids in a container, as the runtime's own pid namespace numbers them.
#[derive(Debug, Default)]
pub struct Ps {
    /// The container's id.
    pub id: String,
}

/// `events --stats`: a container's usage.
#[derive(Debug, Default)]
pub struct Stats {
    /// The container's id.
    pub id: String,
}

/// The reply to [`State`] (OCI runtime specification 1.2, "State"), with runc's additions left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// `ociVersion`.
    #[serde(rename = "ociVersion")]
    pub version: String,
    /// The container's id.
    pub id: String,
    /// `creating`, `created`, `running`, `paused` or `stopped`.
    pub status: String,
    /// The init process in the caller's pid namespace; 0 when there is none.
    #[serde(default)]
    pub pid: i32,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The configuration's annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

macro_rules! verbs {
    ($($op:ident $name:literal => $reply:ty;)*) => {
        $(impl Op for $op {
            type Reply = $reply;
            const HOP: Hop = Hop::Oci;
            const NAME: &'static str = $name;
        })*

        /// An OCI runtime as a shim sees it.
        pub trait Oci: Send + Sync + 'static $( + Handle<$op> )* {}
        impl<T> Oci for T where T: Send + Sync + 'static $( + Handle<$op> )* {}
    };
}

verbs! {
    Create "create" => ();
    Start "start" => ();
    State "state" => ContainerState;
    Kill "kill" => ();
    Delete "delete" => ();
    Exec "exec" => ();
    Pause "pause" => ();
    Resume "resume" => ();
    Update "update" => ();
    Ps "ps" => Vec<i32>;
    Stats "events" => serde_json::Value;
}
