//! Everything that the container's first process will do, prepared before it exists.
//!
//! Between clone and exec the child may not allocate, so strings are already C strings, the
//! filter is already code, and files that only the host has are already open.

mod capabilities;
mod labels;
mod mounts;
mod options;
mod process;
mod scheduling;
mod targets;

use std::{
    ffi::CString,
    os::fd::{OwnedFd, RawFd},
    path::Path,
};

pub(crate) use capabilities::names as capability_names;
pub(crate) use labels::Label;
pub(crate) use mounts::{Bind, DeviceNode, Ids, MountStep, Rootfs, RootfsContext, Work};
pub(crate) use options::names as mount_option_names;
pub(crate) use process::{ProcessPlan, console_size};

use crate::{
    Error, Result,
    error::Context,
    spec,
    sys::{socket, strings::StringVector, tty},
};

/// The work of the child. Every part may be missing: `exec` has no root filesystem to make.
pub(crate) struct Plan {
    /// The child's end of the socket to the runtime, which closes it once there is a child.
    pub(crate) sync: RawFd,
    /// Other processes of the container could trace the child before exec.
    pub(crate) hide: bool,
    /// Wait until the runtime has done what it does from outside: the cgroup that it puts the child
    /// into, id maps, network devices.
    pub(crate) wait_to_begin: bool,
    /// The runtime's end of the socket, of which the child has a copy: until that is closed the
    /// child that waits would not hear that the runtime has ended.
    pub(crate) runtime_end: i32,
    /// Wait until the runtime has recorded the child; without its word the child ends.
    pub(crate) wait_for_go: bool,
    /// Say when everything is ready, for a runtime that does not stay until exec.
    pub(crate) announce: bool,
    /// Descriptors to become the standard streams.
    pub(crate) stdio: [Option<RawFd>; 3],
    /// How many descriptors from 3 on the program keeps.
    pub(crate) preserve_fds: u32,
    /// Namespaces to join, each by its file, with its CLONE_NEW* flag.
    pub(crate) joins: Vec<Join>,
    /// The process whose namespaces `exec` joins, with their flags.
    pub(crate) target: Option<(OwnedFd, i32)>,
    /// Both were joined by the child's maker.
    pub(crate) joined: bool,
    /// The v1 `tasks` files to enter.
    pub(crate) tasks: Vec<OwnedFd>,
    /// Namespaces that cannot be made by clone3 because of what must be done before them.
    pub(crate) unshare: i32,
    /// Lines for /proc/self/timens_offsets.
    pub(crate) time_offsets: Vec<u8>,
    /// Become root of the user namespace that the child is in.
    pub(crate) become_root: bool,
    pub(crate) keyring: Option<CString>,
    pub(crate) loopback: bool,
    pub(crate) sysctls: Vec<Setting>,
    pub(crate) oom_score_adj: Option<Vec<u8>>,
    pub(crate) hostname: Vec<u8>,
    pub(crate) domainname: Vec<u8>,
    pub(crate) rootfs: Option<Rootfs>,
    /// Tell the runtime when its hooks are to run and wait for it.
    pub(crate) runtime_hooks: bool,
    pub(crate) create_container: Vec<HookCommand>,
    pub(crate) start_container: Vec<HookCommand>,
    /// Room for the container's state as those hooks read it; the runtime sends it.
    pub(crate) state: Vec<u8>,
    pub(crate) console: Option<Console>,
    /// The fifo that `start` opens.
    pub(crate) fifo: Option<OwnedFd>,
    pub(crate) process: ProcessPlan,
}

/// A namespace to join.
pub(crate) struct Join {
    pub(crate) file: OwnedFd,
    pub(crate) flag: i32,
    /// For errors.
    pub(crate) path: String,
}

/// A value for a file below /proc/sys.
pub(crate) struct Setting {
    pub(crate) path: CString,
    pub(crate) value: Vec<u8>,
}

/// Where the terminal's master goes.
pub(crate) struct Console {
    pub(crate) socket: OwnedFd,
    pub(crate) size: Option<tty::Size>,
}

/// A hook ready to be executed.
pub(crate) struct HookCommand {
    pub(crate) path: CString,
    pub(crate) args: StringVector,
    pub(crate) env: StringVector,
    /// Milliseconds; -1 waits for ever.
    pub(crate) timeout: i32,
}

impl HookCommand {
    pub(crate) fn list(hooks: &[spec::Hook]) -> Result<Vec<HookCommand>> {
        hooks
            .iter()
            .map(|hook| {
                let args =
                    if hook.args.is_empty() { vec![hook.path.clone()] } else { hook.args.clone() };
                Ok(HookCommand {
                    path: c_string("hook.path", &hook.path)?,
                    args: StringVector::new(c_strings("hook.args", &args)?, false),
                    env: StringVector::new(c_strings("hook.env", &hook.env)?, false),
                    timeout: hook
                        .timeout
                        .and_then(|s| i32::try_from(s.saturating_mul(1000)).ok())
                        .unwrap_or(-1),
                })
            })
            .collect()
    }
}

/// `linux.sysctl` as files. A name may be written with dots or with slashes (sysctl(8)).
pub(crate) fn sysctls(linux: &spec::Linux) -> Result<Vec<Setting>> {
    linux
        .sysctl
        .iter()
        .map(|(name, value)| {
            let dotted = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'.');
            // With dots as separators a slash stands for a dot (an interface eth0.100).
            let path: String = if dotted {
                name.chars()
                    .map(|c| match c {
                        '.' => '/',
                        '/' => '.',
                        c => c,
                    })
                    .collect()
            } else {
                name.clone()
            };
            Ok(Setting {
                path: c_string("linux.sysctl", &format!("/proc/sys/{path}"))?,
                value: value.clone().into_bytes(),
            })
        })
        .collect()
}

pub(crate) fn c_string(field: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Spec {
        field: format!("config.json: {field}"),
        reason: "contains a NUL byte".into(),
    })
}

pub(crate) fn c_strings(field: &str, texts: &[String]) -> Result<Vec<CString>> {
    texts.iter().map(|text| c_string(field, text)).collect()
}

pub(crate) fn c_path(path: &Path) -> Result<CString> {
    socket::c_path(path).context(|| path.display().to_string())
}
