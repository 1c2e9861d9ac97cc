//! `checkpoint`: CRIU writes the container to files.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    Runtime,
    images::{self, Images, Options},
    maps,
};
use crate::{
    Errno, Error, Result,
    cgroup::Hierarchies,
    criu::{self, Feature, Kind, Message, Session, option},
    error::Context,
    plan::{Rootfs, RootfsContext},
    spec::Spec,
    state::{Record, Status, replace_file},
};

/// The file among the images that says what the standard streams were (runc 1.1).
pub(super) const DESCRIPTORS: &str = "descriptors.json";

/// What `checkpoint` is asked for.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// The container's id.
    pub id: String,
    /// The images and how they are made.
    pub images: Images,
    /// The images before these, below whose directory they are: only what changed is written.
    pub parent: Option<PathBuf>,
    /// Only memory is written, and the container goes on.
    pub pre_dump: bool,
    /// The container goes on afterwards.
    pub leave_running: bool,
    /// The server that takes the memory: its address and port.
    pub page_server: Option<(String, u16)>,
    /// A descriptor of the caller's, to which a zero byte is written when the server of lazy pages
    /// is ready.
    pub status_fd: Option<i32>,
}

impl Runtime {
    /// Has CRIU write the container to files. Unless it goes on, it is deleted then.
    ///
    /// # Errors
    ///
    /// [`Error::State`] for one that does not run, [`Error::Criu`] when CRIU fails; then the
    /// container goes on.
    pub fn checkpoint(&self, request: &Checkpoint) -> Result<()> {
        let (directory, record) = self.find(&request.id)?;
        let status = record.status(&directory)?;
        if !matches!(status, Status::Running | Status::Paused) {
            return Err(Error::State(format!(
                "Container cannot be checkpointed in {} state",
                status.name()
            )));
        }
        let images = &request.images;
        images.version()?;
        let spec = Spec::load(&record.bundle)?;
        images::make(&images.directory)?;
        if let Some(parent) = &request.parent {
            check_parent(&images.directory, parent)?;
        }
        let mut options = images.options(&spec, "dump.log")?;
        self.describe(request, &spec, &record, &mut options)?;
        let kind = match request.pre_dump {
            true => {
                criu::need(images.program(), Feature::MemTrack)?;
                Kind::PreDump
            }
            false => Kind::Dump,
        };
        if images.lazy_pages {
            criu::need(images.program(), Feature::LazyPages)?;
        }
        let mut session = Session::start(images.program(), &[], images.shell_job)?;
        let dumped = session.ask(
            &criu::request(kind, Some(&options.message)),
            &mut |notice| match (notice.step.as_str(), request.status_fd) {
                ("status-ready", Some(fd)) => ready(fd),
                _ => Ok(()),
            },
        );
        // After a pre-dump it waits for the next one, and is sent away instead.
        let ended = dumped.and_then(|_| match (session.end(), kind) {
            (Err(Error::Criu(_)), Kind::PreDump) => Ok(()),
            (ended, _) => ended,
        });
        ended.map_err(|e| options.explained(e))?;
        match request.leave_running || request.pre_dump {
            true => Ok(()),
            false => self.delete(&request.id, true),
        }
    }

    /// What CRIU is to know of the container.
    fn describe(
        &self,
        request: &Checkpoint,
        spec: &Spec,
        record: &Record,
        options: &mut Options,
    ) -> Result<()> {
        let o = &mut options.message;
        o.number(option::PID, record.pid.into());
        o.flag(option::LEAVE_RUNNING, request.leave_running);
        o.text(option::ROOT, &record.rootfs.to_string_lossy());
        for kind in ["network", "pid"] {
            let Some(path) = images::joined(spec, kind) else { continue };
            let inode = fs::metadata(path).context(|| format!("stat {path}"))?.ino();
            let name = if kind == "pid" { "pid" } else { "net" };
            o.text(option::EXTERNAL, &format!("{name}[{inode}]:{}", images::namespace_key(kind)));
        }
        if let Some(freezer) = record.cgroup.directory("freezer") {
            o.text(option::FREEZE_CGROUP, &freezer.to_string_lossy());
        }
        if let Some((address, port)) = &request.page_server {
            let mut server = Message::default();
            server.text(1, address);
            server.number(2, (*port).into());
            o.message(option::PAGE_SERVER, &server);
        }
        if let Some(parent) = &request.parent {
            o.text(option::PARENT_IMG, &parent.to_string_lossy());
            o.flag(option::TRACK_MEM, true);
        }
        if request.pre_dump {
            return Ok(());
        }
        let rootfs = self.mounted(spec, record)?;
        for (target, _) in images::binds(&rootfs) {
            options.external_mount(&target, &target);
        }
        for path in &rootfs.masked {
            let path = images::text(path);
            let there = fs::metadata(format!("/proc/{}/root{path}", record.pid));
            if there.is_ok_and(|file| !file.is_dir()) {
                options.external_mount(&path, "/dev/null");
            }
        }
        let streams = (0..3).map(|fd| {
            let link = fs::read_link(format!("/proc/{}/fd/{fd}", record.pid));
            link.map_or_else(|_| "/dev/null".to_owned(), |to| to.to_string_lossy().into_owned())
        });
        let json = serde_json::Value::from_iter(streams).to_string();
        replace_file(&request.images.directory.join(DESCRIPTORS), json.as_bytes(), 0o600)
    }

    /// The mounts of the container, as it was made or will be.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for mounts that CRIU would make differently.
    pub(super) fn mounted(&self, spec: &Spec, record: &Record) -> Result<Rootfs> {
        let options = |m: &crate::spec::Mount| m.options.iter().any(|o| o.ends_with("idmap"));
        if spec.mounts.iter().any(|m| !m.uid_mappings.is_empty() || options(m)) {
            return Err(Error::Invalid("criu knows no id-mapped mounts".into()));
        }
        let hierarchies = Hierarchies::find()?;
        let user = record.namespaces & libc::CLONE_NEWUSER != 0;
        Rootfs::new(
            spec,
            &RootfsContext {
                bundle: &record.bundle,
                rootfs: &record.rootfs,
                hierarchies: &hierarchies,
                cgroup: &record.cgroup,
                cgroup_namespace: record.namespaces & libc::CLONE_NEWCGROUP != 0,
                in_user_namespace: user || record.rootless,
                no_pivot: false,
                idmap: maps::namespace,
            },
        )
    }
}

/// runc's rules for the images of an earlier dump.
fn check_parent(images: &Path, parent: &Path) -> Result<()> {
    if parent.is_absolute() {
        return Err(Error::Invalid("--parent-path must be relative".into()));
    }
    let place = images.join(parent);
    let why = match std::fs::metadata(&place) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => Errno::NOTDIR,
        Err(e) => e.into(),
    };
    Err(Error::Invalid(format!("invalid --parent-path: stat {}: {why}", place.display())))
}

/// Tells the caller that lazy pages can be had.
fn ready(fd: i32) -> Result<()> {
    use std::{io::Write, os::fd::AsFd};
    // Its own, by number, as it was given.
    let fd = crate::sys::file::borrow(fd);
    let mut file = fs::File::from(
        fd.as_fd().try_clone_to_owned().context(|| "invalid --status-fd argument".to_owned())?,
    );
    file.write_all(&[0]).context(|| "write to --status-fd".to_owned())
}
