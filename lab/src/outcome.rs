//! The raw results of a comparison: what `--json` writes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::account::Part;

/// One comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// What it ran on.
    pub host: Host,
    /// The version of each program, by its name.
    pub versions: BTreeMap<String, String>,
    /// The command to run it again.
    pub command: String,
    /// What one span costs this machine, in nanoseconds: the tracing's own share of a pod's time
    /// is this times its spans.
    pub span_cost_ns: f64,
    /// The paths, in the order they were asked for.
    pub paths: Vec<PathOutcome>,
}

/// What a comparison ran on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// Logical processors.
    pub cpus: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// `v1`, `v2` or `hybrid`.
    pub cgroups: String,
    /// Whether it ran as root or in a user namespace.
    pub root: bool,
}

/// What one path did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PathOutcome {
    /// The path's name.
    pub name: String,
    /// The layers, as a reader would draw them.
    pub title: String,
    /// One entry for each pod, in the order they ran.
    pub pods: Vec<PodOutcome>,
    /// What each layer's processes used.
    pub layers: Vec<LayerUse>,
}

/// What one pod did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodOutcome {
    /// From its manifest to all its containers running, in microseconds.
    pub start_us: f64,
    /// From its manifest to nothing being left of it, in microseconds, as the kubelet's own clock
    /// has it; the parts' sum is compared with this.
    pub life_us: f64,
    /// Where the time went; the parts sum to `life_us`.
    pub parts: Vec<Part>,
    /// How many spans it left.
    pub spans: usize,
}

impl PodOutcome {
    /// How far the parts' sum is from the whole, as a share of the whole.
    pub(crate) fn difference(&self) -> f64 {
        let sum: f64 = self.parts.iter().map(|p| p.us).sum();
        (sum - self.life_us).abs() / self.life_us
    }
}

/// What one layer's processes used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LayerUse {
    /// The layer.
    pub name: String,
    /// Proportional set size of all its processes, in KiB, while one pod runs.
    pub pss_kib: u64,
    /// How many processes it has, while one pod runs.
    pub processes: usize,
    /// Processor time of its long-lived processes over the whole comparison, in milliseconds.
    pub cpu_ms: u64,
}

/// The value below which the share `q` of `values` lies (nearest rank); 0 for none.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n => sorted[((q * n as f64).ceil() as usize).clamp(1, n) - 1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&values, 0.5), 2.0);
        assert_eq!(quantile(&values, 0.99), 4.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
