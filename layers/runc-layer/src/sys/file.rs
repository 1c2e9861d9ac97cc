//! Files, directories and descriptors.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use super::{Errno, Result, check, check_int, owned};

/// What `fstat` tells, as far as the layer asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) mode: u32,
    pub(crate) rdev: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) inode: u64,
    pub(crate) device: u64,
}

impl Stat {
    pub(crate) fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
    pub(crate) fn is_link(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFLNK
    }
    /// Whether this is the character device `major`:`minor`.
    pub(crate) fn is_char(&self, major: u32, minor: u32) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFCHR && self.rdev == makedev(major, minor)
    }
}

impl From<libc::stat> for Stat {
    fn from(s: libc::stat) -> Stat {
        Stat {
            mode: s.st_mode,
            rdev: s.st_rdev,
            uid: s.st_uid,
            gid: s.st_gid,
            inode: s.st_ino,
            device: s.st_dev,
        }
    }
}

pub(crate) fn makedev(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

/// The working directory as a base for relative paths.
pub(crate) fn cwd() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is not a descriptor that anyone could close.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

/// `openat` with close-on-exec added.
pub(crate) fn openat(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    // SAFETY: `path` is a C string; the call has no other memory arguments.
    owned(unsafe {
        libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC, mode) as libc::c_long
    })
}

pub(crate) fn open(path: &CStr, flags: i32) -> Result<OwnedFd> {
    openat(cwd(), path, flags, 0)
}

/// `openat2` with the `resolve` rules of openat2(2).
pub(crate) fn openat2(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    resolve: u64,
) -> Result<OwnedFd> {
    let how: [u64; 3] = [(flags | libc::O_CLOEXEC) as u64, 0, resolve];
    // SAFETY: `how` has the layout of struct open_how (three u64) and its size is passed.
    owned(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            how.as_ptr(),
            std::mem::size_of_val(&how),
        )
    })
}

pub(crate) fn fstat(fd: BorrowedFd<'_>) -> Result<Stat> {
    // SAFETY: all-zero bytes are a valid `stat`, which the call fills.
    unsafe {
        let mut s: libc::stat = std::mem::zeroed();
        check_int(libc::fstat(fd.as_raw_fd(), &mut s))?;
        Ok(s.into())
    }
}

/// `stat` of `path`, following links.
pub(crate) fn stat(path: &CStr) -> Result<Stat> {
    // SAFETY: as in `fstat`.
    unsafe {
        let mut s: libc::stat = std::mem::zeroed();
        check_int(libc::fstatat(libc::AT_FDCWD, path.as_ptr(), &mut s, 0))?;
        Ok(s.into())
    }
}

/// The file system's magic number.
pub(crate) fn fstatfs(fd: BorrowedFd<'_>) -> Result<i64> {
    // SAFETY: all-zero bytes are a valid `statfs`, which the call fills.
    unsafe {
        let mut s: libc::statfs = std::mem::zeroed();
        check_int(libc::fstatfs(fd.as_raw_fd(), &mut s))?;
        Ok(s.f_type)
    }
}

/// Whether the mount that `fd` was opened through is read-only.
pub(crate) fn is_read_only(fd: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: all-zero bytes are a valid `statvfs`, which the call fills.
    unsafe {
        let mut s: libc::statvfs = std::mem::zeroed();
        check_int(libc::fstatvfs(fd.as_raw_fd(), &mut s))?;
        Ok(s.f_flag & libc::ST_RDONLY != 0)
    }
}

/// The magic number of the file system that `path` is on.
pub(crate) fn statfs(path: &CStr) -> Result<i64> {
    // SAFETY: as in `fstatfs`.
    unsafe {
        let mut s: libc::statfs = std::mem::zeroed();
        check_int(libc::statfs(path.as_ptr(), &mut s))?;
        Ok(s.f_type)
    }
}

pub(crate) fn mkdir(path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::mkdir(path.as_ptr(), mode) }).map(drop)
}

pub(crate) fn mkfifo(path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::mknod(path.as_ptr(), libc::S_IFIFO | mode, 0) }).map(drop)
}

pub(crate) fn rmdir(path: &CStr) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::rmdir(path.as_ptr()) }).map(drop)
}

pub(crate) fn mknod(path: &CStr, mode: u32, dev: u64) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::mknod(path.as_ptr(), mode, dev) }).map(drop)
}

pub(crate) fn symlink(target: &CStr, path: &CStr) -> Result<()> {
    // SAFETY: two C string arguments.
    check_int(unsafe { libc::symlink(target.as_ptr(), path.as_ptr()) }).map(drop)
}

pub(crate) fn unlink(path: &CStr) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::unlink(path.as_ptr()) }).map(drop)
}

/// Gives `path` itself an SELinux label.
pub(crate) fn set_label(path: &CStr, label: &CStr) -> Result<()> {
    let (name, value) = (c"security.selinux", label.to_bytes_with_nul());
    // SAFETY: two C string arguments and a buffer with its length.
    check_int(unsafe {
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    })
    .map(drop)
}

/// Changes the owner of `path` itself, not of what a link there leads to.
pub(crate) fn lchown(path: &CStr, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::lchown(path.as_ptr(), uid, gid) }).map(drop)
}

pub(crate) fn fchown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no memory arguments.
    check_int(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) }).map(drop)
}

/// Reads a link into `buffer`; the rest of the buffer is unchanged.
pub(crate) fn readlink<'a>(path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    let n = check(unsafe {
        libc::readlink(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) as libc::c_long
    })?;
    Ok(&buffer[..n as usize])
}

pub(crate) fn fchdir(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no memory arguments.
    check_int(unsafe { libc::fchdir(fd.as_raw_fd()) }).map(drop)
}

pub(crate) fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

pub(crate) fn chroot(path: &CStr) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::chroot(path.as_ptr()) }).map(drop)
}

/// The kernel's own answer, which starts with `(unreachable)` when the directory is not below the
/// process's root.
pub(crate) fn getcwd(buffer: &mut [u8]) -> Result<&[u8]> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    let n = check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(&buffer[..(n as usize).saturating_sub(1)])
}

/// Whether this process may execute `path` (with its effective ids).
pub(crate) fn executable(path: &CStr) -> Result<()> {
    // SAFETY: one C string argument.
    check(unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::X_OK,
            libc::AT_EACCESS,
        )
    })
    .map(drop)
}

pub(crate) fn umask(mask: u32) -> u32 {
    // SAFETY: no memory arguments; it cannot fail.
    unsafe { libc::umask(mask) }
}

pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    let n = check(unsafe {
        libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) as libc::c_long
    })?;
    Ok(n as usize)
}

pub(crate) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads at most `bytes.len()` bytes.
    let n = check(unsafe {
        libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) as libc::c_long
    })?;
    Ok(n as usize)
}

/// Writes `bytes` in one call, as the kernel's control files want it.
pub(crate) fn write_control(path: &CStr, bytes: &[u8]) -> Result<()> {
    use std::os::fd::AsFd;
    let fd = open(path, libc::O_WRONLY)?;
    super::retry(|| write(fd.as_fd(), bytes)).map(drop)
}

/// Makes `to` a copy of `from` that survives exec.
pub(crate) fn dup_onto(from: RawFd, to: RawFd) -> Result<()> {
    if from == to {
        // SAFETY: no memory arguments.
        return check_int(unsafe { libc::fcntl(from, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: no memory arguments.
    check_int(unsafe { libc::dup3(from, to, 0) }).map(drop)
}

/// The descriptor number `fd`, which the caller knows to be open for as long as it is used.
pub(crate) fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: used for the standard streams and for descriptors that the plan keeps open; a closed
    // one gives EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Marks every descriptor from `first` on as closed at exec.
pub(crate) fn close_on_exec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: no memory arguments.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Closes every descriptor from `first` to `last`. For the child only: whoever owned them must not
/// use them again.
pub(crate) fn close_range(first: u32, last: u32) -> Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: no memory arguments.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Waits until one of `fds` is readable or hung up; the answer has one flag per descriptor.
pub(crate) fn poll<const N: usize>(fds: [RawFd; N], timeout_ms: i32) -> Result<[bool; N]> {
    let mut polls = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: `polls` is an array of N pollfd.
    match check_int(unsafe { libc::poll(polls.as_mut_ptr(), N as libc::nfds_t, timeout_ms) }) {
        Ok(_) => Ok(polls.map(|p| p.revents != 0)),
        Err(Errno::INTR) => Ok([false; N]),
        Err(e) => Err(e),
    }
}

/// Waits until a file of the kernel's is marked as changed since it was read last.
pub(crate) fn poll_change(fd: BorrowedFd<'_>, timeout_ms: i32) -> Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
    // SAFETY: one pollfd.
    match check_int(unsafe { libc::poll(&mut poll, 1, timeout_ms) }) {
        Ok(_) => Ok(poll.revents != 0),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e),
    }
}

/// A counter that the kernel can be told to count up (eventfd(2)).
pub(crate) fn eventfd() -> Result<OwnedFd> {
    // SAFETY: no memory arguments.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) as libc::c_long })
}

/// An anonymous file in memory that may be sealed.
pub(crate) fn memfd(name: &CStr) -> Result<OwnedFd> {
    // SAFETY: one C string argument.
    owned(unsafe {
        libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
            as libc::c_long
    })
}

const ALL_SEALS: i32 =
    libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

/// Makes a [`memfd`] unchangeable.
pub(crate) fn seal(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no memory arguments.
    check_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, ALL_SEALS) }).map(drop)
}

/// Whether the caller of this program left it the descriptor: all of its own close on exec.
pub(crate) fn is_inherited(fd: i32) -> bool {
    // SAFETY: F_GETFD looks at a number and changes nothing.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Whether `fd` is an unchangeable [`memfd`].
pub(crate) fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: no memory arguments.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & ALL_SEALS == ALL_SEALS
}

/// Copies up to `len` bytes of `from` into `to` in the kernel.
pub(crate) fn sendfile(to: BorrowedFd<'_>, from: BorrowedFd<'_>, len: usize) -> Result<usize> {
    // SAFETY: a null offset means the file's own.
    let n = check(unsafe {
        libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), std::ptr::null_mut(), len) as libc::c_long
    })?;
    Ok(n as usize)
}

/// The names in a directory's `getdents64` record, one call's worth, into `buffer`.
pub(crate) fn getdents(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    let n = check(unsafe {
        libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    })?;
    Ok(n as usize)
}

/// `stat` of `name` in `dir` itself, not of what a link there leads to.
pub(crate) fn lstat_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat> {
    // SAFETY: all-zero bytes are a valid `stat`, which the call fills.
    unsafe {
        let mut s: libc::stat = std::mem::zeroed();
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        check_int(libc::fstatat(dir.as_raw_fd(), name.as_ptr(), &mut s, flags))?;
        Ok(s.into())
    }
}

pub(crate) fn mkdir_at(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

pub(crate) fn symlink_at(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    // SAFETY: two C string arguments.
    check_int(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }).map(drop)
}

pub(crate) fn readlink_at(dir: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes.
    let n = check(unsafe {
        libc::readlinkat(dir.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
            as libc::c_long
    })?;
    Ok(n as usize)
}

pub(crate) fn mknod_at(dir: BorrowedFd<'_>, name: &CStr, mode: u32, dev: u64) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, dev) }).map(drop)
}

pub(crate) fn chown_at(dir: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe {
        libc::fchownat(dir.as_raw_fd(), name.as_ptr(), uid, gid, libc::AT_SYMLINK_NOFOLLOW)
    })
    .map(drop)
}

/// Goes back to the file's start.
pub(crate) fn rewind(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no memory arguments.
    check(unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_SET) }).map(drop)
}

/// The path of the directory `path` without links (`/proc/self/fd` knows it).
pub(crate) fn real_directory(path: &CStr) -> Result<std::path::PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let directory = open(path, libc::O_PATH | libc::O_DIRECTORY)?;
    let link = format!("/proc/self/fd/{}\0", directory.as_raw_fd());
    let link = CStr::from_bytes_until_nul(link.as_bytes()).map_err(|_| Errno::INVAL)?;
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    let real = readlink(link, &mut buffer)?;
    Ok(std::ffi::OsString::from_vec(real.to_vec()).into())
}

/// The contents of a file of the kernel's. Their sizes are not known before, so asking is waste.
pub(crate) fn read_control(path: &CStr) -> Result<Vec<u8>> {
    use std::os::fd::AsFd;
    let fd = open(path, libc::O_RDONLY)?;
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        match super::retry(|| read(fd.as_fd(), &mut buffer))? {
            0 => return Ok(bytes),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

/// As [`read_control`] for a file of one short line, which comes with the first read.
pub(crate) fn read_line(path: &CStr) -> Result<String> {
    use std::os::fd::AsFd;
    let fd = open(path, libc::O_RDONLY)?;
    let mut buffer = [0u8; 1024];
    let n = super::retry(|| read(fd.as_fd(), &mut buffer))?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// Opens /dev/null where the caller left a standard stream closed: else the next file that is
/// opened would be it.
pub(crate) fn fill_standard_streams() {
    let mut streams = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: three pollfd, as said.
    if unsafe { libc::poll(streams.as_mut_ptr(), 3, 0) } > 0 {
        for _ in streams.iter().filter(|s| s.revents & libc::POLLNVAL != 0) {
            // SAFETY: the lowest free number is the closed stream's; it stays open for good.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        }
    }
}
