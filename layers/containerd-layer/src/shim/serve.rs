//! The loop: one thread that waits for anything to happen and then moves everything that can move.
//!
//! After every wait each source is tried, whether it was the one that woke the loop or not: a
//! shim has a handful of them, and so none can be forgotten.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use hops::{
    Shim,
    shim::{TASK_V2, TASK_V3},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
    unistd::read,
};
use wire::ttrpc::methods::Methods;

use super::{connection::Connection, engine::Engine, logger, sys};

/// How long a shim that was told to end goes on delivering events. The real one's is 5 s.
const LINGER: Duration = Duration::from_secs(5);
/// How long nothing must have happened before free memory is given back.
const QUIET: Duration = Duration::from_millis(500);

/// A shim at work.
pub(super) struct Server {
    signals: OwnedFd,
    connections: Vec<Connection>,
    engine: Arc<Engine>,
    methods: Methods<dyn Shim>,
    /// When it ends at the latest, once it was told to.
    end: Option<Instant>,
    /// Whether memory may have been freed since it was given back.
    dirty: bool,
}

impl Server {
    /// Serves `face`, which leads to `engine`, at the engine's door. From here on this process adopts
    /// and reaps the containers' processes.
    ///
    /// # Errors
    /// Those of becoming a subreaper and of handling signals.
    pub(super) fn new(engine: Arc<Engine>, face: Arc<dyn Shim>) -> io::Result<Server> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let signals = sys::signals(&[Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT])?;
        if let Some(listener) = engine.state().door.listener() {
            listener.set_nonblocking(true)?;
        }
        Ok(Server {
            signals,
            connections: Vec::new(),
            engine,
            methods: Methods::new(face).also(TASK_V3, TASK_V2),
            end: None,
            dirty: true,
        })
    }

    /// Serves until it is told to end, by a call or by a signal.
    ///
    /// # Errors
    /// Those of waiting.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            self.wait()?;
            self.take_signals();
            self.accept();
            self.engine.state().pump();
            self.connections.retain_mut(|connection| connection.serve(&self.methods));
            let mut state = self.engine.state();
            state.settle();
            // What the calls had to tell goes out at once.
            state.pump();
            let (shut, drained) = (state.door.listener().is_none(), state.is_drained());
            drop(state);
            if shut {
                self.end.get_or_insert_with(|| Instant::now() + LINGER);
            }
            if self.end.is_some_and(|end| drained || Instant::now() >= end) {
                return Ok(());
            }
        }
    }

    /// Waits until something happens.
    fn wait(&mut self) -> io::Result<()> {
        let state = self.engine.state();
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let listener = state.door.listener();
        polled.extend(listener.map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
        polled.extend(self.connections.iter().map(Connection::interest));
        state.interests(&mut polled);
        let deadline = [state.deadline(), self.end].into_iter().flatten().min();
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let patience = if self.dirty { left.unwrap_or(QUIET).min(QUIET) } else { Duration::MAX };
        let patience = left.map_or(patience, |left| left.min(patience));
        let timeout = match patience {
            Duration::MAX => PollTimeout::NONE,
            // Rounded up: waking just before the deadline would spin.
            some => PollTimeout::try_from(some.as_millis() as i64 + 1).unwrap_or(PollTimeout::MAX),
        };
        let happened = match poll(&mut polled, timeout) {
            Ok(n) => n,
            Err(Errno::EINTR) => 1,
            Err(error) => return Err(error.into()),
        };
        drop(polled);
        drop(state);
        if happened == 0 && self.dirty {
            sys::trim();
        }
        self.dirty = happened != 0;
        Ok(())
    }

    fn take_signals(&mut self) {
        let mut bytes = [0; 64];
        while let Ok(n @ 1..) = read(&self.signals, &mut bytes) {
            for &byte in &bytes[..n] {
                if i32::from(byte) != Signal::SIGCHLD as i32 {
                    // As the real shim: it goes, its containers stay.
                    self.engine.state().door.shut();
                }
            }
        }
        self.engine.state().reap();
    }

    fn accept(&mut self) {
        let state = self.engine.state();
        let Some(listener) = state.door.listener() else { return };
        loop {
            match listener.accept().and_then(|(stream, _)| Connection::new(stream)) {
                Ok(connection) => self.connections.push(connection),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return logger::warn(format_args!("accept: {error}")),
            }
        }
    }
}
