//! A connection to a shim, shared by the tasks that the shim has.

use super::{Bundle, Endpoint};
use crate::error::At;
use hops::{
    Cx, Handle, Result,
    rpc::RpcOp,
    shim::TASK_V2,
    trace::{Spans, Traced},
};
use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::unix::pipe};
use wire::{socket, ttrpc::Client};

/// How long a shim may take to say what it has, before it is taken for dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// A shim that answered once.
#[derive(Debug, Clone)]
pub(super) struct Shim(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    endpoint: Endpoint,
    client: Client,
    traced: Traced<Client>,
}

impl PartialEq for Shim {
    fn eq(&self, other: &Shim) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Shim {
    /// Connects to the shim at `endpoint`.
    ///
    /// # Errors
    /// `Unavailable` when nobody serves it.
    pub(super) async fn connect(endpoint: &Endpoint, spans: Spans) -> Result<Shim> {
        let path = socket::path_of(&endpoint.address);
        let client = Client::connect_as(&path, TASK_V2, endpoint.service()).await?;
        let traced = Traced::caller(client.clone(), spans);
        Ok(Shim(Arc::new(Connection { endpoint: endpoint.clone(), client, traced })))
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    pub(super) fn address(&self) -> &str {
        &self.0.endpoint.address
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.client.is_closed()
    }

    /// Completes when the shim has gone.
    pub(super) async fn closed(&self) {
        self.0.client.closed().await;
    }

    /// Closes the connection, for everybody who has it.
    pub(super) fn close(&self) {
        self.0.client.close();
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// The shim's own, and `Unavailable` when it is gone.
    pub(super) async fn call<O: RpcOp>(&self, cx: &Cx, op: O) -> Result<O::Reply> {
        self.0.traced.handle(cx, op).await
    }

    /// Asks for one thing that a living shim knows at once.
    ///
    /// # Errors
    /// As [`Self::call`], and `DeadlineExceeded`.
    pub(super) async fn ask<O: RpcOp>(&self, cx: &Cx, op: O) -> Result<O::Reply> {
        self.call(&cx.within(PATIENCE), op).await
    }
}

/// The fifo that a shim logs to. containerd's shims wait until somebody reads it.
pub(super) struct ShimLog(pipe::Receiver);

impl ShimLog {
    /// Makes the fifo in a bundle where it is missing, and opens it.
    pub(super) fn open(bundle: &Bundle) -> crate::Result<ShimLog> {
        let path = bundle.log()?;
        // Open for writing too, so that the end of one writer is not the end of the log.
        let log = pipe::OpenOptions::new().read_write(true).open_receiver(&path);
        log.map(ShimLog).at("opening", &path)
    }

    /// Copies the log to this daemon's standard error for as long as the shim lives.
    pub(super) fn follow(mut self, shim: &Shim) {
        let shim = shim.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shim.closed() => {}
                () = copy(&mut self.0) => {}
            }
        });
    }
}

async fn copy(log: &mut pipe::Receiver) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = log.read(&mut buffer).await {
        // A log that cannot be written is no reason to stop the shim.
        let _ = io::stderr().write_all(&buffer[..length]);
    }
}
