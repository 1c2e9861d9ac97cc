//! Images: list, inspect, history, tag, remove, pull, load, save.

use std::collections::{BTreeMap, HashMap, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use hops::{
    Cx, Handle, HandleStream, HopError, Inputs, Kind, Outputs, Result,
    cx::REGISTRY_AUTH_HEADER,
    docker::{
        Flag, ImageCreate, ImageDocument, ImageHistory, ImageInspect, ImageList, ImageLoad,
        ImageRemove, ImageSave, ImageSummary, ImageTag, Json, Progress, Request,
        models::{
            self, DriverData, EventMessageTypeEnum, ImageConfig, ImageDeleteResponseItem,
            ImageHistoryResponseItem, ImageInspectRootFs,
        },
    },
    proto::containerd::services::images::v1::DeleteImageRequest,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Engine, conflict, filters::Filters};
use crate::{
    image::{Image, archive::Names, reference::Reference},
    names, time,
};

/// The names and digests of one image.
#[derive(Default)]
struct Known {
    tags: Vec<String>,
    digests: Vec<String>,
}

impl Known {
    fn add(&mut self, name: &str, target: &str) {
        let Ok(reference) = Reference::parse(name) else { return };
        let digest = format!("{}@{target}", reference.familiar_name());
        if reference.digest.is_none() {
            self.tags.push(reference.familiar());
        }
        if !self.digests.contains(&digest) {
            self.digests.push(digest);
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

impl Engine {
    async fn known(&self, cx: &Cx, image: &Image) -> Result<Known> {
        let mut known = Known::default();
        for (stored, other) in self.images.list(cx).await? {
            if other.id == image.id {
                known.add(&stored.name, &other.target);
            }
        }
        known.tags.sort();
        Ok(known)
    }

    fn image_event(&self, action: &str, image: &Image, name: &str) {
        let labels: HashMap<String, String> =
            serde_json::from_value(image.config()["Labels"].clone()).unwrap_or_default();
        let mut attributes = labels;
        attributes.insert("name".to_owned(), name.to_owned());
        self.events.tell(EventMessageTypeEnum::IMAGE, action, &image.id, attributes);
    }
}

#[async_trait]
impl Handle<Request<ImageInspect>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ImageInspect>) -> Result<Json<ImageDocument>> {
        let image = self.images.find(cx, &call.id).await?;
        let known = self.known(cx, &image).await?;
        let size = self.images.sizes(cx, &image).await.iter().sum();
        let document = &image.document;
        let config: ImageConfig =
            serde_json::from_value(document["config"].clone()).unwrap_or_default();
        let comment = document["history"].as_array().and_then(|h| text(&h.last()?["comment"]));
        Ok(Json(ImageDocument {
            base: models::ImageInspect {
                id: Some(image.id.clone()),
                repo_tags: Some(known.tags),
                repo_digests: Some(known.digests),
                comment: Some(comment.unwrap_or_default()),
                created: text(&document["created"]),
                author: Some(text(&document["author"]).unwrap_or_default()),
                config: Some(config),
                architecture: text(&document["architecture"]),
                variant: text(&document["variant"]),
                os: text(&document["os"]),
                size: Some(size),
                graph_driver: Some(DriverData {
                    name: self.config.snapshotter.clone(),
                    data: HashMap::new(),
                }),
                root_fs: Some(ImageInspectRootFs {
                    typ: "layers".to_owned(),
                    layers: Some(image.diff_ids.clone()),
                }),
                ..models::ImageInspect::default()
            },
            docker_version: text(&document["docker_version"]).unwrap_or_default(),
            container: text(&document["container"]).unwrap_or_default(),
            parent: String::new(),
            virtual_size: size,
        }))
    }
}

#[async_trait]
impl Handle<Request<ImageList>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ImageList>) -> Result<Json<Vec<ImageSummary>>> {
        let filters = Filters::parse(
            call.query.filters.as_deref(),
            &["before", "dangling", "label", "reference", "since"],
        )?;
        let mut images: BTreeMap<String, (std::sync::Arc<Image>, Known)> = BTreeMap::new();
        for (stored, image) in self.images.list(cx).await? {
            let entry =
                images.entry(image.id.clone()).or_insert_with(|| (image.clone(), Known::default()));
            entry.1.add(&stored.name, &image.target);
        }
        let created =
            |image: &Image| image.document["created"].as_str().and_then(time::parse).unwrap_or(0);
        let mut bounds = [None, None];
        for (at, key) in ["before", "since"].into_iter().enumerate() {
            if let Some(name) = filters.values(key).first() {
                bounds[at] = Some(created(&*self.images.find(cx, name).await?));
            }
        }
        let mut list = Vec::new();
        for (image, mut known) in images.into_values() {
            let labels: HashMap<String, String> =
                serde_json::from_value(image.config()["Labels"].clone()).unwrap_or_default();
            let at = created(&image);
            let wanted = filters.labels(Some(&labels))
                && bounds[0].is_none_or(|before| at < before)
                && bounds[1].is_none_or(|since| at > since)
                && filters.any("dangling", |v| matches!(v, "true" | "1") == known.tags.is_empty())
                && filters.any("reference", |pattern| {
                    known.tags.iter().any(|tag| {
                        let name = tag.rsplit_once(':').map_or(tag.as_str(), |(name, _)| name);
                        matches(pattern, tag) || matches(pattern, name)
                    })
                });
            if !wanted {
                continue;
            }
            known.tags.sort();
            let size = self.images.sizes(cx, &image).await.iter().sum();
            list.push(ImageSummary {
                base: models::ImageSummary {
                    id: image.id.clone(),
                    repo_tags: known.tags,
                    repo_digests: known.digests,
                    created: at / 1_000_000_000,
                    size,
                    shared_size: -1,
                    containers: -1,
                    labels,
                    ..models::ImageSummary::default()
                },
                virtual_size: size,
            });
        }
        list.sort_by_key(|i| std::cmp::Reverse(i.base.created));
        Ok(Json(list))
    }
}

/// Whether `text` fits a pattern with `*` and `?`, neither of which stands for a slash.
fn matches(pattern: &str, text: &str) -> bool {
    fn fits(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                fits(&pattern[1..], text)
                    || text.first().is_some_and(|b| *b != b'/') && fits(pattern, &text[1..])
            }
            (Some(b'?'), Some(b)) => *b != b'/' && fits(&pattern[1..], &text[1..]),
            (Some(p), Some(b)) => p == b && fits(&pattern[1..], &text[1..]),
            _ => false,
        }
    }
    fits(pattern.as_bytes(), text.as_bytes())
}

#[async_trait]
impl Handle<Request<ImageHistory>> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        call: Request<ImageHistory>,
    ) -> Result<Json<Vec<ImageHistoryResponseItem>>> {
        let image = self.images.find(cx, &call.id).await?;
        let known = self.known(cx, &image).await?;
        let mut sizes = self.images.sizes(cx, &image).await.iter();
        let mut list: Vec<ImageHistoryResponseItem> = image.document["history"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| {
                let empty = entry["empty_layer"] == true;
                let size = if empty { 0 } else { sizes.next().copied().unwrap_or(0) };
                let at = entry["created"].as_str().and_then(time::parse).unwrap_or(0);
                ImageHistoryResponseItem {
                    id: "<missing>".to_owned(),
                    created: at / 1_000_000_000,
                    created_by: text(&entry["created_by"]).unwrap_or_default(),
                    size,
                    comment: text(&entry["comment"]).unwrap_or_default(),
                    ..ImageHistoryResponseItem::default()
                }
            })
            .collect();
        list.reverse();
        if let Some(top) = list.first_mut() {
            top.id = image.id.clone();
            top.tags = known.tags;
        }
        Ok(Json(list))
    }
}

#[async_trait]
impl Handle<Request<ImageTag>> for Engine {
    async fn handle(&self, cx: &Cx, call: Request<ImageTag>) -> Result<()> {
        let repo = call.query.repo.unwrap_or_default();
        let mut new = Reference::parse(&repo)?;
        if let Some(tag) = call.query.tag.filter(|t| !t.is_empty()) {
            new = Reference::parse(&format!("{}:{tag}", new.familiar_name()))?;
        }
        if new.digest.is_some() {
            return Err(HopError::invalid("refusing to create a tag with a digest reference"));
        }
        let new = new.tagged();
        let image = self.images.find(cx, &call.id).await?;
        let stored = self.images.list(cx).await?;
        let from = stored
            .iter()
            .find(|(_, i)| i.target == image.target)
            .ok_or_else(|| HopError::not_found(format!("No such image: {}", call.id)))?;
        self.images.tag(cx, &from.0.name, &new.full()).await?;
        self.image_event("tag", &image, &new.familiar());
        Ok(())
    }
}

#[async_trait]
impl Handle<Request<ImageRemove>> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        call: Request<ImageRemove>,
    ) -> Result<Json<Vec<ImageDeleteResponseItem>>> {
        let force = call.query.force.is_some_and(|Flag(on)| on);
        let image = self.images.find(cx, &call.id).await?;
        let all: Vec<String> = self
            .images
            .list(cx)
            .await?
            .into_iter()
            .filter(|(_, i)| i.id == image.id)
            .map(|(stored, _)| stored.name)
            .collect();
        let named = Reference::parse(&call.id).ok().map(|r| r.tagged().full());
        let named = named.filter(|name| all.contains(name));
        let users: Vec<_> =
            self.all().iter().map(|c| c.record()).filter(|r| r.image_id == image.id).collect();
        let running = users.iter().find(|r| r.state.phase.runs());
        let shown = names::short(image.id.trim_start_matches("sha256:")).to_owned();
        let doomed = match named {
            Some(name) => {
                if all.len() == 1
                    && let Some(user) = users.first().filter(|_| !force)
                {
                    let familiar = Reference::parse(&name).map(|r| r.familiar()).unwrap_or(name);
                    return Err(conflict(format!(
                        "conflict: unable to remove repository reference \"{familiar}\" (must \
                         force) - container {} is using its referenced image {shown}",
                        names::short(&user.id)
                    )));
                }
                vec![name]
            }
            None => {
                let repositories: HashSet<String> = all
                    .iter()
                    .filter_map(|n| Reference::parse(n).ok().map(|r| r.familiar_name()))
                    .collect();
                let words = if let Some(user) = running {
                    Some(format!(
                        "(cannot be forced) - image is being used by running container {}",
                        names::short(&user.id)
                    ))
                } else if force {
                    None
                } else if repositories.len() > 1 {
                    Some(
                        "(must be forced) - image is referenced in multiple repositories"
                            .to_owned(),
                    )
                } else {
                    users.first().map(|user| {
                        format!(
                            "(must be forced) - image is being used by stopped container {}",
                            names::short(&user.id)
                        )
                    })
                };
                if let Some(words) = words {
                    return Err(conflict(format!("conflict: unable to delete {shown} {words}")));
                }
                all.clone()
            }
        };
        let mut items = Vec::new();
        let last = doomed.len() == all.len();
        for name in doomed {
            // The blobs go with the last name, before the answer.
            let delete = DeleteImageRequest {
                name: name.clone(),
                sync: last,
                ..DeleteImageRequest::default()
            };
            self.containerd.handle(&self.named(cx), delete).await?;
            self.images.forget(Some(&name));
            let familiar = Reference::parse(&name).map(|r| r.familiar()).unwrap_or(name);
            self.image_event("untag", &image, &familiar);
            items.push(ImageDeleteResponseItem { untagged: Some(familiar), deleted: None });
        }
        if last {
            items.push(ImageDeleteResponseItem { untagged: None, deleted: Some(image.id.clone()) });
            items.extend(image.chain.iter().rev().map(|layer| ImageDeleteResponseItem {
                untagged: None,
                deleted: Some(layer.clone()),
            }));
            self.image_event("delete", &image, &image.id);
        }
        Ok(Json(items))
    }
}

/// `Basic …` of what a client sent as its registry credentials: base64url of an `AuthConfig`.
fn credentials(header: Option<&str>) -> Result<Option<String>> {
    let Some(header) = header.filter(|h| !h.is_empty()) else { return Ok(None) };
    let invalid = || HopError::invalid("invalid X-Registry-Auth header: invalid JSON");
    let document = base64(header).ok_or_else(invalid)?;
    let auth: Value = serde_json::from_slice(&document).map_err(|_| invalid())?;
    let user = auth["username"].as_str().unwrap_or_default();
    if user.is_empty() {
        return Ok(None);
    }
    let password = auth["password"].as_str().unwrap_or_default();
    Ok(Some(format!("Basic {}", to_base64(format!("{user}:{password}").as_bytes()))))
}

fn base64(text: &str) -> Option<Vec<u8>> {
    use ::base64::{
        Engine as _, alphabet,
        engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    };
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet::URL_SAFE, config).decode(text).ok()
}

fn to_base64(bytes: &[u8]) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// What dockerd says when a registry does not give an image.
fn pull_failure(error: HopError, reference: &Reference) -> HopError {
    let name = reference.familiar_name();
    let words = error.message.to_lowercase();
    let refused = matches!(error.kind, Kind::Unauthenticated | Kind::PermissionDenied)
        || words.contains("401 unauthorized")
        || words.contains("insufficient_scope");
    if refused {
        let mut denied = error.context(format!(
            "pull access denied for {name}, repository does not exist or may require 'docker login'"
        ));
        denied.kind = Kind::NotFound;
        return denied;
    }
    if error.is_not_found() {
        let full = match reference.domain.as_str() {
            "docker.io" => reference.familiar(),
            _ => reference.full(),
        };
        let mut missing = error.context(format!("manifest for {full} not found: manifest unknown"));
        missing.kind = Kind::NotFound;
        return missing;
    }
    error
}

#[async_trait]
impl HandleStream<Request<ImageCreate>> for Engine {
    async fn stream(
        &self,
        cx: &Cx,
        call: Request<ImageCreate>,
        _input: Inputs<Bytes>,
    ) -> Result<Outputs<Json<Progress>>> {
        let query = call.query;
        if query.from_src.as_deref().is_some_and(|s| !s.is_empty()) {
            return Err(HopError::new(
                Kind::Unimplemented,
                "images are not imported from a root filesystem: load an image archive",
            ));
        }
        let from = query.from_image.unwrap_or_default();
        let mut reference = Reference::parse(&from)?;
        match query.tag.filter(|t| !t.is_empty()) {
            Some(tag) if tag.contains(':') => {
                reference = Reference::parse(&format!("{}@{tag}", reference.familiar_name()))?;
            }
            Some(tag) => {
                reference = Reference::parse(&format!("{}:{tag}", reference.familiar_name()))?;
            }
            None => {}
        }
        let reference = reference.tagged();
        let credentials = credentials(cx.get(REGISTRY_AUTH_HEADER))?;
        if let Some(platform) = query.platform.filter(|p| !p.is_empty()) {
            let own = format!("linux/{}", crate::image::architecture());
            if platform != own && !platform.starts_with(&format!("{own}/")) {
                return Err(HopError::invalid(format!(
                    "image with reference {} was found but does not match the specified \
                     platform: wanted {platform}, actual: {own}",
                    reference.familiar()
                )));
            }
        }
        let full = reference.full();
        let before =
            self.images.find(cx, &reference.familiar()).await.ok().map(|i| i.target.clone());
        let (sender, receiver) = mpsc::channel(16);
        let (engine, cx) = (self.clone(), cx.clone());
        let label = reference.digest.clone().or(reference.tag.clone()).unwrap_or_default();
        let first = Progress {
            status: Some(format!("Pulling from {}", reference.path)),
            id: Some(label),
            ..Progress::default()
        };
        tokio::spawn(async move {
            let say = |progress: Progress| sender.send(Ok(progress));
            let _ = say(first).await;
            let pulled = engine.images.pull(&cx, &full, credentials, &sender).await;
            let image = match pulled {
                Ok(()) => engine.images.find(&cx, &reference.familiar()).await,
                Err(error) => Err(pull_failure(error, &reference)),
            };
            match image {
                Ok(image) => {
                    engine.image_event("pull", &image, &reference.familiar());
                    let status =
                        |words: String| Progress { status: Some(words), ..Progress::default() };
                    let what = if before.as_ref() == Some(&image.target) {
                        "Image is up to date for"
                    } else {
                        "Downloaded newer image for"
                    };
                    let _ = say(status(format!("Digest: {}", image.target))).await;
                    let _ = say(status(format!("Status: {what} {}", reference.familiar()))).await;
                }
                Err(error) => drop(sender.send(Err(error)).await),
            }
        });
        Ok(first_or_error(ReceiverStream::new(receiver)).await?)
    }
}

/// An error that comes before any layer is the answer itself, with a status of its own.
async fn first_or_error(
    mut steps: ReceiverStream<Result<Progress>>,
) -> Result<Outputs<Json<Progress>>> {
    let mut begun = Vec::new();
    while begun.len() < 2 {
        match steps.next().await {
            Some(Ok(step)) => begun.push(Ok(Json(step))),
            Some(Err(error)) if error.is_not_found() || begun.is_empty() => return Err(error),
            Some(Err(error)) => {
                begun.push(Err(error));
                break;
            }
            None => break,
        }
    }
    Ok(Box::pin(futures_util::stream::iter(begun).chain(steps.map(|s| s.map(Json)))))
}

#[async_trait]
impl HandleStream<Request<ImageLoad>> for Engine {
    async fn stream(
        &self,
        cx: &Cx,
        _call: Request<ImageLoad>,
        input: Inputs<Bytes>,
    ) -> Result<Outputs<Json<Progress>>> {
        let (sender, receiver) = mpsc::channel(16);
        let (engine, cx) = (self.clone(), cx.clone());
        tokio::spawn(async move {
            let names = std::sync::Arc::new(std::sync::Mutex::new(Names::default()));
            let seen = names.clone();
            let watched = input.inspect(move |bytes| super::lock(&seen).feed(bytes));
            let loaded = engine.images.import(&cx, Box::pin(watched)).await;
            if let Err(error) = loaded {
                let _ = sender.send(Err(error)).await;
                return;
            }
            let (found, ids) = std::mem::take(&mut *super::lock(&names)).found();
            // An archive may name an image in both of its forms.
            let familiar = |name: String| {
                Reference::parse(&name).map(|r| r.tagged().familiar()).unwrap_or(name)
            };
            let found: std::collections::BTreeSet<String> =
                found.into_iter().map(familiar).collect();
            for shown in found {
                if let Ok(image) = engine.images.find(&cx, &shown).await {
                    engine.image_event("load", &image, &image.id);
                }
                let words = Some(format!("Loaded image: {shown}\n"));
                let _ =
                    sender.send(Ok(Json(Progress { stream: words, ..Progress::default() }))).await;
            }
            for id in ids {
                let words = Some(format!("Loaded image ID: sha256:{id}\n"));
                let _ =
                    sender.send(Ok(Json(Progress { stream: words, ..Progress::default() }))).await;
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

#[async_trait]
impl HandleStream<Request<ImageSave>> for Engine {
    async fn stream(
        &self,
        cx: &Cx,
        call: Request<ImageSave>,
        _input: Inputs<Bytes>,
    ) -> Result<Outputs<Bytes>> {
        let asked = call.query.names.unwrap_or_default();
        let mut list = Vec::new();
        for name in asked.split(',').filter(|n| !n.is_empty()) {
            let image = self.images.find(cx, name).await?;
            let full = Reference::parse(name).ok().map(|r| r.tagged().full());
            let stored = self.images.list(cx).await?;
            let of_image = || stored.iter().filter(|(_, i)| i.id == image.id);
            let known = of_image()
                .find(|(s, _)| Some(&s.name) == full.as_ref())
                .or_else(|| of_image().next());
            list.extend(known.map(|(s, _)| s.name.clone()));
        }
        if list.is_empty() {
            return Err(HopError::invalid("no image was named"));
        }
        self.images.export(cx, list).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_decoded_whatever_their_padding() {
        assert_eq!(credentials(None).unwrap(), None);
        assert_eq!(credentials(Some("e30=")).unwrap(), None);
        let header = to_base64(br#"{"username":"u","password":"p"}"#).replace('=', "");
        assert_eq!(credentials(Some(&header)).unwrap().unwrap(), "Basic dTpw");
        assert!(credentials(Some("!")).is_err());
    }

    #[test]
    fn references_match_patterns() {
        assert!(matches("busy*", "busybox:latest") && matches("*/x", "a/x"));
        assert!(!matches("*", "a/x") && !matches("a?", "a"));
    }
}
