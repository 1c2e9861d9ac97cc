//! What is in a cgroup: listing, freezing, killing, removing.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{Cgroup, c_path, read, read_line, write};
use crate::{
    Error, Result,
    sys::{Errno, file, process},
};

impl Cgroup {
    /// The directory that is asked for processes.
    fn process_directory(&self) -> Option<&Path> {
        ["devices", "pids", "memory", "freezer"]
            .iter()
            .find_map(|controller| self.directory(controller))
            .or_else(|| self.paths.values().next().map(|p| p.as_path()))
    }

    /// The pids in the cgroup and below it.
    pub(crate) fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        if let Some(dir) = self.process_directory() {
            collect(dir, &mut pids)?;
        }
        Ok(pids)
    }

    /// As [`Cgroup::pids`], with those that have entered some of the hierarchies only: a child whose
    /// runtime was killed meanwhile.
    pub(super) fn pids_anywhere(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for dir in self.paths.values() {
            collect(dir, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Puts the process `pid` into it.
    pub(crate) fn add(&self, pid: i32) -> Result<()> {
        self.paths.values().try_for_each(|dir| write(dir, "cgroup.procs", &pid.to_string()))
    }

    /// Whether the cgroup is frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        let Some(dir) = self.directory("freezer") else { return false };
        match self.version {
            2 => read_line(dir, "cgroup.freeze").is_ok_and(|state| state == "1"),
            _ => read_line(dir, "freezer.state").is_ok_and(|state| state != "THAWED"),
        }
    }

    /// Freezes every process, and waits until it is so.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Thaws every process, and waits until it is so. A cgroup that is gone holds nobody: on v2 the
    /// killed leave the freezer by themselves, and systemd removes what they leave empty.
    pub(crate) fn thaw(&self) -> Result<()> {
        match self.set_frozen(false) {
            Err(Error::Os { errno: Errno::NOENT | Errno::NODEV, .. }) => Ok(()),
            other => other,
        }
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let dir = self
            .directory("freezer")
            .ok_or_else(|| Error::Invalid("cannot freeze: no freezer cgroup".into()))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        if self.version == 2 {
            write(dir, "cgroup.freeze", if frozen { "1" } else { "0" })?;
        }
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        loop {
            let done = if self.version == 2 {
                let wanted = if frozen { "frozen 1" } else { "frozen 0" };
                read(dir, "cgroup.events")?.lines().any(|line| line == wanted)
            } else {
                // A process that forks while it is being frozen can keep the state at FREEZING
                // until it is asked again.
                write(dir, "freezer.state", wanted)?;
                read_line(dir, "freezer.state")? == wanted
            };
            if done {
                return Ok(());
            }
            if Instant::now() > deadline {
                if frozen {
                    let _ = self.thaw();
                }
                return Err(Error::Invalid("unable to freeze".into()));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Sends `signal` to every process in the cgroup; one that is gone meanwhile is no error.
    pub(crate) fn signal_all(&self, signal: i32) -> Result<()> {
        let freezable = self.directory("freezer").is_some() && !self.is_frozen();
        // Frozen, nothing can fork away between the listing and the signal.
        let frozen = freezable && self.freeze().is_ok();
        let result = self.pids_anywhere().and_then(|pids| {
            for pid in pids {
                match process::kill(pid, signal) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(e) => return Err(Error::os(format!("kill {pid}"), e)),
                }
            }
            Ok(())
        });
        if frozen {
            self.thaw()?;
        }
        result
    }

    /// Removes the directories and what is below them, waiting for processes that are just
    /// exiting. A unit is stopped first.
    pub(crate) fn remove(&self) -> Result<()> {
        if let Some(unit) = self.unit.as_ref().filter(|unit| !unit.is_started()) {
            return self.forget_unit(unit);
        }
        let stopped = self.unit.as_ref().map_or(Ok(()), |unit| unit.stop());
        let deadline = Instant::now() + Duration::from_secs(2);
        // systemd knows nothing of some, and those are not to stay when it fails.
        self.paths.values().try_for_each(|path| remove(path, deadline)).and(stopped)
    }

    /// Whether the container made it. Of a unit that was not started yet, one of the same name is
    /// another's.
    pub(crate) fn is_ours(&self) -> bool {
        self.unit.as_ref().is_none_or(|unit| unit.is_started())
    }
}

fn collect(dir: &Path, pids: &mut Vec<i32>) -> Result<()> {
    match read(dir, "cgroup.procs") {
        Ok(text) => pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok())),
        // A name that is too long is nothing's.
        Err(Error::Os { errno: Errno::NOENT | Errno::NODEV | Errno::NAMETOOLONG, .. }) => {
            return Ok(());
        }
        // A threaded cgroup lists its processes in its domain only.
        Err(Error::Os { errno: Errno::OPNOTSUPP, .. }) => {}
        Err(e) => return Err(e),
    }
    for child in children(dir) {
        collect(&child, pids)?;
    }
    Ok(())
}

fn children(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

fn remove(dir: &Path, deadline: Instant) -> Result<()> {
    let path = c_path(dir)?;
    let mut pause = Duration::from_micros(100);
    loop {
        match file::rmdir(&path) {
            Ok(()) | Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(()),
            Err(Errno::BUSY) => {
                for child in children(dir) {
                    remove(&child, deadline)?;
                }
                match file::rmdir(&path) {
                    Ok(()) | Err(Errno::NOENT) => return Ok(()),
                    Err(Errno::BUSY) if Instant::now() < deadline => {
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(10));
                    }
                    Err(e) => return Err(Error::os(format!("rmdir {}", dir.display()), e)),
                }
            }
            Err(e) => return Err(Error::os(format!("rmdir {}", dir.display()), e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_that_vanishes_is_thawed_and_cannot_be_frozen() {
        let place = std::env::temp_dir().join(format!("strata-vanished-{}", std::process::id()));
        for version in [1, 2] {
            let paths = [("freezer".to_owned(), place.clone())].into();
            let cgroup = Cgroup { version, paths, unit: None };
            assert!(cgroup.freeze().is_err());
            cgroup.thaw().expect("nobody is frozen");
            cgroup.signal_all(9).expect("nobody is there");
        }
    }
}
