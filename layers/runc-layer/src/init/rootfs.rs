//! Making the container's view of the file system.
//!
//! The child enters the root filesystem with chroot(2) before it mounts anything in it, so that
//! the kernel resolves every target, links and races included, inside the container; what comes
//! from the host was opened before. When the mounts are done it steps out again by a descriptor
//! (it still has the rights), and pivot_root(2) makes the jail final.

use std::{
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd},
};

use super::{
    console, copy, hooks, read_only,
    report::{At, Failure, Report, Step},
    streams, tree, wait,
};
use crate::{
    plan::{Bind, DeviceNode, MountStep, Plan, Rootfs, Work},
    sys::{Errno, Result, file, mount},
};

type Outcome = std::result::Result<(), Failure>;

/// Opens what is mounted from the host, by the host's paths.
pub(super) fn open_sources(rootfs: &mut Rootfs) -> Outcome {
    for (i, step) in rootfs.mounts.iter_mut().enumerate() {
        let bind = match &mut step.work {
            Work::Bind(bind) | Work::New { fallback: Some(bind), .. } => bind,
            _ => continue,
        };
        if bind.mapped {
            continue;
        }
        // The copy is made when its turn comes: the kernel lists mounts in the order of their making.
        let source = match bind.fresh {
            true => mount::clone_tree(file::cwd(), &bind.source, bind.recursive),
            false => file::open(&bind.source, libc::O_PATH),
        };
        let source = source.at_index(Step::OpenSource, i)?;
        if !bind.source_is_dir {
            bind.source_is_dir =
                file::fstat(source.as_fd()).at_index(Step::OpenSource, i)?.is_dir();
        }
        bind.opened = Some(source);
    }
    if rootfs.bind_devices && rootfs.set_up_dev {
        for device in &mut rootfs.devices {
            // A device that the host lacks is missed when it is made.
            device.tree = mount::clone_tree(file::cwd(), &device.path, false).ok();
        }
    }
    Ok(())
}

/// Cuts the new mount namespace off from the host's and makes the root filesystem a mount.
pub(super) fn take_root(rootfs: &Rootfs) -> Outcome {
    if !rootfs.host_mounts {
        mount::mount(None, c"/", None, rootfs.propagation, None).at(Step::MakeSlave)?;
    }
    if let Some(parent) = &rootfs.parent {
        mount::mount(None, parent, None, libc::MS_PRIVATE, None).at(Step::MakeSlave)?;
    }
    mount::mount(Some(&rootfs.path), &rootfs.path, None, libc::MS_BIND | libc::MS_REC, None)
        .at(Step::BindRoot)
}

/// Mounts everything and moves in.
pub(super) fn make(plan: &mut Plan) -> Outcome {
    // The caller checked that there is one.
    let Some(mut rootfs) = plan.rootfs.take() else { return Ok(()) };
    let result = make_all(plan, &mut rootfs);
    // Errors are described with the plan's names.
    plan.rootfs = Some(rootfs);
    result
}

fn make_all(plan: &mut Plan, rootfs: &mut Rootfs) -> Outcome {
    let directory = libc::O_DIRECTORY | libc::O_PATH;
    let host = file::open(c"/", directory).at(Step::EnterRoot)?;
    file::chdir(&rootfs.path).at(Step::EnterRoot)?;
    file::chroot(c".").at(Step::EnterRoot)?;
    let root = file::open(c"/", directory).at(Step::EnterRoot)?;
    for (i, step) in rootfs.mounts.iter_mut().enumerate() {
        if step.outside_proc {
            refuse_proc(&step.target).at_index(Step::Mount, i)?;
        }
        mount_step(step).at_index(Step::Mount, i)?;
        for flags in &step.propagation {
            mount::mount(None, &step.target, None, *flags, None)
                .at_index(Step::MountPropagation, i)?;
        }
    }
    if rootfs.set_up_dev {
        for (i, device) in rootfs.devices.iter_mut().enumerate() {
            make_device(device, rootfs.bind_devices).at_index(Step::DevNode, i)?;
        }
        make_links().at(Step::DevLinks)?;
    }
    if let Some(console) = plan.console.take() {
        console::set_up(&console, true).at(Step::Console)?;
    }
    if rootfs.cwd.as_c_str() != c"/" && file::stat(&rootfs.cwd).is_err_and(|e| e == Errno::NOENT) {
        match tree::directory(&rootfs.cwd) {
            // It may be below a file system that is read-only or not ours; chdir will tell.
            Ok(()) | Err(Errno::ROFS | Errno::ACCES | Errno::PERM) => {}
            other => other.at(Step::Cwd)?,
        }
    }
    let outside_hooks = plan.runtime_hooks || !plan.create_container.is_empty();
    if outside_hooks {
        // Hooks of the runtime's namespace see the host's paths.
        step_out(&host)?;
        runtime_hooks(plan)?;
    }
    if rootfs.readonly && rootfs.no_pivot {
        make_read_only(&root)?;
    }
    if !outside_hooks {
        step_out(&host)?;
    }
    if rootfs.host_mounts {
        change_root(&root)?;
    } else if rootfs.no_pivot {
        move_root(&root)?
    } else {
        pivot(&root, &host)?
    }
    if rootfs.parent.is_some() {
        // What was set before was the host's root.
        mount::mount(None, c"/", None, rootfs.propagation, None).at(Step::Pivot)?;
    }
    if rootfs.set_up_dev {
        streams::reopen_null().at(Step::Stdio)?;
    }
    if rootfs.readonly && !rootfs.no_pivot {
        make_read_only(&root)?;
    }
    for (i, path) in rootfs.readonly_paths.iter().enumerate() {
        readonly_path(path).at_index(Step::ReadonlyPath, i)?;
    }
    if !rootfs.masked.is_empty() {
        mask(&rootfs.masked, &rootfs.mask_data)?;
    }
    Ok(())
}

fn step_out(host: &OwnedFd) -> Outcome {
    file::fchdir(host.as_fd()).at(Step::EnterRoot)?;
    file::chroot(c".").at(Step::EnterRoot)
}

fn runtime_hooks(plan: &mut Plan) -> Outcome {
    if plan.runtime_hooks {
        Report::RuntimeHooks.send(file::borrow(plan.sync)).at(Step::Sync)?;
        wait(plan).at(Step::Sync)?;
    }
    let state: &[u8] = if plan.create_container.is_empty() {
        &[]
    } else {
        hooks::state(&mut plan.state, file::borrow(plan.sync))
    };
    hooks::run(&plan.create_container, state).map_err(|(index, errno)| Failure {
        step: Step::CreateHook,
        index,
        errno,
    })
}

/// pivot_root onto itself: the old root lies on top of the new one and is taken off.
fn pivot(root: &OwnedFd, host: &OwnedFd) -> Outcome {
    file::fchdir(root.as_fd()).at(Step::Pivot)?;
    mount::pivot_root(c".", c".").at(Step::Pivot)?;
    file::fchdir(host.as_fd()).at(Step::Pivot)?;
    // The detaching must not reach the host, if the root's propagation was asked to be shared.
    mount::mount(None, c".", None, libc::MS_SLAVE | libc::MS_REC, None).at(Step::Pivot)?;
    mount::detach(c".").at(Step::Pivot)?;
    file::chdir(c"/").at(Step::Pivot)
}

/// For a root that cannot be pivoted (an initramfs): move the mount over the root and go there.
fn move_root(root: &OwnedFd) -> Outcome {
    file::fchdir(root.as_fd()).at(Step::Pivot)?;
    mount::mount(Some(c"."), c"/", None, libc::MS_MOVE, None).at(Step::Pivot)?;
    file::chroot(c".").at(Step::Pivot)?;
    file::chdir(c"/").at(Step::Pivot)
}

/// In the caller's mount namespace only the process's view changes, as with runc.
fn change_root(root: &OwnedFd) -> Outcome {
    file::fchdir(root.as_fd()).at(Step::Pivot)?;
    file::chroot(c".").at(Step::Pivot)?;
    file::chdir(c"/").at(Step::Pivot)
}

fn make_read_only(root: &OwnedFd) -> Outcome {
    mount::set_attributes(root.as_fd(), read_only(), false, None).at(Step::RootReadonly)
}

/// The container's /dev/null, and no other thing of that name (CVE-2025-31133). The host's would
/// need no look, but before Linux 6.15 only what is attached can be copied, and that no longer is.
fn open_null() -> Result<OwnedFd> {
    let null = file::open(c"/dev/null", libc::O_PATH | libc::O_NOFOLLOW)?;
    if file::fstat(null.as_fd())?.is_char(1, 3) { Ok(null) } else { Err(Errno::NODEV) }
}

/// A link in the image could have something mounted over the container's procfs.
fn refuse_proc(target: &CStr) -> Result<()> {
    const PROC_MAGIC: i64 = 0x9fa0;
    if file::statfs(target) != Ok(PROC_MAGIC) {
        // What is not there yet is made later, and nothing can be made in procfs.
        return Ok(());
    }
    let same = file::stat(target)?.device == file::stat(c"/proc")?.device;
    if same { Err(Errno::XDEV) } else { Ok(()) }
}

fn mount_step(step: &mut MountStep) -> Result<()> {
    let target = step.target.as_c_str();
    match &mut step.work {
        Work::New { fstype, source, flags, data, strict, copy_up, groupless, fallback } => {
            let with = |data: &CStr, at: &CStr| {
                let data = if data.is_empty() { None } else { Some(data) };
                mount::mount(Some(source), at, Some(fstype), *flags, data)
            };
            let new = |at: &CStr| match (with(data, at), groupless.as_ref()) {
                (Err(Errno::INVAL), Some(groupless)) => with(groupless, at),
                (made, _) => made,
            };
            let made = if *strict {
                mount_strict(target, new)
            } else if *copy_up {
                copy_up_mount(target, new)
            } else {
                with_directory(target, || new(target))
            };
            match (made, fallback) {
                (Err(Errno::PERM | Errno::BUSY | Errno::NODEV), Some(bind)) => attach(target, bind),
                (made, _) => made,
            }
        }
        Work::Bind(bind) => attach(target, bind),
        Work::Link(to) => match file::symlink(to, target) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        },
        Work::Label(label) => file::set_label(target, label),
        Work::Remount(flags) => mount::mount(None, target, None, *flags | libc::MS_REMOUNT, None),
    }
}

/// Tries again after making the directory that was missing.
fn with_directory(target: &CStr, call: impl Fn() -> Result<()>) -> Result<()> {
    match call() {
        Err(Errno::NOENT) => {
            tree::directory(target)?;
            call()
        }
        other => other,
    }
}

/// Mounts on the directory itself: no link on the way, nothing exchanged meanwhile.
fn mount_strict(target: &CStr, new: impl Fn(&CStr) -> Result<()>) -> Result<()> {
    const RESOLVE_NO_SYMLINKS: u64 = 0x04;
    let open = || {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        file::openat2(file::cwd(), target, flags, RESOLVE_NO_SYMLINKS)
    };
    let dir = match open() {
        Err(Errno::NOENT) => {
            tree::directory(target)?;
            open()?
        }
        other => other?,
    };
    file::fchdir(dir.as_fd())?;
    leave_open(dir);
    new(c".")?;
    file::chdir(c"/")
}

/// A tmpfs that starts with what the directory had.
fn copy_up_mount(target: &CStr, new: impl Fn(&CStr) -> Result<()>) -> Result<()> {
    let open = || file::open(target, libc::O_RDONLY | libc::O_DIRECTORY);
    let below = match open() {
        Err(Errno::NOENT) => {
            tree::directory(target)?;
            open()?
        }
        other => other?,
    };
    new(target)?;
    let above = file::open(target, libc::O_RDONLY | libc::O_DIRECTORY)?;
    copy::contents(below.as_fd(), above.as_fd())
}

fn attach(target: &CStr, bind: &mut Bind) -> Result<()> {
    let mut tree = bind.opened.take().ok_or(Errno::INVAL)?;
    if !bind.fresh && !bind.mapped {
        let copy = mount::clone_tree(tree.as_fd(), c"", bind.recursive)?;
        leave_open(std::mem::replace(&mut tree, copy));
    }
    if !bind.mapped {
        set_attributes(tree.as_fd(), bind)?;
    }
    let first = if bind.fresh { Err(Errno::NOENT) } else { mount::attach(tree.as_fd(), target) };
    let attached = match first {
        Err(Errno::NOENT) => {
            if bind.source_is_dir {
                tree::directory(target)?;
            } else {
                tree::regular(target)?;
            }
            mount::attach(tree.as_fd(), target)
        }
        other => other,
    };
    leave_open(tree);
    attached
}

/// Gives the detached copy `tree` the attributes of `bind`.
pub(crate) fn set_attributes(tree: BorrowedFd<'_>, bind: &Bind) -> Result<()> {
    if !bind.attributes.is_empty() {
        mount::set_attributes(tree, bind.attributes, false, None)?;
    }
    if !bind.subtree.is_empty() {
        mount::set_attributes(tree, bind.subtree, true, None)?;
    }
    Ok(())
}

/// Lets a descriptor be closed with all others before the program runs, for one call instead of
/// one each.
fn leave_open(fd: OwnedFd) {
    let _ = fd.into_raw_fd();
}

fn make_device(device: &mut DeviceNode, bind: bool) -> Result<()> {
    if bind {
        return bind_device(device);
    }
    let path = device.path.as_c_str();
    match file::mknod(path, device.mode, device.dev) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            // What the image has there is replaced unless it is the device.
            let stat = file::stat(path)?;
            if stat.mode & libc::S_IFMT == device.mode & libc::S_IFMT && stat.rdev == device.dev {
                return Ok(());
            }
            file::unlink(path)?;
            file::mknod(path, device.mode, device.dev)?;
        }
        Err(Errno::NOENT) => {
            make_parent(path)?;
            file::mknod(path, device.mode, device.dev)?;
        }
        Err(Errno::PERM) => return bind_device(device),
        Err(e) => return Err(e),
    }
    if device.uid != 0 || device.gid != 0 {
        file::lchown(path, device.uid, device.gid)?;
    }
    Ok(())
}

/// Makes the directory that `path` is in by making the path as one and taking it off again.
fn make_parent(path: &CStr) -> Result<()> {
    tree::directory(path)?;
    file::rmdir(path)
}

fn bind_device(device: &mut DeviceNode) -> Result<()> {
    let tree = device.tree.take().ok_or(Errno::PERM)?;
    tree::regular(&device.path)?;
    let attached = mount::attach(tree.as_fd(), &device.path);
    leave_open(tree);
    attached
}

/// The links of the specification ("Dev symbolic links") and ptmx.
fn make_links() -> Result<()> {
    const LINKS: [(&CStr, &CStr); 4] = [
        (c"/proc/self/fd", c"/dev/fd"),
        (c"/proc/self/fd/0", c"/dev/stdin"),
        (c"/proc/self/fd/1", c"/dev/stdout"),
        (c"/proc/self/fd/2", c"/dev/stderr"),
    ];
    for (to, at) in LINKS {
        match file::symlink(to, at) {
            Ok(()) | Err(Errno::EXIST | Errno::ROFS) => {}
            Err(Errno::NOENT) => {
                tree::directory(c"/dev")?;
                file::symlink(to, at)?;
            }
            Err(e) => return Err(e),
        }
    }
    if file::stat(c"/proc/kcore").is_ok() {
        match file::symlink(c"/proc/kcore", c"/dev/core") {
            Ok(()) | Err(Errno::EXIST | Errno::ROFS) => {}
            Err(e) => return Err(e),
        }
    }
    match file::symlink(c"pts/ptmx", c"/dev/ptmx") {
        Err(Errno::EXIST) => {
            file::unlink(c"/dev/ptmx")?;
            file::symlink(c"pts/ptmx", c"/dev/ptmx")
        }
        Err(Errno::ROFS) => Ok(()),
        other => other,
    }
}

fn readonly_path(path: &CStr) -> Result<()> {
    let tree = match mount::clone_tree(file::cwd(), path, true) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other?,
    };
    mount::set_attributes(tree.as_fd(), read_only(), true, None)?;
    let attached = mount::attach(tree.as_fd(), path);
    leave_open(tree);
    attached
}

fn mask(paths: &[std::ffi::CString], data: &CStr) -> Outcome {
    let null = open_null().at(Step::Mask)?;
    let mut spare: Option<OwnedFd> = None;
    for (i, path) in paths.iter().enumerate() {
        let tree = match spare.take() {
            Some(tree) => tree,
            None => mount::clone_tree(null.as_fd(), c"", false).at_index(Step::Mask, i)?,
        };
        match mount::attach(tree.as_fd(), path) {
            Ok(()) => leave_open(tree),
            Err(Errno::NOENT) => spare = Some(tree),
            // A file cannot go on a directory (the kernel says either).
            Err(Errno::NOTDIR | Errno::INVAL | Errno::ISDIR) => {
                spare = Some(tree);
                let flags = libc::MS_RDONLY;
                match mount::mount(Some(c"tmpfs"), path, Some(c"tmpfs"), flags, Some(data)) {
                    // A component of the path is a file: there is nothing to hide.
                    Ok(()) | Err(Errno::NOTDIR) => {}
                    other => other.at_index(Step::Mask, i)?,
                }
            }
            other => other.at_index(Step::Mask, i)?,
        }
    }
    Ok(())
}
