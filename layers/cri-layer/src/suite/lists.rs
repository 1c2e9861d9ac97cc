//! Lists and their filters.

use std::collections::HashMap;

use hops::proto::runtime::v1::*;

use super::{Subject, Verdict, same};

pub(super) async fn chapter(on: &Subject) -> Verdict {
    let (mut first, mut second) = (on.pod(), on.pod());
    let app = |value: &str| HashMap::from([("app".to_owned(), value.to_owned())]);
    first.labels.extend(app("one"));
    second.labels.extend(app("two"));
    let one = on.run_pod(&first).await?;
    let two = on.run_pod(&second).await?;
    on.call(StopPodSandboxRequest { pod_sandbox_id: two.clone() }).await?;

    let pods = async |filter: PodSandboxFilter| {
        let list = ListPodSandboxRequest { filter: Some(filter) };
        let mut ids: Vec<_> = on.call(list).await?.items.into_iter().map(|pod| pod.id).collect();
        ids.sort();
        Verdict::Ok(ids)
    };
    let state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state.into() });
    let own = PodSandboxFilter { label_selector: on.labels(), ..Default::default() };
    let mut both = vec![one.clone(), two.clone()];
    both.sort();
    same("pods with the contract's label", pods(own.clone()).await?, both)?;
    let ready = PodSandboxFilter { state: state(PodSandboxState::SandboxReady), ..own.clone() };
    same("those that are ready", pods(ready).await?, vec![one.clone()])?;
    let not = PodSandboxFilter { state: state(PodSandboxState::SandboxNotready), ..own.clone() };
    same("those that are not", pods(not).await?, vec![two.clone()])?;
    let labelled = PodSandboxFilter { label_selector: app("two"), ..own.clone() };
    same("those with another label", pods(labelled).await?, vec![two.clone()])?;
    let by_id = PodSandboxFilter { id: one.clone(), ..own.clone() };
    same("the one with an id", pods(by_id).await?, vec![one.clone()])?;
    let neither = PodSandboxFilter { label_selector: app("three"), ..own };
    same("those with no such label", pods(neither).await?, Vec::<String>::new())?;

    let mut config = on.script("listed", "sleep 1000");
    config.labels.extend(app("listed"));
    let running = on.create(&one, &first, config).await?;
    on.start(&running).await?;
    let created = on.create(&one, &first, on.script("other", "sleep 1000")).await?;
    let containers = async |filter: ContainerFilter| {
        let list = ListContainersRequest { filter: Some(filter) };
        let mut ids: Vec<_> = on.call(list).await?.containers.into_iter().map(|c| c.id).collect();
        ids.sort();
        Verdict::Ok(ids)
    };
    let state = |state: ContainerState| Some(ContainerStateValue { state: state.into() });
    let of_pod = ContainerFilter { pod_sandbox_id: one.clone(), ..Default::default() };
    let mut both = vec![running.clone(), created.clone()];
    both.sort();
    same("containers of a pod", containers(of_pod.clone()).await?, both)?;
    let of_two = ContainerFilter { pod_sandbox_id: two, ..Default::default() };
    same("containers of the other", containers(of_two).await?, Vec::<String>::new())?;
    let up = ContainerFilter { state: state(ContainerState::ContainerRunning), ..of_pod.clone() };
    same("those that run", containers(up).await?, vec![running.clone()])?;
    let new = ContainerFilter { state: state(ContainerState::ContainerCreated), ..of_pod.clone() };
    same("those that do not yet", containers(new).await?, vec![created])?;
    let labelled = ContainerFilter { label_selector: app("listed"), ..of_pod.clone() };
    same("those with a label", containers(labelled).await?, vec![running.clone()])?;
    let by_id = ContainerFilter { id: running.clone(), ..Default::default() };
    same("the one with an id", containers(by_id).await?, vec![running])
}
