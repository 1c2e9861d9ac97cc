//! systemd as the cgroup driver, where it is the first process (`just test-v2` makes such a
//! machine, with a bus and the real runc): the unit and its properties as `systemctl` reports
//! them.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use crate::bundle::{Bundle, Said, eventually};
use serde_json::{Value, json};

const BUS: &str = "/usr/bin/dbus-daemon";
const FLAG: &[&str] = &["--systemd-cgroup"];

/// A bundle whose containers have systemd as the driver; `None`, with the reason printed, where it
/// does not run.
fn bundle(script: &str) -> Option<Bundle> {
    let mut bundle = Bundle::new(script)?;
    if !runs() || !Path::new("/usr/bin/systemctl").exists() {
        println!("SKIP: needs systemd as the first process, and systemctl");
        return None;
    }
    bundle.global = FLAG;
    Some(bundle)
}

fn runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn systemctl(args: &[&str]) -> Said {
    Said::from(Command::new("/usr/bin/systemctl").args(args).output().unwrap())
}

/// All properties of `unit`.
fn show(unit: &str) -> BTreeMap<String, String> {
    let said = systemctl(&["show", "--all", unit]);
    let pairs = said.out.lines().filter_map(|line| line.split_once('='));
    let mut map: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    pairs.for_each(|(name, value)| map.entry(name.to_owned()).or_default().push(value));
    map.into_iter().map(|(name, values)| (name, values.join("; "))).collect()
}

fn scope(b: &Bundle) -> String {
    format!("runc-{}.scope", b.id)
}

/// The directory of the unit's cgroup on v2, or of its pids cgroup on v1.
fn directory(path: &str) -> std::path::PathBuf {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    Path::new(if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" }).join(path)
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn says(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_else(|e| e.to_string()).trim().to_owned()
}

/// Whether systemd knows nothing of `unit`, and no hierarchy has a cgroup of it.
fn assert_no_unit(unit: &str) {
    eventually("the unit is not found", || show(unit)["LoadState"] == "not-found");
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", unit])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "cgroups are left");
}

fn assert_code(said: &Said, b: &Bundle) {
    assert_eq!(said.code, 0, "{said:?} {}", b.output());
}

#[test]
fn without_systemd_it_is_refused_in_runcs_words() {
    let Some(mut b) = Bundle::new("true") else { return };
    if runs() {
        println!("SKIP: systemd runs here");
        return;
    }
    b.global = FLAG;
    let said = b.run();
    let words = "runc run failed: systemd not running on this host, cannot use systemd cgroups \
                 manager";
    assert!(said.code == 1 && said.err.contains(words), "{said:?}");
    b.config["linux"]["cgroupsPath"] = json!("/one");
    let words = "expected cgroupsPath to be of format";
    assert!(b.run().err.contains(words), "{:?}", b.run());
    b.global = &[];
    b.assert_gone();
}

#[test]
fn a_container_is_a_scope_from_create_to_delete() {
    let Some(mut b) = bundle("echo up; exec sleep 1000") else { return };
    b.config["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "cpu": {"quota": 12_345, "period": 50_000, "shares": 1024, "cpus": "0-1", "mems": "0"},
        "pids": {"limit": 20},
        "devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ],
    });
    if is_v2() {
        b.config["linux"]["resources"]["unified"] = json!({"memory.high": "50331648"});
    }
    b.config["annotations"] = json!({
        "org.systemd.property.TimeoutStopSec": "7",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
    });
    assert_code(&b.create(), &b);
    let unit = scope(&b);
    let group = format!("/system.slice/{unit}");
    let dir = directory(&group[1..]);
    let properties = show(&unit);
    let memory = if is_v2() { "MemoryMax" } else { "MemoryLimit" };
    let mut expected = vec![
        ("Description", format!("libcontainer container {}", b.id)),
        ("LoadState", "loaded".into()),
        ("ActiveState", "active".into()),
        ("Transient", "yes".into()),
        ("Slice", "system.slice".into()),
        ("ControlGroup", group.clone()),
        ("Delegate", "yes".into()),
        ("DefaultDependencies", "no".into()),
        ("MemoryAccounting", "yes".into()),
        ("CPUAccounting", "yes".into()),
        ("TasksAccounting", "yes".into()),
        (memory, "67108864".into()),
        ("TasksMax", "20".into()),
        ("CPUQuotaPeriodUSec", "50ms".into()),
        // 24.69 percent, rounded up to whole ones.
        ("CPUQuotaPerSecUSec", "250ms".into()),
        ("AllowedCPUs", "0-1".into()),
        ("AllowedMemoryNodes", "0".into()),
        ("DevicePolicy", "strict".into()),
        ("TimeoutStopUSec", "7s".into()),
        ("CollectMode", "inactive-or-failed".into()),
    ];
    if is_v2() {
        expected.extend([
            ("IOAccounting", "yes".into()),
            ("MemoryLow", "33554432".into()),
            ("MemoryHigh", "50331648".into()),
            ("MemorySwapMax", "33554432".into()),
            ("CPUWeight", "39".into()),
        ]);
    } else {
        expected.extend([("BlockIOAccounting", "yes".into()), ("CPUShares", "1024".into())]);
    }
    for (name, value) in expected {
        assert_eq!(properties.get(name), Some(&value), "{name}");
    }
    let devices = &properties["DeviceAllow"];
    for device in ["/dev/char/10:229 rw", "/dev/char/1:3 rwm", "char-136 rwm", "block-* m"] {
        assert!(devices.contains(device), "{device}: {devices}");
    }
    let pid = b.state("pid").to_string();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let elsewhere = own.lines().find(|l| !l.ends_with(&group) && !l.starts_with("0::"));
    assert_eq!(elsewhere, None, "{own}");
    assert_eq!(says(&dir, "pids.max"), "20");
    if is_v2() {
        // What systemd rounds is exact in the file.
        assert_eq!(says(&dir, "cpu.max"), "12345 50000");
    }
    assert_eq!(says(&dir, "cgroup.procs"), pid);

    // From here on without the flag: the record knows who manages the cgroup.
    b.global = &[];
    assert_code(&b.call(&["start", &b.id]), &b);
    b.wait_for_output("up");
    assert_eq!(b.state("status"), "running");
    let seen = b.call(&["exec", &b.id, "cat", "/proc/self/cgroup"]);
    let elsewhere = seen.out.lines().find(|l| !l.ends_with(&group) && !l.ends_with(":/"));
    assert_eq!(elsewhere, None, "{seen:?}");
    assert_code(&b.call(&["update", "--memory", "128m", "--memory-swap", "128m", &b.id]), &b);
    assert_code(&b.call(&["update", "--pids-limit", "7", "--cpu-quota", "20000", &b.id]), &b);
    let properties = show(&unit);
    assert_eq!(properties[memory], "134217728");
    assert_eq!(properties["TasksMax"], "7");
    // The period stays what it was: 20 of 50 ms.
    assert_eq!(properties["CPUQuotaPerSecUSec"], "400ms");
    assert_eq!(says(&dir, "pids.max"), "7");
    if is_v2() {
        assert_eq!(says(&dir, "memory.max"), "134217728");
        assert_eq!(says(&dir, "cpu.max"), "20000 50000");
    }
    // What systemd writes again is what the container has.
    assert_eq!(systemctl(&["daemon-reload"]).code, 0);
    assert_eq!(says(&dir, "pids.max"), "7");
    for (command, status) in [("pause", "paused"), ("resume", "running")] {
        assert_code(&b.call(&[command, &b.id]), &b);
        assert_eq!(b.state("status"), status);
    }
    let stats: Value = serde_json::from_str(&b.call(&["events", "--stats", &b.id]).out).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], 7);
    assert_code(&b.call(&["kill", &b.id, "KILL"]), &b);
    b.wait_for("stopped");
    assert_code(&b.call(&["delete", &b.id]), &b);
    assert_no_unit(&unit);
    b.assert_gone();
}

#[test]
fn a_path_names_slice_and_unit() {
    let Some(mut b) = bundle("sleep 1000") else { return };
    b.config["linux"]["cgroupsPath"] = json!(format!("strata-a.slice:pre:{}", b.id));
    assert_code(&b.create(), &b);
    let unit = format!("pre-{}.scope", b.id);
    let group = format!("/strata.slice/strata-a.slice/{unit}");
    assert_eq!(show(&unit)["ControlGroup"], group);
    assert_eq!(says(&directory(&group[1..]), "cgroup.procs"), b.state("pid").to_string());
    assert_code(&b.call(&["delete", "--force", &b.id]), &b);
    assert_no_unit(&unit);
    let _ = systemctl(&["stop", "strata-a.slice", "strata.slice"]);
    b.assert_gone();
}

#[test]
fn a_cgroup_that_is_written_from_inside_is_its_users() {
    let script = "mkdir /sys/fs/cgroup/inner && echo $$ >/sys/fs/cgroup/inner/cgroup.procs && \
                  echo made; exec sleep 1000";
    let Some(mut b) = bundle(script) else { return };
    if !is_v2() {
        println!("SKIP: on cgroup v1 cgroups are not given away");
        return;
    }
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    b.config["linux"]["uidMappings"] = map.clone();
    b.config["linux"]["gidMappings"] = map;
    b.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    for mount in b.config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }
    }
    fs::set_permissions(b.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for path in ["rootfs", "rootfs/tmp", "rootfs/dev", "rootfs/etc"] {
        chown(b.path().join(path), Some(100_000), Some(100_000)).unwrap();
    }
    assert_code(&b.create(), &b);
    assert_code(&b.call(&["start", &b.id]), &b);
    b.wait_for_output("made");
    let dir = directory(&format!("system.slice/{}", scope(&b)));
    let owner = |name: &str| fs::metadata(dir.join(name)).unwrap().uid();
    assert_eq!((owner(""), owner("cgroup.procs"), owner("memory.max")), (100_000, 100_000, 0));
    assert_eq!(says(&dir.join("inner"), "cgroup.procs").lines().count(), 1);
    assert_code(&b.call(&["delete", "--force", &b.id]), &b);
    assert_no_unit(&scope(&b));
    b.assert_gone();
}

#[test]
fn a_name_that_is_a_slice_is_that_slice() {
    let Some(mut b) = bundle("sleep 1000") else { return };
    let unit = format!("strata-{}.slice", b.id.replace('-', "_"));
    b.config["linux"]["cgroupsPath"] = json!(format!("strata.slice::{unit}"));
    b.config["linux"]["resources"]["pids"] = json!({"limit": 9});
    assert_code(&b.create(), &b);
    let properties = show(&unit);
    assert_eq!(
        (properties["ActiveState"].as_str(), properties["TasksMax"].as_str()),
        ("active", "9")
    );
    let dir = directory(&properties["ControlGroup"][1..]);
    assert_eq!(says(&dir, "cgroup.procs"), b.state("pid").to_string());
    assert_code(&b.call(&["delete", "--force", &b.id]), &b);
    assert!(!dir.exists());
    assert_ne!(show(&unit)["ActiveState"], "active");
    let _ = systemctl(&["stop", "strata.slice"]);
    b.assert_gone();
}

#[test]
fn a_unit_of_another_is_not_touched() {
    let Some(mut first) = bundle("sleep 1000") else { return };
    let Some(mut second) = bundle("sleep 1000") else { return };
    let path = json!(format!(":same:{}", first.id));
    first.config["linux"]["cgroupsPath"] = path.clone();
    second.config["linux"]["cgroupsPath"] = path;
    assert_code(&first.create(), &first);
    let refused = second.create();
    assert!(refused.code == 1 && refused.out.contains("unable to start unit"), "{refused:?}");
    assert!(refused.out.contains("unable to apply cgroup configuration"), "{refused:?}");
    second.assert_gone();
    assert_eq!(first.state("status"), "created", "the other's container lives");
    assert_code(&first.call(&["delete", "--force", &first.id]), &first);
    assert_no_unit(&format!("same-{}.scope", first.id));
}

#[test]
fn a_container_that_cannot_be_leaves_no_unit() {
    let Some(mut b) = bundle("true") else { return };
    let good = b.config.clone();
    type Break = (&'static str, fn(&mut Value));
    let cases: [Break; 5] = [
        ("no such file", |c| c["process"]["args"] = json!(["/nowhere"])),
        ("unable to start unit", |c| {
            c["annotations"] = json!({"org.systemd.property.NoSuchThing": "true"});
        }),
        ("name incorrect: too short", |c| {
            c["annotations"] = json!({"org.systemd.property.No": "true"});
        }),
        ("cpu.cpus", |c| c["linux"]["resources"]["cpu"] = json!({"cpus": "many"})),
        ("Invalid unit name", |c| c["linux"]["cgroupsPath"] = json!(":a b:c d")),
    ];
    for (words, break_it) in cases {
        b.config = good.clone();
        break_it(&mut b.config);
        let said = b.run();
        assert!(said.code == 1 && said.err.contains(words), "{words}: {said:?}");
        assert_no_unit(&scope(&b));
        b.assert_gone();
    }
}

#[test]
fn a_scope_that_failed_is_forgotten() {
    // More memory than there is ends the program, and the scope has failed.
    let script = "exec 2>/dev/null; a=x; while :; do a=$a$a$a$a; done";
    let Some(mut b) = bundle(script) else { return };
    b.config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    b.config["process"]["oomScoreAdj"] = json!(0);
    assert_code(&b.create(), &b);
    assert_code(&b.call(&["start", &b.id]), &b);
    b.wait_for("stopped");
    assert_code(&b.call(&["delete", &b.id]), &b);
    assert_no_unit(&scope(&b));
    // The same name is free.
    b.config["process"]["args"] = json!(["true"]);
    assert_code(&b.run(), &b);
    assert_no_unit(&scope(&b));
    b.assert_gone();
}

#[test]
fn a_runtime_killed_at_any_moment_leaves_what_delete_removes() {
    let Some(mut b) = bundle("sleep 1000") else { return };
    let name = b.id.clone();
    let begun = std::time::Instant::now();
    assert_code(&b.create(), &b);
    let long = begun.elapsed();
    assert_code(&b.call(&["delete", "--force", &b.id]), &b);
    for n in 0..24 {
        b.id = format!("{name}-{n}");
        let mut victim = b.runc(&["create", &b.id]);
        victim.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut victim = victim.spawn().unwrap();
        // Over the whole time that it takes, and a little more.
        std::thread::sleep(long * (n * 7 % 24) / 20);
        let _ = victim.kill();
        victim.wait().unwrap();
        assert_code(&b.call(&["delete", "--force", &b.id]), &b);
        assert_no_unit(&scope(&b));
        b.assert_gone();
    }
}

#[test]
fn a_bus_in_between_does_as_well() {
    let Some(mut b) = bundle("sleep 1000") else { return };
    if !Path::new("/run/dbus/system_bus_socket").exists() || !Path::new(BUS).exists() {
        println!("SKIP: needs a system bus");
        return;
    }
    b.global = &[];
    let runtime = |args: &str| {
        // Nobody answers at systemd's own socket.
        let script = format!(
            "mount --bind /dev/null /run/systemd/private && exec {} --systemd-cgroup --root {}/root {args} </dev/null",
            crate::bundle::program().display(),
            b.path().display()
        );
        drop(b.runc(&["list"]));
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["-m", "sh", "-c", &script]).current_dir(b.path());
        let out = fs::File::create(b.path().join("out")).unwrap();
        command.stdout(out.try_clone().unwrap()).stderr(out).status().unwrap().code()
    };
    assert_eq!(runtime(&format!("create {}", b.id)), Some(0), "{}", b.output());
    assert_eq!(show(&scope(&b))["ActiveState"], "active");
    assert_eq!(runtime(&format!("update --pids-limit 5 {}", b.id)), Some(0), "{}", b.output());
    assert_eq!(show(&scope(&b))["TasksMax"], "5");
    assert_eq!(runtime(&format!("delete --force {}", b.id)), Some(0), "{}", b.output());
    assert_no_unit(&scope(&b));
    b.assert_gone();
}

#[test]
fn a_restored_container_is_a_scope_again() {
    let Some(b) = bundle("exec sleep 1000") else { return };
    if !Command::new("criu").arg("check").output().is_ok_and(|done| done.status.success()) {
        println!("SKIP: needs a CRIU that works here (criu check)");
        return;
    }
    let quietly = |args: &[&str]| {
        let mut command = b.runc(args);
        command.stdout(std::process::Stdio::null());
        let said = Said::from(command.stderr(std::process::Stdio::null()).output().unwrap());
        let log = fs::read_to_string(b.path().join("checkpoint/restore.log")).unwrap_or_default();
        assert_eq!(said.code, 0, "{args:?}: {log}");
    };
    let unit = scope(&b);
    quietly(&["run", "--detach", &b.id]);
    quietly(&["checkpoint", &b.id]);
    assert_no_unit(&unit);
    quietly(&["restore", "--detach", &b.id]);
    assert_eq!(show(&unit)["ActiveState"], "active");
    let group = format!("/system.slice/{unit}");
    let pid = b.state("pid");
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(own.lines().all(|line| line.ends_with(&group)), "{own}");
    assert_code(&b.call(&["delete", "--force", &b.id]), &b);
    assert_no_unit(&unit);
    b.assert_gone();
}

#[test]
fn the_unit_is_what_the_real_runc_makes() {
    const RUNC: &str = "/usr/sbin/runc";
    let Some(mut b) = bundle("sleep 1000") else { return };
    let version = Command::new(RUNC).arg("--version").output().map(|o| o.stdout);
    if !version.is_ok_and(|text| text.starts_with(b"runc version 1.1.")) {
        println!("SKIP: needs runc 1.1");
        return;
    }
    b.config["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "cpu": {"quota": 12_345, "period": 50_000, "shares": 512, "cpus": "1"},
        "pids": {"limit": 20},
        "devices": [{"allow": false, "access": "rwm"}],
    });
    b.config["annotations"] = json!({"org.systemd.property.TimeoutStopSec": "7"});
    // What runc 1.1 does not know is not what is compared.
    b.config["ociVersion"] = json!("1.0.2");
    drop(b.runc(&["list"]));
    let root = b.path().join("runc");
    let runc = |args: &[&str]| {
        let out = fs::File::create(b.path().join("out")).unwrap();
        let mut command = Command::new(RUNC);
        command.arg("--root").arg(&root).arg("--systemd-cgroup").args(args).current_dir(b.path());
        command.stdin(std::process::Stdio::null());
        let code = command.stdout(out.try_clone().unwrap()).stderr(out).status().unwrap().code();
        assert_eq!(code, Some(0), "{args:?}: {}", b.output());
    };
    runc(&["create", &b.id]);
    let unit = scope(&b);
    let (theirs, their_files) = (show(&unit), files(&unit));
    runc(&["delete", "--force", &b.id]);
    assert_no_unit(&unit);
    assert_code(&b.create(), &b);
    let (ours, our_files) = (show(&unit), files(&unit));
    let changing = |name: &str| {
        ["Timestamp", "InvocationID", "CPUUsageNSec", "MemoryCurrent", "MemoryAvailable"]
            .iter()
            .any(|part| name.contains(part))
            || ["ControlGroupId", "TasksCurrent"].contains(&name)
            // The real one sets the limits after the start, so they are files of their own.
            || ["DropInPaths", "NeedDaemonReload"].contains(&name)
            // The real one leaves devices out that have no node in /dev of the machine, and names
            // groups of devices where ours names majors.
            || name == "DeviceAllow"
    };
    let differing: Vec<_> = theirs
        .iter()
        .filter(|(name, value)| !changing(name) && ours.get(*name) != Some(value))
        .map(|(name, value)| format!("{name}: runc has {value:?}, ours {:?}", ours.get(name)))
        .collect();
    assert_eq!(differing, [""; 0]);
    assert!(theirs.len() > 100, "{theirs:?}");
    assert_eq!(our_files, their_files);
    assert_code(&b.call(&["delete", "--force", &b.id]), &b);
    assert_no_unit(&unit);
}

/// The limits in the files of the unit's cgroup.
fn files(unit: &str) -> BTreeMap<String, String> {
    let dir = directory(&format!("system.slice/{unit}"));
    let entries = fs::read_dir(&dir).unwrap().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    names
        .filter(|n| {
            ["max", "low", "high", "min", "weight", "cpus", "mems"]
                .iter()
                .any(|end| n.ends_with(end))
        })
        .map(|name| (name.clone(), says(&dir, &name)))
        .collect()
}

/// What `strata-runc --systemd-cgroup` says for the user 1000, whose systemd runs.
fn as_user(b: &Bundle, bus: Option<&str>, args: &[&str]) -> Said {
    use std::os::unix::process::CommandExt;
    let out = fs::File::create(b.path().join("out")).unwrap();
    let mut command = Command::new(crate::bundle::program());
    command.arg("--root").arg(b.path().join("user")).arg("--systemd-cgroup").args(args);
    command.uid(1000).gid(1000).current_dir(b.path()).stdin(std::process::Stdio::null());
    command.env("XDG_RUNTIME_DIR", "/run/user/1000").env_remove("DBUS_SESSION_BUS_ADDRESS");
    if let Some(bus) = bus {
        command.env("DBUS_SESSION_BUS_ADDRESS", bus);
    }
    let status = command.stdout(out.try_clone().unwrap()).stderr(out).status().unwrap();
    Said { code: status.code().unwrap_or(-1), out: b.output(), err: String::new() }
}

#[test]
fn a_users_container_is_in_the_users_systemd() {
    let Some(mut b) = bundle("sleep 1000") else { return };
    use std::os::unix::fs::chown;
    if !Path::new("/etc/systemd/system/user@.service").exists() || !Path::new(BUS).exists() {
        println!("SKIP: needs the virtual machine's user@.service and dbus-daemon");
        return;
    }
    let rootless = b.path().join("rootless");
    fs::create_dir(&rootless).unwrap();
    let said = b.call(&["spec", "--rootless", "-b", rootless.to_str().unwrap()]);
    assert_code(&said, &b);
    let spec = fs::read(rootless.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&spec).unwrap();
    config["process"] = b.config["process"].clone();
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    config["linux"]["resources"] = json!({"pids": {"limit": 20}});
    b.config = config;
    drop(b.runc(&["list"]));
    let path = b.path().to_path_buf();
    for path in [path.clone(), path.join("rootfs")] {
        chown(path, Some(1000), Some(1000)).unwrap();
    }
    if !is_v2() {
        let said = as_user(&b, None, &["create", &b.id]);
        let words = "cannot use rootless systemd cgroups manager on cgroup v1";
        assert!(said.code == 1 && said.out.contains(words), "{said:?}");
        return;
    }
    let started = systemctl(&["start", "user@1000.service"]);
    assert_eq!(started.code, 0, "{started:?} {:?}", show("user@1000.service"));
    let unit = scope(&b);
    let manager = "user.slice/user-1000.slice/user@1000.service";
    let dir = directory(&format!("{manager}/user.slice/{unit}"));
    // Without a word where its systemd is there is no way to it.
    let said = as_user(&b, Some("tcp:host=localhost"), &["create", &b.id]);
    assert!(said.code == 1 && said.out.contains("invalid dbus address"), "{said:?}");
    // By the user's bus, and by systemd's own socket where there is none.
    for bus in [None, Some("unix:path=/nowhere")] {
        assert_code(&as_user(&b, bus, &["create", &b.id]), &b);
        let state: Value = serde_json::from_str(&as_user(&b, bus, &["state", &b.id]).out).unwrap();
        assert_eq!(says(&dir, "cgroup.procs"), state["pid"].to_string());
        assert_eq!(says(&dir, "pids.max"), "20");
        assert_code(&as_user(&b, bus, &["start", &b.id]), &b);
        let seen = as_user(&b, bus, &["exec", &b.id, "cat", "/proc/self/cgroup"]);
        // With a cgroup namespace of its own it is the root; a process elsewhere would be above.
        assert_eq!(seen.out, "0::/\n", "{seen:?}");
        assert_code(&as_user(&b, bus, &["update", "--pids-limit", "9", &b.id]), &b);
        assert_eq!(says(&dir, "pids.max"), "9");
        assert_code(&as_user(&b, bus, &["delete", "--force", &b.id]), &b);
        assert!(!dir.exists(), "the cgroup is left");
    }
    let _ = systemctl(&["kill", "--signal=KILL", "user@1000.service"]);
    b.assert_gone();
}
