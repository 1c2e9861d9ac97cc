//! What a container can see, do and use.

use std::{fs, os::unix::fs::symlink};

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
fn a_link_in_the_image_cannot_lead_a_mount_out() {
    let Some(mut b) = Bundle::new("cat /etc/resolv.conf; ls /run/target") else { return };
    let outside = tempfile::tempdir().unwrap();
    b.config["root"]["readonly"] = json!(false);
    // An absolute link, one with too many dots, and one that dangles as Debian's resolv.conf does.
    symlink(outside.path(), b.rootfs().join("escape")).unwrap();
    let up = format!("../../../../../../../..{}", outside.path().display());
    symlink(up, b.rootfs().join("climb")).unwrap();
    symlink("../run/target/resolv.conf", b.rootfs().join("etc/resolv.conf")).unwrap();
    fs::write(b.path().join("resolv"), "nameserver 192.0.2.1\n").unwrap();
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    for target in ["/escape/a", "/climb/b"] {
        mounts.push(json!({"destination": target, "type": "tmpfs", "source": "tmpfs"}));
    }
    mounts.push(json!({"destination": "/etc/resolv.conf", "type": "bind", "source": "resolv", "options": ["bind"]}));
    let said = b.run();
    assert_eq!(said.out, "nameserver 192.0.2.1\nresolv.conf\n", "{said:?}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "the mount got out");
}

#[test]
fn proc_goes_on_no_link() {
    let Some(mut b) = Bundle::new("true") else { return };
    fs::remove_dir(b.rootfs().join("proc")).unwrap();
    fs::create_dir(b.rootfs().join("fake")).unwrap();
    symlink("fake", b.rootfs().join("proc")).unwrap();
    let said = b.run();
    assert!(said.err.contains("must be mounted on ordinary directory"), "{said:?}");
    fs::remove_file(b.rootfs().join("proc")).unwrap();
    b.config["mounts"][0] = json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"});
    assert!(b.run().err.contains("is not of type proc"));
    b.assert_gone();
}

#[test]
fn a_working_directory_outside_is_refused() {
    let Some(mut b) = Bundle::new("pwd") else { return };
    // As in CVE-2024-21626: a descriptor of the runtime's as the way out.
    for fd in 3..12 {
        b.config["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
        let said = b.run();
        assert_ne!(said.code, 0, "descriptor {fd}: {said:?}");
        b.assert_gone();
    }
}

#[test]
fn the_runtimes_program_cannot_be_written() {
    // As in CVE-2019-5736: the container holds on to the runtime's file, which is to be seen as the
    // waiting init's, and writes to it once nobody executes it any more.
    let Some(mut b) = Bundle::new("exec sleep 1000") else { return };
    b.config["root"]["readonly"] = json!(false);
    let runtime = b.path().join("runtime");
    fs::copy(env!("CARGO_BIN_EXE_strata-runc"), &runtime).unwrap();
    let before = fs::read(&runtime).unwrap();
    let root = b.path().join("root");
    let _ = b.runc(&["list"]);
    let made = std::process::Command::new(&runtime)
        .arg("--root")
        .arg(&root)
        .args(["create", &b.id])
        .current_dir(b.path())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let attack = "exec 3</proc/1/exe; touch /tmp/held; \
        until busybox test -e /tmp/go; do busybox usleep 10000; done; echo x 1<>/proc/self/fd/3";
    let caps = ["--cap", "CAP_SYS_ADMIN", "--cap", "CAP_SYS_PTRACE", "--cap", "CAP_DAC_OVERRIDE"];
    let mut args = vec!["exec"];
    args.extend(caps);
    args.extend([b.id.as_str(), "sh", "-c", attack]);
    let mut command = b.runc(&args);
    let attacker = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    for _ in 0..2000 {
        if b.rootfs().join("tmp/held").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    let running = || {
        let pid = b.state("pid");
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.starts_with(b"sleep"))
    };
    while !running() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    fs::write(b.rootfs().join("tmp/go"), "").unwrap();
    let said = attacker.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(err.contains("Read-only file system"), "{err}");
    assert!(fs::read(&runtime).unwrap() == before);
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
