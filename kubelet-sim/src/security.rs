//! Security contexts (`pkg/kubelet/kuberuntime/security_context.go`, Kubernetes 1.20 to 1.33).

use hops::{
    HopError, Kind, Result,
    proto::runtime::v1::{
        Capability, Image, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
        NamespaceMode, NamespaceOption, SecurityProfile, security_profile::ProfileType,
    },
};
use k8s_openapi::api::core::v1 as api;

use crate::manifest::Pod;

/// What the default `procMount` hides, as Kubernetes 1.20 has it.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// What the default `procMount` makes read-only.
const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which namespaces the pod's containers share with each other and with the node.
pub(crate) fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = &pod.spec;
    let node_or = |node: Option<bool>, other| {
        if node == Some(true) { NamespaceMode::Node } else { other }
    };
    let pid = match spec.share_process_namespace {
        Some(true) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    NamespaceOption {
        network: node_or(spec.host_network, NamespaceMode::Pod).into(),
        pid: node_or(spec.host_pid, pid).into(),
        ipc: node_or(spec.host_ipc, NamespaceMode::Pod).into(),
        ..NamespaceOption::default()
    }
}

fn int(value: i64) -> Int64Value {
    Int64Value { value }
}

/// The profile in CRI's newer form, and in the older one that dockershim and containerd before
/// 1.5 read: an empty string is unconfined.
fn seccomp(profile: Option<&api::SeccompProfile>) -> (SecurityProfile, String) {
    let unconfined =
        SecurityProfile { profile_type: ProfileType::Unconfined.into(), ..Default::default() };
    let Some(profile) = profile else { return (unconfined, String::new()) };
    match profile.type_.as_str() {
        "RuntimeDefault" => (SecurityProfile::default(), "runtime/default".into()),
        "Localhost" => {
            let path = profile.localhost_profile.clone().unwrap_or_default();
            let profile = SecurityProfile {
                profile_type: ProfileType::Localhost.into(),
                localhost_ref: path.clone(),
            };
            (profile, format!("localhost/{path}"))
        }
        _ => (unconfined, "unconfined".into()),
    }
}

fn apparmor(profile: &api::AppArmorProfile) -> (SecurityProfile, String) {
    match profile.type_.as_str() {
        "Localhost" => {
            let name = profile.localhost_profile.clone().unwrap_or_default();
            let profile = SecurityProfile {
                profile_type: ProfileType::Localhost.into(),
                localhost_ref: name.clone(),
            };
            (profile, format!("localhost/{name}"))
        }
        "RuntimeDefault" => (SecurityProfile::default(), "runtime/default".into()),
        _ => (
            SecurityProfile { profile_type: ProfileType::Unconfined.into(), ..Default::default() },
            "unconfined".into(),
        ),
    }
}

/// The sandbox's context: the pod's, always under the runtime's default seccomp profile.
#[expect(deprecated, reason = "the older form of the seccomp profile is what dockershim reads")]
pub(crate) fn sandbox(pod: &Pod) -> LinuxSandboxSecurityContext {
    let privileged = |c: &api::Container| {
        c.security_context.as_ref().is_some_and(|s| s.privileged == Some(true))
    };
    let mut context = LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        privileged: pod.all_containers().any(privileged),
        seccomp: Some(SecurityProfile::default()),
        seccomp_profile_path: "runtime/default".into(),
        ..Default::default()
    };
    if let Some(pod) = &pod.spec.security_context {
        context.run_as_user = pod.run_as_user.map(int);
        // The CRI forbids a group without a user.
        context.run_as_group = pod.run_as_group.filter(|_| pod.run_as_user.is_some()).map(int);
        context.supplemental_groups = pod
            .fs_group
            .into_iter()
            .chain(pod.supplemental_groups.iter().flatten().copied())
            .collect();
    }
    context
}

/// The container's context: its own settings, where it has none the pod's, and for the user the
/// image's.
///
/// # Errors
/// `runAsNonRoot` with a user that is root, or that cannot be told to be none.
#[expect(deprecated, reason = "the older forms of the profiles are what dockershim reads")]
pub(crate) fn container(
    pod: &Pod,
    c: &api::Container,
    image: &Image,
) -> Result<LinuxContainerSecurityContext> {
    let none = (api::PodSecurityContext::default(), api::SecurityContext::default());
    let of_pod = pod.spec.security_context.as_ref().unwrap_or(&none.0);
    let own = c.security_context.as_ref().unwrap_or(&none.1);
    let user = own.run_as_user.or(of_pod.run_as_user);
    let non_root = own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true);
    let uid = user.or(image.uid.as_ref().map(|uid| uid.value));
    if non_root {
        verify_non_root(pod, c, user, image)?;
    }
    let (seccomp, seccomp_path) =
        seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()));
    let apparmor_of = own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref());
    let (apparmor, apparmor_name) = apparmor_of.map(apparmor).unzip();
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| match unmasked {
        true => Vec::new(),
        false => paths.iter().map(|p| (*p).to_owned()).collect(),
    };
    Ok(LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|capabilities| Capability {
            add_capabilities: capabilities.add.clone().unwrap_or_default(),
            drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
            ..Capability::default()
        }),
        privileged: own.privileged == Some(true),
        namespace_options: Some(namespaces(pod)),
        run_as_user: uid.map(int),
        run_as_username: if uid.is_none() { image.username.clone() } else { String::new() },
        run_as_group: own.run_as_group.or(of_pod.run_as_group).map(int),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: of_pod
            .fs_group
            .into_iter()
            .chain(of_pod.supplemental_groups.iter().flatten().copied())
            .collect(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READONLY),
        seccomp: Some(seccomp),
        seccomp_profile_path: seccomp_path,
        apparmor,
        apparmor_profile: apparmor_name.unwrap_or_default(),
        ..LinuxContainerSecurityContext::default()
    })
}

fn verify_non_root(pod: &Pod, c: &api::Container, user: Option<i64>, image: &Image) -> Result<()> {
    let of_image = image.uid.as_ref().map(|uid| uid.value);
    let reason = match (user, of_image) {
        (Some(0), _) => "container's runAsUser breaks non-root policy".to_owned(),
        (Some(_), _) => return Ok(()),
        (None, Some(0)) => "container has runAsNonRoot and image will run as root".to_owned(),
        (None, Some(_)) => return Ok(()),
        (None, None) if image.username.is_empty() => {
            "container has runAsNonRoot and image will run as root".to_owned()
        }
        (None, None) => format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
            image.username
        ),
    };
    Err(HopError::new(
        Kind::FailedPrecondition,
        format!(
            "{reason} (pod: \"{}_{}({})\", container: {})",
            pod.name, pod.namespace, pod.uid, c.name
        ),
    ))
}
