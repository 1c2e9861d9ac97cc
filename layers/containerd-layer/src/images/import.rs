//! Image archives: what `docker save` writes (`manifest.json` and layers as files) and OCI layouts
//! (`index.json` and blobs), which newer Dockers write both at once.
//!
//! The archive is a stream and names its parts at the end, so every file goes to content as it
//! comes; what the documents turn out not to name is removed again.

use super::{
    Config, Descriptor, Index, LARGEST_MANIFEST, Manifest, Platform,
    manifest::{media, nesting},
    pull::references,
    reference::familiar,
};
use crate::{
    Digest, Error, Kind, Result, Store,
    content::WriterOptions,
    diff::{
        compression::Decoder,
        tar::{Archive, Entry, Kind as EntryKind},
    },
    digest::Algorithm,
    error::During,
    metadata::{Image, Labels},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{BufRead, BufReader, Read},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

/// The most bytes of documents kept in memory while an archive is read.
const MOST_DOCUMENTS: usize = 64 << 20;
/// containerd's annotation of an image's full name.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";
/// OCI's annotation of a tag, or of a name.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

static IMPORTS: AtomicU64 = AtomicU64::new(0);

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// The namespace it goes to.
    pub namespace: String,
    /// The name that a bare tag in an OCI layout belongs to; `import-<date>` without one.
    pub base_name: Option<String>,
    /// A name for an image that has none in the archive; such images are otherwise left unnamed.
    pub name: Option<String>,
    /// Where to unpack; nothing only imports.
    pub snapshotter: Option<String>,
    /// Labels of the images.
    pub labels: Labels,
}

/// One image in `manifest.json`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}

impl Store {
    /// Imports the images of an archive, compressed or not, and answers their records.
    ///
    /// # Errors
    /// `InvalidArgument` naming an entry that points out of the archive or a part that is missing;
    /// `FailedPrecondition` for a blob that is not what its name says; `DataLoss` for a broken
    /// archive; `ResourceExhausted` for a full disk. Nothing of the archive stays then.
    pub async fn import(
        &self,
        archive: impl Read + Send + 'static,
        import: Import,
    ) -> Result<Vec<Image>> {
        let _together = self.collecting().read().await;
        let options = import.clone();
        let (images, kept) =
            self.blocking(move |store| read_archive(store, archive, &options)).await?;
        if let Some(snapshotter) = &import.snapshotter {
            for (_, target) in &images {
                let platform = Platform::host();
                let unpacked =
                    self.unpack_here(&import.namespace, target, &platform, snapshotter).await;
                if let Err(e) = unpacked {
                    let ns = import.namespace.clone();
                    self.blocking(move |store| forget(store, &ns, &kept)).await?;
                    return Err(e);
                }
            }
        }
        self.blocking(move |store| {
            let set = |(name, target): (Option<String>, Descriptor)| {
                name.map(|n| store.set_image(&import.namespace, &n, target, import.labels.clone()))
            };
            images.into_iter().filter_map(set).collect()
        })
        .await
    }
}

/// What was found in the archive.
struct Contents<'a> {
    store: &'a Store,
    ns: &'a str,
    files: HashMap<String, (Digest, u64)>,
    links: HashMap<String, String>,
    documents: BTreeMap<String, Vec<u8>>,
    /// Blobs that were not here before.
    fresh: Vec<Digest>,
}

type Named = (Option<String>, Descriptor);

/// Reads the archive and answers its images and the blobs that are new.
fn read_archive(
    store: &Store,
    archive: impl Read,
    import: &Import,
) -> Result<(Vec<Named>, Vec<Digest>)> {
    let mut contents = Contents {
        store,
        ns: &import.namespace,
        files: HashMap::new(),
        links: HashMap::new(),
        documents: BTreeMap::new(),
        fresh: Vec::new(),
    };
    let images = contents.read(archive).and_then(|()| contents.images(import));
    let named = match images {
        Ok(images) => images,
        Err(e) => {
            forget(store, &import.namespace, &contents.fresh)?;
            return Err(e);
        }
    };
    let used = contents.used(&named)?;
    let (kept, unused): (Vec<_>, Vec<_>) =
        contents.fresh.into_iter().partition(|digest| used.contains(digest));
    forget(store, &import.namespace, &unused)?;
    Ok((named, kept))
}

fn forget(store: &Store, ns: &str, blobs: &[Digest]) -> Result<()> {
    for digest in blobs {
        match store.content().delete(ns, digest) {
            Err(e) if e.kind != Kind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// An entry's name within the archive; one that leaves it is an attack or a mistake.
fn inside(name: &[u8], what: &str) -> Result<String> {
    let text = String::from_utf8_lossy(name).into_owned();
    let refuse = || Err(Error::invalid(format_args!("archive {what} {text:?} leaves the archive")));
    if text.starts_with('/') {
        return refuse();
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return refuse(),
            ".." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

impl Contents<'_> {
    fn read(&mut self, archive: impl Read) -> Result<()> {
        let source = BufReader::with_capacity(256 << 10, archive);
        let decoder =
            Decoder::new(source).map_err(|e| Error::io("reading the image archive", &e))?;
        let mut archive = Archive::new(BufReader::with_capacity(256 << 10, decoder));
        while let Some(entry) = archive.next()? {
            self.entry(&entry, &mut archive)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, archive: &mut Archive<impl BufRead>) -> Result<()> {
        let name = inside(&entry.name, "entry")?;
        match entry.kind {
            EntryKind::File => {}
            EntryKind::Symlink | EntryKind::HardLink => {
                // Docker links a layer that it has written before.
                let folder = match entry.kind {
                    EntryKind::Symlink => name.rsplit_once('/').map_or("", |(folder, _)| folder),
                    _ => "",
                };
                let target = String::from_utf8_lossy(&entry.link);
                let target = if target.starts_with('/') || folder.is_empty() {
                    target.into_owned()
                } else {
                    format!("{folder}/{target}")
                };
                let target = inside(target.as_bytes(), &format!("link {name:?} to"))?;
                self.links.insert(name, target);
                return Ok(());
            }
            _ => return Ok(()),
        }
        let document = !name.starts_with("blobs/") && !name.ends_with(".tar");
        if document && entry.size <= LARGEST_MANIFEST {
            let bytes = archive.read_data(LARGEST_MANIFEST)?;
            let total: usize = self.documents.values().map(Vec::len).sum();
            if total + bytes.len() > MOST_DOCUMENTS {
                return Err(Error::invalid(format_args!(
                    "archive entry {name:?}: too many documents"
                )));
            }
            self.documents.insert(name, bytes);
            return Ok(());
        }
        let parts = name.strip_prefix("blobs/").and_then(|name| name.split_once('/'));
        let known = parts.filter(|(word, _)| Algorithm::ALL.iter().any(|a| a.name() == *word));
        let wanted = known.map(|(algorithm, hex)| format!("{algorithm}:{hex}").parse());
        let wanted: Option<Digest> =
            wanted.transpose().during(|| format!("archive entry {name:?}"))?;
        let digest =
            self.blob(entry, wanted, archive).during(|| format!("archive entry {name:?}"))?;
        self.files.insert(name, (digest, entry.size));
        Ok(())
    }

    fn blob(
        &mut self,
        entry: &Entry,
        wanted: Option<Digest>,
        archive: &mut Archive<impl BufRead>,
    ) -> Result<Digest> {
        let number = IMPORTS.fetch_add(1, Ordering::Relaxed);
        let options = WriterOptions {
            reference: format!("import-{}-{number}", std::process::id()),
            total: entry.size,
            expected: wanted.clone(),
            ..WriterOptions::default()
        };
        let mut writer = match (self.store.content().writer(self.ns, options), wanted) {
            (Err(e), Some(digest)) if e.kind == Kind::AlreadyExists => return Ok(digest),
            (writer, _) => writer?,
        };
        writer.truncate()?;
        loop {
            let chunk = match archive.data() {
                Ok(chunk) => chunk,
                Err(e) => {
                    writer.abort()?;
                    return Err(e);
                }
            };
            if chunk.is_empty() {
                break;
            }
            let length = chunk.len();
            if let Err(e) = writer.write(chunk) {
                writer.abort()?;
                return Err(e);
            }
            archive.consume(length);
        }
        let digest = writer.digest();
        let reference = writer.reference().to_owned();
        match writer.commit(entry.size, None, Labels::new()) {
            Ok(digest) => {
                self.fresh.push(digest.clone());
                Ok(digest)
            }
            Err(e) if e.kind == Kind::AlreadyExists => Ok(digest),
            Err(e) => {
                // A refused commit leaves the write to be resumed, which an archive cannot be.
                if let Err(left) = self.store.content().abort(self.ns, &reference)
                    && left.kind != Kind::NotFound
                {
                    return Err(left);
                }
                Err(e)
            }
        }
    }

    fn images(&mut self, import: &Import) -> Result<Vec<Named>> {
        let layout = self.documents.contains_key("oci-layout");
        if let (true, Some(index)) = (layout, self.documents.get("index.json")) {
            let index = Index::parse(index)?;
            return self.layout(&index, import);
        }
        if let Some(manifest) = self.documents.get("manifest.json") {
            let images: Vec<DockerImage> = serde_json::from_slice(manifest).map_err(|e| {
                Error::invalid(format_args!("archive entry \"manifest.json\": {e}"))
            })?;
            let mut named = Vec::new();
            for image in images {
                named.extend(self.docker_image(&image, import)?);
            }
            return Ok(named);
        }
        Err(Error::invalid("unrecognized image format: no index.json and no manifest.json"))
    }

    fn layout(&mut self, index: &Index, import: &Import) -> Result<Vec<Named>> {
        let (mut named, mut seen) = (Vec::new(), HashSet::new());
        for descriptor in &index.manifests {
            self.label(descriptor, 0, &mut seen)?;
            let bare = Descriptor { annotations: None, platform: None, ..descriptor.clone() };
            let name = match (descriptor.annotation(IMAGE_NAME), descriptor.annotation(REF_NAME)) {
                (Some(name), _) => Some(name.to_owned()),
                (None, Some(name)) if name.contains('/') => Some(familiar(name)),
                (None, Some(tag)) => {
                    let base = import.base_name.clone();
                    Some(format!("{}:{tag}", base.unwrap_or_else(|| format!("import-{}", today()))))
                }
                (None, None) => import.name.clone(),
            };
            named.push((name, bare));
        }
        Ok(named)
    }

    /// Labels a manifest or index and what is below it for the garbage collector.
    fn label(
        &mut self,
        descriptor: &Descriptor,
        depth: usize,
        seen: &mut HashSet<Digest>,
    ) -> Result<()> {
        if !seen.insert(descriptor.digest.clone()) {
            return Ok(());
        }
        let content = self.store.content();
        if !content.has(self.ns, &descriptor.digest)? {
            return Err(Error::not_found(format_args!("content {}", descriptor.digest)));
        }
        let bytes = content.read(self.ns, &descriptor.digest, LARGEST_MANIFEST)?;
        content.add_labels(self.ns, &descriptor.digest, references(&bytes)?)?;
        if media::is_index(&descriptor.media_type) {
            nesting(descriptor, depth)?;
            for child in Index::parse(&bytes)?.manifests {
                // Archives of one platform keep the index of all.
                if content.has(self.ns, &child.digest)? {
                    self.label(&child, depth + 1, seen)?;
                }
            }
            return Ok(());
        }
        let manifest = Manifest::parse(&bytes)?;
        for part in manifest.layers.iter().chain([&manifest.config]) {
            if !content.has(self.ns, &part.digest)? {
                return Err(Error::invalid(format_args!(
                    "manifest {}: the archive has no blob {}",
                    descriptor.digest, part.digest
                )));
            }
        }
        Ok(())
    }

    /// Builds the manifest that a Docker archive lacks.
    fn docker_image(&mut self, image: &DockerImage, import: &Import) -> Result<Vec<Named>> {
        let config = self.document(&image.config)?;
        Config::parse(&config)?;
        let mut layers = Vec::new();
        for name in &image.layers {
            let (digest, size) = self.file(name)?;
            let reader = self.store.content().reader(self.ns, &digest)?;
            let mut magic = [0; 2];
            let gzip = reader.read_at(0, &mut magic).is_ok() && magic == [0x1f, 0x8b];
            let media = if gzip { media::DOCKER_LAYER_GZIP } else { media::DOCKER_LAYER };
            layers.push(Descriptor::new(media, digest, size));
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document {
            schema_version: u32,
            media_type: &'static str,
            #[serde(flatten)]
            manifest: Manifest,
        }
        let document = Document {
            schema_version: 2,
            media_type: media::DOCKER_MANIFEST,
            manifest: Manifest { config: Descriptor::of(media::DOCKER_CONFIG, &config), layers },
        };
        let bytes = serde_json::to_vec(&document).map_err(Error::internal)?;
        self.keep(&config, Labels::new())?;
        self.keep(&bytes, references(&bytes)?)?;
        let target = Descriptor::of(media::DOCKER_MANIFEST, &bytes);
        let tags = image.repo_tags.clone().unwrap_or_default();
        let names: Vec<_> = if tags.is_empty() {
            vec![import.name.clone()]
        } else {
            tags.iter().map(|tag| Some(familiar(tag))).collect()
        };
        Ok(names.into_iter().map(|name| (name, target.clone())).collect())
    }

    fn keep(&mut self, bytes: &[u8], labels: Labels) -> Result<()> {
        let digest = Digest::of(bytes);
        if !self.store.content().has(self.ns, &digest)? {
            self.fresh.push(digest);
        }
        self.store.content().put(self.ns, bytes, labels).map(drop)
    }

    /// Follows the archive's own links.
    fn resolve<'a>(&'a self, name: &'a str) -> &'a str {
        let mut name = name;
        for _ in 0..8 {
            match self.links.get(name) {
                Some(target) => name = target,
                None => break,
            }
        }
        name
    }

    fn file(&mut self, name: &str) -> Result<(Digest, u64)> {
        let path = inside(name.as_bytes(), "layer")?;
        let path = self.resolve(&path).to_owned();
        if let Some(found) = self.files.get(&path) {
            return Ok(found.clone());
        }
        // A layer under another name than Docker's was taken for a document.
        let bytes = self.documents.get(&path).cloned().ok_or_else(|| missing(name))?;
        self.keep(&bytes, Labels::new())?;
        Ok((Digest::of(&bytes), bytes.len() as u64))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let path = inside(name.as_bytes(), "config")?;
        let path = self.resolve(&path);
        match (self.documents.get(path), self.files.get(path)) {
            (Some(bytes), _) => Ok(bytes.clone()),
            (None, Some((digest, _))) => {
                self.store.content().read(self.ns, digest, LARGEST_MANIFEST)
            }
            (None, None) => Err(missing(name)),
        }
    }

    /// Every blob that the images name.
    fn used(&self, images: &[Named]) -> Result<Vec<Digest>> {
        let mut used = Vec::new();
        let mut pending: Vec<Digest> = images.iter().map(|(_, d)| d.digest.clone()).collect();
        while let Some(digest) = pending.pop() {
            if let Ok(blob) = self.store.content().info(self.ns, &digest) {
                let children = blob.labels.iter();
                let children =
                    children.filter(|(k, _)| k.starts_with("containerd.io/gc.ref.content."));
                pending.extend(children.filter_map(|(_, digest)| digest.parse().ok()));
                used.push(digest);
            }
        }
        Ok(used)
    }
}

fn missing(name: &str) -> Error {
    Error::invalid(format_args!("manifest.json: the archive has no entry {name:?}"))
}

/// Today's date, `2006-01-02`, for images that the archive gives no name.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = crate::metadata::timestamp::date(seconds.as_secs() / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}
