//! New limits for a container.

use std::sync::Arc;

use hops::{
    Cx, HopError, Kind, Result,
    proto::{
        containerd::services::{
            containers::v1::{Container as Contained, GetContainerRequest, UpdateContainerRequest},
            tasks::v1::UpdateTaskRequest,
        },
        runtime::v1::{
            LinuxContainerResources, UpdateContainerResourcesRequest,
            UpdateContainerResourcesResponse,
        },
    },
};
use oci_spec::runtime::Spec;

use super::Core;
use crate::{
    record::extension,
    spec::{resources, resources_any, spec_any},
};

impl Core {
    /// Changes the limits that are given; what is zero stays. What containerd keeps is changed
    /// first, so that a restart of the container has them too.
    pub(crate) async fn update_container_resources(
        self: &Arc<Self>,
        cx: &Cx,
        op: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse> {
        let container = self.container(&op.container_id)?;
        let Some(wanted) = op.linux else { return Ok(UpdateContainerResourcesResponse {}) };
        let _turn = container.task.turn.lock().await;
        let id = container.id().to_owned();
        let life = container.task.life();
        if life.exit.is_some() {
            return Err(HopError::new(
                Kind::FailedPrecondition,
                format!("container is in {} state", super::status::state_of(&life).as_str_name()),
            ));
        }
        let failed =
            |e: HopError| e.context(format_args!("failed to update resources of container {id:?}"));
        let mut record = (*container.record()).clone();
        let linux = record.config.0.linux.get_or_insert_default();
        merge(linux.resources.get_or_insert_default(), &wanted);
        let merged = linux.resources.clone().unwrap_or_default();

        let get = GetContainerRequest { id: id.clone() };
        let kept =
            self.containerd.call(cx, get).await.map_err(failed)?.container.unwrap_or_default();
        let mut spec: Spec = serde_json::from_slice(&kept.spec.unwrap_or_default().value)
            .map_err(|e| failed(HopError::internal(format!("failed to unmarshal spec: {e}"))))?;
        let mut limits = resources(&merged);
        if let Some(linux) = spec.linux_mut() {
            let devices = linux.resources().as_ref().and_then(|r| r.devices().clone());
            limits.set_devices(devices);
            linux.set_resources(Some(limits.clone()));
        }
        let update = UpdateContainerRequest {
            container: Some(Contained {
                id: id.clone(),
                spec: Some(spec_any(&spec)?),
                extensions: extension(&record)?,
                ..Contained::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["spec".to_owned(), "extensions".to_owned()],
            }),
        };
        self.containerd.call(cx, update).await.map_err(failed)?;
        if life.running() {
            limits.set_devices(None);
            let update = UpdateTaskRequest {
                container_id: id.clone(),
                resources: Some(resources_any(&limits)?),
                annotations: op.annotations,
            };
            self.containerd.call(cx, update).await.map_err(failed)?;
        }
        container.set_record(record);
        Ok(UpdateContainerResourcesResponse {})
    }
}

/// Takes over what is set in `wanted`.
fn merge(into: &mut LinuxContainerResources, wanted: &LinuxContainerResources) {
    let number = |into: &mut i64, wanted: i64| {
        if wanted != 0 {
            *into = wanted;
        }
    };
    number(&mut into.cpu_period, wanted.cpu_period);
    number(&mut into.cpu_quota, wanted.cpu_quota);
    number(&mut into.cpu_shares, wanted.cpu_shares);
    number(&mut into.memory_limit_in_bytes, wanted.memory_limit_in_bytes);
    number(&mut into.memory_swap_limit_in_bytes, wanted.memory_swap_limit_in_bytes);
    number(&mut into.oom_score_adj, wanted.oom_score_adj);
    if !wanted.cpuset_cpus.is_empty() {
        into.cpuset_cpus.clone_from(&wanted.cpuset_cpus);
    }
    if !wanted.cpuset_mems.is_empty() {
        into.cpuset_mems.clone_from(&wanted.cpuset_mems);
    }
    if !wanted.hugepage_limits.is_empty() {
        into.hugepage_limits.clone_from(&wanted.hugepage_limits);
    }
    into.unified.extend(wanted.unified.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let mut limits = LinuxContainerResources {
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 20,
            ..Default::default()
        };
        let wanted = LinuxContainerResources { cpu_shares: 1024, ..Default::default() };
        merge(&mut limits, &wanted);
        assert_eq!((limits.cpu_shares, limits.memory_limit_in_bytes), (1024, 1 << 20));
    }
}
