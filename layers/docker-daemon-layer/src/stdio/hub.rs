//! Who listens to a process's output, and who writes its input.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use hops::Outputs;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Stream, frame::frame};

/// How many chunks a listener may be behind before the process has to wait for it.
const BEHIND: usize = 64;

/// What an attached client sends.
pub(crate) enum Input {
    Data(Bytes),
    /// It will send nothing more.
    End,
}

/// The meeting point of a process and those attached to it; it outlives the process, so that one
/// can attach before the start.
pub(crate) struct Hub {
    tty: bool,
    state: Mutex<State>,
}

struct State {
    listeners: Vec<Listener>,
    input: mpsc::Sender<Input>,
    /// Taken by the process's start.
    waiting: Option<mpsc::Receiver<Input>>,
}

#[derive(Clone)]
struct Listener {
    stdout: bool,
    stderr: bool,
    sender: mpsc::Sender<hops::Result<Bytes>>,
}

impl State {
    fn new() -> State {
        let (input, waiting) = mpsc::channel(16);
        State { listeners: Vec::new(), input, waiting: Some(waiting) }
    }
}

impl Hub {
    pub(crate) fn new(tty: bool) -> Hub {
        Hub { tty, state: Mutex::new(State::new()) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens from now on until the process ends.
    pub(crate) fn listen(&self, stdout: bool, stderr: bool) -> Outputs<Bytes> {
        let (sender, receiver) = mpsc::channel(BEHIND);
        self.state().listeners.push(Listener { stdout, stderr, sender });
        Box::pin(ReceiverStream::new(receiver))
    }

    /// Where to send input, now or before the start.
    pub(crate) fn input(&self) -> mpsc::Sender<Input> {
        self.state().input.clone()
    }

    /// The input, for the process that starts now.
    pub(crate) fn take_input(&self) -> Option<mpsc::Receiver<Input>> {
        self.state().waiting.take()
    }

    /// Whether anybody listens.
    pub(crate) fn heard(&self) -> bool {
        !self.state().listeners.is_empty()
    }

    /// Tells the listeners what the process said; a listener that is slow is waited for, one that
    /// is gone is forgotten.
    pub(crate) async fn say(&self, stream: Stream, data: Bytes) {
        let listeners: Vec<Listener> = self.state().listeners.clone();
        if listeners.is_empty() {
            return;
        }
        let framed = frame(self.tty, stream, data);
        let mut gone = false;
        for listener in listeners {
            let wants = if stream == Stream::Stdout { listener.stdout } else { listener.stderr };
            gone |= if wants {
                listener.sender.send(Ok(framed.clone())).await.is_err()
            } else {
                listener.sender.is_closed()
            };
        }
        if gone {
            self.state().listeners.retain(|listener| !listener.sender.is_closed());
        }
    }

    /// The process has ended: its listeners hear no more, its input is forgotten.
    pub(crate) fn end(&self) {
        *self.state() = State::new();
    }
}
