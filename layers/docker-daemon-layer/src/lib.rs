//! The Docker daemon.
//!
//! In history: `docker -d` of 2013 was all of it in one program, with the execution of containers
//! first in LXC, then in its own libcontainer; since Docker 1.11 (April 2016) it asks containerd
//! to run them, and what remained is this: images by name, containers with their configuration,
//! names, logs, networks and volumes, and the HTTP API.
//!
//! Who calls: the docker CLI and every SDK, and from 2014 to 2022 the kubelet, at last through
//! dockershim. The wire is HTTP/1.1 on a unix socket, Docker Engine API 1.41. This layer calls
//! containerd ([`hops::Containerd`]) for everything that runs, and network plugins ([`hops::Cni`]).
//!
//! Read [`engine`] first, then its `start` and `exits`: a container's way in and out.

mod cgroups;
pub mod config;
pub mod engine;
pub mod image;
mod names;
mod network;
pub mod program;
mod record;
mod spec;
mod stdio;
pub mod suite;
mod time;

pub use config::{Bridge, Config};
pub use engine::Engine;
pub use program::main;
