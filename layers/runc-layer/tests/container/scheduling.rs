//! Scheduler, I/O priority and CPUs of a container's processes.

use crate::bundle::{Bundle, Said};
use serde_json::{Value, json};

/// Nice value, real-time priority and policy of a process that printed /proc/self/stat: fields 19,
/// 40 and 41 of proc_pid_stat(5).
fn scheduling(said: &Said) -> [i64; 3] {
    let fields: Vec<&str> = said.out.rsplit(')').next().unwrap().split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse().ok());
    [19, 40, 41].map(|n| field(n).unwrap_or_else(|| panic!("no process's stat: {said:?}")))
}

/// A bundle whose program prints its /proc/self/stat.
fn bundle() -> Option<Bundle> {
    let mut b = Bundle::new("")?;
    b.config["process"]["args"] = json!(["cat", "/proc/self/stat"]);
    Some(b)
}

#[test]
fn the_scheduler_is_the_configurations() {
    let Some(mut b) = bundle() else { return };
    for (scheduler, expected) in [
        (json!({"policy": "SCHED_OTHER", "nice": 7}), [7, 0, 0]),
        (json!({"policy": "SCHED_BATCH", "nice": 12}), [12, 0, 3]),
        (json!({"policy": "SCHED_IDLE"}), [0, 0, 5]),
    ] {
        b.config["process"]["scheduler"] = scheduler;
        let said = b.run();
        assert_eq!(scheduling(&said), expected, "{said:?}");
    }
    b.config["process"]["args"] = json!(["sleep", "1000"]);
    b.config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 3});
    assert_eq!(b.create().code, 0, "{}", b.output());
    let said = b.call(&["exec", &b.id, "cat", "/proc/self/stat"]);
    assert_eq!(scheduling(&said), [3, 0, 3], "exec has the container's");
}

#[test]
fn a_real_time_scheduler_is_set_or_the_refusal_told() {
    let Some(mut b) = bundle() else { return };
    if std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        // A cgroup of v1 has no real time until it is given some.
        b.config["linux"]["resources"]["cpu"] =
            json!({"realtimePeriod": 1_000_000, "realtimeRuntime": 10_000});
    }
    for (scheduler, expected) in [
        (json!({"policy": "SCHED_FIFO", "priority": 3}), [0, 3, 1]),
        (
            json!({"policy": "SCHED_RR", "priority": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
            [0, 1, 2],
        ),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 20_000_000, "period": 20_000_000}),
            [0, 0, 6],
        ),
    ] {
        b.config["process"]["scheduler"] = scheduler;
        let said = b.run();
        if said.err.contains("error setting scheduler: operation not permitted") {
            println!("SKIP: {} is not allowed here", b.config["process"]["scheduler"]["policy"]);
            continue;
        }
        assert_eq!(scheduling(&said), expected, "{said:?}");
    }
    b.config["process"]["scheduler"] =
        json!({"policy": "SCHED_DEADLINE", "runtime": 30_000_000, "deadline": 20_000_000});
    let said = b.run();
    assert!(said.err.contains("error setting scheduler: invalid argument"), "{said:?}");
    b.assert_gone();
}

#[test]
fn the_io_priority_is_the_configurations() {
    let Some(mut b) = Bundle::new("") else { return };
    b.config["process"]["args"] = json!(["busybox", "ionice"]);
    for (class, priority, expected) in [
        ("IOPRIO_CLASS_BE", 3, "best-effort: prio 3\n"),
        ("IOPRIO_CLASS_RT", 6, "realtime: prio 6\n"),
        ("IOPRIO_CLASS_IDLE", 0, "idle\n"),
    ] {
        b.config["process"]["ioPriority"] = json!({"class": class, "priority": priority});
        let said = b.run();
        assert_eq!(said.out, expected, "{said:?}");
    }
}

/// The list of the machine's CPUs that this process may use, such as `0-1`.
fn own_cpus() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:\t")).unwrap().to_owned()
}

/// Whether a process that enters a cgroup loses the CPUs that it was set to.
fn forgets_affinity() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) < (Some(6), Some(2))
}

#[test]
fn execs_affinity_is_for_exec_alone() {
    let script = "grep -F Cpus_allowed_list /proc/self/status";
    let Some(mut b) = Bundle::new(&format!("{script}; exec sleep 1000")) else { return };
    let all = own_cpus();
    if !all.starts_with("0-") {
        println!("SKIP: needs the CPUs 0 and 1, there are {all}");
        return;
    }
    let line = |cpus: &str| format!("Cpus_allowed_list:\t{cpus}\n");
    b.config["process"]["execCPUAffinity"] = json!({"initial": "1", "final": "0"});
    assert_eq!(b.create().code, 0, "{}", b.output());
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    b.wait_for_output("Cpus_allowed_list");
    assert_eq!(b.output(), line(&all), "not for the container's first process");
    assert_eq!(b.call(&["exec", &b.id, "sh", "-c", script]).out, line("0"));
    let process = b.path().join("process.json");
    for (affinity, expected) in
        [(json!({"initial": "1"}), "1"), (json!({"final": "1"}), "1"), (Value::Null, "0")]
    {
        let p = json!({"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
            "execCPUAffinity": affinity});
        std::fs::write(&process, p.to_string()).unwrap();
        let said = b.call(&["exec", "--process", process.to_str().unwrap(), &b.id]);
        if forgets_affinity() && affinity["final"].is_null() && said.out == line(&all) {
            println!("SKIP: before Linux 6.2 a cpuset's CPUs take the place of initial ones");
            continue;
        }
        assert_eq!(said.out, line(expected), "{affinity}: {said:?}");
    }
    for (affinity, text) in [
        (json!({"initial": "60000"}), "error setting initial CPU affinity: invalid argument"),
        (json!({"final": "60000"}), "error setting final CPU affinity: invalid argument"),
        (json!({"final": "1-0"}), "bad CPUAffinity.Final: invalid range: 1-0"),
    ] {
        let p = json!({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "execCPUAffinity": affinity});
        std::fs::write(&process, p.to_string()).unwrap();
        let said = b.call(&["exec", "--process", process.to_str().unwrap(), &b.id]);
        assert!(said.code != 0 && said.err.contains(text), "{said:?}");
    }
}

#[test]
fn what_no_scheduler_takes_is_refused_in_runcs_words() {
    let Some(mut b) = Bundle::new("true") else { return };
    for (field, value, text) in [
        ("scheduler", json!({"nice": 1}), "scheduler policy is required"),
        ("scheduler", json!({"policy": "SCHED_X"}), "invalid scheduler policy: SCHED_X"),
        (
            "scheduler",
            json!({"policy": "SCHED_BATCH", "nice": 20}),
            "invalid scheduler.nice: 20 when scheduler.policy is SCHED_BATCH",
        ),
        (
            "scheduler",
            json!({"policy": "SCHED_OTHER", "priority": 1}),
            "scheduler.priority can only be specified for SchedFIFO or SchedRR policy",
        ),
        (
            "scheduler",
            json!({"policy": "SCHED_FIFO", "priority": 1, "deadline": 1}),
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy",
        ),
        (
            "scheduler",
            json!({"policy": "SCHED_OTHER", "flags": ["F"]}),
            "invalid scheduler flag: F",
        ),
        (
            "ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "invalid ioPriority.Priority: 8",
        ),
        ("ioPriority", json!({"class": "NONE"}), "invalid ioPriority.Class: \"NONE\""),
        ("execCPUAffinity", json!({"initial": "x"}), "bad CPUAffinity.Initial: parsing \"x\""),
    ] {
        let mut process = b.config["process"].clone();
        process[field] = value;
        let before = std::mem::replace(&mut b.config["process"], process);
        let said = b.run();
        assert!(
            said.code == 1 && said.err.contains(&text.replace('"', "\\\"")),
            "{text}: {said:?}"
        );
        b.assert_gone();
        b.config["process"] = before;
    }
}
