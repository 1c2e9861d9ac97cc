//! Network namespaces as files: made, entered and removed by path.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{FsType, NSFS_MAGIC, PROC_SUPER_MAGIC, fstatfs},
};

use crate::cni::error::{CniError, Doing, Result};

/// The calling thread's own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
}

impl Netns {
    /// Opens the namespace at `path`: a bind mount such as `/run/netns/blue`, or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// [`crate::cni::error::code::INTERNAL`] when there is none, in the words of the reference plugins'
    /// `ns` package 1.1.1.
    pub fn open(path: &Path) -> Result<Netns> {
        let shown = path.display();
        let file = File::open(path).doing(format_args!(
            "failed to open netns \"{shown}\": failed to Statfs \"{shown}\""
        ))?;
        let fs = fstatfs(&file).doing(format_args!("failed to Statfs \"{shown}\""))?;
        let magic = fs.filesystem_type();
        if ![NSFS_MAGIC, PROC_SUPER_MAGIC].contains(&magic) {
            let FsType(magic) = magic;
            return Err(CniError::internal(format!(
                "failed to open netns \"{shown}\": unknown FS magic on \"{shown}\": {magic:x}"
            )));
        }
        Ok(Netns { path: path.to_owned(), file })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open namespace itself, for messages that name a namespace by descriptor.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether the calling thread is in this namespace.
    pub fn is_current(&self) -> Result<bool> {
        let own = fs::metadata(OWN).doing(format_args!("stat {OWN}"))?;
        let this = self.file.metadata().doing(format_args!("stat {}", self.path.display()))?;
        Ok((own.dev(), own.ino()) == (this.dev(), this.ino()))
    }

    /// Runs `work` on a thread of its own inside the namespace. What it opens there (a netlink
    /// socket, a file under `/proc/sys/net`) stays in the namespace wherever it is used.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .doing(format_args!("setns {}", self.path.display()))?;
                work()
            });
            inside.join().unwrap_or_else(|_| Err(CniError::internal("a netns thread panicked")))
        })
    }
}

/// Makes a new network namespace and pins it at `path`; the directory is made where it is missing.
///
/// # Errors
/// `AlreadyExists` when there is something at `path`; what unshare(2) and mount(2) say. Nothing is
/// left at `path` on failure.
pub fn create(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let pinned = thread::scope(|scope| {
        let maker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        });
        maker.join().unwrap_or(Err(Errno::ECANCELED))
    });
    pinned.map_err(|errno| {
        // The mount is the last step, so all there is to take back is the empty file; the
        // errno is worth more to the caller than a failure to remove it.
        let _ = fs::remove_file(path);
        io::Error::from(errno)
    })
}

/// Unpins the namespace at `path` and removes the file. A path that is gone is removed already.
///
/// The kernel ends the namespace, and every veth in it, when nothing else holds it; that happens
/// after this returns.
///
/// # Errors
/// What umount2(2) and unlink(2) say.
pub fn remove(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL) => break,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
