//! The callee's end: every verb of Docker's table on one socket.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt;
use hops::{
    Cx, Docker, Handle, HandleStream, HopError, Inputs, Outputs, Result,
    cx::{REGISTRY_AUTH_HEADER, TRACEPARENT_HEADER, TraceParent},
    docker::{
        self, Body as _, Chunk, Method, Reply, Request, StreamVerb, UnaryVerb, Verb, Visitor,
    },
};
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{Body, MAX_DOCUMENT, route, whole};

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>>> + Send>>;
type Call = Box<dyn Fn(String, http::Request<Incoming>) -> Answer + Send + Sync>;

struct Route {
    method: Method,
    template: &'static str,
    call: Call,
}

/// Serves `engine` until `shutdown` completes.
pub async fn serve(
    listener: UnixListener,
    engine: Arc<dyn Docker>,
    shutdown: impl Future<Output = ()>,
) {
    let mut table = Table { engine, routes: Vec::new() };
    docker::visit(&mut table);
    // A path without a name in it is never taken for one with a name.
    table.routes.sort_by_key(|route| route.template.contains("{id}"));
    let routes = Arc::new(table.routes);
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            _ = &mut shutdown => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                }
            },
        };
        let routes = routes.clone();
        let service = service_fn(move |request| {
            let routes = routes.clone();
            async move { Ok::<_, Infallible>(answer(&routes, request).await) }
        });
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
        });
    }
}

async fn answer(routes: &[Route], request: http::Request<Incoming>) -> Response<Body> {
    let head = request.method() == http::Method::HEAD;
    let mut response = match dispatch(routes, request).await {
        Ok(response) => response,
        Err(error) => failure(&error),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        ("Api-Version", docker::API_VERSION),
        ("Docker-Experimental", "false"),
        ("Ostype", "linux"),
        ("Server", concat!("Docker/20.10.24 (linux) Strata/", env!("CARGO_PKG_VERSION"))),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    if head {
        *response.body_mut() = whole(Bytes::new());
    }
    response
}

async fn dispatch(routes: &[Route], request: http::Request<Incoming>) -> Result<Response<Body>> {
    let path = route::unversioned(request.uri().path())?.to_owned();
    let method =
        if request.method() == http::Method::HEAD { "GET" } else { request.method().as_str() };
    let found = routes
        .iter()
        .filter(|route| route.method.name() == method)
        .find_map(|route| Some((route, route::name_in(route.template, &path)?)));
    match found {
        Some((route, name)) => (route.call)(name, request).await,
        None => Err(HopError::not_found("page not found")),
    }
}

fn failure(error: &HopError) -> Response<Body> {
    let body = serde_json::json!({ "message": error.message }).to_string() + "\n";
    let status =
        StatusCode::from_u16(error.kind.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(whole(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

struct Table {
    engine: Arc<dyn Docker>,
    routes: Vec<Route>,
}

impl Table {
    fn add<V: Verb>(&mut self, call: Call) {
        self.routes.push(Route { method: V::METHOD, template: V::PATH, call });
    }
}

impl Visitor<dyn Docker> for Table {
    fn unary<V: UnaryVerb>(&mut self)
    where
        dyn Docker: Handle<Request<V>>,
    {
        let engine = self.engine.clone();
        self.add::<V>(Box::new(move |name, request| {
            let engine = engine.clone();
            Box::pin(async move {
                let cx = cx_of(request.headers());
                let call = read::<V>(name, request).await?;
                let reply = engine.handle(&cx, call).await?;
                let (status, content_type, body) = reply.encode(V::STATUS);
                Ok(respond(status, content_type, whole(body)))
            })
        }));
    }

    fn stream<V: StreamVerb>(&mut self)
    where
        dyn Docker: HandleStream<Request<V>>,
    {
        let engine = self.engine.clone();
        self.add::<V>(Box::new(move |name, request| {
            let engine = engine.clone();
            Box::pin(async move {
                let cx = cx_of(request.headers());
                if V::UPLOADS {
                    let call = Request::<V>::of(name).query(query::<V>(request.uri())?);
                    let input = uploaded(request.into_body());
                    let outputs = engine.stream(&cx, call, input).await?;
                    return Ok(respond(200, V::Out::CONTENT_TYPE, streamed(outputs)));
                }
                if !V::UPGRADES || !request.headers().contains_key(header::UPGRADE) {
                    let call = read::<V>(name, request).await?;
                    let outputs = engine.stream(&cx, call, hops::op::no_input()).await?;
                    return Ok(respond(200, V::Out::CONTENT_TYPE, streamed(outputs)));
                }
                upgraded::<V>(engine, cx, name, request).await
            })
        }));
    }
}

/// Takes the connection over: the caller's bytes are the verb's input, its output goes back raw.
async fn upgraded<V: StreamVerb>(
    engine: Arc<dyn Docker>,
    cx: Cx,
    name: String,
    mut request: http::Request<Incoming>,
) -> Result<Response<Body>>
where
    dyn Docker: HandleStream<Request<V>>,
{
    let upgrade = hyper::upgrade::on(&mut request);
    let call = read::<V>(name, request).await?;
    let (sender, receiver) = mpsc::channel(8);
    let input = Box::pin(ReceiverStream::new(receiver));
    let outputs = engine.stream(&cx, call, input).await?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => pump(TokioIo::new(connection), sender, outputs).await,
            Err(error) => tracing::debug!(%error, "upgrade"),
        }
    });
    let mut response = respond(101, V::Out::CONTENT_TYPE, whole(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("tcp"));
    Ok(response)
}

async fn pump<T: Chunk>(
    connection: TokioIo<hyper::upgrade::Upgraded>,
    sender: mpsc::Sender<Bytes>,
    mut outputs: Outputs<T>,
) {
    let (mut reader, mut writer) = tokio::io::split(connection);
    let input = tokio::spawn(async move {
        loop {
            let mut buffer = bytes::BytesMut::with_capacity(16 << 10);
            match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) if sender.send(buffer.freeze()).await.is_err() => return,
                Ok(_) => {}
            }
        }
    });
    while let Some(Ok(chunk)) = outputs.next().await {
        if writer.write_all(&chunk.encode()).await.is_err() || writer.flush().await.is_err() {
            break;
        }
    }
    let _ = writer.shutdown().await;
    input.abort();
}

fn cx_of(headers: &http::HeaderMap) -> Cx {
    let text = |key: &str| headers.get(key).and_then(|v| v.to_str().ok());
    let mut cx = Cx::background();
    cx.trace = text(TRACEPARENT_HEADER).and_then(TraceParent::parse);
    match text(REGISTRY_AUTH_HEADER) {
        Some(auth) => cx.with(REGISTRY_AUTH_HEADER, auth.to_owned()),
        None => cx,
    }
}

fn query<V: Verb>(uri: &http::Uri) -> Result<V::Query> {
    serde_urlencoded::from_str(uri.query().unwrap_or(""))
        .map_err(|e| HopError::invalid(format!("invalid query: {e}")))
}

async fn read<V: Verb>(name: String, request: http::Request<Incoming>) -> Result<Request<V>> {
    let query = query::<V>(request.uri())?;
    let body = Limited::new(request.into_body(), MAX_DOCUMENT)
        .collect()
        .await
        .map_err(|e| HopError::invalid(format!("the request's body: {e}")))?;
    Ok(Request { id: name, query, body: V::Body::decode(&body.to_bytes())? })
}

/// The uploaded bytes; an upload that breaks off ends the stream, which a verb that reads an
/// archive then finds truncated.
fn uploaded(body: Incoming) -> Inputs<Bytes> {
    Box::pin(body.into_data_stream().scan((), |_, item| std::future::ready(item.ok())))
}

fn streamed<T: Chunk>(outputs: Outputs<T>) -> Body {
    let frames = outputs.map(|item| match item {
        Ok(chunk) => Ok(Frame::data(chunk.encode())),
        Err(error) => match T::failure(&error) {
            Some(bytes) => Ok(Frame::data(bytes)),
            None => Err(Box::<dyn std::error::Error + Send + Sync>::from(error)),
        },
    });
    StreamBody::new(frames).boxed_unsync()
}

fn respond(status: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !content_type.is_empty() {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    }
    response
}
