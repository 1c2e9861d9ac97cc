//! As much of rtnetlink(7) as moving a device takes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::{Errno, Result, file, process, socket};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// All objects (NLM_F_ROOT | NLM_F_MATCH).
const DUMP: u16 = 0x300;
/// A new object, and no change of one that is there.
const CREATE: u16 = 0x400 | 0x200;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;

/// Length of struct nlmsghdr, ifinfomsg and ifaddrmsg.
const HEADER: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// A device as the kernel lists it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) index: i32,
    /// IFF_*.
    pub(super) flags: u32,
}

/// An address of a device.
#[derive(Clone, Debug)]
pub(super) struct Address {
    family: u8,
    prefix: u8,
    /// IFA_F_*.
    pub(super) flags: u32,
    /// RT_SCOPE_*; 0 is everywhere.
    pub(super) scope: u8,
    index: u32,
    /// Of IFA_ADDRESS, IFA_LOCAL and IFA_BROADCAST, those that it has.
    parts: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// For errors: the address with its prefix, as people write it.
    pub(super) fn text(&self) -> String {
        let own = |kind| self.parts.iter().find(|(k, _)| *k == kind).map(|(_, bytes)| bytes);
        let bytes = own(IFA_LOCAL).or(own(IFA_ADDRESS)).map_or(&[][..], Vec::as_slice);
        let ip = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(v4), _) => std::net::IpAddr::from(v4).to_string(),
            (_, Ok(v6)) => std::net::IpAddr::from(v6).to_string(),
            _ => "?".to_owned(),
        };
        format!("{ip}/{}", self.prefix)
    }
}

/// A socket to the kernel's routing of the network namespace that it was opened in.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// In the caller's network namespace.
    pub(super) fn open() -> Result<Netlink> {
        Ok(Netlink { socket: socket::netlink_route()?, sequence: 0 })
    }

    /// In the network namespace of the file `namespace`. This thread is there for a moment.
    pub(super) fn open_in(namespace: BorrowedFd<'_>) -> Result<Netlink> {
        let own = file::open(c"/proc/thread-self/ns/net", libc::O_RDONLY)?;
        process::join_namespace(namespace, libc::CLONE_NEWNET)?;
        let opened = Netlink::open();
        process::join_namespace(own.as_fd(), libc::CLONE_NEWNET)?;
        opened
    }

    /// The device called `name`.
    pub(super) fn link(&mut self, name: &str) -> Result<Link> {
        let mut body = vec![0; LINK];
        attribute(&mut body, IFLA_IFNAME, &c_bytes(name));
        let answers = self.call(RTM_GETLINK, 0, &body)?;
        let answer = answers.first().filter(|a| a.len() >= LINK).ok_or(Errno::INVAL)?;
        Ok(Link { index: word(answer, 4) as i32, flags: word(answer, 8) })
    }

    /// Takes a device up or down.
    pub(super) fn set_up(&mut self, index: i32, up: bool) -> Result<()> {
        let mut body = vec![0; LINK];
        let bit = libc::IFF_UP as u32;
        put(&mut body, 4, index as u32);
        put(&mut body, 8, if up { bit } else { 0 });
        put(&mut body, 12, bit);
        self.call(RTM_NEWLINK, ACK, &body).map(drop)
    }

    /// Moves a device to another network namespace and names it there, both or neither.
    pub(super) fn give(&mut self, index: i32, to: BorrowedFd<'_>, name: &str) -> Result<()> {
        let mut body = vec![0; LINK];
        put(&mut body, 4, index as u32);
        attribute(&mut body, IFLA_IFNAME, &c_bytes(name));
        attribute(&mut body, IFLA_NET_NS_FD, &to.as_raw_fd().to_ne_bytes());
        self.call(RTM_NEWLINK, ACK, &body).map(drop)
    }

    /// The addresses of a device.
    pub(super) fn addresses(&mut self, index: i32) -> Result<Vec<Address>> {
        let answers = self.call(RTM_GETADDR, DUMP, &[0; ADDRESS])?;
        let addresses = answers.iter().filter(|a| a.len() >= ADDRESS).map(|a| address(a));
        Ok(addresses.filter(|a| a.index == index as u32).collect())
    }

    /// Gives a device the address, for good and everywhere.
    pub(super) fn add_address(&mut self, index: i32, address: &Address) -> Result<()> {
        let mut body = vec![address.family, address.prefix, 0, 0, 0, 0, 0, 0];
        put(&mut body, 4, index as u32);
        for (kind, bytes) in &address.parts {
            attribute(&mut body, *kind, bytes);
        }
        self.call(RTM_NEWADDR, ACK | CREATE, &body).map(drop)
    }

    /// Sends a request and gives the bodies of what is answered.
    fn call(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend((HEADER as u32 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        socket::send(self.socket.as_fd(), &message)?;
        let mut answers = Vec::new();
        // As long as the kernel makes them (NLMSG_GOODSIZE is at most that).
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let (n, _) = socket::receive(self.socket.as_fd(), &mut buffer)?;
            let mut rest = buffer.get(..n).unwrap_or(&[]);
            while rest.len() >= HEADER {
                let length = word(rest, 0) as usize;
                let (kind, sequence) = (half(rest, 4), word(rest, 8));
                let body = rest.get(HEADER..length).ok_or(Errno::INVAL)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
                match kind {
                    _ if sequence != self.sequence => {}
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => {
                        return match body.len() >= 4 && word(body, 0) == 0 {
                            true => Ok(answers),
                            false => Err(Errno((word(body, 0) as i32).wrapping_neg())),
                        };
                    }
                    _ => answers.push(body.to_owned()),
                }
            }
            if flags & (DUMP | ACK) == 0 && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }
}

fn address(body: &[u8]) -> Address {
    let mut address = Address {
        family: body[0],
        prefix: body[1],
        flags: body[2].into(),
        scope: body[3],
        index: word(body, 4),
        parts: Vec::new(),
    };
    let mut rest = &body[ADDRESS..];
    while rest.len() >= 4 {
        let (length, kind) = (usize::from(half(rest, 0)), half(rest, 2));
        let Some(value) = rest.get(4..length) else { break };
        match kind {
            IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => address.parts.push((kind, value.to_owned())),
            IFA_FLAGS if value.len() == 4 => address.flags = word(value, 0),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    address
}

fn c_bytes(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn put(body: &mut [u8], at: usize, value: u32) {
    body[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

/// The word at `at`, or zero where `bytes` ends before.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}
