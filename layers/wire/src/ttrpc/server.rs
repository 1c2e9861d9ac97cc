//! The callee's end for daemons: containerd's own ttrpc socket, to which shims send events.

use std::sync::Arc;

use bytes::BytesMut;
use hops::rpc::RpcFace;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

use super::{
    frame::{Frame, REQUEST, RESPONSE, Request, Response},
    methods::Methods,
};

/// A ttrpc server of one face.
pub struct Server<F: ?Sized> {
    methods: Arc<Methods<F>>,
}

impl<F: ?Sized + RpcFace> Server<F> {
    /// A server of the face `F` by `engine`.
    pub fn new(engine: Arc<F>) -> Server<F> {
        Server { methods: Arc::new(Methods::new(engine)) }
    }

    /// Serves until `shutdown` completes.
    pub async fn serve(self, listener: UnixListener, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                _ = &mut shutdown => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let methods = self.methods.clone();
                        tokio::spawn(async move {
                            if let Err(error) = connection(methods, stream).await {
                                tracing::debug!(%error, "ttrpc connection");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                },
            }
        }
    }
}

async fn connection<F: ?Sized + RpcFace>(
    methods: Arc<Methods<F>>,
    stream: UnixStream,
) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut queue) = mpsc::channel::<Frame>(64);
    tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        while let Some(frame) = queue.recv().await {
            frame.encode(&mut buffer);
            if writer.write_all_buf(&mut buffer).await.is_err() {
                break;
            }
        }
    });
    let mut arrived = BytesMut::with_capacity(4096);
    while reader.read_buf(&mut arrived).await? > 0 {
        while let Some(frame) = Frame::take(&mut arrived).map_err(std::io::Error::other)? {
            if frame.kind != REQUEST {
                continue;
            }
            let request = Request::decode(frame.payload).map_err(std::io::Error::other)?;
            let call = methods.call(request);
            let answers = answers.clone();
            tokio::spawn(async move {
                let response = Response::of(call.await);
                let _ = answers.send(Frame::of(frame.stream, RESPONSE, &response)).await;
            });
        }
    }
    Ok(())
}
