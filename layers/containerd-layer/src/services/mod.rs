//! containerd's services, one module each: the verbs of the `Containerd` face on [`Engine`].
//!
//! A service translates: protobuf to the store's types, the store's errors to gRPC's, a change to
//! its event. What it needs of the call is the namespace and the lease.

mod containers;
mod content;
mod convert;
mod diff;
pub(crate) mod health;
mod images;
pub(crate) mod introspection;
mod leases;
mod mounted;
mod namespaces;
mod resolver;
pub(crate) mod sandbox;
mod snapshots;
pub(crate) mod streaming;
mod transfer;
mod write;

pub(crate) use convert::any;
pub(crate) use convert::stamp;

use crate::{Error, Kind, metadata::identifier};
use hops::{Cx, HopError};

/// Implements verbs with one answer: `Request = |engine, cx, op| { … }`.
macro_rules! verbs {
    ($($(#[$doc:meta])* $request:ty = |$engine:ident, $cx:ident, $op:ident| $body:block)*) => {
        $(
            $(#[$doc])*
            #[async_trait::async_trait]
            impl hops::Handle<$request> for crate::Engine {
                async fn handle(
                    &self,
                    $cx: &hops::Cx,
                    $op: $request,
                ) -> hops::Result<<$request as hops::Op>::Reply> {
                    let $engine = self;
                    $body
                }
            }
        )*
    };
}
pub(crate) use verbs;

/// Implements verbs with streams: `Verb = |engine, cx, op, input| { … }`.
macro_rules! streams {
    ($($verb:ty = |$engine:ident, $cx:ident, $op:ident, $input:ident| $body:block)*) => {
        $(
            #[async_trait::async_trait]
            impl hops::HandleStream<$verb> for crate::Engine {
                async fn stream(
                    &self,
                    $cx: &hops::Cx,
                    $op: $verb,
                    $input: hops::Inputs<<$verb as hops::StreamOp>::In>,
                ) -> hops::Result<hops::Outputs<<$verb as hops::StreamOp>::Out>> {
                    let $engine = self;
                    $body
                }
            }
        )*
    };
}
pub(crate) use streams;

/// The namespace of a call.
///
/// # Errors
/// containerd's own for a call without one, or with one that can be no name.
pub(crate) fn namespace(cx: &Cx) -> hops::Result<String> {
    let namespace = cx.namespace().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Error::precondition("namespace is required").into());
    }
    identifier::validate(namespace).map_err(|e| e.during("namespace validation"))?;
    Ok(namespace.to_owned())
}

/// The lease that protects what a call makes.
pub(crate) fn lease(cx: &Cx) -> Option<String> {
    cx.get(hops::cx::LEASE_HEADER).filter(|id| !id.is_empty()).map(str::to_owned)
}

/// A part that a request must have.
pub(crate) fn required<T>(part: Option<T>, name: &str) -> hops::Result<T> {
    part.ok_or_else(|| Error::invalid(format_args!("{name} is required")).into())
}

impl From<Error> for HopError {
    fn from(error: Error) -> HopError {
        let kind = match error.kind {
            Kind::NotFound => hops::Kind::NotFound,
            Kind::AlreadyExists => hops::Kind::AlreadyExists,
            Kind::InvalidArgument => hops::Kind::InvalidArgument,
            Kind::FailedPrecondition => hops::Kind::FailedPrecondition,
            Kind::Unavailable => hops::Kind::Unavailable,
            Kind::DataLoss => hops::Kind::DataLoss,
            Kind::ResourceExhausted => hops::Kind::ResourceExhausted,
            Kind::PermissionDenied => hops::Kind::PermissionDenied,
            Kind::Unauthenticated => hops::Kind::Unauthenticated,
            Kind::Unimplemented => hops::Kind::Unimplemented,
            Kind::Cancelled => hops::Kind::Cancelled,
            Kind::Internal => hops::Kind::Internal,
            Kind::Unknown => hops::Kind::Unknown,
        };
        HopError::new(kind, error.message)
    }
}
