//! The load that a daemon is killed under: clients that each work in a namespace of their own, one
//! call after another, and note what they were told.

use super::{
    ledger::Ledger,
    random::Random,
    support::transfer::{any, transfer},
};
use containerd_layer::Digest;
use futures_util::{StreamExt, stream};
use hops::{
    Cx, Handle, HandleStream, HopError,
    containerd::WriteContent,
    proto::{
        Any,
        containerd::{
            services::{
                containers::v1::{
                    Container, CreateContainerRequest, DeleteContainerRequest,
                    UpdateContainerRequest, container::Runtime,
                },
                content::v1::{DeleteContentRequest, WriteAction, WriteContentRequest},
                images::v1::{CreateImageRequest, DeleteImageRequest, Image},
                leases::v1::{AddResourceRequest, CreateRequest, DeleteRequest, Resource},
                snapshots::v1::{
                    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
                },
            },
            types::{
                Descriptor, Mount,
                transfer::{ImageStore, OciRegistry, UnpackConfiguration},
            },
        },
    },
};
use std::{collections::HashMap, fs, path::PathBuf};

/// What a snapshot, a blob or a lease is kept by.
pub(crate) const ROOT: &str = "containerd.io/gc.root";

/// A client's call was cut off, or refused.
pub(crate) type Cut = Result<(), HopError>;

/// One client.
pub(crate) struct Client {
    pub(crate) ns: String,
    pub(crate) cx: Cx,
    pub(crate) wire: wire::grpc::Client,
    pub(crate) random: Random,
    pub(crate) ledger: Ledger,
}

fn labels(value: &str) -> HashMap<String, String> {
    HashMap::from([(ROOT.to_owned(), value.to_owned())])
}

/// Where the files of a snapshot are written, from its mounts.
pub(crate) fn directory(mounts: &[Mount]) -> PathBuf {
    let option = |key: &str| mounts[0].options.iter().find_map(|o| o.strip_prefix(key));
    option("upperdir=").unwrap_or(&mounts[0].source).into()
}

impl Client {
    /// A name that was not used before in its namespace.
    pub(crate) fn name(&mut self, kind: &str) -> String {
        format!("{kind}-{:x}", self.random.next())
    }

    /// Something that is there, of those whose names begin so.
    pub(crate) fn any_of(&mut self, kind: &str) -> Option<(String, String)> {
        let mut there = self.ledger.present();
        there.retain(|(name, _)| name.starts_with(kind));
        (!there.is_empty()).then(|| there.swap_remove(self.random.below(there.len())))
    }

    /// Whether something is to go: more often when much is there, so that a long run is as fast at
    /// its end as it was to begin with.
    pub(crate) fn is_time_to_remove(&mut self) -> bool {
        let crowd = self.ledger.present().len();
        self.random.below(60) < 20 + crowd
    }

    /// Blobs: written, labelled, deleted.
    pub(crate) async fn blobs(&mut self) -> Cut {
        if self.is_time_to_remove()
            && let Some((name, _)) = self.any_of("sha256:")
        {
            self.ledger.begun(&name, None);
            let delete = DeleteContentRequest { digest: name.clone() };
            self.wire.handle(&self.cx, delete).await?;
            self.ledger.done(&name, None);
            return Ok(());
        }
        let size = self.random.below(300_000);
        let bytes = self.random.bytes(size);
        let digest = Digest::of(&bytes).to_string();
        self.ledger.begun(&digest, Some(&size.to_string()));
        let reference = self.name("write");
        let cut = self.random.below(size + 1);
        let write = |action: WriteAction, offset: usize, data: &[u8]| WriteContentRequest {
            action: action.into(),
            r#ref: reference.clone(),
            offset: offset as i64,
            data: data.to_vec().into(),
            ..Default::default()
        };
        let mut commit = write(WriteAction::Commit, cut, &bytes[cut..]);
        commit.total = size as i64;
        commit.expected.clone_from(&digest);
        commit.labels = labels("blob");
        let messages = vec![write(WriteAction::Write, 0, &bytes[..cut]), commit];
        let input = Box::pin(stream::iter(messages));
        let mut answers = self.wire.stream(&self.cx, WriteContent, input).await?;
        let mut committed = false;
        while let Some(answer) = answers.next().await {
            committed |= answer?.action == i32::from(WriteAction::Commit);
        }
        if !committed {
            return Err(HopError::internal("the write ended without a commit"));
        }
        self.ledger.done(&digest, Some(&size.to_string()));
        Ok(())
    }

    /// Snapshots: prepared, written to, committed, removed.
    pub(crate) async fn snapshots(&mut self, snapshotter: &str) -> Cut {
        let snapshotter = snapshotter.to_owned();
        let there = self.ledger.present();
        let childless = |name: &str| !there.iter().any(|(_, v)| v.ends_with(&format!("<{name}")));
        if self.is_time_to_remove()
            && let Some((name, _)) = self.any_of("")
            && childless(&name)
        {
            self.ledger.begun(&name, None);
            let remove = RemoveSnapshotRequest { snapshotter, key: name.clone() };
            self.wire.handle(&self.cx, remove).await?;
            self.ledger.done(&name, None);
            return Ok(());
        }
        let parent = self.any_of("committed").map_or_else(String::new, |(name, _)| name);
        let active = self.name("active");
        let value = format!("Active<{parent}");
        self.ledger.begun(&active, Some(&value));
        let prepare = PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: active.clone(),
            parent: parent.clone(),
            labels: labels("x"),
        };
        let mounts = self.wire.handle(&self.cx, prepare).await?.mounts;
        self.ledger.done(&active, Some(&value));
        // A file that tells whose directory it is.
        let file = directory(&mounts).join("whose");
        let size = self.random.below(100_000);
        let noise = self.random.bytes(size);
        fs::write(&file, &active).map_err(HopError::from)?;
        fs::write(file.with_file_name("noise"), noise).map_err(HopError::from)?;
        if self.random.below(4) == 0 {
            return Ok(());
        }
        let name = active.replace("active", "committed");
        let committed = format!("Committed<{parent}");
        self.ledger.begun(&active, None);
        self.ledger.begun(&name, Some(&committed));
        let commit = CommitSnapshotRequest {
            snapshotter,
            name: name.clone(),
            key: active.clone(),
            labels: labels("x"),
        };
        self.wire.handle(&self.cx, commit).await?;
        self.ledger.done(&active, None);
        self.ledger.done(&name, Some(&committed));
        Ok(())
    }

    /// Containers, images and leases.
    pub(crate) async fn records(&mut self) -> Cut {
        let choice = self.random.below(8);
        let kind = ["container", "image", "lease"][self.random.below(3)];
        if self.is_time_to_remove()
            && let Some((name, _)) = self.any_of(kind)
        {
            self.ledger.begun(&name, None);
            match kind {
                "container" => {
                    let delete = DeleteContainerRequest { id: name.clone() };
                    self.wire.handle(&self.cx, delete).await?;
                }
                "image" => {
                    let sync = choice == 0;
                    let delete = DeleteImageRequest { name: name.clone(), sync, target: None };
                    self.wire.handle(&self.cx, delete).await?;
                }
                _ => {
                    let delete = DeleteRequest { id: name.clone(), sync: choice == 0 };
                    self.wire.handle(&self.cx, delete).await?;
                }
            }
            self.ledger.done(&name, None);
            return Ok(());
        }
        if choice == 3
            && let Some((name, value)) = self.any_of(kind)
        {
            return self.change(kind, name, &value).await;
        }
        let name = self.name(kind);
        self.ledger.begun(&name, Some("new"));
        let value = HashMap::from([("value".to_owned(), "new".to_owned())]);
        match kind {
            "container" => {
                let runtime = Runtime { name: "io.containerd.runc.v2".into(), options: None };
                let container = Container {
                    id: name.clone(),
                    labels: value,
                    runtime: Some(runtime),
                    spec: Some(Any::default()),
                    ..Default::default()
                };
                let create = CreateContainerRequest { container: Some(container) };
                self.wire.handle(&self.cx, create).await?;
            }
            "image" => {
                let target = Descriptor {
                    media_type: "application/vnd.oci.image.manifest.v1+json".into(),
                    digest: Digest::of(name.as_bytes()).to_string(),
                    size: 1,
                    ..Default::default()
                };
                let image = Image {
                    name: name.clone(),
                    labels: value,
                    target: Some(target),
                    ..Default::default()
                };
                let create = CreateImageRequest { image: Some(image), ..Default::default() };
                self.wire.handle(&self.cx, create).await?;
            }
            _ => {
                let create = CreateRequest { id: name.clone(), labels: value };
                self.wire.handle(&self.cx, create).await?;
            }
        }
        self.ledger.done(&name, Some("new"));
        Ok(())
    }

    /// Changes a container; gives a lease something to keep.
    async fn change(&mut self, kind: &str, name: String, value: &str) -> Cut {
        let new = format!("{}", value.len() + self.random.below(1000));
        match kind {
            "container" => {
                self.ledger.begun(&name, Some(&new));
                let container = Container {
                    id: name.clone(),
                    labels: HashMap::from([("value".to_owned(), new.clone())]),
                    ..Default::default()
                };
                let update_mask = Some(prost_types::FieldMask { paths: vec!["labels".into()] });
                let update = UpdateContainerRequest { container: Some(container), update_mask };
                self.wire.handle(&self.cx, update).await?;
                self.ledger.done(&name, Some(&new));
            }
            "lease" => {
                let id = Digest::of(new.as_bytes()).to_string();
                let resource = Some(Resource { id, r#type: "content".into() });
                self.wire.handle(&self.cx, AddResourceRequest { id: name, resource }).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// An image of the registry at `host`: pulled and unpacked, or removed with all that it had.
    pub(crate) async fn pulls(&mut self, host: &str, images: usize) -> Cut {
        let name = format!("{host}/image-{}:1", self.random.below(images));
        let there = self.ledger.present().iter().any(|(known, _)| *known == name);
        if there {
            self.ledger.begun(&name, None);
            let sync = self.random.below(2) == 0;
            let delete = DeleteImageRequest { name: name.clone(), sync, target: None };
            self.wire.handle(&self.cx, delete).await?;
            self.ledger.done(&name, None);
            return Ok(());
        }
        self.ledger.begun(&name, Some("whole"));
        let unpacks = vec![UnpackConfiguration::default()];
        let store = ImageStore { name: name.clone(), unpacks, ..Default::default() };
        let registry = OciRegistry { reference: name.clone(), resolver: None };
        let pull = transfer(any(&registry), any(&store));
        self.wire.handle(&self.cx, pull).await?;
        self.ledger.done(&name, Some("whole"));
        Ok(())
    }
}
