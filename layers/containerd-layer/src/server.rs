//! The daemon's sockets: gRPC for clients, and ttrpc beside it for shims.

use crate::{Config, Engine, Error, Result, services::health::Health, tasks::ttrpc_of};
use hops::{
    Containerd,
    shim::ShimEvents,
    trace::{Spans, Traced},
};
use std::{path::Path, sync::Arc};
use tokio::{net::UnixListener, sync::watch};
use wire::{grpc, socket, ttrpc};

/// Sockets that are listened on, and not served yet.
#[derive(Debug)]
pub struct Server {
    grpc: UnixListener,
    ttrpc: UnixListener,
}

impl Server {
    /// Listens on the configured address.
    ///
    /// # Errors
    /// `Unavailable` when another daemon serves it.
    pub fn listen(config: &Config) -> Result<Server> {
        let listen = |path: &Path| {
            socket::listen(path)
                .map_err(|e| Error::unavailable(format_args!("listening on {path:?}: {e}")))
        };
        Ok(Server { grpc: listen(&config.address)?, ttrpc: listen(&ttrpc_of(&config.address))? })
    }

    /// Serves `engine` until `shutdown` completes. The shims stay as they are.
    pub async fn serve(self, engine: Engine, spans: Spans, shutdown: impl Future<Output = ()>) {
        let clients: Arc<dyn Containerd> = Arc::new(Traced::callee(engine.clone(), spans));
        let health: Arc<dyn Health> = Arc::new(engine.clone());
        let shims: Arc<dyn ShimEvents> = Arc::new(engine);
        let (stop, stopped) = watch::channel(false);
        let until = |mut stopped: watch::Receiver<bool>| async move {
            // Errs when the sender is gone, which also is the end.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let events = ttrpc::Server::new(shims).serve(self.ttrpc, until(stopped.clone()));
        let calls = grpc::Server::new().face(clients).face(health).serve(self.grpc, until(stopped));
        tokio::join!(events, calls, async {
            shutdown.await;
            stop.send_replace(true);
        });
    }
}
