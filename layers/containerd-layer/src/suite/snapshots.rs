//! Snapshots: a chain of them, what can be done with each kind, and what cannot.

use super::{Subject, Verdict, mask, same, some};
use futures_util::StreamExt;
use hops::{
    Cx, HandleStream, Kind as Refusal,
    proto::containerd::services::{
        namespaces::v1::DeleteNamespaceRequest,
        snapshots::v1::{
            CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest,
            PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
            UpdateSnapshotRequest, UsageRequest, ViewSnapshotRequest,
        },
    },
};

const OVERLAYFS: &str = "overlayfs";
/// Without this label a collection between two steps would take what nothing refers to yet.
const ROOT: (&str, &str) = ("containerd.io/gc.root", "suite");

fn prepare(key: &str, parent: &str) -> PrepareSnapshotRequest {
    PrepareSnapshotRequest {
        snapshotter: OVERLAYFS.into(),
        key: key.into(),
        parent: parent.into(),
        labels: [(ROOT.0.into(), ROOT.1.into())].into(),
    }
}

fn commit(name: &str, key: &str) -> CommitSnapshotRequest {
    CommitSnapshotRequest {
        snapshotter: OVERLAYFS.into(),
        name: name.into(),
        key: key.into(),
        labels: [(ROOT.0.into(), ROOT.1.into())].into(),
    }
}

fn remove(key: &str) -> RemoveSnapshotRequest {
    RemoveSnapshotRequest { snapshotter: OVERLAYFS.into(), key: key.into() }
}

pub(super) async fn chapter(subject: &Subject) -> Verdict {
    let (cx, ns) = subject.fresh("snapshots");
    subject.call(&cx, prepare("work", "")).await?;
    subject.refused(&cx, prepare("work", ""), Refusal::AlreadyExists).await?;
    subject.refused(&cx, prepare("x", "missing"), Refusal::NotFound).await?;
    subject.refused(&cx, prepare("x", "work"), Refusal::InvalidArgument).await?;
    let strange = PrepareSnapshotRequest { snapshotter: "cats".into(), ..prepare("x", "") };
    subject.refused(&cx, strange, Refusal::InvalidArgument).await?;
    subject.call(&cx, commit("base", "work")).await?;
    subject.refused(&cx, commit("other", "work"), Refusal::NotFound).await?;
    subject.call(&cx, prepare("work", "")).await?;
    subject.refused(&cx, commit("base", "work"), Refusal::AlreadyExists).await?;
    subject.call(&cx, remove("work")).await?;

    let mounts = subject.call(&cx, prepare("top", "base")).await?.mounts;
    same("mounts", mounts.len(), 1)?;
    same("mount", mounts[0].r#type.as_str(), "overlay")?;
    let again = MountsRequest { snapshotter: OVERLAYFS.into(), key: "top".into() };
    same("mounts of a second call", subject.call(&cx, again).await?.mounts, mounts)?;
    let view = ViewSnapshotRequest {
        snapshotter: OVERLAYFS.into(),
        key: "view".into(),
        parent: "base".into(),
        labels: [(ROOT.0.into(), ROOT.1.into())].into(),
    };
    let mounts = subject.call(&cx, view).await?.mounts;
    same("mount", mounts[0].r#type.as_str(), "bind")?;
    describe(subject, &cx).await?;

    subject.refused(&cx, remove("base"), Refusal::FailedPrecondition).await?;
    for key in ["top", "view", "base"] {
        subject.call(&cx, remove(key)).await?;
    }
    subject.refused(&cx, remove("base"), Refusal::NotFound).await?;
    subject.call(&cx, DeleteNamespaceRequest { name: ns }).await
}

async fn describe(subject: &Subject, cx: &Cx) -> Verdict {
    for (key, parent, kind) in
        [("base", "", Kind::Committed), ("top", "base", Kind::Active), ("view", "base", Kind::View)]
    {
        let stat = StatSnapshotRequest { snapshotter: OVERLAYFS.into(), key: key.into() };
        let info = some("info", subject.call(cx, stat).await?.info)?;
        same(format_args!("parent of {key}"), info.parent.as_str(), parent)?;
        same(format_args!("kind of {key}"), info.kind(), kind)?;
    }
    let update = UpdateSnapshotRequest {
        snapshotter: OVERLAYFS.into(),
        info: Some(Info {
            name: "top".into(),
            labels: [("a".into(), "1".into())].into(),
            ..Default::default()
        }),
        update_mask: Some(mask(&["labels.a"])),
    };
    let updated = some("info", subject.call(cx, update).await?.info)?;
    same("labels", updated.labels.len(), 2)?;
    let usage = UsageRequest { snapshotter: OVERLAYFS.into(), key: "top".into() };
    same("inodes of an empty snapshot", subject.call(cx, usage).await?.inodes, 1)?;
    for (filter, wanted) in [("", 3), ("kind==active", 1), ("parent==base", 2), ("labels.a", 1)] {
        let filters = vec![filter.to_owned()];
        let request = ListSnapshotsRequest { snapshotter: OVERLAYFS.into(), filters };
        let no_input = hops::op::no_input();
        let opened = HandleStream::stream(&*subject.face, cx, request, no_input).await;
        let mut batches = opened.map_err(|e| format!("List: {e}"))?;
        let mut found = 0;
        while let Some(batch) = batches.next().await {
            found += batch.map_err(|e| format!("List: {e}"))?.info.len();
        }
        same(format_args!("snapshots with {filter:?}"), found, wanted)?;
    }
    Ok(())
}
