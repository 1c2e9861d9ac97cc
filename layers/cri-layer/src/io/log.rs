//! The log format of CRI: `2024-01-02T03:04:05.123456789Z stdout F line`.
//!
//! A line longer than [`LINE`] is written in parts, each but the last marked `P`; so is what a
//! process leaves without an end of line (containerd 1.6, `pkg/cri/io/logger.go`).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Sink;
use crate::image::lock;

/// The longest line that is written whole, in bytes (containerd's `max_container_log_line_size`).
const LINE: usize = 16 << 10;

/// One of a process's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Stream::Stdout => b"stdout",
            Stream::Stderr => b"stderr",
        }
    }
}

/// A container's log file, shared by its streams.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Mutex<File>,
}

impl Log {
    /// Opens the file at `path` for appending; its directory is made where it is missing.
    ///
    /// # Errors
    /// Those of making and opening.
    pub(crate) fn open(path: &Path) -> io::Result<Log> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        Ok(Log { path: path.to_owned(), file: Mutex::new(append(path)?) })
    }

    /// Opens the path again, which now is another file: the old one was moved away.
    ///
    /// # Errors
    /// Those of opening; the old file stays in use then.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let file = append(&self.path)?;
        *lock(&self.file) = file;
        Ok(())
    }

    fn write(&self, lines: &[u8]) {
        if let Err(error) = lock(&self.file).write_all(lines) {
            // The process must not be held up because its log cannot be written.
            tracing::warn!(%error, path = %self.path.display(), "log lines are lost");
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Writes a stream to a log.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    log: Arc<Log>,
    /// The beginning of a line whose end was not read yet.
    begun: Vec<u8>,
    out: Vec<u8>,
}

impl Lines {
    /// The lines of `stream` in `log`.
    pub(crate) fn new(stream: Stream, log: Arc<Log>) -> Lines {
        Lines { stream, log, begun: Vec::new(), out: Vec::new() }
    }
}

impl Sink for Lines {
    fn take(&mut self, bytes: &[u8]) {
        let stamp = Stamp::now();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (mut text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            while self.begun.len() + text.len() > LINE {
                let (part, rest) = text.split_at(LINE - self.begun.len());
                entry(&mut self.out, &stamp, self.stream, b" P ", &[&self.begun, part]);
                self.begun.clear();
                text = rest;
            }
            if ended {
                entry(&mut self.out, &stamp, self.stream, b" F ", &[&self.begun, text]);
                self.begun.clear();
            } else {
                self.begun.extend_from_slice(text);
            }
        }
        if !self.out.is_empty() {
            self.log.write(&self.out);
            self.out.clear();
        }
    }

    fn end(&mut self) {
        if !self.begun.is_empty() {
            entry(&mut self.out, &Stamp::now(), self.stream, b" P ", &[&self.begun]);
            self.log.write(&self.out);
            (self.begun, self.out) = (Vec::new(), Vec::new());
        }
    }
}

/// Throws a stream away.
#[derive(Debug)]
pub(crate) struct Discard;

impl Sink for Discard {
    fn take(&mut self, _: &[u8]) {}
}

fn entry(out: &mut Vec<u8>, stamp: &Stamp, stream: Stream, tag: &[u8], text: &[&[u8]]) {
    out.extend_from_slice(&stamp.0);
    out.push(b' ');
    out.extend_from_slice(stream.name());
    out.extend_from_slice(tag);
    for part in text {
        out.extend_from_slice(part);
    }
    out.push(b'\n');
}

/// A time as RFC 3339 with nanoseconds, in UTC.
struct Stamp([u8; 30]);

impl Stamp {
    fn now() -> Stamp {
        Stamp::of(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
    }

    fn of(since_1970: Duration) -> Stamp {
        let seconds = since_1970.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        let mut put = |at: usize, width: usize, mut n: u64| {
            for digit in text[at..at + width].iter_mut().rev() {
                *digit = b'0' + (n % 10) as u8;
                n /= 10;
            }
        };
        put(0, 4, year);
        put(5, 2, month);
        put(8, 2, day);
        put(11, 2, seconds / 3600 % 24);
        put(14, 2, seconds / 60 % 60);
        put(17, 2, seconds % 60);
        put(20, 9, u64::from(since_1970.subsec_nanos()));
        Stamp(text)
    }
}

/// Year, month and day of a count of days since 1970 (the civil calendar's era arithmetic).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written for `chunks`: (stream and tag and text) of each entry.
    fn logged(chunks: &[&[u8]]) -> Vec<(String, usize)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/0.log");
        let mut lines = Lines::new(Stream::Stdout, Arc::new(Log::open(&path).unwrap()));
        chunks.iter().for_each(|chunk| lines.take(chunk));
        lines.end();
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| {
                let (head, text) = line.split_at(40);
                (format!("{} {}", &head[31..], text.get(..5).unwrap_or(text)), text.len())
            })
            .collect()
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (nanos, text) in [
            (0u64, "1970-01-01T00:00:00.000000000Z"),
            (1_704_164_645_123_456_789, "2024-01-02T03:04:05.123456789Z"),
            (1_709_208_000_000_000_001, "2024-02-29T12:00:00.000000001Z"),
        ] {
            assert_eq!(Stamp::of(Duration::from_nanos(nanos)).0, *text.as_bytes());
        }
    }

    #[test]
    fn lines_are_joined_and_split() {
        assert_eq!(
            logged(&[b"one\ntw", b"o\n\n", b"thr"]),
            [
                ("stdout F  one".to_owned(), 3),
                ("stdout F  two".into(), 3),
                ("stdout F  ".into(), 0),
                ("stdout P  thr".into(), 3),
            ]
        );
        let long = vec![b'x'; LINE + 5];
        let split = logged(&[&long[..10], &long[10..], b"\n"]);
        assert_eq!(split, [("stdout P  xxxxx".to_owned(), LINE), ("stdout F  xxxxx".into(), 5)]);
        let exact = vec![b'x'; LINE];
        assert_eq!(logged(&[&exact, b"\n"]), [("stdout F  xxxxx".to_owned(), LINE)]);
    }

    #[test]
    fn a_moved_log_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.old"));
        let log = Arc::new(Log::open(&path).unwrap());
        let mut lines = Lines::new(Stream::Stderr, log.clone());
        lines.take(b"before\n");
        fs::rename(&path, &old).unwrap();
        log.reopen().unwrap();
        lines.take(b"after\n");
        assert!(fs::read_to_string(old).unwrap().ends_with(" stderr F before\n"));
        assert!(fs::read_to_string(path).unwrap().ends_with(" stderr F after\n"));
    }
}
