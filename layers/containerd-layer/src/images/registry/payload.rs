//! What a request carries: nothing, a document, or a blob that is read as it is sent.

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How much of a blob is read at once, in bytes.
const PIECE: u64 = 128 << 10;
/// How many pieces may wait for the network.
const PIECES: usize = 4;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How many bytes were handed to the network so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<AtomicU64>);

impl Sent {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        self.0.fetch_add(bytes, Ordering::Relaxed) + bytes
    }
}

/// Told how many bytes were sent.
pub(super) type Watch = Arc<dyn Fn(u64) + Send + Sync>;

/// What is sent; a body is made of it as often as the request is.
#[derive(Clone)]
pub(super) enum Payload {
    Nothing,
    Bytes { media_type: String, bytes: Bytes },
    File { file: Arc<File>, size: u64, watch: Watch },
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::Bytes { bytes, .. } => write!(f, "Bytes({})", bytes.len()),
            Self::File { size, .. } => write!(f, "File({size})"),
        }
    }
}

impl Payload {
    /// Says what it is.
    pub(super) fn describe(&self, headers: &mut HeaderMap) {
        let (media_type, size) = match self {
            Self::Nothing => return,
            Self::Bytes { media_type, bytes } => (media_type.as_str(), bytes.len() as u64),
            Self::File { size, .. } => ("application/octet-stream", *size),
        };
        if let Ok(value) = HeaderValue::from_str(media_type) {
            headers.insert(CONTENT_TYPE, value);
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    }

    /// A fresh body, and how much of it has been taken.
    pub(super) fn body(&self) -> (Body, Sent) {
        let sent = Sent::default();
        let body = match self {
            Self::Nothing => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            Self::Bytes { bytes, .. } => {
                Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync()
            }
            Self::File { file, size, watch } => {
                let pieces = read(Arc::clone(file), *size);
                let (counted, watch) = (sent.clone(), Arc::clone(watch));
                let frames = pieces.map_ok(move |piece| {
                    watch(counted.add(piece.len()));
                    Frame::data(piece)
                });
                StreamBody::new(frames).boxed_unsync()
            }
        };
        (body, sent)
    }
}

/// A file piece by piece, read where it holds nobody up.
fn read(file: Arc<File>, size: u64) -> ReceiverStream<io::Result<Bytes>> {
    let (sender, pieces) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut offset = 0;
        while offset < size {
            let length = PIECE.min(size - offset);
            let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
            let read = file.read_exact_at(&mut piece, offset).map(|()| Bytes::from(piece));
            let failed = read.is_err();
            // The request that wanted it may have its answer already.
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
            offset += length;
        }
    });
    ReceiverStream::new(pieces)
}
