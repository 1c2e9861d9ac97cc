//! The real registry, and the real tool for it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// What a busy machine needs more time for than this hangs.
const HANG: Duration = Duration::from_secs(120);

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
    let config = dir.join("registry.yml");
    let storage = dir.join("registry");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n{more}",
        storage.display()
    );
    fs::write(&config, text).unwrap();
    let log = dir.join("registry.log");
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn();
    let Ok(child) = child else {
        println!("SKIP: docker-registry is not installed");
        return None;
    };
    let mut registry = Registry { child, host: String::new() };
    let begun = Instant::now();
    // It takes a port that is free, and says which: one that was found free here could be another
    // test's by the time it is taken.
    loop {
        let said = fs::read_to_string(&log).unwrap();
        let rest = said.split_once("msg=\"listening on ").map(|(_, rest)| rest);
        if let Some((host, _)) = rest.and_then(|rest| rest.split_once('"')) {
            host.clone_into(&mut registry.host);
            return Some(registry);
        }
        let over = registry.child.try_wait().unwrap().is_some();
        assert!(!over && begun.elapsed() < HANG, "docker-registry does not listen: {said}");
        thread::sleep(Duration::from_millis(10));
    }
}
