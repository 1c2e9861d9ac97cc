//! `spec`: a configuration to begin with.

use serde_json::{Value, json};

use super::{Invocation, Outcome};
use crate::{VERSION, sys};

/// The fields in the order of the specification's types, which is the order that runc writes.
const ORDER: [&str; 40] = [
    "ociVersion",
    "process",
    "terminal",
    "user",
    "uid",
    "gid",
    "args",
    "env",
    "cwd",
    "capabilities",
    "bounding",
    "effective",
    "permitted",
    "ambient",
    "rlimits",
    "root",
    "hostname",
    "mounts",
    "linux",
    "destination",
    "allow",
    "type",
    "source",
    "options",
    "hard",
    "soft",
    "noNewPrivileges",
    "path",
    "readonly",
    "uidMappings",
    "gidMappings",
    "containerID",
    "hostID",
    "size",
    "resources",
    "devices",
    "access",
    "namespaces",
    "maskedPaths",
    "readonlyPaths",
];

/// Writes `value` as Go's encoder does with tabs.
fn write(text: &mut String, value: &Value, depth: usize) {
    let mut items: Vec<(Option<&str>, &Value)> = match value {
        Value::Array(list) => list.iter().map(|item| (None, item)).collect(),
        Value::Object(map) => map.iter().map(|(key, item)| (Some(key.as_str()), item)).collect(),
        plain => return text.push_str(&plain.to_string()),
    };
    items.sort_by_key(|(key, _)| ORDER.iter().position(|known| Some(*known) == *key));
    let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
    text.push(open);
    for (i, (key, item)) in items.into_iter().enumerate() {
        text.push_str(if i == 0 { "\n" } else { ",\n" });
        text.push_str(&"\t".repeat(depth + 1));
        if let Some(key) = key {
            text.push_str(&format!("{key:?}: "));
        }
        write(text, item, depth + 1);
    }
    text.push('\n');
    text.push_str(&"\t".repeat(depth));
    text.push(close);
}

pub(super) fn spec(invocation: &Invocation<'_>) -> Outcome {
    let bundle = invocation.options.get("--bundle").unwrap_or(".");
    let bundle = std::path::Path::new(bundle);
    if !bundle.is_dir() {
        return Err(format!("chdir {}: no such file or directory", bundle.display()).into());
    }
    let path = bundle.join("config.json");
    if path.exists() {
        return Err("File config.json exists. Remove it first".into());
    }
    let spec = template(invocation.options.on("--rootless"));
    let mut text = String::new();
    write(&mut text, &spec, 0);
    crate::state::replace_file(&path, text.as_bytes(), 0o666)?;
    Ok(0)
}

/// The configuration that `runc spec` writes (libcontainer/specconv/example.go): a shell in five
/// namespaces with the default mounts, masked and read-only paths.
fn template(rootless: bool) -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let pts: &[&str] = match rootless {
        true => &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        false => &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    };
    let sys = match rootless {
        true => mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]),
        false => mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    };
    let mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", pts),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ];
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    let mut linux = json!({
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
            "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
            "/sys/firmware", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    if rootless {
        namespaces.push("user");
        let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        linux["uidMappings"] = map(sys::credentials::effective_uid());
        linux["gidMappings"] = map(sys::credentials::effective_gid());
    } else {
        namespaces.insert(1, "network");
        linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    }
    if crate::cgroup::Hierarchies::find().is_ok_and(|h| h.is_v2()) {
        namespaces.push("cgroup");
    }
    linux["namespaces"] = namespaces.iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps, "ambient": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "runc",
        "mounts": mounts,
        "linux": linux,
    })
}
