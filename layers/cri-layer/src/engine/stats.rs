//! What pods use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use hops::{
    Cx, Result,
    proto::{
        Any,
        cgroups::{v1 as cgroup1, v2 as cgroup2},
        containerd::services::{snapshots::v1::UsageRequest, tasks::v1::MetricsRequest},
        runtime::v1::{
            ContainerAttributes, ContainerStats, ContainerStatsFilter, ContainerStatsRequest,
            ContainerStatsResponse, CpuUsage, FilesystemIdentifier, FilesystemUsage,
            LinuxPodSandboxStats, ListContainerStatsRequest, ListContainerStatsResponse,
            ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, MemoryUsage,
            PodSandboxAttributes, PodSandboxStats, PodSandboxStatsRequest, PodSandboxStatsResponse,
            ProcessUsage, SwapUsage, UInt64Value,
        },
    },
};
use prost::Message;

use super::{Core, container::Container, index::selects, sandbox::Sandbox};
use crate::{image::lock, names::now};

/// The last measured processor time of each container, from which a rate is made.
#[derive(Debug, Default)]
pub(crate) struct Samples(Mutex<HashMap<String, (i64, u64)>>);

impl Samples {
    /// Nanoseconds of processor time per second since the sample before; `None` for the first.
    fn rate(&self, id: &str, at: i64, used: u64) -> Option<u64> {
        let (then, before) = lock(&self.0).insert(id.to_owned(), (at, used))?;
        let passed = u128::try_from(at - then).ok().filter(|passed| *passed > 0)?;
        let nanos = u128::from(used.saturating_sub(before)) * 1_000_000_000 / passed;
        u64::try_from(nanos).ok()
    }

    pub(crate) fn forget(&self, id: &str) {
        lock(&self.0).remove(id);
    }
}

/// What a cgroup says, whichever its version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    at: i64,
    /// Nanoseconds of processor time.
    cpu: u64,
    memory: u64,
    /// 0 for no limit.
    memory_limit: u64,
    inactive_file: u64,
    rss: u64,
    faults: u64,
    major_faults: u64,
    swap: Option<u64>,
    pids: u64,
}

impl Usage {
    /// Reads what a shim answered. Another type than a cgroup's is nothing.
    fn of(data: &Any, at: i64) -> Usage {
        let value = data.value.as_slice();
        match data.type_url.rsplit('/').next().unwrap_or_default() {
            "io.containerd.cgroups.v1.Metrics" => {
                let Ok(m) = cgroup1::Metrics::decode(value) else { return Usage::default() };
                let memory = m.memory.unwrap_or_default();
                let used = memory.usage.unwrap_or_default();
                let swap = memory.swap.map(|both| both.usage.saturating_sub(used.usage));
                Usage {
                    at,
                    cpu: m.cpu.and_then(|cpu| cpu.usage).map_or(0, |usage| usage.total),
                    memory: used.usage,
                    memory_limit: limit(used.limit),
                    inactive_file: memory.total_inactive_file,
                    rss: memory.total_rss,
                    faults: memory.total_pg_fault,
                    major_faults: memory.total_pg_maj_fault,
                    swap,
                    pids: m.pids.map_or(0, |pids| pids.current),
                }
            }
            "io.containerd.cgroups.v2.Metrics" => {
                let Ok(m) = cgroup2::Metrics::decode(value) else { return Usage::default() };
                let memory = m.memory.unwrap_or_default();
                Usage {
                    at,
                    cpu: m.cpu.map_or(0, |cpu| cpu.usage_usec.saturating_mul(1000)),
                    memory: memory.usage,
                    memory_limit: limit(memory.usage_limit),
                    inactive_file: memory.inactive_file,
                    rss: memory.anon,
                    faults: memory.pgfault,
                    major_faults: memory.pgmajfault,
                    swap: Some(memory.swap_usage),
                    pids: m.pids.map_or(0, |pids| pids.current),
                }
            }
            _ => Usage::default(),
        }
    }

    fn working_set(&self) -> u64 {
        self.memory.saturating_sub(self.inactive_file)
    }

    fn memory(&self) -> MemoryUsage {
        let limited = self.memory_limit > 0;
        MemoryUsage {
            timestamp: self.at,
            working_set_bytes: some(self.working_set()),
            available_bytes: limited.then(|| UInt64Value {
                value: self.memory_limit.saturating_sub(self.working_set()),
            }),
            usage_bytes: some(self.memory),
            rss_bytes: some(self.rss),
            page_faults: some(self.faults),
            major_page_faults: some(self.major_faults),
        }
    }
}

/// A limit so large that the kernel means none by it.
fn limit(of: u64) -> u64 {
    if of >= i64::MAX as u64 & !0xfff { 0 } else { of }
}

fn some(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

impl Core {
    pub(crate) async fn container_stats(
        &self,
        cx: &Cx,
        op: ContainerStatsRequest,
    ) -> Result<ContainerStatsResponse> {
        let container = self.container(&op.container_id)?;
        let stats = self.measure(cx, std::slice::from_ref(&container)).await?;
        Ok(ContainerStatsResponse { stats: stats.into_iter().next() })
    }

    pub(crate) async fn list_container_stats(
        &self,
        cx: &Cx,
        op: ListContainerStatsRequest,
    ) -> Result<ListContainerStatsResponse> {
        let filter: ContainerStatsFilter = op.filter.unwrap_or_default();
        let mut all = self.containers.all();
        all.retain(|container| {
            let record = container.record();
            container.task.life().running()
                && record.id.starts_with(&filter.id)
                && record.sandbox_id.starts_with(&filter.pod_sandbox_id)
                && selects(&filter.label_selector, &record.config.labels)
        });
        Ok(ListContainerStatsResponse { stats: self.measure(cx, &all).await? })
    }

    /// The statistics of containers: one question for all their tasks, one each for their layers.
    async fn measure(&self, cx: &Cx, containers: &[Arc<Container>]) -> Result<Vec<ContainerStats>> {
        let ids = containers.iter().map(|c| c.id().to_owned());
        let usages = self.usages(cx, ids).await?;
        let mut all = Vec::new();
        for container in containers {
            let record = container.record();
            let mut stats = ContainerStats {
                attributes: Some(ContainerAttributes {
                    id: record.id.clone(),
                    metadata: record.config.metadata.clone(),
                    labels: record.config.labels.clone(),
                    annotations: record.config.annotations.clone(),
                }),
                writable_layer: self.writable_layer(cx, &record.id).await?,
                ..ContainerStats::default()
            };
            if let Some(usage) = usages.get(&record.id) {
                stats.cpu = Some(self.cpu(&record.id, usage));
                stats.memory = Some(usage.memory());
                stats.swap = usage.swap.map(|swap| SwapUsage {
                    timestamp: usage.at,
                    swap_available_bytes: None,
                    swap_usage_bytes: some(swap),
                });
            }
            all.push(stats);
        }
        Ok(all)
    }

    fn cpu(&self, id: &str, usage: &Usage) -> CpuUsage {
        CpuUsage {
            timestamp: usage.at,
            usage_core_nano_seconds: some(usage.cpu),
            usage_nano_cores: some(self.samples.rate(id, usage.at, usage.cpu).unwrap_or(0)),
        }
    }

    async fn usages(
        &self,
        cx: &Cx,
        ids: impl Iterator<Item = String>,
    ) -> Result<HashMap<String, Usage>> {
        let filters: Vec<String> = ids.map(|id| format!("id=={id}")).collect();
        if filters.is_empty() {
            return Ok(HashMap::new());
        }
        let metrics = self.containerd.call(cx, MetricsRequest { filters }).await?.metrics;
        let usage =
            |m: hops::proto::containerd::types::Metric| Some((m.id, Usage::of(&m.data?, now())));
        Ok(metrics.into_iter().filter_map(usage).collect())
    }

    /// What a container has written; `None` when its snapshot is gone.
    async fn writable_layer(&self, cx: &Cx, id: &str) -> Result<Option<FilesystemUsage>> {
        let usage =
            UsageRequest { snapshotter: self.config.snapshotter.clone(), key: id.to_owned() };
        match self.containerd.call(cx, usage).await {
            Ok(usage) => Ok(Some(FilesystemUsage {
                timestamp: now(),
                fs_id: Some(FilesystemIdentifier {
                    mountpoint: self.config.root.display().to_string(),
                }),
                used_bytes: some(u64::try_from(usage.size).unwrap_or(0)),
                inodes_used: some(u64::try_from(usage.inodes).unwrap_or(0)),
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn pod_sandbox_stats(
        &self,
        cx: &Cx,
        op: PodSandboxStatsRequest,
    ) -> Result<PodSandboxStatsResponse> {
        let sandbox = self.sandbox(&op.pod_sandbox_id)?;
        Ok(PodSandboxStatsResponse { stats: Some(self.measure_pod(cx, &sandbox).await?) })
    }

    pub(crate) async fn list_pod_sandbox_stats(
        &self,
        cx: &Cx,
        op: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse> {
        let filter = op.filter.unwrap_or_default();
        let mut stats = Vec::new();
        for sandbox in self.sandboxes.all() {
            let labels = &sandbox.record.config.labels;
            if sandbox.ready()
                && sandbox.id().starts_with(&filter.id)
                && selects(&filter.label_selector, labels)
            {
                stats.push(self.measure_pod(cx, &sandbox).await?);
            }
        }
        Ok(ListPodSandboxStatsResponse { stats })
    }

    /// A pod uses what its containers and its pause process do. Network counters are those of the
    /// pod's namespace and are not read.
    async fn measure_pod(&self, cx: &Cx, sandbox: &Sandbox) -> Result<PodSandboxStats> {
        let mut own = self.containers.all();
        own.retain(|c| c.record().sandbox_id == sandbox.id() && c.task.life().running());
        let ids = own.iter().map(|c| c.id().to_owned()).chain([sandbox.id().to_owned()]);
        let at = now();
        let mut sum = Usage { at, ..Usage::default() };
        for usage in self.usages(cx, ids).await?.values() {
            sum.cpu += usage.cpu;
            sum.memory += usage.memory;
            sum.inactive_file += usage.inactive_file;
            sum.rss += usage.rss;
            sum.faults += usage.faults;
            sum.major_faults += usage.major_faults;
            sum.pids += usage.pids;
        }
        let record = &sandbox.record;
        Ok(PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: record.id.clone(),
                metadata: record.config.metadata.clone(),
                labels: record.config.labels.clone(),
                annotations: record.config.annotations.clone(),
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: Some(self.cpu(&record.id, &sum)),
                memory: Some(sum.memory()),
                network: None,
                process: Some(ProcessUsage { timestamp: at, process_count: some(sum.pids) }),
                containers: self.measure(cx, &own).await?,
            }),
            windows: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_samples() {
        let samples = Samples::default();
        assert_eq!(samples.rate("a", 1_000_000_000, 0), None);
        assert_eq!(samples.rate("a", 3_000_000_000, 1_000_000_000), Some(500_000_000));
        assert_eq!(samples.rate("a", 3_000_000_000, 1_000_000_000), None);
        samples.forget("a");
        assert_eq!(samples.rate("a", 4_000_000_000, 2_000_000_000), None);
    }

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let memory = cgroup2::MemoryStat {
            usage: 100,
            inactive_file: 30,
            usage_limit: u64::MAX,
            ..Default::default()
        };
        let metrics = cgroup2::Metrics { memory: Some(memory), ..Default::default() };
        let any = Any {
            type_url: "io.containerd.cgroups.v2.Metrics".into(),
            value: metrics.encode_to_vec(),
        };
        let usage = Usage::of(&any, 1);
        assert_eq!((usage.working_set(), usage.memory_limit), (70, 0));
        let other = Any { type_url: "other".into(), value: Vec::new() };
        assert_eq!(Usage::of(&other, 1), Usage::default());
    }
}
