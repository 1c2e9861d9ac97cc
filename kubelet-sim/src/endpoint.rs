//! The way to a runtime: one or two sockets, and the newest version of CRI that it speaks.

use std::sync::Arc;

use async_trait::async_trait;
use hops::{
    Cri, Cx, Handle, HandleStream, Inputs, Kind, Outputs, Result,
    proto::runtime::v1::VersionRequest,
    rpc::{RpcOp, RpcStreamOp},
    trace::{Spans, Traced},
};
use wire::{grpc::Client, socket};

/// The version that the kubelet gives itself in `Version`, since Kubernetes 1.5.
const KUBELET_API: &str = "0.1.0";

/// A runtime's two services, which may be on two sockets.
struct Services {
    runtime: Client,
    image: Client,
}

const IMAGE_SERVICE: &str = "/runtime.v1.ImageService/";

#[async_trait]
impl<O: RpcOp> Handle<O> for Services {
    async fn handle(&self, cx: &Cx, op: O) -> Result<O::Reply> {
        let image = O::PATH.starts_with(IMAGE_SERVICE);
        if image { &self.image } else { &self.runtime }.handle(cx, op).await
    }
}

#[async_trait]
impl<O: RpcStreamOp> HandleStream<O> for Services {
    async fn stream(&self, cx: &Cx, op: O, input: Inputs<O::In>) -> Result<Outputs<O::Out>> {
        self.runtime.stream(cx, op, input).await
    }
}

/// Connects to a runtime at `unix://` endpoints, speaking `v1`, or `v1alpha2` where `v1` is not
/// implemented (as kubelet 1.23 to 1.25 did).
///
/// # Errors
/// The runtime's answer to `Version`, or nobody's listening.
pub async fn connect(runtime: &str, image: Option<&str>, spans: Spans) -> Result<Arc<dyn Cri>> {
    let client = |endpoint: &str| Client::new(socket::path_of(endpoint));
    let mut services =
        Services { runtime: client(runtime), image: client(image.unwrap_or(runtime)) };
    let cx = Cx::background();
    let ask = || VersionRequest { version: KUBELET_API.into() };
    match services.handle(&cx, ask()).await {
        Ok(_) => {}
        Err(error) if error.kind == Kind::Unimplemented => {
            services =
                Services { runtime: services.runtime.v1alpha2(), image: services.image.v1alpha2() };
            services.handle(&cx, ask()).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(Arc::new(Traced::caller(services, spans)))
}
