//! Events on their way to containerd: queued, sent one after the other over ttrpc, and kept while
//! containerd is away. Nothing here waits.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use hops::{
    Cx, Result,
    proto::{
        Any,
        containerd::{services::events::ttrpc::v1::ForwardRequest, types::Envelope},
    },
    rpc::RpcOp,
};
use nix::{
    poll::{PollFd, PollFlags},
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};
use prost::{Message, Name};
use wire::ttrpc::frame::{Frame, REQUEST, RESPONSE, Request, Response};

use super::logger;

/// How many events are kept; the oldest is given up for a new one (containerd's `queueSize`).
const QUEUE: usize = 2048;
/// How often an event that containerd refuses is sent again (containerd's `maxRequeue`).
const REFUSALS: u32 = 5;
/// How long containerd may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long until it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Where events go.
#[derive(Debug)]
pub(super) enum Destination {
    /// containerd's ttrpc socket.
    Socket(PathBuf),
    /// `PROGRAM --address ADDRESS publish`, for a containerd without one.
    Program {
        /// The program.
        program: String,
        /// containerd's gRPC socket.
        address: String,
    },
}

impl Destination {
    /// `socket`, unless it is empty; else by the environment that containerd gives a shim
    /// (`TTRPC_ADDRESS`), or by its flags.
    pub(super) fn find(socket: &str, program: &str, address: &str) -> Destination {
        let named = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
        match [socket, &named].into_iter().find(|address| !address.is_empty()) {
            Some(socket) => Destination::Socket(wire::socket::path_of(socket)),
            None => {
                Destination::Program { program: program.to_owned(), address: address.to_owned() }
            }
        }
    }
}

/// The queue and its connection.
#[derive(Debug)]
pub(super) struct Publisher {
    namespace: String,
    destination: Destination,
    queue: VecDeque<Bytes>,
    refusals: u32,
    connection: Option<Connection>,
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    next: u32,
    arrived: BytesMut,
    outgoing: BytesMut,
    /// When the event that was sent last was sent; `None` when it has been answered.
    sent: Option<Instant>,
}

impl Publisher {
    /// For events of `namespace`.
    pub(super) fn new(namespace: &str, destination: Destination) -> Publisher {
        Publisher {
            namespace: namespace.to_owned(),
            destination,
            queue: VecDeque::new(),
            refusals: 0,
            connection: None,
            retry_at: None,
        }
    }

    /// Queues `event`, which has happened now.
    pub(super) fn publish<M: Message + Name>(&mut self, topic: &str, event: &M) {
        let envelope = Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(Any { type_url: M::full_name(), value: event.encode_to_vec() }),
        };
        logger::debug(format_args!("event {topic}"));
        match &self.destination {
            Destination::Socket(_) => {
                if self.queue.len() == QUEUE {
                    logger::warn(format_args!("too many events wait; the oldest is given up"));
                    self.queue.pop_front();
                }
                let forward = ForwardRequest { envelope: Some(envelope) };
                self.queue.push_back(forward.encode_to_vec().into());
            }
            Destination::Program { program, address } => {
                if let Err(error) = execute(program, address, &envelope) {
                    logger::warn(format_args!("publish {topic} with {program}: {error}"));
                }
            }
        }
    }

    /// Whether everything has been delivered.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When [`Publisher::pump`] has to be called although nothing has arrived.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let answer = self.connection.as_ref().and_then(|c| Some(c.sent? + ANSWER));
        self.retry_at.or(answer)
    }

    /// What is to be waited for.
    pub(super) fn interests<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        if let Some(connection) = &self.connection {
            let mut flags = PollFlags::POLLIN;
            if !connection.outgoing.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            polled.push(PollFd::new(connection.stream.as_fd(), flags));
        }
    }

    /// Sends and receives what can be now.
    pub(super) fn pump(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        if let Err(error) = self.exchange(now) {
            logger::debug(format_args!("forward event: {error}"));
            let fresh = self.connection.as_ref().is_some_and(|c| c.sent.is_none());
            self.connection = None;
            // A connection that was lost while nothing was asked of it says only that containerd
            // went away some time ago.
            if !self.queue.is_empty() && !fresh {
                self.retry_at = Some(now + RETRY);
            } else if !self.queue.is_empty() {
                self.retry_at = Some(now + Duration::from_millis(10));
            }
        }
    }

    fn exchange(&mut self, now: Instant) -> io::Result<()> {
        let Destination::Socket(path) = &self.destination else { return Ok(()) };
        loop {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                None if self.queue.is_empty() => return Ok(()),
                None => self.connection.insert(Connection::open(path)?),
            };
            if connection.sent.is_none()
                && let Some(event) = self.queue.front()
            {
                connection.send(event.clone(), now);
            }
            connection.flush()?;
            let Some(answer) = connection.receive()? else {
                return match connection.sent {
                    Some(sent) if now >= sent + ANSWER => Err(io::ErrorKind::TimedOut.into()),
                    _ => Ok(()),
                };
            };
            match answer {
                Ok(_) => self.refusals = 0,
                Err(error) if self.refusals < REFUSALS => {
                    self.refusals += 1;
                    logger::warn(format_args!("forward event: {error}"));
                    self.retry_at = Some(now + RETRY * self.refusals);
                    return Ok(());
                }
                Err(error) => {
                    self.refusals = 0;
                    logger::warn(format_args!("event is given up: {error}"));
                }
            }
            self.queue.pop_front();
        }
    }
}

impl Connection {
    /// Connects without waiting for a containerd whose backlog is full.
    fn open(path: &PathBuf) -> io::Result<Connection> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(path)?)?;
        Ok(Connection {
            stream: fd.into(),
            next: 1,
            arrived: BytesMut::new(),
            outgoing: BytesMut::new(),
            sent: None,
        })
    }

    fn send(&mut self, event: Bytes, now: Instant) {
        let request = Request::new(&Cx::background().within(ANSWER), ForwardRequest::PATH, event);
        Frame::of(self.next, REQUEST, &request).encode(&mut self.outgoing);
        self.next += 2;
        self.sent = Some(now);
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(n) => drop(self.outgoing.split_to(n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.outgoing = BytesMut::new();
        Ok(())
    }

    /// The answer to the event that was sent last, once it is here.
    fn receive(&mut self) -> io::Result<Option<Result<Bytes>>> {
        let mut piece = [0; 512];
        loop {
            while let Some(frame) = Frame::take(&mut self.arrived).map_err(io::Error::other)? {
                if frame.kind == RESPONSE && frame.stream + 2 == self.next && self.sent.is_some() {
                    self.sent = None;
                    let response = Response::decode(frame.payload).map_err(io::Error::other)?;
                    self.arrived = BytesMut::from(&self.arrived[..]);
                    return Ok(Some(response.result()));
                }
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.arrived.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Has containerd's own program publish the event; it is reaped as any child.
fn execute(program: &str, address: &str, envelope: &Envelope) -> io::Result<()> {
    let mut child = Command::new(program)
        .args(["--address", address, "publish", "--topic", &envelope.topic])
        .args(["--namespace", &envelope.namespace])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let event = envelope.event.as_ref().map(Message::encode_to_vec).unwrap_or_default();
    match child.stdin.take() {
        // An event is smaller than a pipe.
        Some(mut stdin) => stdin.write_all(&event),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use hops::proto::containerd::events::TaskStart;

    use super::*;

    fn answer(stream: &mut UnixStream, result: Result<Bytes>) -> Envelope {
        let (mut arrived, mut piece) = (BytesMut::new(), [0; 4096]);
        let frame = loop {
            if let Some(frame) = Frame::take(&mut arrived).unwrap() {
                break frame;
            }
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0);
            arrived.extend_from_slice(&piece[..n]);
        };
        let mut out = BytesMut::new();
        Frame::of(frame.stream, RESPONSE, &Response::of(result)).encode(&mut out);
        stream.write_all(&out).unwrap();
        let request = Request::decode(frame.payload).unwrap();
        ForwardRequest::decode(request.payload).unwrap().envelope.unwrap()
    }

    fn wait(publisher: &Publisher) {
        let mut polled = Vec::new();
        publisher.interests(&mut polled);
        nix::poll::poll(&mut polled, nix::poll::PollTimeout::from(1000u16)).unwrap();
    }

    #[test]
    fn events_arrive_in_order_and_outlive_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut publisher = Publisher::new("ns", Destination::Socket(path.clone()));
        for pid in 1..=3 {
            let event = TaskStart { container_id: "c".into(), pid };
            publisher.publish("/tasks/start", &event);
        }
        publisher.pump();
        assert!(publisher.deadline().is_some(), "nobody listens yet");
        publisher.retry_at = None;

        for (expected, left) in [(1, 2), (2, 0)] {
            let listener = UnixListener::bind(&path).unwrap();
            publisher.retry_at = None;
            publisher.pump();
            let (mut stream, _) = listener.accept().unwrap();
            let first = answer(&mut stream, Ok(Bytes::new()));
            assert_eq!((first.namespace.as_str(), first.topic.as_str()), ("ns", "/tasks/start"));
            let event = first.event.unwrap();
            assert_eq!(event.type_url, "containerd.events.TaskStart");
            assert_eq!(TaskStart::decode(&*event.value).unwrap().pid, expected);
            wait(&publisher);
            publisher.pump();
            if left == 0 {
                answer(&mut stream, Ok(Bytes::new()));
                wait(&publisher);
                publisher.pump();
            }
            drop((stream, listener));
            std::fs::remove_file(&path).unwrap();
            publisher.pump();
            assert_eq!(publisher.queue.len(), left);
        }
        assert!(publisher.is_empty());
    }

    #[test]
    fn an_event_that_is_refused_for_good_does_not_stop_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut publisher = Publisher::new("ns", Destination::Socket(path));
        publisher.publish("/tasks/start", &TaskStart::default());
        publisher.pump();
        let (mut stream, _) = listener.accept().unwrap();
        for _ in 0..=REFUSALS {
            answer(&mut stream, Err(hops::HopError::invalid("no")));
            wait(&publisher);
            publisher.pump();
            publisher.retry_at = None;
            publisher.pump();
        }
        assert!(publisher.is_empty());
    }
}
