//! The standard streams of containers: fifos that the shim writes, read here.

pub(crate) mod log;
mod pump;

pub(crate) use pump::{Pump, Sink};

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};

/// The fifos of one process; an empty path is no stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fifos {
    /// Where the process's input is written.
    pub(crate) stdin: Option<PathBuf>,
    /// Where its output is read.
    pub(crate) stdout: Option<PathBuf>,
    /// Where its other output is read; none with a terminal.
    pub(crate) stderr: Option<PathBuf>,
}

impl Fifos {
    /// The fifos of the process `id` in `dir`, which need not be there.
    pub(crate) fn of(dir: &Path, id: &str, stdin: bool, tty: bool) -> Fifos {
        let path = |stream: &str| dir.join(format!("{id}-{stream}"));
        Fifos {
            stdin: stdin.then(|| path("stdin")),
            stdout: Some(path("stdout")),
            stderr: (!tty).then(|| path("stderr")),
        }
    }

    /// Makes them and their directory. One that is there is taken as it is.
    ///
    /// # Errors
    /// Those of mkdir(2) and mkfifo(3).
    pub(crate) fn make(&self) -> io::Result<()> {
        for path in self.paths() {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            match mkfifo(path, Mode::from_bits_truncate(0o700)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Removes them.
    pub(crate) fn remove(&self) {
        for path in self.paths() {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, path = %path.display(), "a fifo stays");
            }
        }
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten()
    }
}

/// A path as containerd's messages want it: empty for none.
pub(crate) fn text(path: Option<&PathBuf>) -> String {
    path.map(|p| p.display().to_string()).unwrap_or_default()
}

/// Opens a fifo for reading without waiting for its writer.
pub(crate) fn reader(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

/// Opens a fifo for writing without waiting for its reader. It is opened for both, so that the
/// process at the other end sees no end of input as long as this is open.
pub(crate) fn writer(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}
