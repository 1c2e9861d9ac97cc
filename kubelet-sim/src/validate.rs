//! The API server's validation of the fields that are used here, in its words
//! (`k8s.io/kubernetes/pkg/apis/core/validation`, Kubernetes 1.33).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;

use crate::{
    env,
    manifest::{ManifestError, Pod},
    quantity::Quantity,
};

type Checked = Result<(), ManifestError>;

fn fail(path: impl Into<String>, reason: impl Into<String>) -> Checked {
    Err(ManifestError::Invalid { path: path.into(), reason: reason.into() })
}

const REQUIRED: &str = "Required value";

/// A value of a closed set; absent and empty mean the default.
fn one_of(path: &str, value: Option<&str>, allowed: &[&str]) -> Checked {
    match value {
        None | Some("") => Ok(()),
        Some(value) if allowed.contains(&value) => Ok(()),
        Some(value) => {
            let allowed: Vec<_> = allowed.iter().map(|a| format!("{a:?}")).collect();
            let allowed = allowed.join(", ");
            fail(path, format!("Unsupported value: {value:?}: supported values: {allowed}"))
        }
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| inner(*b) || *b == b'-')
        && bytes.first().is_some_and(|b| inner(*b))
        && bytes.last().is_some_and(|b| inner(*b))
}

fn dns_label(path: String, text: &str) -> Checked {
    match text {
        "" => fail(path, REQUIRED),
        text if is_label(text) => Ok(()),
        text => fail(
            path,
            format!(
                "Invalid value: {text:?}: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character"
            ),
        ),
    }
}

/// A pod's name: a DNS subdomain of at most 253 characters.
pub(crate) fn pod_name(name: &str) -> Checked {
    match name {
        "" => fail("metadata.name", "Required value: name or generateName is required"),
        name if name.len() <= 253 && name.split('.').all(|l| is_label(l) || l.len() > 63) => Ok(()),
        name => fail(
            "metadata.name",
            format!(
                "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
            ),
        ),
    }
}

fn range(path: String, value: i64, from: i64, to: i64) -> Checked {
    if (from..=to).contains(&value) {
        return Ok(());
    }
    fail(path, format!("Invalid value: {value}: must be between {from} and {to}, inclusive"))
}

/// Validates a whole pod.
pub(crate) fn pod(pod: &Pod) -> Checked {
    pod_name(&pod.name)?;
    dns_label("metadata.namespace".into(), &pod.namespace)?;
    let spec = &pod.spec;
    if spec.containers.is_empty() {
        return fail("spec.containers", REQUIRED);
    }
    one_of(
        "spec.restartPolicy",
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
    )?;
    one_of(
        "spec.dnsPolicy",
        spec.dns_policy.as_deref(),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    )?;
    if spec.dns_policy.as_deref() == Some("None")
        && spec.dns_config.as_ref().is_none_or(|d| d.nameservers.iter().flatten().next().is_none())
    {
        return fail(
            "spec.dnsConfig.nameservers",
            "Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    if let Some(seconds @ i64::MIN..0) = spec.termination_grace_period_seconds {
        return fail(
            "spec.terminationGracePeriodSeconds",
            format!("Invalid value: {seconds}: must be greater than or equal to 0"),
        );
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        return fail(
            "spec.shareProcessNamespace",
            "Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if spec.automount_service_account_token == Some(true) {
        return Err(ManifestError::Unsupported("spec.automountServiceAccountToken".into()));
    }
    let volumes = volumes(spec)?;
    let mut names = BTreeSet::new();
    for (list, containers) in [
        ("spec.initContainers", spec.init_containers.as_deref().unwrap_or_default()),
        ("spec.containers", &spec.containers),
    ] {
        for (i, c) in containers.iter().enumerate() {
            let path = format!("{list}[{i}]");
            container(pod, c, &path, &volumes)?;
            if !names.insert(c.name.as_str()) {
                return fail(format!("{path}.name"), format!("Duplicate value: {:?}", c.name));
            }
            if list == "spec.initContainers" {
                for (field, set) in [
                    ("lifecycle", c.lifecycle.is_some()),
                    ("livenessProbe", c.liveness_probe.is_some()),
                    ("readinessProbe", c.readiness_probe.is_some()),
                    ("startupProbe", c.startup_probe.is_some()),
                ] {
                    if set {
                        return fail(
                            format!("{path}.{field}"),
                            "Forbidden: may not be set for init containers without restartPolicy=Always",
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

fn volumes(spec: &api::PodSpec) -> Result<BTreeSet<&str>, ManifestError> {
    let mut names = BTreeSet::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = format!("spec.volumes[{i}]");
        dns_label(format!("{path}.name"), &volume.name)?;
        if !names.insert(volume.name.as_str()) {
            fail(format!("{path}.name"), format!("Duplicate value: {:?}", volume.name))?;
        }
        match (&volume.empty_dir, &volume.host_path) {
            (None, None) => fail(path, "Required value: must specify a volume type")?,
            (Some(_), Some(_)) => fail(
                format!("{path}.hostPath"),
                "Forbidden: may not specify more than 1 volume type",
            )?,
            (Some(dir), None) => {
                one_of(&format!("{path}.emptyDir.medium"), dir.medium.as_deref(), &["Memory"])?;
                if let Some(limit) = &dir.size_limit {
                    quantity(&format!("{path}.emptyDir.sizeLimit"), &limit.0)?;
                }
            }
            (None, Some(host)) => {
                if host.path.is_empty() {
                    fail(format!("{path}.hostPath.path"), REQUIRED)?;
                }
                if host.path.split('/').any(|part| part == "..") {
                    fail(
                        format!("{path}.hostPath.path"),
                        format!("Invalid value: {:?}: must not contain '..'", host.path),
                    )?;
                }
                one_of(
                    &format!("{path}.hostPath.type"),
                    host.type_.as_deref(),
                    &[
                        "DirectoryOrCreate",
                        "Directory",
                        "FileOrCreate",
                        "File",
                        "Socket",
                        "CharDevice",
                        "BlockDevice",
                    ],
                )?;
            }
        }
    }
    Ok(names)
}

fn quantity(path: &str, text: &str) -> Checked {
    match Quantity::parse(text) {
        Some(q) if q.is_negative() => {
            fail(path, format!("Invalid value: {text:?}: must be greater than or equal to 0"))
        }
        Some(_) => Ok(()),
        None => fail(
            path,
            format!(
                "Invalid value: {text:?}: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            ),
        ),
    }
}

fn container(pod: &Pod, c: &api::Container, path: &str, volumes: &BTreeSet<&str>) -> Checked {
    dns_label(format!("{path}.name"), &c.name)?;
    match c.image.as_deref() {
        None | Some("") => fail(format!("{path}.image"), REQUIRED)?,
        Some(image) if image.trim() != image => fail(
            format!("{path}.image"),
            format!("Invalid value: {image:?}: must not have leading or trailing whitespace"),
        )?,
        Some(_) => {}
    }
    one_of(
        &format!("{path}.imagePullPolicy"),
        c.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
    )?;
    one_of(
        &format!("{path}.terminationMessagePolicy"),
        c.termination_message_policy.as_deref(),
        &["File", "FallbackToLogsOnError"],
    )?;
    for (i, port) in c.ports.iter().flatten().enumerate() {
        let path = format!("{path}.ports[{i}]");
        range(format!("{path}.containerPort"), port.container_port.into(), 1, 65535)?;
        one_of(&format!("{path}.protocol"), port.protocol.as_deref(), &["TCP", "UDP", "SCTP"])?;
        if let Some(host) = port.host_port {
            range(format!("{path}.hostPort"), host.into(), 0, 65535)?;
            if pod.host_network() && host != 0 && host != port.container_port {
                fail(
                    format!("{path}.hostPort"),
                    format!(
                        "Invalid value: {host}: must match `containerPort` when `hostNetwork` is true"
                    ),
                )?;
            }
        }
    }
    for (i, var) in c.env.iter().flatten().enumerate() {
        let path = format!("{path}.env[{i}]");
        if var.name.is_empty() {
            fail(format!("{path}.name"), REQUIRED)?;
        }
        if var.name.contains('=') {
            fail(
                format!("{path}.name"),
                format!("Invalid value: {:?}: must not contain '='", var.name),
            )?;
        }
        if let Some(field) = var.value_from.as_ref().and_then(|v| v.field_ref.as_ref()) {
            if var.value.as_deref().is_some_and(|v| !v.is_empty()) {
                fail(
                    format!("{path}.valueFrom"),
                    "Invalid value: \"\": may not be specified when `value` is not empty",
                )?;
            }
            if !env::is_field(&field.field_path) {
                fail(
                    format!("{path}.valueFrom.fieldRef.fieldPath"),
                    format!(
                        "Invalid value: {:?}: error converting fieldPath: field label not supported",
                        field.field_path
                    ),
                )?;
            }
        }
    }
    for (i, mount) in c.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        if !volumes.contains(mount.name.as_str()) {
            fail(format!("{path}.name"), format!("Not found: {:?}", mount.name))?;
        }
        if mount.mount_path.is_empty() {
            fail(format!("{path}.mountPath"), REQUIRED)?;
        }
        one_of(
            &format!("{path}.mountPropagation"),
            mount.mount_propagation.as_deref(),
            &["None", "HostToContainer", "Bidirectional"],
        )?;
    }
    if let Some(resources) = &c.resources {
        for (list, values) in [("limits", &resources.limits), ("requests", &resources.requests)] {
            for (name, value) in values.iter().flatten() {
                quantity(&format!("{path}.resources.{list}[{name}]"), &value.0)?;
            }
        }
        for (name, request) in resources.requests.iter().flatten() {
            let limit = resources.limits.as_ref().and_then(|l| l.get(name));
            if let Some(limit) = limit
                && let (Some(r), Some(l)) = (Quantity::parse(&request.0), Quantity::parse(&limit.0))
                && r > l
            {
                fail(
                    format!("{path}.resources.requests"),
                    format!(
                        "Invalid value: {:?}: must be less than or equal to {name} limit of {}",
                        request.0, limit.0
                    ),
                )?;
            }
        }
    }
    for (name, probe) in [
        ("livenessProbe", &c.liveness_probe),
        ("readinessProbe", &c.readiness_probe),
        ("startupProbe", &c.startup_probe),
    ] {
        let Some(probe) = probe else { continue };
        let kinds = [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some()];
        match kinds.iter().filter(|set| **set).count() {
            0 => fail(format!("{path}.{name}"), "Required value: must specify a handler type")?,
            1 => {}
            _ => fail(
                format!("{path}.{name}"),
                "Forbidden: may not specify more than 1 handler type",
            )?,
        }
    }
    Ok(())
}
