//! Where a pod's time went: spans in, parts out, and the parts sum to the whole.
//!
//! A caller's time less its callee's is the hop's cost; a callee's time less its own calls is the
//! layer's work. Where a layer makes two calls at once, the time in which both run is split
//! between them, so that no instant is counted twice and none is lost.

use std::collections::{BTreeMap, HashMap};

use hops::trace::{Side, Span};
use serde::{Deserialize, Serialize};

/// What a part of a pod's time was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A layer's own work.
    Work,
    /// Crossing from one layer to the next: encoding, sockets, scheduling, starting a program.
    Hop,
}

/// One part of a pod's time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// The layer or the hop.
    pub at: String,
    /// Which of the two it is.
    pub kind: Kind,
    /// Microseconds.
    pub us: f64,
    /// How many calls it served (a layer) or carried (a hop).
    pub calls: u64,
}

/// The parts of one pod's life.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Account {
    /// The root span's length in microseconds; the parts' sum.
    pub total_us: f64,
    /// Largest first.
    pub parts: Vec<Part>,
    /// Calls of which only the caller's side was seen: their callee's work stands in the hop.
    pub unmatched: Vec<String>,
}

/// A pod's spans as a tree.
pub(crate) struct Tree<'a> {
    spans: Vec<&'a Span>,
    children: HashMap<&'a str, Vec<usize>>,
    root: usize,
}

impl<'a> Tree<'a> {
    /// The tree of the trace `id`; `None` when its root is not among the spans.
    pub(crate) fn of(all: &'a [Span], id: &str) -> Option<Tree<'a>> {
        let spans: Vec<&Span> = all.iter().filter(|s| s.trace == id).collect();
        let root = spans.iter().position(|s| s.parent.is_none())?;
        let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, span) in spans.iter().enumerate() {
            if let Some(parent) = &span.parent {
                children.entry(parent).or_default().push(i);
            }
        }
        for list in children.values_mut() {
            list.sort_by_key(|&i| spans[i].start_ns);
        }
        Some(Tree { spans, children, root })
    }

    /// Every span, the root first, children after their parents in order of time, with its depth.
    pub(crate) fn walk(&self) -> Vec<(usize, &'a Span)> {
        let mut out = Vec::with_capacity(self.spans.len());
        let mut stack = vec![(0, self.root)];
        while let Some((depth, i)) = stack.pop() {
            out.push((depth, self.spans[i]));
            stack.extend(self.below(i).iter().rev().map(|&child| (depth + 1, child)));
        }
        out
    }

    fn below(&self, i: usize) -> &[usize] {
        self.children.get(self.spans[i].span.as_str()).map_or(&[], Vec::as_slice)
    }

    /// The account of the whole tree.
    pub(crate) fn account(&self) -> Account {
        let root = self.spans[self.root];
        let whole = Slice { from: root.start_ns, to: root.end_ns, share: 1.0 };
        let mut parts: BTreeMap<(String, Kind), (f64, u64)> = BTreeMap::new();
        let mut unmatched = Vec::new();
        let mut todo = vec![(self.root, vec![whole])];
        while let Some((i, slices)) = todo.pop() {
            let (own, below) = self.split(i, &slices);
            let span = self.spans[i];
            let (at, kind) = match span.side {
                Side::Caller => (&span.hop, Kind::Hop),
                Side::Callee | Side::Inner => (&span.layer, Kind::Work),
            };
            let part = parts.entry((at.clone(), kind)).or_default();
            part.0 += own / 1000.0;
            if span.side != Side::Inner {
                part.1 += 1;
            }
            if span.side == Side::Caller && self.below(i).is_empty() {
                unmatched.push(format!("{} {}", span.hop, span.verb));
            }
            todo.extend(below);
        }
        let mut parts: Vec<Part> = parts
            .into_iter()
            .map(|((at, kind), (us, calls))| Part { at, kind, us, calls })
            .collect();
        parts.sort_by(|a, b| b.us.total_cmp(&a.us));
        Account { total_us: (root.end_ns - root.start_ns) as f64 / 1000.0, parts, unmatched }
    }

    /// Divides the time `slices` of span `i` between itself and its children.
    fn split(&self, i: usize, slices: &[Slice]) -> (f64, Vec<(usize, Vec<Slice>)>) {
        let children = self.below(i);
        let mut own = 0.0;
        let mut below: Vec<(usize, Vec<Slice>)> =
            children.iter().map(|&child| (child, Vec::new())).collect();
        for slice in slices {
            let mut cuts = vec![slice.from, slice.to];
            for &child in children {
                let span = self.spans[child];
                cuts.extend([span.start_ns, span.end_ns].map(|t| t.clamp(slice.from, slice.to)));
            }
            cuts.sort_unstable();
            cuts.dedup();
            for pair in cuts.windows(2) {
                let (from, to) = (pair[0], pair[1]);
                let runs = |child: usize| {
                    let span = self.spans[child];
                    span.start_ns <= from && to <= span.end_ns
                };
                let at_once = children.iter().filter(|&&child| runs(child)).count();
                if at_once == 0 {
                    own += (to - from) as f64 * slice.share;
                    continue;
                }
                let share = slice.share / at_once as f64;
                for (child, slices) in &mut below {
                    if runs(*child) {
                        slices.push(Slice { from, to, share });
                    }
                }
            }
        }
        (own, below)
    }
}

/// A stretch of time, of which a span has a share.
#[derive(Clone, Copy)]
struct Slice {
    from: u64,
    to: u64,
    share: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(
        id: &str,
        parent: &str,
        layer: &str,
        hop: &str,
        side: Side,
        from: u64,
        to: u64,
    ) -> Span {
        Span {
            trace: "t".into(),
            span: id.into(),
            parent: (!parent.is_empty()).then(|| parent.into()),
            layer: layer.into(),
            hop: hop.into(),
            verb: "v".into(),
            side,
            start_ns: from * 1000,
            end_ns: to * 1000,
            pid: 1,
            failed: false,
        }
    }

    fn us(account: &Account, at: &str, kind: Kind) -> f64 {
        account.parts.iter().find(|p| p.at == at && p.kind == kind).map_or(0.0, |p| p.us)
    }

    #[test]
    fn hops_and_work_sum_to_the_whole() {
        let spans = [
            span("a", "", "kubelet-sim", "", Side::Inner, 0, 100),
            span("b", "a", "kubelet-sim", "Cri", Side::Caller, 10, 90),
            span("c", "b", "cri-layer", "Cri", Side::Callee, 20, 80),
            span("d", "c", "cri-layer", "Containerd", Side::Caller, 30, 50),
        ];
        let account = Tree::of(&spans, "t").unwrap().account();
        assert_eq!(us(&account, "kubelet-sim", Kind::Work), 20.0);
        assert_eq!(us(&account, "Cri", Kind::Hop), 20.0);
        assert_eq!(us(&account, "cri-layer", Kind::Work), 40.0);
        assert_eq!(us(&account, "Containerd", Kind::Hop), 20.0);
        assert_eq!(account.unmatched, ["Containerd v"]);
        assert_eq!(account.parts.iter().map(|p| p.us).sum::<f64>(), account.total_us);
    }

    #[test]
    fn calls_at_once_and_calls_that_outlive_their_caller_are_not_counted_twice() {
        let spans = [
            span("a", "", "kubelet-sim", "", Side::Inner, 0, 100),
            span("b", "a", "kubelet-sim", "Cri", Side::Caller, 0, 60),
            span("c", "a", "kubelet-sim", "Docker", Side::Caller, 40, 130),
        ];
        let account = Tree::of(&spans, "t").unwrap().account();
        assert_eq!(us(&account, "Cri", Kind::Hop), 50.0);
        assert_eq!(us(&account, "Docker", Kind::Hop), 50.0);
        assert_eq!(account.parts.iter().map(|p| p.us).sum::<f64>(), 100.0);
    }

    #[test]
    fn a_trace_without_a_root_has_no_tree() {
        let spans = [span("b", "a", "x", "Cri", Side::Caller, 0, 1)];
        assert!(Tree::of(&spans, "t").is_none());
    }
}
