//! A disk that fills up: the error says what was being written, what was begun is gone, and the
//! store goes on once there is room.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Kind,
    images::{import::Import, pull::Pull},
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{io::Cursor, path::Path};
use support::{Registry, assert_nothing_half_done, gzip, image, open, tar_of};

struct Tmpfs<'a>(&'a Path);

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

fn tmpfs(dir: &Path, options: &str, flags: MsFlags) -> nix::Result<()> {
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options))
}

#[tokio::test]
async fn a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    if let Err(error) = tmpfs(dir.path(), "size=12m", MsFlags::empty()) {
        println!("SKIP: no tmpfs can be mounted here: {error}");
        return;
    }
    let _mounted = Tmpfs(dir.path());
    let store = open(dir.path());
    let noise: Vec<u8> =
        (0u32..2_000_000).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    // The first does not fit as a blob; of the second the blob fits, but not its files.
    let plain = tar_of(&[("noise", &noise), ("more", &noise)]);
    let zeros = tar_of(&[("zeros", &vec![0; 64 << 20])]);
    for (tar, blob) in [(plain.clone(), plain), (zeros.clone(), gzip(&zeros))] {
        let image = image(&[(tar, blob.clone())]);
        let registry = Registry::serve(move |request| image.answer(request)).await;
        let reference = format!("{}/x:1", registry.host);
        let error = store.pull(Pull::new("ns", &reference)).await.unwrap_err();
        assert_eq!(error.kind, Kind::ResourceExhausted, "{error}");
        assert!(error.message.contains("No space left on device"), "{error}");
        assert!(error.message.contains("layer sha256:"), "{error}");
        assert_nothing_half_done(&store, "ns");

        let archive = tar_of(&[("1/layer.tar", &blob)]);
        let import = Import { namespace: "ns".to_owned(), ..Import::default() };
        if blob.len() > 12 << 20 {
            let error = store.import(Cursor::new(archive), import).await.unwrap_err();
            assert_eq!(error.kind, Kind::ResourceExhausted, "{error}");
            assert_nothing_half_done(&store, "ns");
        }
        tmpfs(dir.path(), "size=200m", MsFlags::MS_REMOUNT).unwrap();
        store.pull(Pull::new("ns", &reference)).await.unwrap();
        store
            .metadata()
            .change(|tx| tx.remove::<containerd_layer::metadata::Image>("ns", &reference))
            .unwrap();
        store.blocking(containerd_layer::Store::collect_garbage).await.unwrap();
        tmpfs(dir.path(), "size=12m", MsFlags::MS_REMOUNT).unwrap();
    }
}

#[test]
fn no_room_for_a_record() {
    let dir = tempfile::tempdir().unwrap();
    if let Err(error) = tmpfs(dir.path(), "size=8m", MsFlags::empty()) {
        println!("SKIP: no tmpfs can be mounted here: {error}");
        return;
    }
    let _mounted = Tmpfs(dir.path());
    let store = open(dir.path());
    let label = |i: u32| [(format!("l{i}"), "x".repeat(3000))].into();
    let mut acknowledged = 0;
    let error = loop {
        match store.metadata().create_namespace(&format!("n{acknowledged}"), label(acknowledged)) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, Kind::ResourceExhausted, "{error}");
    tmpfs(dir.path(), "size=64m", MsFlags::MS_REMOUNT).unwrap();
    let records = store.metadata().list::<containerd_layer::metadata::Namespace>("").unwrap();
    assert_eq!(records.len(), acknowledged as usize, "all that was acknowledged, and no more");
    store.metadata().create_namespace("again", Default::default()).unwrap();
}
