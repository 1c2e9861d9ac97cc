//! The caller's end: one generic implementation for every verb of every gRPC face.

use std::path::PathBuf;

use async_trait::async_trait;
use futures_util::StreamExt;
use hops::{
    Cx, Handle, HandleStream, HopError, Inputs, Kind, Outputs, Result,
    cx::TRACEPARENT_HEADER,
    rpc::{RpcOp, RpcStreamOp},
};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::{
    Request, Status,
    client::Grpc,
    metadata::{MetadataKey, MetadataValue},
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::error_of;
use crate::socket;

/// containerd's and the kubelet's limit for one message.
const MAX_MESSAGE: usize = 16 << 20;

/// A client of a gRPC server on a unix socket. It connects at the first call, and again after the
/// server was away.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    /// A replacement of the package name, for a server of an older version of the same messages.
    rename: Option<(&'static str, &'static str)>,
}

impl Client {
    /// A client of the server at `path`. Nothing is sent yet.
    pub fn new(path: impl Into<PathBuf>) -> Client {
        let path = path.into();
        // The authority is what grpc-go's clients send for a unix socket.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
            tower::service_fn(move |_| {
                let path = path.clone();
                async move { socket::connect(&path).await.map(TokioIo::new) }
            }),
        );
        Client { channel, rename: None }
    }

    /// The same client, speaking CRI's `v1alpha2`.
    pub fn v1alpha2(mut self) -> Client {
        self.rename = Some(hops::cri::V1ALPHA2);
        self
    }

    async fn ready<M>(
        &self,
        cx: &Cx,
        path: &'static str,
        message: M,
    ) -> Result<(Grpc<Channel>, PathAndQuery, Request<M>)> {
        let path = match self.rename {
            Some((from, to)) if path.starts_with(from) => {
                PathAndQuery::try_from(path.replacen(from, to, 1))
                    .map_err(|e| HopError::internal(format!("path {path}: {e}")))?
            }
            _ => PathAndQuery::from_static(path),
        };
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        if let Some(trace) = cx.trace
            && let Ok(value) = MetadataValue::try_from(trace.to_string())
        {
            headers.insert(TRACEPARENT_HEADER, value);
        }
        for (key, value) in cx.metadata() {
            let value = MetadataValue::try_from(value)
                .map_err(|_| HopError::invalid(format!("{key}: not printable ASCII")))?;
            headers.insert(MetadataKey::from_static(key), value);
        }
        if let Some(left) = cx.remaining() {
            request.set_timeout(left);
        }
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        grpc.ready().await.map_err(|e| unreachable(&e))?;
        Ok((grpc, path, request))
    }
}

/// The error of a transport, in the words of what failed at its bottom.
fn unreachable(error: &(dyn std::error::Error + 'static)) -> HopError {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    HopError::new(Kind::Unavailable, format!("connection error: {cause}"))
}

/// The error of a call: what the server's status says, or what kept the call from reaching it.
fn failed(status: Status) -> HopError {
    match std::error::Error::source(&status) {
        Some(source) => unreachable(source),
        None => error_of(&status),
    }
}

/// Stops waiting at the caller's deadline, whether or not the server keeps it.
async fn by_deadline<T>(cx: &Cx, call: impl Future<Output = Result<T, Status>>) -> Result<T> {
    match cx.remaining() {
        None => call.await.map_err(failed),
        Some(left) => match tokio::time::timeout(left, call).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(HopError::new(Kind::DeadlineExceeded, "context deadline exceeded")),
        },
    }
}

#[async_trait]
impl<O: RpcOp> Handle<O> for Client {
    async fn handle(&self, cx: &Cx, op: O) -> Result<O::Reply> {
        let (mut grpc, path, request) = self.ready(cx, O::PATH, op).await?;
        let call = grpc.unary(request, path, ProstCodec::<O, O::Reply>::default());
        Ok(by_deadline(cx, call).await?.into_inner())
    }
}

#[async_trait]
impl<O: RpcStreamOp> HandleStream<O> for Client {
    async fn stream(&self, cx: &Cx, op: O, input: Inputs<O::In>) -> Result<Outputs<O::Out>> {
        let (mut grpc, path, request) = self.ready(cx, O::PATH, op.send(input)).await?;
        let codec = ProstCodec::<O::Sent, O::Out>::default();
        let answer = by_deadline(cx, grpc.streaming(request, path, codec)).await?;
        Ok(outputs(answer.into_inner()))
    }
}

fn outputs<T: Message + Default + 'static>(stream: tonic::Streaming<T>) -> Outputs<T> {
    Box::pin(stream.map(|item| item.map_err(failed)))
}
