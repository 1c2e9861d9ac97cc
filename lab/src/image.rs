//! The built-in image: this very program as the only file of a root filesystem, so that the main
//! job needs no network and no installed image. It is a `docker save` archive, which both paths
//! read.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The sandbox's image.
pub(crate) const PAUSE: &str = "strata.local/pause:1";
/// The application's image.
pub(crate) const APP: &str = "strata.local/app:1";

/// Writes the archive of both images to `to`.
///
/// # Errors
/// Those of reading this program and writing the archive.
pub(crate) fn write(to: &Path) -> Result<()> {
    let layer = layer().context("the built-in image's layer")?;
    let config = config(&layer)?;
    let layer_name = format!("{}/layer.tar", hex(&layer));
    let config_name = format!("{}.json", hex(&config));
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": [PAUSE, APP],
        "Layers": [layer_name],
    }]);
    let mut archive = tar::Builder::new(File::create(to)?);
    for (name, bytes) in [
        (layer_name.as_str(), layer.as_slice()),
        (config_name.as_str(), &config),
        ("manifest.json", manifest.to_string().as_bytes()),
    ] {
        archive.append_data(&mut file(0o644, bytes.len()), name, bytes)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

fn layer() -> Result<Vec<u8>> {
    let program = std::fs::read("/proc/self/exe")?;
    let mut layer = tar::Builder::new(Vec::with_capacity(program.len() + 8192));
    for directory in ["etc/", "tmp/", "proc/", "sys/", "dev/"] {
        let mut header = file(0o755, 0);
        header.set_entry_type(tar::EntryType::Directory);
        layer.append_data(&mut header, directory, std::io::empty())?;
    }
    for (name, text) in [
        ("etc/passwd", "root:x:0:0:root:/:/strata\nnobody:x:65534:65534:nobody:/:/strata\n"),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ] {
        layer.append_data(&mut file(0o644, text.len()), name, text.as_bytes())?;
    }
    layer.append_data(&mut file(0o755, program.len()), "strata", program.as_slice())?;
    Ok(layer.into_inner()?)
}

fn file(mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header
}

fn config(layer: &[u8]) -> Result<Vec<u8>> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Ok(serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/strata", "pause"],
            "Env": ["PATH=/"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(layer))]},
        "history": [{"created_by": "strata"}],
    }))?)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The program inside the image: waits until it is told to end, and reaps what is left to it, as
/// Kubernetes' pause does.
///
/// # Errors
/// Those of taking the signals over.
pub(crate) fn pause() -> Result<()> {
    use nix::sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    };
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                while !matches!(
                    waitpid(None, Some(WaitPidFlag::WNOHANG)),
                    Err(_) | Ok(WaitStatus::StillAlive)
                ) {}
            }
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_what_docker_save_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        write(&path).unwrap();
        let mut archive = tar::Archive::new(File::open(&path).unwrap());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names.len(), 3);
        assert!(names[0].ends_with("/layer.tar") && names[2] == "manifest.json", "{names:?}");
    }
}
