//! Answers to a registry's challenge: basic, or a bearer token from the service it names.

use super::{
    http::{Ask, Client},
    payload::Payload,
};
use crate::{Error, Kind, Result};
use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};
use serde::Deserialize;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

const LARGEST_TOKEN: u64 = 1 << 20;

/// Who knows what to show to which host.
#[async_trait]
pub trait Credentials: fmt::Debug + Send + Sync {
    /// What to show to `host`, which asked with `challenges`; nothing is to come as nobody.
    ///
    /// # Errors
    /// When whoever is asked is gone.
    async fn credential(&self, host: &str, challenges: &[String]) -> Result<Option<Credential>>;
}

/// Who pulls or pushes.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user and a password or access token.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// A finished `Authorization` header.
    Authorization(String),
    /// An identity token, which the token service changes for others (OAuth 2 refresh token).
    Identity(String),
}

#[async_trait]
impl Credentials for Credential {
    async fn credential(&self, _: &str, _: &[String]) -> Result<Option<Credential>> {
        Ok(Some(self.clone()))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

impl Credential {
    /// The header that shows it, for those that can be shown so.
    fn header(&self) -> Option<String> {
        match self {
            Self::Basic { username, password } => {
                let both = BASE64_STANDARD.encode(format!("{username}:{password}"));
                Some(format!("Basic {both}"))
            }
            Self::Authorization(header) => Some(header.clone()),
            Self::Identity(_) => None,
        }
    }
}

/// What is to be done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Pull,
    Push,
}

/// The state of one repository's authorization at one host.
#[derive(Debug)]
pub(super) struct Auth {
    host: String,
    /// What a token has to be good for.
    scopes: Vec<String>,
    purpose: Purpose,
    credentials: Option<Arc<dyn Credentials>>,
    header: Mutex<Option<HeaderValue>>,
    /// Held while an answer is being got: of several requests that are asked at once, one goes.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Auth {
    pub(super) fn new(
        host: &str,
        repository: &str,
        purpose: Purpose,
        credentials: Option<Arc<dyn Credentials>>,
    ) -> Self {
        let actions = match purpose {
            Purpose::Pull => "pull",
            Purpose::Push => "pull,push",
        };
        Self {
            host: host.to_owned(),
            scopes: vec![format!("repository:{repository}:{actions}")],
            purpose,
            credentials,
            header: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// The same, with a token that is also good for pulling from `repository`.
    pub(super) fn also(&self, repository: &str) -> Self {
        let more = format!("repository:{repository}:pull");
        Self {
            host: self.host.clone(),
            scopes: self.scopes.iter().cloned().chain([more]).collect(),
            purpose: self.purpose,
            credentials: self.credentials.clone(),
            header: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// No authorization: for the token service itself, and for hosts that were not asked for.
    pub(super) fn none() -> Self {
        Self { scopes: Vec::new(), ..Self::new("", "", Purpose::Pull, None) }
    }

    fn denied(&self, reason: impl fmt::Display) -> Error {
        let verb = match self.purpose {
            Purpose::Pull => "pull",
            Purpose::Push => "push",
        };
        let text = "access denied, repository does not exist or may require authorization";
        Error::new(Kind::Unauthenticated, format!("{verb} {text}: {}: {reason}", self.host))
    }

    /// Whether it has an answer to a challenge at all.
    pub(super) fn answers(&self) -> bool {
        !self.scopes.is_empty()
    }

    /// What to send along, once the registry has asked for it.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn value(&self, header: &str) -> Result<HeaderValue> {
        let mut value = HeaderValue::from_str(header)
            .map_err(|_| self.denied("the credential does not fit a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn set(&self, header: &str) -> Result<()> {
        let value = self.value(header)?;
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    /// Gets what the challenges ask for, unless another request that was asked for the same has got
    /// it since `shown` was refused.
    ///
    /// # Errors
    /// `Unauthenticated` when there is nothing to answer with.
    pub(super) async fn answer(
        &self,
        client: &Client,
        shown: Option<&HeaderValue>,
        challenges: &[&str],
    ) -> Result<()> {
        let _one = self.asking.lock().await;
        if self.header().as_ref() != shown {
            return Ok(());
        }
        let credential = match &self.credentials {
            Some(credentials) => {
                let challenges: Vec<_> = challenges.iter().map(|&c| c.to_owned()).collect();
                credentials.credential(&self.host, &challenges).await?
            }
            None => None,
        };
        for challenge in challenges {
            let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
            // A password in a header's form gets a token like any other; a token is one already.
            if let Some(Credential::Authorization(header)) = &credential
                && !(is(header, "basic") && scheme.eq_ignore_ascii_case("bearer"))
            {
                return self.set(header);
            }
            if scheme.eq_ignore_ascii_case("bearer") {
                let token = self.token(client, credential.as_ref(), &parameters(rest)).await?;
                return self.set(&format!("Bearer {token}"));
            }
            if scheme.eq_ignore_ascii_case("basic") {
                return match credential.and_then(|credential| credential.header()) {
                    Some(header) => self.set(&header),
                    None => Err(self.denied("authorization failed: no basic auth credentials")),
                };
            }
        }
        Err(self.denied("the registry wants an authorization that is not known"))
    }

    async fn token(
        &self,
        client: &Client,
        credential: Option<&Credential>,
        challenge: &[(String, String)],
    ) -> Result<String> {
        let find = |key: &str| challenge.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let realm = find("realm").ok_or_else(|| self.denied("no realm in the challenge"))?;
        let asked = find("scope").unwrap_or_default().split(' ').filter(|scope| !scope.is_empty());
        let mut scopes: Vec<&str> = asked.chain(self.scopes.iter().map(String::as_str)).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let mut private = HeaderMap::new();
        let (method, url, payload) = match credential {
            Some(Credential::Identity(secret)) => {
                let mut form = format!(
                    "grant_type=refresh_token&client_id=strata-containerd&refresh_token={}&scope={}",
                    escape(secret),
                    escape(&scopes.join(" "))
                );
                if let Some(service) = find("service") {
                    form = format!("{form}&service={}", escape(service));
                }
                let media_type = "application/x-www-form-urlencoded".to_owned();
                let payload = Payload::Bytes { media_type, bytes: Bytes::from(form) };
                (Method::POST, realm.to_owned(), payload)
            }
            other => {
                if let Some(header) = other.and_then(Credential::header) {
                    private.insert(AUTHORIZATION, self.value(&header)?);
                }
                let mut query: Vec<_> =
                    scopes.iter().map(|scope| format!("scope={}", escape(scope))).collect();
                if let Some(service) = find("service") {
                    query.insert(0, format!("service={}", escape(service)));
                }
                let separator = if realm.contains('?') { '&' } else { '?' };
                let url = format!("{realm}{separator}{}", query.join("&"));
                (Method::GET, url, Payload::Nothing)
            }
        };
        // The token service is asked plainly: its own challenge would have no answer. The future is
        // boxed because asking for a token is itself a request.
        let none = Self::none();
        let ask = Ask {
            method,
            url: &url,
            headers: &HeaderMap::new(),
            private: &private,
            payload: &payload,
            auth: &none,
            patient: true,
        };
        let answer = Box::pin(client.request(ask)).await.map_err(|e| {
            let what = format!("{}: failed to fetch a token from {realm}", self.host);
            e.during(what)
        })?;
        let status = answer.status();
        if !status.is_success() {
            let who = if credential.is_some() { "oauth" } else { "anonymous" };
            let why = answer.reason().await;
            return Err(
                self.denied(format_args!("failed to fetch {who} token: {realm}: {status}{why}"))
            );
        }
        let bytes = answer.read(LARGEST_TOKEN).await?;
        let token: Token = serde_json::from_slice(&bytes)
            .map_err(|e| self.denied(format_args!("token from {realm}: {e}")))?;
        token.token.or(token.access_token).filter(|token| !token.is_empty()).ok_or_else(|| {
            self.denied("authorization server did not include a token in the response")
        })
    }
}

/// Whether a header is of this scheme.
fn is(header: &str, scheme: &str) -> bool {
    header.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(scheme))
}

/// `key="value",key=value`
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut rest = text.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim().trim_start_matches(',').trim().to_ascii_lowercase();
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.push((key, value.to_owned()));
        rest = tail.trim_start_matches(',').trim();
    }
    parameters
}

/// Percent-encodes what would end a query's value.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let text = r#"realm="https://a/t?x=1",service="r, s", scope=repository:a:pull"#;
        let want =
            [("realm", "https://a/t?x=1"), ("service", "r, s"), ("scope", "repository:a:pull")];
        let want: Vec<_> = want.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(parameters(text), want);
        assert_eq!(escape("a b&c"), "a%20b%26c");
    }
}
