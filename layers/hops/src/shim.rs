//! `Shim`: containerd → shim, since containerd 1.2's runtime v2.
//!
//! The wire is ttrpc on a unix socket, `containerd.task.v2.Task`; the shim's own events go the
//! other way over ttrpc, `containerd.services.events.ttrpc.v1.Events` ([`ShimEvents`]).

use crate::{
    Hop,
    proto::containerd::{services::events::ttrpc::v1::ForwardRequest, task::v2::*},
};

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
}

crate::rpc_face! {
    /// containerd as a shim sees it: where events go.
    ShimEvents = Hop::Shim;
    service "containerd.services.events.ttrpc.v1.Events" {
        "Forward" ForwardRequest => ();
    }
}
