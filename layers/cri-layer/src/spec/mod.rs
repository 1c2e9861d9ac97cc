//! From CRI's messages to an OCI `config.json`, as containerd 1.6's CRI writes it.

pub(crate) mod capabilities;
pub(crate) mod container;
pub(crate) mod mounts;
pub(crate) mod sandbox;
pub(crate) mod seccomp;
pub(crate) mod volumes;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use hops::{
    HopError, Result,
    proto::{
        Any,
        runtime::v1::{LinuxContainerResources, NamespaceOption},
    },
};
use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxNamespace,
    LinuxNamespaceType, LinuxResources, Process, Spec,
};
use serde::Serialize;

use crate::config::NAMESPACE;

/// The version of the runtime specification that the configurations are written to: containerd
/// 1.6's, which every runtime of the time accepts.
const VERSION: &str = "1.0.2";

/// containerd's type names of what travels to it as JSON.
const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Paths under `/proc` and `/sys` that a container does not see unless it is told otherwise.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
];

/// Paths under `/proc` that a container cannot write unless it is told otherwise.
const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn any(url: &str, value: &impl Serialize) -> Result<Any> {
    let value = serde_json::to_vec(value)
        .map_err(|e| HopError::internal(format!("failed to marshal {url}: {e}")))?;
    Ok(Any { type_url: url.to_owned(), value })
}

/// A configuration as containerd's messages carry it.
///
/// # Errors
/// None that is known: a configuration is all JSON can say.
pub(crate) fn spec_any(spec: &Spec) -> Result<Any> {
    any(SPEC_URL, spec)
}

/// A further process as containerd's messages carry it.
///
/// # Errors
/// As [`spec_any`].
pub(crate) fn process_any(process: &Process) -> Result<Any> {
    any(PROCESS_URL, process)
}

/// New limits as containerd's messages carry them.
///
/// # Errors
/// As [`spec_any`].
pub(crate) fn resources_any(resources: &LinuxResources) -> Result<Any> {
    any(RESOURCES_URL, resources)
}

/// The process in a container's configuration.
pub(crate) fn process_of(spec: &Any) -> Option<Process> {
    serde_json::from_slice::<Spec>(&spec.value).ok()?.process().clone()
}

fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

fn of_process(pid: u32, name: &str) -> Option<PathBuf> {
    Some(format!("/proc/{pid}/ns/{name}").into())
}

/// Refuses what a pod may ask of namespaces and this runtime does not do.
pub(crate) fn check_namespaces(options: Option<&NamespaceOption>) -> Result<()> {
    let userns = options.and_then(|o| o.userns_options.as_ref());
    match userns.map(|u| u.mode()) {
        None | Some(hops::proto::runtime::v1::NamespaceMode::Node) => Ok(()),
        Some(mode) => Err(HopError::invalid(format!(
            "unsupported user namespace mode: {}",
            mode.as_str_name()
        ))),
    }
}

/// Takes out of `spec` what needs cgroups (containerd's `WithDisabledCgroups`).
pub(crate) fn without_cgroups(spec: &mut Spec) {
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(None).set_resources(None);
    }
}

/// The cgroup of the container `id` under what the kubelet names: a path, or a systemd slice
/// (containerd's `getCgroupsPath`).
fn cgroup_path(parent: &str, id: &str) -> PathBuf {
    let base = Path::new(parent).file_name().unwrap_or_default().to_string_lossy();
    if parent.is_empty() {
        return Path::new("/").join(NAMESPACE).join(id);
    }
    if base.ends_with(".slice") {
        return format!("{base}:cri-containerd:{id}").into();
    }
    Path::new(parent).join(id)
}

/// A list of `KEY=value` in which the last of a key wins, at the place of the first.
fn environment(entries: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut environment: Vec<String> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for entry in entries {
        let key = entry.split('=').next().unwrap_or_default().to_owned();
        match places.get(&key) {
            Some(place) => environment[*place] = entry,
            None => {
                places.insert(key, environment.len());
                environment.push(entry);
            }
        }
    }
    environment
}

/// `PATH` for an image that has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether the kernel counts swap, without which a swap limit is refused.
static SWAP_IS_COUNTED: LazyLock<bool> = LazyLock::new(|| {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match own.lines().find_map(|line| line.strip_prefix("0::/")) {
        // The root group has no limit files to tell it by.
        None | Some("") => true,
        Some(own) => Path::new("/sys/fs/cgroup").join(own).join("memory.swap.max").exists(),
    }
});

/// CRI's limits as the runtime specification says them. Zero is no limit; a memory limit alone is
/// the swap limit too, so that a container does not swap.
pub(crate) fn resources(of: &LinuxContainerResources) -> LinuxResources {
    let some = |n: i64| (n != 0).then_some(n);
    let unsigned = |n: i64| u64::try_from(n).ok().filter(|n| *n != 0);
    let text = |t: &String| (!t.is_empty()).then(|| t.clone());
    let mut resources = LinuxResources::default();
    let mut cpu = LinuxCpu::default();
    cpu.set_period(unsigned(of.cpu_period))
        .set_quota(some(of.cpu_quota))
        .set_shares(unsigned(of.cpu_shares))
        .set_cpus(text(&of.cpuset_cpus))
        .set_mems(text(&of.cpuset_mems));
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = some(of.memory_limit_in_bytes) {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(limit));
        if *SWAP_IS_COUNTED {
            memory.set_swap(some(of.memory_swap_limit_in_bytes).or(Some(limit)));
        }
        resources.set_memory(Some(memory));
    }
    let pages = of.hugepage_limits.iter().map(|of| {
        let mut page = LinuxHugepageLimit::default();
        page.set_page_size(of.page_size.clone())
            .set_limit(i64::try_from(of.limit).unwrap_or(i64::MAX));
        page
    });
    let pages: Vec<_> = pages.collect();
    if !pages.is_empty() {
        resources.set_hugepage_limits(Some(pages));
    }
    if !of.unified.is_empty() {
        resources.set_unified(Some(of.unified.clone()));
    }
    resources
}

/// The rule that everything in the device cgroup is (not) allowed, on which others follow.
fn all_devices(allow: bool) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_access(Some("rwm".to_owned()));
    rule
}

/// The lowest `oom_score_adj` that this process may give: where the kernel refuses to lower its
/// own, it can give no process less than that (containerd's `restrict_oom_score_adj`).
static OOM_SCORE_FLOOR: LazyLock<i32> = LazyLock::new(|| {
    const FILE: &str = "/proc/self/oom_score_adj";
    let Ok(own) = fs::read_to_string(FILE) else { return -1000 };
    match fs::write(FILE, "-1000") {
        Ok(()) => {
            if let Err(error) = fs::write(FILE, own.trim()) {
                tracing::warn!(%error, "this process's oom_score_adj stays -1000");
            }
            -1000
        }
        Err(_) => own.trim().parse().unwrap_or(0),
    }
});

/// `wanted`, or the nearest to it that the kernel lets this process give.
fn oom_score(wanted: i64) -> i32 {
    let wanted = i32::try_from(wanted.clamp(-1000, 1000)).unwrap_or(0);
    let given = wanted.max(*OOM_SCORE_FLOOR);
    if given != wanted {
        tracing::debug!(wanted, given, "the kernel refuses a lower oom_score_adj");
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_variables_win() {
        let env = ["A=1", "B=2", "A=3"].map(str::to_owned);
        assert_eq!(environment(env), ["A=3", "B=2"]);
    }

    #[test]
    fn cgroups_lie_under_what_the_kubelet_names() {
        for (parent, path) in [
            ("", "/k8s.io/x"),
            ("/kubepods/pod1", "/kubepods/pod1/x"),
            ("/kubepods.slice/kubepods-pod1.slice", "kubepods-pod1.slice:cri-containerd:x"),
        ] {
            assert_eq!(cgroup_path(parent, "x"), Path::new(path));
        }
    }

    #[test]
    fn zero_is_no_limit() {
        let none = resources(&LinuxContainerResources::default());
        assert!(none.cpu().is_none() && none.memory().is_none());
        let some = resources(&LinuxContainerResources {
            cpu_quota: -1,
            memory_limit_in_bytes: 4096,
            ..Default::default()
        });
        assert_eq!(some.cpu().as_ref().unwrap().quota(), Some(-1));
        assert_eq!(some.memory().as_ref().unwrap().limit(), Some(4096));
    }
}
