//! One error for the whole store: a closed set of kinds, each the gRPC code that containerd answers
//! with, and the text that containerd's own clients print.

use std::{fmt::Display, io, path::Path};

/// What a caller can do about an [`Error`]; each is one gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The named thing is not there.
    NotFound,
    /// The named thing is there already.
    AlreadyExists,
    /// The request can never succeed.
    InvalidArgument,
    /// The request does not fit the present state.
    FailedPrecondition,
    /// Trying again later may help.
    Unavailable,
    /// Stored or received bytes are not what their digest promises.
    DataLoss,
    /// A disk, a quota or a limit is used up.
    ResourceExhausted,
    /// The registry or the kernel does not allow it.
    PermissionDenied,
    /// The registry wants credentials, or other ones.
    Unauthenticated,
    /// Not supported by this store.
    Unimplemented,
    /// The caller went away.
    Cancelled,
    /// Anything else.
    Internal,
    /// What containerd passes on without a kind.
    Unknown,
}

/// An error with containerd's wording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure it is.
    pub kind: Kind,
    /// The whole text, in containerd's words where containerd has this error.
    pub message: String,
}

/// The store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error whose text stands as it is.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// `what: not found`
    pub fn not_found(what: impl Display) -> Self {
        Self::new(Kind::NotFound, format!("{what}: not found"))
    }

    /// `what: already exists`
    pub fn already_exists(what: impl Display) -> Self {
        Self::new(Kind::AlreadyExists, format!("{what}: already exists"))
    }

    /// `what: invalid argument`
    pub fn invalid(what: impl Display) -> Self {
        Self::new(Kind::InvalidArgument, format!("{what}: invalid argument"))
    }

    /// `what: failed precondition`
    pub fn precondition(what: impl Display) -> Self {
        Self::new(Kind::FailedPrecondition, format!("{what}: failed precondition"))
    }

    /// `what: unavailable`
    pub fn unavailable(what: impl Display) -> Self {
        Self::new(Kind::Unavailable, format!("{what}: unavailable"))
    }

    /// Bytes that do not match their promise.
    pub fn data_loss(what: impl Display) -> Self {
        Self::new(Kind::DataLoss, what.to_string())
    }

    /// `what: not implemented`
    pub fn unimplemented(what: impl Display) -> Self {
        Self::new(Kind::Unimplemented, format!("{what}: not implemented"))
    }

    /// What containerd passes on from elsewhere without giving it a kind.
    pub fn unknown(what: impl Display) -> Self {
        Self::new(Kind::Unknown, what.to_string())
    }

    /// Anything else.
    pub fn internal(what: impl Display) -> Self {
        Self::new(Kind::Internal, what.to_string())
    }

    /// An I/O error of `what`; a full disk or quota is [`Kind::ResourceExhausted`].
    pub fn io(what: impl Display, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::ResourceExhausted,
            io::ErrorKind::UnexpectedEof => Kind::DataLoss,
            _ => Kind::Internal,
        };
        Self::new(kind, format!("{what}: {error}"))
    }

    /// The same kind, with what was being done put in front: `what: message`.
    #[must_use]
    pub fn during(self, what: impl Display) -> Self {
        Self { kind: self.kind, message: format!("{what}: {}", self.message) }
    }
}

/// Gives an I/O result its place in the world.
pub(crate) trait At<T> {
    /// On error says what was done to which path.
    fn at(self, verb: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, verb: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::io(format_args!("{verb} {}", path.as_ref().display()), &e.into()))
    }
}

/// Puts what was being done in front of an error.
pub(crate) trait During<T> {
    /// `what: message`, with the kind kept.
    fn during<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> During<T> for Result<T> {
    fn during<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.during(what()))
    }
}
