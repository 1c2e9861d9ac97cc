//! System calls that an agent outside answers (seccomp user notification).

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use crate::bundle::Bundle;
use serde_json::{Value, json};

/// An agent on the socket of its first argument, for as many processes as the second says. Of each
/// it prints what came with the descriptor, and then answers its calls: of every three the first
/// with ENOTUNIQ, the second with success, and lets the third go on. (Python, because a handler
/// needs ioctl(2) on structures; seccomp_unotify(2).)
const AGENT: &str = r#"
import errno, fcntl, json, os, select, socket, struct, sys, threading
RECEIVE, SEND, CONTINUE = 0xc0502100, 0xc0182101, 1
def serve(fd):
    count = 0
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while poll.poll()[0][1] & select.POLLIN:
        call = bytearray(80)
        try: fcntl.ioctl(fd, RECEIVE, call)
        except FileNotFoundError: continue
        identity, = struct.unpack_from("=Q", call)
        val, error, flags = [(0, -errno.ENOTUNIQ, 0), (0, 0, 0), (0, 0, CONTINUE)][count % 3]
        count += 1
        fcntl.ioctl(fd, SEND, struct.pack("=QqiI", identity, val, error, flags))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
listener.settimeout(120)
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    connection, _ = listener.accept()
    message, fds, _, _ = socket.recv_fds(connection, 65536, 4)
    print(json.dumps({"fds": len(fds), "message": json.loads(message)}), flush=True)
    threading.Thread(target=serve, args=fds[:1], daemon=True).start()
threading.Event().wait()
"#;

/// The agent, and the lines that it says.
struct Agent {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Agent {
    fn new(b: &Bundle, connections: u32) -> Option<Agent> {
        let child = Command::new("python3")
            .args(["-c", AGENT])
            .arg(b.path().join("agent.sock"))
            .arg(connections.to_string())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            println!("SKIP: needs python3");
            return None;
        };
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut agent = Agent { child, said };
        assert_eq!(agent.line(), "ready\n");
        Some(agent)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line
    }

    fn message(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may still wait for a connection.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bundle(script: &str) -> Option<Bundle> {
    let mut b = Bundle::new(script)?;
    b.config["root"]["readonly"] = json!(false);
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": b.path().join("agent.sock"),
        "listenerMetadata": "who asks",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    });
    Some(b)
}

#[test]
fn an_agent_answers_the_calls_of_a_container() {
    let script = "for i in 1 2 3; do mkdir /tmp/$i; echo $?; done; ls /tmp";
    // With and without it the filter is loaded at another moment.
    for no_new_privileges in [true, false] {
        let Some(mut b) = bundle(script) else { return };
        let Some(mut agent) = Agent::new(&b, 1) else { return };
        b.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        b.config["annotations"] = json!({"a": "b"});
        let said = b.run();
        assert_eq!(said.out, "1\n0\n0\n3\n", "{said:?}");
        assert!(said.err.contains("Name not unique on network"), "{said:?}");
        let got = agent.message();
        assert_eq!(got["fds"], 1);
        let message = &got["message"];
        assert_eq!(message["fds"], json!(["seccompFd"]));
        assert_eq!(message["metadata"], "who asks");
        assert!(message["ociVersion"].as_str().unwrap().starts_with("1."));
        let state = &message["state"];
        assert_eq!((&state["id"], &state["status"]), (&json!(b.id), &json!("creating")));
        assert_eq!(state["bundle"], json!(b.path()));
        assert_eq!(state["annotations"], json!({"a": "b"}));
        assert!(message["pid"].as_i64().unwrap() > 1 && state["pid"] == message["pid"], "{got}");
        b.assert_gone();
    }
}

#[test]
fn a_process_that_joins_has_a_listener_of_its_own() {
    let Some(b) = bundle("exec sleep 1000") else { return };
    let Some(mut agent) = Agent::new(&b, 2) else { return };
    assert_eq!(b.create().code, 0, "{}", b.output());
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    let init = agent.message();
    assert_eq!(init["message"]["pid"], b.state("pid"));
    let said = b.call(&["exec", &b.id, "sh", "-c", "mkdir /tmp/x; mkdir /tmp/y; ls /tmp"]);
    assert_eq!(said.out, "", "{said:?}");
    assert!(
        said.err.contains("'/tmp/x': Name not unique") && !said.err.contains("/tmp/y"),
        "{said:?}"
    );
    let joined = &agent.message()["message"];
    assert_eq!(joined["state"]["status"], "running");
    assert_eq!(joined["state"]["id"], json!(b.id));
    assert_ne!(joined["pid"], init["message"]["pid"], "the pid is the process's own");
}

#[test]
fn without_an_agent_there_is_no_container() {
    let Some(mut b) = bundle("true") else { return };
    let said = b.run();
    assert!(said.code == 1 && said.err.contains("agent.sock"), "{said:?}");
    b.assert_gone();
    b.config["linux"]["seccomp"]["listenerPath"] = json!("");
    let said = b.run();
    assert!(said.code == 1 && said.err.contains("listenerPath is not set"), "{said:?}");
    b.assert_gone();
}
