//! What `checkpoint` and `restore` ask CRIU for in the same way.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use crate::{
    Error, Result,
    criu::{self, Message, option},
    error::Context,
    plan::{Rootfs, Work},
    spec::Spec,
};

/// The images of a container, and how they are made or read. The switches are criu(8)'s options
/// of the same names.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// The program; empty is `criu`, looked up in PATH.
    pub criu: String,
    /// The directory of the images; a checkpoint makes it.
    pub directory: PathBuf,
    /// The directory of CRIU's log and other files of work; `None` is that of the images.
    pub work: Option<PathBuf>,
    /// Connections are kept (`--tcp-established`).
    pub tcp_established: bool,
    /// Unix sockets with an end outside are left out (`--ext-unix-sk`).
    pub external_sockets: bool,
    /// The container may share a session and a terminal with others (`--shell-job`).
    pub shell_job: bool,
    /// Locks are kept (`--file-locks`).
    pub file_locks: bool,
    /// Pages that a later image has are taken out of those before it (`--auto-dedup`).
    pub auto_dedup: bool,
    /// Pages are left until somebody asks for them (`--lazy-pages`).
    pub lazy_pages: bool,
    /// What of the cgroups is kept.
    pub cgroups: CgroupsMode,
    /// A network namespace is made anew and what was in it is not kept (`--empty-ns network`).
    pub empty_network: bool,
}

/// criu(8)'s `--manage-cgroups` modes; the numbers are its messages'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum CgroupsMode {
    /// Nothing.
    Ignore = 0,
    /// Cgroups are made and their properties set where they are not there.
    Soft = 3,
    /// Properties are set in any case.
    Full = 4,
    /// Those that are there already are an error.
    Strict = 5,
    /// CRIU's choice: soft.
    #[default]
    Default = 6,
}

impl CgroupsMode {
    /// Reads runc's `--manage-cgroups-mode`.
    ///
    /// # Errors
    ///
    /// runc's words for another name.
    pub fn parse(name: &str) -> Result<CgroupsMode> {
        Ok(match name {
            "" => CgroupsMode::Default,
            "soft" => CgroupsMode::Soft,
            "full" => CgroupsMode::Full,
            "strict" => CgroupsMode::Strict,
            "ignore" => CgroupsMode::Ignore,
            _ => return Err(Error::Invalid("invalid manage-cgroups-mode value".into())),
        })
    }
}

/// Options in the making, with the directories that CRIU opens by this process's descriptors.
pub(super) struct Options {
    pub(super) message: Message,
    log: PathBuf,
    _open: Vec<OwnedFd>,
}

/// The oldest CRIU that is worked with: 3.0, whose messages tell its version.
const OLDEST: u64 = 30_000;

impl Images {
    pub(super) fn program(&self) -> &str {
        if self.criu.is_empty() { "criu" } else { &self.criu }
    }

    /// Refuses a CRIU that is not there or too old; answers its version.
    pub(super) fn version(&self) -> Result<u64> {
        let version = criu::version(self.program())?;
        match version < OLDEST {
            true => {
                Err(Error::Invalid(format!("CRIU version {version} must be {OLDEST} or higher")))
            }
            false => Ok(version),
        }
    }

    /// The options that both commands have, with a log called `log`.
    pub(super) fn options(&self, spec: &Spec, log: &str) -> Result<Options> {
        if self.directory.as_os_str().is_empty() {
            return Err(Error::Invalid("invalid directory of the images".into()));
        }
        let images = open(&self.directory)?;
        let mut o = Message::default();
        o.number(option::IMAGES_DIR_FD, images.as_raw_fd().into());
        o.flag(option::EXT_UNIX_SK, self.external_sockets);
        o.flag(option::TCP_ESTABLISHED, self.tcp_established);
        o.flag(option::SHELL_JOB, self.shell_job);
        o.flag(option::FILE_LOCKS, self.file_locks);
        // Everything but the talk of its parts with each other.
        o.number(option::LOG_LEVEL, 4);
        o.text(option::LOG_FILE, log);
        o.flag(option::NOTIFY_SCRIPTS, true);
        o.flag(option::AUTO_DEDUP, self.auto_dedup);
        o.flag(option::MANAGE_CGROUPS, true);
        o.number(option::MANAGE_CGROUPS_MODE, self.cgroups as i64);
        o.number(option::EMPTY_NS, if self.empty_network { libc::CLONE_NEWNET.into() } else { 0 });
        o.flag(option::LAZY_PAGES, self.lazy_pages);
        o.flag(option::ORPHAN_PTS_MASTER, true);
        // What is in it counts more than all this; without the file nothing does (runc 1.1).
        match spec.annotations.get("org.criu.config").map(String::as_str) {
            Some("") => {}
            Some(file) => o.text(option::CONFIG_FILE, file),
            None => o.text(option::CONFIG_FILE, "/etc/criu/runc.conf"),
        }
        let mut open_directories = vec![images];
        let mut place = &self.directory;
        if let Some(work) = &self.work {
            make(work)?;
            let directory = open(work)?;
            o.number(option::WORK_DIR_FD, directory.as_raw_fd().into());
            open_directories.push(directory);
            place = work;
        }
        Ok(Options { message: o, log: place.join(log), _open: open_directories })
    }
}

impl Options {
    /// What is mounted from outside, under the name that it has in the images: at a checkpoint the
    /// path in the container, at a restore its source.
    pub(super) fn external_mount(&mut self, key: &str, value: &str) {
        self.message.message(option::EXT_MNT, &Message::pair(key, value));
    }

    /// A failure of CRIU's with the place of its log and the first error there.
    pub(super) fn explained(&self, error: Error) -> Error {
        let Error::Criu(what) = error else { return error };
        let said = fs::File::open(&self.log).ok().and_then(|file| {
            let lines = BufReader::new(file).split(b'\n').map_while(std::result::Result::ok);
            lines.map(|l| String::from_utf8_lossy(&l).into_owned()).find(|l| l.contains("Error ("))
        });
        let said = said.map(|line| format!(": {line}")).unwrap_or_default();
        Error::Criu(format!("{what}\nlog file: {}{said}", self.log.display()))
    }
}

/// Makes a directory that may be there already, since a container can be checkpointed again.
pub(super) fn make(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context(|| format!("mkdir {}", path.display()))
}

fn open(path: &Path) -> Result<OwnedFd> {
    fs::File::open(path).map(OwnedFd::from).context(|| format!("open {}", path.display()))
}

/// The path of the namespace of `kind` that the container joined; `None` when it is its own or the
/// runtime's.
pub(super) fn joined<'a>(spec: &'a Spec, kind: &str) -> Option<&'a str> {
    let mut namespaces = spec.linux.namespaces.iter();
    namespaces.find(|n| n.kind == kind && !n.path.is_empty()).map(|n| n.path.as_str())
}

/// The name of a joined namespace in the images (runc 1.1).
pub(super) fn namespace_key(kind: &str) -> &'static str {
    if kind == "pid" { "extRootPidNS" } else { "extRootNetNS" }
}

/// What the container has from outside: each target, with the source on the host.
pub(super) fn binds(rootfs: &Rootfs) -> impl Iterator<Item = (String, String)> {
    let mounts = rootfs.mounts.iter().filter_map(|step| match &step.work {
        Work::Bind(bind) => Some((text(&step.target), text(&bind.source))),
        _ => None,
    });
    let nodes = rootfs.devices.iter().filter(|_| rootfs.bind_devices && rootfs.set_up_dev);
    mounts.chain(nodes.map(|node| (text(&node.path), text(&node.path))))
}

pub(super) fn text(path: &std::ffi::CStr) -> String {
    path.to_string_lossy().into_owned()
}
