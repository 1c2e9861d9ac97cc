//! `sandbox.Controller`: each verb is one question to the sandbox's shim (containerd 2.x,
//! plugins/services/sandbox/controller_service.go).

use super::{sandbox::native, service::finish};
use crate::{
    Engine, Error, Kind, metadata,
    services::{namespace, sandbox::decode, stamp, verbs},
};
use hops::{
    HopError, Result,
    proto::containerd::{
        events::{SandboxCreate, SandboxExit, SandboxStart},
        runtime::sandbox::v1 as shim,
        services::sandbox::v1::{
            ControllerCreateRequest, ControllerCreateResponse, ControllerMetricsRequest,
            ControllerMetricsResponse, ControllerPlatformRequest, ControllerPlatformResponse,
            ControllerShutdownRequest, ControllerShutdownResponse, ControllerStartRequest,
            ControllerStartResponse, ControllerStatusRequest, ControllerStatusResponse,
            ControllerStopRequest, ControllerStopResponse, ControllerUpdateRequest,
            ControllerUpdateResponse, ControllerWaitRequest, ControllerWaitResponse,
        },
        types::Sandbox,
    },
};
use std::time::SystemTime;

/// The one controller. containerd 1.7's clients name none.
const SHIM: &str = "shim";

fn sandboxer(name: &str) -> Result<()> {
    if matches!(name, "" | SHIM) {
        return Ok(());
    }
    Err(HopError::not_found(format!("not found: failed to get sandbox controller by {name}")))
}

/// What a sandbox is made of, which clients of containerd 1.7 leave in the store.
fn described(engine: &Engine, ns: &str, op: &mut ControllerCreateRequest) -> Result<Sandbox> {
    if let Some(sandbox) = op.sandbox.take() {
        return Ok(sandbox);
    }
    let stored = engine.store().metadata().get::<metadata::Sandbox>(ns, &op.sandbox_id);
    let stored = stored.and_then(|record| decode(&record));
    Ok(stored.map_err(|e| e.during("failed to query sandbox metadata from store"))?)
}

verbs! {
    ControllerCreateRequest = |engine, cx, op| {
        sandboxer(&op.sandboxer)?;
        let (ns, mut op) = (namespace(cx)?, op);
        let sandbox = described(engine, &ns, &mut op)?;
        let (sandbox_id, tasks, cx) = (op.sandbox_id.clone(), engine.tasks().clone(), cx.clone());
        let created = {
            let ns = ns.clone();
            async move { tasks.create_sandbox(&cx, &ns, sandbox, op).await }
        };
        finish(created).await?;
        let event = SandboxCreate { sandbox_id: sandbox_id.clone() };
        engine.events().emit(&ns, "/sandboxes/create", &event);
        Ok(ControllerCreateResponse { sandbox_id })
    }

    ControllerStartRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let context = |e: HopError| e.context(format_args!("failed to start sandbox {:?}", op.sandbox_id));
        sandboxer(&op.sandboxer)?;
        let sandbox = engine.tasks().sandbox(&ns, &op.sandbox_id).map_err(|_| {
            context(Error::unknown(format_args!("unable to find sandbox {:?}", op.sandbox_id)).into())
        })?;
        let endpoint = sandbox.shim.endpoint().clone();
        let (tasks, cx) = (engine.tasks().clone(), cx.clone());
        let started = finish(async move { tasks.start_sandbox(&cx, &sandbox).await });
        let started = started.await.map_err(context)?;
        let event = SandboxStart { sandbox_id: op.sandbox_id.clone() };
        engine.events().emit(&ns, "/sandboxes/start", &event);
        let (address, version) = endpoint.dialled();
        Ok(ControllerStartResponse {
            sandbox_id: op.sandbox_id,
            pid: started.pid,
            created_at: started.created_at,
            address,
            version,
            ..Default::default()
        })
    }

    ControllerPlatformRequest = |engine, cx, op| {
        sandboxer(&op.sandboxer)?;
        let sandbox = engine.tasks().sandbox(&namespace(cx)?, &op.sandbox_id)?;
        let request = shim::PlatformRequest { sandbox_id: op.sandbox_id };
        let answer = sandbox.shim.call(cx, request).await;
        let answer = answer.map_err(|e| native(e).context("failed to get sandbox platform"))?;
        Ok(ControllerPlatformResponse { platform: Some(answer.platform.unwrap_or_default()) })
    }

    ControllerStopRequest = |engine, cx, op| {
        sandboxer(&op.sandboxer)?;
        let Ok(sandbox) = engine.tasks().sandbox(&namespace(cx)?, &op.sandbox_id) else {
            return Ok(ControllerStopResponse {});
        };
        let request = shim::StopSandboxRequest {
            sandbox_id: op.sandbox_id,
            timeout_secs: op.timeout_secs,
        };
        match sandbox.shim.call(cx, request).await {
            Err(e) if !matches!(e.kind, hops::Kind::NotFound | hops::Kind::Unavailable) => {
                Err(native(e).context("failed to stop sandbox"))
            }
            _ => Ok(ControllerStopResponse {}),
        }
    }

    ControllerWaitRequest = |engine, cx, op| {
        sandboxer(&op.sandboxer)?;
        let ns = namespace(cx)?;
        let sandbox = engine.tasks().sandbox(&ns, &op.sandbox_id)?;
        let exit = engine.tasks().wait_sandbox(cx, &sandbox).await?;
        // Whoever waits has it published, as in containerd.
        let (exit_status, exited_at) = (exit.status, exit.at);
        let event = SandboxExit { sandbox_id: op.sandbox_id, exit_status, exited_at };
        engine.events().emit(&ns, "/sandboxes/exit", &event);
        Ok(ControllerWaitResponse { exit_status, exited_at })
    }

    ControllerStatusRequest = |engine, cx, op| {
        sandboxer(&op.sandboxer)?;
        let found = engine.tasks().sandbox(&namespace(cx)?, &op.sandbox_id);
        let sandbox = match found {
            Ok(sandbox) => sandbox,
            // containerd takes one that it does not know for one that has just ended.
            Err(e) if e.kind == Kind::NotFound => {
                return Ok(ControllerStatusResponse {
                    sandbox_id: op.sandbox_id,
                    exited_at: stamp(SystemTime::now()),
                    ..Default::default()
                });
            }
            Err(e) => return Err(e.into()),
        };
        let id = op.sandbox_id.clone();
        let request =
            shim::SandboxStatusRequest { sandbox_id: op.sandbox_id, verbose: op.verbose };
        let answer = sandbox.shim.ask(cx, request).await;
        let status = answer
            .map_err(|e| native(e).context(format_args!("failed to query sandbox {id} status")))?;
        let (address, version) = sandbox.shim.endpoint().dialled();
        Ok(ControllerStatusResponse {
            sandbox_id: status.sandbox_id,
            pid: status.pid,
            state: status.state,
            info: status.info,
            created_at: status.created_at,
            exited_at: status.exited_at,
            extra: status.extra,
            address,
            version,
        })
    }

    ControllerShutdownRequest = |engine, cx, op| {
        sandboxer(&op.sandboxer)?;
        let sandbox = engine.tasks().sandbox(&namespace(cx)?, &op.sandbox_id)?;
        let (tasks, cx) = (engine.tasks().clone(), cx.clone());
        finish(async move { tasks.shutdown_sandbox(&cx, &sandbox).await }).await?;
        Ok(ControllerShutdownResponse {})
    }

    ControllerMetricsRequest = |engine, cx, op| {
        sandboxer(&op.sandboxer)?;
        let sandbox = engine.tasks().sandbox(&namespace(cx)?, &op.sandbox_id)?;
        let request = shim::SandboxMetricsRequest { sandbox_id: op.sandbox_id };
        let answer = sandbox.shim.ask(cx, request).await.map_err(native)?;
        Ok(ControllerMetricsResponse { metrics: answer.metrics })
    }

    /// What is updated is the store's: containerd's controller for shims has nothing to do either.
    ControllerUpdateRequest = |_engine, _cx, op| {
        sandboxer(&op.sandboxer)?;
        if op.sandbox.is_none() {
            return Err(Error::unknown("sandbox can not be nil").into());
        }
        Ok(ControllerUpdateResponse {})
    }
}
