//! The layers that a real containerd and strata-containerd make of the same snapshots, entry by entry.
//! See `ctr.rs`.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod machine;
mod rig;
mod table;

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use rig::need;
use table::{Side, compare, sides::with_sides};

/// What a layer says of its entries, without the times of this run.
fn listing(layer: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(layer);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let mut lines: Vec<String> = entries
        .map(|mut entry| {
            let header = entry.header();
            let (kind, mode) = (header.entry_type(), header.mode().unwrap());
            let owner = (header.uid().unwrap(), header.gid().unwrap());
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let target = entry.link_name().unwrap().map(|target| target.into_owned());
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            format!("{name} {kind:?} {mode:o} {owner:?} {target:?} {text:?}")
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn diffs() {
    need!("tar");
    with_sides("ctr-diff", |sides| {
        compare("
        images import {archive}
        run --runtime {runtime} {image} a sh -c 'echo new >/etc/new; ln -s new /etc/link; rm /etc/motd; echo b >>/etc/passwd; mkdir -p /x/y; rm -rf /data'
        run --runtime {runtime} --snapshotter native {image} b sh -c 'echo new >/etc/new; rm /etc/motd; chmod 700 /data; rm /bin/ls; mkdir /bin/ls'
        snapshots diff nosuch
        snapshots diff a nosuch
        snapshots diff
        snapshots diff --media-type nosuch a
        ? snapshots diff --keep --ref diffed --label x=y a
        ? content ls labels.x==y -q
        ? snapshots diff sha256:080d51178886d1c920cf775f9071eff44bd80646645babf17b357206b4f48f24
        snapshots ls
        leases ls
    ", sides);
        let diff = |side: &Side, line: &str| {
            let script = format!("snapshots {line}");
            let out =
                Command::new("ctr").args(&side.ctr.args).args(script.split(' ')).output().unwrap();
            assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
            out.stdout
        };
        const TAR: &str = "--media-type application/vnd.oci.image.layer.v1.tar";
        let parent = sides[0].run("snapshots ls", "").stdout;
        let parent = parent.lines().find(|line| line.starts_with("a ")).unwrap();
        let parent = parent.split(' ').nth(1).unwrap();
        for line in [
            format!("diff {TAR} a"),
            format!("diff {TAR} {parent}"),
            format!("--snapshotter native diff {TAR} b"),
            format!("diff {TAR} {parent} a"),
            format!("diff {TAR} a {parent}"),
        ] {
            let [real, strata] = sides.each_ref().map(|side| listing(&diff(side, &line)));
            assert_eq!(real, strata, "{line}");
            assert!(!real.is_empty(), "{line}");
        }
        // Compressed, it is the same layer.
        for side in sides {
            let mut gunzip = Command::new("gzip")
                .arg("-d")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            gunzip.stdin.take().unwrap().write_all(&diff(side, "diff a")).unwrap();
            let plain = gunzip.wait_with_output().unwrap();
            assert!(plain.status.success());
            assert_eq!(listing(&plain.stdout), listing(&diff(side, &format!("diff {TAR} a"))));
        }
        compare(
            "
        containers rm a b
        snapshots ls
        ns ls
    ",
            sides,
        );
    });
}
