//! Between the protocol's types and the store's.

use crate::{
    Digest, Error, Result,
    images::{Descriptor, Platform},
    metadata::Labels,
    snapshots::Mount,
};
use hops::proto::{Any, Timestamp, containerd::types};
use prost::{Message, Name};
use std::{collections::HashMap, time::SystemTime};

/// A message in an `Any` as containerd's typeurl package packs it: the bare full name.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// A point in time as protobuf has it.
pub(crate) fn stamp(time: SystemTime) -> Option<Timestamp> {
    Some(Timestamp::from(time))
}

pub(super) fn labels_in(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

pub(super) fn labels_out(labels: Labels) -> HashMap<String, String> {
    labels.into_iter().collect()
}

/// Changes labels by a field mask: one by one (`labels.<key>`, absent or empty removes it) or all.
///
/// # Errors
/// `InvalidArgument` for a field of `what` that cannot be changed.
pub(crate) fn relabel(
    labels: &mut Labels,
    new: &HashMap<String, String>,
    mask: &[String],
    what: &str,
) -> Result<()> {
    let whole = || new.clone().into_iter().collect();
    if mask.is_empty() {
        *labels = whole();
    }
    for path in mask {
        if path == "labels" {
            *labels = whole();
        } else if let Some(key) = path.strip_prefix("labels.") {
            relabel_one(labels, key, new);
        } else {
            return Err(Error::invalid(format_args!("cannot update {path:?} field on {what}")));
        }
    }
    Ok(())
}

pub(super) fn relabel_one(labels: &mut Labels, key: &str, new: &HashMap<String, String>) {
    match new.get(key).filter(|value| !value.is_empty()) {
        Some(value) => labels.insert(key.to_owned(), value.clone()),
        None => labels.remove(key),
    };
}

pub(super) fn mounts_out(mounts: Vec<Mount>) -> Vec<types::Mount> {
    let mount = |m: Mount| types::Mount {
        r#type: m.kind,
        source: m.source,
        target: m.target,
        options: m.options,
    };
    mounts.into_iter().map(mount).collect()
}

pub(super) fn descriptor_in(descriptor: types::Descriptor) -> Result<Descriptor> {
    let size = u64::try_from(descriptor.size)
        .map_err(|_| Error::invalid(format_args!("descriptor size {}", descriptor.size)))?;
    let mut read =
        Descriptor::new(&descriptor.media_type, descriptor.digest.parse::<Digest>()?, size);
    if !descriptor.annotations.is_empty() {
        read.annotations = Some(descriptor.annotations.into_iter().collect());
    }
    Ok(read)
}

pub(super) fn descriptor_out(descriptor: Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest.into(),
        size: descriptor.size.cast_signed(),
        annotations: descriptor.annotations.unwrap_or_default().into_iter().collect(),
    }
}

pub(super) fn platform_in(platform: types::Platform) -> Platform {
    Platform {
        os: platform.os,
        architecture: platform.architecture,
        variant: Some(platform.variant).filter(|v| !v.is_empty()),
    }
}

pub(super) fn platform_out(platform: Platform) -> types::Platform {
    types::Platform {
        os: platform.os,
        architecture: platform.architecture,
        variant: platform.variant.unwrap_or_default(),
        ..Default::default()
    }
}
