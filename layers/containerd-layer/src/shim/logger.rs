//! The shim's log: lines of logrus's text form on standard error, which containerd reads from the
//! bundle's `log` fifo and mixes into its own.

use std::{
    fmt::Arguments,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Whether [`debug`] writes.
pub(super) fn set_debug(on: bool) {
    DEBUG.store(on, Ordering::Relaxed);
}

pub(super) fn debug(message: Arguments<'_>) {
    if DEBUG.load(Ordering::Relaxed) {
        line("debug", message);
    }
}

pub(super) fn warn(message: Arguments<'_>) {
    line("warning", message);
}

/// One write, so that lines of several shims do not mix; a log that nobody reads is lost.
fn line(level: &str, message: Arguments<'_>) {
    let _ = std::io::stderr().write_all(
        format!("level={level} msg={:?} runtime=strata\n", message.to_string()).as_bytes(),
    );
}
