//! Logs in CRI's format.

use std::{fs, path::Path};

use hops::proto::runtime::v1::*;

use super::{Subject, Verdict, holds, same};

/// Reads a log: stream, tag and text of each entry.
fn entries(path: &Path) -> Verdict<Vec<(String, String, String)>> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let entry = |line: &str| {
        let mut parts = line.splitn(4, ' ');
        let time = parts.next()?;
        let (stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?);
        let time_is_one = time.len() >= 20 && time.contains('T') && !tag.is_empty();
        time_is_one.then(|| (stream.to_owned(), tag.to_owned(), text.to_owned()))
    };
    let bad = |line: &str| format!("a log line is no entry: {line:?}");
    text.lines().map(|line| entry(line).ok_or_else(|| bad(line))).collect()
}

pub(super) async fn chapter(on: &Subject) -> Verdict {
    let pod = on.pod();
    let sandbox = on.run_pod(&pod).await?;
    let script = "echo one; echo two >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf end";
    let id = on.create(&sandbox, &pod, on.script("speaks", script)).await?;
    on.start(&id).await?;
    let status = on.exited(&id).await?;
    let path = Path::new(&pod.log_directory).join("speaks.log");
    same("the log's path", status.log_path.as_str(), path.display().to_string().as_str())?;
    let all = entries(&path)?;
    let of = |stream: &str| all.iter().filter(|e| e.0 == stream).collect::<Vec<_>>();
    let stderr: Vec<_> = of("stderr").iter().map(|e| (e.1.as_str(), e.2.as_str())).collect();
    same("standard error", stderr, vec![("F", "two")])?;
    let stdout: Vec<_> = of("stdout").iter().map(|e| (e.1.as_str(), e.2.len())).collect();
    let wanted = vec![("F", 3), ("P", 16384), ("F", 3616), ("P", 3)];
    same("standard output, each entry's tag and length", stdout, wanted)?;

    let talks = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done";
    let id = on.create(&sandbox, &pod, on.script("talks", talks)).await?;
    on.start(&id).await?;
    let path = Path::new(&pod.log_directory).join("talks.log");
    let old = path.with_extension("old");
    grown(&path).await?;
    fs::rename(&path, &old).map_err(|e| e.to_string())?;
    on.call(ReopenContainerLogRequest { container_id: id.clone() }).await?;
    grown(&path).await?;
    on.call(StopContainerRequest { container_id: id.clone(), timeout: 0 }).await?;
    on.refused(ReopenContainerLogRequest { container_id: id }).await?;
    let number = |e: &(String, String, String)| e.2.parse::<u32>().unwrap_or(0);
    let (before, after) = (entries(&old)?, entries(&path)?);
    let numbers: Vec<u32> = before.iter().chain(&after).map(number).collect();
    let through = numbers.iter().zip(1..).all(|(seen, wanted)| *seen == wanted);
    holds("no line is lost when a log is moved", through && !after.is_empty())
}

/// Waits until a log has lines.
async fn grown(path: &Path) -> Verdict {
    for _ in 0..600 {
        if entries(path).is_ok_and(|entries| entries.len() > 2) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Err(format!("nothing is written to {}", path.display()))
}
