//! Checkpoint and restore with the real CRIU, where it works (`just test-v2` makes such machines).

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::bundle::Bundle;
use serde_json::json;

/// Counts in a file, for ever.
const COUNT: &str = "i=0; while :; do i=$((i + 1)); echo $i >/tmp/count; sleep 0.05; done";

/// A bundle that counts; `None`, with the reason printed, where CRIU does not work.
fn bundle(script: &str) -> Option<Bundle> {
    let mut b = Bundle::new(script)?;
    let check = Command::new("criu").arg("check").output();
    if !check.is_ok_and(|done| done.status.success()) {
        println!("SKIP: needs a CRIU that works here (criu check)");
        return None;
    }
    b.config["root"]["readonly"] = json!(false);
    Some(b)
}

fn count(b: &Bundle) -> u64 {
    // Between the shell's truncating and its writing there is nothing.
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let text = fs::read_to_string(b.rootfs().join("tmp/count")).unwrap_or_default();
        if let Ok(n) = text.trim().parse() {
            return n;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("nothing is counted");
}

fn wait_past(b: &Bundle, n: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while count(b) <= n {
        assert!(Instant::now() < deadline, "it does not count on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the command line with nothing on the standard streams, and its log in a file.
fn quietly(b: &Bundle, args: &[&str]) -> (i32, String) {
    let mut command = b.runc(&[]);
    let log = b.path().join("log");
    let _ = fs::remove_file(&log);
    command.arg("--log").arg(&log).args(args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let code = command.status().unwrap().code().unwrap_or(-1);
    (code, fs::read_to_string(&log).unwrap_or_default())
}

/// A container that counts, from the same bundle.
fn counting() -> Option<Bundle> {
    let b = bundle(COUNT)?;
    let (code, log) = quietly(&b, &["run", "--detach", &b.id]);
    assert_eq!(code, 0, "{log}");
    wait_past(&b, 3);
    Some(b)
}

fn checkpoint(b: &Bundle, more: &[&str]) {
    let mut args = vec!["checkpoint"];
    args.extend_from_slice(more);
    args.push(&b.id);
    let (code, log) = quietly(b, &args);
    assert_eq!(code, 0, "{log}");
}

fn restore(b: &Bundle, more: &[&str]) {
    let mut args = vec!["restore", "--detach"];
    args.extend_from_slice(more);
    args.push(&b.id);
    let (code, log) = quietly(b, &args);
    assert_eq!(code, 0, "{log}");
}

/// Whether it counts on from `before`, and not from the beginning.
fn assert_goes_on(b: &Bundle, before: u64) {
    wait_past(b, before + 3);
    assert_eq!(b.state("status"), "running");
}

fn delete(b: &Bundle) {
    let said = b.call(&["delete", "--force", &b.id]);
    assert_eq!(said.code, 0, "{said:?}");
    b.assert_gone();
}

#[test]
fn a_container_goes_on_where_it_was() {
    let Some(mut b) = counting() else { return };
    let before = count(&b);
    checkpoint(&b, &[]);
    b.assert_gone();
    let stopped = count(&b);
    assert!(stopped >= before);
    // Where it is restored it may have another name.
    b.id.push_str("-again");
    restore(&b, &["--pid-file", "pid"]);
    assert_goes_on(&b, stopped);
    assert_eq!(fs::read_to_string(b.path().join("pid")).unwrap(), b.state("pid").to_string());
    let said = b.call(&["exec", &b.id, "sh", "-c", "cat /proc/1/comm; cat /proc/self/cgroup"]);
    assert!(said.code == 0 && said.out.starts_with("sh\n"), "{said:?}");
    assert_eq!(b.call(&["pause", &b.id]).code, 0);
    assert_eq!(b.call(&["resume", &b.id]).code, 0);
    // And it can be done again.
    checkpoint(&b, &["--image-path", "second", "--work-path", "work"]);
    assert!(b.path().join("work/dump.log").exists());
    restore(&b, &["--image-path", "second", "--work-path", "work"]);
    assert_goes_on(&b, count(&b));
    let (code, log) = quietly(&b, &["restore", "--detach", &b.id]);
    assert!(code == 1 && log.contains("container with given ID already exists"), "{log}");
    delete(&b);
}

#[test]
fn a_container_may_run_on_and_its_memory_be_written_before() {
    let Some(b) = counting() else { return };
    checkpoint(&b, &["--leave-running", "--image-path", "running"]);
    assert_goes_on(&b, count(&b));
    checkpoint(&b, &["--pre-dump", "--image-path", "first"]);
    assert_goes_on(&b, count(&b));
    checkpoint(&b, &["--parent-path", "../first", "--image-path", "second"]);
    b.assert_gone();
    let stopped = count(&b);
    restore(&b, &["--image-path", "second"]);
    assert_goes_on(&b, stopped);
    let (code, log) = quietly(&b, &["checkpoint", "--parent-path", "../none", &b.id]);
    assert!(code == 1 && log.contains("invalid --parent-path"), "{log}");
    delete(&b);
}

/// `run` and `restore` in the foreground, whose streams are the container's.
#[test]
fn streams_and_exit_code_are_the_restorers() {
    let Some(b) =
        bundle("i=0; while [ ! -e /tmp/end ]; do echo $((i += 1)); sleep 0.05; done; exit 7")
    else {
        return;
    };
    let attached = |args: &[&str]| {
        let mut command = b.runc(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines.map_while(Result::ok))
    };
    let number = |line: Option<String>| line.and_then(|l| l.parse::<u64>().ok());
    let (mut child, mut lines) = attached(&["run", &b.id]);
    let first = (0..5).filter_map(|_| number(lines.next())).last().unwrap();
    checkpoint(&b, &[]);
    let last = lines.filter_map(|l| number(Some(l))).last().unwrap_or(first);
    assert_eq!(child.wait().unwrap().code(), Some(137));
    let (mut child, mut lines) = attached(&["restore", &b.id]);
    let next = number(lines.next()).expect("a number");
    assert!(next == last + 1 || next == last + 2, "{next} after {last}");
    fs::write(b.rootfs().join("tmp/end"), "").unwrap();
    lines.for_each(drop);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7), "{said}");
    b.assert_gone();
}

/// The terminal that arrives at a console socket.
fn terminal(listener: &UnixListener) -> File {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let (stream, _) = listener.accept().unwrap();
    let mut name = [0u8; 256];
    let mut parts = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!(i32);
    let fd = stream.as_raw_fd();
    let message =
        recvmsg::<()>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let rights = message.cmsgs().unwrap().find_map(|c| match c {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    adopt(rights.expect("a descriptor"))
}

#[allow(unsafe_code, reason = "a received descriptor has no owner yet")]
fn adopt(fd: i32) -> File {
    // SAFETY: it was just received, for this test.
    File::from(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[test]
fn a_terminal_is_sent_to_the_console_socket() {
    let Some(mut b) = bundle("while read line; do echo got $line; done") else { return };
    b.config["process"]["terminal"] = json!(true);
    let listener = UnixListener::bind(b.path().join("console")).unwrap();
    let ask = |mut terminal: &File, line: &str| {
        writeln!(terminal, "{line}").unwrap();
        let wanted = format!("got {line}\r\n");
        let mut said = String::new();
        let mut reader = BufReader::new(terminal);
        while !said.ends_with(&wanted) {
            assert_ne!(reader.read_line(&mut said).unwrap(), 0, "{said:?}");
        }
    };
    let (code, log) = quietly(&b, &["run", "--detach", "--console-socket", "console", &b.id]);
    assert_eq!(code, 0, "{log}");
    let first = terminal(&listener);
    ask(&first, "one");
    checkpoint(&b, &[]);
    restore(&b, &["--console-socket", "console"]);
    let second = terminal(&listener);
    ask(&second, "two");
    delete(&b);
}

#[test]
fn mounts_from_outside_are_those_of_where_it_is_restored() {
    let Some(mut b) = bundle(
        "exec 5</outside/file; i=0; while :; do i=$((i + 1)); cat /outside/file >/tmp/seen; \
         echo $i >/tmp/count; sleep 0.05; done",
    ) else {
        return;
    };
    let outside = b.path().join("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    fs::write(outside.join("file"), "first").unwrap();
    fs::write(b.path().join("one"), "one").unwrap();
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    mounts.push(
        json!({"destination": "/outside", "type": "bind", "source": outside, "options": ["rbind"]}),
    );
    let one = json!({"destination": "/outside/deep/one", "type": "bind", "source": "one", "options": ["bind"]});
    mounts.push(one);
    let (code, log) = quietly(&b, &["run", "--detach", &b.id]);
    assert_eq!(code, 0, "{log}");
    wait_past(&b, 3);
    checkpoint(&b, &[]);
    let stopped = count(&b);
    // As after a move to another machine: what the container's creation had made is not there.
    fs::remove_dir(b.rootfs().join("outside")).unwrap();
    fs::remove_file(outside.join("deep/one")).unwrap();
    fs::write(outside.join("file"), "other").unwrap();
    restore(&b, &[]);
    assert_goes_on(&b, stopped);
    // Between the shell's truncating and its writing there is nothing.
    let seen = || fs::read_to_string(b.rootfs().join("tmp/seen")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while seen() != "other" {
        assert!(Instant::now() < deadline, "{:?}", seen());
    }
    let said = b.call(&["exec", &b.id, "sh", "-c", "cat /outside/deep/one; cat /proc/kcore"]);
    assert_eq!(said.out, "one", "{said:?}");
    delete(&b);
}

#[test]
fn hooks_see_the_restored_namespaces() {
    let Some(mut b) = bundle(COUNT) else { return };
    let place = b.path().display().to_string();
    let script = format!("cat >{place}/state; readlink /proc/self/ns/net >>{place}/hooks");
    b.config["hooks"] = json!({
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
    });
    let (code, log) = quietly(&b, &["run", "--detach", &b.id]);
    assert_eq!(code, 0, "{log}");
    wait_past(&b, 3);
    checkpoint(&b, &[]);
    restore(&b, &[]);
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(b.path().join("state")).unwrap()).unwrap();
    assert_eq!((&state["status"], &state["pid"]), (&json!("creating"), &b.state("pid")));
    assert_eq!(fs::read_to_string(b.path().join("hooks")).unwrap().lines().count(), 2);
    delete(&b);
}

/// A network that others made stays theirs.
#[test]
fn a_joined_network_is_joined_again() {
    let Some(mut b) = bundle(COUNT) else { return };
    let mut keeper =
        Command::new("/usr/bin/unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
    let path = format!("/proc/{}/ns/net", keeper.id());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_link(&path).is_ok_and(|net| net == own) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    for namespace in b.config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "network" {
            namespace["path"] = json!(path);
        }
    }
    let (code, log) = quietly(&b, &["run", "--detach", &b.id]);
    assert_eq!(code, 0, "{log}");
    wait_past(&b, 3);
    checkpoint(&b, &[]);
    let stopped = count(&b);
    restore(&b, &[]);
    assert_goes_on(&b, stopped);
    let net = fs::read_link(format!("/proc/{}/ns/net", b.state("pid"))).unwrap();
    assert_eq!(net, fs::read_link(&path).unwrap());
    delete(&b);
    keeper.kill().unwrap();
    keeper.wait().unwrap();
}

#[test]
fn what_criu_refuses_goes_on_as_it_was() {
    let Some(b) = bundle(COUNT) else { return };
    // A file of the host's is not to be found in the container.
    let out = File::create(b.path().join("out")).unwrap();
    let mut run = b.runc(&["run", "--detach", &b.id]);
    assert!(run.stdout(out).stderr(Stdio::null()).status().unwrap().success());
    wait_past(&b, 3);
    let (code, log) = quietly(&b, &["checkpoint", &b.id]);
    assert!(code == 1 && log.contains("criu failed: type DUMP errno"), "{log}");
    assert!(log.contains("checkpoint/dump.log: ") && log.contains("Can't lookup mount"), "{log}");
    assert_goes_on(&b, count(&b));
    let other = format!("{}-other", b.id);
    let (code, log) = quietly(&b, &["restore", "--detach", &other]);
    assert!(code == 1 && log.contains("criu failed: type RESTORE errno"), "{log}");
    assert!(!b.call(&["state", &other]).err.is_empty());
    delete(&b);
    for (args, words) in [
        (vec!["checkpoint", &b.id], "container does not exist"),
        (vec!["restore", "--image-path", "none", &other], "open none: no such file or directory"),
    ] {
        let (code, log) = quietly(&b, &args);
        assert!(code == 1 && log.contains(words), "{args:?}: {log}");
    }
    b.assert_gone();
}

#[test]
fn a_runtime_killed_while_it_restores_leaves_what_delete_removes() {
    let Some(mut b) = counting() else { return };
    checkpoint(&b, &[]);
    let begun = Instant::now();
    restore(&b, &[]);
    let long = begun.elapsed();
    delete(&b);
    let name = b.id.clone();
    let files = |dir: &Path| fs::read_dir(dir).unwrap().count();
    let before = files(&b.rootfs());
    for n in 0..12 {
        b.id = format!("{name}-{n}");
        let mut victim = b.runc(&["restore", "--detach", &b.id]);
        victim.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut victim = victim.spawn().unwrap();
        std::thread::sleep(long * (n * 5 % 12) / 11);
        let _ = victim.kill();
        victim.wait().unwrap();
        delete(&b);
        // What was mounted for CRIU is not deleted through.
        assert_eq!(files(&b.rootfs()), before);
    }
}

#[test]
fn without_criu_it_is_refused_in_runcs_words() {
    let Some(b) = Bundle::new("sleep 1000") else { return };
    let (code, log) = quietly(&b, &["run", "--detach", &b.id]);
    assert_eq!(code, 0, "{log}");
    let said = b.runc(&["checkpoint", &b.id]).env("PATH", "/nowhere").output().unwrap();
    let words = "CRIU version check failed: exec: \\\"criu\\\": executable file not found in $PATH";
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains(words), "{said}");
    let (code, log) = quietly(&b, &["--criu", "/bin/true", "checkpoint", &b.id]);
    assert!(code == 1 && log.contains("CRIU version check failed: "), "{log}");
    assert_eq!(b.state("status"), "running");
    assert_eq!(b.call(&["restore", &format!("{}-new", b.id)]).code, 1);
    delete(&b);
}
