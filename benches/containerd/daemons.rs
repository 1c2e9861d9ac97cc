//! The daemons that are compared, in a directory of the benchmark's own.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::run;

/// Where everything of the benchmark is: an ext4 of its own, with a journal, as on users' machines.
///
/// What the machine's own file system costs can depend on what was done on it before: an ext4
/// without a journal avoids inodes that were freed within the last minute, and each file made after
/// many were removed takes a search for one.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    disk: Option<PathBuf>,
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, disk) = (dir.path().join("disk.img"), dir.path().join("disk"));
        fs::create_dir(&disk).expect("a directory");
        fs::File::create(&file).and_then(|file| file.set_len(16 << 30)).expect("a sparse file");
        let done = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        let made = done(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file))
            && done(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&disk));
        if !made {
            println!("The machine's own file system is used: no ext4 of the benchmark's own.");
        }
        Place { dir, disk: made.then_some(disk) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.disk.as_deref().unwrap_or(self.dir.path()).join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            let _ = nix::mount::umount(disk);
        }
    }
}

/// A program that runs until this is dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a program and waits until `ready`.
    pub(crate) fn start(place: &Place, command: &mut Command, ready: impl Fn() -> bool) -> Running {
        let name = command.get_program().to_string_lossy().replace('/', "_");
        let log = fs::File::create(place.path(&format!("{name}.log"))).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let mut child = command.spawn().expect("a daemon");
        for _ in 0..3000 {
            if ready() {
                return Running(child);
            }
            if child.try_wait().expect("a daemon").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{command:?} does not serve");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// One of those compared.
pub(crate) struct Daemon {
    pub(crate) name: &'static str,
    /// Its own runtime's name.
    pub(crate) shim: &'static str,
    pub(crate) socket: PathBuf,
    pub(crate) running: Running,
}

impl Daemon {
    /// strata-containerd, as it was built for this benchmark.
    pub(crate) fn strata(place: &Place) -> Daemon {
        let socket = place.path("strata.sock");
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata-containerd"));
        command
            .args(["--root", &place.text("strata-root"), "--state", &place.text("strata-state")])
            .arg("--address")
            .arg(&socket);
        let shim = Path::new(env!("CARGO_BIN_EXE_containerd-shim-strata-v2"));
        let runtime = shim.with_file_name("strata-runc");
        assert!(runtime.exists(), "cargo build --release -p runc-layer");
        let running = Running::start(place, &mut command, || UnixStream::connect(&socket).is_ok());
        Daemon { name: "strata-containerd", shim: "io.containerd.strata.v2", socket, running }
    }

    /// The real one, without the CRI plugin, which nothing here asks.
    pub(crate) fn containerd(place: &Place, program: &Path) -> Daemon {
        let socket = place.path("containerd.sock");
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            place.path("containerd-root"),
            place.path("containerd-state"),
            place.path("containerd-opt"),
        );
        let path = place.path("containerd.toml");
        fs::write(&path, config).expect("a configuration");
        let mut command = Command::new(program);
        command.arg("--config").arg(path);
        let running = Running::start(place, &mut command, || UnixStream::connect(&socket).is_ok());
        Daemon { name: "containerd", shim: "io.containerd.runc.v2", socket, running }
    }

    /// Runs the real ctr on it.
    pub(crate) fn ctr(&self, args: &[&str]) -> String {
        run(Command::new("ctr").arg("--address").arg(&self.socket).args(args))
    }

    pub(crate) fn version(&self) -> String {
        let text = self.ctr(&["version"]);
        let version = text.lines().filter_map(|l| l.trim().strip_prefix("Version:")).next_back();
        format!("{} {}", self.name, version.unwrap_or_default().trim())
    }
}
