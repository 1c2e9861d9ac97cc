//! Images: names for manifests, filled from registries ([`pull`]) and archives ([`import`]), and given
//! to them ([`push`], [`export`]).

pub mod export;
mod feed;
pub mod import;
mod manifest;
pub mod pull;
pub mod push;
pub mod reference;
pub mod registry;
mod unpack;

pub use manifest::{
    Config, Descriptor, Index, LARGEST_MANIFEST, Manifest, Platform, RootFs, chain_ids, media,
};
pub use unpack::Progress;

use crate::{
    Error, Result, Store,
    metadata::{Image, Labels, identifier},
};
use std::time::SystemTime;

impl Store {
    /// Names `target`; an image that has the name already points to it from now on, and gets the
    /// labels on top of its own.
    pub fn set_image(
        &self,
        ns: &str,
        name: &str,
        target: Descriptor,
        labels: Labels,
    ) -> Result<Image> {
        identifier::validate_labels(&labels)?;
        let now = SystemTime::now();
        self.metadata().change(|tx| {
            let before = tx.find::<Image>(ns, name)?;
            let mut image = before.unwrap_or_else(|| Image {
                name: name.to_owned(),
                target: target.clone(),
                labels: Labels::new(),
                created_at: now,
                updated_at: now,
            });
            image.target = target;
            image.labels.extend(labels);
            image.updated_at = now;
            tx.put(ns, name, &image)?;
            Ok(image)
        })
    }

    /// The manifest of an image for a platform, with its descriptor: through an index if need be.
    ///
    /// # Errors
    /// `NotFound` for content or a platform that is not here, `InvalidArgument` for a media type
    /// that is neither an index nor a manifest.
    pub fn manifest(
        &self,
        ns: &str,
        target: &Descriptor,
        platform: &Platform,
    ) -> Result<(Descriptor, Manifest)> {
        self.manifest_below(ns, target, platform, 0)
    }

    fn manifest_below(
        &self,
        ns: &str,
        target: &Descriptor,
        platform: &Platform,
        depth: usize,
    ) -> Result<(Descriptor, Manifest)> {
        let bytes = self.content().read(ns, &target.digest, LARGEST_MANIFEST)?;
        if media::is_manifest(&target.media_type) {
            return Ok((target.clone(), Manifest::parse(&bytes)?));
        }
        if !media::is_index(&target.media_type) {
            return Err(Error::invalid(format_args!(
                "unexpected media type {} for {}",
                target.media_type, target.digest
            )));
        }
        manifest::nesting(target, depth)?;
        let chosen = self.choose(ns, &Index::parse(&bytes)?, target, platform)?;
        self.manifest_below(ns, &chosen, platform, depth + 1)
    }

    fn choose(
        &self,
        ns: &str,
        index: &Index,
        target: &Descriptor,
        platform: &Platform,
    ) -> Result<Descriptor> {
        let mut fitting = index.fitting(platform);
        // Prefer what is here: an imported archive may hold one platform of an index only.
        let here = fitting.iter().position(|d| self.content().has(ns, &d.digest).unwrap_or(false));
        let chosen = here.unwrap_or(0);
        if fitting.is_empty() {
            return Err(Error::not_found(format_args!(
                "no match for platform in manifest {}",
                target.digest
            )));
        }
        Ok(fitting.swap_remove(chosen))
    }

    /// An image's configuration.
    pub fn config(&self, ns: &str, manifest: &Manifest) -> Result<Config> {
        Config::parse(&self.content().read(ns, &manifest.config.digest, LARGEST_MANIFEST)?)
    }
}
