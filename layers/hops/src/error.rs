//! The error of a hop: what the wire said, which hop and verb said it, and what kind it is.

use std::{fmt, sync::Arc};

use crate::Hop;

/// The result of a hop's call.
pub type Result<T, E = HopError> = std::result::Result<T, E>;

/// The closed set of reasons by which a layer decides what to do with an error.
///
/// The set is gRPC's (google.rpc.Code) without its OK; HTTP statuses and exit codes map onto it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller gave up.
    Cancelled,
    /// Nothing more is known.
    Unknown,
    /// The request itself is wrong, whatever the state.
    InvalidArgument,
    /// The deadline passed.
    DeadlineExceeded,
    /// What the request names does not exist.
    NotFound,
    /// What the request would make exists.
    AlreadyExists,
    /// The caller may not.
    PermissionDenied,
    /// Disk, memory, processes or a quota ran out.
    ResourceExhausted,
    /// The state of the thing does not allow it (Docker's 409 on a running container).
    FailedPrecondition,
    /// A concurrent change won.
    Aborted,
    /// Past the end.
    OutOfRange,
    /// The layer does not do this.
    Unimplemented,
    /// A defect, or a failure with no better name.
    Internal,
    /// Nobody listens, or not now.
    Unavailable,
    /// What was stored or received is damaged.
    DataLoss,
    /// The caller did not say who it is.
    Unauthenticated,
}

/// Each kind with its gRPC code and the HTTP status by which Docker's API says it.
const KINDS: [(Kind, i32, u16); 16] = [
    (Kind::Cancelled, 1, 499),
    (Kind::Unknown, 2, 500),
    (Kind::InvalidArgument, 3, 400),
    (Kind::DeadlineExceeded, 4, 504),
    (Kind::NotFound, 5, 404),
    (Kind::AlreadyExists, 6, 409),
    (Kind::PermissionDenied, 7, 403),
    (Kind::ResourceExhausted, 8, 507),
    (Kind::FailedPrecondition, 9, 409),
    (Kind::Aborted, 10, 409),
    (Kind::OutOfRange, 11, 416),
    (Kind::Unimplemented, 12, 501),
    (Kind::Internal, 13, 500),
    (Kind::Unavailable, 14, 503),
    (Kind::DataLoss, 15, 500),
    (Kind::Unauthenticated, 16, 401),
];

impl Kind {
    /// The gRPC status code (1–16).
    pub fn grpc(self) -> i32 {
        KINDS.iter().find(|(k, ..)| *k == self).map_or(2, |(_, code, _)| *code)
    }

    /// The kind of a gRPC status code; [`Kind::Unknown`] for one outside the set.
    pub fn from_grpc(code: i32) -> Kind {
        KINDS.iter().find(|(_, c, _)| *c == code).map_or(Kind::Unknown, |(k, ..)| *k)
    }

    /// The HTTP status by which Docker's API says it.
    pub fn http(self) -> u16 {
        KINDS.iter().find(|(k, ..)| *k == self).map_or(500, |(.., status)| *status)
    }

    /// The kind of an HTTP status. 409 is a [`Kind::FailedPrecondition`]: of Docker's conflicts,
    /// only a name already in use is an [`Kind::AlreadyExists`], and its text says so.
    pub fn from_http(status: u16, message: &str) -> Kind {
        match status {
            409 if message.contains("already in use") => Kind::AlreadyExists,
            409 => Kind::FailedPrecondition,
            500 => Kind::Internal,
            _ => KINDS.iter().find(|(.., s)| *s == status).map_or(Kind::Unknown, |(k, ..)| *k),
        }
    }
}

/// What the wire said, before it became a [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// It was answered in process.
    None,
    /// A gRPC or ttrpc status code.
    Grpc(i32),
    /// An HTTP status.
    Http(u16),
    /// A program's exit code, and what it wrote on its standard error or in its log.
    Exit {
        /// The exit code; 128 + n for a death by signal n.
        code: i32,
        /// The program's own words.
        stderr: String,
    },
}

/// An error on its way up the stack.
///
/// The message is carried unchanged from the layer that found the fault to the user; the hops that
/// it passed are kept beside it.
#[derive(Clone, Debug)]
pub struct HopError {
    /// What to do about it.
    pub kind: Kind,
    /// What the layer that found the fault said.
    pub message: String,
    /// What came over the wire last.
    pub wire: Wire,
    /// The hops and verbs it passed, innermost first.
    pub passed: Vec<(Hop, &'static str)>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl HopError {
    /// An error found here.
    pub fn new(kind: Kind, message: impl Into<String>) -> HopError {
        HopError {
            kind,
            message: message.into(),
            wire: Wire::None,
            passed: Vec::new(),
            source: None,
        }
    }

    /// An error that came over a wire.
    pub fn from_wire(kind: Kind, message: impl Into<String>, wire: Wire) -> HopError {
        HopError { wire, ..HopError::new(kind, message) }
    }

    /// The same error with the cause that lies under it.
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> HopError {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same error, having passed `hop` as the answer to `verb`.
    pub fn through(mut self, hop: Hop, verb: &'static str) -> HopError {
        if self.passed.last() != Some(&(hop, verb)) {
            self.passed.push((hop, verb));
        }
        self
    }

    /// The same error with words of this layer before it, as the real layers wrap:
    /// `failed to create containerd task: …`.
    pub fn context(mut self, words: impl fmt::Display) -> HopError {
        self.message = format!("{words}: {}", self.message);
        self
    }

    /// Something that does not exist.
    pub fn not_found(message: impl Into<String>) -> HopError {
        HopError::new(Kind::NotFound, message)
    }

    /// A request that is wrong in itself.
    pub fn invalid(message: impl Into<String>) -> HopError {
        HopError::new(Kind::InvalidArgument, message)
    }

    /// A failure with no better name.
    pub fn internal(message: impl Into<String>) -> HopError {
        HopError::new(Kind::Internal, message)
    }

    /// Whether the thing asked for does not exist: to a caller that removes it, a success.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }
}

impl fmt::Display for HopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for HopError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<std::io::Error> for HopError {
    fn from(error: std::io::Error) -> HopError {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::AlreadyExists => Kind::AlreadyExists,
            std::io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Kind::ResourceExhausted
            }
            std::io::ErrorKind::InvalidInput => Kind::InvalidArgument,
            _ => Kind::Internal,
        };
        HopError::new(kind, error.to_string()).because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_both_wires() {
        for (kind, code, status) in KINDS {
            assert_eq!(Kind::from_grpc(code), kind);
            assert_eq!(kind.http(), status);
        }
        assert_eq!(
            Kind::from_http(
                409,
                "Conflict. The container name \"/x\" is already in use by container y"
            ),
            Kind::AlreadyExists
        );
        assert_eq!(Kind::from_http(409, "container is running"), Kind::FailedPrecondition);
        assert_eq!(Kind::from_http(418, ""), Kind::Unknown);
    }

    #[test]
    fn an_error_keeps_its_words_and_its_way() {
        let error = HopError::not_found("no such image")
            .through(Hop::Containerd, "Get")
            .through(Hop::Cri, "ImageStatus");
        assert_eq!(error.to_string(), "no such image");
        assert_eq!(error.passed, [(Hop::Containerd, "Get"), (Hop::Cri, "ImageStatus")]);
    }
}
