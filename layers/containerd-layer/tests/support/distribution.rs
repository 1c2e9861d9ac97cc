//! The real registry, and the real tool for it.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Debian's docker-registry.
pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts docker-registry in `dir` on a free port; nothing when it is not installed.
pub(crate) fn registry(dir: &Path) -> Option<Registry> {
    registry_with(dir, "")
}

/// The same with more lines in its configuration.
pub(crate) fn registry_with(dir: &Path, more: &str) -> Option<Registry> {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("SKIP: skopeo is not installed");
        return None;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    let config = dir.join("registry.yml");
    let storage = dir.join("registry");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n{more}",
        storage.display()
    );
    fs::write(&config, text).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = child else {
        println!("SKIP: docker-registry is not installed");
        return None;
    };
    let registry = Registry { child, host };
    for _ in 0..1000 {
        if TcpStream::connect(&registry.host).is_ok() {
            return Some(registry);
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("docker-registry does not listen");
}
