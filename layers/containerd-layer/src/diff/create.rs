//! A directory that overlayfs wrote to, as a layer: its files, and its markers turned back into
//! whiteouts.

use crate::{Digest, Error, Result, digest::Hasher, error::At, snapshots::xattrs};
use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr, OsString},
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};
use tar::{Builder, EntryType, Header};

/// Writes the layer in `upper`, the directory of an overlay snapshot, as an uncompressed tar, and
/// answers its digest, the diff id. Entries stand in the order of their names.
///
/// # Errors
/// When a file cannot be read or `layer` does not take the bytes.
pub fn create(upper: &Path, layer: impl Write) -> Result<Digest> {
    let mut archive = Archive::new(upper, layer, true);
    archive.directory(Path::new(""))?;
    archive.finish()
}

pub(super) struct Hashing<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A layer being written of the files below `upper`.
pub(super) struct Archive<'a, W: Write> {
    upper: &'a Path,
    builder: Builder<Hashing<W>>,
    /// The first name of each inode that has several.
    links: HashMap<(u64, u64), PathBuf>,
    /// Whether times have fractions of a second.
    exact: bool,
}

impl<'a, W: Write> Archive<'a, W> {
    pub(super) fn new(upper: &'a Path, layer: W, exact: bool) -> Self {
        let sink = Hashing { inner: layer, hasher: Hasher::default() };
        Archive { upper, builder: Builder::new(sink), links: HashMap::new(), exact }
    }

    /// Ends the layer, and answers its digest.
    pub(super) fn finish(self) -> Result<Digest> {
        let sink = self.builder.into_inner().map_err(|e| Error::io("writing the layer", &e))?;
        Ok(sink.hasher.finish())
    }

    fn directory(&mut self, name: &Path) -> Result<()> {
        for child in children(&self.upper.join(name))? {
            self.entry(&name.join(child))?;
        }
        Ok(())
    }

    /// Adds what is called `name`, with everything in it.
    pub(super) fn entry(&mut self, name: &Path) -> Result<()> {
        let path = self.upper.join(name);
        let meta = fs::symlink_metadata(&path).at("reading", &path)?;
        let attributes = xattrs(&path)?;
        let marked = |name: &str| {
            let names = [format!("trusted.overlay.{name}"), format!("user.overlay.{name}")];
            let found =
                attributes.iter().find(|(n, _)| names.iter().any(|m| m.as_bytes() == n.to_bytes()));
            found.map(|(_, value)| value.as_slice())
        };
        if meta.file_type().is_char_device() && meta.rdev() == 0 || marked("whiteout").is_some() {
            return self.whiteout(name);
        }
        if meta.file_type().is_socket() {
            // No archive can hold one.
            return Ok(());
        }
        let opaque = marked("opaque") == Some(b"y");
        self.alone(name, &path, &meta, &attributes)?;
        if meta.is_dir() {
            if opaque {
                self.marker(&name.join(".wh..wh..opq"))?;
            }
            self.directory(name)?;
        }
        Ok(())
    }

    /// Adds what is called `name`, and nothing that is in it.
    pub(super) fn alone(
        &mut self,
        name: &Path,
        path: &Path,
        meta: &Metadata,
        attributes: &[(CString, Vec<u8>)],
    ) -> Result<()> {
        let kept = attributes.iter().filter(|(attribute, _)| !is_overlays(attribute));
        let pax = kept.map(|(attribute, value)| {
            (format!("SCHILY.xattr.{}", attribute.to_string_lossy()), value.clone())
        });
        self.append(name, path, meta, pax.collect())
    }

    /// Adds that there is nothing called `name` any more.
    pub(super) fn whiteout(&mut self, name: &Path) -> Result<()> {
        self.marker(&name.with_file_name(prefixed(name.file_name().unwrap_or_default())))
    }

    fn append(
        &mut self,
        name: &Path,
        path: &Path,
        meta: &Metadata,
        mut pax: Vec<(String, Vec<u8>)>,
    ) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_mode(meta.mode() & 0o7777);
        header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
        header.set_size(0);
        // What ustar's fields cannot hold stands in pax records before the header.
        if self.exact && meta.mtime_nsec() != 0 {
            let mtime = format!("{}.{:09}", meta.mtime().max(0), meta.mtime_nsec());
            pax.push(("mtime".to_owned(), mtime.into_bytes()));
        }
        header.set_uid(u64::from(meta.uid()) & 0o7_777_777);
        header.set_gid(u64::from(meta.gid()) & 0o7_777_777);
        for (key, id) in [("uid", meta.uid()), ("gid", meta.gid())] {
            if id > 0o7_777_777 {
                pax.push((key.to_owned(), id.to_string().into_bytes()));
            }
        }
        let link = self.link(name, path, meta)?;
        let kind = meta.file_type();
        header.set_entry_type(match &link {
            Some(_) if !kind.is_symlink() => EntryType::Link,
            Some(_) => EntryType::Symlink,
            None if kind.is_dir() => EntryType::Directory,
            None if kind.is_fifo() => EntryType::Fifo,
            None if kind.is_char_device() => EntryType::Char,
            None if kind.is_block_device() => EntryType::Block,
            None => EntryType::Regular,
        });
        let writing = |e: io::Error| Error::io(format_args!("archiving {}", path.display()), &e);
        if kind.is_char_device() || kind.is_block_device() {
            header.set_device_major(rustix::fs::major(meta.rdev())).map_err(writing)?;
            header.set_device_minor(rustix::fs::minor(meta.rdev())).map_err(writing)?;
        }
        let mut whole = name.as_os_str().as_bytes().to_vec();
        if kind.is_dir() {
            whole.push(b'/');
        }
        if whole.len() > 100 {
            pax.push(("path".to_owned(), whole.clone()));
        }
        let target = link.map(PathBuf::into_os_string).map(OsString::into_vec).unwrap_or_default();
        if target.len() > 100 {
            pax.push(("linkpath".to_owned(), target.clone()));
        }
        let old = header.as_old_mut();
        fill(&mut old.name, &whole);
        fill(&mut old.linkname, &target);
        if !pax.is_empty() {
            let records = pax.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.builder.append_pax_extensions(records).map_err(writing)?;
        }
        if header.entry_type() == EntryType::Regular {
            header.set_size(meta.len());
            header.set_cksum();
            // A file that changes meanwhile must not shift what follows it.
            let file = File::open(path).at("opening", path)?.chain(io::repeat(0));
            return self.builder.append(&header, file.take(meta.len())).map_err(writing);
        }
        header.set_cksum();
        self.builder.append(&header, io::empty()).map_err(writing)
    }

    /// Where a link points: a symbolic one, or a further name of a file written before.
    fn link(&mut self, name: &Path, path: &Path, meta: &Metadata) -> Result<Option<PathBuf>> {
        if meta.is_symlink() {
            return fs::read_link(path).at("reading", path).map(Some);
        }
        if meta.is_dir() || meta.nlink() == 1 {
            return Ok(None);
        }
        let inode = (meta.dev(), meta.ino());
        if let Some(first) = self.links.get(&inode) {
            return Ok(Some(first.clone()));
        }
        self.links.insert(inode, name.to_owned());
        Ok(None)
    }

    /// An empty file whose name is its meaning.
    fn marker(&mut self, name: &Path) -> Result<()> {
        let writing = |e: io::Error| Error::io(format_args!("archiving {}", name.display()), &e);
        let whole = name.as_os_str().as_bytes();
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_size(0);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        fill(&mut header.as_old_mut().name, whole);
        header.set_cksum();
        if whole.len() > 100 {
            self.builder.append_pax_extensions([("path", whole)]).map_err(writing)?;
        }
        self.builder.append(&header, io::empty()).map_err(writing)
    }
}

/// The names in a directory, in order.
pub(super) fn children(dir: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(dir).at("listing", dir)?;
    let names = entries.map(|entry| entry.at("listing", dir).map(|entry| entry.file_name()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Whether an extended attribute is overlayfs's own and no part of the files.
pub(super) fn is_overlays(attribute: &CStr) -> bool {
    let name = attribute.to_bytes();
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// As much of a name as its field holds; the whole one is in a pax record when that is not all.
fn fill(field: &mut [u8; 100], name: &[u8]) {
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
}

fn prefixed(name: &OsStr) -> OsString {
    let mut whiteout = OsString::from(".wh.");
    whiteout.push(name);
    whiteout
}
