//! The mounts of a container: the runtime's own file systems, the user's, and the daemon's files.

use std::path::Path;

use hops::{HopError, Result, docker::models::MountPoint};
use serde_json::{Value, json};

use super::Surroundings;
use crate::record::Record;

/// The size of /dev/shm when nothing is said: 64 MiB.
pub(crate) const SHM_SIZE: i64 = 64 << 20;

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

/// `config.json`'s mounts, in the order in which they are to be made.
pub(super) fn of(
    record: &Record,
    around: &Surroundings<'_>,
    privileged: bool,
) -> Result<Vec<Value>> {
    let rw = if privileged { "rw" } else { "ro" };
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", rw]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[rw, "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    let own: Vec<&str> = record.mounts.iter().filter_map(|m| m.destination.as_deref()).collect();
    list.retain(|m| !own.iter().any(|d| m["destination"] == **d));
    let mut user = Vec::new();
    for point in &record.mounts {
        user.push(user_mount(point)?);
    }
    for (destination, options) in record.host.tmpfs.iter().flatten() {
        let mut all = vec!["noexec", "nosuid", "nodev", "rprivate"];
        for option in options.split(',').filter(|o| !o.is_empty()) {
            let opposite = option.strip_prefix("no").map_or(format!("no{option}"), str::to_owned);
            all.retain(|o| *o != opposite && *o != option);
            all.push(option);
        }
        user.push(mount(destination, "tmpfs", "tmpfs", &all));
    }
    let taken = |path: &str| own.contains(&path);
    if !taken("/dev/shm") {
        match &around.shm {
            Some(dir) => user.push(bind("/dev/shm", dir, &["rbind", "rprivate"])),
            None if record.host.ipc_mode.as_deref() == Some("none") => {}
            None => {
                let size = format!("size={}", record.host.shm_size.unwrap_or(SHM_SIZE));
                let options = ["nosuid", "noexec", "nodev", "mode=1777", &size];
                user.push(mount("/dev/shm", "tmpfs", "shm", &options));
            }
        }
    }
    let access = if record.host.readonly_rootfs == Some(true) { "ro" } else { "rw" };
    for name in ["resolv.conf", "hostname", "hosts"] {
        let destination = format!("/etc/{name}");
        let source = around.files.join(name);
        if !taken(&destination) && source.exists() {
            user.push(bind(&destination, &source, &["rbind", access, "rprivate"]));
        }
    }
    // A mount under another one must come after it.
    user.sort_by_key(|m| m["destination"].as_str().map_or(0, |d| d.matches('/').count()));
    list.extend(user);
    Ok(list)
}

fn bind(destination: &str, source: &Path, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

fn user_mount(point: &MountPoint) -> Result<Value> {
    let destination = point.destination.as_deref().unwrap_or_default();
    let source = point.source.as_deref().unwrap_or_default();
    if point.typ.as_deref() == Some("tmpfs") {
        let mode = point.mode.as_deref().unwrap_or_default();
        let mut options = vec!["noexec", "nosuid", "nodev", "rprivate"];
        options.extend(mode.split(',').filter(|o| !o.is_empty()));
        if point.rw == Some(false) {
            options.push("ro");
        }
        return Ok(mount(destination, "tmpfs", "tmpfs", &options));
    }
    let propagation = match point.propagation.as_deref() {
        None | Some("") => "rprivate",
        Some(word) => word,
    };
    let mut options = vec!["rbind", propagation];
    if point.rw == Some(false) {
        options.push("ro");
    }
    Ok(bind(destination, Path::new(source), &options))
}

/// Reads a bind as `-v` gives it: `source:destination[:options]`, with a named volume where the
/// source is no path.
///
/// # Errors
/// Docker's words for what is wrong with it.
pub(crate) fn parse_bind(text: &str) -> Result<MountPoint> {
    let invalid = || HopError::invalid(format!("invalid volume specification: '{text}'"));
    let mut parts = text.split(':');
    let (source, destination, options) = match (parts.next(), parts.next(), parts.next()) {
        (Some(source), Some(destination), options) => (source, destination, options.unwrap_or("")),
        _ => return Err(invalid()),
    };
    if parts.next().is_some() || source.is_empty() || !destination.starts_with('/') {
        return Err(invalid());
    }
    if clean(destination) == "/" {
        return Err(HopError::invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"bind\": invalid specification: destination can't be '/'"
        )));
    }
    let is_path = source.starts_with('/');
    let mut point = MountPoint {
        typ: Some(if is_path { "bind" } else { "volume" }.to_owned()),
        destination: Some(clean(destination)),
        mode: Some(options.to_owned()),
        rw: Some(true),
        propagation: Some(if is_path { "rprivate" } else { "" }.to_owned()),
        ..MountPoint::default()
    };
    if is_path {
        point.source = Some(clean(source));
    } else {
        point.name = Some(source.to_owned());
        point.driver = Some("local".to_owned());
    }
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => point.rw = Some(false),
            "rw" | "z" | "Z" | "nocopy" | "consistent" | "cached" | "delegated" => {}
            "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" if is_path => {
                point.propagation = Some(option.to_owned());
            }
            _ => {
                return Err(HopError::invalid(format!("invalid mode: {options}")));
            }
        }
    }
    Ok(point)
}

/// A path without its empty, `.` and `..` parts.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_read_as_docker_reads_them() {
        let bind = parse_bind("/a/../b:/c/:ro,rslave").unwrap();
        assert_eq!((bind.source.as_deref(), bind.destination.as_deref()), (Some("/b"), Some("/c")));
        assert_eq!((bind.rw, bind.propagation.as_deref()), (Some(false), Some("rslave")));
        let volume = parse_bind("data:/c").unwrap();
        assert_eq!((volume.typ.as_deref(), volume.name.as_deref()), (Some("volume"), Some("data")));
        for bad in ["/a", "/a:b", ":/b", "/a:/b:x", "/a:/b:ro:z", "/a:/"] {
            assert!(parse_bind(bad).is_err(), "{bad}");
        }
    }
}
