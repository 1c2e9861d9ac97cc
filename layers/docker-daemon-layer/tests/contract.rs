//! The contract, in process and over HTTP, on containerd: the one whose socket
//! `STRATA_TEST_CONTAINERD` names, with the image `STRATA_TEST_IMAGE` in its namespace `moby`.

use std::{path::Path, sync::Arc};

use docker_daemon_layer::{Config, Engine, suite};
use hops::Docker;

async fn engine(dir: &Path, socket: &str) -> hops::Result<Arc<Engine>> {
    let config = Config {
        data_root: dir.join("data"),
        exec_root: dir.join("exec"),
        runtime: std::env::var("STRATA_TEST_RUNTIME")
            .unwrap_or_else(|_| "io.containerd.strata.v2".to_owned()),
        bridge: None,
        ..Config::default()
    };
    let containerd = Arc::new(wire::grpc::Client::new(socket));
    Ok(Arc::new(Engine::open(config, containerd, None).await?))
}

fn containerd() -> Option<String> {
    let socket = std::env::var("STRATA_TEST_CONTAINERD").ok();
    if socket.is_none() {
        println!("SKIP: STRATA_TEST_CONTAINERD names no containerd");
    }
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_forms_of_the_face_keep_the_contract() {
    let Some(socket) = containerd() else { return };
    let image = std::env::var("STRATA_TEST_IMAGE").unwrap_or_else(|_| "busybox".to_owned());
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), &socket).await.unwrap();
    suite::refusals(&*engine).await.unwrap();
    suite::life(&*engine, &image, "suite-in-process").await.unwrap();

    let path = dir.path().join("d.sock");
    let listener = wire::socket::listen(&path).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served: Arc<dyn Docker> = engine;
    let server = tokio::spawn(wire::http::serve(listener, served, async {
        let _ = stopped.await;
    }));
    let client = wire::http::Client::new(&path);
    suite::refusals(&client).await.unwrap();
    suite::life(&client, &image, "suite-over-http").await.unwrap();
    drop(stop);
    server.await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("data/containers")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("exec/io")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_daemon_keeps_the_contract() {
    let Ok(socket) = std::env::var("STRATA_TEST_DOCKER") else {
        println!("SKIP: STRATA_TEST_DOCKER names no daemon's socket");
        return;
    };
    let image = std::env::var("STRATA_TEST_IMAGE").unwrap_or_else(|_| "busybox".to_owned());
    let client = wire::http::Client::new(socket);
    suite::refusals(&client).await.unwrap();
    suite::life(&client, &image, "suite-real").await.unwrap();
}
