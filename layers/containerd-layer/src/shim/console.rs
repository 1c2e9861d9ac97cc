//! Terminals: the runtime makes one inside the container and sends its master here; the shim
//! copies between it and the client's fifos, the only bytes that it ever copies.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use hops::{HopError, Result};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags},
    unistd::{mkdtemp, read, write},
};

use super::{
    stdio::{Held, Logger, Names, Owner, Target, open_both_ends, open_file, open_input},
    sys,
};

/// A socket in a directory of its own to which a runtime sends a terminal's master.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    dir: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Makes it where nobody else can connect to it.
    ///
    /// # Errors
    /// Those of making the directory and the socket.
    pub(super) fn new() -> Result<ConsoleSocket> {
        let made = || -> io::Result<ConsoleSocket> {
            // A bundle's path may be longer than a socket's may be.
            let dir = mkdtemp(&std::env::temp_dir().join("strata-pty-XXXXXX"))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
            let listener = UnixListener::bind(dir.join("pty.sock"))?;
            listener.set_nonblocking(true)?;
            Ok(ConsoleSocket { dir, listener })
        };
        made().map_err(|e| HopError::from(e).context("failed to create OCI runtime console socket"))
    }

    /// Where the runtime connects to.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join("pty.sock")
    }

    /// The master that the runtime, which has ended, has sent.
    fn receive(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept()?;
        sys::receive_descriptor(stream.as_fd())
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A terminal that is copied to and from.
#[derive(Debug)]
pub(super) struct Console {
    master: OwnedFd,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    to_master: Buffer,
    to_output: Buffer,
    /// The process has exited: what is readable now is the last.
    ending: bool,
}

impl Console {
    /// Takes the master from `socket` and opens the streams that `names` names.
    ///
    /// # Errors
    /// When no master came, and those of opening the streams.
    pub(super) fn attach(
        socket: &ConsoleSocket,
        names: &Names,
        owner: Owner<'_>,
    ) -> Result<(Console, Held)> {
        let master = socket
            .receive()
            .map_err(|e| HopError::from(e).context("failed to retrieve console master"))?;
        Console::copy(master, names, owner).map_err(|e| e.context("failed to start console copy"))
    }

    fn copy(master: OwnedFd, names: &Names, owner: Owner<'_>) -> Result<(Console, Held)> {
        let mut held = Held::default();
        let output =
            match Target::parse(&names.stdout)? {
                Target::None => None,
                Target::Path(path) => Some(open_both_ends(&path).map_err(|e| {
                    HopError::from(e).context(format!("opening {}", path.display()))
                })?),
                Target::File(path) => Some(open_file(&path)?),
                Target::Binary(uri) => {
                    let (logger, stdout, stderr) = Logger::execute(&uri, owner)?;
                    held = Held::logging(logger.hold(stderr));
                    Some(stdout)
                }
            };
        let mut input = None;
        if !names.stdin.is_empty() {
            let (reader, writer) = open_input(Path::new(&names.stdin))?;
            input = Some(reader);
            held.stdin = Some(writer);
        }
        for fd in [Some(&master), input.as_ref(), output.as_ref()].into_iter().flatten() {
            let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(io::Error::from)?;
            let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
            fcntl(fd, FcntlArg::F_SETFL(flags)).map_err(io::Error::from)?;
        }
        let (to_master, to_output) = (Buffer::default(), Buffer::default());
        Ok((Console { master, input, output, to_master, to_output, ending: false }, held))
    }

    /// Sets its size in characters.
    ///
    /// # Errors
    /// Those of the terminal.
    pub(super) fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        Ok(sys::set_window_size(&self.master, rows, columns).map_err(io::Error::from)?)
    }

    /// Notes that the process has exited.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// What is to be waited for.
    pub(super) fn interests<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        let mut want = |fd: &'a OwnedFd, flags: PollFlags| {
            // Without an interest a hang-up would still be reported, again and again.
            if !flags.is_empty() {
                polled.push(PollFd::new(fd.as_fd(), flags));
            }
        };
        let mut master = PollFlags::empty();
        if self.to_output.is_empty() {
            master |= PollFlags::POLLIN;
        }
        if self.to_master.is_empty() {
            if let Some(input) = &self.input {
                want(input, PollFlags::POLLIN);
            }
        } else {
            master |= PollFlags::POLLOUT;
        }
        want(&self.master, master);
        if let (false, Some(output)) = (self.to_output.is_empty(), &self.output) {
            want(output, PollFlags::POLLOUT);
        }
    }

    /// Copies what can be copied now. Returns whether there may ever be more.
    pub(super) fn pump(&mut self) -> bool {
        loop {
            if !self.to_master.flush(Some(&self.master)) {
                break;
            }
            let Some(input) = &self.input else { break };
            match self.to_master.fill(input) {
                Ok(0) => self.input = None,
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => self.input = None,
            }
        }
        loop {
            if !self.to_output.flush(self.output.as_ref()) {
                return true;
            }
            match self.to_output.fill(&self.master) {
                Ok(1..) => {}
                Err(Errno::EAGAIN) => return !self.ending,
                // EIO: nobody has the terminal open any more.
                Ok(0) | Err(_) => return false,
            }
        }
    }
}

/// Bytes on their way.
#[derive(Debug, Default)]
struct Buffer(Vec<u8>);

impl Buffer {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn fill(&mut self, from: &OwnedFd) -> nix::Result<usize> {
        let mut piece = [0; 4096];
        let n = read(from, &mut piece)?;
        self.0.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// Writes what there is; `false` when the other side takes no more for now. What cannot be
    /// written at all is dropped.
    fn flush(&mut self, to: Option<&OwnedFd>) -> bool {
        while let (false, Some(to)) = (self.0.is_empty(), to) {
            match write(to, &self.0) {
                Ok(n) => drop(self.0.drain(..n)),
                Err(Errno::EAGAIN) => return false,
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.0 = Vec::new();
        true
    }
}
