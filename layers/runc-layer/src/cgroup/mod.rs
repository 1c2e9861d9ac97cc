//! A container's cgroup: where it is, what limits it, what is in it.
//!
//! On v1 a cgroup is one directory per mounted hierarchy, on v2 one directory. The rules for
//! `linux.cgroupsPath` are runc's: an absolute path counts from each hierarchy's mount, a relative
//! one (or none, which means the container's id) from the runtime's own cgroup.

mod devices;
mod hierarchy;
mod limits;
mod oom;
mod processes;
mod stats;
pub(crate) mod systemd;
mod v2;

use std::{
    collections::BTreeMap,
    ffi::CString,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub(crate) use hierarchy::Hierarchies;
pub(crate) use oom::OomWatch;

use crate::{
    Error, Result,
    error::Context,
    spec::Resources,
    sys::{self, Errno, file},
};

/// The directories of one container's cgroup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cgroup {
    pub(crate) version: u8,
    /// Directory by hierarchy: its controllers joined by commas, `name=systemd`, or, for v2, the
    /// empty string, which beside v1 is the v2 hierarchy where systemd keeps its units.
    pub(crate) paths: BTreeMap<String, PathBuf>,
    /// The unit that it belongs to, when systemd is the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<systemd::Unit>,
}

/// How a process gets into the cgroup.
#[derive(Default)]
pub(crate) struct Entrance {
    /// v1: the `tasks` files, into which the process writes itself. A write of one's own id of
    /// zero does not make the kernel wait for every process that forks or exits.
    pub(crate) tasks: Vec<OwnedFd>,
    /// v2: the directory to be born in.
    pub(crate) directory: Option<OwnedFd>,
}

/// Checks `resources` and compiles its device rules, with no cgroup to write them to.
pub(crate) fn check(resources: &Resources) -> Result<()> {
    limits::check(resources, 2)?;
    devices::Policy::new(&resources.devices)?.program();
    Ok(())
}

/// What could not be had and was not asked for: the hierarchies without rights.
fn may_do_without(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::ACCES | Errno::ROFS)
}

impl Cgroup {
    /// Where the cgroup of the container `id` is, according to `linux.cgroupsPath`.
    pub(crate) fn locate(hierarchies: &Hierarchies, cgroups_path: &str, id: &str) -> Cgroup {
        let inner = clean(if cgroups_path.is_empty() { id } else { cgroups_path });
        match hierarchies {
            Hierarchies::V2 { mount, own } => {
                let path = match inner.strip_prefix("/") {
                    Ok(below) => mount.join(below),
                    // Its own cgroup has processes, so its children could have no controllers.
                    Err(_) => {
                        let parent = own.parent().unwrap_or(Path::new("/"));
                        mount.join(parent.strip_prefix("/").unwrap_or(parent)).join(&inner)
                    }
                };
                Cgroup { version: 2, paths: BTreeMap::from([(String::new(), path)]), unit: None }
            }
            Hierarchies::V1(list) => Cgroup {
                version: 1,
                paths: list
                    .iter()
                    .map(|h| {
                        let path = match inner.strip_prefix("/") {
                            Ok(below) => h.mount.join(below),
                            Err(_) => h.own_directory().join(&inner),
                        };
                        (h.name.clone(), path)
                    })
                    .collect(),
                unit: None,
            },
        }
    }

    /// Refuses a cgroup that is a hierarchy's root, where limits and signals would be for all.
    pub(crate) fn refuse_root(&self, hierarchies: &Hierarchies) -> Result<()> {
        let is_root = |path: &PathBuf| match hierarchies {
            Hierarchies::V2 { mount, .. } => path == mount,
            Hierarchies::V1(list) => list.iter().any(|h| *path == h.mount),
        };
        match self.paths.values().find(|path| is_root(path)) {
            None => Ok(()),
            Some(path) => Err(Error::Spec {
                field: "config.json: linux.cgroupsPath".into(),
                reason: format!("{} is a hierarchy's root", path.display()),
            }),
        }
    }

    /// Makes the directories and opens the entrance. A hierarchy without rights is left out when
    /// `lenient`, and then it is no part of the cgroup any more.
    pub(crate) fn create(&mut self, lenient: bool) -> Result<Entrance> {
        let mut entrance = Entrance::default();
        let mut refused = Vec::new();
        for (name, path) in &self.paths {
            let made = if self.version == 2 {
                v2::create(path)
            } else {
                make_directories(path).and_then(|new| match name.as_str() {
                    "cpuset" => limits::inherit_cpuset(path, new),
                    _ => Ok(()),
                })
            };
            let opened = made.and_then(|()| {
                if self.version == 2 {
                    let dir = open(path, libc::O_PATH | libc::O_DIRECTORY)?;
                    entrance.directory = Some(dir);
                } else {
                    entrance.tasks.push(open_tasks(name, path)?);
                }
                Ok(())
            });
            match opened {
                Ok(()) => {}
                Err(Error::Os { errno, .. }) if lenient && may_do_without(errno) => {
                    refused.push(name.clone());
                }
                Err(e) => return Err(e),
            }
        }
        for name in refused {
            self.paths.remove(&name);
        }
        Ok(entrance)
    }

    /// Opens the entrance of a cgroup that exists.
    pub(crate) fn enter(&self) -> Result<Entrance> {
        let mut entrance = Entrance::default();
        for (name, path) in &self.paths {
            if self.version == 2 {
                entrance.directory = Some(open(path, libc::O_PATH | libc::O_DIRECTORY)?);
            } else {
                entrance.tasks.push(open_tasks(name, path)?);
            }
        }
        Ok(entrance)
    }

    /// The same cgroup's child `sub` (for `exec --cgroup`).
    pub(crate) fn child(&self, controller: Option<&str>, sub: &str) -> Cgroup {
        let mut child = self.clone();
        for (name, path) in &mut child.paths {
            if controller.is_none_or(|c| name.split(',').any(|n| n == c)) {
                path.push(clean(sub).strip_prefix("/").unwrap_or(Path::new(sub)));
            }
        }
        child
    }

    /// Writes the limits and, unless `rootless`, the device rules.
    pub(crate) fn set(&self, resources: &Resources, rootless: bool) -> Result<()> {
        limits::set(self, resources)?;
        if rootless { Ok(()) } else { self.set_devices(&resources.devices) }
    }

    /// Writes only the limits, for `update`.
    pub(crate) fn update(&self, resources: &Resources) -> Result<()> {
        if let Some(unit) = &self.unit {
            self.update_unit(unit, resources)?;
        }
        limits::set(self, resources)
    }

    fn set_devices(&self, rules: &[crate::spec::DeviceRule]) -> Result<()> {
        let policy = devices::Policy::new(rules)?;
        match self.version {
            2 => self.paths.values().try_for_each(|path| v2::set_devices(path, &policy)),
            _ => match self.directory("devices") {
                Some(path) => devices::write_v1(path, &policy),
                None => Ok(()),
            },
        }
    }

    /// The directory of `controller`; on v2 the one there is.
    pub(crate) fn directory(&self, controller: &str) -> Option<&Path> {
        if self.version == 2 {
            return self.paths.values().next().map(PathBuf::as_path);
        }
        self.paths
            .iter()
            .find(|(name, _)| name.split(',').any(|n| n == controller))
            .map(|(_, path)| path.as_path())
    }

    /// Whether anything of the cgroup is there.
    pub(crate) fn exists(&self) -> bool {
        self.paths.values().any(|path| path.is_dir())
    }
}

/// The file by which a process enters the v1 hierarchy `name`. The one without a name is the v2
/// hierarchy beside them, where systemd keeps its units.
fn open_tasks(name: &str, path: &Path) -> Result<OwnedFd> {
    let file = if name.is_empty() { "cgroup.procs" } else { "tasks" };
    open(&path.join(file), libc::O_WRONLY)
}

/// Makes `path` from the root and without `.` and `..`, as runc cleans paths that become cgroups.
fn clean(path: &str) -> PathBuf {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    PathBuf::from(if path.starts_with('/') { format!("/{joined}") } else { joined })
}

fn c_path(path: &Path) -> Result<CString> {
    sys::socket::c_path(path).context(|| format!("{}", path.display()))
}

fn open(path: &Path, flags: i32) -> Result<OwnedFd> {
    file::open(&c_path(path)?, flags).context(|| format!("open {}", path.display()))
}

/// Makes `path` and its parents; answers whether `path` is new.
fn make_directories(path: &Path) -> Result<bool> {
    let c = c_path(path)?;
    match file::mkdir(&c, 0o755) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(Errno::NOENT) if path.parent().is_some() => {
            make_directories(path.parent().unwrap_or(Path::new("/")))?;
            match file::mkdir(&c, 0o755) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => Ok(false),
                Err(e) => Err(Error::os(format!("mkdir {}", path.display()), e)),
            }
        }
        Err(e) => Err(Error::os(format!("mkdir {}", path.display()), e)),
    }
}

/// Writes one value to the control file `name`.
fn write(dir: &Path, name: &str, value: &str) -> Result<()> {
    let path = dir.join(name);
    file::write_control(&c_path(&path)?, value.as_bytes())
        .context(|| format!("failed to write {value:?} to {}", path.display()))
}

fn read(dir: &Path, name: &str) -> Result<String> {
    let path = dir.join(name);
    file::read_control(&c_path(&path)?)
        .map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned())
        .context(|| format!("read {}", path.display()))
}

/// As [`read`] for a file of one short line.
fn read_line(dir: &Path, name: &str) -> Result<String> {
    let path = dir.join(name);
    file::read_line(&c_path(&path)?)
        .map(|line| line.trim_end().to_owned())
        .context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{hierarchy::Hierarchy, *};

    fn v1() -> Hierarchies {
        Hierarchies::V1(vec![Hierarchy {
            name: "memory".into(),
            mount: "/sys/fs/cgroup/memory".into(),
            root: "/".into(),
            own: "/user/me".into(),
        }])
    }

    #[test]
    fn paths_count_from_the_mount_or_from_ones_own_cgroup() {
        for (cgroups_path, expected) in [
            ("", "/sys/fs/cgroup/memory/user/me/box"),
            ("/docker/box", "/sys/fs/cgroup/memory/docker/box"),
            ("sub/../x", "/sys/fs/cgroup/memory/user/me/x"),
            ("/../../etc", "/sys/fs/cgroup/memory/etc"),
            ("../../../up", "/sys/fs/cgroup/memory/user/me/up"),
        ] {
            let cgroup = Cgroup::locate(&v1(), cgroups_path, "box");
            assert_eq!(cgroup.paths["memory"], Path::new(expected), "{cgroups_path:?}");
        }
    }

    #[test]
    fn on_v2_a_relative_path_is_a_sibling_of_ones_own_cgroup() {
        let v2 = Hierarchies::V2 { mount: "/sys/fs/cgroup".into(), own: "/a/shell".into() };
        assert_eq!(Cgroup::locate(&v2, "", "box").paths[""], Path::new("/sys/fs/cgroup/a/box"));
    }

    #[test]
    fn a_container_inside_a_container_counts_from_its_mounts_root() {
        let h = Hierarchy {
            name: "cpu,cpuacct".into(),
            mount: "/sys/fs/cgroup/cpu,cpuacct".into(),
            root: "/docker/outer".into(),
            own: "/docker/outer/inner".into(),
        };
        assert_eq!(h.own_directory(), Path::new("/sys/fs/cgroup/cpu,cpuacct/inner"));
    }
}
