//! Keeping a pod as its manifest says: one step of reconciliation at a time
//! (`kuberuntime_manager.go`'s `SyncPod`, Kubernetes 1.20).
//!
//! What a pod is doing is read from the runtime at every step, by the labels on its sandboxes and
//! containers; so a kubelet that was started again finds its pods and goes on with them. Only what
//! the runtime cannot tell (how long to wait before a restart, what the probes found) is kept
//! here.

use std::{collections::BTreeMap, fmt};

use hops::{Cx, HopError, Result, proto::runtime::v1::*};
use k8s_openapi::api::core::v1 as api;

use crate::{
    backoff::Backoff,
    container::{self, annotation},
    kubelet::{Kubelet, Sandbox},
    manifest::Pod,
    probe::{Probes, Target, Verdict},
    sandbox, volumes,
};

/// A pod's phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Something has not been started yet.
    #[default]
    Pending,
    /// Everything was started, and something runs or will again.
    Running,
    /// Everything ended well and stays so.
    Succeeded,
    /// Everything ended, and not well.
    Failed,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, or not again.
    Waiting {
        /// `ContainerCreating`, `CrashLoopBackOff`, `ErrImagePull`, …
        reason: String,
        /// More words.
        message: String,
    },
    /// It runs.
    Running {
        /// Whether its probes find it ready.
        ready: bool,
    },
    /// It ended.
    Terminated {
        /// Its exit code.
        exit_code: i32,
        /// `Completed`, `Error`, `OOMKilled`, …
        reason: String,
        /// Its last words.
        message: String,
    },
}

/// One container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerView {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// How often it was started again.
    pub restarts: u32,
}

/// What a pod is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodStatus {
    /// Its phase.
    pub phase: Phase,
    /// Its addresses.
    pub ips: Vec<String>,
    /// Its containers, the init containers first.
    pub containers: Vec<ContainerView>,
}

impl fmt::Display for PodStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.phase)?;
        if !self.ips.is_empty() {
            write!(f, " {}", self.ips.join(","))?;
        }
        for ContainerView { name, state, restarts } in &self.containers {
            match state {
                State::Waiting { reason, message } if message.is_empty() => {
                    write!(f, " {name}={reason}")?;
                }
                State::Waiting { reason, message } => write!(f, " {name}={reason}({message})")?,
                State::Running { ready: true } => write!(f, " {name}=Ready")?,
                State::Running { ready: false } => write!(f, " {name}=Running")?,
                State::Terminated { exit_code, reason, .. } => {
                    write!(f, " {name}={reason}({exit_code})")?;
                }
            }
            if *restarts > 0 {
                write!(f, " restarts={restarts}")?;
            }
        }
        Ok(())
    }
}

/// What is kept of one container between two steps.
#[derive(Clone, Debug, Default)]
struct Kept {
    backoff: Backoff,
    probes: Probes,
    /// The last start that failed: when, why, and in which words.
    failed: Option<(i64, String, String)>,
}

/// A pod that is kept, between two steps.
#[derive(Clone, Debug)]
pub struct Keeping {
    pod: Pod,
    containers: BTreeMap<String, Kept>,
}

impl Keeping {
    /// Starts to keep `pod`, which may be running already.
    pub fn new(pod: Pod) -> Keeping {
        Keeping { pod, containers: BTreeMap::new() }
    }

    /// The pod.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    fn kept(&mut self, name: &str) -> &mut Kept {
        self.containers.entry(name.to_owned()).or_default()
    }
}

fn always(pod: &Pod) -> bool {
    matches!(pod.spec.restart_policy.as_deref(), None | Some("" | "Always"))
}

fn never(pod: &Pod) -> bool {
    pod.spec.restart_policy.as_deref() == Some("Never")
}

/// Whether a container that ended is to be started again.
fn restarts(pod: &Pod, exit_code: i32) -> bool {
    always(pod) || !never(pod) && exit_code != 0
}

fn ended(status: &ContainerStatus) -> bool {
    status.state() == ContainerState::ContainerExited
}

/// The newest container of each name, and those before it.
struct Observed {
    latest: BTreeMap<String, ContainerStatus>,
    older: Vec<Container>,
}

impl Kubelet {
    async fn observe(&self, cx: &Cx, pod: &Pod, sandbox: Option<&str>) -> Result<Observed> {
        let mut observed = Observed { latest: BTreeMap::new(), older: Vec::new() };
        // Those of the newest sandbox come first: the others are leftovers.
        let mut containers = self.containers(cx, &pod.uid).await?;
        containers.sort_by_key(|c| Some(c.pod_sandbox_id.as_str()) != sandbox);
        for c in containers {
            let name = c.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
            let current = Some(c.pod_sandbox_id.as_str()) == sandbox;
            if !current || observed.latest.contains_key(&name) {
                observed.older.push(c);
                continue;
            }
            match self.container_status(cx, &c.id).await {
                Ok(status) => drop(observed.latest.insert(name, status)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(observed)
    }

    /// Takes one step towards what the manifest says, at the time `now` (nanoseconds since 1970),
    /// and tells what the pod is doing then.
    ///
    /// # Errors
    /// A call that keeps the whole pod from going on. What concerns one container only is in the
    /// status, and is tried again.
    pub async fn sync_pod(&self, cx: &Cx, keeping: &mut Keeping, now: i64) -> Result<PodStatus> {
        let pod = keeping.pod.clone();
        let sandboxes = self.sandboxes(cx, &pod.uid).await?;
        let newest = sandboxes.first();
        let ready = newest.filter(|s| s.state == PodSandboxState::SandboxReady as i32);
        let observed = self.observe(cx, &pod, newest.map(|s| s.id.as_str())).await?;
        let sandbox = match ready {
            Some(found) => {
                for older in &sandboxes[1..] {
                    self.stop_sandbox(cx, &older.id).await?;
                }
                Sandbox {
                    id: found.id.clone(),
                    ips: self.pod_ips(cx, &pod, &found.id).await?,
                    config: sandbox::config(&self.config, &pod, attempt_of(found))?,
                }
            }
            None if finished(&pod, &observed) => return Ok(self.status(keeping, &observed, &[])),
            None => {
                // Containers cannot outlive their network and IPC namespaces.
                for c in observed.latest.values().filter(|c| !ended(c)) {
                    self.stop_container(cx, &pod, None, &c.id, None).await?;
                }
                for older in &sandboxes {
                    self.stop_sandbox(cx, &older.id).await?;
                }
                let attempt = newest.map_or(0, |s| attempt_of(s) + 1);
                let sandbox = self.run_sandbox(cx, &pod, attempt).await?;
                let again = Observed { latest: BTreeMap::new(), older: observed.older };
                return self.go_on(cx, keeping, &sandbox, again, now).await;
            }
        };
        self.go_on(cx, keeping, &sandbox, observed, now).await
    }

    /// The step inside a sandbox that runs.
    async fn go_on(
        &self,
        cx: &Cx,
        keeping: &mut Keeping,
        sandbox: &Sandbox,
        mut observed: Observed,
        now: i64,
    ) -> Result<PodStatus> {
        let pod = keeping.pod.clone();
        for c in pod.init_containers() {
            match observed.latest.get(&c.name) {
                Some(status) if ended(status) && status.exit_code == 0 => continue,
                Some(status) if ended(status) && never(&pod) => {
                    return Ok(self.status(keeping, &observed, &sandbox.ips));
                }
                Some(status) if status.state() == ContainerState::ContainerRunning => {}
                _ => self.start_again(cx, keeping, sandbox, c, &mut observed, now).await?,
            }
            // The next one waits for this one.
            return Ok(self.status(keeping, &observed, &sandbox.ips));
        }
        for c in &pod.spec.containers {
            match observed.latest.get(&c.name) {
                Some(status) if status.state() == ContainerState::ContainerRunning => {
                    let status = status.clone();
                    self.watch_over(cx, keeping, sandbox, c, &status, &mut observed, now).await?;
                }
                Some(status) if ended(status) && !restarts(&pod, status.exit_code) => {}
                _ => self.start_again(cx, keeping, sandbox, c, &mut observed, now).await?,
            }
        }
        Ok(self.status(keeping, &observed, &sandbox.ips))
    }

    /// Probes a running container, and kills one that is not alive or not what is asked for any
    /// more.
    #[expect(clippy::too_many_arguments, reason = "one step's whole context, used once")]
    async fn watch_over(
        &self,
        cx: &Cx,
        keeping: &mut Keeping,
        sandbox: &Sandbox,
        c: &api::Container,
        status: &ContainerStatus,
        observed: &mut Observed,
        now: i64,
    ) -> Result<()> {
        let changed = status
            .annotations
            .get(annotation::HASH)
            .is_some_and(|hash| *hash != container::hash(c));
        let verdict = if changed {
            Verdict::Kill(format!("Container {} definition changed, will be restarted", c.name))
        } else {
            let ips = &sandbox.ips;
            let target = Target { cri: &*self.cri, cx, c, status, ips };
            keeping.kept(&c.name).probes.run(now, target).await
        };
        let Verdict::Kill(why) = verdict else { return Ok(()) };
        tracing::info!(pod = keeping.pod.name, container = c.name, "{why}");
        self.stop_container(cx, &keeping.pod, Some(c), &status.id, None).await?;
        let after = self.container_status(cx, &status.id).await?;
        let again = changed || restarts(&keeping.pod, after.exit_code);
        observed.latest.insert(c.name.clone(), after);
        match again {
            true => self.start_again(cx, keeping, sandbox, c, observed, now).await,
            false => Ok(()),
        }
    }

    /// Starts a container, unless it ended or failed too short a time ago. A failure is kept for
    /// the status; only what the runtime itself cannot be asked is an error.
    async fn start_again(
        &self,
        cx: &Cx,
        keeping: &mut Keeping,
        sandbox: &Sandbox,
        c: &api::Container,
        observed: &mut Observed,
        now: i64,
    ) -> Result<()> {
        let before = observed.latest.get(&c.name).cloned();
        let kept = keeping.kept(&c.name);
        let last = before.as_ref().map_or(0, |b| b.finished_at);
        let last = last.max(kept.failed.as_ref().map_or(0, |(at, ..)| *at));
        if last > 0 && kept.backoff.until(last, now).is_some() {
            return Ok(());
        }
        if last > 0 {
            kept.backoff.next(now);
        }
        let attempt =
            before.as_ref().map_or(0, |b| b.metadata.as_ref().map_or(0, |m| m.attempt) + 1);
        let mut made = Vec::new();
        let pod = keeping.pod.clone();
        let started = self.start_container(cx, &pod, sandbox, c, attempt, &mut made).await;
        for id in &made {
            let status = self.container_status(cx, id).await?;
            observed.latest.insert(c.name.clone(), status);
        }
        keeping.kept(&c.name).failed = started.err().map(|error| {
            tracing::warn!(pod = pod.name, container = c.name, %error, "starting a container");
            (now, reason_of(&error), error.message)
        });
        // One ended container is kept for its log; those before it are not.
        for older in
            observed.older.extract_if(.., |o| o.metadata.as_ref().is_some_and(|m| m.name == c.name))
        {
            self.remove_container(cx, &older.id).await?;
        }
        Ok(())
    }

    fn status(&self, keeping: &Keeping, observed: &Observed, ips: &[String]) -> PodStatus {
        let pod = &keeping.pod;
        let view = |c: &api::Container| {
            let status = observed.latest.get(&c.name);
            let kept = keeping.containers.get(&c.name);
            ContainerView {
                name: c.name.clone(),
                state: self.state(pod, c, status, kept),
                restarts: status.and_then(|s| s.metadata.as_ref()).map_or(0, |m| m.attempt),
            }
        };
        PodStatus {
            phase: phase(pod, &observed.latest),
            ips: ips.to_vec(),
            containers: pod.all_containers().map(view).collect(),
        }
    }

    fn state(
        &self,
        pod: &Pod,
        c: &api::Container,
        status: Option<&ContainerStatus>,
        kept: Option<&Kept>,
    ) -> State {
        let failed = kept.and_then(|k| k.failed.as_ref());
        let creating =
            || State::Waiting { reason: "ContainerCreating".into(), message: String::new() };
        match status {
            Some(status) if status.state() == ContainerState::ContainerRunning => {
                State::Running { ready: kept.is_some_and(|k| k.probes.ready(c)) }
            }
            _ if let Some((_, reason, message)) = failed => {
                State::Waiting { reason: reason.clone(), message: message.clone() }
            }
            Some(status) if ended(status) => {
                let init = pod.init_containers().any(|i| i.name == c.name);
                let again = match init {
                    true => status.exit_code != 0 && !never(pod),
                    false => restarts(pod, status.exit_code),
                };
                match kept.map(|k| k.backoff.wait() / 1_000_000_000).filter(|w| *w > 0 && again) {
                    Some(wait) => State::Waiting {
                        reason: "CrashLoopBackOff".into(),
                        message: format!(
                            "back-off {wait}s restarting failed container={} pod={}_{}({})",
                            c.name, pod.name, pod.namespace, pod.uid
                        ),
                    },
                    None => State::Terminated {
                        exit_code: status.exit_code,
                        reason: status.reason.clone(),
                        message: self.last_words(pod, c, status),
                    },
                }
            }
            _ => creating(),
        }
    }

    /// What a container wrote to its termination message file, or where it asked for it the end of
    /// its log: at most 4096 and 2048 bytes, as the kubelet reads.
    fn last_words(&self, pod: &Pod, c: &api::Container, status: &ContainerStatus) -> String {
        let attempt = status.metadata.as_ref().map_or(0, |m| m.attempt);
        let file = volumes::message_file(&self.config, pod, &c.name, attempt);
        let text = std::fs::read(file).unwrap_or_default();
        if !text.is_empty() {
            return String::from_utf8_lossy(&text[..text.len().min(4096)]).into_owned();
        }
        let fallback = c.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if !fallback || status.exit_code == 0 {
            return status.message.clone();
        }
        let log = std::fs::read(&status.log_path).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(2048)..]).into_owned()
    }
}

fn attempt_of(sandbox: &PodSandbox) -> u32 {
    sandbox.metadata.as_ref().map_or(0, |m| m.attempt)
}

/// Whether everything of the pod has ended for good.
fn finished(pod: &Pod, observed: &Observed) -> bool {
    matches!(phase(pod, &observed.latest), Phase::Succeeded | Phase::Failed)
}

/// `getPhase` of the kubelet.
fn phase(pod: &Pod, latest: &BTreeMap<String, ContainerStatus>) -> Phase {
    for c in pod.init_containers() {
        match latest.get(&c.name) {
            Some(status) if ended(status) && status.exit_code == 0 => {}
            Some(status) if ended(status) && never(pod) => return Phase::Failed,
            _ => return Phase::Pending,
        }
    }
    let of = |c: &api::Container| latest.get(&c.name);
    let all = &pod.spec.containers;
    if all.iter().any(|c| of(c).is_none_or(|s| s.state() == ContainerState::ContainerCreated)) {
        return Phase::Pending;
    }
    if all.iter().any(|c| of(c).is_some_and(|s| !ended(s))) || always(pod) {
        return Phase::Running;
    }
    let well = all.iter().all(|c| of(c).is_some_and(|s| s.exit_code == 0));
    match (well, never(pod)) {
        (true, _) => Phase::Succeeded,
        (false, true) => Phase::Failed,
        (false, false) => Phase::Running,
    }
}

/// The reason that the kubelet gives for a start that failed, by the call that failed.
fn reason_of(error: &HopError) -> String {
    let verb = error.passed.iter().find(|(hop, _)| *hop == hops::Hop::Cri).map(|(_, verb)| *verb);
    match verb {
        Some("PullImage") => "ErrImagePull",
        Some("ImageStatus") => "ImageInspectError",
        Some("CreateContainer") => "CreateContainerError",
        Some("StartContainer") => "RunContainerError",
        _ => "CreateContainerConfigError",
    }
    .to_owned()
}
