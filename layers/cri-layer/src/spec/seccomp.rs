//! The seccomp profile that is meant by `RuntimeDefault`: what containerd 1.6 applies.
//!
//! Everything is refused with EPERM but the system calls listed here; a container that has a
//! capability may in addition use the calls that the capability is for.

use std::path::Path;

use hops::{
    HopError, Result,
    proto::runtime::v1::{SecurityProfile, security_profile::ProfileType},
};
use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// Calls that every container may use.
const ALLOWED: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk capget capset chdir \
    chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 \
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range \
    connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl \
    epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve \
    execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate \
    fanotify_mark fchdir fchmod fchmodat fchown fchown32 fchownat fcntl fcntl64 fdatasync \
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs \
    fstatfs64 fsync ftruncate ftruncate64 futex futex_time64 futex_waitv futimesat \
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 \
    geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid \
    getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 \
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 \
    getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit \
    io_uring_enter io_uring_register io_uring_setup ioctl ioprio_get ioprio_set ipc kill \
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 \
    lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat \
    lstat64 madvise membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat \
    mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap \
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open \
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free \
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 \
    process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead \
    readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg \
    remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq \
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop \
    semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto \
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 \
    setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 \
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid \
    setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack \
    signalfd signalfd4 sigprocmask sigreturn socket socketcall socketpair splice stat stat64 \
    statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill \
    time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
    timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 \
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname \
    unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid \
    waitpid write writev";

/// Calls that only a container with the capability may use.
const WITH: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount \
         mount_setattr move_mount name_to_handle_at open_tree perf_event_open quotactl \
         setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (
        Capability::SysPtrace,
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Arguments of `personality` that change nothing a container must not change: Linux, 32 bits on
/// Linux, their forms with the old uname, and the question for the present one.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The flags of `clone` by which new namespaces are made.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// `ENOSYS`: a C library that is told so falls back from `clone3` to `clone`.
const ENOSYS: u32 = 38;

/// The filter that a container's security context asks for; `None` for an unconfined one.
///
/// # Errors
/// For a local profile that is not there or not a profile, with its path.
pub(crate) fn filter(
    profile: Option<&SecurityProfile>,
    old_form: &str,
    privileged: bool,
    capabilities: &Capabilities,
) -> Result<Option<LinuxSeccomp>> {
    let (kind, path) = match profile {
        _ if privileged => return Ok(None),
        Some(profile) => (profile.profile_type(), profile.localhost_ref.as_str()),
        None => match old_form {
            "" | "unconfined" => (ProfileType::Unconfined, ""),
            "runtime/default" | "docker/default" => (ProfileType::RuntimeDefault, ""),
            path => (ProfileType::Localhost, path.strip_prefix("localhost/").unwrap_or(path)),
        },
    };
    match kind {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => Ok(Some(default(capabilities))),
        ProfileType::Localhost => local(Path::new(path)).map(Some),
    }
}

fn local(path: &Path) -> Result<LinuxSeccomp> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(HopError::invalid(format!(
            "seccomp profile {shown:?} is not an absolute path"
        )));
    }
    let text = std::fs::read(path).map_err(|e| {
        HopError::from(e).context(format_args!("cannot load seccomp profile {shown:?}"))
    })?;
    serde_json::from_slice(&text)
        .map_err(|e| HopError::invalid(format!("decoding seccomp profile {shown:?} failed: {e}")))
}

fn default(capabilities: &Capabilities) -> LinuxSeccomp {
    let mut rules = vec![allow(ALLOWED)];
    rules.extend(PERSONALITIES.map(|value| {
        let mut rule = allow("personality");
        rule.set_args(Some(vec![argument(value, LinuxSeccompOperator::ScmpCmpEq, None)]));
        rule
    }));
    // Since Linux 4.8 a traced process cannot escape its filter.
    rules.push(allow("ptrace"));
    let (architectures, own) = match std::env::consts::ARCH {
        "x86_64" => (
            vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
            "arch_prctl modify_ldt",
        ),
        "aarch64" => (
            vec![Arch::ScmpArchArm, Arch::ScmpArchAarch64],
            "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
        ),
        _ => (Vec::new(), ""),
    };
    if !own.is_empty() {
        rules.push(allow(own));
    }
    let has = WITH.iter().filter(|(capability, _)| capabilities.contains(capability));
    rules.extend(has.map(|(_, calls)| allow(calls)));
    if !capabilities.contains(&Capability::SysAdmin) {
        let mut clone = allow("clone");
        let masked = LinuxSeccompOperator::ScmpCmpMaskedEq;
        clone.set_args(Some(vec![argument(NEW_NAMESPACES, masked, Some(0))]));
        let mut clone3 = allow("clone3");
        clone3.set_action(LinuxSeccompAction::ScmpActErrno).set_errno_ret(Some(ENOSYS));
        rules.extend([clone, clone3]);
    }
    let mut filter = LinuxSeccomp::default();
    filter
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_architectures(Some(architectures))
        .set_syscalls(Some(rules));
    filter
}

fn allow(calls: &str) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(calls.split_whitespace().map(str::to_owned).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow);
    rule
}

fn argument(value: u64, op: LinuxSeccompOperator, two: Option<u64>) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default().index(0usize).value(value).op(op);
    let argument = match two {
        Some(two) => argument.value_two(two),
        None => argument,
    };
    // Every field has a default: a build cannot fail.
    argument.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(filter: &LinuxSeccomp) -> Vec<String> {
        filter.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn capabilities_open_their_calls() {
        let none = names(&default(&Capabilities::new()));
        assert!(none.contains(&"read".into()) && !none.contains(&"mount".into()));
        let admin = default(&[Capability::SysAdmin].into());
        let rules = admin.syscalls().as_ref().unwrap();
        assert!(names(&admin).contains(&"mount".into()));
        assert!(rules.iter().all(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow));
    }

    #[test]
    fn profiles_are_chosen_as_the_kubelet_says() {
        let of = |profile_type: ProfileType, path: &str| {
            let profile =
                SecurityProfile { profile_type: profile_type.into(), localhost_ref: path.into() };
            filter(Some(&profile), "", false, &Capabilities::new())
        };
        assert!(of(ProfileType::RuntimeDefault, "").unwrap().is_some());
        assert!(of(ProfileType::Unconfined, "").unwrap().is_none());
        assert!(of(ProfileType::Localhost, "relative").is_err());
        assert!(of(ProfileType::Localhost, "/nowhere").unwrap_err().message.contains("/nowhere"));
        assert!(filter(None, "", false, &Capabilities::new()).unwrap().is_none());
        let old = filter(None, "runtime/default", true, &Capabilities::new()).unwrap();
        assert!(old.is_none(), "a privileged container is not confined");
    }
}
