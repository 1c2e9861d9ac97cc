//! The kernel's own wire: netlink sockets, asked and answered one request at a time.
//!
//! A plugin lives for a few milliseconds and asks the kernel about a dozen things in sequence, so
//! there is no runtime here and no connection task: one blocking socket per namespace.

pub mod nft;
pub mod route;

use std::io;

use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr};

/// Larger than any one netlink datagram: the kernel builds dumps in at most 32 KiB pieces.
const RECEIVE_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 16;

/// One message out of an answer.
struct Frame<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// Splits a datagram into its messages; a malformed tail ends it.
fn frames(datagram: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let sequence = u32_at(rest, 8)?;
        let payload = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Frame { kind, sequence, payload })
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn open(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends `request` and gathers what answers sequence `sequence`, until the kernel acknowledges it
/// or ends the dump.
fn ask(
    socket: &Socket,
    request: &[u8],
    sequence: u32,
    mut answer: impl FnMut(u16, &[u8]),
) -> io::Result<()> {
    socket.send(request, 0)?;
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        for frame in frames(&buffer).filter(|f| f.sequence == sequence) {
            match frame.kind {
                NLMSG_ERROR | NLMSG_DONE => {
                    return match u32_at(frame.payload, 0).unwrap_or(0) as i32 {
                        0 => Ok(()),
                        errno => Err(io::Error::from_raw_os_error(-errno)),
                    };
                }
                kind => answer(kind, frame.payload),
            }
        }
    }
}
