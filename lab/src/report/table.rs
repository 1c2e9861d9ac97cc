//! The comparison in a terminal.

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{largest_difference, rows, times};
use crate::{account::Kind, outcome::Outcome};

/// The side-by-side tables and the check of the sum.
pub(crate) fn render(outcome: &Outcome) -> String {
    let mut out = String::new();
    for path in &outcome.paths {
        out += &format!("{:>10}  {}\n", path.name, path.title);
    }
    out += &format!("\n{}\n", pods(outcome));
    out += &format!("\nOne pod's life, median microseconds (calls):\n{}\n", parts(outcome));
    out += &format!("\nWhile one pod runs:\n{}\n", layers(outcome));
    out += &format!(
        "\nThe parts sum to the whole: largest difference {:.2} % over {} pods. Measuring cost {:.1} % of a life.\n",
        largest_difference(outcome) * 100.0,
        outcome.paths.iter().map(|p| p.pods.len()).sum::<usize>(),
        tracing_share(outcome) * 100.0,
    );
    out
}

/// The tracing's own share of a pod's life: the largest over all pods.
pub(super) fn tracing_share(outcome: &Outcome) -> f64 {
    let pods = outcome.paths.iter().flat_map(|path| &path.pods);
    pods.map(|pod| pod.spans as f64 * outcome.span_cost_ns / 1000.0 / pod.life_us)
        .fold(0.0, f64::max)
}

fn table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    table
}

fn number(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn names(outcome: &Outcome, first: &str) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(outcome.paths.iter().map(|p| p.name.clone())).collect()
}

fn pods(outcome: &Outcome) -> Table {
    let mut table = table(names(outcome, "milliseconds"));
    for (n, what) in ["pod start", "whole life"].iter().enumerate() {
        for (quantile, name) in [(0, "p50"), (1, "p99")] {
            let mut row = vec![Cell::new(format!("{what} {name}"))];
            for path in &outcome.paths {
                let (p50, p99) = times(path)[n];
                row.push(number(format!("{:.2}", if quantile == 0 { p50 } else { p99 })));
            }
            table.add_row(row);
        }
    }
    table
}

fn parts(outcome: &Outcome) -> Table {
    let mut table = table(names(outcome, "layer or hop"));
    for part in rows(outcome) {
        let name = match part.kind {
            Kind::Work => part.at,
            Kind::Hop => format!("  ─{}▶", part.at),
        };
        let mut row = vec![Cell::new(name)];
        for cell in part.cells {
            row.push(number(cell.map_or("".into(), |(us, calls)| format!("{us:.0} ({calls})"))));
        }
        table.add_row(row);
    }
    table
}

fn layers(outcome: &Outcome) -> Table {
    let mut table = table(
        std::iter::once("PSS KiB (processes, CPU ms)".to_owned())
            .chain(outcome.paths.iter().map(|p| p.name.clone()))
            .collect(),
    );
    let mut names: Vec<&str> =
        outcome.paths.iter().flat_map(|p| &p.layers).map(|l| l.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let mut row = vec![Cell::new(name)];
        for path in &outcome.paths {
            let layer = path.layers.iter().find(|l| l.name == name);
            row.push(number(
                layer.map_or("".into(), |l| {
                    format!("{} ({}, {})", l.pss_kib, l.processes, l.cpu_ms)
                }),
            ));
        }
        table.add_row(row);
    }
    table
}
