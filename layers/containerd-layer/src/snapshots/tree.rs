//! Walking and copying whole directories.

use crate::{Error, Result, error::At};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

/// What a directory takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of allocated blocks, hard links counted once.
    pub size: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Measures `root` and everything in it.
pub(super) fn usage(root: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = match fs::symlink_metadata(&path) {
            // A running container may remove what was just listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            meta => meta.at("reading", &path)?,
        };
        if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        usage.size += meta.blocks() * 512;
        usage.inodes += 1;
        if meta.is_dir() {
            let entries = match fs::read_dir(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.at("listing", &path)?,
            };
            for entry in entries {
                pending.push(entry.at("listing", &path)?.path());
            }
        }
    }
    Ok(usage)
}

/// Copies the contents and attributes of the directory `from` into the directory `to`.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    copy_dir(from, to, &mut HashMap::new())
}

type Links = HashMap<(u64, u64), PathBuf>;

fn copy_dir(from: &Path, to: &Path, links: &mut Links) -> Result<()> {
    for entry in fs::read_dir(from).at("listing", from)? {
        let entry = entry.at("listing", from)?;
        copy_entry(&entry.path(), &to.join(entry.file_name()), links)?;
    }
    let meta = fs::symlink_metadata(from).at("reading", from)?;
    copy_attributes(from, to, &meta)
}

fn copy_entry(from: &Path, to: &Path, links: &mut Links) -> Result<()> {
    let meta = fs::symlink_metadata(from).at("reading", from)?;
    if meta.is_dir() {
        fs::create_dir(to).at("creating", to)?;
        return copy_dir(from, to, links);
    }
    if meta.nlink() > 1 {
        if let Some(first) = links.get(&(meta.dev(), meta.ino())) {
            return fs::hard_link(first, to).at("linking", to);
        }
        links.insert((meta.dev(), meta.ino()), to.to_owned());
    }
    let kind = meta.file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(from).at("reading", from)?, to).at("linking", to)?;
    } else if kind.is_file() {
        fs::copy(from, to).at("copying", from)?;
    } else {
        let kind = if kind.is_char_device() {
            FileType::CharacterDevice
        } else if kind.is_block_device() {
            FileType::BlockDevice
        } else if kind.is_fifo() {
            FileType::Fifo
        } else {
            // A socket is worth nothing without the process that listens on it.
            return Ok(());
        };
        rustix::fs::mknodat(CWD, to, kind, Mode::empty(), meta.rdev()).at("creating", to)?;
    }
    copy_attributes(from, to, &meta)
}

fn copy_attributes(from: &Path, to: &Path, meta: &fs::Metadata) -> Result<()> {
    lchown(to, Some(meta.uid()), Some(meta.gid())).at("owning", to)?;
    copy_xattrs(from, to)?;
    if !meta.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))
            .at("setting the mode of", to)?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: meta.atime(), tv_nsec: meta.atime_nsec() },
        last_modification: Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() },
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).at("setting times of", to)
}

/// Copies extended attributes but overlayfs's own; a file system without them has none to lose.
pub(crate) fn copy_xattrs(from: &Path, to: &Path) -> Result<()> {
    for (name, value) in xattrs(from)? {
        let text = name.to_bytes();
        if text.starts_with(b"trusted.overlay.") || text.starts_with(b"user.overlay.") {
            continue;
        }
        match rustix::fs::lsetxattr(to, name.as_c_str(), &value, XattrFlags::empty()) {
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            set => set.at("setting an extended attribute of", to)?,
        }
    }
    Ok(())
}

/// All extended attributes of `path`, itself and not what it links to.
pub(crate) fn xattrs(path: &Path) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut names = vec![0; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        length => length.at("listing extended attributes of", path)?,
    };
    let mut attributes = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = CString::new(name).map_err(|e| Error::internal(e.to_string()))?;
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name.as_c_str(), &mut value[..])
            .at("reading an extended attribute of", path)?;
        value.truncate(length);
        attributes.push((name, value));
    }
    Ok(attributes)
}
