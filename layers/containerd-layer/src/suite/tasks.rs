//! Tasks: from a container's record to a process, its exec'd companions, and its end.

use super::{
    Runtime, Subject, Verdict,
    containers::{SPEC, container, create},
    same, says, some,
};
use hops::{
    Cx, Kind,
    proto::{
        Any,
        containerd::{
            services::{
                containers::v1::{CreateContainerRequest, DeleteContainerRequest},
                namespaces::v1::DeleteNamespaceRequest,
                tasks::v1::{
                    CreateTaskRequest, DeleteProcessRequest, DeleteTaskRequest, ExecProcessRequest,
                    GetRequest, KillRequest, ListPidsRequest, ListTasksRequest, MetricsRequest,
                    PauseTaskRequest, ResumeTaskRequest, StartRequest, WaitRequest,
                },
            },
            types::Mount,
            v1::types::Status,
        },
    },
};
use serde_json::json;
use std::time::Duration;

/// How long a step may take that waits for a process.
const PATIENCE: Duration = Duration::from_secs(20);

/// An OCI configuration that runs `args`, in a cgroup that no other run has.
fn spec(cx: &Cx, args: &[&str]) -> String {
    let cgroup = format!("/{}", cx.namespace().unwrap_or_default());
    let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
        ],
        "linux": { "namespaces": namespaces, "cgroupsPath": cgroup },
    })
    .to_string()
}

fn process(args: &[&str]) -> serde_json::Value {
    json!({
        "user": { "uid": 0, "gid": 0 },
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "noNewPrivileges": true,
    })
}

pub(super) async fn chapter(subject: &Subject) -> Verdict {
    let Some(runtime) = &subject.runtime else { return Ok(()) };
    let (cx, ns) = subject.fresh("tasks");
    let cx = cx.within(Duration::from_secs(60));
    let missing = GetRequest { container_id: "none".into(), ..Default::default() };
    let refusal = subject.refused(&cx, missing, Kind::NotFound).await?;
    says(&refusal, &format!("container \"none\" in namespace \"{ns}\": not found"))?;

    short(subject, &cx, runtime).await.map_err(|e| format!("a short task: {e}"))?;
    again(subject, &cx, runtime).await.map_err(|e| format!("a task after the other: {e}"))?;
    long(subject, &cx, runtime).await.map_err(|e| format!("a long task: {e}"))?;
    broken(subject, &cx, runtime).await.map_err(|e| format!("a broken task: {e}"))?;
    subject.call(&cx, DeleteNamespaceRequest { name: ns }).await
}

/// What makes the task `id` that runs `args`: first its container, then itself.
pub fn task(
    cx: &Cx,
    runtime: &Runtime,
    id: &str,
    args: &[&str],
) -> (CreateContainerRequest, CreateTaskRequest) {
    (create(container(id, &runtime.name, &spec(cx, args))), task_of(id, runtime))
}

fn task_of(id: &str, runtime: &Runtime) -> CreateTaskRequest {
    CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs: vec![Mount {
            r#type: "bind".into(),
            source: runtime.rootfs.display().to_string(),
            options: vec!["rbind".into(), "rw".into()],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn start(id: &str, exec_id: &str) -> StartRequest {
    StartRequest { container_id: id.into(), exec_id: exec_id.into() }
}

fn kill(id: &str, signal: u32) -> KillRequest {
    KillRequest { container_id: id.into(), signal, ..Default::default() }
}

async fn wait(subject: &Subject, cx: &Cx, id: &str, exec_id: &str) -> Verdict<u32> {
    let request = WaitRequest { container_id: id.into(), exec_id: exec_id.into() };
    let ended = subject.call(&cx.within(PATIENCE), request).await?;
    some("time of the end", ended.exited_at)?;
    Ok(ended.exit_status)
}

async fn status(subject: &Subject, cx: &Cx, id: &str) -> Verdict<Status> {
    let request = GetRequest { container_id: id.into(), ..Default::default() };
    Ok(some("process", subject.call(cx, request).await?.process)?.status())
}

/// A task whose process ends by itself.
async fn short(subject: &Subject, cx: &Cx, runtime: &Runtime) -> Verdict {
    let args = ["/bin/sh", "-c", "exit 7"];
    subject.call(cx, create(container("short", &runtime.name, &spec(cx, &args)))).await?;
    let without = GetRequest { container_id: "short".into(), ..Default::default() };
    let refusal = subject.refused(cx, without, Kind::NotFound).await?;
    says(&refusal, "short")?;
    let created = subject.call(cx, task_of("short", runtime)).await?;
    same("a pid", created.pid > 0, true)?;
    subject.refused(cx, task_of("short", runtime), Kind::AlreadyExists).await?;
    same("status", status(subject, cx, "short").await?, Status::Created)?;
    let started = subject.call(cx, start("short", "")).await?;
    same("pid", started.pid, created.pid)?;
    same("exit status", wait(subject, cx, "short", "").await?, 7)?;
    same("status", status(subject, cx, "short").await?, Status::Stopped)?;
    subject.refused(cx, kill("short", 9), Kind::NotFound).await?;
    let delete = DeleteTaskRequest { container_id: "short".into() };
    let deleted = subject.call(cx, delete.clone()).await?;
    same("exit status", (deleted.exit_status, deleted.pid), (7, created.pid))?;
    subject.refused(cx, delete, Kind::NotFound).await?;
    subject.call(cx, DeleteContainerRequest { id: "short".into() }).await
}

/// Tasks of one container, each made as soon as the one before is deleted: the shim of that may
/// still be at the address of the next.
async fn again(subject: &Subject, cx: &Cx, runtime: &Runtime) -> Verdict {
    subject.call(cx, create(container("again", &runtime.name, &spec(cx, &["/bin/true"])))).await?;
    for _ in 0..20 {
        subject.call(cx, task_of("again", runtime)).await?;
        subject.call(cx, start("again", "")).await?;
        same("exit status", wait(subject, cx, "again", "").await?, 0)?;
        subject.call(cx, DeleteTaskRequest { container_id: "again".into() }).await?;
    }
    subject.call(cx, DeleteContainerRequest { id: "again".into() }).await
}

/// A task that is looked at, joined, stopped, and killed.
async fn long(subject: &Subject, cx: &Cx, runtime: &Runtime) -> Verdict {
    let args = ["/bin/sleep", "1000"];
    subject.call(cx, create(container("long", &runtime.name, &spec(cx, &args)))).await?;
    let pid = subject.call(cx, task_of("long", runtime)).await?.pid;
    subject.call(cx, start("long", "")).await?;
    same("status", status(subject, cx, "long").await?, Status::Running)?;
    let tasks = subject.call(cx, ListTasksRequest::default()).await?.tasks;
    let listed: Vec<_> = tasks.iter().map(|t| (t.id.as_str(), t.pid)).collect();
    same("tasks", listed, vec![("long", pid)])?;

    let exec = ExecProcessRequest {
        container_id: "long".into(),
        exec_id: "join".into(),
        spec: Some(Any {
            type_url: SPEC.replace("Spec", "Process"),
            value: process(&["/bin/sh", "-c", "exit 3"]).to_string().into_bytes(),
        }),
        ..Default::default()
    };
    subject.call(cx, exec.clone()).await?;
    subject.refused(cx, exec, Kind::AlreadyExists).await?;
    subject.call(cx, start("long", "join")).await?;
    same("exit status of the exec", wait(subject, cx, "long", "join").await?, 3)?;
    let delete = DeleteProcessRequest { container_id: "long".into(), exec_id: "join".into() };
    same("exit status of the exec", subject.call(cx, delete).await?.exit_status, 3)?;

    let pids = subject.call(cx, ListPidsRequest { container_id: "long".into() }).await?;
    same("pids", pids.processes.iter().map(|p| p.pid).collect(), vec![pid])?;
    let metrics = subject.call(cx, MetricsRequest { filters: vec!["id==long".into()] }).await?;
    same("metrics", metrics.metrics.len(), 1)?;
    subject.call(cx, PauseTaskRequest { container_id: "long".into() }).await?;
    same("status", status(subject, cx, "long").await?, Status::Paused)?;
    subject.call(cx, ResumeTaskRequest { container_id: "long".into() }).await?;
    same("status", status(subject, cx, "long").await?, Status::Running)?;

    let delete = DeleteTaskRequest { container_id: "long".into() };
    let refusal = subject.face.handle(cx, delete.clone()).await;
    same("a running task is deleted", refusal.is_ok(), false)?;
    subject.call(cx, kill("long", 9)).await?;
    same("exit status", wait(subject, cx, "long", "").await?, 137)?;
    same("exit status", subject.call(cx, delete).await?.exit_status, 137)?;
    subject.call(cx, DeleteContainerRequest { id: "long".into() }).await
}

/// A task that cannot be, and leaves nothing in the way of the next one.
async fn broken(subject: &Subject, cx: &Cx, runtime: &Runtime) -> Verdict {
    let args = ["/no/such/program"];
    subject.call(cx, create(container("broken", &runtime.name, &spec(cx, &args)))).await?;
    for _ in 0..2 {
        let failed = match subject.face.handle(cx, task_of("broken", runtime)).await {
            Err(failed) => failed,
            // A runtime may look for the program only when it starts.
            Ok(_) => match subject.face.handle(cx, start("broken", "")).await {
                Ok(_) => return Err("a program that does not exist was started".into()),
                Err(failed) => {
                    let delete = DeleteTaskRequest { container_id: "broken".into() };
                    subject.call(cx, delete).await?;
                    failed
                }
            },
        };
        says(&failed.message, "/no/such/program")?;
        same("kind", failed.kind == Kind::AlreadyExists, false)?;
    }
    subject.call(cx, DeleteContainerRequest { id: "broken".into() }).await?;
    let strange = container("strange", "io.containerd.nosuch.v9", &spec(cx, &args));
    subject.call(cx, create(strange)).await?;
    let failed = subject.face.handle(cx, task_of("strange", runtime)).await;
    let failed = failed.err().ok_or("a runtime that is not installed was found")?;
    says(&failed.message, "containerd-shim-nosuch-v9")?;
    subject.call(cx, DeleteContainerRequest { id: "strange".into() }).await
}
