//! One tar to one directory, as containerd's archive.Apply does it and in as few system calls as
//! that takes: an ordinary file is openat, write, futimens, close.

use super::{
    Applied, Stream, Whiteouts,
    confine::{Folder, Root, clean, names, split},
    tar::{Archive, Entry, Kind, Time},
};
use crate::{
    Error, Result,
    error::At,
    snapshots::{Usage, copy_xattrs, in_user_namespace},
};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsStr,
    fmt::Display,
    io::BufRead,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const BLOCK: u64 = 4096;

/// Extracts `stream` into `root` and reads it to its end.
pub(super) fn extract(stream: Stream, root: &Path, whiteouts: Whiteouts) -> Result<Applied> {
    let mut archive = Archive::new(stream);
    let mut extractor = Extractor::new(root, whiteouts)?;
    while let Some(entry) = archive.next()? {
        extractor.entry(&entry, &mut archive)?;
    }
    let mut stream = archive.into_source();
    loop {
        let length = stream.fill_buf().map_err(|e| Error::io("reading the layer", &e))?.len();
        if length == 0 {
            break;
        }
        stream.consume(length);
    }
    let (usage, implied) = extractor.finish()?;
    Ok(Applied { diff_id: stream.hasher.finish(), size: stream.size, usage, implied })
}

struct Extractor {
    root: Root,
    whiteouts: Whiteouts,
    userns: bool,
    /// Modes given to open and mkdir do not arrive as they are.
    explicit_modes: bool,
    uid: u32,
    gid: u32,
    /// Directory times are set last, because every entry in a directory changes them.
    directories: Vec<(Vec<u8>, Timestamps)>,
    /// What this layer made, kept only where an opaque marker has to spare it.
    made: HashSet<Vec<u8>>,
    usage: Usage,
}

/// The error of one entry, which names it.
fn failed(entry: &Entry, what: impl Display, errno: Errno) -> Error {
    let name = String::from_utf8_lossy(&entry.name);
    let error = Error::io(format_args!("entry {name:?}: {what}"), &errno.into());
    match errno {
        Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::NOENT => {
            Error { kind: crate::Kind::InvalidArgument, ..error }
        }
        _ => error,
    }
}

impl Extractor {
    fn new(root: &Path, whiteouts: Whiteouts) -> Result<Self> {
        // A umask is the process's, unless this thread has file system attributes of its own.
        let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).is_ok();
        if own {
            nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        }
        Ok(Self {
            root: Root::open(root).at("opening", root)?,
            whiteouts,
            userns: in_user_namespace(),
            explicit_modes: !own,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            directories: Vec::new(),
            made: HashSet::new(),
            usage: Usage::default(),
        })
    }

    fn entry(&mut self, entry: &Entry, archive: &mut Archive<Stream>) -> Result<()> {
        let path = clean(&entry.name);
        let (parent, name) = split(&path);
        if name.is_empty() || name.starts_with(WHITEOUT_META) && name != OPAQUE {
            // The root itself is the snapshotter's; the rest is what AUFS left in old layers.
            return Ok(());
        }
        let folder = self.root.make_folder(parent).map_err(|e| failed(entry, "parent", e))?;
        if name == OPAQUE {
            return self.opaque(entry, &folder, parent);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(entry, &folder, hidden);
        }
        match entry.kind {
            Kind::Directory => self.directory(entry, &folder, &path, name)?,
            Kind::File => self.file(entry, &folder, name, archive)?,
            Kind::HardLink => self.hard_link(entry, &folder, name)?,
            Kind::Symlink => self.node(entry, &folder, name, |folder| {
                rustix::fs::symlinkat(entry.link.as_slice(), folder, name)
            })?,
            Kind::Fifo => self.device(entry, &folder, name, FileType::Fifo)?,
            Kind::CharDevice => self.device(entry, &folder, name, FileType::CharacterDevice)?,
            Kind::BlockDevice => self.device(entry, &folder, name, FileType::BlockDevice)?,
            Kind::Other(flag) => {
                let name = String::from_utf8_lossy(&entry.name);
                let reason = format!("entry {name:?}: unhandled tar header type {flag}");
                return Err(Error::invalid(reason));
            }
        }
        if self.whiteouts == Whiteouts::Remove {
            self.made.insert(path);
        }
        Ok(())
    }

    /// Makes something, in place of whatever has the name.
    fn replacing<T>(
        &mut self,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        mut make: impl FnMut(&Folder) -> Result<T, Errno>,
    ) -> Result<T> {
        let made = match make(folder) {
            Err(Errno::EXIST) => {
                self.root.remove(folder, name).map_err(|e| failed(entry, "replacing", e))?;
                make(folder)
            }
            made => made,
        };
        made.map_err(|e| failed(entry, "creating", e))
    }

    fn directory(
        &mut self,
        entry: &Entry,
        folder: &Folder,
        path: &[u8],
        name: &[u8],
    ) -> Result<()> {
        let make =
            |folder: &Folder| rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(entry.mode));
        let mut fresh = true;
        let mut hidden = false;
        match make(folder) {
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| failed(entry, "reading", e))?;
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    fresh = false;
                } else {
                    hidden = is_whiteout(&there);
                    self.replacing(entry, folder, name, make)?;
                }
            }
            made => made.map_err(|e| failed(entry, "creating", e))?,
        }
        if hidden {
            self.mark_opaque(entry, &folder.path_of(name))?;
        }
        self.usage.inodes += u64::from(fresh);
        self.usage.size += if fresh { BLOCK } else { 0 };
        self.root.implied.remove(path);
        self.own(entry, folder, name, fresh)?;
        self.set_xattrs(entry, &Place::Name(folder.path_of(name)))?;
        if !fresh || self.explicit_modes || folder.setgid || entry.mode & 0o6000 != 0 {
            rustix::fs::chmodat(folder, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(|e| failed(entry, "chmod", e))?;
        }
        self.directories.push((path.to_owned(), times(entry)));
        Ok(())
    }

    fn file(
        &mut self,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        archive: &mut Archive<Stream>,
    ) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode);
        let fd: OwnedFd = self.replacing(entry, folder, name, |folder| {
            rustix::fs::openat(folder, name, flags, mode)
        })?;
        let written = write_data(entry, &fd, archive)?;
        self.usage.inodes += 1;
        self.usage.size += written.next_multiple_of(BLOCK);
        let owned = self.owned(entry, folder);
        if !owned {
            let owner = rustix::fs::fchown(&fd, Some(uid(entry)), Some(gid(entry)));
            self.tolerate(owner).map_err(|e| self.owner_error(entry, e))?;
        }
        // Writing and changing the owner clear set-id bits and file capabilities.
        self.set_xattrs(entry, &Place::File(&fd))?;
        if self.explicit_modes || folder.setgid || entry.mode & 0o6000 != 0 {
            rustix::fs::fchmod(&fd, mode).map_err(|e| failed(entry, "chmod", e))?;
        }
        rustix::fs::futimens(&fd, &times(entry)).map_err(|e| failed(entry, "setting times", e))
    }

    fn hard_link(&mut self, entry: &Entry, folder: &Folder, name: &[u8]) -> Result<()> {
        let target = clean(&entry.link);
        let (parent, base) = split(&target);
        let link = || format!("hard link to {:?}", String::from_utf8_lossy(&entry.link));
        let from = self.root.folder(parent).map_err(|e| failed(entry, link(), e))?;
        let make = || rustix::fs::linkat(&from, base, folder, name, AtFlags::empty());
        let made = match make() {
            Err(Errno::EXIST) => {
                let stat = |folder: &Folder, name: &[u8]| {
                    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                        .map(|s| (s.st_dev, s.st_ino))
                };
                if stat(&from, base) == stat(folder, name) {
                    return Ok(());
                }
                self.root.remove(folder, name).map_err(|e| failed(entry, "replacing", e))?;
                make()
            }
            made => made,
        };
        made.map_err(|e| failed(entry, link(), e))
    }

    /// A symbolic link, fifo or device.
    fn node(
        &mut self,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        make: impl FnMut(&Folder) -> Result<(), Errno>,
    ) -> Result<()> {
        self.replacing(entry, folder, name, make)?;
        self.usage.inodes += 1;
        self.own(entry, folder, name, true)?;
        self.set_xattrs(entry, &Place::Name(folder.path_of(name)))?;
        let special = entry.kind != Kind::Symlink;
        if special && (self.explicit_modes || folder.setgid || entry.mode & 0o6000 != 0) {
            rustix::fs::chmodat(folder, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(|e| failed(entry, "chmod", e))?;
        }
        rustix::fs::utimensat(folder, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed(entry, "setting times", e))
    }

    fn device(
        &mut self,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        kind: FileType,
    ) -> Result<()> {
        if self.userns && kind != FileType::Fifo {
            // No user namespace may make devices; containerd leaves them out there.
            return Ok(());
        }
        let (major, minor) = if kind == FileType::Fifo { (0, 0) } else { entry.device };
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(entry.mode);
        self.node(entry, folder, name, |folder| {
            rustix::fs::mknodat(folder, name, kind, mode, device)
        })
    }

    /// Whether a new entry of `folder` belongs to whom the archive says without being told.
    fn owned(&self, entry: &Entry, folder: &Folder) -> bool {
        !folder.setgid && entry.uid == self.uid && entry.gid == self.gid
    }

    fn own(&self, entry: &Entry, folder: &Folder, name: &[u8], fresh: bool) -> Result<()> {
        if fresh && self.owned(entry, folder) {
            return Ok(());
        }
        let (uid, gid) = (Some(uid(entry)), Some(gid(entry)));
        let owner = rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
        self.tolerate(owner).map_err(|e| self.owner_error(entry, e))
    }

    fn owner_error(&self, entry: &Entry, errno: Errno) -> Error {
        failed(entry, format_args!("lchown for UID {}, GID {}", entry.uid, entry.gid), errno)
    }

    /// In a user namespace, ids that are not mapped and attributes that are the host's do not count.
    fn tolerate(&self, done: Result<(), Errno>) -> Result<(), Errno> {
        match done {
            Err(Errno::PERM | Errno::INVAL) if self.userns => Ok(()),
            done => done,
        }
    }

    fn set_xattrs(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        for (name, value) in &entry.xattrs {
            // Overlayfs's own attributes in a layer could only forge its bookkeeping.
            if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
                continue;
            }
            self.explicit_modes |= name == b"system.posix_acl_default";
            let done = match place {
                Place::File(fd) => {
                    rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty())
                }
                Place::Name(path) => rustix::fs::lsetxattr(
                    path.as_slice(),
                    name.as_slice(),
                    value,
                    XattrFlags::empty(),
                ),
            };
            match self.tolerate(done) {
                Err(Errno::OPNOTSUPP) => {
                    tracing::warn!(name = ?OsStr::from_bytes(name), "ignored xattr in archive");
                }
                done => done.map_err(|e| {
                    failed(entry, format_args!("xattr {}", String::from_utf8_lossy(name)), e)
                })?,
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, folder: &Folder, hidden: &[u8]) -> Result<()> {
        if matches!(hidden, b"" | b"." | b"..") {
            let name = String::from_utf8_lossy(&entry.name);
            return Err(Error::invalid(format_args!(
                "entry {name:?}: invalid whiteout name: invalid archive"
            )));
        }
        if self.whiteouts == Whiteouts::Remove {
            return self.root.remove(folder, hidden).map_err(|e| failed(entry, "removing", e));
        }
        let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
        match rustix::fs::mknodat(folder, hidden, kind, mode, 0) {
            Ok(()) => {}
            // The layer has its own: that hides what is below, and a directory must not merge.
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(folder, hidden, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| failed(entry, "reading", e))?;
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    self.mark_opaque(entry, &folder.path_of(hidden))?;
                }
                return Ok(());
            }
            Err(Errno::PERM) if self.userns => self.xattr_whiteout(entry, folder, hidden)?,
            Err(e) => return Err(failed(entry, "whiteout", e)),
        }
        self.usage.inodes += 1;
        Ok(())
    }

    /// overlayfs's other whiteout: an empty file with an attribute, in a directory marked to have such.
    fn xattr_whiteout(&self, entry: &Entry, folder: &Folder, hidden: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mark = |path: &[u8], name: &str, value: &[u8]| {
            rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        };
        rustix::fs::openat(folder, hidden, flags, Mode::empty())
            .and_then(|_| mark(&folder.path_of(hidden), "user.overlay.whiteout", b""))
            .and_then(|()| mark(&folder.path_of(b"."), "user.overlay.opaque", b"x"))
            .map_err(|e| failed(entry, "whiteout", e))
    }

    fn opaque(&mut self, entry: &Entry, folder: &Folder, path: &[u8]) -> Result<()> {
        if self.whiteouts == Whiteouts::Overlay {
            return self.mark_opaque(entry, &folder.path_of(b"."));
        }
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        for child in names(folder, b".").map_err(|e| failed(entry, "listing", e))? {
            let child_path = [prefix.as_slice(), &child].concat();
            let inside = [child_path.as_slice(), b"/"].concat();
            let spared = |made: &Vec<u8>| *made == child_path || made.starts_with(&inside);
            if !self.made.iter().any(spared) {
                self.root.remove(folder, &child).map_err(|e| failed(entry, "removing", e))?;
            }
        }
        Ok(())
    }

    fn mark_opaque(&self, entry: &Entry, path: &[u8]) -> Result<()> {
        let name = if self.userns { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
        rustix::fs::lsetxattr(path, name, b"y", XattrFlags::empty())
            .map_err(|e| failed(entry, "marking opaque", e))
    }

    fn finish(self) -> Result<(Usage, BTreeSet<Vec<u8>>)> {
        for (path, times) in self.directories.iter().rev() {
            let set = self
                .root
                .itself(path)
                .and_then(|fd| rustix::fs::utimensat(&fd, ".", times, AtFlags::SYMLINK_NOFOLLOW));
            match set {
                // A later entry put something else there.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                set => set.at("setting times of", PathBuf::from(OsStr::from_bytes(path)))?,
            }
        }
        Ok((self.usage, self.root.implied))
    }
}

/// Where attributes go.
enum Place<'a> {
    File(&'a OwnedFd),
    Name(Vec<u8>),
}

fn uid(entry: &Entry) -> Uid {
    Uid::from_raw(entry.uid)
}

fn gid(entry: &Entry) -> Gid {
    Gid::from_raw(entry.gid)
}

fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Access time is at least modification time, and nothing is before 1970, as containerd has it.
fn times(entry: &Entry) -> Timestamps {
    let bound = |(seconds, nanos): Time| if seconds < 0 { (0, 0) } else { (seconds, nanos) };
    let spec = |(tv_sec, nanos): Time| Timespec { tv_sec, tv_nsec: i64::from(nanos) };
    let modified = bound(entry.mtime);
    let accessed = bound(entry.atime.unwrap_or(modified)).max(modified);
    Timestamps { last_access: spec(accessed), last_modification: spec(modified) }
}

/// Writes an entry's data, holes left as holes, and returns the bytes written.
fn write_data(entry: &Entry, fd: &OwnedFd, archive: &mut Archive<Stream>) -> Result<u64> {
    let whole = [(0, entry.size)];
    let fragments = entry.fragments.as_deref().unwrap_or(&whole);
    let write_error = |e| failed(entry, "writing", e);
    let mut written = 0;
    for (offset, length) in fragments {
        if entry.fragments.is_some() {
            rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(*offset)).map_err(write_error)?;
        }
        let mut left = *length;
        while left > 0 {
            let chunk = archive.data()?;
            if chunk.is_empty() {
                return Err(Error::data_loss("archive/tar: unexpected EOF"));
            }
            let most = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = match rustix::io::write(fd, &chunk[..most]) {
                Err(Errno::INTR) => 0,
                n => n.map_err(write_error)?,
            };
            archive.consume(n);
            left -= n as u64;
        }
        written += length;
    }
    if entry.fragments.is_some() {
        rustix::fs::ftruncate(fd, entry.size).map_err(write_error)?;
    }
    Ok(written)
}

pub(super) fn inherit(
    root: &Path,
    implied: &BTreeSet<Vec<u8>>,
    lower: &[impl AsRef<Path>],
) -> Result<()> {
    if implied.is_empty() {
        return Ok(());
    }
    let target = Root::open(root).at("opening", root)?;
    let lower: Vec<Root> = lower
        .iter()
        .map(|dir| Root::open(dir.as_ref()).at("opening", dir))
        .collect::<Result<_>>()?;
    for path in implied {
        let Ok(to) = target.itself(path) else { continue };
        for below in &lower {
            let Ok(from) = below.itself(path) else { continue };
            let stat = rustix::fs::fstat(&from).at("reading", root)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                copy_folder(&from, &to, &stat)
                    .map_err(|e| e.during(String::from_utf8_lossy(path)))?;
            }
            // Whatever is topmost decides, also when it is a whiteout.
            break;
        }
    }
    Ok(())
}

fn copy_folder(from: &OwnedFd, to: &OwnedFd, stat: &rustix::fs::Stat) -> Result<()> {
    let path = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()));
    let what = path(to);
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to.as_fd(), ".", Some(uid), Some(gid), AtFlags::empty())
        .at("owning", &what)?;
    copy_xattrs(&path(from), &path(to))?;
    rustix::fs::chmodat(
        to.as_fd(),
        ".",
        Mode::from_raw_mode(stat.st_mode & 0o7777),
        AtFlags::empty(),
    )
    .at("setting the mode of", &what)?;
    let spec = |tv_sec, nanos| Timespec { tv_sec, tv_nsec: nanos };
    let times = Timestamps {
        last_access: spec(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: spec(stat.st_mtime, stat.st_mtime_nsec as _),
    };
    rustix::fs::utimensat(to.as_fd(), ".", &times, AtFlags::empty()).at("setting times of", &what)
}
