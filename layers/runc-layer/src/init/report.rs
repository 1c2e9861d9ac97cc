//! What the child and the runtime say to each other over their socket.

use std::os::fd::BorrowedFd;

use crate::{
    plan::{Plan, Work},
    sys::{Errno, socket},
};

/// What the child was at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    Sync,
    Stdio,
    Descriptors,
    JoinNamespace,
    JoinTarget,
    EnterCgroup,
    TimeNamespace,
    OpenSource,
    BecomeRoot,
    Unshare,
    Session,
    Loopback,
    Sysctl,
    OomScore,
    MakeSlave,
    BindRoot,
    EnterRoot,
    Mount,
    MountPropagation,
    DevNode,
    DevLinks,
    Console,
    Mask,
    ReadonlyPath,
    CreateHook,
    Pivot,
    RootReadonly,
    Hostname,
    Domainname,
    Limit,
    Scheduler,
    IoPriority,
    Personality,
    Affinity,
    KeyLabel,
    Label,
    Bounding,
    Groups,
    Gid,
    Uid,
    Cwd,
    CwdOutside,
    Capabilities,
    NoNewPrivileges,
    Seccomp,
    Listener,
    NotFound,
    StartHook,
    Fifo,
    Exec,
}

/// The last of [`Step`], to bring a byte back.
const LAST: u8 = Step::Exec as u8;

/// A step that failed, with the index of what failed in the plan's list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) index: u16,
    pub(crate) errno: Errno,
}

/// Names the step that an error belongs to.
pub(crate) trait At<T> {
    fn at(self, step: Step) -> Result<T, Failure>;
    fn at_index(self, step: Step, index: usize) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.at_index(step, 0)
    }
    fn at_index(self, step: Step, index: usize) -> Result<T, Failure> {
        self.map_err(|errno| Failure { step, index: index as u16, errno })
    }
}

/// A message of the child.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Report {
    /// The container cannot be made.
    Failed(Failure),
    /// Something was refused that a container can do without.
    Warning(Failure),
    /// It is the runtime hooks' moment; the child waits.
    RuntimeHooks,
    /// All is ready; what follows is `start`.
    Ready,
    /// With it comes the descriptor of the seccomp listener; the child waits.
    Listener,
}

const SIZE: usize = 8;

impl Report {
    fn encode(self) -> [u8; SIZE] {
        let none = Failure { step: Step::Sync, index: 0, errno: Errno(0) };
        let (tag, failure) = match self {
            Report::Failed(f) => (0, f),
            Report::Warning(f) => (1, f),
            Report::RuntimeHooks => (2, none),
            Report::Ready => (3, none),
            Report::Listener => (4, none),
        };
        let (i, e) = (failure.index.to_ne_bytes(), failure.errno.0.to_ne_bytes());
        [tag, failure.step as u8, i[0], i[1], e[0], e[1], e[2], e[3]]
    }

    /// Reads what [`Report::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Report> {
        let bytes: [u8; SIZE] = bytes.try_into().ok()?;
        let failure = Failure {
            step: step(bytes[1])?,
            index: u16::from_ne_bytes([bytes[2], bytes[3]]),
            errno: Errno(i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])),
        };
        match bytes[0] {
            0 => Some(Report::Failed(failure)),
            1 => Some(Report::Warning(failure)),
            2 => Some(Report::RuntimeHooks),
            3 => Some(Report::Ready),
            4 => Some(Report::Listener),
            _ => None,
        }
    }

    pub(crate) fn send(self, sync: BorrowedFd<'_>) -> Result<(), Errno> {
        socket::send(sync, &self.encode())
    }

    pub(crate) fn send_with(self, sync: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        socket::send_fd(sync, &self.encode(), fd)
    }
}

fn step(byte: u8) -> Option<Step> {
    const STEPS: [Step; LAST as usize + 1] = {
        use Step::*;
        [
            Sync,
            Stdio,
            Descriptors,
            JoinNamespace,
            JoinTarget,
            EnterCgroup,
            TimeNamespace,
            OpenSource,
            BecomeRoot,
            Unshare,
            Session,
            Loopback,
            Sysctl,
            OomScore,
            MakeSlave,
            BindRoot,
            EnterRoot,
            Mount,
            MountPropagation,
            DevNode,
            DevLinks,
            Console,
            Mask,
            ReadonlyPath,
            CreateHook,
            Pivot,
            RootReadonly,
            Hostname,
            Domainname,
            Limit,
            Scheduler,
            IoPriority,
            Personality,
            Affinity,
            KeyLabel,
            Label,
            Bounding,
            Groups,
            Gid,
            Uid,
            Cwd,
            CwdOutside,
            Capabilities,
            NoNewPrivileges,
            Seccomp,
            Listener,
            NotFound,
            StartHook,
            Fifo,
            Exec,
        ]
    };
    STEPS.get(usize::from(byte)).copied()
}

impl Failure {
    /// The failure in words, with the names that the plan has for it. The words are runc's where
    /// its callers look for them.
    pub(crate) fn describe(&self, plan: &Plan) -> String {
        let words = self.words(plan);
        // runc's, for what its init does before it looks at the program.
        let early =
            self.step as u8 >= Step::OpenSource as u8 && self.step as u8 <= Step::Domainname as u8;
        match plan.rootfs {
            Some(_) if early => format!("error during container init: {words}"),
            _ => words,
        }
    }

    fn words(&self, plan: &Plan) -> String {
        let e = self.errno;
        let i = usize::from(self.index);
        let process = &plan.process;
        let program = process.args.first().map(|a| a.to_string_lossy()).unwrap_or_default();
        let mount = || plan.rootfs.as_ref().and_then(|r| r.mounts.get(i));
        match self.step {
            Step::Sync => format!("lost the runtime: {e}"),
            Step::Stdio => format!("cannot set up the standard streams: {e}"),
            Step::Descriptors => format!("cannot close descriptors: {e}"),
            Step::JoinNamespace => {
                let path = plan.joins.get(i).map_or("", |j| j.path.as_str());
                format!("failed to setns into namespace {path}: {e}")
            }
            Step::JoinTarget => format!("failed to join the container's namespaces: {e}"),
            Step::EnterCgroup => format!("unable to apply cgroup configuration: {e}"),
            Step::TimeNamespace => format!("failed to set up the time namespace: {e}"),
            Step::OpenSource => match mount() {
                Some(m) => {
                    let source = match &m.work {
                        Work::Bind(bind) => bind.source.to_string_lossy(),
                        _ => m.label.as_str().into(),
                    };
                    let target = m.target.to_string_lossy();
                    format!("error mounting {source:?} to rootfs at {target:?}: stat {source}: {e}")
                }
                None => format!("cannot open the host's devices: {e}"),
            },
            Step::BecomeRoot => format!("failed to become root of the user namespace: {e}"),
            Step::Unshare => format!("failed to unshare namespaces: {e}"),
            Step::Session => format!("setsid: {e}"),
            Step::Loopback => format!("failed to take the loopback device up: {e}"),
            Step::Sysctl => {
                let path = plan.sysctls.get(i).map(|s| s.path.to_string_lossy());
                format!("write sysctl {}: {e}", path.unwrap_or_default())
            }
            Step::OomScore => format!("write oom_score_adj: {e}"),
            Step::MakeSlave => format!("error changing the propagation of the root: {e}"),
            Step::BindRoot => {
                let path = plan.rootfs.as_ref().map(|r| r.path.to_string_lossy());
                format!("error preparing rootfs {:?}: {e}", path.unwrap_or_default())
            }
            Step::EnterRoot => format!("error jailing process inside rootfs: {e}"),
            Step::Mount | Step::MountPropagation => match mount() {
                Some(m) => {
                    let target = m.target.to_string_lossy();
                    let what = match &m.work {
                        Work::New { strict: true, .. } if e == Errno::NOTDIR || e == Errno::LOOP => {
                            return format!(
                                "error mounting {:?} to rootfs at {target:?}: filesystem {:?} must be mounted on ordinary directory",
                                m.label, m.label
                            );
                        }
                        _ if e == Errno::XDEV => {
                            return format!("{target:?} cannot be mounted because it is inside /proc");
                        }
                        _ if self.step == Step::MountPropagation => "set propagation of ",
                        _ => "",
                    };
                    format!("error mounting {:?} to rootfs at {target:?}: {what}mount: {e}", m.label)
                }
                None => format!("error mounting: {e}"),
            },
            Step::DevNode => {
                let node = plan.rootfs.as_ref().and_then(|r| r.devices.get(i));
                let path = node.map(|n| n.path.to_string_lossy()).unwrap_or_default();
                format!("error creating device nodes: {path}: {e}")
            }
            Step::DevLinks => format!("error setting up dev symlinks: {e}"),
            Step::Console => format!("error setting up the console: {e}"),
            Step::Mask => {
                let path = plan.rootfs.as_ref().and_then(|r| r.masked.get(i));
                format!("can't mask path {:?}: {e}", path.map_or("".into(), |p| p.to_string_lossy()))
            }
            Step::ReadonlyPath => {
                let path = plan.rootfs.as_ref().and_then(|r| r.readonly_paths.get(i));
                let path = path.map_or("".into(), |p| p.to_string_lossy());
                format!("can't make {path:?} read-only: {e}")
            }
            Step::CreateHook => self.hook("createContainer"),
            Step::StartHook => self.hook("startContainer"),
            Step::Pivot => format!("error jailing process inside rootfs: pivot_root: {e}"),
            Step::RootReadonly => format!("error mounting rootfs read-only: {e}"),
            Step::Hostname => format!("sethostname: {e}"),
            Step::Domainname => format!("setdomainname: {e}"),
            Step::Limit => {
                let number = process.limits.get(i).map_or(0, |l| l.0);
                format!("error setting rlimit type {number}: {e}")
            }
            Step::Scheduler if e == Errno::PERM && process.chosen_cpus => {
                "process scheduler can't be used together with AllowedCPUs".to_owned()
            }
            Step::Scheduler => format!("error setting scheduler: {e}"),
            Step::IoPriority => format!("failed to set io priority: {e}"),
            Step::Personality => format!("error setting the personality: {e}"),
            Step::Affinity => format!("error setting final CPU affinity: {e}"),
            Step::KeyLabel => format!("write /proc/self/attr/keycreate: {e}"),
            Step::Label => match &process.label {
                Some(label) => label.refused(e, plan.target.is_some()),
                None => e.to_string(),
            },
            Step::Bounding => format!("unable to apply bounding set: {e}"),
            Step::Groups => format!("unable to setup user: setgroups: {e}"),
            Step::Gid => format!("unable to setup user: setgid: {e}"),
            Step::Uid => format!("unable to setup user: setuid: {e}"),
            Step::Cwd => {
                let cwd = process.cwd.to_string_lossy();
                format!("chdir to cwd ({cwd:?}) set in config.json failed: {e}")
            }
            Step::CwdOutside => {
                "current working directory is outside of container mount namespace root -- possible container breakout detected".to_owned()
            }
            Step::Capabilities => format!("unable to apply caps: {e}"),
            Step::NoNewPrivileges => format!("prctl PR_SET_NO_NEW_PRIVS: {e}"),
            Step::Seccomp => format!("unable to init seccomp: error loading seccomp filter into kernel: {e}"),
            Step::Listener => format!("unable to hand over the seccomp listener: {e}"),
            Step::NotFound if process.searched => {
                format!("exec: {program:?}: executable file not found in $PATH")
            }
            Step::NotFound if e == Errno::ACCES => format!("exec: {program:?}: permission denied"),
            Step::NotFound if e == Errno::ISDIR => format!("exec: {program:?}: is a directory"),
            Step::NotFound => format!("exec: {program:?}: stat {program}: {e}"),
            Step::Fifo => format!("open exec fifo: {e}"),
            Step::Exec => format!("exec {program}: {e}"),
        }
    }

    fn hook(&self, moment: &str) -> String {
        format!("error running {moment} hook #{}: {}", self.index, hook_error(self.errno))
    }
}

/// An exit status travels as a negative error number.
pub(crate) fn hook_error(errno: Errno) -> String {
    match errno.0 {
        status if status < -128 => format!("signal {}", -status - 128),
        status if status < 0 => format!("exit status {}", -status),
        _ if errno == Errno::TIMEDOUT => "hook ran past specified timeout".to_owned(),
        _ => errno.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_survives_the_wire() {
        for byte in 0..=LAST {
            let step = step(byte).expect("a step");
            assert_eq!(step as u8, byte);
            let failure = Failure { step, index: 513, errno: Errno(-7) };
            let Some(Report::Failed(back)) = Report::decode(&Report::Failed(failure).encode())
            else {
                panic!("no failure came back");
            };
            assert_eq!((back.step, back.index, back.errno), (step, 513, Errno(-7)));
        }
        assert!(Report::decode(&[9; 8]).is_none() && Report::decode(&[0; 3]).is_none());
    }
}
