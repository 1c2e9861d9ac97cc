//! `exec`: one more process in a container.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
};

use super::{
    Runtime, Started,
    create::{agent, console},
    launch::{self, Birth, Dialogue},
};
use crate::{
    Error, Result,
    cgroup::{Cgroup, Entrance},
    error::Context,
    plan::{self, Plan, ProcessPlan},
    seccomp,
    spec::{Process, Spec, decode},
    state::{Record, Status, replace_file},
    sys::{Errno, credentials, socket},
};

/// What `exec` is asked for.
#[derive(Debug, Default)]
pub struct Exec {
    /// The container's id.
    pub id: String,
    /// The program and what is set for it.
    pub process: ExecProcess,
    /// As [`super::Create::pid_file`].
    pub pid_file: Option<PathBuf>,
    /// As [`super::Create::pidfd_socket`].
    pub pidfd_socket: Option<PathBuf>,
    /// As [`super::Create::console_socket`].
    pub console_socket: Option<PathBuf>,
    /// As [`super::Create::console`].
    pub console: Option<OwnedFd>,
    /// As [`super::Create::preserve_fds`].
    pub preserve_fds: u32,
    /// The program's standard streams; `None` is the caller's own.
    pub stdio: [Option<OwnedFd>; 3],
    /// Run in these children of the container's cgroup: a path, or `controllers:path` on v1.
    pub cgroups: Vec<String>,
    /// Also in a paused container, where the process is frozen at once.
    pub ignore_paused: bool,
}

/// How `exec` knows its process.
#[derive(Debug)]
pub enum ExecProcess {
    /// A `process` object of the specification, as JSON.
    Json(Vec<u8>),
    /// The container's own process with these changes.
    Like {
        /// The program and its arguments.
        args: Vec<String>,
        /// With a terminal.
        tty: bool,
        /// Uid and gid; `None` is the container's.
        user: Option<(u32, Option<u32>)>,
        /// More groups.
        additional_gids: Vec<u32>,
        /// Working directory.
        cwd: Option<String>,
        /// More variables.
        env: Vec<String>,
        /// More capabilities, in all sets.
        capabilities: Vec<String>,
        /// `no_new_privs`.
        no_new_privileges: Option<bool>,
        /// AppArmor profile.
        apparmor: Option<String>,
        /// SELinux label.
        selinux_label: Option<String>,
    },
}

impl Default for ExecProcess {
    fn default() -> ExecProcess {
        ExecProcess::Json(Vec::new())
    }
}

impl ExecProcess {
    fn resolve(self, spec: &Spec) -> Result<Process> {
        match self {
            ExecProcess::Json(json) => {
                let mut p: Process = decode(&json, "process")?;
                // What it does not say is the container's (runc, newInitConfig).
                let own = spec.process.clone().unwrap_or_default();
                p.capabilities = p.capabilities.or(own.capabilities);
                p.scheduler = p.scheduler.or(own.scheduler);
                p.io_priority = p.io_priority.or(own.io_priority);
                p.exec_cpu_affinity = p.exec_cpu_affinity.or(own.exec_cpu_affinity);
                if p.rlimits.is_empty() {
                    p.rlimits = own.rlimits;
                }
                if p.apparmor_profile.is_empty() {
                    p.apparmor_profile = own.apparmor_profile;
                }
                if p.selinux_label.is_empty() {
                    p.selinux_label = own.selinux_label;
                }
                Ok(p)
            }
            ExecProcess::Like {
                args,
                tty,
                user,
                additional_gids,
                cwd,
                env,
                capabilities,
                no_new_privileges,
                apparmor,
                selinux_label,
            } => {
                let mut p = spec.process.clone().unwrap_or_default();
                p.args = args;
                p.terminal = tty;
                // The size was the first terminal's.
                p.console_size = None;
                if let Some((uid, gid)) = user {
                    p.user.uid = uid;
                    p.user.gid = gid.unwrap_or(p.user.gid);
                }
                p.user.additional_gids.extend(additional_gids);
                p.env.extend(env);
                if let Some(cwd) = cwd {
                    p.cwd = cwd;
                }
                if let Some(on) = no_new_privileges {
                    p.no_new_privileges = on;
                }
                if let Some(profile) = apparmor {
                    p.apparmor_profile = profile;
                }
                if let Some(label) = selinux_label {
                    p.selinux_label = label;
                }
                if !capabilities.is_empty() {
                    let sets = p.capabilities.get_or_insert_default();
                    for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                        set.extend(capabilities.iter().cloned());
                    }
                    // Not to the inheritable ones (CVE-2022-29162), without which there are no
                    // ambient ones.
                }
                Ok(p)
            }
        }
    }
}

impl Runtime {
    /// Runs one more process in the container; it is the caller's child.
    ///
    /// # Errors
    ///
    /// [`Error::NotExist`], [`Error::State`] for a container that has stopped or is paused,
    /// [`Error::Start`] when the program could not be executed.
    pub fn exec(&self, request: Exec) -> Result<Started> {
        let (directory, record) = self.find(&request.id)?;
        match record.status(&directory)? {
            Status::Stopped | Status::Creating => return Err(stopped()),
            Status::Paused if !request.ignore_paused => {
                return Err(Error::State(
                    "cannot exec in a paused container (use --ignore-paused to override)".into(),
                ));
            }
            _ => {}
        }
        let spec = Spec::load(&record.bundle)?;
        super::create::preserved(request.preserve_fds)?;
        let process = request.process.resolve(&spec)?;
        process.validate("process")?;
        let filter = match &spec.linux.seccomp {
            Some(profile) => seccomp::compile(profile)?,
            None => None,
        };
        let mut warnings = Vec::new();
        let (ours, theirs) = socket::pair().context(|| "socketpair".to_owned())?;
        let cgroup = sub_cgroup(&record.cgroup, &request.cgroups)?;
        let attach = cgroup.needs_attaching()?;
        let entrance = if attach { Entrance::default() } else { entrance(&cgroup, &record)? };
        let target = record.pidfd()?;
        let pid_namespace = record.namespaces & libc::CLONE_NEWPID != 0;
        let user = record.namespaces & libc::CLONE_NEWUSER != 0;
        let born_in = match pid_namespace {
            true => Some(target.try_clone().context(|| "dup".to_owned())?),
            false => None,
        };
        let mut plan = Plan {
            sync: -1,
            hide: true,
            wait_to_begin: attach,
            runtime_end: ours.as_raw_fd(),
            wait_for_go: false,
            announce: false,
            stdio: request.stdio.each_ref().map(|s| s.as_ref().map(AsRawFd::as_raw_fd)),
            preserve_fds: request.preserve_fds,
            joins: Vec::new(),
            target: Some((target, record.namespaces & !libc::CLONE_NEWPID)),
            joined: false,
            tasks: entrance.tasks,
            unshare: 0,
            time_offsets: Vec::new(),
            become_root: user,
            keyring: Some(plan::c_string("id", &format!("_ses.{}", record.id))?),
            loopback: false,
            sysctls: Vec::new(),
            oom_score_adj: process.oom_score_adj.map(|score| score.to_string().into_bytes()),
            hostname: Vec::new(),
            domainname: Vec::new(),
            rootfs: None,
            runtime_hooks: false,
            create_container: Vec::new(),
            start_container: Vec::new(),
            state: Vec::new(),
            console: console(&process, request.console_socket.as_deref(), request.console)?,
            fifo: None,
            process: ProcessPlan::new(&process, &spec.linux, filter, &mut |w| warnings.push(w))?,
        };
        let birth = Birth {
            flags: 0,
            cgroup: entrance.directory,
            pid_namespace: born_in,
            // Without rights over its own pid namespace it could enter another, but not return.
            through_stage: user || self.rootless,
        };
        let initial = std::mem::take(&mut plan.process.affinity.initial);
        let child = on_cpus(&initial, || launch::spawn(&mut plan, &birth, theirs))?;
        let state = record.for_hooks(Status::Running, child.pid);
        let dialogue = Dialogue {
            socket: ours,
            prestart: &[],
            create_runtime: &[],
            creating: state.clone(),
            created: state,
            agent: agent(&spec.linux),
            pid: child.pid,
        };
        let told = launch::tell_pidfd(request.pidfd_socket.as_deref(), &child.pidfd, "setns");
        let attached = told.and_then(|()| {
            if attach {
                cgroup.attach(&record.cgroup, child.pid)?;
                let begun = socket::send(dialogue.socket.as_fd(), b"m");
                begun.context(|| "send to the child".to_owned())?;
            }
            Ok(())
        });
        let held = attached.and_then(|()| dialogue.hold(&plan)).and_then(|w| {
            warnings.extend(w);
            match &request.pid_file {
                Some(path) => replace_file(path, child.pid.to_string().as_bytes(), 0o644),
                None => Ok(()),
            }
        });
        if let Err(e) = held {
            let _ = crate::sys::process::pidfd_signal(child.pidfd.as_fd(), libc::SIGKILL);
            let _ = crate::sys::process::wait_pidfd(child.pidfd.as_fd());
            return Err(e);
        }
        Ok(Started { pid: child.pid, pidfd: child.pidfd, warnings })
    }

    /// Whether the container has not stopped, for an `exec` that is wrong in itself.
    pub(crate) fn executable(&self, id: &str) -> Result<()> {
        let (directory, record) = self.find(id)?;
        match record.status(&directory)? {
            Status::Stopped | Status::Creating => Err(stopped()),
            _ => Ok(()),
        }
    }
}

fn stopped() -> Error {
    Error::State("cannot exec in a stopped container".into())
}

/// Makes a child with this thread on the CPUs of `mask`, which the child is then on, too.
fn on_cpus<T>(mask: &[u64], make: impl FnOnce() -> Result<T>) -> Result<T> {
    if mask.is_empty() {
        return make();
    }
    let what = || "error setting initial CPU affinity".to_owned();
    let before = credentials::affinity().context(what)?;
    credentials::set_affinity(mask).context(what)?;
    let made = make();
    credentials::set_affinity(&before).context(what)?;
    made
}

fn sub_cgroup(cgroup: &Cgroup, subs: &[String]) -> Result<Cgroup> {
    let mut cgroup = cgroup.clone();
    for sub in subs {
        let (controllers, path) = match sub.split_once(':') {
            Some((controllers, path)) => (Some(controllers), path),
            None => (None, sub.as_str()),
        };
        if path.split('/').any(|part| part == "..") {
            return Err(Error::Invalid(format!("{sub} is not a sub cgroup path")));
        }
        match controllers {
            None => cgroup = cgroup.child(None, path),
            Some(list) => {
                for controller in list.split(',') {
                    if cgroup.version == 1 && !cgroup.paths.contains_key(controller) {
                        return Err(Error::Invalid(format!(
                            "unable to create new parent process: unknown controller {controller} in SubCgroupPaths"
                        )));
                    }
                    cgroup = cgroup.child(Some(controller), path);
                }
            }
        }
    }
    Ok(cgroup)
}

/// The container's cgroup, or on v2 the one that its init has moved to since.
fn entrance(cgroup: &Cgroup, record: &Record) -> Result<Entrance> {
    match cgroup.enter() {
        Err(Error::Os { errno: Errno::NOENT, .. }) if record.rootless => Ok(Entrance::default()),
        other => other,
    }
}
