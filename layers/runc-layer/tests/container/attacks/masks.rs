//! What hides /proc's secrets.

use std::{fs, os::unix::fs::symlink};

use crate::bundle::Bundle;
use serde_json::json;

/// As CVE-2025-31133: the container's /dev/null, with which paths are masked, is a link to a file of
/// the attacker's choice, which then lies open and writable on the masked path.
#[test]
fn cve_2025_31133_dev_null_is_a_link() {
    let Some(mut b) = Bundle::new("cat /proc/keys; echo more >> /proc/keys; echo end") else {
        return;
    };
    b.config["root"]["readonly"] = json!(false);
    // Without a file system of its own on /dev the image's /dev is what the container has.
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    b.config["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/timer_list"]);
    fs::write(b.rootfs().join("etc/secret"), "attacker's\n").unwrap();
    for target in ["/etc/secret", "../etc/secret", "/proc/sys/kernel/ostype"] {
        let null = b.rootfs().join("dev/null");
        let _ = fs::remove_file(&null);
        symlink(target, &null).unwrap();
        let said = b.run();
        assert!(
            !said.out.contains("attacker's") && !said.out.contains("Linux"),
            "{target}: {said:?}"
        );
        b.call(&["delete", "--force", &b.id]);
    }
    assert_eq!(fs::read_to_string(b.rootfs().join("etc/secret")).unwrap(), "attacker's\n");
}
