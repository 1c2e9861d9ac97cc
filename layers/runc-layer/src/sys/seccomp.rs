//! Loading a seccomp filter.

use std::os::fd::OwnedFd;

use super::{Result, check, owned};

/// One instruction of classic BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) yes: u8,
    pub(crate) no: u8,
    pub(crate) value: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// The flag that makes [`load`] answer a listener for user notifications.
pub(crate) const NEW_LISTENER: u64 = 1 << 3;

/// seccomp(2) SECCOMP_SET_MODE_FILTER. `filter` has at most 4096 instructions.
pub(crate) fn load(filter: &[Instruction], flags: u64) -> Result<Option<OwnedFd>> {
    const SET_MODE_FILTER: u32 = 1;
    let program = Program { len: filter.len() as u16, filter: filter.as_ptr() };
    // SAFETY: `program` has sock_fprog's layout and points to `len` instructions.
    let ret =
        unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) };
    if flags & NEW_LISTENER != 0 { owned(ret).map(Some) } else { check(ret).map(|_| None) }
}

/// Whether the kernel knows the return action `action`.
pub(crate) fn action_available(action: u32) -> bool {
    const GET_ACTION_AVAIL: u32 = 2;
    // SAFETY: the call reads one u32.
    unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}
