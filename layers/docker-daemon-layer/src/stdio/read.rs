//! Reading a `json-file` log: what was written, from where the caller wants it, and what follows.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use hops::{Outputs, Result};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Stream, frame,
    log::{Mark, nth},
};
use crate::time;

/// What of a log is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) timestamps: bool,
    pub(crate) follow: bool,
    /// Only the last so many entries.
    pub(crate) tail: Option<usize>,
    /// Nanoseconds since the epoch; 0 is from the beginning.
    pub(crate) since: i64,
    /// Nanoseconds since the epoch; 0 is without end.
    pub(crate) until: i64,
    /// Whether the container has a terminal: its output then has no frames.
    pub(crate) tty: bool,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    stream: &'a str,
    time: &'a str,
}

/// How much is read at a time when looking for the last entries.
const BLOCK: u64 = 64 << 10;
/// How much is sent at a time.
const CHUNK: usize = 32 << 10;

impl Wanted {
    /// Appends the entry in `line`; `false` when all that was wanted has been seen.
    fn put(&self, line: &[u8], to: &mut BytesMut) -> bool {
        // A line that is no entry is one that a kill cut off: the next one is whole again.
        let Ok(entry) = serde_json::from_slice::<Entry<'_>>(line) else { return true };
        let stream = if entry.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
        if self.since != 0 || self.until != 0 {
            let at = time::parse(entry.time).unwrap_or(0);
            if self.until != 0 && at > self.until {
                return false;
            }
            if at < self.since {
                return true;
            }
        }
        if !(if stream == Stream::Stdout { self.stdout } else { self.stderr }) {
            return true;
        }
        if self.timestamps {
            let at = time::rfc3339_fixed(time::parse(entry.time).unwrap_or(0));
            frame::put(to, self.tty, stream, format!("{at} {}", entry.log).as_bytes());
        } else {
            frame::put(to, self.tty, stream, entry.log.as_bytes());
        }
        true
    }
}

/// Where the last `count` entries of `file` begin, and how many there are of them.
fn tail_offset(file: &mut File, count: usize) -> std::io::Result<(u64, usize)> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut found = 0;
    let size = end;
    while end > 0 {
        let from = end.saturating_sub(BLOCK);
        let mut block = vec![0; (end - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block)?;
        for at in (0..block.len()).rev() {
            let position = from + at as u64;
            if block[at] == b'\n' && position + 1 < size {
                found += 1;
                if found == count {
                    return Ok((position + 1, count));
                }
            }
        }
        end = from;
    }
    Ok((0, if size == 0 { 0 } else { found + 1 }))
}

/// The log's files, oldest first, each from where it is to be read.
fn files(path: &Path, tail: Option<usize>) -> Vec<File> {
    let mut list = VecDeque::new();
    let mut left = tail.unwrap_or(usize::MAX);
    for n in 0.. {
        let Ok(mut file) = File::open(nth(path, n)) else { break };
        let found = if left == 0 {
            file.seek(SeekFrom::End(0)).map(|_| 0)
        } else if tail.is_some() {
            tail_offset(&mut file, left)
                .and_then(|(at, found)| file.seek(SeekFrom::Start(at)).map(|_| found))
        } else {
            Ok(0)
        };
        left = left.saturating_sub(found.unwrap_or(0));
        list.push_front(file);
        if left == 0 {
            break;
        }
    }
    list.into()
}

/// Streams the log at `path`; `mark` says when there is more.
pub(crate) fn stream(path: PathBuf, wanted: Wanted, mark: watch::Receiver<Mark>) -> Outputs<Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    let runtime = tokio::runtime::Handle::current();
    // Reading a file blocks, and a log may be long: not on the threads of the other calls.
    tokio::task::spawn_blocking(move || read(&path, &wanted, mark, &sender, &runtime));
    Box::pin(ReceiverStream::new(receiver))
}

fn read(
    path: &Path,
    wanted: &Wanted,
    mut mark: watch::Receiver<Mark>,
    sender: &mpsc::Sender<Result<Bytes>>,
    runtime: &tokio::runtime::Handle,
) {
    let mut files: VecDeque<File> = files(path, wanted.tail).into();
    let mut out = BytesMut::new();
    let mut line = Vec::new();
    let mut current: Option<BufReader<File>> = None;
    loop {
        let seen = *mark.borrow_and_update();
        loop {
            let Some(reader) = &mut current else {
                match files.pop_front() {
                    Some(file) => current = Some(BufReader::with_capacity(CHUNK, file)),
                    None => break,
                }
                continue;
            };
            match reader.read_until(b'\n', &mut line) {
                Ok(n) if n > 0 && line.ends_with(b"\n") => {
                    if !wanted.put(&line, &mut out) {
                        let _ = sender.blocking_send(Ok(out.freeze()));
                        return;
                    }
                    line.clear();
                    if out.len() >= CHUNK && sender.blocking_send(Ok(out.split().freeze())).is_err()
                    {
                        return;
                    }
                }
                // The end, or a part of an entry that is just being written.
                _ if files.is_empty() => break,
                _ => {
                    line.clear();
                    current = None;
                }
            }
        }
        if !out.is_empty() && sender.blocking_send(Ok(out.split().freeze())).is_err() {
            return;
        }
        if !wanted.follow || (!seen.open && *mark.borrow() == seen) {
            return;
        }
        if *mark.borrow() == seen {
            let over = runtime.block_on(async {
                let until = async {
                    match wanted.until {
                        0 => std::future::pending().await,
                        until => {
                            let left = (until - time::now()).max(0) as u64;
                            tokio::time::sleep(std::time::Duration::from_nanos(left)).await;
                        }
                    }
                };
                tokio::select! {
                    changed = mark.changed() => changed.is_err(),
                    _ = sender.closed() => true,
                    _ = until => true,
                }
            });
            if over {
                return;
            }
        }
        if turned_over(current.as_ref(), path)
            && let Ok(file) = File::open(path)
        {
            files.push_back(file);
        }
    }
}

/// Whether the file being read is no longer the log's current one.
fn turned_over(reader: Option<&BufReader<File>>, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Some(reader) = reader else { return true };
    match (reader.get_ref().metadata(), std::fs::metadata(path)) {
        (Ok(read), Ok(current)) => read.ino() != current.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::log::{Keeping, Writer};
    use futures_util::StreamExt;

    async fn collect(path: &Path, wanted: Wanted) -> String {
        let (_, mark) = watch::channel(Mark::default());
        let mut out = stream(path.to_owned(), wanted, mark);
        let mut text = Vec::new();
        while let Some(chunk) = out.next().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn logs_are_read_by_stream_and_by_tail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let keeping = Keeping { kept: true, max_size: None, max_files: 1 };
        let mut writer = Writer::open(&path, keeping, watch::Sender::default()).unwrap();
        for n in 0..1000 {
            writer.write(Stream::Stdout, format!("o{n}\n").as_bytes()).unwrap();
        }
        writer.write(Stream::Stderr, b"e\n").unwrap();
        let both = Wanted { stdout: true, stderr: true, tty: true, ..Wanted::default() };
        assert_eq!(collect(&path, both.clone()).await.lines().count(), 1001);
        let tail = Wanted { tail: Some(2), ..both.clone() };
        assert_eq!(collect(&path, tail).await, "o999\ne\n");
        assert_eq!(collect(&path, Wanted { tail: Some(0), ..both.clone() }).await, "");
        assert_eq!(collect(&path, Wanted { stdout: false, ..both }).await, "e\n");
    }

    #[tokio::test]
    async fn a_follower_sees_what_is_written_later_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let keeping = Keeping { kept: true, max_size: Some(50), max_files: 3 };
        let mark = watch::Sender::new(Mark::default());
        let mut writer = Writer::open(&path, keeping, mark.clone()).unwrap();
        let wanted = Wanted { stdout: true, follow: true, tty: true, ..Wanted::default() };
        let mut out = stream(path, wanted, mark.subscribe());
        for n in 0..3 {
            writer.write(Stream::Stdout, format!("{n}\n").as_bytes()).unwrap();
            assert_eq!(&out.next().await.unwrap().unwrap()[..], format!("{n}\n").as_bytes());
        }
        drop(writer);
        assert!(out.next().await.is_none());
    }
}
