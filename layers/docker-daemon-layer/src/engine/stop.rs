//! Signals and what they lead to: stop, kill, restart, pause, unpause.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Kind, Result,
    docker::{
        Changed, ContainerKill, ContainerPause, ContainerRestart, ContainerStop, ContainerUnpause,
        Request, StopQuery,
    },
    proto::containerd::services::tasks::v1::{KillRequest, PauseTaskRequest, ResumeTaskRequest},
};
use nix::sys::signal::Signal;

use super::{Engine, conflict, container::Container};
use crate::record::Phase;

/// How long a container has to end by itself (dockerd's default), in seconds.
const GRACE: i64 = 10;
/// How long to wait for the end of a process that was killed: one in an uninterruptible sleep may
/// take longer, and then the caller is told.
const KILLED: Duration = Duration::from_secs(10);

/// The number of a signal: a number, or a name with or without `SIG`, in any case.
///
/// # Errors
/// Docker's words for what is no signal.
pub(super) fn signal(text: &str) -> Result<u32> {
    let invalid = || HopError::invalid(format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64).contains(&number).then_some(number).ok_or_else(invalid);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    if let Some(offset) = name.strip_prefix("SIGRTMIN+").and_then(|n| n.parse::<u32>().ok()) {
        return (offset <= 30).then_some(34 + offset).ok_or_else(invalid);
    }
    name.parse::<Signal>().map(|s| s as u32).map_err(|_| invalid())
}

impl Engine {
    /// Sends a signal to the container's process.
    pub(super) async fn signal(&self, cx: &Cx, container: &Container, signal: u32) -> Result<()> {
        let kill =
            KillRequest { container_id: container.id.clone(), signal, ..KillRequest::default() };
        self.containerd.handle(&self.named(cx), kill).await
    }

    /// Waits until the container does not run; `None` waits for ever. Whether it came to that.
    pub(super) async fn ended(&self, container: &Container, limit: Option<Duration>) -> bool {
        let mut life = container.life.subscribe();
        let end = async { life.wait_for(|life| !life.runs).await.is_ok() };
        match limit {
            None => end.await,
            Some(limit) => tokio::time::timeout(limit, end).await.unwrap_or(false),
        }
    }

    /// Stops a container: its signal, the grace, then the kill. Whether it was running.
    pub(super) async fn stop(
        &self,
        cx: &Cx,
        container: &Arc<Container>,
        query: &StopQuery,
    ) -> Result<bool> {
        if !container.phase().runs() {
            container.note(|r| r.stopped_by_hand = true);
            return Ok(false);
        }
        let (own, timeout) =
            container.look(|r| (r.config.stop_signal.clone(), r.config.stop_timeout));
        let word = query.signal.clone().filter(|s| !s.is_empty()).or(own);
        let number = match word.as_deref() {
            None | Some("") => Signal::SIGTERM as u32,
            Some(word) => signal(word)?,
        };
        let seconds = query.t.or(timeout).unwrap_or(GRACE);
        container.note(|r| r.stopped_by_hand = true);
        let paused = container.phase() == Phase::Paused;
        self.tell(container, "kill", &[("signal", number.to_string())]);
        match self.signal(cx, container, number).await {
            Ok(()) => {}
            // It ended meanwhile.
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                tracing::warn!(container = container.id, %error, "the stop signal");
            }
        }
        if paused {
            // A frozen process gets its signal when it goes on.
            let resume = ResumeTaskRequest { container_id: container.id.clone() };
            let _ = self.containerd.handle(&self.named(cx), resume).await;
        }
        let grace = u64::try_from(seconds).ok().map(Duration::from_secs);
        if !self.ended(container, grace).await {
            self.kill_hard(cx, container).await?;
        }
        self.tell(container, "stop", &[]);
        Ok(true)
    }

    /// Kills a container and waits for its end.
    pub(super) async fn kill_hard(&self, cx: &Cx, container: &Arc<Container>) -> Result<()> {
        let paused = container.phase() == Phase::Paused;
        match self.signal(cx, container, Signal::SIGKILL as u32).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        if paused {
            let resume = ResumeTaskRequest { container_id: container.id.clone() };
            let _ = self.containerd.handle(&self.named(cx), resume).await;
        }
        if self.ended(container, Some(KILLED)).await {
            return Ok(());
        }
        Err(HopError::new(
            Kind::Internal,
            format!("tried to kill container, but did not receive an exit event: {}", container.id),
        ))
    }
}

#[async_trait]
impl Handle<Request<ContainerStop>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ContainerStop>) -> Result<Changed> {
        let container = self.find(&call.id)?;
        let stopped = self.stop(cx, &container, &call.query).await.map_err(|e| {
            let name = &call.id;
            e.context(format!("Cannot stop container: {name}"))
        })?;
        Ok(Changed(stopped))
    }
}

#[async_trait]
impl Handle<Request<ContainerRestart>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ContainerRestart>) -> Result<()> {
        let container = self.find(&call.id)?;
        let failed = |e: HopError| e.context(format!("Cannot restart container {}", call.id));
        // A container that is to be removed at its end is kept for this.
        let auto_remove = container.set(|r| r.host.auto_remove.take());
        let stopped = self.stop(cx, &container, &call.query).await;
        container.set(|r| r.host.auto_remove = auto_remove);
        stopped.map_err(failed)?;
        let _turn = container.turn.lock().await;
        if !container.phase().runs() {
            self.start(cx, &container).await.map_err(failed)?;
        }
        self.tell(&container, "restart", &[]);
        Ok(())
    }
}

#[async_trait]
impl Handle<Request<ContainerKill>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ContainerKill>) -> Result<()> {
        let container = self.find(&call.id)?;
        let number = match call.query.signal.as_deref() {
            None | Some("") => Signal::SIGKILL as u32,
            Some(word) => signal(word)?,
        };
        let failed = |e: HopError| e.context(format!("Cannot kill container: {}", call.id));
        if !container.phase().runs() {
            return Err(failed(conflict(format!("Container {} is not running", container.id))));
        }
        if number == Signal::SIGKILL as u32 {
            container.note(|r| r.stopped_by_hand = true);
            self.tell(&container, "kill", &[("signal", number.to_string())]);
            return self.kill_hard(cx, &container).await.map_err(failed);
        }
        let own = container.look(|r| r.config.stop_signal.clone()).unwrap_or_default();
        if signal(if own.is_empty() { "TERM" } else { &own })? == number {
            container.note(|r| r.stopped_by_hand = true);
        }
        self.signal(cx, &container, number).await.map_err(failed)?;
        self.tell(&container, "kill", &[("signal", number.to_string())]);
        Ok(())
    }
}

#[async_trait]
impl Handle<Request<ContainerPause>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ContainerPause>) -> Result<()> {
        let container = self.find(&call.id)?;
        let _turn = container.turn.lock().await;
        match container.phase() {
            Phase::Running => {}
            Phase::Paused => {
                return Err(conflict(format!("Container {} is already paused", container.id)));
            }
            Phase::Restarting => {
                return Err(conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => return Err(conflict(format!("Container {} is not running", container.id))),
        }
        let pause = PauseTaskRequest { container_id: container.id.clone() };
        self.containerd
            .handle(&self.named(cx), pause)
            .await
            .map_err(|e| e.context(format!("Cannot pause container {}", container.id)))?;
        container.note(|r| r.state.phase = Phase::Paused);
        self.tell(&container, "pause", &[]);
        Ok(())
    }
}

#[async_trait]
impl Handle<Request<ContainerUnpause>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ContainerUnpause>) -> Result<()> {
        let container = self.find(&call.id)?;
        let _turn = container.turn.lock().await;
        if container.phase() != Phase::Paused {
            return Err(HopError::internal(format!("Container {} is not paused", container.id)));
        }
        let resume = ResumeTaskRequest { container_id: container.id.clone() };
        self.containerd
            .handle(&self.named(cx), resume)
            .await
            .map_err(|e| e.context(format!("Cannot unpause container {}", container.id)))?;
        container.note(|r| r.state.phase = Phase::Running);
        self.tell(&container, "unpause", &[]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_or_numbered() {
        for (text, number) in [("9", 9), ("KILL", 9), ("sigterm", 15), ("RTMIN+3", 37)] {
            assert_eq!(signal(text).unwrap(), number);
        }
        for bad in ["", "0", "65", "NOSUCH"] {
            assert_eq!(signal(bad).unwrap_err().message, format!("Invalid signal: {bad}"));
        }
    }
}
