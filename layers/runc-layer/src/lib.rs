//! The OCI runtime: from a bundle's `config.json` to a process.
//!
//! In history this is runc, which Docker gave away in June 2015 as the reference of the Open
//! Container Initiative: libcontainer, Docker's own exec driver since 0.9, with a command line
//! around it. Since Docker 1.11 a shim executes it for each verb and keeps the container, so that
//! the runtime is gone again before the container's program starts.
//!
//! Who calls it: containerd's shims, Docker, podman, CRI-O and people, over the `Oci` hop: a
//! command line ([`main`], with runc's commands, options, texts and exit codes) and a bundle
//! directory (OCI runtime specification 1.2). In one process it is [`Runtime`].
//!
//! Start with `engine/create.rs`, which prepares everything and makes the child; `plan/` is what
//! it prepares, `init/` what the child does with it between clone and exec, `sys/` the system
//! calls. `cgroup/` and `seccomp/` stand on their own; `dbus/` is how `cgroup/systemd/` talks, and
//! `network/` moves devices into a container's namespace, and `criu/` talks with CRIU for checkpoint and
//! restore. `check.rs` is a configuration's way
//! without a container, for the fuzzer. Linux 5.12 or later is needed (the mount API up to
//! `mount_setattr`).

mod cgroup;
mod check;
mod cli;
mod criu;
mod dbus;
mod engine;
mod error;
mod face;
mod init;
mod namespace;
mod network;
mod plan;
mod seal;
mod seccomp;
mod spec;
mod state;
#[allow(unsafe_code, reason = "the system calls; every other module is safe")]
mod sys;

pub use check::check;
pub use cli::{main, run};
pub use engine::{
    CgroupsMode, Checkpoint, Create, Exec, ExecProcess, Images, Restore, Runtime, Started, State,
};
pub use error::{Error, Result};
pub use seal::seal;
pub use spec::VERSION;
pub use state::Status;
pub use sys::Errno;
