//! Attach and logs: what a container says, now and before.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use hops::{
    Cx, HandleStream, HopError, Inputs, Outputs, Result,
    docker::{ContainerAttach, ContainerLogs, Flag, LogsQuery, Request},
};
use tokio::sync::oneshot;

use super::Engine;
use crate::{
    record::Phase,
    stdio::{
        hub::{Hub, Input},
        read::{self, Wanted},
    },
    time,
};

/// The keys that detach when nothing is said: ctrl-p, ctrl-q.
const DETACH: &[u8] = &[0x10, 0x11];

fn on(flag: Option<Flag>) -> bool {
    flag.is_some_and(|Flag(on)| on)
}

#[async_trait]
impl HandleStream<Request<ContainerLogs>> for Engine {
    async fn stream(
        &self,
        _cx: &Cx,
        call: Request<ContainerLogs>,
        _input: Inputs<Bytes>,
    ) -> Result<Outputs<Bytes>> {
        let container = self.find(&call.id)?;
        let query = call.query;
        if !(on(query.stdout) || on(query.stderr)) {
            return Err(HopError::invalid("Bad parameters: you must choose at least one stream"));
        }
        let kept = container.look(|r| r.host.log_config.as_ref().and_then(|l| l.typ.clone()));
        if kept.as_deref() == Some("none") {
            return Err(HopError::internal("configured logging driver does not support reading"));
        }
        let mut wanted = wanted(&query)?;
        wanted.tty = container.look(|r| r.tty());
        // A container that has not started yet has a log that begins when it does.
        wanted.follow &= matches!(container.phase(), Phase::Running | Phase::Paused)
            || container.log.borrow().open;
        Ok(read::stream(container.log_path(), wanted, container.log.subscribe()))
    }
}

fn wanted(query: &LogsQuery) -> Result<Wanted> {
    let point = |key: &str, text: &Option<String>| match text.as_deref() {
        None | Some("") => Ok(0),
        Some(text) => time::parse(text)
            .ok_or_else(|| HopError::invalid(format!("invalid value for \"{key}\": {text}"))),
    };
    Ok(Wanted {
        stdout: on(query.stdout),
        stderr: on(query.stderr),
        timestamps: on(query.timestamps),
        follow: on(query.follow),
        // What is no number is all, as dockerd has it.
        tail: query.tail.as_deref().and_then(|t| t.parse().ok()),
        since: point("since", &query.since)?,
        until: point("until", &query.until)?,
        tty: false,
    })
}

#[async_trait]
impl HandleStream<Request<ContainerAttach>> for Engine {
    async fn stream(
        &self,
        _cx: &Cx,
        call: Request<ContainerAttach>,
        input: Inputs<Bytes>,
    ) -> Result<Outputs<Bytes>> {
        let container = self.find(&call.id)?;
        let query = call.query;
        match container.phase() {
            Phase::Paused => {
                return Err(super::conflict(format!(
                    "container {} is paused, unpause the container before attach",
                    container.id
                )));
            }
            Phase::Restarting => {
                return Err(super::conflict(format!(
                    "container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => {}
        }
        let keys = detach_keys(query.detach_keys.as_deref())?;
        let (tty, once, open) = container.look(|r| {
            (r.tty(), r.config.stdin_once == Some(true), r.config.open_stdin == Some(true))
        });
        let (stdout, stderr) = (on(query.stdout), on(query.stderr));
        let mut output: Outputs<Bytes> = if on(query.stream) {
            let live = container.hub.listen(stdout, stderr);
            if on(query.stdin) && open {
                until_detached(&container.hub, live, input, Stdin { keys, close: once && !tty })
            } else {
                live
            }
        } else {
            Box::pin(futures_util::stream::empty())
        };
        if on(query.logs) {
            let past = Wanted { stdout, stderr, tty, ..Wanted::default() };
            let log = read::stream(container.log_path(), past, container.log.subscribe());
            output = Box::pin(log.chain(output));
        }
        self.tell(&container, "attach", &[]);
        Ok(output)
    }
}

/// What is to be done with an attached client's input.
pub(super) struct Stdin {
    /// The keys that detach.
    pub(super) keys: Vec<u8>,
    /// Whether the process's input ends when the client's does.
    pub(super) close: bool,
}

/// `live` until the client detaches; its input goes to the process.
pub(super) fn until_detached(
    hub: &Hub,
    live: Outputs<Bytes>,
    mut input: Inputs<Bytes>,
    stdin: Stdin,
) -> Outputs<Bytes> {
    let to = hub.input();
    let (detached, detach) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut escape = Escape { keys: stdin.keys, matched: 0 };
        while let Some(data) = input.next().await {
            let (data, left) = escape.pass(data);
            if !data.is_empty() && to.send(Input::Data(data)).await.is_err() {
                return;
            }
            if left {
                let _ = detached.send(());
                return;
            }
        }
        if stdin.close {
            let _ = to.send(Input::End).await;
        } else {
            // A client that sends nothing more, to a process that waits for others, is done.
            let _ = detached.send(());
        }
    });
    let end = async move {
        // Only a word detaches; the sender may be dropped without one.
        if detach.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Box::pin(live.take_until(Box::pin(end)))
}

/// Looks for the detaching keys in what a client types.
struct Escape {
    keys: Vec<u8>,
    matched: usize,
}

impl Escape {
    /// What of `data` is for the process, and whether the client detached.
    fn pass(&mut self, data: Bytes) -> (Bytes, bool) {
        if self.keys.is_empty() || (self.matched == 0 && !data.contains(&self.keys[0])) {
            return (data, false);
        }
        let mut out = Vec::with_capacity(data.len());
        for byte in data {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out.into(), true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if byte == self.keys[0] {
                self.matched = 1;
            } else {
                out.push(byte);
            }
        }
        (out.into(), false)
    }
}

/// Reads `ctrl-p,ctrl-q`, `ctrl-@`, `a,b`.
pub(super) fn detach_keys(text: Option<&str>) -> Result<Vec<u8>> {
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(DETACH.to_vec()) };
    let invalid =
        || HopError::invalid(format!("Invalid escape keys (given keys: {text}) provided"));
    text.split(',')
        .map(|key| match (key.strip_prefix("ctrl-").map(str::as_bytes), key.as_bytes()) {
            (Some([c @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]), _) => {
                Ok(c.to_ascii_uppercase() & 0x1f)
            }
            (None, [c]) => Ok(*c),
            _ => Err(invalid()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detaching_keys_are_found_across_pieces() {
        assert_eq!(detach_keys(None).unwrap(), DETACH);
        assert_eq!(detach_keys(Some("ctrl-a,x")).unwrap(), [1, b'x']);
        assert!(detach_keys(Some("ctrl-ab")).is_err());
        let mut escape = Escape { keys: DETACH.to_vec(), matched: 0 };
        let mut pass = |data: &'static [u8]| {
            let (out, left) = escape.pass(Bytes::from_static(data));
            (out.to_vec(), left)
        };
        assert_eq!(pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(pass(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(pass(b"\x10"), (vec![], false));
        assert_eq!(pass(b"\x11z"), (vec![], true));
    }
}
