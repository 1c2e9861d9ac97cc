//! Layers to snapshots: a few at a time side by side, each streamed from the network or from
//! content through the hash and the inflater to its files, and put on each other in order.

use super::{Descriptor, chain_ids, feed::Feed, registry::Repository};
use crate::{
    Digest, Error, Kind, Result, Store,
    content::WriterOptions,
    diff::{self, Applied, Whiteouts},
    metadata::Labels,
    snapshots::{Layer, SnapshotOptions, Snapshotter},
};
use futures_util::{StreamExt, stream};
use std::{
    io::BufReader,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// How many layers are under way at once (containerd's and Docker's number).
pub(super) const SIDE_BY_SIDE: usize = 3;
/// How far a blob is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which blob.
    pub digest: Digest,
    /// What kind of thing it is.
    pub media_type: String,
    /// Bytes here.
    pub offset: u64,
    /// Bytes in all.
    pub total: u64,
    /// Whether it is here and, if asked for, unpacked.
    pub done: bool,
}

impl Progress {
    /// How far the blob of `descriptor` is: `offset` of its bytes, or all that is to be done.
    pub(super) fn of(descriptor: &Descriptor, offset: u64, done: bool) -> Progress {
        Progress {
            digest: descriptor.digest.clone(),
            media_type: descriptor.media_type.clone(),
            offset,
            total: descriptor.size,
            done,
        }
    }
}

pub(super) type Watcher = Arc<dyn Fn(Progress) + Send + Sync>;

/// What is the same for all layers of one image.
#[derive(Clone)]
pub(super) struct Layers {
    pub(super) store: Store,
    pub(super) ns: String,
    /// Where missing blobs come from; without it they must be here.
    pub(super) repository: Option<Arc<Repository>>,
    /// Where layers are unpacked; nothing fetches only.
    pub(super) snapshotter: Option<Snapshotter>,
    /// Labels for every blob.
    pub(super) labels: Labels,
    pub(super) progress: Option<Watcher>,
}

impl Layers {
    /// Fetches what is missing of `layers` and unpacks what is not unpacked.
    pub(super) async fn run(&self, layers: &[Descriptor], diff_ids: &[Digest]) -> Result<()> {
        if self.snapshotter.is_some() && layers.len() != diff_ids.len() {
            return Err(Error::invalid(format_args!(
                "number of layers and diffIDs don't match: {} != {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        let chain = chain_ids(diff_ids);
        if let Some(snapshotter) = &self.snapshotter
            && snapshotter.copies()
        {
            let fetch = Self { snapshotter: None, ..self.clone() };
            Box::pin(fetch.run(layers, diff_ids)).await?;
            return self.stack(snapshotter.clone(), layers, diff_ids, &chain).await;
        }
        // The first failure stops the others; they are waited for, so that nothing of theirs is left.
        let (stop, stopped) = watch::channel(false);
        let begun = layers.iter().enumerate().map(|(i, descriptor)| {
            let place = diff_ids.get(i).zip(chain.get(i));
            self.clone().layer(descriptor.clone(), place, stopped.clone())
        });
        // Collected before it is polled: a stream of the iterator itself would not be `Send`.
        let begun: Vec<_> = begun.collect();
        let mut under_way = stream::iter(begun).buffered(SIDE_BY_SIDE);
        let mut failure = None;
        let mut below = String::new();
        let mut chain_id = chain.iter();
        while let Some(result) = under_way.next().await {
            let name = chain_id.next().map(ToString::to_string).unwrap_or_default();
            let committed = match result {
                Ok(Some((layer, applied))) if failure.is_none() => {
                    self.commit(layer, applied, name.clone(), below).await
                }
                Ok(_) => Ok(()),
                Err(e) => Err(e),
            };
            if let Err(e) = committed
                && failure.as_ref().is_none_or(|f: &Error| f.kind == Kind::Cancelled)
            {
                failure = Some(e);
                // All receivers being gone is as good as stopped.
                let _ = stop.send(true);
            }
            below = name;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Unpacks layers that are here one on the copy of the other, for a snapshotter that copies.
    async fn stack(
        &self,
        snapshotter: Snapshotter,
        layers: &[Descriptor],
        diff_ids: &[Digest],
        chain: &[Digest],
    ) -> Result<()> {
        let (ns, layers) = (self.ns.clone(), layers.to_vec());
        let (diff_ids, chain) = (diff_ids.to_vec(), chain.to_vec());
        self.store
            .blocking(move |store| {
                let mut below = String::new();
                for ((layer, diff_id), name) in layers.iter().zip(&diff_ids).zip(&chain) {
                    if !exists(&snapshotter, &ns, name)? {
                        stack_one(store, &snapshotter, &ns, layer, diff_id, name, &below)?;
                    }
                    below = name.to_string();
                }
                Ok(())
            })
            .await
    }

    async fn commit(
        &self,
        layer: Layer,
        applied: Applied,
        name: String,
        below: String,
    ) -> Result<()> {
        let Some(snapshotter) = self.snapshotter.clone() else { return Ok(()) };
        let ns = self.ns.clone();
        self.store
            .blocking(move |_| {
                let lower = if below.is_empty() || applied.implied.is_empty() {
                    Vec::new()
                } else {
                    snapshotter.directories(&ns, &below)?
                };
                diff::inherit(&layer.root(), &applied.implied, &lower)?;
                let labels = [("containerd.io/snapshot.ref".to_owned(), name.clone())];
                let options = SnapshotOptions { labels: labels.into(), lease: None };
                match snapshotter.commit_layer(&ns, layer, &name, &below, applied.usage, options) {
                    // Another pull was quicker.
                    Err(e) if e.kind == Kind::AlreadyExists => Ok(()),
                    done => done,
                }
            })
            .await
    }

    /// One layer: fetched, and unpacked to a place of its own where its snapshot is missing.
    async fn layer(
        self,
        descriptor: Descriptor,
        place: Option<(&Digest, &Digest)>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<Option<(Layer, Applied)>> {
        if *stopped.borrow() {
            return Err(Error::new(Kind::Cancelled, "stopped by another layer's failure"));
        }
        let labels = place
            .map(|(diff_id, _)| ("containerd.io/uncompressed".to_owned(), diff_id.to_string()));
        let target = match (&self.snapshotter, place) {
            (Some(snapshotter), Some((diff_id, chain_id)))
                if !exists(snapshotter, &self.ns, chain_id)? =>
            {
                Some((snapshotter.clone(), diff_id.clone()))
            }
            _ => None,
        };
        self.report(&descriptor, 0, false);
        let source = self.source(&descriptor, labels, &mut stopped).await?;
        let (store, ns) = (self.store.clone(), self.ns.clone());
        let blob = descriptor.clone();
        let work = store.blocking(move |store| match source {
            Source::Here => {
                target.map(|target| unpack_blob(store, &ns, &blob, &target)).transpose()
            }
            Source::Feed(feed) => receive(*feed, target),
        });
        let done = work.await.map_err(|e| match e.kind {
            Kind::Cancelled => e,
            _ => e.during(format_args!("layer {}", descriptor.digest)),
        })?;
        self.report(&descriptor, descriptor.size, true);
        Ok(done)
    }

    /// Fetches one blob that is not a layer.
    pub(super) async fn fetch(&self, descriptor: &Descriptor) -> Result<()> {
        let (_go, stopped) = watch::channel(false);
        let fetch = Self { snapshotter: None, ..self.clone() };
        fetch.layer(descriptor.clone(), None, stopped).await.map(drop)
    }

    pub(super) fn report(&self, descriptor: &Descriptor, offset: u64, done: bool) {
        if let Some(progress) = &self.progress {
            progress(Progress::of(descriptor, offset, done));
        }
    }

    /// Where a blob's bytes come from: here, or a download that has begun.
    async fn source(
        &self,
        descriptor: &Descriptor,
        label: Option<(String, String)>,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<Source> {
        let mut labels = self.labels.clone();
        labels.extend(label);
        let digest = descriptor.digest.clone();
        let options = WriterOptions {
            reference: format!("layer-{digest}"),
            total: descriptor.size,
            expected: Some(digest.clone()),
            labels: labels.clone(),
            lease: None,
        };
        let writer = loop {
            let (ns, options, labels) = (self.ns.clone(), options.clone(), labels.clone());
            let opened = self.store.blocking(move |store| {
                let expected = options.expected.clone();
                match (store.content().writer(&ns, options), expected) {
                    (Err(e), Some(digest)) if e.kind == Kind::AlreadyExists => {
                        store.content().add_labels(&ns, &digest, labels).map(|()| None)
                    }
                    (writer, _) => writer.map(Some),
                }
            });
            match opened.await {
                Ok(Some(writer)) => break writer,
                Ok(None) => return Ok(Source::Here),
                // Someone else is at it: another layer of this image, or another pull.
                Err(e) if e.kind == Kind::Unavailable => {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(20)) => {}
                        () = async { drop(stopped.wait_for(|stop| *stop).await) } => return Err(e),
                    }
                }
                Err(e) => return Err(e),
            }
        };
        let Some(repository) = self.repository.clone() else {
            self.store.blocking(move |_| writer.abort()).await?;
            return Err(Error::not_found(format_args!("content {digest}")));
        };
        let feed = Feed::new(writer, descriptor.clone(), labels, self.clone())?;
        let (feed, pieces) = feed;
        let (descriptor, mut stopped) = (descriptor.clone(), stopped.clone());
        let offset = feed.offset();
        tokio::spawn(async move {
            // A receiver that hangs up ends the download, and so does the failure of another layer.
            tokio::select! {
                () = repository.blob(&descriptor, offset, pieces.clone()) => {}
                () = pieces.closed() => {}
                () = async { drop(stopped.wait_for(|stop| *stop).await) } => {
                    let stop = Error::new(Kind::Cancelled, "stopped before its end");
                    let _ = pieces.send(Err(stop)).await;
                }
            }
        });
        Ok(Source::Feed(Box::new(feed)))
    }
}

enum Source {
    Here,
    Feed(Box<Feed>),
}

pub(super) fn exists(snapshotter: &Snapshotter, ns: &str, chain_id: &Digest) -> Result<bool> {
    match snapshotter.stat(ns, chain_id.as_str()) {
        Ok(_) => Ok(true),
        Err(e) if e.kind == Kind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

type Target = (Snapshotter, Digest);

static UNPACKS: AtomicU64 = AtomicU64::new(0);

/// One layer of [`Layers::stack`].
fn stack_one(
    store: &Store,
    snapshotter: &Snapshotter,
    ns: &str,
    layer: &Descriptor,
    diff_id: &Digest,
    name: &Digest,
    below: &str,
) -> Result<()> {
    let number = UNPACKS.fetch_add(1, Ordering::Relaxed);
    let key = format!("extract-{}-{number} {name}", std::process::id());
    let labels = Labels::from([("containerd.io/snapshot.ref".to_owned(), name.to_string())]);
    let options = SnapshotOptions { labels, lease: None };
    snapshotter.prepare(ns, &key, below, options.clone())?;
    let file = store.content().reader(ns, &layer.digest)?.into_file();
    let unpacked = snapshotter
        .directory(ns, &key)
        .and_then(|dir| diff::apply(BufReader::new(file), &dir, Whiteouts::Remove))
        .and_then(|applied| check(&applied, diff_id))
        .and_then(|()| snapshotter.commit(ns, name.as_str(), &key, options));
    match unpacked {
        Ok(()) => Ok(()),
        Err(e) => {
            snapshotter.remove(ns, &key)?;
            // Another pull was quicker.
            if e.kind == Kind::AlreadyExists {
                return Ok(());
            }
            Err(e.during(format_args!("layer {}", layer.digest)))
        }
    }
}

fn unpack_blob(
    store: &Store,
    ns: &str,
    blob: &Descriptor,
    (snapshotter, diff_id): &Target,
) -> Result<(Layer, Applied)> {
    let layer = snapshotter.layer()?;
    let file = store.content().reader(ns, &blob.digest)?.into_file();
    let source = BufReader::with_capacity(256 << 10, file);
    let applied = diff::apply(source, &layer.root(), Whiteouts::Overlay)?;
    check(&applied, diff_id)?;
    Ok((layer, applied))
}

fn check(applied: &Applied, diff_id: &Digest) -> Result<()> {
    if applied.diff_id == *diff_id {
        return Ok(());
    }
    Err(Error::precondition(format_args!(
        "wrong diff id {:?}, expected {:?}",
        applied.diff_id.as_str(),
        diff_id.as_str()
    )))
}

/// Takes a download to its end: to content, and to files if there is a target.
fn receive(mut feed: Feed, target: Option<Target>) -> Result<Option<(Layer, Applied)>> {
    let unpacked = target.map(|(snapshotter, diff_id)| -> Result<_> {
        let layer = snapshotter.layer()?;
        let applied = diff::apply(&mut feed, &layer.root(), Whiteouts::Overlay)?;
        check(&applied, &diff_id)?;
        Ok((layer, applied))
    });
    // The rest of the blob: all of it without a target, nothing after a good unpacking. After a bad
    // one it tells whether the blob was another one altogether, which explains it better.
    let fatal = matches!(&unpacked, Some(Err(e)) if e.kind == Kind::ResourceExhausted);
    let drained = if fatal { Ok(()) } else { feed.drain() };
    let wrong = feed.verify();
    match (unpacked.transpose(), drained, wrong) {
        (Ok(unpacked), Ok(()), Ok(())) => {
            feed.commit()?;
            Ok(unpacked)
        }
        (Err(e), _, _) if fatal => feed.abort(e),
        (_, Err(e), _) | (_, _, Err(e)) | (Err(e), _, _) => feed.abort(e),
    }
}
