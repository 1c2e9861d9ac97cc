//! `update`, `rename` and `resize`: what changes without a start or a stop.

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Kind, Result,
    docker::{
        ContainerRename, ContainerResize, ContainerUpdate, Json, Request,
        models::{ContainerUpdateBody, ContainerUpdateResponse, HostConfig, RestartPolicyNameEnum},
    },
    proto::{
        Any,
        containerd::services::tasks::v1::{ResizePtyRequest, UpdateTaskRequest},
    },
};

use super::{Engine, conflict, exits::not_running};
use crate::{names, record::Phase, spec};

/// The type of limits, as containerd's clients name it.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Lays what an update says over what there is.
fn merged(host: &HostConfig, body: ContainerUpdateBody) -> Result<HostConfig> {
    let mut new = host.clone();
    macro_rules! numbers {
        ($($field:ident)*) => { $(if body.$field.is_some_and(|n| n != 0) { new.$field = body.$field; })* };
    }
    macro_rules! texts {
        ($($field:ident)*) => { $(if body.$field.as_ref().is_some_and(|t| !t.is_empty()) { new.$field = body.$field; })* };
    }
    // A new share of the processors replaces the other way of saying it.
    if body.nano_cpus.is_some_and(|n| n != 0) {
        (new.cpu_period, new.cpu_quota) = (None, None);
    }
    if body.cpu_quota.is_some_and(|n| n != 0) || body.cpu_period.is_some_and(|n| n != 0) {
        new.nano_cpus = None;
    }
    if let Some(memory) = body.memory.filter(|m| *m != 0)
        && body.memory_swap.unwrap_or(0) == 0
        && host.memory_swap.is_some_and(|swap| swap > 0 && swap < memory)
    {
        return Err(HopError::invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the \
             memoryswap at the same time",
        ));
    }
    numbers! {
        cpu_shares memory cpu_period cpu_quota cpu_realtime_period cpu_realtime_runtime
        memory_reservation memory_swap nano_cpus pids_limit blkio_weight
    }
    texts! { cpuset_cpus cpuset_mems }
    if let Some(policy) = body.restart_policy
        && !matches!(policy.name, None | Some(RestartPolicyNameEnum::EMPTY))
    {
        if host.auto_remove == Some(true) && policy.name != Some(RestartPolicyNameEnum::NO) {
            return Err(conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        new.restart_policy = Some(policy);
    }
    spec::check(&mut new)?;
    Ok(new)
}

#[async_trait]
impl Handle<Request<ContainerUpdate>> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        call: Request<ContainerUpdate>,
    ) -> Result<Json<ContainerUpdateResponse>> {
        let container = self.find(&call.id)?;
        let _turn = container.turn.lock().await;
        let phase = container.phase();
        if matches!(phase, Phase::Removing | Phase::Dead) {
            return Err(conflict(format!(
                "Cannot update container {}: Container is marked for removal and cannot be \
                 \"update\".",
                container.id
            )));
        }
        let new = merged(&container.look(|r| r.host.clone()), call.body.0)?;
        if phase.runs() {
            let mut resources = spec::resources_of(&new, new.privileged == Some(true))?;
            // Devices are not changed by an update.
            if let Some(map) = resources.as_object_mut() {
                map.remove("devices");
            }
            let request = UpdateTaskRequest {
                container_id: container.id.clone(),
                resources: Some(Any {
                    type_url: RESOURCES_TYPE.to_owned(),
                    value: resources.to_string().into_bytes(),
                }),
                ..UpdateTaskRequest::default()
            };
            self.containerd
                .handle(&self.named(cx), request)
                .await
                .map_err(|e| e.context(format!("Cannot update container {}", container.id)))?;
        }
        container.change(|r| r.host = new)?;
        self.tell(&container, "update", &[]);
        Ok(Json(ContainerUpdateResponse { warnings: None }))
    }
}

#[async_trait]
impl Handle<Request<ContainerRename>> for Engine {
    async fn handle(&self, _cx: &Cx, call: Request<ContainerRename>) -> Result<()> {
        let container = self.find(&call.id)?;
        let new = call.query.name.unwrap_or_default();
        if new.is_empty() {
            return Err(HopError::invalid("Neither old nor new names may be empty"));
        }
        let new = names::checked(&new)?.to_owned();
        let _turn = container.turn.lock().await;
        let old = container.name();
        if old == new {
            return Err(HopError::new(
                Kind::InvalidArgument,
                "Renaming a container with the same name as its current name",
            ));
        }
        self.reserve(&container.id, &new)?;
        if let Err(error) = container.change(|r| r.name = new.clone()) {
            container.set(|r| r.name = old);
            self.release(&container.id, &new);
            return Err(error);
        }
        self.release(&container.id, &old);
        self.tell(&container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}

#[async_trait]
impl Handle<Request<ContainerResize>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ContainerResize>) -> Result<()> {
        let container = self.find(&call.id)?;
        if !container.phase().runs() {
            return Err(not_running(&container.id));
        }
        let resize = ResizePtyRequest {
            container_id: container.id.clone(),
            width: u32::from(call.query.w.unwrap_or(0)),
            height: u32::from(call.query.h.unwrap_or(0)),
            ..ResizePtyRequest::default()
        };
        self.containerd.handle(&self.named(cx), resize).await?;
        let size = |n: Option<u16>| n.unwrap_or(0).to_string();
        let attributes = [("height", size(call.query.h)), ("width", size(call.query.w))];
        self.tell(&container, "resize", &attributes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let host = HostConfig {
            memory: Some(64 << 20),
            memory_swap: Some(128 << 20),
            cpu_quota: Some(5000),
            ..HostConfig::default()
        };
        let body = ContainerUpdateBody {
            nano_cpus: Some(500_000_000),
            memory: Some(0),
            ..Default::default()
        };
        let new = merged(&host, body).unwrap();
        assert_eq!(
            (new.memory, new.cpu_quota, new.nano_cpus),
            (Some(64 << 20), None, Some(500_000_000))
        );
        let more = ContainerUpdateBody { memory: Some(256 << 20), ..Default::default() };
        assert!(merged(&host, more).unwrap_err().message.starts_with("Memory limit should be"));
    }
}
