//! A /proc that is none: what the runtime writes there, labels first of all, goes nowhere.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::bundle::{Bundle, Said, eventually};
use serde_json::{Value, json};

fn replace_proc(b: &Bundle, target: &str) {
    let _ = fs::remove_dir(b.rootfs().join("proc"));
    let _ = fs::remove_file(b.rootfs().join("proc"));
    symlink(target, b.rootfs().join("proc")).unwrap();
}

fn volume(b: &mut Bundle, at: &str) -> PathBuf {
    let dir = b.path().join("volume");
    let _ = fs::create_dir(&dir);
    let bind = json!({"destination": at, "type": "bind", "source": dir, "options": ["rbind"]});
    b.config["mounts"].as_array_mut().unwrap().insert(0, bind);
    dir
}

/// A procfs of the attacker's with what a runtime may write to.
fn fake(dir: &Path) {
    for sub in ["self/attr/apparmor", "thread-self/attr", "sys/net/ipv4", "1"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    for file in [
        "self/attr/exec",
        "self/attr/apparmor/exec",
        "thread-self/attr/exec",
        "self/oom_score_adj",
        "sys/net/ipv4/ip_forward",
    ] {
        fs::write(dir.join(file), "").unwrap();
    }
}

fn refused(said: &Said, why: &str) {
    assert!(said.code != 0 && !said.out.contains("it ran"), "{why}: {said:?}");
}

/// As CVE-2019-16884: the image declares a volume at /proc.
#[test]
fn cve_2019_16884_a_volume_on_proc() {
    let Some(mut b) = Bundle::new("echo it ran") else { return };
    let good = b.config.clone();
    let last = |b: &mut Bundle, mount: Value| {
        b.config = good.clone();
        b.config["mounts"].as_array_mut().unwrap().push(mount);
    };
    let dir = b.path().join("fake");
    fs::create_dir(&dir).unwrap();
    fake(&dir);
    for at in
        ["/proc", "/proc/", "//proc", "/./proc", "/proc/self/attr", "/proc/sys", "/tmp/../proc"]
    {
        last(
            &mut b,
            json!({"destination": at, "type": "bind", "source": dir, "options": ["rbind"]}),
        );
        refused(&b.run(), at);
        last(&mut b, json!({"destination": at, "type": "tmpfs", "source": "tmpfs"}));
        refused(&b.run(), at);
    }
    // The same by a link in the image.
    symlink("/proc", b.rootfs().join("gift")).unwrap();
    symlink("proc/self", b.rootfs().join("inner")).unwrap();
    // A name that only begins like procfs's, or leads through it and out again, is a link as well.
    symlink("/proc", b.rootfs().join("proc1")).unwrap();
    for at in ["/gift", "/inner/attr", "/gift/sys", "/proc1", "/proc1/sys", "/proc/../gift"] {
        last(
            &mut b,
            json!({"destination": at, "type": "bind", "source": dir, "options": ["rbind"]}),
        );
        refused(&b.run(), at);
        last(&mut b, json!({"destination": at, "type": "tmpfs", "source": "tmpfs"}));
        refused(&b.run(), at);
    }
    b.assert_gone();
}

/// As CVE-2019-19921: /proc of the image is a link into a volume that two containers share, so that
/// the other one chooses where the procfs goes.
#[test]
fn cve_2019_19921_proc_is_a_link_into_a_volume() {
    let Some(mut b) = Bundle::new("echo it ran") else { return };
    let dir = volume(&mut b, "/volume");
    fs::create_dir_all(dir.join("level/proc")).unwrap();
    for target in ["/volume/level/proc", "volume/level/proc", "/volume/level/../level/proc"] {
        replace_proc(&b, target);
        refused(&b.run(), target);
    }
    b.assert_gone();
}

/// As CVE-2023-27561, which undid the defence against the one above: the link is on the way, or
/// dangles, and the same goes for /sys.
#[test]
fn cve_2023_27561_proc_is_a_link_that_dangles() {
    let Some(mut b) = Bundle::new("echo it ran") else { return };
    volume(&mut b, "/volume");
    for target in ["/volume/none", "none", "/volume/a/b/c", "proc"] {
        replace_proc(&b, target);
        refused(&b.run(), target);
    }
    fs::remove_file(b.rootfs().join("proc")).unwrap();
    fs::create_dir(b.rootfs().join("proc")).unwrap();
    fs::remove_dir(b.rootfs().join("sys")).unwrap();
    for target in ["/tmp", "/volume", "/none"] {
        let _ = fs::remove_file(b.rootfs().join("sys"));
        symlink(target, b.rootfs().join("sys")).unwrap();
        refused(&b.run(), target);
    }
    b.assert_gone();
}

/// As CVE-2023-28642: /proc is a link to a directory beside it, onto which the procfs is mounted,
/// while a volume covers what the runtime then takes for /proc.
#[test]
fn cve_2023_28642_proc_is_a_link_beside_a_volume() {
    let Some(mut b) = Bundle::new("echo it ran") else { return };
    let dir = volume(&mut b, "/proc1");
    fake(&dir);
    fs::create_dir(b.rootfs().join("proc1")).unwrap();
    for target in ["proc1", "/proc1", "./proc1", "tmp/../proc1"] {
        replace_proc(&b, target);
        refused(&b.run(), target);
    }
    b.assert_gone();
}

/// As CVE-2025-52881: something covers parts of the container's procfs when the runtime writes a
/// label or a setting, so that it is written somewhere else or not at all. Here the container
/// itself covers them, before an `exec` that writes.
#[test]
fn cve_2025_52881_writes_to_proc_go_elsewhere() {
    // It needs the right to mount; a volume whose links race would do without.
    let cover = "mkdir -p /tmp/f; echo old > /tmp/f/score; \
        for p in /proc/[0-9]*; do :; done; \
        mkdir -p /tmp/f/self; touch /tmp/f/self/oom_score_adj; mount -o bind /tmp/f /proc; \
        touch /tmp/ready; exec sleep 1000";
    let Some(mut b) = Bundle::new(cover) else { return };
    b.config["root"]["readonly"] = json!(false);
    for set in ["bounding", "effective", "permitted"] {
        b.config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    b.config["linux"]["readonlyPaths"] = json!([]);
    b.config["linux"]["maskedPaths"] = json!([]);
    assert_eq!(b.create().code, 0);
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    eventually("proc is covered", || b.rootfs().join("tmp/ready").exists());
    let process = json!({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0}, "oomScoreAdj": 321});
    fs::write(b.path().join("process.json"), process.to_string()).unwrap();
    let said = b.call(&["exec", "--process", "process.json", &b.id]);
    let written = fs::read_to_string(b.rootfs().join("tmp/f/self/oom_score_adj")).unwrap();
    assert_eq!(written, "", "it was written to the attacker's file: {said:?}");
}
