//! The `json-file` log driver: appends entries, turns the files over at their size.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use hops::{HopError, Result, docker::models::HostConfigLogConfig};
use tokio::sync::watch;

use super::{
    Stream,
    line::{Splitter, encode},
};
use crate::time;

/// How a container's log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keeping {
    /// Whether there is a log at all (`json-file`, or `none`).
    pub(crate) kept: bool,
    /// Turn the file over at this size in bytes.
    pub(crate) max_size: Option<u64>,
    /// How many files there may be, the current one included.
    pub(crate) max_files: usize,
}

impl Keeping {
    /// Reads `HostConfig.LogConfig`.
    ///
    /// # Errors
    /// Docker's words for a driver that there is not, and for options that it does not know.
    pub(crate) fn of(config: Option<&HostConfigLogConfig>) -> Result<Keeping> {
        let mut keeping = Keeping { kept: true, max_size: None, max_files: 1 };
        let Some(config) = config else { return Ok(keeping) };
        match config.typ.as_deref() {
            None | Some("" | "json-file") => {}
            Some("none") => keeping.kept = false,
            Some(other) => {
                return Err(HopError::invalid(format!(
                    "logger: no log driver named '{other}' is registered"
                )));
            }
        }
        for (key, value) in config.config.iter().flatten() {
            let invalid =
                || HopError::invalid(format!("invalid value for log opt '{key}': {value}"));
            match key.as_str() {
                "max-size" => keeping.max_size = Some(bytes(value).ok_or_else(invalid)?),
                "max-file" => {
                    keeping.max_files =
                        value.parse().ok().filter(|n| *n > 0).ok_or_else(invalid)?;
                }
                // They add fields to the entries of drivers that ship them elsewhere.
                "labels" | "labels-regex" | "env" | "env-regex" | "tag" => {}
                // Old files are kept as they are.
                "compress" if value == "false" => {}
                _ => {
                    return Err(HopError::invalid(format!(
                        "unknown log opt '{key}' for json-file log driver"
                    )));
                }
            }
        }
        Ok(keeping)
    }
}

/// `10m`, `1g`, `512` (go-units' `FromHumanSize` with powers of 1000 in 1024's place).
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(['b', 'i']);
    let (digits, unit) = match digits.strip_suffix(['k', 'm', 'g']) {
        Some(rest) if digits.ends_with('k') => (rest, 1 << 10),
        Some(rest) if digits.ends_with('m') => (rest, 1 << 20),
        Some(rest) => (rest, 1 << 30),
        None => (digits, 1),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// How far a log is written; those who follow it wait for the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Grows with every write.
    pub(crate) writes: u64,
    /// Whether somebody writes at all.
    pub(crate) open: bool,
}

/// The path of the log's `n`th file: 0 is the current one, 1 the one before it.
pub(crate) fn nth(path: &Path, n: usize) -> PathBuf {
    match n {
        0 => path.to_owned(),
        n => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        }
    }
}

/// Writes one container's log.
pub(crate) struct Writer {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    keeping: Keeping,
    buffer: Vec<u8>,
    splitters: HashMap<&'static str, Splitter>,
    mark: watch::Sender<Mark>,
}

impl Writer {
    /// Goes on with the log at `path`; `mark` tells of what is written.
    ///
    /// # Errors
    /// Those of opening the file.
    pub(crate) fn open(
        path: &Path,
        keeping: Keeping,
        mark: watch::Sender<Mark>,
    ) -> io::Result<Writer> {
        let mut writer = Writer {
            path: path.to_owned(),
            file: None,
            size: 0,
            keeping,
            buffer: Vec::new(),
            splitters: HashMap::new(),
            mark,
        };
        if writer.keeping.kept {
            writer.reopen()?;
        }
        writer.mark.send_modify(|m| m.open = true);
        Ok(writer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().append(true).create(true).mode(0o640).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes what a stream said; an empty `data` is the stream's end.
    ///
    /// # Errors
    /// Those of writing: a full disk loses entries, and the container goes on.
    pub(crate) fn write(&mut self, stream: Stream, data: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        let now = time::rfc3339(time::now());
        let buffer = &mut self.buffer;
        let splitter = self.splitters.entry(stream.name()).or_default();
        let entry = |piece: &[u8]| encode(buffer, stream, piece, &now);
        if data.is_empty() {
            splitter.end(entry)
        } else {
            splitter.feed(data, entry)
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        if self.keeping.max_size.is_some_and(|max| self.size >= max) {
            self.turn_over()?;
        }
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(&buffer));
        self.size += buffer.len() as u64;
        // A container that is silent for now keeps no memory for what it said.
        self.buffer = if buffer.capacity() > 64 << 10 { Vec::new() } else { buffer };
        self.buffer.clear();
        self.mark.send_modify(|m| m.writes += 1);
        written
    }

    fn turn_over(&mut self) -> io::Result<()> {
        self.file = None;
        if self.keeping.max_files < 2 {
            File::create(&self.path)?;
        } else {
            for n in (0..self.keeping.max_files - 1).rev() {
                match fs::rename(nth(&self.path, n), nth(&self.path, n + 1)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        self.reopen()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.mark.send_modify(|m| m.open = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_turned_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-json.log");
        let keeping = Keeping { kept: true, max_size: Some(100), max_files: 2 };
        let mut writer = Writer::open(&path, keeping, watch::Sender::default()).unwrap();
        for n in 0..9 {
            writer.write(Stream::Stdout, format!("line {n}\n").as_bytes()).unwrap();
        }
        let text = |n| fs::read_to_string(nth(&path, n)).unwrap();
        assert!(
            text(0).contains("line 8") && text(1).contains("line 7") || text(0).contains("line 7")
        );
        assert!(!nth(&path, 2).exists());
    }

    #[test]
    fn options_are_read_or_refused() {
        let config = |kind: &str, key: &str, value: &str| HostConfigLogConfig {
            typ: Some(kind.into()),
            config: Some(HashMap::from([(key.into(), value.into())])),
        };
        let keeping = Keeping::of(Some(&config("json-file", "max-size", "10m"))).unwrap();
        assert_eq!(keeping.max_size, Some(10 << 20));
        assert!(!Keeping::of(Some(&config("none", "tag", "x"))).unwrap().kept);
        for (kind, key, value) in
            [("syslog", "tag", "x"), ("json-file", "x", "y"), ("json-file", "max-size", "z")]
        {
            assert!(Keeping::of(Some(&config(kind, key, value))).is_err());
        }
    }
}
