//! `linux.resources` to control files. The files and orders are runc's (cgroup v1: fs, v2: fs2).

use std::path::Path;

use super::{Cgroup, read_line, v2, write};
use crate::{
    Error, Result,
    spec::{Cpu, Memory, Resources},
    sys::Errno,
};

pub(super) fn refuse(field: &str, reason: impl Into<String>) -> Error {
    Error::Spec { field: format!("config.json: linux.resources.{field}"), reason: reason.into() }
}

/// Writes what `resources` sets.
pub(super) fn set(cgroup: &Cgroup, resources: &Resources) -> Result<()> {
    check(resources, cgroup.version)?;
    if cgroup.version == 2 {
        return match cgroup.directory("") {
            Some(dir) => v2::set(dir, resources),
            None if v2::asks_for_anything(resources) => Err(unavailable("resource")),
            None => Ok(()),
        };
    }
    let part = |controller: &str, asked: bool, write: &dyn Fn(&Path) -> Result<()>| match cgroup
        .directory(controller)
    {
        _ if !asked => Ok(()),
        Some(dir) => write(dir),
        None => Err(unavailable(controller)),
    };
    let r = resources;
    part("cpuset", !r.cpu.cpus.is_empty() || !r.cpu.mems.is_empty(), &|dir| {
        set_nonempty(dir, "cpuset.cpus", &r.cpu.cpus)?;
        set_nonempty(dir, "cpuset.mems", &r.cpu.mems)
    })?;
    part("memory", r.memory != Memory::default(), &|dir| memory_v1(dir, &r.memory))?;
    let only_cpuset = Cpu { cpus: r.cpu.cpus.clone(), mems: r.cpu.mems.clone(), ..Cpu::default() };
    part("cpu", r.cpu != only_cpuset, &|dir| cpu_v1(dir, &r.cpu))?;
    let pids = r.pids.limit.filter(|limit| *limit != 0);
    part("pids", pids.is_some(), &|dir| write(dir, "pids.max", &or_max(pids.unwrap_or(-1))))?;
    let io = &r.block_io;
    let asked = io.weight.is_some()
        || io.leaf_weight.is_some()
        || !io.weight_device.is_empty()
        || throttles(r).any(|(_, list)| !list.is_empty());
    part("blkio", asked, &|dir| block_io_v1(dir, r))?;
    part("hugetlb", !r.hugepage_limits.is_empty(), &|dir| {
        r.hugepage_limits.iter().try_for_each(|h| {
            write(dir, &format!("hugetlb.{}.limit_in_bytes", h.page_size), &h.limit.to_string())
        })
    })?;
    part("net_cls", r.network.class_id.is_some(), &|dir| {
        write(dir, "net_cls.classid", &r.network.class_id.unwrap_or(0).to_string())
    })?;
    part("net_prio", !r.network.priorities.is_empty(), &|dir| {
        r.network.priorities.iter().try_for_each(|p| {
            write(dir, "net_prio.ifpriomap", &format!("{} {}", p.name, p.priority))
        })
    })?;
    part("rdma", !r.rdma.is_empty(), &|dir| rdma(dir, r))
}

/// runc's words for a limit on a controller that the container is not in.
fn unavailable(controller: &str) -> Error {
    Error::Invalid(format!(
        "cannot set {controller} limit: container could not join or create cgroup"
    ))
}

/// Refuses what cannot be, before anything is written.
pub(super) fn check(r: &Resources, version: u8) -> Result<()> {
    if version == 1 && !r.unified.is_empty() {
        return Err(refuse("unified", "invalid configuration: cannot use unified on cgroup v1"));
    }
    if let (Some(limit), Some(swap)) = (r.memory.limit, r.memory.swap)
        && limit > 0
        && swap > 0
        && swap < limit
    {
        return Err(refuse(
            "memory.swap",
            "memory+swap limit should be greater than or equal to memory limit",
        ));
    }
    if let Some(swappiness) = r.memory.swappiness.filter(|s| *s > 100 && *s != u64::MAX) {
        return Err(refuse(
            "memory.swappiness",
            format!("invalid memory swappiness value: {swappiness} (valid range is 0-100)"),
        ));
    }
    if let Some(weight) = r.block_io.weight.filter(|w| *w != 0 && !(10..=1000).contains(w)) {
        return Err(refuse("blockIO.weight", format!("{weight} is not in 10–1000")));
    }
    Ok(())
}

pub(super) fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn set_nonempty(dir: &Path, file: &str, value: &str) -> Result<()> {
    if value.is_empty() { Ok(()) } else { write(dir, file, value) }
}

fn set_some<T: ToString>(dir: &Path, file: &str, value: Option<T>) -> Result<()> {
    value.map_or(Ok(()), |value| write(dir, file, &value.to_string()))
}

fn memory_v1(dir: &Path, m: &Memory) -> Result<()> {
    // A limit of zero has always meant "not set".
    let limit = m.limit.filter(|v| *v != 0);
    // Unlimited memory makes unlimited swap, which the kernel demands.
    let swap = m.swap.filter(|v| *v != 0).or(limit.filter(|v| *v == -1));
    let set_limit = || set_some(dir, "memory.limit_in_bytes", limit);
    let set_swap = || match set_some(dir, "memory.memsw.limit_in_bytes", swap) {
        Err(Error::Os { errno: Errno::NOENT, .. }) if m.swap.is_none() => Ok(()),
        other => other,
    };
    match set_limit() {
        // Memory may not exceed memory and swap: when both grow, swap goes first.
        Err(Error::Os { errno: Errno::INVAL, .. }) if swap.is_some() => {
            set_swap()?;
            set_limit()?;
        }
        Err(Error::Os { errno: Errno::BUSY, .. }) => {
            let usage = read_line(dir, "memory.usage_in_bytes").unwrap_or_default();
            let peak = read_line(dir, "memory.max_usage_in_bytes").unwrap_or_default();
            return Err(Error::Invalid(format!(
                "unable to set memory limit to {} (current usage: {usage}, peak usage: {peak})",
                limit.unwrap_or(0)
            )));
        }
        other => {
            other?;
            set_swap()?;
        }
    }
    set_some(dir, "memory.soft_limit_in_bytes", m.reservation.filter(|v| *v != 0))?;
    // Kernel memory limits are ignored, as runc does since 1.0 and the kernel since 5.16.
    set_some(dir, "memory.kmem.tcp.limit_in_bytes", m.kernel_tcp.filter(|v| *v != 0))?;
    if m.disable_oom_killer == Some(true) {
        write(dir, "memory.oom_control", "1")?;
    }
    set_some(dir, "memory.swappiness", m.swappiness.filter(|v| *v <= 100))
}

fn cpu_v1(dir: &Path, c: &Cpu) -> Result<()> {
    if let Some(shares) = c.shares.filter(|v| *v != 0) {
        write(dir, "cpu.shares", &shares.to_string())?;
    }
    let (quota, period) = (c.quota.filter(|v| *v != 0), c.period.filter(|v| *v != 0));
    match set_some(dir, "cpu.cfs_period_us", period) {
        // The old quota may be too much for the new period.
        Err(Error::Os { errno: Errno::INVAL, .. }) if quota.is_some() => {
            set_some(dir, "cpu.cfs_quota_us", quota)?;
            set_some(dir, "cpu.cfs_period_us", period)?;
        }
        other => {
            other?;
            set_some(dir, "cpu.cfs_quota_us", quota)?;
        }
    }
    set_some(dir, "cpu.cfs_burst_us", c.burst)?;
    set_some(dir, "cpu.rt_period_us", c.realtime_period.filter(|v| *v != 0))?;
    set_some(dir, "cpu.rt_runtime_us", c.realtime_runtime.filter(|v| *v != 0))?;
    set_some(dir, "cpu.idle", c.idle)
}

type Throttles<'a> = (&'static str, &'a [crate::spec::ThrottleDevice]);

/// The throttle lists with v1's file names.
pub(super) fn throttles(r: &Resources) -> impl Iterator<Item = Throttles<'_>> {
    let io = &r.block_io;
    [
        ("read_bps", io.throttle_read_bps_device.as_slice()),
        ("write_bps", &io.throttle_write_bps_device),
        ("read_iops", &io.throttle_read_iops_device),
        ("write_iops", &io.throttle_write_iops_device),
    ]
    .into_iter()
}

fn block_io_v1(dir: &Path, r: &Resources) -> Result<()> {
    let bfq = dir.join("blkio.bfq.weight").exists();
    let (weight, device) = if bfq {
        ("blkio.bfq.weight", "blkio.bfq.weight_device")
    } else {
        ("blkio.weight", "blkio.weight_device")
    };
    let io = &r.block_io;
    set_some(dir, weight, io.weight.filter(|w| *w != 0))?;
    set_some(dir, "blkio.leaf_weight", io.leaf_weight.filter(|w| *w != 0))?;
    for d in &io.weight_device {
        for (file, value) in [(device, d.weight), ("blkio.leaf_weight_device", d.leaf_weight)] {
            if let Some(value) = value.filter(|w| *w != 0) {
                write(dir, file, &format!("{}:{} {value}", d.major, d.minor))?;
            }
        }
    }
    for (kind, list) in throttles(r) {
        for d in list {
            let line = format!("{}:{} {}", d.major, d.minor, d.rate);
            write(dir, &format!("blkio.throttle.{kind}_device"), &line)?;
        }
    }
    Ok(())
}

pub(super) fn rdma(dir: &Path, r: &Resources) -> Result<()> {
    let or_max = |v: Option<u32>| v.map_or("max".to_owned(), |v| v.to_string());
    r.rdma.iter().try_for_each(|(device, l)| {
        let (handles, objects) = (or_max(l.hca_handles), or_max(l.hca_objects));
        write(dir, "rdma.max", &format!("{device} hca_handle={handles} hca_object={objects}"))
    })
}

/// Gives a cpuset its parent's CPUs and memory nodes, without which nothing can enter it. A `new`
/// one has none.
pub(super) fn inherit_cpuset(dir: &Path, new: bool) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if (new || read_line(dir, file)?.is_empty())
            && let Some(parent) = dir.parent()
        {
            let value = match read_line(parent, file)? {
                value if value.is_empty() => {
                    inherit_cpuset(parent, false)?;
                    read_line(parent, file)?
                }
                value => value,
            };
            set_nonempty(dir, file, &value)?;
        }
    }
    Ok(())
}
