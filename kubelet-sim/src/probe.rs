//! Probes: is a container up yet, is it alive, is it ready (`pkg/kubelet/prober`).

use std::time::Duration;

use hops::{Cri, Cx, HopError, Kind, Result, proto::runtime::v1::ContainerStatus};
use k8s_openapi::api::core::v1 as api;

use crate::hook;

/// One probe of one running container.
#[derive(Clone, Debug, Default)]
struct Probing {
    due: i64,
    in_a_row: (i32, i32),
    passed: Option<bool>,
}

/// What the probes of one container have found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probes {
    /// The container that was probed; another one starts anew.
    id: String,
    startup: Probing,
    liveness: Probing,
    readiness: Probing,
}

/// What follows from the probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs; whether it is ready to serve.
    Ready(bool),
    /// It has to be killed, and why.
    Kill(String),
}

const SECOND: i64 = 1_000_000_000;

impl Probing {
    /// Runs the probe when it is due; after enough results in a row the finding changes.
    async fn ask(&mut self, spec: &api::Probe, now: i64, of: &Target<'_>) {
        let started = of.status.started_at;
        let delay = i64::from(spec.initial_delay_seconds.unwrap_or(0)) * SECOND;
        if now < self.due.max(started + delay) {
            return;
        }
        self.due = now + i64::from(spec.period_seconds.unwrap_or(10).max(1)) * SECOND;
        let (good, bad) = &mut self.in_a_row;
        match act(spec, of).await {
            Ok(()) => (*good, *bad) = (*good + 1, 0),
            Err(error) => {
                tracing::info!(container = of.c.name, %error, "probe failed");
                (*good, *bad) = (0, *bad + 1);
            }
        }
        if *good >= spec.success_threshold.unwrap_or(1).max(1) {
            self.passed = Some(true);
        } else if *bad >= spec.failure_threshold.unwrap_or(3).max(1) {
            self.passed = Some(false);
        }
    }
}

/// What is probed.
pub(crate) struct Target<'a> {
    pub(crate) cri: &'a dyn Cri,
    pub(crate) cx: &'a Cx,
    pub(crate) c: &'a api::Container,
    pub(crate) status: &'a ContainerStatus,
    pub(crate) ips: &'a [String],
}

async fn act(spec: &api::Probe, of: &Target<'_>) -> Result<()> {
    let seconds = spec.timeout_seconds.unwrap_or(1).max(1);
    let action = async {
        if let Some(action) = &spec.exec {
            return hook::exec(of.cri, of.cx, action, &of.status.id, seconds.into()).await;
        }
        if let Some(action) = &spec.http_get {
            return hook::http(action, Some(of.c), of.ips).await;
        }
        match &spec.tcp_socket {
            Some(action) => hook::tcp(action, Some(of.c), of.ips).await,
            None => Ok(()),
        }
    };
    // The runtime keeps a command's time itself; a second more lets its own answer arrive.
    let slack = u64::from(spec.exec.is_some());
    let limit = Duration::from_secs(u64::from(seconds.unsigned_abs()) + slack);
    tokio::time::timeout(limit, action)
        .await
        .unwrap_or_else(|_| Err(HopError::new(Kind::DeadlineExceeded, "probe timed out")))
}

impl Probes {
    /// Whether the last look found the container ready to serve.
    pub(crate) fn ready(&self, c: &api::Container) -> bool {
        let up = c.startup_probe.is_none() || self.startup.passed == Some(true);
        up && (c.readiness_probe.is_none() || self.readiness.passed == Some(true))
    }

    /// Runs the probes that are due at `now`, nanoseconds since 1970.
    pub(crate) async fn run(&mut self, now: i64, of: Target<'_>) -> Verdict {
        if self.id != of.status.id {
            *self = Probes { id: of.status.id.clone(), ..Probes::default() };
        }
        let killed = |name: &str, which: &str| {
            Verdict::Kill(format!("Container {name} failed {which} probe, will be restarted"))
        };
        if let Some(spec) = &of.c.startup_probe
            && self.startup.passed != Some(true)
        {
            self.startup.ask(spec, now, &of).await;
            match self.startup.passed {
                Some(false) => return killed(&of.c.name, "startup"),
                // Until it is up, the other probes are not asked.
                None => return Verdict::Ready(false),
                Some(true) => {}
            }
        }
        if let Some(spec) = &of.c.liveness_probe {
            self.liveness.ask(spec, now, &of).await;
            if self.liveness.passed == Some(false) {
                return killed(&of.c.name, "liveness");
            }
        }
        let Some(spec) = &of.c.readiness_probe else { return Verdict::Ready(true) };
        self.readiness.ask(spec, now, &of).await;
        Verdict::Ready(self.readiness.passed == Some(true))
    }
}
