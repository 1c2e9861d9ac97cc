//! What runc refuses before it makes anything, with the field that is wrong.

use super::{IdMapping, Process, Spec};
use crate::{Error, Result, namespace::Kind};

fn refuse(field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Spec { field: format!("config.json: {}", field.into()), reason: reason.into() }
}

/// A string that goes to the kernel cannot hold a NUL.
fn no_nul(field: &str, text: &str) -> Result<()> {
    if text.contains('\0') { Err(refuse(field, "contains a NUL byte")) } else { Ok(()) }
}

impl Spec {
    pub(super) fn validate(&self) -> Result<()> {
        self.validate_version()?;
        let root = self.root.as_ref().ok_or_else(|| refuse("root", "must be specified"))?;
        if root.path.is_empty() {
            return Err(refuse("root.path", "must not be empty"));
        }
        no_nul("root.path", &root.path)?;
        no_nul("linux.cgroupsPath", &self.linux.cgroups_path)?;
        if let Some(process) = &self.process {
            process.validate("process")?;
        }
        self.validate_namespaces()?;
        self.validate_maps()?;
        for (i, mount) in self.mounts.iter().enumerate() {
            if mount.destination.is_empty() {
                return Err(refuse(format!("mounts[{i}].destination"), "must not be empty"));
            }
            for text in [&mount.destination, &mount.source, &mount.kind] {
                no_nul(&format!("mounts[{i}]"), text)?;
            }
        }
        for (i, device) in self.linux.devices.iter().enumerate() {
            if !device.path.starts_with('/') {
                return Err(refuse(
                    format!("linux.devices[{i}].path"),
                    format!("{:?} is not an absolute path", device.path),
                ));
            }
            if !matches!(device.kind.as_str(), "c" | "b" | "u" | "p") {
                return Err(refuse(
                    format!("linux.devices[{i}].type"),
                    format!("{:?} is not one of c, b, u, p", device.kind),
                ));
            }
        }
        self.validate_sysctl()?;
        for (moment, hooks) in [
            ("prestart", &self.hooks.prestart),
            ("createRuntime", &self.hooks.create_runtime),
            ("createContainer", &self.hooks.create_container),
            ("startContainer", &self.hooks.start_container),
            ("poststart", &self.hooks.poststart),
            ("poststop", &self.hooks.poststop),
        ] {
            for (i, hook) in hooks.iter().enumerate() {
                if !hook.path.starts_with('/') {
                    return Err(refuse(
                        format!("hooks.{moment}[{i}].path"),
                        format!("{:?} is not an absolute path", hook.path),
                    ));
                }
                if hook.timeout.is_some_and(|t| t <= 0) {
                    return Err(refuse(
                        format!("hooks.{moment}[{i}].timeout"),
                        "must be greater than zero",
                    ));
                }
            }
        }
        if self.vm.is_some() {
            return Err(refuse("vm", "virtual machine containers are not supported"));
        }
        // A bare class means nothing on a machine without Intel RDT, and runc passes it over.
        let asks = |rdt: &super::IntelRdt| {
            let schemas = [&rdt.l3_cache_schema, &rdt.mem_bw_schema];
            schemas.iter().any(|schema| !schema.is_empty()) || !rdt.schemata.is_empty()
        };
        if self.linux.intel_rdt.as_ref().is_some_and(asks) {
            return Err(refuse("linux.intelRdt", "intelRdt is not supported"));
        }
        self.validate_net_devices()
    }

    fn validate_net_devices(&self) -> Result<()> {
        let devices = &self.linux.net_devices;
        if !devices.is_empty() && self.linux.namespaces.iter().all(|n| n.kind != "network") {
            let reason = "unable to move network devices without a NET namespace";
            return Err(refuse("linux.netDevices", reason));
        }
        // The kernel's dev_valid_name(): at most 15 bytes, none of which it gives a meaning.
        let is_name = |name: &str| {
            let meant = |b: u8| matches!(b, b'/' | b':' | 0) || b.is_ascii_whitespace();
            !matches!(name, "" | "." | "..") && name.len() < 16 && !name.bytes().any(meant)
        };
        for (name, device) in devices {
            let new = Some(&device.name).filter(|new| !new.is_empty());
            if let Some(bad) = [Some(name), new].into_iter().flatten().find(|n| !is_name(n)) {
                let reason = format!("invalid network device name {bad:?}");
                return Err(refuse(format!("linux.netDevices.{name}"), reason));
            }
        }
        Ok(())
    }

    fn validate_version(&self) -> Result<()> {
        let mut parts = self.oci_version.split(['.', '-', '+']);
        let major = parts.next().and_then(|p| p.parse::<u32>().ok());
        let minor = parts.next().and_then(|p| p.parse::<u32>().ok());
        match (major, minor) {
            (Some(1), Some(_)) => Ok(()),
            (Some(_), Some(_)) => Err(refuse(
                "ociVersion",
                format!("{} is not supported, only 1.x is", self.oci_version),
            )),
            _ => Err(refuse(
                "ociVersion",
                format!("{:?} is not a semantic version", self.oci_version),
            )),
        }
    }

    fn validate_namespaces(&self) -> Result<()> {
        let mut seen = Vec::new();
        for (i, namespace) in self.linux.namespaces.iter().enumerate() {
            let kind = Kind::from_spec(&namespace.kind).ok_or_else(|| {
                refuse(
                    format!("linux.namespaces[{i}].type"),
                    format!("namespace {:?} does not exist", namespace.kind),
                )
            })?;
            if seen.contains(&kind) {
                return Err(refuse(
                    format!("linux.namespaces[{i}].type"),
                    format!("malformed spec file: duplicated ns {:?}", namespace.kind),
                ));
            }
            seen.push(kind);
            no_nul(&format!("linux.namespaces[{i}].path"), &namespace.path)?;
        }
        let hides = !self.linux.masked_paths.is_empty() || !self.linux.readonly_paths.is_empty();
        if hides && !seen.contains(&Kind::Mount) {
            return Err(refuse(
                "linux.namespaces",
                "unable to restrict sys entries without a private MNT namespace",
            ));
        }
        if !self.hostname.is_empty() && !seen.contains(&Kind::Uts) {
            return Err(refuse(
                "hostname",
                "unable to set hostname without a private UTS namespace",
            ));
        }
        if !self.domainname.is_empty() && !seen.contains(&Kind::Uts) {
            return Err(refuse(
                "domainname",
                "unable to set domainname without a private UTS namespace",
            ));
        }
        if !self.linux.time_offsets.is_empty() {
            let time = self.linux.namespaces.iter().find(|n| n.kind == "time");
            let reason = match time {
                Some(time) if time.path.is_empty() => return Ok(()),
                Some(_) => {
                    "time namespace enabled, but both namespace path and time offsets specified -- you may only provide one"
                }
                None => {
                    "time namespace offsets specified, but time namespace isn't enabled in the config"
                }
            };
            return Err(refuse("linux.timeOffsets", reason));
        }
        Ok(())
    }

    fn validate_maps(&self) -> Result<()> {
        let linux = &self.linux;
        let user = linux.namespaces.iter().find(|n| n.kind == "user");
        let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
        match user {
            None if mapped => Err(refuse(
                "linux.uidMappings",
                "user namespace mappings specified, but user namespace isn't enabled in the config",
            )),
            Some(user) if user.path.is_empty() => {
                for (field, maps, id) in [
                    (
                        "linux.uidMappings",
                        &linux.uid_mappings,
                        self.process.as_ref().map(|p| p.user.uid),
                    ),
                    (
                        "linux.gidMappings",
                        &linux.gid_mappings,
                        self.process.as_ref().map(|p| p.user.gid),
                    ),
                ] {
                    if maps.is_empty() {
                        return Err(refuse(
                            field,
                            "user namespaces enabled, but no mappings found",
                        ));
                    }
                    if id.is_some_and(|id| !maps.iter().any(|m| m.contains(id))) {
                        return Err(refuse(
                            field,
                            "the process's id is not mapped into the user namespace",
                        ));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn validate_sysctl(&self) -> Result<()> {
        let has = |kind: &str| self.linux.namespaces.iter().any(|n| n.kind == kind);
        let host_net =
            self.linux.namespaces.iter().all(|n| n.kind != "network" || n.path == "/proc/1/ns/net");
        for (name, value) in &self.linux.sysctl {
            let field = format!("linux.sysctl.{name}");
            no_nul(&field, value)?;
            // As in runc, only the first separator decides which of the two notations it is.
            let dotted = match name.find(['.', '/']) {
                Some(at) if name.as_bytes()[at] == b'/' => name.replace('/', "."),
                _ => name.clone(),
            };
            const IPC: [&str; 8] = [
                "kernel.msgmax",
                "kernel.msgmnb",
                "kernel.msgmni",
                "kernel.sem",
                "kernel.shmall",
                "kernel.shmmax",
                "kernel.shmmni",
                "kernel.shm_rmid_forced",
            ];
            if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
                if !has("ipc") {
                    return Err(refuse(field, "is not allowed in the hosts ipc namespace"));
                }
            } else if dotted.starts_with("net.") {
                if host_net {
                    return Err(refuse(field, "not allowed in host network namespace"));
                }
            } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
                if !has("uts") {
                    return Err(refuse(field, "is not allowed in the hosts UTS namespace"));
                }
                if dotted == "kernel.hostname" && !self.hostname.is_empty() {
                    return Err(refuse(field, "conflicts with hostname"));
                }
            } else {
                return Err(refuse(field, "is not in a separate kernel namespace"));
            }
            if dotted.contains("..") || name.contains("../") {
                return Err(refuse(field, "is not a sysctl's name"));
            }
        }
        Ok(())
    }
}

impl IdMapping {
    pub(crate) fn contains(&self, id: u32) -> bool {
        id >= self.container && u64::from(id) < u64::from(self.container) + u64::from(self.size)
    }
}

impl Process {
    /// Checks the object found at `field`.
    pub(crate) fn validate(&self, field: &str) -> Result<()> {
        if self.cwd.is_empty() {
            return Err(refuse(format!("{field}.cwd"), "Cwd property must not be empty"));
        }
        if !self.cwd.starts_with('/') {
            return Err(refuse(format!("{field}.cwd"), "Cwd must be an absolute path"));
        }
        if self.args.is_empty() {
            return Err(refuse(format!("{field}.args"), "args must not be empty"));
        }
        no_nul(&format!("{field}.cwd"), &self.cwd)?;
        for (name, list) in [("args", &self.args), ("env", &self.env)] {
            for (i, text) in list.iter().enumerate() {
                no_nul(&format!("{field}.{name}[{i}]"), text)?;
            }
        }
        Ok(())
    }
}
