//! Container → `ContainerConfig` (`generateContainerConfig`, Kubernetes 1.20 to 1.33).

use std::collections::{BTreeMap, HashMap};

use hops::{
    Result,
    proto::runtime::v1::{
        ContainerConfig, ContainerMetadata, Image, ImageSpec, KeyValue, LinuxContainerConfig, Mount,
    },
};
use k8s_openapi::api::core::v1 as api;

use crate::{
    env::{self, Placement},
    manifest::Pod,
    resources,
    sandbox::{label, pod_labels},
    security,
};

/// The annotations in which the kubelet keeps what it must find again after its own restart.
pub(crate) mod annotation {
    /// Of the container's specification, to see that it changed.
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    /// How often it was started again.
    pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// The file, in the container, that holds its last words.
    pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Where the last words come from.
    pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// What to call before the container is stopped.
    pub(crate) const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    /// The container's ports.
    pub(crate) const PORTS: &str = "io.kubernetes.container.ports";
    /// Seconds between the stop signal and the kill.
    pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// The default of `terminationMessagePath`.
pub(crate) const MESSAGE_PATH: &str = "/dev/termination-log";

/// Everything about one start of a container that the manifest does not say.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) placement: &'a Placement,
    pub(crate) image: &'a Image,
    pub(crate) attempt: u32,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) node_memory: i64,
}

/// The path of a container's log, relative to the pod's log directory.
pub(crate) fn log_path(name: &str, attempt: u32) -> String {
    format!("{name}/{attempt}.log")
}

/// FNV-1a of the container's specification: the kubelet restarts a container whose hash changed.
pub(crate) fn hash(c: &api::Container) -> String {
    // The API's types have string keys only, which is all that serialization can fail on.
    let bytes = serde_json::to_vec(c).unwrap_or_default();
    let hash = bytes
        .iter()
        .fold(0x811c_9dc5_u32, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    format!("{hash:x}")
}

/// The container's configuration for one start.
///
/// # Errors
/// A security context that the image does not satisfy.
pub(crate) fn config(pod: &Pod, c: &api::Container, start: Start<'_>) -> Result<ContainerConfig> {
    let envs = env::of(pod, c, start.placement);
    let vars: BTreeMap<_, _> = envs.iter().cloned().collect();
    let expanded = |words: &Option<Vec<String>>| {
        words.iter().flatten().map(|word| env::expand(word, &vars)).collect()
    };
    let mut labels = pod_labels(pod);
    labels.insert(label::CONTAINER_NAME.into(), c.name.clone());
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: c.name.clone(), attempt: start.attempt }),
        image: Some(ImageSpec {
            image: start.image.id.clone(),
            user_specified_image: c.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: expanded(&c.command),
        args: expanded(&c.args),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        envs: envs.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
        mounts: start.mounts,
        labels,
        annotations: annotations(pod, c, start.attempt),
        log_path: log_path(&c.name, start.attempt),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        tty: c.tty.unwrap_or(false),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::linux(pod, c, start.node_memory)),
            security_context: Some(security::container(pod, c, start.image)?),
        }),
        ..ContainerConfig::default()
    })
}

fn annotations(pod: &Pod, c: &api::Container, attempt: u32) -> HashMap<String, String> {
    let or = |value: &Option<String>, default: &str| {
        value.clone().filter(|v| !v.is_empty()).unwrap_or_else(|| default.to_owned())
    };
    let mut map = HashMap::from([
        (annotation::HASH.to_owned(), hash(c)),
        (annotation::RESTART_COUNT.to_owned(), attempt.to_string()),
        (annotation::MESSAGE_PATH.to_owned(), or(&c.termination_message_path, MESSAGE_PATH)),
        (annotation::MESSAGE_POLICY.to_owned(), or(&c.termination_message_policy, "File")),
        (annotation::GRACE.to_owned(), pod.grace_seconds().to_string()),
    ]);
    if let Some(handler) = c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && let Ok(json) = serde_json::to_string(handler)
    {
        map.insert(annotation::PRE_STOP.to_owned(), json);
    }
    if let Some(ports) = c.ports.as_ref().filter(|p| !p.is_empty())
        && let Ok(json) = serde_json::to_string(ports)
    {
        map.insert(annotation::PORTS.to_owned(), json);
    }
    map
}
