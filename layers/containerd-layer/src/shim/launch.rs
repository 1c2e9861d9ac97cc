//! How a shim comes to be. `start` makes the socket and splits in two: the one half prints the
//! address and ends, the other serves. There is no second exec, so the address that is printed is
//! one that is served.

use std::{
    ffi::OsStr,
    fs,
    io::{self, IsTerminal, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use hops::{
    Cx, HopError, Result,
    trace::{Side, Spans, Traced},
};
use nix::{
    fcntl::OFlag,
    unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, getppid, setsid},
};
use sha2::{Digest, Sha256};

use super::{
    LAYER,
    bootstrap::{Bootstrap, address},
    bundle, cgroup,
    door::Door,
    engine::Engine,
    events::{Destination, Publisher},
    flags::Flags,
    logger,
    runtime::Runtimes,
    serve::Server,
    sys,
};

/// How much `start` is told at most (containerd 2.3).
const INPUT: u64 = 10 << 20;

/// `start`, in the bundle: prints where the shim of the bundle's pod is.
///
/// # Errors
/// When `config.json` or standard input cannot be read, and those of making the socket and the
/// process.
pub(super) fn start(program: &OsStr, flags: Flags) -> Result<()> {
    let spans = Spans::from_env(LAYER);
    let (_, mut span) = spans.begin(&Cx::from_env(), "Shim", "launch", Side::Callee);
    let started = launch(program, flags);
    match started {
        Ok(Half::Parent(answer)) => {
            io::stdout().write_all(&answer)?;
            Ok(())
        }
        Ok(Half::Shim(serve)) => {
            // The span is the other half's.
            std::mem::forget(span);
            serve()
        }
        Err(error) => {
            span.fail();
            Err(error)
        }
    }
}

enum Half {
    Parent(Vec<u8>),
    Shim(Box<dyn FnOnce() -> Result<()>>),
}

fn launch(program: &OsStr, mut flags: Flags) -> Result<Half> {
    let bootstrap = Bootstrap::read(&input(), &mut flags)?;
    let group = bundle::group(Path::new("."))?.unwrap_or_else(|| flags.id.clone());
    let name = socket_name(&flags.address, &flags.namespace, &group);
    let socket = bootstrap.socket_dir.join(name);
    let write_address = || {
        bundle::write_private(Path::new(bundle::ADDRESS), address(&socket).as_bytes())
            .map_err(|e| HopError::from(e).context("write address"))
    };
    let answer = bootstrap.answer(&socket);
    let Some(listener) = bind(&socket)? else {
        write_address()?;
        return Ok(Half::Parent(answer));
    };
    let unbind = |error: HopError| {
        let _ = fs::remove_file(&socket);
        error
    };
    write_address().map_err(unbind)?;
    let score = oom_score();
    match sys::fork().map_err(|e| unbind(io::Error::from(e).into()))? {
        ForkResult::Child => {
            let program = program.to_owned();
            Ok(Half::Shim(Box::new(move || {
                detach(score)?;
                serve(&program, &flags, &bootstrap.ttrpc_address, listener, Some(socket))
            })))
        }
        ForkResult::Parent { child } => {
            if let Err(error) = place(&bootstrap.cgroup, child.as_raw()) {
                let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
                return Err(unbind(error));
            }
            Ok(Half::Parent(answer))
        }
    }
}

/// What containerd says on standard input. std's has a buffer, which the shim, a copy of this
/// process, would keep.
fn input() -> Vec<u8> {
    let mut said = Vec::new();
    let read = |said| {
        let stdin = fs::File::from(sys::stdin().try_clone_to_owned()?);
        // Nobody is asked to type it.
        if stdin.is_terminal() { Ok(0) } else { stdin.take(INPUT).read_to_end(said) }
    };
    // What cannot be read was not given.
    if read(&mut said).is_err() {
        said.clear();
    }
    said
}

/// The socket's file for the shim of a pod (containerd 1.6, `SocketAddress`).
fn socket_name(address: &str, namespace: &str, group: &str) -> String {
    let name = Path::new(address).join(namespace).join(group);
    let digest = Sha256::digest(name.as_os_str().as_encoded_bytes());
    let mut file = String::with_capacity(64);
    for byte in digest {
        use std::fmt::Write;
        let _ = write!(file, "{byte:02x}");
    }
    file
}

/// Listens on `socket`; `None` when the pod's shim already does.
fn bind(socket: &Path) -> Result<Option<UnixListener>> {
    let words = |e: io::Error| HopError::from(e).context("create new shim socket");
    let mut again = true;
    loop {
        match UnixListener::bind(socket) {
            Ok(listener) => {
                fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(words)?;
                return Ok(Some(listener));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && again => {
                let dir = socket.parent().unwrap_or(socket);
                fs::DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(words)?;
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && again => {
                if UnixStream::connect(socket).is_ok() {
                    return Ok(None);
                }
                // Of a shim that was killed.
                fs::remove_file(socket).map_err(words)?;
            }
            Err(e) => return Err(words(e)),
        }
        again = false;
    }
}

/// Puts the shim into the cgroup that containerd asks for.
fn place(path: &str, shim: i32) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    cgroup::place(path, shim)
        .map_err(|e| HopError::from(e).context(format!("failed to join cgroup {path}")))
}

/// One more than containerd's, so that the kernel kills a shim before its daemon.
fn oom_score() -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{}/oom_score_adj", getppid())).ok()?;
    Some((text.trim().parse::<i32>().ok()? + 1).min(1000))
}

/// Leaves containerd's session and streams.
fn detach(oom_score: Option<i32>) -> Result<()> {
    setsid().map_err(io::Error::from)?;
    if let Some(score) = oom_score {
        // Lowering it takes a privilege that containerd may lack; a score is then just inherited.
        let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null).map_err(io::Error::from)?;
    dup2_stdout(&null).map_err(io::Error::from)?;
    dup2_stderr(log().as_ref().unwrap_or(&null)).map_err(io::Error::from)?;
    Ok(())
}

/// The fifo that containerd reads the shim's log from. With both ends open it breaks for nobody,
/// and what nobody reads is lost once it is full.
fn log() -> Option<fs::File> {
    fs::metadata("log").ok().filter(|m| m.file_type().is_fifo())?;
    let flags = OFlag::O_NONBLOCK.bits();
    fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open("log").ok()
}

/// Without an action: serves the socket that is named or inherited.
///
/// # Errors
/// Those of the socket and of serving.
pub(super) fn serve_inherited(program: &OsStr, flags: Flags) -> Result<()> {
    let (listener, socket) = if flags.socket.as_os_str().is_empty() {
        let listener = sys::inherited_socket()
            .map_err(|e| HopError::from(e).context("no socket was given or inherited"))?;
        let address = fs::read_to_string(bundle::ADDRESS).ok();
        (listener, address.map(|address| wire::socket::path_of(&address)))
    } else {
        let listener = UnixListener::bind(&flags.socket)
            .map_err(|e| HopError::from(e).context(flags.socket.display()))?;
        (listener, Some(flags.socket.clone()))
    };
    serve(program, &flags, "", listener, socket)
}

fn serve(
    program: &OsStr,
    flags: &Flags,
    ttrpc_address: &str,
    listener: UnixListener,
    socket: Option<PathBuf>,
) -> Result<()> {
    logger::set_debug(flags.debug);
    let spans = Spans::from_env(LAYER);
    let runtimes = Runtimes::new(program, &flags.namespace, spans.clone());
    let destination = Destination::find(ttrpc_address, &flags.publish_binary, &flags.address);
    let publisher = Publisher::new(&flags.namespace, destination);
    let door = Door::new(listener, socket);
    let engine = Arc::new(Engine::new(&flags.namespace, runtimes, publisher, door));
    let face = Arc::new(Traced::callee(engine.clone(), spans));
    Ok(Server::new(engine, face)?.run()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_containerds() {
        // sha256 of "/run/containerd/containerd.sock/default/c1".
        assert_eq!(
            socket_name("/run/containerd/containerd.sock", "default", "c1"),
            "d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"
        );
    }
}
