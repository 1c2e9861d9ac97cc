//! The callee's end: every verb of a face, registered by walking its table.

use std::{collections::HashMap, convert::Infallible, future::ready, pin::Pin, sync::Arc};

use futures_util::StreamExt;
use hops::{
    Cx, Handle, HandleStream,
    rpc::{RpcFace, RpcOp, RpcStreamOp, RpcVisitor},
};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, StreamingService, UnaryService},
};
use tonic_prost::ProstCodec;

use super::{cx_of, error_of, status_of};

type Answer = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;
type Route = Arc<dyn Fn(http::Request<Incoming>) -> Answer + Send + Sync>;

/// The limit for one message, as containerd's own server has it.
const MAX_MESSAGE: usize = 16 << 20;

/// A gRPC server of any number of faces on one socket.
#[derive(Default, Clone)]
pub struct Server {
    routes: HashMap<String, Route>,
}

impl Server {
    /// A server of nothing yet.
    pub fn new() -> Server {
        Server::default()
    }

    /// Serves every verb of the face `F` by `engine`. CRI is served as `v1` and `v1alpha2`.
    pub fn face<F: ?Sized + RpcFace>(mut self, engine: Arc<F>) -> Server {
        F::visit(&mut Register { routes: &mut self.routes, engine });
        self
    }

    /// Serves until `shutdown` completes; open calls are then given a moment to end.
    pub async fn serve(self, listener: UnixListener, shutdown: impl Future<Output = ()>) {
        let routes = Arc::new(self.routes);
        let connections = hyper_util::server::graceful::GracefulShutdown::new();
        tokio::pin!(shutdown);
        loop {
            let stream = tokio::select! {
                _ = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors: the connections that end will free some.
                        tracing::warn!(%error, "accept");
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                        continue;
                    }
                },
            };
            let routes = routes.clone();
            let service = service_fn(move |request: http::Request<Incoming>| {
                let answer = answer(&routes, request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            let connection = connections.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection");
                }
            });
        }
        let grace = std::time::Duration::from_millis(200);
        let _ = tokio::time::timeout(grace, connections.shutdown()).await;
    }
}

fn answer(routes: &HashMap<String, Route>, request: http::Request<Incoming>) -> Answer {
    match routes.get(request.uri().path()) {
        Some(route) => route(request),
        None => {
            let status = Status::unimplemented(unknown(routes, request.uri().path()));
            Box::pin(ready(status.into_http()))
        }
    }
}

/// grpc-go's words for a path that nobody serves.
fn unknown(routes: &HashMap<String, Route>, path: &str) -> String {
    let (service, method) = path.trim_start_matches('/').rsplit_once('/').unwrap_or((path, ""));
    let served = format!("/{service}/");
    if routes.keys().any(|path| path.starts_with(&served)) {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    }
}

struct Register<'a, F: ?Sized> {
    routes: &'a mut HashMap<String, Route>,
    engine: Arc<F>,
}

impl<F: ?Sized> Register<'_, F> {
    fn route(&mut self, path: &str, route: Route) {
        let (v1, v1alpha2) = hops::cri::V1ALPHA2;
        if path.starts_with(v1) {
            self.routes.insert(path.replacen(v1, v1alpha2, 1), route.clone());
        }
        self.routes.insert(path.to_owned(), route);
    }
}

impl<F: ?Sized + Send + Sync + 'static> RpcVisitor<F> for Register<'_, F> {
    fn unary<O: RpcOp>(&mut self)
    where
        F: Handle<O>,
    {
        let engine = self.engine.clone();
        self.route(
            O::PATH,
            Arc::new(move |request| {
                let call = Unary { engine: engine.clone(), cx: cx_of(request.headers()) };
                Box::pin(async move {
                    Grpc::new(ProstCodec::<O::Reply, O>::default())
                        .max_decoding_message_size(MAX_MESSAGE)
                        .unary(call, request)
                        .await
                })
            }),
        );
    }

    fn stream<O: RpcStreamOp>(&mut self)
    where
        F: HandleStream<O>,
    {
        let engine = self.engine.clone();
        self.route(
            O::PATH,
            Arc::new(move |request| {
                let call = Streamed {
                    engine: engine.clone(),
                    cx: cx_of(request.headers()),
                    verb: std::marker::PhantomData::<fn(O)>,
                };
                Box::pin(async move {
                    Grpc::new(ProstCodec::<O::Out, O::Sent>::default())
                        .max_decoding_message_size(MAX_MESSAGE)
                        .streaming(call, request)
                        .await
                })
            }),
        );
    }
}

struct Unary<F: ?Sized> {
    engine: Arc<F>,
    cx: Cx,
}

impl<F: ?Sized + Handle<O> + 'static, O: RpcOp> UnaryService<O> for Unary<F> {
    type Response = O::Reply;
    type Future = Pin<Box<dyn Future<Output = Result<Response<O::Reply>, Status>> + Send>>;

    fn call(&mut self, request: Request<O>) -> Self::Future {
        let (engine, cx) = (self.engine.clone(), self.cx.clone());
        Box::pin(async move {
            let call = engine.handle(&cx, request.into_inner());
            let answer = match cx.remaining() {
                None => call.await,
                Some(left) => match tokio::time::timeout(left, call).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(Status::deadline_exceeded("context deadline exceeded")),
                },
            };
            answer.map(Response::new).map_err(|e| status_of(&e))
        })
    }
}

struct Streamed<F: ?Sized, O> {
    engine: Arc<F>,
    cx: Cx,
    verb: std::marker::PhantomData<fn(O)>,
}

impl<F: ?Sized + HandleStream<O> + 'static, O: RpcStreamOp> StreamingService<O::Sent>
    for Streamed<F, O>
{
    type Response = O::Out;
    type ResponseStream = Pin<Box<dyn futures_core::Stream<Item = Result<O::Out, Status>> + Send>>;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<O::Sent>>) -> Self::Future {
        let (engine, cx) = (self.engine.clone(), self.cx.clone());
        Box::pin(async move {
            let sent = Box::pin(request.into_inner().map(|m| m.map_err(|s| error_of(&s))));
            let (op, input) = O::receive(sent).await.map_err(|e| status_of(&e))?;
            let outputs = engine.stream(&cx, op, input).await.map_err(|e| status_of(&e))?;
            let outputs = outputs.map(|item| item.map_err(|e| status_of(&e)));
            Ok(Response::new(Box::pin(outputs) as Self::ResponseStream))
        })
    }
}
