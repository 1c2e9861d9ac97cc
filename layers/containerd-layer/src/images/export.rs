//! Image archives for others: an OCI layout that is also what `docker load` reads.

use super::{
    Descriptor, Index, LARGEST_MANIFEST, Manifest, Platform,
    import::{DockerImage, IMAGE_NAME, REF_NAME},
    manifest::{media, nesting},
};
use crate::{Digest, Error, Result, Store, metadata::Image};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashSet},
    io::{Read, Write},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexDocument<'a> {
    schema_version: u32,
    media_type: &'a str,
    manifests: &'a [Descriptor],
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::internal(format_args!("encoding the archive: {e}")))
}

fn writing(error: &std::io::Error) -> Error {
    Error::io("writing the image archive", error)
}

impl Store {
    /// Writes the images called `names` to an archive, each as the manifest for `platform`.
    /// Blocks until `archive` has taken it all.
    ///
    /// # Errors
    /// `NotFound` for an image, its content or its platform.
    pub fn export(
        &self,
        ns: &str,
        names: &[String],
        platform: &Platform,
        archive: impl Write,
    ) -> Result<()> {
        let mut export = Export {
            store: self,
            ns,
            archive: tar::Builder::new(archive),
            written: HashSet::new(),
        };
        let mut index = Vec::new();
        let mut docker: Vec<DockerImage> = Vec::new();
        export.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for name in names {
            let image: Image = self.metadata().get(ns, name)?;
            let (descriptor, manifest) = self.manifest(ns, &image.target, platform)?;
            export.tree(&image.target, 0)?;
            index.push(named(&image, image.target.clone()));
            docker.push(describe(name, &manifest));
            tracing::debug!(name, digest = %descriptor.digest, "exported");
        }
        let document =
            IndexDocument { schema_version: 2, media_type: media::OCI_INDEX, manifests: &index };
        export.file("index.json", &json(&document)?)?;
        export.file("manifest.json", &json(&docker)?)?;
        export.archive.finish().map_err(|e| writing(&e))
    }
}

/// A descriptor that carries its image's name, the tag alone for others than containerd.
fn named(image: &Image, mut target: Descriptor) -> Descriptor {
    let last = image.name.rsplit('/').next().unwrap_or_default();
    let tag = last.split('@').next().and_then(|name| name.split_once(':')).map(|(_, tag)| tag);
    let annotations = target.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(IMAGE_NAME.to_owned(), image.name.clone());
    if let Some(tag) = tag {
        annotations.insert(REF_NAME.to_owned(), tag.to_owned());
    }
    target
}

fn describe(name: &str, manifest: &Manifest) -> DockerImage {
    // Docker writes its own images without their host.
    let familiar = name.strip_prefix("docker.io/library/").or(name.strip_prefix("docker.io/"));
    DockerImage {
        config: path(&manifest.config.digest),
        repo_tags: (!name.contains('@')).then(|| vec![familiar.unwrap_or(name).to_owned()]),
        layers: manifest.layers.iter().map(|layer| path(&layer.digest)).collect(),
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

struct Export<'a, W: Write> {
    store: &'a Store,
    ns: &'a str,
    archive: tar::Builder<W>,
    written: HashSet<Digest>,
}

impl<W: Write> Export<'_, W> {
    /// A blob and everything it names that is here; what a manifest names must be.
    fn tree(&mut self, descriptor: &Descriptor, depth: usize) -> Result<()> {
        let content = self.store.content();
        let digest = &descriptor.digest;
        if self.written.contains(digest) {
            return Ok(());
        }
        if media::is_index(&descriptor.media_type) {
            nesting(descriptor, depth)?;
            for child in Index::parse(&content.read(self.ns, digest, LARGEST_MANIFEST)?)?.manifests
            {
                if content.has(self.ns, &child.digest)? {
                    self.tree(&child, depth + 1)?;
                }
            }
        } else if media::is_manifest(&descriptor.media_type) {
            let manifest = Manifest::parse(&content.read(self.ns, digest, LARGEST_MANIFEST)?)?;
            for part in manifest.layers.iter().chain([&manifest.config]) {
                self.blob(&part.digest)?;
            }
        }
        self.blob(digest)
    }

    fn blob(&mut self, digest: &Digest) -> Result<()> {
        if !self.written.insert(digest.clone()) {
            return Ok(());
        }
        let reader = self.store.content().reader(self.ns, digest)?;
        let size = reader.size;
        let file = reader.into_file();
        self.entry(&path(digest), size, file.take(size))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.entry(name, bytes.len() as u64, bytes)
    }

    fn entry(&mut self, name: &str, size: u64, data: impl Read) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o444);
        self.archive.append_data(&mut header, name, data).map_err(|e| writing(&e))
    }
}
