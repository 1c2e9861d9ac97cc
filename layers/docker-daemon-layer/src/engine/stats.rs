//! `GET /containers/{id}/stats`: what a container uses, from its cgroup.

use std::{collections::HashMap, fs, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use hops::{
    Cx, HandleStream, HopError, Inputs, Kind, Outputs, Result,
    docker::{
        ContainerStats, Flag, Json, Request,
        models::{
            ContainerBlkioStatEntry, ContainerBlkioStats, ContainerCpuStats, ContainerCpuUsage,
            ContainerMemoryStats, ContainerNetworkStats, ContainerPidsStats,
            ContainerStatsResponse, ContainerStorageStats, ContainerThrottlingData,
        },
    },
    proto::{Any, cgroups, containerd::services::tasks::v1::MetricsRequest},
};
use prost::Message;

use super::{Engine, container::Container};
use crate::time;

/// A sample a second, as dockerd's collector takes them.
const INTERVAL: Duration = Duration::from_secs(1);

/// Clock ticks of 100 Hz as nanoseconds.
const TICK: u64 = 10_000_000;

/// The processor time of the whole host in nanoseconds (the first line of /proc/stat), and its
/// processors.
fn host() -> (u64, u32) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let used = text.lines().next().map_or(0, |line| {
        let ticks = line.split_whitespace().skip(1).take(7);
        ticks.filter_map(|t| t.parse::<u64>().ok()).sum::<u64>()
    });
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    (used * TICK, cpus as u32)
}

fn blkio(entries: Vec<(u64, u64, &str, u64)>) -> Option<Vec<ContainerBlkioStatEntry>> {
    let entry = |(major, minor, op, value): (u64, u64, &str, u64)| ContainerBlkioStatEntry {
        major: Some(major),
        minor: Some(minor),
        op: Some(op.to_owned()),
        value: Some(value),
    };
    Some(entries.into_iter().map(entry).collect())
}

fn v1(metrics: cgroups::v1::Metrics, document: &mut ContainerStatsResponse) {
    let cpu = metrics.cpu.unwrap_or_default();
    let usage = cpu.usage.unwrap_or_default();
    let throttle = cpu.throttling.unwrap_or_default();
    let (system, online) = host();
    document.cpu_stats = Some(ContainerCpuStats {
        cpu_usage: Some(ContainerCpuUsage {
            total_usage: Some(usage.total),
            percpu_usage: Some(usage.per_cpu),
            usage_in_kernelmode: Some(usage.kernel),
            usage_in_usermode: Some(usage.user),
        }),
        system_cpu_usage: Some(system),
        online_cpus: Some(online),
        throttling_data: Some(ContainerThrottlingData {
            periods: Some(throttle.periods),
            throttled_periods: Some(throttle.throttled_periods),
            throttled_time: Some(throttle.throttled_time),
        }),
    });
    let memory = metrics.memory.unwrap_or_default();
    let used = memory.usage.unwrap_or_default();
    let stats = [
        ("active_anon", memory.active_anon),
        ("active_file", memory.active_file),
        ("cache", memory.cache),
        ("dirty", memory.dirty),
        ("hierarchical_memory_limit", memory.hierarchical_memory_limit),
        ("hierarchical_memsw_limit", memory.hierarchical_swap_limit),
        ("inactive_anon", memory.inactive_anon),
        ("inactive_file", memory.inactive_file),
        ("mapped_file", memory.mapped_file),
        ("pgfault", memory.pg_fault),
        ("pgmajfault", memory.pg_maj_fault),
        ("pgpgin", memory.pg_pg_in),
        ("pgpgout", memory.pg_pg_out),
        ("rss", memory.rss),
        ("rss_huge", memory.rss_huge),
        ("total_active_anon", memory.total_active_anon),
        ("total_active_file", memory.total_active_file),
        ("total_cache", memory.total_cache),
        ("total_dirty", memory.total_dirty),
        ("total_inactive_anon", memory.total_inactive_anon),
        ("total_inactive_file", memory.total_inactive_file),
        ("total_mapped_file", memory.total_mapped_file),
        ("total_pgfault", memory.total_pg_fault),
        ("total_pgmajfault", memory.total_pg_maj_fault),
        ("total_pgpgin", memory.total_pg_pg_in),
        ("total_pgpgout", memory.total_pg_pg_out),
        ("total_rss", memory.total_rss),
        ("total_rss_huge", memory.total_rss_huge),
        ("total_unevictable", memory.total_unevictable),
        ("total_writeback", memory.total_writeback),
        ("unevictable", memory.unevictable),
        ("writeback", memory.writeback),
    ];
    document.memory_stats = Some(ContainerMemoryStats {
        usage: Some(used.usage),
        max_usage: Some(used.max),
        failcnt: Some(used.failcnt).filter(|n| *n > 0),
        limit: Some(used.limit.min(host_memory())),
        stats: Some(stats.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ..ContainerMemoryStats::default()
    });
    let pids = metrics.pids.unwrap_or_default();
    document.pids_stats = Some(ContainerPidsStats {
        current: Some(pids.current),
        limit: Some(pids.limit).filter(|n| *n > 0),
    });
    let io = metrics.blkio.unwrap_or_default();
    let entries = |list: &[cgroups::v1::BlkIoEntry]| {
        blkio(list.iter().map(|e| (e.major, e.minor, e.op.as_str(), e.value)).collect())
    };
    document.blkio_stats = Some(ContainerBlkioStats {
        io_service_bytes_recursive: entries(&io.io_service_bytes_recursive),
        io_serviced_recursive: entries(&io.io_serviced_recursive),
        io_queue_recursive: entries(&io.io_queued_recursive),
        io_service_time_recursive: entries(&io.io_service_time_recursive),
        io_wait_time_recursive: entries(&io.io_wait_time_recursive),
        io_merged_recursive: entries(&io.io_merged_recursive),
        io_time_recursive: entries(&io.io_time_recursive),
        sectors_recursive: entries(&io.sectors_recursive),
    });
}

fn v2(metrics: cgroups::v2::Metrics, document: &mut ContainerStatsResponse) {
    let cpu = metrics.cpu.unwrap_or_default();
    let (system, online) = host();
    document.cpu_stats = Some(ContainerCpuStats {
        cpu_usage: Some(ContainerCpuUsage {
            total_usage: Some(cpu.usage_usec * 1000),
            percpu_usage: None,
            usage_in_kernelmode: Some(cpu.system_usec * 1000),
            usage_in_usermode: Some(cpu.user_usec * 1000),
        }),
        system_cpu_usage: Some(system),
        online_cpus: Some(online),
        throttling_data: Some(ContainerThrottlingData {
            periods: Some(cpu.nr_periods),
            throttled_periods: Some(cpu.nr_throttled),
            throttled_time: Some(cpu.throttled_usec * 1000),
        }),
    });
    let memory = metrics.memory.unwrap_or_default();
    let stats = [
        ("anon", memory.anon),
        ("file", memory.file),
        ("kernel_stack", memory.kernel_stack),
        ("slab", memory.slab),
        ("sock", memory.sock),
        ("shmem", memory.shmem),
        ("file_mapped", memory.file_mapped),
        ("file_dirty", memory.file_dirty),
        ("file_writeback", memory.file_writeback),
        ("inactive_anon", memory.inactive_anon),
        ("active_anon", memory.active_anon),
        ("inactive_file", memory.inactive_file),
        ("active_file", memory.active_file),
        ("unevictable", memory.unevictable),
        ("pgfault", memory.pgfault),
        ("pgmajfault", memory.pgmajfault),
    ];
    let limit = if memory.usage_limit == 0 { u64::MAX } else { memory.usage_limit };
    document.memory_stats = Some(ContainerMemoryStats {
        usage: Some(memory.usage),
        limit: Some(limit.min(host_memory())),
        stats: Some(stats.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ..ContainerMemoryStats::default()
    });
    let pids = metrics.pids.unwrap_or_default();
    document.pids_stats = Some(ContainerPidsStats {
        current: Some(pids.current),
        limit: Some(pids.limit).filter(|n| *n > 0),
    });
    let mut bytes = Vec::new();
    for entry in metrics.io.unwrap_or_default().usage {
        bytes.push((entry.major, entry.minor, "read", entry.rbytes));
        bytes.push((entry.major, entry.minor, "write", entry.wbytes));
    }
    document.blkio_stats = Some(ContainerBlkioStats {
        io_service_bytes_recursive: blkio(bytes),
        ..ContainerBlkioStats::default()
    });
}

fn host_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |k| k * 1024)
}

/// The interfaces in the network namespace of `pid` but its loopback.
fn networks(pid: i64) -> HashMap<String, ContainerNetworkStats> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let at = |i: usize| numbers.get(i).copied();
        let stats = ContainerNetworkStats {
            rx_bytes: at(0),
            rx_packets: at(1),
            rx_errors: at(2),
            rx_dropped: at(3),
            tx_bytes: at(8),
            tx_packets: at(9),
            tx_errors: at(10),
            tx_dropped: at(11),
            ..ContainerNetworkStats::default()
        };
        (name.trim() != "lo").then(|| (name.trim().to_owned(), stats))
    };
    text.lines().skip(2).filter_map(line).collect()
}

impl Engine {
    /// One sample; of a container that does not run, an empty one.
    async fn sample(&self, container: &Container) -> Result<ContainerStatsResponse> {
        let (name, pid, mode) =
            container.look(|r| (r.name.clone(), r.state.pid, r.network_mode().to_owned()));
        let mut document = ContainerStatsResponse {
            id: Some(container.id.clone()),
            name: Some(format!("/{name}")),
            read: Some(time::NEVER.to_owned()),
            preread: Some(time::NEVER.to_owned()),
            cpu_stats: Some(ContainerCpuStats::default()),
            precpu_stats: Some(ContainerCpuStats::default()),
            memory_stats: Some(ContainerMemoryStats::default()),
            pids_stats: Some(ContainerPidsStats::default()),
            blkio_stats: Some(ContainerBlkioStats::default()),
            storage_stats: Some(ContainerStorageStats::default()),
            num_procs: Some(0),
            ..ContainerStatsResponse::default()
        };
        if !container.phase().runs() {
            return Ok(document);
        }
        let request = MetricsRequest { filters: vec![format!("id=={}", container.id)] };
        let metrics = self.containerd.handle(&self.background(), request).await?.metrics;
        let Some(data) = metrics.into_iter().find(|m| m.id == container.id).and_then(|m| m.data)
        else {
            return Ok(document);
        };
        document.read = Some(time::rfc3339(time::now()));
        decode(&data, &mut document)?;
        if mode != "host" && mode != "none" {
            document.networks = Some(networks(pid));
        }
        Ok(document)
    }
}

fn decode(data: &Any, document: &mut ContainerStatsResponse) -> Result<()> {
    let damaged = |e: prost::DecodeError| HopError::new(Kind::DataLoss, format!("metrics: {e}"));
    let bytes = data.value.as_slice();
    match data.type_url.rsplit('/').next().unwrap_or_default() {
        "io.containerd.cgroups.v1.Metrics" => {
            v1(cgroups::v1::Metrics::decode(bytes).map_err(damaged)?, document);
        }
        "io.containerd.cgroups.v2.Metrics" => {
            v2(cgroups::v2::Metrics::decode(bytes).map_err(damaged)?, document);
        }
        other => {
            return Err(HopError::internal(format!("unknown metrics type {other}")));
        }
    }
    Ok(())
}

#[async_trait]
impl HandleStream<Request<ContainerStats>> for Engine {
    async fn stream(
        &self,
        _cx: &Cx,
        call: Request<ContainerStats>,
        _input: Inputs<Bytes>,
    ) -> Result<Outputs<Json<ContainerStatsResponse>>> {
        let container = self.find(&call.id)?;
        // Without a word it is a stream, as in every version of the API.
        let streams = call.query.stream.is_none_or(|Flag(on)| on);
        let one_shot = call.query.one_shot.is_some_and(|Flag(on)| on);
        let first = self.sample(&container).await?;
        if !streams && (one_shot || !container.phase().runs()) {
            return Ok(Box::pin(stream::once(std::future::ready(Ok(Json(first))))));
        }
        let state = (self.clone(), container, Some(first));
        if !streams {
            // Two samples, of which the second answers: a rate needs both.
            let (engine, container, first) = state;
            return Ok(Box::pin(stream::once(async move {
                next(&engine, &container, first).await.map(Json)
            })));
        }
        Ok(Box::pin(stream::unfold(state, |(engine, container, last)| async move {
            if container.life.borrow().removed {
                return None;
            }
            let sample = next(&engine, &container, last).await;
            let last = sample.as_ref().ok().cloned();
            Some((sample.map(Json), (engine, container, last)))
        })))
    }
}

async fn next(
    engine: &Engine,
    container: &Arc<Container>,
    last: Option<ContainerStatsResponse>,
) -> Result<ContainerStatsResponse> {
    tokio::time::sleep(INTERVAL).await;
    let mut sample = engine.sample(container).await?;
    if let Some(last) = last {
        sample.precpu_stats = last.cpu_stats;
        sample.preread = last.read;
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_either_hierarchy_are_read() {
        let data = |url: &str, value: Vec<u8>| Any { type_url: url.to_owned(), value };
        let mut document = ContainerStatsResponse::default();
        let one = cgroups::v1::Metrics {
            pids: Some(cgroups::v1::PidsStat { current: 3, limit: 0 }),
            ..Default::default()
        };
        decode(&data("io.containerd.cgroups.v1.Metrics", one.encode_to_vec()), &mut document)
            .unwrap();
        assert_eq!(document.pids_stats.clone().unwrap().current, Some(3));
        let two = cgroups::v2::Metrics {
            memory: Some(cgroups::v2::MemoryStat { usage: 7, ..Default::default() }),
            ..Default::default()
        };
        decode(&data("x/io.containerd.cgroups.v2.Metrics", two.encode_to_vec()), &mut document)
            .unwrap();
        assert_eq!(document.memory_stats.clone().unwrap().usage, Some(7));
        assert!(decode(&data("other", vec![]), &mut document).is_err());
    }
}
