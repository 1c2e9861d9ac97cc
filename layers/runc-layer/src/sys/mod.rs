//! The system calls, and the only unsafe code of the layer.
//!
//! What the child between clone and exec calls takes `&CStr`, descriptors and plain numbers,
//! allocates nothing and takes no lock. Calls that the C library would spread over all threads
//! (`setuid` and its family) go to the kernel directly: after a raw clone the library's list of
//! threads is the parent's.

pub(crate) mod bpf;
pub(crate) mod credentials;
mod errno;
pub(crate) mod file;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod socket;
pub(crate) mod strings;
pub(crate) mod tty;

pub use errno::Errno;
pub(crate) use errno::Result;

use std::os::fd::{FromRawFd, OwnedFd};

fn check(ret: libc::c_long) -> Result<libc::c_long> {
    if ret < 0 { Err(Errno::last()) } else { Ok(ret) }
}

fn check_int(ret: libc::c_int) -> Result<libc::c_int> {
    if ret < 0 { Err(Errno::last()) } else { Ok(ret) }
}

fn owned(ret: libc::c_long) -> Result<OwnedFd> {
    let fd = check(ret)?;
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Tries again while a signal interrupts.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
