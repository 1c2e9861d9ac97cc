//! The configuration of a sandbox's pause container.

use std::path::{Path, PathBuf};

use hops::{
    HopError, Result,
    proto::runtime::v1::{LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig},
};
use oci_spec::runtime::{
    Linux, LinuxCpu, LinuxNamespaceType, LinuxResources, Process, Root, Spec, User,
};

use super::{
    DEFAULT_PATH, MASKED, READONLY, VERSION, all_devices, capabilities, cgroup_path, environment,
    mounts, namespace, oom_score, seccomp,
};
use crate::image::Image;

/// The kernel's smallest share, for a process that only waits (containerd's default).
const CPU_SHARES: u64 = 2;
/// Killed last among a node's pods (the kubelet's `PodInfraOOMAdj`).
const OOM_SCORE_ADJ: i64 = -998;

/// Which of the host's namespaces a pod uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostNamespaces {
    pub(crate) network: bool,
    pub(crate) pid: bool,
    pub(crate) ipc: bool,
}

impl HostNamespaces {
    /// Those that a pod's configuration asks for.
    pub(crate) fn of(config: &PodSandboxConfig) -> HostNamespaces {
        let context = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        let Some(options) = context.and_then(|c| c.namespace_options.as_ref()) else {
            return HostNamespaces::default();
        };
        HostNamespaces {
            network: options.network() == NamespaceMode::Node,
            pid: options.pid() == NamespaceMode::Node,
            ipc: options.ipc() == NamespaceMode::Node,
        }
    }
}

/// What a pause container's configuration is made from.
pub(crate) struct Plan<'a> {
    pub(crate) id: &'a str,
    pub(crate) config: &'a PodSandboxConfig,
    pub(crate) image: &'a Image,
    /// The user and group of the process.
    pub(crate) user: (u32, u32),
    /// The pod's network namespace; none on the host's network.
    pub(crate) netns: Option<PathBuf>,
    /// Where the sandbox's `resolv.conf` is.
    pub(crate) files: &'a Path,
    /// The pod's `/dev/shm`.
    pub(crate) shm: &'a Path,
}

/// The configuration.
///
/// # Errors
/// `InvalidArgument` for what the pod's security context or the image cannot mean.
#[expect(deprecated, reason = "a kubelet of v1alpha2's time sends nothing else")]
pub(crate) fn spec(plan: &Plan<'_>) -> Result<Spec> {
    let image = &plan.image.config;
    let empty = LinuxPodSandboxConfig::default();
    let linux_config = plan.config.linux.as_ref().unwrap_or(&empty);
    let context = linux_config.security_context.clone().unwrap_or_default();
    let host = HostNamespaces::of(plan.config);

    let args: Vec<String> =
        image.entrypoint().iter().chain(image.cmd()).flatten().cloned().collect();
    if args.is_empty() {
        return Err(HopError::invalid(
            "invalid empty entrypoint and cmd in the sandbox image's config",
        ));
    }
    let sets = capabilities::of(None, false)?;
    let bounding = sets.bounding().clone().unwrap_or_default();
    let path = [DEFAULT_PATH.to_owned()];
    let mut user = User::default();
    let groups = std::iter::once(plan.user.1)
        .chain(context.supplemental_groups.iter().filter_map(|gid| u32::try_from(*gid).ok()));
    user.set_uid(plan.user.0).set_gid(plan.user.1).set_additional_gids(Some(groups.collect()));
    let mut process = Process::default();
    process
        .set_args(Some(args))
        .set_env(Some(environment(path.into_iter().chain(image.env().iter().flatten().cloned()))))
        .set_cwd(image.working_dir().clone().filter(|d| !d.is_empty()).unwrap_or("/".into()).into())
        .set_user(user)
        .set_terminal(None)
        .set_rlimits(None)
        .set_no_new_privileges(Some(true))
        .set_oom_score_adj(Some(oom_score(OOM_SCORE_ADJ)))
        .set_capabilities(Some(sets));

    let mut all = mounts::default();
    let shm = if host.ipc { Path::new("/dev/shm") } else { plan.shm };
    all.retain(|m| m.destination() != Path::new("/dev/shm"));
    all.push(mounts::mount("/dev/shm", "bind", shm, "rbind,ro"));
    let resolv = plan.files.join("resolv.conf");
    all.push(mounts::mount("/etc/resolv.conf", "bind", &resolv, "rbind,ro"));

    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount, None)];
    if !host.network {
        namespaces.push(namespace(LinuxNamespaceType::Network, plan.netns.clone()));
        namespaces.push(namespace(LinuxNamespaceType::Uts, None));
    }
    if !host.pid {
        namespaces.push(namespace(LinuxNamespaceType::Pid, None));
    }
    if !host.ipc {
        namespaces.push(namespace(LinuxNamespaceType::Ipc, None));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(CPU_SHARES));
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu)).set_devices(Some(vec![all_devices(false)]));
    let list = |paths: &[&str]| Some(paths.iter().map(|p| (*p).to_owned()).collect());
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces))
        .set_resources(Some(resources))
        .set_cgroups_path(Some(cgroup_path(&linux_config.cgroup_parent, plan.id)))
        .set_masked_paths(list(if context.privileged { &[] } else { &MASKED }))
        .set_readonly_paths(list(if context.privileged { &[] } else { &READONLY }))
        .set_seccomp(seccomp::filter(
            context.seccomp.as_ref(),
            &context.seccomp_profile_path,
            context.privileged,
            &bounding,
        )?);
    if !linux_config.sysctls.is_empty() {
        linux.set_sysctl(Some(linux_config.sysctls.clone()));
    }
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(true));
    let mut spec = Spec::default();
    spec.set_version(VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(all))
        .set_process(Some(process))
        .set_linux(Some(linux))
        .set_hooks(None)
        .set_annotations(Some(annotations(plan)));
    let hostname = (!host.network).then(|| plan.config.hostname.clone());
    spec.set_hostname(hostname.filter(|name| !name.is_empty()));
    Ok(spec)
}

fn annotations(plan: &Plan<'_>) -> std::collections::HashMap<String, String> {
    let metadata = plan.config.metadata.clone().unwrap_or_default();
    let pairs = [
        ("container-type", "sandbox".to_owned()),
        ("sandbox-id", plan.id.to_owned()),
        ("sandbox-name", metadata.name),
        ("sandbox-namespace", metadata.namespace),
        ("sandbox-uid", metadata.uid),
        ("sandbox-log-directory", plan.config.log_directory.clone()),
    ];
    pairs.into_iter().map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value)).collect()
}
