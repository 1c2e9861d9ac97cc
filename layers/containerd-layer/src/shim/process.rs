//! One process of a container: its streams while it runs, and how it ended.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use hops::{
    HopError, Kind, Result, oci,
    proto::{Timestamp, containerd::v1::types::Status},
};

use super::{
    console::{Console, ConsoleSocket},
    stdio::{self, Held, Names, Owner},
};

/// How a process ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Exit {
    /// Its exit code; 128 + n for a death by signal n.
    pub(super) status: u32,
    /// When; absent for a process that never ran.
    pub(super) at: Option<Timestamp>,
}

/// An init or an exec'd process.
#[derive(Debug)]
pub(super) struct Process {
    /// The names of its streams.
    pub(super) names: Names,
    /// Its pid in the shim's namespace; 0 until it has one.
    pub(super) pid: u32,
    /// Created, running, paused or stopped.
    pub(super) status: Status,
    /// Set once; shared with those who wait for it.
    pub(super) exit: Arc<OnceLock<Exit>>,
    held: Held,
    console: Option<Console>,
}

impl Process {
    /// One that does not run yet.
    pub(super) fn new(names: Names) -> Process {
        Process {
            names,
            pid: 0,
            status: Status::Created,
            exit: Arc::default(),
            held: Held::default(),
            console: None,
        }
    }

    /// Opens its streams, has `make` make it with them, and keeps what is to be kept.
    ///
    /// `make` is given the streams, or for a terminal the socket that its master is to be sent to.
    ///
    /// # Errors
    /// Those of the streams and of `make`.
    pub(super) fn make(
        &mut self,
        owner: Owner<'_>,
        make: impl FnOnce(oci::Stdio, Option<PathBuf>) -> Result<()>,
    ) -> Result<()> {
        if self.names.terminal {
            let socket = ConsoleSocket::new()?;
            make(oci::Stdio::default(), Some(socket.path()))?;
            let (console, held) = Console::attach(&socket, &self.names, owner)?;
            (self.console, self.held) = (Some(console), held);
        } else {
            let (given, held) = stdio::open(&self.names, owner)?;
            make(given, None)?;
            self.held = held;
        }
        Ok(())
    }

    /// Whether it is the live process `pid`.
    pub(super) fn is(&self, pid: u32) -> bool {
        self.pid == pid && self.exit.get().is_none()
    }

    /// Notes its end, now.
    pub(super) fn exited(&mut self, status: u32) -> Exit {
        self.status = Status::Stopped;
        self.held.release();
        if let Some(console) = &mut self.console {
            console.end();
        }
        let now = Exit { status, at: Some(SystemTime::now().into()) };
        *self.exit.get_or_init(|| now)
    }

    /// How it ended; zeros while it has not.
    pub(super) fn exit(&self) -> Exit {
        self.exit.get().copied().unwrap_or_default()
    }

    /// Closes the shim's end of its standard input.
    pub(super) fn close_stdin(&mut self) {
        self.held.stdin = None;
    }

    /// Its terminal.
    pub(super) fn console(&self) -> Option<&Console> {
        self.console.as_ref()
    }

    /// Its terminal, to be copied further by whoever takes it.
    pub(super) fn take_console(&mut self) -> Option<Console> {
        self.console.take()
    }

    /// Copies between its terminal and its streams.
    pub(super) fn pump(&mut self) {
        if self.console.as_mut().is_some_and(|console| !console.pump()) {
            self.console = None;
        }
    }
}

/// An error that the real shim makes of plain words: its code is unknown, and says so.
pub(super) fn refused(words: impl std::fmt::Display) -> HopError {
    HopError::new(Kind::Unknown, format!("{words}: unknown"))
}

/// A runtime's failure as the real shim words it. Callers read the words, not the code.
pub(super) fn failed(words: &str) -> impl FnOnce(HopError) -> HopError + '_ {
    move |mut error| {
        error.kind = Kind::Unknown;
        error.message.push_str(": unknown");
        error.context(words)
    }
}
