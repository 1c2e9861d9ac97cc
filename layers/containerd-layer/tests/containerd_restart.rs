//! A daemon that is killed, and shims that die: what runs is found again, what ended is told, and
//! what is left is cleared away.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod daemon;

use containerd_layer::{
    Config,
    suite::{Runtime, task},
};
use daemon::{Daemon, rootfs};
use futures_util::StreamExt;
use hops::{
    Cx, Handle, HandleStream, Kind,
    proto::containerd::{
        events::TaskExit,
        services::{
            containers::v1::DeleteContainerRequest,
            events::v1::SubscribeRequest,
            namespaces::v1::DeleteNamespaceRequest,
            tasks::v1::{DeleteTaskRequest, GetRequest, KillRequest, StartRequest, WaitRequest},
        },
        v1::types::Status,
    },
};
use nix::{sys::signal, unistd::Pid};
use prost::Message;
use std::{
    fs,
    path::Path,
    task::{Context, Poll},
    time::Duration,
};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_strata-containerd"))
}

struct Case {
    _dir: tempfile::TempDir,
    config: Config,
    runtime: Runtime,
    cx: Cx,
    ns: String,
}

/// What a case needs; nothing, with the reason printed, where it cannot be run.
fn case(name: &str) -> Option<Case> {
    let dir = tempfile::tempdir().unwrap();
    let rootfs = rootfs(dir.path(), &["containerd-shim-runc-v2", "runc"])?;
    let config = daemon::config(dir.path());
    let runtime = Runtime { name: "io.containerd.runc.v2".into(), rootfs };
    let ns = format!("restart-{name}-{}", std::process::id());
    let cx = Cx::background().in_namespace(ns.clone()).within(Duration::from_secs(60));
    Some(Case { _dir: dir, config, runtime, cx, ns })
}

impl Case {
    fn client(&self) -> wire::grpc::Client {
        wire::grpc::Client::new(&self.config.address)
    }

    /// Runs `script` as the task `id`, and answers its pid.
    async fn run(&self, id: &str, script: &str) -> u32 {
        let client = self.client();
        let (container, create) = task(&self.cx, &self.runtime, id, &["/bin/sh", "-c", script]);
        client.handle(&self.cx, container).await.unwrap();
        let pid = client.handle(&self.cx, create).await.unwrap().pid;
        let start = StartRequest { container_id: id.into(), ..Default::default() };
        client.handle(&self.cx, start).await.unwrap();
        pid
    }

    async fn status(&self, id: &str) -> (Status, u32, u32) {
        let get = GetRequest { container_id: id.into(), ..Default::default() };
        let process = self.client().handle(&self.cx, get).await.unwrap().process.unwrap();
        (process.status(), process.pid, process.exit_status)
    }

    async fn remove(&self, id: &str) -> u32 {
        let client = self.client();
        let delete = DeleteTaskRequest { container_id: id.into() };
        let status = client.handle(&self.cx, delete).await.unwrap().exit_status;
        client.handle(&self.cx, DeleteContainerRequest { id: id.into() }).await.unwrap();
        status
    }

    fn bundles(&self) -> usize {
        let dir = self.config.state.join("io.containerd.runtime.v2.task").join(&self.ns);
        fs::read_dir(dir).unwrap().count()
    }
}

#[tokio::test]
async fn a_killed_daemon_finds_its_tasks() {
    let Some(case) = case("kill") else { return };
    let daemon = Daemon::start(program(), &case.config);
    let pid = case.run("lasting", "sleep 1000").await;
    let ending = case.run("ending", "sleep 1000").await;
    daemon.kill();

    // The task ends while no daemon is there to see it.
    signal::kill(Pid::from_raw(ending as i32), signal::Signal::SIGKILL).unwrap();
    let _daemon = Daemon::start(program(), &case.config);
    assert_eq!(case.status("lasting").await, (Status::Running, pid, 0));
    let wait = WaitRequest { container_id: "ending".into(), ..Default::default() };
    assert_eq!(case.client().handle(&case.cx, wait).await.unwrap().exit_status, 137);
    assert_eq!(case.status("ending").await.0, Status::Stopped);
    assert_eq!(case.remove("ending").await, 137);

    let kill = KillRequest { container_id: "lasting".into(), signal: 9, ..Default::default() };
    case.client().handle(&case.cx, kill).await.unwrap();
    let wait = WaitRequest { container_id: "lasting".into(), ..Default::default() };
    assert_eq!(case.client().handle(&case.cx, wait).await.unwrap().exit_status, 137);
    assert_eq!(case.remove("lasting").await, 137);
    assert_eq!(case.bundles(), 0);
    let delete = DeleteNamespaceRequest { name: case.ns.clone() };
    case.client().handle(&case.cx, delete).await.unwrap();
}

/// The shim of a task: the parent of its process.
fn shim_of(pid: u32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_dead_shim_is_told_and_cleaned_up_after() {
    let Some(case) = case("shim") else { return };
    let daemon = Daemon::start(program(), &case.config);
    let client = case.client();
    let filters = vec![format!("namespace=={},topic==\"/tasks/exit\"", case.ns)];
    let subscribe = SubscribeRequest { filters };
    let no_input = hops::op::no_input();
    let mut events = client.stream(&case.cx, subscribe, no_input).await.unwrap();

    let pid = case.run("orphan", "sleep 1000").await;
    let wait = WaitRequest { container_id: "orphan".into(), ..Default::default() };
    let mut waiting = std::pin::pin!(client.handle(&case.cx, wait));
    // The wait is on its way; what is asked after it on the same connection, down to the same
    // shim, is answered once it has arrived.
    let sent = |cx: &mut Context<'_>| Poll::Ready(waiting.as_mut().poll(cx).is_pending());
    assert!(std::future::poll_fn(sent).await);
    let get = || GetRequest { container_id: "orphan".into(), ..Default::default() };
    client.handle(&case.cx, get()).await.unwrap();
    signal::kill(Pid::from_raw(shim_of(pid)), signal::Signal::SIGKILL).unwrap();

    let exit = events.next().await.unwrap().unwrap().event.unwrap();
    let exit = TaskExit::decode(exit.value.as_slice()).unwrap();
    assert_eq!((exit.id.as_str(), exit.pid, exit.exit_status), ("orphan", pid, 137));
    assert_eq!(waiting.await.unwrap().exit_status, 137);
    assert_eq!(client.handle(&case.cx, get()).await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(case.bundles(), 0);

    // A shim that dies while there is no daemon is found out by the next one.
    let pid = case.run("orphan2", "sleep 1000").await;
    daemon.kill();
    signal::kill(Pid::from_raw(shim_of(pid)), signal::Signal::SIGKILL).unwrap();
    let _daemon = Daemon::start(program(), &case.config);
    let get = GetRequest { container_id: "orphan2".into(), ..Default::default() };
    let refusal = case.client().handle(&case.cx, get).await.unwrap_err();
    assert_eq!(refusal.message, "task orphan2 not found");
    assert_eq!(case.bundles(), 0);
    for id in ["orphan", "orphan2"] {
        let delete = DeleteContainerRequest { id: id.into() };
        case.client().handle(&case.cx, delete).await.unwrap();
    }
    let delete = DeleteNamespaceRequest { name: case.ns.clone() };
    case.client().handle(&case.cx, delete).await.unwrap();
}
