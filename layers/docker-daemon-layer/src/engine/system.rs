//! Ping, version and info.

use std::{collections::HashMap, fs};

use async_trait::async_trait;
use hops::{
    Cx, Handle, Result,
    docker::{
        API_VERSION, Info, Json, MIN_API_VERSION, Ping, Request, Text, Version,
        models::{
            Commit, IndexInfo, LocalNodeState, PluginsInfo, RegistryServiceConfig, Runtime,
            SwarmInfo, SystemInfo, SystemInfoCgroupDriverEnum as CgroupDriver,
            SystemInfoCgroupVersionEnum as CgroupVersion, SystemVersion, SystemVersionComponents,
            SystemVersionPlatform,
        },
    },
    proto::containerd::services::version::v1::VersionResponse,
};

use super::Engine;
use crate::{cgroups::Cgroups, config::Config, image::architecture, names, record::Phase, time};

/// The version of Docker whose behaviour this daemon has.
const VERSION: &str = "20.10.24";

/// The host's name.
pub(super) fn hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok());
    name.unwrap_or_default()
}

/// This daemon's id, which stays as long as its data does.
pub(super) fn daemon_id(config: &Config) -> Result<String> {
    let path = config.data_root.join("engine-id");
    if let Ok(id) = fs::read_to_string(&path) {
        return Ok(id);
    }
    let id = names::id()?;
    fs::write(&path, &id)?;
    Ok(id)
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn operating_system() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "<unknown>".to_owned(), |n| n.trim_matches('"').to_owned())
}

fn memory() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

impl Engine {
    async fn containerd_version(&self, cx: &Cx) -> VersionResponse {
        let request = hops::containerd::VersionRequest {};
        self.containerd.handle(&self.named(cx), request).await.unwrap_or_default()
    }
}

#[async_trait]
impl Handle<Request<Ping>> for Engine {
    async fn handle(&self, _cx: &Cx, _call: Request<Ping>) -> Result<Text> {
        Ok(Text("OK".to_owned()))
    }
}

#[async_trait]
impl Handle<Request<Version>> for Engine {
    async fn handle(&self, cx: &Cx, _call: Request<Version>) -> Result<Json<SystemVersion>> {
        let containerd = self.containerd_version(cx).await;
        let own = env!("CARGO_PKG_VERSION");
        let details = |list: &[(&str, &str)]| {
            Some(list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let kernel = kernel();
        let text = |s: &str| Some(s.to_owned());
        Ok(Json(SystemVersion {
            platform: Some(SystemVersionPlatform { name: format!("Strata {own}") }),
            components: Some(vec![
                SystemVersionComponents {
                    name: "Engine".to_owned(),
                    version: VERSION.to_owned(),
                    details: details(&[
                        ("ApiVersion", API_VERSION),
                        ("MinAPIVersion", MIN_API_VERSION),
                        ("Arch", architecture()),
                        ("Os", "linux"),
                        ("KernelVersion", &kernel),
                        ("Experimental", "false"),
                        ("GitCommit", own),
                        ("GoVersion", "none"),
                        ("BuildTime", time::NEVER),
                    ]),
                },
                SystemVersionComponents {
                    name: "containerd".to_owned(),
                    version: containerd.version,
                    details: details(&[("GitCommit", &containerd.revision)]),
                },
            ]),
            version: text(VERSION),
            api_version: text(API_VERSION),
            min_api_version: text(MIN_API_VERSION),
            git_commit: text(own),
            go_version: text("none"),
            os: text("linux"),
            arch: text(architecture()),
            kernel_version: Some(kernel),
            experimental: None,
            build_time: text(time::NEVER),
        }))
    }
}

#[async_trait]
impl Handle<Request<Info>> for Engine {
    async fn handle(&self, cx: &Cx, _call: Request<Info>) -> Result<Json<SystemInfo>> {
        let phases: Vec<Phase> = self.all().iter().map(|c| c.phase()).collect();
        let count =
            |fits: fn(Phase) -> bool| Some(phases.iter().filter(|p| fits(**p)).count() as i64);
        let images: std::collections::HashSet<String> =
            self.images.list(cx).await?.into_iter().map(|(_, image)| image.id.clone()).collect();
        let containerd = self.containerd_version(cx).await;
        let text = |s: &str| Some(s.to_owned());
        let list = |items: &[&str]| Some(items.iter().map(|s| (*s).to_owned()).collect());
        let mut networks = vec!["host", "null"];
        if self.config.bridge.is_some() && self.cni.is_some() {
            networks.insert(0, "bridge");
        }
        let hub = IndexInfo {
            name: text("docker.io"),
            mirrors: Some(Vec::new()),
            secure: Some(true),
            official: Some(true),
        };
        let limits = self.cgroups != Cgroups::Unmounted;
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get()) as i64;
        Ok(Json(SystemInfo {
            id: Some(self.id.clone()),
            containers: Some(phases.len() as i64),
            containers_running: count(|p| p == Phase::Running),
            containers_paused: count(|p| p == Phase::Paused),
            containers_stopped: count(|p| !p.runs()),
            images: Some(images.len() as i64),
            driver: Some(self.config.snapshotter.clone()),
            driver_status: Some(vec![vec![
                "driver-type".to_owned(),
                "io.containerd.snapshotter.v1".to_owned(),
            ]]),
            docker_root_dir: Some(self.config.data_root.to_string_lossy().into_owned()),
            plugins: Some(PluginsInfo {
                volume: list(&["local"]),
                network: list(&networks),
                authorization: None,
                log: list(&["json-file", "none"]),
            }),
            memory_limit: Some(limits),
            swap_limit: Some(limits),
            cpu_cfs_period: Some(limits),
            cpu_cfs_quota: Some(limits),
            cpu_shares: Some(limits),
            cpu_set: Some(limits),
            pids_limit: Some(limits),
            oom_kill_disable: Some(self.cgroups == Cgroups::Legacy),
            ipv4_forwarding: Some(
                fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|t| t.trim() == "1"),
            ),
            debug: Some(self.config.debug),
            nfd: Some(fs::read_dir("/proc/self/fd").map_or(-1, |d| d.count() as i64)),
            n_goroutines: Some(0),
            system_time: Some(time::rfc3339(time::now())),
            logging_driver: text("json-file"),
            cgroup_driver: Some(if limits { CgroupDriver::CGROUPFS } else { CgroupDriver::NONE }),
            cgroup_version: Some(if self.cgroups == Cgroups::Unified {
                CgroupVersion::_2
            } else {
                CgroupVersion::_1
            }),
            n_events_listener: Some(self.events.listeners() as i64),
            kernel_version: Some(kernel()),
            operating_system: Some(operating_system()),
            os_version: text(""),
            os_type: text("linux"),
            architecture: text(std::env::consts::ARCH),
            ncpu: Some(cpus),
            mem_total: Some(memory()),
            index_server_address: text("https://index.docker.io/v1/"),
            registry_config: Some(RegistryServiceConfig {
                insecure_registry_cidrs: list(&["127.0.0.0/8"]),
                index_configs: Some(HashMap::from([("docker.io".to_owned(), hub)])),
                mirrors: Some(Vec::new()),
            }),
            http_proxy: text(""),
            https_proxy: text(""),
            no_proxy: text(""),
            name: Some(hostname()),
            labels: Some(Vec::new()),
            experimental_build: Some(false),
            server_version: text(VERSION),
            runtimes: Some(HashMap::from([(
                "runc".to_owned(),
                Runtime { path: Some(self.config.runtime.clone()), ..Runtime::default() },
            )])),
            default_runtime: text("runc"),
            swarm: Some(SwarmInfo {
                local_node_state: Some(LocalNodeState::INACTIVE),
                ..SwarmInfo::default()
            }),
            // Containers run on while the daemon is away.
            live_restore_enabled: Some(true),
            init_binary: text(""),
            containerd_commit: Some(Commit { id: Some(containerd.revision) }),
            runc_commit: Some(Commit { id: text("") }),
            init_commit: Some(Commit { id: text("") }),
            security_options: list(&["name=seccomp,profile=default"]),
            ..SystemInfo::default()
        }))
    }
}
