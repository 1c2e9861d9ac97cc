//! ttrpc on a unix socket: the wire of `Shim`.
//!
//! [`frame`] and [`methods`] know the protocol and do no input or output, so that the shim's
//! synchronous loop and the daemons' tokio [`Client`] and [`Server`] share them.

mod client;
pub mod frame;
pub mod methods;
mod server;

pub use client::Client;
pub use server::Server;
