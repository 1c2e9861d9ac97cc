//! Pulls from the real docker-registry what the real skopeo pushed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use containerd_layer::{
    Kind, Store,
    filters::Filters,
    images::{media, pull::Pull},
};
use std::{fs, process::Command};
use support::{
    distribution::{Registry, registry},
    gzip, image, store, tar_of,
};

fn push(registry: &Registry, from: &str, tag: &str, options: &[&str]) {
    let to = format!("docker://{}/x:{tag}", registry.host);
    let out = Command::new("skopeo")
        .args(["copy", "-q", "--dest-tls-verify=false"])
        .args(options)
        .args([from, &to])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn read(store: &Store, name: &str) -> Vec<u8> {
    let overlay = store.snapshots("").unwrap();
    let layer = overlay.list("ns", &Filters::default()).unwrap().remove(0);
    fs::read(overlay.directory("ns", &layer.name).unwrap().join(name)).unwrap()
}

#[tokio::test]
async fn formats_and_compressions() {
    let dir = tempfile::tempdir().unwrap();
    let Some(registry) = registry(dir.path()) else { return };
    let program = fs::read("/bin/busybox").unwrap_or_else(|_| vec![7; 1 << 20]);
    let layer = tar_of(&[("busybox", &program)]);
    let packed = image(&[(layer.clone(), gzip(&layer))]);
    let from = support::layout(&dir.path().join("gzip"), &packed);
    push(&registry, &from, "oci", &["--preserve-digests"]);
    push(&registry, &from, "docker", &["--format", "v2s2"]);
    let mut tags = vec![("oci", media::OCI_MANIFEST), ("docker", media::DOCKER_MANIFEST)];
    let mut plain = image(&[(layer.clone(), layer.clone())]);
    let manifest = String::from_utf8(plain.manifest).unwrap();
    plain.manifest = manifest.replace("tar+gzip", "tar").into_bytes();
    let from = support::layout(&dir.path().join("plain"), &plain);
    push(&registry, &from, "plain", &["--preserve-digests"]);
    tags.push(("plain", media::OCI_MANIFEST));
    fs::write(dir.path().join("layer"), &layer).unwrap();
    match Command::new("zstd").arg("-qc").arg(dir.path().join("layer")).output() {
        Ok(out) => {
            let mut packed = image(&[(layer, out.stdout)]);
            let manifest = String::from_utf8(packed.manifest).unwrap();
            packed.manifest = manifest.replace("tar+gzip", "tar+zstd").into_bytes();
            let from = support::layout(&dir.path().join("zstd"), &packed);
            push(&registry, &from, "zstd", &["--preserve-digests"]);
            tags.push(("zstd", media::OCI_MANIFEST));
        }
        Err(_) => println!("SKIP: zstd is not installed"),
    }
    for (tag, media_type) in tags {
        let (_dir, store) = store();
        let reference = format!("{}/x:{tag}", registry.host);
        let pulled = store.pull(Pull::new("ns", &reference)).await.unwrap();
        assert_eq!(pulled.target.media_type, media_type, "{tag}");
        assert!(read(&store, "busybox") == program, "{tag}");
        let by_digest = format!("{}/x@{}", registry.host, pulled.target.digest);
        store.pull(Pull::new("ns", &by_digest)).await.unwrap();
    }
    let (_dir, store) = store();
    let missing = format!("{}/x:none", registry.host);
    let error = store.pull(Pull::new("ns", &missing)).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    let text = format!("failed to resolve reference {missing:?}: {missing}: not found");
    assert_eq!(error.message, text);
}
