//! The names under which Docker knows a pod's containers, and what they say about it
//! (`pkg/kubelet/dockershim/naming.go`, Kubernetes 1.20).

use hops::{
    HopError, Kind, Result,
    proto::runtime::v1::{ContainerMetadata, PodSandboxMetadata},
};

const PREFIX: &str = "k8s";
/// The container's name in a sandbox's name and label.
pub(crate) const SANDBOX: &str = "POD";

/// `k8s_POD_<name>_<namespace>_<uid>_<attempt>`.
pub(crate) fn sandbox(m: &PodSandboxMetadata) -> String {
    [PREFIX, SANDBOX, &m.name, &m.namespace, &m.uid, &m.attempt.to_string()].join("_")
}

/// `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`.
pub(crate) fn container(m: &ContainerMetadata, pod: &PodSandboxMetadata) -> String {
    [PREFIX, &m.name, &pod.name, &pod.namespace, &pod.uid, &m.attempt.to_string()].join("_")
}

/// The parts of a name: container, pod, namespace, uid, attempt. A random suffix that was added
/// after a conflict is left out.
fn parts<'a>(name: &'a str, what: &str) -> Result<([&'a str; 4], u32)> {
    let bad = |words: String| HopError::new(Kind::Internal, words);
    // Docker puts a slash before every name.
    let parts: Vec<&str> = name.strip_prefix('/').unwrap_or(name).split('_').collect();
    let (&[prefix, container, pod, namespace, uid, attempt]
    | &[prefix, container, pod, namespace, uid, attempt, _]) = parts.as_slice()
    else {
        return Err(bad(format!("failed to parse the {what} name: {name:?}")));
    };
    if prefix != PREFIX {
        return Err(bad(format!("container is not managed by kubernetes: {name:?}")));
    }
    let attempt = attempt.parse().map_err(|_| {
        bad(format!("failed to parse the {what} name {name:?}: attempt {attempt:?}"))
    })?;
    Ok(([container, pod, namespace, uid], attempt))
}

/// What a sandbox's name says.
///
/// # Errors
/// A name that dockershim did not give.
pub(crate) fn parse_sandbox(name: &str) -> Result<PodSandboxMetadata> {
    let ([_, pod, namespace, uid], attempt) = parts(name, "sandbox")?;
    Ok(PodSandboxMetadata {
        name: pod.to_owned(),
        namespace: namespace.to_owned(),
        uid: uid.to_owned(),
        attempt,
    })
}

/// What a container's name says.
///
/// # Errors
/// A name that dockershim did not give.
pub(crate) fn parse_container(name: &str) -> Result<ContainerMetadata> {
    let ([container, ..], attempt) = parts(name, "container")?;
    Ok(ContainerMetadata { name: container.to_owned(), attempt })
}

/// The same name with a random suffix, for one whose owner cannot be removed.
pub(crate) fn randomized(name: &str) -> String {
    let random = hops::trace::now_ns() as u32 ^ std::process::id().rotate_left(16);
    format!("{name}_{random:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_were_made_of() {
        let pod = PodSandboxMetadata {
            name: "web".into(),
            namespace: "default".into(),
            uid: "u-1".into(),
            attempt: 2,
        };
        let name = sandbox(&pod);
        assert_eq!(name, "k8s_POD_web_default_u-1_2");
        assert_eq!(parse_sandbox(&format!("/{name}")).unwrap(), pod);
        assert_eq!(parse_sandbox(&randomized(&name)).unwrap(), pod);
        let app = ContainerMetadata { name: "app".into(), attempt: 1 };
        let name = container(&app, &pod);
        assert_eq!(name, "k8s_app_web_default_u-1_1");
        assert_eq!(parse_container(&name).unwrap(), app);
        for bad in ["/quirky_turing", "k8s_POD_web", "k9s_POD_web_default_u-1_2", "k8s_a_b_c_d_x"] {
            assert!(parse_container(bad).is_err(), "{bad}");
        }
    }
}
