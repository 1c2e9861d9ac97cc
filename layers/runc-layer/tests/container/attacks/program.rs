//! Writing to the runtime's own program.

use std::fs;

use crate::bundle::{self, Bundle};
use serde_json::json;

#[test]
fn cve_2019_5736_the_runtimes_program_is_written() {
    // The container holds on to the runtime's file, which is to be seen as the
    // waiting init's, and writes to it once nobody executes it any more.
    let Some(mut b) = Bundle::new("exec sleep 1000") else { return };
    b.config["root"]["readonly"] = json!(false);
    let runtime = b.path().join("runtime");
    fs::copy(bundle::program(), &runtime).unwrap();
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
