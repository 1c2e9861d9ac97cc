//! Whether the kernel had to kill for want of memory in a container's cgroup.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    poll::{PollFd, PollFlags},
    sys::eventfd::{EfdFlags, EventFd},
    unistd::read,
};

use super::{cgroup::Cgroup, stats::field};

/// A watch on one container's memory.
#[derive(Debug)]
pub(super) enum Watch {
    /// v1: an eventfd that the kernel adds to, and the control file whose end says that the
    /// cgroup's removal was the event.
    V1 {
        /// The counter.
        event: EventFd,
        /// `memory.oom_control`.
        control: PathBuf,
    },
    /// v2: `memory.events`, which polls as exceptional when it changes.
    V2 {
        /// The file.
        events: File,
        /// The count of kills that has been reported.
        seen: u64,
    },
}

impl Watch {
    /// Begins to watch; `None` where there is no memory controller.
    ///
    /// # Errors
    /// Those of the cgroup's files.
    pub(super) fn begin(cgroup: &Cgroup) -> io::Result<Option<Watch>> {
        if let Some(dir) = cgroup.v2() {
            let events = match File::open(dir.join("memory.events")) {
                Ok(events) => events,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            };
            let seen = kills(&events)?;
            return Ok(Some(Watch::V2 { events, seen }));
        }
        cgroup.v1("memory").map(|dir| Watch::begin_v1(&dir)).transpose()
    }

    fn begin_v1(dir: &Path) -> io::Result<Watch> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let control = dir.join("memory.oom_control");
        let file = File::open(&control)?;
        let line = format!("{} {}", event.as_fd().as_raw_fd(), file.as_raw_fd());
        fs::write(dir.join("cgroup.event_control"), line)?;
        Ok(Watch::V1 { event, control })
    }

    /// What is to be waited for.
    pub(super) fn interest(&self) -> PollFd<'_> {
        match self {
            Watch::V1 { event, .. } => PollFd::new(event.as_fd(), PollFlags::POLLIN),
            Watch::V2 { events, .. } => PollFd::new(events.as_fd(), PollFlags::POLLPRI),
        }
    }

    /// Whether there was a kill since the last time; an error when there will be none any more.
    pub(super) fn check(&mut self) -> io::Result<bool> {
        match self {
            Watch::V1 { event, control } => {
                if read(event, &mut [0; 8]).is_err() {
                    return Ok(false);
                }
                fs::metadata(control)?;
                Ok(true)
            }
            Watch::V2 { events, seen } => {
                let count = kills(events)?;
                Ok(std::mem::replace(seen, count) < count)
            }
        }
    }
}

fn kills(events: &File) -> io::Result<u64> {
    let mut text = [0; 512];
    let n = events.read_at(&mut text, 0)?;
    Ok(field(&String::from_utf8_lossy(&text[..n]), "oom_kill"))
}
