//! Mounts that links in the image, or ones that change at the right moment, lead out.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::bundle::Bundle;
use serde_json::json;

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

/// Exchanges the directory `a` and the link `b`, over and over, until it is told to stop.
fn exchange(a: &Path, b: &Path, stop: &AtomicBool) {
    let aside = a.with_file_name("aside");
    while !stop.load(Ordering::Relaxed) {
        let _ = fs::rename(a, &aside);
        if fs::rename(b, a).is_err() {
            // The runtime made a directory of that name in between.
            let _ = fs::remove_dir_all(a);
            let _ = fs::rename(b, a);
        }
        std::thread::yield_now();
        let _ = fs::rename(a, b);
        if fs::rename(&aside, a).is_err() {
            let _ = fs::remove_dir_all(&aside);
        }
        std::thread::yield_now();
    }
}

/// Runs containers with mounts below `/volume/a`, which is a directory and a link to the outside by
/// turns. The answer is what came to be outside.
fn race(rounds: usize, mounts: &[serde_json::Value]) -> Option<Vec<String>> {
    let mut b = Bundle::new("true")?;
    let outside = tempfile::tempdir().unwrap();
    let volume = b.path().join("volume");
    fs::create_dir_all(volume.join("a")).unwrap();
    // The link leads to the outside from the host and, with the same text, to nowhere inside.
    symlink(outside.path(), volume.join("b")).unwrap();
    fs::write(b.path().join("file"), "").unwrap();
    let list = b.config["mounts"].as_array_mut().unwrap();
    list.push(
        json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"]}),
    );
    list.extend(mounts.iter().cloned());
    b.config["root"]["readonly"] = json!(false);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(&volume.join("a"), &volume.join("b"), &stop));
        for _ in 0..rounds {
            // Whether it starts is a matter of luck.
            b.run();
            b.call(&["delete", "--force", &b.id]);
            if fs::read_dir(outside.path()).unwrap().count() > 0 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let found = fs::read_dir(outside.path()).unwrap().flatten();
    Some(found.map(|e| e.file_name().to_string_lossy().into_owned()).collect())
}

/// As CVE-2021-30465: a volume that two containers share has a directory exchanged for a link
/// between the look at a mount's target and the mount.
#[test]
fn cve_2021_30465_a_mount_target_becomes_a_link() {
    let mounts: Vec<_> = ["x", "y", "z"]
        .iter()
        .map(|name| {
            let at = format!("/volume/a/{name}");
            json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]})
        })
        .collect();
    let Some(outside) = race(60, &mounts) else { return };
    assert_eq!(outside, Vec::<String>::new(), "a mount's target was made outside");
}

/// As CVE-2024-45310: with the same exchange, the directories and files that are made for bind
/// mounts to go on are made on the host.
#[test]
fn cve_2024_45310_a_mount_point_is_made_outside() {
    let mut mounts = Vec::new();
    for name in ["d", "e", "f"] {
        let at = format!("/volume/a/{name}/deep/er");
        mounts.push(
            json!({"destination": at, "type": "bind", "source": "file", "options": ["bind"]}),
        );
    }
    let Some(outside) = race(60, &mounts) else { return };
    assert_eq!(outside, Vec::<String>::new(), "directories were made outside");
}
