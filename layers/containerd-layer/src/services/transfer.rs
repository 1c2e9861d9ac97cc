//! `Transfer`: images from where they are to where they are wanted, in one call (containerd 1.7).
//!
//! | from | to | |
//! | --- | --- | --- |
//! | registry | image store | pull, and unpack where asked |
//! | stream | image store | import |
//! | image store | stream | export |
//! | image store | registry | push |
//! | image store | image store | another name |

use super::{
    any,
    convert::{labels_in, labels_out, platform_in},
    namespace, required, resolver,
    streaming::unpack,
    verbs,
};
use crate::{
    Engine, Error, Kind, Result,
    images::{Platform, Progress, import::Import, pull::Pull, push::Push},
    metadata::Image,
};
use hops::proto::{
    Any,
    containerd::{
        services::{
            images::v1::{ImageCreate, ImageUpdate},
            transfer::v1::TransferRequest,
        },
        types::{
            self,
            transfer::{
                ImageExportStream, ImageImportStream, ImageStore, OciRegistry,
                Progress as ProgressMessage,
            },
        },
    },
};
use std::{io::Write, sync::Arc};
use tokio::sync::mpsc::{self, error::TrySendError};

/// An end of a transfer that this daemon knows.
#[derive(Debug)]
enum End {
    Registry(OciRegistry),
    Store(ImageStore),
    Import(ImageImportStream),
    Export(ImageExportStream),
}

impl End {
    fn of(packed: &Any) -> Result<End> {
        let known = [
            unpack(packed)?.map(End::Registry),
            unpack(packed)?.map(End::Store),
            unpack(packed)?.map(End::Import),
            unpack(packed)?.map(End::Export),
        ];
        known.into_iter().flatten().next().ok_or_else(|| {
            Error::unimplemented(format_args!(
                "unable to resolve transfer type {}",
                packed.type_url
            ))
        })
    }
}

verbs! {
    TransferRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let source = required(op.source, "source")?;
        let destination = required(op.destination, "destination")?;
        let progress = op.options.unwrap_or_default().progress_stream;
        let progress = if progress.is_empty() {
            None
        } else {
            Some(engine.streams().take(&ns, &progress)?.output)
        };
        match (End::of(&source)?, End::of(&destination)?) {
            (End::Registry(from), End::Store(to)) => engine.pull(&ns, from, to, progress).await?,
            (End::Import(from), End::Store(to)) => engine.import(&ns, &from, to).await?,
            (End::Store(from), End::Export(to)) => engine.export(&ns, from, to).await?,
            (End::Store(from), End::Registry(to)) => engine.push(&ns, from, to, progress).await?,
            (End::Store(from), End::Store(to)) => engine.tag(&ns, &from, to).await?,
            _ => {
                return Err(Error::unimplemented(format_args!(
                    "transfer from {} to {}", source.type_url, destination.type_url
                )).into());
            }
        }
        Ok(())
    }
}

impl Engine {
    async fn pull(
        &self,
        ns: &str,
        from: OciRegistry,
        to: ImageStore,
        progress: Option<mpsc::Sender<Any>>,
    ) -> Result<()> {
        let name = if to.name.is_empty() { from.reference.clone() } else { to.name.clone() };
        let (platform, snapshotter) = wanted(&to);
        let mut pull = Pull {
            platform,
            snapshotter,
            access: resolver::access(self.streams(), ns, &from)?,
            labels: labels_in(to.labels),
            ..Pull::new(ns, &from.reference)
        };
        if let Some(progress) = progress {
            pull = pull.watched(reported(progress, "downloading"));
        }
        let (known, known_as) = (self.has_image(ns, &name)?, self.has_image(ns, &from.reference)?);
        let image = self.store().pull(pull).await?;
        if name != image.name {
            self.rename(ns, image, &name, known_as).await?;
        }
        self.named(ns, &name, known)
    }

    async fn push(
        &self,
        ns: &str,
        from: ImageStore,
        to: OciRegistry,
        progress: Option<mpsc::Sender<Any>>,
    ) -> Result<()> {
        let push = Push {
            platforms: from.platforms.into_iter().map(platform_in).collect(),
            access: resolver::access(self.streams(), ns, &to)?,
            progress: progress.map(|p| Arc::new(reported(p, "uploading")) as _),
            reference: to.reference,
            ..Push::new(ns, &from.name)
        };
        self.store().push(push).await.map(drop)
    }

    /// Gives a pulled image the name that was asked for in place of the one it came by.
    async fn rename(&self, ns: &str, image: Image, name: &str, keep: bool) -> Result<()> {
        let (ns, name) = (ns.to_owned(), name.to_owned());
        self.blocking(move |store| {
            store.set_image(&ns, &name, image.target, image.labels)?;
            if keep {
                return Ok(());
            }
            store.metadata().change(|tx| tx.remove::<Image>(&ns, &image.name).map(drop))
        })
        .await
    }

    async fn import(&self, ns: &str, from: &ImageImportStream, to: ImageStore) -> Result<()> {
        let archive = self.streams().take(ns, &from.stream)?.reader();
        let (_, snapshotter) = wanted(&to);
        let reference = to.extra_references.first().map(|r| r.name.clone());
        let import = Import {
            namespace: ns.to_owned(),
            base_name: reference.filter(|name| !name.is_empty()),
            name: Some(to.name).filter(|name| !name.is_empty()),
            snapshotter,
            labels: labels_in(to.labels),
        };
        let known: Vec<String> =
            self.store().metadata().list::<Image>(ns)?.into_iter().map(|(name, _)| name).collect();
        for image in self.store().import(archive, import).await? {
            self.named(ns, &image.name, known.contains(&image.name))?;
        }
        Ok(())
    }

    async fn export(&self, ns: &str, from: ImageStore, to: ImageExportStream) -> Result<()> {
        let mut archive = self.streams().take(ns, &to.stream)?.writer();
        let more = from.extra_references.into_iter().map(|r| r.name);
        let names: Vec<String> =
            [from.name].into_iter().chain(more).filter(|name| !name.is_empty()).collect();
        let platform = to.platforms.into_iter().next().map_or_else(Platform::host, platform_in);
        let ns = ns.to_owned();
        self.blocking(move |store| {
            let mut buffered = std::io::BufWriter::with_capacity(256 << 10, &mut archive);
            store.export(&ns, &names, &platform, &mut buffered)?;
            buffered.flush().map_err(|e| Error::io("writing the image archive", &e))
        })
        .await
    }

    async fn tag(&self, ns: &str, from: &ImageStore, to: ImageStore) -> Result<()> {
        let image: Image = self.store().metadata().get(ns, &from.name)?;
        let known = self.has_image(ns, &to.name)?;
        let (within, name) = (ns.to_owned(), to.name.clone());
        self.blocking(move |s| s.set_image(&within, &name, image.target, labels_in(to.labels)))
            .await?;
        self.named(ns, &to.name, known)
    }

    fn has_image(&self, ns: &str, name: &str) -> Result<bool> {
        match self.store().metadata().get::<Image>(ns, name) {
            Ok(_) => Ok(true),
            Err(e) if e.kind == Kind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Says that an image is there, or is another one now.
    fn named(&self, ns: &str, name: &str, known: bool) -> Result<()> {
        let image: Image = self.store().metadata().get(ns, name)?;
        let (name, labels) = (image.name, labels_out(image.labels));
        if known {
            self.events().emit(ns, "/images/update", &ImageUpdate { name, labels });
        } else {
            self.events().emit(ns, "/images/create", &ImageCreate { name, labels });
        }
        Ok(())
    }
}

/// The platform that an image store wants, and the snapshotter it wants it unpacked for.
fn wanted(store: &ImageStore) -> (Platform, Option<String>) {
    let unpack = store.unpacks.first();
    let platform = unpack.and_then(|u| u.platform.clone()).or(store.platforms.first().cloned());
    let platform = platform.filter(|p| !p.architecture.is_empty());
    let snapshotter = unpack.map(|u| match u.snapshotter.as_str() {
        "" => "overlayfs".to_owned(),
        name => name.to_owned(),
    });
    (platform.map_or_else(Platform::host, platform_in), snapshotter)
}

/// Has a client told of every step, in containerd's words.
fn reported(
    progress: mpsc::Sender<Any>,
    step: &'static str,
) -> impl Fn(Progress) + Send + Sync + 'static {
    move |p| {
        let done = p.done;
        let message = any(&progress_message(p, step));
        // A client that does not keep up misses steps on the way, never an end: a bar that nobody
        // completes would stand for as long as the client does. The transfer waits for neither.
        if let Err(TrySendError::Full(message)) = progress.try_send(message)
            && done
        {
            let progress = progress.clone();
            tokio::spawn(async move { progress.send(message).await });
        }
    }
}

fn progress_message(progress: Progress, step: &str) -> ProgressMessage {
    ProgressMessage {
        event: if progress.done { "complete" } else { step }.to_owned(),
        name: progress.digest.to_string(),
        progress: progress.offset.cast_signed(),
        total: progress.total.cast_signed(),
        desc: Some(types::Descriptor {
            media_type: progress.media_type,
            digest: progress.digest.to_string(),
            size: progress.total.cast_signed(),
            ..Default::default()
        }),
        ..Default::default()
    }
}
