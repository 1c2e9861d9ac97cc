//! Daemons, Strata's and real ones, in a directory of their own, and their command line clients.

#![allow(dead_code, reason = "each test program uses a part of it")]

mod traces;

use std::{
    ffi::OsString,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::machine::Watch;
use traces::Traces;

/// Ends a test here, with the reason, where it is not root's or one of the programs is missing.
macro_rules! need {
    ($($program:literal),*) => {
        if !nix::unistd::getuid().is_root() {
            return $crate::machine::skip("needs root");
        }
        $(if let Some(reason) = $crate::machine::no_program($program) {
            return $crate::machine::skip(&reason);
        })*
    };
}
pub(crate) use need;

/// How long what is waited for may take on a machine that is busy with something else; what takes
/// longer hangs.
pub(crate) const HANG: Duration = Duration::from_secs(120);

/// The test image as Docker names it.
pub(crate) const IMAGE: &str = "strata-test/busybox:1";
/// The test image as containerd names it.
pub(crate) const CTR_IMAGE: &str = "docker.io/strata-test/busybox:1";

/// What a program said.
pub(crate) struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A command line client of a daemon.
pub(crate) struct Client {
    pub(crate) program: String,
    pub(crate) args: Vec<OsString>,
}

impl Client {
    /// Runs it.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        let out = Command::new(&self.program).args(&self.args).args(args).output().unwrap();
        Said {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// Runs it; it must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, 0, "{} {args:?}: {}{}", self.program, said.stdout, said.stderr);
        said.stdout
    }
}

/// The daemons of one test.
pub(crate) struct Rig {
    dir: tempfile::TempDir,
    bin: tempfile::TempDir,
    traces: Traces,
    watch: Option<Watch>,
    daemons: Vec<(String, Child)>,
}

impl Rig {
    /// Nothing runs yet.
    pub(crate) fn new(name: &str) -> Rig {
        let watch = Some(Watch::begin());
        let dir =
            tempfile::Builder::new().prefix(&format!("strata-rig-{name}-")).tempdir().unwrap();
        // Strata's programs look for each other beside themselves. Beside the one that was built stand
        // those of whatever was built before; beside a link of its own stand the rig's, and the link
        // can be made where the program is.
        let tmp = env!("CARGO_TARGET_TMPDIR");
        let bin = tempfile::Builder::new().prefix("bin-").tempdir_in(tmp).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_strata"), bin.path().join("strata")).unwrap();
        let rig = Rig { dir, bin, traces: Traces::before(), watch, daemons: Vec::new() };
        for program in [
            "strata-containerd",
            "strata-dockerd",
            "strata-cri",
            "strata-dockershim",
            "strata-kubelet",
            "containerd-shim-strata-v2",
            "strata-runc",
            "strata-cni",
        ] {
            std::os::unix::fs::symlink("strata", rig.program(program)).unwrap();
        }
        rig
    }

    /// A path in the rig's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One of Strata's programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.path().join(name)
    }

    /// A `docker save` archive of busybox.
    pub(crate) fn archive(&self) -> PathBuf {
        let path = self.path("image.tar");
        fs::write(&path, archive()).unwrap();
        path
    }

    fn daemon(&mut self, program: &Path, args: &[OsString], socket: &Path) {
        let name = program.file_name().unwrap().to_string_lossy().into_owned();
        let log = self.path(&format!("{name}.log"));
        let path =
            format!("{}:{}", self.bin.path().display(), std::env::var("PATH").unwrap_or_default());
        let mut child = Command::new(program)
            .arg0(&name)
            .args(args)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log).unwrap())
            .stderr(fs::File::options().append(true).open(&log).unwrap())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "{name} ended: {}", said());
            assert!(begun.elapsed() < HANG, "{name} does not serve: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.daemons.push((name, child));
    }

    /// Starts strata-containerd.
    pub(crate) fn strata_containerd(&mut self) -> Client {
        let socket = self.path("containerd.sock");
        let args =
            self.args(&["--root", "@root-c", "--state", "@run-c", "--address", "@containerd.sock"]);
        self.daemon(&self.program("strata-containerd"), &args, &socket);
        self.ctr()
    }

    /// Starts a real containerd.
    pub(crate) fn real_containerd(&mut self) -> Client {
        let config = format!(
            "version = 2\nroot = \"{0}/root-c\"\nstate = \"{0}/run-c\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{0}/containerd.sock\"\n",
            self.dir.path().display()
        );
        fs::write(self.path("containerd.toml"), config).unwrap();
        let args = self.args(&["--config", "@containerd.toml"]);
        let socket = self.path("containerd.sock");
        self.daemon(&found("containerd"), &args, &socket);
        self.ctr()
    }

    /// Starts a real containerd and strata-containerd side by side, each in the directory of its
    /// name below the rig's, with metrics served at the address that is told for it.
    pub(crate) fn both_containerds(&mut self, metrics: impl Fn(&str) -> String) -> [Client; 2] {
        for side in ["real", "strata"] {
            fs::create_dir(self.path(side)).unwrap();
        }
        let at = |side: &str, name: &str| self.path(side).join(name);
        let address = |side: &str| at(side, "c.sock");
        for side in ["real", "strata"] {
            let config = format!(
                "version = 2\nroot = {:?}\nstate = {:?}\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
                 [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n\
                 [grpc]\naddress = {:?}\n[metrics]\naddress = {:?}\n",
                at(side, "root"),
                at(side, "run"),
                at(side, "opt"),
                address(side),
                metrics(side),
            );
            fs::write(at(side, "config.toml"), config).unwrap();
        }
        let (real, strata) = (address("real"), address("strata"));
        let args = self.args(&["--config", "@real/config.toml"]);
        self.daemon(&found("containerd"), &args, &real);
        let args = self.args(&["--config", "@strata/config.toml"]);
        self.daemon(&self.program("strata-containerd"), &args, &strata);
        ["@real/c.sock", "@strata/c.sock"]
            .map(|socket| Client { program: "ctr".into(), args: self.args(&["--address", socket]) })
    }

    fn ctr(&self) -> Client {
        Client { program: "ctr".into(), args: self.args(&["--address", "@containerd.sock"]) }
    }

    /// Starts strata-dockerd on the rig's containerd.
    pub(crate) fn strata_dockerd(&mut self) -> Client {
        let args = self.args(&[
            "-H",
            "unix://@docker.sock",
            "--containerd",
            "@containerd.sock",
            "--data-root",
            "@root-d",
            "--exec-root",
            "@run-d",
            "--pidfile",
            "@docker.pid",
            "--bridge",
            "none",
        ]);
        let socket = self.path("docker.sock");
        self.daemon(&self.program("strata-dockerd"), &args, &socket);
        self.docker()
    }

    /// Starts a real dockerd on the rig's containerd, with strata-runc as the runtime `strata`.
    pub(crate) fn real_dockerd(&mut self) -> Client {
        let mut args = self.args(&[
            "-H",
            "unix://@docker.sock",
            "--containerd",
            "@containerd.sock",
            "--data-root",
            "@root-d",
            "--exec-root",
            "@run-d",
            "--pidfile",
            "@docker.pid",
            "--bridge",
            "none",
            "--iptables=false",
            "--ip6tables=false",
        ]);
        args.push(format!("--add-runtime=strata={}", self.program("strata-runc").display()).into());
        let socket = self.path("docker.sock");
        self.daemon(&found("dockerd"), &args, &socket);
        self.docker()
    }

    fn docker(&self) -> Client {
        Client { program: "docker".into(), args: self.args(&["-H", "unix://@docker.sock"]) }
    }

    /// Arguments in which `@` stands for the rig's directory.
    pub(crate) fn args(&self, args: &[&str]) -> Vec<OsString> {
        let dir = format!("{}/", self.dir.path().display());
        args.iter().map(|arg| arg.replace('@', &dir).into()).collect()
    }

    /// Ends the daemons; the machine must be what it was.
    pub(crate) fn end(mut self) {
        self.stop();
        let watch = self.watch.take();
        drop(self);
        if let Some(watch) = watch {
            watch.assert_unchanged();
        }
    }

    /// Kills a daemon as `kill -9` does.
    pub(crate) fn kill(&mut self, name: &str) {
        let at = self.daemons.iter().position(|(daemon, _)| daemon == name).unwrap();
        let (_, mut daemon) = self.daemons.remove(at);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn stop(&mut self) {
        for (_, mut daemon) in self.daemons.drain(..).rev() {
            let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = daemon.wait();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
        self.traces.clear();
        if std::thread::panicking() {
            for entry in fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|e| e == "log") {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let last = &lines[lines.len().saturating_sub(30)..];
                    eprintln!("--- {}\n{}", entry.path().display(), last.join("\n"));
                }
            }
        }
    }
}

/// Waits until something becomes true.
#[track_caller]
pub(crate) fn eventually(mut what: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < HANG, "it never came true");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn found(program: &str) -> PathBuf {
    std::env::var("PATH")
        .unwrap_or_default()
        .split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{program}"))
}

/// busybox and its links as an image.
pub(crate) fn archive() -> Vec<u8> {
    archive_of(&[busybox_layer()])
}

/// A layer with busybox, its links and users.
pub(crate) fn busybox_layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let busybox = fs::read(found("busybox")).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    layer.append_data(&mut header, "bin/busybox", busybox.as_slice()).unwrap();
    for link in
        ["sh", "sleep", "echo", "cat", "id", "grep", "touch", "true", "ls", "ps", "hostname"]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{link}"), "busybox").unwrap();
    }
    let passwd = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(passwd.len() as u64);
    layer.append_data(&mut header, "etc/passwd", passwd.as_slice()).unwrap();
    layer.into_inner().unwrap()
}

/// Layers as an image in a `docker save` archive.
pub(crate) fn archive_of(layers: &[Vec<u8>]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let hex = |bytes: &[u8]| -> String {
        Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
    };
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let name = format!("{}.json", hex(config.as_bytes()));
    let layer_names: Vec<_> =
        layers.iter().map(|layer| format!("{}/layer.tar", hex(layer))).collect();
    let manifest =
        serde_json::json!([{"Config": name, "RepoTags": [IMAGE], "Layers": layer_names}])
            .to_string();
    let mut archive = tar::Builder::new(Vec::new());
    let named = layer_names.iter().map(String::as_str);
    let files = named
        .zip(layers.iter().map(Vec::as_slice))
        .chain([(name.as_str(), config.as_bytes()), ("manifest.json", manifest.as_bytes())]);
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    archive.into_inner().unwrap()
}
