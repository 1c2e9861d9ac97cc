//! The caller's end: one generic implementation for every verb of Docker's table.

use std::{
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use hops::{
    Cx, Handle, HandleStream, HopError, Inputs, Kind, Outputs, Result, Wire,
    cx::{REGISTRY_AUTH_HEADER, TRACEPARENT_HEADER},
    docker::{API_VERSION, Body as _, Chunk, Reply, Request, StreamVerb, UnaryVerb, Verb},
};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    client::legacy::{self, connect::Connected},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{Body, MAX_DOCUMENT, route, whole};
use crate::socket;

/// A client of a Docker daemon on a unix socket; it keeps idle connections.
#[derive(Clone)]
pub struct Client {
    inner: legacy::Client<Dial, Body>,
    path: PathBuf,
}

impl Client {
    /// A client of the daemon at `path`. Nothing is sent yet.
    pub fn new(path: impl Into<PathBuf>) -> Client {
        let path = path.into();
        let inner = legacy::Client::builder(TokioExecutor::new()).build(Dial(path.clone()));
        Client { inner, path }
    }

    /// Sends a call; an answer of status 400 and above is an error with the daemon's words.
    async fn send<V: Verb>(
        &self,
        cx: &Cx,
        call: &Request<V>,
        upload: Option<Inputs<Bytes>>,
        upgrade: bool,
    ) -> Result<http::Response<Incoming>> {
        let mut uri = format!("http://docker/v{API_VERSION}{}", route::fill(V::PATH, &call.id));
        let query = serde_urlencoded::to_string(&call.query)
            .map_err(|e| HopError::invalid(format!("{}: query: {e}", V::NAME)))?;
        if !query.is_empty() {
            uri.push('?');
            uri.push_str(&query);
        }
        let mut request = http::Request::builder().method(V::METHOD.name()).uri(uri);
        if let Some(trace) = cx.trace {
            request = request.header(TRACEPARENT_HEADER, trace.to_string());
        }
        if let Some(auth) = cx.get(REGISTRY_AUTH_HEADER) {
            request = request.header("X-Registry-Auth", auth);
        }
        if upgrade {
            request = request.header("Connection", "Upgrade").header("Upgrade", "tcp");
        }
        let body = match (upload, call.body.encode()) {
            (Some(upload), _) => {
                request = request.header("Content-Type", "application/x-tar");
                StreamBody::new(upload.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync()
            }
            (None, Some(document)) => {
                request = request.header("Content-Type", "application/json");
                whole(document)
            }
            (None, None) => whole(Bytes::new()),
        };
        let request =
            request.body(body).map_err(|e| HopError::invalid(format!("{}: {e}", V::NAME)))?;
        let response = self.inner.request(request).await.map_err(|e| {
            let words = format!(
                "Cannot connect to the Docker daemon at unix://{}. Is the docker daemon running?",
                self.path.display()
            );
            HopError::new(Kind::Unavailable, words).because(e)
        })?;
        let status = response.status().as_u16();
        if status < 400 {
            return Ok(response);
        }
        let body = document(response.into_body()).await?;
        Err(daemon_error(status, &body))
    }
}

/// Reads a body whole.
async fn document(body: Incoming) -> Result<Bytes> {
    match Limited::new(body, MAX_DOCUMENT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) => {
            Err(HopError::new(Kind::Unavailable, format!("the daemon's answer broke off: {e}")))
        }
    }
}

/// The error in an answer: `{"message": …}`, or whatever the body says.
fn daemon_error(status: u16, body: &[u8]) -> HopError {
    let message = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|v| v.get("message")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    HopError::from_wire(Kind::from_http(status, &message), message, Wire::Http(status))
}

async fn by_deadline<T>(cx: &Cx, call: impl Future<Output = Result<T>>) -> Result<T> {
    match cx.remaining() {
        None => call.await,
        Some(left) => tokio::time::timeout(left, call).await.unwrap_or_else(|_| {
            Err(HopError::new(Kind::DeadlineExceeded, "context deadline exceeded"))
        }),
    }
}

#[async_trait]
impl<V: UnaryVerb> Handle<Request<V>> for Client {
    async fn handle(&self, cx: &Cx, call: Request<V>) -> Result<V::Reply> {
        by_deadline(cx, async {
            let response = self.send(cx, &call, None, false).await?;
            let status = response.status().as_u16();
            V::Reply::decode(status, &document(response.into_body()).await?)
        })
        .await
    }
}

#[async_trait]
impl<V: StreamVerb> HandleStream<Request<V>> for Client {
    async fn stream(
        &self,
        cx: &Cx,
        call: Request<V>,
        input: Inputs<Bytes>,
    ) -> Result<Outputs<V::Out>> {
        if !V::UPGRADES {
            let upload = V::UPLOADS.then_some(input);
            let response = by_deadline(cx, self.send(cx, &call, upload, false)).await?;
            return Ok(chunks(body_bytes(response.into_body())));
        }
        let response = by_deadline(cx, self.send(cx, &call, None, true)).await?;
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(chunks(body_bytes(response.into_body())));
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|e| HopError::new(Kind::Unavailable, format!("upgrade: {e}")))?;
        let (reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        tokio::spawn(async move {
            let mut input = input;
            while let Some(bytes) = input.next().await {
                if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                    return;
                }
            }
            // The half-close that tells the daemon that standard input has ended.
            let _ = writer.shutdown().await;
        });
        Ok(chunks(read_bytes(reader)))
    }
}

type ByteStream = Pin<Box<dyn futures_core::Stream<Item = Result<Bytes>> + Send>>;

fn body_bytes(body: Incoming) -> ByteStream {
    Box::pin(body.into_data_stream().map(|item| {
        item.map_err(|e| HopError::new(Kind::Unavailable, format!("the stream broke off: {e}")))
    }))
}

fn read_bytes(reader: impl AsyncRead + Unpin + Send + 'static) -> ByteStream {
    Box::pin(stream::unfold(reader, |mut reader| async {
        let mut buffer = BytesMut::with_capacity(16 << 10);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(buffer.freeze()), reader)),
            // A peer that ends the stream by a reset has ended it all the same.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(e) => Some((Err(HopError::from(e)), reader)),
        }
    }))
}

/// The items in a stream of bytes.
fn chunks<T: Chunk>(bytes: ByteStream) -> Outputs<T> {
    Box::pin(stream::unfold((bytes, BytesMut::new()), |(mut bytes, mut arrived)| async {
        loop {
            if let Some(item) = T::take(&mut arrived) {
                return Some((item, (bytes, arrived)));
            }
            match bytes.next().await? {
                Ok(more) => arrived.extend_from_slice(&more),
                Err(error) => return Some((Err(error), (bytes, arrived))),
            }
        }
    }))
}

/// Connects to the socket, whatever host a request names.
#[derive(Clone)]
struct Dial(PathBuf);

impl tower::Service<http::Uri> for Dial {
    type Response = Conn;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Conn>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { Ok(Conn(TokioIo::new(socket::connect(&path).await?))) })
    }
}

/// A connection, as hyper-util's pool wants it.
struct Conn(TokioIo<UnixStream>);

impl legacy::connect::Connection for Conn {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
