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
    // Copied by another process: a child that is just being made elsewhere could keep it open for
    // writing, and so from being executed.
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg(bundle::program()).arg(&runtime).status().unwrap().success());
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
    bundle::eventually("it holds the file", || b.rootfs().join("tmp/held").exists());
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    let running = || {
        let pid = b.state("pid");
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.starts_with(b"sleep"))
    };
    bundle::eventually("it runs", running);
    fs::write(b.rootfs().join("tmp/go"), "").unwrap();
    let said = attacker.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(err.contains("Read-only file system"), "{err}");
    assert!(fs::read(&runtime).unwrap() == before);
}
