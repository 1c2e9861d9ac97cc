//! The contract of the face, on each of its implementations.

#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use cni_layer::{Engine, engine, suite};
use hops::Cni;
use wire::cni::Client;

/// Where Debian installs the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

fn prove(plugins: &dyn Cni) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    match suite::apart(|| suite::run(plugins, &path)) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("SKIP: making namespaces needs root: {e}");
        }
        outcome => outcome.unwrap().unwrap(),
    }
}

/// A directory of links to the program, one per plugin, as a `CNI_PATH` has it.
fn installed(dir: &Path) -> Vec<PathBuf> {
    for kind in engine::built_in() {
        symlink(env!("CARGO_BIN_EXE_strata-cni"), dir.join(kind)).unwrap();
    }
    vec![dir.to_owned()]
}

#[test]
fn the_engine_in_process() {
    prove(&Engine::default());
}

#[test]
fn the_program_executed() {
    let dir = tempfile::tempdir().unwrap();
    prove(&Client { path: installed(dir.path()) });
}

#[test]
fn the_reference_plugins() {
    if !Path::new(REFERENCE).join("bridge").exists() {
        println!("SKIP: no reference plugins in {REFERENCE}");
        return;
    }
    prove(&Client { path: vec![REFERENCE.into()] });
}
