//! Blobs named by their digest: `io.containerd.content.v1.content/{blobs/<algorithm>/<hex>,ingest/<id>}`,
//! containerd's own layout.
//!
//! A blob is written beside its final place, hashed on the way, fsynced, renamed, and only then
//! recorded; so a file under `blobs/` is whole, and one that no namespace has a record for is what a
//! kill left, swept at the next start. Namespaces share files and have records of their own.

mod writer;

pub use writer::{IngestStatus, Writer, WriterOptions};

use crate::{
    Digest, Error, Result,
    digest::Algorithm,
    error::At,
    filters::Filters,
    metadata::{Change, Content, Labels, Metadata, identifier},
};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

/// The blobs of one root.
#[derive(Debug, Clone)]
pub struct ContentStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metadata: Arc<Metadata>,
    blobs: PathBuf,
    ingest: PathBuf,
    /// Refs being written in this process, and since when.
    writing: Mutex<HashMap<String, SystemTime>>,
    /// Small blobs written in one go so far.
    puts: AtomicU64,
    /// Held while a file enters or leaves `blobs` together with its record.
    files: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded values are whole after every statement, so a panicked holder left them usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open blob.
#[derive(Debug)]
pub struct Reader {
    file: File,
    /// Its size in bytes.
    pub size: u64,
}

impl Reader {
    /// Reads at `offset`; 0 bytes is the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// The whole blob, refused when larger than `limit` bytes.
    pub fn read_all(&self, limit: u64) -> Result<Vec<u8>> {
        if self.size > limit {
            return Err(Error::invalid(format_args!(
                "blob of {} bytes is larger than the limit of {limit}",
                self.size
            )));
        }
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, 0).map_err(|e| Error::io("reading a blob", &e))?;
        Ok(bytes)
    }

    /// The blob as a file, positioned at its start.
    pub fn into_file(self) -> File {
        self.file
    }
}

impl ContentStore {
    /// Opens the blobs under `root` and removes those that no record knows.
    pub(crate) fn open(root: &Path, metadata: Arc<Metadata>) -> Result<Self> {
        let root = root.join("io.containerd.content.v1.content");
        let (blobs, ingest) = (root.join("blobs"), root.join("ingest"));
        let folders = Algorithm::ALL.map(|algorithm| (algorithm, blobs.join(algorithm.name())));
        for dir in folders.iter().map(|(_, folder)| folder).chain([&ingest]) {
            fs::create_dir_all(dir).at("creating", dir)?;
        }
        let known: HashSet<String> =
            metadata.view()?.all::<Content>()?.into_iter().map(|(_, name, _)| name).collect();
        for (algorithm, folder) in &folders {
            for entry in fs::read_dir(folder).at("listing", folder)? {
                let entry = entry.at("listing", folder)?;
                let name = entry.file_name();
                if !known.contains(&format!("{}:{}", algorithm.name(), name.to_string_lossy())) {
                    tracing::info!(blob = ?name, "removing a blob that no namespace knows");
                    fs::remove_file(entry.path()).at("removing", entry.path())?;
                }
            }
        }
        Ok(Self(Arc::new(Inner {
            metadata,
            blobs,
            ingest,
            writing: Mutex::default(),
            puts: AtomicU64::new(0),
            files: Mutex::default(),
        })))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.0.blobs.join(digest.algorithm().name()).join(digest.hex())
    }

    /// What a namespace knows about a blob.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn info(&self, ns: &str, digest: &Digest) -> Result<Content> {
        self.0.metadata.get(ns, digest.as_str())
    }

    /// Whether a namespace has a blob.
    pub fn has(&self, ns: &str, digest: &Digest) -> Result<bool> {
        Ok(self.0.metadata.view()?.find::<Content>(ns, digest.as_str())?.is_some())
    }

    /// The blobs of a namespace that the filters accept.
    pub fn list(&self, ns: &str, filters: &Filters) -> Result<Vec<Content>> {
        let blobs = self.0.metadata.list::<Content>(ns)?;
        Ok(blobs.into_iter().map(|(_, blob)| blob).filter(|b| filters.matches(b)).collect())
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// `NotFound`, also for a record whose file is gone.
    pub fn reader(&self, ns: &str, digest: &Digest) -> Result<Reader> {
        let info = self.info(ns, digest)?;
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Reader { file, size: info.size }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::not_found(format_args!("content digest {digest}")))
            }
            Err(e) => Err(e).at("opening", &path),
        }
    }

    /// A small blob, such as a manifest, checked against its digest again.
    pub fn read(&self, ns: &str, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let bytes = self.reader(ns, digest)?.read_all(limit)?;
        let found = Digest::by(digest.algorithm(), &bytes);
        if found != *digest {
            return Err(Error::data_loss(format_args!("content {digest} on disk is {found}")));
        }
        Ok(bytes)
    }

    /// Changes the labels of a blob.
    pub fn update(
        &self,
        ns: &str,
        digest: &Digest,
        change: impl FnOnce(&mut Labels),
    ) -> Result<Content> {
        self.0.metadata.change(|tx| update_labels(tx, ns, digest, change))
    }

    /// Removes a blob from a namespace, and its file when no other has it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn delete(&self, ns: &str, digest: &Digest) -> Result<()> {
        let _files = lock(&self.0.files);
        self.0.metadata.change(|tx| tx.remove::<Content>(ns, digest.as_str()))?;
        self.drop_file(digest)
    }

    /// Removes the files of blobs whose last record is gone; the caller removed the records.
    pub(crate) fn sweep(&self, removed: &[Digest]) -> Result<()> {
        let _files = lock(&self.0.files);
        removed.iter().try_for_each(|digest| self.drop_file(digest))
    }

    fn drop_file(&self, digest: &Digest) -> Result<()> {
        if self.known_anywhere(digest)? {
            return Ok(());
        }
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", &path),
            _ => Ok(()),
        }
    }

    fn known_anywhere(&self, digest: &Digest) -> Result<bool> {
        let view = self.0.metadata.view()?;
        for (ns, _) in view.list::<crate::metadata::Namespace>("")? {
            if view.find::<Content>(&ns, digest.as_str())?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Starts or resumes writing under a ref.
    ///
    /// # Errors
    /// `Unavailable` while another writer has the ref; `AlreadyExists` when the expected digest is
    /// there already, which also gives it to this namespace if only another had it.
    pub fn writer(&self, ns: &str, options: WriterOptions) -> Result<Writer> {
        Writer::open(self, ns, options)
    }

    /// Writes a small blob in one go; one that is there already is not an error.
    pub fn put(&self, ns: &str, bytes: &[u8], labels: Labels) -> Result<Digest> {
        self.put_as(ns, bytes, Digest::of(bytes), labels)
    }

    /// As [`Self::put`], under a digest that may be made another way.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is not that of `bytes`.
    pub fn put_as(&self, ns: &str, bytes: &[u8], digest: Digest, labels: Labels) -> Result<Digest> {
        // Two writers of the same blob do not wait for each other: the later one finds it there.
        let number = self.0.puts.fetch_add(1, Ordering::Relaxed);
        let options = WriterOptions {
            reference: format!("put-{}-{number}", std::process::id()),
            total: bytes.len() as u64,
            expected: Some(digest.clone()),
            labels: labels.clone(),
            ..WriterOptions::default()
        };
        let written = self.writer(ns, options).and_then(|mut writer| {
            writer.truncate()?;
            writer.write(bytes)?;
            writer.commit(bytes.len() as u64, Some(&digest), labels.clone())
        });
        match written {
            Ok(_) => {}
            Err(e) if e.kind == crate::Kind::AlreadyExists => {
                self.add_labels(ns, &digest, labels)?;
            }
            Err(e) => return Err(e),
        }
        Ok(digest)
    }

    /// Adds labels to a blob, without a write when it has them.
    pub fn add_labels(&self, ns: &str, digest: &Digest, labels: Labels) -> Result<()> {
        let has = self.info(ns, digest)?.labels;
        if labels.iter().any(|(k, v)| has.get(k) != Some(v)) {
            self.update(ns, digest, |l| l.extend(labels))?;
        }
        Ok(())
    }

    /// The unfinished writes of a namespace.
    pub fn statuses(&self, ns: &str) -> Result<Vec<IngestStatus>> {
        writer::statuses(self, ns)
    }

    /// Removes unfinished writes that nobody holds and nobody touched for `life`.
    pub(crate) fn expire(&self, life: std::time::Duration) -> Result<usize> {
        writer::expire(self, life)
    }

    /// One unfinished write.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn status(&self, ns: &str, reference: &str) -> Result<IngestStatus> {
        writer::status(self, ns, reference)
    }

    /// Gives up an unfinished write.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn abort(&self, ns: &str, reference: &str) -> Result<()> {
        writer::abort(self, ns, reference)
    }
}

pub(crate) fn update_labels(
    tx: &Change,
    ns: &str,
    digest: &Digest,
    change: impl FnOnce(&mut Labels),
) -> Result<Content> {
    tx.update(ns, digest.as_str(), |blob: &mut Content| {
        change(&mut blob.labels);
        blob.updated_at = SystemTime::now();
        identifier::validate_labels(&blob.labels)
    })
}
