//! Where a container's cgroups are: `/proc/PID/cgroup`, joined to where containerd expects the
//! hierarchies to be mounted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

const MOUNT: &str = "/sys/fs/cgroup";

/// A container's cgroups.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// The text of `/proc/PID/cgroup`.
    membership: Box<str>,
    unified: bool,
}

impl Cgroup {
    /// Those of the process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub(super) fn of(pid: u32) -> io::Result<Cgroup> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup"))?.into();
        Ok(Cgroup { membership, unified: is_unified() })
    }

    /// The directory in the one hierarchy of cgroup v2; `None` on v1, where controllers have
    /// hierarchies of their own, mixed or not with an empty one of v2.
    pub(super) fn v2(&self) -> Option<PathBuf> {
        let path = self.membership.lines().find_map(|line| line.strip_prefix("0::"))?;
        self.unified.then(|| join(MOUNT.as_ref(), path))
    }

    /// The directory in the hierarchy of the v1 controller `name`.
    pub(super) fn v1(&self, name: &str) -> Option<PathBuf> {
        if self.unified {
            return None;
        }
        let (controllers, path) = self.membership.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|c| c == name).then_some((controllers, path))
        })?;
        let mount = Path::new(MOUNT).join(name);
        let mount = if mount.exists() { mount } else { Path::new(MOUNT).join(controllers) };
        Some(join(&mount, path))
    }
}

fn is_unified() -> bool {
    statfs(MOUNT).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn join(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Moves the process `pid` into the cgroup `path` (absolute in each hierarchy) that exists: the
/// option `shim_cgroup`.
///
/// # Errors
/// When no hierarchy has the cgroup, and those of joining it.
pub(super) fn place(path: &str, pid: i32) -> io::Result<()> {
    let join_one = |dir: PathBuf| fs::write(dir.join("cgroup.procs"), pid.to_string());
    if is_unified() {
        return join_one(join(MOUNT.as_ref(), path));
    }
    let mut found = false;
    for hierarchy in fs::read_dir(MOUNT)?.flatten() {
        let dir = join(&hierarchy.path(), path);
        // Links (cpu → cpu,cpuacct) would join the same one twice.
        if dir.is_dir() && !hierarchy.file_type()?.is_symlink() {
            join_one(dir)?;
            found = true;
        }
    }
    if found { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_controllers_have_their_own_directories() {
        let text = "5:memory:/a/b\n3:cpu,cpuacct:/c\n0::/u\n";
        let cgroup = Cgroup { membership: text.into(), unified: false };
        assert_eq!(cgroup.v1("memory"), Some("/sys/fs/cgroup/memory/a/b".into()));
        assert!(cgroup.v1("cpuacct").unwrap().ends_with("c"));
        assert_eq!((cgroup.v1("rdma"), cgroup.v2()), (None, None));
        let cgroup = Cgroup { membership: "0::/u/v\n".into(), unified: true };
        assert_eq!((cgroup.v2(), cgroup.v1("memory")), (Some("/sys/fs/cgroup/u/v".into()), None));
    }
}
