//! The faces of Strata: one trait per hop of the container stack, and what every hop shares.
//!
//! A *hop* is the place where one layer calls the next: kubelet → CRI runtime, client → Docker
//! daemon, client → containerd, containerd → shim, shim → OCI runtime, runtime → CNI plugin. In
//! history each was a protocol of its own; here the messages of that protocol are the verbs of a
//! trait, so that a layer does not know whether its neighbour is in the same process, behind
//! Strata's wire, or the unmodified real program.
//!
//! Nothing here speaks a wire: `wire` does. Read [`op`] first (what a verb is), then [`cri`] (a
//! face as a table), then [`trace`] (how the time is accounted for).

pub mod cni;
pub mod containerd;
pub mod cri;
pub mod cx;
pub mod docker;
pub mod error;
pub mod fault;
pub mod oci;
pub mod op;
pub mod proto;
pub mod rpc;
pub mod shim;
pub mod trace;

pub use cni::Cni;
pub use containerd::Containerd;
pub use cri::Cri;
pub use cx::Cx;
pub use docker::Docker;
pub use error::{HopError, Kind, Result, Wire};
pub use oci::Oci;
pub use op::{Handle, HandleStream, Hop, Inputs, Op, Outputs, StreamOp};
pub use shim::Shim;
