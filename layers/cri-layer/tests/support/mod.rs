//! A containerd 1.6 of a test's own, with two images made from the machine's busybox.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "../../../../tests/machine/company.rs"]
mod company;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use cri_layer::{Config, Engine};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What a busy machine needs more time for than this hangs.
pub(crate) const HANG: Duration = Duration::from_secs(120);

/// The image of the pause process.
pub(crate) const PAUSE: &str = "strata.test/pause:1";
/// The image of containers.
pub(crate) const BUSYBOX: &str = "strata.test/busybox:1";

/// A running containerd; it ends, and its directory goes, when this is dropped.
pub(crate) struct Peer {
    pub(crate) dir: TempDir,
    containerd: Child,
}

impl Peer {
    /// Starts one; `None`, having said why, where it cannot be.
    pub(crate) fn start() -> Option<Peer> {
        let skip = |reason: &str| {
            println!("SKIP: {reason}");
            None
        };
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        for program in ["containerd", "ctr", "runc", "containerd-shim-runc-v2"] {
            let there = std::env::var_os("PATH")
                .is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(program).exists()));
            if !there {
                return skip(&format!("{program} is not installed"));
            }
        }
        let Some(busybox) = fs::read("/bin/busybox").ok().filter(|b| is_static(b)) else {
            return skip("there is no static /bin/busybox");
        };
        company::announce();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {PAUSE:?}\n\
             restrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nconf_dir = {:?}\n",
            at("root"),
            at("state"),
            at("containerd.sock"),
            at("net.d")
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let log = fs::File::create(dir.path().join("containerd.log")).unwrap();
        let containerd = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let peer = Peer { dir, containerd };
        for (name, command) in [(PAUSE, "while :; do sleep 3600; done"), (BUSYBOX, "true")] {
            peer.import(name, &busybox, command);
        }
        Some(peer)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("containerd.sock")
    }

    /// An engine's configuration on this containerd.
    pub(crate) fn config(&self) -> Config {
        Config {
            root: self.path("cri-root"),
            state: self.path("cri-state"),
            sandbox_image: PAUSE.to_owned(),
            cni_conf_dir: self.path("net.d"),
            runtime: "io.containerd.runc.v2".to_owned(),
            ..Config::default()
        }
    }

    /// An engine in this process.
    pub(crate) async fn engine(&self) -> Engine {
        let containerd = Arc::new(wire::grpc::Client::new(self.socket()));
        let plugins = Arc::new(wire::cni::Client { path: vec!["/usr/lib/cni".into()] });
        Engine::open(self.config(), containerd, plugins).await.unwrap()
    }

    fn import(&self, name: &str, busybox: &[u8], command: &str) {
        let archive = self.path("image.tar");
        fs::write(&archive, docker_archive(name, busybox, command)).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < HANG {
            let out = Command::new("ctr")
                .arg("--address")
                .arg(self.socket())
                .args(["-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs"])
                .arg(&archive)
                .output()
                .unwrap();
            if out.status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{}", fs::read_to_string(self.path("containerd.log")).unwrap_or_default());
    }

    /// What of this test is mounted.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.path().display().to_string();
        table.lines().filter(|line| line.contains(&here)).map(str::to_owned).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
    }
}

/// Whether an executable has no interpreter.
fn is_static(elf: &[u8]) -> bool {
    !elf.windows(8).take(4096).any(|w| w == b"/lib64/l" || w == b"/lib/ld-")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn docker_archive(name: &str, busybox: &[u8], command: &str) -> Vec<u8> {
    let mut layer = Tar::default();
    layer.directory("bin");
    layer.file("bin/busybox", busybox);
    for applet in ["sh", "sleep", "id", "head", "tr", "cat", "touch", "echo", "true"] {
        layer.link(&format!("bin/{applet}"), "busybox");
    }
    layer.directory("etc");
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n");
    layer.file("etc/group", b"root:x:0:\nwheel:x:10:app\napp:x:1001:\n");
    let layer = layer.end();
    let config = serde_json::json!({
        "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", _ => "arm64" },
        "os": "linux",
        "config": { "Cmd": ["/bin/sh", "-c", command], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    })
    .to_string();
    let config_name = format!("{}.json", sha256(config.as_bytes()));
    let manifest = serde_json::json!([
        { "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"] }
    ]);
    let mut archive = Tar::default();
    archive.file("layer.tar", &layer);
    archive.file(&config_name, config.as_bytes());
    archive.file("manifest.json", manifest.to_string().as_bytes());
    archive.end()
}

/// A tar archive in the making (POSIX ustar).
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(&mut self, name: &str, kind: u8, mode: u32, link: &str, data: &[u8]) {
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", data.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(157, link);
        put(257, "ustar\u{0}00");
        header[156] = kind;
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.write_all(&header).unwrap();
        self.0.write_all(data).unwrap();
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn directory(&mut self, name: &str) {
        self.entry(&format!("{name}/"), b'5', 0o755, "", &[]);
    }

    fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, b'0', 0o755, "", data);
    }

    fn link(&mut self, name: &str, to: &str) {
        self.entry(name, b'2', 0o777, to, &[]);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// The names in a directory; none where it is not there.
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
