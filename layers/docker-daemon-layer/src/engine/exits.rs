//! The ends of processes: containerd tells of them, and this is what follows.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use hops::{
    Cx, HopError, Kind, Outputs, Result,
    docker::models::RestartPolicyNameEnum as Policy,
    proto::containerd::{
        events::{TaskExit, TaskOom},
        services::{
            events::v1::SubscribeRequest,
            images::v1::{ImageCreate, ImageDelete, ImageUpdate},
            tasks::v1::DeleteTaskRequest,
        },
        types::Envelope,
    },
};
use prost::Message;

use super::{Engine, container::Container, lock};
use crate::{record::Phase, time};

/// How long the rest of a process's output is waited for after its end (dockerd 20.10): another
/// process may hold the streams.
const DRAIN: Duration = Duration::from_secs(2);
/// The first delay before a restart in milliseconds; it doubles up to the longest.
const FIRST_DELAY: u64 = 100;
const LONGEST_DELAY: u64 = 60_000;
/// A container that ran as long as this (nanoseconds) starts over with the first delay.
const STEADY: i64 = 10_000_000_000;

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) code: u32,
    /// Nanoseconds since the epoch.
    pub(super) at: i64,
}

impl Engine {
    /// Subscribes to containerd's events, and goes on by itself from then on.
    pub(super) async fn listen(&self) -> Result<()> {
        let mut events = self.subscribe().await?;
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                while let Some(Ok(envelope)) = events.next().await {
                    let Some(shared) = weak.upgrade() else { return };
                    Engine(shared).take(&envelope);
                }
                // containerd went away: what was known from its events may be wrong by now.
                loop {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    let Some(shared) = weak.upgrade() else { return };
                    let engine = Engine(shared);
                    engine.images.forget(None);
                    if let Ok(again) = engine.subscribe().await {
                        events = again;
                        if let Err(error) = engine.reconcile().await {
                            tracing::warn!(%error, "finding the containers again");
                        }
                        break;
                    }
                }
            }
        });
        Ok(())
    }

    async fn subscribe(&self) -> Result<Outputs<Envelope>> {
        let namespace = &self.config.namespace;
        let filters =
            ["/tasks/exit", "/tasks/oom", "/images/create", "/images/update", "/images/delete"]
                .map(|topic| format!("namespace=={namespace},topic==\"{topic}\""));
        let request = SubscribeRequest { filters: filters.into() };
        self.containerd.stream(&self.background(), request, hops::op::no_input()).await
    }

    fn take(&self, envelope: &Envelope) {
        if envelope.namespace != self.config.namespace {
            return;
        }
        let Some(event) = &envelope.event else { return };
        let bytes = event.value.as_slice();
        match envelope.topic.as_str() {
            "/tasks/exit" => {
                let Ok(exit) = TaskExit::decode(bytes) else { return };
                let at = exit
                    .exited_at
                    .map_or_else(time::now, |t| t.seconds * 1_000_000_000 + i64::from(t.nanos));
                let end = End { code: exit.exit_status, at };
                let engine = self.clone();
                tokio::spawn(async move {
                    if exit.id != exit.container_id {
                        engine.exec_ended(&exit.id, end).await;
                    } else if let Ok(container) = engine.find(&exit.container_id) {
                        engine.ended_with(&container, Some(exit.pid), end).await;
                    }
                });
            }
            "/tasks/oom" => {
                if let Ok(oom) = TaskOom::decode(bytes)
                    && let Ok(container) = self.find(&oom.container_id)
                {
                    container.note(|r| r.state.oom_killed = true);
                    self.tell(&container, "oom", &[]);
                }
            }
            "/images/create" => self.image_changed(ImageCreate::decode(bytes).map(|e| e.name)),
            "/images/update" => self.image_changed(ImageUpdate::decode(bytes).map(|e| e.name)),
            "/images/delete" => self.image_changed(ImageDelete::decode(bytes).map(|e| e.name)),
            _ => {}
        }
    }

    fn image_changed(&self, name: Result<String, prost::DecodeError>) {
        self.images.forget(name.ok().as_deref());
    }

    /// The container's process has ended.
    pub(super) async fn ended_with(&self, container: &Arc<Container>, pid: Option<u32>, end: End) {
        let turn = container.turn.lock().await;
        let current = container.look(|r| r.state.pid);
        if !container.phase().runs() || pid.is_some_and(|pid| i64::from(pid) != current) {
            return;
        }
        let pump = lock(&container.pump).take();
        if let Some(mut pump) = pump
            && tokio::time::timeout(DRAIN, &mut pump).await.is_err()
        {
            pump.abort();
        }
        container.hub.end();
        let cx = self.background();
        let delete = DeleteTaskRequest { container_id: container.id.clone() };
        let code = match self.containerd.handle(&cx, delete).await {
            Ok(reply) if reply.pid == pid.unwrap_or(0) => reply.exit_status,
            Ok(_) => end.code,
            Err(error) => {
                if !error.is_not_found() {
                    tracing::warn!(container = container.id, %error, "deleting the task");
                }
                end.code
            }
        };
        self.clean_up(&cx, container).await;
        self.end_execs(&container.id, end);
        let restart = self.restart_delay(container, i64::from(code), end.at);
        let auto_remove = container.note(|r| {
            r.state.phase = if restart.is_some() { Phase::Restarting } else { Phase::Exited };
            r.state.pid = 0;
            r.state.exit_code = i64::from(code);
            r.state.finished = end.at;
            r.restarts += i64::from(restart.is_some());
            r.host.auto_remove == Some(true) && restart.is_none()
        });
        self.tell(container, "die", &[("exitCode", code.to_string())]);
        container.life.send_modify(|life| {
            life.runs = false;
            life.exits += 1;
            life.exit_code = i64::from(code);
        });
        drop(turn);
        // Somebody else may be at it already.
        if auto_remove
            && let Err(error) = self.remove(&cx, container, true, true).await
            && error.kind != Kind::FailedPrecondition
        {
            tracing::warn!(container = container.id, %error, "removing it at its end");
        }
        if let Some(delay) = restart {
            self.start_later(container.clone(), delay);
        }
    }

    /// How long to wait before the container is started again; `None` when it is not to be.
    fn restart_delay(&self, container: &Container, code: i64, at: i64) -> Option<Duration> {
        let (policy, by_hand, restarts, started) = container.look(|r| {
            let policy = r.host.restart_policy.clone().unwrap_or_default();
            (policy, r.stopped_by_hand, r.restarts, r.state.started)
        });
        let most = policy.maximum_retry_count.unwrap_or(0);
        let again = !by_hand
            && match policy.name.unwrap_or(Policy::NO) {
                Policy::ALWAYS | Policy::UNLESS_STOPPED => true,
                Policy::ON_FAILURE => code != 0 && (most == 0 || restarts < most),
                _ => false,
            };
        if !again {
            return None;
        }
        let mut delay = lock(&container.backoff);
        *delay = match *delay {
            0 => FIRST_DELAY,
            _ if at - started > STEADY => FIRST_DELAY,
            delay => (delay * 2).min(LONGEST_DELAY),
        };
        Some(Duration::from_millis(*delay))
    }

    /// Starts a container whose policy says so, unless somebody stopped it meanwhile.
    pub(super) fn start_later(&self, container: Arc<Container>, delay: Duration) {
        let engine = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _turn = container.turn.lock().await;
            if container.phase() != Phase::Restarting {
                return;
            }
            if container.look(|r| r.stopped_by_hand) {
                container.note(|r| r.state.phase = Phase::Exited);
                return;
            }
            if let Err(error) = engine.start(&Cx::background(), &container).await {
                tracing::warn!(container = container.id, %error, "restart");
            }
        });
    }
}

/// The error of a container that is not running.
pub(super) fn not_running(id: &str) -> HopError {
    HopError::new(Kind::FailedPrecondition, format!("Container {id} is not running"))
}
