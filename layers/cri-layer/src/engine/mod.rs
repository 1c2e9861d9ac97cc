//! The work itself: what each verb of the face does.
//!
//! A verb is a method of [`Core`]; the table below says which, and whether it is finished even
//! though its caller has gone: what makes, ends or removes something is, so that a caller that
//! gives up leaves a whole thing or none.

mod container;
mod exec;
mod happening;
mod image;
mod index;
mod network;
mod node;
mod recover;
mod remove;
mod sandbox;
mod stats;
mod status;
mod task;
mod update;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use hops::{
    Cni, Containerd, Cx, Handle, HandleStream, HopError, Inputs, Outputs, Result,
    proto::runtime::v1::*,
};
use tokio::sync::{broadcast, oneshot};

use crate::{config::Config, image::Images, neighbour::Neighbour, record::Exit};
use container::Container;
use index::{Index, Names};
use sandbox::Sandbox;

/// How many events a slow listener may lag behind before it loses some.
const EVENT_BACKLOG: usize = 1024;

/// A CRI runtime on containerd. Cheap to clone: all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    core: Arc<Core>,
}

/// What the verbs share.
pub(crate) struct Core {
    config: Config,
    containerd: Neighbour,
    cni: Arc<dyn Cni>,
    images: Images,
    sandboxes: Index<Sandbox>,
    containers: Index<Container>,
    names: Names,
    /// Who waits for the end of a further process, by its id.
    execs: Mutex<HashMap<String, oneshot::Sender<Exit>>>,
    happenings: broadcast::Sender<ContainerEventResponse>,
    samples: stats::Samples,
    node: String,
}

impl Engine {
    /// Opens the engine on a containerd and its network plugins: finds the sandboxes and containers
    /// that are there, and begins to listen for their ends.
    ///
    /// # Errors
    /// Those of the directories in `config` and of containerd.
    pub async fn open(
        config: Config,
        containerd: Arc<dyn Containerd>,
        cni: Arc<dyn Cni>,
    ) -> Result<Engine> {
        for dir in [&config.root, &config.state] {
            std::fs::create_dir_all(dir)
                .map_err(|e| HopError::from(e).context(format_args!("mkdir {}", dir.display())))?;
        }
        let containerd = Neighbour(containerd);
        let node = nix::unistd::gethostname().unwrap_or_default();
        let core = Arc::new(Core {
            images: Images::new(containerd.clone(), config.snapshotter.clone()),
            config,
            containerd,
            cni,
            sandboxes: Index::new(),
            containers: Index::new(),
            names: Names::default(),
            execs: Mutex::default(),
            happenings: broadcast::Sender::new(EVENT_BACKLOG),
            samples: stats::Samples::default(),
            node: node.to_string_lossy().into_owned(),
        });
        core.enter_namespace().await?;
        happening::listen(&core).await;
        core.recover().await?;
        Ok(Engine { core })
    }
}

impl Core {
    /// Makes the namespace, which containerd wants to exist before anything is put in it.
    async fn enter_namespace(&self) -> Result<()> {
        use hops::proto::containerd::services::namespaces::v1::{
            CreateNamespaceRequest, Namespace,
        };
        let namespace =
            Namespace { name: crate::config::NAMESPACE.to_owned(), labels: HashMap::new() };
        let create = CreateNamespaceRequest { namespace: Some(namespace) };
        match self.containerd.call(&Cx::background(), create).await {
            Err(error) if error.kind == hops::Kind::AlreadyExists => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

/// `Request => method`: answered by the method of [`Core`]; with `whole`, to its end in any case.
macro_rules! verbs {
    ($($request:ident => $method:ident $($whole:ident)?;)*) => {
        $(
            #[async_trait]
            impl Handle<$request> for Engine {
                async fn handle(
                    &self,
                    cx: &Cx,
                    op: $request,
                ) -> Result<<$request as hops::Op>::Reply> {
                    verbs!(@call self, cx, op, $method $($whole)?)
                }
            }
        )*
    };
    (@call $engine:ident, $cx:ident, $op:ident, $method:ident) => {
        $engine.core.$method($cx, $op).await
    };
    (@call $engine:ident, $cx:ident, $op:ident, $method:ident whole) => {{
        let (core, cx) = ($engine.core.clone(), $cx.clone());
        let call = tokio::spawn(async move { core.$method(&cx, $op).await });
        call.await.unwrap_or_else(|e| Err(HopError::internal(format!("the call ended early: {e}"))))
    }};
}

verbs! {
    VersionRequest => version;
    StatusRequest => status;
    RuntimeConfigRequest => runtime_config;
    UpdateRuntimeConfigRequest => update_runtime_config;
    RunPodSandboxRequest => run_pod_sandbox whole;
    StopPodSandboxRequest => stop_pod_sandbox whole;
    RemovePodSandboxRequest => remove_pod_sandbox whole;
    PodSandboxStatusRequest => pod_sandbox_status;
    ListPodSandboxRequest => list_pod_sandbox;
    CreateContainerRequest => create_container whole;
    StartContainerRequest => start_container whole;
    StopContainerRequest => stop_container whole;
    RemoveContainerRequest => remove_container whole;
    ListContainersRequest => list_containers;
    ContainerStatusRequest => container_status;
    UpdateContainerResourcesRequest => update_container_resources whole;
    ReopenContainerLogRequest => reopen_container_log;
    ExecSyncRequest => exec_sync;
    ContainerStatsRequest => container_stats;
    ListContainerStatsRequest => list_container_stats;
    PodSandboxStatsRequest => pod_sandbox_stats;
    ListPodSandboxStatsRequest => list_pod_sandbox_stats;
    ListImagesRequest => list_images;
    ImageStatusRequest => image_status;
    PullImageRequest => pull_image whole;
    RemoveImageRequest => remove_image whole;
    ImageFsInfoRequest => image_fs_info;
}

hops::refuse! {
    Engine: ExecRequest, AttachRequest, PortForwardRequest, CheckpointContainerRequest,
    ListMetricDescriptorsRequest, ListPodSandboxMetricsRequest
}

#[async_trait]
impl HandleStream<GetEventsRequest> for Engine {
    async fn stream(
        &self,
        _cx: &Cx,
        _op: GetEventsRequest,
        _input: Inputs<()>,
    ) -> Result<Outputs<ContainerEventResponse>> {
        Ok(self.core.happenings())
    }
}
