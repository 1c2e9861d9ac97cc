//! Inside a sandbox: the daemons of one path, lowest first, and the kubelet that drives them.
//!
//! This runs as the sandbox's init. Its standard streams are the kubelet's: jobs in, answers out;
//! when whoever drives it goes away, by whatever death, the kubelet ends, this ends, and with it
//! the pid namespace and everything in it.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use hops::{Cx, Handle, HandleStream, docker, proto::Any, trace::SPANS_ENV};
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::era::{Era, Images, Places};

/// How long a daemon may take until it serves.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a sandbox's init is told, as JSON in its one argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The path, not yet filled in.
    pub era: Era,
    /// Its places.
    pub places: Places,
    /// The archives of images to put into it.
    pub archives: Vec<PathBuf>,
    /// Where spans go.
    pub spans: PathBuf,
    /// Where the daemons' own words go, a file each.
    pub logs: PathBuf,
}

/// The programs that this one is, by the name it is executed under.
pub(crate) const PROGRAMS: [&str; 8] = [
    "strata-kubelet",
    "strata-dockershim",
    "strata-dockerd",
    "strata-cri",
    "strata-containerd",
    "containerd-shim-strata-v2",
    "strata-runc",
    "strata-cni",
];

/// The names under which CNI configurations find the plugins.
pub(crate) const PLUGINS: [&str; 4] = ["loopback", "bridge", "host-local", "portmap"];

/// Runs the stack until its driver goes away.
///
/// # Errors
/// When a daemon does not come up, with its last words; and those of importing the images.
pub(crate) fn run(plan: Plan) -> Result<()> {
    let bin = Path::new(&plan.places.bin);
    fs::create_dir_all(bin)?;
    for name in PROGRAMS.iter().chain(&PLUGINS) {
        std::os::unix::fs::symlink("/strata", bin.join(name)).context("program links")?;
    }
    for dir in [&plan.places.run, &plan.places.root, &plan.places.cni] {
        fs::create_dir_all(dir)?;
    }
    machine()?;
    network(Path::new(&plan.places.cni))?;
    let era = plan.era.clone().at(&plan.places);
    for file in &era.files {
        fs::write(&file.path, &file.text).with_context(|| file.path.clone())?;
    }
    end_with_the_driver();
    for daemon in &era.daemons {
        let log = plan.logs.join(format!("{}.log", daemon.layer));
        let mut child = command(&plan, &daemon.program)?
            .args(&daemon.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .with_context(|| daemon.program.clone())?;
        await_socket(&mut child, &daemon.program, Path::new(&daemon.socket), &log)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for archive in &plan.archives {
        runtime
            .block_on(import(&era, archive))
            .with_context(|| format!("image archive {}", archive.display()))?;
    }
    drop(runtime);
    let mut kubelet = command(&plan, "strata-kubelet")?
        .args(["--container-runtime-endpoint", &format!("unix://{}", era.cri)])
        .args(["--pod-logs-dir", &format!("{}/pods", plan.places.run)])
        .args(["--root-dir", &format!("{}/kubelet", plan.places.root)])
        .arg("--drive")
        .stderr(fs::File::create(plan.logs.join("kubelet-sim.log"))?)
        .spawn()
        .context("strata-kubelet")?;
    kubelet.wait()?;
    Ok(())
}

/// Ends this process as soon as the driver's end of standard input is closed, whatever is going
/// on: with the init the kernel takes down everything in the sandbox, and nothing in it is to be
/// kept.
fn end_with_the_driver() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    std::thread::spawn(|| {
        let stdin = std::io::stdin();
        loop {
            let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => {}
                _ => std::process::exit(0),
            }
        }
    });
}

fn command(plan: &Plan, program: &str) -> Result<Command> {
    let path =
        format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", plan.places.bin);
    let found = path.split(':').map(|dir| Path::new(dir).join(program)).find(|p| p.exists());
    let mut command = Command::new(found.with_context(|| format!("{program} is not installed"))?);
    command.arg0(program).env("PATH", path).env(SPANS_ENV, &plan.spans);
    Ok(command)
}

/// The files that a daemon finds on every machine, and some (containerd's CRI) refuse to miss.
fn machine() -> Result<()> {
    let etc = Path::new("/etc");
    fs::create_dir_all(etc)?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    fs::write(etc.join("hostname"), "strata\n")?;
    // There is no name service in a network of one's own.
    Ok(fs::write(etc.join("resolv.conf"), "")?)
}

/// The default pod network: a bridge of the sandbox's own.
fn network(cni: &Path) -> Result<()> {
    let list = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "strata",
        "plugins": [{
            "type": "bridge",
            "bridge": "strata0",
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": "/run/cni",
            },
        }],
    });
    Ok(fs::write(cni.join("10-strata.conflist"), list.to_string())?)
}

/// Waits until `socket` is served.
fn await_socket(child: &mut Child, program: &str, socket: &Path, log: &Path) -> Result<()> {
    let begun = Instant::now();
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        let last_words = || fs::read_to_string(log).unwrap_or_default();
        if let Some(status) = child.try_wait()? {
            bail!("{program} ended ({status}): {}", last_words().trim());
        }
        if begun.elapsed() > PATIENCE {
            bail!("{program} does not serve {}: {}", socket.display(), last_words().trim());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Puts an image archive into the path's store, over the wire that a user's client would take.
async fn import(era: &Era, archive: &Path) -> Result<()> {
    let bytes = Bytes::from(fs::read(archive)?);
    let lowest = |layer: &str| {
        let found = era.daemons.iter().find(|d| d.layer == layer);
        found.map(|d| d.socket.clone()).with_context(|| format!("the path has no {layer}"))
    };
    match era.images {
        Images::Docker => {
            let client = wire::http::Client::new(lowest("docker-daemon-layer")?);
            let call = docker::Request::<docker::ImageLoad>::default();
            let input = Box::pin(futures_util::stream::once(std::future::ready(bytes)));
            let mut progress = client.stream(&Cx::background(), call, input).await?;
            while let Some(line) = progress.next().await {
                line?;
            }
            Ok(())
        }
        Images::Ctr => {
            let address = lowest("containerd-layer")?;
            let out = Command::new("ctr")
                .args(["--address", &address, "--namespace", "k8s.io", "images", "import"])
                .arg(archive)
                .output()
                .context("ctr")?;
            if !out.status.success() {
                bail!("ctr: {}", String::from_utf8_lossy(&out.stderr).trim());
            }
            Ok(())
        }
        Images::Containerd => {
            let client = Arc::new(wire::grpc::Client::new(lowest("containerd-layer")?));
            transfer(client, bytes).await
        }
    }
}

/// containerd's transfer service reads an archive from a stream of its streaming service.
async fn transfer(client: Arc<wire::grpc::Client>, archive: Bytes) -> Result<()> {
    use hops::proto::containerd::{
        services::{streaming::v1::StreamInit, transfer::v1::TransferRequest},
        types::{
            Platform,
            transfer::{Data, ImageImportStream, ImageStore, UnpackConfiguration, WindowUpdate},
        },
    };
    let cx = Cx::background().in_namespace("k8s.io");
    let id = "strata-import".to_owned();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Any>(4);
    sender.send(any(&StreamInit { id: id.clone() })).await?;
    let input = Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    }));
    let mut answers = client.stream(&cx, hops::containerd::Stream, input).await?;
    answers.next().await.context("the stream ended before it began")??;
    let upload = tokio::spawn(async move {
        // The receiver says how much it takes; until then nothing is sent.
        let (mut allowed, mut sent) = (0usize, 0usize);
        while sent < archive.len() {
            while allowed == 0 {
                let Some(Ok(update)) = answers.next().await else { return };
                if update.type_url.ends_with("WindowUpdate")
                    && let Ok(update) = WindowUpdate::decode(update.value.as_ref())
                {
                    allowed += usize::try_from(update.update).unwrap_or(0);
                }
            }
            let n = allowed.min(archive.len() - sent).min(256 << 10);
            let data = archive.slice(sent..sent + n);
            if sender.send(any(&Data { data })).await.is_err() {
                return;
            }
            sent += n;
            allowed -= n;
        }
        // A half-close is the end of the archive; to hang up altogether would reset the stream
        // under a receiver that has not read it all.
        drop(sender);
        while answers.next().await.is_some() {}
    });
    let platform = Platform {
        os: "linux".into(),
        architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.into(),
        ..Default::default()
    };
    let request = TransferRequest {
        source: Some(any(&ImageImportStream { stream: id, ..Default::default() })),
        destination: Some(any(&ImageStore {
            unpacks: vec![UnpackConfiguration {
                platform: Some(platform),
                snapshotter: "overlayfs".into(),
            }],
            ..Default::default()
        })),
        options: None,
    };
    let done = client.handle(&cx, request).await;
    upload.abort();
    Ok(done?)
}

fn any<M: Message + prost::Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}
