//! Addresses with a prefix length, as CNI writes them: `10.88.0.2/16`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An address and the length of its network's prefix, in bits. The address keeps its host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// The address.
    pub ip: IpAddr,
    /// Length of the network part: 0–32 bits for IPv4, 0–128 for IPv6.
    pub prefix: u8,
}

impl Cidr {
    /// The default route's destination in the family of `ip`.
    pub fn any_like(ip: IpAddr) -> Cidr {
        match ip {
            IpAddr::V4(_) => Cidr { ip: Ipv4Addr::UNSPECIFIED.into(), prefix: 0 },
            IpAddr::V6(_) => Cidr { ip: Ipv6Addr::UNSPECIFIED.into(), prefix: 0 },
        }
    }

    /// The number of bits of an address in this family.
    pub fn width(&self) -> u8 {
        width(self.ip)
    }

    /// The network's first address, all host bits zero.
    pub fn first(&self) -> IpAddr {
        same_family(self.ip, bits(self.ip) & self.mask())
    }

    /// The network's last address, all host bits one: the broadcast address of an IPv4 network.
    pub fn last(&self) -> IpAddr {
        same_family(self.ip, bits(self.ip) & self.mask() | !self.mask() & family_mask(self.ip))
    }

    /// The same prefix on the network's own address.
    pub fn network(&self) -> Cidr {
        Cidr { ip: self.first(), prefix: self.prefix }
    }

    /// Whether `ip` is in this network; never for an address of the other family.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && bits(ip) & self.mask() == bits(self.ip) & self.mask()
    }

    /// The network mask as an address.
    pub fn netmask(&self) -> IpAddr {
        same_family(self.ip, self.mask())
    }

    fn mask(&self) -> u128 {
        let host = u32::from(self.width() - self.prefix);
        family_mask(self.ip) & u128::MAX.checked_shl(host).unwrap_or(0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Cidr, String> {
        let invalid = || format!("invalid CIDR address: {text}");
        let (ip, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let ip: IpAddr = ip.parse().map_err(|_| invalid())?;
        let prefix = prefix.parse().ok().filter(|p| *p <= width(ip)).ok_or_else(invalid)?;
        Ok(Cidr { ip, prefix })
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Cidr, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn family_mask(ip: IpAddr) -> u128 {
    if ip.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn same_family(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        // The callers' masks and steps keep an IPv4 value within 32 bits.
        IpAddr::V4(_) => Ipv4Addr::from(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(bits).into(),
    }
}

/// The address after `ip`, wrapping around at the end of the family.
pub fn next(ip: IpAddr) -> IpAddr {
    same_family(ip, bits(ip).wrapping_add(1) & family_mask(ip))
}

/// The address before `ip`, wrapping around at the start of the family.
pub fn previous(ip: IpAddr) -> IpAddr {
    same_family(ip, bits(ip).wrapping_sub(1) & family_mask(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_a_network() {
        for (text, first, last) in [
            ("10.1.2.3/24", "10.1.2.0", "10.1.2.255"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/0", "0.0.0.0", "255.255.255.255"),
            ("fd00::5/126", "fd00::4", "fd00::7"),
            ("::1/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(cidr.first().to_string(), first, "{text}");
            assert_eq!(cidr.last().to_string(), last, "{text}");
            assert_eq!(cidr.to_string(), text);
            assert!(cidr.contains(cidr.last()));
        }
        let net: Cidr = "10.1.2.0/24".parse().unwrap();
        assert!(!net.contains("10.1.3.0".parse().unwrap()));
        assert!(!net.contains("::ffff:10.1.2.1".parse().unwrap()));
    }

    #[test]
    fn malformed_text_is_refused() {
        for bad in ["", "10.0.0.1", "10.0.0.1/33", "10.0.0/8", "fd00::/129", "x/8", "10.0.0.1/-1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn steps_cross_octets_and_wrap() {
        assert_eq!(next("10.0.0.255".parse().unwrap()).to_string(), "10.0.1.0");
        assert_eq!(previous("0.0.0.0".parse().unwrap()).to_string(), "255.255.255.255");
        assert_eq!(next("fd00::ffff".parse().unwrap()).to_string(), "fd00::1:0");
    }
}
