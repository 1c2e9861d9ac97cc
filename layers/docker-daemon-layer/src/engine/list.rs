//! `GET /containers/json`.

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Result,
    docker::{
        ContainerList, Flag, Json, Request,
        models::{
            ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings,
            ContainerSummaryStateEnum as Word, PortSummary, PortSummaryTypeEnum as Proto,
        },
    },
};
use regex::Regex;

use super::{Engine, container::Container, filters::Filters};
use crate::{
    record::{Phase, Record},
    time,
};

const FILTERS: [&str; 16] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "label!",
];

/// The words of `docker ps` under STATUS.
pub(super) fn status(record: &Record) -> String {
    let state = &record.state;
    let since = |at: i64| time::human((time::now() - at) / 1_000_000_000);
    match state.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Running => format!("Up {}", since(state.started)),
        Phase::Paused => format!("Up {} (Paused)", since(state.started)),
        Phase::Restarting => {
            format!("Restarting ({}) {} ago", state.exit_code, since(state.finished))
        }
        Phase::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished)),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Dead => "Dead".to_owned(),
    }
}

impl Engine {
    fn summary(&self, record: &Record) -> ContainerSummary {
        let networks = self.endpoints(record);
        ContainerSummary {
            id: Some(record.id.clone()),
            names: Some(vec![format!("/{}", record.name)]),
            image: record.config.image.clone(),
            image_id: Some(record.image_id.clone()),
            command: Some(record.args.join(" ")),
            created: Some(record.created / 1_000_000_000),
            ports: Some(ports(record)),
            labels: Some(record.config.labels.clone().unwrap_or_default()),
            state: Some(match record.state.phase {
                Phase::Created => Word::CREATED,
                Phase::Running => Word::RUNNING,
                Phase::Paused => Word::PAUSED,
                Phase::Restarting => Word::RESTARTING,
                Phase::Exited => Word::EXITED,
                Phase::Removing => Word::REMOVING,
                Phase::Dead => Word::DEAD,
            }),
            status: Some(status(record)),
            host_config: Some(ContainerSummaryHostConfig {
                network_mode: record.host.network_mode.clone(),
                annotations: None,
            }),
            network_settings: Some(ContainerSummaryNetworkSettings { networks: Some(networks) }),
            mounts: Some(record.mounts.clone()),
            ..ContainerSummary::default()
        }
    }

    /// The containers that `filters` ask for.
    async fn filtered(&self, cx: &Cx, filters: &Filters) -> Result<Vec<Record>> {
        let names: Vec<Regex> = filters
            .values("name")
            .iter()
            .map(|pattern| {
                Regex::new(pattern)
                    .map_err(|e| HopError::invalid(format!("Invalid filter 'name={pattern}': {e}")))
            })
            .collect::<Result<_>>()?;
        let created = |key: &str| -> Result<Option<i64>> {
            filters.values(key).first().map(|n| Ok(self.find(n)?.look(|r| r.created))).transpose()
        };
        let (before, since) = (created("before")?, created("since")?);
        for status in filters.values("status") {
            let known =
                ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
            if !known.contains(&status.as_str()) {
                return Err(HopError::invalid(format!("Invalid filter 'status={status}'")));
            }
        }
        let mut exited = Vec::new();
        for code in filters.values("exited") {
            exited.push(
                code.parse::<i64>()
                    .map_err(|_| HopError::invalid(format!("Invalid filter 'exited={code}'")))?,
            );
        }
        let mut ancestors = Vec::new();
        for name in filters.values("ancestor") {
            // An image that is not there has no containers.
            ancestors.push(self.images.find(cx, name).await.map(|i| i.id.clone()).ok());
        }
        let fits = |r: &Record| {
            let slashed = format!("/{}", r.name);
            filters.any("id", |v| r.id.starts_with(v))
                && (names.is_empty()
                    || names.iter().any(|n| n.is_match(&r.name) || n.is_match(&slashed)))
                && filters.labels(r.config.labels.as_ref())
                && filters.any("status", |v| v == r.state.phase.word())
                && (exited.is_empty()
                    || (!r.state.phase.runs() && exited.contains(&r.state.exit_code)))
                && (ancestors.is_empty()
                    || ancestors.iter().any(|a| a.as_ref() == Some(&r.image_id)))
                && before.is_none_or(|at| r.created < at)
                && since.is_none_or(|at| r.created > at)
                && filters.any("network", |v| self.networks.is(v, r.network_mode()))
                && filters.any("volume", |v| {
                    r.mounts.iter().any(|m| {
                        m.name.as_deref() == Some(v) || m.destination.as_deref() == Some(v)
                    })
                })
                && filters.any("health", |v| v == "none")
                && filters.any("is-task", |v| !matches!(v, "true" | "1"))
        };
        let all = self.all();
        Ok(all
            .iter()
            .filter_map(|c: &std::sync::Arc<Container>| c.look(|r| fits(r).then(|| r.clone())))
            .collect())
    }
}

/// The exposed ports, and where the host has them.
fn ports(record: &Record) -> Vec<PortSummary> {
    let published = record.network.as_ref().map(|n| n.ports.clone()).unwrap_or_default();
    let split = |port: &str| -> Option<(u16, Proto)> {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        Some((number.parse().ok()?, protocol.parse().ok()?))
    };
    let mut list = Vec::new();
    for (port, hosts) in &published {
        let Some((private_port, typ)) = split(port) else { continue };
        for (ip, public) in hosts {
            let ip = if ip.is_empty() { "0.0.0.0".to_owned() } else { ip.clone() };
            let public_port = Some(*public);
            list.push(PortSummary { ip: Some(ip), private_port, public_port, typ: Some(typ) });
        }
    }
    if record.state.phase.runs() {
        for port in record.config.exposed_ports.iter().flatten() {
            if let Some((private_port, typ)) = split(port).filter(|_| !published.contains_key(port))
            {
                list.push(PortSummary {
                    ip: None,
                    private_port,
                    public_port: None,
                    typ: Some(typ),
                });
            }
        }
    }
    list.sort_by_key(|p| (p.private_port, p.public_port));
    list
}

#[async_trait]
impl Handle<Request<ContainerList>> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        call: Request<ContainerList>,
    ) -> Result<Json<Vec<ContainerSummary>>> {
        let query = call.query;
        let filters = Filters::parse(query.filters.as_deref(), &FILTERS)?;
        let limit = query.limit.filter(|n| *n > 0);
        let stopped_too = query.all.is_some_and(|Flag(all)| all)
            || limit.is_some()
            || filters.has("status")
            || filters.has("exited")
            || filters.has("before")
            || filters.has("since");
        let mut records = self.filtered(cx, &filters).await?;
        records.retain(|r| stopped_too || r.state.phase.runs());
        records.sort_by_key(|r| std::cmp::Reverse(r.created));
        if let Some(limit) = limit {
            records.truncate(limit as usize);
        }
        let mut list = Vec::new();
        for record in &records {
            let mut summary = self.summary(record);
            if query.size.is_some_and(|Flag(size)| size) {
                let (rw, root) = self.container_size(cx, record).await;
                summary.size_rw = Some(rw);
                summary.size_root_fs = Some(root);
            }
            list.push(summary);
        }
        Ok(Json(list))
    }
}
