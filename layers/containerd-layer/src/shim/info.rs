//! `-info`: what shim and runtime can do, as containerd asks since 2.0 (`ctr info`, and the CRI
//! plugin for user namespaces and recursive read-only mounts).

use std::{
    ffi::OsStr,
    io::{self, IsTerminal, Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use hops::{
    HopError, Result,
    proto::{
        Any,
        containerd::types::{RuntimeInfo, RuntimeVersion},
    },
    trace::Spans,
};
use prost::Message;

use super::{LAYER, NAME, bundle::Options, logger, runtime::Runtimes};

/// The type of the runtime specification's `features.md`, as containerd registers it.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Reads the runtime's options from standard input and prints a `RuntimeInfo`.
///
/// # Errors
/// Options that are not for this shim, and a runtime that is not installed. One that knows no
/// `features` has none.
pub(super) fn info(program: &OsStr) -> Result<()> {
    let options = options()?;
    let runtimes = Runtimes::new(program, "", Spans::from_env(LAYER));
    let runtime = runtimes.program(&Options::read(options.as_ref())?);
    let info = RuntimeInfo {
        name: NAME.into(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: String::new(),
        }),
        options,
        features: features(&runtime)?,
        annotations: Default::default(),
    };
    Ok(io::stdout().write_all(&info.encode_to_vec())?)
}

fn options() -> Result<Option<Any>> {
    let (mut stdin, mut input) = (io::stdin(), Vec::new());
    if !stdin.is_terminal() {
        stdin
            .read_to_end(&mut input)
            .map_err(|e| HopError::from(e).context("failed to read config bytes from stdin"))?;
    }
    if input.is_empty() {
        return Ok(None);
    }
    let any = Any::decode(&*input).map_err(|e| HopError::invalid(format!("options: {e}")))?;
    Ok(Some(any))
}

fn features(runtime: &Path) -> Result<Option<Any>> {
    let output =
        Command::new(runtime).arg("features").stderr(Stdio::null()).output().map_err(|e| {
            let words = format!("failed to look up the path of {:?}", runtime.display());
            HopError::from(e).context(words)
        })?;
    if !output.status.success()
        || serde_json::from_slice::<serde::de::IgnoredAny>(&output.stdout).is_err()
    {
        logger::debug(format_args!("{}: no features: {}", runtime.display(), output.status));
        return Ok(None);
    }
    Ok(Some(Any { type_url: FEATURES.into(), value: output.stdout }))
}
