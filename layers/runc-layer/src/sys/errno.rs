//! The kernel's error numbers with the texts that runc's clients know.

use std::fmt;

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

/// The result of a system call.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

impl Errno {
    pub(crate) const PERM: Errno = Errno(libc::EPERM);
    pub(crate) const NOENT: Errno = Errno(libc::ENOENT);
    pub(crate) const SRCH: Errno = Errno(libc::ESRCH);
    pub(crate) const INTR: Errno = Errno(libc::EINTR);
    pub(crate) const ACCES: Errno = Errno(libc::EACCES);
    pub(crate) const EXIST: Errno = Errno(libc::EEXIST);
    pub(crate) const NOTDIR: Errno = Errno(libc::ENOTDIR);
    pub(crate) const ISDIR: Errno = Errno(libc::EISDIR);
    pub(crate) const INVAL: Errno = Errno(libc::EINVAL);
    pub(crate) const ROFS: Errno = Errno(libc::EROFS);
    pub(crate) const BUSY: Errno = Errno(libc::EBUSY);
    pub(crate) const AGAIN: Errno = Errno(libc::EAGAIN);
    pub(crate) const NOSYS: Errno = Errno(libc::ENOSYS);
    pub(crate) const NODEV: Errno = Errno(libc::ENODEV);
    pub(crate) const XDEV: Errno = Errno(libc::EXDEV);
    pub(crate) const NAMETOOLONG: Errno = Errno(libc::ENAMETOOLONG);
    pub(crate) const LOOP: Errno = Errno(libc::ELOOP);
    pub(crate) const OPNOTSUPP: Errno = Errno(libc::EOPNOTSUPP);
    pub(crate) const TIMEDOUT: Errno = Errno(libc::ETIMEDOUT);

    /// What the last failing call of this thread left.
    pub(crate) fn last() -> Errno {
        Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<std::io::Error> for Errno {
    fn from(e: std::io::Error) -> Errno {
        Errno(e.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for Errno {
    /// Go's texts, which are the C library's without the capital: `no such file or directory`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        match text.as_bytes() {
            [first, second, ..] if first.is_ascii_uppercase() && second.is_ascii_lowercase() => {
                write!(f, "{}{}", first.to_ascii_lowercase() as char, &text[1..])
            }
            _ => f.write_str(text),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}
