//! From an image that is here to a name at a registry: what it is made of first, the name last, so
//! that a push that ends early leaves the name as it was.

use super::{
    Descriptor, Index, LARGEST_MANIFEST, Manifest, Platform, Progress,
    manifest::{media, nesting},
    reference::Reference,
    registry::{Access, Blob},
    unpack::{SIDE_BY_SIDE, Watcher},
};
use crate::{Digest, Error, Result, Store, error::During, metadata::Image};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::{collections::HashSet, fmt, sync::Arc};

/// What to push, and where to.
#[derive(Clone)]
pub struct Push {
    /// The namespace it is in.
    pub namespace: String,
    /// The image's name here.
    pub image: String,
    /// The full name that it gets there.
    pub reference: String,
    /// Which of an index's manifests go along; all of them when empty.
    pub platforms: Vec<Platform>,
    /// How the registry is reached.
    pub access: Access,
    /// Told how far each part is; called from several threads.
    pub progress: Option<Watcher>,
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push")
            .field("namespace", &self.namespace)
            .field("image", &self.image)
            .field("reference", &self.reference)
            .field("platforms", &self.platforms)
            .finish_non_exhaustive()
    }
}

impl Push {
    /// A push of all of `image` under its own name.
    pub fn new(namespace: &str, image: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            image: image.to_owned(),
            reference: image.to_owned(),
            platforms: Vec::new(),
            access: Access::default(),
            progress: None,
        }
    }

    fn report(&self, descriptor: &Descriptor, offset: u64, done: bool) {
        if let Some(progress) = &self.progress {
            progress(Progress::of(descriptor, offset, done));
        }
    }
}

/// All of an image in the order in which a registry takes it.
#[derive(Debug, Default)]
struct Plan {
    blobs: Vec<Descriptor>,
    /// Each after what it names; the image's own target is the last.
    manifests: Vec<(Descriptor, Vec<u8>)>,
}

impl Store {
    /// Pushes an image and answers what it is. What the registry has is not sent again.
    ///
    /// # Errors
    /// `NotFound` for an image or a part of it that is not here, before anything is sent;
    /// `Unauthenticated` or `PermissionDenied` when the registry does not want it from this caller;
    /// `Unavailable` for a registry that is gone.
    pub async fn push(&self, push: Push) -> Result<Descriptor> {
        let reference = Reference::parse(&push.reference)?;
        let repository = self.registry().target(&reference, &push.access)?;
        let asked = push.clone();
        // The garbage collector is not held off: a push can take long, and what it pushes is an
        // image, which the collector leaves alone unless somebody removes it meanwhile.
        let (target, plan) = self.blocking(move |store| plan(store, &asked)).await?;
        let pushing = async {
            let blobs = plan.blobs.into_iter().map(|descriptor| async {
                let digest = descriptor.digest.clone();
                let blob = self.blob(&push, &reference, descriptor).await?;
                push.report(&blob.descriptor, 0, false);
                repository.push_blob(&blob).await.during(|| format!("blob {digest}"))?;
                push.report(&blob.descriptor, blob.descriptor.size, true);
                Ok::<_, Error>(())
            });
            // Collected before it is polled: a stream of the iterator itself would not be `Send`.
            let blobs: Vec<_> = blobs.collect();
            stream::iter(blobs).buffer_unordered(SIDE_BY_SIDE).try_collect::<()>().await?;
            let count = plan.manifests.len();
            for (i, (descriptor, bytes)) in plan.manifests.into_iter().enumerate() {
                push.report(&descriptor, 0, false);
                repository
                    .push_manifest(&descriptor, bytes, i + 1 == count)
                    .await
                    .during(|| format!("manifest {}", descriptor.digest))?;
                push.report(&descriptor, descriptor.size, true);
            }
            Ok(())
        };
        pushing.await.during(|| format!("failed to push {:?}", push.reference))?;
        Ok(target)
    }

    async fn blob(
        &self,
        push: &Push,
        reference: &Reference,
        descriptor: Descriptor,
    ) -> Result<Blob> {
        let (ns, digest) = (push.namespace.clone(), descriptor.digest.clone());
        let (file, labels) = self
            .blocking(move |store| {
                let labels = store.content().info(&ns, &digest)?.labels;
                Ok((store.content().reader(&ns, &digest)?.into_file(), labels))
            })
            .await?;
        let sources = labels.get(&format!("containerd.io/distribution.source.{}", reference.host));
        let (push, watched) = (push.clone(), descriptor.clone());
        Ok(Blob {
            source: sources.and_then(|sources| nearest(sources, &reference.repository)),
            file: Arc::new(file),
            descriptor,
            watch: Arc::new(move |sent| push.report(&watched, sent, false)),
        })
    }
}

/// Of the repositories that a blob came from, the one that shares the most with `target`, which is
/// the likeliest to belong to the same user (containerd 1.6).
fn nearest(sources: &str, target: &str) -> Option<String> {
    let shared = |source: &str| {
        let both = source.split('/').zip(target.split('/'));
        both.take_while(|(a, b)| a == b).count()
    };
    let others = sources.split(',').filter(|source| !source.is_empty() && *source != target);
    others.max_by_key(|source| shared(source)).map(str::to_owned)
}

fn plan(store: &Store, push: &Push) -> Result<(Descriptor, Plan)> {
    let image: Image = store.metadata().get(&push.namespace, &push.image)?;
    let mut planning = Planning { store, push, plan: Plan::default(), seen: HashSet::new() };
    planning.tree(&image.target, 0)?;
    Ok((image.target, planning.plan))
}

struct Planning<'a> {
    store: &'a Store,
    push: &'a Push,
    plan: Plan,
    seen: HashSet<Digest>,
}

impl Planning<'_> {
    fn tree(&mut self, descriptor: &Descriptor, depth: usize) -> Result<()> {
        if !self.seen.insert(descriptor.digest.clone()) {
            return Ok(());
        }
        if !media::is_index(&descriptor.media_type) && !media::is_manifest(&descriptor.media_type) {
            return Err(Error::invalid(format_args!(
                "unexpected media type {} for {}",
                descriptor.media_type, descriptor.digest
            )));
        }
        let content = self.store.content();
        let bytes = content.read(&self.push.namespace, &descriptor.digest, LARGEST_MANIFEST)?;
        if media::is_index(&descriptor.media_type) {
            nesting(descriptor, depth)?;
            let index = Index::parse(&bytes)?;
            let platforms = &self.push.platforms;
            for child in index.manifests.iter().filter(|child| wanted(platforms, child)) {
                if media::is_index(&child.media_type) || media::is_manifest(&child.media_type) {
                    self.tree(child, depth + 1)?;
                } else {
                    self.blob(child)?;
                }
            }
        } else {
            let manifest = Manifest::parse(&bytes)?;
            for part in manifest.layers.iter().chain([&manifest.config]) {
                self.blob(part)?;
            }
        }
        self.plan.manifests.push((descriptor.clone(), bytes));
        Ok(())
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<()> {
        if self.seen.insert(descriptor.digest.clone()) {
            let here = self.store.content().info(&self.push.namespace, &descriptor.digest)?.size;
            if here != descriptor.size {
                return Err(Error::precondition(format_args!(
                    "blob {}: failed size validation: {here} != {}",
                    descriptor.digest, descriptor.size
                )));
            }
            self.plan.blobs.push(descriptor.clone());
        }
        Ok(())
    }
}

/// What names no platform is for all, and all are wanted by whoever names none.
fn wanted(platforms: &[Platform], child: &Descriptor) -> bool {
    child.platform.as_ref().is_none_or(|offered| {
        platforms.is_empty() || platforms.iter().any(|platform| platform.accepts(offered))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_source() {
        assert_eq!(nearest("a/b,c/d", "c/e").as_deref(), Some("c/d"));
        assert_eq!(nearest("c/e", "c/e"), None);
        assert_eq!(nearest("", "c/e"), None);
        assert_eq!(nearest("library/x", "mine"), Some("library/x".to_owned()));
    }
}
