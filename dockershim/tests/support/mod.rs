//! A real Docker daemon of this test's own: Debian's dockerd on its own containerd, without
//! networks of Docker's, everything under one temporary directory.

#[path = "../../../tests/machine/company.rs"]
mod company;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

/// The daemons, ended when this is dropped.
pub(crate) struct Docker {
    pub(crate) dir: TempDir,
    containerd: Child,
    dockerd: Option<Child>,
}

pub(crate) const IMAGE: &str = "strata.test/busybox:1";
pub(crate) const PAUSE: &str = "strata.test/pause:1";

/// Why the real daemon cannot be run here.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    ["dockerd", "containerd", "runc", "docker", "busybox", "tar"]
        .into_iter()
        .find(|name| !found(name))
        .map(|name| format!("{name} is not installed"))
}

impl Docker {
    /// Starts the daemons; prints why and answers `None` where they are not there.
    pub(crate) fn start() -> Option<Docker> {
        if let Some(reason) = missing() {
            println!("SKIP: {reason}");
            return None;
        }
        company::announce();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(
            at("containerd.toml"),
            format!(
                "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
                at("c/root"),
                at("c/state"),
                at("containerd.sock"),
                at("c/opt"),
            ),
        )
        .unwrap();
        let log = |name: &str| Stdio::from(File::create(dir.path().join(name)).unwrap());
        let containerd = Command::new("containerd")
            .args(["-c", &at("containerd.toml")])
            .stderr(log("containerd.log"))
            .spawn()
            .unwrap();
        wait_for(&dir.path().join("containerd.sock"));
        let dockerd = Command::new("dockerd")
            .args(["--containerd", &at("containerd.sock"), "--data-root", &at("data")])
            .args(["--exec-root", &at("exec"), "--pidfile", &at("docker.pid")])
            .args(["-H", &format!("unix://{}", at("docker.sock"))])
            .args(["--bridge=none", "--iptables=false"])
            .stderr(log("dockerd.log"))
            .spawn()
            .unwrap();
        let docker = Docker { dir, containerd, dockerd: Some(dockerd) };
        wait_for(&docker.socket());
        docker.import(IMAGE, "CMD [\"sh\"]");
        // It ends on SIGTERM, as a pause does.
        docker.import(
            PAUSE,
            "CMD [\"sh\", \"-c\", \"trap 'exit 0' TERM; while :; do sleep 1000 & wait; done\"]",
        );
        Some(docker)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// Runs the docker CLI and answers what it printed.
    pub(crate) fn cli(&self, args: &[&str]) -> String {
        let host = format!("unix://{}", self.socket().display());
        let output = Command::new("docker").args(["-H", &host]).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn import(&self, name: &str, change: &str) {
        let root = self.dir.path().join("rootfs");
        fs::create_dir_all(root.join("bin")).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let busybox = std::env::split_paths(&path).map(|d| d.join("busybox")).find(|p| p.is_file());
        fs::copy(busybox.unwrap(), root.join("bin/busybox")).unwrap();
        for applet in ["sh", "sleep", "true", "cat", "echo", "id", "head", "ls"] {
            let link = root.join("bin").join(applet);
            if !link.exists() {
                std::os::unix::fs::symlink("busybox", link).unwrap();
            }
        }
        let archive = self.dir.path().join("rootfs.tar").display().to_string();
        let root = root.display().to_string();
        assert!(
            Command::new("tar")
                .args(["-C", &root, "-cf", &archive, "."])
                .status()
                .unwrap()
                .success()
        );
        self.cli(&["import", "--change", change, "--change", "ENV PATH=/bin", &archive, name]);
    }
}

fn wait_for(socket: &Path) {
    for _ in 0..1200 {
        if std::os::unix::net::UnixStream::connect(socket).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("nobody listens at {}", socket.display());
}

fn end(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let _ = child.wait();
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some(mut dockerd) = self.dockerd.take() {
            end(&mut dockerd);
        }
        end(&mut self.containerd);
        // dockerd leaves its own root mounted on itself.
        for dir in ["data/overlay2", "data", "exec/netns/default"] {
            let _ =
                nix::mount::umount2(&self.dir.path().join(dir), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}
