//! The process that a sandbox is while it runs: the first of pid, ipc and uts namespaces of the
//! sandbox's own, which members enter by its pid, as a Kubernetes pod's `pause` container is.
//!
//! It is a copy of the shim that executes nothing, so it has a few pages of its own and no program
//! to be found. It sleeps until the shim's end of their connection is closed: with the shim it ends
//! too, by whatever death.

use std::{
    io::Read,
    os::{fd::AsFd, unix::net::UnixStream},
};

use hops::Result;
use nix::{
    errno::Errno,
    sched::CloneFlags,
    sys::signal::{Signal, kill},
    unistd::{ForkResult, Pid},
};

use super::sys;

/// A sandbox's process, not yet reaped.
#[derive(Debug)]
pub(super) struct Pause {
    pid: Pid,
    /// Its life line.
    _held: UnixStream,
}

impl Pause {
    /// Makes one in the namespaces that this process is in, but for those it gets of its own.
    ///
    /// # Errors
    /// Those of clone3(2), such as for a user who may make no namespaces, and when it dies before it
    /// is what it is to be.
    pub(super) fn start() -> Result<Pause> {
        let own = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS;
        let (lifeline, mut held) = UnixStream::pair()?;
        let pid = match sys::clone_into(own).map_err(std::io::Error::from)? {
            ForkResult::Child => sys::sleep_until_closed(lifeline.as_fd()),
            ForkResult::Parent { child } => child,
        };
        drop(lifeline);
        // Until then a signal to it could be taken for one to the shim, whose handlers it has.
        held.read_exact(&mut [0])?;
        Ok(Pause { pid, _held: held })
    }

    /// Its pid in the shim's namespace.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Kills it; the shim reaps it as any other child.
    ///
    /// # Errors
    /// Those of kill(2); that it has ended is none.
    pub(super) fn kill(&self) -> nix::Result<()> {
        match kill(self.pid, Signal::SIGKILL) {
            Err(Errno::ESRCH) => Ok(()),
            killed => killed,
        }
    }
}
