//! HTTP/1.1 on a unix socket: the wire of `Docker`.

mod client;
mod route;
mod server;

pub use client::Client;
pub use server::serve;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};

/// Any body, sent or received.
type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The longest body that is read whole: a JSON document, never an archive.
const MAX_DOCUMENT: usize = 16 << 20;
