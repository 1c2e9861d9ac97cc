//! ttrpc's frames and messages (containerd/ttrpc, PROTOCOL.md): a ten byte header, then protobuf.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hops::{Cx, HopError, Kind, Result, Wire, cx};
use prost::Message;

/// The header's size in bytes.
pub const HEADER: usize = 10;
/// The largest payload that ttrpc allows: 4 MiB.
pub const MAX_PAYLOAD: usize = 4 << 20;
/// A frame that carries a [`Request`].
pub const REQUEST: u8 = 1;
/// A frame that carries a [`Response`].
pub const RESPONSE: u8 = 2;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which call it belongs to; odd for calls that a client began.
    pub stream: u32,
    /// [`REQUEST`] or [`RESPONSE`].
    pub kind: u8,
    /// Flags, for streams; zero for calls with one answer.
    pub flags: u8,
    /// The message.
    pub payload: Bytes,
}

impl Frame {
    /// A frame that carries `message`.
    pub fn of(stream: u32, kind: u8, message: &impl Message) -> Frame {
        Frame { stream, kind, flags: 0, payload: message.encode_to_vec().into() }
    }

    /// Appends the frame to what is to be written.
    pub fn encode(&self, to: &mut BytesMut) {
        to.reserve(HEADER + self.payload.len());
        to.put_u32(self.payload.len() as u32);
        to.put_u32(self.stream);
        to.put_u8(self.kind);
        to.put_u8(self.flags);
        to.put_slice(&self.payload);
    }

    /// Takes the next whole frame from what has arrived; `None` waits for more.
    ///
    /// # Errors
    /// [`Kind::ResourceExhausted`] for a frame over [`MAX_PAYLOAD`]: the connection is lost.
    pub fn take(arrived: &mut BytesMut) -> Result<Option<Frame>> {
        if arrived.len() < HEADER {
            return Ok(None);
        }
        let length = (&arrived[..4]).get_u32() as usize;
        if length > MAX_PAYLOAD {
            return Err(HopError::new(
                Kind::ResourceExhausted,
                format!("message length {length} exceed maximum message size of {MAX_PAYLOAD}"),
            ));
        }
        if arrived.len() < HEADER + length {
            return Ok(None);
        }
        let mut header = arrived.split_to(HEADER);
        header.advance(4);
        let (stream, kind, flags) = (header.get_u32(), header.get_u8(), header.get_u8());
        Ok(Some(Frame { stream, kind, flags, payload: arrived.split_to(length).freeze() }))
    }
}

/// A call.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Request {
    /// The service's full protobuf name.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The method's name.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The verb's message.
    #[prost(bytes = "bytes", tag = "3")]
    pub payload: Bytes,
    /// How long the caller waits, in nanoseconds; zero is for ever.
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
    /// Headers; a key may stand more than once.
    #[prost(message, repeated, tag = "5")]
    pub metadata: Vec<KeyValue>,
}

/// A header of a call.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeyValue {
    /// The key, in lower case.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// The answer to a call.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// Absent or code 0 for a success.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// The reply's message.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
}

/// `google.rpc.Status` without its details, which nobody in this stack sends.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Status {
    /// A gRPC code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// The callee's words.
    #[prost(string, tag = "2")]
    pub message: String,
}

impl Request {
    /// A call of the method at `path` (`/package.Service/Method`) in the context `cx`.
    pub fn new(cx: &Cx, path: &str, payload: Bytes) -> Request {
        let (service, method) = path.trim_start_matches('/').rsplit_once('/').unwrap_or((path, ""));
        let header = |key: &str, value: String| KeyValue { key: key.to_owned(), value };
        let mut metadata: Vec<KeyValue> =
            cx.metadata().map(|(key, value)| header(key, value.to_owned())).collect();
        if let Some(trace) = cx.trace {
            metadata.push(header(cx::TRACEPARENT_HEADER, trace.to_string()));
        }
        // A namespace is what containerd's own clients send under ttrpc's key.
        if let Some(namespace) = cx.namespace() {
            metadata.push(header(TTRPC_NAMESPACE, namespace.to_owned()));
        }
        Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: cx.remaining().map_or(0, |d| d.as_nanos().min(i64::MAX as u128) as i64),
            metadata,
        }
    }

    /// The context that the call carries.
    pub fn cx(&self) -> Cx {
        let text =
            |key: &str| self.metadata.iter().find(|kv| kv.key == key).map(|kv| kv.value.as_str());
        let mut cx = Cx::background();
        cx.trace = text(cx::TRACEPARENT_HEADER).and_then(cx::TraceParent::parse);
        if let Some(namespace) = text(TTRPC_NAMESPACE) {
            cx = cx.in_namespace(namespace.to_owned());
        }
        for key in cx::CARRIED {
            if let Some(value) = text(key) {
                cx = cx.with(key, value.to_owned());
            }
        }
        match u64::try_from(self.timeout_nano) {
            Ok(nanos) if nanos > 0 => cx.within(Duration::from_nanos(nanos)),
            _ => cx,
        }
    }
}

/// The key under which containerd's ttrpc clients send the namespace.
const TTRPC_NAMESPACE: &str = "containerd-namespace-ttrpc";

impl Response {
    /// The answer that says `result`.
    pub fn of(result: Result<Bytes>) -> Response {
        match result {
            Ok(payload) => Response { status: None, payload },
            Err(error) => Response {
                status: Some(Status { code: error.kind.grpc(), message: error.message }),
                payload: Bytes::new(),
            },
        }
    }

    /// What the answer says.
    ///
    /// # Errors
    /// The callee's own.
    pub fn result(self) -> Result<Bytes> {
        match self.status {
            Some(Status { code, message }) if code != 0 => {
                Err(HopError::from_wire(Kind::from_grpc(code), message, Wire::Grpc(code)))
            }
            _ => Ok(self.payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_in_any_pieces() {
        let frame =
            Frame { stream: 7, kind: REQUEST, flags: 0, payload: Bytes::from_static(b"abc") };
        let mut wire = BytesMut::new();
        frame.encode(&mut wire);
        assert_eq!(wire.len(), HEADER + 3);
        let mut arrived = BytesMut::new();
        for byte in wire {
            assert_eq!(Frame::take(&mut arrived).unwrap(), None);
            arrived.put_u8(byte);
        }
        assert_eq!(Frame::take(&mut arrived).unwrap(), Some(frame));
        assert!(arrived.is_empty());
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut arrived = BytesMut::new();
        arrived.put_u32(MAX_PAYLOAD as u32 + 1);
        arrived.put_bytes(0, 6);
        assert_eq!(Frame::take(&mut arrived).unwrap_err().kind, Kind::ResourceExhausted);
    }

    #[test]
    fn the_context_crosses() {
        let mut cx = Cx::background().in_namespace("k8s.io");
        cx.trace =
            cx::TraceParent::parse("00-00000000000000000000000000000abc-0000000000000012-01");
        let read = Request::new(&cx, "/a.B/C", Bytes::new()).cx();
        assert_eq!((read.namespace(), read.trace), (Some("k8s.io"), cx.trace));
    }
}
