//! What the host has of cgroups, and what a container loses where it has none.

use std::fs;

use hops::{HopError, Result, docker::models::HostConfig};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// The cgroup hierarchies that are mounted where the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// None at all, as in a rootless place that was given none: limits are discarded, and Docker's
    /// cgroup driver is `none`.
    Unmounted,
    /// A hierarchy for each controller (cgroup v1), whether or not there is a unified one as well.
    Legacy,
    /// Only the unified hierarchy (cgroup v2).
    Unified,
}

impl Cgroups {
    /// Those of the mount namespace that this runs in.
    pub(crate) fn here() -> Cgroups {
        if statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Cgroups::Unified;
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut kinds = mounts.lines().filter_map(|line| line.split(' ').nth(2));
        if kinds.any(|kind| kind == "cgroup") { Cgroups::Legacy } else { Cgroups::Unmounted }
    }

    /// Takes out of `host` what cannot be enforced, with dockerd 20.10's warnings.
    ///
    /// # Errors
    /// dockerd's refusal of `NanoCpus`, the one limit that it does not discard.
    pub(crate) fn discard(self, host: &mut HostConfig, warnings: &mut Vec<String>) -> Result<()> {
        if self != Cgroups::Unmounted {
            return Ok(());
        }
        if host.nano_cpus.is_some_and(|n| n > 0) {
            return Err(HopError::invalid(
                "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the \
                 cgroup is not mounted",
            ));
        }
        let mut lost = |was_set: bool, words: &str| {
            if was_set {
                warnings.push(format!("Your kernel does not support {words} discarded."));
            }
        };
        let number = |limit: &mut Option<i64>| limit.take().is_some_and(|n| n > 0);
        let text = |limit: &mut Option<String>| limit.take().is_some_and(|t| !t.is_empty());
        // Without a limit there is nothing that swap could be counted to.
        host.memory_swap = None;
        lost(
            number(&mut host.memory),
            "memory limit capabilities or the cgroup is not mounted. Limitation",
        );
        lost(
            number(&mut host.memory_reservation),
            "memory soft limit capabilities or the cgroup is not mounted. Limitation",
        );
        lost(number(&mut host.cpu_shares), "CPU shares or the cgroup is not mounted. Shares");
        let period = number(&mut host.cpu_period);
        lost(number(&mut host.cpu_quota) || period, "CPU CFS scheduler. CPU period/quota");
        let cpus = text(&mut host.cpuset_cpus);
        lost(text(&mut host.cpuset_mems) || cpus, "cpuset or the cgroup is not mounted. Cpuset");
        lost(
            number(&mut host.pids_limit),
            "PIDs limit capabilities or the cgroup is not mounted. PIDs limit",
        );
        let weight = host.blkio_weight.take().is_some_and(|weight| weight > 0);
        lost(weight, "Block I/O weight or the cgroup is not mounted. Weight");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_discarded_aloud_and_only_where_there_are_no_cgroups() {
        let limited =
            || HostConfig { memory: Some(64 << 20), cpu_shares: Some(2), ..HostConfig::default() };
        let (mut host, mut warnings) = (limited(), Vec::new());
        Cgroups::Legacy.discard(&mut host, &mut warnings).unwrap();
        assert_eq!((host.memory, warnings.len()), (Some(64 << 20), 0));
        Cgroups::Unmounted.discard(&mut host, &mut warnings).unwrap();
        assert_eq!((host.memory, host.cpu_shares), (None, None));
        assert!(warnings[0].starts_with("Your kernel does not support memory limit"));
        assert_eq!(warnings.len(), 2);
        let mut nano = HostConfig { nano_cpus: Some(1), ..HostConfig::default() };
        let refusal = Cgroups::Unmounted.discard(&mut nano, &mut warnings).unwrap_err();
        assert!(refusal.message.starts_with("NanoCPUs can not be set"), "{refusal}");
    }
}
