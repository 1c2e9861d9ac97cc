//! CRIU, which writes the processes of a container to files and makes them again of those.
//!
//! It is a program of its own (criu.org), executed for each checkpoint and restore as runc executes
//! it: `criu swrk FD` answers requests on the socket that it is given. The messages are those of
//! its images/rpc.proto, as of CRIU 3.17.

pub(crate) mod message;
pub(crate) mod option;
mod session;

pub(crate) use message::Message;
pub(crate) use session::{Notice, Session};

use crate::{Error, Result};

/// What a request or an answer is about (`criu_req_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

impl Kind {
    fn from_number(number: u64) -> Option<Kind> {
        let all = [
            Kind::Dump,
            Kind::Restore,
            Kind::PreDump,
            Kind::Notify,
            Kind::FeatureCheck,
            Kind::Version,
        ];
        all.into_iter().find(|kind| *kind as u64 == number)
    }

    /// Its name in runc's errors.
    fn name(self) -> &'static str {
        match self {
            Kind::Dump => "DUMP",
            Kind::Restore => "RESTORE",
            Kind::PreDump => "PRE_DUMP",
            Kind::Notify => "NOTIFY",
            Kind::FeatureCheck => "FEATURE_CHECK",
            Kind::Version => "VERSION",
        }
    }
}

/// A request of `kind` with its options.
pub(crate) fn request(kind: Kind, options: Option<&Message>) -> Message {
    let mut request = Message::default();
    request.number(1, kind as i64);
    if let Some(options) = options {
        request.message(2, options);
    }
    request
}

/// CRIU's version as runc counts it: 3.17.1 is 31701.
///
/// # Errors
///
/// runc's words when `program` is not there or does not tell it.
pub(crate) fn version(program: &str) -> Result<u64> {
    let failed = |e: Error| Error::Invalid(format!("CRIU version check failed: {e}"));
    let mut session = Session::start(program, &[], false).map_err(failed)?;
    let answer = session.ask(&request(Kind::Version, None), &mut |_| Ok(())).map_err(failed)?;
    session.end().map_err(failed)?;
    let version = answer.version.unwrap_or_default();
    Ok(version.major * 10_000 + version.minor * 100 + version.sublevel)
}

/// A feature of CRIU and of the kernel that it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Feature {
    /// Which pages were written to since the last dump.
    MemTrack = 1,
    /// Pages that are fetched when they are touched.
    LazyPages = 2,
}

/// Refuses what CRIU or this kernel cannot do.
///
/// # Errors
///
/// runc's words.
pub(crate) fn need(program: &str, feature: Feature) -> Result<()> {
    let mut features = Message::default();
    features.flag(feature as u32, true);
    let mut request = request(Kind::FeatureCheck, None);
    request.message(5, &features);
    let failed = |e: Error| Error::Invalid(format!("CRIU feature check failed: {e}"));
    let mut session = Session::start(program, &[], false).map_err(failed)?;
    let answer = session.ask(&request, &mut |_| Ok(())).map_err(failed)?;
    session.end().map_err(failed)?;
    match answer.features.contains(&(feature as u32)) {
        true => Ok(()),
        false => Err(Error::Invalid(format!("criu is missing features: [{feature:?}]"))),
    }
}
