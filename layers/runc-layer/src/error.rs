//! What can go wrong, in the words that runc's clients know.

use crate::sys::Errno;

/// The result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the runtime. The texts are runc 1.1's where its callers read them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No container of this id in the root directory.
    #[error("container does not exist")]
    NotExist,
    /// `create` of an id that is taken.
    #[error("container with given ID already exists")]
    Exist,
    /// An id with other characters than `[A-Za-z0-9_+.-]`, or empty, or of dots.
    #[error("invalid container ID format")]
    InvalidId,
    /// A signal for, or a process in, a container whose init is gone.
    #[error("container not running")]
    NotRunning,
    /// The container is in another state than the command needs; the text says which.
    #[error("{0}")]
    State(String),
    /// The bundle has no `config.json`.
    #[error("JSON specification file config.json not found")]
    NoConfig,
    /// A field of a document is missing, malformed or not supported.
    #[error("{field}: {reason}")]
    Spec {
        /// The document and the path of the field in it, such as `config.json: root.path`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The container's first process could not be made or did not get as far as its program.
    #[error("unable to start container process: {0}")]
    Start(String),
    /// The kernel refused.
    #[error("{what}: {errno}")]
    Os {
        /// What was tried, with its path or value.
        what: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// systemd, asked to manage the cgroup, is not there or did not do it.
    #[error("{0}")]
    Systemd(String),
    /// CRIU failed, or something other than it answered.
    #[error("criu failed: {0}")]
    Criu(String),
    /// A command line, a request or a combination that is not valid or not supported.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// A configuration without the object that `create` needs.
    pub(crate) fn no_process() -> Error {
        Error::Spec { field: "config.json: process".into(), reason: "must be specified".into() }
    }

    pub(crate) fn os(what: impl Into<String>, errno: Errno) -> Error {
        Error::Os { what: what.into(), errno }
    }
}

/// Says what was tried when the kernel refuses.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::os(what(), errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::os(what(), e.into()))
    }
}
