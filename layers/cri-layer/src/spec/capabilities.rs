//! Which capabilities a container's process has.

use std::{fs, str::FromStr, sync::LazyLock};

use hops::{HopError, Result, proto::runtime::v1::Capability as Wanted};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// What a container has that asks for nothing (containerd 1.6, which has it from Docker).
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Every capability by the kernel's number (capability.h).
const NUMBERED: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What "all" means: what this process itself may give.
static OWN: LazyLock<Capabilities> = LazyLock::new(|| {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bits = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(u64::MAX);
    NUMBERED.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, c)| *c).collect()
});

/// The capabilities of a container that asks for `wanted`.
///
/// # Errors
/// `InvalidArgument` for a name that no capability has.
pub(crate) fn of(wanted: Option<&Wanted>, privileged: bool) -> Result<LinuxCapabilities> {
    let mut base: Capabilities = if privileged { OWN.clone() } else { DEFAULT.into() };
    let mut ambient = Capabilities::new();
    if let Some(wanted) = wanted {
        let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
        if all(&wanted.add_capabilities) {
            base.clone_from(&OWN);
        }
        if all(&wanted.drop_capabilities) {
            base.clear();
        }
        base.extend(parse(&wanted.add_capabilities)?);
        for dropped in parse(&wanted.drop_capabilities)? {
            base.remove(&dropped);
        }
        ambient.extend(parse(&wanted.add_ambient_capabilities)?);
        base.extend(&ambient);
    }
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(base.clone()))
        .set_effective(Some(base.clone()))
        .set_permitted(Some(base))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    Ok(sets)
}

fn parse(names: &[String]) -> Result<Vec<Capability>> {
    let named = names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
    let parsed = named.map(|name| {
        let upper = name.to_uppercase();
        Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper))
            .map_err(|_| HopError::invalid(format!("unknown capability \"CAP_{upper}\"")))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounding(add: &[&str], drop: &[&str]) -> Result<Capabilities> {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let wanted = Wanted {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            ..Default::default()
        };
        Ok(of(Some(&wanted), false)?.bounding().clone().unwrap())
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        assert_eq!(bounding(&[], &[]).unwrap(), DEFAULT.into());
        assert!(bounding(&["NET_ADMIN"], &[]).unwrap().contains(&Capability::NetAdmin));
        assert!(bounding(&["cap_sys_time"], &[]).unwrap().contains(&Capability::SysTime));
        assert!(!bounding(&[], &["CHOWN"]).unwrap().contains(&Capability::Chown));
        assert_eq!(bounding(&["KILL"], &["ALL"]).unwrap(), [Capability::Kill].into());
        assert_eq!(bounding(&["ALL"], &[]).unwrap(), *OWN);
        assert_eq!(bounding(&["FLY"], &[]).unwrap_err().message, "unknown capability \"CAP_FLY\"");
    }
}
