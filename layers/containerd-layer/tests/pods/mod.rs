//! A namespace of a daemon in which sandboxes are made, and what is left of them.

use containerd_layer::{
    Config,
    suite::{Runtime, task},
};
use hops::{
    Cx, Handle,
    proto::{
        Any,
        containerd::{
            services::{
                containers::v1::DeleteContainerRequest,
                namespaces::v1::DeleteNamespaceRequest,
                sandbox::v1::*,
                tasks::v1::{DeleteTaskRequest, KillRequest, StartRequest, WaitRequest},
            },
            types::{Sandbox, sandbox},
        },
    },
    rpc::RpcOp,
};
use std::{fs, future::Future, path::PathBuf, time::Duration};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_strata-containerd");
const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-strata-v2");

pub(crate) struct Case {
    pub(crate) _dir: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) runtime: Runtime,
    pub(crate) cx: Cx,
    pub(crate) ns: String,
}

/// The shim of a process: its parent.
pub(crate) fn shim_of(pid: u32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Which namespace of a kind a process is in.
pub(crate) fn namespace_of(pid: &str, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}");
}

impl Case {
    /// What a case needs; nothing, with the reason printed, where it cannot be run.
    pub(crate) fn new(name: &str) -> Option<Case> {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = super::daemon::rootfs(dir.path(), &["strata-runc"])?;
        let config = Config {
            root: dir.path().join("root"),
            state: dir.path().join("state"),
            address: dir.path().join("c.sock"),
            ..Config::default()
        };
        let runtime = Runtime { name: SHIM.into(), rootfs };
        let ns = format!("sandbox-{name}-{}", std::process::id());
        let cx = Cx::background().in_namespace(ns.clone()).within(Duration::from_secs(60));
        Some(Case { _dir: dir, config, runtime, cx, ns })
    }

    pub(crate) fn client(&self) -> wire::grpc::Client {
        wire::grpc::Client::new(&self.config.address)
    }

    pub(crate) fn call<O: RpcOp>(&self, op: O) -> impl Future<Output = hops::Result<O::Reply>> {
        let (client, cx) = (self.client(), self.cx.clone());
        async move { client.handle(&cx, op).await }
    }

    pub(crate) fn create(&self, id: &str) -> ControllerCreateRequest {
        let runtime = sandbox::Runtime { name: self.runtime.name.clone(), options: None };
        let spec = Any { type_url: "spec".into(), value: br#"{"ociVersion":"1.0.2"}"#.to_vec() };
        ControllerCreateRequest {
            sandbox_id: id.into(),
            sandbox: Some(Sandbox {
                sandbox_id: id.into(),
                runtime: Some(runtime),
                spec: Some(spec),
                ..Default::default()
            }),
            sandboxer: "shim".into(),
            ..Default::default()
        }
    }

    pub(crate) async fn start(&self, id: &str) -> ControllerStartResponse {
        let start = ControllerStartRequest { sandbox_id: id.into(), ..Default::default() };
        self.call(start).await.unwrap()
    }

    pub(crate) async fn status(&self, id: &str) -> ControllerStatusResponse {
        let (sandbox_id, verbose) = (id.to_owned(), true);
        let status = ControllerStatusRequest { sandbox_id, verbose, ..Default::default() };
        self.call(status).await.unwrap()
    }

    pub(crate) fn wait(&self, id: &str) -> ControllerWaitRequest {
        ControllerWaitRequest { sandbox_id: id.into(), ..Default::default() }
    }

    pub(crate) fn stop(&self, id: &str, timeout_secs: u32) -> ControllerStopRequest {
        ControllerStopRequest { sandbox_id: id.into(), timeout_secs, ..Default::default() }
    }

    pub(crate) async fn shutdown(&self, id: &str) {
        let shutdown = ControllerShutdownRequest { sandbox_id: id.into(), ..Default::default() };
        self.call(shutdown).await.unwrap();
    }

    /// Creates the task `id`, a member of `sandbox`, from a configuration that `edit` changes.
    pub(crate) async fn prepare(
        &self,
        id: &str,
        sandbox: &str,
        edit: impl FnOnce(&mut serde_json::Value),
    ) -> hops::Result<u32> {
        let args = ["/bin/sh", "-c", "sleep 1000"];
        let (mut create, task) = task(&self.cx, &self.runtime, id, &args);
        let container = create.container.as_mut().unwrap();
        sandbox.clone_into(&mut container.sandbox);
        let spec = container.spec.as_mut().unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&spec.value).unwrap();
        json["linux"]["cgroupsPath"] = format!("/{}-{id}", self.ns).into();
        edit(&mut json);
        spec.value = json.to_string().into_bytes();
        self.call(create).await.unwrap();
        Ok(self.call(task).await?.pid)
    }

    /// Runs such a task.
    pub(crate) async fn run(
        &self,
        id: &str,
        sandbox: &str,
        edit: impl FnOnce(&mut serde_json::Value),
    ) -> u32 {
        let pid = self.prepare(id, sandbox, edit).await.unwrap();
        self.call(StartRequest { container_id: id.into(), ..Default::default() }).await.unwrap();
        pid
    }

    /// Kills and deletes a task.
    pub(crate) async fn end(&self, id: &str) {
        let container_id = id.to_owned();
        let kill =
            KillRequest { container_id: container_id.clone(), signal: 9, ..Default::default() };
        self.call(kill).await.unwrap();
        let wait = WaitRequest { container_id: container_id.clone(), ..Default::default() };
        assert_eq!(self.call(wait).await.unwrap().exit_status, 137);
        self.call(DeleteTaskRequest { container_id }).await.unwrap();
    }

    /// The bundles of this case's namespace.
    pub(crate) fn bundles(&self) -> Vec<String> {
        let homes = ["io.containerd.runtime.v2.task", "io.containerd.sandbox.controller.v1.shim"];
        let dirs = homes.map(|home| self.config.state.join(home).join(&self.ns));
        let entries = dirs.into_iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten());
        entries.map(|entry| entry.unwrap().path().display().to_string()).collect()
    }

    /// Waits until no bundle is left.
    pub(crate) async fn no_bundles(&self) {
        until("bundles are left", || self.bundles().is_empty()).await;
    }

    /// Waits until a process is gone.
    pub(crate) async fn gone(&self, pid: i32) {
        let stat = format!("/proc/{pid}/stat");
        // A zombie is its adopter's to reap, which need not happen soon.
        let over = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        until("a process is left", over).await;
    }

    /// Waits until no shim of this case's namespace is left.
    pub(crate) async fn no_shims(&self) {
        let is_shim = |entry: fs::DirEntry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).any(|arg| arg == self.ns.as_bytes())
        };
        let none = || !fs::read_dir("/proc").unwrap().flatten().any(is_shim);
        until("shims are left", none).await;
    }

    /// Removes the containers and the namespace.
    pub(crate) async fn clear(&self, containers: &[&str]) {
        for id in containers {
            self.call(DeleteContainerRequest { id: (*id).into() }).await.unwrap();
        }
        self.no_shims().await;
        self.call(DeleteNamespaceRequest { name: self.ns.clone() }).await.unwrap();
    }
}
