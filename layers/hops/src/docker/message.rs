//! How a verb's parts look in HTTP: bodies, replies, chunks.

use std::ops::{Deref, DerefMut};

use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use crate::{HopError, Kind, Result};

/// An HTTP method that Docker's API uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads; on a path without a body, `HEAD` is answered as well.
    Get,
    /// Changes, and opens streams.
    Post,
    /// Removes.
    Delete,
    /// Writes an archive.
    Put,
}

impl Method {
    /// The method's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
            Method::Put => "PUT",
        }
    }
}

/// A JSON document as body, reply or chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T> Deref for Json<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Json<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// The body of a request: nothing, or [`Json`].
pub trait Body: Default + Send + Sync + 'static {
    /// The bytes to send; `None` sends no body.
    fn encode(&self) -> Option<Bytes>;
    /// Reads the bytes that came.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] that names the field and the reason.
    fn decode(bytes: &[u8]) -> Result<Self>;
}

impl Body for () {
    fn encode(&self) -> Option<Bytes> {
        None
    }
    fn decode(_: &[u8]) -> Result<Self> {
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned + Default + Send + Sync + 'static> Body for Json<T> {
    fn encode(&self) -> Option<Bytes> {
        Some(json_bytes(&self.0))
    }
    fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Json(T::default()));
        }
        serde_json::from_slice(bytes)
            .map(Json)
            .map_err(|e| HopError::invalid(format!("invalid JSON: {e}")))
    }
}

/// The answer of a verb that answers once.
pub trait Reply: Sized + Send + 'static {
    /// The status, the content type and the body to send; `success` is the verb's own status.
    fn encode(self, success: u16) -> (u16, &'static str, Bytes);
    /// Reads an answer whose status is below 400.
    ///
    /// # Errors
    /// [`Kind::Unknown`] when the answer is not what the API promises.
    fn decode(status: u16, body: &[u8]) -> Result<Self>;
}

impl Reply for () {
    fn encode(self, success: u16) -> (u16, &'static str, Bytes) {
        (success, "", Bytes::new())
    }
    fn decode(_: u16, _: &[u8]) -> Result<Self> {
        Ok(())
    }
}

/// Whether a call changed anything: 204, or 304 for "it was so already".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed(pub bool);

impl Reply for Changed {
    fn encode(self, success: u16) -> (u16, &'static str, Bytes) {
        (if self.0 { success } else { 304 }, "", Bytes::new())
    }
    fn decode(status: u16, _: &[u8]) -> Result<Self> {
        Ok(Changed(status != 304))
    }
}

/// A plain word, as `/_ping` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl Reply for Text {
    fn encode(self, success: u16) -> (u16, &'static str, Bytes) {
        (success, "text/plain; charset=utf-8", self.0.into())
    }
    fn decode(_: u16, body: &[u8]) -> Result<Self> {
        Ok(Text(String::from_utf8_lossy(body).into_owned()))
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Reply for Json<T> {
    fn encode(self, success: u16) -> (u16, &'static str, Bytes) {
        let mut body = json_bytes(&self.0).to_vec();
        body.push(b'\n');
        (success, "application/json", body.into())
    }
    fn decode(_: u16, body: &[u8]) -> Result<Self> {
        serde_json::from_slice(body).map(Json).map_err(|e| {
            HopError::new(
                Kind::Unknown,
                format!("the daemon's answer is not what its API says: {e}"),
            )
        })
    }
}

/// One item of a streamed answer.
pub trait Chunk: Sized + Send + 'static {
    /// The answer's content type.
    const CONTENT_TYPE: &'static str;
    /// The item as it goes over the wire.
    fn encode(self) -> Bytes;
    /// Takes the next whole item from what has arrived; `None` waits for more.
    fn take(arrived: &mut BytesMut) -> Option<Result<Self>>;
    /// An error after the stream has begun, in the form that the API gives it; `None` where it
    /// has none and the stream just ends.
    fn failure(error: &HopError) -> Option<Bytes>;
}

impl Chunk for Bytes {
    const CONTENT_TYPE: &'static str = "application/vnd.docker.raw-stream";
    fn encode(self) -> Bytes {
        self
    }
    fn take(arrived: &mut BytesMut) -> Option<Result<Self>> {
        (!arrived.is_empty()).then(|| Ok(arrived.split().freeze()))
    }
    fn failure(_: &HopError) -> Option<Bytes> {
        None
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Chunk for Json<T> {
    const CONTENT_TYPE: &'static str = "application/json";
    fn encode(self) -> Bytes {
        let mut line = json_bytes(&self.0).to_vec();
        // Docker's progress writers end a message with CR LF.
        line.extend_from_slice(b"\r\n");
        line.into()
    }
    fn take(arrived: &mut BytesMut) -> Option<Result<Self>> {
        loop {
            let mut items =
                serde_json::Deserializer::from_slice(arrived).into_iter::<serde_json::Value>();
            let value = match items.next()? {
                Ok(value) => value,
                Err(e) if e.is_eof() => return None,
                Err(e) => {
                    arrived.clear();
                    return Some(Err(HopError::new(Kind::Unknown, format!("invalid JSON: {e}"))));
                }
            };
            let used = items.byte_offset();
            let _ = arrived.split_to(used);
            if let Some(message) = value.pointer("/errorDetail/message").and_then(|m| m.as_str()) {
                let kind =
                    if message.contains("not found") { Kind::NotFound } else { Kind::Unknown };
                return Some(Err(HopError::new(kind, message)));
            }
            match serde_json::from_value(value) {
                Ok(item) => return Some(Ok(Json(item))),
                Err(_) if arrived.is_empty() => return None,
                Err(_) => {}
            }
        }
    }
    fn failure(error: &HopError) -> Option<Bytes> {
        let words = &error.message;
        let line = Json(serde_json::json!({"errorDetail": {"message": words}, "error": words}));
        Some(Chunk::encode(line))
    }
}

fn json_bytes(value: &impl Serialize) -> Bytes {
    // The API's types have string keys only, which is all that serialization can fail on.
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_chunks_arrive_in_any_pieces() {
        let mut arrived = BytesMut::from(&b"{\"a\":1}\r\n{\"a\""[..]);
        type Item = Json<std::collections::BTreeMap<String, u32>>;
        assert_eq!(Item::take(&mut arrived).unwrap().unwrap()["a"], 1);
        assert!(Item::take(&mut arrived).is_none());
        arrived.extend_from_slice(b":2}\r\n");
        assert_eq!(Item::take(&mut arrived).unwrap().unwrap()["a"], 2);
        assert!(Item::take(&mut arrived).is_none());
    }

    #[test]
    fn a_failure_in_a_stream_is_an_error_at_the_other_end() {
        let bytes = Json::<u32>::failure(&HopError::not_found("manifest not found")).unwrap();
        let error = Json::<u32>::take(&mut BytesMut::from(&bytes[..])).unwrap().unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (Kind::NotFound, "manifest not found"));
    }
}
