//! The configuration files that people have: Debian's, and what the real containerd prints.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod daemon;

use std::{
    fs,
    io::Read,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A daemon with `config` and below `dir`; `Ok` once it serves, `Err` with what it said at its end.
fn start(dir: &Path, config: &str) -> Result<(Daemon, String), String> {
    let file = dir.join("config.toml");
    fs::write(&file, config).unwrap();
    let log = dir.join("log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_strata-containerd"))
        .arg("--config")
        .arg(&file)
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--state")
        .arg(dir.join("state"))
        .arg("--address")
        .arg(dir.join("c.sock"))
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let said = || fs::read_to_string(&log).unwrap();
    loop {
        if UnixStream::connect(dir.join("c.sock")).is_ok() {
            return Ok((Daemon(child), said()));
        }
        if child.try_wait().unwrap().is_some() {
            return Err(said());
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "it does not serve: {}", said());
        thread::sleep(Duration::from_millis(10));
    }
}

#[derive(Debug)]
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_containerds_files_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let Some(containerd) = daemon::find("containerd") else {
        println!("SKIP: containerd is not installed");
        return;
    };
    let out = Command::new(containerd).args(["config", "default"]).output().unwrap();
    let default = String::from_utf8(out.stdout).unwrap();
    let (_daemon, said) = start(dir.path(), &default).unwrap();
    // The CRI plugin is the one thing in it that somebody could miss.
    let warnings: Vec<_> = said.lines().filter(|line| line.contains("WARN")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("strata-cri"), "{said}");
    drop(_daemon);

    // Debian's own.
    let debian = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    \
                  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n      \
                  conf_dir = \"/etc/cni/net.d\"\n  [plugins.\"io.containerd.internal.v1.opt\"]\n    \
                  path = \"/var/lib/containerd/opt\"\n";
    start(dir.path(), debian).unwrap();
}

#[test]
fn what_a_file_says_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let ttrpc = dir.path().join("t.sock");
    let config = format!(
        "version = 2\noom_score = 500\n\
         disabled_plugins = [\"io.containerd.snapshotter.v1.native\"]\n\
         required_plugins = [\"io.containerd.snapshotter.v1.overlayfs\"]\n\
         [grpc]\ngid = {gid}\n[ttrpc]\naddress = {ttrpc:?}\n\
         [debug]\nlevel = \"warning\"\nformat = \"json\"\n[nosuch]\na = 1\n",
        gid = nix::unistd::getegid(),
    );
    let (daemon, said) = start(dir.path(), &config).unwrap();
    let line: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["level"], &line["msg"]),
        (&"warning".into(), &"configuration: nosuch: unknown key".into())
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", daemon.0.id())).unwrap();
    assert_eq!(score.trim(), "500");
    UnixStream::connect(&ttrpc).unwrap();
    let meta = fs::metadata(dir.path().join("c.sock")).unwrap();
    assert_eq!((meta.gid(), meta.mode() & 0o777), (nix::unistd::getegid().as_raw(), 0o660));
    if let Some(ctr) = daemon::find("ctr") {
        let list = |snapshotter: &str| {
            let mut child = Command::new(&ctr)
                .arg("--address")
                .arg(dir.path().join("c.sock"))
                .args(["snapshots", "--snapshotter", snapshotter, "ls"])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            child.wait().unwrap();
            said
        };
        assert_eq!(list("overlayfs"), "");
        let refused = list("native");
        assert!(refused.contains("snapshotter not loaded: native"), "{refused}");
    }
    drop(daemon);
    let required = "version = 2\nrequired_plugins = [\"io.containerd.grpc.v1.cri\"]";
    let refused = start(dir.path(), required).unwrap_err();
    assert!(
        refused.contains("required plugin [io.containerd.grpc.v1.cri] not included"),
        "{refused}"
    );
}
