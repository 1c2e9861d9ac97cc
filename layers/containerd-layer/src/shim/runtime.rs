//! Which OCI runtime a container is given to.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use hops::{
    Oci,
    trace::{Spans, Traced},
};
use wire::oci::Program;

use super::bundle::Options;

/// Where runtimes keep state unless the options say otherwise (containerd's `RuncRoot`).
const ROOT: &str = "/run/containerd/runc";
/// The runtime unless the options say otherwise.
const DEFAULT: &str = "strata-runc";

/// The choice of a runtime, and the directory of its state.
#[derive(Clone, Debug)]
pub(super) struct Runtimes {
    namespace: String,
    default: PathBuf,
    spans: Spans,
}

impl Runtimes {
    /// For containers of `namespace`. `program` is the name by which the shim was executed.
    pub(super) fn new(program: &OsStr, namespace: &str, spans: Spans) -> Runtimes {
        Runtimes { namespace: namespace.to_owned(), default: default_program(program), spans }
    }

    /// Where the runtime keeps the state of the namespace's containers.
    pub(super) fn root(&self, options: &Options) -> PathBuf {
        let root = if options.root.is_empty() { ROOT } else { &options.root };
        Path::new(root).join(&self.namespace)
    }

    /// The runtime's program.
    pub(super) fn program(&self, options: &Options) -> PathBuf {
        match options.binary_name.as_str() {
            "" => self.default.clone(),
            name => PathBuf::from(name),
        }
    }

    /// The runtime for the container of `bundle`.
    pub(super) fn of(&self, options: &Options, bundle: &Path) -> Arc<dyn Oci> {
        let program = self.program(options);
        let mut program = Program::new(program, bundle).root(&self.root(options));
        if options.systemd_cgroup {
            program = program.systemd_cgroup();
        }
        Arc::new(Traced::caller(program, self.spans.clone()))
    }
}

/// Beside the name by which the shim was executed, beside the program itself, or in PATH.
fn default_program(program: &OsStr) -> PathBuf {
    let beside = |program: &Path| {
        let dir = program.parent().filter(|dir| !dir.as_os_str().is_empty())?;
        Some(dir.join(DEFAULT)).filter(|path| path.exists())
    };
    beside(Path::new(program))
        .or_else(|| beside(&std::env::current_exe().ok()?))
        .unwrap_or_else(|| DEFAULT.into())
}
