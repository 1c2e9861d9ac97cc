//! Registries that `hosts.toml` describes: mirrors in order, authorities of one's own, certificates
//! to show.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Error, Kind, Store,
    images::{pull::Pull, registry::Credential},
    metadata::Image,
};
use std::{process::Command, time::Duration};
use support::{
    Registry, Reply, assert_nothing_half_done, describe,
    distribution::{registry, registry_with},
    pki::Pki,
    store_with, two_layers,
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn good() -> Registry {
    let image = two_layers();
    Registry::serve(move |request| image.answer(request)).await
}

async fn pull(store: &Store, name: &str) -> Result<Image, Error> {
    store.pull(Pull::new("ns", name)).await
}

#[tokio::test]
async fn the_next_host_is_asked() {
    let busy = Registry::serve(|_| Reply::status(503)).await;
    let empty = Registry::serve(|_| Reply::status(404)).await;
    let (good, unasked) = (good().await, good().await);
    let hosts = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"http://{}\"\n\
         [host.\"http://127.0.0.1:1\"]\n\
         [host.\"http://{}\"]\n\
         [host.\"http://{}\"]\n\
         [host.\"http://{}\"]\n  [host.\"http://{}\".header]\n  x-key = \"k\"\n",
        unasked.host, busy.host, empty.host, good.host, good.host
    );
    describe(hosts.path(), "r.test", &text);
    let (_dir, store) = store_with(Some(hosts.path()), PATIENCE);
    let pulled = pull(&store, "r.test/x:1").await.unwrap();
    assert_eq!(pulled.name, "r.test/x:1");
    for registry in [&busy, &empty, &good] {
        let requests = registry.requests.lock().unwrap();
        assert!(requests.iter().all(|r| r.path.ends_with("?ns=r.test")), "{requests:?}");
        assert!(requests.len() >= 4, "{requests:?}");
    }
    // Neither is a mirror that fails waited for, nor one behind a good one asked.
    assert_eq!(busy.asked("HEAD", ""), 1);
    assert!(unasked.requests.lock().unwrap().is_empty());
    let keys = good.requests.lock().unwrap();
    assert!(keys.iter().all(|r| r.headers.get("x-key").map(String::as_str) == Some("k")));
}

#[tokio::test]
async fn what_every_host_said_is_told() {
    let busy = Registry::serve(|_| Reply::status(403)).await;
    let empty = Registry::serve(|_| Reply::status(404)).await;
    let hosts = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\n",
        empty.host, busy.host
    );
    describe(hosts.path(), "r.test", &text);
    let (_dir, store) = store_with(Some(hosts.path()), PATIENCE);
    let error = pull(&store, "r.test/x:1").await.unwrap_err();
    assert_eq!(error.kind, Kind::PermissionDenied);
    assert!(error.message.starts_with("failed to resolve reference \"r.test/x:1\": "), "{error}");
    for words in [
        "127.0.0.1:1: failed to do request: HEAD \"http://127.0.0.1:1/v2/x/manifests/1\""
            .to_owned(),
        format!("{}: pulling from host {} failed with status code", busy.host, busy.host),
        format!("{}: r.test/x:1: not found", empty.host),
    ] {
        assert!(error.message.contains(&words), "{words}: {error}");
    }
    assert_nothing_half_done(&store, "ns");
}

#[tokio::test]
async fn a_mirror_does_what_it_may() {
    // It may not say what a tag means, and what it has by digest is checked.
    let (image, lying) = (two_layers(), two_layers());
    let mirror = Registry::serve(move |request| {
        let mut reply = lying.answer(request);
        if request.path.contains("/manifests/") {
            reply.body.push(b' ');
        }
        reply
    })
    .await;
    let upstream = Registry::serve(move |request| {
        match request.headers.get("authorization").map(String::as_str) {
            Some("Basic dTpw") => image.answer(request),
            _ => Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\""),
        }
    })
    .await;
    let nosy = Registry::serve(|_| {
        Reply::status(401).header("WWW-Authenticate", "Basic realm=\"tell me\"")
    })
    .await;
    let hosts = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"http://{}\"\n\
         [host.\"http://{}\"]\n\
         [host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        upstream.host, nosy.host, mirror.host
    );
    describe(hosts.path(), "r.test", &text);
    let (_dir, store) = store_with(Some(hosts.path()), PATIENCE);
    let mut request = Pull::new("ns", "r.test/x:1");
    request.access.credential =
        Some(Credential::Basic { username: "u".to_owned(), password: "p".to_owned() });
    store.pull(request).await.unwrap();
    assert_eq!(mirror.asked("HEAD", ""), 0);
    assert_eq!(mirror.asked("GET", "/blobs/"), 3);
    assert_eq!(upstream.asked("GET", "/blobs/"), 0);
    assert_eq!(upstream.asked("GET", "/manifests/"), 1);
    assert!(nosy.asked("GET", "/blobs/") >= 3);
    for registry in [&mirror, &nosy] {
        let requests = registry.requests.lock().unwrap();
        let shown = requests.iter().any(|r| r.headers.contains_key("authorization"));
        assert!(!shown, "the registry's credential went to a mirror");
    }
}

#[tokio::test]
async fn a_mirror_that_cuts_is_left() {
    let image = two_layers();
    let mirror = Registry::serve(move |request| {
        let mut reply = image.answer(request);
        if reply.body.len() > 100_000 {
            reply.cut = Some(1000);
        }
        reply
    })
    .await;
    let upstream = good().await;
    let hosts = tempfile::tempdir().unwrap();
    let text =
        format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", upstream.host, mirror.host);
    describe(hosts.path(), "r.test", &text);
    let (_dir, store) = store_with(Some(hosts.path()), PATIENCE);
    pull(&store, "r.test/x:1").await.unwrap();
    let requests = upstream.requests.lock().unwrap();
    let ranges: Vec<_> = requests.iter().map(|r| (r.method.as_str(), r.range())).collect();
    assert_eq!(ranges, [("GET", Some(1000))], "what the mirror has brought is kept");
}

/// Debian's registry as a mirror of another.
#[tokio::test]
async fn a_real_mirror() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&two).unwrap();
    let Some(upstream) = registry(&one) else { return };
    let more = format!("proxy: {{remoteurl: \"http://{}\"}}\n", upstream.host);
    let Some(mirror) = registry_with(&two, &more) else { return };
    let from = support::layout(&dir.path().join("layout"), &two_layers());
    let to = format!("docker://{}/x:1", upstream.host);
    let copy = ["copy", "-q", "--preserve-digests", "--dest-tls-verify=false", &from, &to];
    assert!(Command::new("skopeo").args(copy).status().unwrap().success());

    let hosts = tempfile::tempdir().unwrap();
    let text =
        format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", upstream.host, mirror.host);
    describe(hosts.path(), "r.test", &text);
    let (_dir, store) = store_with(Some(hosts.path()), PATIENCE);
    let pulled = pull(&store, "r.test/x:1").await.unwrap();
    // It came through the mirror, which has it now and needs nobody.
    let by_digest = format!("r.test/x@{}", pulled.target.digest);
    // docker-registry hands a blob on before it has kept it: the configuration and two layers.
    let kept = two.join("registry/docker/registry/v2/repositories/x/_layers/sha256");
    let count = || {
        let entries = std::fs::read_dir(&kept).into_iter().flatten().flatten();
        entries.filter(|blob| blob.path().join("link").exists()).count()
    };
    let begun = std::time::Instant::now();
    while count() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the mirror keeps nothing");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(upstream);
    let (_dir, other) = store_with(Some(hosts.path()), PATIENCE);
    let again = pull(&other, &by_digest).await.unwrap();
    assert_eq!(again.target.digest, pulled.target.digest);
    drop(mirror);
    let (_dir, third) = store_with(Some(hosts.path()), PATIENCE);
    let error = pull(&third, &by_digest).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert_eq!(error.message.matches("Connection refused").count(), 2, "{error}");
}

#[tokio::test]
async fn a_description_that_is_broken() {
    let hosts = tempfile::tempdir().unwrap();
    describe(hosts.path(), "r.test", "[host.\"https://x\"]\ncapabilities = [\"fly\"]\n");
    let (_dir, store) = store_with(Some(hosts.path()), PATIENCE);
    let error = pull(&store, "r.test/x:1").await.unwrap_err();
    assert_eq!(error.kind, Kind::InvalidArgument);
    assert!(error.message.contains("r.test: hosts.toml: host \"https://x\""), "{error}");
}

/// A TLS registry with `certificate`, and the name under which it is pulled from.
async fn secure(pki: &Pki, certificate: &str, mutual: bool) -> Registry {
    let image = two_layers();
    let acceptor = pki.acceptor(certificate, mutual);
    Registry::serve_over(Some(acceptor), move |request| image.answer(request)).await
}

#[tokio::test]
async fn whom_to_trust() {
    let dir = tempfile::tempdir().unwrap();
    let Some(pki) = Pki::new(dir.path()) else { return };
    pki.issue("server");
    // What `openssl req -x509` makes: an authority that is the server's certificate as well.
    pki.own("self", &["-addext", "subjectAltName=IP:127.0.0.1"]);
    pki.own("other", &["-addext", "subjectAltName=DNS:elsewhere"]);
    let at = |name: &str| pki.file(name).display().to_string();
    let ca = format!("ca = \"{}\"", at("ca.crt"));
    for (certificate, lines, fails) in [
        ("server", ca.clone(), None),
        ("server", format!("ca = [\"{}\", \"{}\"]", at("self.crt"), at("ca.crt")), None),
        ("server", "skip_verify = true".to_owned(), None),
        ("server", String::new(), Some("UnknownIssuer")),
        ("self", format!("ca = \"{}\"", at("self.crt")), None),
        ("self", ca.clone(), Some("invalid peer certificate")),
        ("other", format!("ca = \"{}\"", at("other.crt")), Some("not valid for name")),
        ("other", "skip_verify = true".to_owned(), None),
        ("server", "ca = \"gone.crt\"".to_owned(), Some("gone.crt")),
        ("server", format!("ca = \"{}\"", at("ca.key")), Some("unable to load CA cert")),
    ] {
        let registry = secure(&pki, certificate, false).await;
        let hosts = tempfile::tempdir().unwrap();
        let text = format!("server = \"https://{}\"\n{lines}\n", registry.host);
        describe(hosts.path(), "r.test", &text);
        let (_dir, store) = store_with(Some(hosts.path()), PATIENCE);
        match (pull(&store, "r.test/x:1").await, fails) {
            (Ok(_), None) => {}
            (Err(e), Some(words)) if e.message.contains(words) => {
                assert_nothing_half_done(&store, "ns");
            }
            (result, fails) => panic!("{certificate} {lines}: {result:?}, not {fails:?}"),
        }
    }
}

#[tokio::test]
async fn a_certificate_to_show() {
    let dir = tempfile::tempdir().unwrap();
    let Some(pki) = Pki::new(dir.path()) else { return };
    pki.issue("server");
    pki.issue("me");
    let mut both = std::fs::read(pki.file("me.crt")).unwrap();
    both.extend(std::fs::read(pki.file("me.key")).unwrap());
    std::fs::write(pki.file("both.pem"), both).unwrap();
    let at = |name: &str| pki.file(name).display().to_string();
    for (client, fails) in [
        (format!("client = [[\"{}\", \"{}\"]]", at("me.crt"), at("me.key")), false),
        (format!("client = \"{}\"", at("both.pem")), false),
        (String::new(), true),
    ] {
        let registry = secure(&pki, "server", true).await;
        let hosts = tempfile::tempdir().unwrap();
        let server = format!("server = \"https://{}\"\nca = \"{}\"", registry.host, at("ca.crt"));
        describe(hosts.path(), "r.test", &format!("{server}\n{client}\n"));
        let (_dir, store) = store_with(Some(hosts.path()), PATIENCE);
        let result = pull(&store, "r.test/x:1").await;
        assert_eq!(result.is_err(), fails, "{client}: {result:?}");
    }
}

#[tokio::test]
async fn certificates_laid_down_as_docker_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let Some(pki) = Pki::new(dir.path()) else { return };
    pki.issue("server");
    pki.issue("me");
    let registry = secure(&pki, "server", true).await;
    let hosts = tempfile::tempdir().unwrap();
    let own = hosts.path().join(registry.host.replace(':', "_") + "_");
    std::fs::create_dir(&own).unwrap();
    for (from, to) in [("ca.crt", "ca.crt"), ("me.crt", "client.cert"), ("me.key", "client.key")] {
        std::fs::copy(pki.file(from), own.join(to)).unwrap();
    }
    let (_dir, store) = store_with(Some(hosts.path()), PATIENCE);
    pull(&store, &format!("{}/x:1", registry.host)).await.unwrap();
}
