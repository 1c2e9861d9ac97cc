//! The documents of an image, Docker's schema 2 and OCI's alike: they differ in their media types.
//!
//! Only what the store acts on is parsed; the bytes themselves are kept as they came, because
//! their digest is their name.

use crate::{Digest, Error, Result};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use std::collections::BTreeMap;

/// The largest manifest, index or configuration read into memory, in bytes (containerd's limit).
pub const LARGEST_MANIFEST: u64 = 8 << 20;

/// Media types and what they are.
pub mod media {
    /// OCI's index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI's manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI's configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI's uncompressed layer.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI's gzipped layer.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Docker's manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's uncompressed layer.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's gzipped layer.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    /// Whether it is a list of manifests by platform.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_INDEX)
    }

    /// Whether it is one platform's manifest.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether it is a layer that becomes files.
    pub fn is_layer(media_type: &str) -> bool {
        media_type.starts_with("application/vnd.oci.image.layer.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.")
    }
}

/// How deep indexes may stand in indexes. Nobody's do so for a reason; the bound is for those who
/// make a stack of them to have it walked.
const DEEPEST: usize = 8;

/// Refuses an index that stands too deep.
///
/// # Errors
/// `InvalidArgument` naming it.
pub(super) fn nesting(index: &Descriptor, depth: usize) -> Result<()> {
    if depth < DEEPEST {
        return Ok(());
    }
    Err(Error::invalid(format_args!(
        "index {}: more than {DEEPEST} indexes stand in each other",
        index.digest
    )))
}

/// A reference to content: what it is, its digest, its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its media type.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where else it can be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// A plain descriptor.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: None,
            platform: None,
        }
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// A platform: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// In Go's words: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this program runs on.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Parses `os/arch[/variant]`, or the architecture alone.
    ///
    /// # Errors
    /// `InvalidArgument` naming the text.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) || parts.len() > 3 {
            return Err(Error::invalid(format_args!(
                "{text:?}: unknown operating system or architecture"
            )));
        }
        let (os, rest) = match parts.as_slice() {
            [one] if *one == "linux" => return Ok(Self::host()),
            [_] => ("linux", &parts[..]),
            parts => (parts[0], &parts[1..]),
        };
        let (architecture, variant) = match (rest[0], rest.get(1).copied()) {
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64", variant) => ("arm64", variant),
            (architecture, variant) => (architecture, variant),
        };
        let variant = variant.map(str::to_owned);
        Ok(Self { os: os.to_owned(), architecture: architecture.to_owned(), variant })
    }

    /// Whether what is made for `offered` runs here.
    pub fn accepts(&self, offered: &Self) -> bool {
        self.distance(offered).is_some()
    }

    /// How well `offered` runs here: less is better, nothing is not at all.
    fn distance(&self, offered: &Self) -> Option<usize> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let variant = |platform: &Self| match (&platform.variant, platform.architecture.as_str()) {
            (Some(variant), _) => variant.trim_start_matches('v').parse().unwrap_or(0),
            (None, "arm64") => 8,
            (None, "arm") => 7,
            (None, _) => 1,
        };
        // A newer variant of an architecture runs what was made for the older ones.
        let (have, want): (usize, usize) = (variant(self), variant(offered));
        have.checked_sub(want)
    }
}

/// A list of manifests by platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

/// One platform's configuration and layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What the store needs of an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// Its layers.
    pub rootfs: RootFs,
}

/// The layers of an image by the digests of their uncompressed archives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// The digests, lowest layer first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// What a document is by its own word and by its parts. One that can be read as two things is read
/// differently by different readers (CVE-2021-41190), so it has to be what it was asked for as.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Shape {
    pub(super) media_type: String,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl Shape {
    pub(super) fn of(what: &str, bytes: &[u8]) -> Result<Self> {
        parse(what, bytes)
    }

    pub(super) fn is_index(&self) -> bool {
        self.manifests.is_some()
    }

    pub(super) fn is_manifest(&self) -> bool {
        self.layers.is_some() || self.config.is_some()
    }

    /// Why it is not to be read as `what`, in containerd's words.
    fn confusion(&self, what: &str) -> Option<String> {
        let media_type = &self.media_type;
        let (is_other, word) = match what {
            "index" => (self.is_manifest() || media::is_manifest(media_type), "manifest"),
            _ => (self.is_index() || media::is_index(media_type), "index"),
        };
        if self.fs_layers.is_some() {
            return Some("media-type: schema 1 not supported".to_owned());
        }
        is_other.then(|| format!("media-type: expected {what} but found {word} ({media_type})"))
    }
}

fn parse_as<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    match Shape::of(what, bytes)?.confusion(what) {
        None => parse(what, bytes),
        Some(why) => Err(Error::invalid(format_args!("{what} {}: {why}", Digest::of(bytes)))),
    }
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::invalid(format_args!("{what} {}: {e}", Digest::of(bytes))))
}

impl Index {
    /// Parses an index.
    ///
    /// # Errors
    /// `InvalidArgument` naming its digest and the place, also for a document that is a manifest too.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        parse_as("index", bytes)
    }

    /// The manifests that run on `platform`, the best first; one that names no platform comes last.
    pub fn fitting(&self, platform: &Platform) -> Vec<Descriptor> {
        let mut fitting: Vec<_> = self
            .manifests
            .iter()
            .filter(|d| media::is_manifest(&d.media_type) || media::is_index(&d.media_type))
            .filter_map(|d| match &d.platform {
                Some(offered) => platform.distance(offered).map(|distance| (distance, d)),
                None => Some((usize::MAX, d)),
            })
            .collect();
        fitting.sort_by_key(|(distance, _)| *distance);
        fitting.into_iter().map(|(_, d)| d.clone()).collect()
    }
}

impl Manifest {
    /// Parses a manifest.
    ///
    /// # Errors
    /// `InvalidArgument` naming its digest and the place, also for a document that is an index too.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        parse_as("manifest", bytes)
    }
}

impl Config {
    /// Parses a configuration.
    ///
    /// # Errors
    /// `InvalidArgument` naming its digest and the place.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        parse("image config", bytes)
    }
}

/// The names of a stack of layers: each the digest of the one below and the layer's own
/// (image-spec, "Layer ChainID").
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        let index = |platforms: &[&str]| Index {
            manifests: platforms
                .iter()
                .map(|text| Descriptor {
                    platform: Some(Platform::parse(text).unwrap()),
                    ..Descriptor::of(media::OCI_MANIFEST, text.as_bytes())
                })
                .collect(),
        };
        let best = |platform: &str, offered: &[&str]| {
            let fitting = index(offered).fitting(&Platform::parse(platform).unwrap());
            fitting.first().map(|d| d.digest.clone())
        };
        let digest = |text: &str| Some(Digest::of(text.as_bytes()));
        assert_eq!(best("linux/amd64", &["linux/arm64", "linux/amd64"]), digest("linux/amd64"));
        assert_eq!(best("linux/amd64", &["linux/arm64", "windows/amd64"]), None);
        assert_eq!(best("linux/arm64", &["linux/arm64/v8"]), digest("linux/arm64/v8"));
        assert_eq!(best("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"]), digest("linux/arm/v6"));
        assert_eq!(best("linux/arm/v6", &["linux/arm/v7"]), None);
    }

    #[test]
    fn what_can_be_read_as_two_things_is_neither() {
        let (index, manifest) = (media::OCI_INDEX, media::OCI_MANIFEST);
        let digest = Digest::of(b"");
        let part = format!(r#"{{"digest":"{digest}","size":0}}"#);
        let as_manifest = format!(r#""config":{part},"layers":[]"#);
        let as_index = r#""manifests":[]"#;
        for (text, is_index, is_manifest) in [
            (format!("{{{as_index}}}"), true, false),
            (format!("{{{as_manifest}}}"), false, true),
            (format!("{{{as_index},{as_manifest}}}"), false, false),
            (format!(r#"{{"mediaType":"{manifest}",{as_index}}}"#), false, false),
            (format!(r#"{{"mediaType":"{index}",{as_manifest}}}"#), false, false),
            (format!(r#"{{"fsLayers":[],{as_manifest}}}"#), false, false),
            (format!(r#"{{{as_index},"manifests":[{part}]}}"#), false, false),
        ] {
            assert_eq!(Index::parse(text.as_bytes()).is_ok(), is_index, "{text}");
            assert_eq!(Manifest::parse(text.as_bytes()).is_ok(), is_manifest, "{text}");
        }
    }

    #[test]
    fn chains() {
        let layers = [Digest::of(b"a"), Digest::of(b"b")];
        let chain = chain_ids(&layers);
        assert_eq!(chain[0], layers[0]);
        assert_eq!(chain[1], Digest::of(format!("{} {}", layers[0], layers[1]).as_bytes()));
    }
}
