//! Shims as programs: found by the runtime's name, executed to `start` and to `delete`, with the
//! command line and environment of containerd 1.6.

use super::endpoint::Endpoint;
use crate::{Error, Result, error::At, shim::bootstrap::Params};
use hops::{
    Cx, Hop,
    cx::TRACEPARENT_ENV,
    proto::{Any, containerd::task::v2::DeleteResponse},
    trace::{Side, Spans},
};
use nix::sched::{CloneFlags, unshare};
use prost::Message;
use std::{
    env, fmt,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What the shims of containerd 2.3 and later say to a start without [`Params`], which those of
/// containerd 1 take for options of a kind that they do not know.
const WANTS_PARAMS: &str = "through the deprecated API";

/// What every shim is told about the daemon.
#[derive(Debug, Clone)]
pub(super) struct Launcher {
    /// The gRPC socket.
    pub(super) address: PathBuf,
    /// The ttrpc socket, which shims send events to.
    pub(super) ttrpc: PathBuf,
    /// The program that publishes an event for a shim that cannot.
    pub(super) publish_binary: PathBuf,
    /// Whether shims are to say more.
    pub(super) debug: bool,
    pub(super) spans: Spans,
}

/// The program in the directory of this one, or in `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = beside.into_iter().chain(env::split_paths(&path));
    dirs.map(|dir| dir.join(name)).find(|program| executable(program))
}

fn executable(program: &Path) -> bool {
    program.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The shim of a runtime: `io.containerd.runc.v2` is `containerd-shim-runc-v2`, and an absolute
/// path is itself.
///
/// # Errors
/// containerd's for a name that is none, or whose program is not installed.
pub(super) fn program_of(runtime: &str) -> Result<PathBuf> {
    let refused = |why: fmt::Arguments<'_>| {
        Error::unknown(format_args!("failed to start shim: failed to resolve runtime path: {why}"))
    };
    if runtime.starts_with('/') {
        let program = PathBuf::from(runtime);
        return match program.metadata() {
            Ok(_) if executable(&program) => Ok(program),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(refused(format_args!(
                "invalid custom binary path: stat {runtime}: no such file or directory"
            ))),
            _ => Err(refused(format_args!("invalid custom binary path: {runtime}"))),
        };
    }
    let parts: Vec<&str> = runtime.split('.').collect();
    let (name, version) = match parts.as_slice() {
        [.., name, version] if !name.is_empty() && !version.is_empty() => (name, version),
        _ => {
            return Err(refused(format_args!(
                "invalid runtime name {runtime}, correct runtime name should be either format \
                 like `io.containerd.runc.v1` or a full path to the binary"
            )));
        }
    };
    let program = format!("containerd-shim-{name}-{version}");
    find_program(&program).ok_or_else(|| {
        refused(format_args!(
            "runtime {runtime:?} binary not installed {program:?}: file does not exist"
        ))
    })
}

impl Launcher {
    /// Starts the shim of a bundle, or finds the one of its group, and answers where it is.
    ///
    /// # Errors
    /// What the shim wrote, in containerd's words.
    pub(super) async fn start(
        &self,
        cx: &Cx,
        program: &Path,
        (ns, id, bundle): (&str, &str, &Path),
        options: Option<&Any>,
    ) -> Result<Endpoint> {
        let (cx, mut span) = self.spans.begin(cx, Hop::Shim.name(), "launch", Side::Caller);
        let attempt = async |input| {
            let mut command = self.command(&cx, program, ns, id);
            command.arg("start");
            run(command, bundle.to_owned(), input, true).await
        };
        let mut ran = attempt(options.map(Message::encode_to_vec).unwrap_or_default()).await;
        if let Ok((false, output)) = &ran
            && String::from_utf8_lossy(output).contains(WANTS_PARAMS)
        {
            let params = Params::new(
                (ns, id),
                (&self.address, &self.ttrpc, &self.publish_binary),
                self.debug,
                options.cloned(),
            );
            ran = attempt(params.encode_to_vec()).await;
        }
        let (ok, output) = ran.inspect_err(|_| span.fail())?;
        if !ok {
            span.fail();
            let output = String::from_utf8_lossy(&output);
            let output = output.trim();
            let text = format!("failed to start shim: start failed: {output}: exit status 1");
            return Err(Error::internal(text));
        }
        Endpoint::read(&output)
    }

    /// Has the shim's program clean up after a shim that died.
    ///
    /// # Errors
    /// When the program fails, with what it wrote.
    pub(super) async fn delete(
        &self,
        program: &Path,
        (ns, id, bundle): (&str, &str, &Path),
    ) -> Result<DeleteResponse> {
        let mut command = self.command(&Cx::background(), program, ns, id);
        command.arg("-bundle").arg(bundle).arg("delete");
        let (ok, output) = run(command, bundle.to_owned(), Vec::new(), false).await?;
        if !ok {
            return Err(Error::internal(format_args!("{} delete failed", program.display())));
        }
        DeleteResponse::decode(output.as_slice())
            .map_err(|e| Error::internal(format_args!("{} delete: {e}", program.display())))
    }

    fn command(&self, cx: &Cx, program: &Path, ns: &str, id: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["-namespace", ns, "-address"])
            .arg(&self.address)
            .arg("-publish-binary")
            .arg(&self.publish_binary)
            .args(["-id", id])
            .env("TTRPC_ADDRESS", &self.ttrpc)
            .env("GRPC_ADDRESS", &self.address)
            .env("NAMESPACE", ns)
            .env("GOMAXPROCS", "2")
            .env_remove(TRACEPARENT_ENV);
        if self.debug {
            command.arg("-debug");
        }
        if let Some(trace) = cx.trace {
            command.env(TRACEPARENT_ENV, trace.to_string());
        }
        command
    }
}

/// Executes a program in a directory; answers whether it succeeded, and what it wrote.
async fn run(
    command: Command,
    dir: PathBuf,
    input: Vec<u8>,
    with_errors: bool,
) -> Result<(bool, Vec<u8>)> {
    let name = command.get_program().to_owned();
    let (done, answer) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("launch".to_owned())
        .spawn(move || drop(done.send(run_here(command, &dir, &input, with_errors))))
        .at("starting a thread for", &name)?;
    answer.await.map_err(|_| Error::internal("launching panicked"))?.at("executing", &name)
}

/// The work of [`run`], on a thread of its own. The thread goes to the directory instead of the
/// child, because a child that needs no such step is spawned without a copy of this process's page
/// tables (posix_spawn).
fn run_here(
    mut command: Command,
    dir: &Path,
    mut input: &[u8],
    with_errors: bool,
) -> io::Result<(bool, Vec<u8>)> {
    unshare(CloneFlags::CLONE_FS)?;
    env::set_current_dir(dir)?;
    let (mut reader, writer) = io::pipe()?;
    if with_errors {
        command.stderr(writer.try_clone()?);
    }
    command.stdout(writer);
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.spawn()?;
    // The command holds the pipe's end of this process.
    drop(command);
    if let Some(mut stdin) = child.stdin.take() {
        // A shim need not read its options.
        let _ = io::copy(&mut input, &mut stdin).and_then(|_| stdin.flush());
    }
    let mut output = Vec::new();
    reader.read_to_end(&mut output)?;
    Ok((child.wait()?.success(), output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_that_are_not_here() {
        let missing = program_of("io.containerd.nosuch.v9").unwrap_err();
        assert!(missing.message.contains(r#"binary not installed "containerd-shim-nosuch-v9""#));
        for bad in ["runc", "", "a."] {
            program_of(bad).unwrap_err();
        }
        let missing = program_of("/nosuch/shim").unwrap_err();
        assert!(missing.message.ends_with("stat /nosuch/shim: no such file or directory"));
    }

    #[tokio::test]
    async fn a_program_runs_in_its_directory_and_this_one_stays() {
        let before = env::current_dir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "pwd; cat; echo e >&2; exit 3"]);
        let ran = run(command, "/proc".into(), b"in\n".to_vec(), true).await.unwrap();
        assert_eq!(ran, (false, b"/proc\nin\ne\n".to_vec()));
        assert_eq!(env::current_dir().unwrap(), before);
    }
}
