//! The container's terminal: a master from its own devpts goes to the caller, the other side
//! becomes the standard streams and /dev/console.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::tree;
use crate::{
    plan::Console,
    sys::{Errno, Result, credentials, file, mount, socket, tty},
};

/// Opens a terminal and hands its master over. `bind` shows it as /dev/console.
pub(super) fn set_up(console: &Console, bind: bool) -> Result<()> {
    const DEVPTS_MAGIC: i64 = 0x1cd1;
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = match file::open(c"/dev/pts/ptmx", flags) {
        Err(Errno::NOENT) => file::open(c"/dev/ptmx", flags)?,
        other => other?,
    };
    // Whatever the container put there, only a terminal's master is one.
    if !file::fstat(master.as_fd())?.is_char(5, 2) || file::fstatfs(master.as_fd())? != DEVPTS_MAGIC
    {
        return Err(Errno::NODEV);
    }
    tty::unlock(master.as_fd())?;
    let slave = tty::peer(master.as_fd())?;
    if let Some(size) = console.size {
        tty::set_size(master.as_fd(), size)?;
    }
    if bind {
        let target = target()?;
        let node = mount::clone_tree(slave.as_fd(), c"", false)?;
        mount::attach_on(node.as_fd(), target.as_fd())?;
    }
    socket::send_fd(console.socket.as_fd(), b"/dev/ptmx", master.as_fd())?;
    match credentials::new_session() {
        Ok(()) | Err(Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    tty::control(slave.as_fd())?;
    (0..3).try_for_each(|stream| file::dup_onto(slave.as_raw_fd(), stream))
}

/// /dev/console itself. A link of that name, which would have the terminal cover another file
/// (CVE-2025-52565), makes way.
fn target() -> Result<OwnedFd> {
    let path = c"/dev/console";
    let open = || {
        let found = file::open(path, libc::O_PATH | libc::O_NOFOLLOW)?;
        let is_link = file::fstat(found.as_fd())?.is_link();
        Ok(if is_link { None } else { Some(found) })
    };
    match open() {
        Ok(Some(found)) => return Ok(found),
        Ok(None) => file::unlink(path)?,
        Err(Errno::NOENT) => {}
        Err(e) => return Err(e),
    }
    tree::regular(path)?;
    open()?.ok_or(Errno::LOOP)
}
