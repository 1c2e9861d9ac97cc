//! Where the time goes: one span for the caller's side of a call, one for the callee's.
//!
//! For each call, the caller's time less the callee's is the hop's cost; the callee's time less
//! its own calls is the layer's work. [`Traced`] is the one middleware that measures both, for
//! every verb of every hop. All times are `CLOCK_MONOTONIC` in nanoseconds, so that the spans of
//! different processes join as they are.
//!
//! A process writes its spans, a JSON line each, to the file that [`SPANS_ENV`] names. The file is
//! opened for appending and each line is one write, so any number of processes share it.

use std::{
    fs::File,
    io::Write,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::{Cx, Handle, HandleStream, Inputs, Op, Outputs, Result, StreamOp, cx::TraceParent};

/// The environment variable that names the file for spans. Unset: nothing is measured.
pub const SPANS_ENV: &str = "STRATA_SPANS";

/// Which end of the call a span saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// From before the request was encoded until after the answer was decoded.
    Caller,
    /// From after the request was decoded until the answer is ready.
    Callee,
    /// A piece of a layer's own work that it wants named; no hop is crossed.
    Inner,
}

/// One measured interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The trace: 32 hexadecimal digits.
    pub trace: String,
    /// This span: 16 hexadecimal digits.
    pub span: String,
    /// The span it belongs to; `None` for a root.
    pub parent: Option<String>,
    /// The layer that measured it, e.g. `containerd-layer`.
    pub layer: String,
    /// The hop's name, or empty for a root or an inner span.
    pub hop: String,
    /// The verb.
    pub verb: String,
    /// Which end of the call.
    pub side: Side,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub start_ns: u64,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub end_ns: u64,
    /// The process that measured it.
    pub pid: u32,
    /// Whether the call was answered with an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

/// Where a process puts its spans. Cheap to clone; does nothing when disabled.
#[derive(Clone, Debug, Default)]
pub struct Spans(Option<Arc<Sink>>);

#[derive(Debug)]
struct Sink {
    layer: String,
    file: File,
    pid: u32,
    next: AtomicU64,
}

impl Sink {
    fn new_trace(&self) -> TraceParent {
        let high = u128::from(mix(self.next.fetch_add(1, Ordering::Relaxed)));
        let low = u128::from(mix(now_ns()));
        TraceParent { trace: (high << 64 | low) | 1, span: 0 }
    }
}

impl Spans {
    /// Measures nothing.
    pub fn disabled() -> Spans {
        Spans(None)
    }

    /// Spans of `layer`, written to the file that [`SPANS_ENV`] names.
    pub fn from_env(layer: &str) -> Spans {
        match std::env::var_os(SPANS_ENV) {
            Some(path) => Spans::to_file(layer, path.as_ref()).unwrap_or_default(),
            None => Spans::disabled(),
        }
    }

    /// Spans of `layer`, appended to the file at `path`.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn to_file(layer: &str, path: &std::path::Path) -> std::io::Result<Spans> {
        let file = File::options().append(true).create(true).open(path)?;
        let pid = std::process::id();
        // Ids need to differ between processes of one trace, not to be secret.
        let seed = now_ns().rotate_left(20) ^ (u64::from(pid) << 40);
        Ok(Spans(Some(Arc::new(Sink {
            layer: layer.to_owned(),
            file,
            pid,
            next: AtomicU64::new(mix(seed)),
        }))))
    }

    /// The same file under another layer's name, for a process that holds several layers.
    ///
    /// # Errors
    /// Those of duplicating the file's descriptor.
    pub fn named(&self, layer: &str) -> std::io::Result<Spans> {
        let Some(sink) = &self.0 else { return Ok(Spans(None)) };
        let file = sink.file.try_clone()?;
        let next = AtomicU64::new(mix(sink.next.fetch_add(1, Ordering::Relaxed)));
        Ok(Spans(Some(Arc::new(Sink { layer: layer.to_owned(), file, pid: sink.pid, next }))))
    }

    /// Whether anything is measured.
    pub fn enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Starts a new trace with a root span named `verb`, and the context for the calls under it.
    pub fn root(&self, verb: &str) -> (Cx, Open) {
        let mut cx = Cx::background();
        cx.trace = self.0.as_deref().map(Sink::new_trace);
        self.begin(&cx, "", verb, Side::Inner)
    }

    /// Starts a span of this layer's own work under `cx`; for the callee's side of a program that
    /// is executed, give the hop and [`Side::Callee`]. A callee whose caller measures nothing (ctr,
    /// docker, a kubelet) begins a trace of its own.
    pub fn begin(&self, cx: &Cx, hop: &'static str, verb: &str, side: Side) -> (Cx, Open) {
        let Some(sink) = &self.0 else { return (cx.clone(), Open(None)) };
        let caller = match (cx.trace, side) {
            (Some(caller), _) => caller,
            (None, Side::Callee) => sink.new_trace(),
            (None, _) => return (cx.clone(), Open(None)),
        };
        let id = mix(sink.next.fetch_add(1, Ordering::Relaxed)) | 1;
        let mut child = cx.clone();
        child.trace = Some(TraceParent { trace: caller.trace, span: id });
        let open = Open(Some(Box::new(OpenSpan {
            sink: sink.clone(),
            caller,
            id,
            hop,
            verb: verb.to_owned(),
            side,
            start_ns: now_ns(),
            failed: false,
        })));
        (child, open)
    }

    /// Writes a span that was measured elsewhere (by a child process that could not write it).
    pub fn record(&self, span: &Span) {
        if let (Some(sink), Ok(mut line)) = (&self.0, serde_json::to_vec(span)) {
            line.push(b'\n');
            // A measurement that cannot be written must not fail the call it measures; the
            // report counts the callers' spans that have no callee.
            let _ = (&sink.file).write_all(&line);
        }
    }
}

/// A span that has begun; it ends, and is written, when this is dropped.
#[derive(Debug)]
pub struct Open(Option<Box<OpenSpan>>);

#[derive(Debug)]
struct OpenSpan {
    sink: Arc<Sink>,
    caller: TraceParent,
    id: u64,
    hop: &'static str,
    verb: String,
    side: Side,
    start_ns: u64,
    failed: bool,
}

impl Open {
    /// Notes that the call was answered with an error.
    pub fn fail(&mut self) {
        if let Some(open) = &mut self.0 {
            open.failed = true;
        }
    }

    /// The trace's id, by which its spans are found again; `None` when nothing is measured.
    pub fn trace_id(&self) -> Option<String> {
        self.0.as_ref().map(|open| format!("{:032x}", open.caller.trace))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let end_ns = now_ns();
        let sink = open.sink;
        Spans(Some(sink.clone())).record(&Span {
            trace: format!("{:032x}", open.caller.trace),
            span: format!("{:016x}", open.id),
            parent: (open.caller.span != 0).then(|| format!("{:016x}", open.caller.span)),
            layer: sink.layer.clone(),
            hop: open.hop.to_owned(),
            verb: open.verb,
            side: open.side,
            start_ns: open.start_ns,
            end_ns,
            pid: sink.pid,
            failed: open.failed,
        });
    }
}

/// Measures every call that passes through it, and notes the hop in its errors.
#[derive(Clone, Debug)]
pub struct Traced<L> {
    inner: L,
    side: Side,
    spans: Spans,
}

impl<L> Traced<L> {
    /// Around a client: measures the caller's side.
    pub fn caller(inner: L, spans: Spans) -> Traced<L> {
        Traced { inner, side: Side::Caller, spans }
    }

    /// Around an engine: measures the callee's side.
    pub fn callee(inner: L, spans: Spans) -> Traced<L> {
        Traced { inner, side: Side::Callee, spans }
    }
}

#[async_trait]
impl<L: Handle<O>, O: Op> Handle<O> for Traced<L> {
    async fn handle(&self, cx: &Cx, op: O) -> Result<O::Reply> {
        let (cx, mut open) = self.spans.begin(cx, O::HOP.name(), O::NAME, self.side);
        let answer = self.inner.handle(&cx, op).await;
        if answer.is_err() {
            open.fail();
        }
        match self.side {
            Side::Caller => answer.map_err(|e| e.through(O::HOP, O::NAME)),
            _ => answer,
        }
    }
}

#[async_trait]
impl<L: HandleStream<O>, O: StreamOp> HandleStream<O> for Traced<L> {
    async fn stream(&self, cx: &Cx, op: O, input: Inputs<O::In>) -> Result<Outputs<O::Out>> {
        let (cx, mut open) = self.spans.begin(cx, O::HOP.name(), O::NAME, self.side);
        match self.inner.stream(&cx, op, input).await {
            Ok(inner) => Ok(Box::pin(TracedStream { inner, _open: open })),
            Err(error) => {
                open.fail();
                Err(match self.side {
                    Side::Caller => error.through(O::HOP, O::NAME),
                    _ => error,
                })
            }
        }
    }
}

/// A stream whose span lasts as long as it does.
struct TracedStream<T> {
    inner: Outputs<T>,
    _open: Open,
}

impl<T> Stream for TracedStream<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(cx)
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    (now.tv_sec() as u64) * 1_000_000_000 + now.tv_nsec() as u64
}

/// splitmix64's finalizer: neighbouring counters become unrelated ids.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tempfile_path(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("strata-spans-{name}-{}", std::process::id()))
    }

    #[test]
    fn spans_nest_and_pair() {
        let dir = tempfile_path("nest");
        let spans = Spans::to_file("test", &dir).unwrap();
        let (cx, root) = spans.root("pod");
        let (inner, caller) = spans.begin(&cx, "Cri", "Version", Side::Caller);
        let (_, callee) = spans.begin(&inner, "Cri", "Version", Side::Callee);
        drop((callee, caller, root));
        let text = std::fs::read_to_string(&dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        let spans: Vec<Span> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(spans.len(), 3);
        assert_eq!(spans[0].parent.as_ref(), Some(&spans[1].span));
        assert_eq!(spans[1].parent.as_ref(), Some(&spans[2].span));
        assert_eq!(spans[2].parent, None);
        assert!(spans[2].start_ns <= spans[1].start_ns && spans[1].end_ns <= spans[2].end_ns);
    }

    #[test]
    fn a_callee_without_a_trace_begins_one() {
        let dir = tempfile_path("roots");
        let spans = Spans::to_file("test", &dir).unwrap();
        let (cx, callee) = spans.begin(&Cx::background(), "Cri", "Version", Side::Callee);
        let (_, inner) = spans.begin(&cx, "", "work", Side::Inner);
        let (none, caller) = spans.begin(&Cx::background(), "Cri", "Version", Side::Caller);
        assert!(none.trace.is_none());
        drop((inner, caller, callee));
        let text = std::fs::read_to_string(&dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        let spans: Vec<Span> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[0].parent.as_ref(), Some(&spans[1].span));
        assert_eq!(spans[1].parent, None);
    }
}
