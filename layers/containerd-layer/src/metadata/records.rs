//! The kinds of record and how each is encoded.

use super::Table;
use crate::{Digest, Error, Result, filters::Fields, images::Descriptor};
use redb::TableDefinition;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

/// Labels as containerd keeps them on everything.
pub type Labels = BTreeMap<String, String>;

/// A kind of record: its table, its encoding, and how containerd names it in an error.
pub trait Record: Sized {
    /// Where records of this kind are.
    const TABLE: Table;
    /// The record as bytes.
    fn encode(&self) -> Result<Vec<u8>>;
    /// The record from its bytes.
    fn decode(bytes: &[u8]) -> Result<Self>;
    /// What an error calls the record `name`, such as `image "x"`.
    fn describe(name: &str) -> String;
}

fn encode_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal(format_args!("encoding a record: {e}")))
}

fn decode_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::data_loss(format_args!("decoding a record: {e}")))
}

macro_rules! records {
    ($($kind:ty: $table:literal, $noun:literal;)*) => {
        $(impl Record for $kind {
            const TABLE: Table = TableDefinition::new($table);
            fn encode(&self) -> Result<Vec<u8>> { encode_json(self) }
            fn decode(bytes: &[u8]) -> Result<Self> { decode_json(bytes) }
            fn describe(name: &str) -> String { format!($noun, name) }
        })*
    };
}

/// Records whose content another layer encodes: kept as the bytes they came in.
macro_rules! opaque {
    ($($(#[$doc:meta])* $kind:ident: $table:literal, $noun:literal;)*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $kind(
            /// The encoded message.
            pub Vec<u8>,
        );

        impl Record for $kind {
            const TABLE: Table = TableDefinition::new($table);
            fn encode(&self) -> Result<Vec<u8>> { Ok(self.0.clone()) }
            fn decode(bytes: &[u8]) -> Result<Self> { Ok(Self(bytes.to_owned())) }
            fn describe(name: &str) -> String { format!($noun, name) }
        })*
    };
}

records! {
    Namespace: "namespaces", "namespace {:?}";
    Image: "images", "image {:?}";
    Content: "content", "content digest {}";
    Snapshot: "snapshots", "snapshot {}";
    Lease: "leases", "lease {:?}";
}

opaque! {
    /// A container as the encoded `containerd.services.containers.v1.Container`.
    Container: "containers", "container {:?}";
    /// A sandbox as the encoded `containerd.types.Sandbox`.
    Sandbox: "sandboxes", "sandbox {:?}";
}

pub(super) const TABLES: &[Table] = &[
    Namespace::TABLE,
    Image::TABLE,
    Content::TABLE,
    Snapshot::TABLE,
    Lease::TABLE,
    Container::TABLE,
    Sandbox::TABLE,
];

/// A namespace; its name is its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its labels.
    pub labels: Labels,
}

/// An image: a name for a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The full name, such as `docker.io/library/busybox:latest`.
    pub name: String,
    /// What it names: an index or a manifest.
    pub target: Descriptor,
    /// Its labels.
    pub labels: Labels,
    /// When the name was first made.
    pub created_at: SystemTime,
    /// When the name was last changed.
    pub updated_at: SystemTime,
}

/// A blob as one namespace sees it; its digest is its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Which blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its labels.
    pub labels: Labels,
    /// When this namespace got it.
    pub created_at: SystemTime,
    /// When its labels last changed.
    pub updated_at: SystemTime,
}

/// What can be done with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotKind {
    /// Read-only, not committed.
    View,
    /// Writable.
    Active,
    /// Done: a parent for others.
    Committed,
}

/// A snapshot; its key is `<snapshotter>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name, as the client gave it.
    pub name: String,
    /// The name of the snapshot under it; empty when there is none.
    pub parent: String,
    /// What it is.
    pub kind: SnapshotKind,
    /// The number of its directory.
    pub id: u64,
    /// Its labels.
    pub labels: Labels,
    /// When it was prepared or committed.
    pub created_at: SystemTime,
    /// When it last changed.
    pub updated_at: SystemTime,
    /// Bytes on disk; known once committed.
    pub size: u64,
    /// Inodes; known once committed.
    pub inodes: u64,
}

/// Something that a lease keeps from the garbage collector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resource {
    /// `content`, `ingests` or `snapshots/<snapshotter>`.
    pub kind: String,
    /// Digest, ref or key.
    pub id: String,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its id.
    pub id: String,
    /// Its labels; `containerd.io/gc.expire` (RFC 3339) ends it.
    pub labels: Labels,
    /// When it was made.
    pub created_at: SystemTime,
    /// What it keeps.
    pub resources: BTreeSet<Resource>,
}

/// The value of `path`, where labels are asked for as `labels.<key>`.
fn labelled<'a>(labels: &'a Labels, path: &[&str]) -> Option<Cow<'a, str>> {
    match path {
        ["labels", key @ ..] => labels.get(&key.join(".")).map(|v| Cow::Borrowed(v.as_str())),
        _ => None,
    }
}

impl Fields for Image {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["name"] => Some(Cow::Borrowed(&self.name)),
            ["target", "digest"] => Some(Cow::Borrowed(self.target.digest.as_str())),
            ["target", "mediatype"] => Some(Cow::Borrowed(&self.target.media_type)),
            path => labelled(&self.labels, path),
        }
    }
}

impl Fields for Content {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["digest"] => Some(Cow::Borrowed(self.digest.as_str())),
            ["size"] => Some(Cow::Owned(self.size.to_string())),
            path => labelled(&self.labels, path),
        }
    }
}

impl Fields for Snapshot {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["name"] => Some(Cow::Borrowed(&self.name)),
            ["parent"] if self.parent.is_empty() => None,
            ["parent"] => Some(Cow::Borrowed(&self.parent)),
            ["kind"] => Some(Cow::Borrowed(match self.kind {
                SnapshotKind::View => "view",
                SnapshotKind::Active => "active",
                SnapshotKind::Committed => "committed",
            })),
            path => labelled(&self.labels, path),
        }
    }
}

impl Fields for Lease {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id"] => Some(Cow::Borrowed(&self.id)),
            path => labelled(&self.labels, path),
        }
    }
}
