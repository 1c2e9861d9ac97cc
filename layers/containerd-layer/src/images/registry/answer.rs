//! A server's answer, read with as much trust as a stranger deserves: bounded in size and in time.

use crate::{Error, Result};
use bytes::Bytes;
use http::{StatusCode, header::AsHeaderName, response::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A body that brings less than this in the time that a server may be silent counts as silent.
const LEAST: usize = 16 << 10;
/// How much of an error's body is read for its reason, in bytes.
const LARGEST_REASON: u64 = 64 << 10;
/// How many times the patience a whole document may take.
const WHOLE: u32 = 4;

/// The head of an answer, and what there is to come.
#[derive(Debug)]
pub(super) struct Answer {
    /// Where it came from, without the query.
    pub(super) url: String,
    head: Parts,
    body: Incoming,
    patience: Duration,
    /// Waited for the server since so many bytes came.
    waited: Duration,
    came: usize,
}

impl Answer {
    pub(super) fn new(url: String, response: http::Response<Incoming>, patience: Duration) -> Self {
        let (head, body) = response.into_parts();
        Self { url, head, body, patience, waited: Duration::ZERO, came: 0 }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(super) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    pub(super) fn headers(&self, name: impl AsHeaderName) -> impl Iterator<Item = &str> {
        self.head.headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
    }

    /// The next piece of the body; nothing at its end; a reason when it is cut, silent or a trickle.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let begun = Instant::now();
            let rest = self.patience.saturating_sub(self.waited);
            match timeout(rest, self.body.frame()).await {
                Err(_) if self.came == 0 => return Err(format!("no data for {:?}", self.patience)),
                Err(_) => {
                    return Err(format!("only {} bytes in {:?}", self.came, self.patience));
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(e))) => return Err(e.to_string()),
                Ok(Some(Ok(frame))) => {
                    // The time in which the reader was busy is not the server's.
                    self.waited += begun.elapsed();
                    if let Ok(data) = frame.into_data() {
                        self.came += data.len();
                        if self.came >= LEAST {
                            (self.waited, self.came) = (Duration::ZERO, 0);
                        }
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body of at most `limit` bytes.
    pub(super) async fn read(mut self, limit: u64) -> Result<Vec<u8>> {
        let whole = self.patience * WHOLE;
        let url = self.url.clone();
        let reading = async {
            let mut bytes = Vec::new();
            while let Some(piece) = self.chunk().await.map_err(Error::unavailable)? {
                bytes.extend_from_slice(&piece);
                if bytes.len() as u64 > limit {
                    let text = format_args!("response is larger than {limit} bytes");
                    return Err(Error::invalid(text));
                }
            }
            Ok(bytes)
        };
        let read = timeout(whole, reading).await;
        read.unwrap_or_else(|_| Err(Error::unavailable(format_args!("not whole after {whole:?}"))))
            .map_err(|e| e.during(url))
    }

    /// What a registry says about its refusal: the messages of its error document.
    pub(super) async fn reason(self) -> String {
        #[derive(serde::Deserialize)]
        struct Document {
            errors: Vec<Entry>,
        }
        #[derive(serde::Deserialize)]
        struct Entry {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let Ok(bytes) = self.read(LARGEST_REASON).await else { return String::new() };
        let Ok(document) = serde_json::from_slice::<Document>(&bytes) else {
            return String::new();
        };
        let words = document.errors.into_iter().take(4).map(|entry| {
            // What a stranger says is shortened, and shown without what would move a terminal.
            let text = format!("{}: {}", entry.code.to_lowercase(), entry.message);
            text.chars().filter(|c| !c.is_control()).take(300).collect::<String>()
        });
        words.map(|words| format!(": {words}")).collect()
    }
}
