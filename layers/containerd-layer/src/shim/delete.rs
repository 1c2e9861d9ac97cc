//! `delete`: cleans up after a shim, whether it was killed or has ended as it should.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::SystemTime,
};

use hops::{
    Cx, HopError, Result, oci, op::now, proto::containerd::task::v2::DeleteResponse, trace::Spans,
};
use nix::sys::signal::Signal;
use prost::Message;

use super::{
    LAYER,
    bundle::{self, Options},
    flags::Flags,
    logger, rootfs,
    runtime::Runtimes,
};

/// Kills and deletes the container, unmounts its root filesystem, and prints a `DeleteResponse`.
///
/// # Errors
/// When the bundle cannot be told. What cannot be cleaned up is logged, as in the real shim.
pub(super) fn delete(program: &OsStr, flags: &Flags) -> Result<()> {
    let bundle = bundle_of(flags)?;
    let options = Options::of_bundle(&bundle);
    let runtimes = Runtimes::new(program, &flags.namespace, Spans::from_env(LAYER));
    // containerd also calls this when everything was deleted before; then there is no need to
    // execute a runtime to find that out.
    if runtimes.root(&options).join(&flags.id).exists() {
        let call = oci::Delete { id: flags.id.clone(), force: true };
        if let Err(error) = now(runtimes.of(&options, &bundle).handle(&Cx::from_env(), call)) {
            logger::warn(format_args!("failed to remove runc container: {error}"));
        }
    }
    if let Err(error) = rootfs::unmount(&bundle.join("rootfs")) {
        logger::warn(format_args!("failed to cleanup rootfs mount: {error}"));
    }
    remove_socket(&bundle);
    let response = DeleteResponse {
        pid: bundle::read_pid(&bundle.join(bundle::INIT_PID)).unwrap_or_default(),
        exit_status: 128 + Signal::SIGKILL as u32,
        exited_at: Some(SystemTime::now().into()),
    };
    Ok(io::stdout().write_all(&response.encode_to_vec())?)
}

/// Removes the socket of a shim that was killed; one that still listens has other containers.
fn remove_socket(bundle: &Path) {
    if let Ok(address) = fs::read_to_string(bundle.join(bundle::ADDRESS)) {
        let socket = wire::socket::path_of(&address);
        if UnixStream::connect(&socket).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        {
            let _ = fs::remove_file(socket);
        }
    }
}

/// The bundle that is named; otherwise the one beside the working directory that has the id.
fn bundle_of(flags: &Flags) -> Result<PathBuf> {
    if !flags.bundle.as_os_str().is_empty() {
        return Ok(flags.bundle.clone());
    }
    if flags.id.is_empty() {
        return Err(HopError::invalid("id must not be empty"));
    }
    let here = std::env::current_dir()?;
    Ok(here.parent().unwrap_or(&here).join(&flags.id))
}
