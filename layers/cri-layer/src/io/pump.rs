//! A task that empties a fifo into a sink, until the process at its other end is over.

use std::{
    fs::File,
    io::{self, Read},
};

use tokio::{net::unix::pipe::Receiver, sync::watch, task::JoinHandle};

/// How much is read at once, in bytes: a pipe's whole capacity.
const CHUNK: usize = 64 << 10;

/// What is done with a stream's bytes.
pub(crate) trait Sink: Send + 'static {
    /// Takes what was read.
    fn take(&mut self, bytes: &[u8]);
    /// There is nothing more.
    fn end(&mut self) {}
}

/// Running copies of a process's streams.
#[derive(Debug)]
pub(crate) struct Pump {
    over: watch::Sender<bool>,
    copies: Vec<JoinHandle<()>>,
}

impl Pump {
    /// Nothing is copied yet.
    pub(crate) fn new() -> Pump {
        Pump { over: watch::Sender::new(false), copies: Vec::new() }
    }

    /// Copies from `fifo`.
    ///
    /// # Errors
    /// Those of registering it with the runtime.
    pub(crate) fn add(&mut self, fifo: File, mut sink: impl Sink) -> io::Result<()> {
        let fifo = Receiver::from_file(fifo)?;
        let mut over = self.over.subscribe();
        self.copies.push(tokio::spawn(async move {
            let mut chunk = vec![0u8; CHUNK];
            loop {
                let ready = tokio::select! {
                    ready = fifo.readable() => ready,
                    _ = over.wait_for(|over| *over) => {
                        drain(fifo, &mut chunk, &mut sink);
                        break;
                    }
                };
                match ready.and_then(|()| fifo.try_read(&mut chunk)) {
                    Ok(0) => break,
                    Ok(n) => sink.take(&chunk[..n]),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        tracing::warn!(%error, "reading a container's stream");
                        break;
                    }
                }
            }
            sink.end();
        }));
        Ok(())
    }

    /// Takes what the pipes still hold, and ends the copies.
    pub(crate) async fn finish(self) {
        self.over.send_replace(true);
        for copy in self.copies {
            // A copy that panicked has said so itself.
            let _ = copy.await;
        }
    }
}

/// Takes what a pipe holds. The process is over and all it wrote is there; another process that
/// kept the writing end may write on, and is not waited for.
fn drain(fifo: Receiver, chunk: &mut [u8], sink: &mut impl Sink) {
    let Ok(fifo) = fifo.into_nonblocking_fd() else { return };
    let mut fifo = File::from(fifo);
    loop {
        match fifo.read(chunk) {
            Ok(n) if n > 0 => sink.take(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::io::{Fifos, reader, writer};

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<(Vec<u8>, bool)>>);

    impl Sink for Seen {
        fn take(&mut self, bytes: &[u8]) {
            self.0.lock().unwrap().0.extend_from_slice(bytes);
        }
        fn end(&mut self) {
            self.0.lock().unwrap().1 = true;
        }
    }

    #[tokio::test]
    async fn what_was_written_before_the_end_is_taken_though_a_writer_stays() {
        let dir = tempfile::tempdir().unwrap();
        let fifos = Fifos::of(dir.path(), "x", false, true);
        fifos.make().unwrap();
        let path = fifos.stdout.as_ref().unwrap();
        let seen = Seen::default();
        let mut pump = Pump::new();
        pump.add(reader(path).unwrap(), seen.clone()).unwrap();
        let mut stays = writer(path).unwrap();
        stays.write_all(b"last words").unwrap();
        pump.finish().await;
        assert_eq!(*seen.0.lock().unwrap(), (b"last words".to_vec(), true));
        fifos.remove();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_reader_waits_for_its_first_writer() {
        let dir = tempfile::tempdir().unwrap();
        let fifos = Fifos::of(dir.path(), "x", false, true);
        fifos.make().unwrap();
        let path = fifos.stdout.clone().unwrap();
        let seen = Seen::default();
        let mut pump = Pump::new();
        pump.add(reader(&path).unwrap(), seen.clone()).unwrap();
        tokio::task::yield_now().await;
        let text = vec![b'x'; 200_000];
        let expected = text.clone();
        let write = tokio::task::spawn_blocking(move || {
            std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(&text).unwrap();
        });
        write.await.unwrap();
        for copy in std::mem::take(&mut pump.copies) {
            copy.await.unwrap();
        }
        assert_eq!(seen.0.lock().unwrap().0, expected);
    }
}
