//! The daemon's configuration: containerd's version-2 TOML where it has the key.

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
        if file.version != 2 {
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
        Ok(())
    }

    /// The configuration as a file that says the same.
    ///
    /// # Errors
    /// For a path that is not UTF-8.
    pub fn to_toml(&self) -> Result<String> {
        let file = File {
            version: 2,
            root: Some(self.root.clone()),
            state: Some(self.state.clone()),
            grpc: Grpc { address: Some(self.address.clone()) },
            debug: Debug { level: Some(self.level.clone()) },
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_writes_it_reads() {
        let mut other = Config { root: "/a".into(), level: "debug".into(), ..Config::default() };
        let text = other.to_toml().unwrap();
        let mut config = Config::default();
        config.merge(&text).unwrap();
        assert_eq!(config, other);
        other.root.clone_from(&other.state);
        other.check().unwrap_err();
    }

    #[test]
    fn a_key_is_named_when_it_is_refused() {
        for (text, word) in [
            ("version = 1", "version"),
            ("version = 2\nroot = 3", "root"),
            ("version = 2\n[plugins.x]\na = 1", "plugins"),
            ("version = 2\n[grpc]\nuid = 1", "uid"),
        ] {
            let refused = Config::default().merge(text).unwrap_err();
            assert!(refused.message.contains(word), "{text}: {refused}");
        }
    }
}
