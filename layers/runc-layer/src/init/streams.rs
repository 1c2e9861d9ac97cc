//! The standard streams that are the host's /dev/null become the container's.
//!
//! Through a descriptor the container could change the host's node (runc has done this since 2013
//! as `reOpenDevNull`), and CRIU writes down no file that the container's mounts do not show.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::{Result, file};

/// Opens what is /dev/null anew, in the root that the process is in by now.
pub(super) fn reopen_null() -> Result<()> {
    let is_null = |fd: BorrowedFd<'_>| file::fstat(fd).is_ok_and(|stat| stat.is_char(1, 3));
    let mut ours: Option<OwnedFd> = None;
    for fd in 0..3 {
        if !is_null(file::borrow(fd)) {
            continue;
        }
        if ours.is_none() {
            ours = match file::open(c"/dev/null", libc::O_RDWR | libc::O_NOFOLLOW) {
                Ok(opened) => Some(opened).filter(|null| is_null(null.as_fd())),
                Err(_) => None,
            };
        }
        // What else the container has there is no place for its streams.
        let Some(null) = &ours else { return Ok(()) };
        file::dup_onto(null.as_raw_fd(), fd)?;
    }
    Ok(())
}
