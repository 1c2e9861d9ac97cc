//! Pod manifests: YAML (or JSON) to [`Pod`], as strictly as `kubectl --validate=strict` reads them.
//!
//! Three questions are asked of every field, in this order: is it of the right type, does the Pod
//! API of Kubernetes 1.33 have it, does this kubelet do what it says. Only a yes to all three goes
//! on; what the API knows and this kubelet does not is refused by name ([`crate::supported`]).

use std::collections::BTreeMap;

use hops::{HopError, Kind};
use k8s_openapi::api::core::v1 as api;
use serde::Deserialize;
use serde_yaml_ng::{Deserializer, Value};

use crate::{supported, validate};

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is not YAML, or a field has the wrong type; the text begins with the field's path.
    #[error("{0}")]
    Decode(String),
    /// Fields that the Pod API does not have.
    #[error("strict decoding error: {}", .0.iter().map(|f| format!("unknown field \"{f}\"")).collect::<Vec<_>>().join(", "))]
    UnknownFields(Vec<String>),
    /// A document of another kind.
    #[error("no kind \"{kind}\" is registered for version \"{version}\": only Pod of v1 is read")]
    Kind {
        /// Its `kind`.
        kind: String,
        /// Its `apiVersion`.
        version: String,
    },
    /// A field that Kubernetes has and this kubelet does not do.
    #[error("{0}: not supported by strata-kubelet")]
    Unsupported(String),
    /// A value that the API forbids, in the API server's words.
    #[error("{path}: {reason}")]
    Invalid {
        /// The field.
        path: String,
        /// `Required value`, `Invalid value: …`, `Unsupported value: …`, …
        reason: String,
    },
    /// The file holds no document.
    #[error("no Pod in the manifest")]
    Empty,
}

impl From<ManifestError> for HopError {
    fn from(error: ManifestError) -> HopError {
        HopError::new(Kind::InvalidArgument, error.to_string()).because(error)
    }
}

/// A pod to run: what the manifest says, with the API's defaults where they matter here.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, `default` when absent.
    pub namespace: String,
    /// `metadata.uid`; empty until the pod's source gives it one.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// The rest, unchanged.
    pub spec: api::PodSpec,
}

impl Pod {
    /// Reads every pod of `text`, which may hold several documents.
    ///
    /// # Errors
    /// The first document's that is wrong, naming field and reason.
    pub fn read(text: &str) -> Result<Vec<Pod>, ManifestError> {
        let mut pods = Vec::new();
        for document in Deserializer::from_str(text) {
            let mut value = Value::deserialize(document).map_err(syntax)?;
            value.apply_merge().map_err(syntax)?;
            if !value.is_null() {
                pods.push(read_document(&value)?);
            }
        }
        if pods.is_empty() { Err(ManifestError::Empty) } else { Ok(pods) }
    }

    /// Reads the one pod of `text`.
    ///
    /// # Errors
    /// As [`Pod::read`], and when there are several.
    pub fn read_one(text: &str) -> Result<Pod, ManifestError> {
        let mut pods = Pod::read(text)?;
        match (pods.pop(), pods.is_empty()) {
            (Some(pod), true) => Ok(pod),
            _ => Err(ManifestError::Decode("more than one Pod in the manifest".into())),
        }
    }

    /// The same pod under a fresh uid, its name ended by `-suffix` where there is one.
    pub fn fresh(mut self, suffix: &str) -> Result<Pod, HopError> {
        if !suffix.is_empty() {
            self.name = format!("{}-{suffix}", self.name);
            validate::pod_name(&self.name)?;
        }
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
            .map_err(|e| HopError::from(e).context("reading a random uuid"))?;
        self.uid = uuid.trim().to_owned();
        Ok(self)
    }

    /// Every container, the init containers first.
    pub fn all_containers(&self) -> impl Iterator<Item = &api::Container> {
        self.init_containers().chain(&self.spec.containers)
    }

    /// The init containers, in their order.
    pub fn init_containers(&self) -> impl Iterator<Item = &api::Container> {
        self.spec.init_containers.iter().flatten()
    }

    /// Whether the pod uses the node's network namespace.
    pub fn host_network(&self) -> bool {
        self.spec.host_network.unwrap_or(false)
    }

    /// The pod's host name: `spec.hostname` or the name, cut to 63 characters as the kubelet does.
    pub fn hostname(&self) -> String {
        let name = self.spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(&self.name);
        name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
    }

    /// Seconds between the stop signal and the kill, 30 by default.
    pub fn grace_seconds(&self) -> i64 {
        self.spec.termination_grace_period_seconds.unwrap_or(30).max(0)
    }
}

fn read_document(value: &Value) -> Result<Pod, ManifestError> {
    let word = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(missing) = ["apiVersion", "kind"].into_iter().find(|k| value.get(k).is_none()) {
        return Err(ManifestError::Invalid {
            path: missing.to_owned(),
            reason: "Required value".into(),
        });
    }
    let (version, kind) = (word("apiVersion"), word("kind"));
    if (version.as_str(), kind.as_str()) != ("v1", "Pod") {
        return Err(ManifestError::Kind { kind, version });
    }
    let (mut unknown, mut track) = (Vec::new(), serde_path_to_error::Track::new());
    // Read from the value, not the text: there `5` and `"5"` differ, as they do in the API.
    let typed = serde_path_to_error::Deserializer::new(value, &mut track);
    let pod = serde_ignored::deserialize(typed, |path| unknown.push(path_text(&path)));
    let pod: api::Pod = pod.map_err(|e| ManifestError::Decode(format!("{}: {e}", track.path())))?;
    if !unknown.is_empty() {
        return Err(ManifestError::UnknownFields(unknown));
    }
    supported::check(value)?;
    let metadata = pod.metadata;
    let pod = Pod {
        name: metadata.name.unwrap_or_default(),
        namespace: metadata
            .namespace
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        uid: metadata.uid.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
        spec: pod.spec.unwrap_or_default(),
    };
    validate::pod(&pod)?;
    Ok(pod)
}

fn syntax(error: serde_yaml_ng::Error) -> ManifestError {
    ManifestError::Decode(error.to_string())
}

fn path_text(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", path_text(parent)),
        Path::Map { parent, key } => {
            let parent = path_text(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => path_text(parent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";

    fn error(rest: &str) -> String {
        Pod::read(&format!("{HEAD}{rest}")).unwrap_err().to_string()
    }

    #[test]
    fn wrong_manifests_name_the_field_and_the_reason() {
        for (rest, expected) in [
            (
                "spec: {containers: [{name: a, image: b, ports: [{containerPort: \"x\"}]}]}",
                "spec.containers[0].ports[0].containerPort: invalid type: string \"x\", expected i32",
            ),
            (
                "spec: {foo: 1, containers: [{name: a, image: b, bar: {}}]}",
                "strict decoding error: unknown field \"spec.foo\", unknown field \"spec.containers[0].bar\"",
            ),
            (
                "spec: {containers: [{name: a, image: b, env: [{name: A, value: 5}]}]}",
                "spec.containers[0].env[0].value: invalid type: integer `5`, expected a string",
            ),
            (
                "spec: {nodeSelector: {a: b}, containers: [{name: a, image: b}]}",
                "spec.nodeSelector: not supported by strata-kubelet",
            ),
            (
                "spec: {volumes: [{name: v, secret: {secretName: s}}], containers: [{name: a, image: b}]}",
                "spec.volumes[0].secret: not supported by strata-kubelet",
            ),
            (
                "spec: {containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}]}]}",
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            ("spec: {containers: []}", "spec.containers: Required value"),
            ("spec: {containers: [{name: a}]}", "spec.containers[0].image: Required value"),
            (
                "spec: {restartPolicy: Sometimes, containers: [{name: a, image: b}]}",
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
        ] {
            let text = error(rest);
            assert!(text.starts_with(expected), "{rest}\n  gives {text}");
        }
        let text = Pod::read("apiVersion: apps/v1\nkind: Deployment\n").unwrap_err().to_string();
        assert!(text.starts_with("no kind \"Deployment\""), "{text}");
        let text = Pod::read("a: [").unwrap_err().to_string();
        assert!(text.contains("line"), "{text}");
        assert_eq!(Pod::read("---\n"), Err(ManifestError::Empty));
    }

    #[test]
    fn several_documents_are_several_pods() {
        let one = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME}\nspec: {containers: [{name: a, image: b}]}\n";
        let text = format!("{}---\n{}", one.replace("NAME", "x"), one.replace("NAME", "y"));
        let pods = Pod::read(&text).unwrap();
        assert_eq!(pods.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(pods[0].namespace, "default");
        assert!(Pod::read_one(&text).is_err());
    }

    #[test]
    fn a_fresh_pod_has_its_own_name_and_uid() {
        let pod = Pod::read_one(&format!("{HEAD}spec: {{containers: [{{name: a, image: b}}]}}"));
        let pod = pod.unwrap();
        let (a, b) = (pod.clone().fresh("1").unwrap(), pod.clone().fresh("2").unwrap());
        assert_eq!((a.name.as_str(), a.uid.len()), ("p-1", 36));
        assert_ne!(a.uid, b.uid);
        assert!(pod.fresh("A").is_err());
    }
}
