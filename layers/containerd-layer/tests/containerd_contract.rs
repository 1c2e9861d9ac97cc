//! The contract of the `Containerd` face: on the engine, through client and server, and on the
//! real containerd where it is installed.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod daemon;

use containerd_layer::{
    Engine,
    server::Server,
    suite::{Runtime, Subject, suite},
};
use daemon::{config, find, rootfs};
use hops::{Containerd, trace::Spans};
use std::{path::Path, sync::Arc};

/// How tasks can be run with containerd's own shim here.
fn runtime(dir: &Path) -> Option<Runtime> {
    let name = "io.containerd.runc.v2".to_owned();
    Some(Runtime { name, rootfs: rootfs(dir, &["containerd-shim-runc-v2", "runc"])? })
}

fn subject(face: Arc<dyn Containerd>, runtime: Option<Runtime>) -> Subject {
    Subject { face, runtime, skip: Vec::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_process() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let engine = Engine::open(&config, Spans::disabled()).await.unwrap();
    suite(&subject(Arc::new(engine), runtime(dir.path()))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_client_and_server() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let server = Server::listen(&config).unwrap();
    let engine = Engine::open(&config, Spans::disabled()).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(engine, Spans::disabled(), async {
        let _ = stopped.await;
    }));
    let client = wire::grpc::Client::new(&config.address);
    suite(&subject(Arc::new(client), runtime(dir.path()))).await.unwrap();
    let _ = stop.send(());
    serving.await.unwrap();
}

/// The promises kept on strata-runc by the shim that `shim` gives for a directory.
async fn with_shim(shim: impl FnOnce(&Path) -> String) {
    let dir = tempfile::tempdir().unwrap();
    let Some(rootfs) = rootfs(dir.path(), &["strata-runc"]) else { return };
    let config = config(dir.path());
    let server = Server::listen(&config).unwrap();
    let engine = Engine::open(&config, Spans::disabled()).await.unwrap();
    let (_stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let face = Arc::new(engine.clone());
    tokio::spawn(server.serve(engine, Spans::disabled(), async {
        let _ = stopped.await;
    }));
    let name = shim(dir.path());
    suite(&subject(face, Some(Runtime { name, rootfs }))).await.unwrap();
}

/// Strata's own shim and runtime, where the runtime is in the path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_our_own_shim() {
    with_shim(|_| OUR_SHIM.to_owned()).await;
}

const OUR_SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-strata-v2");

/// A shim like those of containerd 2.3, which refuse a start without bootstrap parameters in the
/// real one's words, and answer with version 3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_shim_that_wants_parameters() {
    with_shim(|dir| {
        let shim = dir.join("containerd-shim-new-v2");
        let script = format!(
            r#"#!/bin/sh
for last; do [ "$before" != -id ] || id=$last; before=$last; done
[ "$last" = start ] || exec {OUR_SHIM} "$@"
cat >params
grep -q "$id" params || {{ echo 'shim was started through the deprecated API' >&2; exit 1; }}
exec {OUR_SHIM} "$@" <params
"#
        );
        let text = dir.join("text");
        std::fs::write(&text, script).unwrap();
        // Written here, a child of another test could keep it open and so from being executed.
        let mut install = std::process::Command::new("install");
        assert!(install.arg(&text).arg(&shim).status().unwrap().success());
        shim.display().to_string()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_containerd() {
    let Some(program) = find("containerd") else {
        println!("SKIP: containerd is not installed");
        return;
    };
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: containerd needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let daemon = daemon::Daemon::start(&program, &config);
    let client = wire::grpc::Client::new(&config.address);
    suite(&subject(Arc::new(client), runtime(dir.path()))).await.unwrap();
    drop(daemon);
    // They end a moment after their last task; the directory goes with them.
    daemon::await_shims(dir.path());
}
