//! The unified hierarchy: controllers to be enabled on the way down, its own files, eBPF devices.

use std::{os::fd::AsFd, path::Path};

use super::{
    devices::Policy,
    limits::{or_max, rdma, throttles},
    make_directories, open, read, write,
};
use crate::{
    Error, Result,
    error::Context,
    spec::{Memory, Resources},
    sys::{Errno, bpf},
};

/// Makes the directory and enables every controller on the way to it.
pub(super) fn create(path: &Path) -> Result<()> {
    make_directories(path)?;
    let mount = Path::new("/sys/fs/cgroup");
    let Ok(below) = path.strip_prefix(mount) else { return Ok(()) };
    let mut dir = mount.to_owned();
    for part in below.components() {
        enable_controllers(&dir);
        dir.push(part);
    }
    Ok(())
}

/// Enables in `dir`'s children what `dir` has. What cannot be enabled is missed when a limit asks
/// for it, not before.
fn enable_controllers(dir: &Path) {
    let Ok(available) = read(dir, "cgroup.controllers") else { return };
    let enabled = read(dir, "cgroup.subtree_control").unwrap_or_default();
    let missing: Vec<String> = available
        .split_whitespace()
        .filter(|c| !enabled.split_whitespace().any(|e| e == *c))
        .map(|c| format!("+{c}"))
        .collect();
    if !missing.is_empty() && write(dir, "cgroup.subtree_control", &missing.join(" ")).is_err() {
        for one in missing {
            // One refused controller must not take the others with it.
            let _ = write(dir, "cgroup.subtree_control", &one);
        }
    }
}

/// Whether `r` sets a limit at all.
pub(super) fn asks_for_anything(r: &Resources) -> bool {
    r.memory != Default::default()
        || r.cpu != Default::default()
        || r.pids.limit.is_some_and(|l| l != 0)
        || r.block_io.weight.is_some()
        || throttles(r).any(|(_, list)| !list.is_empty())
        || !r.hugepage_limits.is_empty()
        || !r.rdma.is_empty()
        || !r.unified.is_empty()
}

/// cpu.shares (2–262144) on the scale of cpu.weight (1–10000), as runc converts it.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// blkio.weight (10–1000) on the scale of io.weight (1–10000).
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}

fn refuse_swap(reason: &str) -> Error {
    let field = "config.json: linux.resources.memory.swap".into();
    Error::Spec { field, reason: reason.into() }
}

/// The limit of swap alone: the specification's `swap` is memory and swap together.
pub(super) fn swap(m: &Memory) -> Result<Option<i64>> {
    match (m.swap.filter(|v| *v != 0), m.limit.filter(|v| *v != 0)) {
        (Some(-1), _) | (None, Some(-1)) => Ok(Some(-1)),
        (Some(_), None | Some(-1)) => {
            Err(refuse_swap("unable to set swap limit without memory limit"))
        }
        (Some(both), Some(limit)) => match both.checked_sub(limit) {
            Some(swap) if swap >= 0 => Ok(Some(swap)),
            _ => Err(refuse_swap("memory+swap limit should be >= memory limit")),
        },
        (None, _) => Ok(None),
    }
}

pub(super) fn set(dir: &Path, r: &Resources) -> Result<()> {
    let put = |file: &str, value: Option<String>| match value {
        Some(value) => write(dir, file, &value),
        None => Ok(()),
    };
    let nonempty = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    put("pids.max", r.pids.limit.filter(|l| *l != 0).map(or_max))?;
    let m = &r.memory;
    let limit = m.limit.filter(|v| *v != 0);
    let swap = swap(m)?;
    match put("memory.swap.max", swap.map(or_max)) {
        // Without swap accounting an unlimited swap is what there is.
        Err(Error::Os { errno: Errno::NOENT, .. }) if swap.is_none_or(|s| s <= 0) => {}
        other => other?,
    }
    put("memory.max", limit.map(or_max))?;
    put("memory.low", m.reservation.filter(|v| *v != 0).map(or_max))?;
    let c = &r.cpu;
    put("cpu.idle", c.idle.map(|v| v.to_string()))?;
    if c.idle != Some(1) {
        put("cpu.weight", c.shares.filter(|v| *v != 0).map(|s| weight_of_shares(s).to_string()))?;
    }
    let (quota, period) = (c.quota.filter(|q| *q != 0), c.period.filter(|p| *p != 0));
    if quota.is_some() || period.is_some() {
        // The file has both, and the half that an update does not give stays (runc, update.go).
        let before = read(dir, "cpu.max")?;
        let (old_quota, old_period) = before.split_once(' ').unwrap_or(("max", "100000"));
        let quota = quota.map_or(old_quota.to_owned(), or_max);
        let period = period.map_or(old_period.to_owned(), |p| p.to_string());
        write(dir, "cpu.max", &format!("{quota} {period}"))?;
    }
    put("cpu.max.burst", c.burst.map(|v| v.to_string()))?;
    put("cpuset.cpus", nonempty(&c.cpus))?;
    put("cpuset.mems", nonempty(&c.mems))?;
    if let Some(weight) = r.block_io.weight.filter(|w| *w != 0) {
        if dir.join("io.bfq.weight").exists() {
            write(dir, "io.bfq.weight", &weight.to_string())?;
        } else {
            write(dir, "io.weight", &format!("default {}", io_weight(weight)))?;
        }
    }
    for (kind, list) in throttles(r) {
        let key = match kind {
            "read_bps" => "rbps",
            "write_bps" => "wbps",
            "read_iops" => "riops",
            _ => "wiops",
        };
        for d in list {
            let rate = if d.rate == 0 { "max".to_owned() } else { d.rate.to_string() };
            write(dir, "io.max", &format!("{}:{} {key}={rate}", d.major, d.minor))?;
        }
    }
    for h in &r.hugepage_limits {
        write(dir, &format!("hugetlb.{}.max", h.page_size), &h.limit.to_string())?;
    }
    rdma(dir, r)?;
    for (file, value) in &r.unified {
        if file.contains('/') || !file.contains('.') {
            return Err(Error::Spec {
                field: format!("config.json: linux.resources.unified.{file}"),
                reason: "must be a file name without slashes".into(),
            });
        }
        // Values may have a line per device; the kernel wants one line per write.
        for line in value.lines().filter(|l| !l.is_empty()) {
            write(dir, file, line)?;
        }
    }
    Ok(())
}

/// Replaces the device filter of the cgroup `dir`.
pub(super) fn set_devices(dir: &Path, policy: &Policy) -> Result<()> {
    let what = || format!("device filter of {}", dir.display());
    let dir_fd = open(dir, libc::O_RDONLY | libc::O_DIRECTORY)?;
    let program = bpf::load_device_filter(&policy.program()).context(what)?;
    // Attach the new one first: no moment without a filter.
    let old = bpf::device_filters(dir_fd.as_fd()).unwrap_or_default();
    bpf::attach_device_filter(dir_fd.as_fd(), program.as_fd()).context(what)?;
    old.iter().try_for_each(|p| bpf::detach_device_filter(dir_fd.as_fd(), p.as_fd())).context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_weights_keep_their_ends_and_default() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 39);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert_eq!(weight_of_shares(1), 1);
        assert_eq!(io_weight(10), 1);
        assert_eq!(io_weight(1000), 10_000);
    }
}
