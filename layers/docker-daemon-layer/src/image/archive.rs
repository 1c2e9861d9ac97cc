//! Which names a `docker save` archive brings: read from its tar headers as it goes by.

use std::collections::BTreeSet;

use serde_json::Value;

const BLOCK: usize = 512;
/// A manifest longer than this is none.
const MAX_MANIFEST: usize = 4 << 20;

/// Looks into an archive that streams by.
#[derive(Default)]
pub(crate) struct Names {
    pending: Vec<u8>,
    /// What is left of the current entry, padding included.
    skip: usize,
    /// The current entry's content, where it is wanted, and its length.
    wanted: Option<(Kind, Vec<u8>, usize)>,
    found: BTreeSet<String>,
    ids: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// `manifest.json` of `docker save`.
    Manifest,
    /// `index.json` of an OCI layout.
    Index,
}

impl Names {
    /// Takes note of the next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let used = self.skip.min(bytes.len());
                if let Some((_, content, length)) = &mut self.wanted {
                    let room = *length - content.len();
                    content.extend_from_slice(&bytes[..used.min(room)]);
                }
                self.skip -= used;
                bytes = &bytes[used..];
                if self.skip == 0 {
                    self.entry_ends();
                }
                continue;
            }
            let used = (BLOCK - self.pending.len()).min(bytes.len());
            self.pending.extend_from_slice(&bytes[..used]);
            bytes = &bytes[used..];
            if self.pending.len() == BLOCK {
                self.header();
                self.pending.clear();
            }
        }
    }

    fn header(&mut self) {
        let field = |from: usize, length: usize| {
            let bytes = &self.pending[from..from + length];
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(length);
            String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
        };
        let size = usize::from_str_radix(&field(124, 12), 8).unwrap_or(0);
        let name = field(0, 100);
        let kind = match name.trim_start_matches("./") {
            "manifest.json" => Some(Kind::Manifest),
            "index.json" => Some(Kind::Index),
            _ => None,
        };
        self.wanted = kind.filter(|_| size <= MAX_MANIFEST).map(|kind| (kind, Vec::new(), size));
        self.skip = size.div_ceil(BLOCK) * BLOCK;
    }

    fn entry_ends(&mut self) {
        let Some((kind, content, _)) = self.wanted.take() else { return };
        let Ok(document) = serde_json::from_slice::<Value>(&content) else { return };
        if kind == Kind::Index {
            for manifest in document["manifests"].as_array().into_iter().flatten() {
                let name = &manifest["annotations"]["io.containerd.image.name"];
                self.found.extend(name.as_str().map(str::to_owned));
            }
            return;
        }
        for image in document.as_array().into_iter().flatten() {
            let tags: Vec<&str> = image["RepoTags"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            if tags.is_empty() {
                let config = image["Config"].as_str().unwrap_or_default();
                let id = config.rsplit('/').next().unwrap_or(config).trim_end_matches(".json");
                self.ids.insert(id.to_owned());
            }
            self.found.extend(tags.into_iter().map(str::to_owned));
        }
    }

    /// The names that were found, and the ids of images without one.
    pub(crate) fn found(self) -> (BTreeSet<String>, BTreeSet<String>) {
        (self.found, self.ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, content: &[u8]) -> Vec<u8> {
        let mut block = vec![0u8; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        let size = format!("{:011o}", content.len());
        block[124..135].copy_from_slice(size.as_bytes());
        block.extend_from_slice(content);
        block.resize(block.len().div_ceil(BLOCK) * BLOCK, 0);
        block
    }

    #[test]
    fn names_are_found_in_any_pieces() {
        let manifest = br#"[{"Config":"a.json","RepoTags":["b:1"]},{"Config":"blobs/sha256/cc"}]"#;
        let archive =
            [entry("x", &[1; 700]), entry("manifest.json", manifest), vec![0; 1024]].concat();
        for step in [1, 100, 512, 4096] {
            let mut names = Names::default();
            archive.chunks(step).for_each(|chunk| names.feed(chunk));
            let (found, ids) = names.found();
            assert_eq!(
                (found.first().unwrap().as_str(), ids.first().unwrap().as_str()),
                ("b:1", "cc")
            );
        }
    }
}
