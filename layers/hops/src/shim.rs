//! `Shim`: containerd → shim, since containerd 1.2's runtime v2.
//!
//! The wire is ttrpc on a unix socket, [`TASK_V2`]; the shim's own events go the other way over
//! ttrpc, `containerd.services.events.ttrpc.v1.Events` ([`ShimEvents`]). Since containerd 2.0 the
//! same messages travel under the name [`TASK_V3`]. Beside it stands, since containerd 1.7, the
//! service of a sandbox, the group of containers that a shim has; a shim may lack it.

use crate::{
    Hop,
    proto::containerd::{
        runtime::sandbox::v1 as sandbox, services::events::ttrpc::v1::ForwardRequest, task::v2::*,
    },
};

/// The service of [`Shim`].
pub const TASK_V2: &str = "containerd.task.v2.Task";
/// The same service to shims of version 3: not a field of its messages differs (containerd 2.3,
/// api/runtime/task).
pub const TASK_V3: &str = "containerd.task.v3.Task";

crate::rpc_face! {
    /// A shim as containerd sees it: the parent of the containers of one pod.
    Shim = Hop::Shim;
    service "containerd.task.v2.Task" {
        "State" StateRequest => StateResponse;
        "Create" CreateTaskRequest => CreateTaskResponse;
        "Start" StartRequest => StartResponse;
        "Delete" DeleteRequest => DeleteResponse;
        "Pids" PidsRequest => PidsResponse;
        "Pause" PauseRequest => ();
        "Resume" ResumeRequest => ();
        "Checkpoint" CheckpointTaskRequest => ();
        "Kill" KillRequest => ();
        "Exec" ExecProcessRequest => ();
        "ResizePty" ResizePtyRequest => ();
        "CloseIO" CloseIoRequest => ();
        "Update" UpdateTaskRequest => ();
        "Wait" WaitRequest => WaitResponse;
        "Stats" StatsRequest => StatsResponse;
        "Connect" ConnectRequest => ConnectResponse;
        "Shutdown" ShutdownRequest => ();
    }
    service "containerd.runtime.sandbox.v1.Sandbox" {
        "CreateSandbox" sandbox::CreateSandboxRequest => sandbox::CreateSandboxResponse;
        "StartSandbox" sandbox::StartSandboxRequest => sandbox::StartSandboxResponse;
        "Platform" sandbox::PlatformRequest => sandbox::PlatformResponse;
        "StopSandbox" sandbox::StopSandboxRequest => sandbox::StopSandboxResponse;
        "WaitSandbox" sandbox::WaitSandboxRequest => sandbox::WaitSandboxResponse;
        "SandboxStatus" sandbox::SandboxStatusRequest => sandbox::SandboxStatusResponse;
        "PingSandbox" sandbox::PingRequest => sandbox::PingResponse;
        "ShutdownSandbox" sandbox::ShutdownSandboxRequest => sandbox::ShutdownSandboxResponse;
        "SandboxMetrics" sandbox::SandboxMetricsRequest => sandbox::SandboxMetricsResponse;
    }
}

crate::rpc_face! {
    /// containerd as a shim sees it: where events go.
    ShimEvents = Hop::Shim;
    service "containerd.services.events.ttrpc.v1.Events" {
        "Forward" ForwardRequest => ();
    }
}
