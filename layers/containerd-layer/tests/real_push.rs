//! Pushes to the real docker-registry, from which the real skopeo and this daemon pull again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Digest, Kind, Store,
    images::{Descriptor, Platform, media, pull::Pull, push::Push, registry::Credential},
};
use std::{
    collections::HashMap,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};
use support::{
    Image, Registry, Reply,
    distribution::{registry, registry_with},
    image,
    pki::Pki,
    store,
    stored::{named, put},
    tar_of, two_layers,
};

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
