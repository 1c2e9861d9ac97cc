//! Ids, capabilities, limits and the other properties of the calling process.

use super::{Result, check, strings::StringVector};
use std::ffi::CStr;

/// The four capability sets of capset(2) and the ambient one, bit per capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapabilitySets {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// This process's effective, permitted and inheritable sets.
pub(crate) fn capabilities() -> Result<CapabilitySets> {
    let header: [u32; 2] = [CAPABILITY_VERSION_3, 0];
    let mut data = [0u32; 6];
    // SAFETY: version 3 has a two-word header and two data records of three words.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapabilitySets {
        effective: join(data[0], data[3]),
        permitted: join(data[1], data[4]),
        inheritable: join(data[2], data[5]),
        ..CapabilitySets::default()
    })
}

/// Sets the effective, permitted and inheritable sets.
pub(crate) fn set_capabilities(sets: &CapabilitySets) -> Result<()> {
    let header: [u32; 2] = [CAPABILITY_VERSION_3, 0];
    let high = |set: u64| (set >> 32) as u32;
    let data: [u32; 6] = [
        sets.effective as u32,
        sets.permitted as u32,
        sets.inheritable as u32,
        high(sets.effective),
        high(sets.permitted),
        high(sets.inheritable),
    ];
    // SAFETY: as in `capabilities`.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

fn prctl(option: i32, a: u64, b: u64) -> Result<i64> {
    // SAFETY: used only with options whose arguments are numbers.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, a, b, 0u64, 0u64) })
}

pub(crate) fn drop_bounding(capability: u32) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

pub(crate) fn raise_ambient(capability: u32) -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability.into()).map(drop)
}

/// Whether a change away from uid 0 keeps the permitted capabilities.
pub(crate) fn keep_capabilities(keep: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

pub(crate) fn no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Keeps other processes from tracing this one and from looking into its /proc, until exec.
pub(crate) fn hide() -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
}

/// Makes this process the reaper of its descendants.
pub(crate) fn become_subreaper() -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

pub(crate) fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length are those of `groups`.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

pub(crate) fn set_gid(gid: u32) -> Result<()> {
    // SAFETY: no memory arguments.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

pub(crate) fn set_uid(uid: u32) -> Result<()> {
    // SAFETY: no memory arguments.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

pub(crate) fn effective_uid() -> u32 {
    // SAFETY: it cannot fail and has no arguments.
    unsafe { libc::geteuid() }
}

pub(crate) fn effective_gid() -> u32 {
    // SAFETY: it cannot fail and has no arguments.
    unsafe { libc::getegid() }
}

/// Sets this process's limit `resource` (`RLIMIT_*`).
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit: [u64; 2] = [soft, hard];
    // SAFETY: `limit` has the layout of struct rlimit64; a null old value is allowed.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), std::ptr::null_mut::<u64>())
    })
    .map(drop)
}

/// This process's limit `resource`: soft and hard.
pub(crate) fn limit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = [0u64; 2];
    // SAFETY: as in `set_limit`; a null new value only reads.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, std::ptr::null::<u64>(), limit.as_mut_ptr())
    })?;
    Ok((limit[0], limit[1]))
}

/// Joins a new session keyring called `name`; answers its serial number.
pub(crate) fn join_session_keyring(name: &CStr) -> Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: one C string argument.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
        .map(|serial| serial as i32)
}

/// Lets the keyring's owner search it, as runc does, besides what its possessor may.
pub(crate) fn allow_keyring_search(serial: i32) -> Result<()> {
    const KEYCTL_SETPERM: i32 = 5;
    const POSSESSOR_ALL_USER_VIEW_READ_SEARCH: u32 = 0x3f0b_0000;
    // SAFETY: no memory arguments.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, POSSESSOR_ALL_USER_VIEW_READ_SEARCH)
    })
    .map(drop)
}

/// sched_attr of sched_setattr(2), version 1 with utilisation clamps left out.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Scheduling {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

pub(crate) fn set_scheduling(attr: &Scheduling) -> Result<()> {
    let mut attr = *attr;
    attr.size = std::mem::size_of::<Scheduling>() as u32;
    // SAFETY: the struct has sched_attr's first layout and says its size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// ioprio_set(2) for this process: class (1 real time, 2 best effort, 3 idle) and level 0–7.
pub(crate) fn set_io_priority(class: u32, level: u32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: no memory arguments.
    check(unsafe {
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class << 13 | level)
    })
    .map(drop)
}

pub(crate) fn set_personality(domain: u64) -> Result<()> {
    // SAFETY: no memory arguments.
    check(unsafe { libc::syscall(libc::SYS_personality, domain) }).map(drop)
}

/// Pins this process to the CPUs whose bits are set.
pub(crate) fn set_affinity(mask: &[u64]) -> Result<()> {
    // SAFETY: pointer and size in bytes are those of `mask`.
    check(unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, 0, std::mem::size_of_val(mask), mask.as_ptr())
    })
    .map(drop)
}

/// The CPUs that this thread may run on, a bit for each.
pub(crate) fn affinity() -> Result<Vec<u64>> {
    // As many as any kernel is built for.
    let mut mask = vec![0u64; 1024];
    // SAFETY: pointer and size in bytes are those of `mask`; the answer is how many were written.
    let bytes = check(unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            0,
            std::mem::size_of_val(mask.as_slice()),
            mask.as_mut_ptr(),
        )
    })?;
    mask.truncate(bytes as usize / 8);
    Ok(mask)
}

pub(crate) fn set_hostname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length are those of `name`.
    super::check_int(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

pub(crate) fn set_domainname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length are those of `name`.
    super::check_int(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

pub(crate) fn new_session() -> Result<()> {
    // SAFETY: no arguments.
    super::check_int(unsafe { libc::setsid() }).map(drop)
}

/// Replaces the process; it returns only an error.
pub(crate) fn execute(path: &CStr, args: &StringVector, env: &StringVector) -> super::Errno {
    // SAFETY: both vectors end with a null pointer and own what they point to.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    super::Errno::last()
}

/// Replaces the process by the file `file`; it returns only an error.
pub(crate) fn execute_file(
    file: std::os::fd::BorrowedFd<'_>,
    args: &StringVector,
    env: &StringVector,
) -> super::Errno {
    use std::os::fd::AsRawFd;
    // SAFETY: as in `execute`; the empty path with AT_EMPTY_PATH means the descriptor.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    super::Errno::last()
}
