//! runc's log: logrus lines, as text or JSON, in a file or on standard error.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
};

use crate::state::now;

/// Where messages go.
#[derive(Debug, Default)]
pub(super) struct Log {
    file: Option<File>,
    pub(super) json: bool,
    pub(super) debug: bool,
}

/// `log` keeps errors out of standard error when they have a log file. For a caller that reads the
/// file, and whose standard error is the container's: its reader would see them twice.
const ERRORS: &str = "STRATA_RUNC_ERRORS";

impl Log {
    /// Writes to the file from here on; it is made even if nothing is to be said.
    pub(super) fn open(&mut self, path: &str) -> Result<(), String> {
        let opened = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        self.file = Some(opened.map_err(|e| format!("open {path}: {}", crate::Errno::from(e)))?);
        Ok(())
    }

    pub(super) fn error(&self, message: &str) {
        self.line("error", message);
        if self.file.is_some() && std::env::var_os(ERRORS).is_none_or(|to| to != "log") {
            eprintln!("{message}");
        }
    }

    pub(super) fn warning(&self, message: &str) {
        self.line("warning", message);
    }

    pub(super) fn debug(&self, message: &str) {
        if self.debug {
            self.line("debug", message);
        }
    }

    fn line(&self, level: &str, message: &str) {
        let time = now();
        // Seconds are enough: what follows the point goes, the zone stays.
        let time = format!("{}Z", time.split('.').next().unwrap_or(&time));
        let line = if self.json {
            serde_json::json!({"level": level, "msg": message, "time": time}).to_string()
        } else {
            format!("time={time:?} level={level} msg={message:?}")
        };
        match self.file.as_ref() {
            Some(mut file) => {
                let _ = writeln!(file, "{line}");
            }
            None => eprintln!("{line}"),
        }
    }
}
