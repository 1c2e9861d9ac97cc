//! The namespaces of a container by their names in the specification, in `/proc` and in clone(2).

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    User,
    Mount,
    Pid,
    Uts,
    Ipc,
    Network,
    Cgroup,
    Time,
}

const CLONE_NEWTIME: i32 = 0x80;

/// Kind, `linux.namespaces[].type`, file below `/proc/PID/ns`, clone flag.
const TABLE: [(Kind, &str, &str, i32); 8] = [
    (Kind::User, "user", "user", libc::CLONE_NEWUSER),
    (Kind::Mount, "mount", "mnt", libc::CLONE_NEWNS),
    (Kind::Pid, "pid", "pid", libc::CLONE_NEWPID),
    (Kind::Uts, "uts", "uts", libc::CLONE_NEWUTS),
    (Kind::Ipc, "ipc", "ipc", libc::CLONE_NEWIPC),
    (Kind::Network, "network", "net", libc::CLONE_NEWNET),
    (Kind::Cgroup, "cgroup", "cgroup", libc::CLONE_NEWCGROUP),
    (Kind::Time, "time", "time", CLONE_NEWTIME),
];

impl Kind {
    /// The kind that the specification calls `name`.
    pub(crate) fn from_spec(name: &str) -> Option<Kind> {
        TABLE.iter().find(|(_, spec, ..)| *spec == name).map(|(kind, ..)| *kind)
    }

    /// Its CLONE_NEW* flag.
    pub(crate) fn flag(self) -> i32 {
        TABLE.iter().find(|(kind, ..)| *kind == self).map_or(0, |(.., flag)| *flag)
    }

    /// The names that the specification uses, for `features`.
    pub(crate) fn spec_names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|(_, spec, ..)| *spec)
    }
}
