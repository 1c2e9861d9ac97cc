//! What a test must leave as it found it, and what keeps a test from running.

#![allow(dead_code, reason = "each test program uses a part of it")]

mod company;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::fcntl::Flock;

/// Says why a test does not run here.
pub(crate) fn skip(reason: &str) {
    eprintln!("SKIP: {reason}");
}

/// Why no sandbox can be made here; `None` when it can.
pub(crate) fn no_sandbox() -> Option<String> {
    if nix::unistd::getuid().is_root() { None } else { no_user_namespaces() }
}

/// Why an ordinary user cannot make a user namespace here; `None` when one can.
pub(crate) fn no_user_namespaces() -> Option<String> {
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let closed =
        fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone").unwrap_or_default();
    (limit.trim() == "0" || closed.trim() == "0")
        .then(|| "user namespaces are closed to ordinary users".to_owned())
}

/// Why a program of a peer cannot be run here; `None` when it can.
pub(crate) fn no_program(name: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').any(|dir| Path::new(dir).join(name).exists());
    (!found).then(|| format!("{name} is not installed"))
}

/// A machine that nobody else works on, as it was to begin with.
///
/// What is left behind can only be told by the one who is alone, so a test that watches waits for
/// every other one, in whatever process it runs, and of whatever checkout.
pub(crate) struct Watch {
    before: Machine,
    _alone: Flock<fs::File>,
}

impl Watch {
    /// From now on.
    pub(crate) fn begin() -> Watch {
        let alone = company::alone();
        Watch { before: Machine::now(), _alone: alone }
    }

    /// Fails unless the machine becomes what it was; the kernel takes a namespace down, and the
    /// keeper of a killed comparison works, a moment after the last process has ended.
    pub(crate) fn assert_unchanged(&self) {
        let begun = Instant::now();
        loop {
            let now = Machine::now();
            if now == self.before {
                return;
            }
            let what = now.other_than(&self.before);
            assert!(begun.elapsed() < Duration::from_secs(120), "left behind: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The mounts, links, cgroups, Strata's processes, and Strata's files of a machine.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Machine {
    /// The machine as it is.
    fn now() -> Machine {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Machine {
            mounts: mounts.lines().map(str::to_owned).collect(),
            links: names("/sys/class/net", |_| true),
            cgroups: cgroups(),
            processes: processes(),
            files: ["/tmp", "/run", "/var/lib", "/run/netns"]
                .iter()
                .flat_map(|dir| {
                    names(dir, |name| name.starts_with("strata"))
                        .into_iter()
                        .map(move |n| format!("{dir}/{n}"))
                })
                .collect(),
        }
    }

    /// What is here and was not there, or the other way round.
    fn other_than(&self, other: &Machine) -> String {
        let kinds = [
            ("mounts", &self.mounts, &other.mounts),
            ("links", &self.links, &other.links),
            ("cgroups", &self.cgroups, &other.cgroups),
            ("processes", &self.processes, &other.processes),
            ("files", &self.files, &other.files),
        ];
        let changed = kinds.into_iter().filter(|(_, here, there)| here != there);
        changed
            .map(|(kind, here, there)| {
                let more: Vec<_> = here.difference(there).collect();
                let less: Vec<_> = there.difference(here).collect();
                format!("\n{kind}: new {more:?}, gone {less:?}")
            })
            .collect()
    }
}

fn names(dir: &str, keep: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|name| keep(name)).collect()
}

/// The cgroups in which daemons and clients put those of their containers. Nobody removes them,
/// neither Strata nor the real ones: they are the machine's from the first container on.
const PARENTS: [&str; 5] = ["docker", "default", "k8s.io", "libpod_parent", "conmon"];

fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let own = own_cgroups();
    let mut todo = vec![Path::new("/sys/fs/cgroup").to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_dir || own.iter().any(|own| is_beside(&path, own)) {
                continue;
            }
            if !PARENTS.iter().any(|parent| *parent == entry.file_name()) {
                found.insert(path.display().to_string());
            }
            todo.push(path);
        }
    }
    found
}

/// This process's cgroups that do not stand at the root of their hierarchy, where daemons and
/// runtimes put theirs: what is beside them is of whoever made them, for another such process.
fn own_cgroups() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let paths = table.lines().filter_map(|line| line.splitn(3, ':').nth(2)?.strip_prefix('/'));
    let paths: BTreeSet<&str> = paths.filter(|path| path.contains('/')).collect();
    // Which hierarchy is mounted where does not matter: the others have no such cgroup.
    let hierarchies = names("/sys/fs/cgroup", |_| true).into_iter().chain([String::new()]);
    hierarchies
        .map(|name| Path::new("/sys/fs/cgroup").join(name))
        .flat_map(|root| paths.iter().map(move |path| root.join(path)).collect::<Vec<_>>())
        .filter(|path| path.exists())
        .collect()
}

fn is_beside(path: &Path, own: &Path) -> bool {
    path != own && path.parent() == own.parent()
}

/// The processes that run this checkout's `strata`, whatever they are called, and wherever they
/// see it.
fn processes() -> BTreeSet<String> {
    let identity = |path: &Path| fs::metadata(path).map(|of| (of.dev(), of.ino())).ok();
    let strata = identity(Path::new(env!("CARGO_BIN_EXE_strata")));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let exe = identity(&entry.path().join("exe"));
            exe.is_some() && exe == strata
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
