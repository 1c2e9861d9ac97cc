//! From a container's configuration to the runtime's `config.json`, as dockerd 20.10 writes it.

pub(crate) mod capabilities;
mod devices;
mod mounts;
mod resources;
pub(crate) mod rootfs;
mod seccomp;
pub(crate) mod user;

use std::path::{Path, PathBuf};

use hops::{HopError, Result};
use serde_json::{Map, Value, json};

pub(crate) use mounts::parse_bind;
pub(crate) use resources::{check, of as resources_of};

use crate::{cgroups::Cgroups, record::Record};

/// Paths in /proc and /sys that a container does not see.
pub(crate) const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Paths in /proc that a container does not write.
pub(crate) const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What is known only when the container starts.
pub(crate) struct Surroundings<'a> {
    /// Where /etc/hosts, /etc/hostname and /etc/resolv.conf are.
    pub(crate) files: &'a Path,
    /// The network namespace to join; `None` is a new one, or the host's in that mode.
    pub(crate) netns: Option<PathBuf>,
    /// The IPC namespace to join.
    pub(crate) ipcns: Option<PathBuf>,
    /// The pid namespace to join.
    pub(crate) pidns: Option<PathBuf>,
    /// The host directory to mount on /dev/shm.
    pub(crate) shm: Option<PathBuf>,
    /// The daemon's own cgroup for containers.
    pub(crate) cgroup_parent: &'a str,
    /// What the host has of cgroups.
    pub(crate) cgroups: Cgroups,
    /// The directories that make the root filesystem, topmost first.
    pub(crate) layers: &'a [PathBuf],
    /// The host name to set.
    pub(crate) hostname: &'a str,
}

/// What the security options say.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Security {
    pub(crate) no_new_privileges: bool,
    /// `None` is Docker's own profile; a null is unconfined.
    pub(crate) seccomp: Option<Value>,
    /// `systempaths=unconfined`.
    pub(crate) all_paths: bool,
}

impl Security {
    /// Reads `HostConfig.SecurityOpt`.
    ///
    /// # Errors
    /// Docker's words for an option it does not know, and for a profile that is no JSON.
    pub(crate) fn parse(options: Option<&Vec<String>>) -> Result<Security> {
        let mut security = Security::default();
        for option in options.into_iter().flatten() {
            if option == "no-new-privileges" {
                security.no_new_privileges = true;
                continue;
            }
            let invalid = || HopError::invalid(format!("invalid --security-opt 1: \"{option}\""));
            let (key, value) =
                option.split_once('=').or_else(|| option.split_once(':')).ok_or_else(invalid)?;
            match key {
                "no-new-privileges" => {
                    security.no_new_privileges = value.parse().map_err(|_| invalid())?;
                }
                "seccomp" if value == "unconfined" => security.seccomp = Some(Value::Null),
                "seccomp" => {
                    let profile = serde_json::from_str(value).map_err(|e| {
                        HopError::invalid(format!("Decoding seccomp profile failed: {e}"))
                    })?;
                    security.seccomp = Some(profile);
                }
                "systempaths" if value == "unconfined" => security.all_paths = true,
                // Labels and profiles of security modules: a host without the module has nothing
                // to apply them to, and dockerd ignores them there as well.
                "apparmor" | "label" => {}
                _ => {
                    return Err(HopError::invalid(format!(
                        "invalid --security-opt 2: \"{option}\""
                    )));
                }
            }
        }
        Ok(security)
    }
}

/// The environment of the container's processes: the daemon's additions, then the container's own.
pub(crate) fn environment(record: &Record, hostname: &str) -> Vec<String> {
    let own = record.config.env.clone().unwrap_or_default();
    let has = |key: &str| own.iter().any(|e| e.split('=').next() == Some(key));
    let mut environment = Vec::new();
    if !has("PATH") {
        environment
            .push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    if !has("HOSTNAME") {
        environment.push(format!("HOSTNAME={hostname}"));
    }
    if record.tty() && !has("TERM") {
        environment.push("TERM=xterm".to_owned());
    }
    // A variable without a value is taken out, not set to nothing.
    environment.extend(own.into_iter().filter(|e| e.contains('=')));
    environment
}

/// `config.json`.
///
/// # Errors
/// Those of the user, the capabilities, the devices and the security options.
pub(crate) fn build(record: &Record, around: &Surroundings<'_>) -> Result<Value> {
    let host = &record.host;
    let privileged = host.privileged == Some(true);
    let security = Security::parse(host.security_opt.as_ref())?;
    let capabilities = capabilities::of(host.cap_add.as_ref(), host.cap_drop.as_ref(), privileged)?;
    let identity = user::resolve(
        record.config.user.as_deref().unwrap_or(""),
        host.group_add.as_deref().unwrap_or_default(),
        &rootfs::read(around.layers, "/etc/passwd"),
        &rootfs::read(around.layers, "/etc/group"),
    )?;
    let cwd = match record.config.working_dir.as_deref() {
        None | Some("") => "/",
        Some(dir) => dir,
    };
    let mut process = json!({
        "terminal": record.tty(),
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups},
        "args": record.args,
        "env": environment(record, around.hostname),
        "cwd": cwd,
        "capabilities": process_capabilities(&capabilities, identity.uid),
        "noNewPrivileges": security.no_new_privileges,
        "oomScoreAdj": host.oom_score_adj.unwrap_or(0),
    });
    let rlimits = resources::rlimits(host.ulimits.as_deref().unwrap_or_default());
    if !rlimits.is_empty() {
        process["rlimits"] = Value::Array(rlimits);
    }
    let unconfined_paths = privileged || security.all_paths;
    let mut linux = json!({
        "resources": resources::of(host, privileged)?,
        "cgroupsPath": cgroup(record, around),
        "namespaces": namespaces(record, around),
        "devices": devices::nodes(host, privileged)?,
        "maskedPaths": if unconfined_paths { vec![] } else { MASKED.to_vec() },
        "readonlyPaths": if unconfined_paths { vec![] } else { READONLY.to_vec() },
        "sysctl": sysctls(record),
    });
    if around.cgroups == Cgroups::Unmounted {
        linux["resources"] = json!({});
        linux["cgroupsPath"] = Value::Null;
    }
    match security.seccomp {
        None if !privileged => linux["seccomp"] = seccomp::default_profile(&capabilities),
        Some(profile) if !profile.is_null() => linux["seccomp"] = profile,
        _ => {}
    }
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs == Some(true)},
        "mounts": mounts::of(record, around, privileged)?,
        "annotations": host.annotations.clone().unwrap_or_default(),
        "linux": linux,
    });
    if host.uts_mode.as_deref() != Some("host") {
        spec["hostname"] = json!(around.hostname);
    }
    Ok(spec)
}

/// The five sets: an ordinary user has none but by executing a file that has them.
pub(crate) fn process_capabilities(capabilities: &[String], uid: u32) -> Value {
    if uid == 0 {
        json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities})
    } else {
        json!({"bounding": capabilities})
    }
}

fn cgroup(record: &Record, around: &Surroundings<'_>) -> String {
    let parent = match record.host.cgroup_parent.as_deref() {
        None | Some("") => around.cgroup_parent,
        Some(parent) => parent,
    };
    format!("/{}/{}", parent.trim_matches('/'), record.id)
}

fn namespaces(record: &Record, around: &Surroundings<'_>) -> Vec<Value> {
    let host = &record.host;
    let is_host = |mode: &Option<String>| mode.as_deref() == Some("host");
    let mut list = vec![json!({"type": "mount"})];
    let mut add = |kind: &str, shared: bool, path: &Option<PathBuf>| {
        if let Some(path) = path {
            list.push(json!({"type": kind, "path": path}));
        } else if !shared {
            list.push(json!({"type": kind}));
        }
    };
    add("network", record.network_mode() == "host", &around.netns);
    add("uts", is_host(&host.uts_mode), &None);
    add("pid", is_host(&host.pid_mode), &around.pidns);
    add("ipc", is_host(&host.ipc_mode), &around.ipcns);
    let private = match host.cgroupns_mode.map(|mode| mode.to_string()).as_deref() {
        Some("private") => true,
        Some("host") => false,
        _ => around.cgroups == Cgroups::Unified,
    };
    add("cgroup", !private, &None);
    list
}

fn sysctls(record: &Record) -> Map<String, Value> {
    let mut sysctls = Map::new();
    if let Some(domain) = record.config.domainname.as_deref().filter(|d| !d.is_empty()) {
        sysctls.insert("kernel.domainname".to_owned(), json!(domain));
    }
    let mode = record.network_mode();
    if mode != "host" && !mode.starts_with("container:") {
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), json!("0"));
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), json!("0 2147483647"));
    }
    for (key, value) in record.host.sysctls.iter().flatten() {
        sysctls.insert(key.clone(), json!(value));
    }
    sysctls
}

#[cfg(test)]
mod tests {
    use super::*;
    use hops::docker::models::HostConfig;

    #[test]
    fn security_options_are_read_as_docker_reads_them() {
        let parse = |o: &str| Security::parse(Some(&vec![o.to_owned()]));
        assert!(parse("no-new-privileges").unwrap().no_new_privileges);
        assert!(!parse("no-new-privileges=false").unwrap().no_new_privileges);
        assert_eq!(parse("seccomp=unconfined").unwrap().seccomp, Some(Value::Null));
        assert_eq!(parse("seccomp:unconfined").unwrap().seccomp, Some(Value::Null));
        for bad in ["x", "x=y", "seccomp={"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_container_that_joins_others_makes_fewer_namespaces() {
        let record = Record {
            host: HostConfig {
                network_mode: Some("container:x".into()),
                pid_mode: Some("host".into()),
                ..HostConfig::default()
            },
            ..Record::default()
        };
        let around = Surroundings {
            files: Path::new("/f"),
            netns: Some("/proc/7/ns/net".into()),
            ipcns: None,
            pidns: None,
            shm: None,
            cgroup_parent: "/docker",
            cgroups: Cgroups::Legacy,
            layers: &[],
            hostname: "h",
        };
        let spec = build(&record, &around).unwrap();
        let kinds: Vec<&str> = spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["mount", "network", "uts", "ipc"]);
        assert_eq!(spec["linux"]["namespaces"][1]["path"], "/proc/7/ns/net");
        assert!(spec["linux"]["sysctl"].as_object().unwrap().is_empty());
    }
}
