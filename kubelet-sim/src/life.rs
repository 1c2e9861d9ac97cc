//! One pod's whole life, measured: from its manifest to a process and back to nothing.

use std::time::{Duration, Instant};

use hops::{
    Cx, Result,
    proto::runtime::v1::ContainerState,
    trace::{Open, Side},
};
use k8s_openapi::api::core::v1 as api;
use serde::Serialize;

use crate::{
    kubelet::{Kubelet, failed},
    manifest::Pod,
};

/// What one life took.
#[derive(Clone, Debug, Default)]
pub struct PodRun {
    /// Microseconds until every container ran; `None` when it did not come to that.
    pub start_us: Option<u64>,
    /// Microseconds of the whole life, the tearing down included.
    pub life_us: u64,
    /// The trace by which the spans of this life are found; `None` when nothing is traced.
    pub trace: Option<String>,
    /// The first error, unchanged, whatever the tearing down met afterwards.
    pub error: Option<hops::HopError>,
}

/// How a pod is to live.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// How long it is left alone once it runs.
    pub hold: Duration,
    /// Seconds between the stop signal and the kill; `None` leaves it to the manifest.
    pub grace: Option<i64>,
}

/// A life that has begun: its clock runs and its root span is open.
pub(crate) struct Begun {
    pub(crate) cx: Cx,
    root: Open,
    at: Instant,
}

/// How long to wait before a state that is not there yet is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(1);
const ASK_AGAIN_AT_MOST: Duration = Duration::from_millis(100);

impl Kubelet {
    /// Starts the clock and the root span of a life; under `cx`'s span where it has one.
    pub(crate) fn begin(&self, cx: &Cx) -> Begun {
        let at = Instant::now();
        let (cx, root) = match cx.trace {
            Some(_) => self.config.spans.begin(cx, "", "pod", Side::Inner),
            None => self.config.spans.root("pod"),
        };
        Begun { cx, root, at }
    }

    /// Runs `pod` once: image, sandbox, init containers, containers, until all of them run (or
    /// have ended well); then stops and removes everything. The calls are made one after another
    /// under one root span named `pod`, so that the parts of the time sum to the whole.
    ///
    /// The pod needs a uid ([`Pod::fresh`]). After an error everything that was made is removed.
    pub async fn run_once(&self, cx: &Cx, pod: &Pod, span: Span) -> PodRun {
        let begun = self.begin(cx);
        self.live(begun, Ok(pod.clone()), span).await
    }

    /// [`Kubelet::run_once`] of a life that began with the reading of its manifest.
    pub(crate) async fn live(&self, begun: Begun, pod: Result<Pod>, span: Span) -> PodRun {
        let Begun { cx, mut root, at } = begun;
        let mut run = PodRun { trace: root.trace_id(), ..PodRun::default() };
        let micros = || u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
        match pod {
            Err(error) => run.error = Some(error),
            Ok(pod) => {
                let mut made = Made::default();
                match self.bring_up(&cx, &pod, &mut made).await {
                    Ok(()) => run.start_us = Some(micros()),
                    Err(error) => run.error = Some(error),
                }
                if run.error.is_none() && !span.hold.is_zero() {
                    let (_, _hold) = self.config.spans.begin(&cx, "", "hold", Side::Inner);
                    tokio::time::sleep(span.hold).await;
                }
                if run.error.is_none() {
                    run.error = self.tear_down(&cx, &pod, made, span.grace).await.err();
                }
                if run.error.is_some() {
                    // A call that failed may have made something that it did not tell of.
                    let grace = Some(span.grace.unwrap_or(0));
                    if let Err(error) = self.remove_pod(&cx, &pod, grace).await {
                        tracing::warn!(pod = pod.name, %error, "tearing down after an error");
                    }
                }
            }
        }
        if run.error.is_some() {
            root.fail();
        }
        drop(root);
        run.life_us = micros();
        run
    }

    async fn bring_up(&self, cx: &Cx, pod: &Pod, made: &mut Made) -> Result<()> {
        let sandbox = self.run_sandbox(cx, pod, 0).await?;
        made.sandbox = sandbox.id.clone();
        for c in pod.init_containers() {
            let id = self.start_container(cx, pod, &sandbox, c, 0, &mut made.containers).await?;
            self.until(cx, c, &id, &[ContainerState::ContainerExited]).await?;
        }
        let mut started = Vec::new();
        for c in &pod.spec.containers {
            let id = self.start_container(cx, pod, &sandbox, c, 0, &mut made.containers).await?;
            started.push((c, id));
        }
        for (c, id) in started {
            use ContainerState::{ContainerExited, ContainerRunning};
            self.until(cx, c, &id, &[ContainerRunning, ContainerExited]).await?;
        }
        Ok(())
    }

    /// Waits until a container is in one of `states`; one that ended must have ended well.
    async fn until(
        &self,
        cx: &Cx,
        c: &api::Container,
        id: &str,
        states: &[ContainerState],
    ) -> Result<()> {
        let mut pause = ASK_AGAIN;
        loop {
            let status = self.container_status(cx, id).await?;
            if status.state() == ContainerState::ContainerExited && status.exit_code != 0 {
                return Err(failed(&c.name, &status));
            }
            if states.contains(&status.state()) {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN_AT_MOST);
        }
    }

    /// The real kubelet's order: containers stopped, sandbox stopped, containers removed, sandbox
    /// removed. Goes on after an error and answers the first one.
    async fn tear_down(&self, cx: &Cx, pod: &Pod, made: Made, grace: Option<i64>) -> Result<()> {
        let mut results = Vec::new();
        let specs: Vec<_> = pod.all_containers().collect();
        let inits = pod.init_containers().count();
        for (c, id) in specs.iter().zip(&made.containers).skip(inits) {
            results.push(self.stop_container(cx, pod, Some(c), id, grace).await);
        }
        results.push(self.stop_sandbox(cx, &made.sandbox).await);
        for id in &made.containers {
            results.push(self.remove_container(cx, id).await);
        }
        results.push(self.remove_sandbox(cx, &made.sandbox).await);
        results.push(crate::volumes::remove(&self.config, pod));
        results.into_iter().collect()
    }
}

/// What a life has made so far.
#[derive(Debug, Default)]
struct Made {
    sandbox: String,
    /// In the order of [`Pod::all_containers`].
    containers: Vec<String>,
}

/// A life as `strata-kubelet --drive` answers it, one JSON line each.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// As [`PodRun::start_us`].
    pub start_us: Option<u64>,
    /// As [`PodRun::life_us`].
    pub life_us: u64,
    /// As [`PodRun::trace`].
    pub trace: Option<String>,
    /// The error's words.
    pub error: Option<String>,
    /// The error's kind, and the hops it passed, innermost first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `Hop.Verb` of each hop that the error passed, innermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<String>,
}

impl From<PodRun> for Report {
    fn from(run: PodRun) -> Report {
        let error = run.error.as_ref();
        Report {
            start_us: run.start_us,
            life_us: run.life_us,
            trace: run.trace,
            kind: error.map(|e| format!("{:?}", e.kind)),
            passed: error
                .map(|e| e.passed.iter().map(|(hop, verb)| format!("{hop}.{verb}")).collect())
                .unwrap_or_default(),
            error: run.error.map(|e| e.message),
        }
    }
}
