//! What one call of a hop costs, in process and over its wire: the floor under every hop that the
//! lab reports.

#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up has no result")]

use std::{hint::black_box, sync::Arc, time::Duration};

use async_trait::async_trait;
use criterion::{Criterion, criterion_group, criterion_main};
use hops::{
    Cx, Handle, Result, proto::containerd::services::events::ttrpc::v1::ForwardRequest,
    shim::ShimEvents,
};

/// The smallest engine there is.
struct Sink;

#[async_trait]
impl Handle<ForwardRequest> for Sink {
    async fn handle(&self, _: &Cx, _: ForwardRequest) -> Result<()> {
        Ok(())
    }
}

fn hop(c: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    let runtime = runtime.expect("a runtime is what the benchmark needs to begin");
    let dir = tempfile::tempdir().expect("a directory for sockets");
    let engine: Arc<dyn ShimEvents> = Arc::new(Sink);
    let (grpc, ttrpc) = (dir.path().join("grpc"), dir.path().join("ttrpc"));
    runtime.block_on(async {
        let listener = wire::socket::listen(&grpc).expect("socket");
        let server = wire::grpc::Server::new().face::<dyn ShimEvents>(engine.clone());
        tokio::spawn(server.serve(listener, std::future::pending()));
        let listener = wire::socket::listen(&ttrpc).expect("socket");
        let server = wire::ttrpc::Server::<dyn ShimEvents>::new(engine.clone());
        tokio::spawn(server.serve(listener, std::future::pending()));
    });
    let faces: [(&str, Arc<dyn ShimEvents>); 3] = [
        ("in process", engine),
        ("gRPC", Arc::new(runtime.block_on(async { wire::grpc::Client::new(grpc) }))),
        (
            "ttrpc",
            Arc::new(runtime.block_on(wire::ttrpc::Client::connect(&ttrpc)).expect("connect")),
        ),
    ];
    let mut group = c.benchmark_group("one call");
    group.measurement_time(Duration::from_secs(3));
    for (name, face) in faces {
        group.bench_function(name, |b| {
            b.iter(|| {
                let cx = Cx::background();
                let call = face.handle(&cx, ForwardRequest::default());
                black_box(runtime.block_on(call)).expect("the sink answers")
            })
        });
    }
    group.finish();
}

criterion_group!(benches, hop);
criterion_main!(benches);
