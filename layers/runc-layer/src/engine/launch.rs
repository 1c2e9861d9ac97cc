//! Making the child and talking with it until it is ready.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use super::listener::Agent;
use crate::{
    Error, Result,
    error::Context,
    init::{
        self, hooks,
        report::{Report, hook_error},
    },
    plan::{HookCommand, Plan},
    sys::{Errno, file, process, socket},
};

/// How the child comes to be in its namespaces.
pub(super) struct Birth {
    /// CLONE_NEW* for clone3.
    pub(super) flags: u64,
    /// A v2 cgroup to be born in.
    pub(super) cgroup: Option<OwnedFd>,
    /// A pid namespace whose first or next process it is: a pid namespace file or a pidfd.
    pub(super) pid_namespace: Option<OwnedFd>,
    /// Join what the plan says by a process in between, because the namespaces to be made belong
    /// to a user namespace that is joined, or those to be joined to the one that is left.
    pub(super) through_stage: bool,
}

/// A child that was made and does its work.
pub(super) struct Child {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
}

/// Makes the child, which goes to work on `plan` at once. `theirs` is its end of the socket; with
/// that closed here, the child's end is the end of its messages.
pub(super) fn spawn(plan: &mut Plan, birth: &Birth, theirs: OwnedFd) -> Result<Child> {
    plan.sync = theirs.as_raw_fd();
    let cgroup = birth.cgroup.as_ref().map(AsFd::as_fd);
    let spawned = if birth.through_stage {
        return through_stage(plan, birth);
    } else if let Some(target) = &birth.pid_namespace {
        in_pid_namespace(target.as_fd(), || {
            process::spawn(birth.flags, cgroup, || init::run(plan))
        })?
    } else {
        process::spawn(birth.flags, cgroup, || init::run(plan))
    };
    let spawned = spawned.map_err(|e| Error::Start(format!("clone: {e}")))?;
    Ok(Child { pid: spawned.pid, pidfd: spawned.pidfd })
}

/// Sends a descriptor for the child to the socket that the caller named, with runc's word for the
/// kind of child.
pub(super) fn tell_pidfd(path: Option<&Path>, pidfd: &OwnedFd, kind: &str) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let what = || format!("failed to send the pidfd to {}", path.display());
    let listener = socket::connect(path).context(what)?;
    socket::send_fd(listener.as_fd(), kind.as_bytes(), pidfd.as_fd()).context(what)
}

/// Does `call` with this thread's children going to another pid namespace.
fn in_pid_namespace<T>(target: BorrowedFd<'_>, call: impl FnOnce() -> T) -> Result<T> {
    let own = file::open(c"/proc/thread-self/ns/pid", libc::O_RDONLY)
        .context(|| "open /proc/thread-self/ns/pid".to_owned())?;
    process::join_namespace(target, libc::CLONE_NEWPID)
        .map_err(|e| Error::Start(format!("failed to setns into pid namespace: {e}")))?;
    let result = call();
    process::join_namespace(own.as_fd(), libc::CLONE_NEWPID)
        .map_err(|e| Error::Start(format!("failed to return to the own pid namespace: {e}")))?;
    Ok(result)
}

/// The process in between: it joins, makes the child as its own sibling, tells its pid, and ends.
fn through_stage(plan: &mut Plan, birth: &Birth) -> Result<Child> {
    let (ours, theirs) = socket::pair().context(|| "socketpair".to_owned())?;
    let cgroup = birth.cgroup.as_ref().map(AsFd::as_fd);
    let stage = process::spawn(0, cgroup, || {
        let answer = stage(plan, birth);
        let (tag, value) = match answer {
            Ok(pid) => (0, pid),
            Err((index, errno)) => (1 + index, errno.0),
        };
        let mut message = [0u8; 8];
        message[..4].copy_from_slice(&(tag as i32).to_ne_bytes());
        message[4..].copy_from_slice(&value.to_ne_bytes());
        let _ = socket::send(theirs.as_fd(), &message);
        0
    })
    .map_err(|e| Error::Start(format!("clone: {e}")))?;
    drop(theirs);
    let mut message = [0u8; 8];
    let received = socket::receive(ours.as_fd(), &mut message);
    let _ = process::wait_pidfd(stage.pidfd.as_fd());
    let (n, _) = received.context(|| "receive from the joining process".to_owned())?;
    let word =
        |i: usize| i32::from_ne_bytes([message[i], message[i + 1], message[i + 2], message[i + 3]]);
    match (n, word(0)) {
        (8, 0) => {
            let pid = word(4);
            let pidfd = process::pidfd_open(pid)
                .map_err(|e| Error::Start(format!("pidfd_open {pid}: {e}")))?;
            // From here on the joins are done; the plan keeps them for its error texts only.
            Ok(Child { pid, pidfd })
        }
        (8, tag) => {
            let errno = Errno(word(4));
            let what = match plan.joins.get(tag as usize - 1) {
                Some(join) => format!("failed to setns into namespace {}: {errno}", join.path),
                None => format!("failed to enter the namespaces: {errno}"),
            };
            Err(Error::Start(what))
        }
        _ => Err(Error::Start("the joining process ended early".into())),
    }
}

/// Index for an error that is no join's.
const NO_JOIN: usize = 4096;

fn stage(plan: &mut Plan, birth: &Birth) -> std::result::Result<i32, (usize, Errno)> {
    if let Some((target, flags)) = &plan.target {
        process::join_namespace(target.as_fd(), *flags).map_err(|e| (NO_JOIN, e))?;
    }
    for (i, join) in plan.joins.iter().enumerate() {
        process::join_namespace(join.file.as_fd(), join.flag).map_err(|e| (i, e))?;
    }
    if let Some(target) = &birth.pid_namespace {
        process::join_namespace(target.as_fd(), libc::CLONE_NEWPID).map_err(|e| (NO_JOIN, e))?;
    }
    let flags = birth.flags | libc::CLONE_PARENT as u64;
    let spawned =
        process::spawn(flags, None, || init::run_joined(plan)).map_err(|e| (NO_JOIN, e))?;
    // The pid is this process's view, whose pid namespace is the runtime's.
    Ok(spawned.pid)
}

/// What the runtime does while the child works.
pub(super) struct Dialogue<'a> {
    /// The runtime's end of the socket.
    pub(super) socket: OwnedFd,
    pub(super) prestart: &'a [HookCommand],
    pub(super) create_runtime: &'a [HookCommand],
    /// The state for hooks, before `start`.
    pub(super) creating: Vec<u8>,
    /// The state for prestart and startContainer hooks.
    pub(super) created: Vec<u8>,
    pub(super) agent: Option<Agent>,
    pub(super) pid: i32,
}

impl Dialogue<'_> {
    /// Lets the child go on: it is recorded, and its hooks get their state.
    fn release(&self, plan: &Plan) -> Result<()> {
        let send = |bytes: &[u8]| match socket::send(self.socket.as_fd(), bytes) {
            // It ended; the reports say why.
            Err(e) if e.0 == libc::EPIPE || e.0 == libc::ECONNRESET => Ok(()),
            other => other.context(|| "send to the container's process".to_owned()),
        };
        if plan.runtime_hooks {
            send(b"h")?;
        }
        if !plan.create_container.is_empty() {
            send(&self.creating)?;
        }
        if !plan.start_container.is_empty() {
            send(&self.created)?;
        }
        if plan.wait_for_go { send(b"g") } else { Ok(()) }
    }

    /// Talks until the child is ready, has become the program, or failed. The answer is what was
    /// refused and done without.
    pub(super) fn hold(self, plan: &Plan) -> Result<Vec<String>> {
        if !plan.runtime_hooks {
            self.release(plan)?;
        }
        let mut warnings = Vec::new();
        let mut buffer = [0u8; 64];
        loop {
            let (n, fd) = match socket::receive(self.socket.as_fd(), &mut buffer) {
                // It ended before it read all that was sent to it; what it said comes after.
                Err(Errno(libc::ECONNRESET)) => continue,
                other => other.context(|| "receive from the container's process".to_owned())?,
            };
            if n == 0 {
                return if plan.announce {
                    Err(Error::Start("the process ended before it was ready".into()))
                } else {
                    Ok(warnings)
                };
            }
            match Report::decode(&buffer[..n]) {
                Some(Report::Failed(failure)) => return Err(Error::Start(failure.describe(plan))),
                Some(Report::Warning(failure)) => warnings.push(failure.describe(plan)),
                Some(Report::RuntimeHooks) => {
                    // prestart is older than the status `creating`, and crun still tells it the
                    // one that its hooks were written for.
                    for (list, state) in
                        [(self.prestart, &self.created), (self.create_runtime, &self.creating)]
                    {
                        hooks::run(list, state).map_err(|(i, errno)| {
                            Error::Start(format!("error running hook #{i}: {}", hook_error(errno)))
                        })?;
                    }
                    self.release(plan)?;
                }
                Some(Report::Ready) => return Ok(warnings),
                Some(Report::Listener) => match (&self.agent, fd) {
                    (Some(agent), Some(fd)) => agent.deliver(&fd, &self.creating, self.pid)?,
                    _ => return Err(Error::Start("seccomp listenerPath is not set".into())),
                },
                None => return Err(Error::Start("a malformed report".into())),
            }
        }
    }
}
