//! Copying a directory's contents, for a tmpfs with `tmpcopyup`.

use std::{
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd},
};

use crate::sys::{Errno, Result, file};

/// Directories are copied this deep; a tree that goes on is a mistake or an attack.
const DEPTH: u8 = 64;

/// Copies all that is in `from` into `to`, links as links, with modes and owners.
pub(super) fn contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    level(from, to, DEPTH)
}

fn level(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u8) -> Result<()> {
    if depth == 0 {
        return Err(Errno::LOOP);
    }
    let mut buffer = [0u8; 2048];
    loop {
        let n = file::getdents(from, &mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        let mut at = 0;
        // linux_dirent64: inode 8, offset 8, length 2, type 1, name.
        while at + 19 <= n {
            let len = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            let record = buffer.get(at + 19..at + len).ok_or(Errno::INVAL)?;
            let name = CStr::from_bytes_until_nul(record).map_err(|_| Errno::INVAL)?;
            if name != c"." && name != c".." {
                entry(from, to, name, depth)?;
            }
            at += len;
        }
    }
}

fn entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u8) -> Result<()> {
    let stat = file::lstat_at(from, name)?;
    match stat.mode & libc::S_IFMT {
        libc::S_IFDIR => {
            file::mkdir_at(to, name, stat.mode & 0o7777)?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let below = file::openat(from, name, flags, 0)?;
            let copy = file::openat(to, name, flags, 0)?;
            level(below.as_fd(), copy.as_fd(), depth - 1)?;
        }
        libc::S_IFREG => {
            let source = file::openat(from, name, libc::O_RDONLY | libc::O_NOFOLLOW, 0)?;
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
            let copy = file::openat(to, name, flags, stat.mode & 0o7777)?;
            while file::sendfile(copy.as_fd(), source.as_fd(), 1 << 30)? > 0 {}
        }
        libc::S_IFLNK => {
            let mut target = [0u8; libc::PATH_MAX as usize];
            // The last byte stays zero.
            let end = target.len() - 1;
            file::readlink_at(from, name, &mut target[..end])?;
            let target = CStr::from_bytes_until_nul(&target).map_err(|_| Errno::INVAL)?;
            file::symlink_at(target, to, name)?;
        }
        _ => file::mknod_at(to, name, stat.mode, stat.rdev)?,
    }
    file::chown_at(to, name, stat.uid, stat.gid)
}
