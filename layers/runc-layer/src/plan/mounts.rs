//! The root filesystem's part of the plan: mounts in order, device nodes, hidden paths.

use std::{
    ffi::CString,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use super::{
    c_path, c_string, labels,
    options::Options,
    targets::{FreshTmpfs, guard_proc, is_below_proc},
};
use crate::{
    Error, Result,
    cgroup::{Cgroup, Hierarchies},
    error::Context,
    spec::{self, Spec},
    sys::{Errno, file, mount::Attributes},
};

/// How the root filesystem is made.
pub(crate) struct Rootfs {
    pub(crate) path: CString,
    /// MS_SLAVE, MS_PRIVATE, … with MS_REC for the new namespace's mounts.
    pub(crate) propagation: u64,
    /// Where the mount is that holds the root filesystem, if it may have to be made private first:
    /// pivot_root(2) takes no root whose parent is shared.
    pub(crate) parent: Option<CString>,
    /// In the caller's mount namespace: nothing is cut off, and the root is only changed.
    pub(crate) host_mounts: bool,
    pub(crate) mounts: Vec<MountStep>,
    /// Fill /dev with nodes and links; not when the host's /dev is bound there.
    pub(crate) set_up_dev: bool,
    /// Bind the host's nodes instead of making them, where mknod(2) is not allowed.
    pub(crate) bind_devices: bool,
    pub(crate) devices: Vec<DeviceNode>,
    pub(crate) masked: Vec<CString>,
    /// The data of the file systems that hide directories.
    pub(crate) mask_data: CString,
    pub(crate) readonly_paths: Vec<CString>,
    pub(crate) readonly: bool,
    pub(crate) no_pivot: bool,
    /// Made when it is missing, as runc does.
    pub(crate) cwd: CString,
}

/// One step of mounting.
pub(crate) struct MountStep {
    /// Inside the container.
    pub(crate) target: CString,
    /// It is not to be found below /proc, whatever links it leads through.
    pub(crate) outside_proc: bool,
    pub(crate) work: Work,
    pub(crate) propagation: Vec<u64>,
    /// For errors: what the configuration says is mounted here.
    pub(crate) label: String,
}

/// What a [`MountStep`] does.
pub(crate) enum Work {
    /// Mount a new file system.
    New {
        fstype: CString,
        source: CString,
        flags: u64,
        data: CString,
        /// procfs and sysfs go only on a real directory.
        strict: bool,
        copy_up: bool,
        /// The data without a group that may not be mapped in the user namespace it is mounted in;
        /// the kernel refuses such a one (EINVAL), and the container can do without.
        groupless: Option<CString>,
        /// What to bind when the kernel does not let this be mounted here.
        fallback: Option<Bind>,
    },
    Bind(Bind),
    /// `target` is a link to this.
    Link(CString),
    /// Change the flags of what is mounted.
    Remount(u64),
    /// Give what is mounted this SELinux label.
    Label(CString),
}

/// A bind mount.
pub(crate) struct Bind {
    pub(crate) source: CString,
    pub(crate) recursive: bool,
    pub(crate) attributes: Attributes,
    pub(crate) subtree: Attributes,
    /// The user namespace whose ids it shows, and whether all below it does.
    pub(crate) idmap: Option<(OwnedFd, bool)>,
    /// The source, which the child opens before it leaves the host's root; when `fresh` or `mapped`
    /// already a copy of its tree.
    pub(crate) opened: Option<OwnedFd>,
    /// `opened` is the runtime's copy, with its ids and attributes: a child in a user namespace has
    /// no rights to map ids.
    pub(crate) mapped: bool,
    pub(crate) source_is_dir: bool,
    /// The target is known not to be there yet.
    pub(crate) fresh: bool,
}

/// A node of /dev.
pub(crate) struct DeviceNode {
    pub(crate) path: CString,
    pub(crate) mode: u32,
    pub(crate) dev: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) tree: Option<OwnedFd>,
}

/// The ids that an idmapped mount shows.
pub(crate) enum Ids<'a> {
    /// Maps of user and group ids.
    Maps(&'a [spec::IdMapping], &'a [spec::IdMapping]),
    /// Those of the user namespace with this file.
    Namespace(&'a str),
}

/// Makes or opens a user namespace.
pub(crate) type MakeIdMap = fn(Ids<'_>) -> Result<OwnedFd>;

/// What the mounts depend on besides the configuration.
pub(crate) struct RootfsContext<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) rootfs: &'a Path,
    pub(crate) hierarchies: &'a Hierarchies,
    pub(crate) cgroup: &'a Cgroup,
    /// The container has a cgroup namespace.
    pub(crate) cgroup_namespace: bool,
    pub(crate) in_user_namespace: bool,
    pub(crate) no_pivot: bool,
    /// Makes or opens the user namespace of an idmapped mount.
    pub(crate) idmap: MakeIdMap,
}

/// The devices of the specification ("Default Devices"), all of mode 0666.
const DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// A file system with room for nothing.
const MASK: &str = "nr_blocks=1,nr_inodes=1";

impl Rootfs {
    pub(crate) fn new(spec: &Spec, cx: &RootfsContext<'_>) -> Result<Rootfs> {
        let mut mounts = Vec::new();
        let mut fresh = FreshTmpfs::default();
        for (i, mount) in spec.mounts.iter().enumerate() {
            add_mount(&mut mounts, &mut fresh, i, mount, &spec.linux, cx)?;
        }
        let dev_is_bound = spec.mounts.iter().any(|m| {
            m.destination.trim_end_matches('/') == "/dev" && Options::parse(&m.options).is_bind()
        });
        let paths = |field: &str, list: &[String]| {
            list.iter().map(|p| c_string(field, p)).collect::<Result<Vec<_>>>()
        };
        let root = spec.root.as_ref();
        let propagation = propagation(&spec.linux.rootfs_propagation)?;
        let host_mounts = spec.linux.namespaces.iter().all(|n| n.kind != "mount");
        let cut_off = [libc::MS_SLAVE | libc::MS_REC, libc::MS_PRIVATE | libc::MS_REC];
        let parent = match host_mounts || cut_off.contains(&propagation) {
            true => None,
            false => Some(c_path(&mount_of(cx.rootfs)?)?),
        };
        Ok(Rootfs {
            path: c_path(cx.rootfs)?,
            propagation,
            parent,
            host_mounts,
            mounts,
            set_up_dev: !dev_is_bound,
            bind_devices: cx.in_user_namespace,
            devices: device_nodes(&spec.linux.devices)?,
            mask_data: c_string(
                "linux.mountLabel",
                &labels::mount_data("tmpfs", MASK.to_owned(), &spec.linux.mount_label),
            )?,
            masked: paths("linux.maskedPaths", &spec.linux.masked_paths)?,
            readonly_paths: paths("linux.readonlyPaths", &spec.linux.readonly_paths)?,
            readonly: root.is_some_and(|r| r.readonly),
            no_pivot: cx.no_pivot,
            cwd: c_string(
                "process.cwd",
                spec.process.as_ref().map_or("/", |process| process.cwd.as_str()),
            )?,
        })
    }
}

fn propagation(name: &str) -> Result<u64> {
    let options = Options::parse(&[name.to_owned()]);
    match (name, options.propagation.as_slice()) {
        ("", _) => Ok(libc::MS_SLAVE | libc::MS_REC),
        (_, [flags]) => Ok(*flags),
        _ => Err(Error::Spec {
            field: "config.json: linux.rootfsPropagation".into(),
            reason: format!("rootfsPropagation={name} is not supported"),
        }),
    }
}

/// The mount point that `path`, which has no links in it, lies below.
fn mount_of(path: &Path) -> Result<PathBuf> {
    let what = || "/proc/self/mountinfo".to_owned();
    let table = file::read_control(c"/proc/self/mountinfo").context(what)?;
    let points = String::from_utf8_lossy(&table)
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(unescape))
        .filter(|point| path.starts_with(point))
        .max_by_key(|point| point.as_os_str().len());
    points.ok_or_else(|| Error::os(what(), Errno::NOENT))
}

/// A path of mountinfo(5), where blanks, tabs, newlines and backslashes are in octal.
fn unescape(text: &str) -> PathBuf {
    let mut path = text.to_owned();
    for (octal, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        path = path.replace(octal, plain);
    }
    path.into()
}

fn device_nodes(devices: &[spec::Device]) -> Result<Vec<DeviceNode>> {
    let mut nodes = Vec::new();
    for (path, major, minor) in DEVICES {
        if devices.iter().all(|d| d.path != path) {
            nodes.push(DeviceNode {
                path: c_string("linux.devices", path)?,
                mode: libc::S_IFCHR | 0o666,
                dev: file::makedev(major, minor),
                uid: 0,
                gid: 0,
                tree: None,
            });
        }
    }
    for device in devices {
        let kind = match device.kind.as_str() {
            "b" => libc::S_IFBLK,
            "p" => libc::S_IFIFO,
            _ => libc::S_IFCHR,
        };
        nodes.push(DeviceNode {
            path: c_string("linux.devices", &device.path)?,
            mode: kind | device.file_mode.unwrap_or(0o666) & 0o7777,
            dev: file::makedev(device.major as u32, device.minor as u32),
            uid: device.uid.unwrap_or(0),
            gid: device.gid.unwrap_or(0),
            tree: None,
        });
    }
    Ok(nodes)
}

fn add_mount(
    steps: &mut Vec<MountStep>,
    fresh: &mut FreshTmpfs,
    i: usize,
    mount: &spec::Mount,
    linux: &spec::Linux,
    cx: &RootfsContext<'_>,
) -> Result<()> {
    let refuse = |what: &str, reason: String| Error::Spec {
        field: format!("config.json: mounts[{i}].{what}"),
        reason,
    };
    let options = Options::parse(&mount.options);
    // Relative destinations are below the root, as runc still allows.
    let target = if mount.destination.starts_with('/') {
        mount.destination.clone()
    } else {
        format!("/{}", mount.destination)
    };
    guard_proc(&target, mount, &options).map_err(|reason| refuse("destination", reason))?;
    let c_target = c_string("mounts", &target)?;
    let strict = matches!(mount.kind.as_str(), "proc" | "sysfs") && !options.is_bind();
    // Some files below /proc may be covered; and links lead no procfs astray.
    let outside_proc = !strict && !is_below_proc(&target) && !fresh.hold(steps, &target);
    let mut step = |target: CString, work: Work, propagation: Vec<u64>| {
        let label = if mount.source.is_empty() { &mount.kind } else { &mount.source };
        steps.push(MountStep { target, outside_proc, work, propagation, label: label.clone() });
    };
    if options.is_bind() || mount.kind == "bind" {
        if mount.source.is_empty() {
            return Err(refuse("source", "a bind mount needs a source".into()));
        }
        let source = Path::new(&mount.source);
        let source: PathBuf =
            if source.is_absolute() { source.to_owned() } else { cx.bundle.join(source) };
        if options.flags & libc::MS_REMOUNT != 0 {
            let flags = options.flags & !libc::MS_REC;
            step(c_target, Work::Remount(flags | libc::MS_BIND), options.propagation);
            return Ok(());
        }
        let idmap = match is_idmapped(mount, &options) {
            true => {
                let ids = ids(mount, linux).map_err(|reason| refuse("uidMappings", reason))?;
                Some(((cx.idmap)(ids)?, options.idmap.unwrap_or(false)))
            }
            false => None,
        };
        let bind = Bind {
            source: c_path(&source)?,
            recursive: options.flags & libc::MS_REC != 0,
            attributes: options.attributes,
            subtree: options.recursive,
            idmap,
            opened: None,
            mapped: false,
            source_is_dir: false,
            fresh: false,
        };
        step(c_target, Work::Bind(bind), options.propagation);
        return Ok(());
    }
    if is_idmapped(mount, &options) {
        let reason = "id-mapped mounts are only supported for bind-mounts";
        return Err(refuse("uidMappings", reason.into()));
    }
    if mount.kind == "cgroup" || mount.kind == "cgroup2" {
        return add_cgroup(steps, &target, mount, &options, &linux.mount_label, cx);
    }
    let source = if mount.source.is_empty() { &mount.kind } else { &mount.source };
    let mut data = options.data.join(",");
    if mount.kind == "tmpfs" && options.copy_up && !data.contains("mode=") {
        data = if data.is_empty() { "mode=1777".into() } else { format!("{data},mode=1777") };
    }
    let label = &linux.mount_label;
    let data = labels::mount_data(&mount.kind, data, label);
    let work = if options.flags & libc::MS_REMOUNT != 0 {
        Work::Remount(options.flags)
    } else {
        Work::New {
            fstype: c_string("mounts", &mount.kind)?,
            source: c_string("mounts", source)?,
            flags: options.flags,
            data: c_string("mounts", &data)?,
            strict,
            copy_up: options.copy_up,
            groupless: groupless(&mount.kind, &options.data, label)?,
            fallback: None,
        }
    };
    step(c_target.clone(), work, options.propagation);
    if let Some(label) = labels::of_mounted(&mount.kind, label)? {
        step(c_target, Work::Label(label), Vec::new());
    }
    Ok(())
}

fn is_idmapped(mount: &spec::Mount, options: &Options) -> bool {
    options.idmap.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty()
}

/// Whose ids an idmapped mount shows: those of its own maps or, where it has none, the container's,
/// which may be those of a namespace to join (runc, specconv).
fn ids<'a>(mount: &'a spec::Mount, linux: &'a spec::Linux) -> std::result::Result<Ids<'a>, String> {
    let (mut uids, mut gids) = (&mount.uid_mappings, &mount.gid_mappings);
    if uids.is_empty() && gids.is_empty() {
        let user = linux.namespaces.iter().find(|n| n.kind == "user");
        if let Some(user) = user.filter(|user| !user.path.is_empty()) {
            return Ok(Ids::Namespace(&user.path));
        }
        (uids, gids) = (&linux.uid_mappings, &linux.gid_mappings);
    }
    if uids.is_empty() || gids.is_empty() {
        return Err("id-mapped mounts must have both uid and gid mappings specified".into());
    }
    Ok(Ids::Maps(uids, gids))
}

/// The data of a devpts without its `gid=`.
fn groupless(kind: &str, data: &[String], label: &str) -> Result<Option<CString>> {
    let is_group = |option: &&String| option.starts_with("gid=");
    if kind != "devpts" || !data.iter().any(|option| is_group(&option)) {
        return Ok(None);
    }
    let rest: Vec<&str> = data.iter().filter(|o| !is_group(o)).map(String::as_str).collect();
    c_string("mounts", &labels::mount_data(kind, rest.join(","), label)).map(Some)
}

/// The container's view of its cgroups, read-only if so asked.
fn add_cgroup(
    steps: &mut Vec<MountStep>,
    target: &str,
    mount: &spec::Mount,
    options: &Options,
    label: &str,
    cx: &RootfsContext<'_>,
) -> Result<()> {
    let c = |text: &str| c_string("mounts", text);
    let mut push = |target: &str, work: Work| -> Result<()> {
        steps.push(MountStep {
            // What goes below the tmpfs goes below one that is still empty.
            outside_proc: steps.last().is_none_or(|last| last.label != mount.kind),
            target: c(target)?,
            work,
            propagation: options.propagation.clone(),
            label: mount.kind.clone(),
        });
        Ok(())
    };
    let bind = |source: &Path, attributes, fresh: bool| -> Result<Bind> {
        Ok(Bind {
            source: c_path(source)?,
            recursive: true,
            attributes,
            subtree: Attributes::default(),
            idmap: None,
            opened: None,
            mapped: false,
            source_is_dir: true,
            fresh,
        })
    };
    let new = |fstype: &str, flags: u64, data: &str, fallback| -> Result<Work> {
        Ok(Work::New {
            fstype: c(fstype)?,
            source: c(if fstype == "tmpfs" { "tmpfs" } else { "cgroup" })?,
            flags,
            data: c(data)?,
            strict: false,
            copy_up: false,
            groupless: None,
            fallback,
        })
    };
    let flags = options.flags;
    let hierarchies = match cx.hierarchies {
        Hierarchies::V2 { mount: host, .. } => {
            let shown = match cx.cgroup.directory("") {
                Some(own) if cx.cgroup_namespace => own,
                _ => host.as_path(),
            };
            let fallback = bind(shown, options.attributes, false)?;
            return push(target, new("cgroup2", flags, &options.data.join(","), Some(fallback))?);
        }
        Hierarchies::V1(list) => list,
    };
    push(
        target,
        new(
            "tmpfs",
            flags & !libc::MS_RDONLY,
            &labels::mount_data("tmpfs", "mode=755".to_owned(), label),
            None,
        )?,
    )?;
    for h in hierarchies {
        let Some(own) = cx.cgroup.paths.get(&h.name) else { continue };
        let Some(name) = h.mount.file_name().and_then(|n| n.to_str()) else { continue };
        let below = format!("{}/{name}", target.trim_end_matches('/'));
        let bound = bind(own, options.attributes, !cx.cgroup_namespace)?;
        if cx.cgroup_namespace {
            push(&below, new("cgroup", flags, &h.name, Some(bound))?)?;
        } else {
            push(&below, Work::Bind(bound))?;
        }
        for controller in name.split(',').filter(|c| *c != name) {
            let link = format!("{}/{controller}", target.trim_end_matches('/'));
            push(&link, Work::Link(c(name)?))?;
        }
    }
    if flags & libc::MS_RDONLY != 0 {
        push(target, Work::Remount(flags | libc::MS_BIND))?;
    }
    Ok(())
}
