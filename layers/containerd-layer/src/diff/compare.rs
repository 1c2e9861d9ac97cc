//! Two directories as a layer: what, put on the first, makes it the second.
//!
//! Two files are the same when everything that a listing shows of them is, as with containerd's
//! walking differ: owner, mode, size and time. Only where a time has no fraction of a second, as
//! files from archives have, are the contents read.

use super::create::{Archive, children, is_overlays};
use crate::{Digest, Result, error::At, snapshots::xattrs};
use std::{
    ffi::{CString, OsString},
    fs::{self, File, Metadata},
    io::{BufReader, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Writes what differs between `left` and `right` as an uncompressed tar, and answers its digest,
/// the diff id. Directories above a difference are in it too; times are in whole seconds, as
/// containerd has them.
///
/// # Errors
/// When a file cannot be read or `layer` does not take the bytes.
pub fn compare(left: &Path, right: &Path, layer: impl Write) -> Result<Digest> {
    let archive = Archive::new(right, layer, false);
    let mut walk = Walk { left, right, archive, above: Vec::new() };
    walk.directory(Path::new(""))?;
    walk.archive.finish()
}

struct Walk<'a, W: Write> {
    left: &'a Path,
    right: &'a Path,
    archive: Archive<'a, W>,
    /// The unchanged directories that the walk is in and that are not in the layer yet.
    above: Vec<PathBuf>,
}

/// What is known about one name on one side.
struct Entry {
    path: PathBuf,
    meta: Metadata,
    attributes: Vec<(CString, Vec<u8>)>,
}

impl Entry {
    fn read(path: PathBuf) -> Result<Entry> {
        let meta = fs::symlink_metadata(&path).at("reading", &path)?;
        let mut attributes = xattrs(&path)?;
        attributes.retain(|(name, _)| !is_overlays(name));
        attributes.sort_unstable();
        Ok(Entry { path, meta, attributes })
    }

    fn is_same(&self, other: &Entry) -> Result<bool> {
        let (one, two) = (&self.meta, &other.meta);
        let owned = |m: &Metadata| (m.mode(), m.uid(), m.gid(), m.rdev());
        if owned(one) != owned(two) || self.attributes != other.attributes {
            return Ok(false);
        }
        if one.is_dir() {
            return Ok(true);
        }
        let written = |m: &Metadata| (m.len(), m.mtime(), m.mtime_nsec());
        if written(one) != written(two) {
            return Ok(false);
        }
        if one.is_symlink() {
            let target = |path: &Path| fs::read_link(path).at("reading", path);
            return Ok(target(&self.path)? == target(&other.path)?);
        }
        if one.is_file() && one.mtime_nsec() == 0 {
            return same_content(&self.path, &other.path);
        }
        Ok(true)
    }
}

fn same_content(one: &Path, two: &Path) -> Result<bool> {
    let open = |path| File::open(path).at("opening", path).map(BufReader::new);
    let (mut first, mut second) = (open(one)?.bytes(), open(two)?.bytes());
    loop {
        let next = (first.next().transpose(), second.next().transpose());
        match (next.0.at("reading", one)?, next.1.at("reading", two)?) {
            (None, None) => return Ok(true),
            (a, b) if a != b => return Ok(false),
            _ => {}
        }
    }
}

impl<W: Write> Walk<'_, W> {
    fn directory(&mut self, name: &Path) -> Result<()> {
        let left = children(&self.left.join(name))?;
        let right = children(&self.right.join(name))?;
        let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
        loop {
            // The names of both sides in one order, each once.
            let next: OsString = match (left.peek(), right.peek()) {
                (None, None) => return Ok(()),
                (Some(one), Some(two)) => one.min(two).clone(),
                (Some(one), None) | (None, Some(one)) => one.clone(),
            };
            let was = left.next_if_eq(&next).is_some();
            let is = right.next_if_eq(&next).is_some();
            let child = name.join(&next);
            match (was, is) {
                (true, true) => self.both(&child)?,
                (true, false) => {
                    self.enter()?;
                    self.archive.whiteout(&child)?;
                }
                (false, _) => {
                    self.enter()?;
                    self.archive.entry(&child)?;
                }
            }
        }
    }

    fn both(&mut self, name: &Path) -> Result<()> {
        let (was, is) = (Entry::read(self.left.join(name))?, Entry::read(self.right.join(name))?);
        let same = is.is_same(&was)?;
        if was.meta.is_dir() && is.meta.is_dir() {
            if same {
                self.above.push(name.to_owned());
            } else {
                self.enter()?;
                self.archive.alone(name, &is.path, &is.meta, &is.attributes)?;
            }
            self.directory(name)?;
            if self.above.last().is_some_and(|last| last == name) {
                self.above.pop();
            }
            return Ok(());
        }
        if !same {
            self.enter()?;
            self.archive.entry(name)?;
        }
        Ok(())
    }

    /// Adds the directories that lead to a difference.
    fn enter(&mut self) -> Result<()> {
        for name in std::mem::take(&mut self.above) {
            let entry = Entry::read(self.right.join(&name))?;
            self.archive.alone(&name, &entry.path, &entry.meta, &entry.attributes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::BTreeMap,
        os::unix::fs::{PermissionsExt, symlink},
        time::{Duration, SystemTime},
    };

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let when = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::options().write(true).open(&path).unwrap().set_modified(when).unwrap();
    }

    fn entries(layer: &[u8]) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(layer);
        let entries = archive.entries().unwrap().map(Result::unwrap);
        entries
            .map(|mut entry| {
                let path = entry.path().unwrap().display().to_string();
                let name = path.trim_end_matches('/').to_owned();
                let mut text = format!("{:?} ", entry.header().entry_type());
                entry.read_to_string(&mut text).unwrap();
                (name, text)
            })
            .collect()
    }

    #[test]
    fn only_what_differs_is_in_the_layer() {
        let dir = tempfile::tempdir().unwrap();
        let (left, right) = (dir.path().join("left"), dir.path().join("right"));
        for side in [&left, &right] {
            write(side, "same/file", "same");
            write(side, "deep/er/untouched", "same");
            write(side, "mode/inner", "same");
            symlink("same", side.join("link")).unwrap();
        }
        write(&left, "deep/er/text", "one");
        write(&right, "deep/er/text", "two");
        write(&left, "gone/all", "x");
        write(&left, "deep/gone", "x");
        write(&right, "new/dir/file", "new");
        write(&left, "turned", "file");
        write(&right, "turned/into", "directory");
        write(&left, "back/into", "directory");
        write(&right, "back", "file");
        fs::set_permissions(right.join("mode"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::hard_link(right.join("new/dir/file"), right.join("new/link")).unwrap();
        // Links have the time of their making; what they point to is the same.
        let when = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
            last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        };
        for side in [&left, &right] {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, side.join("link"), &when, flags).unwrap();
        }
        let mut layer = Vec::new();
        let digest = compare(&left, &right, &mut layer).unwrap();
        assert_eq!(digest, Digest::of(&layer));
        let found = entries(&layer);
        let expected = [
            (".wh.gone", "Regular "),
            ("back", "Regular file"),
            ("deep", "Directory "),
            ("deep/.wh.gone", "Regular "),
            ("deep/er", "Directory "),
            ("deep/er/text", "Regular two"),
            ("mode", "Directory "),
            ("new", "Directory "),
            ("new/dir", "Directory "),
            ("new/dir/file", "Regular new"),
            ("new/link", "Link "),
            ("turned", "Directory "),
            ("turned/into", "Regular directory"),
        ];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(found, BTreeMap::from(expected));

        let mut nothing = Vec::new();
        compare(&left, &left, &mut nothing).unwrap();
        assert!(entries(&nothing).is_empty());
    }
}
