//! Images: names that come, change and go, and the events that say so.

use super::{Subject, Verdict, mask, same, says, some};
use crate::{Digest, images::media};
use futures_util::StreamExt;
use hops::{
    Cx, HandleStream, Kind,
    proto::containerd::{
        services::{
            events::v1::{PublishRequest, SubscribeRequest},
            images::v1::{
                CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
                UpdateImageRequest,
            },
            namespaces::v1::DeleteNamespaceRequest,
        },
        types::Descriptor,
    },
};

const NAME: &str = "example.org/suite/image:1";

fn image(bytes: &[u8], labels: &[(&str, &str)]) -> Image {
    Image {
        name: NAME.to_owned(),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        target: Some(Descriptor {
            media_type: media::OCI_MANIFEST.to_owned(),
            digest: Digest::of(bytes).to_string(),
            size: 10,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn create(image: Image) -> CreateImageRequest {
    CreateImageRequest { image: Some(image), source_date_epoch: None }
}

pub(super) async fn chapter(subject: &Subject) -> Verdict {
    let (cx, ns) = subject.fresh("images");
    let filters = vec![format!("namespace=={ns},topic~=/^\\/(images|suite)/")];
    let (face, at) = (subject.face.clone(), cx.clone());
    // containerd says nothing on the stream, not even that it is open, until the first event.
    let mut subscribing = tokio::spawn(async move {
        let subscribe = SubscribeRequest { filters };
        let mut events = HandleStream::stream(&*face, &at, subscribe, hops::op::no_input()).await?;
        let first = events.next().await;
        Ok::<_, hops::HopError>((events, first))
    });
    let mut opened = None;
    for _ in 0..200 {
        let event = Some(Default::default());
        subject.call(&cx, PublishRequest { topic: "/suite/ready".into(), event }).await?;
        let patience = std::time::Duration::from_millis(50);
        if let Ok(joined) = tokio::time::timeout(patience, &mut subscribing).await {
            opened = Some(joined.map_err(|e| e.to_string())?);
            break;
        }
    }
    let opened = some("a first event", opened)?;
    let (mut events, first) = opened.map_err(|e| format!("Subscribe: {e}"))?;
    let first = some("first event", first)?.map_err(|e| format!("Subscribe: {e}"))?;
    same("first event", first.topic.as_str(), "/suite/ready")?;

    life(subject, &cx).await?;

    let mut topics = Vec::new();
    while topics.len() < 3 {
        let patience = std::time::Duration::from_secs(10);
        let next = tokio::time::timeout(patience, events.next()).await;
        let event = some("event", next.map_err(|_| format!("events: only {topics:?}"))?)?;
        let event = event.map_err(|e| format!("Subscribe: {e}"))?;
        same("namespace of the event", event.namespace.as_str(), ns.as_str())?;
        if event.topic != "/suite/ready" {
            topics.push(event.topic);
        }
    }
    same(
        "topics",
        topics,
        ["create", "update", "delete"].map(|t| format!("/images/{t}")).to_vec(),
    )?;
    let bad = PublishRequest { topic: "no slash".into(), event: Some(Default::default()) };
    subject.refused(&cx, bad, Kind::InvalidArgument).await?;
    subject.call(&cx, DeleteNamespaceRequest { name: ns }).await
}

async fn life(subject: &Subject, cx: &Cx) -> Verdict {
    subject.call(cx, create(image(b"one", &[("a", "1")]))).await?;
    let refusal = subject.refused(cx, create(image(b"two", &[])), Kind::AlreadyExists).await?;
    says(&refusal, NAME)?;
    let without = Image { target: None, ..image(b"one", &[]) };
    subject.refused(cx, create(without), Kind::InvalidArgument).await?;

    let update = UpdateImageRequest {
        image: Some(image(b"two", &[("b", "2")])),
        update_mask: Some(mask(&["target", "labels.b"])),
        source_date_epoch: None,
    };
    subject.call(cx, update).await?;
    let found = subject.call(cx, GetImageRequest { name: NAME.into() }).await?;
    let found = some("image", found.image)?;
    let wanted = Digest::of(b"two").to_string();
    same("target", some("target", found.target)?.digest, wanted)?;
    same("labels", found.labels.len(), 2)?;
    for (filter, wanted) in [(format!("name=={NAME}"), 1), ("labels.a==2".into(), 0)] {
        let found = subject.call(cx, ListImagesRequest { filters: vec![filter] }).await?;
        same("images", found.images.len(), wanted)?;
    }
    let bad = ListImagesRequest { filters: vec!["name=".into()] };
    subject.refused(cx, bad, Kind::InvalidArgument).await?;
    let delete = DeleteImageRequest { name: NAME.into(), sync: true, target: None };
    subject.call(cx, delete.clone()).await?;
    let refusal = subject.refused(cx, delete, Kind::NotFound).await?;
    says(&refusal, NAME)
}
