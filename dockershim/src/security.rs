//! CRI's security contexts as Docker's settings
//! (`pkg/kubelet/dockershim/security_context.go`, Kubernetes 1.20).

use hops::{
    HopError, Kind, Result,
    docker::models::HostConfig,
    proto::runtime::v1::{
        Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
        NamespaceOption, SeLinuxOption, SecurityProfile, security_profile::ProfileType,
    },
};

/// The user as Docker writes it: `user`, `uid`, or either with `:gid`.
///
/// # Errors
/// A group without a user.
pub(crate) fn user(
    uid: Option<&Int64Value>,
    name: &str,
    group: Option<&Int64Value>,
) -> Result<Option<String>> {
    let user = uid.map(|u| u.value.to_string());
    let user = user.or_else(|| Some(name.to_owned()).filter(|n| !n.is_empty()));
    match (user, group) {
        (Some(user), Some(group)) => Ok(Some(format!("{user}:{}", group.value))),
        (None, Some(_)) => {
            Err(HopError::new(Kind::InvalidArgument, "runAsGroup is specified without a runAsUser"))
        }
        (user, None) => Ok(user),
    }
}

fn groups(groups: &[i64]) -> Option<Vec<String>> {
    (!groups.is_empty()).then(|| groups.iter().map(i64::to_string).collect())
}

/// A profile's older form, which is all that Kubernetes 1.20 had: `runtime/default`,
/// `localhost/<path>`, `unconfined` or nothing.
fn profile(path: &str, newer: Option<&SecurityProfile>) -> String {
    match newer {
        Some(newer) if path.is_empty() => match newer.profile_type() {
            ProfileType::RuntimeDefault => "runtime/default".to_owned(),
            ProfileType::Unconfined => "unconfined".to_owned(),
            ProfileType::Localhost => format!("localhost/{}", newer.localhost_ref),
        },
        _ => path.to_owned(),
    }
}

/// Docker's option for a seccomp profile; none leaves Docker's default profile in force.
///
/// # Errors
/// A profile of an unknown form, or a file that cannot be read.
fn seccomp(path: &str, newer: Option<&SecurityProfile>) -> Result<Option<String>> {
    let profile = profile(path, newer);
    match profile.as_str() {
        "" | "unconfined" => return Ok(Some("seccomp=unconfined".into())),
        "runtime/default" | "docker/default" => return Ok(None),
        _ => {}
    }
    let Some(file) = profile.strip_prefix("localhost/") else {
        return Err(HopError::invalid(format!("unknown seccomp profile option: {profile}")));
    };
    if !file.starts_with('/') {
        return Err(HopError::invalid(format!(
            "seccomp profile path must be absolute, but got relative path {file:?}"
        )));
    }
    let text = std::fs::read_to_string(file).map_err(|e| {
        HopError::from(e).context(format_args!("cannot load seccomp profile {profile:?}"))
    })?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| HopError::invalid(format!("cannot load seccomp profile {profile:?}: {e}")))?;
    Ok(Some(format!("seccomp={json}")))
}

fn apparmor(name: &str, newer: Option<&SecurityProfile>) -> Option<String> {
    let profile = profile(name, newer);
    match profile.as_str() {
        "" | "runtime/default" => None,
        profile => {
            Some(format!("apparmor={}", profile.strip_prefix("localhost/").unwrap_or(profile)))
        }
    }
}

fn selinux(options: Option<&SeLinuxOption>) -> Vec<String> {
    let Some(options) = options else { return Vec::new() };
    [
        ("user", &options.user),
        ("role", &options.role),
        ("type", &options.r#type),
        ("level", &options.level),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| format!("label={key}:{value}"))
    .collect()
}

/// Applies a sandbox's context.
///
/// # Errors
/// A seccomp profile that cannot be loaded.
#[expect(deprecated, reason = "the older form of the seccomp profile is dockershim's own")]
pub(crate) fn sandbox(sc: &LinuxSandboxSecurityContext, hc: &mut HostConfig) -> Result<()> {
    hc.privileged = Some(sc.privileged);
    hc.readonly_rootfs = Some(sc.readonly_rootfs);
    hc.group_add = groups(&sc.supplemental_groups);
    let mut options = selinux(sc.selinux_options.as_ref());
    options.push("no-new-privileges".into());
    options.extend(seccomp(&sc.seccomp_profile_path, sc.seccomp.as_ref())?);
    hc.security_opt = Some(options);
    let namespaces = sc.namespace_options.clone().unwrap_or_default();
    if namespaces.pid() == NamespaceMode::Node {
        hc.pid_mode = Some("host".into());
    }
    if namespaces.ipc() == NamespaceMode::Node {
        hc.ipc_mode = Some("host".into());
    }
    if namespaces.network() == NamespaceMode::Node {
        hc.network_mode = Some("host".into());
    }
    Ok(())
}

/// Applies a container's context.
///
/// # Errors
/// A seccomp profile that cannot be loaded.
#[expect(deprecated, reason = "the older forms of the profiles are dockershim's own")]
pub(crate) fn container(
    sc: &LinuxContainerSecurityContext,
    sandbox: &str,
    hc: &mut HostConfig,
) -> Result<()> {
    hc.privileged = Some(sc.privileged);
    hc.readonly_rootfs = Some(sc.readonly_rootfs);
    hc.group_add = groups(&sc.supplemental_groups);
    if let Some(capabilities) = &sc.capabilities {
        hc.cap_add = Some(capabilities.add_capabilities.clone());
        hc.cap_drop = Some(capabilities.drop_capabilities.clone());
    }
    if !sc.privileged {
        // An empty list is no list on the wire: Docker's own then holds.
        hc.masked_paths = Some(sc.masked_paths.clone()).filter(|p| !p.is_empty());
        hc.readonly_paths = Some(sc.readonly_paths.clone()).filter(|p| !p.is_empty());
    }
    let mut options = selinux(sc.selinux_options.as_ref());
    options.extend(apparmor(&sc.apparmor_profile, sc.apparmor.as_ref()));
    if sc.no_new_privs {
        options.push("no-new-privileges".into());
    }
    options.extend(seccomp(&sc.seccomp_profile_path, sc.seccomp.as_ref())?);
    hc.security_opt = Some(options);
    namespaces(&sc.namespace_options.clone().unwrap_or_default(), sandbox, hc);
    Ok(())
}

/// The namespaces that a container shares: its sandbox's network and IPC always, and PIDs as asked.
pub(crate) fn namespaces(options: &NamespaceOption, sandbox: &str, hc: &mut HostConfig) {
    let of_sandbox = format!("container:{sandbox}");
    hc.network_mode = Some(of_sandbox.clone());
    hc.ipc_mode = Some(of_sandbox.clone());
    if options.network() == NamespaceMode::Node {
        hc.uts_mode = Some("host".into());
    }
    hc.pid_mode = match options.pid() {
        NamespaceMode::Node => Some("host".into()),
        NamespaceMode::Pod => Some(of_sandbox),
        NamespaceMode::Target => Some(format!("container:{}", options.target_id)),
        NamespaceMode::Container => None,
    };
}

/// The namespaces that Docker's settings say a sandbox has.
pub(crate) fn namespaces_of(hc: &HostConfig) -> NamespaceOption {
    let mode = |setting: &Option<String>, other: NamespaceMode| match setting.as_deref() {
        Some("host") => NamespaceMode::Node.into(),
        _ => other.into(),
    };
    NamespaceOption {
        network: mode(&hc.network_mode, NamespaceMode::Pod),
        pid: mode(&hc.pid_mode, NamespaceMode::Container),
        ipc: mode(&hc.ipc_mode, NamespaceMode::Pod),
        ..NamespaceOption::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seccomp_profiles_are_dockers_options() {
        let newer = |kind: ProfileType| SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: "rel".into(),
        };
        for (path, newer, expected) in [
            ("", None, Ok(Some("seccomp=unconfined"))),
            ("unconfined", None, Ok(Some("seccomp=unconfined"))),
            ("runtime/default", None, Ok(None)),
            ("docker/default", Some(newer(ProfileType::Unconfined)), Ok(None)),
            ("", Some(newer(ProfileType::RuntimeDefault)), Ok(None)),
            (
                "",
                Some(newer(ProfileType::Localhost)),
                Err("seccomp profile path must be absolute, but got relative path \"rel\""),
            ),
            ("odd", None, Err("unknown seccomp profile option: odd")),
        ] {
            let found = seccomp(path, newer.as_ref()).map_err(|e| e.message);
            let expected = expected.map(|o| o.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn a_group_needs_a_user() {
        let n = |value| Some(Int64Value { value });
        let of =
            |u: Option<Int64Value>, name, g: Option<Int64Value>| user(u.as_ref(), name, g.as_ref());
        assert_eq!(of(n(1), "", n(2)).unwrap().as_deref(), Some("1:2"));
        assert_eq!(of(None, "www", None).unwrap().as_deref(), Some("www"));
        assert_eq!(of(None, "", None).unwrap(), None);
        assert!(of(None, "", n(2)).is_err());
    }
}
