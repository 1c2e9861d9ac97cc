//! `Images`: names for content.

use super::{
    convert::{descriptor_in, descriptor_out, labels_in, labels_out, relabel_one},
    namespace, required, stamp, verbs,
};
use crate::{
    Error, Result,
    filters::Filters,
    images::Descriptor,
    metadata::{Image, identifier},
};
use hops::proto::containerd::{
    services::images::v1::{
        CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest,
        GetImageResponse, Image as Message, ImageCreate, ImageDelete, ImageUpdate,
        ListImagesRequest, ListImagesResponse, UpdateImageRequest, UpdateImageResponse,
    },
    types,
};
use std::time::SystemTime;

fn message(image: Image) -> Message {
    Message {
        name: image.name,
        labels: labels_out(image.labels),
        target: Some(descriptor_out(image.target)),
        created_at: stamp(image.created_at),
        updated_at: stamp(image.updated_at),
    }
}

/// A new image as a message describes it, checked.
fn image(message: Message) -> Result<Image> {
    if message.name.is_empty() {
        return Err(Error::invalid("image name must not be empty"));
    }
    let now = SystemTime::now();
    let image = Image {
        name: message.name,
        target: target(message.target)?,
        labels: labels_in(message.labels),
        created_at: now,
        updated_at: now,
    };
    identifier::validate_labels(&image.labels)?;
    Ok(image)
}

fn target(target: Option<types::Descriptor>) -> Result<Descriptor> {
    let target = target.unwrap_or_default();
    if target.digest.is_empty() {
        return Err(Error::invalid("Target.Digest \"\" invalid: invalid checksum digest format"));
    }
    if target.size <= 0 {
        return Err(Error::invalid("image target size must be greater than zero"));
    }
    if target.media_type.is_empty() {
        return Err(Error::invalid("image must have target media type"));
    }
    descriptor_in(target)
}

/// Takes over what the mask names from `new`; without a mask everything but the creation time.
fn merge(record: &mut Image, new: Message, mask: &[String]) -> Result<()> {
    if mask.is_empty() {
        *record = Image { created_at: record.created_at, ..image(new)? };
        return Ok(());
    }
    for path in mask {
        match path.as_str() {
            "labels" => record.labels = labels_in(new.labels.clone()),
            "target" => record.target = target(new.target.clone())?,
            "annotations" => {
                let annotations = new.target.clone().unwrap_or_default().annotations;
                record.target.annotations = Some(annotations.into_iter().collect());
            }
            path => match path.strip_prefix("labels.") {
                Some(key) => relabel_one(&mut record.labels, key, &new.labels),
                None => {
                    return Err(Error::invalid(format_args!(
                        "cannot update {path:?} field on image {:?}",
                        record.name
                    )));
                }
            },
        }
    }
    record.updated_at = SystemTime::now();
    identifier::validate_labels(&record.labels)
}

verbs! {
    GetImageRequest = |engine, cx, op| {
        let image = engine.store().metadata().get::<Image>(&namespace(cx)?, &op.name)?;
        Ok(GetImageResponse { image: Some(message(image)) })
    }

    ListImagesRequest = |engine, cx, op| {
        let filters = Filters::parse(&op.filters)?;
        let all = engine.store().metadata().list::<Image>(&namespace(cx)?)?;
        let images = all.into_iter().map(|(_, image)| image).filter(|i| filters.matches(i));
        Ok(ListImagesResponse { images: images.map(message).collect() })
    }

    CreateImageRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let new = image(required(op.image, "image")?)?;
        let (within, record) = (ns.clone(), new.clone());
        engine
            .blocking(move |s| s.metadata().change(|tx| tx.create(&within, &record.name, &record)))
            .await?;
        let event = ImageCreate {
            name: new.name.clone(),
            labels: labels_out(new.labels.clone()),
        };
        engine.events().emit(&ns, "/images/create", &event);
        Ok(CreateImageResponse { image: Some(message(new)) })
    }

    UpdateImageRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let new = required(op.image, "image")?;
        let mask = op.update_mask.unwrap_or_default().paths;
        let within = ns.clone();
        let changed = engine.blocking(move |store| {
            let name = new.name.clone();
            store.metadata().change(|tx| {
                tx.update(&within, &name, |record: &mut Image| merge(record, new, &mask))
            })
        }).await?;
        let event = ImageUpdate {
            name: changed.name.clone(),
            labels: labels_out(changed.labels.clone()),
        };
        engine.events().emit(&ns, "/images/update", &event);
        Ok(UpdateImageResponse { image: Some(message(changed)) })
    }

    DeleteImageRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let (within, name, target) = (ns.clone(), op.name.clone(), op.target);
        engine.blocking(move |store| {
            store.metadata().change(|tx| {
                let removed = tx.remove::<Image>(&within, &name)?;
                match target {
                    Some(target) if target.digest != removed.target.digest.as_str() => {
                        Err(Error::not_found(format_args!(
                            "image {name:?} has target {}, not {}",
                            removed.target.digest, target.digest
                        )))
                    }
                    _ => Ok(()),
                }
            })
        }).await?;
        engine.events().emit(&ns, "/images/delete", &ImageDelete { name: op.name });
        engine.collect(op.sync).await
    }
}
