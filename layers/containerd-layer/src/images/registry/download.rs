//! A blob on its way here: from whichever host has it, resumed where it is cut.

use super::{Repository, answer::Answer, endpoint::Tried, http::Backoff, wrong_size};
use crate::{Error, Kind, Result, images::Descriptor};
use ::http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE},
};
use bytes::Bytes;
use tokio::sync::mpsc;

/// A blob that is cut after less than this came is not getting anywhere, in bytes.
const STEP: u64 = 64 << 10;

impl Repository {
    /// Sends a blob from `offset` on, piece by piece, resuming where the connection is cut. Ends with
    /// the descriptor's last byte, with an error in the channel, or when the receiver is gone.
    pub async fn blob(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        pieces: mpsc::Sender<Result<Bytes>>,
    ) {
        if let Err(error) = self.send_blob(descriptor, offset, &pieces).await {
            // Nobody waits for the error of a download that nobody wants.
            let _ = pieces.send(Err(error)).await;
        }
    }

    async fn send_blob(
        &self,
        descriptor: &Descriptor,
        mut offset: u64,
        pieces: &mpsc::Sender<Result<Bytes>>,
    ) -> Result<()> {
        let (mut backoff, mut fruitless) = (Backoff::default(), 0);
        while offset < descriptor.size {
            let before = offset;
            let cut = match self.open_blob(descriptor, offset, fruitless).await {
                Ok(answer) => {
                    match self.send_body(answer, descriptor, &mut offset, pieces).await? {
                        Ended::Whole => return Ok(()),
                        Ended::Cut(reason) => reason,
                    }
                }
                // Only what may pass is tried again; the client has retried server errors itself.
                Err(e) if e.kind == Kind::Unavailable && offset > 0 => e.message,
                Err(e) => return Err(e),
            };
            if offset - before >= STEP {
                backoff = Backoff::default();
            } else {
                // Another host may get further.
                fruitless += 1;
            }
            tracing::info!(digest = %descriptor.digest, offset, cut, "resuming a blob");
            backoff.wait(None).await.map_err(|_| {
                Error::unavailable(format_args!(
                    "{cut} after {offset} of {} bytes",
                    descriptor.size
                ))
            })?;
        }
        Ok(())
    }

    async fn open_blob(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        first: usize,
    ) -> Result<Answer> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let digest = &descriptor.digest;
        let rest = format!("blobs/{digest}");
        let mut tried = Tried::default();
        for (endpoint, last) in self.pulling(false, first) {
            let answer = match endpoint.ask(Method::GET, &rest, &headers, last).await {
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
                    Err(Error::not_found(format_args!("content at {}", answer.url)))
                }
                Ok(answer) => endpoint.check(answer, &format!("[blobs {digest}]")).await,
                Err(e) => Err(e),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(e) => tried.add(endpoint, e),
            }
        }
        Err(tried.error("no pull hosts"))
    }

    async fn send_body(
        &self,
        mut answer: Answer,
        descriptor: &Descriptor,
        offset: &mut u64,
        pieces: &mpsc::Sender<Result<Bytes>>,
    ) -> Result<Ended> {
        let partial = answer.status() == StatusCode::PARTIAL_CONTENT;
        let start = if partial { range_start(answer.header(CONTENT_RANGE)) } else { Some(0) };
        let url = answer.url.clone();
        // A server without ranges begins again: skip what is here already.
        let mut skip = match start {
            Some(start) if start <= *offset => *offset - start,
            _ => {
                return Err(Error::precondition(format_args!(
                    "{url}: the registry answered another range than asked for"
                )));
            }
        };
        let length = answer.header(CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
        let whole = length.map(|length| length.saturating_add(start.unwrap_or(0)));
        if let Some(whole) = whole
            && whole != descriptor.size
        {
            return Err(wrong_size(whole, descriptor.size).during(url));
        }
        loop {
            let mut piece = match answer.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) if *offset == descriptor.size => return Ok(Ended::Whole),
                Ok(None) => return Ok(Ended::Cut(format!("{url}: the body ended early"))),
                Err(reason) => return Ok(Ended::Cut(format!("{url}: {reason}"))),
            };
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            let piece = piece.split_off(usize::try_from(skipped).unwrap_or(usize::MAX));
            if *offset + piece.len() as u64 > descriptor.size {
                let found = *offset + piece.len() as u64;
                return Err(wrong_size(found, descriptor.size).during(url));
            }
            *offset += piece.len() as u64;
            if !piece.is_empty() && pieces.send(Ok(piece)).await.is_err() {
                return Ok(Ended::Whole);
            }
        }
    }
}

/// How a response's body ended.
enum Ended {
    /// With the blob's last byte, or because nobody wants it any more.
    Whole,
    /// Before that.
    Cut(String),
}

fn range_start(header: Option<&str>) -> Option<u64> {
    let range = header?.strip_prefix("bytes ")?;
    range.split('-').next()?.parse().ok()
}
