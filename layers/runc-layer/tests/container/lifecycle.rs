//! The commands over a container's life, with runc's exit codes and texts.

use std::fs;

use crate::bundle::{Bundle, eventually};
use serde_json::json;

#[test]
fn warnings_of_exec_go_to_its_standard_error_or_the_log() {
    let Some(mut b) = Bundle::new("exec sleep 1000") else { return };
    b.config["process"]["args"] = json!(["sleep", "1000"]);
    assert_eq!(b.create().code, 0, "{}", b.output());
    let words = "ignoring unknown or unavailable capabilities: [CAP_A CAP_B]";
    let args = ["exec", "--cap", "CAP_B", "--cap", "CAP_A", &b.id, "sh", "-c", "echo said"];
    // As from runc: in the foreground that is where the process's own errors go.
    let said = b.call(&args);
    assert_eq!(said.out, "said\n", "{said:?}");
    assert_eq!(said.err.matches("level=warning").count(), 1, "{said:?}");
    assert!(said.err.contains(words), "{said:?}");
    let log = b.path().join("log");
    let said = b.call(&[&["--log", log.to_str().unwrap()][..], &args].concat());
    assert_eq!((said.out.as_str(), said.err.as_str()), ("said\n", ""));
    assert!(fs::read_to_string(log).unwrap().contains(words));
}

#[test]
fn created_started_killed_deleted() {
    let Some(b) = Bundle::new("echo started; exec sleep 1000") else { return };
    assert_eq!(b.create().code, 0, "{}", b.output());
    assert_eq!(b.state("status"), "created");
    assert_eq!(b.output(), "", "nothing runs before start");
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    b.wait_for("running");
    let again = b.call(&["start", &b.id]);
    assert!(again.code == 1 && again.err.contains("cannot start an already running container"));
    let taken = b.call(&["create", &b.id]);
    assert!(taken.err.contains("container with given ID already exists"), "{taken:?}");
    let running = b.call(&["delete", &b.id]);
    assert!(running.err.contains("that is not stopped: running"), "{running:?}");
    assert_eq!(b.call(&["kill", &b.id, "KILL"]).code, 0);
    b.wait_for("stopped");
    assert_eq!(b.state("pid"), 0);
    assert!(b.call(&["kill", &b.id]).err.contains("container not running"));
    assert_eq!(b.call(&["delete", &b.id]).code, 0);
    assert_eq!(b.output(), "started\n");
    assert!(b.call(&["state", &b.id]).err.contains("container does not exist"));
    assert_eq!(b.call(&["delete", "--force", &b.id]).code, 0, "force is content");
    b.assert_gone();
}

#[test]
fn run_gives_the_exit_code_and_leaves_nothing() {
    let Some(b) = Bundle::new("exit 42") else { return };
    assert_eq!(b.run().code, 42);
    b.assert_gone();
    let Some(b) = Bundle::new("kill -9 $$; sleep 9") else { return };
    // A pid namespace's init cannot kill itself; its child can be killed.
    let mut b = b;
    b.config["process"]["args"] = json!(["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]);
    assert_eq!(b.run().code, 137);
    b.assert_gone();
}

#[test]
fn exec_joins_the_container() {
    let Some(b) = Bundle::new("sleep 1000") else { return };
    assert_eq!(b.create().code, 0);
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    // The shell becomes the program in its own time.
    let program = format!("/proc/{}/cmdline", b.state("pid"));
    eventually("it sleeps", || fs::read(&program).is_ok_and(|line| line.starts_with(b"sleep")));
    let said = b.call(&[
        "exec",
        "--cwd",
        "/tmp",
        "--env",
        "A=b",
        "--user",
        "5:6",
        &b.id,
        "sh",
        "-c",
        "pwd; echo $A; id -u; id -g; cat /proc/1/cmdline; exit 7",
    ]);
    assert_eq!((said.code, said.out.as_str()), (7, "/tmp\nb\n5\n6\nsleep\u{0}1000\u{0}"));
    let missing = b.call(&["exec", &b.id, "nosuch"]);
    assert_eq!(missing.code, 255);
    let text = r#"exec: \"nosuch\": executable file not found in $PATH"#;
    assert!(missing.err.contains(text), "{missing:?}");
    assert_eq!(b.call(&["pause", &b.id]).code, 0);
    assert_eq!(b.state("status"), "paused");
    assert!(b.call(&["exec", &b.id, "true"]).err.contains("cannot exec in a paused container"));
    assert_eq!(b.call(&["resume", &b.id]).code, 0);
    let inside = b.call(&["ps", "--format", "json", &b.id]).out;
    assert_eq!(inside, format!("[{}]\n", b.state("pid")));
    assert_eq!(b.call(&["delete", "--force", &b.id]).code, 0);
    let gone = b.call(&["exec", &b.id, "true"]);
    assert!(gone.code == 255 && gone.err.contains("container does not exist"));
    b.assert_gone();
}

#[test]
fn a_detached_exec_writes_its_pid() {
    let Some(b) = Bundle::new("sleep 1000") else { return };
    assert_eq!(b.create().code, 0);
    let process = json!({"args": ["sleep", "500"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    fs::write(b.path().join("process.json"), process.to_string()).unwrap();
    // The process outlives the command and keeps its streams.
    let mut command =
        b.runc(&["exec", "--detach", "--process", "process.json", "--pid-file", "pid", &b.id]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    assert!(command.status().unwrap().success());
    let pid = fs::read_to_string(b.path().join("pid")).unwrap();
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(command, "sleep\u{0}500\u{0}");
}

#[test]
fn a_program_that_is_missing_fails_create_and_leaves_nothing() {
    let Some(mut b) = Bundle::new("") else { return };
    for (name, text) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("/etc", "exec: \"/etc\": is a directory"),
    ] {
        b.config["process"]["args"] = json!([name]);
        let said = b.create();
        assert_eq!(said.code, 1);
        let escaped = text.replace('"', "\\\"");
        let whole = format!("runc create failed: unable to start container process: {escaped}");
        assert!(said.out.contains(&whole), "{}", said.out);
        b.assert_gone();
    }
}

#[test]
fn hooks_run_at_their_moments_with_the_state() {
    let Some(mut b) = Bundle::new("echo main >> /order") else { return };
    let order = b.rootfs().join("order");
    b.config["root"]["readonly"] = json!(false);
    let host = |name: &str| {
        let script = format!(
            "read -r state; case $state in *'\"status\":\"'*) echo {name} >> {};; esac",
            order.display()
        );
        json!([{"path": "/bin/busybox", "args": ["sh", "-c", script], "timeout": 100}])
    };
    let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "read -r s; echo startContainer >> /order"]}]);
    b.config["hooks"] = json!({
        "prestart": host("prestart"), "createRuntime": host("createRuntime"),
        "createContainer": host("createContainer"), "startContainer": inside,
        "poststart": host("poststart"), "poststop": host("poststop"),
    });
    // A poststop hook that fails keeps no other from running.
    let failing = json!({"path": "/bin/busybox", "args": ["false"]});
    b.config["hooks"]["poststop"].as_array_mut().unwrap().insert(0, failing);
    assert_eq!(b.create().code, 0, "{}", b.output());
    let before = fs::read_to_string(&order).unwrap();
    assert_eq!(before, "prestart\ncreateRuntime\ncreateContainer\n");
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    b.wait_for("stopped");
    assert_eq!(b.call(&["delete", &b.id]).code, 0);
    let all = fs::read_to_string(&order).unwrap();
    let mut after: Vec<&str> = all.lines().skip(3).collect();
    assert_eq!(after.pop(), Some("poststop"));
    // poststart and the program are not ordered.
    after.sort_unstable();
    assert_eq!(after, ["main", "poststart", "startContainer"]);
}

#[test]
fn a_hook_that_fails_or_hangs_fails_create() {
    let Some(mut b) = Bundle::new("true") else { return };
    for (args, timeout, text) in [
        (json!(["sh", "-c", "exit 3"]), 100, "exit status 3"),
        (json!(["sleep", "100"]), 1, "hook ran past specified timeout"),
    ] {
        b.config["hooks"] =
            json!({"createRuntime": [{"path": "/bin/busybox", "args": args, "timeout": timeout}]});
        let said = b.create();
        assert!(said.code == 1 && said.out.contains(text), "{said:?}");
        b.assert_gone();
    }
}

#[test]
fn a_killed_create_leaves_something_that_force_deletes() {
    let Some(mut b) = Bundle::new("sleep 1000") else { return };
    b.config["hooks"] =
        json!({"createRuntime": [{"path": "/bin/busybox", "args": ["sleep", "3"]}]});
    for pause in [0u64, 2, 5, 10, 20, 40, 80, 200] {
        let mut child = b.runc(&["create", &b.id]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause));
        child.kill().unwrap();
        child.wait().unwrap();
        let deleted = b.call(&["delete", "--force", &b.id]);
        assert_eq!(deleted.code, 0, "after {pause} ms: {deleted:?}");
        b.assert_gone();
    }
}

#[test]
fn the_log_is_what_a_shim_reads() {
    let Some(b) = Bundle::new("true") else { return };
    let said = b.call(&["--log", "log.json", "--log-format", "json", "start", "nothing"]);
    assert_eq!((said.code, said.err.as_str()), (1, "container does not exist\n"));
    let log = fs::read_to_string(b.path().join("log.json")).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.trim()).unwrap();
    assert_eq!(
        (&line["level"], &line["msg"]),
        (&json!("error"), &json!("container does not exist"))
    );
    assert!(line["time"].is_string());
}

#[test]
fn events_tell_of_a_kill_for_memory() {
    use std::io::BufRead;
    let Some(mut b) = Bundle::new("exec sleep 1000") else { return };
    b.config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    assert_eq!(b.create().code, 0, "{}", b.output());
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    let mut events = b
        .runc(&["events", "--interval", "300s", &b.id])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(events.stdout.take().unwrap()).lines();
    // What happens before the watch is there is not told: so it happens until it is.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let line = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let greedy = "x=aaaaaaaa; while :; do x=$x$x; done";
                assert_eq!(b.call(&["exec", &b.id, "sh", "-c", greedy]).code, 137);
            }
        });
        let line = lines.next().unwrap().unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        line
    });
    assert_eq!(line, json!({"type": "oom", "id": b.id}).to_string());
    assert_eq!(b.call(&["delete", "--force", &b.id]).code, 0);
    // The end of the container is the end of its events.
    assert!(events.wait().unwrap().success());
    assert!(lines.all(|line| line.unwrap().contains("\"oom\"")));
}

#[test]
fn a_descriptor_for_the_process_goes_to_the_socket() {
    use std::{io::Read, os::unix::net::UnixListener};
    let Some(b) = Bundle::new("exec sleep 1000") else { return };
    let listener = UnixListener::bind(b.path().join("pidfd")).unwrap();
    let told = || {
        let mut kind = String::new();
        listener.accept().unwrap().0.read_to_string(&mut kind).unwrap();
        kind
    };
    let mut create = b.runc(&["create", "--pidfd-socket", "pidfd", &b.id]);
    create.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    assert!(create.status().unwrap().success());
    assert_eq!(told(), "standard");
    assert_eq!(b.call(&["exec", "--pidfd-socket", "pidfd", &b.id, "true"]).code, 0);
    assert_eq!(told(), "setns");
    assert!(
        b.call(&["exec", "--pidfd-socket", "none", &b.id, "true"]).err.contains("pidfd to none")
    );
}

/// On cgroup v1 an ordinary user's container has no cgroup that could say what is in it.
#[test]
fn an_ordinary_users_container_is_killed_as_a_whole() {
    use std::os::unix::{fs::chown, process::CommandExt};
    let Some(mut b) = Bundle::new("sleep 1000 & exec sleep 1000") else { return };
    assert_eq!(b.call(&["spec", "--rootless", "-b", "rootfs"]).code, 0);
    let spec = fs::read(b.rootfs().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&spec).unwrap();
    config["process"] = b.config["process"].clone();
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    b.config = config;
    drop(b.runc(&["list"]));
    // Where this program is built may be nobody else's to see. Copied by another process: a child
    // that is just being made elsewhere could keep it open for writing, and so from being executed.
    let program = b.path().join("runtime");
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg(crate::bundle::program()).arg(&program).status().unwrap().success());
    for path in [b.path().to_path_buf(), b.rootfs(), b.path().join("config.json")] {
        chown(path, Some(1000), Some(1000)).unwrap();
    }
    let call = |args: &[&str]| {
        let mut command = std::process::Command::new(&program);
        let null = std::process::Stdio::null;
        command.arg("--root").arg(b.path().join("user")).args(args);
        command.uid(1000).gid(1000).current_dir(b.path());
        command.stdin(null()).stdout(null()).stderr(null()).status().unwrap()
    };
    assert!(call(&["run", "--detach", "--pid-file", "pid", &b.id]).success());
    let pid: i32 = fs::read_to_string(b.path().join("pid")).unwrap().parse().unwrap();
    assert!(call(&["kill", "--all", &b.id, "KILL"]).success());
    let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    eventually("it ends", || !status().contains("State:") || status().contains("State:\tZ"));
    assert!(call(&["delete", &b.id]).success(), "it still runs: {}", status());
    assert!(call(&["kill", "--all", &b.id, "KILL"]).code() == Some(1), "it does not exist");
}
