//! Calls that some architectures have inside another one: sockets in socketcall(2), System V IPC in
//! ipc(2). A rule for such a call is one for the outer call as well, where its first argument says
//! which it is; further arguments are behind a pointer there, out of a filter's sight.

use super::arch::Arch;

/// Call, the call that it is inside of, and that one's first argument for it (`SYS_*` of
/// `linux/net.h`, and `linux/ipc.h`); sorted by name.
const CALLS: [(&str, &str, u32); 32] = [
    ("accept", "socketcall", 5),
    ("accept4", "socketcall", 18),
    ("bind", "socketcall", 2),
    ("connect", "socketcall", 3),
    ("getpeername", "socketcall", 7),
    ("getsockname", "socketcall", 6),
    ("getsockopt", "socketcall", 15),
    ("listen", "socketcall", 4),
    ("msgctl", "ipc", 14),
    ("msgget", "ipc", 13),
    ("msgrcv", "ipc", 12),
    ("msgsnd", "ipc", 11),
    ("recv", "socketcall", 10),
    ("recvfrom", "socketcall", 12),
    ("recvmmsg", "socketcall", 19),
    ("recvmsg", "socketcall", 17),
    ("semctl", "ipc", 3),
    ("semget", "ipc", 2),
    ("semop", "ipc", 1),
    ("semtimedop", "ipc", 4),
    ("send", "socketcall", 9),
    ("sendmmsg", "socketcall", 20),
    ("sendmsg", "socketcall", 16),
    ("sendto", "socketcall", 11),
    ("setsockopt", "socketcall", 14),
    ("shmat", "ipc", 21),
    ("shmctl", "ipc", 24),
    ("shmdt", "ipc", 22),
    ("shmget", "ipc", 23),
    ("shutdown", "socketcall", 13),
    ("socket", "socketcall", 1),
    ("socketpair", "socketcall", 8),
];

/// Where `name` is inside another call of `arch`: that call's number and its first argument.
pub(super) fn inside(arch: Arch, name: &str) -> Option<(u32, u32)> {
    use Arch::{Mips, Mipsel, Ppc, Ppc64, Ppc64le, S390, S390x, X86};
    if !matches!(arch, X86 | Mips | Mipsel | Ppc | Ppc64 | Ppc64le | S390 | S390x) {
        return None;
    }
    let at = CALLS.binary_search_by(|(call, ..)| (*call).cmp(name)).ok()?;
    let (_, outer, which) = CALLS[at];
    Some((arch.number(outer)?, which))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_sorted_so_that_they_are_found() {
        assert!(CALLS.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(inside(Arch::X86, "socket"), Some((102, 1)));
        assert_eq!(inside(Arch::X86, "shmctl"), Some((117, 24)));
        assert_eq!(inside(Arch::X8664, "socket"), None);
        assert_eq!(inside(Arch::X86, "read"), None);
    }
}
