//! Both paths, end to end: what the README's first command does, and what it leaves behind.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod machine;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use machine::{Watch, skip};
use serde_json::Value;

fn strata() -> Command {
    Command::new(env!("CARGO_BIN_EXE_strata"))
}

/// Runs a comparison; `None` (and the reason on standard error) where sandboxes cannot be made.
fn compare(args: &[&str]) -> Option<Value> {
    if let Some(reason) = machine::no_sandbox() {
        skip(&reason);
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("results.json");
    let out = strata()
        .args(["compare", "--json"])
        .arg(&json)
        .arg("--report")
        .arg(dir.path())
        .args(args)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for name in ["report.html", "trace.json", "results.json"] {
        assert!(fs::metadata(dir.path().join(name)).unwrap().len() > 0, "{name}");
    }
    Some(serde_json::from_slice(&fs::read(json).unwrap()).unwrap())
}

fn parts(pod: &Value) -> impl Iterator<Item = (&str, &str, f64)> {
    pod["parts"].as_array().unwrap().iter().map(|part| {
        let text = |key: &str| part[key].as_str().unwrap();
        (text("at"), text("kind"), part["us"].as_f64().unwrap())
    })
}

#[test]
fn a_pod_crosses_every_hop_of_both_paths_and_the_parts_sum_to_the_whole() {
    let watch = Watch::begin();
    let Some(outcome) = compare(&["--pods", "3"]) else { return };
    let paths = outcome["paths"].as_array().unwrap();
    let expected: [(&str, &[&str], &[&str]); 2] = [
        (
            "pre-1.24",
            &["Cri", "Docker", "Containerd", "Shim", "Oci"],
            &[
                "kubelet-sim",
                "dockershim",
                "docker-daemon-layer",
                "containerd-layer",
                "shim",
                "runc-layer",
            ],
        ),
        (
            "direct",
            &["Cri", "Containerd", "Shim", "Oci"],
            &["kubelet-sim", "cri-layer", "containerd-layer", "shim", "runc-layer"],
        ),
    ];
    assert_eq!(paths.len(), expected.len());
    for (path, (name, hops, layers)) in paths.iter().zip(expected) {
        assert_eq!(path["name"], name);
        let pods = path["pods"].as_array().unwrap();
        assert_eq!(pods.len(), 3);
        for pod in pods {
            let of = |kind: &str| -> BTreeSet<&str> {
                parts(pod).filter(|(_, k, _)| *k == kind).map(|(at, ..)| at).collect()
            };
            for hop in hops {
                assert!(of("hop").contains(hop), "{name}: no hop {hop}");
            }
            for layer in layers {
                assert!(of("work").contains(layer), "{name}: no work of {layer}");
            }
            let life = pod["life_us"].as_f64().unwrap();
            let sum: f64 = parts(pod).map(|(.., us)| us).sum();
            assert!((sum - life).abs() / life < 0.02, "{name}: {sum} of {life}");
            assert!(pod["start_us"].as_f64().unwrap() < life);
        }
        let layers_used: BTreeSet<&str> = path["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l["name"].as_str().unwrap())
            .collect();
        for layer in layers.iter().filter(|layer| **layer != "runc-layer") {
            assert!(layers_used.contains(layer), "{name}: no memory of {layer}");
        }
    }
    watch.assert_unchanged();
}

#[test]
fn an_ordinary_user_needs_no_rights() {
    if !nix::unistd::getuid().is_root() {
        return skip("every other test of this file runs as an ordinary user here");
    }
    if let Some(reason) = machine::no_user_namespaces() {
        return skip(&reason);
    }
    const USER: u32 = 12345;
    let watch = Watch::begin();
    // Where the checkout is, another user may not even look.
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(USER), Some(USER)).unwrap();
    let program = home.path().join("strata");
    fs::copy(env!("CARGO_BIN_EXE_strata"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let out = Command::new(&program)
        .args(["compare", "--pods", "1"])
        .current_dir(home.path())
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let results = fs::read(home.path().join("strata-report/results.json")).unwrap();
    let outcome: Value = serde_json::from_slice(&results).unwrap();
    assert_eq!(outcome["paths"].as_array().unwrap().len(), 2);
    drop(home);
    watch.assert_unchanged();
}

#[test]
fn an_interrupted_comparison_leaves_nothing_behind() {
    if let Some(reason) = machine::no_sandbox() {
        return skip(&reason);
    }
    use nix::sys::signal::{Signal, kill};
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        for wait_ms in [5, 50, 300, 1500] {
            let watch = Watch::begin();
            let dir = tempfile::tempdir().unwrap();
            let mut child = strata()
                .args(["compare", "--pods", "1000", "--report"])
                .arg(dir.path())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(wait_ms));
            kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
            child.wait().unwrap();
            watch.assert_unchanged();
        }
    }
}

#[test]
fn a_wrong_manifest_is_refused_with_the_field_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join("pod.yaml");
    for (text, words) in [
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers:\n  - name: a\n    image: b\n    ports: [{containerPort: many}]\n",
            ["containerPort", "many"],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  container: []\n",
            ["spec", "container"],
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {}\n", ["spec", "containers"]),
    ] {
        fs::write(&manifest, text).unwrap();
        let watch = Watch::begin();
        let out = strata()
            .args(["compare", "--pods", "1", "--report"])
            .arg(dir.path())
            .arg("--manifest")
            .arg(&manifest)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success());
        for word in words {
            assert!(stderr.contains(word), "{word:?} is not in {stderr:?}");
        }
        watch.assert_unchanged();
    }
}
