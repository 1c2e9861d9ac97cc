//! The pod network: dockershim's `cni` network plugin, which runs the administrator's CNI plugins
//! on the sandbox's namespace (`pkg/kubelet/dockershim/network/cni`, Kubernetes 1.20).

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hops::{Cni, Cx, HopError, Kind, Result};
use serde_json::{Map, json};
use wire::cni::{Network, NetworkList, Pod};

use crate::checkpoint::Data;

/// How often the configuration is read again.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// The pod's interface.
const INTERFACE: &str = "eth0";

/// What the plugins are told of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sandbox<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) id: &'a str,
    /// The process whose network namespace it is; 0 when it has ended.
    pub(crate) pid: i64,
    pub(crate) data: &'a Data,
}

/// The plugin.
pub(crate) struct Plugin {
    conf_dir: PathBuf,
    cni: Arc<dyn Cni>,
    /// The default network as it was last read, and when.
    default: Mutex<Option<(Instant, Option<Network>)>>,
}

impl Plugin {
    pub(crate) fn new(conf_dir: PathBuf, cni: Arc<dyn Cni>) -> Plugin {
        Plugin { conf_dir, cni, default: Mutex::default() }
    }

    fn network(&self) -> Result<Network> {
        let mut default = self.default.lock().unwrap_or_else(|e| e.into_inner());
        let fresh = default
            .as_ref()
            .is_some_and(|(at, network)| network.is_some() && at.elapsed() < READ_AGAIN);
        if !fresh {
            match NetworkList::from_dir(&self.conf_dir) {
                Ok(list) => {
                    let network = Network::new(list, self.cni.clone());
                    *default = Some((Instant::now(), Some(network)));
                }
                // What was read before stays in force, as it does in the real one.
                Err(error) => tracing::warn!(%error, "unable to update cni config"),
            }
        }
        default
            .as_ref()
            .and_then(|(_, network)| network.clone())
            .ok_or_else(|| HopError::new(Kind::FailedPrecondition, "cni config uninitialized"))
    }

    /// Whether there is a network for pods.
    ///
    /// # Errors
    /// `cni config uninitialized`.
    pub(crate) fn status(&self) -> Result<()> {
        self.network().map(drop)
    }

    /// Attaches a sandbox: loopback, then the default network as `eth0`.
    ///
    /// # Errors
    /// The first plugin's, in the words of Kubernetes' plugin manager.
    pub(crate) async fn set_up(&self, cx: &Cx, sandbox: Sandbox<'_>) -> Result<()> {
        let attach = async {
            let network = self.network()?;
            if sandbox.pid == 0 {
                return Err(HopError::new(
                    Kind::FailedPrecondition,
                    format!(
                        "cannot find network namespace for the terminated container {:?}",
                        sandbox.id
                    ),
                ));
            }
            let loopback = Network::loopback(self.cni.clone());
            loopback.add(cx, &self.pod(sandbox, "lo")).await?;
            network.add(cx, &self.pod(sandbox, INTERFACE)).await
        };
        attach.await.map(drop).map_err(|e| {
            let (name, namespace) = (sandbox.name, sandbox.namespace);
            e.context(format_args!(
                "networkPlugin cni failed to set up pod \"{name}_{namespace}\" network"
            ))
        })
    }

    /// Detaches a sandbox, also one whose process has ended.
    ///
    /// # Errors
    /// The first plugin's, in the words of Kubernetes' plugin manager.
    pub(crate) async fn tear_down(&self, cx: &Cx, sandbox: Sandbox<'_>) -> Result<()> {
        let detach = async { self.network()?.del(cx, &self.pod(sandbox, INTERFACE), None).await };
        detach.await.map_err(|e| {
            let (name, namespace) = (sandbox.name, sandbox.namespace);
            e.context(format_args!(
                "networkPlugin cni failed to teardown pod \"{name}_{namespace}\" network"
            ))
        })
    }

    fn pod(&self, sandbox: Sandbox<'_>, interface: &str) -> Pod {
        let args = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", sandbox.namespace),
            ("K8S_POD_NAME", sandbox.name),
            ("K8S_POD_INFRA_CONTAINER_ID", sandbox.id),
        ];
        let ports: Vec<_> = sandbox
            .data
            .port_mappings
            .iter()
            .filter(|port| port.host_port > 0)
            .map(|port| {
                json!({
                    "hostPort": port.host_port,
                    "containerPort": port.container_port,
                    "protocol": port.protocol,
                    "hostIP": port.host_ip,
                })
            })
            .collect();
        let mut capabilities = Map::new();
        if !ports.is_empty() {
            capabilities.insert("portMappings".into(), ports.into());
        }
        Pod {
            container_id: sandbox.id.to_owned(),
            netns: (sandbox.pid > 0).then(|| format!("/proc/{}/ns/net", sandbox.pid).into()),
            ifname: interface.to_owned(),
            args: args.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            capabilities,
        }
    }
}

/// The addresses in the network namespace of the process `pid`, loopback's left out: what the
/// kubelet of that time asked `nsenter … ip addr` for, read from the kernel's tables instead.
pub(crate) fn addresses(pid: i64) -> Vec<String> {
    let read = |table: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{table}"));
    let mut found = v4(&read("fib_trie").unwrap_or_default());
    found.extend(v6(&read("if_inet6").unwrap_or_default()));
    found
}

fn v4(fib_trie: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut last = "";
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address;
        } else if line.contains("/32 host LOCAL")
            && !last.starts_with("127.")
            && !found.iter().any(|f| f == last)
        {
            found.push(last.to_owned());
        }
    }
    found
}

fn v6(if_inet6: &str) -> Vec<String> {
    let global = if_inet6.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (address, _index, _prefix, scope) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        let bits = u128::from_str_radix(address, 16).ok().filter(|_| scope == "00")?;
        Some(std::net::Ipv6Addr::from(bits).to_string())
    });
    global.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespaces_addresses_are_in_its_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.88.0.7\n        /32 host LOCAL\n     |-- 10.88.255.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\nLocal:\n     |-- 10.88.0.7\n        /32 host LOCAL\n";
        assert_eq!(v4(trie), ["10.88.0.7"]);
        let inet6 = "00000000000000000000000000000001 01 80 10 80 lo\nfd000000000000000000000000000007 02 40 00 80 eth0\nfe800000000000000000000000000001 02 40 20 80 eth0\n";
        assert_eq!(v6(inet6), ["fd00::7"]);
    }
}
