//! What is done already is done: the kubelet asks again whenever it is not sure.

use hops::proto::runtime::v1::*;

use super::{Subject, Verdict};

pub(super) async fn chapter(on: &Subject) -> Verdict {
    let pod = on.pod();
    let sandbox = on.run_pod(&pod).await?;
    let id = on.create(&sandbox, &pod, on.script("again", "sleep 1000")).await?;
    let stop = || StopContainerRequest { container_id: id.clone(), timeout: 0 };
    let remove = || RemoveContainerRequest { container_id: id.clone() };
    let stop_pod = || StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    let remove_pod = || RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    on.call(stop()).await?;
    on.start(&id).await?;
    for _ in 0..2 {
        on.call(stop()).await?;
    }
    for _ in 0..2 {
        on.call(remove()).await?;
    }
    on.call(stop()).await?;
    for _ in 0..2 {
        on.call(stop_pod()).await?;
    }
    for _ in 0..2 {
        on.call(remove_pod()).await?;
    }
    on.call(stop_pod()).await?;
    // A pod that still runs, with a container that does, is removed by force.
    let pod = on.pod();
    let sandbox = on.run_pod(&pod).await?;
    let id = on.create(&sandbox, &pod, on.script("inside", "sleep 1000")).await?;
    on.start(&id).await?;
    on.call(RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    on.refused(ContainerStatusRequest { container_id: id, verbose: false }).await?;
    on.refused(PodSandboxStatusRequest { pod_sandbox_id: sandbox, verbose: false }).await.map(drop)
}
