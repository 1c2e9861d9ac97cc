//! How a snapshot is mounted, option for option as containerd's overlay snapshotter says it.
//!
//! The option string is given whole, as containerd gives it. mount(2) takes one page of it: with
//! about forty layers or more the mounter has to change into [`Mount::common`] and use the shorter
//! [`Mount::relative`], as containerd's own mount package does, or use fsconfig(2) with one `lowerdir+` per layer.

use crate::metadata::SnapshotKind;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// One mount as containerd describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// `bind` or `overlay`.
    pub kind: String,
    /// The directory bound, or the word `overlay`.
    pub source: String,
    /// Where below the root; always empty for a rootfs.
    pub target: String,
    /// Options of mount(8).
    pub options: Vec<String>,
}

impl Mount {
    /// The directory that all lower directories are under, when there are several.
    pub fn common(&self) -> Option<PathBuf> {
        let lower = self.lower()?;
        let mut common = Path::new(lower.first()?).parent()?;
        for dir in &lower {
            while !Path::new(dir).starts_with(common) {
                common = common.parent()?;
            }
        }
        (lower.len() > 1 && common != Path::new("/")).then(|| common.to_owned())
    }

    /// The same mount with lower directories relative to `common`, for a mounter that is in it.
    #[must_use]
    pub fn relative(&self, common: &Path) -> Self {
        let shorten = |option: &String| match option.strip_prefix("lowerdir=") {
            None => option.clone(),
            Some(lower) => {
                let short: Vec<_> = lower
                    .split(':')
                    .map(|dir| {
                        Path::new(dir)
                            .strip_prefix(common)
                            .unwrap_or(Path::new(dir))
                            .to_string_lossy()
                    })
                    .collect();
                format!("lowerdir={}", short.join(":"))
            }
        };
        Self { options: self.options.iter().map(shorten).collect(), ..self.clone() }
    }

    fn lower(&self) -> Option<Vec<&str>> {
        let lower = self.options.iter().find_map(|o| o.strip_prefix("lowerdir="))?;
        Some(lower.split(':').collect())
    }
}

/// What this kernel and user namespace want among the options.
#[derive(Debug)]
pub(super) struct Mounting {
    index: bool,
    userxattr: bool,
}

impl Mounting {
    pub(super) fn probe() -> Self {
        Self {
            index: Path::new("/sys/module/overlay/parameters/index").exists(),
            userxattr: in_user_namespace(),
        }
    }

    /// The mount of the snapshot in `dir` above `lower`, topmost first.
    pub(super) fn mount(&self, dir: &Path, kind: SnapshotKind, lower: &[PathBuf]) -> Mount {
        let writable = kind == SnapshotKind::Active;
        let bind = |source: &Path| Mount {
            kind: "bind".into(),
            source: source.display().to_string(),
            target: String::new(),
            options: vec![if writable { "rw" } else { "ro" }.into(), "rbind".into()],
        };
        match lower {
            [] => return bind(&dir.join("fs")),
            [only] if !writable => return bind(only),
            _ => {}
        }
        let mut options = Vec::new();
        if self.index {
            options.push("index=off".to_owned());
        }
        if self.userxattr {
            options.push("userxattr".to_owned());
        }
        if writable {
            options.push(format!("workdir={}", dir.join("work").display()));
            options.push(format!("upperdir={}", dir.join("fs").display()));
        }
        let lower: Vec<_> = lower.iter().map(|l| l.display().to_string()).collect();
        options.push(format!("lowerdir={}", lower.join(":")));
        Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }
    }
}

/// Whether this process is in a user namespace other than the first.
pub(crate) fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(ids: &[u64]) -> Vec<PathBuf> {
        ids.iter().map(|id| PathBuf::from(format!("/r/snapshots/{id}/fs"))).collect()
    }

    #[test]
    fn shapes() {
        let mounting = Mounting { index: true, userxattr: false };
        let dir = Path::new("/r/snapshots/9");
        let active = mounting.mount(dir, SnapshotKind::Active, &[]);
        assert_eq!((active.kind.as_str(), active.source.as_str()), ("bind", "/r/snapshots/9/fs"));
        assert_eq!(active.options, ["rw", "rbind"]);
        let view = mounting.mount(dir, SnapshotKind::View, &dirs(&[3]));
        assert_eq!((view.source.as_str(), view.options[0].as_str()), ("/r/snapshots/3/fs", "ro"));
        let overlay = mounting.mount(dir, SnapshotKind::Active, &dirs(&[3, 2]));
        assert_eq!(
            overlay.options,
            [
                "index=off",
                "workdir=/r/snapshots/9/work",
                "upperdir=/r/snapshots/9/fs",
                "lowerdir=/r/snapshots/3/fs:/r/snapshots/2/fs"
            ]
        );
        let common = overlay.common().unwrap();
        assert_eq!(common, Path::new("/r/snapshots"));
        assert_eq!(overlay.relative(&common).options[3], "lowerdir=3/fs:2/fs");
    }
}
