//! The terminal on /dev/console.

use std::{fs, os::unix::fs::symlink, os::unix::net::UnixListener};

use crate::bundle::Bundle;
use serde_json::json;

/// As CVE-2025-52565: the image's /dev/console is a link, so that the terminal covers another file,
/// and its owner and mode are changed, before anything is masked.
#[test]
fn cve_2025_52565_dev_console_is_a_link() {
    let Some(mut b) = Bundle::new("cat /etc/victim > /seen; cat /proc/self/mountinfo > /mounts")
    else {
        return;
    };
    b.config["root"]["readonly"] = json!(false);
    b.config["process"]["terminal"] = json!(true);
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| m["destination"] != "/dev");
    fs::write(b.rootfs().join("etc/victim"), "plain").unwrap();
    fs::create_dir_all(b.rootfs().join("dev/pts")).unwrap();
    let _listener = UnixListener::bind(b.path().join("console")).unwrap();
    for target in ["/etc/victim", "../etc/victim", "/proc/sys/kernel/core_pattern"] {
        let console = b.rootfs().join("dev/console");
        let _ = fs::remove_file(&console);
        symlink(target, &console).unwrap();
        for file in ["seen", "mounts"] {
            let _ = fs::remove_file(b.rootfs().join(file));
        }
        // The terminal waits in the socket; nobody needs to fetch it.
        let mut create = b.runc(&["create", "--console-socket", "console", &b.id]);
        create.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        if create.status().unwrap().success() {
            assert_eq!(b.call(&["start", &b.id]).code, 0);
            b.wait_for("stopped");
            let mounts = fs::read_to_string(b.rootfs().join("mounts")).unwrap();
            let covered = mounts.lines().any(|line| {
                let at = line.split(' ').nth(4).unwrap();
                at == "/etc/victim" || at == "/proc/sys/kernel/core_pattern"
            });
            assert!(!covered, "{target} is covered: {mounts}");
            assert_eq!(fs::read_to_string(b.rootfs().join("seen")).unwrap(), "plain");
        }
        b.call(&["delete", "--force", &b.id]);
    }
    b.assert_gone();
}
