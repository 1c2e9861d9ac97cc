//! Pushes: to the real docker-registry, from which the real skopeo and this daemon pull again, and to
//! registries that misbehave.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Digest, Error, Kind, Store,
    images::{Descriptor, Platform, media, pull::Pull, push::Push, registry::Credential},
};
use std::{
    collections::{BTreeSet, HashMap},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};
use support::{
    Image, Registry, Reply, Request, describe,
    distribution::{registry, registry_with},
    image,
    pki::Pki,
    store, store_with, tar_of, two_layers,
};

/// How long a registry may be silent that answers at once: longer than a busy machine holds it up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one may be silent that is.
const LITTLE: Duration = Duration::from_secs(1);

/// Puts an image into a store as if it had been pulled, and answers its manifest's descriptor.
fn put(store: &Store, image: &Image) -> Descriptor {
    for blob in image.blobs.values() {
        store.content().put("ns", blob, Default::default()).unwrap();
    }
    let digest = store.content().put("ns", &image.manifest, Default::default()).unwrap();
    Descriptor::new(&image.media_type, digest, image.manifest.len() as u64)
}

fn named(store: &Store, name: &str, target: Descriptor) {
    store.set_image("ns", name, target, Default::default()).unwrap();
}

/// An index of manifests by platform.
fn index(store: &Store, manifests: &[(Descriptor, &str)]) -> Descriptor {
    let manifests: Vec<_> = manifests
        .iter()
        .map(|(manifest, platform)| Descriptor {
            platform: Some(Platform::parse(platform).unwrap()),
            ..manifest.clone()
        })
        .collect();
    let document = serde_json::json!({
        "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests,
    });
    let bytes = document.to_string().into_bytes();
    store.content().put("ns", &bytes, Default::default()).unwrap();
    Descriptor::of(media::OCI_INDEX, &bytes)
}

fn skopeo(args: &[&str]) -> Result<String, String> {
    let out = Command::new("skopeo").args(args).output().unwrap();
    if out.status.success() {
        Ok(String::from_utf8(out.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

fn small(seed: &[u8]) -> Image {
    let layer = tar_of(&[("seed", seed)]);
    image(&[(layer.clone(), support::gzip(&layer))])
}

#[tokio::test]
async fn the_real_registry_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(registry) = registry(dir.path()) else { return };
    let (_dir, store) = store();
    let (here, there) = (put(&store, &two_layers()), put(&store, &small(b"there")));
    let all = index(&store, &[(here.clone(), "linux/amd64"), (there.clone(), "linux/arm64/v8")]);
    let name = format!("{}/some/x:all", registry.host);
    named(&store, &name, all.clone());

    let seen = Arc::new(Mutex::new(HashMap::new()));
    let steps = Arc::clone(&seen);
    let mut push = Push::new("ns", &name);
    push.progress = Some(Arc::new(move |p| {
        steps.lock().unwrap().insert(p.digest.to_string(), (p.offset == p.total, p.done));
    }));
    assert_eq!(store.push(push).await.unwrap(), all);
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 8, "an index, two manifests, two configs, three layers");
    assert!(seen.values().all(|step| *step == (true, true)), "{seen:?}");

    // skopeo reads it, and copies all of it away.
    let url = format!("docker://{name}");
    let raw = skopeo(&["inspect", "--tls-verify=false", "--raw", &url]).unwrap();
    assert_eq!(Digest::of(raw.as_bytes()), all.digest);
    let layout = format!("oci:{}:x", dir.path().join("layout").display());
    skopeo(&["copy", "-q", "--all", "--src-tls-verify=false", &url, &layout]).unwrap();
    for descriptor in [&all, &here, &there] {
        let blob = dir.path().join("layout/blobs/sha256").join(descriptor.digest.hex());
        assert_eq!(Digest::of(&std::fs::read(blob).unwrap()), descriptor.digest);
    }
    // So does a daemon that has nothing.
    let (_other, other) = support::store();
    let pulled = other.pull(Pull::new("ns", &name)).await.unwrap();
    assert_eq!(pulled.target.digest, all.digest);

    // Again, under another tag and by digest: nothing but manifests is sent.
    for reference in [format!("{}/some/x:again", registry.host), {
        format!("{}/some/x@{}", registry.host, all.digest)
    }] {
        store.push(Push { reference, ..Push::new("ns", &name) }).await.unwrap();
    }
    skopeo(&["inspect", "--tls-verify=false", "--raw", &url.replace(":all", ":again")]).unwrap();
}

#[tokio::test]
async fn the_real_registry_takes_what_a_platform_needs() {
    let dir = tempfile::tempdir().unwrap();
    let Some(registry) = registry(dir.path()) else { return };
    let (_dir, store) = store();
    let here = put(&store, &small(b"here"));
    let gone = small(b"gone");
    let gone = Descriptor::of(media::OCI_MANIFEST, &gone.manifest);
    let all = index(&store, &[(here, "linux/amd64"), (gone.clone(), "linux/arm64/v8")]);
    let name = format!("{}/x:1", registry.host);
    named(&store, &name, all.clone());
    // What is not here cannot be pushed, and that is known before anything is sent.
    let error = store.push(Push::new("ns", &name)).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(error.message.contains(gone.digest.as_str()), "{error}");
    let blobs = dir.path().join("registry/docker/registry/v2/blobs");
    assert!(!blobs.exists(), "something was sent");
    // With a platform, its parts go, and then the index, which this registry wants whole.
    let push =
        Push { platforms: vec![Platform::parse("amd64").unwrap()], ..Push::new("ns", &name) };
    let error = store.push(push).await.unwrap_err();
    assert!(error.message.contains("400 Bad Request: manifest_blob_unknown"), "{error}");
    assert!(blobs.exists());
    let tags =
        skopeo(&["list-tags", "--tls-verify=false", &format!("docker://{}/x", registry.host)]);
    assert!(tags.as_ref().map_or(true, |tags| !tags.contains("\"1\"")), "{tags:?}");
}

#[tokio::test]
async fn a_push_that_is_given_up_leaves_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let Some(registry) = registry(dir.path()) else { return };
    let (_dir, store) = store();
    let target = put(&store, &two_layers());
    let name = format!("{}/x:1", registry.host);
    named(&store, &name, target.clone());
    // The caller goes away as soon as a layer is on its way.
    let begun = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&begun);
    let mut push = Push::new("ns", &name);
    push.progress = Some(Arc::new(move |p| {
        if p.media_type.contains("layer") && p.offset > 0 {
            tell.notify_one();
        }
    }));
    tokio::select! {
        () = begun.notified() => {}
        done = store.push(push) => panic!("{done:?} before anything was sent"),
    }
    let url = format!("docker://{name}");
    let inspect = ["inspect", "--tls-verify=false", "--raw", url.as_str()];
    let missing = skopeo(&inspect).unwrap_err();
    assert!(missing.contains("unknown"), "{missing}");
    store.push(Push::new("ns", &name)).await.unwrap();
    assert_eq!(Digest::of(skopeo(&inspect).unwrap().as_bytes()), target.digest);
}

#[tokio::test]
async fn the_real_registry_mounts_and_asks_for_a_password() {
    let dir = tempfile::tempdir().unwrap();
    // htpasswd's bcrypt of `p`, as `htpasswd -Bbn u p` makes it.
    let line = "u:$2y$05$abcdefghijklmnopqrstuuqwWMzKt5N8p.u2GX5MuH1t19BMWuLOW\n";
    let password = dir.path().join("htpasswd");
    std::fs::write(&password, line).unwrap();
    let more = format!("auth: {{htpasswd: {{realm: r, path: {}}}}}\n", password.display());
    let Some(registry) = registry_with(dir.path(), &more) else { return };
    let (_dir, store) = store();
    let target = put(&store, &two_layers());
    let name = format!("{}/first/x:1", registry.host);
    named(&store, &name, target);
    let error = store.push(Push::new("ns", &name)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unauthenticated);
    assert!(error.message.contains("push access denied"), "{error}");
    let as_user = |push: Push, password: &str| {
        let mut push = push;
        let (username, password) = ("u".to_owned(), password.to_owned());
        push.access.credential = Some(Credential::Basic { username, password });
        push
    };
    let error = store.push(as_user(Push::new("ns", &name), "wrong")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unauthenticated, "{error}");
    store.push(as_user(Push::new("ns", &name), "p")).await.unwrap();

    // What was pulled from one repository is mounted into another.
    let (_other, other) = support::store();
    let mut pull = Pull::new("ns", &name);
    let (username, password) = ("u".to_owned(), "p".to_owned());
    pull.access.credential = Some(Credential::Basic { username, password });
    other.pull(pull).await.unwrap();
    let reference = format!("{}/second/x:1", registry.host);
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let mut push = as_user(Push { reference, ..Push::new("ns", &name) }, "p");
    push.progress = Some(Arc::new(move |p| {
        if p.media_type.contains("layer") && p.offset > 0 && !p.done {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }));
    other.push(push).await.unwrap();
    assert_eq!(sent.load(Ordering::SeqCst), 0, "blobs that could be mounted were sent");
    let url = format!("docker://{}/second/x:1", registry.host);
    skopeo(&["inspect", "--tls-verify=false", "--creds", "u:p", &url]).unwrap();
}

/// A token service for the real registry: what is asked for is granted to `u`, and signed.
async fn token_service(pki: Arc<Pki>) -> Registry {
    Registry::serve(move |request| {
        if request.headers.get("authorization").map(String::as_str) != Some("Basic dTpw") {
            return Reply::status(401);
        }
        let query = request.path.split_once('?').unwrap().1;
        let access: Vec<_> = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("scope="))
            .filter_map(|scope| {
                let parts: Vec<_> = scope.split(':').collect();
                let [kind, name, actions] = parts[..] else { return None };
                let actions: Vec<_> = actions.split(',').collect();
                Some(serde_json::json!({ "type": kind, "name": name, "actions": actions }))
            })
            .collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let claims = serde_json::json!({
            "iss": "test", "sub": "u", "aud": "registry", "jti": "1", "access": access,
            "iat": now, "nbf": now - 60, "exp": now + 600,
        });
        Reply::ok(serde_json::json!({ "token": pki.jwt("token", &claims) }).to_string().into())
    })
    .await
}

#[tokio::test]
async fn the_real_registry_sends_for_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let Some(pki) = Pki::new(dir.path()) else { return };
    pki.rsa("token");
    let bundle = pki.file("token.crt");
    let tokens = token_service(Arc::new(pki)).await;
    let more = format!(
        "auth: {{token: {{realm: \"http://{}/token\", service: registry, issuer: test, \
         rootcertbundle: {}}}}}\n",
        tokens.host,
        bundle.display()
    );
    let Some(registry) = registry_with(dir.path(), &more) else { return };
    let (_dir, store) = store();
    let target = put(&store, &two_layers());
    let name = format!("{}/first/x:1", registry.host);
    named(&store, &name, target.clone());
    let error = store.push(Push::new("ns", &name)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unauthenticated);
    assert!(error.message.contains("failed to fetch anonymous token"), "{error}");
    let user = || Some(Credential::Basic { username: "u".to_owned(), password: "p".to_owned() });
    let mut push = Push::new("ns", &name);
    push.access.credential = user();
    store.push(push).await.unwrap();

    let (_other, other) = support::store();
    let mut pull = Pull::new("ns", &name);
    pull.access.credential = user();
    assert_eq!(other.pull(pull).await.unwrap().target.digest, target.digest);
    let mut push = Push::new("ns", &name);
    push.reference = format!("{}/second/x:1", registry.host);
    push.access.credential = user();
    other.push(push).await.unwrap();
    // To be mounted, a blob has to be readable where it is.
    let mounting = "scope=repository:first/x:pull&scope=repository:second/x:pull,push";
    assert!(tokens.asked("GET", mounting) > 0, "{:?}", tokens.requests.lock().unwrap());
    let blobs = dir.path().join("registry/docker/registry/v2/repositories/second/x/_uploads");
    assert!(!blobs.exists() || std::fs::read_dir(blobs).unwrap().next().is_none());
}

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
