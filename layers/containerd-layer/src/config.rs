//! The daemon's configuration: containerd's TOML, versions 2 and 3, where it has the key.

use crate::{Error, Result, error::At, tasks::find_program};
use serde::{Deserialize, Serialize};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What a daemon is told when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What is kept: content, snapshots, metadata.
    pub root: PathBuf,
    /// What is lost at reboot: bundles.
    pub state: PathBuf,
    /// The gRPC socket; the ttrpc socket is beside it, with `.ttrpc` behind the name.
    pub address: PathBuf,
    /// `trace`, `debug`, `info`, `warn`, `error`.
    pub level: String,
    /// Directories with a directory for each registry's host (containerd's `config_path`).
    pub hosts_dirs: Vec<PathBuf>,
    /// The program that a shim without a connection publishes its events with: this one.
    pub publish_binary: PathBuf,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            root: "/var/lib/strata/containerd".into(),
            state: "/run/strata/containerd".into(),
            address: "/run/strata/containerd.sock".into(),
            level: "info".to_owned(),
            hosts_dirs: Vec::new(),
            publish_binary: find_program("strata-containerd")
                .or_else(|| env::current_exe().ok())
                .unwrap_or_else(|| "strata-containerd".into()),
        }
    }
}

/// containerd's configuration file, as far as this daemon has what its keys are about. Other keys
/// are for plugins that are not here, and are refused by name rather than ignored.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    root: Option<PathBuf>,
    state: Option<PathBuf>,
    #[serde(default)]
    grpc: Grpc,
    #[serde(default)]
    debug: Debug,
    #[serde(default, skip_serializing_if = "Plugins::is_empty")]
    plugins: Plugins,
}

/// The plugins that say where registries are: the CRI's in containerd 1 and 2, and the transfer
/// service's in containerd 2. Here all of them mean every pull and push.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Plugins {
    #[serde(
        rename = "io.containerd.grpc.v1.cri",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    cri: Option<Images>,
    #[serde(
        rename = "io.containerd.cri.v1.images",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    images: Option<Images>,
    #[serde(
        rename = "io.containerd.transfer.v1.local",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    transfer: Option<Hosts>,
}

#[derive(Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Images {
    #[serde(default)]
    registry: Hosts,
}

#[derive(Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Hosts {
    /// Directories, with a colon between them.
    #[serde(default)]
    config_path: String,
}

impl Plugins {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn hosts_dirs(self) -> Vec<PathBuf> {
        let all = [self.cri.map(|c| c.registry), self.images.map(|i| i.registry), self.transfer];
        let mut dirs: Vec<PathBuf> = Vec::new();
        for hosts in all.into_iter().flatten() {
            for dir in env::split_paths(&hosts.config_path) {
                if !dir.as_os_str().is_empty() && !dirs.contains(&dir) {
                    dirs.push(dir);
                }
            }
        }
        dirs
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grpc {
    address: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Debug {
    level: Option<String>,
}

impl Config {
    /// Takes over what the file at `path` says.
    ///
    /// # Errors
    /// `InvalidArgument` naming the key and the place.
    pub fn read(&mut self, path: &Path) -> Result<()> {
        let text = fs::read_to_string(path).at("reading", path)?;
        self.merge(&text).map_err(|e| e.during(path.display()))
    }

    fn merge(&mut self, text: &str) -> Result<()> {
        let file: File = toml::from_str(text).map_err(|e| Error::invalid(e.to_string().trim()))?;
        if file.version != 2 && file.version != 3 {
            return Err(Error::invalid(format_args!(
                "expected containerd config version equal to or greater than `2`, got `{}`",
                file.version
            )));
        }
        let Config { root, state, address, level, .. } = self;
        for (path, given) in [(root, file.root), (state, file.state), (address, file.grpc.address)]
        {
            if let Some(given) = given.filter(|p| !p.as_os_str().is_empty()) {
                *path = given;
            }
        }
        if let Some(given) = file.debug.level.filter(|level| !level.is_empty()) {
            *level = given;
        }
        let given = file.plugins.hosts_dirs();
        if !given.is_empty() {
            self.hosts_dirs = given;
        }
        Ok(())
    }

    /// The configuration as a file that says the same.
    ///
    /// # Errors
    /// For a path that is not UTF-8.
    pub fn to_toml(&self) -> Result<String> {
        let config_path = env::join_paths(&self.hosts_dirs).map_err(Error::internal)?;
        let config_path = config_path
            .into_string()
            .map_err(|path| Error::internal(format_args!("config_path {path:?} is not UTF-8")))?;
        let registry = Hosts { config_path };
        let cri = (!self.hosts_dirs.is_empty()).then_some(Images { registry });
        let file = File {
            version: 2,
            root: Some(self.root.clone()),
            state: Some(self.state.clone()),
            grpc: Grpc { address: Some(self.address.clone()) },
            debug: Debug { level: Some(self.level.clone()) },
            plugins: Plugins { cri, ..Plugins::default() },
        };
        toml::to_string(&file).map_err(Error::internal)
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
        Ok(())
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
            config.check().unwrap();
        }
        let relative = Config { hosts_dirs: vec!["certs.d".into()], ..Config::default() };
        assert!(relative.check().unwrap_err().message.contains("config_path"));
    }

    #[test]
    fn a_key_is_named_when_it_is_refused() {
        for (text, word) in [
            ("version = 1", "version"),
            ("version = 2\nroot = 3", "root"),
            ("version = 2\n[plugins.x]\na = 1", "plugins"),
            ("version = 2\n[grpc]\nuid = 1", "uid"),
            (
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\na = 1",
                "mirrors",
            ),
        ] {
            let refused = Config::default().merge(text).unwrap_err();
            assert!(refused.message.contains(word), "{text}: {refused}");
        }
    }
}
