//! A pod's network: the plugins of a list, run one after the other.

use std::{fmt, path::PathBuf, sync::Arc};

use hops::{
    Cni, Cx, HopError,
    cni::{Add, Attached, Attachment, Check, Del},
};
use serde_json::{Map, Value, json};

use crate::cni::{conf::NetworkList, error::Result, result};

/// What is attached: a pod's sandbox, as its plugins are told of it.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// The sandbox's id.
    pub container_id: String,
    /// Its network namespace; `None` for a DEL after it is gone.
    pub netns: Option<PathBuf>,
    /// The link's name in it, e.g. `eth0`.
    pub ifname: String,
    /// `CNI_ARGS`: for a pod `IgnoreUnknown=1` and the `K8S_POD_*` of dockershim and containerd.
    pub args: Vec<(String, String)>,
    /// What the runtime offers plugins that ask for it by capability, e.g. `portMappings`.
    pub capabilities: Map<String, Value>,
}

/// A network and the plugins that make it.
#[derive(Clone)]
pub struct Network {
    list: NetworkList,
    plugins: Arc<dyn Cni>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("list", &self.list).finish_non_exhaustive()
    }
}

impl Network {
    /// The network `list`, made by `plugins`: an engine in this process, or
    /// [`crate::cni::Client`] by the programs of a directory.
    pub fn new(list: NetworkList, plugins: Arc<dyn Cni>) -> Network {
        Network { list, plugins }
    }

    /// The namespace's own loopback, which every pod has besides its network (go-cni's and
    /// dockershim's `cni-loopback`).
    pub fn loopback(plugins: Arc<dyn Cni>) -> Network {
        let list = NetworkList {
            name: "cni-loopback".to_owned(),
            cni_version: "0.3.1".to_owned(),
            disable_check: false,
            plugins: vec![json!({ "type": "loopback" })],
        };
        Network { list, plugins }
    }

    /// The configuration that is run.
    pub fn list(&self) -> &NetworkList {
        &self.list
    }

    fn attachment(&self, pod: &Pod, at: usize, prev: Option<&Attached>) -> Result<Attachment> {
        Ok(Attachment {
            container_id: pod.container_id.clone(),
            netns: pod.netns.clone(),
            ifname: pod.ifname.clone(),
            args: pod.args.clone(),
            config: self.list.config(at, prev, &pod.capabilities)?,
        })
    }

    /// libcni's words around a plugin's error.
    fn failed(&self, at: usize, verb: &str, error: HopError) -> HopError {
        let (kind, name) = (self.list.kind(at), &self.list.name);
        error.context(format_args!("plugin type=\"{kind}\" name=\"{name}\" failed ({verb})"))
    }

    /// Attaches `pod`: ADD of every plugin, each with the result of those before it. The answer is
    /// the last one's.
    ///
    /// # Errors
    /// The first plugin's to fail, in libcni's words. Every plugin has then been told to DEL.
    pub async fn add(&self, cx: &Cx, pod: &Pod) -> hops::Result<Attached> {
        let mut so_far = None;
        for at in 0..self.list.plugins.len() {
            let added = match self.attachment(pod, at, so_far.as_ref()) {
                Ok(attachment) => self.plugins.handle(cx, Add(attachment)).await,
                Err(error) => Err(error.into()),
            };
            match added {
                Ok(attached) => so_far = Some(attached),
                Err(error) => {
                    // The failure that started it is what the caller has to hear.
                    let _ = self.del_from(cx, pod, at, so_far.as_ref()).await;
                    return Err(self.failed(at, "add", error));
                }
            }
        }
        Ok(so_far.unwrap_or_default())
    }

    /// Detaches `pod`: DEL of every plugin, the last first. Each is told the result of ADD, where
    /// the caller has kept it and the version knows of it (0.4.0). Detaching again is a success.
    ///
    /// # Errors
    /// The first plugin's to fail; the others have been told all the same.
    pub async fn del(&self, cx: &Cx, pod: &Pod, added: Option<&Attached>) -> hops::Result<()> {
        let told = result::rank(&self.list.cni_version)? >= result::rank("0.4.0")?;
        let last = self.list.plugins.len().saturating_sub(1);
        self.del_from(cx, pod, last, added.filter(|_| told)).await
    }

    async fn del_from(
        &self,
        cx: &Cx,
        pod: &Pod,
        last: usize,
        prev: Option<&Attached>,
    ) -> hops::Result<()> {
        let mut outcome = Ok(());
        for at in (0..=last.min(self.list.plugins.len().saturating_sub(1))).rev() {
            let deleted = match self.attachment(pod, at, prev) {
                Ok(attachment) => self.plugins.handle(cx, Del(attachment)).await,
                Err(error) => Err(error.into()),
            };
            outcome = outcome.and(deleted.map_err(|e| self.failed(at, "delete", e)));
        }
        outcome
    }

    /// Checks that `pod` is attached as `added` says. A list that forbids it is not asked.
    ///
    /// # Errors
    /// The first plugin's to find something missing.
    pub async fn check(&self, cx: &Cx, pod: &Pod, added: &Attached) -> hops::Result<()> {
        if self.list.disable_check {
            return Ok(());
        }
        for at in 0..self.list.plugins.len() {
            let attachment = self.attachment(pod, at, Some(added))?;
            let checked = self.plugins.handle(cx, Check(attachment)).await;
            checked.map_err(|e| self.failed(at, "check", e))?;
        }
        Ok(())
    }
}
