//! Names in an archive are names in the target directory, whatever they say: `..` stops at the
//! root, absolute names and links start there, and the kernel (openat2, `RESOLVE_IN_ROOT`) follows
//! links under the same rule. containerd resolves the same way, by hand.

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    collections::{BTreeSet, VecDeque},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    rc::Rc,
};

/// The most symbolic links followed for one name; the kernel's limit.
const MOST_LINKS: usize = 40;

/// `name` without `.`, `..` and doubled or leading slashes; empty is the root itself.
pub(crate) fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Parent and last component of a cleaned name.
pub(crate) fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (b"", name),
    }
}

/// An open directory of the target.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    /// New entries take its group, and new directories this very bit.
    pub(crate) setgid: bool,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Folder {
    /// A path to `name` in this directory that does not follow links on the way.
    pub(crate) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        [format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).as_bytes(), name].concat()
    }
}

/// The target directory.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    /// The folder used last: entries of one directory mostly stand together.
    last: Option<(Vec<u8>, Rc<Folder>)>,
    /// Directories made only because something is in them.
    pub(crate) implied: BTreeSet<Vec<u8>>,
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const ITSELF: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// openat2 within `root`; a concurrent rename anywhere can make it ask for another try.
fn open_in(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    loop {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

impl Root {
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd, last: None, implied: BTreeSet::new() })
    }

    /// The directory `path` (cleaned), which must exist.
    pub(crate) fn folder(&mut self, path: &[u8]) -> Result<Rc<Folder>, Errno> {
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(folder));
        }
        let fd = open_in(&self.fd, path, FOLDER)?;
        let setgid = rustix::fs::fstat(&fd)?.st_mode & Mode::SGID.as_raw_mode() != 0;
        let folder = Rc::new(Folder { fd, setgid });
        self.last = Some((path.to_owned(), Rc::clone(&folder)));
        Ok(folder)
    }

    /// The directory `path` (cleaned), made with mode 0755 where it is missing.
    pub(crate) fn make_folder(&mut self, path: &[u8]) -> Result<Rc<Folder>, Errno> {
        match self.folder(path) {
            Err(Errno::NOENT) => {
                let made = self.make(path)?;
                self.folder(&made)
            }
            done => done,
        }
    }

    /// Walks `path` by hand, because a link may lead to where nothing is yet.
    fn make(&mut self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let split = |path: &[u8]| -> VecDeque<Vec<u8>> {
            path.split(|b| *b == b'/').map(<[u8]>::to_owned).collect()
        };
        let mut pending = split(path);
        let mut here: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(part) = pending.pop_front() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    here.pop();
                    continue;
                }
                _ => here.push(part),
            }
            let whole = here.join(&b'/');
            match open_in(&self.fd, &whole, ITSELF) {
                Err(Errno::NOENT) => {
                    let (parent, name) = self::split(&whole);
                    let parent = open_in(&self.fd, parent, FOLDER)?;
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                    self.implied.insert(whole);
                }
                Err(e) => return Err(e),
                Ok(fd) => match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
                    FileType::Directory => {}
                    FileType::Symlink => {
                        links += 1;
                        if links > MOST_LINKS {
                            return Err(Errno::LOOP);
                        }
                        let target = rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes();
                        here.pop();
                        if target.starts_with(b"/") {
                            here.clear();
                        }
                        for part in split(&target).into_iter().rev() {
                            pending.push_front(part);
                        }
                    }
                    _ => return Err(Errno::NOTDIR),
                },
            }
        }
        Ok(here.join(&b'/'))
    }

    /// Removes `name` from `folder` and everything in it.
    pub(crate) fn remove(&mut self, folder: &Folder, name: &[u8]) -> Result<(), Errno> {
        // The folder used last may be inside what is removed.
        self.last = None;
        remove_all(folder, name)
    }

    /// `path` (cleaned) itself, not what it may link to.
    pub(crate) fn itself(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        open_in(&self.fd, path, ITSELF)
    }
}

/// Names in the directory `name` of `folder`.
pub(crate) fn names(folder: impl AsFd, name: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(fd)? {
        let name = entry?.file_name().to_bytes().to_owned();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn remove_all(folder: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    let fd = rustix::fs::openat(&folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    for child in names(&folder, name)? {
        remove_all(&fd, &child)?;
    }
    rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for (name, want) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("../../x", "x"),
            ("a/../../b", "b"),
            ("..", ""),
            ("./", ""),
            ("", ""),
        ] {
            assert_eq!(clean(name.as_bytes()), want.as_bytes(), "{name}");
        }
    }
}
