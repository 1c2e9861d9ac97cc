//! `GET /containers/{id}/top`: the host's `ps`, for the processes of one container.

use std::{collections::HashSet, fs};

use async_trait::async_trait;
use hops::{
    Cx, Handle, HopError, Result,
    docker::{ContainerTop, Json, Request, models::ContainerTopResponse},
    proto::containerd::services::tasks::v1::ListPidsRequest,
};

use super::{Engine, exits::not_running};

/// The columns of `ps -ef`.
const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
/// Clock ticks a second, as the kernel shows them to programs on every Linux.
const TICKS: u64 = 100;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// `ps -ef`'s line of a process; `None` when it is gone.
fn line(pid: u32, users: &str) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    // The name stands in brackets and may hold anything.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let (ppid, tty) = (number(1), number(4));
    let used = (number(11) + number(12)) / TICKS;
    let begun = number(19) / TICKS;
    let up: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let alive = (up as u64).saturating_sub(begun);
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().next()?;
    let user = users
        .lines()
        .find_map(|l| {
            let mut fields = l.split(':');
            let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
            (id == uid).then(|| name.to_owned())
        })
        .unwrap_or_else(|| uid.to_owned());
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    let now = crate::time::rfc3339(crate::time::now() - (alive as i64) * 1_000_000_000);
    let terminal = match (tty >> 8 & 0xfff, tty & 0xff) {
        (0, _) => "?".to_owned(),
        (136..=143, minor) => format!("pts/{minor}"),
        (major, minor) => format!("{major}:{minor}"),
    };
    Some(vec![
        user,
        pid.to_string(),
        ppid.to_string(),
        (used * 100).checked_div(alive).unwrap_or(0).min(99).to_string(),
        now.get(11..16).unwrap_or_default().to_owned(),
        terminal,
        format!("{:02}:{:02}:{:02}", used / 3600, used / 60 % 60, used % 60),
        if command.is_empty() { format!("[{name}]") } else { command },
    ])
}

/// What the host's `ps` says with `arguments`, for `pids` only.
async fn ps(arguments: &str, pids: &HashSet<u32>) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let output = tokio::process::Command::new("ps")
        .args(arguments.split_whitespace())
        .output()
        .await
        .map_err(|e| HopError::internal(format!("error running ps: {e}")))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(HopError::internal(format!("error running ps: {}", words.trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let at = titles
        .iter()
        .position(|t| t == "PID")
        .ok_or_else(|| HopError::internal("Couldn't find PID field in ps output"))?;
    let rows = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let mut row: Vec<String> =
            words.by_ref().take(titles.len() - 1).map(str::to_owned).collect();
        row.push(words.collect::<Vec<_>>().join(" "));
        pids.contains(&row.get(at)?.parse().ok()?).then_some(row)
    });
    Ok((titles.clone(), rows.collect()))
}

#[async_trait]
impl Handle<Request<ContainerTop>> for Engine {
    async fn handle(
        &self,
        cx: &Cx,
        call: Request<ContainerTop>,
    ) -> Result<Json<ContainerTopResponse>> {
        let arguments = call.query.ps_args.filter(|a| !a.is_empty());
        let container = self.find(&call.id)?;
        if !container.phase().runs() {
            return Err(not_running(&container.id));
        }
        let list = ListPidsRequest { container_id: container.id.clone() };
        let pids: HashSet<u32> = self
            .containerd
            .handle(&self.named(cx), list)
            .await?
            .processes
            .iter()
            .map(|p| p.pid)
            .collect();
        let (titles, processes) = match arguments.as_deref() {
            None | Some("-ef") => {
                let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
                let mut sorted: Vec<u32> = pids.into_iter().collect();
                sorted.sort_unstable();
                let rows = sorted.into_iter().filter_map(|pid| line(pid, &users)).collect();
                (strings(&TITLES), rows)
            }
            Some(arguments) => ps(arguments, &pids).await?,
        };
        self.tell(&container, "top", &[]);
        Ok(Json(ContainerTopResponse { titles: Some(titles), processes: Some(processes) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_line() {
        let own = line(std::process::id(), "root:x:0:0::/:/bin/sh\n").unwrap();
        assert_eq!(own.len(), TITLES.len());
        assert_eq!(own[1], std::process::id().to_string());
    }
}
