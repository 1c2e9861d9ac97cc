//! A task's directory, `<state>/io.containerd.runtime.v2.task/<namespace>/<id>`: what its shim is
//! started in, and by which a later daemon finds it again. A sandbox has the like.
//!
//! The state directory does not outlive a reboot, as the tasks do not, so nothing here is synced.

use super::Endpoint;
use crate::{Error, Result, error::At};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::stat::Mode,
    unistd::mkfifo,
};
use serde::Deserialize;
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

/// The directory of tasks' bundles below the state directory, containerd's own.
pub(super) const TASKS: &str = "io.containerd.runtime.v2.task";
/// The directory of sandboxes' bundles, containerd 2's.
pub(super) const SANDBOXES: &str = "io.containerd.sandbox.controller.v1.shim";

/// Where bundles are: the state directory, and the one in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home<'a>(pub(super) &'a Path, pub(super) &'static str);

impl Home<'_> {
    fn dir(self) -> PathBuf {
        self.0.join(self.1)
    }

    /// What containerd calls what has its bundles here.
    fn kind(self) -> &'static str {
        if self.1 == TASKS { "task" } else { "sandbox" }
    }
}

/// A bundle that exists.
#[derive(Debug, Clone)]
pub(super) struct Bundle(PathBuf);

impl Bundle {
    /// Makes the bundle of the task or sandbox `id` with the OCI configuration `spec`, which a
    /// sandbox may be without.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one.
    pub(super) fn create(home: Home<'_>, ns: &str, id: &str, spec: &[u8]) -> Result<Bundle> {
        let bundle = Bundle(home.dir().join(ns).join(id));
        let made = match make(&bundle.0, 0o700) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parent = home.dir().join(ns);
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o711)
                    .create(&parent)
                    .at("creating", &parent)?;
                make(&bundle.0, 0o700)
            }
            made => made,
        };
        match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::already_exists(format_args!("{} {id}", home.kind())));
            }
            made => made.at("creating", &bundle.0)?,
        }
        match bundle.fill(spec) {
            Ok(()) => Ok(bundle),
            Err(e) => {
                let _ = fs::remove_dir_all(&bundle.0);
                Err(e)
            }
        }
    }

    fn fill(&self, spec: &[u8]) -> Result<()> {
        make(&self.rootfs(), 0o711).at("creating", self.rootfs())?;
        if let Some(gid) = root_group(spec) {
            // In a user namespace, the container's init reaches its root filesystem as this group.
            chown(&self.0, None, Some(gid)).at("owning", &self.0)?;
            let mode = fs::Permissions::from_mode(0o710);
            fs::set_permissions(&self.0, mode).at("setting the mode of", &self.0)?;
        }
        if spec.is_empty() {
            return Ok(());
        }
        let config = self.0.join("config.json");
        fs::write(&config, spec).at("writing", &config)
    }

    /// Every bundle of an earlier daemon: namespace, id, bundle.
    pub(super) fn all(home: Home<'_>) -> Vec<(String, String, Bundle)> {
        let names = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.sort();
            names
        };
        let home = home.dir();
        let mut found = Vec::new();
        for ns in names(&home) {
            for id in names(&home.join(&ns)) {
                let bundle = Bundle(home.join(&ns).join(&id));
                found.push((ns.clone(), id, bundle));
            }
        }
        found
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    /// Makes the fifo that containerd's shims write their log to, which they wait for.
    pub(super) fn log(&self) -> Result<PathBuf> {
        let log = self.0.join("log");
        match mkfifo(&log, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(log),
            Err(e) => Err(io::Error::from(e)).at("creating", &log),
        }
    }

    /// Notes where the shim is, for a later daemon: in containerd 1's file, and in containerd 2's
    /// where that does not say it all.
    pub(super) fn set_shim(&self, program: &Path, endpoint: &Endpoint) -> Result<()> {
        let path = self.0.join("shim-binary-path");
        fs::write(&path, program.as_os_str().as_encoded_bytes()).at("writing", &path)?;
        let path = self.0.join("address");
        fs::write(&path, &endpoint.address).at("writing", &path)?;
        if endpoint.is_version_2() {
            return Ok(());
        }
        let path = self.0.join("bootstrap.json");
        fs::write(&path, serde_json::to_vec(endpoint).map_err(Error::internal)?)
            .at("writing", &path)
    }

    /// Where the shim is, if one was started.
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        let read = |file| fs::read(self.0.join(file)).ok().filter(|text| !text.is_empty());
        Endpoint::read(&read("bootstrap.json").or_else(|| read("address"))?).ok()
    }

    /// The program of the shim, where one was started.
    pub(super) fn program(&self) -> Option<PathBuf> {
        fs::read_to_string(self.0.join("shim-binary-path")).ok().map(PathBuf::from)
    }

    /// Notes to which sandbox a task belongs, in containerd's file.
    pub(super) fn set_sandbox(&self, id: &str) -> Result<()> {
        let path = self.0.join("sandbox");
        fs::write(&path, id).at("writing", &path)
    }

    /// Removes the bundle, and the root filesystem's mount if the shim left it.
    ///
    /// # Errors
    /// When something is still mounted, or a file cannot be removed: then the rest stays too.
    pub(super) fn remove(&self) -> Result<()> {
        let rootfs = self.rootfs();
        // Of mounts upon mounts each call takes one; EINVAL says that none is left.
        while umount2(&rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
        // Never what a container wrote: a root filesystem that is not empty is still in use.
        match fs::remove_dir(&rootfs) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", &rootfs)?,
            _ => {}
        }
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", &self.0),
            _ => Ok(()),
        }
    }
}

/// The group outside that is root's inside, where an OCI configuration maps it (containerd's
/// `remappedGID`).
fn root_group(spec: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Linux {
        gid_mappings: Option<Vec<Mapping>>,
    }
    #[derive(Deserialize)]
    struct Mapping {
        #[serde(rename = "containerID")]
        container: u32,
        #[serde(rename = "hostID")]
        host: u32,
    }
    // One that cannot be read is the shim's to refuse.
    let spec: Spec = serde_json::from_slice(spec).ok()?;
    let mappings = spec.linux?.gid_mappings?;
    mappings.iter().find(|m| m.container == 0).map(|m| m.host).filter(|gid| *gid != 0)
}

fn make(dir: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_made_once_and_found_again() {
        let state = tempfile::tempdir().unwrap();
        let bundle = Bundle::create(Home(state.path(), TASKS), "ns", "a", b"{}").unwrap();
        let again = Bundle::create(Home(state.path(), TASKS), "ns", "a", b"{}").unwrap_err();
        assert_eq!(again.message, "task a: already exists");
        for answer in ["unix:///x", r#"{"version":3,"address":"unix:///x"}"#] {
            let endpoint = Endpoint::read(answer.as_bytes()).unwrap();
            bundle.set_shim(Path::new("/bin/shim"), &endpoint).unwrap();
            assert_eq!(bundle.endpoint(), Some(endpoint));
        }
        let found = Bundle::all(Home(state.path(), TASKS));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0.as_str(), found[0].1.as_str()), ("ns", "a"));
        assert_eq!(found[0].2.endpoint().unwrap().address, "unix:///x");
        assert_eq!(found[0].2.program().as_deref(), Some(Path::new("/bin/shim")));
        bundle.remove().unwrap();
        assert!(Bundle::all(Home(state.path(), TASKS)).is_empty());
    }

    #[test]
    fn the_group_of_a_mapped_root() {
        let of = |mappings: &str| {
            root_group(format!(r#"{{"linux":{{"gidMappings":{mappings}}}}}"#).as_bytes())
        };
        assert_eq!(of(r#"[{"containerID":0,"hostID":7,"size":1}]"#), Some(7));
        for none in ["null", "[]", r#"[{"containerID":1,"hostID":7,"size":1}]"#] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(root_group(b"{}").or(root_group(b"x")), None);
    }

    #[test]
    fn a_root_filesystem_with_files_is_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let bundle = Bundle::create(Home(state.path(), TASKS), "ns", "a", b"{}").unwrap();
        fs::write(bundle.rootfs().join("data"), "x").unwrap();
        bundle.remove().unwrap_err();
        assert!(bundle.rootfs().join("data").exists());
    }
}
