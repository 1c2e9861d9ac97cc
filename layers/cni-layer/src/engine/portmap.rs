//! `portmap`: ports of this host that lead into the container. A later plugin of a chain.

use std::net::IpAddr;

use hops::cni::Attached;
use nix::libc::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};
use serde::Deserialize;
use serde_json::Value;
use wire::cni::{
    addr::Cidr,
    error::{CniError, Doing, Result, code},
    result,
};

use crate::{
    call::Call,
    engine::{
        Plugin,
        nat::{self, Forward},
        sysctl,
    },
    netlink::route::Rtnl,
};

/// The plugin.
pub(crate) struct Portmap;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    snat: bool,
    masq_all: bool,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Vec<String>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Vec<String>,
    external_set_mark_chain: Value,
    runtime_config: Runtime,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            snat: true,
            masq_all: false,
            conditions_v4: Vec::new(),
            conditions_v6: Vec::new(),
            external_set_mark_chain: Value::Null,
            runtime_config: Runtime::default(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Runtime {
    port_mappings: Vec<Mapping>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mapping {
    host_port: i64,
    container_port: i64,
    protocol: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

/// The transport protocols that have ports.
const PROTOCOLS: [(&str, i32); 3] =
    [("tcp", IPPROTO_TCP), ("udp", IPPROTO_UDP), ("sctp", IPPROTO_SCTP)];

fn port(which: &str, number: i64) -> Result<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    port.ok_or_else(|| CniError::invalid(format!("Invalid {which} port number: {number}")))
}

impl Mapping {
    /// The mapping towards `to`; `None` when it is one of the other family.
    fn towards(&self, to: Cidr) -> Result<Option<Forward>> {
        let name = self.protocol.to_lowercase();
        let protocol = PROTOCOLS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            CniError::invalid(format!("unsupported protocol in port mapping: {name:?}"))
        })?;
        let host = match self.host_ip.as_str() {
            "" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| {
                CniError::invalid(format!("Invalid host IP in port mapping: {text:?}"))
            })?),
        };
        let forward = Forward {
            host: host.filter(|ip| !ip.is_unspecified()),
            host_port: port("host", self.host_port)?,
            // All three are below 256.
            protocol: protocol.1 as u8,
            to,
            port: port("container", self.container_port)?,
        };
        Ok(host.is_none_or(|ip| ip.is_ipv4() == to.ip.is_ipv4()).then_some(forward))
    }
}

impl Config {
    fn read(call: &Call<'_>) -> Result<Config> {
        let config: Config = call.config()?;
        let refused = [
            ("masqAll", config.masq_all),
            ("conditionsV4", !config.conditions_v4.is_empty()),
            ("conditionsV6", !config.conditions_v6.is_empty()),
            ("externalSetMarkChain", !config.external_set_mark_chain.is_null()),
        ];
        match refused.iter().find(|(_, asked)| *asked) {
            Some((field, _)) => Err(CniError::new(
                code::UNSUPPORTED_FIELD,
                format!("portmap: field {field:?} is not supported"),
            )),
            None => Ok(config),
        }
    }

    fn forwards(&self, prev: &Attached) -> Result<Vec<Forward>> {
        let mut forwards = Vec::new();
        for to in targets(prev)? {
            for mapping in &self.runtime_config.port_mappings {
                forwards.extend(mapping.towards(to)?);
            }
        }
        Ok(forwards)
    }
}

/// The container's first address of each family.
fn targets(prev: &Attached) -> Result<Vec<Cidr>> {
    let mut targets: Vec<Cidr> = Vec::new();
    for ip in &prev.ips {
        let of = ip.interface.and_then(|at| prev.interfaces.get(at));
        if of.is_some_and(|interface| interface.sandbox.is_empty()) {
            continue;
        }
        let address = result::address(&ip.address)?;
        if targets.iter().all(|known| known.ip.is_ipv4() != address.ip.is_ipv4()) {
            targets.push(address);
        }
    }
    Ok(targets)
}

/// Lets packets from 127.0.0.1 leave by the link that leads to `to`: without it the kernel drops
/// them as strays.
fn let_loopback_out(to: IpAddr) -> Result<()> {
    let mut host = Rtnl::open().doing("open netlink socket")?;
    let routes = host.routes(to).doing("list routes")?;
    let leading = routes.iter().filter(|route| route.dst.contains(to));
    let Some(route) = leading.max_by_key(|route| route.dst.prefix) else { return Ok(()) };
    let Some(link) = host.link_by_index(route.link).doing("get link")? else { return Ok(()) };
    sysctl(&format!("net/ipv4/conf/{}/route_localnet", link.name), "1")
        .doing(format_args!("unable to set route_localnet on {}", link.name))
}

impl Plugin for Portmap {
    fn add(&self, call: &Call<'_>) -> Result<Attached> {
        let prev = call
            .prev
            .as_ref()
            .ok_or_else(|| CniError::invalid("must be called as chained plugin"))?;
        let config = Config::read(call)?;
        let forwards = config.forwards(prev)?;
        if !forwards.is_empty() {
            if config.snat
                && let Some(v4) = forwards.iter().find(|forward| forward.to.ip.is_ipv4())
            {
                let_loopback_out(v4.to.ip)?;
            }
            nat::forward(call, &forwards, config.snat)?;
        }
        Ok(Attached { cni_version: call.version.clone(), ..prev.clone() })
    }

    fn del(&self, call: &Call<'_>) -> Result<()> {
        nat::remove(call, nat::PORTMAP)
    }

    fn check(&self, call: &Call<'_>) -> Result<()> {
        let wanted = Config::read(call)?.forwards(call.required_prev()?)?;
        if wanted.is_empty() || !nat::rules(call, nat::PORTMAP)?.is_empty() {
            return Ok(());
        }
        Err(CniError::internal("the rules of the forwarded ports are missing"))
    }
}
