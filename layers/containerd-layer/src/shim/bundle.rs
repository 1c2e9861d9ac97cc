//! What the shim reads and writes in a bundle: as little of `config.json` as it needs, and the
//! files by which `delete`, this one's or the real shim's, finds the runtime again.

use std::{fs, io, path::Path};

use hops::{HopError, Result, proto::Any};
use prost::Message;
use serde::{Deserialize, Serialize};

/// A pod's name, the first that stands: as containerd-shim-runc-v2's `groupLabels`.
#[derive(Default, Deserialize)]
struct Groups {
    #[serde(rename = "io.containerd.runc.v2.group")]
    group: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-id")]
    sandbox: Option<String>,
}

/// Which shim serves the container of the bundle: that of its pod, or one of its own. The bundle
/// of a sandbox need not have a `config.json`.
///
/// # Errors
/// When `config.json` cannot be read.
pub(super) fn group(bundle: &Path) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        annotations: Option<Groups>,
    }
    if !bundle.join("config.json").exists() {
        return Ok(None);
    }
    let groups = config::<Config>(bundle)?.annotations.unwrap_or_default();
    Ok(groups.group.or(groups.sandbox))
}

/// Whether processes of the container may outlive its init, because the init is not the first
/// process of a pid namespace of its own. One that cannot be told has to be assumed to.
pub(super) fn shares_pid_namespace(bundle: &Path) -> bool {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    struct Linux {
        #[serde(default)]
        namespaces: Option<Vec<Namespace>>,
    }
    #[derive(Deserialize)]
    struct Namespace {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        path: String,
    }
    let namespaces = config::<Config>(bundle).ok().and_then(|c| c.linux?.namespaces);
    !namespaces.into_iter().flatten().any(|n| n.kind == "pid" && n.path.is_empty())
}

fn config<T: for<'a> Deserialize<'a>>(bundle: &Path) -> Result<T> {
    let text = fs::read(bundle.join("config.json"))
        .map_err(|e| HopError::from(e).context(format!("open {}/config.json", bundle.display())))?;
    serde_json::from_slice(&text)
        .map_err(|e| HopError::invalid(format!("{}/config.json: {e}", bundle.display())))
}

/// `containerd.runc.v1.Options` as far as the shim obeys them, under the names that the real
/// shim's `options.json` gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Options {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) binary_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) root: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) systemd_cgroup: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) no_pivot_root: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) no_new_keyring: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) shim_cgroup: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) io_uid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) io_gid: u32,
}

/// `containerd.linux.runc.CreateOptions`, of containerd's first shim, as far as the shim obeys it:
/// ctr makes it for runtimes whose names it does not know.
#[derive(Clone, PartialEq, Eq, Message)]
struct CreateOptions {
    #[prost(bool, tag = "1")]
    no_pivot_root: bool,
    #[prost(bool, tag = "8")]
    no_new_keyring: bool,
    #[prost(string, tag = "9")]
    shim_cgroup: String,
    #[prost(uint32, tag = "10")]
    io_uid: u32,
    #[prost(uint32, tag = "11")]
    io_gid: u32,
}

// serde hands its predicates a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Options {
    /// The options of a request; their defaults where it has none.
    ///
    /// # Errors
    /// Options of another kind of shim.
    pub(super) fn read(any: Option<&Any>) -> Result<Options> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Options::default());
        };
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        if name == "containerd.linux.runc.CreateOptions" {
            let o = CreateOptions::decode(&*any.value)
                .map_err(|e| HopError::invalid(format!("options: {e}")))?;
            return Ok(Options {
                no_pivot_root: o.no_pivot_root,
                no_new_keyring: o.no_new_keyring,
                shim_cgroup: o.shim_cgroup,
                io_uid: o.io_uid,
                io_gid: o.io_gid,
                ..Options::default()
            });
        }
        if name != "containerd.runc.v1.Options" {
            return Err(HopError::invalid(format!("options: unexpected type {:?}", any.type_url)));
        }
        let o = hops::proto::containerd::runc::v1::Options::decode(&*any.value)
            .map_err(|e| HopError::invalid(format!("options: {e}")))?;
        Ok(Options {
            binary_name: o.binary_name,
            root: o.root,
            systemd_cgroup: o.systemd_cgroup,
            no_pivot_root: o.no_pivot_root,
            no_new_keyring: o.no_new_keyring,
            shim_cgroup: o.shim_cgroup,
            io_uid: o.io_uid,
            io_gid: o.io_gid,
        })
    }

    /// Those that the shim of the bundle was given.
    pub(super) fn of_bundle(bundle: &Path) -> Options {
        let read = |text: Vec<u8>| serde_json::from_slice(&text).ok();
        let mut options: Options =
            fs::read(bundle.join(OPTIONS)).ok().and_then(read).unwrap_or_default();
        // Older shims left only the program's name.
        if let (true, Ok(name)) =
            (options.binary_name.is_empty(), fs::read_to_string(bundle.join(RUNTIME)))
        {
            options.binary_name = name;
        }
        options
    }

    /// Leaves them in the bundle.
    ///
    /// # Errors
    /// Those of writing the files.
    pub(super) fn write(&self, bundle: &Path) -> io::Result<()> {
        write_private(&bundle.join(OPTIONS), &serde_json::to_vec(self)?)?;
        write_private(&bundle.join(RUNTIME), self.binary_name.as_bytes())
    }
}

const OPTIONS: &str = "options.json";
const RUNTIME: &str = "runtime";
/// The file into which the runtime writes the init's pid.
pub(super) const INIT_PID: &str = "init.pid";
/// The file from which containerd, started again, learns the shim's address.
pub(super) const ADDRESS: &str = "address";

/// The files that [`Options::write`] and the runtime leave in a bundle.
pub(super) const LEFT: [&str; 3] = [OPTIONS, RUNTIME, INIT_PID];

/// The pid in a file that a runtime wrote.
///
/// # Errors
/// Those of reading it, and when there is no number in it.
pub(super) fn read_pid(file: &Path) -> Result<u32> {
    let text = fs::read_to_string(file)
        .map_err(|e| HopError::from(e).context(format!("open {}", file.display())))?;
    text.trim().parse().map_err(|_| {
        HopError::internal(format!("{}: not a pid: {:?}", file.display(), text.trim()))
    })
}

/// Writes a file whole or not at all, with mode 0600.
///
/// # Errors
/// Those of writing and renaming.
pub(super) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    io::Write::write_all(&mut file, content)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config).unwrap();
        dir
    }

    #[test]
    fn a_pod_is_named_by_its_annotation() {
        let of = |config| group(bundle(config).path()).unwrap();
        assert_eq!(of(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s"}}"#), Some("s".into()));
        assert_eq!(
            of(
                r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s","io.containerd.runc.v2.group":"g"}}"#
            ),
            Some("g".into())
        );
        assert_eq!(of(r#"{"annotations":null,"process":{"args":["x"]}}"#), None);
        let error = group(bundle("{").path()).unwrap_err();
        assert!(error.message.contains("config.json"), "{error}");
    }

    #[test]
    fn only_a_pid_namespace_of_ones_own_dies_with_its_init() {
        let of = |config| shares_pid_namespace(bundle(config).path());
        assert!(!of(r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}"#));
        assert!(of(r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#));
        assert!(of(r#"{"linux":{}}"#));
        assert!(shares_pid_namespace(Path::new("/nowhere")));
    }

    #[test]
    fn options_come_back_from_the_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let any = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: hops::proto::containerd::runc::v1::Options {
                binary_name: "crun".into(),
                root: "/run/x".into(),
                systemd_cgroup: true,
                ..Default::default()
            }
            .encode_to_vec(),
        };
        let options = Options::read(Some(&any)).unwrap();
        options.write(dir.path()).unwrap();
        assert_eq!(Options::of_bundle(dir.path()), options);
        assert_eq!(fs::read_to_string(dir.path().join("runtime")).unwrap(), "crun");
        let other = Any { type_url: "x.Options".into(), value: Vec::new() };
        assert!(Options::read(Some(&other)).is_err());
    }
}
