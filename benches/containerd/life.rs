//! A container's life in calls to containerd, the same to every daemon.

use std::time::Instant;

use futures_util::future::join_all;
use hops::{
    Cx, Handle,
    proto::containerd::services::{
        containers::v1::{
            Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
        },
        snapshots::v1::{PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest},
        tasks::v1::{CreateTaskRequest, DeleteTaskRequest, KillRequest, StartRequest, WaitRequest},
    },
};
use wire::grpc::Client;

use crate::{daemons::Daemon, images};

/// What every container of a daemon is made of: the record that ctr wrote of one.
pub(crate) struct Lives {
    client: Client,
    cx: Cx,
    sample: Container,
    parent: String,
}

impl Lives {
    pub(crate) async fn new(daemon: &Daemon) -> Lives {
        let client = Client::new(daemon.socket.clone());
        let cx = Cx::background().in_namespace("default");
        let name = "sample";
        daemon.ctr(&["containers", "create", "--runtime", daemon.shim, images::SMALL, name]);
        let get = GetContainerRequest { id: name.into() };
        let sample = client.handle(&cx, get).await.expect("the sample").container.expect("one");
        let stat = StatSnapshotRequest { snapshotter: "overlayfs".into(), key: name.into() };
        let info = client.handle(&cx, stat).await.expect("the sample's snapshot").info;
        daemon.ctr(&["containers", "delete", name]);
        Lives { client, cx, sample, parent: info.expect("a snapshot").parent }
    }

    /// Makes the container and its task; `args` is what it executes.
    async fn create(&self, id: &str, args: &str) {
        let snapshot = PrepareSnapshotRequest {
            snapshotter: "overlayfs".into(),
            key: id.into(),
            parent: self.parent.clone(),
            ..Default::default()
        };
        let mut container = self.sample.clone();
        id.clone_into(&mut container.id);
        id.clone_into(&mut container.snapshot_key);
        let spec = container.spec.as_mut().expect("a spec");
        let text = String::from_utf8(spec.value.to_vec()).expect("a spec");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("a spec");
        json["process"]["args"] = args.split(' ').collect();
        json["linux"]["cgroupsPath"] = format!("/default/{id}").into();
        spec.value = json.to_string().into_bytes();
        let create = CreateContainerRequest { container: Some(container) };
        self.client.handle(&self.cx, create).await.expect("a container");
        let rootfs = self.client.handle(&self.cx, snapshot).await.expect("a snapshot").mounts;
        let task = CreateTaskRequest { container_id: id.into(), rootfs, ..Default::default() };
        self.client.handle(&self.cx, task).await.expect("a task");
    }

    async fn start(&self, id: &str) {
        let start = StartRequest { container_id: id.into(), exec_id: String::new() };
        self.client.handle(&self.cx, start).await.expect("a start");
    }

    async fn ended(&self, id: &str) {
        let wait = WaitRequest { container_id: id.into(), exec_id: String::new() };
        self.client.handle(&self.cx, wait).await.expect("an end");
    }

    async fn delete(&self, id: &str) {
        let task = DeleteTaskRequest { container_id: id.into() };
        self.client.handle(&self.cx, task).await.expect("the task's end");
        let remove = RemoveSnapshotRequest { snapshotter: "overlayfs".into(), key: id.into() };
        self.client.handle(&self.cx, remove).await.expect("the snapshot's end");
        let container = DeleteContainerRequest { id: id.into() };
        self.client.handle(&self.cx, container).await.expect("the container's end");
    }
}

/// One container that executes `/bin/true`, from nothing to nothing; milliseconds.
pub(crate) async fn one(lives: &Lives) -> f64 {
    let begun = Instant::now();
    lives.create("one", "/bin/true").await;
    tokio::join!(lives.ended("one"), lives.start("one"));
    lives.delete("one").await;
    begun.elapsed().as_secs_f64() * 1e3
}

/// Starts `count` containers that sleep, at once.
pub(crate) async fn start(lives: &Lives, name: &str, count: usize) {
    join_all((0..count).map(|n| async move {
        let id = format!("{name}-{n}");
        lives.create(&id, "/bin/sleep 1000000").await;
        lives.start(&id).await;
    }))
    .await;
}

/// Ends them.
pub(crate) async fn end(lives: &Lives, name: &str, count: usize) {
    join_all((0..count).map(|n| async move {
        let id = format!("{name}-{n}");
        let kill = KillRequest { container_id: id.clone(), signal: 9, ..Default::default() };
        let killed = lives.client.handle(&lives.cx, kill);
        let (killed, ()) = tokio::join!(killed, lives.ended(&id));
        killed.expect("a kill");
        lives.delete(&id).await;
    }))
    .await;
}

/// How long `count` containers take that are started at once, until the last runs; milliseconds.
pub(crate) async fn burst(lives: &Lives, count: usize) -> f64 {
    let begun = Instant::now();
    start(lives, "burst", count).await;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    end(lives, "burst", count).await;
    took
}
