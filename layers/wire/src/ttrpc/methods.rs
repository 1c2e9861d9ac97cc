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

/// How many verbs a face has at most before its table grows.
const CAPACITY: usize = 28;

/// The verbs of `F`.
pub struct Methods<F: ?Sized> {
    engine: Arc<F>,
    methods: HashMap<&'static str, Method<F>>,
    /// Further names of services, each with the name in the table.
    names: Vec<(&'static str, &'static str)>,
}

impl<F: ?Sized + RpcFace> Methods<F> {
    /// The verbs of the face `F`, answered by `engine`.
    pub fn new(engine: Arc<F>) -> Methods<F> {
        // Grown step by step, it would leave holes in the heap of a shim, where a page counts.
        let methods = HashMap::with_capacity(CAPACITY);
        let mut methods = Methods { engine, methods, names: Vec::new() };
        F::visit(&mut methods);
        methods
    }

    /// Answers calls to the service `name` as those to `service`: a protocol's later version may
    /// be the earlier one's messages under another package name.
    pub fn also(mut self, name: &'static str, service: &'static str) -> Methods<F> {
        self.names.push((name, service));
        self
    }

    /// Begins to answer `request`; the answer is polled by whoever serves the connection.
    pub fn call(&self, request: Request) -> Pending {
        let named = self.names.iter().find(|(name, _)| *name == request.service);
        let service = named.map_or(request.service.as_str(), |(_, service)| service);
        let path = format!("/{service}/{}", request.method);
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
