//! `checkpoint` and `restore`.

use std::path::PathBuf;

use super::{
    Failure, Invocation, Outcome,
    commands::{id, in_foreground, path, warn, without_console},
    options::{Option_, Parsed, flag, number, value},
};
use crate::{
    CgroupsMode, Checkpoint, Images, Restore, engine::in_user_namespace, spec::Spec,
    sys::credentials,
};

pub(super) const CHECKPOINT: [Option_; 15] = [
    value(&["--image-path"]),
    value(&["--work-path"]),
    value(&["--parent-path"]),
    flag(&["--leave-running"]),
    flag(&["--tcp-established"]),
    flag(&["--ext-unix-sk"]),
    flag(&["--shell-job"]),
    flag(&["--lazy-pages"]),
    number(&["--status-fd"]),
    value(&["--page-server"]),
    flag(&["--file-locks"]),
    flag(&["--pre-dump"]),
    value(&["--manage-cgroups-mode"]),
    value(&["--empty-ns"]),
    flag(&["--auto-dedup"]),
];

pub(super) const RESTORE: [Option_; 18] = [
    value(&["--console-socket"]),
    value(&["--image-path"]),
    value(&["--work-path"]),
    flag(&["--tcp-established"]),
    flag(&["--ext-unix-sk"]),
    flag(&["--shell-job"]),
    flag(&["--file-locks"]),
    value(&["--manage-cgroups-mode"]),
    value(&["--bundle", "-b"]),
    flag(&["--detach", "-d"]),
    value(&["--pid-file"]),
    flag(&["--no-subreaper"]),
    flag(&["--no-pivot"]),
    value(&["--empty-ns"]),
    flag(&["--auto-dedup"]),
    flag(&["--lazy-pages"]),
    value(&["--lsm-profile"]),
    value(&["--lsm-mount-context"]),
];

/// The images and how they are made or read.
fn images(invocation: &Invocation<'_>) -> Result<Images, Failure> {
    let o = &invocation.options;
    let kinds = o.all("--empty-ns");
    if let Some(kind) = kinds.iter().find(|kind| *kind != "network") {
        return Err(format!("namespace {kind:?} is not supported").into());
    }
    Ok(Images {
        criu: invocation.criu.clone(),
        directory: path(o, "--image-path").unwrap_or_else(|| PathBuf::from("checkpoint")),
        work: path(o, "--work-path"),
        tcp_established: o.on("--tcp-established"),
        external_sockets: o.on("--ext-unix-sk"),
        shell_job: o.on("--shell-job"),
        file_locks: o.on("--file-locks"),
        auto_dedup: o.on("--auto-dedup"),
        lazy_pages: o.on("--lazy-pages"),
        cgroups: CgroupsMode::parse(o.get("--manage-cgroups-mode").unwrap_or(""))?,
        empty_network: !kinds.is_empty(),
    })
}

fn warn_rootless(invocation: &Invocation<'_>) {
    if credentials::effective_uid() != 0 || in_user_namespace() {
        invocation.log.warning("runc checkpoint is untested with rootless containers");
    }
}

pub(super) fn checkpoint(invocation: &Invocation<'_>) -> Outcome {
    let o = &invocation.options;
    warn_rootless(invocation);
    invocation.runtime.state(id(invocation))?;
    let images = images(invocation)?;
    let status_fd = o.number::<i32>("--status-fd")?.filter(|fd| *fd >= 0);
    invocation.runtime.checkpoint(&Checkpoint {
        id: id(invocation).to_owned(),
        images,
        parent: path(o, "--parent-path"),
        pre_dump: o.on("--pre-dump"),
        leave_running: o.on("--leave-running"),
        page_server: page_server(o)?,
        status_fd,
    })?;
    Ok(0)
}

fn page_server(o: &Parsed) -> Result<Option<(String, u16)>, String> {
    let Some(text) = o.get("--page-server") else { return Ok(None) };
    let (address, port) = match text.rsplit_once(':') {
        Some((address, port)) if !address.is_empty() && !port.is_empty() => (address, port),
        _ => return Err("Use --page-server ADDRESS:PORT to specify page server".to_owned()),
    };
    let port = port.parse().map_err(|_| "Invalid port number".to_owned())?;
    Ok(Some((address.trim_matches(['[', ']']).to_owned(), port)))
}

pub(super) fn restore(invocation: &Invocation<'_>) -> Outcome {
    let o = &invocation.options;
    warn_rootless(invocation);
    let mut request = Restore {
        id: id(invocation).to_owned(),
        bundle: path(o, "--bundle").unwrap_or_else(|| PathBuf::from(".")),
        images: images(invocation)?,
        console_socket: path(o, "--console-socket"),
        pid_file: path(o, "--pid-file"),
        lsm_profile: o.get("--lsm-profile").unwrap_or_default().to_owned(),
        lsm_mount_context: o.get("--lsm-mount-context").unwrap_or_default().to_owned(),
        console: None,
    };
    if o.on("--detach") {
        let started = invocation.runtime.restore(request)?;
        warn(invocation, &started.warnings);
        return Ok(0);
    }
    if request.console_socket.is_some() {
        return Err(without_console().into());
    }
    let spec = Spec::load(&request.bundle)?;
    let tty = spec.process.as_ref().is_some_and(|p| p.terminal);
    Ok(in_foreground(invocation, tty, false, |console| {
        request.console = console;
        invocation.runtime.restore(request)
    })?)
}
