//! An image's volumes: directories of the host, filled with what the image has there.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, chown, lchown, symlink},
    path::{Path, PathBuf},
};

use hops::{
    HopError, Result,
    proto::{containerd::types::Mount as SnapshotMount, runtime::v1::Mount as Wanted},
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::mounts::clean;
use crate::names::random_id;

/// Makes a directory under `dir` for each of an image's `volumes`, except where something else is
/// to be mounted.
///
/// # Errors
/// Those of making the directories.
pub(crate) fn make(dir: &Path, volumes: &[String], wanted: &[Wanted]) -> Result<Vec<Wanted>> {
    let taken: Vec<PathBuf> = wanted.iter().map(|m| clean(&m.container_path)).collect();
    let mut made = Vec::new();
    for volume in volumes.iter().filter(|v| !taken.contains(&clean(v))) {
        let host = dir.join(random_id()?);
        fs::create_dir_all(&host)?;
        made.push(Wanted {
            container_path: volume.clone(),
            host_path: host.display().to_string(),
            ..Wanted::default()
        });
    }
    Ok(made)
}

/// Copies into the volumes `made` what the root filesystem, the snapshot at `root`, has at their
/// paths. It is mounted below `dir` for as long as that takes.
///
/// # Errors
/// Those of mounting the snapshot and of copying; the mount is taken back in any case.
pub(crate) fn fill(dir: &Path, made: &[Wanted], root: &[SnapshotMount]) -> Result<()> {
    if made.is_empty() {
        return Ok(());
    }
    let view = Mounted::at(dir.join("rootfs"), root)?;
    for volume in made {
        let path = clean(&volume.container_path);
        let inside = view.0.join(path.strip_prefix("/").unwrap_or(&path));
        copy_directory(&view.0, &inside, Path::new(&volume.host_path)).map_err(|e| {
            HopError::from(e)
                .context(format_args!("failed to copy volume {:?}", volume.container_path))
        })?;
    }
    Ok(())
}

/// A snapshot that is mounted as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf, mounts: &[SnapshotMount]) -> Result<Mounted> {
        fs::create_dir_all(&path)?;
        let mounted = Mounted(path);
        for m in mounts {
            let (mut flags, mut data) = (MsFlags::MS_RDONLY, Vec::new());
            for option in &m.options {
                match option.as_str() {
                    "bind" | "rbind" => flags = MsFlags::MS_BIND,
                    "ro" | "rw" => {}
                    other => data.push(other),
                }
            }
            let kind =
                if flags.contains(MsFlags::MS_BIND) { None } else { Some(m.r#type.as_str()) };
            let data = data.join(",");
            mount(Some(m.source.as_str()), &mounted.0, kind, flags, Some(data.as_str())).map_err(
                |e| HopError::from(io::Error::from(e)).context("failed to mount snapshot"),
            )?;
        }
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Not mounted is as good as unmounted.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the view of a snapshot stays");
        }
    }
}

/// Copies the contents and the ownership of `from`, a directory below `root`, to `to`. A path that
/// leads out of the root over a link, or is no directory, has nothing to be copied.
fn copy_directory(root: &Path, from: &Path, to: &Path) -> io::Result<()> {
    match fs::canonicalize(from) {
        Ok(real) if real.starts_with(root) && real.is_dir() => copy_tree(&real, to),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        let meta = entry.metadata()?;
        if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            lchown(&target, Some(meta.uid()), Some(meta.gid()))?;
        } else if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_tree(&source, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
            chown(&target, Some(meta.uid()), Some(meta.gid()))?;
            fs::set_permissions(&target, meta.permissions())?;
        }
    }
    let meta = fs::metadata(from)?;
    chown(to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(to, meta.permissions())
}
