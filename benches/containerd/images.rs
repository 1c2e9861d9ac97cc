//! The images: one of busybox alone, and one of six layers with many small files.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::daemons::Place;

/// The small image, as containerd names it.
pub(crate) const SMALL: &str = "docker.io/strata-bench/busybox:1";

/// The bytes of files in each layer of the large image: 300 MB together.
const LAYERS: [usize; 6] = [120, 80, 50, 30, 15, 5];

fn header(size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(1_700_000_000);
    header
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A `docker save` archive of busybox.
pub(crate) fn small(place: &Place) -> PathBuf {
    let busybox = fs::read("/bin/busybox").expect("a static busybox");
    let mut layer = tar::Builder::new(Vec::new());
    layer
        .append_data(&mut header(busybox.len(), 0o755), "bin/busybox", busybox.as_slice())
        .unwrap();
    for link in ["true", "sleep"] {
        let mut header = header(0, 0o777);
        header.set_entry_type(tar::EntryType::Symlink);
        layer.append_link(&mut header, format!("bin/{link}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [SMALL], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(File::create(place.path("small.tar")).unwrap());
    for (name, bytes) in [
        ("layer.tar", layer.as_slice()),
        ("config.json", config.to_string().as_bytes()),
        ("manifest.json", manifest.to_string().as_bytes()),
    ] {
        archive.append_data(&mut header(bytes.len(), 0o644), name, bytes).unwrap();
    }
    place.path("small.tar")
}

/// Writes the large image as an OCI layout; answers its layers' files, lowest first.
pub(crate) fn large(layout: &Path) -> Vec<PathBuf> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = sha256(bytes);
        fs::write(blobs.join(&digest), bytes).unwrap();
        json!({"digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let (mut layers, mut diff_ids, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for (number, megabytes) in LAYERS.into_iter().enumerate() {
        let layer = tree(number, megabytes << 20);
        diff_ids.push(format!("sha256:{}", sha256(&layer)));
        let mut gzip = GzEncoder::new(BufWriter::new(Vec::new()), Compression::default());
        gzip.write_all(&layer).unwrap();
        let packed = gzip.finish().unwrap().into_inner().unwrap();
        let mut descriptor = put(&packed);
        descriptor["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip".into();
        files.push(blobs.join(sha256(&packed)));
        layers.push(descriptor);
    }
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let mut config = put(config.to_string().as_bytes());
    config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
    });
    let mut manifest = put(manifest.to_string().as_bytes());
    manifest["mediaType"] = media_type.into();
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    files
}

/// A tar of `bytes` bytes of files as distributions have them: most of a few kilobytes, some
/// large, text among them that packs well and data that does not.
fn tree(seed: usize, bytes: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the ", "file ", "of ", "return ", "license ", "{\n    ", "}\n", "let ", "const ", "int ",
        "package ", "version ", "= ", "0x00, ", "module ", "\n",
    ];
    // xorshift64: the same image on every machine.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed as u64 + 1);
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut archive = tar::Builder::new(Vec::with_capacity(bytes + bytes / 4));
    let (mut left, mut file) = (bytes, 0_usize);
    while left > 0 {
        if file.is_multiple_of(40) {
            let mut header = header(0, 0o755);
            header.set_entry_type(tar::EntryType::Directory);
            let path = format!("usr/lib/{seed}/{}/", file / 40);
            archive.append_data(&mut header, path, std::io::empty()).unwrap();
        }
        let size = match next() % 100 {
            0..70 => 200 + next() % 6_000,
            70..97 => 6_000 + next() % 40_000,
            _ => 100_000 + next() % 700_000,
        };
        let size = (size as usize).min(left);
        let mut content = Vec::with_capacity(size + 16);
        let text = next() % 3 != 0;
        while content.len() < size {
            let bits = next();
            if text {
                let words = (0..16).map(|n| WORDS[(bits >> (4 * n)) as usize % 16]);
                words.for_each(|word| content.extend_from_slice(word.as_bytes()));
            } else {
                content.extend_from_slice(&bits.to_le_bytes()[..5]);
                content.extend_from_slice(&[0; 3]);
            }
        }
        content.truncate(size);
        let path = format!("usr/lib/{seed}/{}/file-{file}.{}", file / 40, bits_name(text));
        archive.append_data(&mut header(size, 0o644), path, content.as_slice()).unwrap();
        left -= size;
        file += 1;
    }
    archive.into_inner().unwrap()
}

fn bits_name(text: bool) -> &'static str {
    if text { "txt" } else { "bin" }
}
