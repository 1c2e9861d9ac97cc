//! A pod from its beginning to its end.

use hops::proto::runtime::v1::*;

use super::{Subject, Verdict, holds, same};

pub(super) async fn chapter(on: &Subject) -> Verdict {
    let pod = on.pod();
    let sandbox = on.run_pod(&pod).await?;
    let status = on.pod_status(&sandbox).await?;
    same("the sandbox's id", &status.id, &sandbox)?;
    same("the sandbox's state", status.state(), PodSandboxState::SandboxReady)?;
    same("the sandbox's metadata", &status.metadata, &pod.metadata)?;
    same("the sandbox's labels", &status.labels, &pod.labels)?;
    same("the sandbox's annotations", &status.annotations, &pod.annotations)?;
    holds("the sandbox has a time", status.created_at > 0)?;

    runs_and_is_stopped(on, &pod, &sandbox).await?;
    exits(on, &pod, &sandbox).await?;
    cannot_run(on, &pod, &sandbox).await?;

    on.call(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    let status = on.pod_status(&sandbox).await?;
    same("a stopped sandbox's state", status.state(), PodSandboxState::SandboxNotready)?;
    on.call(RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    on.refused(PodSandboxStatusRequest { pod_sandbox_id: sandbox, verbose: false }).await.map(drop)
}

async fn runs_and_is_stopped(on: &Subject, pod: &PodSandboxConfig, sandbox: &str) -> Verdict {
    let script = "trap 'exit 7' TERM; touch /ready; while :; do sleep 0.05; done";
    let config = on.script("runs", script);
    let id = on.create(sandbox, pod, config.clone()).await?;
    let created = on.status(&id).await?;
    same("a new container's state", created.state(), ContainerState::ContainerCreated)?;
    holds("a new container has a time", created.created_at > 0)?;
    same("a new container's start", created.started_at, 0)?;
    same("a container's metadata", &created.metadata, &config.metadata)?;
    same("a container's labels", &created.labels, &config.labels)?;
    same("a container's annotations", &created.annotations, &config.annotations)?;
    holds("a container has an image", !created.image_ref.is_empty())?;

    on.start(&id).await?;
    let running = on.status(&id).await?;
    same("a started container's state", running.state(), ContainerState::ContainerRunning)?;
    holds("it started after it was created", running.started_at >= running.created_at)?;
    on.refused(StartContainerRequest { container_id: id.clone() }).await?;

    // A first process that has not said what a signal is to do does not get it.
    let ready = ["sh", "-c", "until [ -e /ready ]; do sleep 0.05; done"].map(str::to_owned);
    on.call(ExecSyncRequest { container_id: id.clone(), cmd: ready.into(), timeout: 30 }).await?;
    on.call(StopContainerRequest { container_id: id.clone(), timeout: 30 }).await?;
    let stopped = on.status(&id).await?;
    same("a stopped container's state", stopped.state(), ContainerState::ContainerExited)?;
    same("the exit code that it chose", stopped.exit_code, 7)?;
    same("the reason of an end with an exit code", stopped.reason.as_str(), "Error")?;
    holds("it ended after it started", stopped.finished_at >= stopped.started_at)?;

    on.call(RemoveContainerRequest { container_id: id.clone() }).await?;
    on.refused(ContainerStatusRequest { container_id: id.clone(), verbose: false }).await?;
    // Its name is free again.
    let again = on.create(sandbox, pod, config).await?;
    holds("a new container has a new id", again != id)?;
    on.start(&again).await?;
    on.call(StopContainerRequest { container_id: again.clone(), timeout: 0 }).await?;
    same("the exit code of a killed one", on.status(&again).await?.exit_code, 137)?;
    on.call(RemoveContainerRequest { container_id: again }).await.map(drop)
}

async fn exits(on: &Subject, pod: &PodSandboxConfig, sandbox: &str) -> Verdict {
    for (name, script, code, reason) in
        [("succeeds", "exit 0", 0, "Completed"), ("fails", "exit 3", 3, "Error")]
    {
        let id = on.create(sandbox, pod, on.script(name, script)).await?;
        on.start(&id).await?;
        let status = on.exited(&id).await?;
        same(format!("the exit code of one that {name}"), status.exit_code, code)?;
        same(format!("the reason of one that {name}"), status.reason.as_str(), reason)?;
        // containerd 1.6 may note the start of a short one after its end.
        holds("it has an end", status.finished_at > 0)?;
    }
    // A running one is removed by force.
    let id = on.create(sandbox, pod, on.script("forced", "sleep 1000")).await?;
    on.start(&id).await?;
    on.call(RemoveContainerRequest { container_id: id.clone() }).await?;
    on.refused(ContainerStatusRequest { container_id: id, verbose: false }).await.map(drop)
}

async fn cannot_run(on: &Subject, pod: &PodSandboxConfig, sandbox: &str) -> Verdict {
    let mut config = on.script("cannot", "");
    config.command = vec!["/no/such/program".to_owned()];
    let id = on.create(sandbox, pod, config).await?;
    let error = on.refused(StartContainerRequest { container_id: id.clone() }).await?;
    holds(
        format!("the error names the program: {}", error.message),
        error.message.contains("/no/such/program"),
    )?;
    let status = on.status(&id).await?;
    same("the state of one that did not start", status.state(), ContainerState::ContainerExited)?;
    holds("one that did not start failed", status.exit_code != 0)?;
    on.call(RemoveContainerRequest { container_id: id }).await.map(drop)
}
