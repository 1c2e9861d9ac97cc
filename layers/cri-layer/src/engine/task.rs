//! A process that containerd runs for a sandbox or a container: its start, its end, its going.
//!
//! That it ended is learned from containerd's events; then its task is deleted, its output is read
//! to the end, and only then is it said to have exited, so that whoever is told finds the whole
//! log. A caller who waits for the end deletes the task himself, in his own call.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hops::{
    Cx, HopError, Kind, Result,
    proto::{
        containerd::{
            services::tasks::v1::{
                CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, StartRequest,
            },
            types::Mount,
            v1::types::Status,
        },
        runtime::v1::ContainerEventType,
    },
};
use tokio::sync::watch;

use super::Core;
use crate::{
    image::lock,
    io::{Fifos, Pump, text},
    names::{nanos, now},
    record::{Exit, Progress},
};

/// SIGKILL, which no process outlives.
pub(crate) const SIGKILL: u32 = 9;
/// How long a killed process may take to end (containerd's `killContainerTimeout`).
const KILL_PATIENCE: Duration = Duration::from_secs(120);
/// How often a process that is waited for is asked for, in case its event was lost.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How often a task that may still run is tried to be deleted, and how soon again.
const DELETE_TRIES: u32 = 40;
const DELETE_AGAIN: Duration = Duration::from_millis(50);

/// How far a task has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    /// The process on the host; 0 before the start.
    pub(crate) pid: u32,
    /// Nanoseconds since 1970; 0 before the start.
    pub(crate) started_at: i64,
    /// The process is over.
    pub(crate) ended: Option<Exit>,
    /// The process is over, and its task is gone and its output read.
    pub(crate) exit: Option<Exit>,
    /// The kernel killed a process of it for want of memory.
    pub(crate) oom: bool,
    /// Its task could not be deleted when it was tried.
    pub(crate) left_over: bool,
}

impl Life {
    /// Whether it was started and is not said to have exited.
    pub(crate) fn running(&self) -> bool {
        self.started_at > 0 && self.exit.is_none()
    }
}

/// A task.
pub(crate) struct Task {
    /// Its container's id.
    pub(crate) id: String,
    /// Where its progress is kept over a kill; none for a sandbox, whose end is all that matters.
    pub(crate) dir: Option<PathBuf>,
    pub(crate) life: watch::Sender<Life>,
    /// Held by whoever starts, deletes or removes it.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// What copies its output.
    pub(crate) pump: Mutex<Option<Pump>>,
    /// How many callers wait for its end and will delete it.
    stops: AtomicUsize,
}

impl Task {
    pub(crate) fn new(id: &str, dir: Option<PathBuf>, life: Life) -> Arc<Task> {
        Arc::new(Task {
            id: id.to_owned(),
            dir,
            life: watch::Sender::new(life),
            turn: tokio::sync::Mutex::default(),
            pump: Mutex::default(),
            stops: AtomicUsize::new(0),
        })
    }

    pub(crate) fn life(&self) -> Life {
        self.life.borrow().clone()
    }

    /// Keeps its progress; a failure costs the exit code after a kill, not more.
    pub(crate) fn keep(&self) {
        let Some(dir) = &self.dir else { return };
        let life = self.life();
        let progress = Progress { started_at: life.started_at, exit: life.exit };
        if let Err(error) = progress.store(dir) {
            tracing::warn!(%error, id = self.id, "a container's status is not kept");
        }
    }
}

/// Waits until a task's process is over, or nobody is left to say so.
async fn over(life: &mut watch::Receiver<Life>) {
    // The task is held by whoever waits, so there is somebody.
    let _ = life.wait_for(|life| life.ended.is_some() || life.exit.is_some()).await;
}

/// Says, as long as it lives, that a caller waits for the task's end; what he leaves undone is
/// done in the background.
struct Stopping<'a>(&'a Arc<Core>, &'a Arc<Task>);

impl<'a> Stopping<'a> {
    fn of(core: &'a Arc<Core>, task: &'a Arc<Task>) -> Stopping<'a> {
        task.stops.fetch_add(1, Ordering::SeqCst);
        Stopping(core, task)
    }
}

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        let Stopping(core, task) = self;
        task.stops.fetch_sub(1, Ordering::SeqCst);
        let life = task.life();
        if life.ended.is_some() && life.exit.is_none() {
            core.reap_later(task);
        }
    }
}

impl Core {
    /// Creates and starts a task. The caller has its turn.
    ///
    /// # Errors
    /// Those of containerd, in the words of its CRI; the task is deleted then.
    pub(crate) async fn start(
        &self,
        cx: &Cx,
        task: &Task,
        rootfs: Vec<Mount>,
        fifos: &Fifos,
        terminal: bool,
    ) -> Result<()> {
        let create = CreateTaskRequest {
            container_id: task.id.clone(),
            rootfs,
            stdin: text(fifos.stdin.as_ref()),
            stdout: text(fifos.stdout.as_ref()),
            stderr: text(fifos.stderr.as_ref()),
            terminal,
            ..CreateTaskRequest::default()
        };
        let created = match self.containerd.call(cx, create).await {
            Ok(created) => created,
            Err(error) => {
                // Of a call that was given up nobody knows how far it came.
                if matches!(
                    error.kind,
                    Kind::DeadlineExceeded | Kind::Cancelled | Kind::Unavailable
                ) {
                    self.discard(cx, task).await;
                }
                return Err(error.context("failed to create containerd task"));
            }
        };
        task.life.send_modify(|life| life.pid = created.pid);
        let start = StartRequest { container_id: task.id.clone(), exec_id: String::new() };
        // Before the call: a short process may have ended when the answer comes.
        let at = now();
        if let Err(error) = self.containerd.call(cx, start).await {
            self.discard(cx, task).await;
            return Err(
                error.context(format_args!("failed to start containerd task {:?}", task.id))
            );
        }
        task.life.send_modify(|life| life.started_at = at);
        Ok(())
    }

    /// Notes that a task's process is over. Told twice is told once.
    pub(crate) fn ended(self: &Arc<Self>, task: &Arc<Task>, exit: Exit) {
        let first = task.life.send_if_modified(|life| {
            let first = life.ended.is_none() && life.exit.is_none();
            if first {
                life.ended = Some(exit);
            }
            first
        });
        if first && task.stops.load(Ordering::SeqCst) == 0 {
            self.reap_later(task);
        }
    }

    pub(crate) fn reap_later(self: &Arc<Self>, task: &Arc<Task>) {
        let (core, task) = (self.clone(), task.clone());
        tokio::spawn(async move { core.reap(&Cx::background(), &task).await });
    }

    /// Deletes the task of a process that is over, reads its output to the end, and says that it
    /// exited.
    pub(crate) async fn reap(&self, cx: &Cx, task: &Task) {
        let _turn = task.turn.lock().await;
        let life = task.life();
        let (Some(mut exit), None) = (life.ended, life.exit) else { return };
        let delete = DeleteTaskRequest { container_id: task.id.clone() };
        let deleted = self.containerd.call(cx, delete).await;
        let left_over = match deleted {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(%error, id = task.id, "the task of a process that is over stays");
                true
            }
            _ => false,
        };
        let pump = lock(&task.pump).take();
        if let Some(pump) = pump {
            pump.finish().await;
        }
        if life.oom {
            exit.reason = "OOMKilled".to_owned();
        }
        task.life.send_modify(|life| {
            life.exit = Some(exit);
            life.left_over = left_over;
        });
        task.keep();
        self.happened(&task.id, ContainerEventType::ContainerStoppedEvent);
    }

    /// Takes a task back whose start failed; notes it where that fails too.
    async fn discard(&self, cx: &Cx, task: &Task) {
        // The deadline that the start may have failed by does not count for this.
        if let Err(error) = self.delete_by_force(&cx.detached(), &task.id).await {
            tracing::warn!(%error, id = task.id, "a task that did not start stays");
            task.life.send_modify(|life| life.left_over = true);
        }
    }

    /// Deletes a task that an earlier try left.
    ///
    /// # Errors
    /// Those of containerd.
    pub(crate) async fn delete_left_over(&self, cx: &Cx, task: &Task) -> Result<()> {
        if task.life().left_over {
            self.delete_by_force(cx, &task.id).await?;
        }
        Ok(())
    }

    /// Deletes a task whatever state it is in, or none.
    async fn delete_by_force(&self, cx: &Cx, id: &str) -> Result<()> {
        let mut tries = DELETE_TRIES;
        loop {
            let delete = DeleteTaskRequest { container_id: id.to_owned() };
            let error = match self.containerd.call(cx, delete).await {
                Err(error) if !error.is_not_found() => error,
                _ => return Ok(()),
            };
            tries -= 1;
            if tries == 0 {
                return Err(error);
            }
            let kill = KillRequest {
                container_id: id.to_owned(),
                signal: SIGKILL,
                ..KillRequest::default()
            };
            // Whether it is dead is told by the next try to delete it.
            let _ = self.containerd.call(cx, kill).await;
            tokio::time::sleep(DELETE_AGAIN).await;
        }
    }

    /// Ends a running task: by `signal`, where one is given with the patience for it, else or then
    /// by SIGKILL. One that does not run is stopped.
    ///
    /// # Errors
    /// Those of containerd; `DeadlineExceeded` when a killed process does not end.
    pub(crate) async fn stop(
        self: &Arc<Self>,
        cx: &Cx,
        task: &Arc<Task>,
        signal: Option<(u32, Duration)>,
    ) -> Result<()> {
        if !task.life().running() {
            return Ok(());
        }
        let stopping = Stopping::of(self, task);
        if let Some((signal, patience)) = signal {
            self.kill(cx, task, signal).await?;
            if self.ends_within(task, patience).await {
                self.reap(cx, task).await;
                return Ok(());
            }
        }
        self.kill(cx, task, SIGKILL).await?;
        if !self.ends_within(task, KILL_PATIENCE).await {
            return Err(HopError::new(
                Kind::DeadlineExceeded,
                format!("an error occurs during waiting for container {:?} to be killed", task.id),
            ));
        }
        self.reap(cx, task).await;
        drop(stopping);
        Ok(())
    }

    async fn kill(self: &Arc<Self>, cx: &Cx, task: &Arc<Task>, signal: u32) -> Result<()> {
        if task.life().ended.is_some() {
            return Ok(());
        }
        let kill = KillRequest { container_id: task.id.clone(), signal, ..KillRequest::default() };
        match self.containerd.call(cx, kill).await {
            Ok(()) => Ok(()),
            // It is over, or about to be: its event, or the answer to a question, says how.
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::FailedPrecondition) => {
                self.probe(task).await;
                Ok(())
            }
            Err(error) => {
                Err(error.context(format_args!("failed to kill container {:?}", task.id)))
            }
        }
    }

    /// Waits until the process is over.
    async fn ends_within(self: &Arc<Self>, task: &Arc<Task>, patience: Duration) -> bool {
        let mut life = task.life.subscribe();
        let end = async {
            loop {
                tokio::select! {
                    () = over(&mut life) => return,
                    () = tokio::time::sleep(PROBE_EVERY) => self.probe(task).await,
                }
            }
        };
        tokio::time::timeout(patience, end).await.is_ok()
    }

    /// Asks containerd whether the process is over.
    pub(crate) async fn probe(self: &Arc<Self>, task: &Arc<Task>) {
        let get = GetRequest { container_id: task.id.clone(), exec_id: String::new() };
        match self.containerd.call(&Cx::background(), get).await {
            Ok(reply) => {
                let process = reply.process.unwrap_or_default();
                if process.status() == Status::Stopped {
                    let at = nanos(process.exited_at.as_ref(), now());
                    let code = i32::try_from(process.exit_status).unwrap_or(255);
                    self.ended(task, Exit { code, at, ..Exit::default() });
                }
            }
            Err(error) if error.is_not_found() => self.ended(task, Exit::unknown()),
            Err(error) => tracing::debug!(%error, id = task.id, "asking for a task"),
        }
    }
}
