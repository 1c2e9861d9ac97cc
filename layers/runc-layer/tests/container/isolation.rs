//! What a container can see, do and use.

use std::fs;

use crate::bundle::Bundle;
use serde_json::json;

#[test]
fn namespaces_are_its_own() {
    let Some(b) = Bundle::new("ls -l /proc/self/ns; echo $$") else { return };
    let out = b.run().out;
    assert!(out.ends_with("\n1\n"), "{out}");
    for name in ["mnt", "pid", "uts", "ipc", "net"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(!out.contains(&*host.to_string_lossy()), "{name} is the host's");
    }
}

#[test]
fn a_namespace_is_joined_by_its_path() {
    let Some(a) = Bundle::new("sleep 1000") else { return };
    let Some(mut b) = Bundle::new("ls -l /proc/self/ns/net /proc/self/ns/pid /proc/self/ns/ipc")
    else {
        return;
    };
    assert_eq!(a.create().code, 0);
    let pid = a.state("pid");
    b.config["linux"]["namespaces"] = json!([
        {"type": "mount"}, {"type": "uts"},
        {"type": "network", "path": format!("/proc/{pid}/ns/net")},
        {"type": "ipc", "path": format!("/proc/{pid}/ns/ipc")},
        {"type": "pid", "path": format!("/proc/{pid}/ns/pid")},
    ]);
    let said = b.run();
    for name in ["net", "ipc", "pid"] {
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert!(said.out.contains(&*theirs.to_string_lossy()), "{name}: {said:?}");
    }
}

#[test]
fn limits_reach_the_cgroup() {
    let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max cpu/cpu.shares";
    let Some(mut b) = Bundle::new(script) else { return };
    if !std::path::Path::new("/sys/fs/cgroup/memory/tasks").exists() {
        println!("SKIP: needs cgroup v1 controllers");
        return;
    }
    b.config["linux"]["resources"] = json!({
        "memory": {"limit": 67_108_864}, "cpu": {"quota": 50_000, "period": 100_000, "shares": 512},
        "pids": {"limit": 20}, "devices": [{"allow": false, "access": "rwm"}],
    });
    assert_eq!(b.run().out, "67108864\n50000\n20\n512\n");
    b.config["process"]["args"] = json!(["sh", "-c", "sleep 1000"]);
    assert_eq!(b.create().code, 0);
    assert_eq!(b.call(&["update", "--memory", "128m", "--pids-limit", "7", &b.id]).code, 0);
    let said = b.call(&["exec", &b.id, "sh", "-c", script]);
    assert_eq!(said.out, "134217728\n50000\n7\n512\n", "{said:?}");
    let stats = b.call(&["events", "--stats", &b.id]).out;
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 134_217_728);
    assert_eq!(stats["data"]["pids"]["limit"], 7);
    b.config["linux"]["resources"]["unified"] = json!({"memory.max": "1"});
    b.call(&["delete", "--force", &b.id]);
    assert!(b.run().err.contains("linux.resources.unified"));
    b.assert_gone();
}

#[test]
fn devices_outside_the_list_are_refused() {
    let Some(mut b) = Bundle::new(
        "cat /dev/null && echo null; : > /dev/kmsg2 && echo kmsg; head -c 1 /dev/zero | busybox wc -c",
    ) else {
        return;
    };
    b.config["process"]["args"][2] =
        json!("cat /dev/null && echo null; cat /dev/kmsg2 && echo kmsg; echo end");
    b.config["linux"]["devices"] =
        json!([{"path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}]);
    let said = b.run();
    assert_eq!(said.out, "null\nend\n");
    assert!(said.err.contains("Operation not permitted"), "{said:?}");
}

#[test]
fn capabilities_are_what_the_configuration_says() {
    let Some(mut b) = Bundle::new("grep ^Cap /proc/self/status") else { return };
    let caps = json!(["CAP_CHOWN", "CAP_KILL"]);
    b.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    assert_eq!(
        b.run().out,
        "CapInh:\t0000000000000000\nCapPrm:\t0000000000000021\nCapEff:\t0000000000000021\nCapBnd:\t0000000000000021\nCapAmb:\t0000000000000000\n"
    );
    b.config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
    b.config["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL"]);
    b.config["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
    b.config["process"]["args"][2] =
        json!("id -u; id -G; grep -E '^Cap(Eff|Amb)' /proc/self/status");
    assert_eq!(b.run().out, "1000\n1000 7\nCapEff:\t0000000000000020\nCapAmb:\t0000000000000020\n");
}

#[test]
fn the_filter_decides() {
    let Some(mut b) = Bundle::new("mkdir /tmp/x; echo code $?; touch /tmp/y; echo code $?") else {
        return;
    };
    b.config["root"]["readonly"] = json!(false);
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    for no_new_privileges in [true, false] {
        b.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        b.config["process"]["capabilities"]["effective"] = json!([]);
        let said = b.run();
        assert_eq!(said.out, "code 1\ncode 0\n", "{said:?}");
        assert!(said.err.contains("No space left on device"), "{said:?}");
    }
}

#[test]
fn masked_and_read_only_paths_hold() {
    let Some(b) = Bundle::new(
        "cat /proc/keys; ls /sys/firmware; echo x > /proc/sys/kernel/hostname; touch /x; echo done",
    ) else {
        return;
    };
    let said = b.run();
    assert_eq!(said.out, "done\n");
    assert_eq!(said.err.matches("Read-only file system").count(), 2, "{said:?}");
}

#[test]
fn mounts_have_their_options() {
    let Some(mut b) = Bundle::new(
        "grep -E ' /(data|up|scratch) ' /proc/self/mounts; cat /data/f; touch /data/g; cat /up/seed",
    ) else {
        return;
    };
    fs::create_dir(b.path().join("data")).unwrap();
    fs::write(b.path().join("data/f"), "from the host\n").unwrap();
    fs::create_dir(b.rootfs().join("up")).unwrap();
    fs::write(b.rootfs().join("up/seed"), "copied up\n").unwrap();
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "ro", "nosuid", "noatime"]}));
    mounts.push(json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nodev"]}));
    mounts.push(json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "noexec"]}));
    let said = b.run();
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines[0].contains(" /data ") && lines[0].contains("ro,nosuid,noatime"), "{said:?}");
    assert!(lines[1].contains("tmpfs /up tmpfs rw,nodev"), "{said:?}");
    assert!(lines[2].contains("noexec") && lines[2].contains("size=64k"), "{said:?}");
    assert_eq!(lines[3..], ["from the host", "copied up"], "{said:?}");
    assert!(said.err.contains("Read-only file system"), "{said:?}");
}

#[test]
fn a_user_namespace_maps_its_ids() {
    let Some(mut b) =
        Bundle::new("id -u; cat /proc/self/uid_map; touch /tmp/mine; ls -l /dev/null")
    else {
        return;
    };
    b.config["root"]["readonly"] = json!(false);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    b.config["linux"]["uidMappings"] = map.clone();
    b.config["linux"]["gidMappings"] = map;
    b.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let top = b.path().to_path_buf();
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    fs::set_permissions(&top, fs::Permissions::from_mode(0o755)).unwrap();
    for path in ["rootfs", "rootfs/tmp", "rootfs/dev", "rootfs/etc"] {
        chown(top.join(path), Some(100_000), Some(100_000)).unwrap();
    }
    let said = b.run();
    assert!(said.out.starts_with("0\n"), "{said:?}");
    assert_eq!(fs::metadata(b.rootfs().join("tmp/mine")).unwrap().uid(), 100_000);
    b.assert_gone();
}

#[test]
fn it_works_for_the_root_of_a_user_namespace() {
    let Some(mut b) = Bundle::new("exec sleep 1000") else { return };
    if !std::path::Path::new("/usr/bin/unshare").exists() {
        println!("SKIP: needs unshare");
        return;
    }
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    // Neither the cgroups nor the group of terminals are in this namespace.
    mounts.retain(|m| m["type"] != "cgroup" && m["type"] != "devpts");
    b.config["process"]["capabilities"] = json!({});
    let inner = b.runc(&[]);
    // Like podman's, the namespace is the caller's, and the container has none of its own. The
    // records are where the user keeps such things.
    let script = "\"$0\" create t >/dev/null && \"$0\" start t && \"$0\" exec t id -u; \
        \"$0\" delete --force t && ls \"$XDG_RUNTIME_DIR/strata-runc\"";
    let said = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(inner.get_program())
        .current_dir(b.path())
        .env("XDG_RUNTIME_DIR", b.path())
        .env_remove("USER")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "0\n", "{said:?}");
}

/// Through a descriptor for the host's node the container could change that.
#[test]
fn standard_streams_that_are_null_are_the_containers_own() {
    let Some(b) = Bundle::new("exec sleep 1000") else { return };
    let mut run = b.runc(&["run", "--detach", &b.id]);
    let out = fs::File::create(b.path().join("out")).unwrap();
    assert!(run.stdout(out).stderr(std::process::Stdio::null()).status().unwrap().success());
    let proc = format!("/proc/{}", b.state("pid"));
    let mounts = fs::read_to_string(format!("{proc}/mountinfo")).unwrap();
    let dev = mounts.lines().find(|l| l.split(' ').nth(4) == Some("/dev")).unwrap();
    let id = dev.split(' ').next().unwrap();
    let mount_of = |fd: u32| {
        let info = fs::read_to_string(format!("{proc}/fdinfo/{fd}")).unwrap();
        let line = info.lines().find_map(|l| l.strip_prefix("mnt_id:")).unwrap();
        line.trim().to_owned()
    };
    assert_eq!([mount_of(0), mount_of(2)], [id, id]);
    assert_ne!(mount_of(1), id, "a file is left as it is");
}
