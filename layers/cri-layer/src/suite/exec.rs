//! Further processes in a container.

use hops::{Kind, proto::runtime::v1::*};

use super::{Subject, Verdict, holds, same};

pub(super) async fn chapter(on: &Subject) -> Verdict {
    let pod = on.pod();
    let sandbox = on.run_pod(&pod).await?;
    let id = on.create(&sandbox, &pod, on.script("host", "sleep 1000")).await?;
    on.start(&id).await?;
    let exec = |script: &str, timeout: i64| ExecSyncRequest {
        container_id: id.clone(),
        cmd: ["sh", "-c", script].map(str::to_owned).into(),
        timeout,
    };
    let done = on.call(exec("echo out; echo err >&2; exit 5", 30)).await?;
    same("its output", done.stdout.as_ref(), &b"out\n"[..])?;
    same("its other output", done.stderr.as_ref(), &b"err\n"[..])?;
    same("its exit code", done.exit_code, 5)?;
    let killed = on.call(exec("kill -9 $$", 30)).await?;
    same("the exit code of a killed one", killed.exit_code, 137)?;
    let long = on.call(exec("head -c 300000 /dev/zero", 30)).await?;
    same("the length of a long output", long.stdout.len(), 300_000)?;

    let late = on.refused(exec("sleep 1000", 1)).await?;
    same("the error of one that takes too long", late.kind, Kind::DeadlineExceeded)?;
    let left = on.call(exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", 30)).await?;
    let left = String::from_utf8_lossy(&left.stdout).matches("sleep 1000").count();
    holds(format!("one that took too long is killed: {left} sleep"), left <= 2)?;

    let missing = ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["/no/such/program".to_owned()],
        timeout: 30,
    };
    // The kubelet's probes take either for a failure: an error, or the shell's 126 and 127.
    let answer = on.face.handle(&hops::Cx::background(), missing).await;
    holds("a program that is not there fails", answer.map_or(true, |done| done.exit_code != 0))?;
    let status = on.status(&id).await?;
    same("the container afterwards", status.state(), ContainerState::ContainerRunning)
}
