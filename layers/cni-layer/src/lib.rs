//! Network plugins, and what calls them.
//!
//! In history: CoreOS' rkt (2015) asked for network plugins that know nothing of the runtime, and
//! the Container Network Interface came of it. Kubernetes took it the same year; dockershim called
//! it for the sandbox containers whose network Docker was told not to touch, and CRI runtimes call
//! it to this day. Docker kept its own libnetwork.
//!
//! Who calls: cri-layer and dockershim, for each pod, ADD and DEL; docker-daemon-layer asks for a
//! bridge of its own through the same face. The wire is a program of `CNI_PATH`, its `CNI_*`
//! variables and its standard streams: [`wire::cni`] speaks it to any plugin and runs a network of
//! several, [`server`] speaks it to any runtime. This layer calls nobody but the kernel, and an
//! IPAM plugin that it has not built in.
//!
//! Read [`engine`] first (the plugins), then [`netlink`] (what they ask the kernel).

pub mod call;
pub mod engine;
pub mod netlink;
pub mod server;
pub mod suite;

use std::process::ExitCode;

pub use engine::Engine;

/// The program `strata-cni`: every plugin under one name.
pub fn main() -> ExitCode {
    server::serve()
}
