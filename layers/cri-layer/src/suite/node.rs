//! What the runtime says of itself.

use hops::proto::runtime::v1::*;

use super::{Subject, Verdict, holds, same};

pub(super) async fn chapter(on: &Subject) -> Verdict {
    let version = on.call(VersionRequest { version: "0.1.0".into() }).await?;
    same("the kubelet API's version", version.version.as_str(), "0.1.0")?;
    holds("the runtime has a name", !version.runtime_name.is_empty())?;
    holds("the runtime has a version", !version.runtime_version.is_empty())?;
    holds("the runtime API has a version", !version.runtime_api_version.is_empty())?;

    let status = on.call(StatusRequest { verbose: true }).await?.status.unwrap_or_default();
    let condition = |kind: &str| status.conditions.iter().find(|c| c.r#type == kind);
    let runtime = condition("RuntimeReady").ok_or("there is no condition RuntimeReady")?;
    holds(format!("the runtime is ready: {}", runtime.message), runtime.status)?;
    let network = condition("NetworkReady").ok_or("there is no condition NetworkReady")?;
    holds("an unready network has a reason", network.status || !network.reason.is_empty())?;

    let pod_cidr = "10.1.0.0/16".to_owned();
    let config = RuntimeConfig { network_config: Some(NetworkConfig { pod_cidr }) };
    on.call(UpdateRuntimeConfigRequest { runtime_config: Some(config) }).await.map(drop)
}
