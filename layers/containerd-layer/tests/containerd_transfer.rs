//! Transfers over the wire: an image out to a stream, in from one, and under another name.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not as it should be")]

mod daemon;
mod support;

use containerd_layer::{
    Config, Engine,
    images::{Descriptor, media},
    server::Server,
};
use futures_util::StreamExt;
use hops::{
    Containerd, Cx, Handle, Kind,
    proto::{
        Any,
        containerd::{
            services::images::v1::{GetImageRequest, ListImagesRequest},
            types::transfer::{
                AuthRequest, AuthResponse, AuthType, Data, ImageExportStream, ImageImportStream,
                ImageStore, OciRegistry, Progress, RegistryResolver, WindowUpdate,
            },
        },
    },
    trace::Spans,
};
use prost::Message;
use std::sync::{Arc, Mutex};
use support::{
    Reply, describe, distribution,
    transfer::{any, open, pour, transfer},
};

fn store(name: &str) -> Any {
    any(&ImageStore { name: name.into(), ..Default::default() })
}

/// An image without layers of more than one message's size.
fn seed(engine: &Engine, ns: &str, name: &str) {
    let content = engine.store().content();
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = content.put(ns, bytes, Default::default()).unwrap();
        Descriptor::new(media_type, digest, bytes.len() as u64)
    };
    let layer: Vec<u8> =
        (0..300_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = put(media::OCI_LAYER, &layer);
    let config = serde_json::json!({
        "os": "linux",
        "architecture": containerd_layer::images::Platform::host().architecture,
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
    });
    let config = put(media::OCI_CONFIG, config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config, "layers": [layer],
    });
    let manifest = put(media::OCI_MANIFEST, manifest.to_string().as_bytes());
    engine.store().set_image(ns, name, manifest, Default::default()).unwrap();
}

/// The image that a daemon here begins with.
const SEED: &str = "docker.io/library/seed:1";

/// A daemon behind its socket, with an image in the namespace `ns`.
async fn served(config: &Config, ns: &str) -> Arc<dyn Containerd> {
    let server = Server::listen(config).unwrap();
    let engine = Engine::open(config, Spans::disabled()).await.unwrap();
    seed(&engine, ns, SEED);
    tokio::spawn(server.serve(engine, Spans::disabled(), std::future::pending()));
    Arc::new(wire::grpc::Client::new(&config.address))
}

async fn target(face: &dyn Containerd, cx: &Cx, name: &str) -> String {
    let get = GetImageRequest { name: name.into() };
    face.handle(cx, get).await.unwrap().image.unwrap().target.unwrap().digest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_goes_out_and_comes_in() {
    let dir = tempfile::tempdir().unwrap();
    let config = daemon::config(dir.path());
    let face = served(&config, "from").await;
    let (from, to) = (Cx::background().in_namespace("from"), Cx::background().in_namespace("to"));

    // Out, with a reader that allows a little at a time.
    let (send, mut answers) = open(&*face, &from, "out").await.unwrap();
    let export = ImageExportStream { stream: "out".into(), ..Default::default() };
    let exporting = {
        let (face, from) = (face.clone(), from.clone());
        tokio::spawn(async move { face.handle(&from, transfer(store(SEED), any(&export))).await })
    };
    let mut archive = Vec::new();
    send.send(any(&WindowUpdate { update: 10_000 })).await.unwrap();
    let mut allowed = 10_000;
    while let Some(answer) = answers.next().await {
        let piece = Data::decode(answer.unwrap().value.as_slice()).unwrap().data;
        archive.extend_from_slice(&piece);
        assert!(archive.len() <= allowed, "{} bytes of {allowed}", archive.len());
        if archive.len() == allowed {
            allowed += 100_000;
            send.send(any(&WindowUpdate { update: 100_000 })).await.unwrap();
        }
    }
    exporting.await.unwrap().unwrap();
    assert!(archive.len() > 1_200_000, "{}", archive.len());

    // In, in another namespace, as fast as the reader allows.
    let (send, mut answers) = open(&*face, &to, "in").await.unwrap();
    let import = ImageImportStream { stream: "in".into(), ..Default::default() };
    let import = face.handle(&to, transfer(any(&import), store("")));
    let ((), imported) = tokio::join!(pour(send, &mut answers, &archive), import);
    imported.unwrap();
    assert_eq!(target(&*face, &to, SEED).await, target(&*face, &from, SEED).await);

    // Under another name.
    face.handle(&to, transfer(store(SEED), store("docker.io/library/other:2"))).await.unwrap();
    let images = face.handle(&to, ListImagesRequest::default()).await.unwrap().images;
    assert_eq!(images.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_transferred_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(&daemon::config(dir.path()), Spans::disabled()).await.unwrap();
    let cx = Cx::background().in_namespace("x");
    let registry = any(&OciRegistry { reference: "x.test/a:1".into(), resolver: None });
    let unknown = Any { type_url: "cats".into(), value: Vec::new() };
    let lost = any(&ImageImportStream { stream: "lost".into(), ..Default::default() });
    for (from, to, kind) in [
        (store("a"), registry.clone(), Kind::NotFound),
        (registry.clone(), registry, Kind::Unimplemented),
        (unknown, store("a"), Kind::Unimplemented),
        (lost, store(""), Kind::NotFound),
        (store("missing"), store("b"), Kind::NotFound),
    ] {
        let what = format!("{} {}", from.type_url, to.type_url);
        let refusal = engine.handle(&cx, transfer(from, to)).await.unwrap_err();
        assert_eq!(refusal.kind, kind, "{what}: {refusal}");
    }
}

/// Answers every question for credentials as `answer` says, and notes the questions.
async fn credentials(
    face: &dyn Containerd,
    cx: &Cx,
    id: &str,
    answer: AuthResponse,
) -> Arc<Mutex<Vec<AuthRequest>>> {
    let (send, mut questions) = open(face, cx, id).await.unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some(Ok(question)) = questions.next().await {
            noted.lock().unwrap().push(AuthRequest::decode(question.value.as_slice()).unwrap());
            if send.send(any(&answer)).await.is_err() {
                return;
            }
        }
    });
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_goes_to_a_registry_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    let Some(real) = distribution::registry(dir.path()) else { return };
    describe(&hosts, "daemon.test", &format!("server = \"http://{}\"\n", real.host));
    let config = Config { hosts_dirs: vec![hosts], ..daemon::config(dir.path()) };
    let face = served(&config, "from").await;
    let (from, to) = (Cx::background().in_namespace("from"), Cx::background().in_namespace("to"));
    let registry = |reference: &str, resolver: RegistryResolver| {
        any(&OciRegistry { reference: reference.into(), resolver: Some(resolver) })
    };

    // Where the daemon's own configuration says, with the client told how far it is.
    let (_progress, mut steps) = open(&*face, &from, "steps").await.unwrap();
    let mut push = transfer(store(SEED), registry("daemon.test/seed:1", Default::default()));
    push.options = Some(hops::proto::containerd::services::transfer::v1::TransferOptions {
        progress_stream: "steps".into(),
    });
    face.handle(&from, push).await.unwrap();
    let mut events = Vec::new();
    // The steps end with the transfer.
    while let Some(step) = steps.next().await {
        events.push(Progress::decode(step.unwrap().value.as_slice()).unwrap().event);
    }
    assert!(events.iter().any(|event| event == "uploading"), "{events:?}");
    assert_eq!(events.iter().filter(|event| *event == "complete").count(), 3, "{events:?}");

    // Back from where the client says, which outranks the daemon's.
    let other = dir.path().join("other");
    describe(&other, "client.test", &format!("server = \"http://{}\"\n", real.host));
    let resolver = RegistryResolver { host_dir: other.display().to_string(), ..Default::default() };
    let pull = transfer(registry("client.test/seed:1", resolver.clone()), store(""));
    face.handle(&to, pull).await.unwrap();
    assert_eq!(target(&*face, &to, "client.test/seed:1").await, target(&*face, &from, SEED).await);
    let lost = transfer(registry("daemon.test/seed:1", resolver), store(""));
    let refusal = face.handle(&to, lost).await.unwrap_err();
    assert_eq!(refusal.kind, Kind::Unavailable, "{refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_says_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = daemon::config(dir.path());
    let face = served(&config, "x").await;
    let cx = Cx::background().in_namespace("x");

    let registry = support::Registry::serve(|request| {
        match request.headers.get("authorization").map(String::as_str) {
            Some("Basic dTpw" | "Own word") if request.method == "HEAD" => Reply::status(200),
            Some("Basic dTpw" | "Own word") => Reply::status(201),
            _ => Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\""),
        }
    })
    .await;
    let reference = format!("{}/seed:1", registry.host);
    let as_user = |secret: &str, auth_type| AuthResponse {
        auth_type: i32::from(auth_type),
        username: if auth_type == AuthType::Credentials { "u".into() } else { String::new() },
        secret: secret.into(),
        ..Default::default()
    };
    let cases = [
        (as_user("p", AuthType::Credentials), None),
        (as_user("Own word", AuthType::Header), None),
        (as_user("wrong", AuthType::Credentials), Some("401 Unauthorized")),
        (as_user("", AuthType::Refresh), Some("no basic auth credentials")),
    ];
    for (i, (answer, fails)) in cases.into_iter().enumerate() {
        let id = format!("creds-{i}");
        let asked = credentials(&*face, &cx, &id, answer).await;
        let resolver = RegistryResolver {
            auth_stream: id,
            headers: [("x-mine".to_owned(), "1".to_owned())].into(),
            default_scheme: "http".into(),
            ..Default::default()
        };
        let to = OciRegistry { reference: reference.clone(), resolver: Some(resolver) };
        let pushed = face.handle(&cx, transfer(store(SEED), any(&to))).await;
        match (pushed, fails) {
            (Ok(_), None) => {}
            (Err(e), Some(words)) if e.kind == Kind::Unauthenticated => {
                assert!(e.to_string().contains(words), "{i}: {e}");
            }
            (pushed, _) => panic!("{i}: {pushed:?}"),
        }
        let asked = asked.lock().unwrap();
        assert!(!asked.is_empty(), "{i}");
        assert!(asked.iter().all(|q| q.host == registry.host && q.reference == reference));
        assert!(asked[0].wwwauthenticate[0].starts_with("Basic "), "{asked:?}");
    }
    let requests = registry.requests.lock().unwrap();
    assert!(requests.iter().all(|r| r.headers.get("x-mine").map(String::as_str) == Some("1")));
}
