//! `grpc.health.v1.Health`: whether the daemon serves, for clients that ask before they begin
//! (containerd's Go client has it as `IsServing`).

use super::verbs;
use hops::Hop;

/// What is asked about; the empty name is the whole daemon.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthCheckRequest {
    /// A service's full name.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthCheckResponse {
    /// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// `ServingStatus.SERVING`.
const SERVING: i32 = 1;

hops::rpc_face! {
    /// A daemon whose health can be asked for.
    Health = Hop::Containerd;
    service "grpc.health.v1.Health" {
        "Check" HealthCheckRequest => HealthCheckResponse;
    }
}

verbs! {
    HealthCheckRequest = |_engine, _cx, op| {
        if op.service.is_empty() {
            return Ok(HealthCheckResponse { status: SERVING });
        }
        Err(hops::HopError::not_found("unknown service"))
    }
}
