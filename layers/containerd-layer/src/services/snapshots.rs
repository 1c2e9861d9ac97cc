//! `Snapshots`: every snapshotter of the store behind one service.

use super::{
    convert::{labels_in, labels_out, mounts_out, relabel},
    lease, namespace, required, stamp, streams, verbs,
};
use crate::{
    Engine, Error, Result,
    filters::Filters,
    metadata::{Snapshot, SnapshotKind},
    snapshots::{SnapshotOptions, Snapshotter},
};
use futures_util::stream;
use hops::proto::containerd::{
    events,
    services::snapshots::v1::{
        CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest,
        ListSnapshotsResponse, MountsRequest, MountsResponse, PrepareSnapshotRequest,
        PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse,
        UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest, UsageResponse,
        ViewSnapshotRequest, ViewSnapshotResponse,
    },
};

/// How many snapshots one message of a listing holds, as containerd has it.
const BATCH: usize = 100;

fn info(snapshot: Snapshot) -> Info {
    let kind = match snapshot.kind {
        SnapshotKind::View => Kind::View,
        SnapshotKind::Active => Kind::Active,
        SnapshotKind::Committed => Kind::Committed,
    };
    Info {
        name: snapshot.name,
        parent: snapshot.parent,
        kind: kind.into(),
        created_at: stamp(snapshot.created_at),
        updated_at: stamp(snapshot.updated_at),
        labels: labels_out(snapshot.labels),
    }
}

impl Engine {
    /// The snapshotter that a request names.
    fn snapshotter(&self, name: &str) -> Result<Snapshotter> {
        if name.is_empty() {
            return Err(Error::invalid("snapshotter argument missing"));
        }
        if self.is_disabled("io.containerd.snapshotter.v1", name) {
            return Err(Error::invalid(format_args!("snapshotter not loaded: {name}")));
        }
        self.store().snapshots(name).cloned()
    }
}

verbs! {
    PrepareSnapshotRequest = |engine, cx, op| {
        let (ns, snapshots) = (namespace(cx)?, engine.snapshotter(&op.snapshotter)?);
        let options = SnapshotOptions { labels: labels_in(op.labels), lease: lease(cx) };
        let (within, key, parent) = (ns.clone(), op.key.clone(), op.parent.clone());
        let mounts = engine
            .blocking(move |_| snapshots.prepare(&within, &key, &parent, options))
            .await?;
        let event = events::SnapshotPrepare {
            key: op.key,
            parent: op.parent,
            snapshotter: op.snapshotter,
        };
        engine.events().emit(&ns, "/snapshot/prepare", &event);
        Ok(PrepareSnapshotResponse { mounts: mounts_out(mounts) })
    }

    ViewSnapshotRequest = |engine, cx, op| {
        let (ns, snapshots) = (namespace(cx)?, engine.snapshotter(&op.snapshotter)?);
        let options = SnapshotOptions { labels: labels_in(op.labels), lease: lease(cx) };
        let mounts =
            engine.blocking(move |_| snapshots.view(&ns, &op.key, &op.parent, options)).await?;
        Ok(ViewSnapshotResponse { mounts: mounts_out(mounts) })
    }

    MountsRequest = |engine, cx, op| {
        let mounts = engine.snapshotter(&op.snapshotter)?.mounts(&namespace(cx)?, &op.key)?;
        Ok(MountsResponse { mounts: mounts_out(mounts) })
    }

    CommitSnapshotRequest = |engine, cx, op| {
        let (ns, snapshots) = (namespace(cx)?, engine.snapshotter(&op.snapshotter)?);
        let options = SnapshotOptions { labels: labels_in(op.labels), lease: lease(cx) };
        let (within, name, key) = (ns.clone(), op.name.clone(), op.key.clone());
        engine.blocking(move |_| snapshots.commit(&within, &name, &key, options)).await?;
        let event = events::SnapshotCommit {
            key: op.key,
            name: op.name,
            snapshotter: op.snapshotter,
        };
        engine.events().emit(&ns, "/snapshot/commit", &event);
        Ok(())
    }

    RemoveSnapshotRequest = |engine, cx, op| {
        let (ns, snapshots) = (namespace(cx)?, engine.snapshotter(&op.snapshotter)?);
        let (within, key, forgotten) = (ns.clone(), op.key.clone(), snapshots.clone());
        let id = engine.blocking(move |_| forgotten.forget(&within, &key)).await?;
        // containerd too answers when the record is gone, and leaves the files to its collector.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = snapshots.sweep(&[id]) {
                tracing::warn!(%error, "the files of a removed snapshot stay until the next start");
            }
        });
        let event = events::SnapshotRemove { key: op.key, snapshotter: op.snapshotter };
        engine.events().emit(&ns, "/snapshot/remove", &event);
        Ok(())
    }

    StatSnapshotRequest = |engine, cx, op| {
        let found = engine.snapshotter(&op.snapshotter)?.stat(&namespace(cx)?, &op.key)?;
        Ok(StatSnapshotResponse { info: Some(info(found)) })
    }

    UpdateSnapshotRequest = |engine, cx, op| {
        let (ns, snapshots) = (namespace(cx)?, engine.snapshotter(&op.snapshotter)?);
        let new = required(op.info, "info")?;
        let mask = op.update_mask.unwrap_or_default().paths;
        let updated = engine.blocking(move |_| {
            let what = format!("snapshot {:?}", new.name);
            // A mask that asks for something else is refused before anything changes.
            relabel(&mut Default::default(), &new.labels, &mask, &what)?;
            snapshots.update(&ns, &new.name, |labels| {
                // Checked just above.
                let _ = relabel(labels, &new.labels, &mask, &what);
            })
        }).await?;
        Ok(UpdateSnapshotResponse { info: Some(info(updated)) })
    }

    UsageRequest = |engine, cx, op| {
        let (ns, snapshots) = (namespace(cx)?, engine.snapshotter(&op.snapshotter)?);
        let usage = engine.blocking(move |_| snapshots.usage(&ns, &op.key)).await?;
        Ok(UsageResponse { size: usage.size.cast_signed(), inodes: usage.inodes.cast_signed() })
    }

    /// Nothing is left to clean: a snapshot's directory goes with its record.
    CleanupRequest = |engine, cx, op| {
        namespace(cx)?;
        engine.snapshotter(&op.snapshotter)?;
        Ok(())
    }
}

streams! {
    ListSnapshotsRequest = |engine, cx, op, _input| {
        let filters = Filters::parse(&op.filters)?;
        let found = engine.snapshotter(&op.snapshotter)?.list(&namespace(cx)?, &filters)?;
        let mut found = found.into_iter().map(info);
        Ok(Box::pin(stream::iter(std::iter::from_fn(move || {
            let info: Vec<Info> = found.by_ref().take(BATCH).collect();
            (!info.is_empty()).then_some(Ok(ListSnapshotsResponse { info }))
        }))))
    }
}
