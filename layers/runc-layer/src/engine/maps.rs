//! User namespaces' id maps.

use std::{
    os::fd::{AsFd, OwnedFd},
    process::Command,
};

use crate::{
    Error, Result,
    error::Context,
    init::rootfs,
    plan::{Ids, Rootfs, Work, c_path},
    spec::IdMapping,
    sys::{
        Errno, credentials, file,
        mount::{self, Attributes},
        process, socket,
    },
};

fn text(maps: &[IdMapping]) -> String {
    maps.iter().map(|m| format!("{} {} {}\n", m.container, m.host, m.size)).collect()
}

/// Writes the maps of the process `pid`, which is in a new user namespace.
pub(super) fn write(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<()> {
    let own =
        |maps: &[IdMapping], id: u32| maps.len() == 1 && maps[0].host == id && maps[0].size == 1;
    if credentials::effective_uid() != 0 && own(gids, credentials::effective_gid()) {
        // An ordinary user may map its group only when nobody in there can leave it.
        put(pid, "setgroups", "deny")?;
    }
    for (file, program, maps) in [("uid_map", "newuidmap", uids), ("gid_map", "newgidmap", gids)] {
        match put(pid, file, &text(maps)) {
            Err(Error::Os { errno: Errno::PERM, .. }) if credentials::effective_uid() != 0 => {
                by_program(program, pid, maps)?;
            }
            other => other?,
        }
    }
    Ok(())
}

fn put(pid: i32, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{name}");
    let c = c_path(path.as_ref())?;
    file::write_control(&c, value.as_bytes()).context(|| format!("failed to write {path}"))
}

/// newuidmap(1) and newgidmap(1), which /etc/subuid and /etc/subgid let map more than one id.
fn by_program(program: &str, pid: i32, maps: &[IdMapping]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for map in maps {
        command.args([map.container, map.host, map.size].map(|n| n.to_string()));
    }
    let output = command.output().context(|| format!("run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Invalid(format!("{program} failed ({}): {}", output.status, said.trim())))
}

/// A user namespace with these ids, for an idmapped mount; nobody is in a new one.
pub(super) fn namespace(ids: Ids<'_>) -> Result<OwnedFd> {
    let (uids, gids) = match ids {
        Ids::Maps(uids, gids) => (uids, gids),
        Ids::Namespace(path) => {
            let file = file::open(&c_path(path.as_ref())?, libc::O_RDONLY);
            return file.context(|| format!("open {path}"));
        }
    };
    let (ours, theirs) = socket::pair().context(|| "socketpair".to_owned())?;
    let wait = || {
        // It ends when the other end is closed or it is killed, whichever the runtime's fate is.
        let _ = socket::receive(theirs.as_fd(), &mut [0u8; 1]);
        0
    };
    let child = process::spawn(libc::CLONE_NEWUSER as u64, None, wait)
        .context(|| "clone a user namespace".to_owned())?;
    let made = write(child.pid, uids, gids).and_then(|()| {
        let path = format!("/proc/{}/ns/user", child.pid);
        let c = c_path(path.as_ref())?;
        file::open(&c, libc::O_RDONLY).context(|| format!("open {path}"))
    });
    let _ = process::pidfd_signal(child.pidfd.as_fd(), libc::SIGKILL);
    let _ = process::wait_pidfd(child.pidfd.as_fd());
    drop(ours);
    made
}

/// Copies the sources of idmapped mounts, which the child could not map from inside a user
/// namespace of its own.
pub(super) fn copy_sources(rootfs: &mut Rootfs) -> Result<()> {
    for step in &mut rootfs.mounts {
        let Work::Bind(bind) = &mut step.work else { continue };
        let Some((namespace, recursive)) = bind.idmap.take() else { continue };
        let source = || bind.source.to_string_lossy();
        let tree = mount::clone_tree(file::cwd(), &bind.source, bind.recursive)
            .context(|| format!("open_tree(OPEN_TREE_CLONE) {}", source()))?;
        let none = Attributes::default();
        mount::set_attributes(tree.as_fd(), none, recursive, Some(namespace.as_fd())).map_err(
            |errno| {
                // The words are runc's.
                let hint = match errno {
                    Errno::INVAL => {
                        " (maybe the filesystem used doesn't support idmap mounts on this kernel?)"
                    }
                    _ => "",
                };
                Error::Start(format!(
                    "failed to set MOUNT_ATTR_IDMAP on {}: {errno}{hint}",
                    source()
                ))
            },
        )?;
        rootfs::set_attributes(tree.as_fd(), bind)
            .context(|| format!("set the attributes of {}", source()))?;
        bind.source_is_dir = file::fstat(tree.as_fd()).context(|| source().into_owned())?.is_dir();
        bind.opened = Some(tree);
        bind.mapped = true;
    }
    Ok(())
}
