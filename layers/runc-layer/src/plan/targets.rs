//! Where a mount goes: what may be covered below /proc, and where no link can lead it astray.

use std::ffi::CString;

use super::{
    mounts::{MountStep, Work},
    options::Options,
};
use crate::{spec, sys::file};

/// Whether `target` says itself that it is /proc or below it: then [`guard_proc`] has decided. A
/// path that leads on through `..` may end anywhere.
pub(super) fn is_below_proc(target: &str) -> bool {
    let mut parts = target.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.next() == Some("proc") && !parts.any(|part| part == "..")
}

/// The new tmpfs in which, since they were mounted, only what is in them was covered: no link can be
/// there, and nothing covers them.
#[derive(Default)]
pub(super) struct FreshTmpfs {
    /// How many steps are taken into account.
    seen: usize,
    /// Those of the tmpfs, by index, each inside of the one before.
    open: Vec<usize>,
}

impl FreshTmpfs {
    /// Whether `target` is directly in one of them, after `steps`.
    pub(super) fn hold(&mut self, steps: &[MountStep], target: &str) -> bool {
        for (i, step) in steps.iter().enumerate().skip(self.seen) {
            let path = step.target.to_bytes();
            let is_around = |open: &usize| is_below(path, steps[*open].target.to_bytes());
            while self.open.pop_if(|open| !is_around(open)).is_some() {}
            let fresh = matches!(&step.work, Work::New { fstype, copy_up: false, .. }
                if fstype.as_c_str() == c"tmpfs");
            if fresh {
                self.open.push(i);
            }
        }
        self.seen = steps.len();
        let parent = target.trim_end_matches('/').rsplit_once('/').map(|(parent, _)| parent);
        parent.is_some_and(|parent| {
            self.open.iter().rev().any(|open| steps[*open].target.to_bytes() == parent.as_bytes())
        })
    }
}

/// Whether `path` says itself that it is somewhere below `directory`.
fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.starts_with(b"/") && !rest.windows(2).any(|w| w == b".."))
}

/// Files that may be mounted over below /proc (runc's list, for lxcfs and its kind).
const PROC_FILES: [&str; 9] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
];

/// Nothing may hide the container's procfs from the runtime: writes to /proc must reach it.
pub(super) fn guard_proc(
    target: &str,
    mount: &spec::Mount,
    options: &Options,
) -> std::result::Result<(), String> {
    let clean: Vec<&str> =
        target.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if clean.contains(&"..") {
        // Lexical cleaning would not be what the kernel does; the root is a jail anyway.
        return Ok(());
    }
    match clean.as_slice() {
        ["proc"] if mount.kind == "proc" => Ok(()),
        ["proc"] if options.is_bind() || mount.kind == "bind" => {
            let is_proc = sys_is_proc(&mount.source);
            if is_proc {
                Ok(())
            } else {
                Err(format!("{target:?} cannot be mounted because it is not of type proc"))
            }
        }
        ["proc"] => Err(format!("{target:?} cannot be mounted because it is not of type proc")),
        ["proc", rest @ ..] => {
            let rest = rest.join("/");
            if PROC_FILES.contains(&rest.as_str()) || mount.kind == "proc" {
                Ok(())
            } else {
                Err(format!("{target:?} cannot be mounted because it is inside /proc"))
            }
        }
        _ => Ok(()),
    }
}

fn sys_is_proc(source: &str) -> bool {
    const PROC_MAGIC: i64 = 0x9fa0;
    CString::new(source).is_ok_and(|s| file::statfs(&s).is_ok_and(|magic| magic == PROC_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str) -> spec::Mount {
        spec::Mount { kind: kind.into(), source: source.into(), ..spec::Mount::default() }
    }

    #[test]
    fn a_tmpfs_is_fresh_until_something_may_cover_it() {
        let step = |target: &str, fstype: &str, copy_up: bool| MountStep {
            target: CString::new(target).expect("no NUL"),
            outside_proc: false,
            work: Work::New {
                fstype: CString::new(fstype).expect("no NUL"),
                source: CString::default(),
                flags: 0,
                data: CString::default(),
                strict: false,
                copy_up,
                groupless: None,
                fallback: None,
            },
            propagation: Vec::new(),
            label: String::new(),
        };
        let all = [
            step("/dev", "tmpfs", false),
            step("/dev/pts", "devpts", false),
            step("/dev/shm", "tmpfs", false),
        ];
        let hold = |steps: &[MountStep], target| FreshTmpfs::default().hold(steps, target);
        assert!(
            hold(&all, "/dev/mqueue") && hold(&all, "/dev/shm/x") && hold(&all[..1], "/dev/x/")
        );
        assert!(!hold(&all, "/dev/pts/x") && !hold(&all, "/dev/a/b") && !hold(&all, "/x"));
        for last in ["/data", "/dev", "/dev/../x", "/devices"] {
            let mut steps = Vec::from(
                all.each_ref().map(|s| step(&s.target.to_string_lossy(), "tmpfs", false)),
            );
            steps.push(step(last, "ext4", false));
            assert!(!hold(&steps, "/dev/mqueue"), "{last}");
        }
        assert!(!hold(&[step("/dev", "tmpfs", true)], "/dev/x"), "what was there is there again");
        // Asked step by step it answers the same.
        let mut asked = FreshTmpfs::default();
        assert!(!asked.hold(&all[..0], "/dev/x") && asked.hold(&all[..1], "/dev/x"));
        assert!(asked.hold(&all, "/dev/x") && asked.hold(&all, "/dev/shm/x"));
    }

    #[test]
    fn nothing_but_procfs_goes_on_proc() {
        let none = Options::default();
        let bind = Options::parse(&["bind".to_owned()]);
        assert!(guard_proc("/proc", &mount("proc", "proc"), &none).is_ok());
        assert!(guard_proc("/proc/", &mount("tmpfs", "tmpfs"), &none).is_err());
        assert!(guard_proc("/proc", &mount("bind", "/tmp"), &bind).is_err());
        assert!(guard_proc("/proc", &mount("bind", "/proc"), &bind).is_ok());
        assert!(guard_proc("//proc/./self/attr", &mount("bind", "/tmp"), &bind).is_err());
        assert!(guard_proc("/proc/uptime", &mount("bind", "/tmp/x"), &bind).is_ok());
        assert!(guard_proc("/procfs", &mount("tmpfs", "tmpfs"), &none).is_ok());
    }
}
