//! Making directories and files for mounts, inside the root that the child is already confined to.
//!
//! The paths are the configuration's; links in them lead to places in the container because the
//! container's root is the process's root. A link whose target is missing is followed by hand, so
//! that the target is what gets made.

use std::{ffi::CStr, os::fd::OwnedFd};

use crate::sys::{Errno, Result, file};

/// The longest path that is put together.
const PATH: usize = 4096;
/// As many links as the kernel follows.
const LINKS: u8 = 40;

/// A path on the stack.
struct Path {
    bytes: [u8; PATH],
    len: usize,
}

impl Path {
    fn new(parts: &[&[u8]]) -> Result<Path> {
        let mut path = Path { bytes: [0; PATH], len: 0 };
        for part in parts {
            let end = path.len + part.len();
            if end >= PATH {
                return Err(Errno(libc::ENAMETOOLONG));
            }
            path.bytes[path.len..end].copy_from_slice(part);
            path.len = end;
        }
        Ok(path)
    }

    fn as_c_str(&self) -> Result<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::INVAL)
    }
}

/// The path before the last component; `None` for the root and for a bare name.
fn parent(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().rposition(|b| *b != b'/')?;
    let slash = path[..=end].iter().rposition(|b| *b == b'/')?;
    let end = path[..slash].iter().rposition(|b| *b != b'/').map_or(1, |e| e + 1);
    Some(&path[..end])
}

/// Where the link `path` leads, if it is one.
fn link_target(path: &CStr) -> Result<Path> {
    let mut buffer = [0u8; PATH];
    let target = file::readlink(path, &mut buffer)?;
    match (target.first(), parent(path.to_bytes())) {
        (Some(b'/'), _) | (_, None) => Path::new(&[target]),
        (_, Some(dir)) => Path::new(&[dir, b"/", target]),
    }
}

/// Makes the directory `path` and its parents.
pub(super) fn directory(path: &CStr) -> Result<()> {
    directory_after(path, LINKS)
}

fn directory_after(path: &CStr, links: u8) -> Result<()> {
    if links == 0 {
        return Err(Errno::LOOP);
    }
    match file::mkdir(path, 0o755) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => match file::stat(path) {
            Ok(stat) if stat.is_dir() => Ok(()),
            Ok(_) => Err(Errno::NOTDIR),
            Err(Errno::NOENT) => directory_after(link_target(path)?.as_c_str()?, links - 1),
            Err(e) => Err(e),
        },
        Err(Errno::NOENT) => {
            let parent = parent(path.to_bytes()).ok_or(Errno::NOENT)?;
            directory_after(Path::new(&[parent])?.as_c_str()?, links - 1)?;
            match file::mkdir(path, 0o755) {
                Err(Errno::EXIST) => Ok(()),
                other => other,
            }
        }
        Err(e) => Err(e),
    }
}

/// Makes the file `path` and its parents, or opens it when it is there.
pub(super) fn regular(path: &CStr) -> Result<OwnedFd> {
    regular_after(path, LINKS)
}

fn regular_after(path: &CStr, links: u8) -> Result<OwnedFd> {
    if links == 0 {
        return Err(Errno::LOOP);
    }
    // Without O_EXCL a dangling link's target is made if its directory is there.
    let flags = libc::O_CREAT | libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    match file::openat(file::cwd(), path, flags, 0o755) {
        Err(Errno::NOENT) => match link_target(path) {
            Ok(target) => regular_after(target.as_c_str()?, links - 1),
            Err(_) => {
                let parent = parent(path.to_bytes()).ok_or(Errno::NOENT)?;
                directory_after(Path::new(&[parent])?.as_c_str()?, links - 1)?;
                file::openat(file::cwd(), path, flags, 0o755)
            }
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::parent;

    #[test]
    fn parents() {
        for (path, expected) in [
            ("/a/b", Some("/a")),
            ("/a/b/", Some("/a")),
            ("/a//b", Some("/a")),
            ("/a", Some("/")),
            ("/", None),
            ("a", None),
        ] {
            assert_eq!(parent(path.as_bytes()), expected.map(str::as_bytes), "{path}");
        }
    }
}
