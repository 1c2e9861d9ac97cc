//! What each layer's processes use, read from `/proc` outside the sandbox.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use crate::outcome::LayerUse;

/// The layer of each program; the container's own processes are nobody's.
const LAYERS: [(&str, &str); 10] = [
    ("strata-kubelet", "kubelet-sim"),
    ("strata-dockershim", "dockershim"),
    ("strata-dockerd", "docker-daemon-layer"),
    ("strata-cri", "cri-layer"),
    ("strata-containerd", "containerd-layer"),
    ("containerd-shim-strata-v2", "shim"),
    ("strata-runc", "runc-layer"),
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd-shim-runc-v2"),
    ("/strata", "container"),
];

/// What the descendants of the process `ancestor` use now, by layer.
pub(crate) fn sample(ancestor: u32) -> Vec<LayerUse> {
    let parents: HashMap<u32, u32> = pids().filter_map(|pid| Some((pid, stat(pid)?.0))).collect();
    let belongs = |mut pid: u32| {
        while let Some(&parent) = parents.get(&pid) {
            if parent == ancestor {
                return true;
            }
            pid = parent;
        }
        false
    };
    let mut layers: BTreeMap<&str, LayerUse> = BTreeMap::new();
    for &pid in parents.keys().filter(|&&pid| belongs(pid)) {
        let Some(layer) = layer(pid) else { continue };
        let entry = layers.entry(layer).or_default();
        entry.name = layer.to_owned();
        entry.processes += 1;
        entry.pss_kib += pss_kib(pid).unwrap_or(0);
        entry.cpu_ms += stat(pid).map_or(0, |(_, cpu)| cpu);
    }
    layers.into_values().collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The layer that the process `pid` is of: by the name it was executed under.
fn layer(pid: u32) -> Option<&'static str> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut args = command.split(|&b| b == 0).map(String::from_utf8_lossy);
    let program = args.next()?;
    // The outer runtime, which runs the sandbox itself, is not on any path; neither is its init.
    if args
        .next()
        .is_some_and(|arg| arg == "stack" || (arg == "--root" && program == "strata-runc"))
    {
        return None;
    }
    let name = if program == "/strata" { &program } else { program.rsplit('/').next()? };
    LAYERS.iter().find(|(p, _)| *p == name).map(|(_, layer)| *layer)
}

/// A process's proportional set size.
fn pss_kib(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// A process's parent, and its processor time in milliseconds (proc_pid_stat(5)).
fn stat(pid: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // USER_HZ is 100 on every architecture that containers run on.
    Some((fields.get(1)?.parse().ok()?, ticks * 10))
}
