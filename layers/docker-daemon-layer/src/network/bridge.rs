//! The network `bridge`, through CNI plugins: `bridge` with `host-local` for the address,
//! `loopback`, and `portmap` for published ports.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    sync::Arc,
};

use hops::{
    Cni, Cx, HopError, Result,
    cni::{Add, Attached, Attachment, Del},
    docker::models::PortBinding,
};
use serde_json::{Value, json};

use crate::{
    config::Bridge,
    names,
    record::{Endpoint, Record},
};
use wire::cni::netns;

const VERSION: &str = "1.0.0";
const INTERFACE: &str = "eth0";

fn bridge_config(bridge: &Bridge) -> Value {
    json!({
        "cniVersion": VERSION, "name": bridge.name, "type": "bridge", "bridge": bridge.name,
        "isGateway": true, "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {"type": "host-local", "ranges": [[{
            "subnet": bridge.subnet(), "gateway": bridge.gateway}]]},
    })
}

fn loopback_config() -> Value {
    json!({"cniVersion": VERSION, "name": "lo", "type": "loopback"})
}

fn portmap_config(bridge: &Bridge, ports: &HashMap<String, Vec<(String, u16)>>) -> Value {
    let mut mappings = Vec::new();
    for (port, hosts) in ports {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let number: u16 = number.parse().unwrap_or(0);
        mappings.extend(hosts.iter().map(|(ip, host)| {
            let mut mapping =
                json!({"hostPort": host, "containerPort": number, "protocol": protocol});
            if !ip.is_empty() && ip != "0.0.0.0" {
                mapping["hostIP"] = json!(ip);
            }
            mapping
        }));
    }
    json!({
        "cniVersion": VERSION, "name": bridge.name, "type": "portmap",
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": mappings},
    })
}

fn attachment(id: &str, netns: &Path, ifname: &str, config: Value) -> Attachment {
    Attachment {
        container_id: id.to_owned(),
        netns: netns.exists().then(|| netns.to_owned()),
        ifname: ifname.to_owned(),
        args: Vec::new(),
        config,
    }
}

/// Makes a namespace under `dir` for the container and attaches it. On failure nothing is left.
///
/// # Errors
/// dockerd's words for a port that is taken; the plugins' own for the rest.
pub(crate) async fn attach(
    cni: &Arc<dyn Cni>,
    cx: &Cx,
    bridge: &Bridge,
    dir: &Path,
    record: &Record,
    id: &str,
) -> Result<Endpoint> {
    let ports = published(record)?;
    let sandbox = names::id()?;
    let path = dir.join(names::short(&sandbox));
    netns::create(&path)
        .map_err(|e| HopError::from(e).context("failed to create network namespace"))?;
    let mut endpoint =
        Endpoint { id: names::id()?, sandbox, netns: path.clone(), ports, ..Endpoint::default() };
    match add(cni, cx, bridge, id, &endpoint).await {
        Ok(attached) => {
            describe(&mut endpoint, &attached);
            Ok(endpoint)
        }
        Err(error) => {
            let _ = detach(cni, cx, bridge, record, &endpoint).await;
            Err(error
                .context(format!("failed to create endpoint {} on network bridge", record.name)))
        }
    }
}

async fn add(
    cni: &Arc<dyn Cni>,
    cx: &Cx,
    bridge: &Bridge,
    id: &str,
    endpoint: &Endpoint,
) -> Result<Attached> {
    let netns = &endpoint.netns;
    cni.handle(cx, Add(attachment(id, netns, "lo", loopback_config()))).await?;
    let attached =
        cni.handle(cx, Add(attachment(id, netns, INTERFACE, bridge_config(bridge)))).await?;
    if !endpoint.ports.is_empty() {
        let mut config = portmap_config(bridge, &endpoint.ports);
        config["prevResult"] = serde_json::to_value(&attached).unwrap_or_default();
        cni.handle(cx, Add(attachment(id, netns, INTERFACE, config))).await?;
    }
    Ok(attached)
}

fn describe(endpoint: &mut Endpoint, attached: &Attached) {
    if let Some(ip) = attached.ips.first() {
        let (address, prefix) = ip.address.split_once('/').unwrap_or((&ip.address, "0"));
        endpoint.address = address.to_owned();
        endpoint.prefix = prefix.parse().unwrap_or(0);
        endpoint.gateway = ip.gateway.map(|g| g.to_string()).unwrap_or_default();
    }
    let inside = attached.interfaces.iter().find(|i| !i.sandbox.is_empty());
    endpoint.mac = inside.map(|i| i.mac.clone()).unwrap_or_default();
}

/// Detaches the container and removes its namespace, in any state in which a start or a kill left
/// them.
///
/// # Errors
/// The first of the plugins'; the rest is done all the same.
pub(crate) async fn detach(
    cni: &Arc<dyn Cni>,
    cx: &Cx,
    bridge: &Bridge,
    record: &Record,
    endpoint: &Endpoint,
) -> Result<()> {
    let mut result = Ok(());
    let mut keep = |outcome: Result<()>| {
        if result.is_ok() {
            result = outcome;
        }
    };
    if !endpoint.ports.is_empty() {
        let config = portmap_config(bridge, &endpoint.ports);
        let del = Del(attachment(&record.id, &endpoint.netns, INTERFACE, config));
        keep(cni.handle(cx, del).await);
    }
    let del = Del(attachment(&record.id, &endpoint.netns, INTERFACE, bridge_config(bridge)));
    keep(cni.handle(cx, del).await);
    keep(netns::remove(&endpoint.netns).map_err(HopError::from));
    result
}

/// The host's ports for the container's: those that were named, and free ones for the rest.
fn published(record: &Record) -> Result<HashMap<String, Vec<(String, u16)>>> {
    let mut ports = HashMap::new();
    for (port, bindings) in record.host.port_bindings.iter().flatten() {
        let one = [PortBinding::default()];
        let bindings = match bindings.as_deref() {
            None | Some([]) => &one,
            Some(bindings) => bindings,
        };
        let mut hosts = Vec::new();
        for binding in bindings {
            let ip = binding.host_ip.clone().unwrap_or_default();
            let asked = binding.host_port.as_deref().unwrap_or_default();
            let asked = match asked {
                "" => 0,
                text => text.parse::<u16>().map_err(|_| {
                    HopError::invalid(format!("invalid port specification: \"{text}\""))
                })?,
            };
            hosts.push((ip.clone(), take(port, &ip, asked)?));
        }
        ports.insert(normal(port)?, hosts);
    }
    if record.host.publish_all_ports == Some(true) {
        for port in record.config.exposed_ports.iter().flatten() {
            let port = normal(port)?;
            if let Entry::Vacant(vacant) = ports.entry(port) {
                let host = take(vacant.key(), "", 0)?;
                vacant.insert(vec![(String::new(), host)]);
            }
        }
    }
    Ok(ports)
}

fn normal(port: &str) -> Result<String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let known = ["tcp", "udp", "sctp"].contains(&protocol);
    match number.parse::<u16>() {
        Ok(number) if number > 0 && known => Ok(format!("{number}/{protocol}")),
        _ => Err(HopError::invalid(format!("invalid port specification: \"{port}\""))),
    }
}

/// Finds out whether a port of the host is free, or a free one. It is not held: rules of the
/// packet filter take it, no socket.
fn take(port: &str, ip: &str, asked: u16) -> Result<u16> {
    let shown = if ip.is_empty() { "0.0.0.0" } else { ip };
    let address: IpAddr = shown
        .parse()
        .map_err(|_| HopError::invalid(format!("invalid host IP address: {shown}")))?;
    let at = SocketAddr::new(address, asked);
    let bound = if port.ends_with("/udp") {
        UdpSocket::bind(at).and_then(|s| s.local_addr())
    } else {
        TcpListener::bind(at).and_then(|s| s.local_addr())
    };
    bound.map(|a| a.port()).map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => "port is already allocated".to_owned(),
            _ => error.to_string(),
        };
        HopError::internal(format!(
            "driver failed programming external connectivity: Bind for {shown}:{asked} failed: \
             {why}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hops::docker::models::HostConfig;

    #[test]
    fn ports_are_found_free_or_refused() {
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let bind = |port: String| {
            let binding = PortBinding { host_port: Some(port), ..PortBinding::default() };
            let bindings = HashMap::from([("80/tcp".to_owned(), Some(vec![binding]))]);
            let host = HostConfig { port_bindings: Some(bindings), ..HostConfig::default() };
            published(&Record { host, ..Record::default() })
        };
        assert!(bind(port.to_string()).unwrap_err().message.contains("port is already allocated"));
        assert!(bind(String::new()).unwrap()["80/tcp"][0].1 > 0);
        assert!(bind("x".to_owned()).is_err());
    }
}
