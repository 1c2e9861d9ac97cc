//! Device nodes: those that the user names, or all of the host's.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use hops::{HopError, Result, docker::models::HostConfig};
use nix::sys::stat::{SFlag, major, minor};
use serde_json::{Value, json};

use super::rootfs::names_in;

/// A node of the host, as config.json's `linux.devices` describes it.
fn node(on_host: &Path, in_container: &str) -> Option<Value> {
    let meta = fs::metadata(on_host).ok()?;
    let kind = match SFlag::from_bits_truncate(meta.mode()) & SFlag::S_IFMT {
        SFlag::S_IFCHR => "c",
        SFlag::S_IFBLK => "b",
        _ => return None,
    };
    Some(json!({
        "path": in_container, "type": kind,
        "major": major(meta.rdev()), "minor": minor(meta.rdev()),
        "fileMode": meta.mode() & 0o7777, "uid": meta.uid(), "gid": meta.gid(),
    }))
}

/// Every node below `dir`, which a privileged container has; what the runtime makes itself and
/// what is mounted there is left out (moby's `devices.HostDevices`).
fn all_below(dir: &Path, list: &mut Vec<Value>) {
    for name in names_in(dir) {
        let path = dir.join(&name);
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let own = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];
        if own.contains(&name.as_str()) || meta.is_symlink() {
            continue;
        }
        if meta.is_dir() {
            all_below(&path, list);
        } else if let Some(node) = path.to_str().and_then(|p| node(&path, p)) {
            list.push(node);
        }
    }
}

/// The nodes to make.
///
/// # Errors
/// Docker's words for a device that is not there.
pub(super) fn nodes(host: &HostConfig, privileged: bool) -> Result<Vec<Value>> {
    let mut list = Vec::new();
    if privileged {
        all_below(Path::new("/dev"), &mut list);
        return Ok(list);
    }
    for (on_host, in_container, _) in mappings(host) {
        match fs::metadata(on_host) {
            Ok(meta) if meta.is_dir() => {
                let mut below = Vec::new();
                all_below(Path::new(on_host), &mut below);
                for mut node in below {
                    if let Some(path) = node["path"].as_str().and_then(|p| p.strip_prefix(on_host)) {
                        node["path"] = json!(format!("{in_container}{path}"));
                    }
                    list.push(node);
                }
            }
            Ok(_) => list.push(node(Path::new(on_host), in_container).ok_or_else(|| {
                HopError::invalid(format!(
                    "error gathering device information while adding custom device \"{on_host}\": not a device node"
                ))
            })?),
            Err(_) => {
                return Err(HopError::internal(format!(
                    "error gathering device information while adding custom device \"{on_host}\": no such file or directory"
                )));
            }
        }
    }
    Ok(list)
}

fn mappings(host: &HostConfig) -> impl Iterator<Item = (&str, &str, &str)> {
    host.devices.iter().flatten().map(|d| {
        let on_host = d.path_on_host.as_deref().unwrap_or_default();
        let inside = d.path_in_container.as_deref().filter(|p| !p.is_empty()).unwrap_or(on_host);
        let access = d.cgroup_permissions.as_deref().filter(|p| !p.is_empty()).unwrap_or("rwm");
        (on_host, inside, access)
    })
}

/// What may be done with devices: everything, or a list that begins with nothing.
///
/// # Errors
/// Docker's words for a rule that is none.
pub(super) fn rules(host: &HostConfig, privileged: bool) -> Result<Vec<Value>> {
    if privileged {
        return Ok(vec![json!({"allow": true, "access": "rwm"})]);
    }
    let mut list = vec![json!({"allow": false, "access": "rwm"})];
    // null, zero, full, random, urandom, tty, console.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1)] {
        list.push(
            json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}),
        );
    }
    let nodes = nodes(host, false)?;
    for (node, access) in
        nodes.iter().zip(mappings(host).map(|(_, _, a)| a).chain(std::iter::repeat("rwm")))
    {
        list.push(json!({"allow": true, "type": node["type"], "major": node["major"],
            "minor": node["minor"], "access": access}));
    }
    for rule in host.device_cgroup_rules.iter().flatten() {
        list.push(parse_rule(rule)?);
    }
    Ok(list)
}

/// `c 1:3 rwm`, with `*` for any number.
fn parse_rule(text: &str) -> Result<Value> {
    let invalid = || HopError::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut words = text.split_whitespace();
    let (Some(kind), Some(numbers), Some(access), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(invalid());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    let number = |n: &str| if n == "*" { Ok(-1) } else { n.parse::<i64>().map_err(|_| invalid()) };
    if !["a", "b", "c"].contains(&kind) || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(invalid());
    }
    Ok(
        json!({"allow": true, "type": kind, "major": number(major)?, "minor": number(minor)?, "access": access}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_or_refused() {
        assert_eq!(parse_rule("c 1:* rw").unwrap()["minor"], -1);
        for bad in ["", "c 1 rw", "x 1:1 r", "c 1:1 q", "c 1:1 r w"] {
            assert!(parse_rule(bad).unwrap_err().message.contains("invalid device cgroup rule"));
        }
    }
}
