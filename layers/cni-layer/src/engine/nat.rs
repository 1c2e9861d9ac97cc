//! Rewriting of addresses: masquerading of what leaves a network, forwarding of host ports.
//!
//! All of it is in one table of the host's namespace, `inet strata_cni`, made with the first rule
//! and removed with the last. Every rule notes whose it is, so that DEL needs no other record.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use nix::errno::Errno;
use wire::cni::{
    addr::Cidr,
    error::{Doing, Result},
};

use crate::{
    call::Call,
    netlink::nft::{Batch, Chain, Family, Header, Nft, Rule, Step},
};

const TABLE: &str = "strata_cni";
/// Where destinations are rewritten: before routing, and for this host's own packets.
const INBOUND: [Chain; 2] = [
    Chain { name: "prerouting", hook: 0, priority: -100 },
    Chain { name: "output", hook: 3, priority: -100 },
];
/// Where sources are rewritten.
const OUTBOUND: Chain = Chain { name: "postrouting", hook: 4, priority: 100 };

/// `RTN_LOCAL`: an address of this host.
const LOCAL: u32 = 2;
/// `IPS_DST_NAT`: the connection's destination was rewritten.
const REDIRECTED: u32 = 1 << 5;

/// The rules of the bridge plugin's `ipMasq`.
pub(crate) const MASQUERADE: &str = "masq";
/// The rules of the portmap plugin.
pub(crate) const PORTMAP: &str = "port";

/// A port of this host, forwarded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    /// The address of this host, or any.
    pub(crate) host: Option<IpAddr>,
    /// The port of this host.
    pub(crate) host_port: u16,
    /// The transport protocol's number.
    pub(crate) protocol: u8,
    /// The container's address, in its network.
    pub(crate) to: Cidr,
    /// The container's port.
    pub(crate) port: u16,
}

/// What the rules of an attachment are noted with. nft(8) shows up to 128 bytes.
fn owner(call: &Call<'_>, kind: &str) -> String {
    let mut owner = format!("{kind} {} {} {}", call.of.container_id, call.of.ifname, call.network);
    // The network's name comes last: an id and a link name are already one attachment.
    owner.truncate(127);
    owner
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

fn load(end: End, ip: IpAddr) -> Step {
    let (offset, length) = match (end, ip.is_ipv4()) {
        (End::Source, true) => (12, 4),
        (End::Destination, true) => (16, 4),
        (End::Source, false) => (8, 16),
        (End::Destination, false) => (24, 16),
    };
    Step::LoadField(Header::Network, offset, length)
}

fn of_family(ip: IpAddr) -> [Step; 2] {
    [Step::LoadFamily, Step::Is(vec![family(ip) as u8])]
}

fn at(end: End, ip: IpAddr) -> [Step; 2] {
    [load(end, ip), Step::Is(octets(ip))]
}

fn in_network(end: End, net: Cidr) -> [Step; 3] {
    [load(end, net.ip), Step::Mask(octets(net.netmask())), Step::Is(octets(net.first()))]
}

fn not_in_network(end: End, net: Cidr) -> [Step; 3] {
    let [field, mask, _] = in_network(end, net);
    [field, mask, Step::IsNot(octets(net.first()))]
}

/// A packet that leaves a container for anywhere but its own network or a multicast group.
fn leaving(address: Cidr) -> Vec<Step> {
    let multicast = match address.ip {
        IpAddr::V4(_) => Cidr { ip: Ipv4Addr::new(224, 0, 0, 0).into(), prefix: 4 },
        IpAddr::V6(_) => {
            Cidr { ip: std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), prefix: 8 }
        }
    };
    let mut steps = of_family(address.ip).to_vec();
    steps.extend(at(End::Source, address.ip));
    steps.extend(not_in_network(End::Destination, address));
    steps.extend(not_in_network(End::Destination, multicast));
    steps.push(Step::Masquerade);
    steps
}

/// A packet for a forwarded port of this host.
fn arriving(forward: &Forward) -> Vec<Step> {
    let mut steps = of_family(forward.to.ip).to_vec();
    if let Some(host) = forward.host {
        steps.extend(at(End::Destination, host));
    }
    steps.extend([
        Step::LoadProtocol,
        Step::Is(vec![forward.protocol]),
        Step::LoadField(Header::Transport, 2, 2),
        Step::Is(forward.host_port.to_be_bytes().to_vec()),
        Step::LoadDestinationKind,
        Step::Is(LOCAL.to_ne_bytes().to_vec()),
        Step::Dnat(family(forward.to.ip), octets(forward.to.ip), forward.port),
    ]);
    steps
}

/// A forwarded packet from `from`, whose answer would otherwise not come back through this host.
fn returning(from: Cidr, to: IpAddr) -> Vec<Step> {
    let mut steps = of_family(to).to_vec();
    steps.extend(in_network(End::Source, from));
    steps.extend(at(End::Destination, to));
    steps.extend([
        Step::LoadConnectionStatus,
        Step::Mask(REDIRECTED.to_ne_bytes().to_vec()),
        Step::IsNot(vec![0; 4]),
        Step::Masquerade,
    ]);
    steps
}

/// Whether the kernel has no nf_tables, or not enough of it.
fn unsupported(error: &io::Error) -> bool {
    let absent = [
        Errno::EPROTONOSUPPORT,
        Errno::EAFNOSUPPORT,
        Errno::EOPNOTSUPP,
        Errno::ENOENT,
        Errno::EINVAL,
    ];
    absent.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Makes packets that leave for other networks carry this host's address. A kernel without
/// nf_tables is warned of and not refused: the container works on its own network.
///
/// # Errors
/// What the kernel says.
pub(crate) fn masquerade(call: &Call<'_>, addresses: &[Cidr]) -> Result<()> {
    let owner = owner(call, MASQUERADE);
    let mut batch = Batch::default();
    batch.table(TABLE);
    batch.nat_chain(TABLE, OUTBOUND);
    for address in addresses {
        batch.rule(TABLE, OUTBOUND.name, &owner, &leaving(*address));
    }
    match Nft::open().and_then(|mut nft| nft.commit(&batch, None)) {
        Err(e) if unsupported(&e) => {
            eprintln!("strata-cni: ipMasq: no masquerading on this kernel (nf_tables): {e}");
            Ok(())
        }
        other => other.doing("failed to set up masquerading"),
    }
}

/// Forwards ports of this host; with `snat`, from this host's loopback and from the container's
/// own network too.
///
/// # Errors
/// What the kernel says; a kernel without nf_tables is refused.
pub(crate) fn forward(call: &Call<'_>, forwards: &[Forward], snat: bool) -> Result<()> {
    let owner = owner(call, PORTMAP);
    let mut batch = Batch::default();
    batch.table(TABLE);
    for chain in INBOUND {
        batch.nat_chain(TABLE, chain);
    }
    for forward in forwards {
        for chain in INBOUND {
            batch.rule(TABLE, chain.name, &owner, &arriving(forward));
        }
    }
    if snat {
        batch.nat_chain(TABLE, OUTBOUND);
        let mut targets: Vec<Cidr> = forwards.iter().map(|forward| forward.to).collect();
        targets.dedup();
        for to in targets {
            batch.rule(TABLE, OUTBOUND.name, &owner, &returning(to, to.ip));
            if to.ip.is_ipv4() {
                let loopback = Cidr { ip: Ipv4Addr::LOCALHOST.into(), prefix: 8 };
                batch.rule(TABLE, OUTBOUND.name, &owner, &returning(loopback, to.ip));
            }
        }
    }
    Nft::open()
        .and_then(|mut nft| nft.commit(&batch, None))
        .doing("failed to forward ports (nf_tables)")
}

/// The rules of an attachment.
///
/// # Errors
/// What the kernel says.
pub(crate) fn rules(call: &Call<'_>, kind: &str) -> Result<Vec<Rule>> {
    let owner = owner(call, kind);
    let rules = Nft::open().and_then(|mut nft| nft.rules(TABLE)).doing("list nf_tables rules")?;
    Ok(rules.into_iter().filter(|rule| rule.comment == owner).collect())
}

/// Removes the rules of an attachment, and the table with the last rule in it.
///
/// # Errors
/// What the kernel says.
pub(crate) fn remove(call: &Call<'_>, kind: &str) -> Result<()> {
    let owner = owner(call, kind);
    let mut nft = match Nft::open() {
        Err(e) if unsupported(&e) => return Ok(()),
        other => other.doing("open netfilter socket")?,
    };
    loop {
        let generation = match nft.generation() {
            Err(e) if unsupported(&e) => return Ok(()),
            other => other.doing("get nf_tables generation")?,
        };
        let rules = nft.rules(TABLE).doing("list nf_tables rules")?;
        let mut batch = Batch::default();
        let (own, others): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.comment == owner);
        match (own.is_empty(), others.is_empty()) {
            (true, _) => return Ok(()),
            (false, true) => batch.drop_table(TABLE),
            (false, false) => own.iter().for_each(|rule| batch.drop_rule(TABLE, rule)),
        }
        match nft.commit(&batch, Some(generation)) {
            // Somebody changed a table since; perhaps this one.
            Err(e) if e.raw_os_error() == Some(Errno::ERESTART as i32) => {}
            other => return other.doing("failed to remove nf_tables rules"),
        }
    }
}
