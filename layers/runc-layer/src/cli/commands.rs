//! The commands that change containers.

use std::{os::fd::OwnedFd, path::PathBuf};

use super::{Failure, Invocation, Outcome, attach::Attachment, options::Parsed, signals};
use crate::{
    Create, Error, Exec, ExecProcess, Result, Started,
    error::Context,
    spec::{Process, Spec, decode},
    sys::credentials,
};

/// The id is the first argument of every command that has one.
pub(super) fn id<'a>(invocation: &'a Invocation<'_>) -> &'a str {
    invocation.options.rest.first().map_or("", String::as_str)
}

pub(super) fn path(options: &Parsed, name: &str) -> Option<PathBuf> {
    options.get(name).filter(|p| !p.is_empty()).map(PathBuf::from)
}

/// Descriptors that the program keeps: those asked for, and those of socket activation
/// (sd_listen_fds(3)) with the variables that tell of them.
fn preserved(options: &Parsed) -> std::result::Result<(u32, Vec<String>), String> {
    // A negative number is none, as for runc.
    let asked = options.number("--preserve-fds")?.unwrap_or(0i64).max(0) as u32;
    let listening = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u32>().ok());
    Ok(match listening {
        Some(n) => (asked + n, vec![format!("LISTEN_FDS={n}"), "LISTEN_PID=1".to_owned()]),
        None => (asked, Vec::new()),
    })
}

fn request(invocation: &Invocation<'_>) -> std::result::Result<Create, Failure> {
    let o = &invocation.options;
    let (preserve_fds, env) = preserved(o)?;
    Ok(Create {
        id: id(invocation).to_owned(),
        bundle: path(o, "--bundle").unwrap_or_else(|| PathBuf::from(".")),
        console_socket: path(o, "--console-socket"),
        pidfd_socket: path(o, "--pidfd-socket"),
        pid_file: path(o, "--pid-file"),
        no_pivot: o.on("--no-pivot"),
        no_new_keyring: o.on("--no-new-keyring"),
        preserve_fds,
        env,
        ..Create::default()
    })
}

pub(super) fn warn(invocation: &Invocation<'_>, warnings: &[String]) {
    for warning in warnings {
        invocation.log.warning(warning);
    }
}

pub(super) fn create(invocation: &Invocation<'_>) -> Outcome {
    let created = invocation
        .runtime
        .create(request(invocation)?)
        .map_err(|e| Failure::of("runc create failed", e, 1))?;
    warn(invocation, &created.warnings);
    Ok(0)
}

pub(super) fn run(invocation: &Invocation<'_>) -> Outcome {
    let mut request = request(invocation)?;
    let failed = |e: Error| Failure::of("runc run failed", e, 1);
    if invocation.options.on("--detach") {
        let started = invocation.runtime.run(request).map_err(failed)?;
        warn(invocation, &started.warnings);
        return Ok(0);
    }
    if request.console_socket.is_some() {
        return Err(failed(without_console()));
    }
    let spec = Spec::load(&request.bundle).map_err(failed)?;
    let tty = spec.process.as_ref().is_some_and(|p| p.terminal);
    let keep = invocation.options.on("--keep");
    in_foreground(invocation, tty, keep, |console| {
        request.console = console;
        invocation.runtime.run_spec(request, spec)
    })
    .map_err(failed)
}

/// runc's refusal of a console socket in the foreground.
pub(super) fn without_console() -> Error {
    Error::Invalid("cannot use console socket if runc will not detach or allocate tty".into())
}

/// Stays with the container that `begin` makes, whose terminal comes to the socket that it is given,
/// and removes it in the end unless it is to `keep`; answers the exit code.
pub(super) fn in_foreground(
    invocation: &Invocation<'_>,
    tty: bool,
    keep: bool,
    begin: impl FnOnce(Option<OwnedFd>) -> Result<Started>,
) -> Result<u8> {
    if !invocation.options.on("--no-subreaper") {
        // What the container's process leaves behind is ours to wait for.
        let _ = credentials::become_subreaper();
    }
    let (attachment, console) = Attachment::new(tty)?;
    let started = begin(console)?;
    warn(invocation, &started.warnings);
    let code = attachment.stay(&started);
    if !keep {
        let mut warned = |w: String| invocation.log.warning(&w);
        invocation.runtime.remove(id(invocation), true, &mut warned)?;
    }
    Ok(code? as u8)
}

pub(super) fn start(invocation: &Invocation<'_>) -> Outcome {
    invocation.runtime.start(id(invocation))?;
    Ok(0)
}

pub(super) fn state(invocation: &Invocation<'_>) -> Outcome {
    let state = invocation.runtime.state(id(invocation))?;
    // runc tells the owner in `list` only.
    super::show::print_json(&super::show::Shown { state: &state, owner: String::new() })
}

pub(super) fn kill(invocation: &Invocation<'_>) -> Outcome {
    let signal = invocation.options.rest.get(1).map_or("SIGTERM", String::as_str);
    let signal = match signals::parse(signal) {
        Ok(signal) => signal,
        // Whether the container is there comes first.
        Err(e) => {
            return Err(invocation
                .runtime
                .state(id(invocation))
                .map_or_else(Into::into, |_| e.into()));
        }
    };
    invocation.runtime.kill(id(invocation), signal, invocation.options.on("--all"))?;
    Ok(0)
}

pub(super) fn delete(invocation: &Invocation<'_>) -> Outcome {
    let force = invocation.options.on("--force");
    invocation.runtime.remove(id(invocation), force, &mut |w| invocation.log.warning(&w))?;
    Ok(0)
}

pub(super) fn pause(invocation: &Invocation<'_>) -> Outcome {
    invocation.runtime.pause(id(invocation))?;
    Ok(0)
}

pub(super) fn resume(invocation: &Invocation<'_>) -> Outcome {
    invocation.runtime.resume(id(invocation))?;
    Ok(0)
}

pub(super) fn exec(invocation: &Invocation<'_>) -> Outcome {
    // runc answers 255 for whatever keeps the process from running.
    let failed = |e: Error| Failure::of("exec failed", e, 255);
    let o = &invocation.options;
    let (process, tty) = match exec_process(o) {
        Ok(process) => process,
        // Whether anything can be executed there comes first.
        Err(e) => {
            return Err(failed(invocation.runtime.executable(id(invocation)).err().unwrap_or(e)));
        }
    };
    let (preserve_fds, env) = preserved(o)?;
    let process = match process {
        ExecProcess::Like {
            args,
            tty,
            user,
            additional_gids,
            cwd,
            env: own,
            capabilities,
            no_new_privileges,
            apparmor,
            selinux_label,
        } => {
            let env = own.into_iter().chain(env).collect();
            ExecProcess::Like {
                args,
                tty,
                user,
                additional_gids,
                cwd,
                env,
                capabilities,
                no_new_privileges,
                apparmor,
                selinux_label,
            }
        }
        json => json,
    };
    let mut request = Exec {
        id: id(invocation).to_owned(),
        process,
        pidfd_socket: path(o, "--pidfd-socket"),
        pid_file: path(o, "--pid-file"),
        console_socket: path(o, "--console-socket"),
        preserve_fds,
        cgroups: o.all("--cgroup"),
        ignore_paused: o.on("--ignore-paused"),
        ..Exec::default()
    };
    if o.on("--detach") {
        let started = invocation.runtime.exec(request).map_err(failed)?;
        warn(invocation, &started.warnings);
        return Ok(0);
    }
    if request.console_socket.is_some() {
        let wrong = without_console();
        return Err(failed(invocation.runtime.executable(&request.id).err().unwrap_or(wrong)));
    }
    let (attachment, console) = Attachment::new(tty).map_err(failed)?;
    request.console = console;
    let started = invocation.runtime.exec(request).map_err(failed)?;
    warn(invocation, &started.warnings);
    Ok(attachment.stay(&started).map_err(failed)? as u8)
}

/// The process of `exec`, and whether it wants a terminal.
fn exec_process(o: &Parsed) -> Result<(ExecProcess, bool)> {
    if let Some(path) = o.get("--process") {
        let json = std::fs::read(path).context(|| format!("open {path}"))?;
        let process: Process = decode(&json, "process")?;
        return Ok((ExecProcess::Json(json), process.terminal));
    }
    let args = o.rest.get(1..).unwrap_or(&[]).to_vec();
    if args.is_empty() {
        return Err(Error::Invalid("process args cannot be empty".into()));
    }
    let number = |what: &str, text: &str| {
        text.parse::<u32>()
            .map_err(|_| Error::Invalid(format!("parsing {text} as int for {what} failed: strconv.Atoi: parsing {text:?}: invalid syntax")))
    };
    let user = match o.get("--user") {
        None => None,
        Some(text) => Some(match text.split_once(':') {
            Some((uid, gid)) => (number("uid", uid)?, Some(number("gid", gid)?)),
            None => (number("uid", text)?, None),
        }),
    };
    let additional_gids = o
        .all("--additional-gids")
        .iter()
        .map(|gid| number("gid", gid))
        .collect::<Result<Vec<_>>>()?;
    let tty = o.on("--tty");
    let process = ExecProcess::Like {
        args,
        tty,
        user,
        additional_gids,
        cwd: o.get("--cwd").map(str::to_owned),
        env: o.all("--env"),
        capabilities: o.all("--cap"),
        no_new_privileges: o.get("--no-new-privs").map(|on| on == "true"),
        apparmor: o.get("--apparmor").map(str::to_owned),
        selinux_label: o.get("--process-label").map(str::to_owned),
    };
    Ok((process, tty))
}
