//! A container's root filesystem: the mounts that containerd asks for, made and unmade.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hops::{HopError, Result, proto::containerd::types::Mount};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::Mode,
};

/// Options that are flags of mount(2): whether the word clears the flag, and the flag.
const FLAGS: [(&str, bool, MsFlags); 25] = [
    ("async", true, MsFlags::MS_SYNCHRONOUS),
    ("atime", true, MsFlags::MS_NOATIME),
    ("bind", false, MsFlags::MS_BIND),
    ("defaults", false, MsFlags::empty()),
    ("dev", true, MsFlags::MS_NODEV),
    ("diratime", true, MsFlags::MS_NODIRATIME),
    ("dirsync", false, MsFlags::MS_DIRSYNC),
    ("exec", true, MsFlags::MS_NOEXEC),
    ("mand", false, MsFlags::MS_MANDLOCK),
    ("noatime", false, MsFlags::MS_NOATIME),
    ("nodev", false, MsFlags::MS_NODEV),
    ("nodiratime", false, MsFlags::MS_NODIRATIME),
    ("noexec", false, MsFlags::MS_NOEXEC),
    ("nomand", true, MsFlags::MS_MANDLOCK),
    ("norelatime", true, MsFlags::MS_RELATIME),
    ("nostrictatime", true, MsFlags::MS_STRICTATIME),
    ("nosuid", false, MsFlags::MS_NOSUID),
    ("rbind", false, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("relatime", false, MsFlags::MS_RELATIME),
    ("remount", false, MsFlags::MS_REMOUNT),
    ("ro", false, MsFlags::MS_RDONLY),
    ("rw", true, MsFlags::MS_RDONLY),
    ("strictatime", false, MsFlags::MS_STRICTATIME),
    ("suid", true, MsFlags::MS_NOSUID),
    ("sync", false, MsFlags::MS_SYNCHRONOUS),
];

/// The largest data that mount(2) takes: a page.
const PAGE: usize = 4096;

/// A root filesystem that is unmounted again unless it is kept.
#[derive(Debug)]
pub(super) struct Rootfs {
    target: PathBuf,
    kept: bool,
}

impl Rootfs {
    /// Mounts `mounts`, one on the other, on the bundle's `rootfs`; `None` when there are none.
    ///
    /// # Errors
    /// Those of making the directory and of mount(2), with the mount in the text; what was mounted
    /// by then is unmounted.
    pub(super) fn mount(bundle: &Path, mounts: &[Mount]) -> Result<Option<Rootfs>> {
        if mounts.is_empty() {
            return Ok(None);
        }
        let rootfs = Rootfs { target: bundle.join("rootfs"), kept: false };
        if let Err(error) = fs::create_dir(&rootfs.target)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(HopError::from(error).context(format!("mkdir {}", rootfs.target.display())));
        }
        for component in mounts {
            mount_one(component, &rootfs.target).map_err(|e| {
                e.context(format!(
                    "failed to mount rootfs component {{type: {:?}, source: {:?}, options: {:?}}}",
                    component.r#type, component.source, component.options
                ))
            })?;
        }
        Ok(Some(rootfs))
    }

    /// Leaves it mounted; the caller unmounts what is returned.
    pub(super) fn keep(mut self) -> PathBuf {
        self.kept = true;
        std::mem::take(&mut self.target)
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = unmount(&self.target)
        {
            super::logger::warn(format_args!("failed to cleanup rootfs mount: {error}"));
        }
    }
}

/// Mounts one of a root filesystem's mounts on `target`. With many layers the working directory
/// changes for the length of the call: no other thread may share it.
///
/// # Errors
/// Those of mount(2).
pub(crate) fn mount_one(component: &Mount, target: &Path) -> Result<()> {
    let (mut flags, mut data, mut lower) = (MsFlags::empty(), Vec::new(), None);
    for option in &component.options {
        match FLAGS.iter().find(|(word, ..)| word == option) {
            Some((_, true, flag)) => flags &= !*flag,
            Some((_, false, flag)) => flags |= *flag,
            None if option == "loop" => {
                return Err(HopError::new(
                    hops::Kind::Unimplemented,
                    "loop devices are not supported",
                ));
            }
            None => {
                if component.r#type == "overlay" {
                    lower = lower.or(option.strip_prefix("lowerdir="));
                }
                data.push(option.as_str());
            }
        }
    }
    let mut text = data.join(",");
    let mut from = None;
    if text.len() >= PAGE - 512
        && let Some(lower) = lower
        && let Some((common, relative)) = relative_to_common(lower)
    {
        text = text.replace(lower, &relative);
        from = Some(common);
    }
    if text.len() > PAGE {
        return Err(HopError::invalid("mount options is too long"));
    }
    let _back = from.map(WorkingDirectory::enter).transpose()?;
    mount(
        Some(component.source.as_str()),
        target,
        Some(component.r#type.as_str()),
        flags,
        (!text.is_empty()).then_some(text.as_str()),
    )
    .map_err(io::Error::from)?;
    if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        // A bind mount ignores every other flag until it is mounted anew.
        let again = flags | MsFlags::MS_REMOUNT;
        mount(None::<&str>, target, None::<&str>, again, None::<&str>).map_err(io::Error::from)?;
    }
    Ok(())
}

/// The directory that all of an overlay's lower directories lie in, and their names from there.
fn relative_to_common(lower: &str) -> Option<(PathBuf, String)> {
    let dirs: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let mut common = dirs.first()?.parent()?.to_path_buf();
    while !dirs.iter().all(|dir| dir.starts_with(&common)) {
        common = common.parent()?.to_path_buf();
    }
    let relative: Option<Vec<&str>> =
        dirs.iter().map(|dir| dir.strip_prefix(&common).ok()?.to_str()).collect();
    (common.is_absolute() && common != Path::new("/"))
        .then(|| Some((common, relative?.join(":"))))?
}

struct WorkingDirectory(PathBuf);

impl WorkingDirectory {
    fn enter(dir: PathBuf) -> io::Result<WorkingDirectory> {
        let back = WorkingDirectory(std::env::current_dir().unwrap_or_else(|_| "/".into()));
        std::env::set_current_dir(dir)?;
        Ok(back)
    }
}

impl Drop for WorkingDirectory {
    fn drop(&mut self) {
        if std::env::set_current_dir(&self.0).is_err() {
            let _ = std::env::set_current_dir("/");
        }
    }
}

/// Unmounts everything that is mounted on `target`. What stays busy for a moment is detached, so
/// that it goes as soon as its last user does.
///
/// # Errors
/// Those of umount2(2); a target that is not there or is no mount point is a success.
pub(super) fn unmount(target: &Path) -> nix::Result<()> {
    let mut patience = 10;
    loop {
        let flags = if patience > 0 { MntFlags::empty() } else { MntFlags::MNT_DETACH };
        match umount2(target, flags | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) if patience > 0 => {
                patience -= 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Unmounts everything that is mounted on `target`, and does not wait for the kernel to put the
/// file systems away: of an overlay it first syncs the one below, which takes milliseconds.
///
/// Nothing is mounted there any more when this returns.
///
/// # Errors
/// Those of umount2(2); a target that is not there or is no mount point is a success.
pub(super) fn detach(target: &Path) -> nix::Result<()> {
    let mut held = Vec::new();
    let done = loop {
        // What is open is put away when it is closed.
        match open(target, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(root) => held.push(root),
            Err(Errno::ENOENT) => break Ok(()),
            Err(error) => break Err(error),
        }
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(error) => {
                held.pop();
                break if error == Errno::EINVAL { Ok(()) } else { Err(error) };
            }
        }
    };
    if !held.is_empty() {
        super::sys::close_in_a_child(held);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lower_directories_become_relative() {
        assert_eq!(
            relative_to_common("/c/snapshots/1/fs:/c/snapshots/12/fs"),
            Some(("/c/snapshots".into(), "1/fs:12/fs".into()))
        );
        assert_eq!(relative_to_common("/a/1/fs:/b/1/fs"), None);
    }

    #[test]
    fn a_failure_unmounts_what_was_mounted() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let bind = |source: &Path| Mount {
            r#type: "bind".into(),
            source: source.display().to_string(),
            options: vec!["rbind".into(), "ro".into()],
            ..Default::default()
        };
        let mounts = [bind(dir.path()), bind(&dir.path().join("missing"))];
        let error = Rootfs::mount(dir.path(), &mounts).unwrap_err();
        assert!(error.message.starts_with("failed to mount rootfs component"), "{error}");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(&dir.path().display().to_string()));

        let rootfs = Rootfs::mount(dir.path(), &mounts[..1]).unwrap().unwrap().keep();
        assert_eq!(
            fs::write(rootfs.join("x"), "").unwrap_err().kind(),
            io::ErrorKind::ReadOnlyFilesystem
        );
        unmount(&rootfs).unwrap();
        fs::write(rootfs.join("x"), "").unwrap();
    }

    #[test]
    fn what_is_detached_is_gone_at_once() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("rootfs");
        fs::create_dir(&target).unwrap();
        detach(&target).unwrap();
        detach(&dir.path().join("missing")).unwrap();
        for _ in 0..2 {
            mount(Some("t"), &target, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
            fs::write(target.join("x"), "").unwrap();
        }
        detach(&target).unwrap();
        assert!(!target.join("x").exists());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(&dir.path().display().to_string()));
        fs::remove_dir(&target).unwrap();
    }
}
