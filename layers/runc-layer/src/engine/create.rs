//! `create` and `run`.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{
    Create, Runtime, Started,
    launch::{self, Birth, Dialogue},
    listener::Agent,
    maps,
};
use crate::{
    Error, Result,
    cgroup::{Cgroup, Entrance, Hierarchies, systemd},
    error::Context,
    namespace::Kind,
    network,
    plan::{self, Console, HookCommand, Join, Plan, ProcessPlan, Rootfs, RootfsContext},
    seccomp,
    spec::{Linux, Process, Resources, Spec},
    state::{Directory, Record, Status, now, process_stat, replace_file},
    sys::{Errno, credentials, file, process, socket},
};

impl Runtime {
    /// Makes a container whose process waits for [`Runtime::start`].
    ///
    /// # Errors
    ///
    /// [`Error::Exist`], [`Error::Spec`] with the field that is wrong, and [`Error::Start`] when
    /// the process did not get as far as its program. Nothing is left of a failed container.
    pub fn create(&self, request: Create) -> Result<Started> {
        self.make(request, None, false)
    }

    /// Makes a container and lets its program run at once.
    ///
    /// # Errors
    ///
    /// As [`Runtime::create`]; also when the program cannot be executed.
    pub fn run(&self, request: Create) -> Result<Started> {
        self.make(request, None, true)
    }

    /// As [`Runtime::run`] with the bundle's configuration, when the caller has read it.
    pub(crate) fn run_spec(&self, request: Create, spec: Spec) -> Result<Started> {
        self.make(request, Some(spec), true)
    }

    fn make(&self, mut request: Create, spec: Option<Spec>, run: bool) -> Result<Started> {
        let directory = Directory::new(self.root(), &request.id)?;
        let bundle = std::path::absolute(&request.bundle)
            .context(|| format!("{}", request.bundle.display()))?;
        let mut spec = match spec {
            Some(spec) => spec,
            None => Spec::load(&bundle)?,
        };
        let process = spec.process.as_mut().ok_or_else(Error::no_process)?;
        process.env.append(&mut request.env);
        if self.rootless && !spec.linux.net_devices.is_empty() {
            return Err(Error::Spec {
                field: "config.json: linux.netDevices".into(),
                reason: "network devices are not supported for rootless containers".into(),
            });
        }
        preserved(request.preserve_fds)?;
        let rootfs = rootfs(&bundle, &spec)?;
        let filter = match &spec.linux.seccomp {
            Some(profile) => seccomp::compile(profile)?,
            None => None,
        };
        let hierarchies = Hierarchies::find()?;
        let mut making =
            self.begin(directory, &request.id, (bundle, rootfs), &spec, &hierarchies)?;
        let made = making.make(self, request, &spec, &hierarchies, filter, run);
        if made.is_err() {
            making.undo();
        }
        made
    }

    /// Takes the id and decides on the cgroup; nothing else is made yet.
    pub(super) fn begin(
        &self,
        directory: Directory,
        id: &str,
        (bundle, rootfs): (PathBuf, PathBuf),
        spec: &Spec,
        hierarchies: &Hierarchies,
    ) -> Result<Making> {
        if directory.exists() {
            return Err(Error::Exist);
        }
        let mut warnings = Vec::new();
        let (cgroup, launch) = match self.systemd {
            false => (Cgroup::locate(hierarchies, &spec.linux.cgroups_path, id), None),
            true => {
                let warn = &mut |w| warnings.push(w);
                let root = credentials::effective_uid() == 0;
                let user = self.rootless && (!root || systemd::has_user_bus());
                let (cgroup, launch) = systemd::prepare(hierarchies, spec, id, user, warn)?;
                (cgroup, Some(launch))
            }
        };
        cgroup.refuse_root(hierarchies)?;
        let record = Record {
            oci_version: spec.oci_version.clone(),
            id: id.to_owned(),
            pid: 0,
            start_time: 0,
            created: now(),
            bundle,
            rootfs,
            owner: credentials::effective_uid(),
            cgroup,
            namespaces: 0,
            host_mounts: spec.linux.namespaces.iter().all(|n| n.kind != "mount"),
            rootless: self.rootless,
            restoring: false,
            annotations: spec.annotations.clone(),
            hooks: crate::spec::Hooks {
                poststart: spec.hooks.poststart.clone(),
                poststop: spec.hooks.poststop.clone(),
                ..Default::default()
            },
        };
        directory.create()?;
        Ok(Making { directory, record, pidfd: None, launch, warnings })
    }
}

/// Looks that the descriptors that the program is to keep are there, as runc does since 1.0: what
/// takes their numbers otherwise would be the container's.
pub(super) fn preserved(count: u32) -> Result<()> {
    let missing = (0..count).find(|n| !file::is_inherited(3 + *n as i32));
    missing.map_or(Ok(()), |n| {
        Err(Error::Invalid(format!(
            "unable to stat preserved-fd {n} (of {count}): stat /proc/self/fd/{}: no such file or directory",
            3 + n
        )))
    })
}

pub(super) fn rootfs(bundle: &Path, spec: &Spec) -> Result<PathBuf> {
    let path = bundle.join(spec.root.as_ref().map_or("", |r| r.path.as_str()));
    let refuse = |reason: String| Error::Spec { field: "config.json: root.path".into(), reason };
    match file::real_directory(&plan::c_path(&path)?) {
        Ok(real) if real == Path::new("/") => {
            Err(refuse("rootfs cannot be the host's root".into()))
        }
        Ok(real) => Ok(real),
        Err(Errno::NOTDIR) => {
            Err(refuse(format!("rootfs ({}) is not a directory", path.display())))
        }
        Err(Errno::NOENT) => Err(refuse(format!("rootfs ({}) does not exist", path.display()))),
        Err(e) => Err(Error::os(path.display().to_string(), e)),
    }
}

/// A container in the making, to be taken back when a step fails.
pub(super) struct Making {
    pub(super) directory: Directory,
    pub(super) record: Record,
    pub(super) pidfd: Option<OwnedFd>,
    /// How to have systemd start its unit, when that is the driver.
    pub(super) launch: Option<systemd::Launch>,
    pub(super) warnings: Vec<String>,
}

impl Making {
    fn make(
        &mut self,
        runtime: &Runtime,
        request: Create,
        spec: &Spec,
        hierarchies: &Hierarchies,
        filter: Option<seccomp::Filter>,
        run: bool,
    ) -> Result<Started> {
        let mut warnings = std::mem::take(&mut self.warnings);
        // Written before anything else is made: a killed runtime's cgroups are found by it.
        self.directory.save(&self.record)?;
        let explicit = !spec.linux.cgroups_path.is_empty() && !runtime.rootless;
        let lenient = runtime.rootless && !explicit;
        let none = Resources::default();
        let resources = spec.linux.resources.as_ref().unwrap_or(&none);
        let launch = self.launch.take();
        let mut entrance = Entrance::default();
        if launch.is_none() {
            entrance = self.record.cgroup.create(lenient)?;
            self.record.cgroup.set(resources, runtime.rootless)?;
        }

        let namespaces = Namespaces::new(&spec.linux)?;
        self.record.namespaces = namespaces.new | namespaces.joined;
        let (ours, theirs) = socket::pair().context(|| "socketpair".to_owned())?;
        // Validation has seen that there is one.
        let none = Process::default();
        let process = spec.process.as_ref().unwrap_or(&none);
        let user = (namespaces.new | namespaces.joined) & libc::CLONE_NEWUSER != 0;
        let mut rootfs = Rootfs::new(
            spec,
            &RootfsContext {
                bundle: &self.record.bundle,
                rootfs: &self.record.rootfs,
                hierarchies,
                cgroup: &self.record.cgroup,
                cgroup_namespace: self.record.namespaces & libc::CLONE_NEWCGROUP != 0,
                in_user_namespace: user || runtime.rootless,
                no_pivot: request.no_pivot,
                idmap: maps::namespace,
            },
        )?;
        maps::copy_sources(&mut rootfs)?;
        let start_container = HookCommand::list(&spec.hooks.start_container)?;
        let prestart = HookCommand::list(&spec.hooks.prestart)?;
        let create_runtime = HookCommand::list(&spec.hooks.create_runtime)?;
        let needs_maps = namespaces.new & libc::CLONE_NEWUSER != 0;
        let mut plan = Plan {
            sync: -1,
            hide: namespaces.new & libc::CLONE_NEWPID == 0,
            wait_to_begin: needs_maps || launch.is_some() || !spec.linux.net_devices.is_empty(),
            runtime_end: ours.as_raw_fd(),
            wait_for_go: true,
            announce: !run,
            stdio: request.stdio.each_ref().map(|s| s.as_ref().map(AsRawFd::as_raw_fd)),
            preserve_fds: request.preserve_fds,
            joins: namespaces.joins,
            target: None,
            joined: false,
            tasks: entrance.tasks,
            unshare: namespaces.unshare,
            time_offsets: time_offsets(&spec.linux),
            become_root: user,
            keyring: keyring(&request)?,
            loopback: namespaces.new & libc::CLONE_NEWNET != 0,
            sysctls: plan::sysctls(&spec.linux)?,
            oom_score_adj: process.oom_score_adj.map(|score| score.to_string().into_bytes()),
            hostname: spec.hostname.clone().into_bytes(),
            domainname: spec.domainname.clone().into_bytes(),
            rootfs: Some(rootfs),
            runtime_hooks: !prestart.is_empty() || !create_runtime.is_empty(),
            create_container: HookCommand::list(&spec.hooks.create_container)?,
            start_container,
            state: Vec::new(),
            console: console(process, request.console_socket.as_deref(), request.console)?,
            fifo: None,
            process: ProcessPlan::new(process, &spec.linux, filter, &mut |w| warnings.push(w))?
                .of_init(),
        };
        if !run {
            let path = self.directory.fifo()?;
            file::mkfifo(&path, 0o622).context(|| "cannot make the exec fifo".to_owned())?;
            // Open for both ways it never blocks here; the child reads what `start` writes.
            let fifo = file::open(&path, libc::O_RDWR);
            plan.fifo = Some(fifo.context(|| "cannot open the exec fifo".to_owned())?);
        }
        // Room for the state that the child is sent, with the longest pid.
        plan.state = vec![0; self.record.for_hooks(Status::Creating, i32::MAX).len() + 64];
        let joins_pids = namespaces.pid.is_some();
        let birth = Birth {
            flags: namespaces.clone as u64,
            cgroup: entrance.directory,
            pid_namespace: namespaces.pid,
            // Without rights over its own pid namespace it could enter another, but not return.
            through_stage: namespaces.through_stage || runtime.rootless && joins_pids,
        };
        let child = launch::spawn(&mut plan, &birth, theirs)?;
        let told = launch::tell_pidfd(request.pidfd_socket.as_deref(), &child.pidfd, "standard");
        self.pidfd = Some(child.pidfd);
        told?;
        if let Some(mut launch) = launch {
            let cgroup = &mut self.record.cgroup;
            let started = cgroup.start(&mut launch, child.pid);
            started
                .map_err(|e| Error::Start(format!("unable to apply cgroup configuration: {e}")))?;
            self.directory.save(&self.record)?;
            self.record.cgroup.complete(&launch, child.pid, lenient)?;
            self.record.cgroup.set(resources, runtime.rootless)?;
        }
        if needs_maps {
            maps::write(child.pid, &spec.linux.uid_mappings, &spec.linux.gid_mappings)?;
        }
        if !spec.linux.net_devices.is_empty() {
            // A namespace to join, the child has not joined yet.
            let network = spec.linux.namespaces.iter().find(|n| n.kind == "network");
            let network = match network.map(|n| n.path.as_str()).filter(|path| !path.is_empty()) {
                Some(path) => path.to_owned(),
                None => format!("/proc/{}/ns/net", child.pid),
            };
            network::move_devices(&spec.linux.net_devices, &network)?;
        }
        if plan.wait_to_begin {
            socket::send(ours.as_fd(), b"m").context(|| "send to the child".to_owned())?;
        }
        self.record.pid = child.pid;
        self.record.start_time = process_stat(child.pid).map_or(0, |(_, start)| start);
        self.directory.save(&self.record)?;
        if let Some(path) = &request.pid_file {
            replace_file(path, child.pid.to_string().as_bytes(), 0o644)?;
        }
        let dialogue = Dialogue {
            socket: ours,
            prestart: &prestart,
            create_runtime: &create_runtime,
            creating: self.record.for_hooks(Status::Creating, child.pid),
            created: self.record.for_hooks(Status::Created, child.pid),
            agent: agent(&spec.linux),
            pid: child.pid,
        };
        warnings.extend(dialogue.hold(&plan)?);
        if run {
            super::control::poststart(&self.record)?;
        }
        match self.pidfd.take() {
            Some(pidfd) => Ok(Started { pid: child.pid, pidfd, warnings }),
            None => Err(Error::NotRunning),
        }
    }

    /// Takes everything back.
    pub(super) fn undo(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait_pidfd(pidfd.as_fd());
        }
        // What cannot be removed now is found by the record and `delete --force`.
        self.record.unmount();
        if self.record.cgroup.remove().is_ok() {
            let _ = self.directory.remove();
        }
    }
}

/// `linux.namespaces` by how the child gets into each.
pub(super) struct Namespaces {
    /// All that are new.
    pub(super) new: i32,
    /// All that are joined by path.
    pub(super) joined: i32,
    /// Of the new ones, those that clone3 makes.
    clone: i32,
    /// Of the new ones, those that the child makes itself.
    unshare: i32,
    joins: Vec<Join>,
    /// A pid namespace is entered by being born in it.
    pid: Option<OwnedFd>,
    through_stage: bool,
}

impl Namespaces {
    pub(super) fn new(linux: &Linux) -> Result<Namespaces> {
        let mut n = Namespaces {
            new: 0,
            joined: 0,
            clone: 0,
            unshare: 0,
            joins: Vec::new(),
            pid: None,
            through_stage: false,
        };
        for namespace in &linux.namespaces {
            let Some(kind) = Kind::from_spec(&namespace.kind) else { continue };
            let flag = kind.flag();
            if namespace.path.is_empty() {
                n.new |= flag;
                // A cgroup namespace shows the cgroup that its maker is in, and a time namespace
                // has its offsets written before anyone is in it.
                match kind {
                    Kind::Cgroup | Kind::Time => n.unshare |= flag,
                    _ => n.clone |= flag,
                }
                continue;
            }
            n.joined |= flag;
            let path = &namespace.path;
            let file = file::open(&plan::c_string("linux.namespaces", path)?, libc::O_RDONLY)
                .map_err(|e| Error::Spec {
                    field: format!("config.json: linux.namespaces[type={}].path", namespace.kind),
                    reason: format!("open {path}: {e}"),
                })?;
            match kind {
                Kind::Pid => n.pid = Some(file),
                _ => n.joins.push(Join { file, flag, path: path.clone() }),
            }
        }
        // The user namespace decides over the rights to the others.
        n.joins.sort_by_key(|join| join.flag != libc::CLONE_NEWUSER);
        n.through_stage = n.joined & libc::CLONE_NEWUSER != 0
            || n.new & libc::CLONE_NEWUSER != 0 && n.joined != 0;
        Ok(n)
    }
}

/// The lines of /proc/PID/timens_offsets (time_namespaces(7)).
pub(crate) fn time_offsets(linux: &Linux) -> Vec<u8> {
    linux
        .time_offsets
        .iter()
        .map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs, offset.nanosecs))
        .collect::<String>()
        .into_bytes()
}

fn keyring(request: &Create) -> Result<Option<std::ffi::CString>> {
    if request.no_new_keyring {
        return Ok(None);
    }
    plan::c_string("id", &format!("_ses.{}", request.id)).map(Some)
}

pub(super) fn agent(linux: &Linux) -> Option<Agent> {
    let seccomp = linux.seccomp.as_ref()?;
    (!seccomp.listener_path.is_empty()).then(|| Agent {
        path: seccomp.listener_path.clone(),
        metadata: seccomp.listener_metadata.clone(),
    })
}

/// Where the terminal's master goes, when the process wants one. The rules are runc's.
pub(super) fn console(
    process: &Process,
    path: Option<&Path>,
    socket: Option<OwnedFd>,
) -> Result<Option<Console>> {
    let socket = match (process.terminal, path, socket) {
        (false, None, _) => return Ok(None),
        (false, Some(_), _) => {
            return Err(Error::Invalid(
                "cannot use console socket if runc will not detach or allocate tty".into(),
            ));
        }
        (true, Some(path), _) => {
            socket::connect(path).context(|| format!("dial unix {}: connect", path.display()))?
        }
        (true, None, Some(socket)) => socket,
        (true, None, None) => {
            return Err(Error::Invalid(
                "cannot allocate tty if runc will detach without setting console socket".into(),
            ));
        }
    };
    Ok(Some(Console { socket, size: plan::console_size(process) }))
}
