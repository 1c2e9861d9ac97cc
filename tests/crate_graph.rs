//! Layers meet only in the faces: the crate graph says so.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::process::Command;

use serde_json::Value;

/// What a layer may depend on inside the house.
const SHARED: [&str; 2] = ["hops", "wire"];
const LAYERS: [&str; 7] = [
    "runc-layer",
    "containerd-layer",
    "docker-daemon-layer",
    "cri-layer",
    "cni-layer",
    "dockershim",
    "kubelet-sim",
];

fn house() -> Vec<(String, Vec<String>)> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let out = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--offline",
            "--manifest-path",
            manifest,
        ])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let names: Vec<String> = packages.iter().map(|p| text(&p["name"])).collect();
    packages
        .iter()
        .map(|package| {
            // A layer's tests may borrow the suite of its face from the layer where it stands.
            let dependencies = package["dependencies"].as_array().unwrap();
            let inside = dependencies
                .iter()
                .filter(|d| d["kind"] != "dev")
                .map(|d| text(&d["name"]))
                .filter(|d| names.contains(d))
                .collect();
            (text(&package["name"]), inside)
        })
        .collect()
}

#[test]
fn layers_depend_on_the_faces_and_the_wires_and_never_on_each_other() {
    let house = house();
    for layer in LAYERS {
        let (_, inside) = house.iter().find(|(name, _)| name == layer).expect(layer);
        for dependency in inside {
            assert!(SHARED.contains(&dependency.as_str()), "{layer} depends on {dependency}");
        }
    }
}

#[test]
fn the_faces_depend_on_nothing_inside_and_the_wires_only_on_them() {
    let house = house();
    let inside = |crate_: &str| &house.iter().find(|(name, _)| name == crate_).expect(crate_).1;
    assert!(inside("hops").is_empty());
    assert_eq!(inside("wire").as_slice(), ["hops"]);
}

#[test]
fn the_faces_know_no_transport() {
    let manifest = include_str!("../layers/hops/Cargo.toml");
    for transport in ["tonic", "hyper", "tokio"] {
        assert!(!manifest.contains(transport), "hops depends on {transport}");
    }
}
