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

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::{HeaderMap, Request, Response, body::Incoming, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    /// Answers a call as a runtime of before Kubernetes 1.20 does: it knows `v1alpha2` only.
    fn answer(
        path: &str,
    ) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<>> {
        let known = path.starts_with("/runtime.v1alpha2.");
        // An empty message: one byte of flags, four of length.
        let body = if known { Bytes::from_static(&[0; 5]) } else { Bytes::new() };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", if known { "0" } else { "12" }.parse().unwrap());
        let body = Full::new(body).with_trailers(async { Some(Ok(trailers)) });
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    }

    #[tokio::test]
    async fn an_old_runtime_is_spoken_to_in_its_own_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cri.sock");
        let listener = socket::listen(&path).unwrap();
        let paths: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = paths.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = seen.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let path = request.uri().path().to_owned();
                    seen.lock().unwrap().push(path.clone());
                    async move { Ok::<_, Infallible>(answer(&path)) }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        let endpoint = format!("unix://{}", path.display());
        let cri = connect(&endpoint, None, Spans::disabled()).await.unwrap();
        let image = hops::proto::runtime::v1::ListImagesRequest::default();
        cri.handle(&Cx::background(), image).await.unwrap();
        assert_eq!(
            *paths.lock().unwrap(),
            [
                "/runtime.v1.RuntimeService/Version",
                "/runtime.v1alpha2.RuntimeService/Version",
                "/runtime.v1alpha2.ImageService/ListImages",
            ]
        );
        let nobody = dir.path().join("nobody.sock").display().to_string();
        let error = connect(&nobody, None, Spans::disabled()).await.err().unwrap();
        assert_eq!(error.kind, Kind::Unavailable);
    }
}
