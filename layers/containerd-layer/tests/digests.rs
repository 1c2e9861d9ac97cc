//! Content that is named by longer digests than sha256: pulled, kept over a restart, exported,
//! imported.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Digest, Kind, Store,
    content::WriterOptions,
    digest::Algorithm,
    filters::Filters,
    images::{Platform, import::Import, pull::Pull},
};
use support::{Image, Registry, Reply, assert_nothing_half_done, open, store, two_layers};

/// An image that calls its parts by sha512, one layer by sha384, and is called so itself.
fn longer() -> (Image, Digest) {
    let mut image = two_layers();
    let mut manifest = String::from_utf8(image.manifest).unwrap();
    let parts = std::mem::take(&mut image.blobs);
    for (old, bytes) in parts {
        let short = *old == *image.layers[0].as_str();
        let algorithm = if short { Algorithm::Sha384 } else { Algorithm::Sha512 };
        let new = Digest::by(algorithm, &bytes);
        manifest = manifest.replace(&old, new.as_str());
        image.blobs.insert(new.to_string(), bytes);
    }
    let digest = Digest::by(Algorithm::Sha512, manifest.as_bytes());
    image.blobs.insert(digest.to_string(), manifest.clone().into_bytes());
    image.manifest = manifest.into_bytes();
    (image, digest)
}

async fn serve(image: Image, digest: &Digest) -> (Registry, String) {
    let (object, media_type) = (digest.to_string(), image.media_type.clone());
    let registry = Registry::serve(move |request| {
        if request.path.ends_with(&format!("/manifests/{object}")) {
            return Reply::ok(image.manifest.clone()).header("Content-Type", &media_type);
        }
        image.answer(request)
    })
    .await;
    let name = format!("{}/x@{digest}", registry.host);
    (registry, name)
}

#[tokio::test]
async fn an_image_of_longer_digests() {
    let (image, digest) = longer();
    let (_registry, name) = serve(image, &digest).await;
    let (dir, here) = store();
    let pulled = here.pull(Pull::new("ns", &name)).await.unwrap();
    assert_eq!(pulled.target.digest, digest);
    let count = |store: &Store| store.content().list("ns", &Filters::default()).unwrap().len();
    assert_eq!(count(&here), 4);
    let collected = here.blocking(Store::collect_garbage).await.unwrap();
    assert_eq!((collected.blobs, collected.snapshots), (0, 0));

    // A daemon that comes back has it all.
    drop(here);
    let here = open(dir.path());
    assert_eq!(count(&here), 4);
    here.pull(Pull::new("ns", &name)).await.unwrap();
    let mut archive = Vec::new();
    here.export("ns", std::slice::from_ref(&name), &Platform::host(), &mut archive).unwrap();

    let (_other, there) = store();
    let import = Import {
        namespace: "ns".to_owned(),
        snapshotter: Some("overlayfs".to_owned()),
        ..Import::default()
    };
    let imported = there.import(std::io::Cursor::new(archive), import).await.unwrap();
    assert_eq!((imported[0].name.as_str(), &imported[0].target.digest), (name.as_str(), &digest));
    assert_eq!(there.snapshots("").unwrap().list("ns", &Filters::default()).unwrap().len(), 2);
}

#[tokio::test]
async fn longer_digests_are_checked_too() {
    let (mut image, digest) = longer();
    let layer = image.blobs.iter_mut().find(|(name, _)| name.starts_with("sha384:")).unwrap().1;
    layer[20] ^= 1;
    let (_registry, name) = serve(image, &digest).await;
    let (_dir, store) = store();
    let error = store.pull(Pull::new("ns", &name)).await.unwrap_err();
    assert_eq!(error.kind, Kind::FailedPrecondition);
    assert!(error.message.contains("unexpected commit digest sha384:"), "{error}");
    assert_nothing_half_done(&store, "ns");

    let (mut image, digest) = longer();
    image.manifest.push(b' ');
    let (_registry, name) = serve(image, &digest).await;
    let (_dir, store) = support::store();
    let error = store.pull(Pull::new("ns", &name)).await.unwrap_err();
    assert!(error.message.contains("unexpected commit digest sha512:"), "{error}");
}

#[test]
fn a_write_learns_its_name_at_its_end() {
    let (dir, store) = store();
    let begin = |expected: Option<Digest>| {
        let options =
            WriterOptions { reference: "w".to_owned(), expected, ..WriterOptions::default() };
        store.content().writer("ns", options)
    };
    let wanted = Digest::by(Algorithm::Sha512, b"some bytes");
    let mut writer = begin(None).unwrap();
    writer.write(b"some ").unwrap();
    assert_eq!(writer.digest(), Digest::of(b"some "));
    let other = Digest::by(Algorithm::Sha512, b"other");
    let refused = writer.commit(5, Some(&other), Default::default()).unwrap_err();
    assert_eq!(refused.kind, Kind::FailedPrecondition);
    // The write is there to be taken up, and is called by its name this time.
    let mut writer = begin(Some(wanted.clone())).unwrap();
    assert_eq!(writer.digest(), Digest::by(Algorithm::Sha512, b"some "));
    writer.write(b"bytes").unwrap();
    assert_eq!(writer.commit(10, None, Default::default()).unwrap(), wanted);
    assert_eq!(begin(Some(wanted.clone())).unwrap_err().kind, Kind::AlreadyExists);
    assert_eq!(store.content().read("ns", &wanted, 100).unwrap(), b"some bytes");
    let path = "root/io.containerd.content.v1.content/blobs/sha512";
    assert!(dir.path().join(path).join(wanted.hex()).exists());
    store.content().delete("ns", &wanted).unwrap();
    assert!(!dir.path().join(path).join(wanted.hex()).exists());
}
