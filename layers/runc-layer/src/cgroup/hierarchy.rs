//! Which hierarchies are mounted where, and where this process is in them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{Result, error::Context, sys::file};

const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// One mounted v1 hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct Hierarchy {
    /// Its controllers joined by commas, or `name=…`, as /proc/self/cgroup says.
    pub(crate) name: String,
    pub(crate) mount: PathBuf,
    /// The directory of the hierarchy that the mount shows.
    pub(crate) root: PathBuf,
    /// The cgroup of this process.
    pub(crate) own: PathBuf,
}

impl Hierarchy {
    /// The directory of this process's own cgroup.
    pub(crate) fn own_directory(&self) -> PathBuf {
        let below = self.own.strip_prefix(&self.root).or_else(|_| self.own.strip_prefix("/"));
        self.mount.join(below.unwrap_or(Path::new("")))
    }
}

/// The cgroups of the machine.
#[derive(Debug)]
pub(crate) enum Hierarchies {
    /// The unified hierarchy alone.
    V2 {
        /// Where it is mounted.
        mount: PathBuf,
        /// The cgroup of this process.
        own: PathBuf,
    },
    /// Controllers on v1. A v2 hierarchy beside them ("hybrid") has no part in it, as in runc.
    V1(Vec<Hierarchy>),
}

impl Hierarchies {
    /// The unified hierarchy as it is on every machine that has it alone.
    pub(crate) fn v2_only() -> Hierarchies {
        Hierarchies::V2 { mount: "/sys/fs/cgroup".into(), own: "/".into() }
    }

    /// Controllers on v1 where they usually are, by themselves and two together.
    pub(crate) fn usual_v1() -> Hierarchies {
        let list = ["cpu,cpuacct", "memory", "pids", "devices", "name=systemd"].map(|name| {
            let mount = name.strip_prefix("name=").unwrap_or(name);
            Hierarchy {
                name: name.to_owned(),
                mount: format!("/sys/fs/cgroup/{mount}").into(),
                root: "/".into(),
                own: "/".into(),
            }
        });
        Hierarchies::V1(list.into())
    }

    /// Looks at the machine.
    pub(crate) fn find() -> Result<Hierarchies> {
        let text = |path: &std::ffi::CStr| {
            file::read_control(path)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .context(|| format!("read {}", path.to_string_lossy()))
        };
        let own = text(c"/proc/self/cgroup")?;
        let unified = file::statfs(c"/sys/fs/cgroup").is_ok_and(|magic| magic == CGROUP2_MAGIC);
        if unified {
            let own = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
            return Ok(Hierarchies::V2 { mount: "/sys/fs/cgroup".into(), own: own.into() });
        }
        let mounts = text(c"/proc/self/mountinfo")?;
        Ok(Hierarchies::V1(parse_v1(&own, &mounts)))
    }

    /// The cgroup `path` of systemd's on every v1 hierarchy, and on the v2 one beside them: below
    /// the cgroup of the machine's first process, or beside it, when that is systemd's own.
    pub(crate) fn below_init(&self, path: &str) -> Result<BTreeMap<String, PathBuf>> {
        let Hierarchies::V1(list) = self else { return Ok(BTreeMap::new()) };
        let first = file::read_control(c"/proc/1/cgroup")
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .context(|| "read /proc/1/cgroup".to_owned())?;
        let unified = Path::new("/sys/fs/cgroup/unified");
        let hybrid =
            file::statfs(c"/sys/fs/cgroup/unified").is_ok_and(|magic| magic == CGROUP2_MAGIC);
        let beside = hybrid.then_some(("", unified, Path::new("/")));
        let all = list.iter().map(|h| (h.name.as_str(), h.mount.as_path(), h.root.as_path()));
        Ok(all
            .chain(beside)
            .map(|(name, mount, root)| {
                let own = Path::new(membership(&first, name).unwrap_or("/"));
                let own =
                    if own.ends_with("init.scope") { own.parent().unwrap_or(own) } else { own };
                let below = own.strip_prefix(root).or_else(|_| own.strip_prefix("/"));
                let base = mount.join(below.unwrap_or(Path::new("")));
                (name.to_owned(), base.join(path.trim_start_matches('/')))
            })
            .collect())
    }

    /// Whether the machine has the unified hierarchy alone.
    pub(crate) fn is_v2(&self) -> bool {
        matches!(self, Hierarchies::V2 { .. })
    }
}

/// The cgroup in the hierarchy `name` that a /proc/PID/cgroup tells.
fn membership<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .find(|(n, _)| *n == name)
        .map(|(_, path)| path)
}

/// `own` is /proc/self/cgroup (cgroups(7)), `mounts` /proc/self/mountinfo (proc(5)).
fn parse_v1(own: &str, mounts: &str) -> Vec<Hierarchy> {
    let memberships: Vec<(&str, &str)> = own
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .filter(|(name, _)| !name.is_empty())
        .collect();
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        // "ID PARENT DEV ROOT MOUNT OPTIONS [TAGS…] - TYPE SOURCE SUPER"
        let Some((front, back)) = line.split_once(" - cgroup ") else { continue };
        let mut front = front.split(' ').skip(3);
        let (Some(root), Some(mount)) = (front.next(), front.next()) else { continue };
        let Some(options) = back.rsplit(' ').next() else { continue };
        let membership = memberships.iter().find(|(name, _)| {
            name.split(',').all(|controller| options.split(',').any(|o| o == controller))
        });
        let Some((name, own)) = membership else { continue };
        if found.iter().all(|h| h.name != *name) {
            found.push(Hierarchy {
                name: (*name).to_owned(),
                mount: mount.replace("\\040", " ").into(),
                root: root.into(),
                own: (*own).into(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_the_mounted_ones_that_we_are_in() {
        let own = "12:pids:/p\n4:cpu,cpuacct:/c\n3:name=systemd:/s\n2:rdma:/\n0::/u\n";
        let mounts = "\
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:14 - cgroup cgroup rw,cpu,cpuacct
36 30 0:32 /p /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
37 99 0:32 /p /other/pids rw - cgroup cgroup rw,pids
";
        let found = parse_v1(own, mounts);
        let names: Vec<_> = found.iter().map(|h| (h.name.as_str(), h.mount.as_path())).collect();
        assert_eq!(
            names,
            [
                ("name=systemd", Path::new("/sys/fs/cgroup/systemd")),
                ("cpu,cpuacct", Path::new("/sys/fs/cgroup/cpu,cpuacct")),
                ("pids", Path::new("/sys/fs/cgroup/pids")),
            ]
        );
        assert_eq!(found[2].own_directory(), Path::new("/sys/fs/cgroup/pids"));
    }
}
