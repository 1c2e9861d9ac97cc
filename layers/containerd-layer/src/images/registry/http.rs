//! HTTP as registries need it: redirects, one answer to a challenge, bounded retries, deadlines.

use super::auth::Auth;
use crate::{Error, Kind, Result};
use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, LOCATION, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{error::Error as _, sync::OnceLock, time::Duration};
use tokio::time::{sleep, timeout};

/// How long a registry may be silent before it counts as gone.
const SILENCE: Duration = Duration::from_secs(30);
const MOST_REDIRECTS: usize = 10;

pub(super) type Response = http::Response<Incoming>;
type Body = Empty<Bytes>;

/// One client for plain HTTP and one for TLS, which is made when first asked for: reading the
/// system's certificates takes longer than most starts.
#[derive(Debug)]
pub(super) struct Client {
    plain: HyperClient<HttpConnector, Body>,
    tls: OnceLock<Result<HyperClient<HttpsConnector<HttpConnector>, Body>>>,
}

/// Waits between tries: 0.1 s doubling to 3.2 s, six times.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

/// All tries are used up.
#[derive(Debug)]
pub(super) struct Exhausted;

impl Backoff {
    /// Waits before the next try; a server's own wish is heeded up to 10 s.
    pub(super) async fn wait(&mut self, wish: Option<Duration>) -> Result<(), Exhausted> {
        if self.0 == 6 {
            return Err(Exhausted);
        }
        let own = Duration::from_millis(100 << self.0);
        self.0 += 1;
        sleep(wish.map_or(own, |wish| wish.min(Duration::from_secs(10)))).await;
        Ok(())
    }
}

impl Client {
    pub(super) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(SILENCE));
        let plain = HyperClient::builder(TokioExecutor::new()).build(connector);
        Self { plain, tls: OnceLock::new() }
    }

    fn tls(&self) -> Result<&HyperClient<HttpsConnector<HttpConnector>, Body>> {
        let make = || {
            let builder = HttpsConnectorBuilder::new().with_native_roots().map_err(|e| {
                Error::unavailable(format_args!("this machine has no certificates to trust: {e}"))
            })?;
            let connector = builder.https_only().enable_http1().build();
            Ok(HyperClient::builder(TokioExecutor::new()).build(connector))
        };
        self.tls.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// Sends a request until it has an answer that more tries would not change; any status but those
    /// handled here is the caller's.
    pub(super) async fn request(
        &self,
        method: Method,
        url: &str,
        headers: &HeaderMap,
        auth: &Auth,
    ) -> Result<Response> {
        let mut backoff = Backoff::default();
        let mut challenged = false;
        loop {
            let response = match self.follow(&method, url, headers, auth.header()).await {
                Ok(response) => response,
                Err(e) if e.kind == Kind::Unavailable && !e.message.contains("connect") => {
                    if backoff.wait(None).await.is_err() {
                        return Err(e);
                    }
                    continue;
                }
                Err(e) => return Err(e),
            };
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && !challenged {
                challenged = true;
                let challenges = response.headers().get_all(WWW_AUTHENTICATE);
                let challenges: Vec<_> =
                    challenges.iter().filter_map(|v| v.to_str().ok()).collect();
                auth.answer(self, &challenges).await?;
                continue;
            }
            if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
                let wish = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
                let wish = wish.and_then(|v| v.parse().ok()).map(Duration::from_secs);
                if backoff.wait(wish).await.is_ok() {
                    continue;
                }
            }
            return Ok(response);
        }
    }

    /// Sends a request and follows redirects; credentials stay with the host they are for.
    async fn follow(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        authorization: Option<http::HeaderValue>,
    ) -> Result<Response> {
        let bad =
            |url: &str, e: &dyn std::fmt::Display| Error::invalid(format_args!("url {url:?}: {e}"));
        let first: Uri = url.parse().map_err(|e: http::uri::InvalidUri| bad(url, &e))?;
        let mut uri = first.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = Request::new(Body::new());
            *request.method_mut() = method.clone();
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            request
                .headers_mut()
                .insert(USER_AGENT, http::HeaderValue::from_static("strata-containerd"));
            if uri.authority() != first.authority() || uri.scheme() != first.scheme() {
                request.headers_mut().remove(AUTHORIZATION);
            } else if let Some(authorization) = &authorization {
                request.headers_mut().insert(AUTHORIZATION, authorization.clone());
            }
            let response = self.send(request).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let Some(location) = location else { return Ok(response) };
            uri = join(&uri, location).map_err(|e| bad(location, &e))?;
        }
        Err(Error::unavailable(format_args!("{url}: stopped after {MOST_REDIRECTS} redirects")))
    }

    async fn send(&self, request: Request<Body>) -> Result<Response> {
        let what =
            format!("failed to do request: {} {:?}", request.method(), request.uri().to_string());
        let sent = match request.uri().scheme_str() {
            Some("https") => self.tls()?.request(request),
            _ => self.plain.request(request),
        };
        match timeout(SILENCE, sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => {
                // The reason is at the end of the chain: refused, reset, a bad certificate.
                let mut reason = e.to_string();
                let mut source = e.source();
                while let Some(inner) = source {
                    reason = format!("{reason}: {inner}");
                    source = inner.source();
                }
                Err(Error::new(Kind::Unavailable, format!("{what}: {reason}")))
            }
            Err(_) => {
                Err(Error::new(Kind::Unavailable, format!("{what}: no answer within {SILENCE:?}")))
            }
        }
    }
}

/// A redirect's target: absolute, or a path on the same host.
fn join(base: &Uri, location: &str) -> Result<Uri, http::Error> {
    let location: Uri = location.parse().map_err(http::Error::from)?;
    if location.scheme().is_some() {
        return Ok(location);
    }
    let mut parts = location.into_parts();
    parts.scheme = base.scheme().cloned();
    if parts.authority.is_none() {
        parts.authority = base.authority().cloned();
    }
    Uri::from_parts(parts).map_err(http::Error::from)
}

/// The next piece of a body; nothing at its end; a reason when it is cut or silent.
pub(super) async fn chunk(body: &mut Incoming) -> Result<Option<Bytes>, String> {
    loop {
        match timeout(SILENCE, body.frame()).await {
            Err(_) => return Err(format!("no data for {SILENCE:?}")),
            Ok(None) => return Ok(None),
            Ok(Some(Err(e))) => return Err(e.to_string()),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A whole body of at most `limit` bytes.
pub(super) async fn read_body(response: Response, limit: u64) -> Result<Vec<u8>> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = chunk(&mut body).await.map_err(Error::unavailable)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > limit {
            return Err(Error::invalid(format_args!("response is larger than {limit} bytes")));
        }
    }
    Ok(bytes)
}
