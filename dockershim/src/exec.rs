//! Commands in a container, and the refusal of streams
//! (`pkg/kubelet/dockershim/exec.go` and `docker_streaming.go`, Kubernetes 1.20).

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use hops::{
    Cx, Handle, HandleStream, HopError, Kind, Result,
    docker::{
        ExecCreate, ExecInspect, ExecStart, Json, Request,
        models::{ExecConfig, ExecStartConfig},
    },
    op::no_input,
    proto::runtime::v1::*,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::engine::Engine;

/// How often and how many times a command whose output has ended is asked whether it has too.
const ASK_AGAIN: Duration = Duration::from_millis(20);
const ASK_AT_MOST: u32 = 500;

/// Takes Docker's multiplexed output apart: frames of `{stream, 0, 0, 0, length as 32 bits big
/// endian}` and as many bytes.
#[derive(Debug, Default)]
struct Demultiplexer {
    arrived: BytesMut,
    stdout: BytesMut,
    stderr: BytesMut,
}

impl Demultiplexer {
    fn push(&mut self, bytes: &Bytes) -> Result<()> {
        self.arrived.extend_from_slice(bytes);
        while let Some(&[stream, _, _, _, a, b, c, d]) = self.arrived.first_chunk::<8>() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if self.arrived.len() < 8 + length {
                return Ok(());
            }
            self.arrived.advance(8);
            let frame = self.arrived.split_to(length);
            match stream {
                0 | 1 => self.stdout.extend_from_slice(&frame),
                2 => self.stderr.extend_from_slice(&frame),
                // The daemon's own failure, after the stream began.
                3 => {
                    let words = String::from_utf8_lossy(&frame).into_owned();
                    return Err(HopError::new(Kind::Unknown, words));
                }
                other => {
                    let words = format!("Unrecognized input header: {other}");
                    return Err(HopError::new(Kind::Unknown, words));
                }
            }
        }
        Ok(())
    }
}

impl Engine {
    async fn run(&self, cx: &Cx, exec: &str) -> Result<ExecSyncResponse> {
        let config =
            ExecStartConfig { detach: Some(false), tty: Some(false), ..Default::default() };
        let request = Request::<ExecStart>::of(exec).body(Json(config));
        let mut output = self.docker.stream(cx, request, no_input()).await?;
        let mut streams = Demultiplexer::default();
        while let Some(bytes) = output.next().await {
            streams.push(&bytes?)?;
        }
        for _ in 0..ASK_AT_MOST {
            let state = self.docker.handle(cx, Request::<ExecInspect>::of(exec)).await?.0;
            if state.running != Some(true) {
                return Ok(ExecSyncResponse {
                    stdout: streams.stdout.freeze(),
                    stderr: streams.stderr.freeze(),
                    exit_code: state.exit_code.and_then(|c| i32::try_from(c).ok()).unwrap_or(-1),
                });
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Err(HopError::new(
            Kind::Unknown,
            format!("Exec session {exec} terminated but process still running!"),
        ))
    }

    /// Kills a command that outlived its time. The real dockershim leaves it running.
    async fn kill_exec(&self, cx: &Cx, exec: &str) {
        let state = self.docker.handle(cx, Request::<ExecInspect>::of(exec)).await;
        let pid = state.ok().filter(|s| s.running == Some(true)).and_then(|s| s.pid);
        if let Some(pid) = pid.and_then(|p| i32::try_from(p).ok()).filter(|p| *p > 0)
            && let Err(errno) = kill(Pid::from_raw(pid), Signal::SIGKILL)
        {
            tracing::warn!(exec, pid, %errno, "killing a command that timed out");
        }
    }
}

#[async_trait]
impl Handle<ExecSyncRequest> for Engine {
    async fn handle(&self, cx: &Cx, op: ExecSyncRequest) -> Result<ExecSyncResponse> {
        let id = &op.container_id;
        let container = self.inspect(cx, id).await?;
        if container.state.as_ref().and_then(|s| s.running) != Some(true) {
            let id = container.id.unwrap_or_else(|| id.clone());
            let words = format!("container not running ({id})");
            return Err(HopError::new(Kind::FailedPrecondition, words));
        }
        let config = ExecConfig {
            attach_stdin: Some(false),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(false),
            cmd: Some(op.cmd),
            ..ExecConfig::default()
        };
        let request = Request::<ExecCreate>::of(id).body(Json(config));
        let exec = self
            .docker
            .handle(cx, request)
            .await
            .map_err(|e| e.context("failed to exec in container - Exec setup failed"))?;
        let exec = exec.0.id;
        let limit = u64::try_from(op.timeout).ok().filter(|s| *s > 0).map(Duration::from_secs);
        let run = self.run(cx, &exec);
        let Some(limit) = limit else { return run.await };
        match tokio::time::timeout(limit, run).await {
            Ok(answer) => answer,
            Err(_) => {
                self.kill_exec(&cx.detached(), &exec).await;
                Err(HopError::new(Kind::DeadlineExceeded, "context deadline exceeded"))
            }
        }
    }
}

hops::refuse!(Engine: ExecRequest, AttachRequest, PortForwardRequest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_in_any_pieces() {
        let bytes =
            [&[1, 0, 0, 0, 0, 0, 0, 3][..], b"out", &[2, 0, 0, 0, 0, 0, 0, 2], b"er"].concat();
        for size in 1..bytes.len() {
            let mut streams = Demultiplexer::default();
            for piece in bytes.chunks(size) {
                streams.push(&Bytes::copy_from_slice(piece)).unwrap();
            }
            assert_eq!((&streams.stdout[..], &streams.stderr[..]), (&b"out"[..], &b"er"[..]));
        }
        let mut streams = Demultiplexer::default();
        assert!(streams.push(&Bytes::from_static(&[9, 0, 0, 0, 0, 0, 0, 0])).is_err());
    }
}
