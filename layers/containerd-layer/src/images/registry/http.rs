//! HTTP as registries need it: redirects, one answer to a challenge, bounded retries, deadlines.

use super::{
    answer::Answer,
    auth::Auth,
    payload::{Body, Payload},
    tls::{self, Trust},
};
use crate::{Error, Kind, Result};
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, LOCATION, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{error::Error as _, sync::OnceLock, time::Duration};
use tokio::time::{sleep, timeout};

const MOST_REDIRECTS: usize = 10;

/// One client for plain HTTP and one for TLS, which is made when first asked for: reading the
/// system's certificates takes longer than most starts.
#[derive(Debug)]
pub(super) struct Client {
    plain: HyperClient<HttpConnector, Body>,
    tls: OnceLock<Result<HyperClient<HttpsConnector<HttpConnector>, Body>>>,
    trust: Trust,
    patience: Duration,
    dial_timeout: Duration,
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

/// One request, and what may be done for it.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: &'a str,
    /// For whoever answers in the end.
    pub(super) headers: &'a HeaderMap,
    /// For the host of the URL alone.
    pub(super) private: &'a HeaderMap,
    pub(super) payload: &'a Payload,
    pub(super) auth: &'a Auth,
    /// Whether a failure that may pass is waited out; without it the next host is better.
    pub(super) patient: bool,
}

/// Why a request has no answer.
struct Failure {
    error: Error,
    /// Nobody was there, which another try at once would not change.
    unreachable: bool,
}

impl Client {
    /// A client that gives up on whoever is silent for `patience`.
    pub(super) fn new(trust: Trust, patience: Duration, dial_timeout: Option<Duration>) -> Self {
        let dial_timeout = dial_timeout.unwrap_or(patience);
        let plain = HyperClient::builder(TokioExecutor::new()).build(connector(dial_timeout));
        Self { plain, tls: OnceLock::new(), trust, patience, dial_timeout }
    }

    fn tls(&self) -> Result<&HyperClient<HttpsConnector<HttpConnector>, Body>> {
        let make = || {
            let mut inner = connector(self.dial_timeout);
            inner.enforce_http(false);
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(tls::config(&self.trust)?)
                .https_only()
                .enable_http1()
                .wrap_connector(inner);
            Ok(HyperClient::builder(TokioExecutor::new()).build(connector))
        };
        self.tls.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// Sends a request until it has an answer that more tries would not change; any status but those
    /// handled here is the caller's.
    pub(super) async fn request(&self, ask: Ask<'_>) -> Result<Answer> {
        let mut backoff = Backoff::default();
        let mut challenged = false;
        loop {
            let shown = ask.auth.header();
            let answer = match self.follow(&ask, shown.as_ref()).await {
                Ok(answer) => answer,
                Err(failure) => {
                    let hopeless = failure.unreachable || failure.error.kind != Kind::Unavailable;
                    if hopeless || !ask.patient || backoff.wait(None).await.is_err() {
                        return Err(failure.error);
                    }
                    continue;
                }
            };
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED && !challenged && ask.auth.answers() {
                challenged = true;
                let challenges: Vec<_> = answer.headers(WWW_AUTHENTICATE).collect();
                ask.auth.answer(self, shown.as_ref(), &challenges).await?;
                continue;
            }
            let busy =
                matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
            if busy || (status.is_server_error() && ask.patient) {
                let wish = answer.header(RETRY_AFTER).and_then(|v| v.parse().ok());
                if backoff.wait(wish.map(Duration::from_secs)).await.is_ok() {
                    continue;
                }
            }
            return Ok(answer);
        }
    }

    /// Sends a request and follows redirects; what is for one host alone stays with it.
    async fn follow(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let bad = |url: &str, e: &dyn std::fmt::Display| Failure {
            error: Error::invalid(format_args!("url {url:?}: {e}")),
            unreachable: false,
        };
        let first: Uri = ask.url.parse().map_err(|e: http::uri::InvalidUri| bad(ask.url, &e))?;
        let mut uri = first.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut headers = ask.headers.clone();
            if uri.authority() == first.authority() && uri.scheme() == first.scheme() {
                headers.extend(ask.private.clone());
                if let Some(authorization) = authorization {
                    headers.insert(AUTHORIZATION, authorization.clone());
                }
            }
            headers
                .entry(USER_AGENT)
                .or_insert_with(|| HeaderValue::from_static("strata-containerd"));
            let answer = self.send(&ask.method, &uri, headers, ask.payload).await?;
            let status = answer.status();
            let reading = ask.method == Method::GET || ask.method == Method::HEAD;
            // The other redirects would make a GET of what is written.
            let again =
                matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
            let location = answer.header(LOCATION);
            match location {
                Some(location) if again || (reading && status.is_redirection()) => {
                    uri = join(&uri, location).map_err(|e| bad(location, &e))?;
                }
                _ => return Ok(answer),
            }
        }
        let url = ask.url;
        let error = format_args!("{url}: stopped after {MOST_REDIRECTS} redirects");
        Err(Failure { error: Error::precondition(error), unreachable: true })
    }

    async fn send(
        &self,
        method: &Method,
        uri: &Uri,
        headers: HeaderMap,
        payload: &Payload,
    ) -> Result<Answer, Failure> {
        let plain = shown(uri);
        let what = format!("failed to do request: {method} {plain:?}");
        let fail = |kind, reason: String, unreachable| Failure {
            error: Error::new(kind, format!("{what}: {reason}")),
            unreachable,
        };
        let (body, sent) = payload.body();
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        payload.describe(request.headers_mut());
        let mut answered = match uri.scheme_str() {
            Some("https") => {
                let tls = self.tls().map_err(|e| fail(e.kind, e.message, true))?;
                tls.request(request)
            }
            _ => self.plain.request(request),
        };
        let mut before = sent.count();
        loop {
            match timeout(self.patience, &mut answered).await {
                Ok(Ok(response)) => return Ok(Answer::new(plain, response, self.patience)),
                Ok(Err(e)) => {
                    // The reason is at the end of the chain: refused, reset, a bad certificate.
                    let mut reason = e.to_string();
                    let mut source = e.source();
                    while let Some(inner) = source {
                        reason = format!("{reason}: {inner}");
                        source = inner.source();
                    }
                    return Err(fail(Kind::Unavailable, reason, e.is_connect()));
                }
                // What is being sent takes its time.
                Err(_) if sent.count() > before => before = sent.count(),
                Err(_) => {
                    let reason = format!("no answer within {:?}", self.patience);
                    return Err(fail(Kind::Unavailable, reason, false));
                }
            }
        }
    }
}

fn connector(dial_timeout: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(dial_timeout));
    connector
}

/// A URL for messages and logs: without its query, in which storage services have signatures.
fn shown(uri: &Uri) -> String {
    let text = uri.to_string();
    text.split('?').next().unwrap_or_default().to_owned()
}

/// A redirect's target: absolute, or a path on the same host.
pub(super) fn join(base: &Uri, location: &str) -> Result<Uri, http::Error> {
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
