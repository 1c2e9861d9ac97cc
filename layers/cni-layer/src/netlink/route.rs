//! Links, addresses and routes of one network namespace (rtnetlink(7)).

use std::{
    fmt, io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{
        InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
        LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State,
    },
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use wire::cni::addr::Cidr;

/// A hardware address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads `aa:bb:cc:dd:ee:ff`.
    pub fn parse(text: &str) -> Option<Mac> {
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let hex = parts.next().filter(|p| p.len() == 2)?;
            *byte = u8::from_str_radix(hex, 16).ok()?;
        }
        parts.next().is_none().then_some(Mac(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A link, as far as the plugins ask about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index in the namespace, from 1.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; zero where it has none.
    pub mac: Mac,
    /// Its largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether packets pass: it is up, and so is the other end of its wire.
    pub running: bool,
    /// Whether it is promiscuous by request.
    pub promiscuous: bool,
    /// What made it: `bridge`, `veth`; empty for hardware and the loopback.
    pub kind: String,
    /// The bridge it is a port of.
    pub master: Option<u32>,
}

impl Link {
    fn read(message: &LinkMessage) -> Link {
        let flags = message.header.flags;
        let mut link = Link {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            promiscuous: flags.contains(LinkFlags::Promisc),
            ..Link::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::OperState(state) => link.running = *state == State::Up,
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::Address(mac) => {
                    if let Ok(mac) = mac.as_slice().try_into() {
                        link.mac = Mac(mac);
                    }
                }
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = kind.to_string();
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

/// A pair of virtual Ethernet devices to be made.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// The name of the end in this namespace.
    pub name: &'a str,
    /// The bridge that this end becomes a port of, by index.
    pub master: Option<u32>,
    /// The name of the other end.
    pub peer: &'a str,
    /// The namespace of the other end.
    pub peer_netns: BorrowedFd<'a>,
    /// The other end's hardware address; the kernel draws one where none is given.
    pub peer_mac: Option<Mac>,
    /// The largest packet of both ends in bytes; the kernel's default where none is given.
    pub mtu: Option<u32>,
}

/// What is changed of a link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Administratively up or down.
    pub up: Option<bool>,
    /// Promiscuous or not.
    pub promiscuous: Option<bool>,
    /// A hardware address of its own, which a bridge then keeps whatever its ports have.
    pub mac: Option<Mac>,
    /// The largest packet in bytes.
    pub mtu: Option<u32>,
}

/// What is changed of a bridge's port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Port {
    /// A frame may leave by the port it came in by.
    pub hairpin: bool,
    /// No frame passes between two isolated ports.
    pub isolated: bool,
}

/// A route to be made.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The destination.
    pub dst: Cidr,
    /// The next hop; on the link itself where there is none.
    pub gateway: Option<IpAddr>,
    /// The link it leaves by.
    pub link: u32,
}

/// A socket that speaks of the namespace it was opened in.
pub struct Rtnl {
    socket: Socket,
    sequence: u32,
}

impl fmt::Debug for Rtnl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rtnl").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// Turns one errno into "there is none".
fn absent<T>(answer: io::Result<T>, errno: &[Errno]) -> io::Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(e) if errno.iter().any(|n| e.raw_os_error() == Some(*n as i32)) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Rtnl {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// What socket(2), bind(2) and connect(2) say.
    pub fn open() -> io::Result<Rtnl> {
        let socket = super::open(NETLINK_ROUTE)?;
        // Lets the kernel filter address dumps by link; kernels before 4.20 do not know it, and
        // every dump is filtered here again.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Rtnl { socket, sequence: 0 })
    }

    fn ask(&mut self, message: Message, flags: u16) -> io::Result<Vec<Message>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let mut answers = Vec::new();
        let mut undecoded = None;
        super::ask(&self.socket, &bytes, self.sequence, |kind, payload| {
            let mut header = NetlinkHeader::default();
            header.message_type = kind;
            match <Message as netlink_packet_core::NetlinkDeserializable>::deserialize(
                &header, payload,
            ) {
                Ok(answer) => answers.push(answer),
                Err(e) => undecoded = Some(io::Error::new(io::ErrorKind::InvalidData, e)),
            }
        })?;
        undecoded.map_or(Ok(answers), Err)
    }

    fn tell(&mut self, message: Message, flags: u16) -> io::Result<()> {
        self.ask(message, NLM_F_ACK | flags).map(drop)
    }

    fn link(&mut self, mut question: LinkMessage) -> io::Result<Option<Link>> {
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = self.ask(Message::GetLink(question), NLM_F_ACK);
        let answers = absent(answers, &[Errno::ENODEV])?.unwrap_or_default();
        Ok(answers.iter().find_map(|answer| match answer {
            Message::NewLink(link) => Some(Link::read(link)),
            _ => None,
        }))
    }

    /// The link called `name`, where there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link_by_name(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.link(question)
    }

    /// The link numbered `index`, where there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        self.link(question)
    }

    /// Every link of the namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.ask(Message::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                Message::NewLink(link) => Some(Link::read(link)),
                _ => None,
            })
            .collect())
    }

    /// Makes a bridge, up.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; what the kernel says.
    pub fn create_bridge(&mut self, name: &str, mtu: Option<u32>) -> io::Result<()> {
        let mut bridge = LinkMessage::default();
        bridge.header.flags = LinkFlags::Up;
        bridge.header.change_mask = LinkFlags::Up;
        bridge.attributes.push(LinkAttribute::IfName(name.to_owned()));
        bridge.attributes.extend(mtu.map(LinkAttribute::Mtu));
        bridge.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.tell(Message::NewLink(bridge), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a pair of virtual Ethernet devices, each in its namespace, in one request. The kernel
    /// refuses to raise either before both are there, so they are down.
    ///
    /// # Errors
    /// `AlreadyExists` when either name is taken; what the kernel says.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(veth.peer.to_owned()));
        peer.attributes.push(LinkAttribute::NetNsFd(veth.peer_netns.as_raw_fd()));
        peer.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
        peer.attributes.extend(veth.peer_mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        let mut host = LinkMessage::default();
        host.attributes.push(LinkAttribute::IfName(veth.name.to_owned()));
        host.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
        host.attributes.extend(veth.master.map(LinkAttribute::Controller));
        host.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.tell(Message::NewLink(host), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Changes the link numbered `index`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn change_link(&mut self, index: u32, change: Change) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        for (wanted, flag) in [(change.up, LinkFlags::Up), (change.promiscuous, LinkFlags::Promisc)]
        {
            if let Some(on) = wanted {
                link.header.change_mask |= flag;
                link.header.flags.set(flag, on);
            }
        }
        link.attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        link.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        self.tell(Message::SetLink(link), 0)
    }

    /// Changes how a bridge treats its port numbered `index`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn change_port(&mut self, index: u32, port: Port) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![
                InfoBridgePort::HairpinMode(port.hairpin),
                InfoBridgePort::Isolated(port.isolated),
            ])),
        ]));
        self.tell(Message::NewLink(link), 0)
    }

    /// Removes the link called `name`, and the other end of it where it is a veth. Whether there
    /// was one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete_link(&mut self, name: &str) -> io::Result<bool> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answer = self.tell(Message::DelLink(link), 0);
        Ok(absent(answer, &[Errno::ENODEV])?.is_some())
    }

    /// The addresses of the link numbered `index`, of both families.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<Cidr>> {
        let mut question = AddressMessage::default();
        question.header.index = index;
        let answers = self.ask(Message::GetAddress(question), NLM_F_DUMP)?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                Message::NewAddress(address) if address.header.index == index => {
                    let prefix = address.header.prefix_len;
                    // On a point-to-point link IFA_ADDRESS is the far end; IFA_LOCAL is ours.
                    let own = address.attributes.iter().find_map(|a| match a {
                        AddressAttribute::Local(ip) => Some(*ip),
                        _ => None,
                    });
                    let any = address.attributes.iter().find_map(|a| match a {
                        AddressAttribute::Address(ip) => Some(*ip),
                        _ => None,
                    });
                    own.or(any).map(|ip| Cidr { ip, prefix })
                }
                _ => None,
            })
            .collect())
    }

    /// Gives the link numbered `index` an address. IPv6 addresses are usable at once: IPAM has
    /// already seen to it that nobody else has them, so duplicate detection is off. Whether it is
    /// new there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_address(&mut self, index: u32, address: Cidr) -> io::Result<bool> {
        let answer =
            self.tell(Message::NewAddress(addressed(index, address)), NLM_F_CREATE | NLM_F_EXCL);
        Ok(absent(answer, &[Errno::EEXIST])?.is_some())
    }

    /// Takes an address from the link numbered `index`. Whether it had it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete_address(&mut self, index: u32, address: Cidr) -> io::Result<bool> {
        let answer = self.tell(Message::DelAddress(addressed(index, address)), 0);
        Ok(absent(answer, &[Errno::EADDRNOTAVAIL])?.is_some())
    }

    /// Makes a route. One that is there already is left as it is.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(route.dst.ip);
        message.header.destination_prefix_length = route.dst.prefix;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::Unicast;
        message.header.scope =
            if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        let mut attributes = vec![
            RouteAttribute::Destination(route.dst.first().into()),
            RouteAttribute::Oif(route.link),
        ];
        attributes.extend(route.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
        message.attributes = attributes;
        let answer = self.tell(Message::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL);
        absent(answer, &[Errno::EEXIST]).map(drop)
    }

    /// The routes of the main table in the family of `like` that leave by one link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&mut self, like: IpAddr) -> io::Result<Vec<Route>> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(like);
        let answers = self.ask(Message::GetRoute(question), NLM_F_DUMP)?;
        let address = |address: &RouteAddress| match address {
            RouteAddress::Inet(ip) => Some(IpAddr::from(*ip)),
            RouteAddress::Inet6(ip) => Some(IpAddr::from(*ip)),
            _ => None,
        };
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                Message::NewRoute(route) if route.header.table == RouteHeader::RT_TABLE_MAIN => {
                    let prefix = route.header.destination_prefix_length;
                    let mut dst = Cidr::any_like(like);
                    let (mut gateway, mut link) = (None, None);
                    for attribute in &route.attributes {
                        match attribute {
                            RouteAttribute::Destination(to) => {
                                dst = Cidr { ip: address(to)?, prefix };
                            }
                            RouteAttribute::Gateway(via) => gateway = address(via),
                            RouteAttribute::Oif(index) => link = Some(*index),
                            _ => {}
                        }
                    }
                    Some(Route { dst, gateway, link: link? })
                }
                _ => None,
            })
            .collect())
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn addressed(index: u32, address: Cidr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip);
    message.header.prefix_len = address.prefix;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes =
        vec![AddressAttribute::Local(address.ip), AddressAttribute::Address(address.ip)];
    match address.last() {
        // The broadcast address; a /31 or /32 has none (RFC 3021).
        IpAddr::V4(last) if address.prefix < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(last));
        }
        IpAddr::V4(_) => {}
        IpAddr::V6(_) => {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    message
}
