//! How CRI's labels and annotations become Docker's labels, and back
//! (`pkg/kubelet/dockershim/helpers.go`, Kubernetes 1.20).

use std::collections::HashMap;

/// Whether Docker's container is a sandbox or a container of one.
pub(crate) const TYPE: &str = "io.kubernetes.docker.type";
/// [`TYPE`] of a sandbox.
pub(crate) const TYPE_SANDBOX: &str = "podsandbox";
/// [`TYPE`] of a container.
pub(crate) const TYPE_CONTAINER: &str = "container";
/// Where the kubelet expects the container's log.
pub(crate) const LOG_PATH: &str = "io.kubernetes.container.logpath";
/// The sandbox that a container is of.
pub(crate) const SANDBOX_ID: &str = "io.kubernetes.sandbox.id";
/// The kubelet's own label with the container's name; `POD` on a sandbox.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";

const ANNOTATION: &str = "annotation.";

type Map = HashMap<String, String>;

/// Docker's labels for CRI's labels and annotations.
pub(crate) fn make(labels: &Map, annotations: &Map) -> Map {
    let annotations = annotations.iter().map(|(k, v)| (format!("{ANNOTATION}{k}"), v.clone()));
    labels.clone().into_iter().chain(annotations).collect()
}

/// CRI's labels and annotations in Docker's labels.
pub(crate) fn split(docker: &Map) -> (Map, Map) {
    let sandbox = docker.get(TYPE).is_some_and(|t| t == TYPE_SANDBOX);
    let (mut labels, mut annotations) = (Map::new(), Map::new());
    for (key, value) in docker {
        if [TYPE, LOG_PATH, SANDBOX_ID].contains(&key.as_str()) || sandbox && key == CONTAINER_NAME
        {
            continue;
        }
        match key.strip_prefix(ANNOTATION) {
            Some(key) => annotations.insert(key.to_owned(), value.clone()),
            None => labels.insert(key.clone(), value.clone()),
        };
    }
    (labels, annotations)
}

/// Docker's `filters` parameter: for each key, any of the values.
pub(crate) fn filters(filters: &[(&str, Vec<String>)]) -> Option<String> {
    let map: HashMap<_, _> =
        filters.iter().filter(|(_, values)| !values.is_empty()).cloned().collect();
    if map.is_empty() {
        return None;
    }
    // Its keys are strings, which is all that serialization can fail on.
    serde_json::to_string(&map).ok()
}

/// Label filters: the type, and CRI's selector.
pub(crate) fn selector(kind: &str, of: &Map) -> Vec<String> {
    let own = std::iter::once(format!("{TYPE}={kind}"));
    own.chain(of.iter().map(|(k, v)| format!("{k}={v}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_annotations_come_back_apart() {
        let labels = Map::from([("app".to_owned(), "web".to_owned())]);
        let annotations = Map::from([("a/b".to_owned(), "c".to_owned())]);
        let mut docker = make(&labels, &annotations);
        docker.insert(TYPE.into(), TYPE_SANDBOX.into());
        docker.insert(CONTAINER_NAME.into(), "POD".into());
        docker.insert(LOG_PATH.into(), "/x".into());
        assert_eq!(docker["annotation.a/b"], "c");
        assert_eq!(split(&docker), (labels, annotations));
    }
}
