//! The error of a plugin: a code of the specification, a message, and details.

use std::fmt;

use hops::{HopError, Kind};
use serde::{Deserialize, Serialize};

/// Error codes of the CNI specification 1.1.0, section "Error", and the reference library's 999.
pub mod code {
    /// The configuration's version is none that the plugin speaks.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration asks for what the plugin does not do.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container does not exist: the runtime has nothing to clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or malformed.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// The configuration could not be read.
    pub const IO: u32 = 5;
    /// The configuration is not JSON.
    pub const DECODING: u32 = 6;
    /// The configuration is JSON and wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// A transient condition: the runtime should try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// The reference library's code for any other failure.
    pub const INTERNAL: u32 = 999;
}

/// What a plugin says on its standard output when it fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniError {
    /// One of [`code`], or a plugin's own from 100 on.
    pub code: u32,
    /// One sentence.
    #[serde(default)]
    pub msg: String,
    /// More of it, where there is more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// The result of plugin work.
pub type Result<T, E = CniError> = std::result::Result<T, E>;

impl CniError {
    /// An error with one of [`code`].
    pub fn new(code: u32, msg: impl Into<String>) -> CniError {
        CniError { code, msg: msg.into(), details: String::new() }
    }

    /// A failure with no code of its own.
    pub fn internal(msg: impl Into<String>) -> CniError {
        CniError::new(code::INTERNAL, msg)
    }

    /// A configuration that is JSON and wrong.
    pub fn invalid(msg: impl Into<String>) -> CniError {
        CniError::new(code::INVALID_CONFIG, msg)
    }

    /// The same error with details.
    pub fn detailed(mut self, details: impl Into<String>) -> CniError {
        self.details = details.into();
        self
    }

    /// The same error with words before it.
    pub fn context(mut self, words: impl fmt::Display) -> CniError {
        self.msg = format!("{words}: {}", self.msg);
        self
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.details.as_str() {
            "" => f.write_str(&self.msg),
            details => write!(f, "{}; {details}", self.msg),
        }
    }
}

impl std::error::Error for CniError {}

/// Names what was being done when a system call failed.
pub trait Doing<T> {
    /// Turns the failure into [`code::INTERNAL`] with `words` before it.
    fn doing(self, words: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, words: impl fmt::Display) -> Result<T> {
        self.map_err(|e| CniError::internal(format!("{words}: {e}")))
    }
}

impl From<CniError> for HopError {
    fn from(error: CniError) -> HopError {
        let kind = match error.code {
            code::INCOMPATIBLE_VERSION | code::UNSUPPORTED_FIELD => Kind::Unimplemented,
            code::UNKNOWN_CONTAINER => Kind::NotFound,
            code::INVALID_ENVIRONMENT | code::DECODING | code::INVALID_CONFIG => {
                Kind::InvalidArgument
            }
            code::TRY_AGAIN => Kind::Unavailable,
            _ => Kind::Internal,
        };
        HopError::new(kind, error.to_string())
    }
}
