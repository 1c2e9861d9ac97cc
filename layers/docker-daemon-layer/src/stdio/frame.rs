//! The frames in which both output streams share a connection (Docker's `stdcopy`).

use bytes::{BufMut, Bytes, BytesMut};

use super::Stream;

/// `data` of `stream` as a frame; with a terminal there is one stream, and no frames.
pub(crate) fn frame(tty: bool, stream: Stream, data: Bytes) -> Bytes {
    if tty {
        return data;
    }
    let mut framed = BytesMut::with_capacity(8 + data.len());
    put(&mut framed, false, stream, &data);
    framed.freeze()
}

/// Appends it to what is to be sent.
pub(crate) fn put(to: &mut BytesMut, tty: bool, stream: Stream, data: &[u8]) {
    if !tty {
        to.put_u8(if stream == Stream::Stdout { 1 } else { 2 });
        to.put_bytes(0, 3);
        to.put_u32(data.len() as u32);
    }
    to.put_slice(data);
}
