//! Content on its way to a registry: asked for first, borrowed from another repository where that
//! has it, sent whole otherwise.

use super::{
    Repository,
    answer::Answer,
    auth::Auth,
    endpoint::{Endpoint, kind},
    http::{Ask, Backoff, join},
    payload::{Payload, Watch},
};
use crate::{Digest, Error, Kind, Result, error::During, images::Descriptor};
use ::http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri,
    header::{ACCEPT, LOCATION},
};
use bytes::Bytes;
use std::{fs::File, sync::Arc};

/// A blob to be pushed.
pub(in crate::images) struct Blob {
    pub(in crate::images) descriptor: Descriptor,
    pub(in crate::images) file: Arc<File>,
    /// A repository of the same registry that has had it.
    pub(in crate::images) source: Option<String>,
    /// Told how many bytes were sent.
    pub(in crate::images) watch: Watch,
}

/// A refusal in the words of containerd's pusher, with the registry's reason.
async fn unexpected(method: &Method, answer: Answer) -> Error {
    let (status, url) = (answer.status(), answer.url.clone());
    let why = answer.reason().await;
    let text = format!("unexpected status from {method} request to {url}: {status}{why}");
    Error::new(kind(status), text)
}

impl Repository {
    /// The first host that takes content.
    fn pushing(&self) -> Result<&Endpoint> {
        let host = self.endpoints.iter().find(|endpoint| endpoint.capabilities.push);
        host.ok_or_else(|| Error::not_found("no push hosts"))
    }

    /// Sees to it that the registry has a blob.
    ///
    /// # Errors
    /// `Unavailable` after the tries that a registry has that is gone or cuts; otherwise its refusal.
    pub(in crate::images) async fn push_blob(&self, blob: &Blob) -> Result<()> {
        let endpoint = self.pushing()?;
        let digest = &blob.descriptor.digest;
        if self.has(endpoint, &format!("blobs/{digest}"), &blob.descriptor, false).await? {
            return Ok(());
        }
        let mut backoff = Backoff::default();
        loop {
            // An upload that was cut is not known to have come to anything: a new one begins.
            match self.upload(endpoint, blob).await {
                Err(e) if e.kind == Kind::Unavailable => {
                    tracing::info!(%digest, error = %e, "uploading a blob again");
                    if backoff.wait(None).await.is_err() {
                        return Err(e);
                    }
                }
                done => return done,
            }
        }
    }

    /// Whether the registry has it, under `tag` as this very thing.
    async fn has(
        &self,
        endpoint: &Endpoint,
        rest: &str,
        descriptor: &Descriptor,
        tag: bool,
    ) -> Result<bool> {
        let accept = HeaderValue::from_str(&format!("{}, */*", descriptor.media_type))
            .unwrap_or(HeaderValue::from_static("*/*"));
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        let answer = match endpoint.ask(Method::HEAD, rest, &headers, true).await {
            // Some give tokens for pushing alone.
            Err(e) if e.kind == Kind::Unauthenticated => return Ok(false),
            answer => answer?,
        };
        match answer.status() {
            StatusCode::OK => {
                let found = answer.header("docker-content-digest");
                Ok(!tag || found == Some(descriptor.digest.as_str()))
            }
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(unexpected(&Method::HEAD, answer).await),
        }
    }

    async fn upload(&self, endpoint: &Endpoint, blob: &Blob) -> Result<()> {
        let digest = &blob.descriptor.digest;
        let Some(session) = self.session(endpoint, blob).await? else {
            tracing::debug!(%digest, from = ?blob.source, "mounted");
            return Ok(());
        };
        let location = session.header(LOCATION).unwrap_or_default();
        let base: Uri = endpoint
            .url("")
            .parse()
            .map_err(|e| Error::invalid(format_args!("{}: {e}", session.url)))?;
        let place = join(&base, location).map_err(|e| {
            Error::invalid(format_args!("{}: location {location:?}: {e}", session.url))
        })?;
        let separator = if place.query().is_some() { '&' } else { '?' };
        let url = format!("{place}{separator}digest={digest}");
        // Storage elsewhere is somebody else: what is for the registry is not for it.
        let same = place.authority() == base.authority() && place.scheme() == base.scheme();
        let (nobody, nothing) = (Auth::none(), HeaderMap::new());
        let payload = Payload::File {
            file: Arc::clone(&blob.file),
            size: blob.descriptor.size,
            watch: Arc::clone(&blob.watch),
        };
        let ask = Ask {
            method: Method::PUT,
            url: &url,
            headers: &nothing,
            private: if same { &endpoint.private } else { &nothing },
            payload: &payload,
            auth: if same { &endpoint.auth } else { &nobody },
            patient: false,
        };
        let answer = endpoint.client.request(ask).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(unexpected(&Method::PUT, answer).await),
        }
    }

    /// Begins an upload; nothing when the registry took the blob from another repository instead.
    async fn session(&self, endpoint: &Endpoint, blob: &Blob) -> Result<Option<Answer>> {
        let post = async |rest: &str, auth: &Auth| {
            let ask = Ask {
                method: Method::POST,
                url: &endpoint.url(rest),
                headers: &HeaderMap::new(),
                private: &endpoint.private,
                payload: &Payload::Bytes { media_type: String::new(), bytes: Bytes::new() },
                auth,
                patient: true,
            };
            endpoint.client.request(ask).await
        };
        let began = |answer: &Answer| {
            matches!(
                answer.status(),
                StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT
            )
        };
        if let Some(source) = &blob.source {
            let rest = format!("blobs/uploads/?mount={}&from={source}", blob.descriptor.digest);
            match post(&rest, &endpoint.auth.also(source)).await {
                Ok(answer) if answer.status() == StatusCode::CREATED => return Ok(None),
                Ok(answer) if began(&answer) => return Ok(Some(answer)),
                // The other repository is not ours to read: that is no reason not to push.
                Ok(answer) => tracing::debug!(status = %answer.status(), source, "not mounted"),
                Err(e) if e.kind == Kind::Unauthenticated => {
                    tracing::debug!(error = %e, source, "not mounted");
                }
                Err(e) => return Err(e),
            }
        }
        let answer = post("blobs/uploads/", &endpoint.auth).await?;
        match answer.status() {
            _ if began(&answer) => Ok(Some(answer)),
            StatusCode::CREATED => Ok(None),
            _ => Err(unexpected(&Method::POST, answer).await),
        }
    }

    /// Puts a manifest or index whose parts are there: under the reference's tag when it is the
    /// `top`, under its digest else.
    ///
    /// # Errors
    /// The registry's refusal; `DataLoss` when it has kept something else.
    pub(in crate::images) async fn push_manifest(
        &self,
        descriptor: &Descriptor,
        bytes: Vec<u8>,
        top: bool,
    ) -> Result<()> {
        let endpoint = self.pushing()?;
        let fits = self.reference.digest.as_ref().is_none_or(|wanted| *wanted == descriptor.digest);
        let tag = self.reference.tag.as_deref().filter(|_| top && fits);
        let rest = format!("manifests/{}", tag.unwrap_or(descriptor.digest.as_str()));
        if self.has(endpoint, &rest, descriptor, tag.is_some()).await? {
            return Ok(());
        }
        let media_type = descriptor.media_type.clone();
        let ask = Ask {
            method: Method::PUT,
            url: &endpoint.url(&rest),
            headers: &HeaderMap::new(),
            private: &endpoint.private,
            payload: &Payload::Bytes { media_type, bytes: Bytes::from(bytes) },
            auth: &endpoint.auth,
            patient: true,
        };
        let answer = endpoint.client.request(ask).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => {}
            _ => return Err(unexpected(&Method::PUT, answer).await),
        }
        let kept: Option<Digest> = answer
            .header("docker-content-digest")
            .map(str::parse)
            .transpose()
            .during(|| answer.url.clone())?;
        match kept {
            Some(kept) if kept != descriptor.digest => Err(Error::data_loss(format_args!(
                "got digest {kept}, expected {} from {}",
                descriptor.digest, answer.url
            ))),
            _ => Ok(()),
        }
    }
}
