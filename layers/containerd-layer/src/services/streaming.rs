//! `Streaming`: streams that a client opens by name, for a transfer to take up.
//!
//! The first message names the stream and is answered with an empty one; what follows belongs to
//! the transfer. Bytes travel as `Data`, and only as many as the reader's `WindowUpdate`s allow
//! (containerd 1.7's `pkg/streaming` and `core/transfer/streaming`).

use super::{any, namespace, streams};
use crate::{Error, Result};
use futures_util::{StreamExt, stream};
use hops::{
    Inputs,
    containerd::Stream,
    proto::{
        Any,
        containerd::{
            services::streaming::v1::StreamInit,
            types::transfer::{Data, WindowUpdate},
        },
    },
};
use prost::{Message, Name};
use std::{
    collections::HashMap,
    fmt,
    io::{self, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{runtime::Handle, sync::mpsc};

/// How many messages may wait for the client to read them.
const QUEUE: usize = 16;
/// How many bytes a sender may be ahead of its reader.
const WINDOW: usize = 1 << 20;
/// The largest piece that is sent at once, as containerd has it.
const PIECE: usize = 32 << 10;

type Key = (String, String);

/// The streams that wait to be taken up. Clones are the same streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<Key, Channel>>>);

impl Streams {
    fn open(&self) -> MutexGuard<'_, HashMap<Key, Channel>> {
        // The map is whole after every statement, so a panicked holder left it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the stream `id`.
    ///
    /// # Errors
    /// `NotFound` when nobody opened it.
    pub(super) fn take(&self, ns: &str, id: &str) -> Result<Channel> {
        let key = (ns.to_owned(), id.to_owned());
        self.open().remove(&key).ok_or_else(|| Error::not_found(format_args!("stream {id:?}")))
    }
}

/// One stream: what the client sends, and where it listens.
pub(super) struct Channel {
    pub(super) input: Inputs<Any>,
    pub(super) output: mpsc::Sender<Any>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}

/// The client's end of a stream; with it the name goes.
struct Opened {
    streams: Streams,
    key: Key,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.streams.open().remove(&self.key);
    }
}

/// Whether an `Any` holds an `M`; the type may stand behind a domain.
pub(super) fn unpack<M: Message + Name + Default>(packed: &Any) -> Result<Option<M>> {
    let name = packed.type_url.rsplit('/').next().unwrap_or_default();
    // The same messages were in other packages before they were published.
    if name.rsplit('.').next() != Some(M::NAME) {
        return Ok(None);
    }
    let message = M::decode(packed.value.as_slice());
    message.map(Some).map_err(|e| Error::invalid(format_args!("{name}: {e}")))
}

streams! {
    Stream = |engine, cx, _op, input| {
        let ns = namespace(cx)?;
        let mut input = input;
        let first = input.next().await.unwrap_or_default();
        let Some(StreamInit { id }) = unpack(&first)? else {
            return Err(Error::invalid(format_args!(
                "expected {} as the first message, not {:?}", StreamInit::full_name(), first.type_url
            )).into());
        };
        let (output, answers) = mpsc::channel(QUEUE);
        let streams = engine.streams().clone();
        let key = (ns, id);
        {
            let mut open = streams.open();
            if open.contains_key(&key) {
                return Err(Error::already_exists(format_args!("stream {:?}", key.1)).into());
            }
            open.insert(key.clone(), Channel { input, output });
        }
        let opened = Opened { streams, key };
        let empty = Any { type_url: "google.protobuf.Empty".to_owned(), value: Vec::new() };
        let answers = stream::unfold((answers, opened), |(mut answers, opened)| async {
            Some((answers.recv().await?, (answers, opened)))
        });
        Ok(Box::pin(stream::iter([empty]).chain(answers).map(Ok)))
    }
}

impl Channel {
    /// The bytes that the client sends, for a thread that may block.
    pub(super) fn reader(self) -> ByteReader {
        let runtime = Handle::current();
        ByteReader { channel: self, runtime, piece: Vec::new(), at: 0, window: 0 }
    }

    /// A place for bytes that the client reads, for a thread that may block.
    pub(super) fn writer(self) -> ByteWriter {
        ByteWriter { channel: self, runtime: Handle::current(), window: 0 }
    }

    fn tell<M: Message + Name>(&self, message: &M) -> io::Result<()> {
        self.output
            .blocking_send(any(message))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the stream was closed"))
    }
}

/// Reads what a client streams.
pub(super) struct ByteReader {
    channel: Channel,
    runtime: Handle,
    piece: Vec<u8>,
    at: usize,
    /// How much the client may still send.
    window: usize,
}

impl Read for ByteReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.window < WINDOW {
                self.channel.tell(&WindowUpdate { update: WINDOW as i32 })?;
                self.window += WINDOW;
            }
            let Some(packed) = self.runtime.block_on(self.channel.input.next()) else {
                return Ok(0);
            };
            if let Some(Data { data }) = unpack(&packed).map_err(io::Error::other)? {
                self.window = self.window.saturating_sub(data.len());
                (self.piece, self.at) = (data.into(), 0);
            }
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Writes what a client reads; dropping it is the end of the stream.
pub(super) struct ByteWriter {
    channel: Channel,
    runtime: Handle,
    /// How much the client wants.
    window: usize,
}

impl Write for ByteWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        while self.window == 0 {
            let Some(packed) = self.runtime.block_on(self.channel.input.next()) else {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the stream was closed"));
            };
            if let Some(WindowUpdate { update }) = unpack(&packed).map_err(io::Error::other)? {
                self.window += usize::try_from(update).unwrap_or_default();
            }
        }
        let length = buffer.len().min(self.window).min(PIECE);
        let data = buffer[..length].to_vec().into();
        self.channel.tell(&Data { data })?;
        self.window -= length;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
