//! A client's connection: what has arrived, the calls that are open, what is to be written.

use std::{
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use hops::{HopError, Shim};
use nix::poll::{PollFd, PollFlags};
use prost::Message;
use wire::ttrpc::{
    frame::{Frame, REQUEST, RESPONSE, Request, Response},
    methods::{Methods, Pending},
};

use super::logger;

/// A connection and its calls. Calls are dropped with it, as by a client that hangs up.
pub(super) struct Connection {
    stream: UnixStream,
    arrived: BytesMut,
    outgoing: BytesMut,
    calls: Vec<(u32, Pending)>,
}

impl Connection {
    /// Takes over an accepted connection.
    ///
    /// # Errors
    /// Those of making it not block.
    pub(super) fn new(stream: UnixStream) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        let (arrived, outgoing) = (BytesMut::new(), BytesMut::new());
        Ok(Connection { stream, arrived, outgoing, calls: Vec::new() })
    }

    /// What is to be waited for.
    pub(super) fn interest(&self) -> PollFd<'_> {
        let mut flags = PollFlags::POLLIN;
        if !self.outgoing.is_empty() {
            flags |= PollFlags::POLLOUT;
        }
        PollFd::new(self.stream.as_fd(), flags)
    }

    /// Reads what has arrived and begins the calls in it, then answers every call that can be
    /// answered now. Returns whether the connection lives on.
    pub(super) fn serve(&mut self, methods: &Methods<dyn Shim>) -> bool {
        let alive = self.receive(methods).and_then(|()| self.answer());
        if let Err(error) = &alive
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            logger::debug(format_args!("connection: {error}"));
        }
        alive.is_ok()
    }

    fn receive(&mut self, methods: &Methods<dyn Shim>) -> io::Result<()> {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.arrived.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        while let Some(frame) = Frame::take(&mut self.arrived).map_err(io::Error::other)? {
            if frame.kind != REQUEST {
                continue;
            }
            let call: Pending = match Request::decode(frame.payload) {
                Ok(request) => methods.call(request),
                Err(e) => Box::pin(std::future::ready(Err(HopError::invalid(e.to_string())))),
            };
            self.calls.push((frame.stream, call));
        }
        if self.arrived.is_empty() {
            // An idle shim holds no buffers.
            self.arrived = BytesMut::new();
        }
        Ok(())
    }

    /// Polls every open call, and writes each answer at once: the next call may take its time.
    fn answer(&mut self) -> io::Result<()> {
        let mut task = Context::from_waker(Waker::noop());
        let mut at = 0;
        while at < self.calls.len() {
            let (stream, call) = &mut self.calls[at];
            match call.as_mut().poll(&mut task) {
                Poll::Pending => at += 1,
                Poll::Ready(result) => {
                    let response = Response::of(result);
                    Frame::of(*stream, RESPONSE, &response).encode(&mut self.outgoing);
                    drop(self.calls.remove(at));
                    self.flush()?;
                }
            }
        }
        self.flush()
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
}
