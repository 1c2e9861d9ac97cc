//! `Docker`: client → Docker daemon, since 2013.
//!
//! The wire is HTTP/1.1 on a unix socket, the Docker Engine API; Strata speaks version
//! [`API_VERSION`] and negotiates down to [`MIN_API_VERSION`] as Docker 20.10 does. A verb is a
//! table line: method, path, query, body, answer. [`verbs`] is the table.

mod document;
mod message;
mod query;
mod verbs;

pub use bollard_stubs::models;
pub use document::*;
pub use message::*;
pub use query::*;
pub use verbs::*;

/// The newest API version spoken: Docker 20.10's.
pub const API_VERSION: &str = "1.41";
/// The oldest API version accepted: Docker 20.10's.
pub const MIN_API_VERSION: &str = "1.12";
