//! `GET /containers/{id}/json`.

use std::collections::HashMap;

use async_trait::async_trait;
use hops::{
    Cx, Handle, Result,
    docker::{
        ContainerDocument, ContainerInspect, Flag, Json, NetworkDocument, Request,
        models::{
            ContainerInspectResponse, ContainerState, DriverData, EndpointSettings,
            NetworkSettings, PortBinding,
        },
    },
    proto::containerd::services::snapshots::v1::UsageRequest,
};

use super::{Engine, container::log_path};
use crate::{
    record::{Phase, Record},
    time,
};

impl Engine {
    /// The networks that a container is in, by name.
    pub(super) fn endpoints(&self, record: &Record) -> HashMap<String, EndpointSettings> {
        let mode = record.network_mode();
        if mode.starts_with("container:") {
            return HashMap::new();
        }
        let endpoint = record.network.clone().unwrap_or_default();
        let runs = record.state.phase.runs();
        let text = |s: &str| Some(s.to_owned());
        let settings = EndpointSettings {
            network_id: Some(if runs { self.networks.id(mode) } else { String::new() }),
            endpoint_id: text(&endpoint.id),
            gateway: text(&endpoint.gateway),
            ip_address: text(&endpoint.address),
            ip_prefix_len: Some(endpoint.prefix),
            ipv6_gateway: text(""),
            global_ipv6_address: text(""),
            global_ipv6_prefix_len: Some(0),
            mac_address: text(&endpoint.mac),
            ..EndpointSettings::default()
        };
        HashMap::from([(mode.to_owned(), settings)])
    }

    fn network_document(&self, record: &Record) -> NetworkDocument {
        let endpoint = record.network.clone().unwrap_or_default();
        let mut ports: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
        if record.state.phase.runs() && record.network.is_some() {
            let exposed = record.config.exposed_ports.iter().flatten();
            ports.extend(exposed.map(|port| (port.clone(), None)));
            ports.extend(endpoint.ports.iter().map(|(port, hosts)| {
                let bindings = hosts.iter().map(|(ip, host)| PortBinding {
                    host_ip: Some(if ip.is_empty() { "0.0.0.0".into() } else { ip.clone() }),
                    host_port: Some(host.to_string()),
                });
                (port.clone(), Some(bindings.collect()))
            }));
        }
        let own = record.state.phase.runs() && record.network_of.is_none();
        let sandbox_key = match &record.network {
            Some(endpoint) => endpoint.netns.to_string_lossy().into_owned(),
            None if own && record.network_mode() == "none" => {
                format!("/proc/{}/ns/net", record.state.pid)
            }
            None => String::new(),
        };
        NetworkDocument {
            endpoint_id: endpoint.id,
            gateway: endpoint.gateway,
            ip_address: endpoint.address,
            ip_prefix_len: endpoint.prefix,
            mac_address: endpoint.mac,
            base: NetworkSettings {
                sandbox_id: Some(endpoint.sandbox),
                sandbox_key: Some(sandbox_key),
                ports: Some(ports),
                networks: Some(self.endpoints(record)),
            },
            ..NetworkDocument::default()
        }
    }

    /// What a container has written, and its whole root filesystem, in bytes.
    pub(super) async fn container_size(&self, cx: &Cx, record: &Record) -> (i64, i64) {
        let request =
            UsageRequest { snapshotter: self.config.snapshotter.clone(), key: record.id.clone() };
        let usage = self.containerd.handle(&self.named(cx), request).await;
        let own = usage.map_or(0, |u| u.size);
        let image = match self.images.find(cx, &record.image_id).await {
            Ok(image) => self.images.sizes(cx, &image).await.iter().sum(),
            Err(_) => 0,
        };
        (own, own + image)
    }

    /// What a container's record says, as the API says it.
    pub(super) fn document(&self, record: &Record) -> ContainerDocument {
        let dir = self.dir(&record.id);
        let files = record.network_of.as_ref().map_or(dir.clone(), |other| self.dir(other));
        let path = |name: &str| Some(files.join(name).to_string_lossy().into_owned());
        let state = &record.state;
        let logs = record.host.log_config.as_ref().and_then(|l| l.typ.as_deref()) != Some("none");
        let log = log_path(&dir, &record.id).to_string_lossy().into_owned();
        let execs = self.execs_of(&record.id);
        ContainerDocument {
            network_settings: self.network_document(record),
            base: ContainerInspectResponse {
                id: Some(record.id.clone()),
                created: Some(time::rfc3339(record.created)),
                path: record.args.first().cloned(),
                args: Some(record.args.iter().skip(1).cloned().collect()),
                state: Some(ContainerState {
                    status: Some(state.phase.status().0),
                    running: Some(state.phase.runs() || state.phase == Phase::Restarting),
                    paused: Some(state.phase == Phase::Paused),
                    restarting: Some(state.phase == Phase::Restarting),
                    oom_killed: Some(state.oom_killed),
                    dead: Some(state.phase == Phase::Dead),
                    pid: Some(if state.phase.runs() { state.pid } else { 0 }),
                    exit_code: Some(state.exit_code),
                    error: Some(state.error.clone()),
                    started_at: Some(time::rfc3339(state.started)),
                    finished_at: Some(time::rfc3339(state.finished)),
                    health: None,
                }),
                image: Some(record.image_id.clone()),
                resolv_conf_path: path("resolv.conf"),
                hostname_path: path("hostname"),
                hosts_path: path("hosts"),
                log_path: Some(if logs { log } else { String::new() }),
                name: Some(format!("/{}", record.name)),
                restart_count: Some(record.restarts),
                driver: Some(self.config.snapshotter.clone()),
                platform: Some("linux".to_owned()),
                mount_label: Some(String::new()),
                process_label: Some(String::new()),
                app_armor_profile: Some(String::new()),
                exec_ids: Some(execs).filter(|e| !e.is_empty()),
                host_config: Some(record.host.clone()),
                graph_driver: Some(DriverData {
                    name: self.config.snapshotter.clone(),
                    data: HashMap::new(),
                }),
                mounts: Some(record.mounts.clone()),
                config: Some(record.config.clone()),
                ..ContainerInspectResponse::default()
            },
        }
    }
}

#[async_trait]
impl Handle<Request<ContainerInspect>> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        call: Request<ContainerInspect>,
    ) -> Result<Json<ContainerDocument>> {
        let record = self.find(&call.id)?.record();
        let mut document = self.document(&record);
        if call.query.size.is_some_and(|Flag(size)| size) {
            let (rw, root) = self.container_size(cx, &record).await;
            document.base.size_rw = Some(rw);
            document.base.size_root_fs = Some(root);
        }
        Ok(Json(document))
    }
}
