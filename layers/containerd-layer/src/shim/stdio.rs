//! A process's standard streams: what containerd names them, opened and handed to the process.
//!
//! A stream is a fifo's path, `file://…`, `binary://…` (a logger that is executed), or empty for
//! none. The process gets the fifo itself; the shim only keeps an end of its own, so that a client
//! that comes, goes and comes again breaks nothing.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use hops::{HopError, Result, oci};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{Gid, Uid, fchown, pipe2},
};

use super::{process::refused, sys};

/// The names of a process's streams, as requests give them and `State` repeats them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) stdin: String,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) terminal: bool,
}

/// For whom streams are opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    /// The container's id, or the exec's.
    pub(super) id: &'a str,
    /// containerd's namespace.
    pub(super) namespace: &'a str,
    /// The user to whom the streams belong; 0 leaves them as they are.
    pub(super) uid: u32,
    /// The group.
    pub(super) gid: u32,
}

/// What the shim holds while a process runs.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// A writing end of standard input: there is no end of file until it is closed.
    pub(super) stdin: Option<OwnedFd>,
    /// Both ends of each output fifo: a reader that dies breaks no pipe.
    outputs: Vec<OwnedFd>,
    /// The program of `binary://`.
    logger: Option<Logger>,
}

impl Held {
    /// Lets go of everything after the process's end, so that readers see the end of the file.
    pub(super) fn release(&mut self) {
        *self = Held { logger: self.logger.take(), ..Held::default() };
        if let Some(logger) = &mut self.logger {
            logger.ends.clear();
        }
    }
}

/// Opens the streams of a process without a terminal.
///
/// # Errors
/// A name with an unknown scheme, and those of opening; with containerd's words before them.
pub(super) fn open(names: &Names, owner: Owner<'_>) -> Result<(oci::Stdio, Held)> {
    open_all(names, owner).map_err(|e| e.context("failed to create init process I/O"))
}

fn open_all(names: &Names, owner: Owner<'_>) -> Result<(oci::Stdio, Held)> {
    let (mut given, mut held) = (oci::Stdio::default(), Held::default());
    match Target::parse(&names.stdout)? {
        Target::None | Target::Path(_) => {
            for (name, end) in
                [(&names.stdout, &mut given.stdout), (&names.stderr, &mut given.stderr)]
            {
                if !name.is_empty() {
                    *end = Some(open_output(Path::new(name), owner, &mut held)?);
                }
            }
        }
        Target::File(path) => {
            let file = open_file(&path)?;
            if !names.stderr.is_empty() {
                given.stderr = Some(file.as_fd().try_clone_to_owned()?);
            }
            given.stdout = Some(file);
        }
        Target::Binary(uri) => {
            let (logger, stdout, stderr) = Logger::execute(&uri, owner)?;
            held.logger = Some(logger);
            given.stdout = Some(stdout);
            given.stderr = Some(stderr);
            return Ok((given, held));
        }
    }
    if !names.stdin.is_empty() {
        let (reader, writer) = open_input(Path::new(&names.stdin))?;
        chown(&reader, owner)?;
        given.stdin = Some(reader);
        held.stdin = Some(writer);
    }
    Ok((given, held))
}

/// What a stream's name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    None,
    Path(PathBuf),
    File(PathBuf),
    Binary(String),
}

impl Target {
    /// Reads a name.
    ///
    /// # Errors
    /// An unknown scheme, in containerd's words.
    pub(super) fn parse(name: &str) -> Result<Target> {
        match name.split_once("://") {
            None if name.is_empty() => Ok(Target::None),
            None => Ok(Target::Path(name.into())),
            Some(("fifo", path)) => Ok(Target::Path(path.into())),
            Some(("file", path)) => Ok(Target::File(path.into())),
            Some(("binary", _)) => Ok(Target::Binary(name.to_owned())),
            Some((scheme, _)) => Err(refused(format_args!("unknown STDIO scheme {scheme}"))),
        }
    }
}

/// An output: the process's end, written to by nobody else.
fn open_output(path: &Path, owner: Owner<'_>, held: &mut Held) -> Result<OwnedFd> {
    let named = |e: io::Error| HopError::from(e).context(format!("opening {}", path.display()));
    if is_fifo(path) {
        // With both ends open here, opening the writing end does not wait for a reader.
        held.outputs.push(open_both_ends(path).map_err(named)?);
    }
    let end = fs::OpenOptions::new().append(true).open(path).map_err(named)?.into();
    chown(&end, owner)?;
    Ok(end)
}

/// Both ends of the fifo at `path`, without waiting for anybody.
///
/// # Errors
/// Those of open(2).
pub(super) fn open_both_ends(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_NONBLOCK.bits();
    Ok(fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?.into())
}

/// An input: the process's reading end, and a writing end that keeps it open.
///
/// # Errors
/// Those of open(2), with the path in the text.
pub(super) fn open_input(path: &Path) -> Result<(OwnedFd, OwnedFd)> {
    let open = || -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = OFlag::O_NONBLOCK.bits();
        let reader: OwnedFd =
            fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.into();
        let writer = fs::OpenOptions::new().write(true).custom_flags(flags).open(path)?.into();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok((reader, writer))
    };
    open().map_err(|e| {
        HopError::from(e).context(format!("failed to open stdin fifo {}", path.display()))
    })
}

/// The file of `file://`, appended to.
///
/// # Errors
/// Those of making its directory and of open(2).
pub(super) fn open_file(path: &Path) -> Result<OwnedFd> {
    let open = || -> io::Result<OwnedFd> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(fs::OpenOptions::new().append(true).create(true).mode(0o644).open(path)?.into())
    };
    open().map_err(|e| HopError::from(e).context(format!("opening {}", path.display())))
}

fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo())
}

fn chown(fd: &OwnedFd, owner: Owner<'_>) -> Result<()> {
    let some = |id: u32| (id != 0).then_some(id);
    let (uid, gid) = (some(owner.uid).map(Uid::from_raw), some(owner.gid).map(Gid::from_raw));
    if uid.is_some() || gid.is_some() {
        fchown(fd, uid, gid).map_err(io::Error::from)?;
    }
    Ok(())
}

/// A program that takes a process's output on its descriptors 3 and 4.
#[derive(Debug)]
pub(super) struct Logger {
    program: Child,
    /// Writing ends that the shim holds.
    ends: Vec<OwnedFd>,
}

/// How long a logger may take until it says that it is ready.
const READY: Duration = Duration::from_secs(10);

impl Logger {
    /// Executes the logger that `uri` (`binary:///path?argument=value&…`) describes, and waits
    /// until it is ready: it closes, or writes to, descriptor 5. Returns the ends to write to.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub(super) fn execute(uri: &str, owner: Owner<'_>) -> Result<(Logger, OwnedFd, OwnedFd)> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let path = decode(path.strip_prefix("binary://").unwrap_or(path));
        let mut command = Command::new(&path);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            command.arg(decode(key)).arg(decode(value));
        }
        command
            .env("CONTAINER_ID", owner.id)
            .env("CONTAINER_NAMESPACE", owner.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from);
        let ((out_reader, out), (err_reader, err), (ready, ready_writer)) =
            (pipe()?, pipe()?, pipe()?);
        sys::with_descriptors_from_3(&mut command, [out_reader, err_reader, ready_writer]);
        let program = command.spawn().map_err(|e| {
            HopError::from(e).context(format!("failed to start binary process {path}"))
        })?;
        // The command holds the logger's ends.
        drop(command);
        let mut polled = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(READY).unwrap_or(PollTimeout::MAX);
        while poll(&mut polled, timeout) == Err(nix::errno::Errno::EINTR) {}
        Ok((Logger { program, ends: Vec::new() }, out, err))
    }

    /// Keeps `end` open while the process runs.
    pub(super) fn hold(mut self, end: OwnedFd) -> Logger {
        self.ends.push(end);
        self
    }
}

impl Drop for Logger {
    /// The logger ends by itself when its streams do, and is reaped as any child.
    fn drop(&mut self) {
        let _ = self.program.try_wait();
    }
}

impl Held {
    /// With a logger that serves a terminal's output.
    pub(super) fn logging(logger: Logger) -> Held {
        Held { logger: Some(logger), ..Held::default() }
    }
}

/// Undoes a URI's percent-encoding.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = |i: usize| char::from(*bytes.get(i)?).to_digit(16);
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const OWNER: Owner<'_> = Owner { id: "c", namespace: "n", uid: 0, gid: 0 };

    fn fifo(dir: &Path, name: &str) -> String {
        let path = dir.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path.display().to_string()
    }

    #[test]
    fn a_reader_that_dies_breaks_nothing_and_the_end_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names { stdout: fifo(dir.path(), "out"), ..Names::default() };
        let (given, mut held) = open(&names, OWNER).unwrap();
        drop(open_both_ends(Path::new(&names.stdout)).unwrap());
        let mut process = fs::File::from(given.stdout.unwrap());
        process.write_all(b"kept").unwrap();
        let mut reader = fs::File::open(&names.stdout).unwrap();
        drop(process);
        held.release();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "kept");
    }

    #[test]
    fn stdin_ends_only_when_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names { stdin: fifo(dir.path(), "in"), ..Names::default() };
        let (given, mut held) = open(&names, OWNER).unwrap();
        fs::OpenOptions::new().write(true).open(&names.stdin).unwrap().write_all(b"a").unwrap();
        let mut process = fs::File::from(given.stdin.unwrap());
        let mut byte = [0; 1];
        assert_eq!(process.read(&mut byte).unwrap(), 1);
        let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut polled, PollTimeout::ZERO).unwrap(), 0, "still open");
        held.stdin = None;
        assert_eq!(process.read(&mut byte).unwrap(), 0);
    }

    #[test]
    fn a_logger_gets_the_output_and_its_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let (program, log) = (dir.path().join("logger"), dir.path().join("log"));
        fs::write(
            &program,
            format!(
                "#!/bin/sh\nexec 5>&-\n{{ echo $CONTAINER_ID $@; cat <&3; }} > {}\n",
                log.display()
            ),
        )
        .unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let uri = format!("binary://{}?tag=a%20b", program.display());
        let names = Names { stdout: uri.clone(), stderr: uri, ..Names::default() };
        let (given, mut held) = open(&names, OWNER).unwrap();
        fs::File::from(given.stdout.unwrap()).write_all(b"line\n").unwrap();
        drop(given.stderr);
        held.logger.as_mut().unwrap().program.wait().unwrap();
        assert_eq!(fs::read_to_string(log).unwrap(), "c tag a b\nline\n");
    }

    #[test]
    fn unknown_schemes_and_missing_files_are_named() {
        let of = |stdout: &str| {
            open(&Names { stdout: stdout.into(), ..Names::default() }, OWNER).unwrap_err().message
        };
        assert_eq!(
            of("gopher://x"),
            "failed to create init process I/O: unknown STDIO scheme gopher: unknown"
        );
        assert!(of("/nowhere/out").contains("/nowhere/out"));
    }
}
