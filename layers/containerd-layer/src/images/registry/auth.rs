//! Answers to a registry's challenge: basic, or a bearer token from the service it names.

use super::http::{Client, read_body};
use crate::{Error, Kind, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use std::sync::{Mutex, PoisonError};

const LARGEST_TOKEN: u64 = 1 << 20;

/// Who pulls.
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
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

impl Credential {
    fn header(&self) -> String {
        match self {
            Self::Basic { username, password } => {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}")))
            }
            Self::Authorization(header) => header.clone(),
        }
    }
}

/// The state of one repository's authorization.
#[derive(Debug)]
pub(super) struct Auth {
    scope: String,
    credential: Option<Credential>,
    header: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn denied(reason: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::Unauthenticated,
        format!(
            "pull access denied, repository does not exist or may require authorization: {reason}"
        ),
    )
}

impl Auth {
    pub(super) fn new(repository: &str, credential: Option<Credential>) -> Self {
        Self {
            scope: format!("repository:{repository}:pull"),
            credential,
            header: Mutex::default(),
        }
    }

    /// No authorization, for the token service itself.
    fn none() -> Self {
        Self::new("", None)
    }

    /// What to send along, once the registry has asked for it.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, header: &str) -> Result<()> {
        let mut value = HeaderValue::from_str(header)
            .map_err(|_| denied("the credential does not fit a header"))?;
        value.set_sensitive(true);
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    /// Gets what the challenges ask for.
    ///
    /// # Errors
    /// `Unauthenticated` when there is nothing to answer with.
    pub(super) async fn answer(&self, client: &Client, challenges: &[&str]) -> Result<()> {
        if let Some(Credential::Authorization(header)) = &self.credential {
            return self.set(header);
        }
        for challenge in challenges {
            let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let token = self.token(client, &parameters(rest)).await?;
                return self.set(&format!("Bearer {token}"));
            }
            if scheme.eq_ignore_ascii_case("basic") {
                return match &self.credential {
                    Some(credential) => self.set(&credential.header()),
                    None => Err(denied("authorization failed: no basic auth credentials")),
                };
            }
        }
        Err(denied("the registry wants an authorization that is not known"))
    }

    async fn token(&self, client: &Client, challenge: &[(String, String)]) -> Result<String> {
        let find = |key: &str| challenge.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let realm = find("realm").ok_or_else(|| denied("no realm in the challenge"))?;
        let scope = find("scope").unwrap_or(&self.scope);
        let mut url = format!("{realm}{}", if realm.contains('?') { '&' } else { '?' });
        if let Some(service) = find("service") {
            url = format!("{url}service={}&", escape(service));
        }
        url = format!("{url}scope={}", escape(scope));
        let mut headers = HeaderMap::new();
        if let Some(credential) = &self.credential {
            let value = HeaderValue::from_str(&credential.header())
                .map_err(|_| denied("the credential does not fit a header"))?;
            headers.insert(http::header::AUTHORIZATION, value);
        }
        // The token service is asked plainly: its own challenge would have no answer. The future is
        // boxed because asking for a token is itself a request.
        let none = Self::none();
        let asked = Box::pin(client.request(Method::GET, &url, &headers, &none));
        let response = asked.await?;
        let status = response.status();
        if !status.is_success() {
            return Err(denied(format_args!("failed to fetch anonymous token: {realm}: {status}")));
        }
        let bytes = read_body(response, LARGEST_TOKEN).await?;
        let token: Token = serde_json::from_slice(&bytes).map_err(denied)?;
        token
            .token
            .or(token.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| denied("authorization server did not include a token in the response"))
    }
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
