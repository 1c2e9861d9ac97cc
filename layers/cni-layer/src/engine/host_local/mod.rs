//! `host-local`: addresses out of ranges, remembered on this host's disk.

mod range;
mod store;

use std::{fs, net::IpAddr, path::PathBuf};

use hops::cni::{Attached, Dns, Ip, Route};
use serde::Deserialize;
use serde_json::Value;
use wire::cni::{
    addr::Cidr,
    error::{CniError, Doing, Result, code},
};

use self::{
    range::{RangeConfig, RangeSet},
    store::{Holder, Store},
};
use crate::{call::Call, engine::Plugin};

/// Where the reference plugin keeps its leases.
const DATA_DIR: &str = "/var/lib/cni/networks";
/// What 1.1.0 lets a route say beyond destination and gateway; none of it is done here.
const ROUTE_ATTRIBUTES: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

/// The plugin.
pub(crate) struct HostLocal;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    ipam: Config,
    #[serde(default)]
    args: Args,
    #[serde(default)]
    runtime_config: Runtime,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    #[serde(flatten)]
    range: RangeConfig,
    ranges: Vec<Vec<RangeConfig>>,
    routes: Vec<Value>,
    data_dir: Option<PathBuf>,
    resolv_conf: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Args {
    cni: Option<Asked>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    ips: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Runtime {
    ips: Vec<String>,
    ip_ranges: Vec<Vec<RangeConfig>>,
}

/// The configuration, checked.
struct Pool {
    data_dir: PathBuf,
    sets: Vec<RangeSet>,
    asked: Vec<IpAddr>,
    routes: Vec<Route>,
    resolv_conf: Option<PathBuf>,
}

impl Pool {
    fn read(call: &Call<'_>) -> Result<Pool> {
        let network: Network = call.config()?;
        let config = network.ipam;
        let mut sets = Vec::new();
        if config.range.subnet.is_some() {
            sets.push(vec![config.range]);
        }
        sets.extend(config.ranges);
        sets.extend(network.runtime_config.ip_ranges);
        if sets.is_empty() {
            return Err(CniError::invalid("no IP ranges specified"));
        }
        let sets = (sets.iter().enumerate())
            .map(|(at, set)| {
                RangeSet::new(set).map_err(|e| e.context(format_args!("invalid range set {at}")))
            })
            .collect::<Result<Vec<_>>>()?;
        for (at, set) in sets.iter().enumerate() {
            if let Some(other) = (at + 1..sets.len()).find(|other| set.overlaps(&sets[*other])) {
                return Err(CniError::invalid(format!("range set {at} overlaps with {other}")));
            }
        }
        let mut asked = Vec::new();
        let by_args = network.args.cni.unwrap_or_default().ips;
        for text in call
            .arg("IP")
            .into_iter()
            .chain(by_args.iter().chain(&network.runtime_config.ips).map(String::as_str))
        {
            let bare = text.split('/').next().unwrap_or_default();
            asked.push(bare.parse().map_err(|_| {
                CniError::invalid(format!("requested IP {text:?} is not an IP address"))
            })?);
        }
        Ok(Pool {
            data_dir: config.data_dir.unwrap_or_else(|| DATA_DIR.into()),
            sets,
            asked,
            routes: config.routes.iter().map(route).collect::<Result<_>>()?,
            resolv_conf: config.resolv_conf,
        })
    }

    /// Takes one address of each set into `leases`, which on failure holds those to give back.
    fn lease_all(
        &mut self,
        store: &Store,
        holder: &Holder<'_>,
        leases: &mut Vec<(Cidr, IpAddr)>,
    ) -> Result<()> {
        let held = store.held_by(holder)?;
        for at in 0..self.sets.len() {
            let lease = self.lease(at, store, holder, &held);
            leases.push(
                lease.map_err(|e| e.context(format_args!("failed to allocate for range {at}")))?,
            );
        }
        if self.asked.is_empty() {
            return Ok(());
        }
        let asked: Vec<_> = self.asked.iter().map(IpAddr::to_string).collect();
        let asked = asked.join(" ");
        Err(CniError::internal(format!("failed to allocate all requested IPs: {asked}")))
    }

    /// Takes one address of set number `at`: an asked one that is in it, or the next
    /// free one after the last given.
    fn lease(
        &mut self,
        at: usize,
        store: &Store,
        holder: &Holder<'_>,
        held: &[IpAddr],
    ) -> Result<(Cidr, IpAddr)> {
        let set = &self.sets[at];
        if let Some(ip) = held.iter().find(|ip| set.range_of(**ip).is_some()) {
            return Err(CniError::internal(format!(
                "{ip} has been allocated to {}, duplicate allocation is not allowed",
                holder.container
            )));
        }
        if let Some(place) = self.asked.iter().position(|ip| set.range_of(*ip).is_some()) {
            let ip = self.asked.remove(place);
            // The search above found its range.
            let range = set.range_of(ip).ok_or_else(|| CniError::internal("no range"))?;
            if ip == range.gateway {
                return Err(CniError::invalid(format!("requested ip {ip} is subnet's gateway")));
            }
            if !store.reserve(holder, ip, at)? {
                return Err(CniError::internal(format!(
                    "requested IP address {ip} is not available in range set {}",
                    shown(set)
                )));
            }
            return Ok((Cidr { ip, prefix: range.subnet.prefix }, range.gateway));
        }
        for (ip, range) in set.after(store.last(at)) {
            if ip != range.gateway && store.reserve(holder, ip, at)? {
                return Ok((Cidr { ip, prefix: range.subnet.prefix }, range.gateway));
            }
        }
        Err(CniError::internal(format!("no IP addresses available in range set: {}", shown(set))))
    }
}

fn shown(set: &RangeSet) -> String {
    let ranges = set.0.iter().map(|range| format!("{}-{}", range.start, range.end));
    ranges.collect::<Vec<_>>().join(",")
}

fn route(json: &Value) -> Result<Route> {
    if let Some(key) = ROUTE_ATTRIBUTES.iter().find(|key| json.get(**key).is_some()) {
        return Err(CniError::new(
            code::UNSUPPORTED_FIELD,
            format!("ipam.routes: {key:?} is not supported"),
        ));
    }
    let route: Route = serde_json::from_value(json.clone())
        .map_err(|e| CniError::new(code::DECODING, format!("ipam.routes: {e}")))?;
    route
        .dst
        .parse::<Cidr>()
        .map_err(|e| CniError::new(code::DECODING, format!("ipam.routes: {e}")))?;
    Ok(route)
}

/// Reads resolv.conf(5).
fn dns(path: &PathBuf) -> Result<Dns> {
    let text = fs::read_to_string(path).doing(format_args!("open {}", path.display()))?;
    let mut dns = Dns::default();
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or_default(),
            Some("search") => dns.search.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    Ok(dns)
}

impl Plugin for HostLocal {
    fn add(&self, call: &Call<'_>) -> Result<Attached> {
        let mut pool = Pool::read(call)?;
        let dns = pool.resolv_conf.as_ref().map(dns).transpose()?.unwrap_or_default();
        let holder = Holder { container: &call.of.container_id, link: &call.of.ifname };
        let store = Store::open(&pool.data_dir, &call.network)?;
        let mut leases = Vec::with_capacity(pool.sets.len());
        if let Err(error) = pool.lease_all(&store, &holder, &mut leases) {
            for (taken, _) in leases {
                // The failure itself is what the caller has to hear.
                let _ = store.release(taken.ip);
            }
            return Err(error);
        }
        let ips = leases.into_iter().map(|(address, gateway)| Ip {
            address: address.to_string(),
            gateway: Some(gateway),
            interface: None,
        });
        Ok(Attached {
            cni_version: call.version.clone(),
            ips: ips.collect(),
            routes: pool.routes,
            dns,
            ..Attached::default()
        })
    }

    fn del(&self, call: &Call<'_>) -> Result<()> {
        let pool = Pool::read(call)?;
        let holder = Holder { container: &call.of.container_id, link: &call.of.ifname };
        match Store::open_if_any(&pool.data_dir, &call.network)? {
            Some(store) => store.release_all(&holder),
            None => Ok(()),
        }
    }

    fn check(&self, call: &Call<'_>) -> Result<()> {
        let pool = Pool::read(call)?;
        let holder = Holder { container: &call.of.container_id, link: &call.of.ifname };
        let held = match Store::open_if_any(&pool.data_dir, &call.network)? {
            Some(store) => store.held_by(&holder)?,
            None => Vec::new(),
        };
        if held.is_empty() {
            return Err(CniError::internal(format!(
                "host-local: Failed to find address added by container {}",
                call.of.container_id
            )));
        }
        Ok(())
    }
}
