//! Which capabilities a container's process has (moby's `oci/caps`).

use hops::{HopError, Result};

/// Every capability, by number (capability.h).
const ALL: [&str; 41] = [
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

/// What Docker gives a container that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The capabilities that this daemon itself could hold: a container asked to have all of them gets
/// these, since what is missing here can be given to nobody.
fn available() -> Vec<String> {
    let bounding = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    let bounding = bounding.unwrap_or(u64::MAX);
    let named = ALL.iter().enumerate().filter(|(number, _)| bounding >> number & 1 == 1);
    named.map(|(_, name)| (*name).to_owned()).collect()
}

fn normal(names: Option<&Vec<String>>) -> Result<Vec<String>> {
    names
        .into_iter()
        .flatten()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            if upper == "ALL" {
                return Ok(upper);
            }
            let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            if ALL.contains(&full.as_str()) {
                return Ok(full);
            }
            Err(HopError::invalid(format!("invalid CapAdd: unknown capability: \"{name}\"")))
        })
        .collect()
}

/// The container's capabilities.
///
/// # Errors
/// Docker's words for a name that is no capability.
pub(crate) fn of(
    add: Option<&Vec<String>>,
    drop: Option<&Vec<String>>,
    privileged: bool,
) -> Result<Vec<String>> {
    let (add, drop) = (normal(add)?, normal(drop)?);
    if privileged {
        return Ok(available());
    }
    let all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let mut have: Vec<String> = match (all(&add), all(&drop)) {
        (true, _) => available(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT.iter().map(|name| (*name).to_owned()).collect(),
    };
    if !all(&drop) {
        have.retain(|name| !drop.contains(name));
    }
    for name in add {
        if name != "ALL" && !have.contains(&name) {
            have.push(name);
        }
    }
    Ok(have)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn adding_and_dropping() {
        let none = of(None, Some(&list(&["all"])), false).unwrap();
        assert_eq!(none, list(&[]));
        let one = of(Some(&list(&["net_admin"])), Some(&list(&["ALL"])), false).unwrap();
        assert_eq!(one, list(&["CAP_NET_ADMIN"]));
        let fewer = of(None, Some(&list(&["CAP_MKNOD"])), false).unwrap();
        assert_eq!(fewer.len(), DEFAULT.len() - 1);
        assert!(of(Some(&list(&["x"])), None, false).unwrap_err().message.contains("unknown"));
    }
}
