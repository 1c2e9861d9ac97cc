//! Mounts: the classic call and the descriptor-based ones (Linux 5.2, mount_setattr 5.12).

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use super::{Result, check, check_int, owned};

pub(crate) const ATTR_RDONLY: u64 = 0x1;
pub(crate) const ATTR_NOSUID: u64 = 0x2;
pub(crate) const ATTR_NODEV: u64 = 0x4;
pub(crate) const ATTR_NOEXEC: u64 = 0x8;
/// The mask of the three access time modes.
pub(crate) const ATTR_ATIME: u64 = 0x70;
pub(crate) const ATTR_RELATIME: u64 = 0x0;
pub(crate) const ATTR_NOATIME: u64 = 0x10;
pub(crate) const ATTR_STRICTATIME: u64 = 0x20;
pub(crate) const ATTR_NODIRATIME: u64 = 0x80;
pub(crate) const ATTR_NOSYMFOLLOW: u64 = 0x20_0000;
pub(crate) const ATTR_IDMAP: u64 = 0x10_0000;

const OPEN_TREE_CLONE: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_SYMLINKS: u32 = 0x10;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

fn pointer(text: Option<&CStr>) -> *const libc::c_char {
    text.map_or(std::ptr::null(), CStr::as_ptr)
}

/// mount(2).
pub(crate) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    fstype: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Result<()> {
    // SAFETY: C strings or null, as the call allows.
    check_int(unsafe {
        libc::mount(pointer(source), target.as_ptr(), pointer(fstype), flags, pointer(data).cast())
    })
    .map(drop)
}

/// umount2(2) with MNT_DETACH.
pub(crate) fn detach(target: &CStr) -> Result<()> {
    // SAFETY: one C string argument.
    check_int(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

pub(crate) fn pivot_root(new: &CStr, old: &CStr) -> Result<()> {
    // SAFETY: two C string arguments.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) }).map(drop)
}

/// A detached copy of the mount at `path` (of the tree below it when `recursive`). An empty path is
/// `dir` itself.
pub(crate) fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as u32;
    }
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: one C string argument.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// Attaches the detached tree `tree` at `path`, following links there.
pub(crate) fn attach(tree: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    // SAFETY: C string arguments.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS,
        )
    })
    .map(drop)
}

/// Attaches the detached tree `tree` on the file or directory `target`.
pub(crate) fn attach_on(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: C string arguments.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// The changes of one mount_setattr(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl Attributes {
    pub(crate) fn is_empty(self) -> bool {
        self == Attributes::default()
    }
}

/// Changes the mount that `tree` is (with all below it when `recursive`). With `idmap` the mount
/// shows the ids of that user namespace.
pub(crate) fn set_attributes(
    tree: BorrowedFd<'_>,
    change: Attributes,
    recursive: bool,
    idmap: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let set = change.set | if idmap.is_some() { ATTR_IDMAP } else { 0 };
    let attr: [u64; 4] = [set, change.clear, 0, idmap.map_or(0, |fd| fd.as_raw_fd() as u64)];
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` has the layout of struct mount_attr (four u64) and its size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr.as_ptr(),
            std::mem::size_of_val(&attr),
        )
    })
    .map(drop)
}
