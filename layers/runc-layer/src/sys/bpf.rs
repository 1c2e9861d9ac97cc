//! Loading a device filter for a v2 cgroup.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{Result, check, owned};

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_PROG_QUERY: i32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The size of the attribute block passed to bpf(2); what a command does not use is zero.
const ATTRIBUTES: usize = 128;

#[repr(C, align(8))]
struct Attributes([u8; ATTRIBUTES]);

impl Attributes {
    fn new() -> Attributes {
        Attributes([0; ATTRIBUTES])
    }
    fn u32(mut self, at: usize, value: u32) -> Attributes {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn u64(mut self, at: usize, value: u64) -> Attributes {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn call(&mut self, command: i32) -> libc::c_long {
        // SAFETY: the block is as large as said; its pointers lead to buffers that the callers of
        // this private method keep alive over the call.
        unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), ATTRIBUTES) }
    }
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE from its 8-byte instructions.
pub(crate) fn load_device_filter(instructions: &[u64]) -> Result<OwnedFd> {
    let license = c"Apache-2.0";
    owned(
        Attributes::new()
            .u32(0, BPF_PROG_TYPE_CGROUP_DEVICE)
            .u32(4, instructions.len() as u32)
            .u64(8, instructions.as_ptr() as u64)
            .u64(16, license.as_ptr() as u64)
            .call(BPF_PROG_LOAD),
    )
}

/// Attaches `program` to the cgroup directory `cgroup` beside what its parents have.
pub(crate) fn attach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    check(
        Attributes::new()
            .u32(0, cgroup.as_raw_fd() as u32)
            .u32(4, program.as_raw_fd() as u32)
            .u32(8, BPF_CGROUP_DEVICE)
            .u32(12, BPF_F_ALLOW_MULTI)
            .call(BPF_PROG_ATTACH),
    )
    .map(drop)
}

/// Detaches `program` from `cgroup`.
pub(crate) fn detach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    check(
        Attributes::new()
            .u32(0, cgroup.as_raw_fd() as u32)
            .u32(4, program.as_raw_fd() as u32)
            .u32(8, BPF_CGROUP_DEVICE)
            .call(BPF_PROG_DETACH),
    )
    .map(drop)
}

/// The device filters attached to `cgroup` itself.
pub(crate) fn device_filters(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut ids = [0u32; 64];
    let mut query = Attributes::new()
        .u32(0, cgroup.as_raw_fd() as u32)
        .u32(4, BPF_CGROUP_DEVICE)
        .u64(16, ids.as_mut_ptr() as u64)
        .u32(24, ids.len() as u32);
    check(query.call(BPF_PROG_QUERY))?;
    let count = u32::from_ne_bytes([query.0[24], query.0[25], query.0[26], query.0[27]]) as usize;
    ids.iter()
        .take(count)
        .map(|id| owned(Attributes::new().u32(0, *id).call(BPF_PROG_GET_FD_BY_ID)))
        .collect()
}
