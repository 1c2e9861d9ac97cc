//! What a kill leaves, the next start repairs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Digest, Store,
    content::WriterOptions,
    filters::Filters,
    images::pull::Pull,
    metadata::{Content, Image, Snapshot},
    snapshots::SnapshotOptions,
};
use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};
use support::{Registry, open, store, two_layers};

#[test]
fn leftovers_are_swept() {
    let (dir, store) = store();
    let kept = store.content().put("ns", b"kept", Default::default()).unwrap();
    let overlay = store.snapshots("").unwrap();
    overlay.prepare("ns", "kept", "", SnapshotOptions::default()).unwrap();
    let snapshots = store.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    let blobs = store.root().join("io.containerd.content.v1.content/blobs/sha256");
    fs::create_dir_all(snapshots.join("99/fs/half")).unwrap();
    fs::create_dir_all(snapshots.join("new-1-1/fs")).unwrap();
    fs::write(blobs.join(Digest::of(b"unknown").hex()), b"unknown").unwrap();
    overlay.prepare("ns", "lost", "", SnapshotOptions::default()).unwrap();
    let lost = overlay.directory("ns", "lost").unwrap();
    fs::remove_dir_all(lost.parent().unwrap()).unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&blobs).unwrap().count(), 1);
    assert_eq!(store.content().read("ns", &kept, 10).unwrap(), b"kept");
    let names = store.snapshots("").unwrap().list("ns", &Filters::default()).unwrap();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].name, "kept");
}

#[test]
fn a_database_that_was_only_begun_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("metadata.new"), "redb, nearly").unwrap();
    let store = open(dir.path());
    store.content().put("ns", b"kept", Default::default()).unwrap();
    drop(store);
    assert!(!root.join("metadata.new").exists());
    assert_eq!(open(dir.path()).content().list("ns", &Filters::default()).unwrap().len(), 1);
}

#[test]
fn a_write_is_resumed() {
    let (dir, store) = store();
    let digest = Digest::of(b"first second");
    let options = || WriterOptions {
        reference: "r".to_owned(),
        total: 12,
        expected: Some(digest.clone()),
        ..WriterOptions::default()
    };
    let mut writer = store.content().writer("ns", options()).unwrap();
    writer.write(b"first ").unwrap();
    assert_eq!(
        store.content().writer("ns", options()).unwrap_err().kind,
        containerd_layer::Kind::Unavailable
    );
    drop((writer, store));
    let store = open(dir.path());
    let status = store.content().status("ns", "r").unwrap();
    assert_eq!((status.offset, status.total), (6, 12));
    let mut writer = store.content().writer("ns", options()).unwrap();
    assert_eq!(writer.offset(), 6);
    writer.write(b"second").unwrap();
    assert_eq!(writer.commit(12, None, Default::default()).unwrap(), digest);
    assert!(store.content().status("ns", "r").is_err());
}

/// Every record has its thing, whole, and nothing is there without a record.
fn check(store: &Store) {
    let view = store.metadata().view().unwrap();
    let blobs = store.content().list("ns", &Filters::default()).unwrap();
    for Content { digest, size, .. } in &blobs {
        let bytes = store.content().read("ns", digest, 100 << 20).unwrap();
        assert_eq!(bytes.len() as u64, *size);
    }
    for (_, key, snapshot) in view.all::<Snapshot>().unwrap() {
        let parent = format!("overlayfs/{}", snapshot.parent);
        let whole =
            snapshot.parent.is_empty() || view.find::<Snapshot>("ns", &parent).unwrap().is_some();
        assert!(whole, "{key} hangs in the air");
        assert!(store.snapshots("").unwrap().directory("ns", &snapshot.name).unwrap().is_dir());
    }
    for (_, _, image) in view.all::<Image>().unwrap() {
        assert!(store.content().has("ns", &image.target.digest).unwrap());
    }
}

const CHILD: &str = "STRATA_TEST_PULL";

/// Not a test of its own: what the next one kills.
#[tokio::test]
async fn the_pulling_child() {
    let Ok(task) = env::var(CHILD) else { return };
    let (dir, reference) = task.split_once(' ').unwrap();
    let store = open(Path::new(dir));
    println!("open");
    loop {
        store.pull(Pull::new("ns", reference)).await.unwrap();
        let name = reference.to_owned();
        let remove = move |s: &Store| s.metadata().change(|tx| tx.remove::<Image>("ns", &name));
        store.blocking(remove).await.unwrap();
        store.blocking(Store::collect_garbage).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing() {
    let image = two_layers();
    let registry = Registry::serve(move |request| image.answer(request)).await;
    let reference = format!("{}/x:1", registry.host);
    let dir = tempfile::tempdir().unwrap();
    let task = format!("{} {reference}", dir.path().display());
    let this = env::current_exe().unwrap();
    for round in 0..40u64 {
        let mut child = Command::new(&this)
            .args(["--exact", "the_pulling_child", "--nocapture"])
            .env(CHILD, &task)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Moments spread over a start and the first few pulls and collections.
        thread::sleep(Duration::from_micros(5_000 + round * round * 7_919 % 150_000));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        check(&open(dir.path()));
    }
    let store = open(dir.path());
    store.pull(Pull::new("ns", &reference)).await.unwrap();
    check(&store);
    assert_eq!(support::snapshot_dirs(&store), 2);
}
