//! Generates the protocols' message types.
//!
//! The `.proto` files come from published crates that carry them; those crates stand in Cargo.toml
//! under a target that never matches, so that cargo locks and fetches them and never compiles
//! them. No `protoc` is needed.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// What to compile: the carrying crate, the include roots in it, the files.
const PROTOCOLS: &[(&str, &[&str], &[&str])] = &[
    ("k8s-cri", &["proto"], &["v1.proto"]),
    (
        "containerd-client",
        &["vendor"],
        &[
            "github.com/containerd/containerd/api/services/containers/v1/containers.proto",
            "github.com/containerd/containerd/api/services/content/v1/content.proto",
            "github.com/containerd/containerd/api/services/diff/v1/diff.proto",
            "github.com/containerd/containerd/api/services/events/v1/events.proto",
            "github.com/containerd/containerd/api/services/images/v1/images.proto",
            "github.com/containerd/containerd/api/services/introspection/v1/introspection.proto",
            "github.com/containerd/containerd/api/services/leases/v1/leases.proto",
            "github.com/containerd/containerd/api/services/namespaces/v1/namespace.proto",
            "github.com/containerd/containerd/api/services/sandbox/v1/sandbox.proto",
            "github.com/containerd/containerd/api/services/snapshots/v1/snapshots.proto",
            "github.com/containerd/containerd/api/services/streaming/v1/streaming.proto",
            "github.com/containerd/containerd/api/services/tasks/v1/tasks.proto",
            "github.com/containerd/containerd/api/services/transfer/v1/transfer.proto",
            "github.com/containerd/containerd/api/services/ttrpc/events/v1/events.proto",
            "github.com/containerd/containerd/api/services/version/v1/version.proto",
            "github.com/containerd/containerd/api/types/runc/options/oci.proto",
            "github.com/containerd/containerd/api/types/transfer/importexport.proto",
            "github.com/containerd/containerd/api/types/transfer/imagestore.proto",
            "github.com/containerd/containerd/api/types/transfer/progress.proto",
            "github.com/containerd/containerd/api/types/transfer/registry.proto",
            "github.com/containerd/containerd/api/types/transfer/streaming.proto",
            "github.com/containerd/containerd/api/events/container.proto",
            "github.com/containerd/containerd/api/events/content.proto",
            "github.com/containerd/containerd/api/events/image.proto",
            "github.com/containerd/containerd/api/events/namespace.proto",
            "github.com/containerd/containerd/api/events/sandbox.proto",
            "github.com/containerd/containerd/api/events/snapshot.proto",
            "github.com/containerd/containerd/api/events/task.proto",
        ],
    ),
    (
        "containerd-shim-protos",
        &["vendor", "vendor/github.com/containerd/containerd/api"],
        &[
            "github.com/containerd/containerd/api/runtime/sandbox/v1/sandbox.proto",
            "github.com/containerd/containerd/api/runtime/task/v2/shim.proto",
            "github.com/containerd/cgroups/v3/cgroup1/stats/metrics.proto",
            "github.com/containerd/cgroups/cgroup2/stats/metrics.proto",
        ],
    ),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=Cargo.toml");
    let metadata = metadata()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for (package, roots, files) in PROTOCOLS {
        let home = home_of(&metadata, package)?;
        let includes: Vec<PathBuf> = roots.iter().map(|root| home.join(root)).collect();
        let descriptors = protox::compile(files.iter().map(|f| includes[0].join(f)), &includes)?;
        let dir = out.join(package);
        std::fs::create_dir_all(&dir)?;
        let mut config = prost_build::Config::new();
        if *package == "containerd-shim-protos" {
            // The shim's protocol shares containerd's types: one Rust type for each.
            for shared in ["containerd.types", "containerd.v1.types"] {
                config.extern_path(
                    format!(".{shared}"),
                    format!("crate::proto::{}", shared.replace('.', "::")),
                );
            }
        }
        config
            .bytes(["."])
            .enable_type_names()
            .type_name_domain(["."], "")
            .out_dir(&dir)
            .include_file("mod.rs")
            .compile_fds(descriptors)?;
    }
    Ok(())
}

/// The resolved workspace. Offline first: a build must not wait for a registry it does not need.
fn metadata() -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let cargo = env::var("CARGO")?;
    let manifest = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let mut last = String::new();
    for extra in [&["--offline"][..], &[]] {
        let out = Command::new(&cargo)
            .args(["metadata", "--format-version=1", "--locked", "--manifest-path"])
            .arg(&manifest)
            .args(extra)
            .output()?;
        if out.status.success() {
            return Ok(serde_json::from_slice(&out.stdout)?);
        }
        last = String::from_utf8_lossy(&out.stderr).into_owned();
    }
    Err(format!("cargo metadata: {last}").into())
}

fn home_of(metadata: &serde_json::Value, package: &str) -> Result<PathBuf, String> {
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["name"] == package)
        .and_then(|p| Path::new(p["manifest_path"].as_str()?).parent().map(Path::to_path_buf))
        .ok_or_else(|| {
            format!("the crate that carries the protos, {package}, is not in Cargo.lock")
        })
}
