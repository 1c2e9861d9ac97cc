//! A bundle with busybox as its root filesystem, and the runtime's program on it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use crate::company;
use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";

/// A bundle in a directory of its own, with its own root for the runtime's records.
pub(crate) struct Bundle {
    dir: tempfile::TempDir,
    pub(crate) config: Value,
    pub(crate) id: String,
    /// Options before the command.
    pub(crate) global: &'static [&'static str],
}

/// Waits until something is so; what a busy machine needs more time for than this hangs.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program that is tested. Another runtime in its place shows that the attacks can succeed.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("STRATA_TEST_RUNTIME")
        .map_or_else(|| env!("CARGO_BIN_EXE_strata-runc").into(), PathBuf::from)
}

/// Why this machine cannot run containers, if so.
fn lacking() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.lines().any(|l| l.starts_with("Uid:\t0\t0")) {
        return Some("needs root".into());
    }
    if !Path::new(BUSYBOX).exists() {
        return Some(format!("needs a static busybox at {BUSYBOX}"));
    }
    None
}

impl Bundle {
    /// A bundle whose process runs `script` in a shell; `None`, with the reason printed, where
    /// this machine cannot run it.
    pub(crate) fn new(script: &str) -> Option<Bundle> {
        if let Some(reason) = lacking() {
            println!("SKIP: {reason}");
            return None;
        }
        company::announce();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for sub in ["etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir(dir.path().join("rootfs").join(sub)).unwrap();
        }
        fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
        for name in ["sh", "cat", "ls", "id", "sleep", "true", "mount", "touch", "grep", "mkdir"] {
            symlink("busybox", bin.join(name)).unwrap();
        }
        let spec = Command::new(program()).args(["spec", "-b"]).arg(dir.path()).status().unwrap();
        assert!(spec.success());
        let text = fs::read(dir.path().join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", script]);
        Some(Bundle { dir, config, id, global: &[] })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    /// The runtime's command line with this bundle's root.
    pub(crate) fn runc(&self, args: &[&str]) -> Command {
        let config = serde_json::to_vec(&self.config).unwrap();
        // Another of this bundle's containers may be reading it.
        fs::write(self.path().join("config.new"), config).unwrap();
        fs::rename(self.path().join("config.new"), self.path().join("config.json")).unwrap();
        let mut command = Command::new(program());
        command.arg("--root").arg(self.path().join("root")).args(self.global).args(args);
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// Runs the command line and gives what it said.
    pub(crate) fn call(&self, args: &[&str]) -> Said {
        Said::from(self.runc(args).output().unwrap())
    }

    /// Runs the container in the foreground.
    pub(crate) fn run(&self) -> Said {
        self.call(&["run", &self.id])
    }

    /// `create`, whose process keeps the standard streams.
    pub(crate) fn create(&self) -> Said {
        let out = fs::File::create(self.path().join("out")).unwrap();
        let mut command = self.runc(&["create", &self.id]);
        command.stdout(out.try_clone().unwrap()).stderr(out);
        let code = command.status().unwrap().code().unwrap_or(-1);
        Said { code, out: self.output(), err: String::new() }
    }

    /// What a created container's process wrote.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.path().join("out")).unwrap_or_default()
    }

    /// Waits until a created container's process has written `words`.
    pub(crate) fn wait_for_output(&self, words: &str) {
        eventually(words, || self.output().contains(words));
    }

    /// `state`'s field.
    pub(crate) fn state(&self, field: &str) -> Value {
        let said = self.call(&["state", &self.id]);
        let state: Value = serde_json::from_str(&said.out).unwrap_or_default();
        state[field].clone()
    }

    /// Waits until `state` says `status`.
    pub(crate) fn wait_for(&self, status: &str) {
        eventually(status, || self.state("status") == status);
    }

    /// Whether nothing of the container is left: no record, no cgroup, no mount.
    pub(crate) fn assert_gone(&self) {
        let records = fs::read_dir(self.path().join("root")).map(|d| d.count()).unwrap_or(0);
        assert_eq!(records, 0, "records are left");
        let found = Command::new("find")
            .args(["/sys/fs/cgroup", "-type", "d", "-name", &self.id])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "cgroups are left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let path = self.path().to_string_lossy().into_owned();
        assert!(!mounts.contains(&path), "mounts are left");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", &self.id]);
    }
}

/// Exit code and streams.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
