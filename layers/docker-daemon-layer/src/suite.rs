//! The contract of the face [`Docker`]: what any daemon answers, ours in process, ours through
//! client and server, and the real one.

use bytes::Bytes;
use futures_util::StreamExt;
use hops::{
    Cx, Docker, HopError, Kind, Result,
    docker::{
        Changed, ContainerCreate, ContainerCreateQuery, ContainerInspect, ContainerKill,
        ContainerLogs, ContainerRemove, ContainerRemoveQuery, ContainerStart, ContainerStop,
        ContainerWait, ExecCreate, ExecInspect, ExecStart, Flag, ImageInspect, Json, LogsQuery,
        Ping, Request, StopQuery, Version,
        models::{ContainerCreateBody, ExecConfig, ExecStartConfig, HostConfig},
    },
};

/// Checks a condition of the contract.
fn holds(condition: bool, words: &str) -> Result<()> {
    if condition { Ok(()) } else { Err(HopError::internal(format!("contract: {words}"))) }
}

/// Checks that a call was refused, with this kind and these words.
fn refused<T>(answer: Result<T>, kind: Kind, words: &str) -> Result<()> {
    match answer {
        Ok(_) => Err(HopError::internal(format!("contract: {words:?} was to be refused"))),
        Err(error) => holds(
            error.kind == kind && error.message.contains(words),
            &format!("{words:?} as {kind:?}, not {:?}: {}", error.kind, error.message),
        ),
    }
}

async fn bytes(mut stream: hops::Outputs<Bytes>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// Takes the frames off an output without a terminal.
fn unframed(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let [kind, _, _, _, a, b, c, d, rest @ ..] = bytes {
        let length = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).min(rest.len());
        if *kind == 1 { &mut stdout } else { &mut stderr }.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    (stdout, stderr)
}

/// Runs the contract's part that needs no image: what is refused, and how.
///
/// # Errors
/// The first thing that the face does not do as the contract says.
pub async fn refusals(face: &dyn Docker) -> Result<()> {
    let cx = Cx::background();
    holds(face.handle(&cx, Request::<Ping>::default()).await?.0 == "OK", "ping answers OK")?;
    let version = face.handle(&cx, Request::<Version>::default()).await?;
    holds(version.api_version.as_deref() == Some("1.41"), "the version is 1.41")?;
    let missing = "No such container: nosuch";
    for answer in [
        face.handle(&cx, Request::<ContainerStart>::of("nosuch")).await.map(drop),
        face.handle(&cx, Request::<ContainerStop>::of("nosuch")).await.map(drop),
        face.handle(&cx, Request::<ContainerKill>::of("nosuch")).await,
        face.handle(&cx, Request::<ContainerInspect>::of("nosuch")).await.map(drop),
        face.handle(&cx, Request::<ContainerRemove>::of("nosuch")).await,
    ] {
        refused(answer, Kind::NotFound, missing)?;
    }
    let image = face.handle(&cx, Request::<ImageInspect>::of("nosuch:1")).await;
    refused(image, Kind::NotFound, "No such image: nosuch:1")?;
    let create = |body: ContainerCreateBody| {
        face.handle(&cx, Request::<ContainerCreate>::default().body(Json(body)))
    };
    let body = ContainerCreateBody { image: Some("nosuch:1".into()), ..Default::default() };
    refused(create(body.clone()).await, Kind::NotFound, "No such image: nosuch:1")?;
    let small = HostConfig { memory: Some(1), ..HostConfig::default() };
    let body = ContainerCreateBody { host_config: Some(small), ..body };
    refused(create(body).await, Kind::InvalidArgument, "Minimum memory limit allowed is 6MB")
}

/// Runs the contract's life of a container of `image`, which has a shell.
///
/// # Errors
/// The first thing that the face does not do as the contract says.
pub async fn life(face: &dyn Docker, image: &str, name: &str) -> Result<()> {
    let cx = Cx::background();
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(
            [
                "sh",
                "-c",
                "echo out; echo err >&2; trap 'exit 3' TERM; while :; do sleep 0.05; done",
            ]
            .map(str::to_owned)
            .to_vec(),
        ),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let create = || {
        let query = ContainerCreateQuery { name: Some(name.to_owned()), ..Default::default() };
        face.handle(
            &cx,
            Request::<ContainerCreate>::default().query(query).body(Json(body.clone())),
        )
    };
    let id = create().await?.0.id;
    refused(create().await, Kind::AlreadyExists, "is already in use by container")?;
    let inspect = || face.handle(&cx, Request::<ContainerInspect>::of(&id));
    let state = |d: Json<hops::docker::ContainerDocument>| d.0.base.state.unwrap_or_default();
    holds(state(inspect().await?).running == Some(false), "a created one does not run")?;
    let start = || face.handle(&cx, Request::<ContainerStart>::of(name));
    holds(start().await? == Changed(true), "a start changes something")?;
    holds(start().await? == Changed(false), "a second start changes nothing")?;
    holds(state(inspect().await?).pid.is_some_and(|p| p > 0), "a running one has a pid")?;
    let removed = face.handle(&cx, Request::<ContainerRemove>::of(&id)).await;
    refused(removed, Kind::FailedPrecondition, "You cannot remove a running container")?;

    let exec = ExecConfig {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(["sh", "-c", "echo in; exit 5"].map(str::to_owned).to_vec()),
        ..ExecConfig::default()
    };
    let exec = face.handle(&cx, Request::<ExecCreate>::of(&id).body(Json(exec))).await?.0.id;
    let run = Request::<ExecStart>::of(&exec).body(Json(ExecStartConfig::default()));
    let output = bytes(face.stream(&cx, run, hops::op::no_input()).await?).await?;
    holds(unframed(&output).0 == b"in\n", "an exec's output arrives in frames")?;
    let ended = face.handle(&cx, Request::<ExecInspect>::of(&exec)).await?;
    holds(ended.exit_code == Some(5), "an exec's exit code is known when its output ends")?;

    let wait = Request::<ContainerWait>::of(&id);
    let mut wait = face.stream(&cx, wait, hops::op::no_input()).await?;
    let stop = || {
        let query = StopQuery { t: Some(10), ..StopQuery::default() };
        face.handle(&cx, Request::<ContainerStop>::of(&id).query(query))
    };
    holds(stop().await? == Changed(true), "a stop changes something")?;
    holds(stop().await? == Changed(false), "a second stop changes nothing")?;
    let code = wait.next().await.transpose()?.map(|w| w.status_code);
    holds(code == Some(3), "wait answers the exit code")?;
    let logs =
        LogsQuery { stdout: Some(Flag(true)), stderr: Some(Flag(true)), ..LogsQuery::default() };
    let logs = Request::<ContainerLogs>::of(&id).query(logs);
    let logs = bytes(face.stream(&cx, logs, hops::op::no_input()).await?).await?;
    holds(unframed(&logs) == (b"out\n".to_vec(), b"err\n".to_vec()), "both streams are logged")?;
    let remove = ContainerRemoveQuery { v: Some(Flag(true)), ..Default::default() };
    face.handle(&cx, Request::<ContainerRemove>::of(&id).query(remove)).await?;
    refused(inspect().await, Kind::NotFound, "No such container")
}
