//! The daemon's configuration: containerd's TOML, versions 2 and 3.

mod file;

use crate::{Error, Result, error::At, tasks::find_program};
use file::File;
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// What a daemon is told when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What is kept: content, snapshots, metadata.
    pub root: PathBuf,
    /// What is lost at reboot: bundles.
    pub state: PathBuf,
    /// The gRPC socket.
    pub address: PathBuf,
    /// The user and the group that the gRPC socket belongs to.
    pub owner: (u32, u32),
    /// The ttrpc socket; without one it is beside the gRPC socket, with `.ttrpc` behind the name.
    pub ttrpc: Option<PathBuf>,
    /// The user and the group that the ttrpc socket belongs to.
    pub ttrpc_owner: (u32, u32),
    /// `trace`, `debug`, `info`, `warn`, `error`.
    pub level: String,
    /// Whether the log is lines of JSON.
    pub json: bool,
    /// Where Prometheus's metrics are served, `host:port`; nowhere without it.
    pub metrics: Option<String>,
    /// The kernel's score for this process when memory is short; 0 leaves it as it is.
    pub oom_score: i32,
    /// Plugins that are not to be there; snapshotters can be missed.
    pub disabled: Vec<String>,
    /// Plugins without which the daemon is not to start.
    pub required: Vec<String>,
    /// Directories with a directory for each registry's host (containerd's `config_path`).
    pub hosts_dirs: Vec<PathBuf>,
    /// The program that a shim without a connection publishes its events with: this one.
    pub publish_binary: PathBuf,
    /// What the files asked for and nothing here does.
    pub remarks: Vec<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            root: "/var/lib/strata/containerd".into(),
            state: "/run/strata/containerd".into(),
            address: "/run/strata/containerd.sock".into(),
            owner: (0, 0),
            ttrpc: None,
            ttrpc_owner: (0, 0),
            level: "info".to_owned(),
            json: false,
            metrics: None,
            oom_score: 0,
            disabled: Vec::new(),
            required: Vec::new(),
            hosts_dirs: Vec::new(),
            publish_binary: find_program("strata-containerd")
                .or_else(|| env::current_exe().ok())
                .unwrap_or_else(|| "strata-containerd".into()),
            remarks: Vec::new(),
        }
    }
}

/// What containerd calls the levels, and what they are here.
const LEVELS: [(&str, &str); 8] = [
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("warn", "warn"),
    ("warning", "warn"),
    ("error", "error"),
    ("fatal", "error"),
    ("panic", "error"),
];

impl Config {
    /// Takes over what the file at `path` says, and the files that it imports.
    ///
    /// # Errors
    /// `InvalidArgument` naming the file, the key and the place, in containerd's words where it
    /// refuses the same.
    pub fn read(&mut self, path: &Path) -> Result<()> {
        self.read_once(path, &mut Vec::new())
    }

    fn read_once(&mut self, path: &Path, seen: &mut Vec<PathBuf>) -> Result<()> {
        let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if seen.contains(&place) {
            return Ok(());
        }
        seen.push(place);
        let text = fs::read_to_string(path).at("reading", path)?;
        let failed =
            |e: Error| e.during(format_args!("failed to load TOML from {}", path.display()));
        for import in self.merge(&text).map_err(failed)? {
            let import = path.parent().unwrap_or(Path::new("/")).join(import);
            for file in expand(&import)? {
                self.read_once(&file, seen)?;
            }
        }
        Ok(())
    }

    /// Takes over what a file's text says, and answers what it imports.
    fn merge(&mut self, text: &str) -> Result<Vec<String>> {
        let (file, unknown) =
            File::parse(text).map_err(|e| Error::invalid(e.to_string().trim()))?;
        // Without a version it is a file of version 1, which named plugins otherwise.
        if file.version.unwrap_or(1) < 2 {
            self.remarks.push(
                "containerd config version `1` has been deprecated, please switch to version `2`"
                    .to_owned(),
            );
        } else if let Some((kind, name)) = file.misnamed() {
            let words = format!("invalid {kind} URI {name:?} expect io.containerd.x.vx");
            return Err(Error::new(crate::Kind::InvalidArgument, words));
        }
        if let Some(bad) = file.bad_timeout() {
            let words = format!("unable to parse {bad} into a time duration");
            return Err(Error::new(crate::Kind::InvalidArgument, words));
        }
        self.remarks.extend(file.without_effect());
        let hosts = file.hosts_dirs();
        if !hosts.is_empty() {
            self.hosts_dirs = hosts;
        }
        self.remarks.extend(unknown.into_iter().map(|key| format!("{key}: unknown key")));
        let given = |path: PathBuf| Some(path).filter(|path| !path.as_os_str().is_empty());
        for (path, new) in [
            (&mut self.root, file.root),
            (&mut self.state, file.state),
            (&mut self.address, file.grpc.address),
        ] {
            if let Some(new) = given(new) {
                *path = new;
            }
        }
        self.ttrpc = given(file.ttrpc.address).or(self.ttrpc.take());
        let other = |ids: (u32, u32)| Some(ids).filter(|ids| *ids != (0, 0));
        self.owner = other((file.grpc.uid, file.grpc.gid)).unwrap_or(self.owner);
        self.ttrpc_owner = other((file.ttrpc.uid, file.ttrpc.gid)).unwrap_or(self.ttrpc_owner);
        if !file.debug.level.is_empty() {
            self.level = file.debug.level;
        }
        match file.debug.format.as_str() {
            "" => {}
            "text" => self.json = false,
            "json" => self.json = true,
            other => {
                return Err(Error::new(
                    crate::Kind::InvalidArgument,
                    format!("unknown log format: {other}"),
                ));
            }
        }
        self.metrics = Some(file.metrics.address).filter(|a| !a.is_empty()).or(self.metrics.take());
        if file.oom_score != 0 {
            self.oom_score = file.oom_score;
        }
        self.disabled.extend(file.disabled_plugins);
        self.required.extend(file.required_plugins);
        Ok(file.imports)
    }

    /// The ttrpc socket.
    pub fn ttrpc_address(&self) -> PathBuf {
        self.ttrpc.clone().unwrap_or_else(|| {
            let mut path = OsString::from(&self.address);
            path.push(".ttrpc");
            PathBuf::from(path)
        })
    }

    /// The level in this program's own words.
    ///
    /// # Errors
    /// containerd's for one that it does not know.
    pub fn tracing_level(&self) -> Result<&'static str> {
        let lower = self.level.to_lowercase();
        let known = LEVELS.iter().find(|(name, _)| *name == lower).map(|(_, level)| *level);
        known.ok_or_else(|| {
            let words = format!("not a valid logrus Level: {:?}", self.level);
            Error::new(crate::Kind::InvalidArgument, words)
        })
    }

    /// The configuration as a file that says the same.
    ///
    /// # Errors
    /// For a path that is not UTF-8.
    pub fn to_toml(&self) -> Result<String> {
        let text = |path: &Path| {
            let text =
                path.to_str().ok_or_else(|| Error::invalid(format_args!("{path:?} as text")));
            text.map(toml::Value::from)
        };
        let list = |names: &[String]| toml::Value::from(names.to_vec());
        let table = |entries: Vec<(&str, toml::Value)>| {
            let entries = entries.into_iter().map(|(key, value)| (key.to_owned(), value));
            toml::Value::Table(entries.collect())
        };
        let socket = |path: toml::Value, (uid, gid): (u32, u32)| {
            table(vec![("address", path), ("gid", gid.into()), ("uid", uid.into())])
        };
        let ttrpc = self.ttrpc.as_deref().map_or(Ok("".into()), text)?;
        let hosts = env::join_paths(&self.hosts_dirs).map_err(Error::internal)?;
        let registry = table(vec![("config_path", text(Path::new(&hosts))?)]);
        let cri = table(vec![("registry", registry)]);
        let whole = table(vec![
            ("version", 2.into()),
            ("root", text(&self.root)?),
            ("state", text(&self.state)?),
            ("oom_score", self.oom_score.into()),
            ("disabled_plugins", list(&self.disabled)),
            ("required_plugins", list(&self.required)),
            ("grpc", socket(text(&self.address)?, self.owner)),
            ("ttrpc", socket(ttrpc, self.ttrpc_owner)),
            (
                "debug",
                table(vec![
                    ("format", if self.json { "json" } else { "" }.into()),
                    ("level", self.level.as_str().into()),
                ]),
            ),
            ("metrics", table(vec![("address", self.metrics.clone().unwrap_or_default().into())])),
            ("plugins", table(vec![("io.containerd.grpc.v1.cri", cri)])),
        ]);
        toml::to_string(&whole).map_err(Error::internal)
    }

    /// What cannot work.
    ///
    /// # Errors
    /// containerd's own words.
    pub fn check(&self) -> Result<()> {
        if self.root == self.state {
            return Err(Error::invalid("root and state must be different paths"));
        }
        for (name, path) in
            [("root", &self.root), ("state", &self.state), ("grpc.address", &self.address)]
        {
            if !path.is_absolute() {
                return Err(Error::invalid(format_args!(
                    "{name} must be an absolute path, not {path:?}"
                )));
            }
        }
        if let Some(dir) = self.hosts_dirs.iter().find(|dir| !dir.is_absolute()) {
            return Err(Error::invalid(format_args!(
                "config_path must be an absolute path, not {dir:?}"
            )));
        }
        self.tracing_level().map(drop)
    }
}

/// The files that a path with `*` and `?` in its last part names, in order; itself without them.
fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    let pattern = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !pattern.contains(['*', '?']) {
        return Ok(vec![path.to_owned()]);
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    // As with containerd, nothing that fits is no fault.
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter(|e| fits(pattern.as_bytes(), e.file_name().as_encoded_bytes()))
        .map(|e| e.path())
        .collect();
    files.sort();
    Ok(files)
}

/// Whether a name fits a pattern of `*` and `?`.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|at| fits(rest, &name[at..])),
        ([b'?', rest @ ..], [_, more @ ..]) => fits(rest, more),
        ([a, rest @ ..], [b, more @ ..]) => a == b && fits(rest, more),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_writes_it_reads() {
        let mut other = Config {
            root: "/a".into(),
            level: "debug".into(),
            json: true,
            owner: (1, 2),
            ttrpc: Some("/t.sock".into()),
            metrics: Some("127.0.0.1:1338".into()),
            disabled: vec!["io.containerd.snapshotter.v1.native".into()],
            hosts_dirs: vec!["/b".into(), "/c".into()],
            ..Config::default()
        };
        let text = other.to_toml().unwrap();
        let mut config = Config::default();
        config.merge(&text).unwrap();
        assert_eq!(config, other);
        other.root.clone_from(&other.state);
        other.check().unwrap_err();
    }

    #[test]
    fn what_containerd_refuses_is_refused() {
        for (text, word) in [
            ("version = 2\nroot = 3", "root"),
            ("version = 2\n[grpc]\nuid = \"x\"", "uid"),
            ("version = 2\n[plugins.x]\na = 1", "invalid plugin key URI \"x\""),
            ("version = 2\ndisabled_plugins = [\"cri\"]", "invalid disabled plugin URI \"cri\""),
            ("version = 2\n[debug]\nformat = \"x\"", "unknown log format: x"),
            ("version = 2\n[timeouts]\n\"a\" = \"x\"", "unable to parse x into a time duration"),
        ] {
            let refused = Config::default().merge(text).unwrap_err();
            assert!(refused.message.contains(word), "{text}: {refused}");
        }
        let level = Config { level: "x".into(), ..Config::default() };
        assert!(level.check().unwrap_err().message.contains("not a valid logrus Level"));
    }

    #[test]
    fn where_registries_are() {
        for (text, want) in [
            (
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/a:/b\"",
                &["/a", "/b"][..],
            ),
            (
                "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = \"/a\"\n[plugins.'io.containerd.transfer.v1.local']\nconfig_path = \"/a\"",
                &["/a"],
            ),
            (
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"\"",
                &[],
            ),
        ] {
            let mut config = Config::default();
            config.merge(text).unwrap();
            assert_eq!(config.hosts_dirs, want.iter().map(PathBuf::from).collect::<Vec<_>>());
            assert_eq!(config.remarks, [""; 0]);
            config.check().unwrap();
        }
        let relative = Config { hosts_dirs: vec!["certs.d".into()], ..Config::default() };
        assert!(relative.check().unwrap_err().message.contains("config_path"));
    }

    #[test]
    fn what_has_no_effect_is_said() {
        for (text, word) in [
            ("root = \"/x\"", "deprecated"),
            ("version = 2\nnosuch = 1", "nosuch"),
            ("version = 2\n[grpc]\nnosuch = 1", "grpc.nosuch"),
            ("version = 2\n[grpc]\ntcp_address = \"0:1\"", "grpc.tcp_address"),
            ("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\na = 1", "strata-cri"),
            (
                "version = 2\n[plugins.\"io.containerd.snapshotter.v1.overlayfs\"]\nroot_path = \"/x\"",
                "root_path",
            ),
            ("version = 2\n[timeouts]\n\"io.containerd.timeout.shim.load\" = \"6s\"", "shim.load"),
        ] {
            let mut config = Config::default();
            config.merge(text).unwrap();
            assert_eq!(config.remarks.len(), 1, "{text}: {:?}", config.remarks);
            assert!(config.remarks[0].contains(word), "{text}: {:?}", config.remarks);
        }
    }

    #[test]
    fn imported_files_are_read_once_and_win() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write(
            "a.toml",
            "version = 2\nroot = \"/a\"\nstate = \"/a-state\"\nimports = [\"conf.d-*\"]",
        );
        write("conf.d-1", "version = 2\nroot = \"/b\"\nimports = [\"a.toml\"]");
        write("conf.d-2", "version = 2\nroot = \"/c\"\n[grpc]\ngid = 7");
        let mut config = Config::default();
        config.read(&dir.path().join("a.toml")).unwrap();
        assert_eq!((config.root, config.state), ("/c".into(), "/a-state".into()));
        assert_eq!(config.owner, (0, 7));
        write("d.toml", "version = 2\nimports = [\"missing.toml\"]");
        let missing = Config::default().read(&dir.path().join("d.toml")).unwrap_err();
        assert!(missing.message.contains("missing.toml"), "{missing}");
    }
}
