//! The mounts of a container.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use hops::{
    HopError, Result,
    proto::runtime::v1::{Mount as Wanted, MountPropagation},
};
use oci_spec::runtime::Mount;

/// What every container has (containerd 1.6's default specification, less `/run`).
pub(crate) const DEFAULT: [(&str, &str, &str, &str); 6] = [
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
];

/// A mount; `options` separated by commas.
pub(crate) fn mount(destination: &str, kind: &str, source: &Path, options: &str) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.split(',').map(str::to_owned).collect()));
    mount
}

/// The mounts of [`DEFAULT`].
pub(crate) fn default() -> Vec<Mount> {
    let all = DEFAULT.iter();
    all.map(|(to, kind, source, options)| mount(to, kind, Path::new(source), options)).collect()
}

/// What a container's mounts are made from.
pub(crate) struct Plan<'a> {
    /// What CRI asks for.
    pub(crate) wanted: &'a [Wanted],
    /// What the sandbox and the image bring, which yields to what is asked for.
    pub(crate) extra: Vec<Wanted>,
    /// Whether `/sys` and the cgroups can be written.
    pub(crate) privileged: bool,
}

/// A container's mounts, and the propagation that its root must have for them.
///
/// A directory of the host that is not there is made, as containerd does for Docker's sake.
///
/// # Errors
/// For paths that are no absolute paths or cannot be made, and for a propagation that the host's
/// mount does not allow, with the path.
pub(crate) fn of(plan: Plan<'_>) -> Result<(Vec<Mount>, Option<String>)> {
    let mut wanted: Vec<Wanted> = plan.wanted.to_vec();
    let taken: Vec<PathBuf> = wanted.iter().map(|m| clean(&m.container_path)).collect();
    wanted.extend(plan.extra.into_iter().filter(|m| !taken.contains(&clean(&m.container_path))));
    // A mount below another must come after it, whatever order they were asked for in.
    wanted.sort_by_key(|m| clean(&m.container_path).components().count());
    let overridden: Vec<PathBuf> = wanted.iter().map(|m| clean(&m.container_path)).collect();

    let mut mounts = default();
    mounts.retain(|m| {
        let to = m.destination();
        let under_dev = overridden.iter().any(|o| o == Path::new("/dev")) && to.starts_with("/dev");
        to != Path::new("/dev/shm") && !overridden.contains(to) && !under_dev
    });
    let cgroup = Path::new("cgroup");
    mounts.push(mount("/sys/fs/cgroup", "cgroup", cgroup, "nosuid,noexec,nodev,relatime,ro"));
    if plan.privileged {
        for mount in &mut mounts {
            if mount.typ().as_deref().is_some_and(|t| t == "sysfs" || t == "cgroup") {
                let rw = |o: &String| if o == "ro" { "rw".to_owned() } else { o.clone() };
                let options = mount.options().iter().flatten().map(rw).collect();
                mount.set_options(Some(options));
            }
        }
    }
    let mut root = None;
    for wanted in &wanted {
        mounts.push(bind(wanted, &mut root)?);
    }
    Ok((mounts, root))
}

fn bind(wanted: &Wanted, root: &mut Option<String>) -> Result<Mount> {
    let (from, to) = (&wanted.host_path, &wanted.container_path);
    if wanted.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
        return Err(HopError::invalid(format!("mount {to:?}: image mounts are not supported")));
    }
    if to.is_empty() {
        return Err(HopError::invalid("mount: container_path is empty"));
    }
    if !from.starts_with('/') {
        return Err(HopError::invalid(format!("mount {to:?}: host_path {from:?} is not absolute")));
    }
    let failed = |what: &str, e: io::Error| {
        HopError::from(e).context(format_args!("failed to {what} {from:?}"))
    };
    match fs::metadata(from) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(from).map_err(|e| failed("mkdir", e))?;
        }
        Err(e) => return Err(failed("stat", e)),
    }
    let source = fs::canonicalize(from).map_err(|e| failed("resolve symlink", e))?;
    let propagation = match wanted.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => {
            check_host(&source, &["shared:", "master:"], "shared or slave")?;
            if root.as_deref() != Some("rshared") {
                *root = Some("rslave".to_owned());
            }
            "rslave"
        }
        MountPropagation::PropagationBidirectional => {
            check_host(&source, &["shared:"], "shared")?;
            *root = Some("rshared".to_owned());
            "rshared"
        }
    };
    let access = if wanted.readonly { "ro" } else { "rw" };
    if wanted.recursive_read_only {
        if !wanted.readonly || propagation != "rprivate" {
            return Err(HopError::invalid(format!(
                "mount {to:?}: recursive_read_only needs readonly and private propagation"
            )));
        }
        return Ok(mount(to, "bind", &source, &format!("rbind,{propagation},rro")));
    }
    Ok(mount(to, "bind", &source, &format!("rbind,{propagation},{access}")))
}

/// Checks that the host's mount that holds `path` propagates in one of the `kinds` of mountinfo.
fn check_host(path: &Path, kinds: &[&str], words: &str) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let (point, shared) = holding(&table, path, kinds);
    if shared {
        return Ok(());
    }
    Err(HopError::invalid(format!(
        "path {:?} is mounted on {point:?} but it is not a {words} mount",
        path.display()
    )))
}

/// The mount in `table` that holds `path`, and whether it propagates in one of `kinds`.
fn holding(table: &str, path: &Path, kinds: &[&str]) -> (String, bool) {
    let mut best = (String::from("/"), false);
    for line in table.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4) else { continue };
        // Of mounts on one point the last is the one that is seen.
        if path.starts_with(point) && point.len() >= best.0.len() {
            let optional = fields.skip(1).take_while(|field| *field != "-");
            let shared = optional.into_iter().any(|f| kinds.iter().any(|k| f.starts_with(k)));
            best = (point.to_owned(), shared);
        }
    }
    best
}

/// A path without `.`, `..` and doubled slashes, as Go's `filepath.Clean` has it.
pub(crate) fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(from: &Path, to: &str) -> Wanted {
        Wanted {
            host_path: from.display().to_string(),
            container_path: to.into(),
            ..Wanted::default()
        }
    }

    #[test]
    fn what_is_asked_for_replaces_what_is_brought() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("made/deep");
        let asked = [wanted(&missing, "/etc/hosts/"), wanted(dir.path(), "/")];
        let extra = vec![wanted(Path::new("/"), "/etc/hosts"), wanted(Path::new("/"), "/etc/x")];
        let (mounts, root) = of(Plan { wanted: &asked, extra, privileged: false }).unwrap();
        let to: Vec<_> = mounts.iter().map(|m| m.destination().display().to_string()).collect();
        assert_eq!(to[5..], ["/sys/fs/cgroup", "/", "/etc/hosts/", "/etc/x"][..]);
        assert!(missing.is_dir() && root.is_none());
        assert!(to.iter().all(|t| t != "/dev/shm"));
    }

    #[test]
    fn an_own_dev_replaces_all_of_dev() {
        let dir = tempfile::tempdir().unwrap();
        let asked = [wanted(dir.path(), "/dev")];
        let (mounts, _) = of(Plan { wanted: &asked, extra: vec![], privileged: true }).unwrap();
        let dev: Vec<_> = mounts.iter().filter(|m| m.destination().starts_with("/dev")).collect();
        assert_eq!(dev.len(), 1);
        let ro = mounts.iter().filter(|m| m.options().iter().flatten().any(|o| o == "ro"));
        assert_eq!(ro.count(), 0, "a privileged container writes /sys");
    }

    #[test]
    fn wrong_mounts_are_refused_by_name() {
        for (from, to, words) in [
            ("relative", "/a", "mount \"/a\": host_path \"relative\" is not absolute"),
            ("/", "", "mount: container_path is empty"),
        ] {
            let asked = [wanted(Path::new(from), to)];
            let error = of(Plan { wanted: &asked, extra: vec![], privileged: false }).unwrap_err();
            assert_eq!(error.message, words);
        }
    }

    #[test]
    fn propagation_is_read_from_the_mount_that_holds_the_path() {
        let table = "20 1 8:1 / / rw shared:1 - ext4 x rw\n\
                     21 20 0:5 / /a rw - tmpfs x rw\n\
                     22 20 0:6 / /ab rw,noatime master:1 - tmpfs x rw\n";
        for (path, kinds, answer) in [
            ("/b", &["shared:"][..], ("/", true)),
            ("/a/x", &["shared:"], ("/a", false)),
            ("/ab", &["shared:", "master:"], ("/ab", true)),
        ] {
            let (point, shared) = holding(table, Path::new(path), kinds);
            assert_eq!((point.as_str(), shared), answer);
        }
    }
}
