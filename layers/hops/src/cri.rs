//! `Cri`: kubelet → container runtime, since Kubernetes 1.5 (December 2016).
//!
//! The wire is gRPC on a unix socket, package `runtime.v1`; `runtime.v1alpha2` (until Kubernetes
//! 1.25) is the same messages under another name, so a server answers both from this one table.

use crate::{Hop, proto::runtime::v1::*};

/// The package name of the messages' first published form, for clients and servers of that time.
pub const V1ALPHA2: (&str, &str) = ("/runtime.v1.", "/runtime.v1alpha2.");

crate::rpc_face! {
    /// A container runtime as the kubelet sees it.
    Cri = Hop::Cri;
    service "runtime.v1.RuntimeService" {
        "Version" VersionRequest => VersionResponse;
        "RunPodSandbox" RunPodSandboxRequest => RunPodSandboxResponse;
        "StopPodSandbox" StopPodSandboxRequest => StopPodSandboxResponse;
        "RemovePodSandbox" RemovePodSandboxRequest => RemovePodSandboxResponse;
        "PodSandboxStatus" PodSandboxStatusRequest => PodSandboxStatusResponse;
        "ListPodSandbox" ListPodSandboxRequest => ListPodSandboxResponse;
        "CreateContainer" CreateContainerRequest => CreateContainerResponse;
        "StartContainer" StartContainerRequest => StartContainerResponse;
        "StopContainer" StopContainerRequest => StopContainerResponse;
        "RemoveContainer" RemoveContainerRequest => RemoveContainerResponse;
        "ListContainers" ListContainersRequest => ListContainersResponse;
        "ContainerStatus" ContainerStatusRequest => ContainerStatusResponse;
        "UpdateContainerResources" UpdateContainerResourcesRequest => UpdateContainerResourcesResponse;
        "ReopenContainerLog" ReopenContainerLogRequest => ReopenContainerLogResponse;
        "ExecSync" ExecSyncRequest => ExecSyncResponse;
        "Exec" ExecRequest => ExecResponse;
        "Attach" AttachRequest => AttachResponse;
        "PortForward" PortForwardRequest => PortForwardResponse;
        "ContainerStats" ContainerStatsRequest => ContainerStatsResponse;
        "ListContainerStats" ListContainerStatsRequest => ListContainerStatsResponse;
        "PodSandboxStats" PodSandboxStatsRequest => PodSandboxStatsResponse;
        "ListPodSandboxStats" ListPodSandboxStatsRequest => ListPodSandboxStatsResponse;
        "UpdateRuntimeConfig" UpdateRuntimeConfigRequest => UpdateRuntimeConfigResponse;
        "Status" StatusRequest => StatusResponse;
        "CheckpointContainer" CheckpointContainerRequest => CheckpointContainerResponse;
        "ListMetricDescriptors" ListMetricDescriptorsRequest => ListMetricDescriptorsResponse;
        "ListPodSandboxMetrics" ListPodSandboxMetricsRequest => ListPodSandboxMetricsResponse;
        "RuntimeConfig" RuntimeConfigRequest => RuntimeConfigResponse;
        stream "GetContainerEvents" GetEventsRequest => ContainerEventResponse;
    }
    service "runtime.v1.ImageService" {
        "ListImages" ListImagesRequest => ListImagesResponse;
        "ImageStatus" ImageStatusRequest => ImageStatusResponse;
        "PullImage" PullImageRequest => PullImageResponse;
        "RemoveImage" RemoveImageRequest => RemoveImageResponse;
        "ImageFsInfo" ImageFsInfoRequest => ImageFsInfoResponse;
    }
}
