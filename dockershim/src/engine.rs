//! The engine: what all verbs share.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use hops::{
    Cni, Cx, Docker, Handle, HopError, Kind, Result,
    docker::{
        ContainerCreate, ContainerCreateQuery, ContainerInspect, ContainerRemove,
        ContainerRemoveQuery, ContainerStop, Flag, Info, Json, Request, StopQuery,
        models::{ContainerCreateBody, ContainerInspectResponse, SystemInfo},
    },
};

use crate::{checkpoint::Checkpoints, names, network::Plugin};

/// How a dockershim is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its checkpoints are: `/var/lib/strata/dockershim`.
    pub root: PathBuf,
    /// The image of the sandboxes: `k8s.gcr.io/pause:3.2` in Kubernetes 1.20.
    pub sandbox_image: String,
    /// Where the pod network's configuration is: `/etc/cni/net.d`.
    pub cni_conf_dir: PathBuf,
    /// How long a pull may make no progress: a minute in Kubernetes 1.20.
    pub pull_deadline: Duration,
    /// Ask for no `oom_score_adj` below this process's own, for a daemon that may not set one
    /// (containerd's `restrict_oom_score_adj`).
    pub restrict_oom_score_adj: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            root: "/var/lib/strata/dockershim".into(),
            sandbox_image: "k8s.gcr.io/pause:3.2".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            pull_deadline: Duration::from_secs(60),
            restrict_oom_score_adj: false,
        }
    }
}

/// A CRI runtime on a Docker daemon.
pub struct Engine {
    pub(crate) docker: Arc<dyn Docker>,
    pub(crate) network: Plugin,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) config: Config,
    /// Whether each sandbox's network is up, as far as this process knows.
    network_ready: Mutex<HashMap<String, bool>>,
    /// Docker's cgroup driver, once it was asked.
    systemd_cgroups: tokio::sync::OnceCell<bool>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the engine on `docker`, with pod networks made by `cni`. Nothing is asked of either
    /// yet.
    ///
    /// # Errors
    /// Those of making the root directory.
    pub fn open(config: Config, docker: Arc<dyn Docker>, cni: Arc<dyn Cni>) -> Result<Engine> {
        let checkpoints = Checkpoints::open(&config.root).map_err(|e| {
            HopError::from(e).context(format_args!("opening {}", config.root.display()))
        })?;
        Ok(Engine {
            docker,
            network: Plugin::new(config.cni_conf_dir.clone(), cni),
            checkpoints,
            config,
            network_ready: Mutex::default(),
            systemd_cgroups: tokio::sync::OnceCell::new(),
        })
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, HashMap<String, bool>> {
        self.network_ready.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether the sandbox's network is up; `None` when this process does not know.
    pub(crate) fn network_ready(&self, id: &str) -> Option<bool> {
        self.ready().get(id).copied()
    }

    pub(crate) fn set_network_ready(&self, id: &str, ready: bool) {
        self.ready().insert(id.to_owned(), ready);
    }

    pub(crate) fn forget_network(&self, id: &str) {
        self.ready().remove(id);
    }

    pub(crate) async fn info(&self, cx: &Cx) -> Result<SystemInfo> {
        Ok(self.docker.handle(cx, Request::<Info>::default()).await?.0)
    }

    pub(crate) async fn inspect(&self, cx: &Cx, id: &str) -> Result<ContainerInspectResponse> {
        named(id)?;
        Ok(self.docker.handle(cx, Request::<ContainerInspect>::of(id)).await?.0.base)
    }

    pub(crate) async fn stop(&self, cx: &Cx, id: &str, seconds: i64) -> Result<()> {
        named(id)?;
        let query = StopQuery { t: Some(seconds), ..StopQuery::default() };
        self.docker.handle(cx, Request::<ContainerStop>::of(id).query(query)).await.map(drop)
    }

    pub(crate) async fn remove(&self, cx: &Cx, id: &str, force: bool) -> Result<()> {
        named(id)?;
        let query = ContainerRemoveQuery {
            v: Some(Flag(true)),
            force: force.then_some(Flag(true)),
            link: None,
        };
        self.docker.handle(cx, Request::<ContainerRemove>::of(id).query(query)).await
    }

    /// Creates a container. Where its name is taken, the container that has it is removed and the
    /// error answered, so that the kubelet's next attempt succeeds; where that one is gone and
    /// Docker has not noticed, a random suffix is tried
    /// (`recoverFromCreationConflictIfNeeded`, Kubernetes 1.20).
    pub(crate) async fn create(
        &self,
        cx: &Cx,
        name: String,
        mut body: ContainerCreateBody,
    ) -> Result<String> {
        // The same whatever the daemon's own default is.
        if let Some(hc) = &mut body.host_config {
            hc.shm_size.get_or_insert(64 << 20);
        }
        let create = |name: String, body| {
            let query = ContainerCreateQuery { name: Some(name), ..Default::default() };
            Request::<ContainerCreate>::default().query(query).body(Json(body))
        };
        let error = match self.docker.handle(cx, create(name.clone(), body.clone())).await {
            Ok(created) => return Ok(created.0.id),
            Err(error) => error,
        };
        let Some(owner) = conflicting(&error) else { return Err(error) };
        match self.remove(cx, owner, false).await {
            Err(gone) if gone.is_not_found() => {
                let created =
                    self.docker.handle(cx, create(names::randomized(&name), body)).await?;
                Ok(created.0.id)
            }
            _ => Err(error),
        }
    }

    /// The `oom_score_adj` to ask for where `wanted` is wished for.
    pub(crate) fn oom_score_adj(&self, wanted: i64) -> i64 {
        if !self.config.restrict_oom_score_adj {
            return wanted;
        }
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
        wanted.max(own.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
    }

    /// The cgroup parent as Docker's driver wants it: for systemd the slice's own name.
    pub(crate) async fn cgroup_parent(&self, cx: &Cx, parent: &str) -> Result<Option<String>> {
        if parent.is_empty() {
            return Ok(None);
        }
        let ask = || async {
            let driver = self.info(cx).await?.cgroup_driver;
            Ok::<_, HopError>(driver.is_some_and(|d| d.to_string() == "systemd"))
        };
        let systemd = *self.systemd_cgroups.get_or_try_init(ask).await?;
        let last = parent.rsplit('/').next().unwrap_or(parent);
        Ok(Some(if systemd { last } else { parent }.to_owned()))
    }
}

/// Refuses an id that would name something else in Docker's paths.
fn named(id: &str) -> Result<()> {
    match id {
        "" => Err(HopError::new(Kind::InvalidArgument, "no container id in the request")),
        _ => Ok(()),
    }
}

/// The container that has the name that a creation asked for, by Docker's words.
fn conflicting(error: &HopError) -> Option<&str> {
    if error.kind != Kind::AlreadyExists && error.kind != Kind::FailedPrecondition {
        return None;
    }
    let (_, rest) = error.message.split_once("is already in use by container ")?;
    let rest = rest.trim_start_matches('"');
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_name_is_in_dockers_words() {
        let words = "Conflict. The container name \"/k8s_a\" is already in use by container \"0123abc\". You have to remove (or rename) that container to be able to reuse that name.";
        let error = HopError::new(Kind::AlreadyExists, words);
        assert_eq!(conflicting(&error), Some("0123abc"));
        assert_eq!(conflicting(&HopError::new(Kind::Internal, words)), None);
    }
}
