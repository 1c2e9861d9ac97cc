//! `restore`: CRIU makes a container of the files that `checkpoint` wrote.
//!
//! The cgroup and the places of mounts are made here, as for a new container; CRIU, put into the
//! cgroup before it begins, makes the namespaces, the mounts and the processes in it, the first of
//! which becomes the caller's child.

use std::{
    fs::{self, File},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
};

use super::{
    Runtime, Started,
    checkpoint::DESCRIPTORS,
    create::{Making, Namespaces, console, rootfs},
    images::{self, Images, Options},
    mountpoint,
};
use crate::{
    Error, Result,
    cgroup::Hierarchies,
    criu::{self, Kind, Message, Notice, Session, option},
    error::Context,
    init::{hooks, report::hook_error},
    plan::{Console, HookCommand, Rootfs, c_path},
    spec::{Resources, Spec, decode},
    state::{Directory, Status, process_stat, replace_file},
    sys::{file, mount, process, socket},
};

/// What `restore` is asked for.
#[derive(Debug, Default)]
pub struct Restore {
    /// The new container's id.
    pub id: String,
    /// The directory that holds `config.json`.
    pub bundle: PathBuf,
    /// The images.
    pub images: Images,
    /// A unix socket to which the terminal's master is sent.
    pub console_socket: Option<PathBuf>,
    /// One end of a socket to which the terminal's master is sent, in place of a path.
    pub console: Option<OwnedFd>,
    /// A file for the pid of the container's process.
    pub pid_file: Option<PathBuf>,
    /// Another profile of the security module for the processes, `type:name`.
    pub lsm_profile: String,
    /// Another SELinux context for the mounts.
    pub lsm_mount_context: String,
}

impl Runtime {
    /// Has CRIU make the container of its images. It runs then.
    ///
    /// # Errors
    ///
    /// [`Error::Exist`], [`Error::Spec`], and [`Error::Criu`] when CRIU fails. Nothing is left of a
    /// failed container.
    pub fn restore(&self, request: Restore) -> Result<Started> {
        let directory = Directory::new(self.root(), &request.id)?;
        let bundle = std::path::absolute(&request.bundle)
            .context(|| format!("{}", request.bundle.display()))?;
        let spec = Spec::load(&bundle)?;
        let places = (bundle.clone(), rootfs(&bundle, &spec)?);
        let hierarchies = Hierarchies::find()?;
        let mut making = self.begin(directory, &request.id, places, &spec, &hierarchies)?;
        let restored = making.restore(self, request, &spec);
        if restored.is_err() {
            // CRIU's children are the caller's, and are in the cgroup.
            let _ = making.record.cgroup.signal_all(libc::SIGKILL);
            making.undo();
        }
        restored
    }
}

impl Making {
    fn restore(&mut self, runtime: &Runtime, mut request: Restore, spec: &Spec) -> Result<Started> {
        self.record.restoring = true;
        self.directory.save(&self.record)?;
        let version = request.images.version()?;
        let namespaces = Namespaces::new(&spec.linux)?;
        self.record.namespaces = namespaces.new | namespaces.joined;
        let rootfs = runtime.mounted(spec, &self.record)?;
        mountpoint::make_all(&rootfs)?;
        let process = spec.process.as_ref().ok_or_else(Error::no_process)?;
        let socket = request.console_socket.as_deref();
        let mut talk = Talk {
            console: console(process, socket, request.console.take())?,
            prestart: HookCommand::list(&spec.hooks.prestart)?,
            create_runtime: HookCommand::list(&spec.hooks.create_runtime)?,
            pid_file: request.pid_file.take(),
        };
        let root = self.directory.path("criu-root");
        fs::create_dir(&root).context(|| format!("mkdir {}", root.display()))?;
        // A thread of its own has a mount namespace of its own, with which the mount goes away,
        // however this process ends. CRIU mounts in directories that are opened here as well.
        let pid = std::thread::scope(|scope| {
            let work = || {
                show_root(&self.record.rootfs, &root)?;
                let (mut options, inherited) = described(&request, version, spec, &rootfs)?;
                options.message.text(option::ROOT, &root.to_string_lossy());
                let images = &request.images;
                let session = Session::start(images.program(), &inherited, images.shell_job)?;
                let pid = self.talk(runtime, spec, session, &mut options, &mut talk);
                pid.map_err(|e| options.explained(e))
            };
            let ended = |_| Err(Error::Criu("the talk with it ended".into()));
            scope.spawn(work).join().unwrap_or_else(ended)
        })?;
        let _ = fs::remove_dir(&root);
        self.record.restoring = false;
        self.directory.save(&self.record)?;
        let pidfd = process::pidfd_open(pid).context(|| format!("pidfd_open {pid}"))?;
        Ok(Started { pid, pidfd, warnings: std::mem::take(&mut self.warnings) })
    }

    /// Puts CRIU into the cgroup and has it restore; answers the first process's pid.
    fn talk(
        &mut self,
        runtime: &Runtime,
        spec: &Spec,
        mut session: Session,
        options: &mut Options,
        talk: &mut Talk,
    ) -> Result<i32> {
        self.enter(runtime, spec, session.pid())?;
        for (controller, path) in cgroups_of(session.pid())? {
            options.message.message(option::CG_ROOT, &Message::pair(&controller, &path));
        }
        let request = criu::request(Kind::Restore, Some(&options.message));
        let answer = session.ask(&request, &mut |notice| talk.hear(self, notice))?;
        session.end()?;
        Ok(answer.pid)
    }

    /// Makes the cgroup with its limits around the process `pid`.
    fn enter(&mut self, runtime: &Runtime, spec: &Spec, pid: i32) -> Result<()> {
        let lenient = runtime.rootless && spec.linux.cgroups_path.is_empty();
        match self.launch.take() {
            None => {
                self.record.cgroup.create(lenient)?;
                self.record.cgroup.add(pid)?;
            }
            Some(mut launch) => {
                self.record.cgroup.start(&mut launch, pid)?;
                self.directory.save(&self.record)?;
                self.record.cgroup.complete(&launch, pid, lenient)?;
            }
        }
        let none = Resources::default();
        let resources = spec.linux.resources.as_ref().unwrap_or(&none);
        self.record.cgroup.set(resources, runtime.rootless)
    }
}

/// What happens at the steps that CRIU tells of.
struct Talk {
    console: Option<Console>,
    prestart: Vec<HookCommand>,
    create_runtime: Vec<HookCommand>,
    pid_file: Option<PathBuf>,
}

impl Talk {
    fn hear(&mut self, making: &mut Making, notice: Notice) -> Result<()> {
        let Notice { step, pid, terminal } = notice;
        match step.as_str() {
            "setup-namespaces" => {
                let state = making.record.for_hooks(Status::Creating, pid);
                for (name, list) in
                    [("prestart", &self.prestart), ("createRuntime", &self.create_runtime)]
                {
                    hooks::run(list, &state).map_err(|(i, errno)| {
                        let why = hook_error(errno);
                        Error::Start(format!("error running {name} hook #{i}: {why}"))
                    })?;
                }
            }
            "post-restore" => {
                making.record.pid = pid;
                making.record.start_time = process_stat(pid).map_or(0, |(_, start)| start);
                // CRIU gives every container a time namespace, for its clocks go on from where
                // they were.
                if differs("time", pid) {
                    making.record.namespaces |= libc::CLONE_NEWTIME;
                }
                making.directory.save(&making.record)?;
                if let Some(path) = &self.pid_file {
                    replace_file(path, pid.to_string().as_bytes(), 0o644)?;
                }
            }
            "orphan-pts-master" => {
                if let (Some(console), Some(terminal)) = (&self.console, terminal) {
                    use std::os::fd::AsFd;
                    socket::send_fd(console.socket.as_fd(), b"/dev/ptmx", terminal.as_fd())
                        .context(|| "send the terminal".to_owned())?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether the process is in another namespace of this kind than the runtime.
fn differs(kind: &str, pid: i32) -> bool {
    let inode = |of: &str| fs::metadata(format!("/proc/{of}/ns/{kind}")).map(|m| m.ino()).ok();
    inode(&pid.to_string()) != inode("self")
}

/// The cgroups of a process by controller, as CRIU names them.
fn cgroups_of(pid: i32) -> Result<Vec<(String, String)>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).context(|| format!("open {path}"))?;
    let lines = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        Some(controllers.split(',').map(|c| (c.to_owned(), path.to_owned())))
    });
    Ok(lines.flatten().collect())
}

/// Mounts the root filesystem where CRIU finds it: it wants a mount that nothing lies over. For the
/// calling thread alone.
fn show_root(rootfs: &std::path::Path, root: &std::path::Path) -> Result<()> {
    let what = || format!("mount {}", root.display());
    process::unshare(libc::CLONE_NEWNS).context(|| "unshare".to_owned())?;
    mount::mount(None, c"/", None, libc::MS_SLAVE | libc::MS_REC, None).context(what)?;
    let (rootfs, root) = (c_path(rootfs)?, c_path(root)?);
    mount::mount(Some(&rootfs), &root, None, libc::MS_BIND | libc::MS_REC, None).context(what)
}

/// What CRIU is to know, and the descriptors that it gets with that.
fn described(
    request: &Restore,
    version: u64,
    spec: &Spec,
    rootfs: &Rootfs,
) -> Result<(Options, Vec<OwnedFd>)> {
    let images = &request.images;
    let mut options = images.options(spec, "restore.log")?;
    for (field, name, value) in [
        (option::LSM_PROFILE, "--lsm-profile", &request.lsm_profile),
        (option::LSM_MOUNT_CONTEXT, "--lsm-mount-context", &request.lsm_mount_context),
    ] {
        if !value.is_empty() {
            if version < 31_600 {
                return Err(Error::Invalid(format!("{name} requires at least CRIU 3.16")));
            }
            options.message.text(field, value);
        }
    }
    // Devices may have other numbers, and the first process is a child of CRIU's parent.
    options.message.flag(option::EVASIVE_DEVICES, true);
    options.message.flag(option::RST_SIBLING, true);
    let mut inherited = Vec::new();
    for namespace in spec.linux.namespaces.iter().filter(|n| !n.path.is_empty()) {
        match namespace.kind.as_str() {
            kind @ ("network" | "pid") => {
                let path = &namespace.path;
                let opened = File::open(path).map_err(|_| {
                    Error::Invalid(format!("Requested network namespace {path} does not exist"))
                })?;
                let key = images::namespace_key(kind);
                options.message.message(option::INHERIT_FD, &inherits(key, opened.as_raw_fd()));
                inherited.push(opened.into());
            }
            "cgroup" => {
                return Err(Error::Invalid("Do not know how to handle namespace NEWCGROUP".into()));
            }
            kind => {
                let name = if kind == "mount" { "mnt" } else { kind };
                options.message.message(option::JOIN_NS, &Message::pair(name, &namespace.path));
            }
        }
    }
    for (target, source) in images::binds(rootfs) {
        options.external_mount(&target, &source);
    }
    if !rootfs.masked.is_empty() {
        options.external_mount("/dev/null", "/dev/null");
    }
    let path = images.directory.join(DESCRIPTORS);
    let bytes = fs::read(&path).context(|| format!("open {}", path.display()))?;
    let streams: Vec<String> = decode(&bytes, DESCRIPTORS)?;
    for (fd, was) in (0..3).zip(&streams) {
        if was.contains("pipe:") {
            let own = file::borrow(fd).try_clone_to_owned();
            let own = own.context(|| "dup a standard stream".to_owned())?;
            options.message.message(option::INHERIT_FD, &inherits(was, own.as_raw_fd()));
            inherited.push(own);
        }
    }
    Ok((options, inherited))
}

/// A descriptor of CRIU's that stands for what has this name in the images.
fn inherits(key: &str, fd: i32) -> Message {
    let mut message = Message::default();
    message.text(1, key);
    message.number(2, fd.into());
    message
}
