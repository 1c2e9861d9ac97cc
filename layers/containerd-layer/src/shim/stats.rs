//! A container's usage, read from its cgroups' files and told as containerd's own cgroups library
//! tells it. What a file does not say is zero, and what has no file is absent.

use std::{fs, path::Path};

use hops::proto::{
    Any,
    cgroups::{v1, v2},
};
use prost::{Message, Name};

use super::cgroup::Cgroup;

/// The usage: `io.containerd.cgroups.v1.Metrics`, or `v2`'s on a machine that has only v2.
pub(super) fn read(cgroup: &Cgroup) -> Any {
    match cgroup.v2() {
        Some(dir) => any(&unified(&dir)),
        None => any(&controllers(cgroup)),
    }
}

fn any<M: Message + Name>(metrics: &M) -> Any {
    Any { type_url: M::full_name(), value: metrics.encode_to_vec() }
}

/// The number of the line `name NUMBER`; 0 without one.
pub(super) fn field(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name).map_or(0, |(_, value)| number(value))
}

/// `max` is no limit at all.
fn number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    }
}

fn text(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn value(dir: &Path, file: &str) -> u64 {
    number(&text(dir, file))
}

fn controllers(cgroup: &Cgroup) -> v1::Metrics {
    let dir = |name: &str| cgroup.v1(name).filter(|dir| dir.exists());
    v1::Metrics {
        pids: dir("pids").map(|dir| v1::PidsStat {
            current: value(&dir, "pids.current"),
            limit: match value(&dir, "pids.max") {
                u64::MAX => 0,
                limit => limit,
            },
        }),
        cpu: dir("cpuacct").map(|acct| cpu_v1(&acct, dir("cpu").as_deref())),
        memory: dir("memory").map(|dir| memory_v1(&dir)),
        memory_oom_control: dir("memory").map(|dir| {
            let text = text(&dir, "memory.oom_control");
            v1::MemoryOomControl {
                oom_kill_disable: field(&text, "oom_kill_disable"),
                under_oom: field(&text, "under_oom"),
                oom_kill: field(&text, "oom_kill"),
            }
        }),
        blkio: dir("blkio").map(|dir| blkio(&dir)),
        ..Default::default()
    }
}

fn cpu_v1(acct: &Path, cpu: Option<&Path>) -> v1::CpuStat {
    /// `USER_HZ`, which Linux has fixed at 100 on every architecture that containers run on.
    const TICK_NS: u64 = 1_000_000_000 / 100;
    let stat = text(acct, "cpuacct.stat");
    v1::CpuStat {
        usage: Some(v1::CpuUsage {
            total: value(acct, "cpuacct.usage"),
            kernel: field(&stat, "system") * TICK_NS,
            user: field(&stat, "user") * TICK_NS,
            per_cpu: text(acct, "cpuacct.usage_percpu").split_whitespace().map(number).collect(),
        }),
        throttling: cpu.map(|dir| {
            let stat = text(dir, "cpu.stat");
            v1::Throttle {
                periods: field(&stat, "nr_periods"),
                throttled_periods: field(&stat, "nr_throttled"),
                throttled_time: field(&stat, "throttled_time"),
            }
        }),
    }
}

fn memory_v1(dir: &Path) -> v1::MemoryStat {
    let stat = text(dir, "memory.stat");
    let of = |name: &str| field(&stat, name);
    let entry = |prefix: &str| {
        let file = |what: &str| dir.join(format!("{prefix}.{what}"));
        let read = |what: &str| fs::read_to_string(file(what)).map_or(0, |text| number(&text));
        file("usage_in_bytes").exists().then(|| v1::MemoryEntry {
            limit: read("limit_in_bytes"),
            usage: read("usage_in_bytes"),
            max: read("max_usage_in_bytes"),
            failcnt: read("failcnt"),
        })
    };
    v1::MemoryStat {
        cache: of("cache"),
        rss: of("rss"),
        rss_huge: of("rss_huge"),
        mapped_file: of("mapped_file"),
        dirty: of("dirty"),
        writeback: of("writeback"),
        pg_pg_in: of("pgpgin"),
        pg_pg_out: of("pgpgout"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: of("hierarchical_memory_limit"),
        hierarchical_swap_limit: of("hierarchical_memsw_limit"),
        total_cache: of("total_cache"),
        total_rss: of("total_rss"),
        total_rss_huge: of("total_rss_huge"),
        total_mapped_file: of("total_mapped_file"),
        total_dirty: of("total_dirty"),
        total_writeback: of("total_writeback"),
        total_pg_pg_in: of("total_pgpgin"),
        total_pg_pg_out: of("total_pgpgout"),
        total_pg_fault: of("total_pgfault"),
        total_pg_maj_fault: of("total_pgmajfault"),
        total_inactive_anon: of("total_inactive_anon"),
        total_active_anon: of("total_active_anon"),
        total_inactive_file: of("total_inactive_file"),
        total_active_file: of("total_active_file"),
        total_unevictable: of("total_unevictable"),
        usage: entry("memory"),
        swap: entry("memory.memsw"),
        kernel: entry("memory.kmem"),
        kernel_tcp: entry("memory.kmem.tcp"),
    }
}

fn blkio(dir: &Path) -> v1::BlkIoStat {
    // CFQ's files were removed from Linux 5.0; throttling's are what is left.
    v1::BlkIoStat {
        io_service_bytes_recursive: blkio_entries(dir, "blkio.throttle.io_service_bytes_recursive"),
        io_serviced_recursive: blkio_entries(dir, "blkio.throttle.io_serviced_recursive"),
        ..Default::default()
    }
}

/// The lines `MAJOR:MINOR OPERATION NUMBER`.
fn blkio_entries(dir: &Path, file: &str) -> Vec<v1::BlkIoEntry> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        Some(v1::BlkIoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: words.next()?.to_owned(),
            value: words.next()?.parse().ok()?,
            device: String::new(),
        })
    };
    text(dir, file).lines().filter_map(line).collect()
}

fn unified(dir: &Path) -> v2::Metrics {
    let (cpu, events) = (text(dir, "cpu.stat"), text(dir, "memory.events"));
    v2::Metrics {
        pids: dir.join("pids.current").exists().then(|| v2::PidsStat {
            current: value(dir, "pids.current"),
            limit: value(dir, "pids.max"),
        }),
        cpu: Some(v2::CpuStat {
            usage_usec: field(&cpu, "usage_usec"),
            user_usec: field(&cpu, "user_usec"),
            system_usec: field(&cpu, "system_usec"),
            nr_periods: field(&cpu, "nr_periods"),
            nr_throttled: field(&cpu, "nr_throttled"),
            throttled_usec: field(&cpu, "throttled_usec"),
            nr_bursts: field(&cpu, "nr_bursts"),
            burst_usec: field(&cpu, "burst_usec"),
            psi: pressure(dir, "cpu.pressure"),
        }),
        memory: dir.join("memory.current").exists().then(|| memory_v2(dir)),
        memory_events: (!events.is_empty()).then(|| v2::MemoryEvents {
            low: field(&events, "low"),
            high: field(&events, "high"),
            max: field(&events, "max"),
            oom: field(&events, "oom"),
            oom_kill: field(&events, "oom_kill"),
            oom_group_kill: field(&events, "oom_group_kill"),
        }),
        io: Some(v2::IoStat {
            usage: text(dir, "io.stat").lines().filter_map(io_entry).collect(),
            psi: pressure(dir, "io.pressure"),
        }),
        ..Default::default()
    }
}

fn memory_v2(dir: &Path) -> v2::MemoryStat {
    let stat = text(dir, "memory.stat");
    let of = |name: &str| field(&stat, name);
    v2::MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        anon_thp: of("anon_thp"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        slab_reclaimable: of("slab_reclaimable"),
        slab_unreclaimable: of("slab_unreclaimable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        workingset_refault: of("workingset_refault_anon") + of("workingset_refault_file"),
        workingset_activate: of("workingset_activate_anon") + of("workingset_activate_file"),
        workingset_nodereclaim: of("workingset_nodereclaim"),
        pgrefill: of("pgrefill"),
        pgscan: of("pgscan"),
        pgsteal: of("pgsteal"),
        pgactivate: of("pgactivate"),
        pgdeactivate: of("pgdeactivate"),
        pglazyfree: of("pglazyfree"),
        pglazyfreed: of("pglazyfreed"),
        thp_fault_alloc: of("thp_fault_alloc"),
        thp_collapse_alloc: of("thp_collapse_alloc"),
        usage: value(dir, "memory.current"),
        usage_limit: value(dir, "memory.max"),
        max_usage: value(dir, "memory.peak"),
        swap_usage: value(dir, "memory.swap.current"),
        swap_limit: value(dir, "memory.swap.max"),
        swap_max_usage: value(dir, "memory.swap.peak"),
        psi: pressure(dir, "memory.pressure"),
    }
}

/// The line `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N …`.
fn io_entry(line: &str) -> Option<v2::IoEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut entry = v2::IoEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..Default::default()
    };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        match key {
            "rbytes" => entry.rbytes = number(value),
            "wbytes" => entry.wbytes = number(value),
            "rios" => entry.rios = number(value),
            "wios" => entry.wios = number(value),
            _ => {}
        }
    }
    Some(entry)
}

/// The lines `some|full avg10=N avg60=N avg300=N total=N`.
fn pressure(dir: &Path, file: &str) -> Option<v2::PsiStats> {
    let text = text(dir, file);
    let data = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let of = |key: &str| {
            line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        let average = |key: &str| of(key).and_then(|v| v.parse().ok()).unwrap_or(0.0);
        Some(v2::PsiData {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: of("total").map_or(0, number),
        })
    };
    (!text.is_empty()).then(|| v2::PsiStats { some: data("some"), full: data("full") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v2_cgroups_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 12\nuser_usec 7\nsystem_usec 5\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            (
                "memory.stat",
                "anon 100\nfile 200\nworkingset_refault_anon 1\nworkingset_refault_file 2\n",
            ),
            ("memory.events", "low 0\noom 1\noom_kill 3\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5\n"),
            ("cpu.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n"),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let metrics = unified(dir.path());
        let (cpu, memory) = (metrics.cpu.unwrap(), metrics.memory.unwrap());
        assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec), (12, 7, 5));
        assert_eq!(cpu.psi.unwrap().some.unwrap().avg10, 1.5);
        assert_eq!((memory.usage, memory.usage_limit, memory.anon), (4096, u64::MAX, 100));
        assert_eq!(memory.workingset_refault, 3);
        assert_eq!(metrics.memory_events.unwrap().oom_kill, 3);
        assert_eq!(metrics.io.unwrap().usage[0].wios, 4);
        assert_eq!(metrics.pids, None);
    }

    #[test]
    fn ones_own_usage_is_more_than_nothing() {
        let Ok(cgroup) = Cgroup::of(std::process::id()) else { panic!("no cgroup of our own") };
        let any = read(&cgroup);
        let total = match any.type_url.as_str() {
            "io.containerd.cgroups.v1.Metrics" => {
                let metrics = v1::Metrics::decode(&*any.value).unwrap();
                metrics.cpu.and_then(|cpu| Some(cpu.usage?.total))
            }
            "io.containerd.cgroups.v2.Metrics" => {
                v2::Metrics::decode(&*any.value).unwrap().cpu.map(|cpu| cpu.usage_usec)
            }
            other => panic!("{other}"),
        };
        match total {
            Some(total) => assert!(total > 0),
            None => eprintln!("SKIP: no cpu accounting here"),
        }
    }
}
