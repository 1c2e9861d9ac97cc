//! The fifos between a process and this daemon, and the task that empties them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use nix::{sys::stat::Mode, unistd::mkfifo};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe::{OpenOptions, Receiver},
    sync::mpsc,
};

use super::{
    Stream,
    hub::{Hub, Input},
    log::Writer,
};

/// How much is read at a time: half of what a pipe holds.
const READ: usize = 32 << 10;

/// The paths of a process's streams, as containerd is told them; an absent one is /dev/null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    pub(crate) stdin: Option<PathBuf>,
    pub(crate) stdout: Option<PathBuf>,
    pub(crate) stderr: Option<PathBuf>,
}

impl Paths {
    /// The streams of `name` in `dir`; a terminal has no separate standard error.
    pub(crate) fn of(dir: &Path, name: &str, stdin: bool, tty: bool) -> Paths {
        let path = |stream: &str| dir.join(format!("{name}-{stream}"));
        Paths {
            stdin: stdin.then(|| path("stdin")),
            stdout: Some(path("stdout")),
            stderr: (!tty).then(|| path("stderr")),
        }
    }

    fn each(&self) -> impl Iterator<Item = &PathBuf> {
        self.stdin.iter().chain(&self.stdout).chain(&self.stderr)
    }

    /// The path as the API's string.
    pub(crate) fn text(path: &Option<PathBuf>) -> String {
        path.as_ref().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Makes the fifos.
    ///
    /// # Errors
    /// Those of mkfifo(3), but for one that is there already.
    pub(crate) fn make(&self) -> io::Result<()> {
        for path in self.each() {
            match mkfifo(path, Mode::from_bits_truncate(0o700)) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Removes them.
    pub(crate) fn remove(&self) {
        for path in self.each() {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Opens this daemon's ends. Opening for reading does not wait for a writer, and an end of
    /// file comes only after there was one.
    ///
    /// # Errors
    /// Those of opening them.
    pub(crate) fn open(&self) -> io::Result<Ends> {
        let receiver = |path: &Option<PathBuf>| {
            path.as_ref().map(|p| OpenOptions::new().open_receiver(p)).transpose()
        };
        Ok(Ends { stdout: receiver(&self.stdout)?, stderr: receiver(&self.stderr)? })
    }
}

/// This daemon's ends of the output fifos.
pub(crate) struct Ends {
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
}

/// Empties the fifos into the log and to the listeners until the process and all who hold its
/// streams are gone.
pub(crate) async fn pump(ends: Ends, mut log: Option<Writer>, hub: Arc<Hub>) {
    let Ends { mut stdout, mut stderr } = ends;
    while stdout.is_some() || stderr.is_some() {
        let stream = tokio::select! {
            _ = readable(&stdout) => Stream::Stdout,
            _ = readable(&stderr) => Stream::Stderr,
        };
        let end = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
        let Some(receiver) = end else { continue };
        let mut buffer = BytesMut::with_capacity(READ);
        match receiver.try_read_buf(&mut buffer) {
            Ok(n) if n > 0 => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            _ => *end = None,
        }
        if let Some(log) = &mut log
            && let Err(error) = log.write(stream, &buffer)
        {
            tracing::warn!(%error, "log");
        }
        if !buffer.is_empty() && hub.heard() {
            hub.say(stream, buffer.freeze()).await;
        }
    }
}

async fn readable(end: &Option<Receiver>) {
    match end {
        // An error shows in the read that follows.
        Some(receiver) => drop(receiver.readable().await),
        None => std::future::pending().await,
    }
}

/// Carries what attached clients send into the process's input, and closes it when one of them
/// says so. `close` tells containerd.
pub(crate) async fn feed(
    path: PathBuf,
    mut input: mpsc::Receiver<Input>,
    close: impl FnOnce() -> BoxFuture<'static, ()>,
) {
    // Opened for both, so that it opens before the other side has; the other side sees the end
    // when this is closed.
    let mut fifo = match OpenOptions::new().read_write(true).open_sender(&path) {
        Ok(fifo) => fifo,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "standard input");
            return;
        }
    };
    loop {
        match input.recv().await {
            Some(Input::Data(data)) => {
                if write(&mut fifo, data).await.is_err() {
                    return;
                }
            }
            Some(Input::End) => break,
            // Nobody is attached any more, and nobody can be: the process has ended.
            None => return,
        }
    }
    // What is in the fifo must be read before it is closed under the reader.
    drop(fifo);
    close().await;
}

async fn write(fifo: &mut tokio::net::unix::pipe::Sender, data: Bytes) -> io::Result<()> {
    fifo.write_all(&data).await
}
