//! The image service.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use futures_util::StreamExt;
use hops::{
    Cx, HopError, Result,
    proto::{
        containerd::services::{
            images::v1::DeleteImageRequest,
            introspection::v1::PluginsRequest,
            snapshots::v1::{ListSnapshotsRequest, UsageRequest},
        },
        runtime::v1::{
            FilesystemIdentifier, FilesystemUsage, Image as Listed, ImageFsInfoRequest,
            ImageFsInfoResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse, Int64Value,
            ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse,
            RemoveImageRequest, RemoveImageResponse, UInt64Value,
        },
    },
};
use serde_json::{Value, json};

use super::Core;
use crate::{image::Image, names::now};

impl Core {
    pub(crate) async fn list_images(
        &self,
        cx: &Cx,
        op: ListImagesRequest,
    ) -> Result<ListImagesResponse> {
        let wanted = op.filter.and_then(|filter| filter.image).map(|image| image.image);
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            let image = self.images.resolve(cx, &wanted).await?;
            let images = image.iter().map(|image| self.listed(image)).collect();
            return Ok(ListImagesResponse { images });
        }
        let by_id: BTreeMap<String, Arc<Image>> =
            self.images.all(cx).await?.into_iter().map(|(_, i)| (i.id.clone(), i)).collect();
        Ok(ListImagesResponse { images: by_id.values().map(|image| self.listed(image)).collect() })
    }

    pub(crate) async fn image_status(
        &self,
        cx: &Cx,
        op: ImageStatusRequest,
    ) -> Result<ImageStatusResponse> {
        let wanted = op.image.unwrap_or_default().image;
        let Some(image) = self.images.resolve(cx, &wanted).await? else {
            return Ok(ImageStatusResponse::default());
        };
        // References are told from what is in the cache of names, which a first question fills.
        if self.images.references(&image.id).0.is_empty() {
            self.images.all(cx).await?;
        }
        let info = match op.verbose {
            true => {
                let spec: Value = serde_json::from_slice(&image.document).unwrap_or(Value::Null);
                let info = json!({ "chainID": image.chain, "imageSpec": spec });
                HashMap::from([("info".to_owned(), info.to_string())])
            }
            false => HashMap::new(),
        };
        Ok(ImageStatusResponse { image: Some(self.listed(&image)), info })
    }

    fn listed(&self, image: &Image) -> Listed {
        let (repo_tags, repo_digests) = self.images.references(&image.id);
        let user = image.config.user().clone().unwrap_or_default();
        let user = user.split(':').next().unwrap_or_default();
        let uid = user.parse::<i64>().ok();
        Listed {
            id: image.id.clone(),
            repo_tags,
            repo_digests,
            size: image.size,
            uid: uid.map(|value| Int64Value { value }),
            username: if uid.is_none() { user.to_owned() } else { String::new() },
            spec: Some(ImageSpec::default()),
            pinned: false,
        }
    }

    pub(crate) async fn pull_image(
        self: &Arc<Self>,
        cx: &Cx,
        op: PullImageRequest,
    ) -> Result<PullImageResponse> {
        let wanted = op.image.unwrap_or_default().image;
        let image = self.images.pull(cx, &wanted, op.auth.as_ref()).await?;
        Ok(PullImageResponse { image_ref: image.id.clone() })
    }

    /// Removes an image with all its names; one that is not there is removed. Containers keep what
    /// they run on.
    pub(crate) async fn remove_image(
        self: &Arc<Self>,
        cx: &Cx,
        op: RemoveImageRequest,
    ) -> Result<RemoveImageResponse> {
        let wanted = op.image.unwrap_or_default().image;
        if wanted.is_empty() {
            return Err(HopError::invalid("image to remove: no name or id is given"));
        }
        let Some(image) = self.images.resolve(cx, &wanted).await? else {
            return Ok(RemoveImageResponse {});
        };
        let all = self.images.all(cx).await?;
        let names: Vec<_> =
            all.into_iter().filter(|(_, i)| i.id == image.id).map(|(name, _)| name).collect();
        for (n, name) in names.iter().enumerate() {
            // The last one waits for the garbage collection, so that the space is free then.
            let sync = n + 1 == names.len();
            let delete = DeleteImageRequest { name: name.clone(), sync, ..Default::default() };
            match self.containerd.call(cx, delete).await {
                Err(error) if !error.is_not_found() => {
                    return Err(error.context(format_args!(
                        "failed to delete image reference {name:?} for {:?}",
                        image.id
                    )));
                }
                _ => self.images.forget(name),
            }
        }
        Ok(RemoveImageResponse {})
    }

    pub(crate) async fn image_fs_info(
        &self,
        cx: &Cx,
        _op: ImageFsInfoRequest,
    ) -> Result<ImageFsInfoResponse> {
        let plugins = PluginsRequest { filters: vec!["type==io.containerd.snapshotter.v1".into()] };
        let snapshotter = &self.config.snapshotter;
        let root = match self.containerd.call(cx, plugins).await {
            Ok(reply) => reply
                .plugins
                .into_iter()
                .find(|plugin| plugin.id == *snapshotter)
                .and_then(|plugin| plugin.exports.get("root").cloned()),
            Err(error) => {
                tracing::debug!(%error, "where snapshots are is not known");
                None
            }
        };
        let list = ListSnapshotsRequest { snapshotter: snapshotter.clone(), filters: Vec::new() };
        let (mut bytes, mut inodes, mut seen) = (0u64, 0u64, HashSet::new());
        let mut parts = self.containerd.open(cx, list).await?;
        while let Some(part) = parts.next().await {
            for snapshot in part?.info {
                if !seen.insert(snapshot.name.clone()) {
                    continue;
                }
                let usage =
                    UsageRequest { snapshotter: snapshotter.clone(), key: snapshot.name.clone() };
                match self.containerd.call(cx, usage).await {
                    Ok(usage) => {
                        bytes += u64::try_from(usage.size).unwrap_or(0);
                        inodes += u64::try_from(usage.inodes).unwrap_or(0);
                    }
                    // It was removed between the list and the question.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let mountpoint = root.unwrap_or_else(|| self.config.root.display().to_string());
        let usage = FilesystemUsage {
            timestamp: now(),
            fs_id: Some(FilesystemIdentifier { mountpoint }),
            used_bytes: Some(UInt64Value { value: bytes }),
            inodes_used: Some(UInt64Value { value: inodes }),
        };
        Ok(ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        })
    }
}
