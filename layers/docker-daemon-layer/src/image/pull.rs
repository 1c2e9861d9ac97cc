//! Pulls and image streams, through containerd's transfer service.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hops::{
    Cx, HopError, Inputs, Outputs, Result,
    containerd::Stream,
    docker::{Progress, models::ProgressDetail},
    proto::{
        Any,
        containerd::{
            services::{
                streaming::v1::StreamInit,
                transfer::v1::{TransferOptions, TransferRequest},
            },
            types::{
                Platform,
                transfer::{
                    Data, ImageExportStream, ImageImportStream, ImageReference, ImageStore,
                    OciRegistry, Progress as Step, RegistryResolver, UnpackConfiguration,
                    WindowUpdate,
                },
            },
        },
    },
};
use prost::{Message, Name};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Images, architecture};
use crate::names;

/// How many bytes the other side may send before it is told to go on, as containerd has it.
const WINDOW: i32 = 32 << 10;
/// The largest piece that is sent at once.
const PIECE: usize = 32 << 10;

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// The message in `packed`, if it is of that type.
fn unpack<M: Message + Name + Default>(packed: &Any) -> Option<M> {
    let name = packed.type_url.rsplit(['/', '.']).next();
    (name == Some(M::NAME)).then(|| M::decode(packed.value.as_slice()).ok())?
}

/// An open stream of containerd's: what it sends, and where to send to it.
struct Channel {
    id: String,
    output: Outputs<Any>,
    input: mpsc::Sender<Any>,
}

impl Images {
    fn store(&self, name: &str) -> ImageStore {
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: architecture().to_owned(),
            ..Platform::default()
        };
        ImageStore {
            name: name.to_owned(),
            platforms: vec![platform.clone()],
            unpacks: vec![UnpackConfiguration {
                platform: Some(platform),
                snapshotter: self.snapshotter.clone(),
            }],
            ..ImageStore::default()
        }
    }

    async fn open(&self, cx: &Cx) -> Result<Channel> {
        let id = names::id()?;
        let (input, sent) = mpsc::channel(16);
        let init = any(&StreamInit { id: id.clone() });
        input.send(init).await.map_err(|_| HopError::internal("the stream is closed"))?;
        let sent: Inputs<Any> = Box::pin(ReceiverStream::new(sent));
        let mut output = self.containerd.stream(&self.named(cx), Stream, sent).await?;
        // The answer to the name: from here on the transfer can take the stream up.
        output
            .next()
            .await
            .unwrap_or_else(|| Err(HopError::internal("containerd closed the stream")))?;
        Ok(Channel { id, output, input })
    }

    async fn transfer(&self, cx: &Cx, from: Any, to: Any, progress: String) -> Result<()> {
        let request = TransferRequest {
            source: Some(from),
            destination: Some(to),
            options: Some(TransferOptions { progress_stream: progress }),
        };
        self.containerd.handle(&self.named(cx), request).await
    }

    /// Pulls `reference` (a name in full), telling `progress` of the layers.
    ///
    /// # Errors
    /// containerd's, of which the registry's words are a part.
    pub(crate) async fn pull(
        &self,
        cx: &Cx,
        reference: &str,
        credentials: Option<String>,
        progress: &mpsc::Sender<Result<Progress>>,
    ) -> Result<()> {
        let headers: HashMap<String, String> =
            credentials.map(|basic| ("Authorization".to_owned(), basic)).into_iter().collect();
        let from = any(&OciRegistry {
            reference: reference.to_owned(),
            resolver: Some(RegistryResolver { headers, ..RegistryResolver::default() }),
        });
        let steps = self.open(cx).await?;
        let to = any(&self.store(reference));
        let mut output = steps.output;
        let transfer = self.transfer(cx, from, to, steps.id);
        tokio::pin!(transfer);
        let mut open = true;
        loop {
            tokio::select! {
                done = &mut transfer => {
                    self.forget(Some(reference));
                    return done;
                }
                step = output.next(), if open => match step {
                    Some(Ok(packed)) => {
                        if let Some(shown) = unpack::<Step>(&packed).and_then(shown) {
                            // A client that is gone does not stop the pull: the image is wanted by
                            // the next one.
                            let _ = progress.send(Ok(shown)).await;
                        }
                    }
                    _ => open = false,
                },
            }
        }
    }

    /// Gives an image one more name, or a name to another image.
    pub(crate) async fn tag(&self, cx: &Cx, from: &str, name: &str) -> Result<()> {
        let from = any(&ImageStore { name: from.to_owned(), ..ImageStore::default() });
        let to = any(&ImageStore { name: name.to_owned(), ..ImageStore::default() });
        let tagged = self.transfer(cx, from, to, String::new()).await;
        self.forget(Some(name));
        tagged
    }

    /// Imports an archive.
    ///
    /// # Errors
    /// containerd's.
    pub(crate) async fn import(&self, cx: &Cx, archive: Inputs<Bytes>) -> Result<()> {
        let channel = self.open(cx).await?;
        let from = any(&ImageImportStream { stream: channel.id, ..ImageImportStream::default() });
        let to = any(&self.store(""));
        let sending = send(archive, channel.input, channel.output);
        let transfer = self.transfer(cx, from, to, String::new());
        tokio::pin!(sending, transfer);
        let done = tokio::select! {
            done = &mut transfer => done,
            // The other side may need a while after the last byte.
            () = &mut sending => transfer.await,
        };
        self.forget(None);
        done
    }

    /// Exports images (names in full) as a `docker save` archive.
    ///
    /// # Errors
    /// containerd's, before the first byte; later ones end the stream.
    pub(crate) async fn export(&self, cx: &Cx, names: Vec<String>) -> Result<Outputs<Bytes>> {
        let channel = self.open(cx).await?;
        let mut names = names.into_iter();
        let from = any(&ImageStore {
            name: names.next().unwrap_or_default(),
            extra_references: names
                .map(|name| ImageReference { name, ..ImageReference::default() })
                .collect(),
            ..ImageStore::default()
        });
        let to = any(&ImageExportStream { stream: channel.id, ..ImageExportStream::default() });
        let request = TransferRequest { source: Some(from), destination: Some(to), options: None };
        let (containerd, cx) = (self.containerd.clone(), self.named(cx));
        let transfer = tokio::spawn(async move { containerd.handle(&cx, request).await });
        let state = (channel.output, channel.input, Some(transfer), 0);
        let update = any(&WindowUpdate { update: WINDOW });
        let _ = state.1.send(update).await;
        Ok(Box::pin(stream::unfold(state, |(mut output, input, mut transfer, got)| async move {
            loop {
                let ended = async {
                    match &mut transfer {
                        Some(transfer) => transfer.await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    item = output.next() => {
                        let data = unpack::<Data>(&item?.ok()?)?.data;
                        let got = got + data.len() as i32;
                        let update = any(&WindowUpdate { update: data.len() as i32 });
                        let _ = input.send(update).await;
                        return Some((Ok(data), (output, input, transfer, got)));
                    }
                    done = ended => {
                        transfer = None;
                        match done {
                            Ok(Err(error)) => return Some((Err(error), (output, input, transfer, got))),
                            // What was sent before the end may still be on its way.
                            _ => continue,
                        }
                    }
                }
            }
        })))
    }
}

/// Sends an archive, as much at a time as the other side asks for.
async fn send(mut archive: Inputs<Bytes>, input: mpsc::Sender<Any>, mut output: Outputs<Any>) {
    let mut window = 0i64;
    while let Some(mut bytes) = archive.next().await {
        while !bytes.is_empty() {
            while window <= 0 {
                match output.next().await {
                    Some(Ok(packed)) => {
                        window +=
                            unpack::<WindowUpdate>(&packed).map_or(0, |w| i64::from(w.update));
                    }
                    _ => return,
                }
            }
            let piece = bytes.split_to(bytes.len().min(PIECE).min(window as usize));
            window -= piece.len() as i64;
            if input.send(any(&Data { data: piece })).await.is_err() {
                return;
            }
        }
    }
    drop(input);
    // The reader still says how far it is; to hang up on it would be to break off.
    while output.next().await.is_some() {}
}

/// A step of containerd's as Docker's clients show it.
fn shown(step: Step) -> Option<Progress> {
    let digest = step.desc.map(|d| d.digest).filter(|d| !d.is_empty()).unwrap_or(step.name);
    let id = digest.strip_prefix("sha256:")?.get(..12)?.to_owned();
    let (status, measured) = match step.event.as_str() {
        "waiting" => ("Waiting", false),
        "downloading" => ("Downloading", true),
        "extracting" => ("Extracting", true),
        "complete" | "done" | "saved" => ("Download complete", false),
        "extracted" => ("Pull complete", false),
        "already exists" | "exists" => ("Already exists", false),
        _ => return None,
    };
    let detail = if measured {
        ProgressDetail { current: Some(step.progress), total: Some(step.total) }
    } else {
        ProgressDetail::default()
    };
    Some(Progress {
        status: Some(status.to_owned()),
        id: Some(id),
        detail: Some(detail),
        ..Progress::default()
    })
}
