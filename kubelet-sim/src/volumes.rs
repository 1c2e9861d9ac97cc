//! What a pod has on the node: its directory, its volumes, its hosts file.
//!
//! `<root>/pods/<uid>/volumes/kubernetes.io~empty-dir/<name>`, `…/etc-hosts` and
//! `…/containers/<container>/<id>` are the real kubelet's paths.

use std::{
    ffi::CString,
    fs,
    io::{self, Write},
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use hops::{
    HopError, Kind, Result,
    proto::runtime::v1::{Mount, MountPropagation},
};
use k8s_openapi::api::core::v1 as api;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{Config, container::MESSAGE_PATH, manifest::Pod, quantity::Quantity};

fn at(path: &Path) -> impl FnOnce(io::Error) -> HopError {
    move |error| HopError::from(error).context(path.display())
}

/// The pod's directory on the node.
pub(crate) fn pod_dir(node: &Config, pod: &Pod) -> PathBuf {
    node.root_dir.join("pods").join(&pod.uid)
}

fn volume_dir(node: &Config, pod: &Pod, volume: &str) -> PathBuf {
    pod_dir(node, pod).join("volumes/kubernetes.io~empty-dir").join(volume)
}

/// Makes the pod's volumes; what is there already stays as it is.
///
/// # Errors
/// A `hostPath` that is not of its type, and those of the file system.
pub(crate) fn make(node: &Config, pod: &Pod) -> Result<()> {
    for volume in pod.spec.volumes.iter().flatten() {
        if let Some(source) = &volume.empty_dir {
            empty_dir(&volume_dir(node, pod, &volume.name), source, pod)?;
        }
        if let Some(source) = &volume.host_path {
            host_path(source)?;
        }
    }
    Ok(())
}

fn empty_dir(dir: &Path, source: &api::EmptyDirVolumeSource, pod: &Pod) -> Result<()> {
    let fresh = !dir.exists();
    fs::create_dir_all(dir).map_err(at(dir))?;
    if fresh && source.medium.as_deref() == Some("Memory") {
        let limit = source.size_limit.as_ref().and_then(|s| Quantity::parse(&s.0));
        let options = limit.map(|l| format!("size={}", l.value()));
        let options = options.and_then(|o| CString::new(o).ok());
        mount(Some(c"tmpfs"), dir, Some(c"tmpfs"), MsFlags::empty(), options.as_deref())
            .map_err(|e| at(dir)(e.into()))?;
    }
    let group = pod.spec.security_context.as_ref().and_then(|s| s.fs_group);
    let mode = match group.and_then(|g| u32::try_from(g).ok()) {
        Some(group) => {
            chown(dir, None, Some(group)).map_err(at(dir))?;
            0o2777
        }
        None => 0o777,
    };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(at(dir))
}

/// Checks and makes a `hostPath` by its type (`pkg/volume/hostpath`).
fn host_path(source: &api::HostPathVolumeSource) -> Result<()> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" if !path.exists() => {
            return fs::create_dir_all(path).map_err(at(path));
        }
        "FileOrCreate" if !path.exists() => {
            return fs::File::create(path).map(drop).map_err(at(path));
        }
        "" => return Ok(()),
        _ => {}
    }
    let found = fs::metadata(path).ok().map(|m| m.file_type());
    let (fits, what) = match kind {
        "DirectoryOrCreate" | "Directory" => (found.is_some_and(|t| t.is_dir()), "a directory"),
        "FileOrCreate" | "File" => (found.is_some_and(|t| t.is_file()), "a file"),
        "Socket" => (found.is_some_and(|t| t.is_socket()), "a socket file"),
        "CharDevice" => (found.is_some_and(|t| t.is_char_device()), "a character device"),
        _ => (found.is_some_and(|t| t.is_block_device()), "a block device"),
    };
    if fits {
        return Ok(());
    }
    let words = format!("hostPath type check failed: {} is not {what}", source.path);
    Err(HopError::new(Kind::FailedPrecondition, words))
}

/// The mounts of one start of a container: its volumes, the hosts file, its last words' file.
///
/// # Errors
/// Those of making the files.
pub(crate) fn mounts(
    node: &Config,
    pod: &Pod,
    c: &api::Container,
    ips: &[String],
    attempt: u32,
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for wanted in c.volume_mounts.iter().flatten() {
        let volume = pod.spec.volumes.iter().flatten().find(|v| v.name == wanted.name);
        let host = match volume.and_then(|v| v.host_path.as_ref()) {
            Some(host) => host.path.clone(),
            None => volume_dir(node, pod, &wanted.name).to_string_lossy().into_owned(),
        };
        let absolute = wanted.mount_path.starts_with('/');
        mounts.push(Mount {
            // A relative path is one from the root, as the kubelet makes it.
            container_path: format!("{}{}", if absolute { "" } else { "/" }, wanted.mount_path),
            host_path: host,
            readonly: wanted.read_only.unwrap_or(false),
            propagation: match wanted.mount_propagation.as_deref() {
                Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => MountPropagation::PropagationBidirectional,
                _ => MountPropagation::PropagationPrivate,
            }
            .into(),
            ..Mount::default()
        });
    }
    let own = |path: &str| mounts.iter().any(|m| m.container_path.trim_end_matches('/') == path);
    let (own_hosts, message_path) = (
        own("/etc/hosts"),
        c.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or(MESSAGE_PATH),
    );
    if !own_hosts && (pod.host_network() || !ips.is_empty()) {
        let path = pod_dir(node, pod).join("etc-hosts");
        write(&path, &hosts(node, pod, ips), 0o644)?;
        mounts.push(bind(&path, "/etc/hosts"));
    }
    let path = message_file(node, pod, &c.name, attempt);
    write(&path, "", 0o666)?;
    mounts.push(bind(&path, message_path));
    Ok(mounts)
}

/// The file of a container's last words on the node.
pub(crate) fn message_file(node: &Config, pod: &Pod, name: &str, attempt: u32) -> PathBuf {
    pod_dir(node, pod).join("containers").join(name).join(format!("{attempt:08x}"))
}

fn bind(host: &Path, container: &str) -> Mount {
    Mount {
        container_path: container.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        ..Mount::default()
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(at(parent))?;
    }
    let mut file = fs::File::create(path).map_err(at(path))?;
    file.write_all(text.as_bytes()).map_err(at(path))?;
    // The umask must not take the container's right to write it.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(at(path))
}

/// The pod's hosts file (`pkg/kubelet/kubelet_pods.go`).
pub(crate) fn hosts(node: &Config, pod: &Pod, ips: &[String]) -> String {
    let mut text = if pod.host_network() {
        let own = fs::read_to_string("/etc/hosts").unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{own}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        let host = pod.hostname();
        for ip in ips {
            text += &match pod.spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
                Some(sub) => format!(
                    "{ip}\t{host}.{sub}.{}.svc.{}\t{host}\n",
                    pod.namespace, node.cluster_domain
                ),
                None => format!("{ip}\t{host}\n"),
            };
        }
        text
    };
    let aliases = pod.spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text += "\n# Entries added by HostAliases.\n";
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text += &format!("{}\t{names}\n", alias.ip);
    }
    text
}

/// Removes everything that [`make`] and [`mounts`] made, and the pod's logs.
///
/// # Errors
/// Those of unmounting and removing; what is not there is removed.
pub(crate) fn remove(node: &Config, pod: &Pod) -> Result<()> {
    for volume in pod.spec.volumes.iter().flatten() {
        let memory = volume.empty_dir.as_ref().and_then(|e| e.medium.as_deref()) == Some("Memory");
        let dir = volume_dir(node, pod, &volume.name);
        if memory && dir.exists() {
            match umount2(&dir, MntFlags::empty()) {
                // Not a mount point: the pod failed before it became one.
                Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
                Err(e) => return Err(at(&dir)(e.into())),
            }
        }
    }
    for dir in [pod_dir(node, pod), crate::sandbox::log_directory(&node.pod_logs_dir, pod)] {
        match fs::remove_dir_all(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(at(&dir)(e)),
        }
    }
    Ok(())
}
