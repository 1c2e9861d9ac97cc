//! What every daemon does around its wire.

use tokio::signal::unix::{SignalKind, signal};

/// Completes when the process is asked to end (SIGTERM or SIGINT).
pub async fn shutdown() {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals have their default effect, and nothing is to be awaited.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
