//! A foreground process: its signals, its terminal, its exit code.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::{
    Error, Result, Started,
    error::Context,
    sys::{Errno, file, process, socket, tty},
};

/// What is prepared before the process exists: its signals are not lost, its terminal has a place
/// to come to.
pub(super) struct Attachment {
    signals: OwnedFd,
    console: Option<OwnedFd>,
}

impl Attachment {
    /// Blocks the signals that are to be passed on; with `tty`, answers the socket that the
    /// terminal's master is to be sent to.
    pub(super) fn new(tty: bool) -> Result<(Attachment, Option<OwnedFd>)> {
        let signals = process::signals().context(|| "signalfd".to_owned())?;
        if !tty {
            return Ok((Attachment { signals, console: None }, None));
        }
        let (ours, theirs) = socket::pair().context(|| "socketpair".to_owned())?;
        Ok((Attachment { signals, console: Some(ours) }, Some(theirs)))
    }

    /// Stays with the process until it ends; answers its exit code.
    pub(super) fn stay(self, started: &Started) -> Result<i32> {
        let terminal = match &self.console {
            Some(console) => {
                let (_, master) = socket::receive(console.as_fd(), &mut [0u8; 64])
                    .context(|| "receive the terminal".to_owned())?;
                let master = master
                    .ok_or_else(|| Error::Invalid("the process sent no terminal".to_owned()))?;
                Some(Terminal::new(master))
            }
            None => None,
        };
        let code = self.pump(started, terminal.as_ref());
        if let Some(terminal) = terminal {
            terminal.drain();
        }
        code
    }

    fn pump(&self, started: &Started, terminal: Option<&Terminal>) -> Result<i32> {
        let master = terminal.map_or(-1, |t| t.master.as_raw_fd());
        let mut stdin = if terminal.is_some() { 0 } else { -1 };
        let mut output = master;
        loop {
            let ready = file::poll(
                [self.signals.as_raw_fd(), started.pidfd.as_raw_fd(), output, stdin],
                -1,
            )
            .context(|| "poll".to_owned())?;
            let [signal, ended, has_output, has_input] = ready;
            if signal {
                self.pass_on(started, terminal)?;
            }
            if let Some(terminal) = terminal {
                if has_output && !copy(terminal.master.as_fd(), file::borrow(1)) {
                    output = -1;
                }
                if has_input && !copy(file::borrow(0), terminal.master.as_fd()) {
                    stdin = -1;
                }
            }
            if ended {
                return process::wait_pidfd(started.pidfd.as_fd())
                    .context(|| format!("wait for {}", started.pid));
            }
        }
    }

    fn pass_on(&self, started: &Started, terminal: Option<&Terminal>) -> Result<()> {
        let signal =
            process::next_signal(self.signals.as_fd()).context(|| "read signalfd".to_owned())?;
        match signal {
            libc::SIGCHLD | libc::SIGURG | libc::SIGPIPE => {}
            libc::SIGWINCH => {
                if let Some(terminal) = terminal {
                    terminal.resize();
                }
            }
            signal => match process::pidfd_signal(started.pidfd.as_fd(), signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(e) => return Err(Error::os(format!("signal {}", started.pid), e)),
            },
        }
        Ok(())
    }
}

/// The caller's terminal joined with the container's.
struct Terminal {
    master: OwnedFd,
    before: Option<tty::Settings>,
}

impl Terminal {
    fn new(master: OwnedFd) -> Terminal {
        // The caller's terminal translates newlines already.
        let _ = tty::clear_newline_translation(master.as_fd());
        let before = tty::make_raw(file::borrow(0)).ok();
        let terminal = Terminal { master, before };
        terminal.resize();
        terminal
    }

    fn resize(&self) {
        if let Ok(size) = tty::size(file::borrow(0)) {
            let _ = tty::set_size(self.master.as_fd(), size);
        }
    }

    /// Copies what the process wrote before it ended.
    fn drain(self) {
        while file::poll([self.master.as_raw_fd()], 0).is_ok_and(|[ready]| ready)
            && copy(self.master.as_fd(), file::borrow(1))
        {}
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tty::restore(file::borrow(0), before);
        }
    }
}

/// Copies what is there; false at the end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; 4096];
    match file::read(from, &mut buffer) {
        Ok(0) => false,
        Ok(n) => {
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                match file::write(to, rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(_) => return false,
                }
            }
            true
        }
        Err(Errno::INTR | Errno::AGAIN) => true,
        Err(_) => false,
    }
}
