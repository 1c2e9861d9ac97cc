//! The contract of `Cri`: by the engine in process, through server and client in both versions, and
//! by containerd's own CRI; and by any socket that the environment names.

mod support;

use std::{path::Path, sync::Arc};

use cri_layer::suite::{Subject, suite};
use hops::Cri;
use support::{BUSYBOX, Peer, names_in};

fn subject(face: Arc<dyn Cri>, logs: &Path) -> Subject {
    Subject { face, image: BUSYBOX.to_owned(), logs: logs.to_owned(), skip: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_keeps_it_in_process_and_over_its_wire() {
    let Some(peer) = Peer::start() else { return };
    let before = peer.mounts();
    let engine = peer.engine().await;
    let logs = peer.path("logs");
    suite(&subject(Arc::new(engine.clone()), &logs)).await.unwrap();

    let path = peer.path("cri.sock");
    let listener = wire::socket::listen(&path).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = wire::grpc::Server::new().face::<dyn Cri>(Arc::new(engine.clone()));
    let served = tokio::spawn(server.serve(listener, async {
        let _ = stopped.await;
    }));
    let client = wire::grpc::Client::new(&path);
    suite(&subject(Arc::new(client.clone()), &logs)).await.unwrap();
    suite(&subject(Arc::new(client.v1alpha2()), &logs)).await.unwrap();
    stop.send(()).unwrap();
    served.await.unwrap();

    for base in ["cri-root", "cri-state"] {
        for kind in ["sandboxes", "containers", "netns"] {
            let left = names_in(&peer.path(base).join(kind));
            assert!(left.is_empty(), "{base}/{kind}: {left:?}");
        }
    }
    assert_eq!(peer.mounts(), before, "nothing stays mounted");
}

#[tokio::test(flavor = "multi_thread")]
async fn containerds_own_cri_keeps_it() {
    let Some(peer) = Peer::start() else { return };
    let client = Arc::new(wire::grpc::Client::new(peer.socket()));
    let mut subject = subject(client, &peer.path("logs"));
    // containerd 1.6 refuses to stop and remove what is not there.
    subject.skip.push("idempotence");
    suite(&subject).await.unwrap();
}

/// `STRATA_CRI_SOCKET=/run/containerd/containerd.sock STRATA_CRI_IMAGE=busybox:latest`
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_named_keeps_it() {
    let (Ok(socket), Ok(image)) =
        (std::env::var("STRATA_CRI_SOCKET"), std::env::var("STRATA_CRI_IMAGE"))
    else {
        println!("SKIP: STRATA_CRI_SOCKET and STRATA_CRI_IMAGE name no runtime");
        return;
    };
    let skip = std::env::var("STRATA_CRI_SKIP").unwrap_or_default();
    let logs = tempfile::tempdir().unwrap();
    let subject = Subject {
        face: Arc::new(wire::grpc::Client::new(socket)),
        image,
        logs: logs.path().to_owned(),
        skip: skip.split(',').filter(|s| !s.is_empty()).map(|s| &*s.to_owned().leak()).collect(),
    };
    suite(&subject).await.unwrap();
}
