//! containerd's own `ctr` with this daemon and the real registry: what it pulls and pushes by itself
//! through the content service.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod daemon;
mod support;

use containerd_layer::Config;
use daemon::{Daemon, find};
use std::{path::Path, process::Command};
use support::{distribution::registry, gzip, image, tar_of};

#[test]
fn it_pushes_and_pulls() {
    let dir = tempfile::tempdir().unwrap();
    if find("ctr").is_none() {
        println!("SKIP: ctr is not installed");
        return;
    }
    let Some(registry) = registry(dir.path()) else { return };
    let config = Config {
        root: dir.path().join("root"),
        state: dir.path().join("state"),
        address: dir.path().join("c.sock"),
        ..Config::default()
    };
    let layer = tar_of(&[("a", b"a")]);
    let image = image(&[(layer.clone(), gzip(&layer))]);
    let layout = dir.path().join("layout");
    let archive = dir.path().join("image.tar");
    support::layout(&layout, &image);
    let copy = format!("docker-archive:{}:r.test/x:1", archive.display());
    let from = format!("oci:{}:1", layout.display());
    assert!(Command::new("skopeo").args(["copy", "-q", &from, &copy]).status().unwrap().success());

    let daemon = Daemon::start(Path::new(env!("CARGO_BIN_EXE_strata-containerd")), &config);
    let ctr = |args: &[&str]| {
        let out = Command::new("ctr").arg("-a").arg(&config.address).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text
    };
    ctr(&["images", "import", &archive.display().to_string()]);
    let there = format!("{}/some/x:1", registry.host);
    ctr(&["images", "push", "--plain-http", &there, "r.test/x:1"]);
    let url = format!("docker://{there}");
    let inspect = ["inspect", "--tls-verify=false", "--raw", url.as_str()];
    assert!(Command::new("skopeo").args(inspect).output().unwrap().status.success());
    // In another namespace nothing of it is known.
    ctr(&["-n", "other", "images", "pull", "--plain-http", &there]);
    let listed = ctr(&["-n", "other", "images", "check", "-q"]);
    assert_eq!(listed.trim(), there);
    drop(daemon);
}
