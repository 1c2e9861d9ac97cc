//! `loopback`: the namespace's own `lo`, up.

use hops::cni::{Attached, Interface, Ip};
use wire::cni::error::{CniError, Doing, Result};

use crate::{
    call::Call,
    engine::Plugin,
    netlink::route::{Change, Link, Rtnl},
};

/// The plugin.
pub(crate) struct Loopback;

/// The name of the loopback link in every namespace; `CNI_IFNAME` is not asked.
const LO: &str = "lo";

fn lo(net: &mut Rtnl) -> Result<Link> {
    let link = net.link_by_name(LO).doing("get lo")?;
    link.ok_or_else(|| CniError::internal("Link not found"))
}

fn set(up: bool) -> impl FnOnce() -> Result<Attached> {
    move || {
        let mut net = Rtnl::open().doing("open netlink socket")?;
        let link = lo(&mut net)?;
        if link.up != up {
            let change = Change { up: Some(up), ..Change::default() };
            net.change_link(link.index, change).doing("set lo")?;
        }
        // The kernel gives 127.0.0.1 and ::1 to a loopback when it comes up.
        let ips =
            if up { net.addresses(link.index).doing("list addresses of lo")? } else { vec![] };
        Ok(Attached {
            interfaces: vec![Interface {
                name: LO.to_owned(),
                mac: link.mac.to_string(),
                sandbox: String::new(),
            }],
            ips: ips
                .into_iter()
                .map(|ip| Ip { address: ip.to_string(), gateway: None, interface: Some(0) })
                .collect(),
            ..Attached::default()
        })
    }
}

impl Plugin for Loopback {
    fn add(&self, call: &Call<'_>) -> Result<Attached> {
        let netns = call.netns()?;
        let mut own = netns.run(set(true))?;
        if let Some(prev) = &call.prev {
            // In a chain the result is the earlier plugins'.
            return Ok(prev.clone());
        }
        own.cni_version.clone_from(&call.version);
        for interface in &mut own.interfaces {
            interface.sandbox = netns.path().display().to_string();
        }
        Ok(own)
    }

    fn del(&self, call: &Call<'_>) -> Result<()> {
        match call.netns_if_any()? {
            Some(netns) => netns.run(set(false)).map(drop),
            None => Ok(()),
        }
    }

    fn check(&self, call: &Call<'_>) -> Result<()> {
        let up = call.netns()?.run(|| {
            let mut net = Rtnl::open().doing("open netlink socket")?;
            Ok(lo(&mut net)?.up)
        })?;
        if up { Ok(()) } else { Err(CniError::internal("loopback interface is down")) }
    }
}
