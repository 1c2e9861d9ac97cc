//! Layers to directories, and directories to layers.
//!
//! [`apply`] runs on two threads: the caller's reads the compressed stream and inflates it, a
//! second one hashes the tar and writes the files, with a few buffers going round between them.

mod compare;
pub(crate) mod compression;
pub(crate) mod confine;
mod create;
mod extract;
pub(crate) mod tar;

pub use compare::compare;
pub use create::create;

use crate::{Digest, Error, Result, digest::Hasher, snapshots::Usage};
use compression::Decoder;
use std::{
    collections::BTreeSet,
    io::{self, BufRead, Read},
    path::Path,
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread,
};

/// How large the pieces are that go from the inflating to the writing thread, and how many.
const BUFFER: usize = 256 << 10;
const BUFFERS: usize = 16;

/// What a whiteout in a layer becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// A marker for overlayfs; the target holds this layer alone.
    Overlay,
    /// The removal of what it names; the target holds the layers below too.
    Remove,
}

/// What was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What the files take, with sizes rounded up to blocks.
    pub usage: Usage,
    /// Directories that the layer has files in but does not describe; see [`inherit`].
    pub implied: BTreeSet<Vec<u8>>,
}

/// Applies a layer, compressed or not, to the directory `root`, and reads `source` to its end.
///
/// # Errors
/// `DataLoss` for a broken stream or archive, `InvalidArgument` for an entry that cannot be made
/// inside `root`, `ResourceExhausted` for a full disk; each names the entry. What was written by
/// then stays: the directory is the caller's to remove.
pub fn apply(source: impl BufRead + Send, root: &Path, whiteouts: Whiteouts) -> Result<Applied> {
    let (filled, buffers) = sync_channel(BUFFERS);
    let (recycle, empty) = channel();
    thread::scope(|scope| {
        let stream = Stream {
            buffers,
            recycle,
            buffer: Vec::new(),
            at: 0,
            ended: false,
            hasher: Hasher::default(),
            size: 0,
        };
        let writer = thread::Builder::new()
            .name("unpack".into())
            .spawn_scoped(scope, || extract::extract(stream, root, whiteouts))
            .map_err(|e| Error::io("starting a thread", &e))?;
        let inflated = inflate(source, &filled, &empty);
        drop(filled);
        let written = writer.join().unwrap_or_else(|_| Err(Error::internal("unpacking panicked")));
        match (inflated, written) {
            // The writer's own failure is the cause, unless the stream's made it stop.
            (Err(Stopped::Source(e)), _) => Err(e),
            (_, written) => written,
        }
    })
}

enum Stopped {
    /// The source failed.
    Source(Error),
    /// The writer went away.
    Writer,
}

fn inflate(
    source: impl BufRead,
    filled: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), Stopped> {
    let failed = |e: &io::Error| Stopped::Source(stream_error(e));
    let mut decoder = Decoder::new(source).map_err(|e| failed(&e))?;
    let mut made = 0;
    loop {
        let mut buffer = match empty.try_recv() {
            Ok(buffer) => buffer,
            Err(_) if made < BUFFERS + 2 => {
                made += 1;
                vec![0; BUFFER]
            }
            Err(_) => empty.recv().map_err(|_| Stopped::Writer)?,
        };
        buffer.resize(BUFFER, 0);
        let mut length = 0;
        while length < BUFFER {
            match decoder.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(&e)),
            }
        }
        buffer.truncate(length);
        // An empty buffer is the end; a channel without one is a failure.
        filled.send(buffer).map_err(|_| Stopped::Writer)?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// The error of a layer's stream: its own if it carries one, or what the decoder found.
fn stream_error(error: &io::Error) -> Error {
    if let Some(inner) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        return inner.clone();
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::data_loss("layer is truncated: unexpected EOF"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            Error::data_loss(format_args!("layer is not a valid compressed stream: {error}"))
        }
        _ => Error::io("reading the layer", error),
    }
}

/// The uncompressed tar as the writing thread sees it.
#[derive(Debug)]
struct Stream {
    buffers: Receiver<Vec<u8>>,
    recycle: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    hasher: Hasher,
    size: u64,
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() && !self.ended {
            let used = std::mem::take(&mut self.buffer);
            if used.capacity() > 0 {
                // The inflating thread may have ended: then nobody needs the buffer.
                let _ = self.recycle.send(used);
            }
            self.at = 0;
            self.buffer = self.buffers.recv().map_err(|_| io::ErrorKind::ConnectionAborted)?;
            self.ended = self.buffer.is_empty();
            self.hasher.update(&self.buffer);
            self.size += self.buffer.len() as u64;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let length = chunk.len().min(buffer.len());
        buffer[..length].copy_from_slice(&chunk[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// Gives the implied directories of an applied layer the owner, mode, times and extended attributes
/// that the same directory has below: in the first of `lower` (topmost first) that has it.
///
/// # Errors
/// When an attribute cannot be set.
pub fn inherit(root: &Path, implied: &BTreeSet<Vec<u8>>, lower: &[impl AsRef<Path>]) -> Result<()> {
    extract::inherit(root, implied, lower)
}
