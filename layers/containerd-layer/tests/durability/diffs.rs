//! Layers that the daemon makes of snapshots.

use super::{
    check,
    load::{Client, Cut, ROOT, directory},
};
use containerd_layer::Config;
use hops::{
    Handle,
    proto::containerd::services::{
        content::v1::DeleteContentRequest,
        diff::v1::DiffRequest,
        snapshots::v1::{PrepareSnapshotRequest, RemoveSnapshotRequest},
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

/// The label that says which snapshot a layer was made of.
const OF: &str = "of";

impl Client {
    /// A layer of a snapshot that is there for this alone; or one removed.
    pub(crate) async fn diffs(&mut self) -> Cut {
        if self.is_time_to_remove()
            && let Some((name, digest)) = self.any_of("layer")
        {
            self.ledger.begun(&name, None);
            self.wire.handle(&self.cx, DeleteContentRequest { digest }).await?;
            self.ledger.done(&name, None);
            return Ok(());
        }
        let key = self.name("active");
        self.ledger.begun(&key, Some("Active<"));
        let prepare = PrepareSnapshotRequest {
            snapshotter: "overlayfs".into(),
            key: key.clone(),
            labels: HashMap::from([(ROOT.to_owned(), "x".to_owned())]),
            ..Default::default()
        };
        let mounts = self.wire.handle(&self.cx, prepare).await?.mounts;
        self.ledger.done(&key, Some("Active<"));
        let file = directory(&mounts).join("whose");
        let size = self.random.below(100_000);
        let noise = self.random.bytes(size);
        fs::write(&file, &key)?;
        fs::write(file.with_file_name("noise"), noise)?;
        let name = key.replace("active", "layer");
        let diff = DiffRequest {
            right: mounts,
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            labels: HashMap::from([
                (ROOT.to_owned(), "x".to_owned()),
                (OF.to_owned(), name.clone()),
            ]),
            ..Default::default()
        };
        // Only the daemon knows the layer's digest before it is answered.
        self.ledger.begun_unknown(&name);
        let layer = self.wire.handle(&self.cx, diff).await?.diff.unwrap_or_default();
        self.ledger.done(&name, Some(&layer.digest));
        self.ledger.begun(&key, None);
        let remove = RemoveSnapshotRequest { snapshotter: "overlayfs".into(), key: key.clone() };
        self.wire.handle(&self.cx, remove).await?;
        self.ledger.done(&key, None);
        Ok(())
    }
}

/// The layers by their names, each with its digest and with its snapshot's file in it; and the
/// snapshots that were not removed yet.
pub(crate) async fn found(client: &Client, config: &Config) -> BTreeMap<String, String> {
    let mut found = check::own_snapshots(client, "overlayfs").await;
    for blob in check::contents(client, config).await {
        let name = blob.labels[OF].clone();
        let bytes = fs::read(check::blob(config, &blob.digest)).unwrap();
        let key = name.replace("layer", "active");
        let whose = bytes.windows(key.len()).any(|window| window == key.as_bytes());
        assert!(whose, "{name} is not of {key}");
        found.insert(name, blob.digest);
    }
    found
}
