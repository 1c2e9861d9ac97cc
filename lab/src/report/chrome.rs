//! One pod's call on each path in Chrome's trace format, for Perfetto and chrome://tracing.

use hops::trace::{Side, Span};
use serde_json::{Value, json};

/// The trace of the typical pods: a process for each process, an arrow for each hop.
pub(crate) fn render(paths: &[(String, &[Span])]) -> Value {
    let mut events = Vec::new();
    for (name, spans) in paths {
        let Some(begin) = spans.iter().map(|s| s.start_ns).min() else { continue };
        let at = |ns: u64| ns.saturating_sub(begin) as f64 / 1000.0;
        let mut named = std::collections::BTreeSet::new();
        for span in *spans {
            if named.insert(span.pid) {
                events.push(json!({"ph": "M", "name": "process_name", "pid": span.pid,
                    "args": {"name": format!("{name}: {}", span.layer)}}));
            }
            // The caller's side and the work stand in separate rows, so that every bar nests.
            let row = u32::from(span.side == Side::Caller);
            let title = if span.hop.is_empty() {
                span.verb.clone()
            } else {
                format!("{} {}", span.hop, span.verb)
            };
            events.push(json!({"ph": "X", "name": title, "cat": span.layer, "pid": span.pid,
                "tid": row, "ts": at(span.start_ns), "dur": at(span.end_ns) - at(span.start_ns),
                "args": {"trace": span.trace, "span": span.span, "parent": span.parent,
                    "side": span.side, "failed": span.failed}}));
            let Some(caller) = callers_side(spans, span) else { continue };
            for (phase, end, pid, row) in
                [("s", caller.start_ns, caller.pid, 1), ("f", span.start_ns, span.pid, 0)]
            {
                events.push(json!({"ph": phase, "bp": "e", "id": span.span, "name": span.hop,
                    "cat": "hop", "pid": pid, "tid": row, "ts": at(end)}));
            }
        }
    }
    json!({"traceEvents": events, "displayTimeUnit": "ms"})
}

fn callers_side<'a>(spans: &'a [Span], callee: &Span) -> Option<&'a Span> {
    let parent = callee.parent.as_ref()?;
    let caller = spans.iter().find(|s| &s.span == parent)?;
    (callee.side == Side::Callee && caller.side == Side::Caller).then_some(caller)
}
