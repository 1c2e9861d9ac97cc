//! `strata-kubelet --drive`: one job a line on standard input, one report a line on standard
//! output. The lab drives two kubelets with it, turn by turn.

use std::{
    io::{BufRead, Write},
    path::Path,
    time::Duration,
};

use hops::{Cx, HopError, Result};
use serde::Deserialize;

use crate::{
    kubelet::Kubelet,
    life::{Report, Span},
    manifest::Pod,
};

/// One job.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// A file's path, or the YAML itself (whatever holds a line break).
    pub manifest: String,
    /// What the pod's name is ended by.
    #[serde(default)]
    pub name_suffix: String,
    /// Milliseconds to leave the pod alone once it runs.
    #[serde(default)]
    pub hold_ms: u64,
    /// Seconds between the stop signal and the kill; the manifest's when absent.
    #[serde(default)]
    pub grace_s: Option<i64>,
}

impl Job {
    fn pod(&self) -> Result<Pod> {
        let inline = self.manifest.contains('\n');
        let text = match inline {
            true => self.manifest.clone(),
            false => std::fs::read_to_string(Path::new(&self.manifest))
                .map_err(|e| HopError::from(e).context(&self.manifest))?,
        };
        Pod::read_one(&text)?.fresh(&self.name_suffix)
    }
}

/// Does one job; the reading of the manifest is the first part of the pod's time.
pub async fn run(kubelet: &Kubelet, job: &Job) -> Report {
    let begun = kubelet.begin(&Cx::background());
    let span = Span { hold: Duration::from_millis(job.hold_ms), grace: job.grace_s };
    kubelet.live(begun, job.pod(), span).await.into()
}

/// Does the jobs of standard input until it ends, or until `shutdown` completes between two jobs.
///
/// # Errors
/// A line that is no job, and those of the standard streams.
pub async fn serve(kubelet: &Kubelet, shutdown: impl Future<Output = ()>) -> std::io::Result<()> {
    // A thread of its own, so that a reader who waits for input does not keep the program alive.
    let (lines, mut jobs) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let ended = line.is_err();
            if lines.blocking_send(line).is_err() || ended {
                return;
            }
        }
    });
    tokio::pin!(shutdown);
    loop {
        let line = tokio::select! {
            line = jobs.recv() => match line {
                Some(line) => line?,
                None => return Ok(()),
            },
            () = &mut shutdown => return Ok(()),
        };
        if line.trim().is_empty() {
            continue;
        }
        let job: Job = serde_json::from_str(&line)?;
        let mut report = serde_json::to_vec(&run(kubelet, &job).await)?;
        report.push(b'\n');
        let mut out = std::io::stdout().lock();
        out.write_all(&report)?;
        out.flush()?;
    }
}
