//! The shim: the parent of a pod's containers, so that containerd may die without them.
//!
//! containerd executed one per container from its first release (2015) and gave it a protocol of
//! its own in 1.2 (2018), "runtime v2": a command line (`start`, `delete`) and a ttrpc service on
//! a unix socket. This one speaks that protocol to any containerd since 1.2, in the form that the
//! containerd asks for ([`bootstrap`]), and below it an OCI runtime's command line.
//!
//! It is one thread without an async runtime: [`serve`] polls a handful of descriptors and the
//! futures of the calls that are open, most of which finish at their first poll. A container's
//! standard streams are handed to its process as they are, so a shim copies nothing unless there
//! is a terminal. Read [`launch`] for how one comes to be, [`serve`] for what it then does,
//! [`engine`] for the verbs of tasks, and [`pod`] for those of a sandbox.

pub(crate) mod bootstrap;
mod bundle;
mod cgroup;
mod connection;
mod console;
mod container;
mod delete;
mod door;
mod engine;
mod events;
mod flags;
mod info;
mod launch;
mod logger;
mod oom;
mod pause;
mod pod;
mod process;
mod rootfs;
mod runtime;
mod sandbox;
mod serve;
mod stats;
mod stdio;
mod sys;

use std::{ffi::OsString, io::Write, process::ExitCode};

pub(crate) use rootfs::mount_one;

use flags::{Action, Flags};

/// The layer's name in traces.
const LAYER: &str = "shim";
/// The runtime's name.
const NAME: &str = "io.containerd.strata.v2";

/// `containerd-shim-strata-v2`: `args` begins with the program's own name.
///
/// Exit codes are containerd-shim-runc-v2's: 1 for a failure, 2 for a command line that cannot be
/// read; the error's text stands on standard error, where containerd picks it up.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_default();
    let flags = match flags::parse(args) {
        Ok(flags) => flags,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            return ExitCode::from(2);
        }
    };
    if flags.version {
        print!(
            "{}:\n  Version:  {}\n  Revision: \n\n",
            program.to_string_lossy(),
            env!("CARGO_PKG_VERSION")
        );
        return ExitCode::SUCCESS;
    }
    match run(&program, flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = write!(std::io::stderr(), "{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(program: &OsString, flags: Flags) -> hops::Result<()> {
    if flags.info {
        return info::info(program);
    }
    if flags.namespace.is_empty() {
        return Err(hops::HopError::invalid("shim namespace cannot be empty"));
    }
    match flags.action {
        Action::Start => launch::start(program, flags),
        Action::Delete => delete::delete(program, &flags),
        Action::Serve => launch::serve_inherited(program, flags),
    }
}
