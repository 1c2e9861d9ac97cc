//! The three networks that every daemon has: `bridge`, `host` and `none`.

use std::{collections::HashMap, fs};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Result,
    docker::{
        Json, NetworkInspect, NetworkList, Request,
        models::{ConfigReference, Ipam, IpamConfig, Network},
    },
};
use serde::{Deserialize, Serialize};

use super::{Engine, filters::Filters};
use crate::{
    config::{Bridge, Config},
    names, time,
};

/// The networks' ids; they stay the same as long as the daemon's data does.
#[derive(Serialize, Deserialize)]
pub(super) struct Networks {
    created: i64,
    bridge: String,
    host: String,
    none: String,
}

impl Networks {
    /// Reads the ids, or makes them.
    pub(super) fn open(config: &Config) -> Result<Networks> {
        let path = config.data_root.join("networks.json");
        if let Ok(text) = fs::read(&path)
            && let Ok(networks) = serde_json::from_slice(&text)
        {
            return Ok(networks);
        }
        let networks = Networks {
            created: time::now(),
            bridge: names::id()?,
            host: names::id()?,
            none: names::id()?,
        };
        fs::write(&path, serde_json::to_vec(&networks).unwrap_or_default())?;
        Ok(networks)
    }

    /// The id of a network; empty for one that there is not.
    pub(super) fn id(&self, name: &str) -> String {
        match name {
            "bridge" => self.bridge.clone(),
            "host" => self.host.clone(),
            "none" => self.none.clone(),
            _ => String::new(),
        }
    }

    /// Whether `text` means the network `name`.
    pub(super) fn is(&self, text: &str, name: &str) -> bool {
        let id = self.id(name);
        text == name || (!text.is_empty() && !id.is_empty() && id.starts_with(text))
    }

    fn all(&self, bridge: Option<&Bridge>) -> Vec<Network> {
        let network = |name: &str, driver: &str, config: Vec<IpamConfig>| Network {
            name: Some(name.to_owned()),
            id: Some(self.id(name)),
            created: Some(time::rfc3339(self.created)),
            scope: Some("local".to_owned()),
            driver: Some(driver.to_owned()),
            enable_ipv6: Some(false),
            ipam: Some(Ipam {
                driver: Some("default".to_owned()),
                config: Some(config),
                options: None,
            }),
            internal: Some(false),
            attachable: Some(false),
            ingress: Some(false),
            config_from: Some(ConfigReference { network: Some(String::new()) }),
            config_only: Some(false),
            options: Some(HashMap::new()),
            labels: Some(HashMap::new()),
            ..Network::default()
        };
        let mut list = Vec::new();
        if let Some(bridge) = bridge {
            let config = IpamConfig {
                subnet: Some(bridge.subnet()),
                gateway: Some(bridge.gateway.to_string()),
                ..IpamConfig::default()
            };
            let mut network = network("bridge", "bridge", vec![config]);
            network.options = Some(
                [
                    ("com.docker.network.bridge.default_bridge", "true"),
                    ("com.docker.network.bridge.enable_icc", "true"),
                    ("com.docker.network.bridge.enable_ip_masquerade", "true"),
                    ("com.docker.network.bridge.name", bridge.name.as_str()),
                ]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            );
            list.push(network);
        }
        list.push(network("host", "host", Vec::new()));
        list.push(network("none", "null", Vec::new()));
        list
    }
}

#[async_trait]
impl Handle<Request<NetworkList>> for Engine {
    async fn handle(&self, _cx: &Cx, call: Request<NetworkList>) -> Result<Json<Vec<Network>>> {
        let known = ["dangling", "driver", "id", "label", "name", "scope", "type"];
        let filters = Filters::parse(call.query.filters.as_deref(), &known)?;
        let mut list = self.networks.all(self.config.bridge.as_ref());
        let has = |field: &Option<String>, part: &str| {
            field.as_deref().is_some_and(|text| text.contains(part))
        };
        list.retain(|n| {
            filters.any("name", |v| has(&n.name, v))
                && filters.any("id", |v| has(&n.id, v))
                && filters.any("driver", |v| n.driver.as_deref() == Some(v))
                && filters.any("scope", |v| v == "local")
                && filters.any("type", |v| v == "builtin")
                && filters.labels(None)
        });
        Ok(Json(list))
    }
}

#[async_trait]
impl Handle<Request<NetworkInspect>> for Engine {
    async fn handle(&self, _cx: &Cx, call: Request<NetworkInspect>) -> Result<Json<Network>> {
        let list = self.networks.all(self.config.bridge.as_ref());
        let found = list
            .into_iter()
            .find(|n| n.name.as_deref().is_some_and(|name| self.networks.is(&call.id, name)));
        found.map(Json).ok_or_else(|| HopError::not_found(format!("network {} not found", call.id)))
    }
}
