//! A daemon as a process of its own, and what it runs.

#![allow(dead_code, reason = "each test program uses a part")]

#[path = "../../../../tests/machine/company.rs"]
mod company;

use containerd_layer::Config;
use std::{
    fs,
    os::unix::{fs::symlink, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// What a busy machine needs more time for than this hangs.
const HANG: Duration = Duration::from_secs(120);

/// A daemon with everything of its own below `dir`.
pub(crate) fn config(dir: &Path) -> Config {
    Config {
        root: dir.join("root"),
        state: dir.join("state"),
        address: dir.join("c.sock"),
        ..Config::default()
    }
}

/// A program: the workspace's own, which is beside this layer's once the workspace was built, or one
/// in the path.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_BIN_EXE_strata-containerd")).parent().map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = own.into_iter().chain(std::env::split_paths(&path));
    places.find_map(|dir| Some(dir.join(name)).filter(|program| program.is_file()))
}

/// A root filesystem made of busybox, when everything that runs it is here.
pub(crate) fn rootfs(dir: &Path, programs: &[&str]) -> Option<PathBuf> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: tasks need root");
        return None;
    }
    let missing = programs.iter().chain(&["busybox"]).find(|p| find(p).is_none());
    if let Some(missing) = missing {
        println!("SKIP: {missing} is not installed");
        return None;
    }
    company::announce();
    let rootfs = dir.join("rootfs");
    for part in ["bin", "proc", "dev"] {
        fs::create_dir_all(rootfs.join(part)).unwrap();
    }
    fs::copy(find("busybox")?, rootfs.join("bin/busybox")).unwrap();
    for name in ["sh", "sleep", "true"] {
        symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
    Some(rootfs)
}

/// Waits until no shim of the daemon below `dir` is left.
pub(crate) fn await_shims(dir: &Path) {
    let dir = dir.to_string_lossy();
    let of_it = |process: fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        (line.contains("shim") && line.contains(&*dir)).then_some(line)
    };
    let begun = Instant::now();
    while let Some(shim) = fs::read_dir("/proc").unwrap().flatten().find_map(of_it) {
        assert!(begun.elapsed() < HANG, "{shim} is left");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A daemon that ends with this value.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Starts `program`, which takes containerd's options, and waits until it serves.
    pub(crate) fn start(program: &Path, config: &Config) -> Daemon {
        let mut daemon = Daemon::spawn(program, config);
        let patience = Instant::now() + HANG;
        while UnixStream::connect(&config.address).is_err() {
            let ended = daemon.0.try_wait().unwrap();
            assert!(ended.is_none(), "{program:?} ended: {ended:?}");
            assert!(Instant::now() < patience, "{program:?} does not serve");
            thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    /// Starts `program`, which takes containerd's options.
    pub(crate) fn spawn(program: &Path, config: &Config) -> Daemon {
        company::announce();
        let empty = config.address.with_extension("toml");
        fs::write(&empty, "version = 2\n").unwrap();
        let child = Command::new(program)
            .arg("--config")
            .arg(&empty)
            .arg("--root")
            .arg(&config.root)
            .arg("--state")
            .arg(&config.state)
            .arg("--address")
            .arg(&config.address)
            .args(["--log-level", "warn"])
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Daemon(child)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0.id() as i32)
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        // It may have ended already.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}
