//! The commands for a container that exists.

use std::{
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use super::{Runtime, State};
use crate::{
    Error, Result,
    cgroup::OomWatch,
    error::Context,
    init::{hooks, report::hook_error},
    plan::HookCommand,
    spec::{Resources, decode},
    state::{Directory, Record, Status},
    sys::{Errno, file, process},
};

fn state_of(record: Record, directory: &Directory) -> Result<State> {
    let status = record.status(directory)?;
    Ok(State {
        oci_version: record.oci_version,
        id: record.id,
        pid: if status == Status::Stopped { 0 } else { record.pid },
        status,
        bundle: record.bundle,
        rootfs: record.rootfs,
        created: record.created,
        annotations: record.annotations,
        owner_uid: record.owner,
    })
}

impl Runtime {
    /// Lets a created container's program run.
    ///
    /// # Errors
    ///
    /// [`Error::State`] when it was started before or has stopped; the text of a poststart hook
    /// that failed.
    pub fn start(&self, id: &str) -> Result<()> {
        let (directory, record) = self.find(id)?;
        match record.status(&directory)? {
            Status::Created => {}
            Status::Stopped | Status::Creating => {
                return Err(Error::State("cannot start a container that has stopped".into()));
            }
            Status::Paused => {
                return Err(Error::State("cannot start a container in the paused state".into()));
            }
            _ => return Err(Error::State("cannot start an already running container".into())),
        }
        let path = directory.fifo()?;
        let fifo = match file::open(&path, libc::O_WRONLY | libc::O_NONBLOCK) {
            // No reader: the process ended, or went on, between the look and the opening.
            Err(Errno(libc::ENXIO)) => return Err(Error::NotRunning),
            other => other.context(|| "open exec fifo".to_owned())?,
        };
        file::write(fifo.as_fd(), b"0").context(|| "write exec fifo".to_owned())?;
        file::unlink(&path).context(|| "remove exec fifo".to_owned())?;
        if !record.hooks.poststart.is_empty() {
            // They come after the program (runtime-spec, "Poststart"), and the other side of the
            // fifo is closed by the exec.
            file::poll([fifo.as_raw_fd()], 10_000).context(|| "poll exec fifo".to_owned())?;
        }
        poststart(&record)
    }

    /// What the container is doing.
    ///
    /// # Errors
    ///
    /// [`Error::NotExist`].
    pub fn state(&self, id: &str) -> Result<State> {
        let (directory, record) = self.find(id)?;
        state_of(record, &directory)
    }

    /// All containers below the root, by id. A record that cannot be read is left out.
    pub fn list(&self) -> Result<Vec<State>> {
        let entries = match std::fs::read_dir(self.root()) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::os(self.root().display().to_string(), e.into())),
        };
        let mut ids: Vec<String> =
            entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        ids.sort();
        Ok(ids.iter().filter_map(|id| self.state(id).ok()).collect())
    }

    /// Sends `signal` to the container's process, or to all of its processes.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] when its process is gone; `all` is content with that. Without a
    /// cgroup, as rootless, `all` is its process (runc 1.2), with which a pid namespace ends.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let (_, record) = self.find(id)?;
        if all && record.cgroup.exists() {
            record.cgroup.signal_all(signal)?;
        } else {
            match signal_init(&record, signal) {
                Err(Error::NotRunning) if all => {}
                other => other?,
            }
        }
        if signal == libc::SIGKILL && record.cgroup.is_frozen() {
            // A frozen process dies only when it thaws.
            record.cgroup.thaw()?;
        }
        Ok(())
    }

    /// Removes what `create` made and runs the poststop hooks.
    ///
    /// # Errors
    ///
    /// [`Error::NotExist`] unless `force`; [`Error::State`] for one that runs unless `force`, which
    /// kills it.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        self.remove(id, force, &mut |_| {})
    }

    /// As [`Runtime::delete`]; `warn` is told of poststop hooks that failed.
    pub(crate) fn remove(&self, id: &str, force: bool, warn: &mut dyn FnMut(String)) -> Result<()> {
        let directory = Directory::new(self.root(), id)?;
        let record = match directory.load() {
            Ok(record) => record,
            Err(e) => {
                // A directory without a readable record is what a killed `create` left before it
                // had made anything else.
                let known = directory.exists();
                if known && (force || matches!(e, Error::NotExist)) {
                    directory.remove()?;
                }
                let gone = matches!(e, Error::NotExist);
                return if force && (known || gone) { Ok(()) } else { Err(e) };
            }
        };
        if force && record.restoring && record.cgroup.exists() {
            // While CRIU traces the processes, those that are killed do not go.
            record.cgroup.signal_all(libc::SIGKILL)?;
        }
        match record.status(&directory)? {
            Status::Stopped => {}
            Status::Created => kill_init(&record)?,
            _ if force => kill_init(&record)?,
            status => {
                return Err(Error::State(format!(
                    "cannot delete container {id} that is not stopped: {}",
                    status.name()
                )));
            }
        }
        destroy(&directory, &record, warn)
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] unless it runs or waits for start.
    pub fn pause(&self, id: &str) -> Result<()> {
        let (directory, record) = self.find(id)?;
        match record.status(&directory)? {
            Status::Running | Status::Created => record.cgroup.freeze(),
            _ => Err(Error::NotRunning),
        }
    }

    /// Thaws a paused container.
    ///
    /// # Errors
    ///
    /// [`Error::State`] unless it is paused.
    pub fn resume(&self, id: &str) -> Result<()> {
        let (_, record) = self.find(id)?;
        if !record.is_alive() || !record.cgroup.is_frozen() {
            return Err(Error::State("container not paused".into()));
        }
        record.cgroup.thaw()
    }

    /// Changes limits; `resources` is a `linux.resources` object as JSON, and what is absent in it
    /// stays.
    ///
    /// # Errors
    ///
    /// [`Error::Spec`] for JSON that is none, [`Error::Os`] for a value that the kernel refuses.
    pub fn update(&self, id: &str, resources: &[u8]) -> Result<()> {
        let resources: Resources = decode(resources, "resources")?;
        let (_, record) = self.find(id)?;
        if !record.is_alive() {
            return Err(Error::NotRunning);
        }
        record.cgroup.update(&resources)
    }

    /// The pids of the container's processes in the caller's pid namespace.
    ///
    /// # Errors
    ///
    /// [`Error::NotExist`].
    pub fn ps(&self, id: &str) -> Result<Vec<i32>> {
        let (_, record) = self.find(id)?;
        record.cgroup.pids()
    }

    /// A watch on the container's memory; `None` where it has no memory cgroup.
    pub(crate) fn watch_oom(&self, id: &str) -> Result<Option<OomWatch>> {
        let (_, record) = self.find(id)?;
        if !record.is_alive() {
            return Err(Error::NotRunning);
        }
        record.cgroup.watch_oom()
    }

    /// The container's usage, in the shape of runc's stats event data.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`].
    pub fn stats(&self, id: &str) -> Result<serde_json::Value> {
        let (_, record) = self.find(id)?;
        if !record.is_alive() {
            return Err(Error::NotRunning);
        }
        Ok(record.cgroup.stats())
    }
}

/// Runs the hooks that come after the program has started.
pub(super) fn poststart(record: &Record) -> Result<()> {
    let commands = HookCommand::list(&record.hooks.poststart)?;
    hooks::run(&commands, &record.for_hooks(Status::Running, record.pid)).map_err(|(i, errno)| {
        let _ = process::kill(record.pid, libc::SIGKILL);
        Error::Start(format!("error running poststart hook #{i}: {}", hook_error(errno)))
    })
}

/// Kills the container's process and waits for its end.
fn kill_init(record: &Record) -> Result<()> {
    let pidfd = match record.pidfd() {
        Err(Error::NotRunning) => return Ok(()),
        other => other?,
    };
    match process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL) {
        Ok(()) => {}
        Err(Errno::SRCH) => return Ok(()),
        Err(e) => return Err(Error::os(format!("kill {}", record.pid), e)),
    }
    if record.cgroup.is_frozen() {
        record.cgroup.thaw()?;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if let [true] = file::poll([pidfd.as_raw_fd()], 1000).context(|| "poll".to_owned())? {
            return Ok(());
        }
    }
    Err(Error::State("container init still running".into()))
}

fn signal_init(record: &Record, signal: i32) -> Result<()> {
    let pidfd = record.pidfd()?;
    match process::pidfd_signal(pidfd.as_fd(), signal) {
        Err(Errno::SRCH) => Err(Error::NotRunning),
        other => other.context(|| "unable to signal init".to_owned()),
    }
}

fn destroy(directory: &Directory, record: &Record, warn: &mut dyn FnMut(String)) -> Result<()> {
    let shares_pids = record.namespaces & libc::CLONE_NEWPID == 0;
    let alone = shares_pids || record.pid == 0 || record.restoring;
    if alone && record.cgroup.is_ours() && record.cgroup.exists() {
        // Without a pid namespace of its own nothing ends with init; and of a runtime that was
        // killed, a child may be left that nobody recorded, or CRIU.
        record.cgroup.signal_all(libc::SIGKILL)?;
    }
    record.cgroup.remove()?;
    record.unmount();
    directory.remove()?;
    let commands = HookCommand::list(&record.hooks.poststop)?;
    let state = record.for_hooks(Status::Stopped, 0);
    for (i, command) in commands.into_iter().enumerate() {
        // One that fails changes nothing any more, not for the others either, but is told of
        // (runtime-spec, "Lifecycle", 13).
        if let Err((_, errno)) = hooks::run(&[command], &state) {
            warn(format!("error running hook #{i}: {}", hook_error(errno)));
        }
    }
    Ok(())
}
