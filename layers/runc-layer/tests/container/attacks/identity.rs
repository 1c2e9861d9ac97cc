//! More rights than the configuration gives.

use std::{fs, os::unix::fs::chown};

use crate::bundle::Bundle;
use serde_json::json;

/// As CVE-2022-29162: capabilities that `exec` adds are inheritable, so that a program with file
/// capabilities hands them on.
#[test]
fn cve_2022_29162_exec_gives_inheritable_capabilities() {
    let Some(b) = Bundle::new("grep CapInh /proc/self/status; sleep 1000") else { return };
    assert_eq!(b.create().code, 0);
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    let script = "grep CapInh /proc/self/status";
    for more in [&[][..], &["--cap", "CAP_NET_RAW"], &["--cap", "CAP_SYS_PTRACE", "--user", "5:5"]]
    {
        let mut args = vec!["exec"];
        args.extend(more);
        args.extend([b.id.as_str(), "sh", "-c", script]);
        assert_eq!(b.call(&args).out, "CapInh:\t0000000000000000\n", "{more:?}");
    }
    b.wait_for_output("\n");
    assert_eq!(b.output(), "CapInh:\t0000000000000000\n");
}

/// As CVE-2021-43784: a text that is too long for the runtime's own message wraps its length, and
/// the rest of it is read as other settings, namespaces that are left out among them.
#[test]
fn cve_2021_43784_a_length_wraps() {
    let Some(mut b) = Bundle::new("echo it ran") else { return };
    let good = b.config.clone();
    for len in [65_535usize, 65_536, 65_537, 70_000, 131_100] {
        // A namespace's path, which the kernel would accept but for its length.
        let path = format!("{}/proc/self/ns/net", "/.".repeat(len / 2));
        b.config["linux"]["namespaces"][1] = json!({"type": "network", "path": path});
        let said = b.run();
        assert!(said.code != 0 && !said.out.contains("it ran"), "{len}: {:?}", said.out);
        b.config = good.clone();
    }
    // Maps that are longer than the message (and longer than the kernel takes).
    let namespaces = b.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    let maps: Vec<_> =
        (0..6000).map(|i| json!({"containerID": i, "hostID": 100_000 + i, "size": 1})).collect();
    b.config["linux"]["uidMappings"] = json!(maps);
    b.config["linux"]["gidMappings"] = json!(maps);
    let said = b.run();
    assert!(said.code != 0 && !said.out.contains("it ran"), "maps: {said:?}");
    b.assert_gone();
}

/// As CVE-2023-25809: in a user namespace without a cgroup namespace the cgroups that belong to
/// the container's user are writable, though the configuration says `ro`.
#[test]
fn cve_2023_25809_cgroups_are_writable_in_a_user_namespace() {
    let Some(mut b) = Bundle::new("") else { return };
    let path = format!("/{}-delegated", b.id);
    let mut delegated = Vec::new();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let dir = hierarchy.path().join(&path[1..]);
        if hierarchy.path().join("cgroup.procs").exists() && fs::create_dir(&dir).is_ok() {
            chown(&dir, Some(100_000), Some(100_000)).unwrap();
            delegated.push(dir);
        }
    }
    b.config["linux"]["cgroupsPath"] = json!(path);
    b.config["process"]["args"][2] = json!(
        "for d in $(busybox find /sys/fs/cgroup -type d); do \
         mkdir $d/taken 2>/dev/null && echo took $d; done; echo end"
    );
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    b.config["linux"]["uidMappings"] = map.clone();
    b.config["linux"]["gidMappings"] = map;
    b.config["linux"]["namespaces"] = json!([
        {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"},
        {"type": "user"},
    ]);
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(b.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for path in ["rootfs", "rootfs/tmp", "rootfs/dev", "rootfs/etc", "rootfs/sys", "rootfs/proc"] {
        chown(b.path().join(path), Some(100_000), Some(100_000)).unwrap();
    }
    // As a rootless configuration has it: all of /sys read-only, and the cgroups on top of it.
    for mount in b.config["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/sys" {
            *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        }
    }
    let said = b.run();
    for dir in &delegated {
        let _ = fs::remove_dir(dir.join("taken"));
        let _ = fs::remove_dir(dir);
    }
    assert!(said.out == "end\n", "{said:?}");
    b.assert_gone();
}
