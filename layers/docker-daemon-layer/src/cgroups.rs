//! What the host has of cgroups, and what a container loses where it has none.

use std::fs;

use hops::docker::models::HostConfig;
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
    pub(crate) fn discard(self, host: &mut HostConfig, warnings: &mut Vec<String>) {
        if self != Cgroups::Unmounted {
            return;
        }
        let mut lost = |limits: &mut [&mut Option<i64>], words: &str| {
            let any = limits.iter().any(|limit| limit.is_some_and(|n| n > 0));
            limits.iter_mut().for_each(|limit| **limit = None);
            if any {
                warnings.push(words.to_owned());
            }
        };
        let memory = &mut [&mut host.memory, &mut host.memory_swap, &mut host.memory_reservation];
        lost(
            memory,
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. \
             Limitation discarded.",
        );
        lost(
            &mut [&mut host.cpu_shares],
            "Your kernel does not support CPU shares or the cgroup is not mounted. Shares \
             discarded.",
        );
        lost(
            &mut [&mut host.cpu_period, &mut host.cpu_quota, &mut host.nano_cpus],
            "Your kernel does not support CPU cfs period/quota or the cgroup is not mounted. \
             Period and quota discarded.",
        );
        lost(
            &mut [&mut host.pids_limit],
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. \
             PIDs limit discarded.",
        );
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
        Cgroups::Legacy.discard(&mut host, &mut warnings);
        assert_eq!((host.memory, warnings.len()), (Some(64 << 20), 0));
        Cgroups::Unmounted.discard(&mut host, &mut warnings);
        assert_eq!((host.memory, host.cpu_shares), (None, None));
        assert!(warnings[0].starts_with("Your kernel does not support memory limit"));
        assert_eq!(warnings.len(), 2);
    }
}
