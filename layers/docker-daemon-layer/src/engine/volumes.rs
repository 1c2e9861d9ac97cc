//! Volumes of the driver `local`: a directory each, `volumes/<name>/_data`.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Kind, Result,
    docker::{
        Flag, Json, Request, VolumeCreate, VolumeInspect, VolumeList, VolumeRemove,
        models::{Volume, VolumeListResponse, VolumeScopeEnum},
    },
    proto::containerd::types::Mount,
};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
};

use super::{Engine, conflict, filters::Filters};
use crate::{names, record::Record, spec::rootfs::names_in, time};

impl Engine {
    fn volume_dir(&self, name: &str) -> PathBuf {
        self.config.data_root.join("volumes").join(name)
    }

    /// Gives each volume of a container its directory; a new one begins with what the image has in
    /// its place.
    pub(super) fn make_volumes(&self, record: &mut Record) -> Result<()> {
        for at in 0..record.mounts.len() {
            let point = &record.mounts[at];
            if point.typ.as_deref() != Some("volume") {
                continue;
            }
            let name = match point.name.clone() {
                Some(name) => checked(&name)?,
                None => {
                    let id = names::id()?;
                    record.anonymous_volumes.push(id.clone());
                    id
                }
            };
            let data = self.volume_dir(&name).join("_data");
            fs::create_dir_all(&data)?;
            let nocopy = point.mode.as_deref().is_some_and(|m| m.split(',').any(|o| o == "nocopy"));
            if !nocopy && names_in(&data).is_empty() {
                let destination = point.destination.clone().unwrap_or_default();
                copy_up(record, &self.config.exec_root, &destination, &data).map_err(|e| {
                    HopError::from(e).context(format!("copying into volume {name}"))
                })?;
            }
            let point = &mut record.mounts[at];
            point.source = Some(data.to_string_lossy().into_owned());
            point.name = Some(name);
        }
        Ok(())
    }

    /// Removes volumes that nobody can name any more.
    pub(super) fn remove_volumes(&self, names: &[String]) {
        for name in names {
            if let Err(error) = fs::remove_dir_all(self.volume_dir(name)) {
                tracing::warn!(volume = name, %error, "removing");
            }
        }
    }

    fn volume(&self, name: &str) -> Result<Volume> {
        let missing = || HopError::not_found(format!("get {name}: no such volume"));
        let dir = self.volume_dir(&checked(name).map_err(|_| missing())?);
        let meta = fs::metadata(&dir).map_err(|_| missing())?;
        let labels = fs::read(dir.join("labels.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Ok(Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            mountpoint: dir.join("_data").to_string_lossy().into_owned(),
            created_at: Some(time::rfc3339(meta.ctime() * 1_000_000_000)),
            labels,
            scope: Some(VolumeScopeEnum::LOCAL),
            ..Volume::default()
        })
    }
}

/// The name of a volume; it is a directory's.
fn checked(name: &str) -> Result<String> {
    names::checked(name).map(str::to_owned).map_err(|_| {
        HopError::invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
             use absolute path"
        ))
    })
}

/// Copies what a container's root filesystem has at `path` into `data`.
fn copy_up(record: &Record, exec_root: &Path, path: &str, data: &Path) -> io::Result<()> {
    let at = exec_root.join(format!("copy-{}", record.id));
    fs::create_dir_all(&at)?;
    let mut mounted = 0;
    let copied = (|| {
        for root in record.rootfs.iter().map(Mount::from) {
            mount_root(&root, &at)?;
            mounted += 1;
        }
        let root = nix::fcntl::open(
            &at,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // What is not there, or no directory, leaves the volume empty.
        let Ok(from) = openat2(&root, path.trim_start_matches('/'), how) else { return Ok(()) };
        use std::os::fd::AsRawFd;
        copy_tree(Path::new(&format!("/proc/self/fd/{}", from.as_raw_fd())), data)
    })();
    for _ in 0..mounted {
        let _ = umount2(&at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
    let _ = fs::remove_dir(&at);
    copied
}

fn mount_root(root: &Mount, at: &Path) -> io::Result<()> {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in &root.options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => {}
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            other => data.push(other),
        }
    }
    let data = data.join(",");
    let data = (!data.is_empty()).then_some(data.as_str());
    mount(Some(root.source.as_str()), at, Some(root.r#type.as_str()), flags, data)?;
    Ok(())
}

/// Copies a directory with its owners and modes. Devices and sockets are left out: they are not
/// data.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::metadata(from)?;
    chown(to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = fs::symlink_metadata(&source)?;
        if meta.is_dir() {
            fs::create_dir(&target)?;
            copy_tree(&source, &target)?;
        } else if meta.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            lchown(&target, Some(meta.uid()), Some(meta.gid()))?;
        } else if meta.is_file() {
            fs::copy(&source, &target)?;
            chown(&target, Some(meta.uid()), Some(meta.gid()))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        }
    }
    Ok(())
}

#[async_trait]
impl Handle<Request<VolumeList>> for Engine {
    async fn handle(
        &self,
        _cx: &Cx,
        call: Request<VolumeList>,
    ) -> Result<Json<VolumeListResponse>> {
        let known = ["dangling", "driver", "label", "name"];
        let filters = Filters::parse(call.query.filters.as_deref(), &known)?;
        let used: Vec<String> = self
            .all()
            .iter()
            .flat_map(|c| c.look(|r| r.mounts.clone()))
            .filter_map(|m| m.name)
            .collect();
        let volumes = names_in(&self.config.data_root.join("volumes"))
            .into_iter()
            .filter_map(|name| self.volume(&name).ok())
            .filter(|v| {
                let dangling = !used.contains(&v.name);
                filters.any("name", |n| v.name.contains(n))
                    && filters.any("driver", |d| d == "local")
                    && filters.labels(Some(&v.labels))
                    && filters.any("dangling", |d| matches!(d, "true" | "1") == dangling)
            })
            .collect();
        Ok(Json(VolumeListResponse { volumes: Some(volumes), warnings: None }))
    }
}

#[async_trait]
impl Handle<Request<VolumeInspect>> for Engine {
    async fn handle(&self, _cx: &Cx, call: Request<VolumeInspect>) -> Result<Json<Volume>> {
        self.volume(&call.id).map(Json)
    }
}

#[async_trait]
impl Handle<Request<VolumeCreate>> for Engine {
    async fn handle(&self, _cx: &Cx, call: Request<VolumeCreate>) -> Result<Json<Volume>> {
        let body = call.body.0;
        match body.driver.as_deref() {
            None | Some("" | "local") => {}
            Some(driver) => {
                return Err(HopError::not_found(format!(
                    "create {}: error looking up volume plugin {driver}: plugin \"{driver}\" not \
                     found",
                    body.name.unwrap_or_default()
                )));
            }
        }
        if body.driver_opts.is_some_and(|o| !o.is_empty()) {
            return Err(HopError::new(
                Kind::InvalidArgument,
                "options of the local volume driver are not supported",
            ));
        }
        let name = match body.name.filter(|n| !n.is_empty()) {
            Some(name) => checked(&name)?,
            None => names::id()?,
        };
        let dir = self.volume_dir(&name);
        if !dir.exists() {
            fs::create_dir_all(dir.join("_data"))?;
            let labels: HashMap<String, String> = body.labels.unwrap_or_default();
            if !labels.is_empty() {
                fs::write(
                    dir.join("labels.json"),
                    serde_json::to_vec(&labels).unwrap_or_default(),
                )?;
            }
        }
        self.volume(&name).map(Json)
    }
}

#[async_trait]
impl Handle<Request<VolumeRemove>> for Engine {
    async fn handle(&self, _cx: &Cx, call: Request<VolumeRemove>) -> Result<()> {
        let force = call.query.force.is_some_and(|Flag(on)| on);
        let volume = match self.volume(&call.id) {
            Err(error) if force && error.is_not_found() => return Ok(()),
            volume => volume?,
        };
        let name = volume.name;
        let users: Vec<String> = self
            .all()
            .iter()
            .filter(|c| {
                c.look(|r| r.mounts.iter().any(|m| m.name.as_deref() == Some(name.as_str())))
            })
            .map(|c| c.id.clone())
            .collect();
        if !users.is_empty() {
            return Err(conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        fs::remove_dir_all(self.volume_dir(&name))?;
        Ok(())
    }
}
