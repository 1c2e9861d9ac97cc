//! The Container Network Interface from the runtime's side: the wire of `Cni`.
//!
//! A network is what the administrator wrote ([`conf`]), run plugin after plugin ([`chain`]); a
//! plugin is anything that implements the face, such as the programs of a directory ([`client`]).
//! Read [`chain`] first.

pub mod addr;
pub mod chain;
pub mod client;
pub mod conf;
pub mod error;
pub mod netns;
pub mod result;

pub use chain::{Network, Pod};
pub use client::Client;
pub use conf::NetworkList;
pub use error::CniError;

/// Runs `work`, which blocks for milliseconds, away from the threads that drive a runtime's tasks;
/// in a program without a runtime, right here.
///
/// # Errors
/// Those of `work`.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> error::Result<T> + Send + 'static,
) -> error::Result<T> {
    match tokio::runtime::Handle::try_current() {
        Err(_) => work(),
        Ok(runtime) => runtime
            .spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(CniError::internal(format!("a plugin's thread: {e}")))),
    }
}
