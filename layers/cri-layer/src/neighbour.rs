//! containerd, called in the namespace of Kubernetes.

use std::sync::Arc;

use hops::{Containerd, Cx, Handle, HandleStream, Op, Outputs, Result, StreamOp, op::no_input};

use crate::config::NAMESPACE;

/// The containerd that this layer stands on.
#[derive(Clone)]
pub(crate) struct Neighbour(pub(crate) Arc<dyn Containerd>);

impl Neighbour {
    /// Calls a verb in Kubernetes' namespace.
    ///
    /// # Errors
    /// Those of the verb.
    pub(crate) async fn call<O: Op>(&self, cx: &Cx, op: O) -> Result<O::Reply>
    where
        dyn Containerd: Handle<O>,
    {
        self.0.handle(&cx.in_namespace(NAMESPACE), op).await
    }

    /// Opens a stream of answers in Kubernetes' namespace.
    ///
    /// # Errors
    /// Those that come before the first answer.
    pub(crate) async fn open<O: StreamOp>(&self, cx: &Cx, op: O) -> Result<Outputs<O::Out>>
    where
        dyn Containerd: HandleStream<O>,
    {
        self.0.stream(&cx.in_namespace(NAMESPACE), op, no_input()).await
    }
}
