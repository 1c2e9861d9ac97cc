//! The verbs of a [`Sandbox`], which reach over its members: the containers that the shim has.

use std::{
    future::poll_fn,
    task::Poll,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Kind, Result,
    proto::containerd::{
        runtime::sandbox::v1::*,
        task::v2::{DeleteRequest, KillRequest},
        types::{Metric, Platform},
        v1::types::Status,
    },
};

use super::{
    cgroup::Cgroup,
    engine::{Engine, State, answers},
    logger,
    sandbox::{KILL, Next, STOP, Sandbox},
    stats,
};
use crate::images;

answers! {
    CreateSandboxRequest => CreateSandboxResponse: |state, _, op| {
        if let Some(sandbox) = &state.sandbox {
            let words = format!("sandbox {}: already exists", sandbox.id());
            return Err(HopError::new(Kind::AlreadyExists, words));
        }
        state.sandbox = Some(Box::new(Sandbox::create(op)?));
        Ok(CreateSandboxResponse {})
    };
    StartSandboxRequest => StartSandboxResponse: |state, _, op| {
        if state.sandbox.is_none() {
            let words = format!("sandbox {} is not created: failed precondition", op.sandbox_id);
            return Err(HopError::new(Kind::FailedPrecondition, words));
        }
        state.sandbox(&op.sandbox_id)?.start()
    };
    PlatformRequest => PlatformResponse: |_, _, _| {
        let host = images::Platform::host();
        let (os, architecture) = (host.os, host.architecture);
        let variant = host.variant.unwrap_or_default();
        let platform = Platform { os, architecture, variant, ..Default::default() };
        Ok(PlatformResponse { platform: Some(platform) })
    };
    SandboxStatusRequest => SandboxStatusResponse: |state, _, op| {
        Ok(state.sandbox(&op.sandbox_id)?.status(op.verbose))
    };
    PingRequest => PingResponse: |state, _, op| {
        state.sandbox(&op.sandbox_id)?;
        Ok(PingResponse {})
    };
    // The sandbox's process is where the shim is: containerd can have asked for a cgroup for it.
    SandboxMetricsRequest => SandboxMetricsResponse: |state, _, op| {
        let pid = state.sandbox(&op.sandbox_id)?.pid();
        let cgroup = Some(pid).filter(|pid| *pid != 0).and_then(|pid| Cgroup::of(pid).ok());
        let cgroup = cgroup.ok_or_else(|| HopError::not_found("cgroup does not exist: not found"))?;
        let data = Some(stats::read(&cgroup));
        let timestamp = Some(SystemTime::now().into());
        Ok(SandboxMetricsResponse { metrics: Some(Metric { timestamp, id: op.sandbox_id, data }) })
    };
}

#[async_trait]
impl Handle<WaitSandboxRequest> for Engine {
    async fn handle(&self, _cx: &Cx, op: WaitSandboxRequest) -> Result<WaitSandboxResponse> {
        let exit = self.state().sandbox(&op.sandbox_id)?.exit();
        let exit = poll_fn(|_| exit.get().map_or(Poll::Pending, |exit| Poll::Ready(*exit))).await;
        Ok(WaitSandboxResponse { exit_status: exit.status, exited_at: exit.at })
    }
}

#[async_trait]
impl Handle<StopSandboxRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: StopSandboxRequest) -> Result<StopSandboxResponse> {
        self.stop(cx, &op.sandbox_id, Duration::from_secs(op.timeout_secs.into())).await?;
        Ok(StopSandboxResponse {})
    }
}

#[async_trait]
impl Handle<ShutdownSandboxRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: ShutdownSandboxRequest) -> Result<ShutdownSandboxResponse> {
        {
            let mut state = self.state();
            if state.sandbox.is_none() && state.containers.is_empty() {
                // Its creation failed, and what is left is the shim.
                state.door.shut();
                return Ok(ShutdownSandboxResponse {});
            }
        }
        self.stop(cx, &op.sandbox_id, Duration::ZERO).await?;
        let mut state = self.state();
        state.delete_members(cx)?;
        let released = state.sandbox(&op.sandbox_id)?.release();
        released.map_err(|e| HopError::from(std::io::Error::from(e)).context("sandbox rootfs"))?;
        state.sandbox = None;
        state.door.shut();
        Ok(ShutdownSandboxResponse {})
    }
}

impl Engine {
    /// Stops the sandbox `id` and what runs in it, and waits until both have ended.
    async fn stop(&self, cx: &Cx, id: &str, timeout: Duration) -> Result<()> {
        {
            let mut state = self.state();
            state.sandbox(id)?.stop(timeout);
            if !timeout.is_zero() {
                state.signal_members(cx, STOP);
            }
            state.settle_sandbox();
        }
        // The loop polls every open call whenever anything has happened: no waker is needed.
        poll_fn(|_| {
            let mut state = self.state();
            let has_members = state.has_members();
            match state.sandbox(id) {
                Ok(sandbox) if has_members || sandbox.exit().get().is_none() => Poll::Pending,
                // Another call may have removed it.
                _ => Poll::Ready(()),
            }
        })
        .await;
        Ok(())
    }
}

impl State {
    fn sandbox(&mut self, id: &str) -> Result<&mut Sandbox> {
        let sandbox = self.sandbox.as_deref_mut().filter(|sandbox| sandbox.id() == id);
        sandbox.ok_or_else(|| HopError::not_found(format!("sandbox {id}: not found")))
    }

    /// Whether a member runs.
    fn has_members(&self) -> bool {
        self.containers.values().any(|member| member.init.status != Status::Stopped)
    }

    /// Does what is next in a stop of the sandbox.
    pub(super) fn settle_sandbox(&mut self) {
        let has_members = self.has_members();
        match self.sandbox.as_mut().and_then(|sandbox| sandbox.next(has_members)) {
            Some(Next::Kill) => self.signal_members(&Cx::background(), KILL),
            Some(Next::End) => self.sandbox.iter_mut().for_each(|sandbox| sandbox.end()),
            Some(Next::Wait) | None => {}
        }
    }

    /// Sends `signal` to every member that runs.
    fn signal_members(&mut self, cx: &Cx, signal: u32) {
        for (id, member) in &mut self.containers {
            let frozen = match member.init.status {
                Status::Stopped => continue,
                status => matches!(status, Status::Paused | Status::Pausing),
            };
            let kill = KillRequest { id: id.clone(), signal, all: true, ..Default::default() };
            if let Err(error) = member.kill(cx, &kill)
                && error.kind != Kind::NotFound
            {
                logger::warn(format_args!("signal {signal} to {id}: {error}"));
            }
            // Even a killed process does not end while it is frozen.
            if frozen && let Err(error) = member.pause(cx, false) {
                logger::warn(format_args!("resuming {id}: {error}"));
            }
        }
    }

    /// Deletes every member; they have ended.
    fn delete_members(&mut self, cx: &Cx) -> Result<()> {
        let ids: Vec<String> = self.containers.keys().cloned().collect();
        for id in ids {
            self.delete(cx, &DeleteRequest { id, ..Default::default() })?;
        }
        Ok(())
    }
}
