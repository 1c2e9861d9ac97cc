//! The plugin wire from the caller's side: a program of `CNI_PATH`, executed (CNI specification
//! 1.1.0, section 2).

use std::{
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Wire,
    cni::{Add, Attached, Attachment, Check, Del},
    cx::TRACEPARENT_ENV,
};
use serde_json::Value;

use crate::cni::{
    blocking,
    error::{CniError, Doing, Result, code},
    result,
};

/// Network plugins as the programs they are.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// The directories they are looked up in, first first; `CNI_PATH`.
    pub path: Vec<PathBuf>,
}

/// Finds the program of the plugin `kind`.
///
/// # Errors
/// [`code::INTERNAL`] in libcni's words when there is none, and for a `kind` that is a path.
pub fn find(kind: &str, path: &[PathBuf]) -> Result<PathBuf> {
    if kind.is_empty() {
        return Err(CniError::invalid("missing 'type'"));
    }
    if kind.contains('/') {
        return Err(CniError::invalid(format!("invalid plugin name: {kind}")));
    }
    let found = path.iter().map(|dir| dir.join(kind)).find(|program| program.is_file());
    found.ok_or_else(|| {
        let dirs: Vec<_> = path.iter().map(|dir| dir.display().to_string()).collect();
        CniError::internal(format!("failed to find plugin \"{kind}\" in path [{}]", dirs.join(" ")))
    })
}

/// Executes `program` and answers with what it printed.
fn execute(
    program: &Path,
    command: &str,
    of: &Attachment,
    path: &[PathBuf],
    traceparent: Option<&str>,
) -> Result<Vec<u8>> {
    let shown = program.display();
    let path = std::env::join_paths(path).doing("CNI_PATH")?;
    let args: Vec<_> = of.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut child = Command::new(program);
    child
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &of.container_id)
        .env("CNI_NETNS", of.netns.as_deref().unwrap_or(Path::new("")))
        .env("CNI_IFNAME", &of.ifname)
        .env("CNI_ARGS", args.join(";"))
        .env("CNI_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    match traceparent {
        Some(parent) => child.env(TRACEPARENT_ENV, parent),
        None => child.env_remove(TRACEPARENT_ENV),
    };
    let mut child = child.spawn().doing(format_args!("exec {shown}"))?;
    let config = of.config.to_string();
    // A plugin reads its input whole before it prints anything longer than a pipe holds.
    let sent = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(config.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output().doing(format_args!("wait for {shown}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return match sent {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e).doing(shown),
            _ => Ok(output.stdout),
        };
    }
    let said = String::from_utf8_lossy(&output.stdout);
    if said.trim().is_empty() {
        return Err(CniError::internal(format!(
            "netplugin failed with no error message: {:?}",
            complaint.trim()
        )));
    }
    Err(serde_json::from_str(&said).unwrap_or_else(|e| {
        CniError::internal(format!(
            "netplugin failed but error parsing its diagnostic message {said:?}: {e}"
        ))
    }))
}

/// Executes `program` for an ADD.
///
/// # Errors
/// The plugin's own, and a result that cannot be read.
pub fn add(
    program: &Path,
    of: &Attachment,
    path: &[PathBuf],
    traceparent: Option<&str>,
) -> Result<Attached> {
    let printed = execute(program, "ADD", of, path, traceparent)?;
    let json: Value = serde_json::from_slice(&printed).map_err(|e| {
        CniError::new(code::DECODING, format!("result of {}: {e}", program.display()))
    })?;
    let version = of.config["cniVersion"].as_str().unwrap_or(result::UNNAMED);
    result::read(json, version)
}

/// Executes `program` for a command that answers nothing.
///
/// # Errors
/// The plugin's own.
pub fn tell(
    program: &Path,
    command: &str,
    of: &Attachment,
    path: &[PathBuf],
    traceparent: Option<&str>,
) -> Result<()> {
    execute(program, command, of, path, traceparent).map(drop)
}

impl Client {
    async fn call<T: Send + 'static>(
        &self,
        cx: &Cx,
        of: Attachment,
        run: impl FnOnce(&Path, &Attachment, &[PathBuf], Option<&str>) -> Result<T> + Send + 'static,
    ) -> hops::Result<T> {
        let path = self.path.clone();
        let parent = cx.trace.map(|trace| trace.to_string());
        let answer = blocking(move || {
            let kind = of.config["type"].as_str().unwrap_or_default();
            run(&find(kind, &path)?, &of, &path, parent.as_deref())
        });
        answer.await.map_err(|error| {
            // Whatever its code says, a plugin that fails exits with 1.
            let wire = Wire::Exit { code: 1, stderr: error.to_string() };
            let error = HopError::from(error);
            HopError::from_wire(error.kind, error.message, wire)
        })
    }
}

#[async_trait]
impl Handle<Add> for Client {
    async fn handle(&self, cx: &Cx, op: Add) -> hops::Result<Attached> {
        self.call(cx, op.0, add).await
    }
}

#[async_trait]
impl Handle<Del> for Client {
    async fn handle(&self, cx: &Cx, op: Del) -> hops::Result<()> {
        self.call(cx, op.0, |program, of, path, parent| tell(program, "DEL", of, path, parent))
            .await
    }
}

#[async_trait]
impl Handle<Check> for Client {
    async fn handle(&self, cx: &Cx, op: Check) -> hops::Result<()> {
        self.call(cx, op.0, |program, of, path, parent| tell(program, "CHECK", of, path, parent))
            .await
    }
}
