//! The runtime itself: containers by id below a root directory.
//!
//! Every call is synchronous, prints nothing, and leaves what it made only when it succeeds.

mod checkpoint;
mod control;
mod create;
mod exec;
mod images;
mod launch;
mod listener;
mod maps;
mod mountpoint;
mod restore;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use serde::Serialize;

pub use checkpoint::Checkpoint;
pub(crate) use create::time_offsets;
pub use exec::{Exec, ExecProcess};
pub use images::{CgroupsMode, Images};
pub use restore::Restore;

use crate::{
    Result,
    state::{Directory, Record, Status},
    sys::{credentials, file},
};

/// An OCI runtime with its containers' records below one directory.
#[derive(Clone, Debug)]
pub struct Runtime {
    root: PathBuf,
    rootless: bool,
    systemd: bool,
}

/// What `create` and `run` are asked for.
#[derive(Debug, Default)]
pub struct Create {
    /// The container's id: `[A-Za-z0-9_+.-]`, unique below the root.
    pub id: String,
    /// The directory that holds `config.json`.
    pub bundle: PathBuf,
    /// A unix socket to which the terminal's master is sent.
    pub console_socket: Option<PathBuf>,
    /// One end of a socket to which the terminal's master is sent, in place of a path.
    pub console: Option<OwnedFd>,
    /// A unix socket to which a descriptor for the container's process is sent.
    pub pidfd_socket: Option<PathBuf>,
    /// A file for the pid of the container's process.
    pub pid_file: Option<PathBuf>,
    /// Move the root instead of pivoting it, for a root filesystem on a ramdisk.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// How many descriptors of the caller, from 3 on, the program keeps.
    pub preserve_fds: u32,
    /// The program's standard streams; `None` is the caller's own.
    pub stdio: [Option<OwnedFd>; 3],
    /// More variables for the program, `NAME=value`.
    pub env: Vec<String>,
}

/// A process that was started in a container.
#[derive(Debug)]
pub struct Started {
    /// Its pid as the caller's pid namespace numbers it. It is a child of the caller.
    pub pid: i32,
    /// A descriptor for it (pidfd_open(2)): readable when it has ended.
    pub pidfd: OwnedFd,
    /// What was refused on this machine and is done without.
    pub warnings: Vec<String>,
}

/// A container as `state` and `list` show it (runc's containerState).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the specification that the container's configuration follows.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Its process in the caller's pid namespace; 0 when it is stopped.
    pub pid: i32,
    /// What it is doing; [`Status::name`] in JSON.
    #[serde(serialize_with = "status_name")]
    pub status: Status,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The root filesystem's absolute path.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// The annotations of its configuration.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Who created it.
    #[serde(skip)]
    pub owner_uid: u32,
}

fn status_name<S: serde::Serializer>(
    status: &Status,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(status.name())
}

/// Whether the caller is in another user namespace than the machine's first.
pub(crate) fn in_user_namespace() -> bool {
    !file::read_line(c"/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

impl Runtime {
    /// A runtime with its records below `root`, which is made when it is needed.
    ///
    /// Cgroups that the caller has no rights to are done without when it is not root or not root
    /// of the machine's first user namespace, as runc's `--rootless auto` decides.
    pub fn new(root: impl Into<PathBuf>) -> Runtime {
        let rootless = credentials::effective_uid() != 0 || in_user_namespace();
        Runtime { root: root.into(), rootless, systemd: false }
    }

    /// Decides by hand what [`Runtime::new`] looks up.
    pub fn with_rootless(mut self, rootless: bool) -> Runtime {
        self.rootless = rootless;
        self
    }

    /// Has new containers' cgroups managed by systemd, as runc's `--systemd-cgroup` does: a
    /// `linux.cgroupsPath` is then `slice:prefix:name`. A container's record keeps who manages its
    /// own.
    ///
    /// An ordinary user's is managed by the user's systemd; that of root in a user namespace as
    /// well, where there is one, and otherwise by the one that runs in the namespace.
    pub fn with_systemd_cgroup(mut self) -> Runtime {
        self.systemd = true;
        self
    }

    /// The directory of the records.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory and record of the container `id`.
    fn find(&self, id: &str) -> Result<(Directory, Record)> {
        let directory = Directory::new(&self.root, id)?;
        let record = directory.load()?;
        Ok((directory, record))
    }
}
