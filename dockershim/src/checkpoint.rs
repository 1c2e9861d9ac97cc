//! What dockershim writes about a sandbox, so that its network can be taken down after Docker has
//! forgotten it (`pkg/kubelet/dockershim/docker_checkpoint.go`, Kubernetes 1.20).
//!
//! One JSON file per sandbox under `<root>/sandbox`, written to a temporary file, synced and
//! renamed. The checksum is of our own making: the real one hashes Go's dump of a structure.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

use hops::{
    HopError, Kind, Result,
    proto::runtime::v1::{PodSandboxConfig, Protocol},
};
use serde::{Deserialize, Serialize};

const VERSION: &str = "v1";

/// One sandbox's checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// `v1`.
    pub version: String,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// What its network needs.
    #[serde(default)]
    pub data: Data,
    /// FNV-1a of the data's JSON.
    pub checksum: u32,
}

/// What a sandbox's network needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// The ports of the host that lead to the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<Port>,
    /// Whether it uses the host's network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
}

/// One port mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The pod's port.
    pub container_port: i32,
    /// The host's port; 0 for none.
    pub host_port: i32,
    /// The host's address; empty for all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

fn checksum(data: &Data) -> u32 {
    // The data has string keys only, which is all that serialization can fail on.
    let bytes = serde_json::to_vec(data).unwrap_or_default();
    bytes.iter().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

impl Checkpoint {
    /// What is to be kept of a sandbox.
    pub(crate) fn of(config: &PodSandboxConfig, host_network: bool) -> Checkpoint {
        let ports = config.port_mappings.iter().map(|port| Port {
            protocol: match port.protocol() {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            }
            .to_owned(),
            container_port: port.container_port,
            host_port: port.host_port,
            host_ip: port.host_ip.clone(),
        });
        let data = Data { port_mappings: ports.collect(), host_network };
        let metadata = config.metadata.clone().unwrap_or_default();
        Checkpoint {
            version: VERSION.to_owned(),
            name: metadata.name,
            namespace: metadata.namespace,
            checksum: checksum(&data),
            data,
        }
    }
}

/// The directory of checkpoints.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// Opens the directory `root/sandbox`, made where it is missing. What an interrupted write
    /// left is removed.
    ///
    /// # Errors
    /// Those of making and reading it.
    pub(crate) fn open(root: &std::path::Path) -> io::Result<Checkpoints> {
        let dir = root.join("sandbox");
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Checkpoints { dir })
    }

    /// The file of a sandbox; an id that is no file's name has none.
    fn path(&self, id: &str) -> Result<PathBuf> {
        let plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        match plain {
            true => Ok(self.dir.join(id)),
            false => Err(HopError::not_found(format!("checkpoint is not found: {id:?}"))),
        }
    }

    /// Writes a sandbox's checkpoint so that after a crash it is there in full or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn write(&self, id: &str, checkpoint: &Checkpoint) -> Result<()> {
        let path = self.path(id)?;
        let temporary = self.dir.join(format!(".{id}"));
        let json = serde_json::to_vec(checkpoint).map_err(io::Error::from)?;
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&json).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|e| {
            // What failed is worth more to the caller than what is left of it.
            let _ = fs::remove_file(&temporary);
            HopError::from(e).context(format_args!("writing checkpoint {}", path.display()))
        })
    }

    /// Reads a sandbox's checkpoint.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is none, [`Kind::DataLoss`] when it is not what was written.
    pub(crate) fn read(&self, id: &str) -> Result<Checkpoint> {
        let bytes = match fs::read(self.path(id)?) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(HopError::not_found(format!("checkpoint is not found: {id:?}")));
            }
            Err(e) => return Err(e.into()),
        };
        let corrupt = |words: String| {
            HopError::new(Kind::DataLoss, format!("checkpoint is corrupted: {words}"))
        };
        let checkpoint: Checkpoint =
            serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
        match checksum(&checkpoint.data) == checkpoint.checksum {
            true => Ok(checkpoint),
            false => Err(corrupt("the checksum differs".into())),
        }
    }

    /// Removes a sandbox's checkpoint; one that is gone is removed already.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let Ok(path) = self.path(id) else { return Ok(()) };
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// The ids of all sandboxes that have one.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        Ok(names
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_whole_or_refused() {
        let root = tempfile::tempdir().unwrap();
        let store = Checkpoints::open(root.path()).unwrap();
        assert!(store.read("abc").unwrap_err().is_not_found());
        let checkpoint = Checkpoint::of(
            &PodSandboxConfig {
                port_mappings: vec![hops::proto::runtime::v1::PortMapping {
                    container_port: 80,
                    host_port: 8080,
                    ..Default::default()
                }],
                ..Default::default()
            },
            true,
        );
        store.write("abc", &checkpoint).unwrap();
        assert_eq!(store.read("abc").unwrap(), checkpoint);
        assert_eq!(store.ids().unwrap(), ["abc"]);
        let path = root.path().join("sandbox/abc");
        let text = fs::read_to_string(&path).unwrap().replace("8080", "8081");
        fs::write(&path, text).unwrap();
        assert_eq!(store.read("abc").unwrap_err().kind, Kind::DataLoss);
        fs::write(root.path().join("sandbox/.torn"), "{").unwrap();
        let store = Checkpoints::open(root.path()).unwrap();
        assert_eq!(store.ids().unwrap(), ["abc"]);
        assert!(!root.path().join("sandbox/.torn").exists());
        store.remove("abc").unwrap();
        store.remove("abc").unwrap();
        assert!(store.write("../x", &checkpoint).is_err());
    }
}
