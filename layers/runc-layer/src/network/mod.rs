//! The host's network devices that a container is given (`linux.netDevices`, runtime-spec 1.3,
//! "Network Devices").
//!
//! They are moved, not copied: a device is the container's until the namespace ends, when the
//! kernel destroys a virtual one and gives a physical one back.

mod netlink;

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
};

use crate::{Error, Result, plan::c_string, spec::NetDevice, sys::Errno, sys::file};
use netlink::Netlink;

const IFA_F_PERMANENT: u32 = 0x80;

/// Moves `devices` to the network namespace of the file `path`, with their global addresses, and
/// takes them up. The texts are runc's.
///
/// # Errors
///
/// [`Error::Start`] for a device that is missing, a name that is taken, and what else the kernel
/// refuses. Devices that were moved before it stay moved.
pub(crate) fn move_devices(devices: &BTreeMap<String, NetDevice>, path: &str) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let namespace = file::open(&c_string("linux.namespaces", path)?, libc::O_RDONLY)
        .map_err(|e| Error::Start(format!("open {path}: {e}")))?;
    for (name, device) in devices {
        let new_name = if device.name.is_empty() { name } else { &device.name };
        move_device(name, new_name, namespace.as_fd(), path).map_err(|reason| {
            Error::Start(format!(
                "error creating network interfaces: move netDevice {name} to namespace {path}: {reason}"
            ))
        })?;
    }
    Ok(())
}

fn move_device(
    name: &str,
    new_name: &str,
    namespace: BorrowedFd<'_>,
    path: &str,
) -> std::result::Result<(), String> {
    let handle = |e: Errno| format!("could not get network namespace handle: {e}");
    let mut here = Netlink::open().map_err(handle)?;
    let link = here.link(name).map_err(|e| {
        let e = if e == Errno::NODEV { "Link not found".to_owned() } else { e.to_string() };
        format!("link not found for interface {name} on runtime namespace: {e}")
    })?;
    // Before it is down, when the kernel forgets those of IPv6.
    let addresses =
        here.addresses(link.index).map_err(|e| format!("fail to get ip addresses: {e}"))?;
    // Not to be used any more under the old name by the time that it has the new one.
    here.set_up(link.index, false).map_err(|e| format!("fail to set link down: {e}"))?;
    if let Err(e) = here.give(link.index, namespace, new_name) {
        if link.flags & libc::IFF_UP as u32 != 0 {
            // It is still the host's, which had it up.
            let _ = here.set_up(link.index, true);
        }
        return Err(format!("fail to move network device {name} to network namespace {path}: {e}"));
    }
    let mut there = Netlink::open_in(namespace).map_err(handle)?;
    let link = there.link(new_name).map_err(|e| {
        format!("link not found for interface {new_name} on namespace {path} : {e}")
    })?;
    // What came by DHCP or autoconfiguration, or holds for the link alone, was for the place that
    // the device has left.
    for address in addresses.iter().filter(|a| a.flags & IFA_F_PERMANENT != 0 && a.scope == 0) {
        there.add_address(link.index, address).map_err(|e| {
            format!("fail to set up address {} on namespace {path}: {e}", address.text())
        })?;
    }
    there
        .set_up(link.index, true)
        .map_err(|e| format!("fail to set up interface {new_name} on namespace {path}: {e}"))
}
