//! The contract of the `Cri` face: what any implementation must do, ours in process, ours through
//! client and server, dockershim, and containerd's own CRI.
//!
//! Pods are on the host's network, so that it needs no network plugin. Everything it makes carries
//! one label, and everything with that label is removed at the end, whichever way it ended.

mod errors;
mod exec;
mod idempotence;
mod images;
mod lifecycle;
mod lists;
mod logs;
mod node;

use std::{
    collections::HashMap,
    fmt::{Debug, Display},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hops::{Cri, Cx, Handle, Op, proto::runtime::v1::*};

/// What a broken promise is: which one, and what was seen.
pub type Verdict<T = ()> = Result<T, String>;

/// The label of all that the contract makes.
const LABEL: &str = "strata.suite";

/// What the contract is run on.
#[derive(Clone)]
pub struct Subject {
    /// The implementation.
    pub face: Arc<dyn Cri>,
    /// An image that it has, with a shell, `sleep`, `id` and `head`, run by root without an
    /// entrypoint.
    pub image: String,
    /// A directory for the containers' logs; what is made in it stays.
    pub logs: PathBuf,
    /// Chapters that are not run, by their names, for an implementation that is known to lack them:
    /// `node`, `images`, `lifecycle`, `idempotence`, `lists`, `errors`, `exec`, `logs`.
    pub skip: Vec<&'static str>,
}

impl Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("image", &self.image).finish_non_exhaustive()
    }
}

/// Runs the contract's chapters.
///
/// # Errors
/// The first promise that is broken, with its chapter.
pub async fn suite(subject: &Subject) -> Verdict {
    macro_rules! chapters {
        ($($chapter:ident),*) => {$(
            if !subject.skip.contains(&stringify!($chapter)) {
                let verdict = $chapter::chapter(subject).await;
                let swept = subject.sweep().await;
                verdict.and(swept).map_err(|e| format!("{}: {e}", stringify!($chapter)))?;
            }
        )*};
    }
    chapters!(node, images, lifecycle, idempotence, lists, errors, exec, logs);
    Ok(())
}

/// Keeps the pods of one process apart.
static COUNT: AtomicU32 = AtomicU32::new(0);

impl Subject {
    /// Calls a verb that must succeed.
    async fn call<O: Op>(&self, op: O) -> Verdict<O::Reply>
    where
        dyn Cri: Handle<O>,
    {
        let answer = self.face.handle(&Cx::background(), op).await;
        answer.map_err(|e| format!("{} failed: {e}", O::NAME))
    }

    /// Calls a verb that must fail.
    async fn refused<O: Op>(&self, op: O) -> Verdict<hops::HopError>
    where
        dyn Cri: Handle<O>,
        O::Reply: Debug,
    {
        match self.face.handle(&Cx::background(), op).await {
            Ok(reply) => Err(format!("{} must fail, and answered {reply:?}", O::NAME)),
            Err(error) => Ok(error),
        }
    }

    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([(LABEL.to_owned(), std::process::id().to_string())])
    }

    /// The configuration of a new pod on the host's network.
    fn pod(&self) -> PodSandboxConfig {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("suite-{}-{n}", std::process::id());
        let options = NamespaceOption {
            network: NamespaceMode::Node.into(),
            pid: NamespaceMode::Container.into(),
            ..NamespaceOption::default()
        };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.clone(),
                uid: format!("uid-{name}"),
                namespace: "suite".to_owned(),
                attempt: 1,
            }),
            log_directory: self.logs.join(&name).display().to_string(),
            labels: self.labels(),
            annotations: HashMap::from([("suite/annotation".to_owned(), "kept".to_owned())]),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    /// The configuration of a container that runs `script` in a shell.
    fn script(&self, name: &str, script: &str) -> ContainerConfig {
        let options = NamespaceOption {
            network: NamespaceMode::Node.into(),
            pid: NamespaceMode::Container.into(),
            ..NamespaceOption::default()
        };
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: self.image.clone(), ..ImageSpec::default() }),
            command: ["sh", "-c", script].map(str::to_owned).into(),
            labels: self.labels(),
            annotations: HashMap::from([("suite/annotation".to_owned(), "kept".to_owned())]),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(options),
                    ..LinuxContainerSecurityContext::default()
                }),
                ..LinuxContainerConfig::default()
            }),
            ..ContainerConfig::default()
        }
    }

    async fn run_pod(&self, config: &PodSandboxConfig) -> Verdict<String> {
        let run = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        Ok(self.call(run).await?.pod_sandbox_id)
    }

    async fn create(
        &self,
        sandbox: &str,
        pod: &PodSandboxConfig,
        config: ContainerConfig,
    ) -> Verdict<String> {
        let create = create_request(sandbox, pod, config);
        Ok(self.call(create).await?.container_id)
    }

    async fn start(&self, id: &str) -> Verdict {
        self.call(StartContainerRequest { container_id: id.to_owned() }).await.map(drop)
    }

    async fn status(&self, id: &str) -> Verdict<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let reply = self.call(request).await?;
        reply.status.ok_or_else(|| "ContainerStatus answered no status".to_owned())
    }

    async fn pod_status(&self, id: &str) -> Verdict<PodSandboxStatus> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let reply = self.call(request).await?;
        reply.status.ok_or_else(|| "PodSandboxStatus answered no status".to_owned())
    }

    /// Waits until a container has exited.
    async fn exited(&self, id: &str) -> Verdict<ContainerStatus> {
        for _ in 0..600 {
            let status = self.status(id).await?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("container {id} does not exit"))
    }

    /// Removes every pod of this contract.
    async fn sweep(&self) -> Verdict {
        let filter = PodSandboxFilter { label_selector: self.labels(), ..Default::default() };
        let list = ListPodSandboxRequest { filter: Some(filter) };
        for pod in self.call(list).await?.items {
            self.call(StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }).await?;
            self.call(RemovePodSandboxRequest { pod_sandbox_id: pod.id }).await?;
        }
        let filter = ContainerFilter { label_selector: self.labels(), ..Default::default() };
        let left = self.call(ListContainersRequest { filter: Some(filter) }).await?.containers;
        same("containers after their pods are removed", left.len(), 0)
    }
}

fn create_request(
    sandbox: &str,
    pod: &PodSandboxConfig,
    config: ContainerConfig,
) -> CreateContainerRequest {
    CreateContainerRequest {
        pod_sandbox_id: sandbox.to_owned(),
        config: Some(config),
        sandbox_config: Some(pod.clone()),
    }
}

/// Checks that two things are the same.
fn same<T: PartialEq + Debug>(what: impl Display, seen: T, wanted: T) -> Verdict {
    match seen == wanted {
        true => Ok(()),
        false => Err(format!("{what}: {seen:?} instead of {wanted:?}")),
    }
}

/// Checks a condition.
fn holds(what: impl Display, condition: bool) -> Verdict {
    if condition { Ok(()) } else { Err(what.to_string()) }
}
