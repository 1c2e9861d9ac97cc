//! A pod's network: a namespace with a name, and plugins that put an interface into it.

use std::{
    io,
    path::{Path, PathBuf},
};

use hops::{
    Cx, HopError, Result,
    cni::Attached,
    proto::runtime::v1::{PodSandboxConfig, Protocol},
};
use serde_json::{Map, Value, json};
use wire::cni::{Network, NetworkList, Pod, blocking, error::CniError, netns};

use super::Core;
use crate::record::SandboxRecord;

/// The pod's interface.
const INTERFACE: &str = "eth0";
/// What containerd says of a network that nobody configured.
pub(crate) const NOT_INITIALIZED: &str = "cni plugin not initialized";

impl Core {
    /// The network that pods are put into: the first in the directory, read again each time.
    ///
    /// # Errors
    /// [`NOT_INITIALIZED`] when there is none that can be read.
    pub(crate) fn network(&self) -> Result<Network> {
        match NetworkList::from_dir(&self.config.cni_conf_dir) {
            Ok(list) => Ok(Network::new(list, self.cni.clone())),
            Err(error) => {
                tracing::debug!(%error, "no network");
                Err(HopError::new(hops::Kind::Unavailable, NOT_INITIALIZED))
            }
        }
    }

    /// Makes a pod's network namespace and attaches it.
    ///
    /// # Errors
    /// Those of the kernel and of the plugins, in containerd's words. Nothing stays then: a chain
    /// that fails has undone itself.
    pub(crate) async fn attach(&self, cx: &Cx, record: &SandboxRecord) -> Result<Attached> {
        let id = &record.id;
        let network = self.network();
        let failed =
            |e: HopError| e.context(format_args!("failed to setup network for sandbox {id:?}"));
        let network = network.map_err(failed)?;
        on_path(self.config.netns(id), netns::create).await.map_err(|e| {
            e.context(format_args!("failed to create network namespace for sandbox {id:?}"))
        })?;
        let loopback = Network::loopback(self.cni.clone());
        let mut attached = loopback.add(cx, &self.pod(record, "lo")).await;
        if attached.is_ok() {
            attached = network.add(cx, &self.pod(record, INTERFACE)).await;
        }
        if attached.is_err()
            && let Err(error) = on_path(self.config.netns(id), netns::remove).await
        {
            tracing::warn!(%error, id, "the namespace of a pod without a network stays");
        }
        attached.map_err(failed)
    }

    /// Detaches a pod and ends its network namespace. What is gone is detached.
    ///
    /// # Errors
    /// Those of the plugins and of the kernel.
    pub(crate) async fn detach(&self, cx: &Cx, record: &SandboxRecord) -> Result<()> {
        let path = self.config.netns(&record.id);
        if !path.exists() {
            return Ok(());
        }
        let failed = |e: HopError| {
            e.context(format_args!("failed to destroy network for sandbox {:?}", record.id))
        };
        match self.network() {
            Ok(network) => {
                let pod = self.pod(record, INTERFACE);
                network.del(cx, &pod, record.network.as_ref()).await.map_err(failed)?;
            }
            // Nobody can say any more what to undo beyond what ends with the namespace.
            Err(error) => tracing::warn!(%error, id = record.id, "a pod's network is not undone"),
        }
        on_path(path, netns::remove).await.map_err(failed)
    }

    fn pod(&self, record: &SandboxRecord, ifname: &str) -> Pod {
        let metadata = record.config.metadata.clone().unwrap_or_default();
        let args = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", &metadata.namespace),
            ("K8S_POD_NAME", &metadata.name),
            ("K8S_POD_INFRA_CONTAINER_ID", &record.id),
            ("K8S_POD_UID", &metadata.uid),
        ];
        Pod {
            container_id: record.id.clone(),
            netns: Some(self.config.netns(&record.id)),
            ifname: ifname.to_owned(),
            args: args.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            capabilities: capabilities(&record.config),
        }
    }
}

/// Does to the namespace at `path` what may take a while.
async fn on_path(path: PathBuf, work: fn(&Path) -> io::Result<()>) -> Result<()> {
    let work = move || work(&path).map_err(|e| CniError::internal(e.to_string()));
    Ok(blocking(work).await?)
}

/// What the pod's configuration offers to plugins that can use it.
fn capabilities(config: &PodSandboxConfig) -> Map<String, Value> {
    let mut all = Map::new();
    // A mapping without a host's port is only information (containerd's `toCNIPortMappings`).
    let mapped = config.port_mappings.iter().filter(|m| m.host_port > 0);
    let mappings: Vec<Value> = mapped
        .map(|m| {
            let protocol = match m.protocol() {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            json!({
                "hostPort": m.host_port,
                "containerPort": m.container_port,
                "protocol": protocol,
                "hostIP": m.host_ip,
            })
        })
        .collect();
    if !mappings.is_empty() {
        all.insert("portMappings".to_owned(), mappings.into());
    }
    if let Some(dns) = &config.dns_config {
        let dns = json!({
            "servers": dns.servers,
            "searches": dns.searches,
            "options": dns.options,
        });
        all.insert("dns".to_owned(), dns);
    }
    all
}

#[cfg(test)]
mod tests {
    use hops::proto::runtime::v1::PortMapping;

    use super::*;

    #[test]
    fn only_ports_of_the_host_are_mapped() {
        let mapping =
            |host_port| PortMapping { host_port, container_port: 80, ..Default::default() };
        let config = PodSandboxConfig {
            port_mappings: vec![mapping(0), mapping(8080)],
            ..Default::default()
        };
        let all = capabilities(&config);
        assert_eq!(
            all["portMappings"],
            json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "" }])
        );
        assert!(!all.contains_key("dns"));
    }
}
