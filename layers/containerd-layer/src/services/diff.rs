//! `Diff`: layers to files, and files to layers.

use super::{
    convert::{descriptor_in, descriptor_out, labels_in},
    lease,
    mounted::mounted,
    namespace, required, verbs,
};
use crate::{
    Digest, Error, Kind, Result, Store,
    content::{Writer, WriterOptions},
    diff::{self, Whiteouts},
    images::{Descriptor, media},
    metadata::Labels,
};
use flate2::{Compression, write::GzEncoder};
use hops::proto::containerd::{
    services::diff::v1::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse},
    types::Mount,
};
use std::{
    io::{self, BufReader, BufWriter, Write},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

/// How much of a blob is read at once, in bytes.
const BUFFER: usize = 256 << 10;

/// Where the files of a mounted snapshot go, without mounting it.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    dir: PathBuf,
    /// The directories below, topmost first.
    lower: Vec<PathBuf>,
    whiteouts: Whiteouts,
}

impl Target {
    /// The target that a snapshot's mounts describe.
    ///
    /// # Errors
    /// `InvalidArgument` for mounts that no snapshotter here makes.
    fn of(mounts: &[Mount]) -> Result<Target> {
        let [mount] = mounts else {
            return Err(Error::invalid(format_args!("{} mounts to apply to", mounts.len())));
        };
        let option = |key: &str| mount.options.iter().find_map(|o| o.strip_prefix(key));
        match (mount.r#type.as_str(), option("upperdir=")) {
            ("overlay", Some(upper)) => Ok(Target {
                dir: upper.into(),
                lower: option("lowerdir=").unwrap_or_default().split(':').map(Into::into).collect(),
                whiteouts: Whiteouts::Overlay,
            }),
            ("bind", _) if !mount.options.iter().any(|o| o == "ro") => Ok(Target {
                dir: mount.source.clone().into(),
                lower: Vec::new(),
                whiteouts: Whiteouts::Remove,
            }),
            (kind, _) => {
                Err(Error::invalid(format_args!("cannot apply a layer to a {kind} mount")))
            }
        }
    }
}

verbs! {
    ApplyRequest = |engine, cx, op| {
        let ns = namespace(cx)?;
        let layer = descriptor_in(required(op.diff, "diff")?)?;
        let target = Target::of(&op.mounts)?;
        let applied = engine.blocking(move |store| {
            let blob = store.content().reader(&ns, &layer.digest)?.into_file();
            let source = BufReader::with_capacity(BUFFER, blob);
            let applied = diff::apply(source, &target.dir, target.whiteouts)?;
            diff::inherit(&target.dir, &applied.implied, &target.lower)?;
            Ok(Descriptor::new(media::OCI_LAYER, applied.diff_id, applied.size))
        }).await?;
        Ok(ApplyResponse { applied: Some(descriptor_out(applied)) })
    }

    DiffRequest = |engine, cx, op| {
        let comparison = Comparison::of(namespace(cx)?, lease(cx), op)?;
        let layer = engine.blocking(move |store| comparison.run(store)).await?;
        Ok(DiffResponse { diff: Some(descriptor_out(layer)) })
    }
}

/// A layer to be made.
struct Comparison {
    ns: String,
    left: Vec<Mount>,
    right: Vec<Mount>,
    media_type: String,
    reference: String,
    labels: Labels,
    lease: Option<String>,
}

/// The label of a compressed layer that says what it is uncompressed.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// How many layers were made so far under names of this daemon's own.
static UNNAMED: AtomicU64 = AtomicU64::new(0);

impl Comparison {
    fn of(ns: String, lease: Option<String>, op: DiffRequest) -> Result<Comparison> {
        let media_type = match op.media_type.as_str() {
            "" => media::OCI_LAYER_GZIP,
            known @ (media::OCI_LAYER | media::OCI_LAYER_GZIP) => known,
            other => {
                return Err(Error::unimplemented(format_args!(
                    "unsupported diff media type: {other}"
                )));
            }
        };
        let number = UNNAMED.fetch_add(1, Ordering::Relaxed);
        let unnamed = || format!("diff-{}-{number}", std::process::id());
        Ok(Comparison {
            ns,
            left: op.left,
            right: op.right,
            media_type: media_type.to_owned(),
            reference: Some(op.r#ref).filter(|r| !r.is_empty()).unwrap_or_else(unnamed),
            labels: labels_in(op.labels),
            lease,
        })
    }

    /// Makes the layer, and has it in the store.
    fn run(mut self, store: &Store) -> Result<Descriptor> {
        let options = WriterOptions {
            reference: self.reference.clone(),
            lease: self.lease.clone(),
            ..WriterOptions::default()
        };
        let mut writer = store.content().writer(&self.ns, options)?;
        let written = writer.truncate().and_then(|()| {
            let dir = store.state().join("diff");
            mounted(&dir, [&self.left, &self.right], |left, right| {
                let blob = BufWriter::with_capacity(BUFFER, Blob(&mut writer));
                if self.media_type == media::OCI_LAYER {
                    let mut blob = blob;
                    let diff_id = diff::compare(left, right, &mut blob)?;
                    blob.flush().map_err(|e| Error::io("writing the layer", &e))?;
                    return Ok(diff_id);
                }
                let mut gzip = GzEncoder::new(blob, Compression::default());
                let diff_id = diff::compare(left, right, &mut gzip)?;
                let ended = gzip.finish().and_then(|mut blob| blob.flush());
                ended.map_err(|e| Error::io("writing the layer", &e))?;
                Ok(diff_id)
            })
        });
        let diff_id = match written {
            Ok(diff_id) => diff_id,
            Err(e) => {
                writer.abort()?;
                return Err(e);
            }
        };
        if self.media_type == media::OCI_LAYER_GZIP {
            self.labels.insert(UNCOMPRESSED.to_owned(), diff_id.to_string());
        }
        self.commit(store, writer)
    }

    fn commit(self, store: &Store, writer: Writer) -> Result<Descriptor> {
        let (size, digest): (u64, Digest) = (writer.offset(), writer.digest());
        match writer.commit(size, None, self.labels.clone()) {
            Ok(_) => {}
            // The same layer was made before.
            Err(e) if e.kind == Kind::AlreadyExists => {
                store.content().add_labels(&self.ns, &digest, self.labels)?;
            }
            Err(e) => return Err(e),
        }
        Ok(Descriptor::new(&self.media_type, digest, size))
    }
}

/// A blob as what can be written to.
struct Blob<'a>(&'a mut Writer);

impl Write for Blob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|e| match e.kind {
            Kind::ResourceExhausted => io::Error::new(io::ErrorKind::StorageFull, e),
            _ => io::Error::other(e),
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let mount = |kind: &str, source: &str, options: &[&str]| Mount {
            r#type: kind.into(),
            source: source.into(),
            options: options.iter().map(|o| (*o).into()).collect(),
            ..Mount::default()
        };
        let overlay = mount("overlay", "overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/b:/a"]);
        let target = Target::of(&[overlay]).unwrap();
        assert_eq!((target.dir, target.whiteouts), ("/u".into(), Whiteouts::Overlay));
        assert_eq!(target.lower, [PathBuf::from("/b"), "/a".into()]);
        let bind = Target::of(&[mount("bind", "/d", &["rw", "rbind"])]).unwrap();
        assert_eq!((bind.dir, bind.whiteouts), ("/d".into(), Whiteouts::Remove));
        for bad in [mount("bind", "/d", &["ro"]), mount("overlay", "o", &["lowerdir=/a:/b"])] {
            Target::of(&[bad]).unwrap_err();
        }
        Target::of(&[]).unwrap_err();
    }
}
