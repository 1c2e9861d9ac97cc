//! A container: its init, its exec'd processes, and what becomes of them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use hops::{
    Cx, HopError, Oci, Result, oci,
    op::now,
    proto::containerd::{
        task::v2::{CreateTaskRequest, ExecProcessRequest, KillRequest, StateResponse},
        v1::types::Status,
    },
};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use oci_spec::runtime;

use super::{
    bundle::{self, Options},
    cgroup::Cgroup,
    console::Console,
    logger,
    oom::Watch,
    process::{Exit, Process, failed, refused},
    rootfs::{self, Rootfs},
    runtime::Runtimes,
    stdio::{Names, Owner},
};

/// A container and its processes.
pub(super) struct Container {
    id: String,
    bundle: PathBuf,
    /// Where its root filesystem is mounted, if the shim did it.
    rootfs: Option<PathBuf>,
    options: Options,
    runtime: Arc<dyn Oci>,
    /// Its first process.
    pub(super) init: Process,
    /// By their ids.
    pub(super) execs: BTreeMap<String, Exec>,
    cgroup: Option<Cgroup>,
    watch: Watching,
}

/// An exec'd process, and until it is started what it is to be.
pub(super) struct Exec {
    pub(super) process: Process,
    spec: Option<runtime::Process>,
}

/// Whether the kernel's kills for memory are watched.
enum Watching {
    NotYet,
    Yes(Watch),
    No,
}

impl Container {
    /// Mounts the root filesystem and has the runtime create the container. On a failure nothing
    /// of it is left.
    ///
    /// # Errors
    /// Those of the request, of mounting, of opening the streams, and the runtime's own words.
    pub(super) fn create(
        cx: &Cx,
        runtimes: &Runtimes,
        namespace: &str,
        op: CreateTaskRequest,
    ) -> Result<Container> {
        let options = Options::read(op.options.as_ref())?;
        let bundle = PathBuf::from(op.bundle);
        options.write(&bundle).map_err(|e| {
            HopError::from(e).context(format!("write options to {}", bundle.display()))
        })?;
        let runtime = runtimes.of(&options, &bundle);
        let rootfs = Rootfs::mount(&bundle, &op.rootfs)?;
        let state = runtimes.root(&options).join(&op.id);
        let mut undo = Undo {
            runtime: &runtime,
            id: &op.id,
            bundle: &bundle,
            state: (!state.exists()).then_some(state),
            done: false,
        };

        let mut init = Process::new(Names {
            stdin: op.stdin,
            stdout: op.stdout,
            stderr: op.stderr,
            terminal: op.terminal,
        });
        let pid_file = bundle.join(bundle::INIT_PID);
        init.make(owner(&op.id, namespace, &options), |stdio, console_socket| {
            now(runtime.handle(
                cx,
                oci::Create {
                    id: op.id.clone(),
                    bundle: bundle.clone(),
                    pid_file: Some(pid_file.clone()),
                    console_socket,
                    no_pivot: options.no_pivot_root,
                    no_new_keyring: options.no_new_keyring,
                    stdio,
                },
            ))
            .map_err(failed("OCI runtime create failed"))
        })?;
        init.pid = bundle::read_pid(&pid_file)
            .map_err(|e| e.context("failed to retrieve OCI runtime container pid"))?;
        undo.done = true;
        drop(undo);
        Ok(Container {
            id: op.id,
            bundle,
            rootfs: rootfs.map(Rootfs::keep),
            options,
            runtime,
            init,
            execs: BTreeMap::new(),
            cgroup: None,
            watch: Watching::NotYet,
        })
    }

    /// Starts the init or an exec, and returns its pid.
    ///
    /// # Errors
    /// When it is not in the state for it, and the runtime's own words.
    pub(super) fn start(&mut self, cx: &Cx, namespace: &str, exec_id: &str) -> Result<u32> {
        if exec_id.is_empty() {
            self.init_is("start", &[Status::Created])?;
            now(self.runtime.handle(cx, oci::Start { id: self.id.clone() }))
                .map_err(failed("OCI runtime start failed"))?;
            self.init.status = Status::Running;
            return Ok(self.init.pid);
        }
        let pid_file = self.exec_pid_file(exec_id);
        let exec = self.execs.get_mut(exec_id).ok_or_else(|| no_process(exec_id))?;
        if exec.process.status != Status::Created {
            let status = adjective(exec.process.status);
            return Err(refused(format_args!("cannot start a {status} process")));
        }
        let spec = exec.spec.take().ok_or_else(|| refused("cannot start a failed process"))?;
        let (runtime, id) = (&self.runtime, &self.id);
        let made =
            exec.process.make(owner(exec_id, namespace, &self.options), |stdio, console_socket| {
                now(runtime.handle(
                    cx,
                    oci::Exec {
                        id: id.clone(),
                        process: spec,
                        pid_file: Some(pid_file.clone()),
                        console_socket,
                        stdio,
                    },
                ))
                .map_err(failed("OCI runtime exec failed"))
            });
        let pid = made.and_then(|()| {
            bundle::read_pid(&pid_file)
                .map_err(|e| e.context("failed to retrieve OCI runtime exec pid"))
        });
        match pid {
            Ok(pid) => {
                exec.process.pid = pid;
                exec.process.status = Status::Running;
                Ok(pid)
            }
            Err(error) => {
                // Whoever waits for it waits no longer; it has no end to tell of.
                let _ = exec.process.exit.set(Exit::default());
                Err(error)
            }
        }
    }

    /// Adds a process that is yet to be started.
    ///
    /// # Errors
    /// An id that is taken, a state in which nothing can be added, a process that cannot be read.
    pub(super) fn exec(&mut self, op: ExecProcessRequest) -> Result<()> {
        if self.execs.contains_key(&op.exec_id) {
            let words = format!("id {}: already exists", op.exec_id);
            return Err(HopError::new(hops::Kind::AlreadyExists, words));
        }
        if let status @ (Status::Paused | Status::Stopped) = self.init.status {
            return Err(refused(format_args!("cannot exec in a {} state", adjective(status))));
        }
        let document = op.spec.unwrap_or_default().value;
        let mut spec: runtime::Process = serde_json::from_slice(&document)
            .map_err(|e| HopError::invalid(format!("process of exec {}: {e}", op.exec_id)))?;
        spec.set_terminal(Some(op.terminal));
        let names =
            Names { stdin: op.stdin, stdout: op.stdout, stderr: op.stderr, terminal: op.terminal };
        self.execs.insert(op.exec_id, Exec { process: Process::new(names), spec: Some(spec) });
        Ok(())
    }

    /// Deletes an exec that does not run.
    ///
    /// # Errors
    /// When it runs or does not exist.
    pub(super) fn delete_exec(&mut self, exec_id: &str) -> Result<Process> {
        if self.process(exec_id)?.status == Status::Running {
            return Err(refused("cannot delete a running process"));
        }
        let exec = self.execs.remove(exec_id).ok_or_else(|| no_process(exec_id))?;
        // It is not there when the process was never started.
        let _ = fs::remove_file(self.exec_pid_file(exec_id));
        Ok(exec.process)
    }

    /// Has the runtime delete the container and unmounts its root filesystem.
    ///
    /// # Errors
    /// When it runs, the runtime's own words, and those of unmounting.
    pub(super) fn delete(&mut self, cx: &Cx) -> Result<()> {
        self.init_is("delete", &[Status::Created, Status::Stopped])?;
        // A created container's init waits for its start: the runtime refuses to delete it
        // otherwise, or has to kill it first.
        let force = self.init.status == Status::Created;
        let deleted = now(self.runtime.handle(cx, oci::Delete { id: self.id.clone(), force }));
        let deleted = match deleted {
            Err(error) if !error.message.contains("does not exist") => Err(error),
            _ => Ok(()),
        };
        if let Some(rootfs) = &self.rootfs {
            rootfs::detach(rootfs).map_err(|e| {
                refused(format_args!("failed rootfs umount: {}: {e}", rootfs.display()))
            })?;
        }
        deleted.map_err(failed("failed to delete task"))
    }

    /// Freezes or thaws every process.
    ///
    /// # Errors
    /// When the state does not allow it, and the runtime's own words.
    pub(super) fn pause(&mut self, cx: &Cx, pause: bool) -> Result<()> {
        let id = self.id.clone();
        match (pause, self.init.status) {
            (true, Status::Running) => now(self.runtime.handle(cx, oci::Pause { id }))
                .map_err(failed("OCI runtime pause failed"))?,
            (false, Status::Paused) => now(self.runtime.handle(cx, oci::Resume { id }))
                .map_err(failed("OCI runtime resume failed"))?,
            (_, status) => {
                let verb = if pause { "pause" } else { "resume" };
                return Err(refused(match status {
                    Status::Created => format!("cannot {verb} task in created state"),
                    Status::Running => format!("cannot {verb} a running process"),
                    status => format!("cannot {verb} a {} container", adjective(status)),
                }));
            }
        }
        self.init.status = if pause { Status::Paused } else { Status::Running };
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`hops::Kind::NotFound`] when the process is over.
    pub(super) fn kill(&mut self, cx: &Cx, op: &KillRequest) -> Result<()> {
        let process = self.process(&op.exec_id)?;
        if op.exec_id.is_empty() {
            if process.status == Status::Stopped && !op.all {
                return Err(finished());
            }
            let signal = i32::try_from(op.signal).unwrap_or(i32::MAX);
            let call = oci::Kill { id: self.id.clone(), signal, all: op.all };
            return now(self.runtime.handle(cx, call)).map_err(kill_error);
        }
        if process.pid == 0 {
            return Err(HopError::new(
                hops::Kind::FailedPrecondition,
                "process not created: failed precondition",
            ));
        }
        if process.exit.get().is_some() {
            return Err(finished());
        }
        let signal = i32::try_from(op.signal)
            .ok()
            .and_then(|n| Signal::try_from(n).ok())
            .ok_or_else(|| HopError::invalid(format!("unknown signal {}", op.signal)))?;
        kill(Pid::from_raw(process.pid as i32), signal).map_err(|e| match e {
            Errno::ESRCH => finished().context("exec kill error"),
            e => refused(format_args!("exec kill error: {e}")),
        })
    }

    /// Changes the limits.
    ///
    /// # Errors
    /// Resources that cannot be read, a container that is over, and the runtime's own words.
    pub(super) fn update(&mut self, cx: &Cx, resources: &[u8]) -> Result<()> {
        if self.init.status == Status::Stopped {
            return Err(refused("cannot update a stopped container"));
        }
        let resources = serde_json::from_slice(resources)
            .map_err(|e| HopError::invalid(format!("resources: {e}")))?;
        let id = self.id.clone();
        now(self.runtime.handle(cx, oci::Update { id, resources })).map_err(|mut error| {
            error.message.push_str(": unknown");
            error
        })
    }

    /// Every pid, as the runtime knows them.
    ///
    /// # Errors
    /// The runtime's own words.
    pub(super) fn pids(&self, cx: &Cx) -> Result<Vec<i32>> {
        now(self.runtime.handle(cx, oci::Ps { id: self.id.clone() }))
    }

    /// The init for an empty id, otherwise an exec.
    ///
    /// # Errors
    /// [`hops::Kind::NotFound`].
    pub(super) fn process(&self, exec_id: &str) -> Result<&Process> {
        if exec_id.is_empty() {
            return Ok(&self.init);
        }
        Ok(&self.execs.get(exec_id).ok_or_else(|| no_process(exec_id))?.process)
    }

    /// As [`Container::process`].
    ///
    /// # Errors
    /// [`hops::Kind::NotFound`].
    pub(super) fn process_mut(&mut self, exec_id: &str) -> Result<&mut Process> {
        if exec_id.is_empty() {
            return Ok(&mut self.init);
        }
        Ok(&mut self.execs.get_mut(exec_id).ok_or_else(|| no_process(exec_id))?.process)
    }

    /// Every process, the init last.
    pub(super) fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.execs.values_mut().map(|e| &mut e.process).chain(std::iter::once(&mut self.init))
    }

    /// Every terminal.
    pub(super) fn consoles(&self) -> impl Iterator<Item = &Console> {
        let execs = self.execs.values().map(|e| &e.process);
        execs.chain(std::iter::once(&self.init)).filter_map(Process::console)
    }

    /// What `State` answers.
    ///
    /// # Errors
    /// [`hops::Kind::NotFound`].
    pub(super) fn state(&self, exec_id: &str) -> Result<StateResponse> {
        let process = self.process(exec_id)?;
        // A container that is frozen is so as a whole.
        let status = match self.init.status {
            Status::Paused => Status::Paused,
            _ => process.status,
        };
        let exit = process.exit();
        let names = process.names.clone();
        Ok(StateResponse {
            id: if exec_id.is_empty() { self.id.clone() } else { exec_id.to_owned() },
            bundle: self.bundle.display().to_string(),
            pid: process.pid,
            status: status.into(),
            stdin: names.stdin,
            stdout: names.stdout,
            stderr: names.stderr,
            terminal: names.terminal,
            exit_status: exit.status,
            exited_at: exit.at,
            exec_id: exec_id.to_owned(),
        })
    }

    /// Notes that the child `pid` has ended with `status`: `Some` when it was a process of this
    /// container, with its id as events give it.
    pub(super) fn reaped(&mut self, pid: u32, status: u32) -> Option<(String, Exit)> {
        if self.init.is(pid) {
            let background = Cx::background();
            if bundle::shares_pid_namespace(&self.bundle) {
                let call =
                    oci::Kill { id: self.id.clone(), signal: Signal::SIGKILL as i32, all: true };
                if let Err(error) = now(self.runtime.handle(&background, call)) {
                    logger::debug(format_args!("killing the children of {}: {error}", self.id));
                }
            }
            if self.init.status == Status::Paused {
                // A frozen cgroup can neither be emptied nor removed.
                let thaw = oci::Resume { id: self.id.clone() };
                if let Err(error) = now(self.runtime.handle(&background, thaw)) {
                    logger::warn(format_args!("resuming {} from paused: {error}", self.id));
                }
            }
            return Some((self.id.clone(), self.init.exited(status)));
        }
        let (id, exec) = self.execs.iter_mut().find(|(_, exec)| exec.process.is(pid))?;
        Some((id.clone(), exec.process.exited(status)))
    }

    /// Its cgroups, found when they are first asked for.
    pub(super) fn cgroup(&mut self) -> Option<&Cgroup> {
        if self.cgroup.is_none() && self.init.exit.get().is_none() {
            self.cgroup = Cgroup::of(self.init.pid).ok();
        }
        self.cgroup.as_ref()
    }

    /// Begins to watch its memory once it runs.
    pub(super) fn settle(&mut self) {
        if !matches!(self.watch, Watching::NotYet) || self.init.status != Status::Running {
            return;
        }
        self.watch = match self.cgroup().map(Watch::begin) {
            Some(Ok(Some(watch))) => Watching::Yes(watch),
            Some(Err(error)) => {
                logger::warn(format_args!("watching the memory of {}: {error}", self.id));
                Watching::No
            }
            Some(Ok(None)) | None => Watching::No,
        };
    }

    /// The watch on its memory.
    pub(super) fn watch(&self) -> Option<&Watch> {
        match &self.watch {
            Watching::Yes(watch) => Some(watch),
            _ => None,
        }
    }

    /// Whether the kernel killed for want of memory since the last time.
    pub(super) fn ran_out_of_memory(&mut self) -> bool {
        let Watching::Yes(watch) = &mut self.watch else { return false };
        watch.check().unwrap_or_else(|_| {
            self.watch = Watching::No;
            false
        })
    }

    fn exec_pid_file(&self, exec_id: &str) -> PathBuf {
        self.bundle.join(format!("{exec_id}.pid"))
    }

    fn init_is(&self, verb: &str, allowed: &[Status]) -> Result<()> {
        if allowed.contains(&self.init.status) {
            return Ok(());
        }
        Err(refused(format_args!("cannot {verb} a {} process", adjective(self.init.status))))
    }
}

fn owner<'a>(id: &'a str, namespace: &'a str, options: &Options) -> Owner<'a> {
    Owner { id, namespace, uid: options.io_uid, gid: options.io_gid }
}

/// Undoes what was begun for a container, unless it was done.
struct Undo<'a> {
    runtime: &'a Arc<dyn Oci>,
    id: &'a str,
    bundle: &'a Path,
    /// The runtime's directory for it, unless there was one before: that would be another's.
    state: Option<PathBuf>,
    done: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if self.state.as_ref().is_some_and(|state| state.exists()) {
            let delete = oci::Delete { id: self.id.to_owned(), force: true };
            if let Err(error) = now(self.runtime.handle(&Cx::background(), delete)) {
                logger::warn(format_args!("undoing the creation of {}: {error}", self.id));
            }
        }
        for file in bundle::LEFT {
            let _ = fs::remove_file(self.bundle.join(file));
        }
    }
}

fn adjective(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Stopped => "stopped",
        Status::Paused | Status::Pausing => "paused",
        Status::Unknown => "unknown",
    }
}

fn no_process(exec_id: &str) -> HopError {
    HopError::not_found(format!("process does not exist {exec_id}: not found"))
}

fn finished() -> HopError {
    HopError::not_found("process already finished: not found")
}

/// containerd's `checkKillError`.
fn kill_error(mut error: HopError) -> HopError {
    let lower = error.message.to_lowercase();
    let said = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if said(&["process already finished", "container not running", "no such process"]) {
        (error.kind, error.message) = (hops::Kind::NotFound, finished().message);
        error
    } else if said(&["does not exist"]) {
        error.kind = hops::Kind::NotFound;
        error.message = "no such container: not found".to_owned();
        error
    } else {
        failed("unknown error after kill")(error)
    }
}
