//! A client of registries (the OCI distribution spec): mirrors, redirects, tokens, retries, and
//! bodies that resume where they were cut.

mod answer;
mod auth;
mod download;
mod endpoint;
mod hosts;
mod http;
mod payload;
mod tls;
mod upload;

pub use auth::{Credential, Credentials};
pub(super) use upload::Blob;

use super::{Descriptor, LARGEST_MANIFEST, manifest::media, reference::Reference};
use crate::{Digest, Error, Result, error::During};
use ::http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
};
use auth::Purpose;
use endpoint::{Endpoint, Tried};
use http::Client;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tls::Trust;

/// What a manifest may come as.
const ACCEPTED: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, */*";

/// How long a registry may be silent before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// How registries are reached by whoever says nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Directories with a directory for each registry's host (containerd's `config_path`).
    pub hosts_dirs: Vec<PathBuf>,
    /// How long a registry may be silent before it counts as gone.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { hosts_dirs: Vec::new(), patience: PATIENCE }
    }
}

/// How one image's registry is reached.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Shown to the registry itself when it asks, never to its mirrors.
    pub credential: Option<Credential>,
    /// Asked for each host that asks, mirrors too; outranks `credential`.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// In place of the daemon's own directories of hosts.
    pub hosts_dir: Option<PathBuf>,
    /// `http` or `https` for a registry that the hosts' directories say nothing about.
    pub default_scheme: String,
    /// Sent with every request, to all hosts of the registry.
    pub headers: HeaderMap,
}

/// Connections to registries, kept open between pulls.
#[derive(Debug, Clone)]
pub struct Registry {
    client: Arc<Client>,
    options: Options,
}

impl Registry {
    /// A client without connections yet.
    pub fn new(options: Options) -> Self {
        let client = Client::new(Trust::default(), options.patience, None);
        Self { client: Arc::new(client), options }
    }

    /// One repository, as `reference` names it, to pull from.
    ///
    /// # Errors
    /// `InvalidArgument` naming the file of the hosts' configuration that is not as it should be.
    pub fn repository(&self, reference: &Reference, access: &Access) -> Result<Repository> {
        self.open(reference, access, Purpose::Pull)
    }

    /// The same to push to.
    pub(super) fn target(&self, reference: &Reference, access: &Access) -> Result<Repository> {
        self.open(reference, access, Purpose::Push)
    }

    fn open(&self, reference: &Reference, access: &Access, purpose: Purpose) -> Result<Repository> {
        let roots = match &access.hosts_dir {
            Some(root) => std::slice::from_ref(root),
            None => &self.options.hosts_dirs,
        };
        let hosts = hosts::of(roots, &reference.host, &access.default_scheme)?;
        let endpoints = hosts.into_iter().map(|host| {
            let plain = host.trust == Trust::default() && host.dial_timeout.is_none();
            let client = if plain {
                Arc::clone(&self.client)
            } else {
                // Its files may be others the next time.
                let patience = self.options.patience;
                Arc::new(Client::new(host.trust.clone(), patience, host.dial_timeout))
            };
            Endpoint::new(client, host, reference, access, purpose)
        });
        Ok(Repository { endpoints: endpoints.collect(), reference: reference.clone() })
    }
}

/// One repository of a registry, at all hosts that serve it.
#[derive(Debug)]
pub struct Repository {
    /// In the order in which they are asked.
    endpoints: Vec<Endpoint>,
    reference: Reference,
}

impl Repository {
    /// The hosts that pull, each with whether it is the last, from the one at `first` on and round.
    fn pulling(&self, resolve: bool, first: usize) -> impl Iterator<Item = (&Endpoint, bool)> {
        let fit = self.endpoints.iter().filter(|e| e.capabilities.pull);
        let mut fit: Vec<_> = fit.filter(|e| e.capabilities.resolve || !resolve).collect();
        let count = fit.len();
        fit.rotate_left(first.checked_rem(count).unwrap_or(0));
        fit.into_iter().enumerate().map(move |(i, endpoint)| (endpoint, i + 1 == count))
    }

    /// What the reference names at the moment.
    ///
    /// # Errors
    /// containerd's `failed to resolve reference "…": …`, `NotFound` for a missing image. With
    /// several hosts, what each of them said.
    pub async fn resolve(&self) -> Result<Descriptor> {
        let name = self.reference.to_string();
        let mut tried = Tried::default();
        // A digest means the same everywhere, a tag what whoever may resolve it says.
        for (endpoint, last) in self.pulling(self.reference.digest.is_none(), 0) {
            match self.head(endpoint, last).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(e) => tried.add(endpoint, e),
            }
        }
        Err(tried.error("no resolve hosts"))
            .during(|| format!("failed to resolve reference {name:?}"))
    }

    async fn head(&self, endpoint: &Endpoint, last: bool) -> Result<Descriptor> {
        let object = self.reference.object();
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(ACCEPTED))]);
        let rest = format!("manifests/{object}");
        let mut answer = endpoint.ask(Method::HEAD, &rest, &headers, last).await?;
        if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
            answer = endpoint.ask(Method::GET, &rest, &headers, last).await?;
        }
        let answer = endpoint.check(answer, &format!("[manifests {object}]")).await?;
        let media_type = answer.header(CONTENT_TYPE).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let digest: Option<Digest> = match answer.header("docker-content-digest") {
            Some(digest) => Some(digest.parse().during(|| "Docker-Content-Digest")?),
            None => None,
        };
        let size = answer.header(CONTENT_LENGTH).and_then(|l| l.parse().ok());
        let mut descriptor = match (self.reference.digest.clone().or(digest), size) {
            (Some(digest), Some(size)) => Descriptor::new(&media_type, digest, size),
            // The registry does not say: the manifest itself does.
            _ => {
                let bytes = self.document(endpoint, object, last).await?;
                let wanted = self.reference.digest.as_ref();
                let algorithm = wanted.map(Digest::algorithm).unwrap_or_default();
                let digest = Digest::by(algorithm, &bytes);
                if let Some(wanted) = wanted
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

    async fn document(&self, endpoint: &Endpoint, object: &str, last: bool) -> Result<Vec<u8>> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(ACCEPTED))]);
        let rest = format!("manifests/{object}");
        let answer = endpoint.ask(Method::GET, &rest, &headers, last).await?;
        endpoint.check(answer, &format!("[manifests {object}]")).await?.read(LARGEST_MANIFEST).await
    }

    /// A manifest or index, whole and checked: from the first host that has it as it should be.
    ///
    /// # Errors
    /// `FailedPrecondition` for bytes that are not what the descriptor says.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size > LARGEST_MANIFEST {
            return Err(too_large(descriptor.size));
        }
        let mut tried = Tried::default();
        for (endpoint, last) in self.pulling(false, 0) {
            let read = self.document(endpoint, descriptor.digest.as_str(), last).await;
            match read.and_then(|bytes| verified(bytes, descriptor)) {
                Ok(bytes) => return Ok(bytes),
                Err(e) => tried.add(endpoint, e),
            }
        }
        Err(tried.error("no pull hosts"))
    }
}

/// Bytes that are what the descriptor says.
fn verified(bytes: Vec<u8>, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let digest = Digest::by(descriptor.digest.algorithm(), &bytes);
    if digest != descriptor.digest {
        return Err(mismatch(&digest, &descriptor.digest));
    }
    if bytes.len() as u64 != descriptor.size {
        return Err(wrong_size(bytes.len() as u64, descriptor.size));
    }
    Ok(bytes)
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
