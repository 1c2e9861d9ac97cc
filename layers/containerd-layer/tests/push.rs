//! Pushes to registries that can misbehave; those to the real one are in `real_push.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Digest, Error, Kind,
    images::{Descriptor, media, push::Push, registry::Credential},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{
    Registry, Reply, Request, describe, store, store_with,
    stored::{named, put},
    two_layers,
};

/// How long a registry may be silent that answers at once: longer than a busy machine holds it up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one may be silent that is.
const LITTLE: Duration = Duration::from_secs(1);

/// A registry in memory that takes what is pushed, as far as `answer` lets it.
#[derive(Default)]
struct Memory {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, Vec<u8>>,
}

impl Memory {
    fn answer(&mut self, host: &str, request: &Request) -> Reply {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let object = path.rsplit('/').next().unwrap_or_default().to_owned();
        let manifest = path.contains("/manifests/");
        let known = if manifest { &self.manifests } else { &self.blobs };
        match request.method.as_str() {
            "HEAD" | "GET" => match known.get(&object) {
                Some(bytes) => Reply::ok(bytes.clone())
                    .header("Docker-Content-Digest", Digest::of(bytes).as_str()),
                None => Reply::status(404),
            },
            "POST" => Reply::status(202)
                .header("Location", &format!("http://{host}/v2/x/blobs/uploads/1?state=s")),
            "PUT" if manifest => {
                let digest = Digest::of(&request.body).to_string();
                self.manifests.insert(digest.clone(), request.body.clone());
                self.manifests.insert(object, request.body.clone());
                Reply::status(201).header("Docker-Content-Digest", &digest)
            }
            "PUT" => {
                let digest = query.rsplit("digest=").next().unwrap_or_default();
                if Digest::of(&request.body).as_str() != digest {
                    return Reply::status(400);
                }
                self.blobs.insert(digest.to_owned(), request.body.clone());
                Reply::status(201)
            }
            _ => Reply::status(405),
        }
    }
}

/// Pushes an image of two layers to a registry that `disturb` may answer for.
async fn pushed(
    patience: Duration,
    disturb: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> (Result<Descriptor, Error>, Registry, Arc<Mutex<Memory>>) {
    let memory = Arc::new(Mutex::new(Memory::default()));
    let (held, host) = (Arc::clone(&memory), Arc::new(Mutex::new(String::new())));
    let known = Arc::clone(&host);
    let registry = Registry::serve(move |request| match disturb(request) {
        Some(reply) => reply,
        None => held.lock().unwrap().answer(&known.lock().unwrap(), request),
    })
    .await;
    host.lock().unwrap().clone_from(&registry.host);
    let (_dir, store) = store_with(None, patience);
    let name = format!("{}/x:1", registry.host);
    let target = put(&store, &two_layers());
    named(&store, &name, target);
    let result = store.push(Push::new("ns", &name)).await;
    (result, registry, memory)
}

#[tokio::test]
async fn what_a_registry_is_asked() {
    let (result, registry, memory) = pushed(PATIENCE, |_| None).await;
    let target = result.unwrap();
    let requests = registry.requests.lock().unwrap().clone();
    let order: Vec<_> =
        requests.iter().map(|r| (r.method.as_str(), r.path.contains("/manifests/"))).collect();
    let last = order.len() - 2;
    assert_eq!(order[last..], [("HEAD", true), ("PUT", true)], "{order:?}");
    assert!(!order[..last].iter().any(|(_, manifest)| *manifest), "{order:?}");
    let put = requests.last().unwrap();
    assert_eq!(
        (put.path.as_str(), put.headers["content-type"].as_str()),
        ("/v2/x/manifests/1", media::OCI_MANIFEST)
    );
    let memory = memory.lock().unwrap();
    assert_eq!(memory.blobs.len(), 3);
    assert!(memory.manifests.contains_key(target.digest.as_str()));
}

#[tokio::test]
async fn an_upload_that_is_cut_begins_again() {
    let tries = AtomicUsize::new(0);
    let (result, registry, memory) = pushed(LITTLE, move |request| {
        let blob = request.method == "PUT" && request.path.contains("/uploads/");
        // The first two say nothing at all.
        (blob && tries.fetch_add(1, Ordering::SeqCst) < 2)
            .then(|| Reply { late: PATIENCE, ..Reply::status(201) })
    })
    .await;
    result.unwrap();
    assert!(registry.asked("POST", "/uploads/") >= 5, "two sessions were lost");
    assert_eq!(memory.lock().unwrap().blobs.len(), 3);
}

#[tokio::test]
async fn a_push_that_fails_leaves_no_image() {
    type Case = (&'static str, fn(&Request) -> Option<Reply>, Kind, &'static str);
    let cases: [Case; 6] = [
        (
            "a layer is refused",
            |r| {
                (r.method == "PUT" && r.body.len() > 100_000).then(|| {
                    let body =
                        br#"{"errors":[{"code":"SIZE_INVALID","message":"no \u001b[31mroom"}]}"#;
                    Reply { status: 413, ..Reply::ok(body.to_vec()) }
                })
            },
            Kind::Internal,
            "413 Payload Too Large: size_invalid: no [31mroom",
        ),
        (
            "sessions are refused",
            |r| (r.method == "POST").then(|| Reply::status(403)),
            Kind::PermissionDenied,
            "unexpected status from POST request to http://",
        ),
        (
            "the manifest is refused",
            |r| (r.method == "PUT" && r.path.contains("/manifests/")).then(|| Reply::status(500)),
            Kind::Unavailable,
            "manifest sha256:",
        ),
        (
            "the manifest becomes another",
            |r| {
                (r.method == "PUT" && r.path.contains("/manifests/")).then(|| {
                    let other = Digest::of(b"other");
                    Reply::status(201).header("Docker-Content-Digest", other.as_str())
                })
            },
            Kind::DataLoss,
            "got digest sha256:",
        ),
        (
            "a session leads nowhere",
            |r| (r.method == "POST").then(|| Reply::status(202).header("Location", "http://")),
            Kind::InvalidArgument,
            "location \"http://\"",
        ),
        (
            "it asks again and again who is there",
            |_| Some(Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\"")),
            Kind::Unauthenticated,
            "push access denied",
        ),
    ];
    for (name, disturb, kind, words) in cases {
        let (result, registry, memory) = pushed(PATIENCE, disturb).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind, kind, "{name}: {error}");
        assert!(error.message.contains(words), "{name}: {error}");
        let prefix = format!("failed to push \"{}/x:1\": ", registry.host);
        assert!(error.message.starts_with(&prefix), "{name}: {error}");
        assert!(memory.lock().unwrap().manifests.is_empty(), "{name}");
        assert!(registry.requests.lock().unwrap().len() < 40, "{name}");
    }
}

#[tokio::test]
async fn storage_elsewhere_gets_no_credentials() {
    let taken = Arc::new(Mutex::new(BTreeSet::new()));
    let kept = Arc::clone(&taken);
    let storage = Registry::serve(move |request| {
        kept.lock().unwrap().insert(Digest::of(&request.body).to_string());
        Reply::status(201)
    })
    .await;
    let elsewhere = storage.host.clone();
    let registry = Registry::serve(move |request| {
        if !request.headers.contains_key("authorization") {
            return Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        match request.method.as_str() {
            "HEAD" => Reply::status(404),
            "POST" => Reply::status(202).header("Location", &format!("http://{elsewhere}/up")),
            _ => Reply::status(201),
        }
    })
    .await;
    let (_dir, store) = store();
    let name = format!("{}/x:1", registry.host);
    let target = put(&store, &two_layers());
    named(&store, &name, target);
    let mut push = Push::new("ns", &name);
    let (username, password) = ("u".to_owned(), "p".to_owned());
    push.access.credential = Some(Credential::Basic { username, password });
    store.push(push).await.unwrap();
    assert_eq!(taken.lock().unwrap().len(), 3);
    let requests = storage.requests.lock().unwrap();
    assert!(requests.iter().all(|r| !r.headers.contains_key("authorization")));
    assert!(requests.iter().all(|r| r.path.starts_with("/up?digest=sha256:")), "{requests:?}");
}

#[tokio::test]
async fn a_token_is_asked_for_pushing() {
    let tokens = Registry::serve(|_| Reply::ok(br#"{"access_token":"T"}"#.to_vec())).await;
    let realm = tokens.host.clone();
    let memory = Mutex::new(Memory::default());
    let registry = Registry::serve(move |request| {
        if request.headers.get("authorization").map(String::as_str) == Some("Bearer T") {
            return memory.lock().unwrap().answer(&request.headers["host"], request);
        }
        let challenge = format!("Bearer realm=\"http://{realm}/t\",scope=\"repository:x:pull\"");
        Reply::status(401).header("WWW-Authenticate", &challenge)
    })
    .await;
    let (_dir, store) = store();
    let name = format!("{}/x:1", registry.host);
    let target = put(&store, &two_layers());
    named(&store, &name, target);
    for credential in [
        Credential::Basic { username: "u".to_owned(), password: "p".to_owned() },
        Credential::Identity("s/t".to_owned()),
    ] {
        let mut push = Push::new("ns", &name);
        push.access.credential = Some(credential);
        store.push(push).await.unwrap();
    }
    let asked = tokens.requests.lock().unwrap();
    // One for each push, though three blobs are asked for at once.
    let [first, last] = &asked[..] else { panic!("{asked:?}") };
    assert!(
        first.path.contains("scope=repository:x:pull&scope=repository:x:pull,push"),
        "{asked:?}"
    );
    assert_eq!(first.headers["authorization"], "Basic dTpw");
    assert_eq!((last.method.as_str(), last.headers.get("authorization")), ("POST", None));
    let form = String::from_utf8_lossy(&last.body);
    assert!(form.contains("grant_type=refresh_token&"), "{form}");
    assert!(form.contains("refresh_token=s/t&"), "{form}");
}

#[tokio::test]
async fn a_mirror_is_not_pushed_to() {
    let upstream = Registry::serve(move |request| match request.method.as_str() {
        "HEAD" => Reply::status(200),
        _ => Reply::status(201),
    })
    .await;
    let mirror = Registry::serve(|_| Reply::status(200)).await;
    let hosts = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        upstream.host, mirror.host
    );
    describe(hosts.path(), "r.test", &text);
    let (_dir, store) = store_with(Some(hosts.path()), PATIENCE);
    let target = put(&store, &two_layers());
    named(&store, "r.test/x:1", target);
    store.push(Push::new("ns", "r.test/x:1")).await.unwrap();
    assert!(mirror.requests.lock().unwrap().is_empty());
    assert_eq!(upstream.asked("PUT", "/manifests/1"), 1);

    describe(hosts.path(), "r.test", "server = \"http://x\"\ncapabilities = [\"pull\"]\n");
    let error = store.push(Push::new("ns", "r.test/x:1")).await.unwrap_err();
    assert!(error.message.contains("no push hosts"), "{error}");
}
