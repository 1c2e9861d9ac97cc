//! Making, signalling and waiting for processes; namespaces.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{Errno, Result, check, check_int, owned};

/// A process made by [`spawn`].
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) in the manner of fork: the child gets a copy of the memory, runs `child`, and ends with
/// the exit code that it answers.
///
/// The parent may have other threads, whose locks the child finds as they were, so `child` must
/// neither allocate nor take a lock. `flags` are CLONE_NEW* and CLONE_PARENT; `cgroup` is a v2
/// cgroup directory to be born in.
pub(crate) fn spawn(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> Result<Spawned> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the struct is clone_args of version 2 and its size is passed. Without CLONE_VM the
    // child has its own copy of everything, this stack included.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of::<CloneArgs>())
    })?;
    if pid == 0 {
        exit(child());
    }
    // SAFETY: CLONE_PIDFD stored a new descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Spawned { pid: pid as i32, pidfd })
}

/// Ends the process at once, without the exit handlers of the image it was copied from.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code) }
}

/// setns(2) with `kind` a CLONE_NEW* flag; for a pidfd, several.
pub(crate) fn join_namespace(fd: BorrowedFd<'_>, kind: i32) -> Result<()> {
    // SAFETY: no memory arguments.
    check_int(unsafe { libc::setns(fd.as_raw_fd(), kind) }).map(drop)
}

pub(crate) fn unshare(flags: i32) -> Result<()> {
    // SAFETY: no memory arguments.
    check_int(unsafe { libc::unshare(flags) }).map(drop)
}

pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no memory arguments.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo is allowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<u8>(),
            0,
        )
    })
    .map(drop)
}

pub(crate) fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: no memory arguments.
    check_int(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// How a child ended, as a shell counts it: its exit code, or 128 and the signal.
pub(crate) fn wait_pidfd(pidfd: BorrowedFd<'_>) -> Result<i32> {
    super::retry(|| wait(pidfd.as_raw_fd() as u32))
}

fn wait(pidfd: u32) -> Result<i32> {
    // SAFETY: all-zero bytes are a valid siginfo, which the call fills; its child fields are valid
    // when it reports one, which it does.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::__WALL;
        check_int(libc::waitid(libc::P_PIDFD, pidfd, &mut info, options))?;
        let status = info.si_status();
        Ok(if info.si_code == libc::CLD_EXITED { status } else { 128 + status })
    }
}

fn all_signals() -> libc::sigset_t {
    // SAFETY: sigfillset makes the zeroed set valid.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        set
    }
}

/// Blocks every signal for this thread and gives a descriptor that reads them.
pub(crate) fn signals() -> Result<OwnedFd> {
    let set = all_signals();
    // SAFETY: `set` is a valid set; a null old set is allowed.
    check_int(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) })?;
    // SAFETY: `set` is a valid set.
    owned(unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC) as libc::c_long })
}

/// The next signal from [`signals`].
pub(crate) fn next_signal(fd: BorrowedFd<'_>) -> Result<i32> {
    let mut info = [0u8; std::mem::size_of::<libc::signalfd_siginfo>()];
    match super::file::read(fd, &mut info)? {
        n if n == info.len() => Ok(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
        _ => Err(Errno::INVAL),
    }
}

/// Gives the process the signal state that a program expects: nothing blocked, SIGPIPE deadly.
/// (Rust's start-up ignores SIGPIPE; handlers of the caller end with exec.)
pub(crate) fn reset_signals() -> Result<()> {
    // SAFETY: an empty set is valid; SIG_DFL is a valid disposition.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        check_int(libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()))?;
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    Ok(())
}

/// Takes the pages of the program's read-only segments out of this process; the kernel maps them
/// again when they are used.
pub(crate) fn drop_program_pages() {
    // SAFETY: the kernel passed the address of this program's own headers, which live as long as
    // it does; the layout is Elf64_Phdr's (or Elf32_Phdr's). MADV_DONTNEED on a private mapping of
    // a file that was never written brings the same bytes back.
    unsafe {
        let headers = libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr;
        let count = libc::getauxval(libc::AT_PHNUM) as usize;
        if headers.is_null() || cfg!(not(target_pointer_width = "64")) {
            return;
        }
        // A program that is placed where it likes has its headers at another address than written.
        let headers = std::slice::from_raw_parts(headers, count);
        let own = headers.iter().find(|h| h.p_type == libc::PT_PHDR);
        let shift = own.map_or(0, |h| (headers.as_ptr() as u64).wrapping_sub(h.p_vaddr));
        const PAGE: u64 = 4095;
        // Noted first: looking at a header brings its page back.
        let mut ranges = [(0u64, 0u64); 8];
        let read_only =
            headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0);
        for (range, h) in ranges.iter_mut().zip(read_only) {
            let start = h.p_vaddr.wrapping_add(shift);
            *range = (start & !PAGE, (start + h.p_memsz + PAGE) & !PAGE);
        }
        for (start, end) in ranges.iter().filter(|(start, _)| *start != 0) {
            libc::madvise(*start as *mut _, (end - start) as usize, libc::MADV_DONTNEED);
        }
    }
}
