//! The system calls that neither std nor nix offers safely, each with why it is sound here.

#![allow(unsafe_code)] // the one place of the shim for it

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{net::UnixListener, process::CommandExt},
    },
    process::Command,
    sync::atomic::{AtomicI32, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sched::CloneFlags,
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg},
    },
    unistd::{ForkResult, Pid, pipe2},
};

/// Standard input, without std's buffer for it.
pub(super) fn stdin() -> BorrowedFd<'static> {
    // SAFETY: std opens /dev/null for a descriptor 0 that is missing, and nothing here closes it.
    unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) }
}

/// Splits the process in two.
///
/// # Errors
/// Those of fork(2).
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: the shim never starts a thread, so the child holds every lock that it sees held.
    unsafe { nix::unistd::fork() }
}

/// Splits the process in two, the child in new namespaces of the kinds `own`.
///
/// # Errors
/// Those of clone3(2).
pub(super) fn clone_into(own: CloneFlags) -> nix::Result<ForkResult> {
    // SAFETY: the structure is plain numbers, of which zero is the kernel's own default.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(own.bits().cast_unsigned());
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: as for fork; without a stack the child goes on on its copy of this one.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match Errno::result(pid)? {
        0 => Ok(ForkResult::Child),
        pid => Ok(ForkResult::Parent { child: Pid::from_raw(pid as i32) }),
    }
}

/// Ends this process when the other end of `lifeline` is closed; until then it only says, with a
/// byte, that it has come so far. Of what it inherited it keeps nothing open, and orphans that
/// become its children leave no zombies.
pub(super) fn sleep_until_closed(lifeline: BorrowedFd<'_>) -> ! {
    let fd = lifeline.as_raw_fd() as libc::c_uint;
    // SAFETY: plain system calls of a process that does nothing else: no descriptor but the life
    // line is used any more, and the name and the byte outlive their calls.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        if fd > 0 {
            libc::syscall(libc::SYS_close_range, 0, fd - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, fd + 1, libc::c_uint::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr());
        let mut byte = 0_u8;
        libc::write(fd as RawFd, (&raw const byte).cast(), 1);
        loop {
            let read = libc::read(fd as RawFd, (&raw mut byte).cast(), 1);
            if read == 0 || read < 0 && Errno::last() != Errno::EINTR {
                libc::_exit(0);
            }
        }
    }
}

/// Closes `fds`, leaving the time that it takes to a child that has nothing else open. The child
/// is reaped as any other; where there can be none, this process takes the time itself.
pub(super) fn close_in_a_child(mut fds: Vec<OwnedFd>) {
    fds.sort_unstable_by_key(AsRawFd::as_raw_fd);
    if let Ok(ForkResult::Child) = fork() {
        let mut next = 0;
        for fd in fds.iter().map(|fd| fd.as_raw_fd() as libc::c_uint) {
            if fd > next {
                // SAFETY: nothing in this child uses a descriptor any more.
                unsafe { libc::syscall(libc::SYS_close_range, next, fd - 1, 0) };
            }
            next = fd + 1;
        }
        // SAFETY: as above; _exit(2) runs nothing of the parent's.
        unsafe {
            libc::syscall(libc::SYS_close_range, next, libc::c_uint::MAX, 0);
            libc::_exit(0)
        }
    }
}

/// The end of the pipe into which the handler writes.
static SIGNALS: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: libc::c_int) {
    let errno = Errno::last_raw();
    let byte = signal as u8;
    // SAFETY: write(2) is async-signal-safe, and the byte outlives the call. A full pipe loses the
    // note, which is harmless: its reader has not yet seen an earlier one.
    unsafe { libc::write(SIGNALS.load(Ordering::Relaxed), (&raw const byte).cast(), 1) };
    Errno::set_raw(errno);
}

/// Has each of `signals` arrive as a byte, its number, on the pipe that is returned.
///
/// Handlers, unlike a blocked mask with a signalfd, are gone after exec: what the shim executes
/// gets the dispositions and the mask that every program expects.
///
/// # Errors
/// Those of pipe2(2) and sigaction(2).
pub(super) fn signals(signals: &[Signal]) -> nix::Result<OwnedFd> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // The writing end stays open for as long as the process lives.
    SIGNALS.store(std::os::fd::IntoRawFd::into_raw_fd(writer), Ordering::Relaxed);
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for &signal in signals {
        // SAFETY: the handler does nothing that is not async-signal-safe.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(reader)
}

/// The listening socket that the caller of this program left as descriptor 3, where there is one.
///
/// # Errors
/// When descriptor 3 is not open.
pub(super) fn inherited_socket() -> io::Result<UnixListener> {
    const INHERITED: RawFd = 3;
    // SAFETY: only asks about a number, which fcntl(2) allows to be closed.
    if unsafe { libc::fcntl(INHERITED, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and this is called once, before the program opens anything of its own.
    Ok(unsafe { UnixListener::from_raw_fd(INHERITED) })
}

/// Gives `command` its `ends` as descriptors 3, 4 and 5.
pub(super) fn with_descriptors_from_3(command: &mut Command, ends: [OwnedFd; 3]) {
    let dup_all = move || {
        // First out of the way of 3 to 5, which may be among the ends themselves.
        let mut high = [-1; 3];
        for (slot, end) in high.iter_mut().zip(&ends) {
            // SAFETY: fcntl(2) and dup2(2) are async-signal-safe and take plain numbers.
            *slot = unsafe { libc::fcntl(end.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) };
            Errno::result(*slot)?;
        }
        for (fd, target) in high.into_iter().zip(3..) {
            // SAFETY: as above.
            Errno::result(unsafe { libc::dup2(fd, target) })?;
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(dup_all) };
}

/// Receives the one descriptor that is sent over `socket` with SCM_RIGHTS.
///
/// # Errors
/// Those of recvmsg(2), and when no descriptor came.
pub(super) fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut iov = [io::IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message = recvmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&fd) = fds.first()
        {
            // SAFETY: the kernel has just made the descriptor for us, and there was room for one.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no descriptor was sent"))
}

nix::ioctl_write_ptr_bad!(tiocswinsz, libc::TIOCSWINSZ, libc::winsize);

/// Sets the size, in characters, of the terminal whose master is `master`.
///
/// # Errors
/// Those of ioctl(TIOCSWINSZ).
pub(super) fn set_window_size(master: &OwnedFd, rows: u16, columns: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and the structure outlives the call.
    unsafe { tiocswinsz(master.as_fd().as_raw_fd(), &size) }.map(drop)
}

/// Gives memory that is free back to the kernel.
pub(super) fn trim() {
    // SAFETY: malloc_trim(3) has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
