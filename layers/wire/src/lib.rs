//! The wires of Strata: each hop's real protocol, once for all of the hop's verbs.
//!
//! | module | hop | protocol |
//! | --- | --- | --- |
//! | [`grpc`] | `Cri`, `Containerd` | gRPC over HTTP/2 on a unix socket |
//! | [`ttrpc`] | `Shim` | ttrpc on a unix socket |
//! | [`http`] | `Docker` | HTTP/1.1 on a unix socket, with connection upgrade |
//! | [`oci`] | `Oci` | a command line, runc's |
//! | [`cni`] | `Cni` | a command line and JSON, the Container Network Interface's |
//!
//! A client implements the whole face by one generic `impl` over the face's verbs, and a server
//! registers every verb by walking the face's table; neither knows a single verb by name. Read
//! [`grpc`] first, then the others for what differs.

pub mod cni;
pub mod daemon;
pub mod grpc;
pub mod http;
pub mod oci;
pub mod socket;
pub mod ttrpc;
