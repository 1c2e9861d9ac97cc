//! Writing a blob: `ingest/<id>/{data,ref,total}`, resumable by its ref until it is committed.

use super::{ContentStore, lock};
use crate::{
    Digest, Error, Result,
    digest::{Algorithm, Hasher},
    error::At,
    metadata::{Content, Labels, identifier},
};
use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// What is known about a blob before it is written.
#[derive(Debug, Clone, Default)]
pub struct WriterOptions {
    /// The name by which the write is found again.
    pub reference: String,
    /// The expected size in bytes; 0 is unknown.
    pub total: u64,
    /// The expected digest.
    pub expected: Option<Digest>,
    /// Labels given to the blob if it turns out to be here already under another namespace.
    pub labels: Labels,
    /// The lease that keeps the result.
    pub lease: Option<String>,
}

/// An unfinished write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestStatus {
    /// Its name.
    pub reference: String,
    /// Bytes written.
    pub offset: u64,
    /// Bytes expected; 0 is unknown.
    pub total: u64,
    /// When it was started.
    pub started_at: SystemTime,
    /// When it was last written to.
    pub updated_at: SystemTime,
}

/// A blob being written. Dropping it keeps what was written, to be resumed under the same ref.
#[derive(Debug)]
pub struct Writer {
    store: ContentStore,
    ns: String,
    key: String,
    dir: PathBuf,
    file: File,
    hasher: Hasher,
    offset: u64,
    options: WriterOptions,
}

fn key(ns: &str, reference: &str) -> String {
    format!("{ns}/{reference}")
}

fn dir(store: &ContentStore, key: &str) -> PathBuf {
    store.0.ingest.join(Digest::of(key.as_bytes()).hex())
}

impl Writer {
    pub(super) fn open(store: &ContentStore, ns: &str, options: WriterOptions) -> Result<Self> {
        if options.reference.is_empty() {
            return Err(Error::invalid("ref must not be empty"));
        }
        if let Some(digest) = &options.expected {
            share(store, ns, digest, &options)?;
        }
        let key = key(ns, &options.reference);
        claim(store, &key, &options.reference)?;
        let dir = dir(store, &key);
        let algorithm = options.expected.as_ref().map(Digest::algorithm).unwrap_or_default();
        let opened = open_data(&dir, &key, options.total, algorithm);
        let (file, hasher, offset) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                lock(&store.0.writing).remove(&key);
                return Err(e);
            }
        };
        let store = store.clone();
        Ok(Self { store, ns: ns.to_owned(), key, dir, file, hasher, offset, options })
    }

    /// How far it is.
    pub fn status(&self) -> Result<IngestStatus> {
        read_status(&self.dir, &self.options.reference)
    }

    /// The name by which this write is found again.
    pub fn reference(&self) -> &str {
        &self.options.reference
    }

    /// Bytes written so far, including those of an earlier life.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The digest of what was written so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// The bytes written so far, from the start.
    pub fn written(&self) -> Result<File> {
        let path = self.dir.join("data");
        File::open(&path).at("opening", &path)
    }

    /// Appends.
    ///
    /// # Errors
    /// `ResourceExhausted` on a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| Error::io(format_args!("writing {}", self.options.reference), &e))?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Starts again from nothing.
    pub fn truncate(&mut self) -> Result<()> {
        if self.offset > 0 {
            self.file.set_len(0).at("truncating", &self.dir)?;
            self.file.rewind().at("truncating", &self.dir)?;
            self.hasher = Hasher::new(self.hasher.algorithm());
            self.offset = 0;
        }
        Ok(())
    }

    /// Makes what was written a blob: on disk for good when this returns.
    ///
    /// # Errors
    /// `FailedPrecondition` for another size or digest than expected (the write then can be resumed
    /// or aborted), `AlreadyExists` when this namespace has the blob.
    pub fn commit(
        mut self,
        size: u64,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest> {
        identifier::validate_labels(&labels)?;
        let expected = expected.or(self.options.expected.as_ref()).cloned();
        let expected = expected.as_ref();
        if size > 0 && size != self.offset {
            return Err(Error::precondition(format_args!(
                "{:?} failed size validation: {} != {size}",
                self.options.reference, self.offset
            )));
        }
        // What it is to be called may only now be known.
        if let Some(expected) = expected
            && expected.algorithm() != self.hasher.algorithm()
        {
            let mut file = self.written()?;
            self.hasher = hash(&mut file, expected.algorithm(), &self.dir)?.0;
        }
        let digest = self.digest();
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(Error::precondition(format_args!(
                "unexpected commit digest {digest}, expected {expected}"
            )));
        }
        self.file.sync_data().at("syncing", &self.dir)?;
        let inner = &self.store.0;
        let _files = lock(&inner.files);
        let path = self.store.path(&digest);
        if path.try_exists().at("looking for", &path)? {
            fs::remove_file(self.dir.join("data")).at("removing", &self.dir)?;
        } else {
            let data = self.dir.join("data");
            fs::set_permissions(&data, Permissions::from_mode(0o444)).at("sealing", &data)?;
            fs::rename(&data, &path).at("renaming to", &path)?;
            let folder = path.parent().unwrap_or(&inner.blobs);
            File::open(folder).and_then(|d| d.sync_all()).at("syncing", folder)?;
        }
        let recorded = record(&self.store, &self.ns, &digest, self.offset, labels, &self.options);
        fs::remove_dir_all(&self.dir).at("removing", &self.dir)?;
        recorded?;
        Ok(digest)
    }

    /// Gives up and removes what was written.
    pub fn abort(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).at("removing", &self.dir)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.store.0.writing).remove(&self.key);
    }
}

/// Gives `ns` a record of a blob whose file is in place.
fn record(
    store: &ContentStore,
    ns: &str,
    digest: &Digest,
    size: u64,
    labels: Labels,
    options: &WriterOptions,
) -> Result<()> {
    let now = SystemTime::now();
    let blob = Content { digest: digest.clone(), size, labels, created_at: now, updated_at: now };
    store.0.metadata.change(|tx| {
        tx.lease_resource(ns, options.lease.as_deref(), "content", digest.as_str())?;
        if tx.find::<Content>(ns, digest.as_str())?.is_some() {
            return Err(Error::already_exists(format_args!("content {digest}")));
        }
        tx.put(ns, digest.as_str(), &blob)
    })
}

/// Answers a writer for a blob that is here: `AlreadyExists`, after sharing it with this namespace.
fn share(store: &ContentStore, ns: &str, digest: &Digest, options: &WriterOptions) -> Result<()> {
    let exists = || Err(Error::already_exists(format_args!("content {digest}")));
    if store.has(ns, digest)? {
        if options.lease.is_some() {
            store.0.metadata.change(|tx| {
                tx.lease_resource(ns, options.lease.as_deref(), "content", digest.as_str())
            })?;
        }
        return exists();
    }
    let _files = lock(&store.0.files);
    let path = store.path(digest);
    match fs::metadata(&path) {
        Ok(file) => {
            record(store, ns, digest, file.len(), options.labels.clone(), options)?;
            exists()
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).at("looking for", &path),
    }
}

fn claim(store: &ContentStore, key: &str, reference: &str) -> Result<()> {
    let now = SystemTime::now();
    let mut writing = lock(&store.0.writing);
    if let Some(since) = writing.get(key) {
        let held = now.duration_since(*since).unwrap_or_default();
        return Err(Error::unavailable(format_args!("ref {reference} locked for {held:?}")));
    }
    writing.insert(key.to_owned(), now);
    Ok(())
}

/// Opens `data` at its end, with what is there hashed.
fn open_data(
    dir: &Path,
    key: &str,
    total: u64,
    algorithm: Algorithm,
) -> Result<(File, Hasher, u64)> {
    let data = dir.join("data");
    if !dir.join("ref").exists() {
        fs::create_dir_all(dir).at("creating", dir)?;
        fs::write(dir.join("ref"), key).at("writing", dir.join("ref"))?;
    }
    if total > 0 {
        fs::write(dir.join("total"), total.to_string()).at("writing", dir.join("total"))?;
    }
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&data)
        .at("opening", &data)?;
    let (hasher, offset) = hash(&mut file, algorithm, &data)?;
    Ok((file, hasher, offset))
}

/// Hashes a file to its end, and answers how far that is.
fn hash(file: &mut File, algorithm: Algorithm, name: &Path) -> Result<(Hasher, u64)> {
    let (mut hasher, mut offset) = (Hasher::new(algorithm), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).at("reading", name)? {
            0 => return Ok((hasher, offset)),
            n => {
                hasher.update(&buffer[..n]);
                offset += n as u64;
            }
        }
    }
}

fn read_status(dir: &Path, reference: &str) -> Result<IngestStatus> {
    let data = fs::metadata(dir.join("data")).at("reading", dir)?;
    let started = fs::metadata(dir.join("ref")).and_then(|m| m.modified()).at("reading", dir)?;
    let total = fs::read_to_string(dir.join("total")).ok().and_then(|t| t.parse().ok());
    Ok(IngestStatus {
        reference: reference.to_owned(),
        offset: data.len(),
        total: total.unwrap_or(0),
        started_at: started,
        updated_at: data.modified().at("reading", dir)?,
    })
}

pub(super) fn statuses(store: &ContentStore, ns: &str) -> Result<Vec<IngestStatus>> {
    let ingest = &store.0.ingest;
    let prefix = key(ns, "");
    let mut statuses = Vec::new();
    for entry in fs::read_dir(ingest).at("listing", ingest)? {
        let dir = entry.at("listing", ingest)?.path();
        // A write that ends meanwhile is simply not listed.
        let Ok(name) = fs::read_to_string(dir.join("ref")) else { continue };
        if let Some(reference) = name.strip_prefix(&prefix)
            && let Ok(status) = read_status(&dir, reference)
        {
            statuses.push(status);
        }
    }
    statuses.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(statuses)
}

pub(super) fn status(store: &ContentStore, ns: &str, reference: &str) -> Result<IngestStatus> {
    let dir = dir(store, &key(ns, reference));
    if !dir.join("data").exists() {
        return Err(Error::not_found(format_args!("ingest ref {reference:?}")));
    }
    read_status(&dir, reference)
}

pub(super) fn abort(store: &ContentStore, ns: &str, reference: &str) -> Result<()> {
    let dir = dir(store, &key(ns, reference));
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(Error::not_found(format_args!("ingest ref {reference:?}")))
        }
        done => done.at("removing", &dir),
    }
}

pub(super) fn expire(store: &ContentStore, life: Duration) -> Result<usize> {
    let ingest = &store.0.ingest;
    let mut expired = 0;
    for entry in fs::read_dir(ingest).at("listing", ingest)? {
        let dir = entry.at("listing", ingest)?.path();
        let key = fs::read_to_string(dir.join("ref")).unwrap_or_default();
        let touched = fs::metadata(dir.join("data")).or_else(|_| fs::metadata(&dir));
        let Ok(touched) = touched.and_then(|m| m.modified()) else { continue };
        // The lock is held so that nobody begins to resume what is being removed.
        let writing = lock(&store.0.writing);
        if !writing.contains_key(&key) && touched.elapsed().is_ok_and(|age| age > life) {
            fs::remove_dir_all(&dir).at("removing", &dir)?;
            expired += 1;
        }
    }
    Ok(expired)
}
