//! The users and groups in an image's files.
//!
//! The files are read from the layers' own directories: nothing is mounted.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use hops::{
    Cx, HopError, Result,
    proto::containerd::{
        services::snapshots::v1::{RemoveSnapshotRequest, ViewSnapshotRequest},
        types::Mount,
    },
};

use super::{Image, Images, lock};
use crate::names::random_id;

/// The largest account file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// An image's `/etc/passwd` and `/etc/group`.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// Name, user id, group id.
    users: Vec<(String, u32, u32)>,
    /// Name, group id, members.
    groups: Vec<(String, u32, Vec<String>)>,
}

impl Accounts {
    fn parse(passwd: &str, group: &str) -> Accounts {
        let user = |line: &str| {
            let mut fields = line.split(':');
            let (name, _, uid, gid) =
                (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            Some((name.to_owned(), uid.parse().ok()?, gid.parse().ok()?))
        };
        let members = |line: &str| {
            let mut fields = line.split(':');
            let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
            let members = fields.next().unwrap_or_default().split(',');
            let members = members.filter(|m| !m.is_empty()).map(|m| m.trim().to_owned());
            Some((name.to_owned(), gid.parse().ok()?, members.collect()))
        };
        Accounts {
            users: passwd.lines().filter_map(user).collect(),
            groups: group.lines().filter_map(members).collect(),
        }
    }

    /// The user and group ids of `user[:group]`, each a name or a number. A number need not be in
    /// the files; without a group, the user's own is taken, or 0.
    ///
    /// # Errors
    /// containerd's `no users found` and `no groups found` for names that are not in the files.
    pub(crate) fn resolve(&self, text: &str) -> Result<(u32, u32)> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let by_name = |name: &str| self.users.iter().find(|(n, ..)| n == name);
        let (uid, own) = match user.parse::<u32>() {
            Ok(uid) => (uid, self.users.iter().find(|(_, u, _)| *u == uid).map_or(0, |u| u.2)),
            Err(_) => by_name(user).map(|(_, uid, gid)| (*uid, *gid)).ok_or_else(|| {
                HopError::invalid(format!("unable to find user {user}: no users found"))
            })?,
        };
        let Some(group) = group else { return Ok((uid, own)) };
        let gid = match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => {
                self.groups.iter().find(|(n, ..)| n == group).map(|g| g.1).ok_or_else(|| {
                    HopError::invalid(format!("unable to find group {group}: no groups found"))
                })?
            }
        };
        Ok((uid, gid))
    }

    /// The groups that list the user of `user[:group]` as a member.
    pub(crate) fn memberships(&self, text: &str) -> Vec<u32> {
        let user = text.split(':').next().unwrap_or_default();
        let name = match user.parse::<u32>() {
            Ok(uid) => match self.users.iter().find(|(_, u, _)| *u == uid) {
                Some((name, ..)) => name,
                None => return Vec::new(),
            },
            Err(_) => user,
        };
        let of = self.groups.iter().filter(|(_, _, members)| members.iter().any(|m| m == name));
        of.map(|(_, gid, _)| *gid).collect()
    }
}

impl Images {
    /// The accounts in an image, read once.
    ///
    /// # Errors
    /// Those of containerd and of reading the files; files that are not there have nobody in them.
    pub(crate) async fn accounts(&self, cx: &Cx, image: &Image) -> Result<Arc<Accounts>> {
        if let Some(accounts) = lock(&self.accounts).get(&image.chain) {
            return Ok(accounts.clone());
        }
        let key = format!("cri-accounts-{}", random_id()?);
        let snapshotter = self.snapshotter.clone();
        let view = self
            .containerd
            .call(
                cx,
                ViewSnapshotRequest {
                    snapshotter: snapshotter.clone(),
                    key: key.clone(),
                    parent: image.chain.clone(),
                    ..Default::default()
                },
            )
            .await?;
        let layers = layers_of(&view.mounts);
        let read = |path| read_in(&layers, path);
        let files = read("passwd").and_then(|passwd| Ok((passwd, read("group")?)));
        // Nothing holds the view, so that it cannot outlive a daemon that is killed here; a garbage
        // collection may therefore have been first. What is read is the layers', which it keeps.
        match self.containerd.call(cx, RemoveSnapshotRequest { snapshotter, key }).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        let (passwd, group) = files?;
        let accounts = Arc::new(Accounts::parse(&passwd, &group));
        lock(&self.accounts).insert(image.chain.clone(), accounts.clone());
        Ok(accounts)
    }
}

/// The directories of a snapshot's layers, uppermost first.
fn layers_of(mounts: &[Mount]) -> Vec<PathBuf> {
    let Some(mount) = mounts.first() else { return Vec::new() };
    if mount.r#type != "overlay" {
        return vec![mount.source.clone().into()];
    }
    let value = |key: &'static str| mount.options.iter().filter_map(move |o| o.strip_prefix(key));
    let upper = value("upperdir=").map(PathBuf::from);
    let lower = value("lowerdir=").flat_map(|dirs| dirs.split(':')).map(PathBuf::from);
    upper.chain(lower).chain(value("lowerdir+=").map(PathBuf::from)).collect()
}

/// Reads `/etc/<name>` as an overlay of `layers` would show it.
fn read_in(layers: &[PathBuf], name: &str) -> io::Result<String> {
    for layer in layers {
        let etc = layer.join("etc");
        match fs::symlink_metadata(&etc) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        }
        let path = etc.join(name);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() <= MAX_FILE => {
                return Ok(String::from_utf8_lossy(&fs::read(&path)?).into_owned());
            }
            // A whiteout; or a link or a special file, which is not followed out of the layer.
            Ok(meta) => {
                let whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
                if !whiteout {
                    tracing::warn!(path = %path.display(), "an account file that is no plain file");
                }
                break;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && is_opaque(&etc) => break,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(String::new())
}

/// Whether an overlay hides what lower layers have in `dir`.
fn is_opaque(dir: &Path) -> bool {
    let mut value = [0u8; 1];
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        rustix::fs::lgetxattr(dir, *name, &mut value).is_ok_and(|n| n == 1) && value == *b"y"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,nobody\nstaff:x:50:\n";

    #[test]
    fn users_are_names_or_numbers() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        for (text, ids) in [
            ("0", (0, 0)),
            ("nobody", (65534, 65533)),
            ("65534", (65534, 65533)),
            ("1234", (1234, 0)),
            ("1234:staff", (1234, 50)),
            ("nobody:7", (65534, 7)),
        ] {
            assert_eq!(accounts.resolve(text).unwrap(), ids, "{text}");
        }
        assert_eq!(
            accounts.resolve("who").unwrap_err().message,
            "unable to find user who: no users found"
        );
        assert!(accounts.resolve("0:what").is_err());
        assert_eq!(accounts.memberships("65534:1"), [10]);
        assert_eq!(accounts.memberships("1234"), [0u32; 0]);
    }

    #[test]
    fn upper_layers_hide_lower_ones() {
        let dir = tempfile::tempdir().unwrap();
        let layer = |name: &str, passwd: Option<&str>| {
            let layer = dir.path().join(name);
            fs::create_dir_all(layer.join("etc")).unwrap();
            if let Some(text) = passwd {
                fs::write(layer.join("etc/passwd"), text).unwrap();
            }
            layer
        };
        let layers = [layer("a", None), layer("b", Some("b")), layer("c", Some("c"))];
        assert_eq!(read_in(&layers, "passwd").unwrap(), "b");
        assert_eq!(read_in(&layers, "group").unwrap(), "");
    }
}
