//! The overlay snapshotter's rules and what its mounts show.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Kind,
    filters::Filters,
    metadata::{Labels, SnapshotKind},
    snapshots::{Mount, SnapshotOptions, Snapshotter},
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{fs, path::Path};
use support::store;

fn plain() -> SnapshotOptions {
    SnapshotOptions::default()
}

fn commit(overlay: &Snapshotter, name: &str, parent: &str, file: &str) {
    overlay.prepare("ns", "work", parent, plain()).unwrap();
    fs::write(overlay.directory("ns", "work").unwrap().join(file), name).unwrap();
    overlay.commit("ns", name, "work", plain()).unwrap();
}

#[test]
fn rules() {
    let (_dir, store) = store();
    let overlay = store.snapshots("").unwrap();
    commit(overlay, "base", "", "a");
    overlay.prepare("ns", "c", "base", plain()).unwrap();
    let refused = |result: containerd_layer::Result<Vec<Mount>>| {
        let error = result.unwrap_err();
        (error.kind, error.message)
    };
    assert_eq!(
        refused(overlay.prepare("ns", "c", "base", plain())),
        (Kind::AlreadyExists, "snapshot \"c\": already exists".to_owned())
    );
    assert_eq!(
        refused(overlay.prepare("ns", "d", "nope", plain())),
        (Kind::NotFound, "parent snapshot nope does not exist: not found".to_owned())
    );
    assert_eq!(refused(overlay.view("ns", "d", "c", plain())).0, Kind::InvalidArgument);
    assert_eq!(refused(overlay.mounts("other", "c")).0, Kind::NotFound);
    let error = overlay.remove("ns", "base").unwrap_err();
    assert_eq!(error.message, "cannot remove snapshot with child: failed precondition");
    assert_eq!(overlay.commit("ns", "base", "c", plain()).unwrap_err().kind, Kind::AlreadyExists);
    assert_eq!(
        overlay.commit("ns", "x", "base", plain()).unwrap_err().kind,
        Kind::FailedPrecondition
    );
    assert_eq!(overlay.stat("ns", "base").unwrap().kind, SnapshotKind::Committed);

    overlay.update("ns", "c", |l| *l = Labels::from([("k".into(), "v".into())])).unwrap();
    let filters = Filters::parse(&["kind==active,labels.k==v"]).unwrap();
    assert_eq!(overlay.list("ns", &filters).unwrap().len(), 1);

    overlay.remove("ns", "c").unwrap();
    overlay.remove("ns", "base").unwrap();
    assert_eq!(support::snapshot_dirs(&store), 0);
    assert_eq!(
        store.snapshots("zfs").unwrap_err().message,
        "snapshotter not loaded: zfs: invalid argument"
    );
}

#[test]
fn usage_counts_what_is_its_own() {
    let (_dir, store) = store();
    let overlay = store.snapshots("").unwrap();
    commit(overlay, "base", "", "a");
    overlay.prepare("ns", "c", "base", plain()).unwrap();
    let dir = overlay.directory("ns", "c").unwrap();
    fs::write(dir.join("x"), vec![1; 10_000]).unwrap();
    fs::hard_link(dir.join("x"), dir.join("y")).unwrap();
    let usage = overlay.usage("ns", "c").unwrap();
    assert_eq!(usage.inodes, 2);
    assert!((10_000..40_000).contains(&usage.size), "{usage:?}");
    assert_eq!(overlay.usage("ns", "base").unwrap().inodes, 2);
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn mounts_show_all_layers() {
    let (dir, store) = store();
    let overlay = store.snapshots("").unwrap();
    let mut parent = String::new();
    // More lower directories than one page of options holds with their full paths.
    for i in 0..80 {
        commit(overlay, &format!("l{i}"), &parent, &format!("f{i}"));
        parent = format!("l{i}");
    }
    let mounts = overlay.prepare("ns", "c", &parent, plain()).unwrap();
    assert_eq!(overlay.mounts("ns", "c").unwrap(), mounts);
    assert_eq!((mounts.len(), mounts[0].kind.as_str()), (1, "overlay"));
    let whole: usize = mounts[0].options.iter().map(String::len).sum();
    assert!(whole > 4096);
    let common = mounts[0].common().unwrap();
    let short = mounts[0].relative(&common);
    // The working directory is the process's, and tests run side by side: the short names are
    // made whole by a link instead.
    let link = dir.path().join("s");
    std::os::unix::fs::symlink(&common, &link).unwrap();
    let options: Vec<_> = short
        .options
        .iter()
        .map(|option| match option.strip_prefix("lowerdir=") {
            Some(lower) => {
                let lower: Vec<_> =
                    lower.split(':').map(|l| format!("{}/{l}", link.display())).collect();
                format!("lowerdir={}", lower.join(":"))
            }
            None => option.clone(),
        })
        .collect();
    let target = dir.path().join("m");
    fs::create_dir(&target).unwrap();
    let options = options.join(",");
    if let Err(error) =
        mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
    {
        println!("SKIP: overlay cannot be mounted here: {error}");
        return;
    }
    let _mounted = Mounted(&target);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 80);
    fs::write(target.join("f7"), "changed").unwrap();
    let upper = overlay.directory("ns", "c").unwrap();
    assert_eq!(fs::read(upper.join("f7")).unwrap(), b"changed");
}
