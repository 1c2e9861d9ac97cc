//! `Version` and `Introspection`: who answers, and what it can do.

use super::{convert::platform_out, verbs};
use crate::{
    Config, Engine, Error, Kind, Result,
    filters::{Fields, Filters},
    images::Platform,
};
use hops::{
    containerd::{ServerRequest, VersionRequest},
    proto::containerd::services::{
        introspection::v1::{
            Plugin, PluginInfoRequest, PluginInfoResponse, PluginsRequest, PluginsResponse,
            ServerResponse,
        },
        version::v1::VersionResponse,
    },
};
use std::{borrow::Cow, fs, os::unix::fs::MetadataExt, path::Path};

/// The containerd release whose API and behaviour are offered. Clients compare it.
pub(crate) const API_VERSION: &str = "1.6.20";

/// What this daemon has, in containerd's names for it: type, id, capabilities, whether it is for
/// this platform only.
const PLUGINS: &[(&str, &str, &[&str], bool)] = &[
    ("io.containerd.content.v1", "content", &[], false),
    ("io.containerd.snapshotter.v1", "native", &[], true),
    ("io.containerd.snapshotter.v1", "overlayfs", &[], true),
    ("io.containerd.metadata.v1", "bolt", &[], false),
    ("io.containerd.differ.v1", "walking", &[], true),
    ("io.containerd.event.v1", "exchange", &[], false),
    ("io.containerd.gc.v1", "scheduler", &[], false),
    ("io.containerd.lease.v1", "manager", &[], false),
    ("io.containerd.runtime.v2", "task", &[], true),
    ("io.containerd.sandbox.controller.v1", "shim", &[], false),
    ("io.containerd.sandbox.store.v1", "local", &[], false),
    ("io.containerd.service.v1", "containers-service", &[], false),
    ("io.containerd.service.v1", "content-service", &[], false),
    ("io.containerd.service.v1", "diff-service", &[], false),
    ("io.containerd.service.v1", "images-service", &[], false),
    ("io.containerd.service.v1", "introspection-service", &[], false),
    ("io.containerd.service.v1", "leases-service", &[], false),
    ("io.containerd.service.v1", "namespaces-service", &[], false),
    ("io.containerd.service.v1", "snapshots-service", &[], false),
    ("io.containerd.service.v1", "tasks-service", &[], false),
    ("io.containerd.streaming.v1", "manager", &[], false),
    ("io.containerd.transfer.v1", "local", &[], false),
    ("io.containerd.grpc.v1", "containers", &[], false),
    ("io.containerd.grpc.v1", "content", &[], false),
    ("io.containerd.grpc.v1", "diff", &[], false),
    ("io.containerd.grpc.v1", "events", &[], false),
    ("io.containerd.grpc.v1", "healthcheck", &[], false),
    ("io.containerd.grpc.v1", "images", &[], false),
    ("io.containerd.grpc.v1", "introspection", &[], false),
    ("io.containerd.grpc.v1", "leases", &[], false),
    ("io.containerd.grpc.v1", "namespaces", &[], false),
    ("io.containerd.grpc.v1", "sandbox-controllers", &[], false),
    ("io.containerd.grpc.v1", "sandboxes", &[], false),
    ("io.containerd.grpc.v1", "snapshots", &[], false),
    ("io.containerd.grpc.v1", "streaming", &[], false),
    ("io.containerd.grpc.v1", "tasks", &[], false),
    ("io.containerd.grpc.v1", "transfer", &[], false),
    ("io.containerd.grpc.v1", "version", &[], false),
];

impl Fields for Plugin {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        let text = match path {
            ["type"] => Cow::Borrowed(self.r#type.as_str()),
            ["id"] => Cow::Borrowed(self.id.as_str()),
            ["capabilities"] => Cow::Owned(self.capabilities.join(",")),
            ["platforms"] => {
                let names: Vec<_> =
                    self.platforms.iter().map(|p| format!("{}/{}", p.os, p.architecture)).collect();
                Cow::Owned(names.join(","))
            }
            _ => return None,
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

/// Makes sure that the plugins are here without which the daemon is not to start, and says which of
/// those that it is to do without it has anyway.
///
/// # Errors
/// containerd's.
pub(crate) fn require(config: &Config) -> Result<()> {
    let known = |name: &str| {
        PLUGINS.iter().find(|(kind, id, ..)| name.strip_suffix(id) == Some(&format!("{kind}.")))
    };
    let here = |name: &String| known(name).is_some() && !config.disabled.contains(name);
    let missing: Vec<_> = config.required.iter().filter(|name| !here(name)).cloned().collect();
    if !missing.is_empty() {
        let words = format!("required plugin [{}] not included", missing.join(" "));
        return Err(Error::new(Kind::FailedPrecondition, words));
    }
    for name in &config.disabled {
        if known(name).is_some_and(|(kind, ..)| *kind != "io.containerd.snapshotter.v1") {
            tracing::warn!(name, "a disabled plugin that is always here");
        }
    }
    Ok(())
}

impl Engine {
    fn plugins(&self) -> impl Iterator<Item = Plugin> {
        let root = self.store().root().to_owned();
        let here = PLUGINS.iter().filter(|(kind, id, ..)| !self.is_disabled(kind, id));
        here.map(move |(kind, id, capabilities, native)| {
            let mut exports = std::collections::HashMap::new();
            if matches!(*kind, "io.containerd.snapshotter.v1" | "io.containerd.content.v1") {
                let dir = root.join(format!("{kind}.{id}"));
                exports.insert("root".to_owned(), dir.display().to_string());
            }
            Plugin {
                r#type: (*kind).to_owned(),
                id: (*id).to_owned(),
                platforms: native.then(|| platform_out(Platform::host())).into_iter().collect(),
                capabilities: capabilities.iter().map(|c| (*c).to_owned()).collect(),
                exports,
                ..Plugin::default()
            }
        })
    }
}

/// The daemon's identity, made on the first start and kept in the root.
pub(crate) fn uuid(root: &Path) -> std::io::Result<String> {
    let dir = root.join("io.containerd.grpc.v1.introspection");
    let file = dir.join("uuid");
    match fs::read_to_string(&file) {
        Ok(uuid) if uuid.trim().len() == 36 => return Ok(uuid.trim().to_owned()),
        _ => {}
    }
    // The kernel makes a version 4 UUID at every reading.
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    fs::create_dir_all(&dir)?;
    fs::write(&file, uuid.trim())?;
    Ok(uuid.trim().to_owned())
}

verbs! {
    VersionRequest = |_engine, _cx, _op| {
        Ok(VersionResponse {
            version: format!("{API_VERSION}+strata{}", env!("CARGO_PKG_VERSION")),
            revision: String::new(),
        })
    }

    PluginsRequest = |engine, _cx, op| {
        let filters = Filters::parse(&op.filters)?;
        Ok(PluginsResponse { plugins: engine.plugins().filter(|p| filters.matches(p)).collect() })
    }

    PluginInfoRequest = |engine, _cx, op| {
        let found = engine.plugins().find(|p| p.r#type == op.r#type && p.id == op.id);
        match found {
            Some(plugin) => Ok(PluginInfoResponse { plugin: Some(plugin), extra: None }),
            None => Err(crate::Error::not_found(format_args!(
                "plugin {}.{}", op.r#type, op.id
            )).into()),
        }
    }

    ServerRequest = |engine, _cx, _op| {
        Ok(ServerResponse {
            uuid: engine.uuid().to_owned(),
            pid: u64::from(std::process::id()),
            pidns: fs::metadata("/proc/self/ns/pid")?.ino(),
            deprecations: Vec::new(),
        })
    }
}
