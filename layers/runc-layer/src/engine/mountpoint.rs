//! The places of mounts in a root filesystem, made from outside: CRIU makes mounts and not what
//! they go on.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::{
    Result,
    error::Context,
    plan::{MountStep, Rootfs, Work, c_path},
    sys::{self, Errno, file},
};

/// Makes what is missing. What goes on a new file system is in the images.
pub(super) fn make_all(rootfs: &Rootfs) -> Result<()> {
    let root = path(&rootfs.path);
    for (i, step) in rootfs.mounts.iter().enumerate() {
        let is_directory = match &step.work {
            Work::Bind(bind) => path(&bind.source).is_dir(),
            Work::New { .. } => true,
            _ => continue,
        };
        let target = path(&step.target);
        let Some((root, below)) = holder(&root, &rootfs.mounts[..i], &target) else { continue };
        let made = File::open(&root).map_err(Errno::from).and_then(|root| {
            let root = OwnedFd::from(root);
            make(&root, &below, is_directory)
        });
        made.context(|| format!("create the mountpoint {}", target.display()))?;
    }
    Ok(())
}

fn path(c: &std::ffi::CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(c.to_bytes())).to_owned()
}

/// The directory on the host that `target` will be found in, and its path from there: the source
/// of the bind mount that it is below, or the root. `None` when that is a new file system.
fn holder(root: &Path, earlier: &[MountStep], target: &Path) -> Option<(PathBuf, PathBuf)> {
    let below =
        |step: &&MountStep| target != path(&step.target) && target.starts_with(path(&step.target));
    match earlier.iter().rev().find(below) {
        None => Some((root.to_owned(), target.to_owned())),
        Some(MountStep { work: Work::Bind(bind), target: held, .. }) => {
            let rest = target.strip_prefix(path(held)).ok()?;
            Some((path(&bind.source), rest.to_owned()))
        }
        Some(_) => None,
    }
}

/// Makes `path` below `root`, which no link leads out of.
fn make(root: &OwnedFd, path: &Path, is_directory: bool) -> sys::Result<()> {
    const RESOLVE_IN_ROOT: u64 = 0x10;
    let open = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let c = c_path(path).map_err(|_| Errno::INVAL)?;
        file::openat2(root.as_fd(), &c, libc::O_PATH, RESOLVE_IN_ROOT)
    };
    match open(path) {
        Err(Errno::NOENT) => {}
        other => return other.map(drop),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT);
    };
    make(root, parent, true)?;
    let parent = open(parent)?;
    let name = c_path(Path::new(name)).map_err(|_| Errno::INVAL)?;
    let made = match is_directory {
        true => file::mkdir_at(parent.as_fd(), &name, 0o755),
        false => file::mknod_at(parent.as_fd(), &name, libc::S_IFREG | 0o644, 0),
    };
    match made {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_mountpoint_is_made_inside_whatever_links_there_are() {
        let place = tempfile::tempdir().unwrap();
        let inside = place.path().join("root");
        std::fs::create_dir_all(inside.join("real")).unwrap();
        symlink("/real", inside.join("link")).unwrap();
        symlink("../../..", inside.join("up")).unwrap();
        let root = OwnedFd::from(File::open(&inside).unwrap());
        make(&root, Path::new("/link/a/b"), true).unwrap();
        assert!(inside.join("real/a/b").is_dir());
        make(&root, Path::new("/up/c/file"), false).unwrap();
        assert!(inside.join("c/file").is_file());
        make(&root, Path::new("/link/a"), true).unwrap();
        // A link to nothing is not replaced, and what it names is not made elsewhere.
        symlink("/nowhere", inside.join("dangling")).unwrap();
        assert_eq!(make(&root, Path::new("/dangling"), true), Ok(()));
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
