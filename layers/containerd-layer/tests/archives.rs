//! Image archives: what skopeo and `docker save` write comes in, what goes out skopeo reads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Digest, Kind, Store,
    filters::Filters,
    images::{Platform, import::Import, media},
    metadata::Content,
};
use std::{fs, io::Cursor, path::Path, process::Command};
use support::{assert_nothing_half_done, gzip, store, tar_of, two_layers};

fn import() -> Import {
    Import {
        namespace: "ns".to_owned(),
        snapshotter: Some("overlayfs".to_owned()),
        ..Import::default()
    }
}

/// What `docker save` of before 2023 writes.
fn docker_archive(tags: &str) -> Vec<u8> {
    let layer = tar_of(&[("hello", b"hello")]);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(&layer)
    );
    let manifest = format!(r#"[{{"Config":"c.json","RepoTags":{tags},"Layers":["1/layer.tar"]}}]"#);
    tar_of(&[
        ("1/VERSION", b"1.0"),
        ("1/layer.tar", &layer),
        ("c.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
        ("repositories", b"{}"),
    ])
}

fn blobs(store: &Store) -> Vec<Content> {
    store.content().list("ns", &Filters::default()).unwrap()
}

#[tokio::test]
async fn a_docker_archive() {
    for packed in [false, true] {
        let (_dir, store) = store();
        let archive = docker_archive(r#"["x:1","r.io/y:2"]"#);
        let archive = if packed { gzip(&archive) } else { archive };
        let images = store.import(Cursor::new(archive), import()).await.unwrap();
        let names: Vec<_> = images.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["docker.io/library/x:1", "r.io/y:2"]);
        assert_eq!(images[0].target.media_type, media::DOCKER_MANIFEST);
        let overlay = store.snapshots("").unwrap();
        let top = overlay.list("ns", &Filters::default()).unwrap().remove(0);
        let dir = overlay.directory("ns", &top.name).unwrap();
        assert_eq!(fs::read(dir.join("hello")).unwrap(), b"hello");
        assert_eq!(blobs(&store).len(), 3, "manifest, configuration, layer");
        let collected = store.blocking(Store::collect_garbage).await.unwrap();
        assert_eq!((collected.blobs, collected.snapshots), (0, 0));
    }
}

#[tokio::test]
async fn refused_archives_leave_nothing() {
    let layer = tar_of(&[("hello", b"hello")]);
    let unknown = br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["1/layer.tar"]}]"#;
    let wrong = format!("blobs/sha256/{}", Digest::of(b"other").hex());
    let mut cut = docker_archive(r#"["x:1"]"#);
    cut.truncate(2000);
    let cases: [(Vec<u8>, Kind, &str); 7] = [
        (
            tar_of(&[("../evil", b"x")]),
            Kind::InvalidArgument,
            "archive entry \"../evil\" leaves the archive",
        ),
        (
            tar_of(&[("/etc/evil", b"x")]),
            Kind::InvalidArgument,
            "archive entry \"/etc/evil\" leaves",
        ),
        (tar_of(&[("x", b"x")]), Kind::InvalidArgument, "no manifest.json"),
        (
            tar_of(&[("1/layer.tar", &layer), ("manifest.json", unknown)]),
            Kind::InvalidArgument,
            "no entry \"c.json\"",
        ),
        (
            tar_of(&[("manifest.json", b"{")]),
            Kind::InvalidArgument,
            "archive entry \"manifest.json\"",
        ),
        (tar_of(&[(&wrong, b"x")]), Kind::FailedPrecondition, "unexpected commit digest"),
        (cut, Kind::DataLoss, "unexpected EOF"),
    ];
    for (archive, kind, text) in cases {
        let (_dir, store) = store();
        let error = store.import(Cursor::new(archive), import()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(text), "{error}");
        assert_nothing_half_done(&store, "ns");
        assert_eq!(blobs(&store), []);
    }
}

#[tokio::test]
async fn out_and_in_again() {
    let (_dir, first) = store();
    let image = two_layers();
    let registry = support::Registry::serve(move |request| image.answer(request)).await;
    let name = format!("{}/x:1", registry.host);
    let pulled = first.pull(containerd_layer::images::pull::Pull::new("ns", &name)).await.unwrap();
    let mut archive = Vec::new();
    first.export("ns", std::slice::from_ref(&name), &Platform::host(), &mut archive).unwrap();
    let (_dir, second) = store();
    let images = second.import(Cursor::new(archive), import()).await.unwrap();
    assert_eq!((&images[0].name, &images[0].target), (&name, &pulled.target));
    assert_eq!(blobs(&second).len(), 4);
}

fn skopeo(args: &[&str]) -> bool {
    match Command::new("skopeo").args(args).output() {
        Ok(out) if out.status.success() => true,
        Ok(out) => panic!("skopeo {args:?}: {}", String::from_utf8_lossy(&out.stderr)),
        Err(_) => {
            println!("SKIP: skopeo is not installed");
            false
        }
    }
}

#[tokio::test]
async fn skopeo_reads_and_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("docker.tar"), docker_archive(r#"["docker.io/library/x:1"]"#)).unwrap();
    let from = format!("docker-archive:{}", at("docker.tar"));
    if !skopeo(&["copy", "-q", &from, &format!("oci-archive:{}:r.io/y:2", at("oci.tar"))]) {
        return;
    }
    skopeo(&["copy", "-q", &from, &format!("docker-archive:{}:r.io/z:3", at("again.tar"))]);
    let (_dir, store) = store();
    for (file, name) in [("oci.tar", "r.io/y:2"), ("again.tar", "r.io/z:3")] {
        let archive = fs::File::open(Path::new(&at(file))).unwrap();
        let images = store.import(archive, import()).await.unwrap();
        assert_eq!(images[0].name, name);
    }
    let names = ["r.io/y:2".to_owned(), "r.io/z:3".to_owned()];
    let out = fs::File::create(at("out.tar")).unwrap();
    store.export("ns", &names, &Platform::host(), out).unwrap();
    skopeo(&["inspect", &format!("docker-archive:{}:r.io/z:3", at("out.tar"))]);
    skopeo(&["inspect", &format!("oci-archive:{}:2", at("out.tar"))]);
}
