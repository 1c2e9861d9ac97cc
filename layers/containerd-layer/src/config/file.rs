//! containerd's configuration file, version 2, with every key that containerd 1.6 writes.
//!
//! containerd ignores what it does not know, and here too a file is not refused for it, but it is
//! said: so are the keys that are known and that nothing here follows, where they ask for something.

use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

/// The file. What is absent or empty leaves what held before.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) version: Option<i64>,
    pub(super) root: PathBuf,
    pub(super) state: PathBuf,
    pub(super) oom_score: i32,
    pub(super) imports: Vec<String>,
    pub(super) disabled_plugins: Vec<String>,
    pub(super) required_plugins: Vec<String>,
    pub(super) grpc: Grpc,
    pub(super) ttrpc: Socket,
    pub(super) debug: Debug,
    pub(super) metrics: Metrics,
    pub(super) plugins: BTreeMap<String, toml::Value>,
    pub(super) proxy_plugins: BTreeMap<String, toml::Value>,
    pub(super) stream_processors: BTreeMap<String, toml::Value>,
    pub(super) timeouts: BTreeMap<String, String>,
    plugin_dir: String,
    temp: String,
    cgroup: Cgroup,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Socket {
    pub(super) address: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Grpc {
    pub(super) address: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    max_recv_message_size: i64,
    max_send_message_size: i64,
    tcp_address: String,
    tcp_tls_ca: String,
    tcp_tls_cert: String,
    tcp_tls_key: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Debug {
    pub(super) level: String,
    pub(super) format: String,
    address: PathBuf,
    uid: u32,
    gid: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metrics {
    pub(super) address: String,
    grpc_histogram: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cgroup {
    path: String,
}

/// The plugin that containerd 1 serves Kubernetes with.
const CRI: &str = "io.containerd.grpc.v1.cri";

/// The size of a message that both sides of containerd take unless they are told otherwise.
const MESSAGE: i64 = 16 << 20;

/// containerd's defaults of the timeouts that it has.
const TIMEOUTS: [(&str, &str); 5] = [
    ("io.containerd.timeout.bolt.open", "0s"),
    ("io.containerd.timeout.shim.cleanup", "5s"),
    ("io.containerd.timeout.shim.load", "5s"),
    ("io.containerd.timeout.shim.shutdown", "3s"),
    ("io.containerd.timeout.task.state", "2s"),
];

/// The keys of plugins that are here by which they would do something else, and what stands for
/// nothing else.
const PLUGIN_KEYS: [(&str, &str, &str); 12] = [
    ("io.containerd.snapshotter.v1.overlayfs", "root_path", "\"\""),
    ("io.containerd.snapshotter.v1.overlayfs", "upperdir_label", "false"),
    ("io.containerd.snapshotter.v1.native", "root_path", "\"\""),
    ("io.containerd.metadata.v1.bolt", "content_sharing_policy", "\"shared\""),
    ("io.containerd.gc.v1.scheduler", "deletion_threshold", "0"),
    ("io.containerd.gc.v1.scheduler", "mutation_threshold", "100"),
    ("io.containerd.gc.v1.scheduler", "pause_threshold", "0.02"),
    ("io.containerd.gc.v1.scheduler", "schedule_delay", "\"0s\""),
    ("io.containerd.gc.v1.scheduler", "startup_delay", "\"100ms\""),
    ("io.containerd.runtime.v2.task", "sched_core", "false"),
    ("io.containerd.service.v1.diff-service", "default", "[\"walking\"]"),
    ("io.containerd.service.v1.tasks-service", "rdt_config_file", "\"\""),
];

impl File {
    /// Reads a file's text; answers the keys that containerd does not have, too.
    pub(super) fn parse(text: &str) -> Result<(File, Vec<String>), toml::de::Error> {
        let mut unknown = Vec::new();
        let file = toml::Deserializer::parse(text)?;
        let file = serde_ignored::deserialize(file, |path| unknown.push(path.to_string()))?;
        Ok((file, unknown))
    }

    /// The first plugin that is not named as version 2 names them, and where it stands.
    pub(super) fn misnamed(&self) -> Option<(&'static str, &str)> {
        let lists = [
            ("disabled plugin", self.disabled_plugins.iter().collect::<Vec<_>>()),
            ("required plugin", self.required_plugins.iter().collect()),
            ("plugin key", self.plugins.keys().collect()),
        ];
        let mut all = lists.into_iter().flat_map(|(kind, l)| l.into_iter().map(move |n| (kind, n)));
        all.find(|(_, name)| name.split('.').count() < 4).map(|(kind, name)| (kind, name.as_str()))
    }

    /// The first timeout that is no Go duration.
    pub(super) fn bad_timeout(&self) -> Option<&str> {
        self.timeouts.values().map(String::as_str).find(|text| !is_duration(text))
    }

    /// What the file asks for and nothing here does, each as `key: why`.
    pub(super) fn without_effect(&self) -> Vec<String> {
        let mut said = Vec::new();
        let mut says = |asked: bool, key: &str, why: &str| {
            if asked {
                said.push(format!("{key}: {why}"));
            }
        };
        let size = |size: i64| size != 0 && size != MESSAGE;
        says(size(self.grpc.max_recv_message_size), "grpc.max_recv_message_size", "16 MiB hold");
        says(size(self.grpc.max_send_message_size), "grpc.max_send_message_size", "no limit holds");
        says(!self.grpc.tcp_address.is_empty(), "grpc.tcp_address", "not served over TCP");
        for (key, value) in [
            ("grpc.tcp_tls_ca", &self.grpc.tcp_tls_ca),
            ("grpc.tcp_tls_cert", &self.grpc.tcp_tls_cert),
            ("grpc.tcp_tls_key", &self.grpc.tcp_tls_key),
        ] {
            says(!value.is_empty(), key, "not served over TCP");
        }
        let debug = (self.debug.uid, self.debug.gid) != (0, 0)
            || !self.debug.address.as_os_str().is_empty();
        says(debug, "debug.address", "Go's profiles are not served");
        says(self.metrics.grpc_histogram, "metrics.grpc_histogram", "not measured");
        says(!self.plugin_dir.is_empty(), "plugin_dir", "Go plugins cannot be loaded");
        says(!self.temp.is_empty(), "temp", "temporary files are below root and state");
        says(!self.cgroup.path.is_empty(), "cgroup.path", "the daemon stays where it was started");
        for name in self.proxy_plugins.keys() {
            says(
                true,
                &format!("proxy_plugins.{name}"),
                "plugins of other programs are not loaded",
            );
        }
        for name in self.stream_processors.keys() {
            let own = name.starts_with("io.containerd.ocicrypt.");
            says(!own, &format!("stream_processors.{name}"), "layers are not processed");
        }
        for (name, value) in &self.timeouts {
            let own = TIMEOUTS.iter().any(|(known, default)| known == name && default == value);
            says(!own, &format!("timeouts.{name:?}"), "fixed here");
        }
        for (plugin, key, default) in PLUGIN_KEYS {
            let asked = self.plugins.get(plugin).and_then(|section| section.get(key));
            let other = asked.is_some_and(|value| value.to_string() != default);
            says(other, &format!("plugins.{plugin:?}.{key}"), "fixed here");
        }
        // Where registries are is followed, by every pull.
        let cri = self.plugins.get(CRI).is_some_and(|section| {
            let registry = section.get("registry").and_then(toml::Value::as_table);
            let followed = registry.is_some_and(|r| r.keys().all(|key| key == "config_path"));
            let keys = section.as_table().map_or(0, toml::Table::len);
            keys > usize::from(followed)
        });
        let disabled = self.disabled_plugins.iter().any(|name| name == CRI);
        says(
            cri && !disabled,
            "plugins.\"io.containerd.grpc.v1.cri\"",
            "CRI is a daemon of its own, strata-cri",
        );
        said
    }

    /// Where registries are, as the plugins say it: the CRI's in containerd 1 and 2, and the
    /// transfer service's in containerd 2. Here all of them mean every pull and push.
    pub(super) fn hosts_dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for (plugin, within) in [
            (CRI, Some("registry")),
            ("io.containerd.cri.v1.images", Some("registry")),
            ("io.containerd.transfer.v1.local", None),
        ] {
            let section = self.plugins.get(plugin);
            let section = match within {
                Some(key) => section.and_then(|section| section.get(key)),
                None => section,
            };
            let paths = section.and_then(|s| s.get("config_path")).and_then(toml::Value::as_str);
            for dir in std::env::split_paths(paths.unwrap_or_default()) {
                if !dir.as_os_str().is_empty() && !dirs.contains(&dir) {
                    dirs.push(dir);
                }
            }
        }
        dirs
    }
}

/// Whether Go's `time.ParseDuration` reads it: numbers with units, such as `1h2.5s`, or `0`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        if number == 0 || rest[..number].matches('.').count() > 1 || &rest[..number] == "." {
            return false;
        }
        rest = &rest[number..];
        let unit = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"]
            .into_iter()
            .find_map(|u| rest.strip_prefix(u));
        let Some(after) = unit else { return false };
        (rest, any) = (after, true);
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for good in ["0", "0s", "5s", "1h2m3.5s", "-100ms", "1.5h", "3µs"] {
            assert!(is_duration(good), "{good}");
        }
        for bad in ["", "x", "5", "5s3", "s", ".s", "1.2.3s", "5 s"] {
            assert!(!is_duration(bad), "{bad}");
        }
    }
}
