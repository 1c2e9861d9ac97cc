//! The program and all that is set for it just before it runs.

use std::ffi::CString;

use super::{
    c_string, c_strings, capabilities,
    labels::{self, Label},
    scheduling::{self, Affinity},
};
use crate::{
    Error, Result,
    seccomp::Filter,
    spec::{self, Process},
    sys::{
        credentials::{CapabilitySets, Scheduling},
        strings::StringVector,
        tty,
    },
};

/// A program, prepared.
pub(crate) struct ProcessPlan {
    /// Where to look for it, in order.
    pub(crate) candidates: Vec<CString>,
    /// Whether it was named without a slash.
    pub(crate) searched: bool,
    pub(crate) args: StringVector,
    pub(crate) env: StringVector,
    /// Set HOME from /etc/passwd because the environment has none.
    pub(crate) find_home: bool,
    pub(crate) cwd: CString,
    pub(crate) identity: Identity,
    pub(crate) capabilities: CapabilitySets,
    /// RLIMIT_*, soft, hard.
    pub(crate) limits: Vec<(u32, u64, u64)>,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Option<Filter>,
    /// File below /proc and the line for it.
    pub(crate) label: Option<Label>,
    pub(crate) scheduling: Option<Scheduling>,
    /// Class and level.
    pub(crate) io_priority: Option<(u32, u32)>,
    pub(crate) personality: Option<u64>,
    pub(crate) affinity: Affinity,
    /// The cgroup's CPUs are chosen: for errors, as a deadline scheduler cannot have that.
    pub(crate) chosen_cpus: bool,
}

/// Who the program runs as.
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
}

pub(super) fn refuse(field: &str, reason: String) -> Error {
    Error::Spec { field: format!("config.json: process.{field}"), reason }
}

impl ProcessPlan {
    pub(crate) fn new(
        process: &Process,
        linux: &spec::Linux,
        seccomp: Option<Filter>,
        warn: &mut dyn FnMut(String),
    ) -> Result<ProcessPlan> {
        if let Some(bad) = process.env.iter().find(|e| !e.contains('=')) {
            return Err(Error::Start(format!("invalid environment variable: {bad:?}")));
        }
        let name = process.args.first().map_or("", String::as_str);
        let path = process.env.iter().rev().find_map(|e| e.strip_prefix("PATH="));
        let searched = !name.contains('/');
        let candidates = match searched {
            false => vec![c_string("process.args[0]", name)?],
            true => path
                .unwrap_or("")
                .split(':')
                // An empty element would be the working directory, which Go's search refuses.
                .filter(|dir| !dir.is_empty() && !name.is_empty())
                .map(|dir| c_string("process.env", &format!("{dir}/{name}")))
                .collect::<Result<Vec<_>>>()?,
        };
        let find_home = !process.env.iter().any(|e| e.starts_with("HOME=") && e.len() > 5);
        Ok(ProcessPlan {
            candidates,
            searched,
            args: StringVector::new(c_strings("process.args", &process.args)?, false),
            env: StringVector::new(c_strings("process.env", &process.env)?, find_home),
            find_home,
            cwd: c_string("process.cwd", &process.cwd)?,
            identity: Identity {
                uid: process.user.uid,
                gid: process.user.gid,
                groups: process.user.additional_gids.clone(),
                umask: process.user.umask.unwrap_or(0o022),
            },
            capabilities: capabilities::sets(process.capabilities.as_ref(), warn)?,
            limits: limits(&process.rlimits)?,
            no_new_privileges: process.no_new_privileges,
            seccomp,
            label: labels::of_process(process)?,
            scheduling: process.scheduler.as_ref().map(scheduling::policy).transpose()?,
            io_priority: process.io_priority.as_ref().map(scheduling::io_priority).transpose()?,
            personality: linux.personality.as_ref().map(|p| personality(p, warn)).transpose()?,
            affinity: Affinity::new(process.exec_cpu_affinity.as_ref())?,
            chosen_cpus: linux.resources.as_ref().is_some_and(|r| !r.cpu.cpus.is_empty()),
        })
    }

    /// Without what the specification keeps for `exec`: the container's first process has its
    /// cgroup's CPUs.
    pub(crate) fn of_init(mut self) -> ProcessPlan {
        self.affinity = Affinity::default();
        self
    }
}

/// The terminal's size that the configuration asks for.
pub(crate) fn console_size(process: &Process) -> Option<tty::Size> {
    process.console_size.as_ref().map(|s| tty::Size { rows: s.height, columns: s.width })
}

/// RLIMIT_* by name; the numbers are those of every architecture but mips and sparc.
const LIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", 0),
    ("RLIMIT_FSIZE", 1),
    ("RLIMIT_DATA", 2),
    ("RLIMIT_STACK", 3),
    ("RLIMIT_CORE", 4),
    ("RLIMIT_RSS", 5),
    ("RLIMIT_NPROC", 6),
    ("RLIMIT_NOFILE", 7),
    ("RLIMIT_MEMLOCK", 8),
    ("RLIMIT_AS", 9),
    ("RLIMIT_LOCKS", 10),
    ("RLIMIT_SIGPENDING", 11),
    ("RLIMIT_MSGQUEUE", 12),
    ("RLIMIT_NICE", 13),
    ("RLIMIT_RTPRIO", 14),
    ("RLIMIT_RTTIME", 15),
];

fn limits(list: &[spec::Rlimit]) -> Result<Vec<(u32, u64, u64)>> {
    let mut seen = Vec::with_capacity(list.len());
    list.iter()
        .enumerate()
        .map(|(i, limit)| {
            let field = format!("rlimits[{i}].type");
            let number = LIMITS
                .iter()
                .find(|(name, _)| *name == limit.kind)
                .map(|(_, number)| *number)
                .ok_or_else(|| refuse(&field, format!("invalid rlimit type: {}", limit.kind)))?;
            if seen.contains(&number) {
                return Err(refuse(&field, format!("rlimit {} is given twice", limit.kind)));
            }
            seen.push(number);
            Ok((number, limit.soft, limit.hard))
        })
        .collect()
}

fn personality(p: &spec::Personality, warn: &mut dyn FnMut(String)) -> Result<u64> {
    if !p.flags.is_empty() {
        // The specification has the field and no value for it; the words are runc's.
        warn(format!("ignoring unsupported personality flags: {:?}", p.flags));
    }
    match p.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::Spec {
            field: "config.json: linux.personality.domain".into(),
            reason: format!("invalid personality domain {other:?}"),
        }),
    }
}
