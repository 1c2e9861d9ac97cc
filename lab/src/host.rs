//! What a comparison runs on.

use std::{fs, path::Path};

use crate::outcome::Host;

/// This machine.
pub(crate) fn read() -> Host {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        text.lines()
            .find(|line| line.starts_with(key))
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let memory = field(&text("/proc/meminfo"), "MemTotal");
    let memory_kib: u64 =
        memory.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let hybrid = Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists();
    Host {
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu: field(&text("/proc/cpuinfo"), "model name"),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get()),
        memory_mib: memory_kib / 1024,
        cgroups: match (unified, hybrid) {
            (true, _) => "v2",
            (false, true) => "hybrid",
            (false, false) => "v1",
        }
        .to_owned(),
        root: nix::unistd::getuid().is_root(),
    }
}
