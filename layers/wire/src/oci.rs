//! A command line and a bundle: the wire of `Oci`, as containerd's go-runc speaks it to runc.
//!
//! Every call is one execution of the runtime, finished before the call returns: nothing here
//! needs an async runtime ([`hops::op::now`] runs it). A daemon calls it from a thread that may
//! block.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Kind, Result, Wire,
    cx::TRACEPARENT_ENV,
    oci::{self, ContainerState},
};

/// An OCI runtime that is executed.
#[derive(Clone, Debug)]
pub struct Program {
    program: PathBuf,
    globals: Vec<OsString>,
    work: PathBuf,
}

impl Program {
    /// The runtime `program` (a path, or a name to look up in PATH). `work` is a directory for
    /// files that only live as long as a call: a process description, the runtime's log.
    pub fn new(program: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Program {
        Program { program: program.into(), globals: Vec::new(), work: work.into() }
    }

    /// Keeps the containers' state under `root` (runc's `--root`).
    pub fn root(mut self, root: &Path) -> Program {
        self.globals.extend(["--root".into(), root.into()]);
        self
    }

    /// Makes cgroups through systemd (runc's `--systemd-cgroup`).
    pub fn systemd_cgroup(mut self) -> Program {
        self.globals.push("--systemd-cgroup".into());
        self
    }

    fn command(&self, cx: &Cx, globals: &[&OsStr], verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.globals).args(globals).arg(verb);
        match cx.trace {
            Some(trace) => command.env(TRACEPARENT_ENV, trace.to_string()),
            None => command.env_remove(TRACEPARENT_ENV),
        };
        command
    }

    /// Runs a command that has nothing to do with a container's standard streams; its error is
    /// what it writes on its own.
    fn run(&self, cx: &Cx, verb: &'static str, args: &[&OsStr]) -> Result<Vec<u8>> {
        let mut command = self.command(cx, &[], verb);
        let output = command.args(args).stdin(Stdio::null()).output();
        let output = output.map_err(|e| self.not_executed(e))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let words = last_line_of_log(&said);
        Err(failed(verb, output.status, words.as_deref().unwrap_or(said.trim())))
    }

    /// Runs a command that hands its standard streams to a container; its error is in its log.
    fn run_with(
        &self,
        cx: &Cx,
        verb: &'static str,
        args: &[OsString],
        stdio: oci::Stdio,
    ) -> Result<()> {
        let log = self.scratch("log");
        let globals =
            [OsStr::new("--log"), log.as_os_str(), "--log-format".as_ref(), "json".as_ref()];
        let mut command = self.command(cx, &globals, verb);
        // strata-runc's own: the streams are the container's, and the error is read from the log.
        command.env("STRATA_RUNC_ERRORS", "log");
        let stream = |fd: Option<_>| fd.map_or_else(Stdio::null, Stdio::from);
        command
            .args(args)
            .stdin(stream(stdio.stdin))
            .stdout(stream(stdio.stdout))
            .stderr(stream(stdio.stderr));
        let status = command.status().map_err(|e| self.not_executed(e));
        let words = match &status {
            Ok(status) if status.success() => None,
            _ => fs::read_to_string(&log).ok(),
        };
        let _ = fs::remove_file(&log);
        let status = status?;
        if status.success() {
            return Ok(());
        }
        Err(failed(verb, status, words.as_deref().and_then(last_error).as_deref().unwrap_or("")))
    }

    /// The name of a file that no other call uses.
    fn scratch(&self, kind: &str) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        self.work.join(format!(".runtime-{}-{n}.{kind}", std::process::id()))
    }

    fn not_executed(&self, error: io::Error) -> HopError {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
            _ => Kind::Internal,
        };
        // Go's words for a program that is not there, which users search for.
        let words = match kind {
            Kind::NotFound if self.program.is_relative() => {
                format!("exec: {:?}: executable file not found in $PATH", self.program)
            }
            Kind::NotFound => {
                format!("fork/exec {}: no such file or directory", self.program.display())
            }
            _ => format!("fork/exec {}: {error}", self.program.display()),
        };
        HopError::new(kind, words).because(error)
    }
}

/// The message of the last error in a log of JSON lines.
fn last_error(log: &str) -> Option<String> {
    log.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let error = matches!(entry["level"].as_str()?, "error" | "fatal");
        error.then(|| entry["msg"].as_str().map(str::to_owned))?
    })
}

/// The message of the last error in a log of text lines, as runtimes write it to standard error.
fn last_line_of_log(said: &str) -> Option<String> {
    said.lines().rev().find_map(|line| {
        let (head, message) = line.split_once(" msg=")?;
        let error = head.starts_with("time=") && head.ends_with("level=error");
        error.then(|| serde_json::from_str(message).unwrap_or_else(|_| message.to_owned()))
    })
}

/// What a runtime's own words mean; the first that matches. runc, crun and youki agree on these
/// because containerd and Docker parse them.
const KINDS: [(&str, Kind); 6] = [
    ("container does not exist", Kind::NotFound),
    ("does not exist", Kind::NotFound),
    ("already exists", Kind::AlreadyExists),
    ("process already finished", Kind::NotFound),
    ("container not running", Kind::NotFound),
    ("no space left on device", Kind::ResourceExhausted),
];

fn failed(verb: &str, status: ExitStatus, words: &str) -> HopError {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let message = match (words, status.signal()) {
        ("", Some(signal)) => format!("the runtime's {verb} was killed by signal {signal}"),
        ("", None) => format!("exit status {code}"),
        _ => words.to_owned(),
    };
    let lower = message.to_lowercase();
    let kind = KINDS
        .iter()
        .find(|(text, _)| lower.contains(text))
        .map_or(Kind::Unknown, |(_, kind)| *kind);
    HopError::from_wire(kind, message, Wire::Exit { code, stderr: words.to_owned() })
}

fn parsed<T: serde::de::DeserializeOwned>(verb: &str, output: &[u8]) -> Result<T> {
    serde_json::from_slice(output)
        .map_err(|e| HopError::new(Kind::Unknown, format!("the runtime's {verb} answered: {e}")))
}

fn option(args: &mut Vec<OsString>, name: &str, value: &Option<PathBuf>) {
    if let Some(value) = value {
        args.extend([name.into(), value.into()]);
    }
}

#[async_trait]
impl Handle<oci::Create> for Program {
    async fn handle(&self, cx: &Cx, op: oci::Create) -> Result<()> {
        let mut args = vec!["--bundle".into(), op.bundle.into_os_string()];
        option(&mut args, "--pid-file", &op.pid_file);
        option(&mut args, "--console-socket", &op.console_socket);
        if op.no_pivot {
            args.push("--no-pivot".into());
        }
        if op.no_new_keyring {
            args.push("--no-new-keyring".into());
        }
        args.push(op.id.into());
        self.run_with(cx, "create", &args, op.stdio)
    }
}

#[async_trait]
impl Handle<oci::Exec> for Program {
    async fn handle(&self, cx: &Cx, op: oci::Exec) -> Result<()> {
        let process = self.scratch("process");
        let document = serde_json::to_vec(&op.process)
            .map_err(|e| HopError::invalid(format!("process: {e}")))?;
        fs::write(&process, document)?;
        let mut args: Vec<OsString> =
            vec!["--detach".into(), "--process".into(), process.clone().into()];
        option(&mut args, "--pid-file", &op.pid_file);
        option(&mut args, "--console-socket", &op.console_socket);
        args.push(op.id.into());
        let done = self.run_with(cx, "exec", &args, op.stdio);
        let _ = fs::remove_file(&process);
        done
    }
}

/// The verbs that are a word and an id.
macro_rules! plain {
    ($($op:ty = $verb:literal;)*) => {
        $(#[async_trait]
        impl Handle<$op> for Program {
            async fn handle(&self, cx: &Cx, op: $op) -> Result<()> {
                self.run(cx, $verb, &[op.id.as_ref()]).map(drop)
            }
        })*
    };
}

plain! {
    oci::Start = "start";
    oci::Pause = "pause";
    oci::Resume = "resume";
}

#[async_trait]
impl Handle<oci::State> for Program {
    async fn handle(&self, cx: &Cx, op: oci::State) -> Result<ContainerState> {
        parsed("state", &self.run(cx, "state", &[op.id.as_ref()])?)
    }
}

#[async_trait]
impl Handle<oci::Kill> for Program {
    async fn handle(&self, cx: &Cx, op: oci::Kill) -> Result<()> {
        let signal = op.signal.to_string();
        let mut args: Vec<&OsStr> = Vec::new();
        if op.all {
            args.push("--all".as_ref());
        }
        args.extend([OsStr::new(&op.id), OsStr::new(&signal)]);
        self.run(cx, "kill", &args).map(drop)
    }
}

#[async_trait]
impl Handle<oci::Delete> for Program {
    async fn handle(&self, cx: &Cx, op: oci::Delete) -> Result<()> {
        let mut args: Vec<&OsStr> = Vec::new();
        if op.force {
            args.push("--force".as_ref());
        }
        args.push(op.id.as_ref());
        self.run(cx, "delete", &args).map(drop)
    }
}

#[async_trait]
impl Handle<oci::Update> for Program {
    async fn handle(&self, cx: &Cx, op: oci::Update) -> Result<()> {
        let resources = self.scratch("resources");
        let document = serde_json::to_vec(&op.resources)
            .map_err(|e| HopError::invalid(format!("resources: {e}")))?;
        fs::write(&resources, document)?;
        let args = [OsStr::new("--resources"), resources.as_os_str(), op.id.as_ref()];
        let done = self.run(cx, "update", &args).map(drop);
        let _ = fs::remove_file(&resources);
        done
    }
}

#[async_trait]
impl Handle<oci::Ps> for Program {
    async fn handle(&self, cx: &Cx, op: oci::Ps) -> Result<Vec<i32>> {
        parsed("ps", &self.run(cx, "ps", &["--format".as_ref(), "json".as_ref(), op.id.as_ref()])?)
    }
}

#[async_trait]
impl Handle<oci::Stats> for Program {
    async fn handle(&self, cx: &Cx, op: oci::Stats) -> Result<serde_json::Value> {
        parsed("events", &self.run(cx, "events", &["--stats".as_ref(), op.id.as_ref()])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hops::op::now;

    fn runtime(dir: &Path, script: &str) -> Program {
        use std::os::unix::fs::PermissionsExt;
        let program = dir.join("runtime");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Program::new(program, dir)
    }

    #[test]
    fn the_error_of_create_comes_from_the_log_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let program = runtime(
            dir.path(),
            r#"echo '{"level":"warning","msg":"w"}' >> "$2"
               echo '{"level":"error","msg":"container with given ID already exists"}' >> "$2"
               exit 1"#,
        );
        let create = oci::Create { id: "c".into(), ..Default::default() };
        let error = now(program.handle(&Cx::background(), create)).unwrap_err();
        assert_eq!(error.message, "container with given ID already exists");
        assert_eq!(error.kind, Kind::AlreadyExists);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the runtime is left");
    }

    #[test]
    fn other_verbs_say_their_error_on_stderr() {
        let dir = tempfile::tempdir().unwrap();
        let program = runtime(dir.path(), "echo 'container does not exist' >&2; exit 1");
        let error =
            now(program.handle(&Cx::background(), oci::State { id: "c".into() })).unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert!(matches!(error.wire, Wire::Exit { code: 1, .. }));
    }

    #[test]
    fn the_trace_reaches_the_runtime() {
        let dir = tempfile::tempdir().unwrap();
        let program = runtime(
            dir.path(),
            r#"echo "{\"ociVersion\":\"$TRACEPARENT\",\"id\":\"$2\",\"status\":\"running\",\"bundle\":\"/\"}""#,
        );
        let mut cx = Cx::background();
        cx.trace =
            hops::cx::TraceParent::parse("00-00000000000000000000000000000abc-0000000000000012-01");
        let state: ContainerState =
            now(program.handle(&cx, oci::State { id: "c7".into() })).unwrap();
        assert_eq!((state.version, state.id), (cx.trace.unwrap().to_string(), "c7".into()));
    }

    #[test]
    fn a_runtime_that_is_not_there_is_named() {
        let program = Program::new("strata-no-such-runtime", "/tmp");
        let error =
            now(program.handle(&Cx::background(), oci::Start { id: "c".into() })).unwrap_err();
        assert!(error.message.contains("executable file not found in $PATH"), "{error}");
    }
}
