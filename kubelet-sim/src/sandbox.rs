//! Pod → `PodSandboxConfig` (`generatePodSandboxConfig`, Kubernetes 1.20 to 1.33).

use std::{collections::HashMap, path::Path};

use hops::{
    HopError, Result,
    proto::runtime::v1::{
        DnsConfig, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping,
        Protocol,
    },
};

use crate::{Config, manifest::Pod, security};

/// The labels by which the kubelet finds what it made.
pub(crate) mod label {
    /// The pod's name.
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's uid.
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    /// The container's name.
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
}

/// The three labels of everything that belongs to `pod`.
pub(crate) fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    [
        (label::POD_NAME, &pod.name),
        (label::POD_NAMESPACE, &pod.namespace),
        (label::POD_UID, &pod.uid),
    ]
    .map(|(key, value)| (key.to_owned(), value.clone()))
    .into()
}

/// The directory of a pod's logs under `root`: `<namespace>_<name>_<uid>`.
pub(crate) fn log_directory(root: &Path, pod: &Pod) -> std::path::PathBuf {
    root.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// The sandbox's configuration for its `attempt`-th making (0 is the first).
///
/// # Errors
/// The node's resolv.conf cannot be read.
pub(crate) fn config(node: &Config, pod: &Pod, attempt: u32) -> Result<PodSandboxConfig> {
    let mut labels: HashMap<_, _> = pod.labels.clone().into_iter().collect();
    labels.extend(pod_labels(pod));
    let sysctls = pod.spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten());
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            uid: pod.uid.clone(),
            attempt,
        }),
        hostname: if pod.host_network() { String::new() } else { pod.hostname() },
        log_directory: log_directory(&node.pod_logs_dir, pod).to_string_lossy().into_owned(),
        dns_config: Some(dns(node, pod)?),
        port_mappings: if pod.host_network() { Vec::new() } else { port_mappings(pod) },
        labels,
        annotations: pod.annotations.clone().into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: node.cgroup_parent.clone(),
            security_context: Some(security::sandbox(pod)),
            sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
            ..LinuxPodSandboxConfig::default()
        }),
        windows: None,
    })
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    pod.spec
        .containers
        .iter()
        .flat_map(|c| c.ports.iter().flatten())
        .map(|port| PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// The pod's name service by its `dnsPolicy`; `ClusterFirst` on a node without a cluster's server
/// falls back to the node's own, as the kubelet does with a warning.
fn dns(node: &Config, pod: &Pod) -> Result<DnsConfig> {
    let policy = pod.spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !pod.host_network(),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    } && !node.cluster_dns.is_empty();
    let mut dns = match policy {
        "None" => DnsConfig::default(),
        _ => node_dns(&node.resolv_conf)?,
    };
    if cluster {
        let domain = &node.cluster_domain;
        let mut searches: Vec<String> = Vec::new();
        if !domain.is_empty() {
            searches.push(format!("{}.svc.{domain}", pod.namespace));
            searches.push(format!("svc.{domain}"));
            searches.push(domain.clone());
        }
        searches.append(&mut dns.searches);
        dns = DnsConfig {
            servers: node.cluster_dns.clone(),
            searches,
            options: vec!["ndots:5".into()],
        };
    }
    if let Some(own) = &pod.spec.dns_config {
        extend_unique(&mut dns.servers, own.nameservers.iter().flatten().cloned());
        extend_unique(&mut dns.searches, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            dns.options.retain(|o| o.split(':').next() != Some(name));
            dns.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    Ok(dns)
}

fn extend_unique(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// The node's resolv.conf; an empty path is a node without one.
fn node_dns(path: &Path) -> Result<DnsConfig> {
    let mut dns = DnsConfig::default();
    if path.as_os_str().is_empty() {
        return Ok(dns);
    }
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(dns),
        Err(e) => return Err(HopError::from(e).context(path.display())),
    };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let words = words.map(|w| w.trim_end_matches('.').to_owned());
        match keyword {
            "nameserver" => dns.servers.extend(words.take(1)),
            "search" => dns.searches = words.collect(),
            "options" => dns.options = words.collect(),
            _ => {}
        }
    }
    Ok(dns)
}
