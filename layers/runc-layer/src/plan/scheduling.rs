//! How the kernel is to schedule the program: policy, I/O priority, CPUs. What is refused, and in
//! which words, is runc's (libcontainer/configs/validate and configs.ToSchedAttr, 1.3).

use super::process::refuse;
use crate::{
    Result,
    spec::{CpuAffinity, IoPriority, Scheduler},
    sys::credentials::Scheduling,
};

/// Policies by their names, with their numbers (sched(7)).
const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", OTHER),
    ("SCHED_FIFO", FIFO),
    ("SCHED_RR", ROUND_ROBIN),
    ("SCHED_BATCH", BATCH),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", DEADLINE),
];
const OTHER: u32 = 0;
const FIFO: u32 = 1;
const ROUND_ROBIN: u32 = 2;
const BATCH: u32 = 3;
const DEADLINE: u32 = 6;

const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 1),
    ("SCHED_FLAG_RECLAIM", 2),
    ("SCHED_FLAG_DL_OVERRUN", 4),
    ("SCHED_FLAG_KEEP_POLICY", 8),
    ("SCHED_FLAG_KEEP_PARAMS", 16),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 32),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 64),
];

/// `process.scheduler` for sched_setattr(2).
pub(super) fn policy(s: &Scheduler) -> Result<Scheduling> {
    if s.policy.is_empty() {
        return Err(refuse("scheduler.policy", "scheduler policy is required".into()));
    }
    let policy = POLICIES.iter().find(|(name, _)| *name == s.policy).map(|(_, n)| *n);
    let policy = policy.ok_or_else(|| {
        refuse("scheduler.policy", format!("invalid scheduler policy: {}", s.policy))
    })?;
    let mut flags = 0;
    for name in &s.flags {
        flags |=
            FLAGS.iter().find(|(flag, _)| flag == name).map(|(_, bit)| *bit).ok_or_else(|| {
                refuse("scheduler.flags", format!("invalid scheduler flag: {name}"))
            })?;
    }
    if matches!(policy, OTHER | BATCH) && !(-20..=19).contains(&s.nice) {
        let Scheduler { nice, policy, .. } = s;
        let reason = format!("invalid scheduler.nice: {nice} when scheduler.policy is {policy}");
        return Err(refuse("scheduler.nice", reason));
    }
    if s.priority != 0 && !matches!(policy, FIFO | ROUND_ROBIN) {
        let reason = "scheduler.priority can only be specified for SchedFIFO or SchedRR policy";
        return Err(refuse("scheduler.priority", reason.into()));
    }
    if policy != DEADLINE && (s.runtime, s.deadline, s.period) != (0, 0, 0) {
        let reason =
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy";
        return Err(refuse("scheduler.runtime", reason.into()));
    }
    Ok(Scheduling {
        policy,
        flags,
        nice: s.nice,
        priority: s.priority as u32,
        runtime: s.runtime,
        deadline: s.deadline,
        period: s.period,
        ..Scheduling::default()
    })
}

/// `process.ioPriority` as class and level of ioprio_set(2).
pub(super) fn io_priority(p: &IoPriority) -> Result<(u32, u32)> {
    if p.priority > 7 {
        let reason = format!("invalid ioPriority.Priority: {}", p.priority);
        return Err(refuse("ioPriority.priority", reason));
    }
    let class = match p.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => {
            let reason = format!("invalid ioPriority.Class: {other:?}");
            return Err(refuse("ioPriority.class", reason));
        }
    };
    Ok((class, p.priority))
}

/// `process.execCPUAffinity` as masks, a bit for each CPU; an empty one changes nothing.
#[derive(Default)]
pub(crate) struct Affinity {
    /// Before the process is in the container's cgroup, whose CPUs may be others.
    pub(crate) initial: Vec<u64>,
    /// When it is in the cgroup.
    pub(crate) last: Vec<u64>,
}

impl Affinity {
    pub(super) fn new(affinity: Option<&CpuAffinity>) -> Result<Affinity> {
        let Some(affinity) = affinity else { return Ok(Affinity::default()) };
        let mask = |field: &str, title: &str, list: &str| {
            cpus(list).map_err(|reason| {
                refuse(
                    &format!("execCPUAffinity.{field}"),
                    format!("bad CPUAffinity.{title}: {reason}"),
                )
            })
        };
        Ok(Affinity {
            initial: mask("initial", "Initial", &affinity.initial)?,
            last: mask("final", "Final", &affinity.last)?,
        })
    }
}

/// The highest CPU that a list may name: runc's limit, so that a mask stays small.
const MAX_CPU: usize = 64 * 1024;

/// A list of CPUs such as `0-3,5` (cpuset(7), "List format").
fn cpus(list: &str) -> std::result::Result<Vec<u64>, String> {
    let number = |text: &str| match text.parse::<usize>() {
        Ok(cpu) if cpu > MAX_CPU => Err(format!("values larger than {MAX_CPU} are not supported")),
        Ok(cpu) if !text.starts_with('+') => Ok(cpu),
        _ => Err(format!("parsing {text:?}: invalid syntax")),
    };
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (number(low)?, number(high)?);
        if low > high {
            return Err(format!("invalid range: {part}"));
        }
        mask.resize(mask.len().max(high / 64 + 1), 0u64);
        (low..=high).for_each(|cpu| mask[cpu / 64] |= 1 << (cpu % 64));
    }
    if mask.is_empty() && !list.is_empty() {
        return Err(format!("no members found in set {list:?}"));
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_become_bits() {
        assert!(cpus("").expect("none").is_empty());
        assert_eq!(cpus("0-2, 4,").expect("a list"), [0b10111]);
        assert_eq!(cpus("64").expect("a list"), [0, 1]);
        for (list, reason) in [
            ("3-1", "invalid range: 3-1"),
            ("0-", "invalid syntax"),
            ("-1", "invalid syntax"),
            ("+1", "invalid syntax"),
            (",", "no members found"),
            ("0-65537", "values larger than 65536"),
        ] {
            assert!(cpus(list).expect_err(list).contains(reason), "{list}");
        }
    }
}
