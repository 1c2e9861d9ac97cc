//! strata-runc under those who execute a runtime: Docker, podman, containerd's CRI plugin.
//!
//! Each test says SKIP where root or the peer is missing.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod machine;
mod rig;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use machine::{Watch, skip};
use rig::{Client, IMAGE, Rig, eventually, need};

/// The value of a cgroup file on v1 or on v2, as the container sees it.
const LIMITS: &str = "cd /sys/fs/cgroup
cat memory/memory.limit_in_bytes memory.max 2>/dev/null
cat pids/pids.max pids.max 2>/dev/null
cat cpu/cpu.cfs_quota_us 2>/dev/null || { read quota period <cpu.max; echo $quota; }";

#[test]
fn docker_runs_with_its_options() {
    need!("docker", "dockerd", "containerd", "busybox");
    let mut rig = Rig::new("docker-options");
    rig.real_containerd();
    let docker = rig.real_dockerd();
    docker.ok(&["load", "-i", rig.archive().to_str().unwrap()]);
    let base = ["run", "--rm", "--runtime", "strata", "--network", "none"];
    let run = |options: &[&str], command: &[&str]| {
        docker.run(&[&base[..], options, &[IMAGE], command].concat())
    };
    let limits = ["--memory", "64m", "--pids-limit", "50", "--cpus", "0.5"];
    let said = run(&limits, &["sh", "-c", LIMITS]);
    assert_eq!(said.stdout, "67108864\n50\n50000\n", "{}", said.stderr);

    let said = run(&["-t", "--hostname", "box"], &["sh", "-c", "test -t 1 && hostname"]);
    assert_eq!(said.stdout, "box\r\n", "{}", said.stderr);

    let script = "id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; touch /x";
    let hardened = [
        "--user",
        "1000:1000",
        "--cap-drop",
        "ALL",
        "--read-only",
        "--security-opt",
        "no-new-privileges",
    ];
    let said = run(&hardened, &["sh", "-c", script]);
    let expected = "1000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
    assert_eq!((said.code, said.stdout.as_str()), (1, expected), "{}", said.stderr);
    assert!(said.stderr.contains("Read-only file system"), "{}", said.stderr);
    let open = ["--security-opt", "seccomp=unconfined"];
    let said = run(&open, &["grep", "Seccomp:", "/proc/self/status"]);
    assert_eq!(said.stdout, "Seccomp:\t0\n", "{}", said.stderr);

    let said = run(&[], &["no-such-program"]);
    assert_eq!(said.code, 127, "{}", said.stderr);
    assert!(said.stderr.contains("executable file not found in $PATH"), "{}", said.stderr);
    let said = run(&[], &["/etc"]);
    assert_eq!(said.code, 126, "{}", said.stderr);
    rig.end();
}

#[test]
fn docker_drives_a_running_container() {
    need!("docker", "dockerd", "containerd", "busybox");
    let mut rig = Rig::new("docker-running");
    rig.real_containerd();
    let docker = rig.real_dockerd();
    docker.ok(&["load", "-i", rig.archive().to_str().unwrap()]);
    let args = ["run", "-d", "--name", "c1", "--runtime", "strata", "--network", "none"];
    docker.ok(&[&args[..], &["--memory", "64m", IMAGE, "sleep", "1000"]].concat());
    let exec = docker.run(
        &["exec", "-u", "65534", "-w", "/bin", "-e", "A=b", "c1"]
            .iter()
            .chain(&["sh", "-c", "id -u; echo $PWD $A; exit 3"])
            .copied()
            .collect::<Vec<_>>(),
    );
    assert_eq!((exec.code, exec.stdout.as_str()), (3, "65534\n/bin b\n"), "{}", exec.stderr);
    assert_eq!(docker.ok(&["exec", "-t", "c1", "sh", "-c", "test -t 0 && echo tty"]), "tty\r\n");
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "c1"]);
    assert!(stats.contains("/ 64MiB 1"), "{stats}");
    docker.ok(&["pause", "c1"]);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.Status}}", "c1"]), "paused\n");
    docker.ok(&["unpause", "c1"]);
    docker.ok(&["update", "--memory", "32m", "--memory-swap", "64m", "--pids-limit", "20", "c1"]);
    let said = docker.ok(&["exec", "c1", "sh", "-c", LIMITS]);
    assert!(said.starts_with("33554432\n20\n"), "{said}");
    eventually(|| docker.ok(&["top", "c1"]).contains("sleep 1000"));
    docker.ok(&["restart", "-t", "0", "c1"]);
    assert_eq!(docker.ok(&["exec", "c1", "echo", "again"]), "again\n");
    docker.ok(&["kill", "c1"]);
    assert_eq!(docker.ok(&["wait", "c1"]), "137\n");
    docker.ok(&["rm", "c1"]);
    rig.end();
}

/// podman with everything of its own below the rig's directory.
fn podman(rig: &Rig) -> Client {
    let runtime = rig.program("strata-runc");
    let args = rig.args(&[
        "--root",
        "@podman",
        "--runroot",
        "@podman-run",
        "--tmpdir",
        "@podman-tmp",
        "--storage-driver",
        "vfs",
        "--cgroup-manager",
        "cgroupfs",
        "--events-backend",
        "file",
        "--runtime",
    ]);
    Client { program: "podman".into(), args: [args, vec![runtime.into()]].concat() }
}

#[test]
fn podman_runs_containers() {
    need!("podman", "conmon", "busybox");
    let rig = Rig::new("podman");
    let podman = podman(&rig);
    podman.ok(&["load", "-i", rig.archive().to_str().unwrap()]);
    let base = ["run", "--rm", "--network", "none"];
    let run = |args: &[&str]| podman.run(&[&base[..], args].concat());
    let said = run(&[IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (7, "out\n", "err\n"));
    let said = run(&["--user", "1000", "--cap-drop", "all", "--read-only", IMAGE]
        .iter()
        .chain(&["sh", "-c", "id -u; grep CapEff /proc/self/status"])
        .copied()
        .collect::<Vec<_>>());
    assert_eq!(said.stdout, "1000\nCapEff:\t0000000000000000\n", "{}", said.stderr);
    podman.ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "sleep", "1000"]);
    assert_eq!(podman.ok(&["exec", "c1", "echo", "in"]), "in\n");
    podman.ok(&["rm", "-f", "-t", "0", "c1"]);
    podman.ok(&["rmi", "-f", IMAGE]);
    rig.end();
}

#[test]
fn podman_runs_containers_for_an_ordinary_user() {
    need!("podman", "conmon", "busybox");
    if let Some(reason) = machine::no_user_namespaces() {
        return skip(&reason);
    }
    // nobody: podman wants a user that /etc/passwd has.
    const USER: u32 = 65534;
    let watch = Watch::begin();
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).display().to_string();
    fs::create_dir(at("run")).unwrap();
    fs::write(at("image.tar"), rig::archive()).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_strata"), at("strata-runc")).unwrap();
    fs::set_permissions(at("strata-runc"), fs::Permissions::from_mode(0o755)).unwrap();
    for path in [&at(""), &at("run")] {
        std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
    }
    let podman = |args: &[&str]| {
        let out = Command::new("podman")
            .args(["--root", &at("root"), "--runroot", &at("runroot"), "--tmpdir", &at("tmp")])
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "file", "--runtime", &at("strata-runc")])
            .args(args)
            .current_dir(home.path())
            .env("HOME", at(""))
            .env("XDG_RUNTIME_DIR", at("run"))
            .uid(USER)
            .gid(USER)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let loaded = podman(&["load", "-i", &at("image.tar")]);
    assert_eq!(loaded.0, Some(0), "{}", loaded.2);
    let script = "id -u; cat /proc/self/uid_map; exit 5";
    let ran = podman(&["run", "--rm", "--network", "none", IMAGE, "sh", "-c", script]);
    assert_eq!(ran.0, Some(5), "{}", ran.2);
    let map = ran.1.split_whitespace().collect::<Vec<_>>();
    assert_eq!(map[..3], ["0", "0", "65534"], "{}", ran.1);
    let started =
        podman(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "sleep", "1000"]);
    assert_eq!(started.0, Some(0), "{}", started.2);
    assert_eq!(podman(&["exec", "c1", "echo", "in"]).1, "in\n");
    let removed = podman(&["rm", "-f", "-t", "0", "c1"]);
    assert_eq!(removed.0, Some(0), "{}", removed.2);
    // Its pause process keeps the user namespace.
    podman(&["system", "migrate"]);
    drop(home);
    watch.assert_unchanged();
}

#[test]
fn containerds_cri_plugin_runs_pods() {
    need!("containerd", "ctr", "containerd-shim-runc-v2");
    let watch = Watch::begin();
    let dir = tempfile::tempdir().unwrap();
    let era = include_str!("../lab/eras/containerd.toml");
    let plugin = "[plugins.\"io.containerd.grpc.v1.cri\".cni]";
    assert!(era.contains(plugin));
    let path = dir.path().join("path.toml");
    let compare = |program: &str| {
        let runtime = format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
runtime_type = \"io.containerd.runc.v2\"
[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]
BinaryName = \"{{bin}}/{program}\"
"
        );
        fs::write(&path, era.replace(plugin, &format!("{runtime}{plugin}"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.args(["compare", "--pods", "2", "--report"]).arg(dir.path());
        let out = command.arg("--paths").arg(&path).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (ran, said) = compare("strata-runc");
    assert!(ran, "{said}");
    // The name is what decides, so it was no other runtime before.
    let (ran, said) = compare("no-such-runtime");
    assert!(!ran && said.contains("no-such-runtime"), "{said}");
    watch.assert_unchanged();
}
