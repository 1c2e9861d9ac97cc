//! Limits: what is allowed to be asked for, and how config.json says it.

use hops::{
    HopError, Result,
    docker::models::{HostConfig, ResourcesUlimits},
};
use serde_json::{Map, Value, json};

use super::devices;

/// The least memory that a container can be started in (dockerd 20.10): 6 MiB.
const MIN_MEMORY: i64 = 6 << 20;
const CPU_PERIOD: i64 = 100_000;

/// Checks limits, and fills in what Docker derives from them.
///
/// # Errors
/// dockerd's words for limits that cannot be.
pub(crate) fn check(host: &mut HostConfig) -> Result<()> {
    let refuse = |words: &str| Err(HopError::invalid(words));
    let memory = host.memory.unwrap_or(0);
    let swap = host.memory_swap.unwrap_or(0);
    if memory != 0 && memory < MIN_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if memory > 0 && swap > 0 && swap < memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory == 0 && swap > 0 {
        return refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if memory > 0 && swap == 0 {
        host.memory_swap = Some(memory * 2);
    }
    if host.memory_reservation.unwrap_or(0) > memory && memory > 0 {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    let nano = host.nano_cpus.unwrap_or(0);
    if nano > 0 && host.cpu_period.unwrap_or(0) > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set.");
    }
    if nano > 0 && host.cpu_quota.unwrap_or(0) > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set.");
    }
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get()) as i64;
    if nano < 0 || nano > cpus * 1_000_000_000 {
        return Err(HopError::invalid(format!(
            "Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    let period = host.cpu_period.unwrap_or(0);
    if period != 0 && !(1000..=1_000_000).contains(&period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    let quota = host.cpu_quota.unwrap_or(0);
    if quota > 0 && quota < 1000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    let weight = host.blkio_weight.unwrap_or(0);
    if weight > 0 && !(10..=1000).contains(&weight) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    if !(-1000..=1000).contains(&host.oom_score_adj.unwrap_or(0)) {
        return Err(HopError::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj.unwrap_or(0)
        )));
    }
    if host.shm_size.unwrap_or(0) < 0 {
        return refuse("SHM size can not be less than 0");
    }
    Ok(())
}

/// `linux.resources`; what is not limited is not named.
///
/// # Errors
/// Those of the devices.
pub(crate) fn of(host: &HostConfig, privileged: bool) -> Result<Value> {
    let mut memory = Map::new();
    let mut cpu = Map::new();
    {
        let set = |map: &mut Map<String, Value>, key: &str, value: Option<i64>| {
            if let Some(value) = value.filter(|v| *v != 0) {
                map.insert(key.to_owned(), json!(value));
            }
        };
        set(&mut memory, "limit", host.memory);
        set(&mut memory, "reservation", host.memory_reservation);
        set(&mut memory, "swap", host.memory_swap);
        set(&mut cpu, "shares", host.cpu_shares);
        set(&mut cpu, "period", host.cpu_period);
        set(&mut cpu, "quota", host.cpu_quota);
        set(&mut cpu, "realtimePeriod", host.cpu_realtime_period);
        set(&mut cpu, "realtimeRuntime", host.cpu_realtime_runtime);
    }
    if let Some(swappiness) = host.memory_swappiness.filter(|s| (0..=100).contains(s)) {
        memory.insert("swappiness".to_owned(), json!(swappiness));
    }
    if host.oom_kill_disable == Some(true) {
        memory.insert("disableOOMKiller".to_owned(), json!(true));
    }
    if let Some(nano) = host.nano_cpus.filter(|n| *n > 0) {
        cpu.insert("period".to_owned(), json!(CPU_PERIOD));
        cpu.insert("quota".to_owned(), json!(nano * CPU_PERIOD / 1_000_000_000));
    }
    for (key, value) in [("cpus", &host.cpuset_cpus), ("mems", &host.cpuset_mems)] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            cpu.insert(key.to_owned(), json!(value));
        }
    }
    let mut resources = Map::new();
    resources.insert("devices".to_owned(), Value::Array(devices::rules(host, privileged)?));
    if !memory.is_empty() {
        resources.insert("memory".to_owned(), Value::Object(memory));
    }
    if !cpu.is_empty() {
        resources.insert("cpu".to_owned(), Value::Object(cpu));
    }
    if let Some(limit) = host.pids_limit.filter(|l| *l != 0) {
        resources.insert("pids".to_owned(), json!({"limit": limit}));
    }
    if let Some(weight) = host.blkio_weight.filter(|w| *w > 0) {
        resources.insert("blockIO".to_owned(), json!({"weight": weight}));
    }
    Ok(Value::Object(resources))
}

/// `process.rlimits`.
pub(super) fn rlimits(ulimits: &[ResourcesUlimits]) -> Vec<Value> {
    ulimits
        .iter()
        .filter_map(|limit| {
            let name = limit.name.as_deref()?.to_ascii_uppercase();
            // A negative number is no limit: all bits set, as the kernel has it.
            let of = |n: Option<i64>| n.unwrap_or(0) as u64;
            Some(json!({"type": format!("RLIMIT_{name}"), "soft": of(limit.soft), "hard": of(limit.hard)}))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked_and_completed() {
        let mut host = HostConfig { memory: Some(64 << 20), ..HostConfig::default() };
        check(&mut host).unwrap();
        assert_eq!(host.memory_swap, Some(128 << 20));
        let mut small = HostConfig { memory: Some(1), ..HostConfig::default() };
        assert_eq!(check(&mut small).unwrap_err().message, "Minimum memory limit allowed is 6MB");
        let half = HostConfig { nano_cpus: Some(500_000_000), ..HostConfig::default() };
        assert_eq!(of(&half, false).unwrap()["cpu"], json!({"period": 100_000, "quota": 50_000}));
    }
}
