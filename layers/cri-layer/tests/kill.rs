//! Nothing is lost when the program is killed.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hops::{Cx, Handle, proto::runtime::v1::*};
use support::{BUSYBOX, HANG, PAUSE, Peer};
use wire::grpc::Client;

/// A running `strata-cri`.
struct Program(Child);

impl Program {
    async fn start(peer: &Peer) -> (Program, Client) {
        let log = fs::File::create(peer.path("cri.log")).unwrap();
        let socket = peer.path("cri.sock");
        let program = Command::new(env!("CARGO_BIN_EXE_strata-cri"))
            .arg("--listen")
            .arg(&socket)
            .arg("--containerd")
            .arg(peer.socket())
            .arg("--root")
            .arg(peer.path("cri-root"))
            .arg("--state")
            .arg(peer.path("cri-state"))
            .arg("--cni-conf-dir")
            .arg(peer.path("net.d"))
            .args(["--sandbox-image", PAUSE, "--runtime", "io.containerd.runc.v2"])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .map(Program)
            .unwrap();
        let client = Client::new(&socket);
        let begun = Instant::now();
        while begun.elapsed() < HANG {
            if client.handle(&Cx::background(), VersionRequest::default()).await.is_ok() {
                return (program, client);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{}", fs::read_to_string(peer.path("cri.log")).unwrap_or_default());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pod(logs: &Path) -> PodSandboxConfig {
    let options =
        NamespaceOption { network: NamespaceMode::Node.into(), ..NamespaceOption::default() };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "kill".into(),
            uid: "1".into(),
            namespace: "test".into(),
            attempt: 0,
        }),
        log_directory: logs.display().to_string(),
        labels: HashMap::from([("app".to_owned(), "kill".to_owned())]),
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

async fn start(
    client: &Client,
    sandbox: &str,
    pod: &PodSandboxConfig,
    name: &str,
    script: &str,
) -> String {
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: BUSYBOX.to_owned(), ..Default::default() }),
        command: ["sh", "-c", script].map(str::to_owned).into(),
        log_path: format!("{name}.log"),
        ..Default::default()
    };
    let create = CreateContainerRequest {
        pod_sandbox_id: sandbox.to_owned(),
        config: Some(config),
        sandbox_config: Some(pod.clone()),
    };
    let id = client.handle(&Cx::background(), create).await.unwrap().container_id;
    let start = StartContainerRequest { container_id: id.clone() };
    client.handle(&Cx::background(), start).await.unwrap();
    id
}

async fn status(client: &Client, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    client.handle(&Cx::background(), request).await.unwrap().status.unwrap()
}

/// Reads the numbers that a container wrote, once there are `enough`.
async fn numbers(path: &Path, enough: usize) -> Vec<usize> {
    let begun = Instant::now();
    while begun.elapsed() < HANG {
        let text = fs::read_to_string(path).unwrap_or_default();
        let numbers: Vec<usize> =
            text.lines().filter_map(|l| l.rsplit(' ').next()?.parse().ok()).collect();
        if numbers.len() >= enough {
            return numbers;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} has fewer than {enough} lines", path.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_program_finds_its_pods_their_ends_and_their_output() {
    let Some(peer) = Peer::start() else { return };
    let cx = Cx::background();
    let logs = peer.path("logs");
    let pod = pod(&logs);
    let (program, client) = Program::start(&peer).await;
    let run = RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
    let sandbox = client.handle(&cx, run.clone()).await.unwrap().pod_sandbox_id;
    let counts = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done";
    let counting = start(&client, &sandbox, &pod, "counts", counts).await;
    let ending =
        start(&client, &sandbox, &pod, "ends", "until [ -e /end ]; do sleep 0.02; done; exit 9")
            .await;
    let gone = start(&client, &sandbox, &pod, "gone", "exit 4").await;
    while status(&client, &gone).await.state() != ContainerState::ContainerExited {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = status(&client, &counting).await;
    let written = numbers(&logs.join("counts.log"), 5).await.len();
    let exec = ExecSyncRequest {
        container_id: ending.clone(),
        cmd: ["sh", "-c", "(sleep 0.5; touch /end) >/dev/null 2>&1 &"].map(str::to_owned).into(),
        timeout: 100,
    };
    client.handle(&cx, exec).await.unwrap();

    drop(program);
    // One of them ends while nobody looks.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_program, client) = Program::start(&peer).await;

    let after = status(&client, &counting).await;
    assert_eq!((after.state(), after.started_at), (before.state(), before.started_at));
    let counted = numbers(&logs.join("counts.log"), written + 10).await;
    assert!(counted.iter().zip(1..).all(|(seen, wanted)| *seen == wanted), "{counted:?}");
    let list = ListPodSandboxRequest::default();
    let pods = client.handle(&cx, list).await.unwrap().items;
    assert_eq!(pods.len(), 1);
    assert_eq!((&pods[0].id, &pods[0].labels), (&sandbox, &pod.labels));
    assert_eq!(pods[0].state(), PodSandboxState::SandboxReady);
    // Its end may still be noted when the program answers first.
    let begun = Instant::now();
    let mut ended = status(&client, &ending).await;
    while ended.state() != ContainerState::ContainerExited && begun.elapsed() < HANG {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ended = status(&client, &ending).await;
    }
    assert_eq!((ended.state(), ended.exit_code), (ContainerState::ContainerExited, 9));
    assert_eq!(status(&client, &gone).await.exit_code, 4, "an end from before is remembered");
    let double = client.handle(&cx, run).await.unwrap_err();
    assert!(double.message.contains("is reserved for"), "{double}");
    let exec = ExecSyncRequest { container_id: counting, cmd: vec!["id".into()], timeout: 100 };
    assert_eq!(client.handle(&cx, exec).await.unwrap().exit_code, 0);

    client.handle(&cx, StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.unwrap();
    client.handle(&cx, RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
    assert_eq!(peer.mounts(), Vec::<String>::new());
}
