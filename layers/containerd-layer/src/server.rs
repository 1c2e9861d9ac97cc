//! The daemon's sockets: gRPC for clients, and ttrpc beside it for shims.

use crate::{
    Config, Engine, Error, Result,
    error::At,
    metrics::calls::{Calls, Counted},
    services::health::Health,
};
use hops::{
    Containerd,
    shim::ShimEvents,
    trace::{Spans, Traced},
};
use std::{os::unix::fs::chown, path::Path, sync::Arc};
use tokio::{net::UnixListener, sync::watch};
use wire::{grpc, socket, ttrpc};

/// Sockets that are listened on, and not served yet.
#[derive(Debug)]
pub struct Server {
    grpc: UnixListener,
    ttrpc: UnixListener,
    calls: Calls,
}

impl Server {
    /// Listens on the configured address.
    ///
    /// # Errors
    /// `Unavailable` when another daemon serves it.
    pub fn listen(config: &Config) -> Result<Server> {
        let listen = |path: &Path, (uid, gid): (u32, u32)| {
            let listener = socket::listen(path)
                .map_err(|e| Error::unavailable(format_args!("listening on {path:?}: {e}")))?;
            if (uid, gid) != (0, 0) {
                chown(path, Some(uid), Some(gid)).at("giving away", path)?;
            }
            Ok::<_, Error>(listener)
        };
        Ok(Server {
            grpc: listen(&config.address, config.owner)?,
            ttrpc: listen(&config.ttrpc_address(), config.ttrpc_owner)?,
            calls: Calls::default(),
        })
    }

    /// The counters of its clients' calls.
    pub(crate) fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// Serves `engine` until `shutdown` completes. The shims stay as they are.
    pub async fn serve(self, engine: Engine, spans: Spans, shutdown: impl Future<Output = ()>) {
        let counted = |inner| Counted { inner, calls: self.calls.clone() };
        let clients: Arc<dyn Containerd> = Arc::new(counted(Traced::callee(engine.clone(), spans)));
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
