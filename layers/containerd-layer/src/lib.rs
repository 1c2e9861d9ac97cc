//! containerd: the daemon that was cut out of Docker in 2016 so that anyone could run containers
//! without the rest of Docker. It keeps what has been pulled (content, snapshots, images), knows
//! what should run (containers), and has shims run it (tasks).
//!
//! Its callers are Docker's daemon, the CRI and `ctr`; the wire is gRPC on one unix socket.
//!
//! The serving half is [`Engine`]: a service per room of the face, [`events`], and the tasks, whose
//! truth is in their shims ([`shim`] is Strata's own). [`server`] puts it on its sockets, and
//! [`suite`] is what any implementation of the face must do.
//!
//! The storage half knows nothing of that wire: [`Store`] joins one transactional database
//! ([`metadata`]) with files named by their digest ([`content`]) and layered directories
//! ([`snapshots`]); [`images`] fills it from registries and archives through [`diff`]. Read
//! [`store`] first, then [`images::pull`], which touches everything; of the serving half [`Engine`]
//! first, then the tasks.

mod collector;
mod config;
pub mod content;
pub mod diff;
pub mod digest;
mod engine;
pub mod error;
pub mod events;
pub mod filters;
pub mod gc;
pub mod images;
mod log;
pub mod metadata;
mod metrics;
mod program;
pub mod server;
mod services;
pub mod shim;
pub mod snapshots;
pub mod store;
pub mod suite;
mod tasks;

pub use config::Config;
pub use digest::Digest;
pub use engine::Engine;
pub use error::{Error, Kind, Result};
pub use program::main;
pub use store::Store;
