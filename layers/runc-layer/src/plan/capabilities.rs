//! Capability names (capabilities(7)) and the sets of a process.

use std::collections::BTreeSet;

use crate::{Result, spec, sys::credentials::CapabilitySets};

/// Names in the kernel's order: the index is the number.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The names, for `features`.
pub(crate) fn names() -> &'static [&'static str] {
    &NAMES
}

/// The sets of `process.capabilities`; none at all when it is absent. Unknown names are told to
/// `warn`, all at once, and left out, as runc does.
pub(super) fn sets(
    capabilities: Option<&spec::Capabilities>,
    warn: &mut dyn FnMut(String),
) -> Result<CapabilitySets> {
    let Some(c) = capabilities else { return Ok(CapabilitySets::default()) };
    let mut unknown = BTreeSet::new();
    let [bounding, effective, permitted, inheritable, ambient] =
        [&c.bounding, &c.effective, &c.permitted, &c.inheritable, &c.ambient].map(|list| {
            let mut bits = 0;
            for name in list {
                match NAMES.iter().position(|n| *n == name) {
                    Some(bit) => bits |= 1 << bit,
                    None => drop(unknown.insert(name.as_str())),
                }
            }
            bits
        });
    if !unknown.is_empty() {
        let names: Vec<&str> = unknown.into_iter().collect();
        warn(format!("ignoring unknown or unavailable capabilities: [{}]", names.join(" ")));
    }
    Ok(CapabilitySets { bounding, effective, permitted, inheritable, ambient })
}
