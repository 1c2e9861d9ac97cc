//! A container's standard streams: from its fifos to its log and to whoever is attached.

pub(crate) mod frame;
pub(crate) mod hub;
pub(crate) mod line;
pub(crate) mod log;
pub(crate) mod pump;
pub(crate) mod read;

/// Which of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The name in a log line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}
