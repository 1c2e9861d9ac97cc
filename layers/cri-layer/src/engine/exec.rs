//! Further processes in a container, run to their end.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use hops::{
    Cx, HopError, Kind, Result,
    proto::{
        containerd::{
            services::tasks::v1::{
                DeleteProcessRequest, ExecProcessRequest, GetRequest, KillRequest, StartRequest,
            },
            v1::types::Status,
        },
        runtime::v1::{
            ExecSyncRequest, ExecSyncResponse, ReopenContainerLogRequest,
            ReopenContainerLogResponse,
        },
    },
};
use tokio::sync::oneshot;

use super::{Core, container::Container, task::SIGKILL};
use crate::{
    image::lock,
    io::{Fifos, Pump, Sink, reader, text},
    names::{nanos, now, random_id},
    record::Exit,
    spec::process_any,
};

/// How much of each output is answered, in bytes (CVE-2022-1708); the rest is thrown away.
const OUTPUT: usize = 16 << 20;
/// What gRPC lets a message be, less what surrounds the outputs: an answer above it reaches nobody.
const ANSWER: usize = (16 << 20) - (4 << 10);
/// How long a killed process may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How often a process is asked for, in case its event was lost.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Keeps the beginning of an output.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Sink for Kept {
    fn take(&mut self, bytes: &[u8]) {
        let mut kept = lock(&self.0);
        let room = OUTPUT - kept.len().min(OUTPUT);
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Kept {
    fn into_bytes(self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.0))
    }
}

/// A further process.
struct Further<'a> {
    container: &'a Container,
    op: &'a ExecSyncRequest,
    id: &'a str,
    fifos: &'a Fifos,
}

impl Core {
    pub(crate) async fn exec_sync(
        self: &Arc<Self>,
        cx: &Cx,
        op: ExecSyncRequest,
    ) -> Result<ExecSyncResponse> {
        let container = self.container(&op.container_id)?;
        container.expect_running().map_err(|e| e.context("failed to exec in container"))?;
        if op.cmd.is_empty() {
            return Err(HopError::invalid("exec: cmd is empty"));
        }
        // Dropped with this call when its caller gives up, by which the other side learns of it.
        let (_caller, gone) = oneshot::channel::<()>();
        let (core, cx) = (self.clone(), cx.clone());
        let run = tokio::spawn(async move { core.run_exec(&cx, &container, op, gone).await });
        run.await.unwrap_or_else(|e| Err(HopError::internal(format!("the call ended early: {e}"))))
    }

    async fn run_exec(
        self: &Arc<Self>,
        cx: &Cx,
        container: &Container,
        op: ExecSyncRequest,
        gone: oneshot::Receiver<()>,
    ) -> Result<ExecSyncResponse> {
        let id = random_id()?;
        let dir: PathBuf = self.config.container_state(container.id()).join("io");
        let fifos = Fifos::of(&dir, &id, false, false);
        let (ended, end) = oneshot::channel();
        lock(&self.execs).insert(id.clone(), ended);
        let further = Further { container, op: &op, id: &id, fifos: &fifos };
        let done = self.run_process(cx, &further, end, gone).await;
        lock(&self.execs).remove(&id);
        fifos.remove();
        done
    }

    async fn run_process(
        self: &Arc<Self>,
        cx: &Cx,
        further: &Further<'_>,
        end: oneshot::Receiver<Exit>,
        gone: oneshot::Receiver<()>,
    ) -> Result<ExecSyncResponse> {
        let Further { container, op, id, fifos } = *further;
        let mut process = container.process.clone().ok_or_else(|| {
            HopError::internal(format!(
                "the process of container {:?} is not known",
                container.id()
            ))
        })?;
        process.set_args(Some(op.cmd.clone())).set_terminal(None);
        let failed = |e: HopError| e.context("failed to exec in container");
        let io = |e: std::io::Error| failed(HopError::from(e).context("failed to create exec io"));
        fifos.make().map_err(io)?;
        let (stdout, stderr, mut pump) = (Kept::default(), Kept::default(), Pump::new());
        for (path, sink) in [(&fifos.stdout, stdout.clone()), (&fifos.stderr, stderr.clone())] {
            if let Some(path) = path {
                pump.add(reader(path).map_err(io)?, sink).map_err(io)?;
            }
        }
        let exec = ExecProcessRequest {
            container_id: container.id().to_owned(),
            exec_id: id.to_owned(),
            stdout: text(fifos.stdout.as_ref()),
            stderr: text(fifos.stderr.as_ref()),
            spec: Some(process_any(&process)?),
            ..ExecProcessRequest::default()
        };
        let in_exec = |e: HopError| failed(e.context(format_args!("failed to create exec {id:?}")));
        self.containerd.call(cx, exec).await.map_err(in_exec)?;
        let start =
            StartRequest { container_id: container.id().to_owned(), exec_id: id.to_owned() };
        let outcome = match self.containerd.call(cx, start).await {
            Ok(_) => self.follow(container.id(), id, op.timeout, end, gone).await,
            Err(error) => Err(error.context(format_args!("failed to start exec {id:?}"))),
        };
        let delete = DeleteProcessRequest {
            container_id: container.id().to_owned(),
            exec_id: id.to_owned(),
        };
        // The caller's deadline must not keep the process from being cleaned up.
        let mut cleanup = cx.clone();
        cleanup.deadline = None;
        match self.containerd.call(&cleanup, delete).await {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(%error, id, "a process that is over stays");
            }
            _ => {}
        }
        pump.finish().await;
        let exit = outcome.map_err(failed)?;
        let (mut stdout, mut stderr) = (stdout.into_bytes(), stderr.into_bytes());
        if stdout.len() + stderr.len() > ANSWER {
            stdout.truncate(ANSWER - stderr.len().min(ANSWER / 2));
            stderr.truncate(ANSWER - stdout.len());
        }
        Ok(ExecSyncResponse { stdout: stdout.into(), stderr: stderr.into(), exit_code: exit.code })
    }

    /// Waits for a process's end; kills it when its time is up or nobody wants its answer.
    async fn follow(
        &self,
        container: &str,
        id: &str,
        timeout: i64,
        mut end: oneshot::Receiver<Exit>,
        gone: oneshot::Receiver<()>,
    ) -> Result<Exit> {
        let limit = match u64::try_from(timeout) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => Duration::MAX,
        };
        let error = tokio::select! {
            exit = self.exec_end(container, id, &mut end) => return Ok(exit),
            () = sleep(limit) => HopError::new(
                Kind::DeadlineExceeded,
                format!("timeout {timeout}s exceeded: context deadline exceeded"),
            ),
            _ = gone => HopError::new(Kind::Cancelled, "context canceled"),
        };
        let kill = KillRequest {
            container_id: container.to_owned(),
            exec_id: id.to_owned(),
            signal: SIGKILL,
            all: false,
        };
        match self.containerd.call(&Cx::background(), kill).await {
            Err(error) if !matches!(error.kind, Kind::NotFound | Kind::FailedPrecondition) => {
                tracing::warn!(%error, id, "a process whose time is up is not killed");
            }
            _ => {
                let end = self.exec_end(container, id, &mut end);
                if tokio::time::timeout(KILL_PATIENCE, end).await.is_err() {
                    tracing::warn!(id, "a killed process does not end");
                }
            }
        }
        Err(error)
    }

    async fn exec_end(&self, container: &str, id: &str, end: &mut oneshot::Receiver<Exit>) -> Exit {
        loop {
            tokio::select! {
                exit = &mut *end => return exit.unwrap_or_else(|_| Exit::unknown()),
                () = tokio::time::sleep(PROBE_EVERY) => {}
            }
            let get = GetRequest { container_id: container.to_owned(), exec_id: id.to_owned() };
            match self.containerd.call(&Cx::background(), get).await {
                Ok(reply) => {
                    let process = reply.process.unwrap_or_default();
                    if process.status() == Status::Stopped {
                        let code = i32::try_from(process.exit_status).unwrap_or(255);
                        let at = nanos(process.exited_at.as_ref(), now());
                        return Exit { code, at, ..Exit::default() };
                    }
                }
                Err(error) if error.is_not_found() => return Exit::unknown(),
                Err(error) => tracing::debug!(%error, id, "asking for a process"),
            }
        }
    }

    pub(crate) async fn reopen_container_log(
        &self,
        _cx: &Cx,
        op: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse> {
        let container = self.container(&op.container_id)?;
        if !container.task.life().running() {
            return Err(HopError::new(Kind::FailedPrecondition, "container is not running"));
        }
        let log = lock(&container.log).clone();
        if let Some(log) = log {
            log.reopen()
                .map_err(|e| HopError::from(e).context("failed to reopen container log"))?;
        }
        Ok(ReopenContainerLogResponse {})
    }
}

/// A sleep that may be for ever.
async fn sleep(limit: Duration) {
    match limit {
        Duration::MAX => std::future::pending().await,
        limit => tokio::time::sleep(limit).await,
    }
}
