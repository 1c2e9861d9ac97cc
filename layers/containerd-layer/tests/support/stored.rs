//! Images in a store that were not pulled.

use super::Image;
use containerd_layer::{Store, images::Descriptor};

/// Puts an image into a store as if it had been pulled, and answers its manifest's descriptor.
pub(crate) fn put(store: &Store, image: &Image) -> Descriptor {
    for blob in image.blobs.values() {
        store.content().put("ns", blob, Default::default()).unwrap();
    }
    let digest = store.content().put("ns", &image.manifest, Default::default()).unwrap();
    Descriptor::new(&image.media_type, digest, image.manifest.len() as u64)
}

/// Gives an image its name.
pub(crate) fn named(store: &Store, name: &str, target: Descriptor) {
    store.set_image("ns", name, target, Default::default()).unwrap();
}
