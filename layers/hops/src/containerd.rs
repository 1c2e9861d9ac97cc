//! `Containerd`: client → containerd, since Docker 1.11 (April 2016) and containerd 1.0.
//!
//! The wire is gRPC on a unix socket, `containerd.services.*.v1`; the namespace and the lease of a
//! call travel as metadata ([`crate::cx::NAMESPACE_HEADER`], [`crate::cx::LEASE_HEADER`]).

use crate::{
    Hop,
    proto::containerd::{
        services::{
            containers::v1 as containers, content::v1 as content, diff::v1 as diff,
            events::v1 as events, images::v1 as images, introspection::v1 as introspection,
            leases::v1 as leases, namespaces::v1 as namespaces, sandbox::v1 as sandbox,
            snapshots::v1 as snapshots, tasks::v1 as tasks, transfer::v1 as transfer,
            version::v1 as version,
        },
        types,
    },
};

/// `Version.Version`'s request, on the wire a `google.protobuf.Empty`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct VersionRequest {}

/// `Introspection.Server`'s request, on the wire a `google.protobuf.Empty`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ServerRequest {}

crate::rpc_face! {
    /// containerd as its clients see it.
    Containerd = Hop::Containerd;
    service "containerd.services.version.v1.Version" {
        "Version" VersionRequest => version::VersionResponse;
    }
    service "containerd.services.introspection.v1.Introspection" {
        "Plugins" introspection::PluginsRequest => introspection::PluginsResponse;
        "Server" ServerRequest => introspection::ServerResponse;
        "PluginInfo" introspection::PluginInfoRequest => introspection::PluginInfoResponse;
    }
    service "containerd.services.namespaces.v1.Namespaces" {
        "Get" namespaces::GetNamespaceRequest => namespaces::GetNamespaceResponse;
        "List" namespaces::ListNamespacesRequest => namespaces::ListNamespacesResponse;
        "Create" namespaces::CreateNamespaceRequest => namespaces::CreateNamespaceResponse;
        "Update" namespaces::UpdateNamespaceRequest => namespaces::UpdateNamespaceResponse;
        "Delete" namespaces::DeleteNamespaceRequest => ();
    }
    service "containerd.services.content.v1.Content" {
        "Info" content::InfoRequest => content::InfoResponse;
        "Update" content::UpdateRequest => content::UpdateResponse;
        "Delete" content::DeleteContentRequest => ();
        "Status" content::StatusRequest => content::StatusResponse;
        "ListStatuses" content::ListStatusesRequest => content::ListStatusesResponse;
        "Abort" content::AbortRequest => ();
        stream "List" content::ListContentRequest => content::ListContentResponse;
        stream "Read" content::ReadContentRequest => content::ReadContentResponse;
        bidi "Write" WriteContent: content::WriteContentRequest => content::WriteContentResponse;
    }
    service "containerd.services.images.v1.Images" {
        "Get" images::GetImageRequest => images::GetImageResponse;
        "List" images::ListImagesRequest => images::ListImagesResponse;
        "Create" images::CreateImageRequest => images::CreateImageResponse;
        "Update" images::UpdateImageRequest => images::UpdateImageResponse;
        "Delete" images::DeleteImageRequest => ();
    }
    service "containerd.services.snapshots.v1.Snapshots" {
        "Prepare" snapshots::PrepareSnapshotRequest => snapshots::PrepareSnapshotResponse;
        "View" snapshots::ViewSnapshotRequest => snapshots::ViewSnapshotResponse;
        "Mounts" snapshots::MountsRequest => snapshots::MountsResponse;
        "Commit" snapshots::CommitSnapshotRequest => ();
        "Remove" snapshots::RemoveSnapshotRequest => ();
        "Stat" snapshots::StatSnapshotRequest => snapshots::StatSnapshotResponse;
        "Update" snapshots::UpdateSnapshotRequest => snapshots::UpdateSnapshotResponse;
        "Usage" snapshots::UsageRequest => snapshots::UsageResponse;
        "Cleanup" snapshots::CleanupRequest => ();
        stream "List" snapshots::ListSnapshotsRequest => snapshots::ListSnapshotsResponse;
    }
    service "containerd.services.diff.v1.Diff" {
        "Apply" diff::ApplyRequest => diff::ApplyResponse;
        "Diff" diff::DiffRequest => diff::DiffResponse;
    }
    service "containerd.services.containers.v1.Containers" {
        "Get" containers::GetContainerRequest => containers::GetContainerResponse;
        "List" containers::ListContainersRequest => containers::ListContainersResponse;
        "Create" containers::CreateContainerRequest => containers::CreateContainerResponse;
        "Update" containers::UpdateContainerRequest => containers::UpdateContainerResponse;
        "Delete" containers::DeleteContainerRequest => ();
        stream "ListStream" containers::ListContainersRequest => containers::ListContainerMessage;
    }
    service "containerd.services.tasks.v1.Tasks" {
        "Create" tasks::CreateTaskRequest => tasks::CreateTaskResponse;
        "Start" tasks::StartRequest => tasks::StartResponse;
        "Delete" tasks::DeleteTaskRequest => tasks::DeleteResponse;
        "DeleteProcess" tasks::DeleteProcessRequest => tasks::DeleteResponse;
        "Get" tasks::GetRequest => tasks::GetResponse;
        "List" tasks::ListTasksRequest => tasks::ListTasksResponse;
        "Kill" tasks::KillRequest => ();
        "Exec" tasks::ExecProcessRequest => ();
        "ResizePty" tasks::ResizePtyRequest => ();
        "CloseIO" tasks::CloseIoRequest => ();
        "Pause" tasks::PauseTaskRequest => ();
        "Resume" tasks::ResumeTaskRequest => ();
        "ListPids" tasks::ListPidsRequest => tasks::ListPidsResponse;
        "Checkpoint" tasks::CheckpointTaskRequest => tasks::CheckpointTaskResponse;
        "Update" tasks::UpdateTaskRequest => ();
        "Metrics" tasks::MetricsRequest => tasks::MetricsResponse;
        "Wait" tasks::WaitRequest => tasks::WaitResponse;
    }
    service "containerd.services.events.v1.Events" {
        "Publish" events::PublishRequest => ();
        "Forward" events::ForwardRequest => ();
        stream "Subscribe" events::SubscribeRequest => types::Envelope;
    }
    service "containerd.services.leases.v1.Leases" {
        "Create" leases::CreateRequest => leases::CreateResponse;
        "Delete" leases::DeleteRequest => ();
        "List" leases::ListRequest => leases::ListResponse;
        "AddResource" leases::AddResourceRequest => ();
        "DeleteResource" leases::DeleteResourceRequest => ();
        "ListResources" leases::ListResourcesRequest => leases::ListResourcesResponse;
    }
    service "containerd.services.sandbox.v1.Store" {
        "Create" sandbox::StoreCreateRequest => sandbox::StoreCreateResponse;
        "Update" sandbox::StoreUpdateRequest => sandbox::StoreUpdateResponse;
        "Delete" sandbox::StoreDeleteRequest => sandbox::StoreDeleteResponse;
        "List" sandbox::StoreListRequest => sandbox::StoreListResponse;
        "Get" sandbox::StoreGetRequest => sandbox::StoreGetResponse;
    }
    service "containerd.services.sandbox.v1.Controller" {
        "Create" sandbox::ControllerCreateRequest => sandbox::ControllerCreateResponse;
        "Start" sandbox::ControllerStartRequest => sandbox::ControllerStartResponse;
        "Platform" sandbox::ControllerPlatformRequest => sandbox::ControllerPlatformResponse;
        "Stop" sandbox::ControllerStopRequest => sandbox::ControllerStopResponse;
        "Wait" sandbox::ControllerWaitRequest => sandbox::ControllerWaitResponse;
        "Status" sandbox::ControllerStatusRequest => sandbox::ControllerStatusResponse;
        "Shutdown" sandbox::ControllerShutdownRequest => sandbox::ControllerShutdownResponse;
        "Metrics" sandbox::ControllerMetricsRequest => sandbox::ControllerMetricsResponse;
        "Update" sandbox::ControllerUpdateRequest => sandbox::ControllerUpdateResponse;
    }
    service "containerd.services.transfer.v1.Transfer" {
        "Transfer" transfer::TransferRequest => ();
    }
    service "containerd.services.streaming.v1.Streaming" {
        bidi "Stream" Stream: crate::proto::Any => crate::proto::Any;
    }
}
