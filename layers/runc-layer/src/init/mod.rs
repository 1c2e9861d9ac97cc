//! What the child does between clone and exec. Nothing here allocates or takes a lock.

mod console;
mod copy;
pub(crate) mod hooks;
mod program;
pub(crate) mod report;
pub(crate) mod rootfs;
mod streams;
mod tree;

use std::{convert::Infallible, os::fd::AsFd};

use crate::{
    plan::{Label, Plan},
    sys::{self, Errno, Result, credentials, file, mount, process, socket},
};
use report::{At, Failure, Report, Step};

/// Carries `plan` out. It answers an exit code only if it does not end in the container's program.
pub(crate) fn run(plan: &mut Plan) -> i32 {
    let Err(failure) = all(plan);
    if Report::Failed(failure).send(file::borrow(plan.sync)).is_err() {
        // Nobody listens any more: only the program's own standard error is left.
        complain(plan, failure);
    }
    1
}

/// As [`run`], for a child whose maker has joined the plan's namespaces already.
pub(crate) fn run_joined(plan: &mut Plan) -> i32 {
    plan.joined = true;
    run(plan)
}

/// runc's line for a program that cannot be executed after `start`.
fn complain(plan: &Plan, failure: Failure) {
    if failure.step != Step::Exec {
        return;
    }
    let stderr = file::borrow(2);
    let text: &[u8] = match failure.errno.0 {
        libc::ENOEXEC => b": exec format error\n",
        libc::EACCES => b": permission denied\n",
        libc::ENOENT => b": no such file or directory\n",
        _ => b": cannot execute\n",
    };
    let program = plan.process.args.first().map_or(&b""[..], |a| a.to_bytes());
    for part in [b"exec ", program, text] {
        let _ = file::write(stderr, part);
    }
}

fn all(plan: &mut Plan) -> std::result::Result<Infallible, Failure> {
    file::umask(0);
    if plan.hide {
        // Before it is in the container's namespaces (CVE-2016-9962).
        credentials::hide().at(Step::Sync)?;
    }
    process::reset_signals().at(Step::Sync)?;
    if plan.wait_to_begin {
        // Not yet in its cgroup, it is found by nobody when it does not end with the runtime.
        let end = plan.runtime_end as u32;
        file::close_range(end, end).at(Step::Descriptors)?;
        wait(plan).at(Step::Sync)?;
    }
    for (stream, fd) in plan.stdio.iter().enumerate() {
        if let Some(fd) = fd {
            file::dup_onto(*fd, stream as i32).at(Step::Stdio)?;
        }
    }
    file::close_on_exec_from(3 + plan.preserve_fds).at(Step::Descriptors)?;
    enter_namespaces(plan)?;
    if let Some(rootfs) = &mut plan.rootfs {
        rootfs::open_sources(rootfs)?;
        rootfs::take_root(rootfs)?;
    }
    if plan.become_root {
        credentials::set_gid(0).at(Step::BecomeRoot)?;
        credentials::set_uid(0).at(Step::BecomeRoot)?;
    }
    if let Some(name) = &plan.keyring {
        let label = plan.process.label.as_ref().filter(|label| label.of_keys);
        new_keyring(name, label).at(Step::KeyLabel)?;
    }
    new_session()?;
    if plan.loopback {
        socket::loopback_up().at(Step::Loopback)?;
    }
    for (i, setting) in plan.sysctls.iter().enumerate() {
        file::write_control(&setting.path, &setting.value).at_index(Step::Sysctl, i)?;
    }
    if let Some(value) = &plan.oom_score_adj {
        let written = proc_file(c"self/oom_score_adj")
            .and_then(|score| sys::retry(|| file::write(score.as_fd(), value)));
        match written.map(drop) {
            Err(e @ (Errno::ACCES | Errno::PERM)) => warn(plan, Step::OomScore, 0, e),
            other => other.at(Step::OomScore)?,
        }
    }
    let label = match &plan.process.label {
        Some(label) => Some(proc_file(&label.file).at(Step::Label)?),
        None => None,
    };
    if !plan.hostname.is_empty() {
        credentials::set_hostname(&plan.hostname).at(Step::Hostname)?;
    }
    if !plan.domainname.is_empty() {
        credentials::set_domainname(&plan.domainname).at(Step::Domainname)?;
    }
    if plan.rootfs.is_some() {
        rootfs::make(plan)?;
    } else if let Some(console) = plan.console.take() {
        console::set_up(&console, false).at(Step::Console)?;
    }
    program::run(plan, label)
}

/// Waits for the runtime's word; its end is ours.
fn wait(plan: &Plan) -> Result<()> {
    let mut word = [0u8; 1];
    match socket::receive(file::borrow(plan.sync), &mut word)? {
        (0, _) => process::exit(1),
        _ => Ok(()),
    }
}

fn warn(plan: &Plan, step: Step, index: usize, errno: Errno) {
    let failure = Failure { step, index: index as u16, errno };
    // A runtime that does not listen any more has no use for warnings.
    let _ = Report::Warning(failure).send(file::borrow(plan.sync));
}

/// Opens a file of this process's own in procfs, for writing.
///
/// For `exec` the procfs is the container's, which may have covered it or parts of it: then what is
/// written, a label at worst, would go to another file (CVE-2019-16884, CVE-2025-52881).
fn proc_file(path: &std::ffi::CStr) -> Result<std::os::fd::OwnedFd> {
    const PROC_MAGIC: i64 = 0x9fa0;
    const PROC_ROOT: u64 = 1;
    const NO_XDEV: u64 = 0x1;
    const NO_MAGICLINKS: u64 = 0x2;
    const BENEATH: u64 = 0x8;
    let root = file::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY)?;
    let real =
        file::fstatfs(root.as_fd())? == PROC_MAGIC && file::fstat(root.as_fd())?.inode == PROC_ROOT;
    if !real {
        return Err(Errno::XDEV);
    }
    file::openat2(root.as_fd(), path, libc::O_WRONLY, NO_XDEV | NO_MAGICLINKS | BENEATH)
}

fn enter_namespaces(plan: &Plan) -> std::result::Result<(), Failure> {
    if !plan.joined {
        if let Some((target, flags)) = &plan.target {
            process::join_namespace(target.as_fd(), *flags).at(Step::JoinTarget)?;
        }
        for (i, join) in plan.joins.iter().enumerate() {
            process::join_namespace(join.file.as_fd(), join.flag)
                .at_index(Step::JoinNamespace, i)?;
        }
    }
    for tasks in &plan.tasks {
        file::write(tasks.as_fd(), b"0").at(Step::EnterCgroup)?;
    }
    if plan.unshare != 0 {
        process::unshare(plan.unshare).at(Step::Unshare)?;
    }
    if !plan.time_offsets.is_empty() {
        file::write_control(c"/proc/self/timens_offsets", &plan.time_offsets)
            .at(Step::TimeNamespace)?;
    }
    const CLONE_NEWTIME: i32 = 0x80;
    if plan.unshare & CLONE_NEWTIME != 0 {
        // Unsharing only moves the children; this moves the process itself.
        let own = file::open(c"/proc/self/ns/time_for_children", libc::O_RDONLY)
            .at(Step::TimeNamespace)?;
        process::join_namespace(own.as_fd(), CLONE_NEWTIME).at(Step::TimeNamespace)?;
    }
    Ok(())
}

/// A session keyring of its own, where the kernel has keyrings and the caller may.
fn new_keyring(name: &std::ffi::CStr, label: Option<&Label>) -> Result<()> {
    // What is made later is the program's to label.
    let set_label = |line: &[u8]| -> Result<()> {
        let file = proc_file(c"self/attr/keycreate")?;
        file::write(file.as_fd(), line).map(drop)
    };
    if let Some(label) = label {
        set_label(&label.line)?;
    }
    if let Ok(serial) = credentials::join_session_keyring(name) {
        let _ = credentials::allow_keyring_search(serial);
    }
    label.map_or(Ok(()), |_| set_label(b""))
}

fn new_session() -> std::result::Result<(), Failure> {
    match credentials::new_session() {
        // A group leader has a session or cannot get one; the child of clone is none.
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(e) => Err(e).at(Step::Session),
    }
}

/// Attributes for a mount that is only read.
fn read_only() -> mount::Attributes {
    mount::Attributes { set: mount::ATTR_RDONLY, clear: 0 }
}
