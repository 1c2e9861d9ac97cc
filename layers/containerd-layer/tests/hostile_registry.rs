//! Registries that mean harm: what they send is bounded in size, in time and in depth, what is said
//! of it names them, and nothing of it stays.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Digest, Error, Kind,
    filters::Filters,
    images::{
        Descriptor, Platform, import::Import, media, pull::Pull, push::Push, registry::Credential,
    },
};
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use support::{
    Image, Registry, Reply, Request, archive, assert_nothing_half_done, image, store_with, tar_of,
    two_layers,
};

/// How long a registry may be silent that answers at once: longer than a busy machine holds it up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long those may be silent that are.
const LITTLE: Duration = Duration::from_secs(1);
/// Long enough for every try that is due, and too short for a loop without end.
const BOUND: Duration = Duration::from_secs(300);

/// Pulls `x:1` of what `answer` serves, and expects an error that names the host within the bound.
async fn refused(
    name: &str,
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (Error, Registry) {
    refused_within(PATIENCE, name, answer).await
}

/// The same with a registry that may be silent for `patience`.
async fn refused_within(
    patience: Duration,
    name: &str,
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (Error, Registry) {
    let registry = Registry::serve(answer).await;
    let (_dir, store) = store_with(None, patience);
    let mut pull = Pull::new("ns", &format!("{}/x:1", registry.host));
    let (username, password) = ("u".to_owned(), "p".to_owned());
    pull.access.credential = Some(Credential::Basic { username, password });
    let begun = Instant::now();
    let error = store.pull(pull).await.unwrap_err();
    assert!(begun.elapsed() < BOUND, "{name}: {:?}", begun.elapsed());
    assert_nothing_half_done(&store, "ns");
    (error, registry)
}

fn is_layer(image: &Image, request: &Request) -> bool {
    request.path.ends_with(image.layers[1].as_str())
}

/// An image whose top is `document`, and which is otherwise as it should be.
fn topped(base: Image, media_type: &str, document: String) -> Image {
    let mut image = base;
    let manifest = std::mem::replace(&mut image.manifest, document.into_bytes());
    image.blobs.insert(Digest::of(&manifest).to_string(), manifest);
    media_type.clone_into(&mut image.media_type);
    image
}

fn descriptor(media_type: &str, bytes: &[u8]) -> String {
    let digest = Digest::of(bytes);
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len())
}

#[tokio::test]
async fn silence_and_trickles() {
    type Slow = fn(&Request, Reply) -> Reply;
    let cases: [(&str, Slow, &str); 5] = [
        (
            "no head",
            |r, reply| Reply {
                late: if r.path.contains("/manifests/") { BOUND } else { Duration::ZERO },
                ..reply
            },
            "no answer within 1s",
        ),
        (
            "a manifest that drips",
            |r, reply| Reply {
                drip: r.path.contains("/manifests/").then_some(Duration::from_millis(20)),
                ..reply
            },
            "bytes in 1s",
        ),
        (
            "a layer that drips",
            |_, reply| Reply {
                drip: (reply.body.len() > 100_000).then_some(Duration::from_millis(20)),
                ..reply
            },
            "bytes in 1s",
        ),
        (
            "a layer that stops",
            |_, mut reply| {
                if reply.body.len() > 100_000 {
                    reply.length = Some(reply.body.len() as u64);
                    reply.body.truncate(1000);
                    reply.stall = true;
                }
                reply
            },
            "only 1000 bytes in 1s",
        ),
        (
            "a layer that is cut at once",
            |_, mut reply| {
                if reply.body.len() > 100_000 {
                    reply.cut = Some(0);
                }
                reply
            },
            "after 0 of",
        ),
    ];
    let tried = cases.map(|(name, slow, words)| async move {
        let image = two_layers();
        let answer = move |request: &Request| slow(request, image.answer(request));
        let (error, registry) = refused_within(LITTLE, name, answer).await;
        assert_eq!(error.kind, Kind::Unavailable, "{name}: {error}");
        assert!(error.message.contains(words), "{name}: {error}");
        assert!(error.message.contains(&registry.host), "{name}: {error}");
        assert!(registry.requests.lock().unwrap().len() < 60, "{name}");
    });
    join_all(tried).await;
}

#[tokio::test]
async fn bodies_without_end() {
    for what in ["manifest", "token", "config", "error"] {
        let image = two_layers();
        let config = image.blobs.keys().find(|d| !image.layers.iter().any(|l| l.as_str() == **d));
        let config = config.unwrap().clone();
        let (error, registry) = refused(what, move |request| {
            let authorized = request.headers.contains_key("authorization");
            let host = &request.headers["host"];
            let endless =
                |reply: Reply| Reply { body: vec![b' '; 1 << 16], endless: true, ..reply };
            match what {
                "token" if request.path.starts_with("/token") => endless(Reply::status(200)),
                "token" if !authorized => {
                    let challenge = format!("Bearer realm=\"http://{host}/token\"");
                    Reply::status(401).header("WWW-Authenticate", &challenge)
                }
                "manifest" if request.path.contains("/manifests/") => {
                    endless(Reply::status(200).header("Content-Type", media::OCI_MANIFEST))
                }
                "config" if request.path.ends_with(&config) => endless(Reply::status(200)),
                "error" => endless(Reply::status(400)),
                _ => image.answer(request),
            }
        })
        .await;
        let words = match what {
            "token" => "larger than 1048576 bytes",
            "manifest" => "larger than 8388608 bytes",
            "config" => "failed size validation",
            _ => "400 Bad Request",
        };
        assert!(error.message.contains(words), "{what}: {error}");
        assert!(error.message.contains(&registry.host), "{what}: {error}");
    }
}

#[tokio::test]
async fn heads_that_are_too_large() {
    for headers in [vec!["x".repeat(1 << 20)], vec!["x".to_owned(); 300]] {
        let (error, registry) = refused("head", move |_| {
            headers.iter().fold(Reply::status(200), |reply, value| reply.header("x-much", value))
        })
        .await;
        assert_eq!(error.kind, Kind::Unavailable, "{error}");
        assert!(error.message.contains("too large"), "{error}");
        assert!(error.message.contains(&registry.host), "{error}");
    }
    // Numbers that overflow whoever adds them.
    let image = two_layers();
    let (error, _) = refused("length", move |request| {
        let mut reply = image.answer(request);
        match request.range() {
            _ if !is_layer(&image, request) => {}
            None => reply.cut = Some(1000),
            Some(_) => reply.length = Some(u64::MAX - 3),
        }
        reply
    })
    .await;
    assert!(error.message.contains("failed size validation"), "{error}");
}

#[tokio::test]
async fn circles() {
    // A registry that asks who is there, whatever it is told, with a token service that does too.
    let (error, registry) = refused("tokens", |request| {
        let host = &request.headers["host"];
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
        Reply::status(401).header("WWW-Authenticate", &challenge)
    })
    .await;
    assert_eq!(error.kind, Kind::Unauthenticated, "{error}");
    assert!(error.message.contains("failed to fetch oauth token"), "{error}");
    assert_eq!(registry.asked("GET", "/token"), 1);

    let (error, registry) = refused("tokens that are no good", |request| {
        if request.path.starts_with("/token") {
            return Reply::ok(br#"{"token":"T"}"#.to_vec());
        }
        let host = &request.headers["host"];
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
        Reply::status(401).header("WWW-Authenticate", &challenge)
    })
    .await;
    assert_eq!(error.kind, Kind::Unauthenticated, "{error}");
    assert_eq!((registry.asked("HEAD", ""), registry.asked("GET", "/token")), (2, 1));

    for (challenge, words) in [
        ("", "not known"),
        ("Digest realm=x", "not known"),
        ("Bearer service=\"s\"", "no realm"),
        ("Bearer realm=\"not a url\"", "url"),
    ] {
        let (error, registry) =
            refused(challenge, move |_| Reply::status(401).header("WWW-Authenticate", challenge))
                .await;
        assert!(error.message.contains(words), "{challenge}: {error}");
        assert!(error.message.contains(&registry.host), "{challenge}: {error}");
    }

    // Two hosts that send each other's callers back.
    let other = Registry::serve(|request| {
        let back = request.path.split("back=").last().unwrap_or_default().to_owned();
        Reply::status(307).header("Location", &format!("http://{back}/v2/x/manifests/1"))
    })
    .await;
    let elsewhere = other.host.clone();
    let (error, registry) = refused("redirects", move |request| {
        let host = &request.headers["host"];
        if request.headers.contains_key("authorization") {
            let there = format!("http://{elsewhere}/?back={host}");
            return Reply::status(302).header("Location", &there);
        }
        Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\"")
    })
    .await;
    assert!(error.message.contains("stopped after 10 redirects"), "{error}");
    assert!(error.message.contains(&registry.host), "{error}");
    let leaked =
        other.requests.lock().unwrap().iter().any(|r| r.headers.contains_key("authorization"));
    assert!(!leaked, "credentials went to another host");
    assert!(registry.requests.lock().unwrap().len() + other.requests.lock().unwrap().len() < 20);

    let (error, _) =
        refused("nowhere", |_| Reply::status(302).header("Location", "gopher://x/")).await;
    assert!(error.message.contains("gopher"), "{error}");
}

#[tokio::test]
async fn patience_that_is_asked_for() {
    let begun = Instant::now();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let image = two_layers();
    let registry = Registry::serve(move |request| {
        match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Reply::status(429).header("Retry-After", "1"),
            // Dates and nonsense are as good as nothing.
            1 => Reply::status(429).header("Retry-After", "Fri, 01 Jan 2100 00:00:00 GMT"),
            2 => Reply::status(503).header("Retry-After", "-1"),
            _ => image.answer(request),
        }
    })
    .await;
    let (_dir, store) = store_with(None, PATIENCE);
    store.pull(Pull::new("ns", &format!("{}/x:1", registry.host))).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After was not heeded");

    let (error, registry) = refused("always busy", |_| Reply::status(429)).await;
    assert_eq!(error.kind, Kind::ResourceExhausted);
    assert!(error.message.contains("429 Too Many Requests"), "{error}");
    assert_eq!(registry.asked("HEAD", ""), 7);
}

#[tokio::test]
async fn documents_that_are_two_things() {
    let base = two_layers();
    let manifest = String::from_utf8(base.manifest.clone()).unwrap();
    let manifests = format!(
        r#""manifests":[{}]"#,
        descriptor(media::OCI_MANIFEST, &base.manifest)
            .replace('}', r#","platform":{"os":"linux","architecture":"amd64"}}"#)
    );
    let both = manifest.replacen('{', &format!("{{{manifests},"), 1);
    let index = format!(r#"{{"schemaVersion":2,{manifests}}}"#);
    for (name, media_type, document, words) in [
        (
            "both, as a manifest",
            media::OCI_MANIFEST,
            both.clone(),
            "expected manifest but found index",
        ),
        ("both, as an index", media::OCI_INDEX, both.clone(), "expected index but found manifest"),
        ("both, as anything", "text/html", both, "not both"),
        ("an index as a manifest", media::OCI_MANIFEST, index, "expected manifest but found index"),
        ("a manifest as an index", media::OCI_INDEX, manifest, "expected index but found manifest"),
        ("neither", "text/html", r#"{"a":1}"#.to_owned(), "neither an index nor a manifest"),
        ("nothing", media::OCI_MANIFEST, String::new(), "manifest sha256:"),
        ("a page", media::OCI_MANIFEST, "<html>".to_owned(), "manifest sha256:"),
        (
            "schema 1",
            media::DOCKER_MANIFEST,
            r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
            "schema 1 not supported",
        ),
        (
            "the same key twice",
            media::OCI_MANIFEST,
            String::from_utf8(base.manifest.clone()).unwrap().replacen('{', r#"{"layers":[],"#, 1),
            "duplicate field",
        ),
        (
            "a digest that is a path",
            media::OCI_MANIFEST,
            String::from_utf8(base.manifest.clone())
                .unwrap()
                .replace(&base.layers[0].to_string(), "sha256:../../../../etc/passwd"),
            "invalid checksum digest",
        ),
        (
            "a size below nothing",
            media::OCI_MANIFEST,
            String::from_utf8(base.manifest.clone()).unwrap().replacen(
                "\"size\":",
                "\"size\":-",
                1,
            ),
            "invalid value",
        ),
    ] {
        let served = topped(base.clone(), media_type, document);
        let (error, _) = refused(name, move |request| served.answer(request)).await;
        assert_eq!(error.kind, Kind::InvalidArgument, "{name}: {error}");
        assert!(error.message.contains(words), "{name}: {error}");
    }
}

#[tokio::test]
async fn sizes_that_contradict_each_other() {
    let layer = tar_of(&[("a", b"a")]);
    let blob = support::gzip(&layer);
    let good = image(&[(layer.clone(), blob.clone()), (layer, blob.clone())]);
    // The same layer twice is an image like others.
    let served = good.clone();
    let registry = Registry::serve(move |request| served.answer(request)).await;
    let (_dir, store) = store_with(None, PATIENCE);
    store.pull(Pull::new("ns", &format!("{}/x:1", registry.host))).await.unwrap();
    assert_eq!(store.snapshots("").unwrap().list("ns", &Filters::default()).unwrap().len(), 2);
    // The same layer in two sizes is not.
    let size = format!("\"size\":{}", blob.len());
    let manifest = String::from_utf8(good.manifest.clone()).unwrap();
    let at = manifest.rfind(&size).unwrap();
    let lying =
        format!("{}\"size\":{}{}", &manifest[..at], blob.len() + 1, &manifest[at + size.len()..]);
    let served = topped(good, media::OCI_MANIFEST, lying);
    let other = served.clone();
    let (error, _) = refused("two sizes", move |request| served.answer(request)).await;
    assert_eq!(error.kind, Kind::FailedPrecondition, "{error}");
    assert!(error.message.contains("failed size validation"), "{error}");
    // Nor is it where the layer is here already.
    let registry = Registry::serve(move |request| other.answer(request)).await;
    let error = store.pull(Pull::new("ns", &format!("{}/x:1", registry.host))).await.unwrap_err();
    assert!(error.message.contains("failed size validation"), "{error}");

    // An index that is wrong about its manifest's size.
    let base = two_layers();
    let wrong = Digest::of(&base.manifest);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{wrong}","size":7}}]}}"#,
        media::OCI_MANIFEST
    );
    let below = base.manifest.clone();
    let served = topped(base, media::OCI_INDEX, index);
    let (error, _) = refused("size in an index", move |request| {
        if request.path.ends_with(wrong.as_str()) {
            return Reply::ok(below.clone());
        }
        served.answer(request)
    })
    .await;
    assert!(error.message.contains("failed size validation"), "{error}");
}

/// An image below `depth` indexes.
fn buried(depth: usize) -> Image {
    let mut image = two_layers();
    let mut below = descriptor(media::OCI_MANIFEST, &image.manifest);
    for _ in 0..depth {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{below},{below}]}}"#);
        below = descriptor(media::OCI_INDEX, index.as_bytes());
        image = topped(image, media::OCI_INDEX, index);
    }
    image
}

/// Manifests below the top stand among the blobs of such an image.
fn answer_buried(image: &Image, request: &Request) -> Reply {
    let reply = image.answer(request);
    if reply.status != 404 {
        return reply;
    }
    let object = request.path.rsplit('/').next().unwrap_or_default();
    image.blobs.get(object).map_or(reply, |bytes| Reply::ok(bytes.clone()))
}

#[tokio::test]
async fn indexes_in_indexes() {
    let image = buried(3);
    let registry = Registry::serve(move |request| answer_buried(&image, request)).await;
    let (_dir, store) = store_with(None, PATIENCE);
    store.pull(Pull::new("ns", &format!("{}/x:1", registry.host))).await.unwrap();

    let image = buried(40);
    let (error, registry) = refused("forty", move |request| answer_buried(&image, request)).await;
    assert_eq!(error.kind, Kind::InvalidArgument);
    assert!(error.message.contains("more than 8 indexes stand in each other"), "{error}");
    assert!(registry.asked("GET", "") < 12);
}

#[tokio::test]
async fn indexes_in_indexes_in_archives() {
    // Each index names the one below it twice: walked as a tree, the second would be a long walk.
    for (depth, fails) in [(3, false), (40, true)] {
        let (_dir, store) = store_with(None, PATIENCE);
        let import = Import {
            namespace: "ns".to_owned(),
            name: Some("r.test/x:1".to_owned()),
            ..Import::default()
        };
        let archive = std::io::Cursor::new(archive::oci(&buried(depth)));
        let result = store.import(archive, import).await;
        assert_eq!(result.is_err(), fails, "{depth}: {result:?}");
        if let Err(error) = result {
            assert!(error.message.contains("indexes stand in each other"), "{error}");
            assert_nothing_half_done(&store, "ns");
            assert_eq!(store.content().list("ns", &Filters::default()).unwrap(), []);
            // Content that came in otherwise is not pushed or written out either.
            for blob in buried(depth).blobs.values() {
                store.content().put("ns", blob, Default::default()).unwrap();
            }
            let image = buried(depth);
            store.content().put("ns", &image.manifest, Default::default()).unwrap();
            let target = Descriptor::of(&image.media_type, &image.manifest);
            store.set_image("ns", "r.test/x:1", target, Default::default()).unwrap();
            let error = store.push(Push::new("ns", "r.test/x:1")).await.unwrap_err();
            assert!(error.message.contains("indexes stand in each other"), "{error}");
            let names = ["r.test/x:1".to_owned()];
            let error = store.export("ns", &names, &Platform::host(), std::io::sink()).unwrap_err();
            assert!(error.message.contains("indexes stand in each other"), "{error}");
        }
    }
}
