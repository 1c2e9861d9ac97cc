//! A real dockerd on strata-containerd: what it runs, and that a containerd that is killed under it
//! takes nothing along.
//!
//! Each test says SKIP where root or the peer is missing.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod machine;
mod rig;

use rig::{Client, IMAGE, Rig, eventually, need};

/// Docker's default, and strata-runc; Docker 20.10 knows no shim but containerd's own.
const RUNTIMES: [&str; 2] = ["runc", "strata"];

fn daemons(name: &str) -> (Rig, Client) {
    let mut rig = Rig::new(name);
    rig.strata_containerd();
    let docker = rig.real_dockerd();
    docker.ok(&["load", "-i", rig.archive().to_str().unwrap()]);
    (rig, docker)
}

/// Removes what a test that failed has still running.
struct Cleanup<'a>(&'a Client);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        for id in self.0.run(&["ps", "-aq"]).stdout.lines() {
            self.0.run(&["rm", "-f", id]);
        }
    }
}

/// Begins a container that runs until it is killed.
fn begin(docker: &Client, name: &str, runtime: &str) {
    let run = ["run", "-d", "--name", name, "--runtime", runtime, "--network", "none"];
    docker.ok(&[&run[..], &["--memory", "64m", IMAGE, "sleep", "1000"]].concat());
}

fn inspect(docker: &Client, name: &str, what: &str) -> String {
    let form = format!("{{{{{what}}}}}");
    docker.ok(&["inspect", "-f", &form, name]).trim_end().to_owned()
}

#[test]
fn a_real_dockerd_runs_containers() {
    need!("docker", "dockerd", "containerd", "busybox", "containerd-shim-runc-v2", "runc");
    let (rig, docker) = daemons("dockerd");
    let cleanup = Cleanup(&docker);
    for runtime in RUNTIMES {
        let base = ["run", "--rm", "--runtime", runtime, "--network", "none"];
        let run = |args: &[&str]| docker.run(&[&base[..], args].concat());
        let said = run(&[IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7"]);
        let said = (said.code, said.stdout, said.stderr);
        assert_eq!(said, (7, "out\n".to_owned(), "err\n".to_owned()), "{runtime}");
        let said = run(&["-t", IMAGE, "sh", "-c", "test -t 1 && echo tty"]);
        assert_eq!(said.stdout, "tty\r\n", "{runtime}: {}", said.stderr);
        let missing = run(&[IMAGE, "no-such-program"]);
        assert_eq!(missing.code, 127, "{runtime}: {}", missing.stderr);
        let words = "executable file not found in $PATH";
        assert_eq!(missing.stderr.matches(words).count(), 1, "{runtime}: {}", missing.stderr);

        begin(&docker, "c1", runtime);
        let exec = docker.run(&["exec", "-w", "/bin", "c1", "sh", "-c", "echo $PWD; exit 3"]);
        assert_eq!((exec.code, exec.stdout.as_str()), (3, "/bin\n"), "{runtime}: {}", exec.stderr);
        let stats =
            docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "c1"]);
        assert!(stats.contains("/ 64MiB 1"), "{runtime}: {stats}");
        eventually(|| docker.ok(&["top", "c1"]).contains("sleep 1000"));
        docker.ok(&["pause", "c1"]);
        assert_eq!(inspect(&docker, "c1", ".State.Status"), "paused", "{runtime}");
        let refused = docker.run(&["exec", "c1", "true"]);
        assert!(refused.stderr.contains("paused"), "{runtime}: {}", refused.stderr);
        docker.ok(&["unpause", "c1"]);
        docker.ok(&["update", "--memory", "32m", "--memory-swap", "64m", "c1"]);
        docker.ok(&["restart", "-t", "0", "c1"]);
        assert_eq!(docker.ok(&["exec", "c1", "echo", "again"]), "again\n", "{runtime}");
        docker.ok(&["kill", "c1"]);
        assert_eq!(docker.ok(&["wait", "c1"]), "137\n", "{runtime}");
        assert!(docker.ok(&["ps", "-a"]).contains("Exited (137)"), "{runtime}");
        docker.ok(&["rm", "c1"]);
        assert!(!docker.ok(&["ps", "-a"]).contains("c1"), "{runtime}");
    }
    let refused = docker.run(&["run", "--rm", "--runtime", "nosuch", IMAGE, "true"]);
    assert_eq!(refused.code, 125, "{}", refused.stderr);
    drop(cleanup);
    rig.end();
}

#[test]
fn a_killed_containerd_takes_no_container_of_dockerd_along() {
    need!("docker", "dockerd", "containerd", "busybox", "containerd-shim-runc-v2", "runc");
    let (mut rig, docker) = daemons("dockerd-kill");
    let cleanup = Cleanup(&docker);
    let names: Vec<String> = (0..RUNTIMES.len()).map(|n| format!("c{n}")).collect();
    for (name, runtime) in names.iter().zip(RUNTIMES) {
        begin(&docker, name, runtime);
    }
    begin(&docker, "killed", "strata");
    let killed = inspect(&docker, "killed", ".State.Pid").parse().unwrap();
    let run = ["run", "-d", "--name", "ends", "--network", "none", IMAGE, "sh", "-c"];
    docker.ok(&[&run[..], &["while ! test -e /stop; do sleep 0.1; done; exit 5"]].concat());
    let pids: Vec<_> = names.iter().map(|name| inspect(&docker, name, ".State.Pid")).collect();

    for _ in 0..2 {
        rig.kill("strata-containerd");
        let up = docker.ok(&["ps", "--format", "{{.Names}}"]);
        assert!(names.iter().all(|name| up.contains(name.as_str())), "{up}");
        rig.strata_containerd();
        for (name, pid) in names.iter().zip(&pids) {
            // dockerd needs a moment to find containerd again.
            eventually(|| docker.run(&["exec", name, "true"]).code == 0);
            assert_eq!(inspect(&docker, name, ".State.Pid"), *pid);
            let exec = docker.run(&["exec", name, "sh", "-c", "echo in; exit 3"]);
            assert_eq!((exec.code, exec.stdout.as_str()), (3, "in\n"), "{}", exec.stderr);
        }
    }
    // What ends after the restart is told to dockerd, by a shim that outlived two containerds.
    docker.ok(&["exec", "ends", "touch", "/stop"]);
    assert_eq!(docker.ok(&["wait", "ends"]), "5\n");
    // What ends while there is no containerd is told, too.
    rig.kill("strata-containerd");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(killed), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    rig.strata_containerd();
    eventually(|| inspect(&docker, "killed", ".State.Status") == "exited");
    assert_eq!(inspect(&docker, "killed", ".State.ExitCode"), "137");
    for name in &names {
        docker.ok(&["stop", "-t", "0", name]);
        assert_eq!(inspect(&docker, name, ".State.ExitCode"), "137");
        docker.ok(&["start", name]);
        assert_eq!(docker.ok(&["exec", name, "echo", "again"]), "again\n");
        docker.ok(&["rm", "-f", name]);
    }
    docker.ok(&["rm", "killed", "ends"]);
    drop(cleanup);
    rig.end();
}
