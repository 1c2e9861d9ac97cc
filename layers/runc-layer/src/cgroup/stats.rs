//! A cgroup's usage, in the shape of runc's `events --stats` (types/events.go).

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Cgroup, read};

impl Cgroup {
    /// The `data` of a stats event.
    pub(crate) fn stats(&self) -> Value {
        if self.version == 2 { self.stats_v2() } else { self.stats_v1() }
    }

    fn stats_v1(&self) -> Value {
        let cpuacct = self.directory("cpuacct");
        let ticks = |key: &str| {
            // cpuacct.stat counts in USER_HZ, which is 100.
            cpuacct.map_or(0, |d| keyed(d, "cpuacct.stat", key) * 10_000_000)
        };
        let cpu = self.directory("cpu");
        let throttle = |key: &str| cpu.map_or(0, |d| keyed(d, "cpu.stat", key));
        let percpu: Vec<u64> = cpuacct
            .and_then(|d| read(d, "cpuacct.usage_percpu").ok())
            .map(|t| t.split_whitespace().filter_map(|n| n.parse().ok()).collect())
            .unwrap_or_default();
        let memory = self.directory("memory");
        let counters = |prefix: &str| {
            let value =
                |name: &str| memory.map_or(0, |d| number(d, &format!("memory.{prefix}{name}")));
            json!({
                "limit": value("limit_in_bytes"),
                "usage": value("usage_in_bytes"),
                "max": value("max_usage_in_bytes"),
                "failcnt": value("failcnt"),
            })
        };
        json!({
            "cpu": {
                "usage": {
                    "total": cpuacct.map_or(0, |d| number(d, "cpuacct.usage")),
                    "percpu": percpu,
                    "kernel": ticks("system"),
                    "user": ticks("user"),
                },
                "throttling": {
                    "periods": throttle("nr_periods"),
                    "throttledPeriods": throttle("nr_throttled"),
                    "throttledTime": throttle("throttled_time"),
                },
            },
            "cpuset": cpuset(self),
            "memory": {
                "cache": memory.map_or(0, |d| keyed(d, "memory.stat", "cache")),
                "usage": counters(""),
                "swap": counters("memsw."),
                "kernel": counters("kmem."),
                "kernelTCP": counters("kmem.tcp."),
                "raw": memory.map_or(Value::Null, |d| table(d, "memory.stat")),
            },
            "pids": pids(self),
            "blkio": block_io_v1(self),
            "hugetlb": {},
            "intel_rdt": {},
            "network_interfaces": null,
        })
    }

    fn stats_v2(&self) -> Value {
        let Some(dir) = self.directory("") else { return json!({}) };
        let cpu = |key: &str| keyed(dir, "cpu.stat", key) * 1000;
        let swap = number(dir, "memory.swap.current");
        let usage = number(dir, "memory.current");
        let limit = number(dir, "memory.max");
        json!({
            "cpu": {
                "usage": {
                    "total": cpu("usage_usec"),
                    "kernel": cpu("system_usec"),
                    "user": cpu("user_usec"),
                },
                "throttling": {
                    "periods": keyed(dir, "cpu.stat", "nr_periods"),
                    "throttledPeriods": keyed(dir, "cpu.stat", "nr_throttled"),
                    "throttledTime": cpu("throttled_usec"),
                },
            },
            "cpuset": cpuset(self),
            "memory": {
                "cache": keyed(dir, "memory.stat", "file"),
                "usage": {"limit": limit, "usage": usage, "max": number(dir, "memory.peak"),
                          "failcnt": keyed(dir, "memory.events", "max")},
                "swap": {"limit": number(dir, "memory.swap.max").saturating_add(limit),
                         "usage": swap + usage, "failcnt": 0},
                "raw": table(dir, "memory.stat"),
            },
            "pids": pids(self),
            "blkio": block_io_v2(dir),
            "hugetlb": {},
            "intel_rdt": {},
            "network_interfaces": null,
        })
    }
}

/// A file with one number; `max` and what is missing are the largest and zero.
fn number(dir: &Path, file: &str) -> u64 {
    match read(dir, file).as_deref() {
        Ok("max") => u64::MAX,
        Ok(text) => text.parse().unwrap_or(0),
        Err(_) => 0,
    }
}

/// The value of `key` in a file of `key value` lines.
fn keyed(dir: &Path, file: &str, key: &str) -> u64 {
    read(dir, file)
        .ok()
        .and_then(|text| {
            text.lines()
                .filter_map(|line| line.split_once(' '))
                .find(|(k, _)| *k == key)
                .and_then(|(_, v)| v.parse().ok())
        })
        .unwrap_or(0)
}

fn table(dir: &Path, file: &str) -> Value {
    let text = read(dir, file).unwrap_or_default();
    let rows: Map<String, Value> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(k, v)| Some((k.to_owned(), json!(v.parse::<u64>().ok()?))))
        .collect();
    Value::Object(rows)
}

fn pids(cgroup: &Cgroup) -> Value {
    let Some(dir) = cgroup.directory("pids") else { return json!({}) };
    let limit = number(dir, "pids.max");
    json!({"current": number(dir, "pids.current"), "limit": if limit == u64::MAX { 0 } else { limit }})
}

/// `0-2,4` to the list of numbers.
fn ranges(text: &str) -> Vec<u16> {
    let mut numbers = Vec::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(low), Ok(high)) = (low.parse::<u16>(), high.parse::<u16>()) {
            numbers.extend(low..=high);
        }
    }
    numbers
}

fn cpuset(cgroup: &Cgroup) -> Value {
    let Some(dir) = cgroup.directory("cpuset") else { return json!({}) };
    let list = |file: &str| ranges(&read(dir, file).unwrap_or_default());
    let suffix = if cgroup.version == 2 { ".effective" } else { "" };
    json!({
        "cpus": list(&format!("cpuset.cpus{suffix}")),
        "mems": list(&format!("cpuset.mems{suffix}")),
    })
}

/// Lines of `MAJOR:MINOR Operation value`.
fn block_io_v1(cgroup: &Cgroup) -> Value {
    let Some(dir) = cgroup.directory("blkio") else { return json!({}) };
    let list = |file: &str| -> Vec<Value> {
        read(dir, file)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let (major, minor) = words.next()?.split_once(':')?;
                let (op, value) = (words.next()?, words.next()?.parse::<u64>().ok()?);
                let (major, minor) = (major.parse::<u64>().ok()?, minor.parse::<u64>().ok()?);
                Some(json!({"major": major, "minor": minor, "op": op, "value": value}))
            })
            .collect()
    };
    json!({
        "ioServiceBytesRecursive": list("blkio.throttle.io_service_bytes_recursive"),
        "ioServicedRecursive": list("blkio.throttle.io_serviced_recursive"),
    })
}

/// Lines of `MAJOR:MINOR rbytes=… wbytes=… rios=… wios=…`.
fn block_io_v2(dir: &Path) -> Value {
    let (mut bytes, mut calls) = (Vec::new(), Vec::new());
    for line in read(dir, "io.stat").unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|w| w.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse::<u64>(), minor.parse::<u64>()) else { continue };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let Ok(value) = value.parse::<u64>() else { continue };
            let (list, op) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut calls, "Read"),
                "wios" => (&mut calls, "Write"),
                _ => continue,
            };
            list.push(json!({"major": major, "minor": minor, "op": op, "value": value}));
        }
    }
    json!({"ioServiceBytesRecursive": bytes, "ioServicedRecursive": calls})
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn cpu_lists_are_expanded() {
        assert_eq!(ranges("0-2,4"), [0, 1, 2, 4]);
        assert_eq!(ranges(""), Vec::<u16>::new());
    }
}
