//! dockershim: CRI on the Docker Engine API.
//!
//! When Kubernetes 1.5 (December 2016) put the Container Runtime Interface between the kubelet and
//! its runtimes, Docker did not speak it; dockershim was the adapter, first beside the kubelet and
//! soon in it, and it stayed the default until Kubernetes 1.24 (May 2022) took it out. The kubelet
//! calls it by `Cri`, in `v1alpha2` then and in both versions here; it calls the Docker daemon by
//! `Docker` and network plugins by `Cni`.
//!
//! It keeps next to no state: a pod is found again by its containers' names and labels
//! (`names`, `labels`), and only what the network's teardown needs is written down
//! ([`checkpoint`]). Read `sandbox` first, then `container`; `engine` is what they share.

pub mod checkpoint;
mod container;
mod engine;
mod exec;
mod image;
mod labels;
mod names;
mod network;
mod program;
mod resolv;
mod sandbox;
mod security;
mod status;
mod time;

pub use engine::{Config, Engine};
pub use program::main;
