//! `grpc.health.v1.Health`: whether the daemon serves, for clients that ask before they begin
//! (containerd's Go client has it as `IsServing`).

use super::{streams, verbs};
use futures_util::{StreamExt, stream};
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
/// `ServingStatus.SERVICE_UNKNOWN`, which only a watch is told.
const SERVICE_UNKNOWN: i32 = 3;

hops::rpc_face! {
    /// A daemon whose health can be asked for.
    Health = Hop::Containerd;
    service "grpc.health.v1.Health" {
        "Check" HealthCheckRequest => HealthCheckResponse;
        stream "Watch" HealthCheckRequest => HealthCheckResponse;
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

streams! {
    HealthCheckRequest = |_engine, _cx, op, _input| {
        let status = if op.service.is_empty() { SERVING } else { SERVICE_UNKNOWN };
        let now = stream::iter([Ok(HealthCheckResponse { status })]);
        // As long as the daemon is there, nothing changes; its end is the stream's.
        Ok(Box::pin(now.chain(stream::pending())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_is_told_at_once_and_then_waits() {
        let place = tempfile::tempdir().unwrap();
        let config = crate::Config {
            root: place.path().join("root"),
            state: place.path().join("state"),
            address: place.path().join("socket"),
            ..crate::Config::default()
        };
        let spans = hops::trace::Spans::disabled();
        let engine = crate::Engine::open(&config, spans).await.unwrap();
        let cx = hops::Cx::background();
        for (service, status) in [("", SERVING), ("other", SERVICE_UNKNOWN)] {
            let op = HealthCheckRequest { service: service.to_owned() };
            let input = hops::op::no_input();
            let mut watch = hops::HandleStream::stream(&engine, &cx, op, input).await.unwrap();
            assert_eq!(watch.next().await.unwrap().unwrap(), HealthCheckResponse { status });
            assert!(futures_util::FutureExt::now_or_never(watch.next()).is_none());
        }
    }
}
