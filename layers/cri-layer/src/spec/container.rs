//! The configuration of a pod's container.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use hops::{
    HopError, Result,
    proto::runtime::v1::{
        ContainerConfig, Device, LinuxContainerConfig, Mount as Wanted, NamespaceMode,
        PodSandboxConfig, SupplementalGroupsPolicy, security_profile::ProfileType,
    },
};
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType,
    Process, Root, Spec, User,
};

use super::{
    DEFAULT_PATH, VERSION, all_devices, capabilities, cgroup_path, environment, mounts, namespace,
    of_process, oom_score, resources, sandbox::HostNamespaces, seccomp,
};
use crate::image::{Image, accounts::Accounts};

/// What a container's configuration is made from.
pub(crate) struct Plan<'a> {
    pub(crate) id: &'a str,
    pub(crate) config: &'a ContainerConfig,
    pub(crate) sandbox_id: &'a str,
    pub(crate) sandbox: &'a PodSandboxConfig,
    /// The pause process, whose namespaces are the pod's.
    pub(crate) sandbox_pid: u32,
    /// The process whose pid namespace is joined, where one is named.
    pub(crate) target_pid: Option<u32>,
    pub(crate) image: &'a Image,
    pub(crate) accounts: &'a Accounts,
    /// What the sandbox and the image bring to be mounted.
    pub(crate) extra: Vec<Wanted>,
    /// The node's name, for a pod without one of its own.
    pub(crate) node: &'a str,
}

/// The configuration.
///
/// # Errors
/// `InvalidArgument` for what the container's configuration cannot mean, with the field's name.
#[expect(deprecated, reason = "a kubelet of v1alpha2's time sends nothing else")]
pub(crate) fn spec(plan: Plan<'_>) -> Result<Spec> {
    let config = plan.config;
    let empty = LinuxContainerConfig::default();
    let linux_config = config.linux.as_ref().unwrap_or(&empty);
    let context = linux_config.security_context.clone().unwrap_or_default();
    let limits = linux_config.resources.clone().unwrap_or_default();
    super::check_namespaces(context.namespace_options.as_ref())?;
    if context.apparmor.as_ref().is_some_and(|p| p.profile_type() == ProfileType::Localhost)
        || context.apparmor_profile.starts_with("localhost/")
    {
        return Err(HopError::invalid(
            "failed to generate apparmor spec opts: apparmor is not supported",
        ));
    }
    if context.privileged && !sandbox_is_privileged(plan.sandbox) {
        return Err(HopError::invalid("no privileged container allowed in sandbox".to_owned()));
    }

    let sets = capabilities::of(context.capabilities.as_ref(), context.privileged)?;
    let bounding = sets.bounding().clone().unwrap_or_default();
    let mut process = Process::default();
    process
        .set_args(Some(args(config, plan.image)?))
        .set_env(Some(env(&plan)))
        .set_cwd(cwd(config, plan.image).into())
        .set_user(user(&plan)?)
        .set_terminal(config.tty.then_some(true))
        .set_rlimits(None)
        .set_no_new_privileges(Some(context.no_new_privs))
        .set_oom_score_adj(Some(oom_score(limits.oom_score_adj)))
        .set_capabilities(Some(sets));

    let (devices, rules) = match context.privileged {
        true => (host_devices(), vec![all_devices(true)]),
        false => {
            let devices = devices(&config.devices)?;
            let own = devices.iter().zip(&config.devices).map(|(d, wanted)| {
                let mut rule = LinuxDeviceCgroup::default();
                rule.set_allow(true)
                    .set_typ(Some(d.typ()))
                    .set_major(Some(d.major()))
                    .set_minor(Some(d.minor()))
                    .set_access(Some(wanted.permissions.clone()));
                rule
            });
            let rules = std::iter::once(all_devices(false)).chain(own).collect();
            (devices, rules)
        }
    };
    let mut limits = resources(&limits);
    limits.set_devices(Some(rules));

    let namespaces = namespaces(&plan);
    let filter = seccomp::filter(
        context.seccomp.as_ref(),
        &context.seccomp_profile_path,
        context.privileged,
        &bounding,
    )?;
    let annotations = annotations(&plan);
    let parent = plan.sandbox.linux.as_ref().map_or("", |l| l.cgroup_parent.as_str());
    let (all, propagation) = mounts::of(mounts::Plan {
        wanted: &config.mounts,
        extra: plan.extra,
        privileged: context.privileged,
    })?;
    let paths = |paths: &Vec<String>| (!context.privileged).then(|| paths.clone());
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces))
        .set_resources(Some(limits))
        .set_cgroups_path(Some(cgroup_path(parent, plan.id)))
        .set_devices((!devices.is_empty()).then_some(devices))
        .set_masked_paths(paths(&context.masked_paths))
        .set_readonly_paths(paths(&context.readonly_paths))
        .set_rootfs_propagation(propagation)
        .set_seccomp(filter);
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(context.readonly_rootfs));
    let mut spec = Spec::default();
    spec.set_version(VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(all))
        .set_process(Some(process))
        .set_linux(Some(linux))
        .set_hooks(None)
        .set_hostname(None)
        .set_annotations(Some(annotations));
    Ok(spec)
}

fn sandbox_is_privileged(sandbox: &PodSandboxConfig) -> bool {
    let linux = sandbox.linux.as_ref();
    linux.and_then(|l| l.security_context.as_ref()).is_some_and(|context| context.privileged)
}

/// The command line: the container's command, or the image's entrypoint with the container's
/// arguments, or all of the image's own (containerd's `WithProcessArgs`).
fn args(config: &ContainerConfig, image: &Image) -> Result<Vec<String>> {
    let (mut command, mut args) = (config.command.clone(), config.args.clone());
    if command.is_empty() {
        if args.is_empty() {
            args = image.config.cmd().clone().unwrap_or_default();
        }
        command = image.config.entrypoint().clone().unwrap_or_default();
    }
    command.append(&mut args);
    if command.is_empty() {
        return Err(HopError::invalid("no command specified"));
    }
    Ok(command)
}

fn env(plan: &Plan<'_>) -> Vec<String> {
    let hostname = match plan.sandbox.hostname.as_str() {
        "" => plan.node,
        hostname => hostname,
    };
    let image = plan.image.config.env().iter().flatten().cloned();
    let own = plan.config.envs.iter().map(|kv| format!("{}={}", kv.key, kv.value));
    let terminal = plan.config.tty.then(|| "TERM=xterm".to_owned());
    environment(
        [DEFAULT_PATH.to_owned()]
            .into_iter()
            .chain(terminal)
            .chain([format!("HOSTNAME={hostname}")])
            .chain(image)
            .chain(own),
    )
}

fn cwd(config: &ContainerConfig, image: &Image) -> String {
    let own = Some(config.working_dir.clone()).filter(|dir| !dir.is_empty());
    let of_image = || image.config.working_dir().clone().filter(|dir| !dir.is_empty());
    own.or_else(of_image).unwrap_or_else(|| "/".to_owned())
}

/// The user as `user[:group]`, of the container or else of the image (containerd's
/// `generateUserString`).
fn user_text(plan: &Plan<'_>) -> Result<String> {
    let linux = plan.config.linux.as_ref();
    let Some(context) = linux.and_then(|l| l.security_context.as_ref()) else {
        return Ok(plan.image.config.user().clone().unwrap_or_default());
    };
    let user = match (&context.run_as_user, context.run_as_username.as_str()) {
        (_, name) if !name.is_empty() => name.to_owned(),
        (Some(uid), _) => uid.value.to_string(),
        (None, _) => String::new(),
    };
    match (&context.run_as_group, user.is_empty()) {
        (Some(gid), true) => Err(HopError::invalid(format!(
            "user group {:?} is specified without user",
            gid.value.to_string()
        ))),
        (Some(gid), false) => Ok(format!("{user}:{}", gid.value)),
        (None, true) => Ok(plan.image.config.user().clone().unwrap_or_default()),
        (None, false) => Ok(user),
    }
}

fn user(plan: &Plan<'_>) -> Result<User> {
    let text = user_text(plan)?;
    let text = if text.is_empty() { "0" } else { &text };
    let (uid, gid) = plan.accounts.resolve(text)?;
    let context = plan.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let mut groups = vec![gid];
    let merged = |c: &hops::proto::runtime::v1::LinuxContainerSecurityContext| {
        c.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge
    };
    if context.is_none_or(merged) {
        groups.extend(plan.accounts.memberships(text));
    }
    for wanted in context.iter().flat_map(|c| &c.supplemental_groups) {
        groups.push(u32::try_from(*wanted).map_err(|_| {
            HopError::invalid(format!("supplemental_groups: {wanted} is no group id"))
        })?);
    }
    groups.sort_unstable();
    groups.dedup();
    let mut user = User::default();
    user.set_uid(uid).set_gid(gid).set_additional_gids(Some(groups));
    Ok(user)
}

fn namespaces(plan: &Plan<'_>) -> Vec<LinuxNamespace> {
    let host = HostNamespaces::of(plan.sandbox);
    let pid = plan.sandbox_pid;
    let linux = plan.config.linux.as_ref();
    let options = linux
        .and_then(|l| l.security_context.as_ref())
        .and_then(|c| c.namespace_options.clone())
        .unwrap_or_default();
    let mut all = vec![namespace(LinuxNamespaceType::Mount, None)];
    if !host.network {
        all.push(namespace(LinuxNamespaceType::Network, of_process(pid, "net")));
        all.push(namespace(LinuxNamespaceType::Uts, of_process(pid, "uts")));
    }
    if !host.ipc {
        all.push(namespace(LinuxNamespaceType::Ipc, of_process(pid, "ipc")));
    }
    match options.pid() {
        NamespaceMode::Container => all.push(namespace(LinuxNamespaceType::Pid, None)),
        NamespaceMode::Node => {}
        NamespaceMode::Pod if host.pid => {}
        NamespaceMode::Pod => all.push(namespace(LinuxNamespaceType::Pid, of_process(pid, "pid"))),
        NamespaceMode::Target => {
            let target = plan.target_pid.unwrap_or(pid);
            all.push(namespace(LinuxNamespaceType::Pid, of_process(target, "pid")));
        }
    }
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() && !is_privileged(plan.config) {
        all.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    all
}

fn is_privileged(config: &ContainerConfig) -> bool {
    let linux = config.linux.as_ref();
    linux.and_then(|l| l.security_context.as_ref()).is_some_and(|context| context.privileged)
}

fn annotations(plan: &Plan<'_>) -> std::collections::HashMap<String, String> {
    let pod = plan.sandbox.metadata.clone().unwrap_or_default();
    let image = plan.config.image.clone().unwrap_or_default();
    let image = match image.user_specified_image.as_str() {
        "" => image.image,
        name => name.to_owned(),
    };
    let pairs = [
        ("container-type", "container".to_owned()),
        ("container-name", plan.config.metadata.clone().unwrap_or_default().name),
        ("image-name", image),
        ("sandbox-id", plan.sandbox_id.to_owned()),
        ("sandbox-name", pod.name),
        ("sandbox-namespace", pod.namespace),
        ("sandbox-uid", pod.uid),
    ];
    pairs.into_iter().map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value)).collect()
}

fn devices(wanted: &[Device]) -> Result<Vec<LinuxDevice>> {
    let device = |wanted: &Device| {
        let path = fs::canonicalize(&wanted.host_path).map_err(|e| {
            HopError::from(e).context(format_args!("device host_path {:?}", wanted.host_path))
        })?;
        device(&path, Path::new(&wanted.container_path)).ok_or_else(|| {
            HopError::invalid(format!("device host_path {:?} is not a device", wanted.host_path))
        })
    };
    wanted.iter().map(device).collect()
}

/// The device at `path` as it is to be in a container at `to`; `None` for what is no device.
fn device(path: &Path, to: &Path) -> Option<LinuxDevice> {
    let meta = fs::symlink_metadata(path).ok()?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => LinuxDeviceType::C,
        t if t.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    let rdev = meta.rdev();
    let number = |n: u64| i64::try_from(n).unwrap_or(-1);
    let mut device = LinuxDevice::default();
    device
        .set_path(to.to_owned())
        .set_typ(kind)
        .set_major(number(nix::sys::stat::major(rdev)))
        .set_minor(number(nix::sys::stat::minor(rdev)))
        .set_file_mode(Some(meta.mode() & 0o7777))
        .set_uid(Some(meta.uid()))
        .set_gid(Some(meta.gid()));
    Some(device)
}

/// Every device of the host, for a privileged container; those that a container has of its own
/// are left out.
fn host_devices() -> Vec<LinuxDevice> {
    const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", "console"];
    let mut found = Vec::new();
    let mut directories = vec![Path::new("/dev").to_owned()];
    while let Some(directory) = directories.pop() {
        // What vanishes or cannot be read meanwhile is not there to be given.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            if OWN.iter().any(|own| name == *own) {
                continue;
            }
            if kind.is_dir() {
                directories.push(path);
            } else {
                found.extend(device(&path, &path));
            }
        }
    }
    found
}
