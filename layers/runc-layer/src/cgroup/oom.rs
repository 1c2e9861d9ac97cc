//! Being told when the kernel kills for lack of memory in a cgroup.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Cgroup, c_path, read, write};
use crate::{Result, error::Context, sys::file};

/// A watch on one cgroup's memory.
#[derive(Debug)]
pub(crate) struct OomWatch {
    /// v1: the eventfd(2) that the kernel counts up. v2: the file that it marks as changed.
    descriptor: OwnedFd,
    version: u8,
    directory: PathBuf,
    kills: u64,
}

impl Cgroup {
    /// `None` where the cgroup has no memory controller.
    pub(crate) fn watch_oom(&self) -> Result<Option<OomWatch>> {
        let Some(directory) = self.directory("memory") else { return Ok(None) };
        let open = |name: &str| {
            let path = directory.join(name);
            file::open(&c_path(&path)?, libc::O_RDONLY).context(|| path.display().to_string())
        };
        let descriptor = if self.version == 2 {
            open("memory.events")?
        } else {
            // cgroup-v1/memory.rst, "10. OOM Control".
            let control = open("memory.oom_control")?;
            let event = file::eventfd().context(|| "eventfd".to_owned())?;
            let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            write(directory, "cgroup.event_control", &line)?;
            event
        };
        let kills = kills(directory);
        let directory = directory.to_owned();
        Ok(Some(OomWatch { descriptor, version: self.version, directory, kills }))
    }
}

impl OomWatch {
    /// Waits for a kill. `Ok(None)` says that the cgroup is gone, `false` that time is up.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<Option<bool>> {
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let what = || format!("poll {}", self.directory.display());
        let happened = match self.version {
            2 => file::poll_change(self.descriptor.as_fd(), timeout),
            _ => file::poll([self.descriptor.as_raw_fd()], timeout).map(|[ready]| ready),
        }
        .context(what)?;
        if !happened {
            return Ok(Some(false));
        }
        if self.version != 2 {
            // Taking the count makes it zero. The removal of the cgroup counts, too.
            let _ = file::read(self.descriptor.as_fd(), &mut [0u8; 8]);
            return Ok(self.directory.join("memory.oom_control").exists().then_some(true));
        }
        if !self.directory.join("memory.events").exists() {
            return Ok(None);
        }
        let before = std::mem::replace(&mut self.kills, kills(&self.directory));
        Ok(Some(self.kills > before))
    }
}

/// How many processes v2 has killed in the cgroup; only the growth says something.
fn kills(directory: &Path) -> u64 {
    read(directory, "memory.events")
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()))
        .unwrap_or(0)
}
