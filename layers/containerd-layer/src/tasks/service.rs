//! `Tasks`: each verb is one question to the task's shim.

use super::{Task, Tasks};
use crate::{
    Engine, Error,
    filters::{Fields, Filters},
    metadata,
    services::{namespace, stamp, verbs},
};
use hops::{
    Cx, HopError, Kind, Result,
    proto::{
        Any,
        containerd::{
            services::containers::v1::Container,
            services::tasks::v1::{
                CheckpointTaskRequest, CloseIoRequest, CreateTaskRequest, CreateTaskResponse,
                DeleteProcessRequest, DeleteResponse, DeleteTaskRequest, ExecProcessRequest,
                GetRequest, GetResponse, KillRequest, ListPidsRequest, ListPidsResponse,
                ListTasksRequest, ListTasksResponse, MetricsRequest, MetricsResponse,
                PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, StartRequest, StartResponse,
                UpdateTaskRequest, WaitRequest, WaitResponse,
            },
            task::v2 as shim,
            types::Metric,
            v1::types::Process,
        },
    },
};
use std::{borrow::Cow, sync::Arc, time::SystemTime};

hops::refuse!(Engine: CheckpointTaskRequest);

impl Engine {
    /// The task of a container that exists.
    fn task(&self, cx: &Cx, id: &str) -> Result<Arc<Task>> {
        let ns = namespace(cx)?;
        match self.tasks().get(&ns, id) {
            Ok(task) => Ok(task),
            // containerd asks for the container first, and says so when that is missing.
            Err(no_task) => Err(self.container(&ns, id).err().unwrap_or(no_task).into()),
        }
    }
}

impl Engine {
    /// Whether a shim is there for the sandbox of `container`. One that is not in the store was
    /// made by a client of before there were any, as to containerd 2.
    ///
    /// # Errors
    /// `NotFound`, in containerd's words.
    fn has_its_sandbox(&self, ns: &str, container: &Container) -> Result<()> {
        let id = &container.sandbox;
        if id.is_empty()
            || self.tasks().has_shim(ns, id)
            || self.store().metadata().get::<metadata::Sandbox>(ns, id).is_err()
        {
            return Ok(());
        }
        let words = format_args!("failed to start shim: can't find shim for sandbox {id}");
        Err(Error::not_found(words).into())
    }
}

/// Runs work to its end even if its caller hangs up: half a creation helps nobody.
pub(super) async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|e| Err(HopError::internal(e.to_string())))
}

async fn process(cx: &Cx, task: &Task, exec_id: &str) -> Result<Process> {
    let request = shim::StateRequest { id: task.id.clone(), exec_id: exec_id.to_owned() };
    let state = task.shim.ask(cx, request).await?;
    let id = if exec_id.is_empty() { &task.id } else { exec_id };
    Ok(Process {
        container_id: task.id.clone(),
        id: id.to_owned(),
        pid: state.pid,
        status: state.status,
        stdin: state.stdin,
        stdout: state.stdout,
        stderr: state.stderr,
        terminal: state.terminal,
        exit_status: state.exit_status,
        exited_at: state.exited_at,
    })
}

impl Fields for Task {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id"] => Some(Cow::Borrowed(self.id.as_str())),
            ["namespace"] => Some(Cow::Borrowed(self.ns.as_str())),
            ["runtime"] => Some(Cow::Borrowed(self.runtime.as_str())),
            _ => None,
        }
    }
}

impl Tasks {
    /// What every task uses: namespace, id, runtime and the shim's statistics. One that cannot say
    /// it now is left out.
    pub(crate) async fn stats(&self) -> Vec<(String, String, String, Any)> {
        let tasks: Vec<_> = self.known().tasks.values().cloned().collect();
        let mut all = Vec::new();
        for task in tasks {
            let cx = Cx::background().in_namespace(task.ns.clone());
            let asked = task.shim.ask(&cx, shim::StatsRequest { id: task.id.clone() }).await;
            if let Ok(shim::StatsResponse { stats: Some(stats) }) = asked {
                all.push((task.ns.clone(), task.id.clone(), task.runtime.clone(), stats));
            }
        }
        all
    }

    async fn wait(&self, cx: &Cx, task: &Task, exec_id: String) -> Result<WaitResponse> {
        let request = shim::WaitRequest { id: task.id.clone(), exec_id };
        match task.shim.call(cx, request).await {
            Ok(ended) => {
                Ok(WaitResponse { exit_status: ended.exit_status, exited_at: ended.exited_at })
            }
            Err(e) if task.shim.is_closed() => {
                let exit = self.ended(task).await.ok_or(e)?;
                Ok(WaitResponse { exit_status: exit.status, exited_at: exit.at })
            }
            Err(e) => Err(e),
        }
    }
}

verbs! {
    CreateTaskRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        if op.checkpoint.is_some() {
            return Err(Error::unimplemented("restoring a task from a checkpoint").into());
        }
        let container = engine.container(&ns, &op.container_id)?;
        engine.has_its_sandbox(&ns, &container)?;
        let (tasks, cx, container_id) = (engine.tasks().clone(), cx.clone(), container.id.clone());
        let pid = finish(async move { tasks.create(&cx, &ns, container, op).await }).await?;
        Ok(CreateTaskResponse { container_id, pid })
    }

    StartRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        let request = shim::StartRequest { id: op.container_id, exec_id: op.exec_id };
        Ok(StartResponse { pid: task.shim.call(cx, request).await?.pid })
    }

    DeleteTaskRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        let (tasks, cx) = (engine.tasks().clone(), cx.clone());
        let exit = finish(async move { tasks.delete(&cx, &task).await }).await?;
        Ok(DeleteResponse {
            id: op.container_id,
            pid: exit.pid,
            exit_status: exit.status,
            exited_at: exit.at,
        })
    }

    DeleteProcessRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        let request =
            shim::DeleteRequest { id: op.container_id, exec_id: op.exec_id.clone() };
        let deleted = task.shim.call(cx, request).await?;
        Ok(DeleteResponse {
            id: op.exec_id,
            pid: deleted.pid,
            exit_status: deleted.exit_status,
            exited_at: deleted.exited_at,
        })
    }

    GetRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        Ok(GetResponse { process: Some(process(cx, &task, &op.exec_id).await?) })
    }

    ListTasksRequest = |engine, cx, _op| {
        let mut tasks = Vec::new();
        for task in engine.tasks().list(&namespace(cx)?) {
            match process(cx, &task, "").await {
                Ok(process) => tasks.push(process),
                // As containerd does: a task that cannot say how it is does not hide the others.
                Err(e) => tracing::debug!(id = task.id, error = %e, "listing a task"),
            }
        }
        Ok(ListTasksResponse { tasks })
    }

    KillRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        let request = shim::KillRequest {
            id: op.container_id,
            exec_id: op.exec_id,
            signal: op.signal,
            all: op.all,
        };
        task.shim.call(cx, request).await
    }

    ExecProcessRequest = |engine, cx, op| {
        if op.exec_id.is_empty() {
            return Err(Error::invalid("exec id cannot be empty").into());
        }
        let task = engine.task(cx, &op.container_id)?;
        let request = shim::ExecProcessRequest {
            id: op.container_id,
            exec_id: op.exec_id,
            terminal: op.terminal,
            stdin: op.stdin,
            stdout: op.stdout,
            stderr: op.stderr,
            spec: op.spec,
        };
        task.shim.call(cx, request).await
    }

    ResizePtyRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        let request = shim::ResizePtyRequest {
            id: op.container_id,
            exec_id: op.exec_id,
            width: op.width,
            height: op.height,
        };
        task.shim.call(cx, request).await
    }

    CloseIoRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        let request = shim::CloseIoRequest {
            id: op.container_id,
            exec_id: op.exec_id,
            stdin: op.stdin,
        };
        task.shim.call(cx, request).await
    }

    PauseTaskRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        task.shim.call(cx, shim::PauseRequest { id: op.container_id }).await
    }

    ResumeTaskRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        task.shim.call(cx, shim::ResumeRequest { id: op.container_id }).await
    }

    ListPidsRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        let pids = task.shim.ask(cx, shim::PidsRequest { id: op.container_id }).await?;
        Ok(ListPidsResponse { processes: pids.processes })
    }

    UpdateTaskRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        let request = shim::UpdateTaskRequest {
            id: op.container_id,
            resources: op.resources,
            annotations: op.annotations,
        };
        task.shim.call(cx, request).await
    }

    MetricsRequest = |engine, cx, op| {
        let filters = Filters::parse(&op.filters)?;
        let mut metrics = Vec::new();
        for task in engine.tasks().list(&namespace(cx)?) {
            if !filters.matches(&*task) {
                continue;
            }
            let request = shim::StatsRequest { id: task.id.clone() };
            match task.shim.ask(cx, request).await {
                Ok(answer) => metrics.push(Metric {
                    timestamp: stamp(SystemTime::now()),
                    id: task.id.clone(),
                    data: answer.stats,
                }),
                // As containerd does: one that has just ended has no metrics.
                Err(e) if e.kind != Kind::NotFound => {
                    tracing::warn!(id = task.id, error = %e, "metrics of a task");
                }
                Err(_) => {}
            }
        }
        Ok(MetricsResponse { metrics })
    }

    WaitRequest = |engine, cx, op| {
        let task = engine.task(cx, &op.container_id)?;
        engine.tasks().wait(cx, &task, op.exec_id).await
    }
}
