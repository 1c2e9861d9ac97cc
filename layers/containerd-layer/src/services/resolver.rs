//! What a client says about a registry in a transfer: headers, where hosts are described, and whom
//! to ask for credentials (containerd 1.7's `RegistryResolver`).

use super::{
    any,
    streaming::{Channel, Streams, unpack},
};
use crate::{
    Error, Kind, Result,
    images::registry::{Access, Credential, Credentials},
};
use async_trait::async_trait;
use futures_util::StreamExt;
use hops::proto::containerd::types::transfer::{
    AuthRequest, AuthResponse, AuthType, OciRegistry, RegistryResolver,
};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use std::{fmt, time::Duration};
use tokio::{sync::Mutex, time::timeout};

/// How long a client may take to say who it is; a person may have to type it.
const ASKING: Duration = Duration::from_secs(120);

/// How a transfer's registry is reached.
///
/// # Errors
/// `InvalidArgument` naming a header or scheme that is none, `NotFound` for a stream of credentials
/// that nobody opened.
pub(super) fn access(streams: &Streams, ns: &str, registry: &OciRegistry) -> Result<Access> {
    let Some(resolver) = &registry.resolver else { return Ok(Access::default()) };
    let RegistryResolver { auth_stream, host_dir, default_scheme, .. } = resolver;
    if !matches!(default_scheme.as_str(), "" | "http" | "https") {
        return Err(Error::invalid(format_args!("default_scheme {default_scheme:?}")));
    }
    let mut headers = HeaderMap::new();
    let mut credential = None;
    for (name, value) in &resolver.headers {
        let bad = |e: &dyn fmt::Display| Error::invalid(format_args!("header {name:?}: {e}"));
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(&e))?;
        let checked = HeaderValue::from_str(value).map_err(|e| bad(&e))?;
        if key == AUTHORIZATION {
            // Shown to the registry when it asks, and to nobody else.
            credential = Some(Credential::Authorization(value.clone()));
        } else {
            headers.append(key, checked);
        }
    }
    let credentials = match auth_stream.as_str() {
        "" => None,
        id => {
            let client = Mutex::new(streams.take(ns, id)?);
            let asked = Client { reference: registry.reference.clone(), client };
            Some(std::sync::Arc::new(asked) as std::sync::Arc<dyn Credentials>)
        }
    };
    let hosts_dir = (!host_dir.is_empty()).then(|| host_dir.into());
    let default_scheme = default_scheme.clone();
    Ok(Access { credential, credentials, hosts_dir, default_scheme, headers })
}

/// The client itself, asked over the stream that it opened for that.
struct Client {
    reference: String,
    client: Mutex<Channel>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.reference)
    }
}

#[async_trait]
impl Credentials for Client {
    async fn credential(&self, host: &str, challenges: &[String]) -> Result<Option<Credential>> {
        let gone = |why: &str| {
            Error::new(Kind::Unauthenticated, format!("credentials for {host}: the client {why}"))
        };
        let mut client = self.client.lock().await;
        let question = AuthRequest {
            host: host.to_owned(),
            reference: self.reference.clone(),
            wwwauthenticate: challenges.to_vec(),
        };
        client.output.send(any(&question)).await.map_err(|_| gone("went away"))?;
        let answer = timeout(ASKING, client.input.next()).await;
        let answer =
            answer.map_err(|_| gone("does not answer"))?.ok_or_else(|| gone("went away"))?;
        let Some(AuthResponse { auth_type, secret, username, .. }) = unpack(&answer)? else {
            return Err(gone(&format!("answered with a {}", answer.type_url)));
        };
        Ok(match AuthType::try_from(auth_type) {
            // containerd's own client has nothing to show in each of these ways.
            _ if secret.is_empty() && username.is_empty() => None,
            Ok(AuthType::Credentials) => Some(Credential::Basic { username, password: secret }),
            Ok(AuthType::Refresh) => Some(Credential::Identity(secret)),
            Ok(AuthType::Header) => Some(Credential::Authorization(secret)),
            Ok(AuthType::None) => None,
            Err(e) => return Err(gone(&format!("answered with a type that is not known: {e}"))),
        })
    }
}
