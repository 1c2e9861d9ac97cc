//! What the engine is told at its start.

use std::path::PathBuf;

/// The containerd namespace that Kubernetes' containers live in.
pub(crate) const NAMESPACE: &str = "k8s.io";

/// The engine's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where containers' statuses and volumes stay over a reboot.
    pub root: PathBuf,
    /// Where fifos and the sandboxes' files, shared memory and network namespaces are, which a
    /// reboot ends; best on a tmpfs.
    pub state: PathBuf,
    /// The image of the process that holds a pod's namespaces.
    pub sandbox_image: String,
    /// Where network configurations are looked for, the first by name being used.
    pub cni_conf_dir: PathBuf,
    /// containerd's name of the runtime of pods that name no handler.
    pub runtime: String,
    /// Further runtimes by the handler's name in a `RuntimeClass`.
    pub handlers: Vec<(String, String)>,
    /// containerd's snapshotter.
    pub snapshotter: String,
    /// Containers are in no cgroups of their own and have no limits (the key `disable_cgroup` of
    /// containerd's CRI plugin): for a place without cgroups, such as a rootless one.
    pub disable_cgroup: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            root: "/var/lib/strata/cri".into(),
            state: "/run/strata/cri".into(),
            sandbox_image: "registry.k8s.io/pause:3.10".to_owned(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            runtime: "io.containerd.strata.v2".to_owned(),
            handlers: Vec::new(),
            snapshotter: "overlayfs".to_owned(),
            disable_cgroup: false,
        }
    }
}

impl Config {
    /// containerd's runtime for the handler of a pod; `None` when there is no such handler.
    pub fn runtime_of(&self, handler: &str) -> Option<&str> {
        if handler.is_empty() {
            return Some(&self.runtime);
        }
        self.handlers.iter().find(|(name, _)| name == handler).map(|(_, runtime)| runtime.as_str())
    }

    /// The directory of a sandbox. All of it is of use only to processes that a reboot ends, so it
    /// is volatile.
    pub(crate) fn sandbox_state(&self, id: &str) -> PathBuf {
        self.state.join("sandboxes").join(id)
    }

    /// The durable directory of a container.
    pub(crate) fn container_root(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// The volatile directory of a container.
    pub(crate) fn container_state(&self, id: &str) -> PathBuf {
        self.state.join("containers").join(id)
    }

    /// The network namespace of a sandbox. It has the sandbox's id, so that one that was left by a
    /// kill is known for what it is.
    pub(crate) fn netns(&self, id: &str) -> PathBuf {
        self.state.join("netns").join(id)
    }
}
