//! A container as it stands on disk: one JSON file in the container's directory.
//!
//! A file each, not a database: the directory is there in any case (logs, hosts, host name), one
//! rename replaces the record whole, one removal takes record and files away together, and no
//! second store can disagree with them. Only the first write is synced: a kill of the daemon loses
//! nothing of what was renamed, and after a loss of power no container runs, so that an older
//! record differs from the truth by an exit that the next start finds out.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use hops::{
    HopError, Result,
    docker::models::{ContainerConfig, ContainerStateStatusEnum as Status, HostConfig, MountPoint},
    proto::containerd::types::Mount,
};
use serde::{Deserialize, Serialize};

/// What the daemon remembers of a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// Without the slash.
    pub(crate) name: String,
    /// Nanoseconds since the epoch, as all times here; 0 for never.
    pub(crate) created: i64,
    /// `sha256:…` of the image's configuration.
    pub(crate) image_id: String,
    /// The program and its arguments.
    pub(crate) args: Vec<String>,
    pub(crate) config: ContainerConfig,
    pub(crate) host: HostConfig,
    pub(crate) mounts: Vec<MountPoint>,
    /// The volumes that go away with the container.
    pub(crate) anonymous_volumes: Vec<String>,
    /// The mounts that make the root filesystem.
    pub(crate) rootfs: Vec<RootMount>,
    /// Whether containerd holds a container of this id.
    pub(crate) in_containerd: bool,
    pub(crate) state: State,
    pub(crate) restarts: i64,
    /// Stopped by a user, so that the policy `unless-stopped` leaves it.
    pub(crate) stopped_by_hand: bool,
    pub(crate) network: Option<Endpoint>,
    /// The container whose network this one shares.
    pub(crate) network_of: Option<String>,
    /// The host directory behind /dev/shm that others may share.
    pub(crate) shm: Option<PathBuf>,
}

/// What the container is doing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) pid: i64,
    pub(crate) exit_code: i64,
    pub(crate) error: String,
    pub(crate) oom_killed: bool,
    pub(crate) started: i64,
    pub(crate) finished: i64,
}

/// Where in its life a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    #[default]
    Created,
    Running,
    Paused,
    /// Ended, to be started again.
    Restarting,
    Exited,
    Removing,
    /// Ended, and what it left could not be removed.
    Dead,
}

impl Phase {
    /// Whether there is a process.
    pub(crate) fn runs(self) -> bool {
        matches!(self, Phase::Running | Phase::Paused)
    }

    /// The API's word.
    pub(crate) fn word(self) -> &'static str {
        self.status().into()
    }

    pub(crate) fn status(self) -> StatusWord {
        StatusWord(match self {
            Phase::Created => Status::CREATED,
            Phase::Running => Status::RUNNING,
            Phase::Paused => Status::PAUSED,
            Phase::Restarting => Status::RESTARTING,
            Phase::Exited => Status::EXITED,
            Phase::Removing => Status::REMOVING,
            Phase::Dead => Status::DEAD,
        })
    }
}

/// The API's status.
#[derive(Clone, Copy)]
pub(crate) struct StatusWord(pub(crate) Status);

impl From<StatusWord> for &'static str {
    fn from(word: StatusWord) -> &'static str {
        match word.0 {
            Status::RUNNING => "running",
            Status::PAUSED => "paused",
            Status::RESTARTING => "restarting",
            Status::EXITED => "exited",
            Status::REMOVING => "removing",
            Status::DEAD => "dead",
            _ => "created",
        }
    }
}

/// A mount of the root filesystem, as containerd gave it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RootMount {
    kind: String,
    source: String,
    target: String,
    options: Vec<String>,
}

impl From<&Mount> for RootMount {
    fn from(mount: &Mount) -> RootMount {
        RootMount {
            kind: mount.r#type.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        }
    }
}

impl From<&RootMount> for Mount {
    fn from(mount: &RootMount) -> Mount {
        Mount {
            r#type: mount.kind.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        }
    }
}

/// Where a running container stands in the network `bridge`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) netns: PathBuf,
    pub(crate) address: String,
    pub(crate) prefix: i64,
    pub(crate) gateway: String,
    pub(crate) mac: String,
    /// `80/tcp` to the host's addresses and ports.
    pub(crate) ports: HashMap<String, Vec<(String, u16)>>,
}

const FILE: &str = "config.json";

impl Record {
    /// The container's mode of networking; `bridge` stands for `default`.
    pub(crate) fn network_mode(&self) -> &str {
        match self.host.network_mode.as_deref() {
            None | Some("" | "default") => "bridge",
            Some(mode) => mode,
        }
    }

    /// Whether the process has a terminal.
    pub(crate) fn tty(&self) -> bool {
        self.config.tty == Some(true)
    }

    /// Writes the record into `dir`, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn save(&self, dir: &Path, sync: bool) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|e| HopError::internal(format!("container {}: {e}", self.id)))?;
        let fresh = dir.join(".config.json.new");
        let mut file = File::create(&fresh)?;
        file.write_all(&text)?;
        if sync {
            file.sync_data()?;
        }
        fs::rename(&fresh, dir.join(FILE))?;
        Ok(())
    }

    /// Reads the record in `dir`.
    ///
    /// # Errors
    /// Those of the file system, and a file that is no record.
    pub(crate) fn load(dir: &Path) -> Result<Record> {
        let text = fs::read(dir.join(FILE))?;
        serde_json::from_slice(&text)
            .map_err(|e| HopError::internal(format!("{}: {e}", dir.join(FILE).display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record { id: "x".into(), restarts: 3, ..Record::default() };
        record.save(dir.path(), true).unwrap();
        Record { restarts: 4, ..record }.save(dir.path(), false).unwrap();
        assert_eq!(Record::load(dir.path()).unwrap().restarts, 4);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
