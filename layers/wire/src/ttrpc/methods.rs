//! A face's verbs by their path, as functions from bytes to bytes.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use bytes::Bytes;
use hops::{
    Cx, Handle, HandleStream, HopError, Kind, Result,
    rpc::{RpcFace, RpcOp, RpcStreamOp, RpcVisitor},
};
use prost::Message;

use super::frame::Request;

/// An answer that is on its way.
pub type Pending = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;
type Method<F> = fn(Arc<F>, Cx, Bytes) -> Pending;

/// The verbs of `F`.
pub struct Methods<F: ?Sized> {
    engine: Arc<F>,
    methods: HashMap<&'static str, Method<F>>,
}

impl<F: ?Sized + RpcFace> Methods<F> {
    /// The verbs of the face `F`, answered by `engine`.
    pub fn new(engine: Arc<F>) -> Methods<F> {
        let mut methods = Methods { engine, methods: HashMap::new() };
        F::visit(&mut methods);
        methods
    }

    /// Begins to answer `request`; the answer is polled by whoever serves the connection.
    pub fn call(&self, request: Request) -> Pending {
        let path = format!("/{}/{}", request.service, request.method);
        match self.methods.get(path.as_str()) {
            Some(method) => method(self.engine.clone(), request.cx(), request.payload),
            None => Box::pin(std::future::ready(Err(HopError::new(Kind::Unimplemented, path)))),
        }
    }
}

impl<F: ?Sized + Send + Sync + 'static> RpcVisitor<F> for Methods<F> {
    fn unary<O: RpcOp>(&mut self)
    where
        F: Handle<O>,
    {
        self.methods.insert(O::PATH, |engine, cx, payload| {
            Box::pin(async move {
                let op = O::decode(payload)
                    .map_err(|e| HopError::invalid(format!("{}: {e}", O::NAME)))?;
                let reply = engine.handle(&cx, op).await?;
                Ok(reply.encode_to_vec().into())
            })
        });
    }

    /// No face on this wire streams.
    fn stream<O: RpcStreamOp>(&mut self)
    where
        F: HandleStream<O>,
    {
    }
}
