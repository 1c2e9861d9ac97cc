//! The kubelet's single steps over CRI: an image, a sandbox, a container, and their ends. What
//! order they come in is [`crate::life`]'s business for one measured pod, and [`crate::sync`]'s
//! for pods that are kept.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc, time::Duration};

use hops::{Cri, Cx, Handle, HopError, Kind, Result, proto::runtime::v1::*, trace::Spans};
use k8s_openapi::api::core::v1 as api;

use crate::{
    container,
    env::Placement,
    hook,
    manifest::Pod,
    resources,
    sandbox::{self, label},
    volumes,
};

/// The node that a kubelet is on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the pods' directories are; `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// Where the pods' logs are; `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// The node's address, `status.hostIP`.
    pub host_ip: String,
    /// The resolv.conf of pods with `dnsPolicy: Default`; empty for none.
    pub resolv_conf: PathBuf,
    /// The cluster's name servers; usually none.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The parent of the pods' cgroups; empty leaves it to the runtime.
    pub cgroup_parent: String,
    /// Where the root span of each pod goes.
    pub spans: Spans,
}

impl Default for Config {
    fn default() -> Config {
        let node_name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Config {
            root_dir: "/var/lib/kubelet".into(),
            pod_logs_dir: "/var/log/pods".into(),
            node_name: node_name.unwrap_or_else(|| "localhost".into()),
            host_ip: "127.0.0.1".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            cgroup_parent: String::new(),
            spans: Spans::disabled(),
        }
    }
}

/// A kubelet: pods on one side, a container runtime on the other.
pub struct Kubelet {
    pub(crate) cri: Arc<dyn Cri>,
    pub(crate) config: Config,
    node_memory: i64,
}

impl std::fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubelet").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A sandbox that runs.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    pub(crate) ips: Vec<String>,
}

/// The least time that the real kubelet leaves a container between the stop signal and the kill.
const MIN_GRACE: i64 = 2;

impl Kubelet {
    /// A kubelet on `config`'s node whose containers run in `cri`. Calls to it are traced when
    /// `cri` is a [`hops::trace::Traced`].
    pub fn new(cri: Arc<dyn Cri>, config: Config) -> Kubelet {
        Kubelet { cri, config, node_memory: resources::node_memory() }
    }

    /// Makes the pod's directories and volumes, then its sandbox, and asks for its addresses.
    pub(crate) async fn run_sandbox(&self, cx: &Cx, pod: &Pod, attempt: u32) -> Result<Sandbox> {
        volumes::make(&self.config, pod)?;
        let config = sandbox::config(&self.config, pod, attempt)?;
        make_dir(&config.log_directory)?;
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: pod.spec.runtime_class_name.clone().unwrap_or_default(),
        };
        let id = self.cri.handle(cx, request).await?.pod_sandbox_id;
        let ips = self.pod_ips(cx, pod, &id).await?;
        Ok(Sandbox { id, config, ips })
    }

    /// The addresses of a sandbox; a pod on the node's network has the node's.
    pub(crate) async fn pod_ips(&self, cx: &Cx, pod: &Pod, id: &str) -> Result<Vec<String>> {
        let status = self.sandbox_status(cx, id).await?;
        if pod.host_network() {
            return Ok(vec![self.config.host_ip.clone()]);
        }
        let network = status.network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        Ok(std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect())
    }

    pub(crate) async fn sandbox_status(&self, cx: &Cx, id: &str) -> Result<PodSandboxStatus> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let missing = || HopError::not_found(format!("pod sandbox {id:?} has no status"));
        self.cri.handle(cx, request).await?.status.ok_or_else(missing)
    }

    pub(crate) async fn container_status(&self, cx: &Cx, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let missing = || HopError::not_found(format!("container {id:?} has no status"));
        self.cri.handle(cx, request).await?.status.ok_or_else(missing)
    }

    /// The image of `c`, pulled when its policy says so (`EnsureImageExists`).
    pub(crate) async fn ensure_image(
        &self,
        cx: &Cx,
        c: &api::Container,
        sandbox: &PodSandboxConfig,
    ) -> Result<Image> {
        let name = with_default_tag(c.image.as_deref().unwrap_or_default());
        let spec = ImageSpec {
            image: name.clone(),
            user_specified_image: c.image.clone().unwrap_or_default(),
            annotations: sandbox.annotations.clone(),
            ..ImageSpec::default()
        };
        let status = ImageStatusRequest { image: Some(spec.clone()), verbose: false };
        let present = self.cri.handle(cx, status.clone()).await?.image;
        let policy = c.image_pull_policy.as_deref().filter(|p| !p.is_empty());
        let default = if name.ends_with(":latest") { "Always" } else { "IfNotPresent" };
        match (present, policy.unwrap_or(default)) {
            (Some(image), "IfNotPresent" | "Never") => return Ok(image),
            (None, "Never") => {
                return Err(HopError::not_found(format!(
                    "Container image {name:?} is not present with pull policy of Never"
                )));
            }
            _ => {}
        }
        let pull = PullImageRequest {
            image: Some(spec),
            auth: None,
            sandbox_config: Some(sandbox.clone()),
        };
        let image_ref = self.cri.handle(cx, pull).await?.image_ref;
        // The image's user decides the container's.
        let image = self.cri.handle(cx, status).await?.image;
        Ok(image.unwrap_or_else(|| Image { id: image_ref, ..Image::default() }))
    }

    /// Makes and starts a container and runs its `postStart` hook. `made` is told of it as soon
    /// as it exists, whatever comes after.
    pub(crate) async fn start_container(
        &self,
        cx: &Cx,
        pod: &Pod,
        sandbox: &Sandbox,
        c: &api::Container,
        attempt: u32,
        made: &mut Vec<String>,
    ) -> Result<String> {
        let image = self.ensure_image(cx, c, &sandbox.config).await?;
        make_dir(&format!("{}/{}", sandbox.config.log_directory, c.name))?;
        let placement = Placement {
            node_name: self.config.node_name.clone(),
            host_ip: self.config.host_ip.clone(),
            pod_ips: sandbox.ips.clone(),
        };
        let start = container::Start {
            placement: &placement,
            image: &image,
            attempt,
            mounts: volumes::mounts(&self.config, pod, c, &sandbox.ips, attempt)?,
            node_memory: self.node_memory,
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(container::config(pod, c, start)?),
            sandbox_config: Some(sandbox.config.clone()),
        };
        let id = self.cri.handle(cx, request).await?.container_id;
        made.push(id.clone());
        self.cri.handle(cx, StartContainerRequest { container_id: id.clone() }).await?;
        if let Some(handler) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
            let hook = hook::run(&*self.cri, cx, handler, &id, &sandbox.ips).await;
            if let Err(error) = hook {
                self.stop_container(cx, pod, None, &id, Some(0)).await?;
                return Err(error.context("PostStartHookError"));
            }
        }
        Ok(id)
    }

    /// Runs the `preStop` hook and stops the container, as `killContainer` does: at least two
    /// seconds of grace, unless the pod or the caller asks for none at all.
    pub(crate) async fn stop_container(
        &self,
        cx: &Cx,
        pod: &Pod,
        c: Option<&api::Container>,
        id: &str,
        grace: Option<i64>,
    ) -> Result<()> {
        let mut left = grace.unwrap_or(pod.grace_seconds());
        let hook = c.and_then(|c| c.lifecycle.as_ref()?.pre_stop.as_ref()).filter(|_| left > 0);
        if let Some(hook) = hook {
            let began = std::time::Instant::now();
            let limit = Duration::from_secs(left.unsigned_abs());
            let run = hook::run(&*self.cri, cx, hook, id, &[]);
            match tokio::time::timeout(limit, run).await {
                Ok(Ok(())) => {}
                // A hook that fails does not keep the container from being stopped.
                Ok(Err(error)) => tracing::warn!(container = id, %error, "preStop hook failed"),
                Err(_) => tracing::warn!(container = id, "preStop hook outlived the grace period"),
            }
            left -= began.elapsed().as_secs() as i64;
        }
        let timeout = match grace.unwrap_or(pod.grace_seconds()) {
            0 => 0,
            _ => left.max(MIN_GRACE),
        };
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        self.cri.handle(cx, request).await.map(drop)
    }

    pub(crate) async fn stop_sandbox(&self, cx: &Cx, id: &str) -> Result<()> {
        self.cri.handle(cx, StopPodSandboxRequest { pod_sandbox_id: id.into() }).await.map(drop)
    }

    pub(crate) async fn remove_container(&self, cx: &Cx, id: &str) -> Result<()> {
        self.cri.handle(cx, RemoveContainerRequest { container_id: id.into() }).await.map(drop)
    }

    pub(crate) async fn remove_sandbox(&self, cx: &Cx, id: &str) -> Result<()> {
        self.cri.handle(cx, RemovePodSandboxRequest { pod_sandbox_id: id.into() }).await.map(drop)
    }

    /// The sandboxes of a pod's uid, newest first.
    pub(crate) async fn sandboxes(&self, cx: &Cx, uid: &str) -> Result<Vec<PodSandbox>> {
        let filter = PodSandboxFilter { label_selector: by_uid(uid), ..Default::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let mut items = self.cri.handle(cx, request).await?.items;
        items.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        Ok(items)
    }

    /// Every sandbox of the runtime.
    pub(crate) async fn all_sandboxes(&self, cx: &Cx) -> Result<Vec<PodSandbox>> {
        Ok(self.cri.handle(cx, ListPodSandboxRequest { filter: None }).await?.items)
    }

    /// The containers of a pod's uid, newest first.
    pub(crate) async fn containers(&self, cx: &Cx, uid: &str) -> Result<Vec<Container>> {
        let filter = ContainerFilter { label_selector: by_uid(uid), ..Default::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        let mut items = self.cri.handle(cx, request).await?.containers;
        items.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        Ok(items)
    }

    /// Stops and removes everything that the runtime has of a pod, and the pod's files. Goes on
    /// after an error and answers the first one; what is gone already is no error.
    pub async fn remove_pod(&self, cx: &Cx, pod: &Pod, grace: Option<i64>) -> Result<()> {
        let containers = self.containers(cx, &pod.uid).await?;
        let sandboxes = self.sandboxes(cx, &pod.uid).await?;
        let mut first = Ok(());
        let mut note = |result: Result<()>| match result {
            Err(error) if !error.is_not_found() && first.is_ok() => first = Err(error),
            _ => {}
        };
        for c in &containers {
            if c.state == ContainerState::ContainerRunning as i32 {
                let name = c.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default();
                let spec = pod.all_containers().find(|c| c.name == name);
                note(self.stop_container(cx, pod, spec, &c.id, grace).await);
            }
        }
        for s in &sandboxes {
            note(self.stop_sandbox(cx, &s.id).await);
        }
        for c in &containers {
            note(self.remove_container(cx, &c.id).await);
        }
        for s in &sandboxes {
            note(self.remove_sandbox(cx, &s.id).await);
        }
        note(volumes::remove(&self.config, pod));
        first
    }
}

fn by_uid(uid: &str) -> HashMap<String, String> {
    HashMap::from([(label::POD_UID.to_owned(), uid.to_owned())])
}

fn make_dir(path: &str) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| HopError::from(e).context(path))
}

/// The image's name with `:latest` where it has neither a tag nor a digest.
fn with_default_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

/// A container that ended by itself with anything but success.
pub(crate) fn failed(name: &str, status: &ContainerStatus) -> HopError {
    let mut words = format!("container {name:?} failed with exit code {}", status.exit_code);
    for more in [&status.reason, &status.message] {
        if !more.is_empty() {
            words = format!("{words}: {more}");
        }
    }
    HopError::new(Kind::FailedPrecondition, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        for (given, full) in [
            ("busybox", "busybox:latest"),
            ("localhost:5000/busybox", "localhost:5000/busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("busybox@sha256:00", "busybox@sha256:00"),
        ] {
            assert_eq!(with_default_tag(given), full);
        }
    }
}
