//! `Diff`: layers to files. Making a layer of files is refused.

use super::{
    convert::{descriptor_in, descriptor_out},
    namespace, required, verbs,
};
use crate::{
    Engine, Error, Result,
    diff::{self, Whiteouts},
    images::{Descriptor, media},
};
use hops::proto::containerd::{
    services::diff::v1::{ApplyRequest, ApplyResponse, DiffRequest},
    types::Mount,
};
use std::{io::BufReader, path::PathBuf};

hops::refuse!(Engine: DiffRequest);

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
