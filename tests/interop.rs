//! Every hop, crossed by a real peer: docker on strata-dockerd, ctr on strata-containerd, containerd
//! on Strata's shim and runtime. Who else runs strata-runc is in `runtime.rs`.
//!
//! Each test starts its daemons in a directory of its own and ends them; it says SKIP where root
//! or the peer is missing.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod machine;
mod rig;

use machine::no_program;
use rig::{IMAGE, Rig, need};

#[test]
fn the_docker_cli_drives_strata_dockerd() {
    need!("docker", "busybox");
    let mut rig = Rig::new("docker");
    rig.strata_containerd();
    let docker = rig.strata_dockerd();
    let archive = rig.archive();
    docker.ok(&["load", "-i", archive.to_str().unwrap()]);
    assert!(docker.ok(&["images"]).contains("strata-test"));
    let run =
        ["run", "--rm", "--network", "none", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7"];
    let out = docker.run(&run);
    assert_eq!((out.code, out.stdout.as_str(), out.stderr.as_str()), (7, "out\n", "err\n"));

    let id = docker.ok(&[
        "run",
        "-d",
        "--name",
        "c1",
        "--network",
        "none",
        IMAGE,
        "sh",
        "-c",
        "echo hello; sleep 1000",
    ]);
    assert_eq!(id.trim().len(), 64);
    let ps = docker.ok(&["ps"]);
    assert!(ps.contains("c1") && ps.contains("Up "), "{ps}");
    rig::eventually(|| docker.ok(&["logs", "c1"]) == "hello\n");
    assert_eq!(docker.run(&["exec", "c1", "sh", "-c", "echo in; exit 3"]).code, 3);
    let refused = docker.run(&["rm", "c1"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("running container"),
        "{}",
        refused.stderr
    );
    docker.ok(&["rm", "-f", "c1"]);
    assert!(!docker.ok(&["ps", "-a"]).contains("c1"));
    let missing = docker.run(&["run", "--rm", "--pull", "never", "strata-test/none:1"]);
    assert_eq!(missing.code, 125);
    let nothing = docker.run(&["run", "--rm", "--network", "none", IMAGE, "no-such-program"]);
    assert_eq!(nothing.code, 127, "{}", nothing.stderr);
    rig.end();
}

#[test]
fn ctr_drives_strata_containerd() {
    need!("ctr", "busybox");
    let mut rig = Rig::new("ctr");
    let ctr = rig.strata_containerd();
    let archive = rig.archive();
    ctr.ok(&["images", "import", archive.to_str().unwrap()]);
    let image = rig::CTR_IMAGE;
    assert!(ctr.ok(&["images", "ls"]).contains(image));
    let run = [
        "run",
        "--rm",
        "--runtime",
        "io.containerd.strata.v2",
        image,
        "t1",
        "sh",
        "-c",
        "echo out; exit 5",
    ];
    let out = ctr.run(&run);
    assert_eq!((out.code, out.stdout.as_str()), (5, "out\n"), "{}", out.stderr);
    ctr.ok(&["run", "-d", "--runtime", "io.containerd.strata.v2", image, "t2", "sleep", "1000"]);
    assert!(ctr.ok(&["tasks", "ls"]).contains("RUNNING"));
    assert_eq!(ctr.ok(&["tasks", "exec", "--exec-id", "e1", "t2", "echo", "in"]), "in\n");
    ctr.ok(&["tasks", "kill", "-s", "KILL", "t2"]);
    rig::eventually(|| ctr.ok(&["tasks", "ls"]).contains("STOPPED"));
    ctr.ok(&["tasks", "rm", "t2"]);
    ctr.ok(&["containers", "rm", "t2"]);
    rig.end();
}

#[test]
fn a_real_containerd_drives_stratas_shim_and_runtime() {
    need!("containerd", "ctr", "busybox");
    let mut rig = Rig::new("containerd");
    let ctr = rig.real_containerd();
    let archive = rig.archive();
    ctr.ok(&["images", "import", archive.to_str().unwrap()]);
    let image = rig::CTR_IMAGE;
    let shim = [
        "run",
        "--rm",
        "--runtime",
        "io.containerd.strata.v2",
        image,
        "t1",
        "sh",
        "-c",
        "echo out; exit 5",
    ];
    let out = ctr.run(&shim);
    assert_eq!((out.code, out.stdout.as_str()), (5, "out\n"), "{}", out.stderr);
    if no_program("containerd-shim-runc-v2").is_none() {
        let runtime = rig.program("strata-runc");
        let runc = [
            "run",
            "--rm",
            "--runc-binary",
            runtime.to_str().unwrap(),
            image,
            "t2",
            "sh",
            "-c",
            "echo out; exit 6",
        ];
        let out = ctr.run(&runc);
        assert_eq!((out.code, out.stdout.as_str()), (6, "out\n"), "{}", out.stderr);
    }
    rig.end();
}
