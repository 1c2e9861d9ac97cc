//! The shim as containerd sees it: executed, spoken to over ttrpc, killed; below it a runtime that
//! is a script, so that what the runtime does is known.

#![allow(clippy::unwrap_used)] // what fails here, fails the test

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use hops::{
    Cx, Handle, Kind,
    proto::{
        Any,
        containerd::{
            events::TaskExit, runc::v1::Options, services::events::ttrpc::v1::ForwardRequest,
            task::v2::*, v1::types::Status,
        },
    },
    shim::{TASK_V2, TASK_V3},
};
use prost::{Message, Name};
use wire::{socket::path_of, ttrpc::Client};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-strata-v2");

/// Enough of runc: the container is a shell that waits for `start`, then copies its input to its
/// output and exits with 3.
const RUNTIME: &str = r#"#!/bin/sh
while [ "${1#--}" != "$1" ]; do
  case $1 in --root) root=$2;; --log) log=$2;; esac; shift 2
done
# What a shell puts in the background reads /dev/null, unless the input has another number first.
exec 3<&0
verb=$1; shift
while [ $# -gt 1 ]; do
  case $1 in --bundle) bundle=$2; shift;; --pid-file) pid=$2; shift;; esac
  case $1 in [a-z0-9]*) [ -n "$id" ] || id=$1;; esac; shift
done
[ $verb = kill ] || id=$1
home=$root/$id
case $verb in
create)
  mkdir -p $home
  if [ -e $bundle/fail ]; then
    echo '{"level":"error","msg":"exec: \"/nope\": not found"}' >> $log; exit 1
  fi
  sh -c "while [ ! -e $home/started ]; do sleep 0.01; done; cat; exit 3" <&3 3<&- &
  echo $! > $pid; echo $! > $home/pid;;
start) touch $home/started;;
exec) sh -c 'cat; exit 4' <&3 3<&- & echo $! > $pid;;
kill) kill -$1 $(cat $home/pid) 2>/dev/null || { echo 'container not running' >&2; exit 1; };;
delete) [ ! -e $home/pid ] || kill -9 $(cat $home/pid) 2>/dev/null; rm -rf $home;;
esac
"#;

/// Makes `script` a program at `path`. Written here, a child of another test could keep it open and
/// so from being executed.
fn install(path: &Path, script: &str) {
    let text = path.with_extension("text");
    fs::write(&text, script).unwrap();
    let mut install = Command::new("install");
    assert!(install.arg(&text).arg(path).status().unwrap().success());
}

/// A containerd's directory: bundles, a runtime, and the socket for events.
struct Daemon {
    dir: tempfile::TempDir,
    events: Arc<Events>,
}

#[derive(Default)]
struct Events(Mutex<Vec<(String, Any)>>);

#[async_trait]
impl Handle<ForwardRequest> for Events {
    async fn handle(&self, _cx: &Cx, op: ForwardRequest) -> hops::Result<()> {
        let envelope = op.envelope.unwrap();
        assert_eq!(envelope.namespace, "shim-test");
        self.0.lock().unwrap().push((envelope.topic, envelope.event.unwrap()));
        Ok(())
    }
}

impl Events {
    /// Waits for the event `topic`; what came until then.
    async fn until(&self, topic: &str) -> Vec<(String, Any)> {
        loop {
            let seen = self.0.lock().unwrap().clone();
            if seen.iter().any(|(t, _)| t == topic) {
                return seen;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

impl Daemon {
    /// `None` where the shim's socket cannot be made.
    fn new() -> Option<Daemon> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: /run/containerd needs root");
            return None;
        }
        let daemon = Daemon { dir: tempfile::tempdir().unwrap(), events: Arc::default() };
        install(&daemon.path("runtime"), RUNTIME);
        Some(daemon)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Takes events from now on.
    fn listen(&self) {
        let listener = tokio::net::UnixListener::bind(self.path("ttrpc")).unwrap();
        let face: Arc<dyn hops::shim::ShimEvents> = self.events.clone();
        tokio::spawn(wire::ttrpc::Server::new(face).serve(listener, std::future::pending()));
    }

    fn bundle(&self, id: &str, config: &str) -> PathBuf {
        let bundle = self.path(id);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), config).unwrap();
        bundle
    }

    fn shim(&self, id: &str, action: &str) -> Vec<u8> {
        self.shim_told(id, action, b"")
    }

    /// As [`Daemon::shim`], with `input` on its standard input.
    fn shim_told(&self, id: &str, action: &str, input: &[u8]) -> Vec<u8> {
        let mut child = Command::new(SHIM)
            .args(["-namespace", "shim-test", "-id", id, "-publish-binary", "/nowhere"])
            .arg("-address")
            .arg(self.path("grpc"))
            .arg(action)
            .current_dir(self.path(id))
            .env("TTRPC_ADDRESS", self.path("ttrpc"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    async fn start(&self, id: &str) -> (PathBuf, Client) {
        let address = String::from_utf8(self.shim(id, "start")).unwrap();
        let socket = path_of(&address);
        assert_eq!(fs::read_to_string(self.path(id).join("address")).unwrap(), address);
        let client = Client::connect(&socket).await.unwrap();
        (socket, client)
    }

    fn create(&self, id: &str) -> CreateTaskRequest {
        let options = Options {
            binary_name: self.path("runtime").display().to_string(),
            root: self.path("state").display().to_string(),
            ..Options::default()
        };
        CreateTaskRequest {
            id: id.into(),
            bundle: self.path(id).display().to_string(),
            options: Some(Any { type_url: Options::full_name(), value: options.encode_to_vec() }),
            ..Default::default()
        }
    }

    fn fifo(&self, name: &str) -> String {
        let path = self.path(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path.display().to_string()
    }
}

async fn ask<O: hops::rpc::RpcOp>(client: &Client, op: O) -> hops::Result<O::Reply> {
    client.handle(&Cx::background(), op).await
}

async fn gone(path: &Path) {
    while path.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_containers_life() {
    let Some(daemon) = Daemon::new() else { return };
    daemon.listen();
    daemon.bundle("c", "{}");
    let (socket, client) = daemon.start("c").await;
    let (stdin, stdout) = (daemon.fifo("in"), daemon.fifo("out"));
    let mut output = fs::OpenOptions::new().read(true).write(true).open(&stdout).unwrap();
    let create = CreateTaskRequest { stdin: stdin.clone(), stdout, ..daemon.create("c") };
    let pid = ask(&client, create.clone()).await.unwrap().pid;
    assert_eq!(ask(&client, create).await.unwrap_err().kind, Kind::AlreadyExists);

    let id = || "c".to_owned();
    let state = || StateRequest { id: id(), ..Default::default() };
    let created = ask(&client, state()).await.unwrap();
    assert_eq!((created.pid, created.status()), (pid, Status::Created));
    let start = || StartRequest { id: id(), ..Default::default() };
    assert_eq!(ask(&client, start()).await.unwrap().pid, pid);
    let error = ask(&client, start()).await.unwrap_err();
    assert_eq!(error.message, "cannot start a running process: unknown");
    let error = ask(&client, DeleteRequest { id: id(), ..Default::default() }).await.unwrap_err();
    assert_eq!(error.message, "cannot delete a running process: unknown");
    ask(&client, ShutdownRequest { id: id(), now: true }).await.unwrap();

    // A daemon that comes back finds everything, and waits on as before.
    drop(client);
    let client = Client::connect(&socket).await.unwrap();
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move {
            ask(&client, WaitRequest { id: "c".into(), ..Default::default() }).await
        })
    };
    fs::OpenOptions::new().write(true).open(&stdin).unwrap().write_all(b"through").unwrap();
    let mut text = [0; 7];
    output.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"through");
    let connected = ask(&client, ConnectRequest { id: id() }).await.unwrap();
    assert_eq!(connected.task_pid, pid);

    ask(&client, CloseIoRequest { id: id(), stdin: true, ..Default::default() }).await.unwrap();
    let exit = waiting.await.unwrap().unwrap();
    assert_eq!(exit.exit_status, 3);
    assert_eq!(ask(&client, state()).await.unwrap().status(), Status::Stopped);
    let kill = KillRequest { id: id(), signal: 9, ..Default::default() };
    let error = ask(&client, kill).await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (Kind::NotFound, "process already finished: not found")
    );
    let deleted = ask(&client, DeleteRequest { id: id(), ..Default::default() }).await.unwrap();
    assert_eq!((deleted.exit_status, deleted.exited_at), (3, exit.exited_at));
    assert_eq!(ask(&client, state()).await.unwrap_err().kind, Kind::NotFound);

    let events = daemon.events.until("/tasks/delete").await;
    let topics: Vec<&str> = events.iter().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    let exit = TaskExit::decode(&*events[2].1.value).unwrap();
    assert_eq!((exit.container_id.as_str(), exit.id.as_str(), exit.exit_status), ("c", "c", 3));

    ask(&client, ShutdownRequest::default()).await.unwrap();
    gone(&socket).await;
}

#[tokio::test]
async fn exec_in_a_pod_whose_shim_is_shared() {
    let Some(daemon) = Daemon::new() else { return };
    daemon.listen();
    let pod = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
    daemon.bundle("a", pod);
    daemon.bundle("b", pod);
    let (socket, client) = daemon.start("a").await;
    assert_eq!(daemon.start("b").await.0, socket);
    for id in ["a", "b"] {
        ask(&client, daemon.create(id)).await.unwrap();
    }
    let stdout = daemon.fifo("out");
    let mut output = fs::OpenOptions::new().read(true).write(true).open(&stdout).unwrap();
    let stdin = daemon.fifo("in");
    let exec = ExecProcessRequest {
        id: "a".into(),
        exec_id: "e".into(),
        stdin: stdin.clone(),
        stdout,
        spec: Some(Any {
            value: br#"{"cwd":"/","args":["x"],"user":{"uid":0,"gid":0}}"#.to_vec(),
            ..Any::default()
        }),
        ..Default::default()
    };
    ask(&client, exec.clone()).await.unwrap();
    assert_eq!(ask(&client, exec).await.unwrap_err().kind, Kind::AlreadyExists);
    let kill = KillRequest { id: "a".into(), exec_id: "e".into(), signal: 9, all: false };
    assert_eq!(ask(&client, kill.clone()).await.unwrap_err().kind, Kind::FailedPrecondition);
    let start = StartRequest { id: "a".into(), exec_id: "e".into() };
    ask(&client, start).await.unwrap();
    fs::OpenOptions::new().write(true).open(&stdin).unwrap().write_all(b"x").unwrap();
    output.read_exact(&mut [0]).unwrap();
    ask(&client, kill).await.unwrap();
    let wait = WaitRequest { id: "a".into(), exec_id: "e".into() };
    assert_eq!(ask(&client, wait).await.unwrap().exit_status, 137);
    let delete = |id: &str, exec_id: &str| DeleteRequest { id: id.into(), exec_id: exec_id.into() };
    assert_eq!(ask(&client, delete("a", "e")).await.unwrap().exit_status, 137);

    // The shim stays for as long as it has a container.
    ask(&client, delete("a", "")).await.unwrap();
    ask(&client, ShutdownRequest::default()).await.unwrap();
    let state = StateRequest { id: "b".into(), ..Default::default() };
    assert_eq!(ask(&client, state).await.unwrap().status(), Status::Created);
    ask(&client, delete("b", "")).await.unwrap();
    ask(&client, ShutdownRequest::default()).await.unwrap();
    gone(&socket).await;
}

#[tokio::test]
async fn a_creation_that_fails_leaves_nothing() {
    let Some(daemon) = Daemon::new() else { return };
    daemon.listen();
    let bundle = daemon.bundle("f", "{}");
    fs::write(bundle.join("fail"), "").unwrap();
    let (socket, client) = daemon.start("f").await;
    let mut create = daemon.create("f");
    create.rootfs.push(hops::proto::containerd::types::Mount {
        r#type: "bind".into(),
        source: "/proc/self".into(),
        options: vec!["rbind".into()],
        ..Default::default()
    });
    let error = ask(&client, create.clone()).await.unwrap_err();
    assert_eq!(error.message, "OCI runtime create failed: exec: \"/nope\": not found: unknown");
    create.stdout = "gopher://x".into();
    let error = ask(&client, create.clone()).await.unwrap_err();
    assert!(error.message.ends_with("unknown STDIO scheme gopher: unknown"), "{error}");
    create.checkpoint = "/x".into();
    assert_eq!(ask(&client, create).await.unwrap_err().kind, Kind::Unimplemented);

    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&bundle.display().to_string()));
    assert_eq!(fs::read_dir(daemon.path("state").join("shim-test")).unwrap().count(), 0);
    let mut left: Vec<_> =
        fs::read_dir(&bundle).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["address", "config.json", "fail", "rootfs"]);
    ask(&client, ShutdownRequest::default()).await.unwrap();
    gone(&socket).await;
}

#[tokio::test]
async fn delete_cleans_up_after_a_shim_that_was_killed() {
    let Some(daemon) = Daemon::new() else { return };
    daemon.bundle("k", "{}");
    let (socket, client) = daemon.start("k").await;
    // With nobody to take events, calls are answered all the same.
    let pid = ask(&client, daemon.create("k")).await.unwrap().pid;
    let shim = ask(&client, ConnectRequest { id: "k".into() }).await.unwrap().shim_pid;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(shim as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let error = ask(&client, ConnectRequest { id: "k".into() }).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    let response = DeleteResponse::decode(&*daemon.shim("k", "delete")).unwrap();
    assert_eq!((response.pid, response.exit_status), (pid, 137));
    assert!(!socket.exists());
    assert!(!daemon.path("state").join("shim-test/k").exists());
}

/// `containerd.runtime.bootstrap.v1`'s messages, of containerd 2.3, as far as they are asked for
/// here.
#[derive(Clone, PartialEq, Message)]
struct BootstrapParams {
    #[prost(string, tag = "1")]
    instance_id: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "5")]
    ttrpc_address: String,
    #[prost(string, tag = "6")]
    grpc_address: String,
    #[prost(string, optional, tag = "9")]
    socket_dir: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct BootstrapResult {
    #[prost(int32, tag = "1")]
    version: i32,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(string, tag = "3")]
    protocol: String,
}

#[tokio::test]
async fn a_containerd_that_sends_params_gets_version_3() {
    let Some(daemon) = Daemon::new() else { return };
    daemon.bundle("v3", "{}");
    // Events go where the parameters say, not where the environment does.
    let ttrpc = daemon.path("ttrpc3");
    let listener = tokio::net::UnixListener::bind(&ttrpc).unwrap();
    let face: Arc<dyn hops::shim::ShimEvents> = daemon.events.clone();
    tokio::spawn(wire::ttrpc::Server::new(face).serve(listener, std::future::pending()));
    let params = BootstrapParams {
        instance_id: "v3".into(),
        namespace: "shim-test".into(),
        ttrpc_address: ttrpc.display().to_string(),
        grpc_address: daemon.path("grpc3").display().to_string(),
        socket_dir: Some(daemon.path("s").display().to_string()),
    };
    let start = || daemon.shim_told("v3", "start", &params.encode_to_vec());
    let result = BootstrapResult::decode(&*start()).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    let socket = path_of(&result.address);
    assert_eq!(socket.parent(), Some(daemon.path("s").as_path()));
    // The second call finds the shim of the first.
    assert_eq!(BootstrapResult::decode(&*start()).unwrap(), result);

    let named = |name| Client::connect_as(&socket, TASK_V2, name);
    let client = named(TASK_V3).await.unwrap();
    let pid = ask(&client, daemon.create("v3")).await.unwrap().pid;
    let state = || StateRequest { id: "v3".into(), ..Default::default() };
    assert_eq!(ask(&client, state()).await.unwrap().pid, pid);
    // A daemon of before finds the same shim.
    let old = Client::connect(&socket).await.unwrap();
    assert_eq!(ask(&old, state()).await.unwrap().pid, pid);
    let unknown = named("containerd.services.transfer.v1.Transfer").await;
    let error = ask(&unknown.unwrap(), state()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unimplemented);

    ask(&client, DeleteRequest { id: "v3".into(), ..Default::default() }).await.unwrap();
    daemon.events.until("/tasks/delete").await;
    ask(&client, ShutdownRequest::default()).await.unwrap();
    gone(&socket).await;
}

#[test]
fn info_tells_the_runtimes_features() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = dir.path().join("runtime");
    let info = |options: &Options| {
        let options = Any { type_url: Options::full_name(), value: options.encode_to_vec() };
        let mut child = Command::new(SHIM)
            .arg("-info")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&options.encode_to_vec()).unwrap();
        (options, child.wait_with_output().unwrap())
    };
    let options = Options { binary_name: runtime.display().to_string(), ..Options::default() };
    let (_, missing) = info(&options);
    assert!(!missing.status.success());
    let text = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(text.contains("failed to look up the path of"), "{text}");

    let features = |script: &str| {
        install(&runtime, script);
        let (asked, output) = info(&options);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let info = hops::proto::containerd::types::RuntimeInfo::decode(&*output.stdout).unwrap();
        assert_eq!(info.name, "io.containerd.strata.v2");
        assert_eq!(info.options, Some(asked));
        info.features
    };
    let told = features("#!/bin/sh\n[ $1 = features ] && echo '{\"ociVersionMax\":\"1.2.0\"}'");
    let told = told.unwrap();
    assert!(told.type_url.ends_with("/features/Features"), "{}", told.type_url);
    assert_eq!(told.value.trim_ascii(), br#"{"ociVersionMax":"1.2.0"}"#);
    // youki has no such verb.
    assert_eq!(features("#!/bin/sh\nexit 1"), None);
}
