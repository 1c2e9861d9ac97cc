//! The commands that only tell: list, ps, events, spec, features, version.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;

use super::{Invocation, Outcome, help, version_text};
use crate::{Error, VERSION, namespace, plan, seccomp, sys};

pub(super) fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(0),
    }
}

pub(super) fn print_json(value: &impl Serialize) -> Outcome {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"  ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    print(&String::from_utf8_lossy(&out))
}

pub(super) fn version() -> Outcome {
    print(&format!("{}\n", version_text()))
}

pub(super) fn help(_: &Invocation<'_>) -> Outcome {
    help::show(None)
}

/// A container as `state` and `list -f json` have it.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    #[serde(flatten)]
    pub(super) state: &'a crate::State,
    pub(super) owner: String,
}

/// The name of a user, or `#uid`.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            Some((fields.next()?, fields.nth(1)?))
        })
        .find(|(_, id)| id.parse() == Ok(uid))
        .map_or_else(|| format!("#{uid}"), |(name, _)| name.to_owned())
}

pub(super) fn list(invocation: &Invocation<'_>) -> Outcome {
    let containers = invocation.runtime.list()?;
    if invocation.options.on("--quiet") {
        return print(&containers.iter().map(|c| format!("{}\n", c.id)).collect::<String>());
    }
    match invocation.options.get("--format").unwrap_or("table") {
        "table" => {
            let mut rows =
                vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from)];
            rows.extend(containers.iter().map(|c| {
                [
                    c.id.clone(),
                    c.pid.to_string(),
                    c.status.name().to_owned(),
                    c.bundle.display().to_string(),
                    c.created.clone(),
                    user_name(c.owner_uid),
                ]
            }));
            print(&table(&rows))
        }
        "json" => {
            let list: Vec<Shown<'_>> = containers
                .iter()
                .map(|state| Shown { state, owner: user_name(state.owner_uid) })
                .collect();
            // Go prints a nil slice as null.
            let text =
                if list.is_empty() { "null".to_owned() } else { serde_json::to_string(&list)? };
            print(&format!("{text}\n"))
        }
        _ => Err("invalid format option".into()),
    }
}

/// Columns at least 12 wide with three spaces between, as runc's.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].len() + 3).max().unwrap_or(0).max(12)
    });
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:<width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn ps(invocation: &Invocation<'_>) -> Outcome {
    let o = &invocation.options;
    let pids = invocation.runtime.ps(o.rest.first().map_or("", String::as_str))?;
    match o.get("--format").unwrap_or("table") {
        "json" => {
            let text =
                if pids.is_empty() { "null".to_owned() } else { serde_json::to_string(&pids)? };
            print(&format!("{text}\n"))
        }
        "table" => {
            let mut args: Vec<&str> = o.rest[1..].iter().map(String::as_str).collect();
            if args.is_empty() {
                args.push("-ef");
            }
            let output = std::process::Command::new("ps").args(&args).output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                let code = output.status.code().unwrap_or(-1);
                return Err(format!("exit status {code}: {said}").into());
            }
            let text = String::from_utf8_lossy(&output.stdout);
            let mut lines = text.lines();
            let header = lines.next().unwrap_or_default();
            let column = header
                .split_whitespace()
                .position(|title| title == "PID")
                .ok_or("couldn't find PID field in ps output")?;
            let mut shown = format!("{header}\n");
            for line in lines {
                let pid = line.split_whitespace().nth(column).and_then(|p| p.parse::<i32>().ok());
                if pid.is_some_and(|pid| pids.contains(&pid)) {
                    shown.push_str(line);
                    shown.push('\n');
                }
            }
            print(&shown)
        }
        _ => Err("invalid format option".into()),
    }
}

pub(super) fn events(invocation: &Invocation<'_>) -> Outcome {
    let o = &invocation.options;
    let id = o.rest.first().map_or("", String::as_str);
    // Whether it is there comes before what is asked of it.
    invocation.runtime.state(id)?;
    let interval = match o.get("--interval") {
        None => Duration::from_secs(5),
        Some(text) => duration(text)
            .filter(|d| !d.is_zero())
            .ok_or("duration interval must be greater than 0")?,
    };
    if o.on("--stats") {
        return match invocation.runtime.stats(id) {
            Ok(data) => event(id, "stats", Some(data)),
            Err(Error::NotRunning) => Err(format!("container with id {id} is not running").into()),
            Err(e) => Err(e.into()),
        };
    }
    let mut watch = match invocation.runtime.watch_oom(id) {
        Err(Error::NotRunning) => {
            return Err(format!("container with id {id} is not running").into());
        }
        other => other?,
    };
    let mut next = Instant::now() + interval;
    loop {
        let pause = next.saturating_duration_since(Instant::now());
        match &mut watch {
            Some(watch) => match watch.wait(pause)? {
                None => return Ok(0),
                Some(true) => drop(event(id, "oom", None)?),
                Some(false) => {}
            },
            None => std::thread::sleep(pause),
        }
        if Instant::now() < next {
            continue;
        }
        next += interval;
        match invocation.runtime.stats(id) {
            Ok(data) => drop(event(id, "stats", Some(data))?),
            Err(Error::NotRunning | Error::NotExist) => return Ok(0),
            Err(e) => return Err(e.into()),
        }
    }
}

/// One line of `events`.
fn event(id: &str, kind: &str, data: Option<serde_json::Value>) -> Outcome {
    let mut event = json!({"type": kind, "id": id});
    if let Some(data) = data {
        event["data"] = data;
    }
    print(&format!("{event}\n"))
}

/// A duration of Go's with one unit: `5s`, `200ms`, `1m`.
fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

pub(super) fn features(_: &Invocation<'_>) -> Outcome {
    let names = |list: &mut dyn Iterator<Item = String>| {
        let mut list: Vec<String> = list.collect();
        list.sort();
        list
    };
    let known =
        |list: &[(&str, u32)]| list.iter().map(|(n, _)| (*n).to_owned()).collect::<Vec<_>>();
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": names(&mut plan::mount_option_names()),
        "linux": {
            "namespaces": names(&mut namespace::Kind::spec_names().map(String::from)),
            "capabilities": plan::capability_names(),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": sys::seccomp::action_available(0x7fff_0000),
                "actions": known(&seccomp::ACTIONS),
                "operators": seccomp::OPERATORS.map(|(name, _)| name),
                "archs": names(&mut seccomp::architectures().map(String::from)),
                "knownFlags": seccomp::FLAGS.map(|(name, _)| name),
                "supportedFlags": seccomp::FLAGS.map(|(name, _)| name),
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "true",
            "org.strata.runc.version": env!("CARGO_PKG_VERSION"),
        },
        "potentiallyUnsafeConfigAnnotations": [],
    });
    print_json(&features)?;
    print("\n")
}
