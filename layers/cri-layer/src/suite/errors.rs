//! What cannot be done is refused, and leaves nothing behind.

use hops::{Kind, proto::runtime::v1::*};

use super::{Subject, Verdict, create_request, holds, same};

pub(super) async fn chapter(on: &Subject) -> Verdict {
    let nowhere = || "0123456789abcdef".repeat(4);
    let kind = |error: hops::HopError, what: &str| same(what, error.kind, Kind::NotFound);
    let status = ContainerStatusRequest { container_id: nowhere(), verbose: false };
    kind(on.refused(status).await?, "the status of no container")?;
    let status = PodSandboxStatusRequest { pod_sandbox_id: nowhere(), verbose: false };
    kind(on.refused(status).await?, "the status of no sandbox")?;
    on.refused(StartContainerRequest { container_id: nowhere() }).await?;
    let exec = ExecSyncRequest { container_id: nowhere(), cmd: vec!["id".into()], timeout: 1 };
    on.refused(exec).await?;
    on.refused(RunPodSandboxRequest::default()).await?;
    let nameless = PodSandboxConfig { metadata: None, ..on.pod() };
    on.refused(RunPodSandboxRequest { config: Some(nameless), ..Default::default() }).await?;

    let pod = on.pod();
    let handler = "no-such-handler".to_owned();
    let other = RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: handler };
    on.refused(other).await?;
    on.refused(create_request(&nowhere(), &pod, on.script("x", ""))).await?;

    // What was refused has reserved nothing: the same pod can be run, once.
    let sandbox = on.run_pod(&pod).await?;
    on.refused(RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() }).await?;
    same(
        "a pod whose double was refused",
        on.pod_status(&sandbox).await?.state(),
        PodSandboxState::SandboxReady,
    )?;

    let mut missing = on.script("image", "true");
    missing.image =
        Some(ImageSpec { image: "127.0.0.1:1/no/such:image".into(), ..Default::default() });
    on.refused(create_request(&sandbox, &pod, missing)).await?;
    let mut nameless = on.script("image", "true");
    nameless.metadata = None;
    on.refused(create_request(&sandbox, &pod, nameless)).await?;
    let id = on.create(&sandbox, &pod, on.script("image", "true")).await?;
    let exec = ExecSyncRequest { container_id: id.clone(), cmd: vec!["id".into()], timeout: 1 };
    on.refused(exec).await?;

    on.call(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    on.refused(StartContainerRequest { container_id: id }).await?;
    on.refused(create_request(&sandbox, &pod, on.script("late", "true"))).await?;
    let left = ListContainersRequest {
        filter: Some(ContainerFilter { pod_sandbox_id: sandbox, ..Default::default() }),
    };
    let left = on.call(left).await?.containers;
    holds("only the container that was not refused is there", left.len() == 1)
}
