//! What a comparison looks like: a table for the terminal, a page for the browser, a trace for
//! Perfetto.

pub(crate) mod chrome;
pub(crate) mod html;
pub(crate) mod table;

use crate::{
    account::Kind,
    outcome::{Outcome, PathOutcome, quantile},
};

/// The layers and hops of a stack in the order that a call passes them.
const ORDER: [&str; 14] = [
    "kubelet-sim",
    "Cri",
    "dockershim",
    "cri-layer",
    "Docker",
    "docker-daemon-layer",
    "Cni",
    "cni-layer",
    "Containerd",
    "containerd-layer",
    "Shim",
    "shim",
    "Oci",
    "runc-layer",
];

/// One row of the hop table: a part, and its median on each path in microseconds with the calls
/// of one pod.
pub(crate) struct Row {
    /// The layer or hop.
    pub at: String,
    /// Which of the two.
    pub kind: Kind,
    /// For each path: the median, and the calls; `None` where the part does not occur.
    pub cells: Vec<Option<(f64, u64)>>,
}

/// The hop table of an outcome.
pub(crate) fn rows(outcome: &Outcome) -> Vec<Row> {
    let mut rows = Vec::new();
    for at in ORDER {
        for kind in [Kind::Work, Kind::Hop] {
            let cells: Vec<_> = outcome.paths.iter().map(|path| cell(path, at, kind)).collect();
            if cells.iter().any(Option::is_some) {
                rows.push(Row { at: at.to_owned(), kind, cells });
            }
        }
    }
    rows
}

fn cell(path: &PathOutcome, at: &str, kind: Kind) -> Option<(f64, u64)> {
    let found: Vec<_> = path
        .pods
        .iter()
        .filter_map(|pod| pod.parts.iter().find(|p| p.at == at && p.kind == kind))
        .collect();
    let times: Vec<f64> = found.iter().map(|p| p.us).collect();
    let calls: Vec<f64> = found.iter().map(|p| p.calls as f64).collect();
    (!found.is_empty()).then(|| (quantile(&times, 0.5), quantile(&calls, 0.5) as u64))
}

/// Start and life of a path's pods: (p50, p99) of each, in milliseconds.
pub(crate) fn times(path: &PathOutcome) -> [(f64, f64); 2] {
    let of = |time: fn(&crate::outcome::PodOutcome) -> f64| {
        let values: Vec<f64> = path.pods.iter().map(|p| time(p) / 1000.0).collect();
        (quantile(&values, 0.5), quantile(&values, 0.99))
    };
    [of(|p| p.start_us), of(|p| p.life_us)]
}

/// The largest difference between a pod's whole and the sum of its parts, as a share of the whole.
pub(crate) fn largest_difference(outcome: &Outcome) -> f64 {
    let pods = outcome.paths.iter().flat_map(|path| &path.pods);
    pods.map(|pod| pod.difference()).fold(0.0, f64::max)
}
