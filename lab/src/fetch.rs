//! Images from outside a sandbox.
//!
//! A sandbox's network is its own: its 127.0.0.1 is not the host's, and it has no name service. So
//! an image is pulled out here, with containerd-layer's own store, and carried in as an archive,
//! which each path then loads over its own wire.

use std::{fs::File, path::Path};

use anyhow::{Context, Result, bail};
use containerd_layer::{
    Store,
    images::{Platform, import::Import, pull::Pull},
};

/// The namespace of the passing store; nobody sees it.
const NAMESPACE: &str = "lab";

/// Puts the image that `what` means into an archive at `to`, and answers its name: `what` is the
/// path of an archive, or a reference to pull. What is kept on the way is below `store`.
///
/// # Errors
/// Those of the registry or the archive, in containerd-layer's words.
pub(crate) fn archive(what: &str, store: &Path, to: &Path) -> Result<String> {
    let store = Store::open(&store.join("root"), &store.join("state"))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if Path::new(what).is_file() {
        let file = File::open(what).with_context(|| what.to_owned())?;
        let import = Import { namespace: NAMESPACE.to_owned(), ..Import::default() };
        let images =
            runtime.block_on(store.import(file, import)).with_context(|| what.to_owned())?;
        let Some(image) = images.into_iter().next() else {
            bail!("{what}: the archive names no image; save it with a name (docker save NAME:TAG)");
        };
        std::fs::copy(what, to).with_context(|| what.to_owned())?;
        return Ok(image.name);
    }
    let pull = Pull { snapshotter: None, ..Pull::new(NAMESPACE, what) };
    let image = runtime.block_on(store.pull(pull))?;
    let out = File::create(to)?;
    let names = [image.name.clone()];
    runtime.block_on(store.blocking(move |store| {
        store.export(NAMESPACE, &names, &Platform::host(), std::io::BufWriter::new(out))
    }))?;
    Ok(image.name)
}
