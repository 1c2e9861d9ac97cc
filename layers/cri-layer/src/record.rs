//! What is remembered of a sandbox or a container, and where.
//!
//! The unchanging part travels as an extension of the containerd container, as containerd's own
//! CRI keeps it: it is durable when `Containers.Create` is, and costs no write of its own. The
//! changing part of a container is a small file, replaced whole; it is not synced, for it only has
//! to outlive this process: after the machine's own end the task is gone, and what it would have
//! exited with is unknown anyway.

use std::{collections::HashMap, io, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hops::{
    HopError, Result,
    cni::Attached,
    proto::{
        Any,
        runtime::v1::{ContainerConfig, PodSandboxConfig},
    },
};
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

/// The label that says what a containerd container is to CRI.
pub(crate) const KIND_LABEL: &str = "io.cri-containerd.kind";

/// A record that is an extension of a containerd container.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// The extension's key.
    const EXTENSION: &'static str;
    /// The type's name in the `Any`.
    const TYPE_URL: &'static str;
    /// The value of [`KIND_LABEL`].
    const KIND: &'static str;
}

/// A sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SandboxRecord {
    /// Its id, which is its pause container's.
    #[serde(rename = "ID")]
    pub(crate) id: String,
    /// The reserved name.
    pub(crate) name: String,
    /// What the kubelet asked for.
    pub(crate) config: Proto<PodSandboxConfig>,
    /// What the network plugins answered; absent on the host's network.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "CNIResult")]
    pub(crate) network: Option<Attached>,
    /// The handler it was asked for with.
    #[serde(default)]
    pub(crate) runtime_handler: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ContainerRecord {
    /// Its id.
    #[serde(rename = "ID")]
    pub(crate) id: String,
    /// The reserved name.
    pub(crate) name: String,
    /// The sandbox it is in.
    #[serde(rename = "SandboxID")]
    pub(crate) sandbox_id: String,
    /// What the kubelet asked for.
    pub(crate) config: Proto<ContainerConfig>,
    /// The image's id.
    pub(crate) image_ref: String,
    /// Where its output goes; empty for nowhere.
    pub(crate) log_path: String,
    /// The image's stop signal; empty for SIGTERM.
    #[serde(default)]
    pub(crate) stop_signal: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
}

impl Record for SandboxRecord {
    const EXTENSION: &'static str = "io.cri-containerd.sandbox.metadata";
    const TYPE_URL: &'static str = "github.com/containerd/cri/pkg/store/sandbox/Metadata";
    const KIND: &'static str = "sandbox";
}

impl Record for ContainerRecord {
    const EXTENSION: &'static str = "io.cri-containerd.container.metadata";
    const TYPE_URL: &'static str = "github.com/containerd/cri/pkg/store/container/Metadata";
    const KIND: &'static str = "container";
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versioned<T> {
    version: String,
    metadata: T,
}

/// The record as an extension.
///
/// # Errors
/// None that is known: the records are all JSON can say.
pub(crate) fn extension<R: Record>(record: &R) -> Result<HashMap<String, Any>> {
    let versioned = Versioned { version: "v1".to_owned(), metadata: record };
    let value = serde_json::to_vec(&versioned)
        .map_err(|e| HopError::internal(format!("failed to marshal {} metadata: {e}", R::KIND)))?;
    let any = Any { type_url: R::TYPE_URL.to_owned(), value };
    Ok(HashMap::from([(R::EXTENSION.to_owned(), any)]))
}

/// The record in a container's extensions; `None` when it is not there or not ours, whose config
/// has another form.
pub(crate) fn of_extensions<R: Record>(extensions: &HashMap<String, Any>) -> Option<R> {
    let any = extensions.get(R::EXTENSION)?;
    match serde_json::from_slice::<Versioned<R>>(&any.value) {
        Ok(versioned) => Some(versioned.metadata),
        Err(error) => {
            tracing::warn!(%error, kind = R::KIND, "metadata that is not this program's is ignored");
            None
        }
    }
}

/// A protobuf message within JSON: base64 of its wire form, which keeps every field, known or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proto<M>(pub(crate) M);

impl<M: Message> Serialize for Proto<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0.encode_to_vec()))
    }
}

impl<'de, M: Message + Default> Deserialize<'de> for Proto<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        M::decode(bytes.as_slice()).map(Proto).map_err(serde::de::Error::custom)
    }
}

impl<M> std::ops::Deref for Proto<M> {
    type Target = M;
    fn deref(&self) -> &M {
        &self.0
    }
}

/// How a container's process ended, or why it did not start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Exit {
    /// 0–255; 128 + n for a death by signal n.
    pub(crate) code: i32,
    /// Nanoseconds since 1970.
    pub(crate) at: i64,
    /// One word, when it is not to be told from the code.
    #[serde(default)]
    pub(crate) reason: String,
    /// The words of a failed start.
    #[serde(default)]
    pub(crate) message: String,
}

impl Exit {
    /// The end of a container whose task was gone when it was looked for (containerd's
    /// `unknownExitCode` and `unknownExitReason`).
    pub(crate) fn unknown() -> Exit {
        Exit {
            code: 255,
            at: crate::names::now(),
            reason: "Unknown".into(),
            message: String::new(),
        }
    }

    /// The end of a container that was not started (containerd's `errorStartExitCode` and
    /// `errorStartReason`).
    pub(crate) fn start_error(message: String) -> Exit {
        Exit { code: 128, at: crate::names::now(), reason: "StartError".into(), message }
    }
}

/// The changing part of a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Progress {
    /// Nanoseconds since 1970; 0 before the start.
    pub(crate) started_at: i64,
    /// The end.
    pub(crate) exit: Option<Exit>,
}

const STATUS: &str = "status";

impl Progress {
    /// Reads it from a container's directory; nothing is known where there is no file, or half of one.
    pub(crate) fn load(dir: &Path) -> Progress {
        let text = std::fs::read(dir.join(STATUS)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Replaces it in a container's directory.
    ///
    /// # Errors
    /// Those of writing and renaming.
    pub(crate) fn store(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("status.new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(new, dir.join(STATUS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_extension() {
        let record = SandboxRecord {
            id: "abc".into(),
            name: "a_b_c_0".into(),
            config: Proto(PodSandboxConfig { hostname: "h".into(), ..Default::default() }),
            network: Some(Attached::default()),
            runtime_handler: String::new(),
            created_at: 7,
        };
        let extensions = extension(&record).unwrap();
        let read: SandboxRecord = of_extensions(&extensions).unwrap();
        assert_eq!((read.id, read.created_at), (record.id, 7));
        assert_eq!(read.config.hostname, "h");
        assert!(of_extensions::<ContainerRecord>(&extensions).is_none());
    }

    #[test]
    fn half_a_status_is_no_status() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Progress::load(dir.path()).exit.is_none());
        let progress = Progress { started_at: 5, exit: Some(Exit::unknown()) };
        progress.store(dir.path()).unwrap();
        assert_eq!(Progress::load(dir.path()).exit, progress.exit);
        std::fs::write(dir.path().join(STATUS), "{\"Start").unwrap();
        assert_eq!(Progress::load(dir.path()).started_at, 0);
    }
}
