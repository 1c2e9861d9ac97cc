//! Running hooks without allocating, from the child or from the runtime.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::{
    plan::HookCommand,
    sys::{self, Errno, credentials, file, process, socket},
};

/// Runs `commands` in order, each with `state` on its standard input. The error has the index of
/// the hook that failed; a negative number is its exit status.
pub(crate) fn run(commands: &[HookCommand], state: &[u8]) -> Result<(), (u16, Errno)> {
    for (i, command) in commands.iter().enumerate() {
        run_one(command, state).map_err(|errno| (i as u16, errno))?;
    }
    Ok(())
}

fn run_one(command: &HookCommand, state: &[u8]) -> sys::Result<()> {
    let input = file::memfd(c"state")?;
    sys::retry(|| file::write(input.as_fd(), state))?;
    file::rewind(input.as_fd())?;
    let child = process::spawn(0, None, || execute(command, input.as_raw_fd()))?;
    let [ended] = file::poll([child.pidfd.as_raw_fd()], command.timeout)?;
    if !ended {
        let _ = process::pidfd_signal(child.pidfd.as_fd(), libc::SIGKILL);
        process::wait_pidfd(child.pidfd.as_fd())?;
        return Err(Errno::TIMEDOUT);
    }
    match process::wait_pidfd(child.pidfd.as_fd())? {
        0 => Ok(()),
        EXEC_FAILED => Err(file::executable(&command.path).err().unwrap_or(Errno(-EXEC_FAILED))),
        status => Err(Errno(-status)),
    }
}

/// The exit status of a hook that could not be executed, as a shell's.
const EXEC_FAILED: i32 = 127;

fn execute(command: &HookCommand, input: i32) -> i32 {
    if process::reset_signals().is_ok() && file::dup_onto(input, 0).is_ok() {
        // What the runtime has open is not the hook's.
        let _ = file::close_on_exec_from(3);
        credentials::execute(&command.path, &command.args, &command.env);
    }
    EXEC_FAILED
}

/// The container's state, which the runtime sent into `buffer` (which it made large enough).
pub(super) fn state<'a>(buffer: &'a mut [u8], sync: BorrowedFd<'_>) -> &'a [u8] {
    match socket::receive(sync, buffer) {
        Ok((n, _)) if n > 0 => &buffer[..n],
        _ => process::exit(1),
    }
}
