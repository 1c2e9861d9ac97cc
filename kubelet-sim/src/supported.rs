//! Which fields of a Pod this kubelet does, as a table; anything else that the Pod API has is
//! refused by name, so that nothing a manifest asks for is silently dropped.

use serde_yaml_ng::Value;

use crate::manifest::ManifestError;

/// For each object, the fields that are done. Indexes are left out of the paths, init containers
/// are read as containers, and an object that is not listed is free in its keys (labels) or done
/// in full.
const DONE: &[(&str, &[&str])] = &[
    ("", &["apiVersion", "kind", "metadata", "spec", "status"]),
    ("metadata", &["name", "namespace", "uid", "labels", "annotations", "creationTimestamp"]),
    (
        "spec",
        &[
            "containers",
            "initContainers",
            "volumes",
            "restartPolicy",
            "terminationGracePeriodSeconds",
            "dnsPolicy",
            "dnsConfig",
            "hostNetwork",
            "hostPID",
            "hostIPC",
            "shareProcessNamespace",
            "hostname",
            "subdomain",
            "hostAliases",
            "securityContext",
            "runtimeClassName",
            "nodeName",
            "priority",
            // What only a scheduler or a cluster reads: no meaning on a node of its own, and the
            // real kubelet too takes a static pod with them.
            "schedulerName",
            "tolerations",
            "priorityClassName",
            "preemptionPolicy",
            "enableServiceLinks",
            "automountServiceAccountToken",
        ],
    ),
    (
        "spec.securityContext",
        &[
            "runAsUser",
            "runAsGroup",
            "runAsNonRoot",
            "supplementalGroups",
            "fsGroup",
            "seccompProfile",
            "appArmorProfile",
            "sysctls",
        ],
    ),
    ("spec.dnsConfig", &["nameservers", "searches", "options"]),
    ("spec.volumes", &["name", "emptyDir", "hostPath"]),
    ("spec.volumes.emptyDir", &["medium", "sizeLimit"]),
    (
        "spec.containers",
        &[
            "name",
            "image",
            "imagePullPolicy",
            "command",
            "args",
            "workingDir",
            "env",
            "ports",
            "resources",
            "securityContext",
            "volumeMounts",
            "lifecycle",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "terminationMessagePath",
            "terminationMessagePolicy",
            "stdin",
            "stdinOnce",
            "tty",
        ],
    ),
    ("spec.containers.env", &["name", "value", "valueFrom"]),
    ("spec.containers.env.valueFrom", &["fieldRef"]),
    ("spec.containers.resources", &["limits", "requests"]),
    ("spec.containers.resources.limits", &["cpu", "memory", "ephemeral-storage"]),
    ("spec.containers.resources.requests", &["cpu", "memory", "ephemeral-storage"]),
    (
        "spec.containers.securityContext",
        &[
            "runAsUser",
            "runAsGroup",
            "runAsNonRoot",
            "privileged",
            "readOnlyRootFilesystem",
            "allowPrivilegeEscalation",
            "capabilities",
            "seccompProfile",
            "appArmorProfile",
            "procMount",
        ],
    ),
    ("spec.containers.volumeMounts", &["name", "mountPath", "readOnly", "mountPropagation"]),
    ("spec.containers.lifecycle", &["postStart", "preStop"]),
    ("spec.containers.lifecycle.postStart", &["exec", "httpGet", "sleep"]),
    ("spec.containers.lifecycle.preStop", &["exec", "httpGet", "sleep"]),
    ("spec.containers.livenessProbe", PROBE),
    ("spec.containers.readinessProbe", PROBE),
    ("spec.containers.startupProbe", PROBE),
];

const PROBE: &[&str] = &[
    "exec",
    "httpGet",
    "tcpSocket",
    "initialDelaySeconds",
    "periodSeconds",
    "timeoutSeconds",
    "successThreshold",
    "failureThreshold",
];

/// Refuses a document with a field that this kubelet does not do. An absent field and a `null`
/// one are the same, as everywhere in the API.
pub(crate) fn check(document: &Value) -> Result<(), ManifestError> {
    walk(document, "", "")
}

fn walk(value: &Value, path: &str, shape: &str) -> Result<(), ManifestError> {
    match value {
        Value::Sequence(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(i, item)| walk(item, &format!("{path}[{i}]"), shape)),
        Value::Mapping(fields) => {
            let Some((_, done)) = DONE.iter().find(|(object, _)| *object == shape) else {
                return Ok(());
            };
            for (key, value) in fields {
                let Some(key) = key.as_str() else { continue };
                let join = |path: &str, key: &str| match path {
                    "" => key.to_owned(),
                    path => format!("{path}.{key}"),
                };
                let here = join(path, key);
                if value.is_null() || here == "status" {
                    continue;
                }
                if !done.contains(&key) {
                    return Err(ManifestError::Unsupported(here));
                }
                let key = if here == "spec.initContainers" { "containers" } else { key };
                walk(value, &here, &join(shape, key))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
