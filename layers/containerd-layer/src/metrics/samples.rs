//! What containerd's monitor tells of a container, under containerd's names (`metrics/cgroups`,
//! containerd 1.6). All of them are gauges to containerd, and so here.

use hops::proto::{
    Any,
    cgroups::{v1, v2},
};
use prost::{Message, Name};

/// One number of one container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// The metric, such as `container_pids_current`.
    pub(super) name: String,
    pub(super) help: String,
    /// A label of the metric's own, with its value.
    pub(super) label: Option<(&'static str, String)>,
    pub(super) value: u64,
}

fn sample(name: &str, unit: &str, help: &str, value: u64) -> Sample {
    let name = format!("container_{name}_{unit}");
    Sample {
        name: name.trim_end_matches('_').to_owned(),
        help: help.to_owned(),
        label: None,
        value,
    }
}

/// The numbers in a shim's statistics; none in those of another kind.
pub(super) fn of(stats: &Any) -> Vec<Sample> {
    let is = |name: String| stats.type_url.rsplit('/').next() == Some(name.as_str());
    let bytes = stats.value.as_slice();
    if is(v1::Metrics::full_name()) {
        v1::Metrics::decode(bytes).map(of_v1).unwrap_or_default()
    } else if is(v2::Metrics::full_name()) {
        v2::Metrics::decode(bytes).map(of_v2).unwrap_or_default()
    } else {
        Vec::new()
    }
}

fn of_v1(metrics: v1::Metrics) -> Vec<Sample> {
    let mut all = Vec::new();
    if let Some(pids) = metrics.pids {
        all.push(sample("pids_current", "", "The current number of pids", pids.current));
        all.push(sample("pids_limit", "", "The limit to the number of pids allowed", pids.limit));
    }
    if let Some(cpu) = metrics.cpu {
        all.extend(cpu_v1(cpu));
    }
    if let Some(memory) = metrics.memory {
        all.extend(memory_v1(memory));
    }
    // containerd counts from the first one.
    if let Some(oom) = metrics.memory_oom_control.filter(|oom| oom.oom_kill > 0) {
        let help = "The number of times a container has received an oom event";
        all.push(sample("memory_oom", "total", help, oom.oom_kill));
    }
    all
}

fn cpu_v1(cpu: v1::CpuStat) -> Vec<Sample> {
    let mut all = Vec::new();
    if let Some(usage) = cpu.usage {
        all.extend([
            sample("cpu_total", "nanoseconds", "The total cpu time", usage.total),
            sample("cpu_kernel", "nanoseconds", "The total kernel cpu time", usage.kernel),
            sample("cpu_user", "nanoseconds", "The total user cpu time", usage.user),
        ]);
        all.extend(usage.per_cpu.into_iter().enumerate().map(|(cpu, time)| Sample {
            label: Some(("cpu", cpu.to_string())),
            ..sample("per_cpu", "nanoseconds", "The total cpu time per cpu", time)
        }));
    }
    if let Some(t) = cpu.throttling {
        let help = "The total cpu throttle";
        all.extend([
            sample("cpu_throttle_periods", "total", &format!("{help} periods"), t.periods),
            sample(
                "cpu_throttled_periods",
                "total",
                &format!("{help}d periods"),
                t.throttled_periods,
            ),
            sample("cpu_throttled_time", "nanoseconds", &format!("{help}d time"), t.throttled_time),
        ]);
    }
    all
}

fn memory_v1(m: v1::MemoryStat) -> Vec<Sample> {
    let mut all: Vec<Sample> = [
        ("cache", m.cache),
        ("rss", m.rss),
        ("rss_huge", m.rss_huge),
        ("mapped_file", m.mapped_file),
        ("dirty", m.dirty),
        ("writeback", m.writeback),
        ("pgpgin", m.pg_pg_in),
        ("pgpgout", m.pg_pg_out),
        ("pgfault", m.pg_fault),
        ("pgmajfault", m.pg_maj_fault),
        ("inactive_anon", m.inactive_anon),
        ("active_anon", m.active_anon),
        ("inactive_file", m.inactive_file),
        ("active_file", m.active_file),
        ("unevictable", m.unevictable),
        ("hierarchical_memory_limit", m.hierarchical_memory_limit),
        ("hierarchical_memsw_limit", m.hierarchical_swap_limit),
        ("total_cache", m.total_cache),
        ("total_rss", m.total_rss),
        ("total_rss_huge", m.total_rss_huge),
        ("total_mapped_file", m.total_mapped_file),
        ("total_dirty", m.total_dirty),
        ("total_writeback", m.total_writeback),
        ("total_pgpgin", m.total_pg_pg_in),
        ("total_pgpgout", m.total_pg_pg_out),
        ("total_pgfault", m.total_pg_fault),
        ("total_pgmajfault", m.total_pg_maj_fault),
        ("total_inactive_anon", m.total_inactive_anon),
        ("total_active_anon", m.total_active_anon),
        ("total_inactive_file", m.total_inactive_file),
        ("total_active_file", m.total_active_file),
        ("total_unevictable", m.total_unevictable),
    ]
    .into_iter()
    .map(|(name, value)| {
        sample(&format!("memory_{name}"), "bytes", &format!("The {name} amount"), value)
    })
    .collect();
    for (name, entry) in
        [("usage", m.usage), ("swap", m.swap), ("kernel", m.kernel), ("kerneltcp", m.kernel_tcp)]
    {
        let Some(entry) = entry else { continue };
        for (what, unit, value) in [
            ("failcnt", "total", entry.failcnt),
            ("limit", "bytes", entry.limit),
            ("max", "bytes", entry.max),
            ("usage", "bytes", entry.usage),
        ] {
            let help = format!("The {name} {what}");
            all.push(sample(&format!("memory_{name}_{what}"), unit, &help, value));
        }
    }
    all
}

fn of_v2(metrics: v2::Metrics) -> Vec<Sample> {
    let mut all = Vec::new();
    if let Some(pids) = metrics.pids {
        all.push(sample("pids_current", "", "Current number of pids", pids.current));
        all.push(sample("pids_limit", "", "The limit to the number of pids", pids.limit));
    }
    if let Some(cpu) = metrics.cpu {
        all.extend([
            sample("cpu_usage_usec", "microseconds", "Total cpu usage", cpu.usage_usec),
            sample(
                "cpu_user_usec",
                "microseconds",
                "Current cpu usage in user space",
                cpu.user_usec,
            ),
            sample(
                "cpu_system_usec",
                "microseconds",
                "Current cpu usage in kernel space",
                cpu.system_usec,
            ),
            sample("cpu_nr_periods", "total", "Current cpu number of periods", cpu.nr_periods),
            sample(
                "cpu_nr_throttled",
                "total",
                "Total number of throttled periods",
                cpu.nr_throttled,
            ),
            sample(
                "cpu_throttled_usec",
                "microseconds",
                "Current throttled cpu usage",
                cpu.throttled_usec,
            ),
        ]);
    }
    if let Some(m) = metrics.memory {
        all.extend([
            sample("memory_usage", "bytes", "Current memory usage", m.usage),
            sample("memory_usage_limit", "bytes", "Current memory usage limit", m.usage_limit),
            sample("memory_swap_usage", "bytes", "Current swap usage", m.swap_usage),
            sample("memory_swap_limit", "bytes", "Current swap usage limit", m.swap_limit),
            sample("memory_anon", "bytes", "The anon amount", m.anon),
            sample("memory_file", "bytes", "The file amount", m.file),
            sample("memory_pgfault", "bytes", "The pgfault amount", m.pgfault),
            sample("memory_pgmajfault", "bytes", "The pgmajfault amount", m.pgmajfault),
        ]);
    }
    all
}
