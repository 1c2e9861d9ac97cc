//! Tables, chains and rules of nf_tables, as the kernel's transactions take them.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`. Everything is big-endian on this wire
//! except what an expression compares with a register, which is as the register holds it.

use std::{fmt, io};

use netlink_packet_core::{NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use super::{HEADER_BYTES, RECEIVE_BYTES, frames, u32_at};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// A verb of nf_tables.
#[derive(Clone, Copy)]
enum Message {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    GetGeneration = 16,
}

/// `NFPROTO_INET`: a table of IPv4 and IPv6 at once.
const INET: u8 = 1;

/// One of the two families of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `NFPROTO_IPV4`.
    V4 = 2,
    /// `NFPROTO_IPV6`.
    V6 = 10,
}

/// A chain that the kernel calls: a name, and where in a packet's way it stands.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Its name in its table.
    pub name: &'static str,
    /// `NF_INET_PRE_ROUTING` 0, `NF_INET_LOCAL_OUT` 3, `NF_INET_POST_ROUTING` 4.
    pub hook: u32,
    /// The order among the chains of a hook, the lowest first.
    pub priority: i32,
}

/// Where in a packet a field is looked for.
#[derive(Clone, Copy, Debug)]
pub enum Header {
    /// The network header.
    Network = 1,
    /// The transport header.
    Transport = 2,
}

/// A step of a rule. Steps load into the first register and compare it.
#[derive(Clone, Debug)]
pub enum Step {
    /// Loads the packet's family (one byte).
    LoadFamily,
    /// Loads the transport protocol (one byte).
    LoadProtocol,
    /// Loads `length` bytes of a header at `offset`.
    LoadField(Header, u32, u32),
    /// Loads the kind of the destination address (`RTN_LOCAL` 2), a 32-bit number of this host.
    LoadDestinationKind,
    /// Loads the connection's status bits, a 32-bit number of this host.
    LoadConnectionStatus,
    /// Keeps the bits of the register that are set here.
    Mask(Vec<u8>),
    /// Goes on when the register is this.
    Is(Vec<u8>),
    /// Goes on when the register is not this.
    IsNot(Vec<u8>),
    /// Rewrites the destination to an address and a port.
    Dnat(Family, Vec<u8>, u16),
    /// Rewrites the source to the address of the link that the packet leaves by.
    Masquerade,
}

/// A rule that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The chain it is in.
    pub chain: String,
    /// The kernel's number for it.
    pub handle: u64,
    /// What its maker noted on it; empty where nothing was noted.
    pub comment: String,
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn text(out: &mut Vec<u8>, kind: u16, value: &str) {
    attribute(out, kind, &[value.as_bytes(), b"\0"].concat());
}

fn number(out: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(out, kind, &value.to_be_bytes());
}

fn nest(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(out, kind | NLA_F_NESTED, &inner);
}

/// `NFTA_DATA_VALUE` under `kind`.
fn data(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    nest(out, kind, |out| attribute(out, 1, value));
}

/// The first register, of 16 bytes, and the second.
const REGISTER: u32 = 1;
const SECOND: u32 = 2;

fn expression(out: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    nest(out, 1, |out| {
        text(out, 1, name);
        nest(out, 2, fill);
    });
}

/// An expression whose attributes are all numbers.
fn plain(out: &mut Vec<u8>, name: &str, attributes: &[(u16, u32)]) {
    expression(out, name, |out| {
        for (kind, value) in attributes {
            number(out, *kind, *value);
        }
    });
}

fn compare(out: &mut Vec<u8>, operator: u32, value: &[u8]) {
    expression(out, "cmp", |out| {
        number(out, 1, REGISTER);
        number(out, 2, operator);
        data(out, 3, value);
    });
}

fn immediate(out: &mut Vec<u8>, register: u32, value: &[u8]) {
    expression(out, "immediate", |out| {
        number(out, 1, register);
        data(out, 2, value);
    });
}

impl Step {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Step::LoadFamily => plain(out, "meta", &[(1, REGISTER), (2, 15)]),
            Step::LoadProtocol => plain(out, "meta", &[(1, REGISTER), (2, 16)]),
            Step::LoadField(header, offset, length) => plain(
                out,
                "payload",
                &[(1, REGISTER), (2, *header as u32), (3, *offset), (4, *length)],
            ),
            // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR.
            Step::LoadDestinationKind => plain(out, "fib", &[(1, REGISTER), (2, 3), (3, 2)]),
            Step::LoadConnectionStatus => plain(out, "ct", &[(1, REGISTER), (2, 2)]),
            Step::Mask(mask) => expression(out, "bitwise", |out| {
                number(out, 1, REGISTER);
                number(out, 2, REGISTER);
                number(out, 3, mask.len() as u32);
                data(out, 4, mask);
                data(out, 5, &vec![0; mask.len()]);
            }),
            Step::Is(value) => compare(out, 0, value),
            Step::IsNot(value) => compare(out, 1, value),
            Step::Dnat(family, address, port) => {
                immediate(out, REGISTER, address);
                immediate(out, SECOND, &port.to_be_bytes());
                // NFT_NAT_DNAT, the family, and the registers of the address and the port.
                let family = *family as u32;
                plain(out, "nat", &[(1, 1), (2, family), (3, REGISTER), (5, SECOND)]);
            }
            Step::Masquerade => plain(out, "masq", &[]),
        }
    }
}

/// The values of a message's attributes, top level only.
fn attributes(payload: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & !NLA_F_NESTED;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
pub struct Batch(Vec<(u16, u16, Vec<u8>)>);

impl Batch {
    fn push(&mut self, message: Message, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut body = Vec::new();
        fill(&mut body);
        self.0.push((SUBSYSTEM << 8 | message as u16, flags, body));
    }

    /// Makes the table, where it is not there.
    pub fn table(&mut self, table: &str) {
        self.push(Message::NewTable, NLM_F_CREATE, |out| text(out, 1, table));
    }

    /// Removes the table and all that is in it.
    pub fn drop_table(&mut self, table: &str) {
        self.push(Message::DelTable, 0, |out| text(out, 1, table));
    }

    /// Makes a chain that rewrites addresses, where it is not there.
    pub fn nat_chain(&mut self, table: &str, chain: Chain) {
        self.push(Message::NewChain, NLM_F_CREATE, |out| {
            text(out, 1, table);
            text(out, 3, chain.name);
            nest(out, 4, |out| {
                number(out, 1, chain.hook);
                number(out, 2, chain.priority as u32);
            });
            text(out, 7, "nat");
        });
    }

    /// Appends a rule to a chain.
    pub fn rule(&mut self, table: &str, chain: &str, comment: &str, steps: &[Step]) {
        const APPEND: u16 = netlink_packet_core::NLM_F_APPEND;
        self.push(Message::NewRule, NLM_F_CREATE | APPEND, |out| {
            text(out, 1, table);
            text(out, 2, chain);
            nest(out, 4, |out| steps.iter().for_each(|step| step.write(out)));
            // nft(8) shows a comment that is noted as type 0, length, zero-ended text.
            let mut note = vec![0, (comment.len() + 1) as u8];
            note.extend(comment.bytes());
            note.push(0);
            attribute(out, 7, &note);
        });
    }

    /// Removes a rule.
    pub fn drop_rule(&mut self, table: &str, rule: &Rule) {
        self.push(Message::DelRule, 0, |out| {
            text(out, 1, table);
            text(out, 2, &rule.chain);
            attribute(out, 3, &rule.handle.to_be_bytes());
        });
    }
}

/// A socket that speaks of the namespace it was opened in.
pub struct Nft {
    socket: Socket,
    sequence: u32,
}

impl fmt::Debug for Nft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nft").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Nft {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// What socket(2), bind(2) and connect(2) say; `EPROTONOSUPPORT` where the kernel has no
    /// netfilter netlink.
    pub fn open() -> io::Result<Nft> {
        Ok(Nft { socket: super::open(NETLINK_NETFILTER)?, sequence: 0 })
    }

    /// Appends a message: netlink's header, netfilter's, and the attributes. Its sequence.
    fn message(
        &mut self,
        out: &mut Vec<u8>,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        body: &[u8],
    ) -> u32 {
        self.sequence += 1;
        let length = (HEADER_BYTES + 4 + body.len()) as u32;
        out.extend(length.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend(self.sequence.to_ne_bytes());
        out.extend([0; 4]);
        out.extend([family, 0]);
        out.extend(resource.to_be_bytes());
        out.extend(body);
        self.sequence
    }

    fn ask(
        &mut self,
        message: Message,
        flags: u16,
        body: &[u8],
        mut answer: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut request = Vec::new();
        let kind = SUBSYSTEM << 8 | message as u16;
        let sequence = self.message(&mut request, kind, flags, INET, 0, body);
        super::ask(&self.socket, &request, sequence, |_, payload| {
            answer(payload.get(4..).unwrap_or_default());
        })
    }

    /// The number of the last change to any table of the namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn generation(&mut self) -> io::Result<u32> {
        let mut generation = 0;
        self.ask(Message::GetGeneration, NLM_F_ACK, &[], |payload| {
            let id = attributes(payload).find(|(kind, _)| *kind == 1);
            generation = id.and_then(|(_, id)| u32_at(id, 0)).map_or(0, u32::from_be);
        })?;
        Ok(generation)
    }

    /// The rules of `table`; none where there is no such table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn rules(&mut self, table: &str) -> io::Result<Vec<Rule>> {
        let mut question = Vec::new();
        text(&mut question, 1, table);
        let mut rules = Vec::new();
        let answer = self.ask(Message::GetRule, NLM_F_DUMP, &question, |payload| {
            let mut rule = Rule { chain: String::new(), handle: 0, comment: String::new() };
            let mut of = String::new();
            for (kind, value) in attributes(payload) {
                match kind {
                    1 => of = zero_ended(value),
                    2 => rule.chain = zero_ended(value),
                    3 => rule.handle = value.try_into().map_or(0, u64::from_be_bytes),
                    7 => rule.comment = zero_ended(value.get(2..).unwrap_or_default()),
                    _ => {}
                }
            }
            if of == table {
                rules.push(rule);
            }
        });
        match answer {
            Err(e) if e.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(Vec::new()),
            other => other.map(|()| rules),
        }
    }

    /// Makes the changes of `batch`, if nothing has changed since `generation`.
    ///
    /// # Errors
    /// `ERESTART` when something has; what the kernel says of the first change that it refuses, and
    /// then nothing is changed.
    pub fn commit(&mut self, batch: &Batch, generation: Option<u32>) -> io::Result<()> {
        let mut request = Vec::new();
        let mut since = Vec::new();
        if let Some(generation) = generation {
            number(&mut since, 1, generation);
        }
        let begin = self.message(&mut request, BATCH_BEGIN, 0, 0, SUBSYSTEM, &since);
        let mut last = begin;
        for (kind, flags, body) in &batch.0 {
            last = self.message(&mut request, *kind, flags | NLM_F_ACK, INET, 0, body);
        }
        self.message(&mut request, BATCH_END, 0, 0, SUBSYSTEM, &[]);
        self.socket.send(&request, 0)?;
        self.outcome(begin, last)
    }

    /// Gathers the answers to the messages from `begin` to `last`. Each is answered, good or bad,
    /// unless the batch itself is refused.
    fn outcome(&self, begin: u32, last: u32) -> io::Result<()> {
        let mut failure = None;
        let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            for frame in frames(&buffer) {
                let errno = -(u32_at(frame.payload, 0).unwrap_or(0) as i32);
                if errno != 0 {
                    failure.get_or_insert_with(|| io::Error::from_raw_os_error(errno));
                }
                if frame.sequence == last || (frame.sequence == begin && errno != 0) {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }
}

fn zero_ended(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}
