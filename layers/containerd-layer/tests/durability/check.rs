//! What must hold of a daemon's directories and of its answers after a kill.

use super::load::{Client, directory};
use containerd_layer::{Config, Digest, images::Manifest};
use futures_util::StreamExt;
use hops::{
    Handle, HandleStream,
    proto::containerd::services::{
        containers::v1::ListContainersRequest,
        content::v1::{Info as Blob, ListContentRequest, ListStatusesRequest},
        images::v1::ListImagesRequest,
        leases::v1::{ListRequest, ListResourcesRequest},
        snapshots::v1::{Info, Kind, ListSnapshotsRequest, MountsRequest},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

pub(crate) fn blob(config: &Config, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    config.root.join("io.containerd.content.v1.content/blobs/sha256").join(hex)
}

fn names(dir: PathBuf) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// The blobs of a namespace: each is on the disk, whole.
pub(crate) async fn contents(client: &Client, config: &Config) -> Vec<Blob> {
    let no_input = hops::op::no_input();
    let mut listed =
        client.wire.stream(&client.cx, ListContentRequest::default(), no_input).await.unwrap();
    let mut found = Vec::new();
    while let Some(some) = listed.next().await {
        for info in some.unwrap().info {
            let bytes = fs::read(blob(config, &info.digest))
                .unwrap_or_else(|e| panic!("{} is listed: {e}", info.digest));
            assert_eq!(Digest::of(&bytes).to_string(), info.digest, "half a blob");
            assert_eq!(bytes.len() as i64, info.size, "{}", info.digest);
            found.push(info);
        }
    }
    // Unfinished writes can be listed, and each is one.
    let open = client.wire.handle(&client.cx, ListStatusesRequest::default()).await.unwrap();
    for status in open.statuses {
        assert!(!status.r#ref.is_empty() && status.offset >= 0);
    }
    found
}

async fn snapshots(client: &Client, snapshotter: &str) -> Vec<Info> {
    let list = ListSnapshotsRequest { snapshotter: snapshotter.to_owned(), filters: Vec::new() };
    let mut listed = client.wire.stream(&client.cx, list, hops::op::no_input()).await.unwrap();
    let mut found = Vec::new();
    while let Some(some) = listed.next().await {
        found.extend(some.unwrap().info);
    }
    for info in &found {
        let parent = found.iter().find(|other| other.name == info.parent);
        assert!(info.parent.is_empty() || parent.is_some(), "{} hangs in the air", info.name);
        if let Some(parent) = parent {
            assert_eq!(parent.kind(), Kind::Committed, "the parent of {}", info.name);
        }
    }
    found
}

/// Snapshots that the client made: those that it can mount are its own directories.
pub(crate) async fn own_snapshots(client: &Client, snapshotter: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for info in snapshots(client, snapshotter).await {
        if info.kind() == Kind::Active {
            let mount =
                MountsRequest { snapshotter: snapshotter.to_owned(), key: info.name.clone() };
            let mounts = client.wire.handle(&client.cx, mount).await.unwrap().mounts;
            let dir = directory(&mounts);
            assert!(dir.is_dir(), "{} has no directory {dir:?}", info.name);
            // A copy of the parent has the parent's file until it is written to.
            let whose = fs::read_to_string(dir.join("whose")).unwrap_or_default();
            let fits = whose.is_empty()
                || whose == info.name
                || snapshotter == "native" && whose.replace("active", "committed") == info.parent;
            assert!(fits, "{} holds the files of {whose}", info.name);
        }
        found.insert(info.name.clone(), format!("{:?}<{}", info.kind(), info.parent));
    }
    found
}

/// Containers, images and leases.
pub(crate) async fn records(client: &Client) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let wire = &client.wire;
    let listed = wire.handle(&client.cx, ListContainersRequest::default()).await.unwrap();
    for container in listed.containers {
        found.insert(container.id, container.labels["value"].clone());
    }
    let listed = wire.handle(&client.cx, ListImagesRequest::default()).await.unwrap();
    for image in listed.images {
        found.insert(image.name, image.labels["value"].clone());
    }
    for lease in wire.handle(&client.cx, ListRequest::default()).await.unwrap().leases {
        let list = ListResourcesRequest { id: lease.id.clone() };
        wire.handle(&client.cx, list).await.unwrap();
        found.insert(lease.id, lease.labels["value"].clone());
    }
    found
}

/// The images of a client that pulls or imports: each has all of its content, and its layers as snapshots.
pub(crate) async fn pulled(client: &Client, config: &Config) -> BTreeMap<String, String> {
    let there = contents(client, config).await;
    let there: BTreeSet<_> = there.iter().map(|blob| blob.digest.as_str()).collect();
    let layers = snapshots(client, "overlayfs").await;
    let listed = client.wire.handle(&client.cx, ListImagesRequest::default()).await.unwrap();
    let mut found = BTreeMap::new();
    for image in listed.images {
        let target = image.target.unwrap().digest;
        assert!(there.contains(target.as_str()), "{} has no manifest", image.name);
        let manifest = Manifest::parse(&fs::read(blob(config, &target)).unwrap()).unwrap();
        let parts = manifest.layers.iter().chain([&manifest.config]);
        for part in parts {
            assert!(there.contains(part.digest.as_str()), "{} lacks {part:?}", image.name);
        }
        assert!(layers.len() >= manifest.layers.len(), "{} is not unpacked", image.name);
        found.insert(image.name, "whole".to_owned());
    }
    found
}

/// The blobs that the client wrote.
pub(crate) async fn own_blobs(client: &Client, config: &Config) -> BTreeMap<String, String> {
    let blobs = contents(client, config).await;
    blobs.into_iter().map(|blob| (blob.digest, blob.size.to_string())).collect()
}

/// Nothing is in the directories that no namespace knows.
pub(crate) async fn nothing_dangles(clients: &[&Client], config: &Config) {
    let mut digests = BTreeSet::new();
    for client in clients {
        digests.extend(contents(client, config).await.into_iter().map(|blob| blob.digest));
    }
    let files = names(blob(config, "sha256:"));
    let known: BTreeSet<String> = digests.iter().map(|d| d["sha256:".len()..].to_owned()).collect();
    assert_eq!(files, known, "blobs without a record");
    for snapshotter in ["overlayfs", "native"] {
        let mut records = 0;
        for client in clients {
            records += snapshots(client, snapshotter).await.len();
        }
        let root = config.root.join(format!("io.containerd.snapshotter.v1.{snapshotter}"));
        let dirs = names(root.join("snapshots"));
        assert_eq!(dirs.len(), records, "{snapshotter}: directories {dirs:?}");
    }
    for (which, dir) in [("state", &config.state), ("root", &config.root)] {
        for name in names(dir.clone()) {
            assert!(!name.contains("tmp"), "{name} is left in {which}");
        }
    }
}
