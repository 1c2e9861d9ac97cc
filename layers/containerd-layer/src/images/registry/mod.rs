//! A client of registries (the OCI distribution spec, read only): redirects, tokens, retries, and
//! bodies that resume where they were cut.

mod auth;
mod http;

pub use auth::Credential;

use super::{Descriptor, LARGEST_MANIFEST, manifest::media, reference::Reference};
use crate::{Digest, Error, Kind, Result, error::During};
use ::http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE},
};
use bytes::Bytes;
use http::{Backoff, Client, Response, chunk, read_body};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What a manifest may come as.
const ACCEPTED: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, */*";

/// Connections to registries, kept open between pulls.
#[derive(Debug, Clone)]
pub struct Registry {
    client: Arc<Client>,
}

impl Registry {
    /// A client without connections yet.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { client: Arc::new(Client::new()) })
    }

    /// One repository, as `reference` names it.
    pub fn repository(&self, reference: &Reference, credential: Option<Credential>) -> Repository {
        Repository {
            client: Arc::clone(&self.client),
            base: format!(
                "{}://{}/v2/{}",
                reference.scheme(),
                reference.endpoint(),
                reference.repository
            ),
            auth: auth::Auth::new(&reference.repository, credential),
            reference: reference.clone(),
        }
    }
}

/// One repository of a registry.
#[derive(Debug)]
pub struct Repository {
    client: Arc<Client>,
    base: String,
    auth: auth::Auth,
    reference: Reference,
}

fn header(headers: &HeaderMap, name: impl ::http::header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

impl Repository {
    /// What the reference names at the moment.
    ///
    /// # Errors
    /// containerd's `failed to resolve reference "…": …`, `NotFound` for a missing image.
    pub async fn resolve(&self) -> Result<Descriptor> {
        let name = self.reference.to_string();
        self.head().await.during(|| format!("failed to resolve reference {name:?}"))
    }

    async fn head(&self) -> Result<Descriptor> {
        let object = self.reference.object();
        let response = self.manifest_request(Method::HEAD, object).await?;
        let headers = response.headers();
        let media_type = header(headers, CONTENT_TYPE).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let digest = header(headers, "docker-content-digest").and_then(|d| d.parse().ok());
        let size = header(headers, CONTENT_LENGTH).and_then(|l| l.parse().ok());
        let mut descriptor = match (self.reference.digest.clone().or(digest), size) {
            (Some(digest), Some(size)) => Descriptor::new(&media_type, digest, size),
            // The registry does not say: the manifest itself does.
            _ => {
                let response = self.manifest_request(Method::GET, object).await?;
                let bytes = read_body(response, LARGEST_MANIFEST).await?;
                let digest = Digest::of(&bytes);
                if let Some(wanted) = &self.reference.digest
                    && *wanted != digest
                {
                    return Err(mismatch(&digest, wanted));
                }
                Descriptor::new(&media_type, digest, bytes.len() as u64)
            }
        };
        if descriptor.size > LARGEST_MANIFEST {
            return Err(too_large(descriptor.size));
        }
        if descriptor.media_type.starts_with("application/vnd.docker.distribution.manifest.v1") {
            let name = &self.reference;
            let reason = format!("{name}: media type {:?} is not supported", descriptor.media_type);
            return Err(Error::unimplemented(reason));
        }
        if descriptor.media_type == "application/json" {
            descriptor.media_type = media::DOCKER_MANIFEST.to_owned();
        }
        Ok(descriptor)
    }

    async fn manifest_request(&self, method: Method, object: &str) -> Result<Response> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(ACCEPTED))]);
        let url = format!("{}/manifests/{object}", self.base);
        let response = self.client.request(method, &url, &headers, &self.auth).await?;
        self.check(&response, &format!("[manifests {object}]"))?;
        Ok(response)
    }

    fn check(&self, response: &Response, what: &str) -> Result<()> {
        let status = response.status();
        let kind = match status {
            s if s.is_success() => return Ok(()),
            StatusCode::NOT_FOUND => return Err(Error::not_found(&self.reference)),
            StatusCode::UNAUTHORIZED => Kind::Unauthenticated,
            StatusCode::FORBIDDEN => Kind::PermissionDenied,
            StatusCode::TOO_MANY_REQUESTS => Kind::ResourceExhausted,
            s if s.is_server_error() => Kind::Unavailable,
            _ => Kind::Internal,
        };
        let host = self.reference.endpoint();
        let text = format!("pulling from host {host} failed with status code {what}: {status}");
        Err(Error::new(kind, text))
    }

    /// A manifest or index, whole and checked.
    ///
    /// # Errors
    /// `FailedPrecondition` for bytes that are not what the descriptor says.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size > LARGEST_MANIFEST {
            return Err(too_large(descriptor.size));
        }
        let response = self.manifest_request(Method::GET, descriptor.digest.as_str()).await?;
        let bytes = read_body(response, LARGEST_MANIFEST).await?;
        let digest = Digest::of(&bytes);
        if digest != descriptor.digest {
            return Err(mismatch(&digest, &descriptor.digest));
        }
        Ok(bytes)
    }

    /// Sends a blob from `offset` on, piece by piece, resuming where the connection is cut. Ends with
    /// the descriptor's last byte, with an error in the channel, or when the receiver is gone.
    pub async fn blob(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        pieces: mpsc::Sender<Result<Bytes>>,
    ) {
        if let Err(error) = self.send_blob(descriptor, offset, &pieces).await {
            // Nobody waits for the error of a download that nobody wants.
            let _ = pieces.send(Err(error)).await;
        }
    }

    async fn send_blob(
        &self,
        descriptor: &Descriptor,
        mut offset: u64,
        pieces: &mpsc::Sender<Result<Bytes>>,
    ) -> Result<()> {
        let mut backoff = Backoff::default();
        while offset < descriptor.size {
            let before = offset;
            let cut = match self.open_blob(descriptor, offset).await {
                Ok(response) => {
                    match self.send_body(response, descriptor, &mut offset, pieces).await? {
                        Ended::Whole => return Ok(()),
                        Ended::Cut(reason) => reason,
                    }
                }
                // Only what may pass is tried again; the client has retried server errors itself.
                Err(e) if e.kind == Kind::Unavailable && offset > 0 => e.message,
                Err(e) => return Err(e),
            };
            if offset > before {
                backoff = Backoff::default();
            }
            tracing::info!(digest = %descriptor.digest, offset, cut, "resuming a blob");
            backoff.wait(None).await.map_err(|_| {
                Error::unavailable(format_args!(
                    "{}: {cut} after {offset} of {} bytes",
                    descriptor.digest, descriptor.size
                ))
            })?;
        }
        Ok(())
    }

    async fn open_blob(&self, descriptor: &Descriptor, offset: u64) -> Result<Response> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let digest = &descriptor.digest;
        let url = format!("{}/blobs/{digest}", self.base);
        let response = self.client.request(Method::GET, &url, &headers, &self.auth).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(Error::not_found(format_args!("content at {url}")));
        }
        self.check(&response, &format!("[blobs {digest}]"))?;
        Ok(response)
    }

    async fn send_body(
        &self,
        response: Response,
        descriptor: &Descriptor,
        offset: &mut u64,
        pieces: &mpsc::Sender<Result<Bytes>>,
    ) -> Result<Ended> {
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let start = if partial { range_start(response.headers()) } else { Some(0) };
        // A server without ranges begins again: skip what is here already.
        let mut skip = match start {
            Some(start) if start <= *offset => *offset - start,
            _ => {
                return Err(Error::precondition(format_args!(
                    "{}: the registry answered another range than asked for",
                    descriptor.digest
                )));
            }
        };
        let length = header(response.headers(), CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
        if let Some(length) = length
            && start.unwrap_or(0) + length != descriptor.size
        {
            return Err(wrong_size(start.unwrap_or(0) + length, descriptor.size));
        }
        let mut body = response.into_body();
        loop {
            let mut piece = match chunk(&mut body).await {
                Ok(Some(piece)) => piece,
                Ok(None) if *offset == descriptor.size => return Ok(Ended::Whole),
                Ok(None) => return Ok(Ended::Cut("the body ended early".to_owned())),
                Err(reason) => return Ok(Ended::Cut(reason)),
            };
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            let piece = piece.split_off(usize::try_from(skipped).unwrap_or(usize::MAX));
            if *offset + piece.len() as u64 > descriptor.size {
                return Err(wrong_size(*offset + piece.len() as u64, descriptor.size));
            }
            *offset += piece.len() as u64;
            if !piece.is_empty() && pieces.send(Ok(piece)).await.is_err() {
                return Ok(Ended::Whole);
            }
        }
    }
}

/// How a response's body ended.
enum Ended {
    /// With the blob's last byte, or because nobody wants it any more.
    Whole,
    /// Before that.
    Cut(String),
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = header(headers, CONTENT_RANGE)?.strip_prefix("bytes ")?;
    range.split('-').next()?.parse().ok()
}

fn mismatch(found: &Digest, wanted: &Digest) -> Error {
    Error::precondition(format_args!("unexpected commit digest {found}, expected {wanted}"))
}

fn wrong_size(found: u64, wanted: u64) -> Error {
    Error::precondition(format_args!("failed size validation: {found} != {wanted}"))
}

fn too_large(size: u64) -> Error {
    Error::invalid(format_args!(
        "manifest of {size} bytes is larger than the limit of {LARGEST_MANIFEST}"
    ))
}
