//! Many containers, and runtimes that are killed: nothing is left behind.
//!
//! `STRATA_ENDURANCE=10000,500,1000` runs as many containers one after another, as many at once,
//! and as many that are killed, in place of the few that a test run has time for.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use crate::bundle::{Bundle, eventually};
use serde_json::json;

/// How many one after another, at once, and killed.
fn numbers() -> (usize, usize, usize) {
    let Ok(text) = std::env::var("STRATA_ENDURANCE") else { return (100, 40, 120) };
    let numbers: Vec<usize> = text.split(',').map(|number| number.parse().unwrap()).collect();
    (numbers[0], numbers[1], numbers[2])
}

fn silent(bundle: &Bundle, args: &[&str]) -> Child {
    let mut command = bundle.runc(args);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The processes that have to do with the bundle in `dir`: their command line names it, or it is
/// where they stand.
fn processes(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy().into_owned();
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let of = |process: &Path| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&dir).then_some(line)
    };
    all.filter_map(|process| of(&process)).collect()
}

fn assert_nothing_is_left(bundle: &Bundle, ids: &[String]) {
    eventually("no process is left", || processes(bundle.path()).is_empty());
    let records = fs::read_dir(bundle.path().join("root"));
    let records: Vec<_> = records.into_iter().flatten().flatten().map(|e| e.file_name()).collect();
    assert!(records.is_empty(), "records are left: {records:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*bundle.path().to_string_lossy()), "mounts are left");
    let mut todo = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name();
                assert!(!ids.iter().any(|id| **id == *name), "{:?} is left", entry.path());
                todo.push(entry.path());
            }
        }
    }
}

#[test]
fn many_containers_one_after_another_and_at_once_leave_nothing() {
    let Some(bundle) = Bundle::new("true") else { return };
    let (sequence, crowd, _) = numbers();
    let mut ids = Vec::new();
    for n in 0..sequence {
        let id = format!("{}-one-{n}", bundle.id);
        assert!(silent(&bundle, &["run", &id]).wait().unwrap().success());
        ids.push(id);
    }
    let crowd: Vec<String> = (0..crowd).map(|n| format!("{}-crowd-{n}", bundle.id)).collect();
    let mut running: Vec<Child> = crowd.iter().map(|id| silent(&bundle, &["run", id])).collect();
    for child in &mut running {
        assert!(child.wait().unwrap().success());
    }
    ids.extend(crowd);
    assert_nothing_is_left(&bundle, &ids);
}

#[test]
fn a_runtime_killed_at_any_moment_leaves_what_delete_removes_wholly() {
    let Some(bundle) = Bundle::new("sleep 1000") else { return };
    killed(&bundle, numbers().2, &["create", "start", "delete"]);
}

#[test]
fn a_child_that_waits_for_its_maps_ends_with_its_runtime() {
    let Some(mut bundle) = Bundle::new("sleep 1000") else { return };
    use std::os::unix::fs::{PermissionsExt, chown};
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for path in ["rootfs", "rootfs/tmp", "rootfs/dev", "rootfs/etc"] {
        chown(bundle.path().join(path), Some(100_000), Some(100_000)).unwrap();
    }
    killed(&bundle, numbers().2 / 3, &["create"]);
}

/// Kills each of `verbs` at many moments.
fn killed(bundle: &Bundle, rounds: usize, verbs: &[&str]) {
    let mut ids = Vec::new();
    for n in 0..rounds {
        let id = format!("{}-killed-{n}", bundle.id);
        let verb = verbs[n % verbs.len()];
        let args: &[&str] = if verb == "delete" { &["delete", "--force"] } else { &[verb] };
        if verb != "create" {
            assert!(silent(bundle, &["create", &id]).wait().unwrap().success());
        }
        let mut victim = silent(bundle, &[args, &[&id]].concat());
        // Over the whole time that the verb takes, and a little more.
        let most = if verb == "create" { 8000 } else { 2500 };
        std::thread::sleep(Duration::from_micros((n * 7919 % most) as u64));
        let _ = victim.kill();
        victim.wait().unwrap();
        let deleted = bundle.call(&["delete", "--force", &id]);
        assert_eq!(deleted.code, 0, "{verb}: {deleted:?}");
        ids.push(id);
    }
    assert_nothing_is_left(bundle, &ids);
}
