//! CRI on containerd.
//!
//! In history: `cri-containerd` (2017) was a daemon of its own between the kubelet and containerd;
//! containerd 1.1 (2018) took it in as a plugin, and since Kubernetes 1.24 (2022) it is the usual
//! way from a kubelet to a container. Here it is a daemon again, `strata-cri`, or a library in
//! somebody's process.
//!
//! Who calls: a kubelet, `crictl`, `critest`, the lab. The wire is gRPC on a unix socket,
//! `runtime.v1` and `runtime.v1alpha2`. It calls containerd through the face `Containerd`, in the
//! namespace `k8s.io`, and network plugins through the face `Cni`.
//!
//! Read the table in `engine/mod.rs` first (which verb is which method), then `engine/sandbox.rs`
//! (how a pod begins), `engine/task.rs` (how a process ends) and `spec/container.rs` (what a
//! container is told to be).

mod config;
mod engine;
mod image;
mod io;
mod names;
mod neighbour;
mod program;
mod record;
mod spec;
pub mod suite;

pub use config::Config;
pub use engine::Engine;
pub use program::main;
