//! A container's resources and its quality-of-service class
//! (`pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`, Kubernetes 1.20 to 1.33).

use hops::proto::runtime::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1 as api;

use crate::{manifest::Pod, quantity::Quantity};

/// The quality-of-service class, which decides who dies first when memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    /// Every container limits cpu and memory, and requests all of it.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None at all.
    BestEffort,
}

/// The CFS period, in microseconds, and the smallest quota the kernel takes.
const PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// `oom_score_adj` of guaranteed pods.
const GUARANTEED: i64 = -997;
/// A priority from which a pod is critical to the node.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

fn limit(c: &api::Container, name: &str) -> Option<Quantity> {
    let limits = c.resources.as_ref()?.limits.as_ref()?;
    Quantity::parse(&limits.get(name)?.0).filter(|q| q.value() > 0)
}

/// What is requested; a limit without a request is one.
fn request(c: &api::Container, name: &str) -> Option<Quantity> {
    let requested = c.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(name));
    match requested {
        Some(quantity) => Quantity::parse(&quantity.0).filter(|q| q.value() > 0),
        None => limit(c, name),
    }
}

/// The pod's class.
pub(crate) fn qos(pod: &Pod) -> Qos {
    let any = |name| pod.all_containers().any(|c| request(c, name).or(limit(c, name)).is_some());
    let all = |name| {
        pod.all_containers().all(|c| limit(c, name).is_some() && limit(c, name) == request(c, name))
    };
    match (any("cpu") || any("memory"), all("cpu") && all("memory")) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

fn oom_score_adj(pod: &Pod, c: &api::Container, node_memory: i64) -> i64 {
    if pod.spec.priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY) {
        return GUARANTEED;
    }
    match qos(pod) {
        Qos::Guaranteed => GUARANTEED,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = request(c, "memory").map_or(0, Quantity::value);
            let share = (1000 * i128::from(request) / i128::from(node_memory.max(1))) as i64;
            // Never as safe as a guaranteed pod, always safer than a best-effort one.
            (1000 - share).clamp(1000 + GUARANTEED, 999)
        }
    }
}

/// The kernel's limits for one container, on a node with `node_memory` bytes.
pub(crate) fn linux(pod: &Pod, c: &api::Container, node_memory: i64) -> LinuxContainerResources {
    let cpu = |quantity: Option<Quantity>| quantity.map(Quantity::milli);
    let shares = cpu(request(c, "cpu")).map_or(MIN_SHARES, |milli| {
        (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
    });
    let quota = cpu(limit(c, "cpu"))
        .map_or(0, |milli| (milli.saturating_mul(PERIOD) / 1000).max(MIN_QUOTA));
    LinuxContainerResources {
        cpu_shares: shares,
        cpu_period: PERIOD,
        cpu_quota: quota,
        memory_limit_in_bytes: limit(c, "memory").map_or(0, Quantity::value),
        oom_score_adj: oom_score_adj(pod, c, node_memory),
        ..LinuxContainerResources::default()
    }
}

/// The node's memory in bytes; 0 when `/proc/meminfo` cannot be read.
pub(crate) fn node_memory() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.trim().trim_end_matches("kB").trim().parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &str) -> Pod {
        Pod::read_one(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: a, image: b, resources: {resources}}}]}}"
        ))
        .unwrap()
    }

    #[test]
    fn classes_and_limits() {
        const GIB: i64 = 1 << 30;
        for (resources, class, shares, quota, memory, oom) in [
            ("{}", Qos::BestEffort, 2, 0, 0, 1000),
            ("{limits: {cpu: 500m, memory: 64Mi}}", Qos::Guaranteed, 512, 50_000, 64 << 20, -997),
            (
                "{requests: {cpu: 250m, memory: 256Mi}, limits: {cpu: 1}}",
                Qos::Burstable,
                256,
                100_000,
                0,
                750,
            ),
            ("{requests: {memory: 1Ki}}", Qos::Burstable, 2, 0, 0, 999),
            ("{requests: {memory: 1Gi}}", Qos::Burstable, 2, 0, 0, 3),
            ("{limits: {cpu: 9E}}", Qos::Burstable, 262_144, i64::MAX / 1000, 0, 999),
            ("{limits: {cpu: 1m}}", Qos::Burstable, 2, 1000, 0, 999),
        ] {
            let pod = pod(resources);
            let linux = linux(&pod, &pod.spec.containers[0], GIB);
            assert_eq!(qos(&pod), class, "{resources}");
            assert_eq!(
                (
                    linux.cpu_shares,
                    linux.cpu_quota,
                    linux.memory_limit_in_bytes,
                    linux.oom_score_adj
                ),
                (shares, quota, memory, oom),
                "{resources}"
            );
        }
    }
}
