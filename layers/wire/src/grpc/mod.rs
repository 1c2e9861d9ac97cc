//! gRPC on a unix socket: the wire of `Cri` and `Containerd`.

mod client;
mod server;

pub use client::Client;
pub use server::Server;

use std::time::Duration;

use hops::{Cx, HopError, Kind, Wire, cx};
use tonic::{Code, Status};

/// The error that a gRPC status says.
fn error_of(status: &Status) -> HopError {
    let code = status.code() as i32;
    HopError::from_wire(Kind::from_grpc(code), status.message(), Wire::Grpc(code))
}

/// The gRPC status that says an error.
fn status_of(error: &HopError) -> Status {
    Status::new(Code::from_i32(error.kind.grpc()), error.message.clone())
}

/// The context that a request's headers carry.
fn cx_of(headers: &http::HeaderMap) -> Cx {
    let text = |key: &str| headers.get(key).and_then(|v| v.to_str().ok());
    let mut cx = Cx::background();
    cx.trace = text(cx::TRACEPARENT_HEADER).and_then(cx::TraceParent::parse);
    for key in cx::CARRIED {
        if let Some(value) = text(key) {
            cx = cx.with(key, value.to_owned());
        }
    }
    match text("grpc-timeout").and_then(parse_timeout) {
        Some(limit) => cx.within(limit),
        None => cx,
    }
}

/// Reads a `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("2S"), Some(Duration::from_secs(2)));
        for bad in ["", "S", "+1S", "123456789S", "1x", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
