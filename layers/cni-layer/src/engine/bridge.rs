//! `bridge`: one end of a veth in the namespace, the other a port of a bridge of this host.

use std::{
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use hops::cni::{Attached, Dns, Interface, Route as Told};
use serde::Deserialize;
use serde_json::Value;
use wire::cni::{
    addr::{Cidr, next},
    error::{CniError, Doing, Result, code},
    netns::Netns,
    result,
};

use crate::{
    call::Call,
    engine::{Plugin, addresses, ipam, nat, sysctl},
    netlink::route::{Change, Link, Mac, Port, Route, Rtnl, Veth},
};

/// The plugin.
pub(crate) struct Bridge;

/// Where the namespace's end stands in the result: after the bridge and the host's end.
const INSIDE: usize = 2;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    mtu: u32,
    hairpin_mode: bool,
    promisc_mode: bool,
    port_isolation: bool,
    mac: String,
    dns: Dns,
    args: Value,
    runtime_config: Value,
    vlan: u32,
    vlan_trunk: Vec<Value>,
    macspoofchk: bool,
    disable_container_interface: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            bridge: "cni0".to_owned(),
            is_gateway: false,
            is_default_gateway: false,
            force_address: false,
            ip_masq: false,
            mtu: 0,
            hairpin_mode: false,
            promisc_mode: false,
            port_isolation: false,
            mac: String::new(),
            dns: Dns::default(),
            args: Value::Null,
            runtime_config: Value::Null,
            vlan: 0,
            vlan_trunk: Vec::new(),
            macspoofchk: false,
            disable_container_interface: false,
        }
    }
}

impl Config {
    fn read(call: &Call<'_>) -> Result<Config> {
        let mut config: Config = call.config()?;
        config.is_gateway |= config.is_default_gateway;
        if config.hairpin_mode && config.promisc_mode {
            return Err(CniError::invalid(
                "cannot set hairpin mode and promiscuous mode at the same time",
            ));
        }
        let refused = [
            ("vlan", config.vlan != 0),
            ("vlanTrunk", !config.vlan_trunk.is_empty()),
            ("macspoofchk", config.macspoofchk),
            ("disableContainerInterface", config.disable_container_interface),
        ];
        match refused.iter().find(|(_, asked)| *asked) {
            Some((field, _)) => Err(CniError::new(
                code::UNSUPPORTED_FIELD,
                format!("bridge: field {field:?} is not supported"),
            )),
            None => Ok(config),
        }
    }

    /// The hardware address asked for, the most particular request first.
    fn mac(&self, call: &Call<'_>) -> Result<Option<Mac>> {
        let asked = [
            self.runtime_config["mac"].as_str(),
            self.args["cni"]["mac"].as_str(),
            call.arg("MAC"),
            Some(self.mac.as_str()),
        ];
        let Some(text) = asked.into_iter().flatten().find(|mac| !mac.is_empty()) else {
            return Ok(None);
        };
        let mac = Mac::parse(text);
        mac.map(Some).ok_or_else(|| CniError::invalid(format!("invalid MAC address: {text}")))
    }

    fn mtu(&self) -> Option<u32> {
        (self.mtu != 0).then_some(self.mtu)
    }
}

/// The name of the host's end: the same for the same link of the same container, so that DEL finds
/// it when the namespace is gone. 44 bits of FNV-1a fill a link's name.
fn host_name(call: &Call<'_>) -> String {
    let words = [call.of.container_id.as_bytes(), b"/", call.of.ifname.as_bytes()];
    let hash = words.concat().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("veth{:011x}", hash >> 20)
}

/// Finds the bridge, or makes it.
fn ensure_bridge(host: &mut Rtnl, config: &Config) -> Result<Link> {
    let name = config.bridge.as_str();
    let words = || format!("could not add \"{name}\"");
    let mut bridge = host.link_by_name(name).doing(format_args!("could not lookup \"{name}\""))?;
    if bridge.is_none() {
        match host.create_bridge(name, config.mtu()) {
            // Another ADD was faster.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.doing(words())?,
        }
        // A bridge's own addresses need no duplicate detection, and must be usable at once. A
        // kernel without IPv6 has no such setting.
        let _ = sysctl(&format!("net/ipv6/conf/{name}/accept_dad"), "0");
        bridge = host.link_by_name(name).doing(words())?;
    }
    let bridge = bridge.ok_or_else(|| CniError::internal(words()))?;
    if bridge.kind != "bridge" {
        return Err(CniError::internal(format!("\"{name}\" already exists but is not a bridge")));
    }
    let promiscuous = (config.promisc_mode && !bridge.promiscuous).then_some(true);
    if !bridge.up || promiscuous.is_some() {
        let change = Change { up: Some(true), promiscuous, ..Change::default() };
        host.change_link(bridge.index, change)
            .doing(format_args!("could not set \"{name}\" up"))?;
    }
    Ok(bridge)
}

/// Gives the bridge the gateway's address.
fn ensure_address(host: &mut Rtnl, bridge: &Link, gateway: Cidr, force: bool) -> Result<()> {
    let name = &bridge.name;
    for own in host.addresses(bridge.index).doing("could not get list of IP addresses")? {
        if own == gateway {
            return Ok(());
        }
        let same_family = own.ip.is_ipv4() == gateway.ip.is_ipv4();
        let overlaps = own.contains(gateway.ip) || gateway.contains(own.ip);
        if !same_family || (own.ip.is_ipv6() && !overlaps) {
            continue;
        }
        if !force {
            return Err(CniError::internal(format!(
                "\"{name}\" already has an IP address different from {gateway}"
            )));
        }
        host.delete_address(bridge.index, own)
            .doing(format_args!("could not remove IP address from \"{name}\""))?;
    }
    host.add_address(bridge.index, gateway)
        .doing(format_args!("could not add IP address to \"{name}\""))?;
    // A bridge with an address of its own keeps it; otherwise it takes its lowest port's, and the
    // containers' neighbour tables go stale whenever a port comes or goes.
    let current = host.link_by_index(bridge.index).doing("get bridge")?;
    if let Some(Link { mac, .. }) = current {
        host.change_link(bridge.index, Change { mac: Some(mac), ..Change::default() })
            .doing(format_args!("could not set bridge \"{name}\" mac"))?;
    }
    Ok(())
}

/// Makes the veth, each end in its place.
fn connect(
    host: &mut Rtnl,
    call: &Call<'_>,
    config: &Config,
    bridge: &Link,
    netns: &Netns,
) -> Result<()> {
    use std::os::fd::AsFd;
    let (name, inside) = (host_name(call), call.of.ifname.as_str());
    let veth = Veth {
        name: &name,
        master: Some(bridge.index),
        peer: inside,
        peer_netns: netns.file().as_fd(),
        peer_mac: config.mac(call)?,
        mtu: config.mtu(),
    };
    match host.create_veth(&veth) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let taken = netns.run(|| {
                let mut net = Rtnl::open().doing("open netlink socket")?;
                net.link_by_name(inside).doing("get link")
            })?;
            Err(CniError::internal(match taken {
                Some(_) => format!("container veth name provided ({inside}) already exists"),
                None => format!("host veth name ({name}) already exists"),
            }))
        }
        other => other.doing(format_args!("failed to make veth pair ({name}, {inside})")),
    }
}

/// Removes the veth, whichever end of it is left to be found.
fn disconnect(call: &Call<'_>) -> Result<()> {
    let mut host = Rtnl::open().doing("open netlink socket")?;
    let found = host.delete_link(&host_name(call)).doing("failed to delete host veth")?;
    match call.netns_if_any()? {
        // Another bridge plugin made it, and named the host's end otherwise.
        Some(netns) if !found => netns.run(|| {
            let mut net = Rtnl::open().doing("open netlink socket")?;
            let link = &call.of.ifname;
            net.delete_link(link).doing(format_args!("failed to delete \"{link}\"")).map(drop)
        }),
        _ => Ok(()),
    }
}

/// What the namespace's end is given.
struct Inside<'a> {
    name: &'a str,
    addresses: &'a [Cidr],
    routes: Vec<(Cidr, Option<IpAddr>)>,
}

impl Inside<'_> {
    /// Sets up the namespace's end, on a thread inside the namespace.
    fn set_up(&self) -> Result<(Rtnl, Link)> {
        let mut net = Rtnl::open().doing("open netlink socket")?;
        let link = net.link_by_name(self.name).doing("get link")?;
        let link = link.ok_or_else(|| {
            CniError::internal(format!("failed to lookup \"{}\": Link not found", self.name))
        })?;
        if self.addresses.iter().any(|address| address.ip.is_ipv6()) {
            // A host may turn IPv6 off in new namespaces; a kernel without it says so below.
            let _ = sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", self.name), "0");
        }
        for address in self.addresses {
            net.add_address(link.index, *address)
                .doing(format_args!("failed to add IP addr {address} to \"{}\"", self.name))?;
        }
        for setting in ["ipv4/conf/{}/arp_notify", "ipv6/conf/{}/ndisc_notify"] {
            // Needed by the announcement, which is a courtesy.
            let _ = sysctl(&format!("net/{}", setting.replace("{}", self.name)), "1");
        }
        let up = Change { up: Some(true), ..Change::default() };
        net.change_link(link.index, up)
            .doing(format_args!("failed to set \"{}\" UP", self.name))?;
        for (dst, gateway) in &self.routes {
            net.add_route(&Route { dst: *dst, gateway: *gateway, link: link.index }).doing(
                match gateway {
                    Some(gw) => format!("failed to add route '{dst} via {gw} dev {}'", self.name),
                    None => format!("failed to add route '{dst} dev {}'", self.name),
                },
            )?;
        }
        Ok((net, link))
    }
}

/// How long a port may take to come up: the reference plugin's patience.
const PATIENCE: Duration = Duration::from_millis(2550);

/// Waits until the bridge forwards for its new port: the kernel notices that the wire is up on a
/// thread of its own, shortly after both ends are.
fn await_port(host: &mut Rtnl, port: u32) -> Result<Link> {
    let since = Instant::now();
    loop {
        let link = host.link_by_index(port).doing("get host veth")?;
        let link = link.ok_or_else(|| CniError::internal("failed to lookup host veth"))?;
        if link.running {
            return Ok(link);
        }
        if since.elapsed() > PATIENCE {
            return Err(CniError::internal("bridge port in error state: down"));
        }
        thread::sleep(Duration::from_micros(100));
    }
}

/// Tells the neighbours whose the addresses of `link` are now: an address given again would
/// otherwise be sought at its last holder's hardware address until their tables expire. The kernel
/// announces a link's addresses when its hardware address is set, to the same one too. It is a
/// courtesy: where it fails, the first packets are late.
fn announce(net: &mut Rtnl, link: &Link) {
    let _ = net.change_link(link.index, Change { mac: Some(link.mac), ..Change::default() });
}

/// Fills in gateways and default routes, and says which addresses the bridge needs.
fn gateways(attached: &mut Attached, config: &Config) -> Result<Vec<Cidr>> {
    let mut gateways = Vec::new();
    for ip in &mut attached.ips {
        let address = result::address(&ip.address)?;
        ip.interface = Some(INSIDE);
        if !config.is_gateway {
            continue;
        }
        let gateway = *ip.gateway.get_or_insert_with(|| next(address.first()));
        gateways.push(Cidr { ip: gateway, prefix: address.prefix });
        let any = Cidr::any_like(gateway).to_string();
        if config.is_default_gateway && attached.routes.iter().all(|route| route.dst != any) {
            attached.routes.push(Told { dst: any, gw: Some(gateway) });
        }
    }
    Ok(gateways)
}

/// The routes of a result, each with the next hop it has or that of its family's first address.
fn routes(attached: &Attached) -> Result<Vec<(Cidr, Option<IpAddr>)>> {
    let of_family = |v4: bool| {
        let gateways = attached.ips.iter().filter_map(|ip| ip.gateway);
        gateways.into_iter().find(|gateway| gateway.is_ipv4() == v4)
    };
    attached
        .routes
        .iter()
        .map(|route| {
            let dst = result::address(&route.dst)?;
            Ok((dst, route.gw.or_else(|| of_family(dst.ip.is_ipv4()))))
        })
        .collect()
}

/// Lets this host forward packets of the families of `gateways`.
fn forward(gateways: &[Cidr]) -> Result<()> {
    for (v4, setting) in [(true, "net/ipv4/ip_forward"), (false, "net/ipv6/conf/all/forwarding")] {
        if gateways.iter().any(|gateway| gateway.ip.is_ipv4() == v4) {
            sysctl(setting, "1").doing("failed to enable forwarding")?;
        }
    }
    Ok(())
}

/// Everything after the veth is there.
fn furnish(
    host: &mut Rtnl,
    call: &Call<'_>,
    config: &Config,
    bridge: &Link,
    netns: &Netns,
) -> Result<Attached> {
    let outside = host.link_by_name(&host_name(call)).doing("get host veth")?;
    let outside = outside.ok_or_else(|| CniError::internal("failed to lookup host veth"))?;
    let up = Change { up: Some(true), ..Change::default() };
    host.change_link(outside.index, up)
        .doing(format_args!("failed to set \"{}\" up", outside.name))?;
    if config.hairpin_mode || config.port_isolation {
        let port = Port { hairpin: config.hairpin_mode, isolated: config.port_isolation };
        host.change_port(outside.index, port)
            .doing(format_args!("failed to setup hairpin mode for {}", outside.name))?;
    }
    let mut attached = ipam::add(call)?.unwrap_or_default();
    attached.cni_version.clone_from(&call.version);
    let gateways = gateways(&mut attached, config)?;
    let given = addresses(&attached)?;
    let inside = Inside { name: &call.of.ifname, addresses: &given, routes: routes(&attached)? };
    let (mut net, inside) = netns.run(|| inside.set_up())?;
    for gateway in &gateways {
        ensure_address(host, bridge, *gateway, config.force_address)
            .map_err(|e| e.context("failed to set bridge addr"))?;
    }
    forward(&gateways)?;
    if config.ip_masq {
        nat::masquerade(call, &given)?;
    }
    if config.dns != Dns::default() {
        attached.dns.clone_from(&config.dns);
    }
    let outside = await_port(host, outside.index)?;
    announce(&mut net, &inside);
    // Without an address of its own the bridge has taken its ports' lowest, perhaps just now.
    let bridge = host.link_by_index(bridge.index).doing("get bridge")?.unwrap_or_default();
    let told = |link: &Link, sandbox: &Path| Interface {
        name: link.name.clone(),
        mac: link.mac.to_string(),
        sandbox: sandbox.display().to_string(),
    };
    let here = Path::new("");
    attached.interfaces =
        vec![told(&bridge, here), told(&outside, here), told(&inside, netns.path())];
    Ok(attached)
}

impl Plugin for Bridge {
    fn add(&self, call: &Call<'_>) -> Result<Attached> {
        let config = Config::read(call)?;
        let netns = call.netns()?;
        let mut host = Rtnl::open().doing("open netlink socket")?;
        let bridge = ensure_bridge(&mut host, &config)?;
        connect(&mut host, call, &config, &bridge, &netns)?;
        furnish(&mut host, call, &config, &bridge, &netns).inspect_err(|_| {
            // The failure itself is what the caller has to hear; it will call DEL as well.
            let _ = host.delete_link(&host_name(call));
            let _ = ipam::del(call);
            let _ = nat::remove(call, nat::MASQUERADE);
        })
    }

    fn del(&self, call: &Call<'_>) -> Result<()> {
        let config = Config::read(call)?;
        // Both the link's removal and that of the rules wait for a grace period of the kernel's.
        let (unmasked, unlinked) = thread::scope(|scope| {
            let masked = config.ip_masq.then(|| scope.spawn(|| nat::remove(call, nat::MASQUERADE)));
            let unlinked = disconnect(call);
            let unmasked = masked.map_or(Ok(()), |masked| {
                let panicked = |_| Err(CniError::internal("a thread that removes rules panicked"));
                masked.join().unwrap_or_else(panicked)
            });
            (unmasked, unlinked)
        });
        // The address is free when nothing answers to it any more.
        unlinked.and(ipam::del(call)).and(unmasked)
    }

    fn check(&self, call: &Call<'_>) -> Result<()> {
        let config = Config::read(call)?;
        let netns = call.netns()?;
        ipam::check(call)?;
        let prev = call.required_prev()?;
        let mut host = Rtnl::open().doing("open netlink socket")?;
        let find = |net: &mut Rtnl, told: &Interface| {
            let link = net.link_by_name(&told.name).doing("get link")?;
            let link = link.ok_or_else(|| {
                CniError::internal(format!("interface \"{}\" is missing", told.name))
            })?;
            if !told.mac.is_empty() && link.mac.to_string() != told.mac {
                return Err(CniError::internal(format!(
                    "Interface {} Mac {} doesn't match container Mac: {}",
                    told.name, told.mac, link.mac
                )));
            }
            Ok(link)
        };
        let mut bridge = None;
        for told in prev.interfaces.iter().filter(|told| told.sandbox.is_empty()) {
            let link = find(&mut host, told)?;
            if told.name == config.bridge {
                bridge = Some(link.index);
            } else if bridge.is_some() && link.master != bridge {
                return Err(CniError::internal(format!(
                    "host veth {} is not a port of {}",
                    told.name, config.bridge
                )));
            }
        }
        let given = addresses(prev)?;
        let wanted = routes(prev)?;
        netns.run(|| {
            let mut net = Rtnl::open().doing("open netlink socket")?;
            let told = prev.interfaces.iter().find(|told| !told.sandbox.is_empty());
            let told = told.ok_or_else(|| {
                CniError::internal("Container interface is missing from prevResult")
            })?;
            let link = find(&mut net, told)?;
            let own = net.addresses(link.index).doing("list addresses")?;
            if let Some(ip) = given.iter().find(|ip| !own.contains(ip)) {
                return Err(CniError::internal(format!(
                    "Failed to find IP address {ip} on interface {}",
                    link.name
                )));
            }
            for (dst, gateway) in wanted {
                let set = net.routes(dst.ip).doing("list routes")?;
                if !set.iter().any(|set| set.dst == dst.network() && set.gateway == gateway) {
                    return Err(CniError::internal(format!("Expected Route {dst} not found")));
                }
            }
            Ok(())
        })
    }
}
