//! runc's command line.

mod attach;
mod commands;
mod help;
mod images;
mod limits;
mod log;
mod options;
mod show;
mod signals;
mod template;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use hops::{
    Cx, Hop,
    trace::{Side, Spans},
};

use crate::{
    Runtime, VERSION, seal,
    sys::{credentials, file},
};
use log::Log;
use options::{Option_, Parsed, flag, number, parse, value};

/// What a command ends with: an exit code, or an error with its code.
type Outcome = Result<u8, Failure>;

/// An error that ends the program.
struct Failure {
    message: String,
    code: u8,
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(e: E) -> Failure {
        Failure { message: e.to_string(), code: 1 }
    }
}

impl Failure {
    /// The same error with runc's words for the command before it.
    fn of(prefix: &str, e: impl std::fmt::Display, code: u8) -> Failure {
        Failure { message: format!("{prefix}: {e}"), code }
    }
}

/// Everything that a command has.
struct Invocation<'a> {
    runtime: Runtime,
    log: &'a Log,
    /// The program that `--criu` names.
    criu: String,
    options: Parsed,
}

/// A command: name, options, how many arguments, whether its arguments may have options of their
/// own, whether it makes processes in containers, and what it does.
struct Command {
    name: &'static str,
    options: &'static [Option_],
    arguments: (usize, usize),
    keeps_options: bool,
    enters: bool,
    run: fn(&Invocation<'_>) -> Outcome,
}

const GLOBAL: [Option_; 11] = [
    value(&["--root"]),
    value(&["--log"]),
    value(&["--log-format"]),
    flag(&["--debug"]),
    flag(&["--systemd-cgroup"]),
    value(&["--rootless"]),
    value(&["--criu"]),
    flag(&["--version", "-v"]),
    flag(&["--help", "-h"]),
    value(&["--log-level"]),
    value(&["--cgroup-manager"]),
];

const ANY: usize = usize::MAX;

const CREATE: [Option_; 10] = [
    value(&["--bundle", "-b"]),
    value(&["--console-socket"]),
    value(&["--pidfd-socket"]),
    value(&["--pid-file"]),
    flag(&["--no-pivot"]),
    flag(&["--no-new-keyring"]),
    number(&["--preserve-fds"]),
    flag(&["--detach", "-d"]),
    flag(&["--keep"]),
    flag(&["--no-subreaper"]),
];

const EXEC: [Option_; 18] = [
    value(&["--console-socket"]),
    value(&["--pidfd-socket"]),
    value(&["--cwd"]),
    value(&["--env", "-e"]),
    flag(&["--tty", "-t"]),
    value(&["--user", "-u"]),
    number(&["--additional-gids", "-g"]),
    value(&["--process", "-p"]),
    flag(&["--detach", "-d"]),
    value(&["--pid-file"]),
    value(&["--process-label"]),
    value(&["--apparmor"]),
    flag(&["--no-new-privs"]),
    value(&["--cap", "-c"]),
    number(&["--preserve-fds"]),
    value(&["--cgroup"]),
    flag(&["--ignore-paused"]),
    flag(&["--no-subreaper"]),
];

const NONE: [Option_; 0] = [];

const COMMANDS: [Command; 18] = [
    command("create", &CREATE, (1, 1), commands::create).enters(),
    command("run", &CREATE, (1, 1), commands::run).enters(),
    command("start", &NONE, (1, 1), commands::start),
    command("state", &NONE, (1, 1), commands::state),
    command("kill", &[flag(&["--all", "-a"])], (1, 2), commands::kill),
    command("delete", &[flag(&["--force", "-f"])], (1, 1), commands::delete),
    command("exec", &EXEC, (1, ANY), commands::exec).enters().keeps_options(),
    command("list", &[value(&["--format", "-f"]), flag(&["--quiet", "-q"])], (0, 0), show::list),
    command("ps", &[value(&["--format", "-f"])], (1, ANY), show::ps).keeps_options(),
    command("pause", &NONE, (1, 1), commands::pause),
    command("resume", &NONE, (1, 1), commands::resume),
    command("update", &limits::OPTIONS, (1, 1), limits::update),
    command("events", &[value(&["--interval"]), flag(&["--stats"])], (1, 1), show::events),
    command("spec", &[value(&["--bundle", "-b"]), flag(&["--rootless"])], (0, 0), template::spec),
    command("features", &NONE, (0, 0), show::features),
    command("checkpoint", &images::CHECKPOINT, (1, 1), images::checkpoint),
    command("restore", &images::RESTORE, (1, 1), images::restore),
    command("help", &NONE, (0, ANY), show::help),
];

const fn command(
    name: &'static str,
    options: &'static [Option_],
    arguments: (usize, usize),
    run: fn(&Invocation<'_>) -> Outcome,
) -> Command {
    Command { name, options, arguments, keeps_options: false, enters: false, run }
}

impl Command {
    const fn enters(mut self) -> Command {
        self.enters = true;
        self
    }
    const fn keeps_options(mut self) -> Command {
        self.keeps_options = true;
        self
    }
}

/// The program `strata-runc`: `args` with the program's name first, as runc's command line.
///
/// It writes to standard output and error, and executes itself once more (see [`crate::seal`])
/// before it makes a process in a container.
pub fn main(args: Vec<OsString>) -> ExitCode {
    ExitCode::from(run(args))
}

/// As [`main`], with the exit code as a number.
pub fn run(args: Vec<OsString>) -> u8 {
    file::fill_standard_streams();
    let mut log = Log::default();
    match dispatch(&args, &mut log) {
        Ok(code) => code,
        Err(failure) => {
            log.error(&failure.message);
            failure.code
        }
    }
}

/// A wrong command line: on standard output what is wrong, in runc's words, and the help.
fn usage(said: &str, message: String, command: Option<&Command>) -> Failure {
    // With no one to read it, the error itself still tells.
    let _ = show::print(&format!("{said}\n\n{}\n", help::text(command)));
    Failure { message, code: 1 }
}

fn dispatch(args: &[OsString], log: &mut Log) -> Outcome {
    let global = parse(&GLOBAL, args.get(1..).unwrap_or(&[]), true)
        .map_err(|e| usage(&format!("Incorrect Usage. {e}"), e, None))?;
    if global.on("--version") {
        return show::version();
    }
    log.debug = global.on("--debug") || global.get("--log-level") == Some("debug");
    log.json = match global.get("--log-format").unwrap_or("text") {
        "text" => false,
        "json" => true,
        other => return Err(format!("invalid log-format: {other}").into()),
    };
    if let Some(path) = global.get("--log").filter(|path| !path.is_empty()) {
        log.open(path)?;
    }
    let Some(name) = global.rest.first().filter(|_| !global.on("--help")) else {
        return help::show(None);
    };
    let command = COMMANDS
        .iter()
        .find(|c| c.name == name)
        .ok_or_else(|| Failure { message: format!("No help topic for '{name}'\n"), code: 3 })?;
    let rest: Vec<OsString> = global.rest[1..].iter().map(OsString::from).collect();
    let options = parse(command.options, &rest, command.keeps_options)
        .map_err(|e| usage(&format!("Incorrect Usage: {e}"), e, Some(command)))?;
    if options.on("--help") {
        return help::show(Some(command));
    }
    let (least, most) = command.arguments;
    let given = options.rest.len();
    if given < least || given > most {
        let wanted = match (least, most) {
            (l, m) if l == m => format!("exactly {l} argument(s)"),
            (_, m) if given > m => format!("a maximum of {m} argument(s)"),
            (l, _) => format!("a minimum of {l} argument(s)"),
        };
        let message = format!("runc: {name:?} requires {wanted}");
        return Err(usage("Incorrect Usage.", message, Some(command)));
    }
    if command.enters {
        seal(args)?;
    }
    let mut runtime = Runtime::new(root(&global));
    if global.on("--systemd-cgroup") {
        runtime = runtime.with_systemd_cgroup();
    }
    match global.get("--rootless").unwrap_or("auto") {
        "auto" => {}
        "true" | "1" => runtime = runtime.with_rootless(true),
        "false" | "0" => runtime = runtime.with_rootless(false),
        other => return Err(format!("invalid value {other:?} for flag -rootless").into()),
    }
    let criu = global.get("--criu").unwrap_or_default().to_owned();
    log.debug(&format!("{name} in {}", runtime.root().display()));
    // Measured from here: what lies before is the hop's cost, a program's start.
    let spans = Spans::from_env("runc-layer");
    let (_, mut span) = spans.begin(&Cx::from_env(), Hop::Oci.name(), name, Side::Callee);
    let outcome = (command.run)(&Invocation { runtime, log, criu, options });
    if outcome.is_err() {
        span.fail();
    }
    outcome
}

/// `--root`, or a directory below /run; below XDG_RUNTIME_DIR for an ordinary user and for one who
/// is root of a user namespace only (whose environment is still the user's), as runc's.
fn root(global: &Parsed) -> PathBuf {
    if let Some(root) = global.get("--root") {
        return PathBuf::from(root);
    }
    let is_user = || {
        credentials::effective_uid() != 0
            || std::env::var_os("USER").is_none_or(|user| user != "root")
                && crate::engine::in_user_namespace()
    };
    let own =
        std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()).filter(|_| is_user());
    PathBuf::from(own.unwrap_or_else(|| "/run".into())).join("strata-runc")
}

/// `strata-runc version …`, as runc prints its own.
fn version_text() -> String {
    format!("strata-runc version {}\nspec: {VERSION}", env!("CARGO_PKG_VERSION"))
}
