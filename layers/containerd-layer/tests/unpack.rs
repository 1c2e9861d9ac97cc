//! Unpacking against GNU tar on archives with everything in them, and against archives that mean
//! harm.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Kind,
    diff::{self, Whiteouts},
};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

fn root_and_tar() -> bool {
    let tar = Command::new("tar").arg("--version").output();
    if rustix::process::geteuid().as_raw() != 0 {
        println!("SKIP: owners and devices need root");
        return false;
    }
    if !tar.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("GNU tar")) {
        println!("SKIP: GNU tar is not installed");
        return false;
    }
    true
}

/// A tree of everything that a tar can hold.
fn nasty(root: &Path) {
    let dir = |name: &str, mode| {
        fs::create_dir(root.join(name)).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    let file = |name: &str, data: &[u8], mode| {
        fs::write(root.join(name), data).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    dir("d", 0o755);
    dir("d/group", 0o2775);
    chown(root.join("d/group"), Some(3), Some(1234)).unwrap();
    fs::set_permissions(root.join("d/group"), fs::Permissions::from_mode(0o2775)).unwrap();
    file("d/group/in", b"inherits nothing", 0o640);
    chown(root.join("d/group/in"), Some(0), Some(0)).unwrap();
    dir("d/sticky", 0o1777);
    dir("d/closed", 0o000);
    file("plain", b"plain", 0o644);
    file("empty", b"", 0o600);
    file("writable", b"no umask", 0o666);
    file("suid", b"#!", 0o4755);
    file("owned-suid", b"#!", 0o755);
    chown(root.join("owned-suid"), Some(1000), Some(70_000)).unwrap();
    fs::set_permissions(root.join("owned-suid"), fs::Permissions::from_mode(0o6755)).unwrap();
    file("caps", b"#!", 0o755);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (name, value) in [("security.capability", &capability[..]), ("user.note", b"x=y\nz")] {
        rustix::fs::setxattr(root.join("caps"), name, value, XattrFlags::empty()).unwrap();
    }
    rustix::fs::setxattr(root.join("d/sticky"), "user.dir", b"d", XattrFlags::empty()).unwrap();
    file("big", &(0..600_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>(), 0o644);
    fs::hard_link(root.join("big"), root.join("d/hard")).unwrap();
    symlink("../plain", root.join("d/soft")).unwrap();
    symlink("/absolute/nowhere", root.join("dangling")).unwrap();
    lchown(root.join("dangling"), Some(5), Some(6)).unwrap();
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o620), device)
            .unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    file(&format!("long-{}", "n".repeat(200)), b"long", 0o644);
    let deep = format!("{}/{}", "e".repeat(120), "f".repeat(150));
    fs::create_dir_all(root.join(&deep)).unwrap();
    file(&format!("{deep}/ünïcödé\n"), b"unicode", 0o644);
    symlink("t".repeat(300), root.join("long-link")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    for i in 0..30 {
        sparse.write_all_at(&[i + 1; 5000], u64::from(i) << 20).unwrap();
    }
    chown(root.join("plain"), Some(3_000_000), Some(3_000_001)).unwrap();
}

/// Everything there is to see of a tree, by name.
fn describe(root: &Path, nanoseconds: bool) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut pending: Vec<PathBuf> =
        fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut line = format!(
            "mode {:o} owner {}:{} links {} mtime {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime()
        );
        if nanoseconds {
            line += &format!(".{}", meta.mtime_nsec());
        }
        if meta.is_file() {
            let data = fs::read(&path).unwrap();
            line += &format!(" {} {}", data.len(), containerd_layer::Digest::of(&data));
            let holes = meta.blocks() * 512 < meta.len() / 2;
            line += &format!(" holes {holes}");
        } else if meta.is_symlink() {
            line += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        } else if meta.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else {
            line += &format!(" device {}", meta.rdev());
        }
        let mut names = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let mut names: Vec<_> =
            names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
        names.sort_unstable();
        for name in names {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
            line += &format!(" {}={:?}", String::from_utf8_lossy(name), &value[..length]);
        }
        seen.insert(path.strip_prefix(root).unwrap().to_owned(), line);
    }
    seen
}

#[test]
fn as_gnu_tar_unpacks() {
    if !root_and_tar() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    nasty(&tree);
    let run = |args: &[&str]| {
        let out = Command::new("tar").args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let cases: [(&str, &[&str]); 6] = [
        ("pax", &["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse"]),
        ("pax-0.0", &["--format=pax", "--sparse", "--sparse-version=0.0"]),
        ("pax-0.1", &["--format=pax", "--sparse", "--sparse-version=0.1"]),
        ("gnu", &["--format=gnu", "--sparse"]),
        ("gnu-dense", &["--format=gnu"]),
        ("numeric", &["--format=posix", "--numeric-owner"]),
    ];
    for (name, options) in cases {
        let archive = dir.path().join(format!("{name}.tar"));
        let (theirs, ours) = (dir.path().join(format!("{name}-theirs")), dir.path().join(name));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&ours).unwrap();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let mut create = vec!["-C".to_owned(), path(&tree), "-cf".to_owned(), path(&archive)];
        create.extend(options.iter().map(|o| (*o).to_owned()));
        create.push(".".to_owned());
        run(&create.iter().map(String::as_str).collect::<Vec<_>>());
        let (into, from) = (path(&theirs), path(&archive));
        run(&["--xattrs", "--xattrs-include=*", "-p", "-C", &into, "-xf", &from]);
        let bytes = fs::read(&archive).unwrap();
        let size = bytes.len() as u64;
        let digest = containerd_layer::Digest::of(&bytes);
        let applied = diff::apply(Cursor::new(bytes), &ours, Whiteouts::Overlay)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((applied.size, applied.diff_id), (size, digest), "{name}");
        let nanoseconds = options[0] == "--format=pax" || options[0] == "--format=posix";
        let (theirs, ours) = (describe(&theirs, nanoseconds), describe(&ours, nanoseconds));
        assert_eq!(theirs.len(), ours.len(), "{name}");
        for (file, line) in &theirs {
            assert_eq!(ours.get(file), Some(line), "{name}: {}", file.display());
        }
    }
}

/// One entry of a hand-made archive.
fn entry(
    builder: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    name: &str,
    link: &str,
    data: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(0o755);
    header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
    header.set_gid(u64::from(rustix::process::getegid().as_raw()));
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

type Line<'a> = (tar::EntryType, &'a str, &'a str, &'a [u8]);

fn archive(lines: &[Line<'_>]) -> Cursor<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, link, data) in lines {
        entry(&mut builder, *kind, name, link, data);
    }
    Cursor::new(builder.into_inner().unwrap())
}

use tar::EntryType::{Directory as D, Link as H, Regular as F, Symlink as S};

#[test]
fn names_stay_in_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let outside = dir.path().join("outside");
    for dir in [&target, &outside] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(outside.join("secret"), "untouched").unwrap();
    let outside_name = outside.to_str().unwrap();
    let lines: Vec<Line<'_>> = vec![
        (F, "../../dotdot", "", b"1"),
        (F, "/absolute", "", b"2"),
        (F, "a/../../mixed", "", b"3"),
        (S, "out", outside_name, b""),
        (F, "out/secret", "", b"written through a link"),
        (S, "up", "../../..", b""),
        (F, "up/over", "", b"4"),
        (S, "self", ".", b""),
        (D, "self/self/nested", "", b""),
        (F, "dotdot", "", b"replaced"),
    ];
    diff::apply(archive(&lines), &target, Whiteouts::Overlay).unwrap();
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"untouched");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    let inside = |name: &str| fs::read(target.join(name)).unwrap();
    assert_eq!(inside("dotdot"), b"replaced");
    assert_eq!(inside("absolute"), b"2");
    assert_eq!(inside("mixed"), b"3");
    assert_eq!(inside("over"), b"4");
    assert!(target.join("nested").is_dir());
    let kept = target.join(outside_name.trim_start_matches('/')).join("secret");
    assert_eq!(fs::read(kept).unwrap(), b"written through a link");
}

#[test]
fn refusals_name_the_entry() {
    let cases: &[(&[Line<'_>], &str)] = &[
        (&[(H, "h", "/etc/hostname", b"")], "entry \"h\": hard link to \"/etc/hostname\""),
        (&[(H, "h", "../../etc/hostname", b"")], "entry \"h\": hard link"),
        (&[(F, "f", "", b""), (F, "f/below", "", b"")], "entry \"f/below\": parent"),
        (&[(S, "l", "l", b""), (F, "l/x", "", b"")], "entry \"l/x\": parent"),
        (&[(F, "d/.wh...", "", b"")], "invalid whiteout name"),
        (&[(F, ".wh.", "", b"")], "invalid whiteout name"),
        (&[(tar::EntryType::new(b'V'), "v", "", b"")], "entry \"v\": unhandled tar header type"),
    ];
    for (lines, text) in cases {
        let dir = tempfile::tempdir().unwrap();
        let error = diff::apply(archive(lines), dir.path(), Whiteouts::Overlay).unwrap_err();
        assert!(error.message.contains(text), "{error}");
        assert_eq!(error.kind, Kind::InvalidArgument, "{error}");
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    let lines: &[Line<'_>] = &[
        (D, "d", "", b""),
        (F, "d/x/y", "", b"deep"),
        (F, "d", "", b"a file now"),
        (F, "f", "", b"file"),
        (D, "f", "", b""),
        (F, "f/in", "", b"in"),
        (S, "s", "f", b""),
        (F, "s", "", b"not through the link"),
    ];
    diff::apply(archive(lines), dir.path(), Whiteouts::Overlay).unwrap();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(read("d"), b"a file now");
    assert_eq!(read("f/in"), b"in");
    assert_eq!(read("s"), b"not through the link");
}

#[test]
fn whiteouts() {
    if rustix::process::geteuid().as_raw() != 0 {
        println!("SKIP: overlayfs's markers need root");
        return;
    }
    let lines: &[Line<'_>] = &[
        (F, "gone/.wh.file", "", b""),
        (F, "opaque/.wh..wh..opq", "", b""),
        (F, "opaque/new", "", b"new"),
        (F, ".wh.both", "", b""),
        (D, "both", "", b""),
        (F, "after", "", b""),
        (F, ".wh.after", "", b""),
        (F, ".wh..wh.plnk", "", b""),
    ];
    let overlay = tempfile::tempdir().unwrap();
    let applied = diff::apply(archive(lines), overlay.path(), Whiteouts::Overlay).unwrap();
    let implied: Vec<_> = applied.implied.iter().map(|p| String::from_utf8_lossy(p)).collect();
    assert_eq!(implied, ["gone", "opaque"]);
    let at = |name: &str| overlay.path().join(name);
    let marker = fs::symlink_metadata(at("gone/file")).unwrap();
    assert_eq!((marker.mode() & 0o170_000, marker.rdev()), (0o020_000, 0));
    for opaque in ["opaque", "both"] {
        let mut value = [0; 8];
        let length =
            rustix::fs::lgetxattr(at(opaque), "trusted.overlay.opaque", &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"y", "{opaque}");
    }
    assert!(at("after").is_file());
    assert_eq!(fs::read_dir(overlay.path()).unwrap().count(), 4);

    let plain = tempfile::tempdir().unwrap();
    let at = |name: &str| plain.path().join(name);
    for dir in ["gone", "opaque/old", "both/old"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    fs::write(at("gone/file"), "").unwrap();
    let lines: &[Line<'_>] = &[
        (F, "opaque/new", "", b"new"),
        (F, "opaque/.wh..wh..opq", "", b""),
        (F, "gone/.wh.file", "", b""),
    ];
    diff::apply(archive(lines), plain.path(), Whiteouts::Remove).unwrap();
    assert!(!at("gone/file").exists() && !at("opaque/old").exists() && at("opaque/new").exists());
}

#[test]
fn created_layers_unpack_to_the_same() {
    if !root_and_tar() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (upper, again) = (dir.path().join("upper"), dir.path().join("again"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&again).unwrap();
    nasty(&upper);
    fs::create_dir(upper.join("opaque")).unwrap();
    let opaque = "trusted.overlay.opaque";
    rustix::fs::setxattr(upper.join("opaque"), opaque, b"y", XattrFlags::empty()).unwrap();
    let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
    rustix::fs::mknodat(CWD, upper.join("opaque/gone"), kind, mode, 0).unwrap();
    // The directory's own time is set after the entries in it are made.
    let mut layer = Vec::new();
    let diff_id = diff::create(&upper, &mut layer).unwrap();
    let applied = diff::apply(Cursor::new(layer), &again, Whiteouts::Overlay).unwrap();
    assert_eq!(applied.diff_id, diff_id);
    let (mut before, mut after) = (describe(&upper, true), describe(&again, true));
    // A hole is written out, and a whiteout has no time of its own.
    for tree in [&mut before, &mut after] {
        tree.remove(Path::new("sparse"));
        let gone = tree.remove(Path::new("opaque/gone")).unwrap();
        assert!(gone.starts_with("mode 20000 ") && gone.ends_with("device 0"), "{gone}");
    }
    for (file, line) in &before {
        assert_eq!(after.get(file), Some(line), "{}", file.display());
    }
    assert_eq!(before.len(), after.len());
}

#[test]
fn implied_directories_inherit() {
    if rustix::process::geteuid().as_raw() != 0 {
        println!("SKIP: owners need root");
        return;
    }
    let (lower, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shared = lower.path().join("var/shared");
    fs::create_dir_all(&shared).unwrap();
    chown(&shared, Some(11), Some(12)).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    rustix::fs::setxattr(&shared, "user.x", b"1", XattrFlags::empty()).unwrap();
    let lines: &[Line<'_>] = &[(F, "var/shared/new/file", "", b"")];
    let applied = diff::apply(archive(lines), upper.path(), Whiteouts::Overlay).unwrap();
    diff::inherit(upper.path(), &applied.implied, &[lower.path()]).unwrap();
    let (of, new) = (|p: &str| fs::metadata(upper.path().join(p)).unwrap(), "var/shared/new");
    let shared = of("var/shared");
    assert_eq!((shared.uid(), shared.gid(), shared.mode() & 0o7777), (11, 12, 0o1777));
    assert_eq!(of(new).mode() & 0o7777, 0o755);
}
