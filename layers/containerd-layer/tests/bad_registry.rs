//! Pulls from registries that misbehave: each a clear error, or an image in spite of it, and never
//! anything half done.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Digest, Error, Kind, Store,
    filters::Filters,
    images::{media, pull::Pull, registry::Credential},
};
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{
    Image, Registry, Reply, Request, assert_nothing_half_done, gzip, image, store, tar_of,
    two_layers,
};

async fn pull(
    store: &Store,
    registry: &Registry,
) -> Result<containerd_layer::metadata::Image, Error> {
    store.pull(Pull::new("ns", &format!("{}/x:1", registry.host))).await
}

/// Pulls from what `answer` makes of the good replies and expects failure.
async fn refused(
    image: Image,
    answer: impl Fn(&Image, &Request) -> Reply + Send + Sync + 'static,
) -> (Error, Registry) {
    let registry = Registry::serve(move |request| answer(&image, request)).await;
    let (_dir, store) = store();
    let error = pull(&store, &registry).await.unwrap_err();
    assert_nothing_half_done(&store, "ns");
    (error, registry)
}

#[tokio::test]
async fn a_good_pull_and_its_repetition() {
    let image = two_layers();
    let manifest = Digest::of(&image.manifest);
    let registry = Registry::serve(move |request| image.answer(request)).await;
    let (_dir, store) = store();
    let pulled = pull(&store, &registry).await.unwrap();
    assert_eq!(pulled.target.digest, manifest);
    assert_eq!(pulled.target.media_type, media::OCI_MANIFEST);
    let overlay = store.snapshots("overlayfs").unwrap();
    let snapshots = overlay.list("ns", &Filters::default()).unwrap();
    assert_eq!(snapshots.len(), 2);
    let top = snapshots.iter().find(|s| !s.parent.is_empty()).unwrap();
    let dirs = overlay.directories("ns", &top.name).unwrap();
    assert_eq!(std::fs::read(dirs[0].join("etc/a")).unwrap(), b"second");
    assert_eq!(std::fs::read(dirs[1].join("etc/a")).unwrap(), b"first");

    let before = registry.asked("GET", "");
    let again = pull(&store, &registry).await.unwrap();
    assert_eq!(again.created_at, pulled.created_at);
    assert_eq!(registry.asked("GET", ""), before, "a second pull fetches nothing");

    // What was pulled is reachable: the collector takes nothing.
    let collected = store.blocking(Store::collect_garbage).await.unwrap();
    assert_eq!((collected.blobs, collected.snapshots), (0, 0));
}

#[tokio::test]
async fn a_pull_for_the_copying_snapshotter() {
    let lower = tar_of(&[("a", b"lower"), ("gone", b"x"), ("kept", b"k")]);
    let upper = tar_of(&[("a", b"upper"), (".wh.gone", b"")]);
    let blobs = [gzip(&lower), gzip(&upper)];
    let image = image(&[(lower, blobs[0].clone()), (upper, blobs[1].clone())]);
    let registry = Registry::serve(move |request| image.answer(request)).await;
    let (_dir, store) = store();
    let mut request = Pull::new("ns", &format!("{}/x:1", registry.host));
    request.snapshotter = Some("native".to_owned());
    store.pull(request).await.unwrap();
    let native = store.snapshots("native").unwrap();
    let snapshots = native.list("ns", &Filters::default()).unwrap();
    let top = snapshots.iter().find(|s| !s.parent.is_empty()).unwrap();
    let dir = native.directory("ns", &top.name).unwrap();
    assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"upper");
    assert_eq!(std::fs::read(dir.join("kept")).unwrap(), b"k");
    assert!(!dir.join("gone").exists());
    native.prepare("ns", "c", &top.name, Default::default()).unwrap();
    let mounts = native.mounts("ns", "c").unwrap();
    assert_eq!((mounts[0].kind.as_str(), mounts[0].options[0].as_str()), ("bind", "rw"));
    assert!(std::path::Path::new(&mounts[0].source).join("kept").exists());
}

#[tokio::test]
async fn a_missing_image() {
    let (error, registry) = refused(two_layers(), |_, _| Reply::status(404)).await;
    assert_eq!(error.kind, Kind::NotFound);
    let name = format!("{}/x:1", registry.host);
    assert_eq!(error.message, format!("failed to resolve reference {name:?}: {name}: not found"));
}

#[tokio::test]
async fn nobody_answers() {
    let (_dir, store) = store();
    let error = store.pull(Pull::new("ns", "127.0.0.1:1/x:1")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_layer_with_another_digest() {
    let (error, _) = refused(two_layers(), |image, request| {
        let mut reply = image.answer(request);
        if request.path.ends_with(image.layers[1].as_str()) {
            let middle = reply.body.len() / 2;
            reply.body[middle] ^= 1;
        }
        reply
    })
    .await;
    assert_eq!(error.kind, Kind::FailedPrecondition);
    assert!(error.message.contains("unexpected commit digest sha256:"), "{error}");
}

#[tokio::test]
async fn a_manifest_with_another_digest() {
    let (error, _) = refused(two_layers(), |image, request| {
        let mut reply = image.answer(request);
        if request.path.contains("/manifests/") {
            reply.body.push(b' ');
        }
        reply
    })
    .await;
    assert_eq!(error.kind, Kind::FailedPrecondition);
    assert!(error.message.contains("unexpected commit digest"), "{error}");
}

#[tokio::test]
async fn broken_layers() {
    let good = tar_of(&[("a", &[7; 3000]), ("b", b"b")]);
    let packed = gzip(&good);
    let mut trailing = packed.clone();
    trailing.extend(b"garbage");
    type Case = (&'static str, Vec<u8>, Vec<u8>, Kind, &'static str);
    let cases: [Case; 5] = [
        (
            "gzip cut",
            good.clone(),
            packed[..packed.len() - 20].to_vec(),
            Kind::DataLoss,
            "truncated",
        ),
        ("tar cut", good[..2000].to_vec(), gzip(&good[..2000]), Kind::DataLoss, "unexpected EOF"),
        ("trailing", good.clone(), trailing, Kind::DataLoss, "not a valid compressed stream"),
        (
            "no tar",
            b"x".repeat(2048),
            gzip(&b"x".repeat(2048)),
            Kind::DataLoss,
            "invalid tar header",
        ),
        ("other diff id", b"other".to_vec(), packed, Kind::FailedPrecondition, "wrong diff id"),
    ];
    for (name, tar, blob, kind, text) in cases {
        let (error, _) = refused(image(&[(tar, blob)]), Image::answer).await;
        assert_eq!(error.kind, kind, "{name}: {error}");
        assert!(error.message.contains(text), "{name}: {error}");
        assert!(error.message.contains("layer sha256:"), "{name}: {error}");
    }
}

#[tokio::test]
async fn sizes_that_do_not_fit() {
    let short = |image: &Image, request: &Request| {
        let mut reply = image.answer(request);
        if request.path.ends_with(image.layers[1].as_str()) {
            reply.body.truncate(1000);
        }
        reply
    };
    let (error, _) = refused(two_layers(), short).await;
    assert_eq!(error.kind, Kind::FailedPrecondition);
    assert!(error.message.contains("failed size validation: 1000 != "), "{error}");

    let endless = |image: &Image, request: &Request| {
        let mut reply = image.answer(request);
        reply.endless = request.path.ends_with(image.layers[1].as_str());
        reply
    };
    let (error, _) = refused(two_layers(), endless).await;
    assert_eq!(error.kind, Kind::FailedPrecondition);
    assert!(error.message.contains("failed size validation"), "{error}");

    let huge = |image: &Image, request: &Request| {
        let mut reply = image.answer(request);
        if request.path.contains("/manifests/") {
            reply.headers.retain(|(name, _)| name != "Docker-Content-Digest");
            reply.body = vec![b' '; 1 << 20];
            reply.endless = true;
        }
        reply
    };
    let (error, _) = refused(two_layers(), huge).await;
    assert!(error.message.contains("larger than"), "{error}");
}

#[tokio::test]
async fn a_cut_is_resumed() {
    for ranges in [true, false] {
        let image = two_layers();
        let registry = Registry::serve(move |request| {
            let mut asked = request.clone();
            if !ranges {
                asked.headers.remove("range");
            }
            let mut reply = image.answer(&asked);
            if request.path.contains("/blobs/") && reply.body.len() > 100_000 {
                // With ranges each answer brings a bit more; without, the second one is whole.
                let whole = !ranges && request.range().is_some();
                reply.cut = (!whole).then_some(90_000);
            }
            reply
        })
        .await;
        let (_dir, store) = store();
        pull(&store, &registry).await.unwrap();
        let resumed =
            registry.requests.lock().unwrap().iter().filter(|r| r.range().is_some()).count();
        assert!(resumed > 0, "ranges: {ranges}");
    }
}

#[tokio::test]
async fn a_failing_registry() {
    let image = two_layers();
    let count = AtomicUsize::new(0);
    let registry = Registry::serve(move |request| match count.fetch_add(1, Ordering::SeqCst) % 3 {
        0 => Reply::status(503),
        1 => Reply::status(429).header("Retry-After", "0"),
        _ => image.answer(request),
    })
    .await;
    let (_dir, store) = store();
    pull(&store, &registry).await.unwrap();

    let (error, _) = refused(two_layers(), |_, _| Reply::status(500)).await;
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains("failed with status code [manifests 1]: 500"), "{error}");
}

#[tokio::test]
async fn redirects() {
    let image = two_layers();
    let blobs = image.clone();
    let storage = Registry::serve(move |request| blobs.answer(request)).await;
    let elsewhere = storage.host.clone();
    let registry = Registry::serve(move |request| {
        if !request.headers.contains_key("authorization") {
            return Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if request.path.contains("/blobs/") {
            return Reply::status(307)
                .header("Location", &format!("http://{elsewhere}{}", request.path));
        }
        image.answer(request)
    })
    .await;
    let (_dir, store) = store();
    let mut request = Pull::new("ns", &format!("{}/x:1", registry.host));
    request.access.credential =
        Some(Credential::Basic { username: "u".to_owned(), password: "p".to_owned() });
    store.pull(request).await.unwrap();
    let leaked =
        storage.requests.lock().unwrap().iter().any(|r| r.headers.contains_key("authorization"));
    assert!(!leaked, "credentials went to another host");

    let (error, _) =
        refused(two_layers(), |_, request| Reply::status(302).header("Location", &request.path))
            .await;
    assert!(error.message.contains("redirects"), "{error}");
}

#[tokio::test]
async fn authorization() {
    let (error, _) = refused(two_layers(), |_, _| {
        Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\"")
    })
    .await;
    assert_eq!(error.kind, Kind::Unauthenticated);
    assert!(error.message.contains("no basic auth credentials"), "{error}");

    let tokens = Registry::serve(|request| {
        assert!(request.path.contains("scope=repository:x:pull"), "{}", request.path);
        Reply::ok(br#"{"token":"T"}"#.to_vec())
    })
    .await;
    let realm = tokens.host.clone();
    let image = two_layers();
    let registry = Registry::serve(move |request| {
        if request.headers.get("authorization").map(String::as_str) == Some("Bearer T") {
            return image.answer(request);
        }
        let challenge = format!(
            "Bearer realm=\"http://{realm}/token\",service=\"s\",scope=\"repository:x:pull\""
        );
        Reply::status(401).header("WWW-Authenticate", &challenge)
    })
    .await;
    let (_dir, store) = store();
    pull(&store, &registry).await.unwrap();
    assert_eq!(tokens.asked("GET", "/token"), 1, "one token serves the whole pull");
}

#[tokio::test]
async fn a_registry_that_says_little() {
    // No HEAD, no digests, no lengths: the documents themselves say what they are.
    let image = two_layers();
    let registry = Registry::serve(move |request| {
        if request.method == "HEAD" {
            return Reply::status(405);
        }
        let mut reply = image.answer(request);
        reply.headers.retain(|(name, _)| name != "Docker-Content-Digest" && name != "Content-Type");
        reply.unmeasured = true;
        reply
    })
    .await;
    let (_dir, store) = store();
    let pulled = pull(&store, &registry).await.unwrap();
    assert_eq!(pulled.target.media_type, media::OCI_MANIFEST);
}

#[tokio::test]
async fn a_password_in_a_header_gets_a_token() {
    // The CRI's and Docker's clients hand on what they have as a header.
    for (header, realm_asked) in [("Basic dTpw", 1), ("Bearer T", 0)] {
        let image = two_layers();
        let registry = Registry::serve(move |request| {
            let shown = request.headers.get("authorization").map(String::as_str);
            if request.path.starts_with("/token") {
                assert_eq!(shown, Some("Basic dTpw"));
                return Reply::ok(br#"{"token":"T"}"#.to_vec());
            }
            if shown == Some("Bearer T") {
                return image.answer(request);
            }
            let challenge = format!("Bearer realm=\"http://{}/token\"", request.headers["host"]);
            Reply::status(401).header("WWW-Authenticate", &challenge)
        })
        .await;
        let (_dir, store) = store();
        let mut request = Pull::new("ns", &format!("{}/x:1", registry.host));
        request.access.credential = Some(Credential::Authorization(header.to_owned()));
        store.pull(request).await.unwrap();
        assert_eq!(registry.asked("GET", "/token"), realm_asked, "{header}");
    }
}

#[tokio::test]
async fn an_index_without_this_platform() {
    let mut index = two_layers();
    index.media_type = media::OCI_INDEX.to_owned();
    index.manifest = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":1,"platform":{{"os":"plan9","architecture":"mips"}}}}]}}"#,
        media::OCI_MANIFEST,
        Digest::of(b"x")
    )
    .into_bytes();
    let (error, _) = refused(index, Image::answer).await;
    assert_eq!(error.kind, Kind::NotFound);
    assert!(error.message.contains("no match for platform in manifest"), "{error}");
}

#[tokio::test]
async fn two_pulls_at_once() {
    let image = two_layers();
    let registry = Registry::serve(move |request| image.answer(request)).await;
    let (_dir, store) = store();
    let (a, b) = tokio::join!(pull(&store, &registry), pull(&store, &registry));
    assert_eq!(a.unwrap().target, b.unwrap().target);
    assert_eq!(support::snapshot_dirs(&store), 2);
}
