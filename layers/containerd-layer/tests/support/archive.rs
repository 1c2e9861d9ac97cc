//! Images as archives.

use super::{Image, tar_of};
use containerd_layer::Digest;

/// An OCI layout. The image in it has no name.
pub(crate) fn oci(image: &Image) -> Vec<u8> {
    let top = Digest::of(&image.manifest).to_string();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{top}","size":{}}}]}}"#,
        image.media_type,
        image.manifest.len()
    );
    let blobs = image.blobs.iter().chain([(&top, &image.manifest)]);
    let mut files: Vec<(String, &[u8])> = blobs
        .map(|(digest, bytes)| (format!("blobs/{}", digest.replace(':', "/")), bytes.as_slice()))
        .collect();
    files.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#));
    files.push(("index.json".to_owned(), index.as_bytes()));
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    tar_of(&files)
}

/// What `docker save` writes of an image with these layers.
pub(crate) fn docker(name: &str, image: &Image, layers: &[Vec<u8>]) -> Vec<u8> {
    let is_layer = |digest: &str| image.layers.iter().any(|layer| layer.as_str() == digest);
    let (_, config) = image.blobs.iter().find(|(digest, _)| !is_layer(digest)).unwrap();
    let names: Vec<_> =
        layers.iter().map(|layer| format!("{}/layer.tar", Digest::of(layer).hex())).collect();
    let manifest = serde_json::json!([
        { "Config": "config.json", "RepoTags": [name], "Layers": names }
    ])
    .to_string();
    let mut files = vec![("config.json", config.as_slice())];
    files.extend(names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice)));
    files.push(("manifest.json", manifest.as_bytes()));
    tar_of(&files)
}
