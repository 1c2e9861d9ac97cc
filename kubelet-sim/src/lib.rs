//! The kubelet's pod loop: from a Pod manifest to containers, through whatever CRI it is given.
//!
//! The kubelet has been Kubernetes' agent on each node since 2014. It ran pods by Docker's API at
//! first; since Kubernetes 1.5 (December 2016) it calls the Container Runtime Interface, and what
//! stood behind that was dockershim, inside the kubelet itself, until 1.24 (May 2022) took it out.
//! This layer is the part of it that a static pod needs: nobody calls it, it reads manifests, and
//! it speaks CRI (`Cri`) to the layer below.
//!
//! Read [`life`] first (one pod's whole life, measured), then [`kubelet`] (the steps it is made
//! of), then [`manifest`] (what is read and what is refused).

mod backoff;
mod container;
pub mod drive;
pub mod endpoint;
mod env;
mod hook;
pub mod kubelet;
pub mod life;
pub mod manifest;
mod probe;
mod program;
mod quantity;
mod resources;
mod sandbox;
mod security;
#[cfg(test)]
mod simulated;
mod supported;
pub mod sync;
#[cfg(test)]
mod tests;
mod validate;
mod volumes;
pub mod watch;

pub use kubelet::{Config, Kubelet};
pub use life::{PodRun, Span};
pub use manifest::Pod;
pub use program::main;
