//! The caller's end: calls of any number at once over one connection.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use hops::{Cx, Handle, HopError, Kind, Result, rpc::RpcOp};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{oneshot, watch},
    task::AbortHandle,
};

use super::frame::{Frame, REQUEST, RESPONSE, Request, Response};
use crate::socket;

/// A connection to a ttrpc server. When the server goes away every call, open or new, is
/// answered [`Kind::Unavailable`] with containerd's words, `ttrpc: closed`.
#[derive(Clone, Debug)]
pub struct Client(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    calls: Arc<Mutex<Calls>>,
    next: AtomicU32,
    /// A service whose name at the server is another than in its table, and that name.
    renamed: Option<(&'static str, &'static str)>,
    reader: AbortHandle,
    /// Errs once the reader has ended, which holds the other end.
    lost: watch::Receiver<()>,
}

/// The calls that wait for an answer; `None` once the connection is lost.
type Calls = Option<HashMap<u32, oneshot::Sender<Response>>>;

impl Client {
    /// Connects to the server at `path`.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] when nobody serves it.
    pub async fn connect(path: &Path) -> Result<Client> {
        Client::to(path, None).await
    }

    /// [`Client::connect`] to a server that knows the table's `service` under the name `name`.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_as(
        path: &Path,
        service: &'static str,
        name: &'static str,
    ) -> Result<Client> {
        Client::to(path, Some((service, name))).await
    }

    async fn to(path: &Path, renamed: Option<(&'static str, &'static str)>) -> Result<Client> {
        let stream = socket::connect(path)
            .await
            .map_err(|e| HopError::new(Kind::Unavailable, e.to_string()).because(e))?;
        let (reader, writer) = stream.into_split();
        let calls = Arc::new(Mutex::new(Some(HashMap::new())));
        let (alive, lost) = watch::channel(());
        let reading = read(reader, calls.clone());
        let reader = tokio::spawn(async move {
            let _alive = alive;
            reading.await;
        })
        .abort_handle();
        Ok(Client(Arc::new(Connection {
            writer: tokio::sync::Mutex::new(writer),
            calls,
            next: AtomicU32::new(1),
            renamed,
            reader,
            lost,
        })))
    }

    /// Gives the connection up, with every call that still waits for an answer. It ends when the
    /// last clone is dropped; all of them see the server as gone.
    pub fn close(&self) {
        self.0.calls.lock().unwrap_or_else(|e| e.into_inner()).take();
        self.0.reader.abort();
    }

    /// Whether the server has gone away.
    pub fn is_closed(&self) -> bool {
        self.0.calls.lock().unwrap_or_else(|e| e.into_inner()).is_none()
    }

    /// Completes when the server has gone away.
    pub async fn closed(&self) {
        let mut lost = self.0.lost.clone();
        while lost.changed().await.is_ok() {}
    }

    async fn call(&self, cx: &Cx, path: &str, payload: Bytes) -> Result<Bytes> {
        let stream = self.0.next.fetch_add(2, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut calls = self.0.calls.lock().unwrap_or_else(|e| e.into_inner());
            calls.as_mut().ok_or_else(closed)?.insert(stream, answer);
        }
        // Whoever gives up, at the deadline or by dropping the call, takes its entry along.
        let _entry = Entry { calls: &self.0.calls, stream };
        let mut request = Request::new(cx, path, payload);
        if let Some((service, name)) = self.0.renamed
            && request.service == service
        {
            name.clone_into(&mut request.service);
        }
        let mut buffer = BytesMut::new();
        Frame::of(stream, REQUEST, &request).encode(&mut buffer);
        {
            let mut writer = self.0.writer.lock().await;
            let mut whole = Whole { calls: &self.0.calls, written: false };
            writer.write_all_buf(&mut buffer).await.map_err(|e| closed().because(e))?;
            whole.written = true;
        }
        let response = match cx.remaining() {
            None => answered.await,
            Some(left) => tokio::time::timeout(left, answered)
                .await
                .map_err(|_| HopError::new(Kind::DeadlineExceeded, "context deadline exceeded"))?,
        };
        response.map_err(|_| closed())?.result()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Entry<'a> {
    calls: &'a Mutex<Calls>,
    stream: u32,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(calls) = &mut *self.calls.lock().unwrap_or_else(|e| e.into_inner()) {
            calls.remove(&self.stream);
        }
    }
}

/// A frame of which only a part was written, because its caller gave up meanwhile, leaves a
/// connection on which nothing more can be said.
struct Whole<'a> {
    calls: &'a Mutex<Calls>,
    written: bool,
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        if !self.written {
            *self.calls.lock().unwrap_or_else(|e| e.into_inner()) = None;
        }
    }
}

fn closed() -> HopError {
    HopError::new(Kind::Unavailable, "ttrpc: closed")
}

async fn read(mut reader: OwnedReadHalf, calls: Arc<Mutex<Calls>>) {
    let mut arrived = BytesMut::with_capacity(4096);
    while let Ok(1..) = reader.read_buf(&mut arrived).await {
        loop {
            let frame = match Frame::take(&mut arrived) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "ttrpc");
                    *calls.lock().unwrap_or_else(|e| e.into_inner()) = None;
                    return;
                }
            };
            if frame.kind != RESPONSE {
                continue;
            }
            let response = Response::decode(frame.payload).unwrap_or_else(|e| {
                Response::of(Err(HopError::new(Kind::DataLoss, format!("ttrpc: {e}"))))
            });
            let mut calls = calls.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(call) = calls.as_mut().and_then(|calls| calls.remove(&frame.stream)) {
                let _ = call.send(response);
            }
        }
    }
    *calls.lock().unwrap_or_else(|e| e.into_inner()) = None;
}

#[async_trait]
impl<O: RpcOp> Handle<O> for Client {
    async fn handle(&self, cx: &Cx, op: O) -> Result<O::Reply> {
        let payload = self.call(cx, O::PATH, op.encode_to_vec().into()).await?;
        O::Reply::decode(payload)
            .map_err(|e| HopError::new(Kind::DataLoss, format!("{}: {e}", O::NAME)))
    }
}
