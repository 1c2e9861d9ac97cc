//! A container's environment: `$(VAR)` references and the downward API's fields.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

use crate::manifest::Pod;

/// What is known of a pod only once its sandbox runs on a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placement {
    /// `spec.nodeName`.
    pub(crate) node_name: String,
    /// `status.hostIP`.
    pub(crate) host_ip: String,
    /// `status.podIPs`.
    pub(crate) pod_ips: Vec<String>,
}

/// The plain fields that `fieldRef` reads for an environment variable.
const FIELDS: [&str; 8] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.podIP",
    "status.podIPs",
];

/// `metadata.labels['key']` as `("metadata.labels", "key")`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (field, key) = path.split_once("['")?;
    let key = key.strip_suffix("']")?;
    matches!(field, "metadata.labels" | "metadata.annotations").then_some((field, key))
}

/// Whether `fieldRef` can read `path`.
pub(crate) fn is_field(path: &str) -> bool {
    FIELDS.contains(&path) || subscript(path).is_some()
}

fn field(pod: &Pod, at: &Placement, path: &str) -> String {
    match (path, subscript(path)) {
        (_, Some(("metadata.labels", key))) => pod.labels.get(key).cloned().unwrap_or_default(),
        (_, Some((_, key))) => pod.annotations.get(key).cloned().unwrap_or_default(),
        ("metadata.name", _) => pod.name.clone(),
        ("metadata.namespace", _) => pod.namespace.clone(),
        ("metadata.uid", _) => pod.uid.clone(),
        ("spec.nodeName", _) => at.node_name.clone(),
        ("status.hostIP", _) => at.host_ip.clone(),
        ("status.podIP", _) => at.pod_ips.first().cloned().unwrap_or_default(),
        ("status.podIPs", _) => at.pod_ips.join(","),
        // A static pod has no service account.
        _ => String::new(),
    }
}

/// The environment of `container`, in its order; a reference sees the variables before it.
pub(crate) fn of(pod: &Pod, container: &api::Container, at: &Placement) -> Vec<(String, String)> {
    let mut seen = BTreeMap::new();
    let mut result = Vec::new();
    for var in container.env.iter().flatten() {
        let from = var.value_from.as_ref().and_then(|v| v.field_ref.as_ref());
        let value = match (var.value.as_deref().unwrap_or_default(), from) {
            ("", Some(from)) => field(pod, at, &from.field_path),
            (value, _) => expand(value, &seen),
        };
        seen.insert(var.name.clone(), value.clone());
        result.push((var.name.clone(), value));
    }
    result
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar, and a reference to nothing stays
/// as it is written (`k8s.io/kubernetes/third_party/forked/golang/expansion`).
pub(crate) fn expand(text: &str, vars: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(next) = after.strip_prefix('$') {
            result.push('$');
            rest = next;
        } else if let Some((name, next)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match vars.get(name) {
                Some(value) => result.push_str(value),
                None => result.push_str(&rest[at..at + name.len() + 3]),
            }
            rest = next;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_the_kubelet_expands_them() {
        let vars = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &vars), expected, "{text}");
        }
    }
}
