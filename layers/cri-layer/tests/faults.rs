//! Whatever fails on the way to a running container, nothing of it stays.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::sync::Arc;

use cri_layer::Engine;
use futures_util::StreamExt;
use hops::{
    Containerd, Cx, Handle, HopError, Kind,
    fault::Faulty,
    proto::{
        containerd::services::{
            containers::v1::ListContainersRequest, snapshots::v1::ListSnapshotsRequest,
            tasks::v1::ListTasksRequest,
        },
        runtime::v1::*,
    },
};
use support::{BUSYBOX, Peer, names_in};
use wire::grpc::Client;

fn pod() -> PodSandboxConfig {
    let options =
        NamespaceOption { network: NamespaceMode::Node.into(), ..NamespaceOption::default() };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata { name: "fault".into(), ..Default::default() }),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container(sandbox: &str) -> CreateContainerRequest {
    CreateContainerRequest {
        pod_sandbox_id: sandbox.to_owned(),
        config: Some(ContainerConfig {
            metadata: Some(ContainerMetadata { name: "fault".into(), attempt: 0 }),
            image: Some(ImageSpec { image: BUSYBOX.to_owned(), ..Default::default() }),
            command: ["sleep", "1000"].map(str::to_owned).into(),
            ..Default::default()
        }),
        sandbox_config: Some(pod()),
    }
}

/// What containerd has of pods: containers, tasks, and snapshots that are not layers.
async fn left(peer: &Peer) -> (usize, usize, usize) {
    let (cx, client) = (Cx::background().in_namespace("k8s.io"), Client::new(peer.socket()));
    let containers = client.handle(&cx, ListContainersRequest::default()).await.unwrap().containers;
    let tasks = client.handle(&cx, ListTasksRequest::default()).await.unwrap().tasks;
    let list = ListSnapshotsRequest { snapshotter: "overlayfs".into(), filters: Vec::new() };
    let face: &dyn Containerd = &client;
    let parts = hops::HandleStream::stream(face, &cx, list, hops::op::no_input()).await.unwrap();
    let names: Vec<String> = parts
        .map(|part| part.unwrap().info.into_iter().map(|info| info.name).collect::<Vec<_>>())
        .concat()
        .await;
    let active = names.iter().filter(|name| !name.starts_with("sha256:")).count();
    (containers.len(), tasks.len(), active)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_anywhere_leaves_nothing() {
    let Some(peer) = Peer::start() else { return };
    let cx = Cx::background();
    let faulty = Faulty::new(Client::new(peer.socket()));
    let plugins = Arc::new(wire::cni::Client { path: vec!["/usr/lib/cni".into()] });
    let engine = Engine::open(peer.config(), Arc::new(faulty.clone()), plugins).await.unwrap();
    let run = || RunPodSandboxRequest { config: Some(pod()), ..Default::default() };
    let full = || HopError::new(Kind::ResourceExhausted, "no space left on device");
    let dirs = |kind: &str| -> Vec<String> {
        ["cri-root", "cri-state"].iter().flat_map(|b| names_in(&peer.path(b).join(kind))).collect()
    };

    for verb in ["Create", "Prepare", "Start"] {
        faulty.fail_next(verb, full());
        let error = engine.handle(&cx, run()).await.unwrap_err();
        assert_eq!(error.kind, Kind::ResourceExhausted, "{verb}: {error}");
        assert!(error.message.contains("no space left on device"), "{verb}: {error}");
        assert_eq!(left(&peer).await, (0, 0, 0), "{verb}");
        assert_eq!(dirs("sandboxes"), Vec::<String>::new(), "{verb}");
        let list = engine.handle(&cx, ListPodSandboxRequest::default()).await.unwrap();
        assert!(list.items.is_empty(), "{verb}");
    }
    assert_eq!(peer.mounts(), Vec::<String>::new());

    // The name was given back each time.
    let sandbox = engine.handle(&cx, run()).await.unwrap().pod_sandbox_id;
    for verb in ["Create", "Prepare"] {
        faulty.fail_next(verb, full());
        let error = engine.handle(&cx, container(&sandbox)).await.unwrap_err();
        assert_eq!(error.kind, Kind::ResourceExhausted, "{verb}: {error}");
        assert_eq!(left(&peer).await, (1, 1, 1), "{verb}");
        assert_eq!(dirs("containers"), Vec::<String>::new(), "{verb}");
    }
    let id = engine.handle(&cx, container(&sandbox)).await.unwrap().container_id;
    faulty.fail_next("Start", full());
    let start = StartContainerRequest { container_id: id.clone() };
    engine.handle(&cx, start).await.unwrap_err();
    assert_eq!(left(&peer).await, (2, 1, 2), "its task is gone, it is there to be asked about");
    let status = ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let status = engine.handle(&cx, status).await.unwrap().status.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("no space left on device"), "{}", status.message);

    // A removal that fails is tried again, and finishes.
    faulty.fail_next("Delete", full());
    let remove = RemoveContainerRequest { container_id: id };
    engine.handle(&cx, remove.clone()).await.unwrap_err();
    engine.handle(&cx, remove).await.unwrap();
    let remove = RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    engine.handle(&cx, remove).await.unwrap();
    assert_eq!(left(&peer).await, (0, 0, 0));
    assert_eq!(peer.mounts(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_a_network_leaves_nothing() {
    let Some(peer) = Peer::start() else { return };
    let cx = Cx::background();
    let engine = peer.engine().await;
    let on_network = PodSandboxConfig { linux: None, ..pod() };
    let run = RunPodSandboxRequest { config: Some(on_network), ..Default::default() };
    let error = engine.handle(&cx, run.clone()).await.unwrap_err();
    assert!(error.message.ends_with("cni plugin not initialized"), "{error}");
    std::fs::create_dir_all(peer.path("net.d")).unwrap();
    let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"no-such-plugin"}]}"#;
    std::fs::write(peer.path("net.d/10-n.conflist"), list).unwrap();
    let error = engine.handle(&cx, run).await.unwrap_err();
    assert!(error.message.starts_with("failed to setup network for sandbox"), "{error}");
    assert_eq!(names_in(&peer.path("cri-state/netns")), Vec::<String>::new());
    assert_eq!(left(&peer).await, (0, 0, 0));
    assert_eq!(peer.mounts(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_first_to_remove_is_no_failure() {
    let Some(peer) = Peer::start() else { return };
    let cx = Cx::background();
    let faulty = Faulty::new(Client::new(peer.socket()));
    let plugins = Arc::new(wire::cni::Client { path: vec!["/usr/lib/cni".into()] });
    let engine = Engine::open(peer.config(), Arc::new(faulty.clone()), plugins).await.unwrap();
    let run = RunPodSandboxRequest { config: Some(pod()), ..Default::default() };
    let sandbox = engine.handle(&cx, run).await.unwrap().pod_sandbox_id;
    faulty.fail_next("Remove", HopError::not_found("snapshot cri-accounts-1 does not exist"));
    engine.handle(&cx, container(&sandbox)).await.unwrap();
    let remove = RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    engine.handle(&cx, remove).await.unwrap();
}
