//! What the runtime says of itself.

use std::collections::HashMap;

use hops::{
    Cx, Result,
    proto::runtime::v1::{
        CgroupDriver, LinuxRuntimeConfiguration, RuntimeCondition, RuntimeConfigRequest,
        RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures,
        RuntimeStatus, StatusRequest, StatusResponse, UpdateRuntimeConfigRequest,
        UpdateRuntimeConfigResponse, VersionRequest, VersionResponse,
    },
};
use serde_json::json;

use super::Core;

/// The version of the kubelet's old API object, which kubelets compare (containerd's
/// `kubeAPIVersion`).
const KUBELET_API: &str = "0.1.0";
/// The runtime's own API version (`runtime.v1`).
const RUNTIME_API: &str = "v1";

impl Core {
    pub(crate) async fn version(&self, _cx: &Cx, _op: VersionRequest) -> Result<VersionResponse> {
        Ok(VersionResponse {
            version: KUBELET_API.to_owned(),
            runtime_name: "strata-cri".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: RUNTIME_API.to_owned(),
        })
    }

    pub(crate) async fn status(&self, cx: &Cx, op: StatusRequest) -> Result<StatusResponse> {
        let condition = |kind: &str, problem: Option<(&str, String)>| {
            let status = problem.is_none();
            let (reason, message) = problem.unwrap_or_default();
            RuntimeCondition { r#type: kind.to_owned(), status, reason: reason.to_owned(), message }
        };
        let network = self.network().err().map(|e| {
            ("NetworkPluginNotReady", format!("Network plugin returns error: {}", e.message))
        });
        let version = hops::containerd::VersionRequest {};
        let runtime = match self.containerd.call(cx, version).await {
            Ok(_) => None,
            Err(error) => Some(("ContainerdNotReady", error.message)),
        };
        let info = match op.verbose {
            true => self.info(),
            false => HashMap::new(),
        };
        let handler = |name: &str| RuntimeHandler {
            name: name.to_owned(),
            features: Some(RuntimeHandlerFeatures {
                recursive_read_only_mounts: true,
                user_namespaces: false,
            }),
        };
        let named = self.config.handlers.iter().map(|(name, _)| handler(name));
        Ok(StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", runtime),
                    condition("NetworkReady", network),
                ],
            }),
            info,
            runtime_handlers: [handler("")].into_iter().chain(named).collect(),
            features: Some(RuntimeFeatures { supplemental_groups_policy: true }),
        })
    }

    fn info(&self) -> HashMap<String, String> {
        let config = json!({
            "containerd": { "snapshotter": self.config.snapshotter, "runtime": self.config.runtime },
            "cni": { "confDir": self.config.cni_conf_dir },
            "sandboxImage": self.config.sandbox_image,
            "rootDir": self.config.root,
            "stateDir": self.config.state,
        });
        let network = match self.network() {
            Ok(network) => ("OK".to_owned(), json!(network.list().name)),
            Err(error) => (error.message, serde_json::Value::Null),
        };
        HashMap::from([
            ("config".to_owned(), config.to_string()),
            ("lastCNILoadStatus".to_owned(), network.0),
            ("cniNetwork".to_owned(), network.1.to_string()),
        ])
    }

    pub(crate) async fn runtime_config(
        &self,
        _cx: &Cx,
        _op: RuntimeConfigRequest,
    ) -> Result<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
        Ok(RuntimeConfigResponse { linux: Some(linux) })
    }

    /// The pod's address range is the network's own affair (containerd without a template).
    pub(crate) async fn update_runtime_config(
        &self,
        _cx: &Cx,
        _op: UpdateRuntimeConfigRequest,
    ) -> Result<UpdateRuntimeConfigResponse> {
        Ok(UpdateRuntimeConfigResponse {})
    }
}
