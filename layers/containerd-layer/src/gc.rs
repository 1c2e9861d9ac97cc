//! Garbage collection as containerd does it: what images, containers, live leases and
//! `containerd.io/gc.root` labels reach stays, by `containerd.io/gc.ref.*` labels and parents;
//! other blobs and snapshots go.

use crate::{
    Error, Result, Store,
    metadata::{Container, Content, Image, Labels, Lease, Snapshot, View, timestamp},
};
use hops::proto::containerd::services::containers::v1::Container as Record;
use prost::Message;
use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

const ROOT: &str = "containerd.io/gc.root";
const EXPIRE: &str = "containerd.io/gc.expire";
const FLAT: &str = "containerd.io/gc.flat";
const CONTENT: &str = "containerd.io/gc.ref.content";
const SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

/// How long an unfinished write that nobody holds is kept, as in containerd.
const INGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs, counted in each namespace.
    pub blobs: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Leases that had expired.
    pub leases: usize,
    /// Unfinished writes.
    pub ingests: usize,
}

/// A node of the graph: what it is and its name, in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Node {
    Blob(String),
    /// `<snapshotter>/<name>`.
    Snapshot(String),
}

type Place = (String, Node);

/// Everything that can refer or be referred to.
struct Graph {
    now: SystemTime,
    blobs: HashMap<(String, String), Content>,
    snapshots: HashMap<(String, String), Snapshot>,
    leases: Vec<(String, Lease)>,
    roots: Vec<Place>,
    /// Kept themselves, without what they refer to.
    flat: Vec<Place>,
}

impl Store {
    /// Removes everything that nothing refers to. Blocks, and waits for pulls and imports under way.
    ///
    /// # Errors
    /// When the database or a directory refuses; what was removed by then is gone.
    pub fn collect_garbage(&self) -> Result<Collected> {
        let _alone = self.collecting().blocking_write();
        let mut collected = Collected::default();
        let (mut blobs, mut snapshots) = (Vec::new(), Vec::new());
        self.metadata().change(|tx| {
            // No other change runs now, so a view of the last one is what this one starts from.
            let graph = Graph::read(&self.metadata().view()?, SystemTime::now())?;
            let kept = graph.mark();
            for (ns, lease) in graph.expired() {
                tx.remove::<Lease>(ns, &lease.id)?;
                collected.leases += 1;
            }
            for ((ns, key), snapshot) in &graph.snapshots {
                if !kept.contains(&(ns.clone(), Node::Snapshot(key.clone()))) {
                    tx.remove::<Snapshot>(ns, key)?;
                    snapshots.push((key.clone(), snapshot.id));
                }
            }
            for ((ns, name), blob) in &graph.blobs {
                if !kept.contains(&(ns.clone(), Node::Blob(name.clone()))) {
                    tx.remove::<Content>(ns, name)?;
                    blobs.push(blob.digest.clone());
                }
            }
            Ok(())
        })?;
        collected.blobs = blobs.len();
        collected.snapshots = snapshots.len();
        self.content().sweep(&blobs)?;
        for snapshotter in self.snapshotters() {
            let prefix = format!("{}/", snapshotter.name());
            let own = snapshots.iter().filter(|(key, _)| key.starts_with(&prefix));
            snapshotter.sweep(&own.map(|(_, id)| *id).collect::<Vec<_>>())?;
        }
        collected.ingests = self.content().expire(INGEST_LIFE)?;
        Ok(collected)
    }
}

/// The blobs and snapshots that labels refer to.
fn references(ns: &str, labels: &Labels) -> Vec<Place> {
    let mut places = Vec::new();
    for (key, value) in labels {
        let node = if let Some(rest) = key.strip_prefix(CONTENT)
            && (rest.is_empty() || rest.starts_with(['.', '/']))
        {
            Node::Blob(value.clone())
        } else if let Some(snapshotter) = key.strip_prefix(SNAPSHOT) {
            let snapshotter = snapshotter.split('/').next().unwrap_or_default();
            Node::Snapshot(format!("{snapshotter}/{value}"))
        } else {
            continue;
        };
        places.push((ns.to_owned(), node));
    }
    places
}

impl Graph {
    fn read(view: &View, now: SystemTime) -> Result<Self> {
        let keyed = |(ns, name, blob)| ((ns, name), blob);
        let snapshots = view.all::<Snapshot>()?;
        let mut graph = Self {
            now,
            blobs: view.all()?.into_iter().map(keyed).collect(),
            snapshots: snapshots.into_iter().map(|(ns, key, s)| ((ns, key), s)).collect(),
            leases: view.all()?.into_iter().map(|(ns, _, lease)| (ns, lease)).collect(),
            roots: Vec::new(),
            flat: Vec::new(),
        };
        graph.root(view)?;
        Ok(graph)
    }

    fn root(&mut self, view: &View) -> Result<()> {
        for (ns, _, image) in view.all::<Image>()? {
            self.roots.extend(references(&ns, &image.labels));
            self.roots.push((ns, Node::Blob(image.target.digest.to_string())));
        }
        for (ns, name, container) in view.all::<Container>()? {
            let record = Record::decode(container.0.as_slice())
                .map_err(|e| Error::data_loss(format_args!("container {name:?}: {e}")))?;
            self.roots.extend(references(&ns, &record.labels.into_iter().collect()));
            let key = format!("{}/{}", record.snapshotter, record.snapshot_key);
            self.roots.push((ns, Node::Snapshot(key)));
        }
        let leases = std::mem::take(&mut self.leases);
        for (ns, lease) in leases.iter() {
            if self.has_expired(lease) {
                continue;
            }
            self.roots.extend(references(ns, &lease.labels));
            for resource in &lease.resources {
                let node = match resource.kind.strip_prefix("snapshots/") {
                    Some(snapshotter) => Node::Snapshot(format!("{snapshotter}/{}", resource.id)),
                    None if resource.kind == "content" => Node::Blob(resource.id.clone()),
                    None => continue,
                };
                let list =
                    if lease.labels.contains_key(FLAT) { &mut self.flat } else { &mut self.roots };
                list.push((ns.clone(), node));
            }
        }
        self.leases = leases;
        let blobs = self.blobs.iter().filter(|(_, blob)| blob.labels.contains_key(ROOT));
        let snapshots = self.snapshots.iter().filter(|(_, s)| s.labels.contains_key(ROOT));
        self.roots.extend(blobs.map(|((ns, name), _)| (ns.clone(), Node::Blob(name.clone()))));
        self.roots
            .extend(snapshots.map(|((ns, key), _)| (ns.clone(), Node::Snapshot(key.clone()))));
        Ok(())
    }

    fn has_expired(&self, lease: &Lease) -> bool {
        let expire = lease.labels.get(EXPIRE).and_then(|text| timestamp::parse(text));
        expire.is_some_and(|expire| expire < self.now)
    }

    fn expired(&self) -> impl Iterator<Item = (&str, &Lease)> {
        self.leases.iter().filter(|(_, l)| self.has_expired(l)).map(|(ns, l)| (ns.as_str(), l))
    }

    /// Everything that the roots reach.
    fn mark(&self) -> HashSet<Place> {
        let mut kept: HashSet<Place> = HashSet::new();
        let mut pending = self.roots.clone();
        while let Some(place) = pending.pop() {
            if kept.insert(place.clone()) {
                pending.extend(self.below(&place));
            }
        }
        // What is kept flat still needs its parents, or it could not be mounted.
        for place in &self.flat {
            let mut place = Some(place.clone());
            while let Some(here) = place {
                place = self.parent(&here);
                kept.insert(here);
            }
        }
        kept
    }

    fn below(&self, place: &Place) -> Vec<Place> {
        let (ns, node) = place;
        let mut below: Vec<_> = self.parent(place).into_iter().collect();
        below.extend(match node {
            Node::Blob(name) => {
                let blob = self.blobs.get(&(ns.clone(), name.clone()));
                blob.map(|blob| references(ns, &blob.labels)).unwrap_or_default()
            }
            Node::Snapshot(key) => {
                let snapshot = self.snapshots.get(&(ns.clone(), key.clone()));
                snapshot.map(|s| references(ns, &s.labels)).unwrap_or_default()
            }
        });
        below
    }

    fn parent(&self, (ns, node): &Place) -> Option<Place> {
        let Node::Snapshot(key) = node else { return None };
        let snapshot = self.snapshots.get(&(ns.clone(), key.clone()))?;
        let snapshotter = key.split('/').next()?;
        (!snapshot.parent.is_empty())
            .then(|| (ns.clone(), Node::Snapshot(format!("{snapshotter}/{}", snapshot.parent))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Digest,
        images::{Descriptor, media},
        snapshots::SnapshotOptions,
    };

    fn has(store: &Store, ns: &str, digest: &Digest) -> bool {
        store.content().has(ns, digest).unwrap()
    }

    #[test]
    fn reachable_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("root"), &dir.path().join("state")).unwrap();
        let put = |text: &str, labels: &[(&str, String)]| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
            store.content().put("ns", text.as_bytes(), labels).unwrap()
        };
        let overlay = store.snapshots("overlayfs").unwrap();
        let commit = |key: &str, parent: &str| {
            overlay.prepare("ns", "work", parent, SnapshotOptions::default()).unwrap();
            overlay.commit("ns", key, "work", SnapshotOptions::default()).unwrap();
        };
        commit("base", "");
        commit("top", "base");
        commit("lost", "base");
        let layer = put("layer", &[]);
        let snapshot = ("containerd.io/gc.ref.snapshot.overlayfs", "top".to_owned());
        let config = put("config", &[snapshot]);
        let manifest = put(
            "manifest",
            &[
                ("containerd.io/gc.ref.content.l.0", layer.to_string()),
                ("containerd.io/gc.ref.content.config", config.to_string()),
            ],
        );
        let lost = put("lost", &[]);
        let rooted = put("rooted", &[("containerd.io/gc.root", "yes".to_owned())]);
        let leased = put("leased", &[]);
        let target = Descriptor::new(media::OCI_MANIFEST, manifest, 8);
        store.set_image("ns", "r.io/x:1", target, Labels::new()).unwrap();
        let expire = |when: &str| Labels::from([(EXPIRE.to_owned(), when.to_owned())]);
        let metadata = store.metadata();
        metadata.create_lease("ns", "live", expire("2999-01-01T00:00:00Z")).unwrap();
        metadata.create_lease("ns", "dead", expire("2001-01-01T00:00:00Z")).unwrap();
        metadata
            .change(|tx| {
                tx.lease_resource("ns", Some("live"), "content", leased.as_str())?;
                tx.lease_resource("ns", Some("dead"), "content", lost.as_str())
            })
            .unwrap();

        let collected = store.collect_garbage().unwrap();
        assert_eq!(collected, Collected { blobs: 1, snapshots: 1, leases: 1, ingests: 0 });
        assert!(
            has(&store, "ns", &layer) && has(&store, "ns", &rooted) && has(&store, "ns", &leased)
        );
        assert!(!has(&store, "ns", &lost));
        assert!(overlay.stat("ns", "base").is_ok() && overlay.stat("ns", "lost").is_err());

        metadata.change(|tx| tx.remove::<Image>("ns", "r.io/x:1")).unwrap();
        let collected = store.collect_garbage().unwrap();
        assert_eq!((collected.blobs, collected.snapshots), (3, 2));
        let dirs = dir.path().join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
        assert_eq!(std::fs::read_dir(dirs).unwrap().count(), 0);
    }
}
