//! What a verb is, and what answers it.
//!
//! A verb is a request type of the hop's real protocol; [`Op`] says what it is called and what it
//! is answered with, and [`Handle`] is anything that answers it: an engine, a client of the wire,
//! a middleware around either. A face ([`crate::Cri`], [`crate::Docker`], …) is an alias for
//! "handles every verb of this hop".

use std::{fmt, pin::Pin, sync::Arc};

use async_trait::async_trait;
use futures_core::Stream;

use crate::{Cx, Result};

/// A place where one layer calls another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hop {
    /// kubelet → runtime: gRPC, `runtime.v1` and `runtime.v1alpha2`.
    Cri,
    /// client → engine: HTTP/1.1, the Docker Engine API.
    Docker,
    /// client → containerd: gRPC, `containerd.services.*.v1`.
    Containerd,
    /// containerd → shim: ttrpc, `containerd.task.v2`.
    Shim,
    /// shim → OCI runtime: a command line and a bundle.
    Oci,
    /// runtime → network plugin: a command line and JSON, the CNI specification.
    Cni,
}

impl Hop {
    /// Every hop, outermost first.
    pub const ALL: [Hop; 6] =
        [Hop::Cri, Hop::Docker, Hop::Containerd, Hop::Shim, Hop::Oci, Hop::Cni];

    /// The hop's name as reports and traces print it.
    pub const fn name(self) -> &'static str {
        match self {
            Hop::Cri => "Cri",
            Hop::Docker => "Docker",
            Hop::Containerd => "Containerd",
            Hop::Shim => "Shim",
            Hop::Oci => "Oci",
            Hop::Cni => "Cni",
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A verb with one answer.
pub trait Op: Send + 'static {
    /// What a successful call answers.
    type Reply: Send + 'static;
    /// The hop it crosses.
    const HOP: Hop;
    /// The verb's name in the protocol, e.g. `RunPodSandbox`; unique within the hop.
    const NAME: &'static str;
}

/// Anything that answers the verb `O`.
#[async_trait]
pub trait Handle<O: Op>: Send + Sync {
    /// Answers one call. Dropping the future abandons the call, as a client that hangs up does.
    async fn handle(&self, cx: &Cx, op: O) -> Result<O::Reply>;
}

/// What the caller sends while a streaming call is open. An end of the stream is a half-close.
pub type Inputs<T> = Pin<Box<dyn Stream<Item = T> + Send + 'static>>;

/// What the callee sends while a streaming call is open; at most one error, and it is the last.
pub type Outputs<T> = Pin<Box<dyn Stream<Item = Result<T>> + Send + 'static>>;

/// A verb whose answer (and perhaps whose question) is a stream: logs, events, attach, pulls.
pub trait StreamOp: Send + 'static {
    /// What the caller sends after the request; `()` where it sends nothing.
    type In: Send + 'static;
    /// What the callee sends.
    type Out: Send + 'static;
    /// The hop it crosses.
    const HOP: Hop;
    /// The verb's name in the protocol.
    const NAME: &'static str;
}

/// Anything that answers the streaming verb `O`.
#[async_trait]
pub trait HandleStream<O: StreamOp>: Send + Sync {
    /// Opens the stream. An error here is one that came before the first answer.
    async fn stream(&self, cx: &Cx, op: O, input: Inputs<O::In>) -> Result<Outputs<O::Out>>;
}

#[async_trait]
impl<O: Op, T: ?Sized + Handle<O>> Handle<O> for Arc<T> {
    async fn handle(&self, cx: &Cx, op: O) -> Result<O::Reply> {
        (**self).handle(cx, op).await
    }
}

#[async_trait]
impl<O: StreamOp, T: ?Sized + HandleStream<O>> HandleStream<O> for Arc<T> {
    async fn stream(&self, cx: &Cx, op: O, input: Inputs<O::In>) -> Result<Outputs<O::Out>> {
        (**self).stream(cx, op, input).await
    }
}

/// An input stream that is over before it begins, for verbs to which nothing more is sent.
pub fn no_input<T: Send + 'static>() -> Inputs<T> {
    Box::pin(futures_util::stream::empty())
}

/// Runs a call that never waits, without an async runtime.
///
/// The shim and the OCI runtime are synchronous programs whose implementations of a face finish on
/// the first poll; this is how they call each other.
///
/// # Errors
/// [`crate::Kind::Internal`] when the call did wait: it was given an implementation that needs a runtime.
pub fn now<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let mut call = std::pin::pin!(call);
    let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    match call.as_mut().poll(&mut task) {
        std::task::Poll::Ready(answer) => answer,
        std::task::Poll::Pending => Err(crate::HopError::new(
            crate::Kind::Internal,
            "a synchronous caller was given an asynchronous callee",
        )),
    }
}
