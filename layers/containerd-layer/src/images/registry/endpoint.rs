//! One repository at one host.

use super::{
    Access,
    answer::Answer,
    auth::{Auth, Credentials, Purpose},
    hosts::{Capabilities, Host},
    http::{Ask, Client},
    payload::Payload,
};
use crate::{Error, Kind, Result, images::reference::Reference};
use http::{HeaderMap, Method, StatusCode};
use std::sync::Arc;

/// One repository at one host that serves it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) client: Arc<Client>,
    /// The repository's URL, without a slash at its end.
    base: String,
    /// Host and port.
    pub(super) host: String,
    pub(super) capabilities: Capabilities,
    /// `?ns=…` for a host that serves for several registries.
    namespace: String,
    /// What the configuration and the caller want sent to this host.
    pub(super) private: HeaderMap,
    pub(super) auth: Auth,
    reference: Reference,
}

impl Endpoint {
    pub(super) fn new(
        client: Arc<Client>,
        host: Host,
        reference: &Reference,
        access: &Access,
        purpose: Purpose,
    ) -> Self {
        let registry = &reference.host;
        let own = host.authority == *registry || host.authority == reference.endpoint();
        // A mirror is someone else: it is shown what the configuration has for it, or what is given
        // to it by name, and never what the registry's user has for the registry.
        let credentials = match (&access.credentials, &access.credential) {
            (Some(credentials), _) => Some(Arc::clone(credentials)),
            (None, Some(credential)) if own || !host.mirror => {
                Some(Arc::new(credential.clone()) as Arc<dyn Credentials>)
            }
            _ => None,
        };
        let mut private = access.headers.clone();
        private.extend(host.headers);
        let repository = &reference.repository;
        Self {
            client,
            base: format!("{}://{}{}/{repository}", host.scheme, host.authority, host.path),
            namespace: if own { String::new() } else { format!("ns={registry}") },
            auth: Auth::new(&host.authority, repository, purpose, credentials),
            host: host.authority,
            capabilities: host.capabilities,
            private,
            reference: reference.clone(),
        }
    }

    /// The URL of `rest`, which may have a query of its own, in the repository.
    pub(super) fn url(&self, rest: &str) -> String {
        let separator = match (self.namespace.as_str(), rest.contains('?')) {
            ("", _) => "",
            (_, false) => "?",
            (_, true) => "&",
        };
        format!("{}/{rest}{separator}{}", self.base, self.namespace)
    }

    /// Asks this host; `patient` says whether it is the last that can be asked.
    pub(super) async fn ask(
        &self,
        method: Method,
        rest: &str,
        headers: &HeaderMap,
        patient: bool,
    ) -> Result<Answer> {
        let (private, auth) = (&self.private, &self.auth);
        let (url, payload) = (&self.url(rest), &Payload::Nothing);
        self.client.request(Ask { method, url, headers, private, payload, auth, patient }).await
    }

    /// Refuses an answer that is not a success, in the words of containerd 1.6.
    pub(super) async fn check(&self, answer: Answer, what: &str) -> Result<Answer> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if status == StatusCode::NOT_FOUND {
            return Err(Error::not_found(&self.reference));
        }
        let (host, why) = (&self.host, answer.reason().await);
        let text = format!("pulling from host {host} failed with status code {what}: {status}");
        Err(Error::new(kind(status), text + &why))
    }
}

/// What a caller can do about a status.
pub(super) fn kind(status: StatusCode) -> Kind {
    match status {
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::UNAUTHORIZED => Kind::Unauthenticated,
        StatusCode::FORBIDDEN => Kind::PermissionDenied,
        StatusCode::TOO_MANY_REQUESTS => Kind::ResourceExhausted,
        StatusCode::REQUEST_TIMEOUT => Kind::Unavailable,
        s if s.is_server_error() => Kind::Unavailable,
        _ => Kind::Internal,
    }
}

/// Why each host that was asked had no answer.
#[derive(Debug, Default)]
pub(super) struct Tried(Vec<(String, Error)>);

impl Tried {
    pub(super) fn add(&mut self, endpoint: &Endpoint, error: Error) {
        self.0.push((endpoint.host.clone(), error));
    }

    /// One error for all. Its kind is that of whoever came furthest, as containerd has it: a
    /// registry that refuses says more than one that has nothing, and that more than one that is
    /// gone.
    pub(super) fn error(mut self, nobody: &str) -> Error {
        if self.0.len() == 1 {
            return self.0.remove(0).1;
        }
        let rank = |error: &Error| match error.kind {
            Kind::Unavailable => 0,
            Kind::NotFound => 1,
            _ => 2,
        };
        let Some(furthest) = self.0.iter().map(|(_, e)| rank(e)).max() else {
            return Error::not_found(nobody);
        };
        let kind = self.0.iter().find(|(_, e)| rank(e) == furthest).map(|(_, e)| e.kind);
        let texts: Vec<_> = self.0.iter().map(|(host, error)| format!("{host}: {error}")).collect();
        Error::new(kind.unwrap_or(Kind::Unavailable), texts.join("; "))
    }
}
