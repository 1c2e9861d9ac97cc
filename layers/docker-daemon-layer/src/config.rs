//! What the daemon is told when it starts.

use std::{net::IpAddr, path::PathBuf};

use hops::{HopError, Result};

/// The daemon's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// What outlives a reboot: containers, their logs, volumes.
    pub data_root: PathBuf,
    /// What does not: fifos, network namespaces.
    pub exec_root: PathBuf,
    /// The containerd namespace that the containers stand in.
    pub namespace: String,
    /// The containerd runtime that runs them.
    pub runtime: String,
    /// The containerd snapshotter that their root filesystems come from.
    pub snapshotter: String,
    /// The bridge of the network `bridge`; `None` when there is no such network.
    pub bridge: Option<Bridge>,
    /// The cgroup under which containers stand that name no other.
    pub cgroup_parent: String,
    /// Whether debugging was asked for; only told, by `info`.
    pub debug: bool,
}

/// The network `bridge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The interface's name on the host.
    pub name: String,
    /// Its address, which is the containers' gateway.
    pub gateway: IpAddr,
    /// The length of its subnet's prefix.
    pub prefix: u8,
}

impl Default for Bridge {
    /// Docker's first choice, under a name that a real Docker on the host does not use.
    fn default() -> Bridge {
        Bridge { name: "strata-docker0".to_owned(), gateway: [172, 17, 0, 1].into(), prefix: 16 }
    }
}

impl Bridge {
    /// The bridge of `--bridge` and `--bip`; `none` is no bridge.
    ///
    /// # Errors
    /// dockerd's words for an address that is not in CIDR form.
    pub fn of(name: Option<&str>, bip: Option<&str>) -> Result<Option<Bridge>> {
        let mut bridge = Bridge::default();
        match name {
            Some("none") => return Ok(None),
            Some(name) if !name.is_empty() => bridge.name = name.to_owned(),
            _ => {}
        }
        if let Some(bip) = bip {
            let invalid = || HopError::invalid(format!("invalid CIDR address: {bip}"));
            let (address, prefix) = bip.split_once('/').ok_or_else(invalid)?;
            bridge.gateway = address.parse().map_err(|_| invalid())?;
            bridge.prefix = prefix.parse().map_err(|_| invalid())?;
            let longest = if bridge.gateway.is_ipv4() { 30 } else { 126 };
            if bridge.prefix > longest {
                return Err(invalid());
            }
        }
        Ok(Some(bridge))
    }

    /// The subnet in CIDR form.
    pub fn subnet(&self) -> String {
        let network = match self.gateway {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::from((u32::from(v4) & mask).to_be_bytes())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::from((u128::from(v6) & mask).to_be_bytes())
            }
        };
        format!("{network}/{}", self.prefix)
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data_root: "/var/lib/strata/docker".into(),
            exec_root: "/run/strata/docker".into(),
            namespace: "moby".to_owned(),
            runtime: "io.containerd.strata.v2".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            bridge: Some(Bridge::default()),
            cgroup_parent: "/docker".to_owned(),
            debug: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_named_addressed_or_absent() {
        assert_eq!(Bridge::of(Some("none"), None).unwrap(), None);
        let bridge = Bridge::of(Some("br0"), Some("10.1.2.1/24")).unwrap().unwrap();
        assert_eq!((bridge.name.as_str(), bridge.subnet().as_str()), ("br0", "10.1.2.0/24"));
        assert!(Bridge::of(None, Some("10.1.2.1")).is_err());
    }
}
