//! Sandboxes through the daemon's socket: what `sandbox.Controller` makes of a shim that has the
//! sandbox service, of one that dies, and of one that has none.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod daemon;
mod pods;

use containerd_layer::suite::Runtime;
use daemon::Daemon;
use futures_util::StreamExt;
use hops::{
    Handle, HandleStream, Kind,
    proto::containerd::{
        events::SandboxExit,
        services::{
            events::v1::SubscribeRequest,
            sandbox::v1::*,
            tasks::v1::{DeleteTaskRequest, GetRequest, WaitRequest},
        },
        v1::types::Status,
    },
};
use nix::{sys::signal, unistd::Pid};
use pods::{Case, PROGRAM, namespace_of, shim_of};
use prost::Message;
use std::{
    process::{Command, Stdio},
    task::{Context, Poll},
    time::Duration,
};

#[tokio::test]
async fn a_sandbox_from_its_creation_to_its_shutdown() {
    let Some(case) = Case::new("whole") else { return };
    let _daemon = Daemon::start(PROGRAM.as_ref(), &case.config);
    let client = case.client();
    let filters = vec![format!("namespace=={},topic~=\"^/sandboxes/\"", case.ns)];
    let subscribe = SubscribeRequest { filters };
    let mut events = client.stream(&case.cx, subscribe, hops::op::no_input()).await.unwrap();

    case.call(case.create("s")).await.unwrap();
    let again = case.call(case.create("s")).await.unwrap_err();
    assert_eq!(again.kind, Kind::AlreadyExists);
    assert_eq!(again.message, "sandbox s already running: already exists");
    let created = case.status("s").await;
    assert_eq!((created.state.as_str(), created.pid), ("SANDBOX_NOTREADY", 0));

    let started = case.start("s").await;
    assert!(started.pid != 0 && started.created_at.is_some());
    assert!(started.address.starts_with("ttrpc+unix:///"), "{}", started.address);
    assert_eq!(started.version, 2);
    let status = case.status("s").await;
    assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_READY", started.pid));
    assert_eq!((status.created_at, status.address), (started.created_at, started.address));
    assert_eq!(status.info["pid"], started.pid.to_string());
    assert_eq!(case.start("s").await.pid, started.pid);
    let platform = ControllerPlatformRequest { sandbox_id: "s".into(), ..Default::default() };
    assert_eq!(case.call(platform).await.unwrap().platform.unwrap().os, "linux");
    let metrics = ControllerMetricsRequest { sandbox_id: "s".into(), ..Default::default() };
    let metrics = case.call(metrics).await.unwrap().metrics.unwrap();
    assert!(metrics.id == "s" && metrics.data.is_some() && metrics.timestamp.is_some());

    // A member has the sandbox's shim, and leaves the sandbox as it was.
    let member = case.run("m", "s", |_| {}).await;
    let shim = shim_of(member);
    assert_eq!(shim, shim_of(started.pid));
    case.end("m").await;
    assert_eq!(case.status("s").await.state, "SANDBOX_READY");

    let (ended, stopped) = tokio::join!(case.call(case.wait("s")), case.call(case.stop("s", 0)));
    stopped.unwrap();
    let ended = ended.unwrap();
    assert!(ended.exit_status == 137 && ended.exited_at.is_some());
    let status = case.status("s").await;
    assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_NOTREADY", 0));
    assert_eq!(status.exited_at, ended.exited_at);
    case.call(case.stop("s", 0)).await.unwrap();
    let late = case.prepare("late", "s", |_| {}).await.unwrap_err();
    assert_eq!(late.kind, Kind::FailedPrecondition, "{late}");
    assert!(late.message.ends_with("sandbox s is stopped: failed precondition"), "{late}");

    case.shutdown("s").await;
    case.gone(shim).await;
    assert_eq!(case.bundles(), Vec::<String>::new());
    for topic in ["/sandboxes/create", "/sandboxes/start", "/sandboxes/start", "/sandboxes/exit"] {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event.topic, topic);
        let exit = SandboxExit::decode(event.event.unwrap().value.as_slice()).unwrap();
        assert_eq!(exit.sandbox_id, "s");
    }
    case.clear(&["m", "late"]).await;
}

#[tokio::test]
async fn what_there_is_not_is_refused_as_by_containerd() {
    let Some(case) = Case::new("refused") else { return };
    let _daemon = Daemon::start(PROGRAM.as_ref(), &case.config);
    let start = ControllerStartRequest { sandbox_id: "no".into(), ..Default::default() };
    let error = case.call(start).await.unwrap_err();
    let words = r#"failed to start sandbox "no": unable to find sandbox "no""#;
    assert_eq!((error.kind, error.message.as_str()), (Kind::Unknown, words));
    assert_eq!(case.call(case.wait("no")).await.unwrap_err().kind, Kind::NotFound);
    case.call(case.stop("no", 0)).await.unwrap();
    let status = case.status("no").await;
    assert!(status.state.is_empty() && status.exited_at.is_some());
    let shutdown = ControllerShutdownRequest { sandbox_id: "no".into(), ..Default::default() };
    assert_eq!(case.call(shutdown).await.unwrap_err().kind, Kind::NotFound);
    let other = ControllerStatusRequest { sandboxer: "other".into(), ..Default::default() };
    let error = case.call(other).await.unwrap_err();
    let words = "not found: failed to get sandbox controller by other";
    assert_eq!((error.kind, error.message.as_str()), (Kind::NotFound, words));
    // Without a description the store's counts, as in containerd 1.7.
    let bare = ControllerCreateRequest { sandbox_id: "no".into(), ..Default::default() };
    let error = case.call(bare).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(error.message.starts_with("failed to query sandbox metadata from store: "), "{error}");

    // A network that is none: nothing of the sandbox is left.
    let create = ControllerCreateRequest { netns_path: "/proc/version".into(), ..case.create("s") };
    let error = case.call(create).await.unwrap_err();
    assert!(error.message.starts_with("failed to create sandbox s: "), "{error}");
    assert_eq!(case.bundles(), Vec::<String>::new());
    case.no_shims().await;

    // A sandbox that is in the store and not running takes no members.
    let sandbox = case.create("stored").sandbox;
    case.call(StoreCreateRequest { sandbox }).await.unwrap();
    let error = case.prepare("m", "stored", |_| {}).await.unwrap_err();
    let words = "failed to start shim: can't find shim for sandbox stored: not found";
    assert_eq!((error.kind, error.message.as_str()), (Kind::NotFound, words));
    case.call(StoreDeleteRequest { sandbox_id: "stored".into() }).await.unwrap();
    case.clear(&["m"]).await;
}

#[tokio::test]
async fn a_stop_ends_the_members_in_time() {
    let Some(case) = Case::new("stop") else { return };
    let _daemon = Daemon::start(PROGRAM.as_ref(), &case.config);
    case.call(case.create("s")).await.unwrap();
    let sandbox = case.start("s").await.pid;
    // The one heeds the signal, the other, first of its pid namespace, does not see it.
    let heeding = "trap 'exit 9' TERM; while :; do sleep 0.02; done";
    case.run("heeds", "s", |spec| spec["process"]["args"][2] = heeding.into()).await;
    case.run("deaf", "s", |_| {}).await;
    let shim = shim_of(sandbox);
    case.call(case.stop("s", 1)).await.unwrap();
    for (id, status) in [("heeds", 9), ("deaf", 137)] {
        let wait = WaitRequest { container_id: id.into(), ..Default::default() };
        assert_eq!(case.call(wait).await.unwrap().exit_status, status, "{id}");
    }
    let delete = DeleteTaskRequest { container_id: "heeds".into() };
    assert_eq!(case.call(delete).await.unwrap().exit_status, 9);
    // The other goes with the sandbox, and that is told once.
    let filters = vec![format!("namespace=={}", case.ns)];
    let subscribe = SubscribeRequest { filters };
    let client = case.client();
    let mut events = client.stream(&case.cx, subscribe, hops::op::no_input()).await.unwrap();
    case.shutdown("s").await;
    case.gone(shim).await;
    assert_eq!(case.bundles(), Vec::<String>::new());
    case.call(case.create("last")).await.unwrap();
    for topic in ["/tasks/delete", "/sandboxes/create"] {
        assert_eq!(events.next().await.unwrap().unwrap().topic, topic);
    }
    case.shutdown("last").await;
    case.clear(&["heeds", "deaf"]).await;
}

#[tokio::test]
async fn a_killed_daemon_finds_its_sandboxes() {
    let Some(case) = Case::new("kill") else { return };
    let daemon = Daemon::start(PROGRAM.as_ref(), &case.config);
    case.call(case.create("s")).await.unwrap();
    let sandbox = case.start("s").await.pid;
    let before = case.run("before", "s", |_| {}).await;
    daemon.kill();

    let daemon = Daemon::start(PROGRAM.as_ref(), &case.config);
    let status = case.status("s").await;
    assert_eq!((status.state.as_str(), status.pid), ("SANDBOX_READY", sandbox));
    let get = GetRequest { container_id: "before".into(), ..Default::default() };
    let process = case.call(get).await.unwrap().process.unwrap();
    assert_eq!((process.pid, process.status()), (before, Status::Running));
    let after = case.run("after", "s", |_| {}).await;
    let shim = shim_of(sandbox);
    assert_eq!((shim_of(before), shim_of(after)), (shim, shim));
    daemon.kill();

    // The sandbox's process ends while no daemon is there to see it.
    signal::kill(Pid::from_raw(sandbox.cast_signed()), signal::SIGKILL).unwrap();
    let _daemon = Daemon::start(PROGRAM.as_ref(), &case.config);
    assert_eq!(case.call(case.wait("s")).await.unwrap().exit_status, 137);
    assert_eq!(case.status("s").await.state, "SANDBOX_NOTREADY");
    case.end("before").await;
    case.end("after").await;
    case.shutdown("s").await;
    case.gone(shim).await;
    assert_eq!(case.bundles(), Vec::<String>::new());
    case.clear(&["before", "after"]).await;
}

#[tokio::test]
async fn a_dead_shim_ends_its_sandbox() {
    let Some(case) = Case::new("shim") else { return };
    let daemon = Daemon::start(PROGRAM.as_ref(), &case.config);
    let client = case.client();
    case.call(case.create("s")).await.unwrap();
    let sandbox = case.start("s").await.pid;
    let member = case.run("m", "s", |_| {}).await;
    let mut waiting = std::pin::pin!(client.handle(&case.cx, case.wait("s")));
    // The wait is on its way; what is asked after it on the same connection, down to the same
    // shim, is answered once it has arrived.
    let sent = |cx: &mut Context<'_>| Poll::Ready(waiting.as_mut().poll(cx).is_pending());
    assert!(std::future::poll_fn(sent).await);
    let status = ControllerStatusRequest { sandbox_id: "s".into(), ..Default::default() };
    client.handle(&case.cx, status).await.unwrap();

    signal::kill(Pid::from_raw(shim_of(sandbox)), signal::SIGKILL).unwrap();
    let ended = waiting.await.unwrap();
    assert!(ended.exit_status == 137 && ended.exited_at.is_some());
    let status = case.status("s").await;
    assert!(status.pid == 0 && status.state.is_empty() && status.exited_at.is_some());
    for pid in [sandbox, member] {
        case.gone(pid.cast_signed()).await;
    }
    case.no_bundles().await;

    // One that dies while there is no daemon is found out by the next.
    case.call(case.create("s")).await.unwrap();
    let sandbox = case.start("s").await.pid;
    daemon.kill();
    signal::kill(Pid::from_raw(shim_of(sandbox)), signal::SIGKILL).unwrap();
    let _daemon = Daemon::start(PROGRAM.as_ref(), &case.config);
    assert_eq!(case.call(case.wait("s")).await.unwrap_err().kind, Kind::NotFound);
    case.gone(sandbox.cast_signed()).await;
    assert_eq!(case.bundles(), Vec::<String>::new());
    case.clear(&["m"]).await;
}

#[tokio::test]
async fn members_are_in_the_namespaces_of_their_sandbox() {
    let Some(case) = Case::new("net") else { return };
    let _daemon = Daemon::start(PROGRAM.as_ref(), &case.config);
    let mut unshared = Command::new("unshare");
    unshared.args(["--net", "sleep", "1000"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut unshared = unshared.spawn().unwrap();
    let own = namespace_of("self", "net");
    let holder = unshared.id().to_string();
    while namespace_of(&holder, "net") == own {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let netns_path = format!("/proc/{holder}/ns/net");
    let network = namespace_of(&holder, "net");
    case.call(ControllerCreateRequest { netns_path, ..case.create("s") }).await.unwrap();
    let sandbox = case.start("s").await.pid;
    assert_eq!(case.status("s").await.info["networkSandboxPath"], format!("/proc/{holder}/ns/net"));

    // One namespace is entered by its path, the network by having none of its own.
    let path = format!("/proc/{sandbox}/ns/ipc");
    let member = case.run("m", "s", |spec| {
        spec["linux"]["namespaces"] =
            serde_json::json!([{ "type": "mount" }, { "type": "ipc", "path": path }]);
    });
    let (sandbox, member) = (sandbox.to_string(), member.await.to_string());
    for pid in [&sandbox, &member] {
        assert_eq!(namespace_of(pid, "net"), network);
    }
    for kind in ["ipc", "uts", "pid"] {
        assert_ne!(namespace_of(&sandbox, kind), namespace_of("self", kind), "{kind}");
    }
    assert_eq!(namespace_of(&member, "ipc"), namespace_of(&sandbox, "ipc"));

    let shim = shim_of(sandbox.parse().unwrap());
    case.call(case.stop("s", 0)).await.unwrap();
    assert_eq!(namespace_of(&shim.to_string(), "net"), own);
    case.shutdown("s").await;
    case.gone(shim).await;
    case.no_bundles().await;
    case.clear(&["m"]).await;
    unshared.kill().unwrap();
    unshared.wait().unwrap();
}

#[tokio::test]
async fn a_shim_without_sandboxes_refuses_them() {
    let Some(case) = Case::new("none") else { return };
    if daemon::find("containerd-shim-runc-v2").is_none() {
        println!("SKIP: containerd-shim-runc-v2 is not installed");
        return;
    }
    let runtime =
        Runtime { name: "io.containerd.runc.v2".into(), rootfs: case.runtime.rootfs.clone() };
    let case = Case { runtime, ..case };
    let _daemon = Daemon::start(PROGRAM.as_ref(), &case.config);
    let error = case.call(case.create("s")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unimplemented, "{error}");
    let words = "failed to create sandbox s: service containerd.runtime.sandbox.v1.Sandbox: \
                 not implemented";
    assert_eq!(error.message, words);
    assert_eq!(case.bundles(), Vec::<String>::new());
    case.no_shims().await;
}
