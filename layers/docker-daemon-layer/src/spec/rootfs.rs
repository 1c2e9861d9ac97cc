//! Files of a container's root filesystem, read without mounting it: an overlay's layers are
//! looked through the way the kernel does (Documentation/filesystems/overlayfs).
//!
//! Nothing is opened by a path that crosses a link: the image may hold links that point out of it.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use hops::proto::containerd::types::Mount;
use nix::{
    dir::Dir,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstatat},
};

/// How many links a path may go through, as in the kernel.
const MAX_LINKS: usize = 40;
/// `/etc/passwd` and its like are small; what is longer is no such file.
const MAX_FILE: u64 = 4 << 20;

/// The directories that a snapshot's mounts lay over each other, topmost first.
pub(crate) fn layers(mounts: &[Mount]) -> Vec<PathBuf> {
    let Some(mount) = mounts.last() else { return Vec::new() };
    if mount.r#type != "overlay" {
        return vec![PathBuf::from(&mount.source)];
    }
    let option = |key: &str| mount.options.iter().find_map(|o| o.strip_prefix(key));
    let lower = option("lowerdir=").into_iter().flat_map(|dirs| dirs.split(':'));
    option("upperdir=").into_iter().chain(lower).map(PathBuf::from).collect()
}

/// Reads the file at `path` (absolute, in the container) through `layers`; empty when there is
/// none that can be read.
pub(crate) fn read(layers: &[PathBuf], path: &str) -> String {
    let mut text = Vec::new();
    if let Some(file) = open(layers, path) {
        let _ = file.take(MAX_FILE).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads the file at `path` in the root filesystem of the running process `pid`.
pub(crate) fn read_running(pid: i64, path: &str) -> String {
    let mut text = Vec::new();
    if let Ok(root) = open_dir(Path::new(&format!("/proc/{pid}/root"))) {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        if let Ok(fd) = openat2(&root, path.trim_start_matches('/'), how) {
            let _ = File::from(fd).take(MAX_FILE).read_to_end(&mut text);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// One directory of the merged tree: that directory in each layer that has it, topmost first.
type Merged = Vec<OwnedFd>;

enum Found {
    Nothing,
    Directory(Merged),
    File(File),
    Link(String),
}

fn open_dir(path: &Path) -> nix::Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn lookup(dirs: &Merged, name: &str) -> Found {
    let mut merged = Merged::new();
    for dir in dirs {
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        let Ok(stat) = fstatat(dir, name, flags) else { continue };
        let step = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match kind(&stat) {
            SFlag::S_IFDIR => {
                let Ok(fd) =
                    openat(dir, name, step | OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())
                else {
                    continue;
                };
                let opaque = is_opaque(&fd);
                merged.push(fd);
                if opaque {
                    break;
                }
            }
            // What a directory above hides, and a whiteout (a device 0:0) hides, is not there.
            _ if !merged.is_empty() => break,
            SFlag::S_IFREG => {
                let fd = openat(dir, name, step | OFlag::O_RDONLY, Mode::empty());
                return fd.map_or(Found::Nothing, |fd| Found::File(File::from(fd)));
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(dir, name).ok().and_then(|t| t.into_string().ok());
                return target.map_or(Found::Nothing, Found::Link);
            }
            _ => return Found::Nothing,
        }
    }
    if merged.is_empty() { Found::Nothing } else { Found::Directory(merged) }
}

/// Whether a directory hides those below it. Reading the attribute takes a path; the descriptor's
/// own entry in /proc is one that nobody can exchange.
fn is_opaque(fd: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut value = [0u8; 1];
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        rustix::fs::getxattr(&path, *name, &mut value[..]).is_ok_and(|n| n == 1) && value[0] == b'y'
    })
}

fn open(layers: &[PathBuf], path: &str) -> Option<File> {
    let root = || -> Merged { layers.iter().filter_map(|dir| open_dir(dir).ok()).collect() };
    let mut stack: Vec<Merged> = vec![root()];
    let mut rest: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            _ => {}
        }
        match lookup(stack.last()?, &name) {
            Found::Nothing => return None,
            Found::Directory(dirs) => stack.push(dirs),
            Found::File(file) => return rest.iter().all(|n| n.is_empty()).then_some(file),
            Found::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                if target.starts_with('/') {
                    stack = vec![root()];
                }
                rest.extend(target.rsplit('/').map(str::to_owned));
            }
        }
    }
    None
}

/// The names in the directory at `path` on the host, sorted; empty when it cannot be read.
pub(crate) fn names_in(path: &Path) -> Vec<String> {
    let Ok(mut dir) = Dir::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()) else {
        return Vec::new();
    };
    let mut names: Vec<String> = dir
        .iter()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| name != "." && name != "..")
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn upper_layers_win_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (up, low) = (dir.path().join("up"), dir.path().join("low"));
        fs::create_dir_all(up.join("etc")).unwrap();
        fs::create_dir_all(low.join("etc/real")).unwrap();
        fs::write(up.join("etc/passwd"), "up").unwrap();
        fs::write(low.join("etc/passwd"), "low").unwrap();
        fs::write(low.join("etc/group"), "low").unwrap();
        fs::write(low.join("etc/real/x"), "linked").unwrap();
        symlink("/etc/real", up.join("etc/link")).unwrap();
        symlink("../../../../../../etc/hostname", up.join("etc/out")).unwrap();
        symlink("loop", up.join("etc/loop")).unwrap();
        let layers = [up, low];
        assert_eq!(read(&layers, "/etc/passwd"), "up");
        assert_eq!(read(&layers, "/etc/group"), "low");
        assert_eq!(read(&layers, "/etc/link/x"), "linked");
        for missing in ["/etc/out", "/etc/loop", "/etc", "/none", "/etc/passwd/x"] {
            assert_eq!(read(&layers, missing), "", "{missing}");
        }
    }
}
