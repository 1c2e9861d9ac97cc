//! Which addresses of which networks may be given away.

use std::net::IpAddr;

use serde::Deserialize;

use wire::cni::{
    addr::{Cidr, next, previous},
    error::{CniError, Result},
};

/// A stretch of one network's addresses, as the configuration gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RangeConfig {
    /// The network.
    pub(crate) subnet: Option<Cidr>,
    /// The first address to give away; the network's second where none is named.
    pub(crate) range_start: Option<IpAddr>,
    /// The last address to give away; the network's last but the broadcast address.
    pub(crate) range_end: Option<IpAddr>,
    /// The address that is never given away; the network's second where none is named.
    pub(crate) gateway: Option<IpAddr>,
}

/// A stretch of one network's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: Cidr,
    pub(crate) start: IpAddr,
    pub(crate) end: IpAddr,
    pub(crate) gateway: IpAddr,
}

impl Range {
    /// Fills in what is not named and refuses what does not fit together. The words are the
    /// reference plugin's (host-local 1.1.1).
    pub(crate) fn new(config: &RangeConfig) -> Result<Range> {
        let subnet = config.subnet.ok_or_else(|| CniError::invalid("IPNet must be specified"))?;
        if subnet.prefix > subnet.width() - 2 {
            return Err(CniError::invalid(format!("Network {subnet} too small to allocate from")));
        }
        if subnet.ip != subnet.first() {
            return Err(CniError::invalid(format!(
                "Network has host bits set. For a subnet mask of length {} the network address is {}",
                subnet.prefix,
                subnet.first()
            )));
        }
        let second = next(subnet.first());
        let gateway = config.gateway.unwrap_or(second);
        let start = config.range_start.unwrap_or(second);
        let end = config.range_end.unwrap_or(match subnet.last() {
            last @ IpAddr::V4(_) => previous(last),
            last => last,
        });
        let range = Range { subnet, start, end, gateway };
        if config.range_start.is_some() && !range.holds(start) {
            return Err(CniError::invalid(format!("RangeStart {start} not in network {subnet}")));
        }
        if config.range_end.is_some() && !range.holds(end) {
            return Err(CniError::invalid(format!("RangeEnd {end} not in network {subnet}")));
        }
        if start > end {
            return Err(CniError::invalid(format!("RangeStart {start} is after RangeEnd {end}")));
        }
        Ok(range)
    }

    /// Whether `ip` is one of the network's, whether or not it is given away.
    fn holds(&self, ip: IpAddr) -> bool {
        self.subnet.contains(ip)
    }

    /// Whether `ip` may be given away, the gateway included.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.start.is_ipv4() && self.start <= ip && ip <= self.end
    }

    /// Whether two ranges share an address.
    pub(crate) fn overlaps(&self, other: &Range) -> bool {
        other.contains(self.start) || self.contains(other.start)
    }
}

/// Ranges of one family, of which a container is given one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeSet(pub(crate) Vec<Range>);

impl RangeSet {
    pub(crate) fn new(configs: &[RangeConfig]) -> Result<RangeSet> {
        let ranges = configs.iter().map(Range::new).collect::<Result<Vec<_>>>()?;
        let Some(first) = ranges.first() else {
            return Err(CniError::invalid("empty range set"));
        };
        if ranges.iter().any(|r| r.start.is_ipv4() != first.start.is_ipv4()) {
            return Err(CniError::invalid("mixed address families"));
        }
        for (at, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[at + 1..].iter().find(|other| range.overlaps(other)) {
                return Err(CniError::invalid(format!(
                    "subnets {}-{} and {}-{} overlap",
                    range.start, range.end, other.start, other.end
                )));
            }
        }
        Ok(RangeSet(ranges))
    }

    /// The range that may give away `ip`.
    pub(crate) fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    pub(crate) fn overlaps(&self, other: &RangeSet) -> bool {
        self.0.iter().any(|range| other.0.iter().any(|o| range.overlaps(o)))
    }

    /// Every address, each with its range, once: from the one after `last` on, around to `last`.
    pub(crate) fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        let whole = |range: &'_ Range| (range.start, range.end);
        let begun = last.and_then(|ip| Some((ip, self.0.iter().position(|r| r.contains(ip))?)));
        let mut stretches = Vec::with_capacity(self.0.len() + 1);
        match begun {
            None => stretches.extend(self.0.iter().map(|range| (whole(range), range))),
            Some((last, at)) => {
                let (before, from) = self.0.split_at(at);
                let split = &from[0];
                if last != split.end {
                    stretches.push(((next(last), split.end), split));
                }
                let rest = from[1..].iter().chain(before);
                stretches.extend(rest.map(|range| (whole(range), range)));
                stretches.push(((split.start, last), split));
            }
        }
        stretches.into_iter().flat_map(|((start, end), range)| {
            std::iter::successors(Some(start), move |ip| (*ip != end).then(|| next(*ip)))
                .map(move |ip| (ip, range))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str, start: Option<&str>, end: Option<&str>) -> RangeConfig {
        let ip = |text: &str| text.parse().unwrap();
        RangeConfig {
            subnet: Some(subnet.parse().unwrap()),
            range_start: start.map(ip),
            range_end: end.map(ip),
            gateway: None,
        }
    }

    #[test]
    fn what_is_not_named_is_filled_in() {
        let v4 = Range::new(&range("10.1.2.0/24", None, None)).unwrap();
        assert_eq!(v4.start.to_string(), "10.1.2.1");
        assert_eq!(v4.end.to_string(), "10.1.2.254");
        assert_eq!(v4.gateway.to_string(), "10.1.2.1");
        let v6 = Range::new(&range("fd00::/120", None, None)).unwrap();
        assert_eq!(v6.end.to_string(), "fd00::ff");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (config, want) in [
            (RangeConfig::default(), "IPNet must be specified"),
            (range("10.0.0.0/31", None, None), "Network 10.0.0.0/31 too small to allocate from"),
            (
                range("10.0.0.7/24", None, None),
                "Network has host bits set. For a subnet mask of length 24 the network address is 10.0.0.0",
            ),
            (
                range("10.0.0.0/24", Some("10.1.0.1"), None),
                "RangeStart 10.1.0.1 not in network 10.0.0.0/24",
            ),
            (
                range("10.0.0.0/24", None, Some("fd00::1")),
                "RangeEnd fd00::1 not in network 10.0.0.0/24",
            ),
            (
                range("10.0.0.0/24", Some("10.0.0.9"), Some("10.0.0.3")),
                "RangeStart 10.0.0.9 is after RangeEnd 10.0.0.3",
            ),
        ] {
            assert_eq!(Range::new(&config).unwrap_err().msg, want);
        }
        let twice = [range("10.0.0.0/24", None, None), range("10.0.0.0/16", None, None)];
        assert!(RangeSet::new(&twice).unwrap_err().msg.ends_with("overlap"));
        let mixed = [range("10.0.0.0/24", None, None), range("fd00::/64", None, None)];
        assert_eq!(RangeSet::new(&mixed).unwrap_err().msg, "mixed address families");
    }

    #[test]
    fn the_walk_goes_around_once() {
        let set = RangeSet::new(&[
            range("10.0.0.0/29", Some("10.0.0.2"), Some("10.0.0.3")),
            range("10.0.1.0/29", Some("10.0.1.5"), Some("10.0.1.6")),
        ])
        .unwrap();
        let walk = |last: Option<&str>| {
            let ips = set.after(last.map(|ip| ip.parse().unwrap()));
            ips.map(|(ip, _)| ip.to_string()[5..].to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(walk(None), "0.2 0.3 1.5 1.6");
        assert_eq!(walk(Some("10.0.0.2")), "0.3 1.5 1.6 0.2");
        assert_eq!(walk(Some("10.0.0.3")), "1.5 1.6 0.2 0.3");
        assert_eq!(walk(Some("10.0.1.6")), "0.2 0.3 1.5 1.6");
        assert_eq!(walk(Some("10.9.9.9")), "0.2 0.3 1.5 1.6");
    }
}
