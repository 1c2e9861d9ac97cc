//! A D-Bus client of one connection that blocks: enough of the protocol to ask systemd for things
//! and to hear when they are done.
//!
//! Written for this because a runtime that lives for milliseconds has no use for an async runtime,
//! and a client library is larger than the runtime. Nothing of a peer is trusted: lengths are
//! bounded, texts are checked, and every wait has an end.

mod address;
mod connection;
mod message;
mod value;

pub(crate) use address::Address;
pub(crate) use connection::Connection;
pub(crate) use message::{Call, Message};
pub(crate) use value::Value;

use crate::sys::Errno;

/// The result of a call.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// A server's address without a unix socket in it.
    #[error("invalid dbus address {0:?}")]
    Address(String),
    /// Nothing tells where a bus is.
    #[error("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR tells of a bus")]
    NoBus,
    /// Nobody listens there.
    #[error("dial unix {address}: {errno}")]
    Connect {
        /// The socket's name.
        address: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The peer did not let us in; the text is its answer.
    #[error("dbus: authentication failed: {0:?}")]
    Refused(String),
    /// The peer closed the connection.
    #[error("dbus: connection closed by the peer")]
    Closed,
    /// The peer took longer than it may.
    #[error("dbus: no answer in time")]
    Timeout,
    /// The kernel refused.
    #[error("dbus: {0}")]
    Io(Errno),
    /// Bytes that are no message.
    #[error("dbus: malformed message: {0}")]
    Malformed(&'static str),
    /// More bytes, by their number, than a message may have here.
    #[error("dbus: a message of {0} bytes is too large")]
    TooLarge(usize),
    /// The peer answered with an error: its text.
    #[error("{text}")]
    Remote {
        /// The error's name, such as `org.freedesktop.systemd1.UnitExists`.
        name: String,
        /// What it says.
        text: String,
    },
}

impl Error {
    /// Whether the peer answered with the error `name`.
    pub(crate) fn is(&self, wanted: &str) -> bool {
        matches!(self, Error::Remote { name, .. } if name == wanted)
    }
}
