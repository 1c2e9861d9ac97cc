//! Unpacking an image that was stored without it, as containerd's CRI does when a container needs
//! it (its `WithNewSnapshot`).

use std::collections::HashMap;

use hops::{
    Cx, HopError, Kind, Result,
    cx::LEASE_HEADER,
    proto::containerd::{
        services::{
            content::v1::{Info, UpdateRequest},
            diff::v1::ApplyRequest,
            leases::v1::{CreateRequest, DeleteRequest},
            snapshots::v1::{
                CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
                StatSnapshotRequest,
            },
        },
        types::Descriptor,
    },
};

use super::{Image, Images, chain_id};
use crate::names::random_id;

impl Images {
    /// Makes the snapshots of an image's layers where they are missing, and has the image's
    /// configuration hold the last of them against containerd's garbage collection.
    ///
    /// # Errors
    /// Those of containerd; no half of a layer is left behind.
    pub(crate) async fn unpack(&self, cx: &Cx, image: &Image) -> Result<()> {
        let id = format!("cri-unpack-{}", random_id()?);
        let create = CreateRequest { id: id.clone(), labels: HashMap::new() };
        self.containerd.call(cx, create).await?;
        let done = self.unpack_leased(&cx.with(LEASE_HEADER, id.clone()), image).await;
        let delete = DeleteRequest { id, sync: false };
        if let Err(error) = self.containerd.call(cx, delete).await {
            tracing::warn!(%error, "the lease of an unpacking stays");
        }
        done.map_err(|e| e.context(format_args!("failed to unpack image {}", image.id)))
    }

    async fn unpack_leased(&self, cx: &Cx, image: &Image) -> Result<()> {
        let diffs: Vec<String> = image.layers.iter().map(|(_, diff)| diff.clone()).collect();
        let mut parent = String::new();
        for (n, (layer, diff)) in image.layers.iter().enumerate() {
            let (snapshotter, chain) = (self.snapshotter.clone(), chain_id(&diffs[..=n]));
            let stat = StatSnapshotRequest { snapshotter, key: chain.clone() };
            match self.containerd.call(cx, stat).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {
                    self.extract(cx, layer, diff, &parent, &chain)
                        .await
                        .map_err(|e| e.context(format_args!("failed to extract layer {diff}")))?;
                }
                Err(error) => return Err(error),
            }
            parent = chain;
        }
        let label = format!("containerd.io/gc.ref.snapshot.{}", self.snapshotter);
        let update = UpdateRequest {
            info: Some(Info {
                digest: image.id.clone(),
                labels: HashMap::from([(label.clone(), parent)]),
                ..Info::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths: vec![format!("labels.{label}")] }),
        };
        self.containerd.call(cx, update).await.map(|_| ())
    }

    async fn extract(
        &self,
        cx: &Cx,
        layer: &Descriptor,
        diff: &str,
        parent: &str,
        chain: &str,
    ) -> Result<()> {
        let key = format!("extract-{} {chain}", random_id()?);
        let prepare = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let mounts = self.containerd.call(cx, prepare).await?.mounts;
        let apply = ApplyRequest { diff: Some(layer.clone()), mounts, ..Default::default() };
        let done = match self.containerd.call(cx, apply).await {
            Ok(reply) if reply.applied.as_ref().is_some_and(|a| a.digest == diff) => {
                let commit = CommitSnapshotRequest {
                    snapshotter: self.snapshotter.clone(),
                    name: chain.to_owned(),
                    key: key.clone(),
                    labels: HashMap::new(),
                };
                self.containerd.call(cx, commit).await
            }
            Ok(reply) => Err(HopError::new(
                Kind::DataLoss,
                format!(
                    "wrong diff id calculated on extraction {:?}",
                    reply.applied.unwrap_or_default().digest
                ),
            )),
            Err(error) => Err(error),
        };
        let Err(error) = done else { return Ok(()) };
        let remove = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key };
        if let Err(error) = self.containerd.call(cx, remove).await {
            tracing::warn!(%error, "a snapshot of a layer that was not extracted stays");
        }
        // Somebody else unpacked the same layer meanwhile: it is there, which is all that is asked.
        if error.kind == Kind::AlreadyExists { Ok(()) } else { Err(error) }
    }
}
