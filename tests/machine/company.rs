//! The test programs on this machine, of this checkout and of others.
//!
//! Who watches what is left behind must be alone; who only makes mounts, links, cgroups or
//! processes says so, and is waited for. The lock is on a directory that is there for every
//! checkout and every user, so that no file of its own is left.

#![allow(dead_code, reason = "each test program is one or the other")]

use std::{fs::File, sync::OnceLock};

use nix::fcntl::{Flock, FlockArg};

fn lock(how: FlockArg) -> Flock<File> {
    Flock::lock(File::open("/tmp").unwrap(), how).map_err(|(_, e)| e).unwrap()
}

/// Waits until nobody else is here, and keeps others away.
pub(crate) fn alone() -> Flock<File> {
    lock(FlockArg::LockExclusive)
}

/// Keeps those away who must be alone, until this process ends.
pub(crate) fn announce() {
    static HERE: OnceLock<Flock<File>> = OnceLock::new();
    HERE.get_or_init(|| lock(FlockArg::LockShared));
}
