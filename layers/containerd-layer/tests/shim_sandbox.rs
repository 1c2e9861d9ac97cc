//! The sandbox service as a shim has it: spoken to over ttrpc, without a daemon.

#![allow(clippy::unwrap_used)] // what fails here, fails the test

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use hops::{
    Cx, Handle, Kind,
    proto::containerd::{runtime::sandbox::v1::*, task::v2::ShutdownRequest},
    rpc::RpcOp,
};
use wire::{socket::path_of, ttrpc::Client};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-strata-v2");

struct Shim {
    dir: tempfile::TempDir,
    socket: PathBuf,
    client: Client,
}

impl Shim {
    /// A shim in an empty bundle; `None` where it cannot be made.
    async fn start() -> Option<Shim> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: /run/containerd needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new(SHIM)
            .args(["-namespace", "shim-sandbox", "-id", "s", "-publish-binary", "/nowhere"])
            .arg("-address")
            .arg(dir.path().join("grpc"))
            .arg("start")
            .current_dir(dir.path())
            .env("TTRPC_ADDRESS", dir.path().join("ttrpc"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let socket = path_of(&String::from_utf8(output.stdout).unwrap());
        let client = Client::connect(&socket).await.unwrap();
        Some(Shim { dir, socket, client })
    }

    async fn ask<O: RpcOp>(&self, op: O) -> hops::Result<O::Reply> {
        let cx = Cx::background().within(Duration::from_secs(20));
        self.client.handle(&cx, op).await
    }

    async fn create(&self, id: &str) -> hops::Result<CreateSandboxResponse> {
        let bundle_path = self.dir.path().display().to_string();
        let sandbox_id = id.to_owned();
        self.ask(CreateSandboxRequest { sandbox_id, bundle_path, ..Default::default() }).await
    }

    async fn state(&self) -> String {
        let status = SandboxStatusRequest { sandbox_id: "s".into(), ..Default::default() };
        self.ask(status).await.unwrap().state
    }

    /// Has it end, and waits until it has.
    async fn shutdown(self) {
        self.ask(ShutdownSandboxRequest { sandbox_id: "s".into() }).await.unwrap();
        tokio::time::timeout(Duration::from_secs(20), self.client.closed()).await.unwrap();
        assert!(!self.socket.exists());
    }
}

fn start() -> StartSandboxRequest {
    StartSandboxRequest { sandbox_id: "s".into() }
}

#[tokio::test]
async fn a_shim_has_one_sandbox_which_keeps_it() {
    let Some(shim) = Shim::start().await else { return };
    let early = shim.ask(start()).await.unwrap_err();
    assert_eq!(early.kind, Kind::FailedPrecondition, "{early}");
    let ping = || PingRequest { sandbox_id: "s".into() };
    assert_eq!(shim.ask(ping()).await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(shim.create("").await.unwrap_err().kind, Kind::InvalidArgument);

    shim.create("s").await.unwrap();
    for id in ["s", "t"] {
        let again = shim.create(id).await.unwrap_err();
        assert_eq!(again.kind, Kind::AlreadyExists);
        assert_eq!(again.message, "sandbox s: already exists");
    }
    shim.ask(start()).await.unwrap();
    // Without a task it would go, were it not for the sandbox.
    shim.ask(ShutdownRequest::default()).await.unwrap();
    shim.ask(ping()).await.unwrap();
    assert_eq!(shim.state().await, "SANDBOX_READY");
    let other = SandboxStatusRequest { sandbox_id: "t".into(), ..Default::default() };
    assert_eq!(shim.ask(other).await.unwrap_err().kind, Kind::NotFound);
    shim.shutdown().await;
}

#[tokio::test]
async fn a_sandbox_that_never_ran_can_be_stopped_and_waited_for() {
    let Some(shim) = Shim::start().await else { return };
    shim.create("s").await.unwrap();
    let wait = shim.ask(WaitSandboxRequest { sandbox_id: "s".into() });
    let stop = shim.ask(StopSandboxRequest { sandbox_id: "s".into(), timeout_secs: 5 });
    let (ended, stopped) = tokio::join!(wait, stop);
    stopped.unwrap();
    let ended = ended.unwrap();
    assert!(ended.exit_status == 0 && ended.exited_at.is_some());
    assert_eq!(shim.ask(start()).await.unwrap_err().kind, Kind::FailedPrecondition);
    assert_eq!(shim.state().await, "SANDBOX_NOTREADY");
    shim.shutdown().await;
}

#[tokio::test]
async fn a_sandbox_ends_with_its_process_and_its_process_with_the_shim() {
    let Some(shim) = Shim::start().await else { return };
    shim.create("s").await.unwrap();
    let pid = shim.ask(start()).await.unwrap().pid.cast_signed();
    let process = nix::unistd::Pid::from_raw(pid);
    // It closed what it inherited, heeds no lesser signal, and is no shim by its name.
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(open, 1);
    nix::sys::signal::kill(process, nix::sys::signal::SIGTERM).unwrap();
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "pause\n");
    assert_eq!(shim.state().await, "SANDBOX_READY");

    nix::sys::signal::kill(process, nix::sys::signal::SIGKILL).unwrap();
    let wait = WaitSandboxRequest { sandbox_id: "s".into() };
    assert_eq!(shim.ask(wait).await.unwrap().exit_status, 137);
    assert_eq!(shim.state().await, "SANDBOX_NOTREADY");
    shim.shutdown().await;

    let shim = Shim::start().await.unwrap();
    shim.create("s").await.unwrap();
    let pid = shim.ask(start()).await.unwrap().pid;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap();
    let parent = nix::unistd::Pid::from_raw(parent.parse().unwrap());
    nix::sys::signal::kill(parent, nix::sys::signal::SIGKILL).unwrap();
    let living = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    for _ in 0..2000 {
        if !living() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!living());
    std::fs::remove_file(shim.socket).unwrap();
}
