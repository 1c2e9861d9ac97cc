//! The verbs of `Shim`, and the state that they and the loop share.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Kind, Result,
    proto::{
        Any,
        containerd::{
            events::{
                TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIo, TaskOom,
                TaskPaused, TaskResumed, TaskStart,
            },
            runc::v1::ProcessDetails,
            task::v2::*,
            v1::types::ProcessInfo,
        },
    },
};
use nix::{
    errno::Errno,
    poll::PollFd,
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};
use prost::{Message, Name};

use super::{
    console::Console, container::Container, door::Door, events::Publisher, logger,
    runtime::Runtimes, sandbox::Sandbox, stats,
};

/// A shim's engine: it answers every verb of [`hops::Shim`].
pub(super) struct Engine(Mutex<State>);

/// Everything that a shim knows.
pub(super) struct State {
    namespace: String,
    runtimes: Runtimes,
    pub(super) containers: BTreeMap<String, Container>,
    /// What the containers are the members of, where containerd says that they are.
    pub(super) sandbox: Option<Box<Sandbox>>,
    publisher: Publisher,
    /// Terminals whose process was deleted before a slow reader had taken everything.
    lingering: Vec<Console>,
    /// Shut once the shim was told to end.
    pub(super) door: Door,
}

impl Engine {
    /// Without any container.
    pub(super) fn new(
        namespace: &str,
        runtimes: Runtimes,
        publisher: Publisher,
        door: Door,
    ) -> Engine {
        Engine(Mutex::new(State {
            namespace: namespace.to_owned(),
            runtimes,
            containers: BTreeMap::new(),
            sandbox: None,
            publisher,
            lingering: Vec::new(),
            door,
        }))
    }

    /// The state. There is one thread: nobody else ever holds it.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Answers each verb with a function of the locked state, the context and the request.
macro_rules! answers {
    ($($op:ty => $reply:ty: |$state:pat_param, $cx:pat_param, $request:pat_param| $body:expr;)*) => {
        $(#[async_trait]
        impl Handle<$op> for Engine {
            async fn handle(&self, cx: &Cx, op: $op) -> Result<$reply> {
                let mut guard = self.state();
                let ($state, $cx, $request) = (&mut *guard, cx, op);
                $body
            }
        })*
    };
}
pub(super) use answers;

answers! {
    CreateTaskRequest => CreateTaskResponse: |state, cx, op| state.create(cx, op);
    StartRequest => StartResponse: |state, cx, op| state.start(cx, &op);
    DeleteRequest => DeleteResponse: |state, cx, op| state.delete(cx, &op);
    ExecProcessRequest => (): |state, _, op| {
        let (container_id, exec_id) = (op.id.clone(), op.exec_id.clone());
        state.container(&op.id)?.exec(op)?;
        state.publisher.publish("/tasks/exec-added", &TaskExecAdded { container_id, exec_id });
        Ok(())
    };
    StateRequest => StateResponse: |state, _, op| state.container(&op.id)?.state(&op.exec_id);
    PauseRequest => (): |state, cx, op| {
        state.container(&op.id)?.pause(cx, true)?;
        state.publisher.publish("/tasks/paused", &TaskPaused { container_id: op.id });
        Ok(())
    };
    ResumeRequest => (): |state, cx, op| {
        state.container(&op.id)?.pause(cx, false)?;
        state.publisher.publish("/tasks/resumed", &TaskResumed { container_id: op.id });
        Ok(())
    };
    KillRequest => (): |state, cx, op| state.container(&op.id)?.kill(cx, &op);
    PidsRequest => PidsResponse: |state, cx, op| state.pids(cx, &op.id);
    UpdateTaskRequest => (): |state, cx, op| {
        state.container(&op.id)?.update(cx, &op.resources.unwrap_or_default().value)
    };
    StatsRequest => StatsResponse: |state, _, op| {
        let cgroup = state.container(&op.id)?.cgroup();
        let cgroup = cgroup.ok_or_else(|| not_found("cgroup does not exist"))?;
        Ok(StatsResponse { stats: Some(stats::read(cgroup)) })
    };
    CloseIoRequest => (): |state, _, op| {
        // As in the real shim, whatever `stdin` says: there is nothing else to close.
        state.container(&op.id)?.process_mut(&op.exec_id)?.close_stdin();
        Ok(())
    };
    ResizePtyRequest => (): |state, _, op| {
        let (rows, columns) = (op.height as u16, op.width as u16);
        match state.container(&op.id)?.process(&op.exec_id)?.console() {
            Some(console) => console.resize(rows, columns),
            None => Ok(()),
        }
    };
    ConnectRequest => ConnectResponse: |state, _, op| {
        let task_pid = state.containers.get(&op.id).map_or(0, |container| container.init.pid);
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, version: String::new() })
    };
    ShutdownRequest => (): |state, _, _| {
        // A sandbox outlives its members (containerd 2.x, docs/sandbox-api.md).
        if state.containers.is_empty() && state.sandbox.is_none() {
            state.door.shut();
        }
        Ok(())
    };
}

hops::refuse!(Engine: CheckpointTaskRequest);

#[async_trait]
impl Handle<WaitRequest> for Engine {
    async fn handle(&self, _cx: &Cx, op: WaitRequest) -> Result<WaitResponse> {
        let exit = self.state().container(&op.id)?.process(&op.exec_id)?.exit.clone();
        std::future::poll_fn(|_| match exit.get() {
            // The loop polls every open call whenever anything has happened: no waker is needed.
            None => std::task::Poll::Pending,
            Some(exit) => std::task::Poll::Ready(Ok(WaitResponse {
                exit_status: exit.status,
                exited_at: exit.at,
            })),
        })
        .await
    }
}

impl State {
    fn container(&mut self, id: &str) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| not_found("container not created"))
    }

    fn create(&mut self, cx: &Cx, op: CreateTaskRequest) -> Result<CreateTaskResponse> {
        if op.id.is_empty() {
            return Err(HopError::invalid("id must not be empty"));
        }
        self.sandbox.as_ref().map_or(Ok(()), |sandbox| sandbox.admit())?;
        if self.containers.contains_key(&op.id) {
            let words = format!("task {}: already exists", op.id);
            return Err(HopError::new(Kind::AlreadyExists, words));
        }
        if !op.checkpoint.is_empty() {
            return Err(HopError::new(
                Kind::Unimplemented,
                "restoring from a checkpoint: not implemented",
            ));
        }
        let mut event = TaskCreate {
            container_id: op.id.clone(),
            bundle: op.bundle.clone(),
            rootfs: op.rootfs.clone(),
            io: Some(TaskIo {
                stdin: op.stdin.clone(),
                stdout: op.stdout.clone(),
                stderr: op.stderr.clone(),
                terminal: op.terminal,
            }),
            ..TaskCreate::default()
        };
        let container = Container::create(cx, &self.runtimes, &self.namespace, op)?;
        let pid = container.init.pid;
        event.pid = pid;
        self.containers.insert(event.container_id.clone(), container);
        self.publisher.publish("/tasks/create", &event);
        Ok(CreateTaskResponse { pid })
    }

    fn start(&mut self, cx: &Cx, op: &StartRequest) -> Result<StartResponse> {
        let container =
            self.containers.get_mut(&op.id).ok_or_else(|| not_found("container not created"))?;
        let pid = container.start(cx, &self.namespace, &op.exec_id)?;
        let (container_id, exec_id) = (op.id.clone(), op.exec_id.clone());
        if exec_id.is_empty() {
            self.publisher.publish("/tasks/start", &TaskStart { container_id, pid });
        } else {
            let event = TaskExecStarted { container_id, exec_id, pid };
            self.publisher.publish("/tasks/exec-started", &event);
        }
        Ok(StartResponse { pid })
    }

    pub(super) fn delete(&mut self, cx: &Cx, op: &DeleteRequest) -> Result<DeleteResponse> {
        let container = self.container(&op.id)?;
        let mut process = if op.exec_id.is_empty() {
            container.delete(cx)?;
            // What the kernel says of a process that died in the deletion belongs to it.
            self.reap();
            let gone = self.containers.remove(&op.id);
            gone.ok_or_else(|| not_found("container not created"))?.init
        } else {
            container.delete_exec(&op.exec_id)?
        };
        process.pump();
        self.lingering.extend(process.take_console());
        let exit = process.exit();
        if op.exec_id.is_empty() {
            let event = TaskDelete {
                container_id: op.id.clone(),
                pid: process.pid,
                exit_status: exit.status,
                exited_at: exit.at,
                ..TaskDelete::default()
            };
            self.publisher.publish("/tasks/delete", &event);
        }
        Ok(DeleteResponse { pid: process.pid, exit_status: exit.status, exited_at: exit.at })
    }

    fn pids(&mut self, cx: &Cx, id: &str) -> Result<PidsResponse> {
        let container = self.container(id)?;
        let info = |pid: u32| {
            let (exec_id, _) = container.execs.iter().find(|(_, exec)| exec.process.is(pid))?;
            let details = ProcessDetails { exec_id: exec_id.clone() };
            Some(Any { type_url: ProcessDetails::full_name(), value: details.encode_to_vec() })
        };
        let pids = container.pids(cx)?.into_iter().filter_map(|pid| u32::try_from(pid).ok());
        Ok(PidsResponse {
            processes: pids.map(|pid| ProcessInfo { pid, info: info(pid) }).collect(),
        })
    }

    /// Takes the status of every child that has ended.
    pub(super) fn reap(&mut self) {
        loop {
            let (pid, status) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code as u32),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as u32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return logger::warn(format_args!("wait: {error}")),
            };
            self.exited(pid.as_raw() as u32, status);
        }
    }

    fn exited(&mut self, pid: u32, status: u32) {
        if self.sandbox.as_mut().is_some_and(|sandbox| sandbox.reaped(pid, status)) {
            return;
        }
        for (container_id, container) in &mut self.containers {
            if let Some((id, exit)) = container.reaped(pid, status) {
                if container.ran_out_of_memory() {
                    let container_id = container_id.clone();
                    self.publisher.publish("/tasks/oom", &TaskOom { container_id });
                }
                let event = TaskExit {
                    container_id: container_id.clone(),
                    id,
                    pid,
                    exit_status: exit.status,
                    exited_at: exit.at,
                };
                return self.publisher.publish("/tasks/exit", &event);
            }
        }
        // A runtime's helper, a logger, or an orphan of a container.
        logger::debug(format_args!("reaped {pid}: {status}"));
    }

    /// What is to be waited for on the containers' behalf.
    pub(super) fn interests<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        self.publisher.interests(polled);
        for container in self.containers.values() {
            polled.extend(container.watch().map(super::oom::Watch::interest));
            container.consoles().for_each(|console| console.interests(polled));
        }
        self.lingering.iter().for_each(|console| console.interests(polled));
    }

    /// When [`State::pump`] and [`State::settle`] have to be called although nothing has arrived.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let sandbox = self.sandbox.as_ref().and_then(|sandbox| sandbox.deadline());
        [self.publisher.deadline(), sandbox].into_iter().flatten().min()
    }

    /// Moves what can be moved now: terminals' bytes, the kernel's notices, events.
    pub(super) fn pump(&mut self) {
        for (id, container) in &mut self.containers {
            container.processes_mut().for_each(super::process::Process::pump);
            if container.ran_out_of_memory() {
                self.publisher.publish("/tasks/oom", &TaskOom { container_id: id.clone() });
            }
        }
        self.lingering.retain_mut(Console::pump);
        self.publisher.pump();
    }

    /// Does what need not be done before a call is answered.
    pub(super) fn settle(&mut self) {
        self.containers.values_mut().for_each(Container::settle);
        self.settle_sandbox();
    }

    /// Whether everything that was to be sent has been.
    pub(super) fn is_drained(&self) -> bool {
        self.publisher.is_empty() && self.lingering.is_empty()
    }
}

fn not_found(words: &str) -> HopError {
    HopError::not_found(format!("{words}: not found"))
}
