//! Where cgroup v2 is all there is (`just test-v2` makes such a machine): limits by its own files.

use std::{fs, path::PathBuf};

use crate::bundle::{Bundle, eventually};
use serde_json::{Value, json};

/// A bundle whose cgroup is named after it; `None`, with the reason printed, elsewhere.
fn bundle(script: &str) -> Option<Bundle> {
    let mut bundle = Bundle::new(script)?;
    let root = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !["cpu", "memory", "pids"].iter().all(|c| root.split_whitespace().any(|r| r == *c)) {
        println!("SKIP: needs cgroup v2 with the controllers cpu, memory and pids");
        return None;
    }
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id));
    Some(bundle)
}

fn directory(bundle: &Bundle) -> PathBuf {
    PathBuf::from("/sys/fs/cgroup").join(&bundle.id)
}

/// What the file of the container's cgroup says.
fn says(bundle: &Bundle, file: &str) -> String {
    fs::read_to_string(directory(bundle).join(file)).unwrap().trim().to_owned()
}

#[test]
fn limits_reach_the_files_of_the_unified_hierarchy() {
    let Some(mut b) = bundle("sleep 1000") else { return };
    b.config["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "cpu": {"quota": 50_000, "period": 100_000, "shares": 1024},
        "pids": {"limit": 20},
        "unified": {"memory.high": "50331648", "cgroup.max.depth": "3"},
    });
    assert_eq!(b.create().code, 0, "{}", b.output());
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.high", "50331648"),
        ("cpu.max", "50000 100000"),
        // 1024 of 2 to 262144 on the scale of 1 to 10000, as runc converts it.
        ("cpu.weight", "39"),
        ("pids.max", "20"),
        ("cgroup.max.depth", "3"),
    ] {
        assert_eq!(says(&b, file), value, "{file}");
    }
    if directory(&b).join("memory.swap.max").exists() {
        assert_eq!(says(&b, "memory.swap.max"), (32u64 << 20).to_string());
    }
    let args = ["update", "--memory", "128m", "--memory-swap", "128m", "--pids-limit", "7", &b.id];
    let updated = b.call(&args);
    assert_eq!(updated.code, 0, "{updated:?}");
    assert_eq!((says(&b, "memory.max"), says(&b, "pids.max")), ("134217728".into(), "7".into()));
    let stats: Value = serde_json::from_str(&b.call(&["events", "--stats", &b.id]).out).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 134_217_728);
    assert_eq!(stats["data"]["pids"]["limit"], 7);
    assert!(stats["data"]["pids"]["current"].as_u64() >= Some(1), "{stats}");
}

#[test]
fn the_freezer_stops_and_lets_go() {
    let Some(b) = bundle("while true; do echo x; sleep 0.01; done") else { return };
    assert_eq!(b.create().code, 0, "{}", b.output());
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    b.wait_for("running");
    assert_eq!(b.call(&["pause", &b.id]).code, 0);
    assert_eq!(b.state("status"), "paused");
    assert!(says(&b, "cgroup.events").contains("frozen 1"));
    let written = b.output().len();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(b.output().len(), written, "it writes while it is paused");
    assert_eq!(b.call(&["resume", &b.id]).code, 0);
    assert!(says(&b, "cgroup.events").contains("frozen 0"));
    assert_eq!(b.call(&["pause", &b.id]).code, 0);
    assert_eq!(b.call(&["delete", "--force", &b.id]).code, 0, "a paused container is deleted");
    b.assert_gone();
}

#[test]
fn cgroups_that_the_container_made_go_with_it() {
    let script = "mkdir -p /sys/fs/cgroup/a/b && echo made; exec sleep 1000";
    let Some(mut b) = bundle(script) else { return };
    for mount in b.config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }
    }
    assert_eq!(b.create().code, 0, "{}", b.output());
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    b.wait_for_output("made");
    assert!(directory(&b).join("a/b").exists(), "{}", b.output());
    assert_eq!(b.call(&["delete", "--force", &b.id]).code, 0);
    assert!(!directory(&b).exists());
    b.assert_gone();
}

#[test]
fn a_limit_that_cannot_be_is_refused_and_leaves_nothing() {
    let Some(mut b) = bundle("true") else { return };
    for (resources, words) in [
        (json!({"memory": {"limit": 64 << 20, "swap": 32 << 20}}), "memory.swap"),
        (json!({"memory": {"swap": 32 << 20}}), "memory.swap"),
        (json!({"unified": {"no.such": "1"}}), "no.such"),
        (json!({"unified": {"../pids.max": "1"}}), "unified"),
        (json!({"unified": {"pids.max": "many"}}), "pids.max"),
    ] {
        b.config["linux"]["resources"] = resources;
        let said = b.run();
        assert!(said.code == 1 && said.err.contains(words), "{words}: {said:?}");
        b.assert_gone();
        assert!(!directory(&b).exists(), "{words}");
    }
}

#[test]
fn the_device_filter_lets_through_what_the_rules_say() {
    // Nobody drives these numbers: what passes the filter finds no device, what does not is
    // refused before that.
    let script = "for d in some none; do (: </dev/$d) 2>&1; (: >/dev/$d) 2>&1; done; \
                  : </dev/null && : >/dev/null && echo null";
    let Some(mut b) = bundle(script) else { return };
    let node = |name: &str, minor: u32| json!({"path": format!("/dev/{name}"), "type": "c", "major": 200, "minor": minor, "fileMode": 0o666});
    b.config["linux"]["devices"] = json!([node("some", 7), node("none", 8)]);
    b.config["linux"]["resources"]["devices"] = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 200, "minor": 7, "access": "r"},
    ]);
    let said = b.run();
    let ends: Vec<&str> = said.out.lines().map(|l| l.rsplit(": ").next().unwrap_or(l)).collect();
    let (passed, refused) = ("No such device or address", "Operation not permitted");
    assert_eq!(ends, [passed, refused, refused, refused, "null"], "{said:?}");
    b.config["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    let said = b.run();
    assert_eq!(said.out.matches(passed).count(), 4, "a privileged container: {said:?}");
    b.assert_gone();
}

#[test]
fn every_process_is_in_the_cgroup_and_kill_all_finds_it() {
    let Some(mut b) = bundle("sleep 1000 & sleep 1000 & echo up; wait") else { return };
    // Without a pid namespace nothing ends with the first process.
    b.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    assert_eq!(b.create().code, 0, "{}", b.output());
    let cgroup = format!("0::/{}\n", b.id);
    let born = fs::read_to_string(format!("/proc/{}/cgroup", b.state("pid"))).unwrap();
    assert_eq!(born, cgroup);
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    eventually("three processes", || says(&b, "cgroup.procs").lines().count() == 3);
    let mut exec = b.runc(&["exec", "--detach", "--pid-file", "pid", &b.id, "sleep", "1000"]);
    // The process outlives the command and would keep a pipe open.
    exec.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    assert!(exec.status().unwrap().success());
    let pid = fs::read_to_string(b.path().join("pid")).unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap(), cgroup);
    assert_eq!(b.call(&["pause", &b.id]).code, 0);
    assert_eq!(b.call(&["kill", "--all", &b.id, "KILL"]).code, 0, "also of a paused container");
    b.wait_for("stopped");
    eventually("it is empty", || says(&b, "cgroup.events").contains("populated 0"));
    assert_eq!(b.call(&["delete", &b.id]).code, 0);
    b.assert_gone();
}

#[test]
fn a_block_weight_is_converted() {
    let Some(mut b) = bundle("sleep 1000") else { return };
    assert_eq!(b.create().code, 0, "{}", b.output());
    let (file, expected) = if directory(&b).join("io.bfq.weight").exists() {
        ("io.bfq.weight", "default 500")
    } else {
        // 500 of 10 to 1000 on the scale of 1 to 10000, as runc converts it.
        ("io.weight", "default 4950")
    };
    let there = directory(&b).join(file).exists();
    assert_eq!(b.call(&["delete", "--force", &b.id]).code, 0);
    if !there {
        println!("SKIP: this kernel weighs no block I/O (no io.weight)");
        return;
    }
    b.config["linux"]["resources"]["blockIO"] = json!({"weight": 500});
    assert_eq!(b.create().code, 0, "{}", b.output());
    assert_eq!(says(&b, file), expected);
}

#[test]
fn half_of_the_cpu_limit_is_updated_alone() {
    let Some(mut b) = bundle("sleep 1000") else { return };
    b.config["linux"]["resources"]["cpu"] = json!({"quota": 20_000, "period": 50_000});
    assert_eq!(b.create().code, 0, "{}", b.output());
    // As from runc 1.1 (update.go): the half that is not given stays.
    for (flag, value, expected) in [
        ("--cpu-period", "80000", "20000 80000"),
        ("--cpu-quota", "30000", "30000 80000"),
        ("--cpu-quota", "-1", "max 80000"),
    ] {
        let said = b.call(&["update", flag, value, &b.id]);
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(says(&b, "cpu.max"), expected, "{flag} {value}");
    }
}
