//! The comparison as one offline page: no script, no font, no picture from anywhere.

use hops::trace::{Side, Span};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{largest_difference, rows, table::tracing_share, times};
use crate::{
    account::{Kind, Tree},
    compare::Comparison,
    outcome::{Outcome, PathOutcome},
};

/// The page's look; light and dark follow the reader's system.
const STYLE: &str = include_str!("style.css");

/// The page.
pub(crate) fn render(comparison: &Comparison) -> String {
    let outcome = &comparison.outcome;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Strata: where a pod's time goes" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "Where a pod's time goes" }
                    p.lead { (sentence(outcome)) }
                }
                (headline(outcome))
                section {
                    h2 { "Layer by layer, hop by hop" }
                    p { "Median microseconds of one pod's whole life, with the calls it takes. \
                         A layer's work is its own; a hop is what crossing to the next layer costs." }
                    (parts(outcome))
                    p.check {
                        "The parts sum to the whole: largest difference "
                        (format!("{:.2} %", largest_difference(outcome) * 100.0))
                        ". Measuring took at most "
                        (format!("{:.1} %", tracing_share(outcome) * 100.0))
                        " of a life."
                    }
                }
                section {
                    h2 { "One pod, from its manifest to nothing left" }
                    p { "The pod nearest to the median on each path. Solid bars are a layer at work \
                         or waiting for the one below; thin bars are the caller's side of a hop." }
                    @for (path, spans) in outcome.paths.iter().zip(&comparison.typical) {
                        h3 { (path.name) span.path { (path.title) } }
                        (waterfall(spans))
                    }
                    (legend(outcome))
                }
                section {
                    h2 { "Every pod" }
                    (distributions(outcome))
                }
                section {
                    h2 { "What each layer holds while one pod runs" }
                    (memory(outcome))
                }
                section {
                    h2 { "Where and how" }
                    (provenance(outcome))
                }
            }
        }
    }
    .into_string()
}

fn sentence(outcome: &Outcome) -> String {
    let starts: Vec<(&str, f64)> =
        outcome.paths.iter().map(|p| (p.name.as_str(), times(p)[0].0)).collect();
    match starts.as_slice() {
        [(slow, a), (fast, b)] if a > b => format!(
            "The same pod starts in {b:.1} ms on the {fast} path and in {a:.1} ms on the {slow} path: \
             {:.2} times as long.",
            a / b
        ),
        _ => starts
            .iter()
            .map(|(name, ms)| format!("{name}: {ms:.1} ms to a running pod."))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn headline(outcome: &Outcome) -> Markup {
    html! {
        div.cards {
            @for path in &outcome.paths {
                @let [(start, start99), (life, life99)] = times(path);
                article {
                    h3 { (path.name) }
                    p.path { (path.title) }
                    dl {
                        dt { "pod start" } dd { b { (format!("{start:.2}")) } " ms" small { " p99 " (format!("{start99:.2}")) } }
                        dt { "whole life" } dd { b { (format!("{life:.2}")) } " ms" small { " p99 " (format!("{life99:.2}")) } }
                        dt { "pods" } dd { (path.pods.len()) }
                    }
                }
            }
        }
    }
}

fn parts(outcome: &Outcome) -> Markup {
    let rows = rows(outcome);
    let longest = rows
        .iter()
        .flat_map(|row| row.cells.iter().flatten())
        .map(|(us, _)| *us)
        .fold(1.0, f64::max);
    html! {
        table {
            thead { tr { th { "layer or hop" } @for path in &outcome.paths { th colspan="3" { (path.name) } } } }
            tbody {
                @for row in &rows {
                    tr.hop[row.kind == Kind::Hop] {
                        th scope="row" { @if row.kind == Kind::Hop { "→ " } (row.at) }
                        @for cell in &row.cells {
                            @if let Some((us, calls)) = cell {
                                td.bar { i style=(format!("width:{:.1}%;background:{}", us / longest * 100.0, colour(&row.at))) {} }
                                td.n { (format!("{us:.0}")) }
                                td.n.calls { (calls) "×" }
                            } @else {
                                td colspan="3" {}
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A colour for each layer, and one for all hops.
fn colour(layer: &str) -> &'static str {
    match layer {
        "kubelet-sim" => "#5b6abf",
        "dockershim" => "#c2185b",
        "docker-daemon-layer" => "#1e88e5",
        "cri-layer" => "#00897b",
        "containerd-layer" => "#7cb342",
        "shim" => "#f9a825",
        "runc-layer" => "#e64a19",
        "cni-layer" => "#8d6e63",
        _ => "#9aa0a6",
    }
}

fn legend(outcome: &Outcome) -> Markup {
    let mut layers: Vec<&str> = outcome
        .paths
        .iter()
        .flat_map(|p| p.pods.iter().flat_map(|pod| &pod.parts))
        .filter(|part| part.kind == Kind::Work)
        .map(|part| part.at.as_str())
        .collect();
    layers.sort_unstable();
    layers.dedup();
    html! {
        p.legend { @for layer in layers { span { i style=(format!("background:{}", colour(layer))) {} (layer) } } }
    }
}

const WIDTH: f64 = 1000.0;
const ROW: f64 = 13.0;

fn waterfall(spans: &[Span]) -> Markup {
    let Some(tree) = spans.first().and_then(|span| Tree::of(spans, &span.trace)) else {
        return html! { p { "No spans." } };
    };
    let rows = tree.walk();
    let (begin, end) = rows.first().map_or((0, 1), |(_, root)| (root.start_ns, root.end_ns));
    let x = |ns: u64| ns.saturating_sub(begin) as f64 / (end - begin).max(1) as f64 * WIDTH;
    let height = rows.len() as f64 * ROW + 18.0;
    let total_ms = (end - begin) as f64 / 1e6;
    html! {
        div.scroll {
            svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" {
                @for tick in 0..=10 {
                    @let at = WIDTH * f64::from(tick) / 10.0;
                    line.grid x1=(at) x2=(at) y1="14" y2=(height) {}
                    text.tick x=(at.clamp(2.0, WIDTH - 34.0)) y="10" { (format!("{:.1} ms", total_ms * f64::from(tick) / 10.0)) }
                }
                @for (n, (_, span)) in rows.iter().enumerate() {
                    (bar(span, 18.0 + n as f64 * ROW, x(span.start_ns), x(span.end_ns)))
                }
            }
        }
    }
}

fn bar(span: &Span, y: f64, from: f64, to: f64) -> Markup {
    let us = (span.end_ns - span.start_ns) as f64 / 1000.0;
    let name = match span.side {
        Side::Caller => format!("→ {} {}", span.hop, span.verb),
        _ => format!("{}: {}", span.layer, span.verb),
    };
    let caller = span.side == Side::Caller;
    let width = (to - from).max(0.6);
    // The name stands after the bar, or before it where there is no room left.
    let after = to + 4.0 + name.len() as f64 * 5.2 < WIDTH;
    html! {
        g {
            title { (name) ", " (format!("{us:.0}")) " µs, process " (span.pid) }
            rect x=(format!("{from:.2}")) width=(format!("{width:.2}"))
                y=(if caller { y + 4.0 } else { y + 1.0 }) height=(if caller { 4.0 } else { ROW - 3.0 })
                rx="1" fill=(colour(&span.layer)) opacity=(if caller { "0.45" } else { "1" }) {}
            @if width > name.len() as f64 * 5.2 + 12.0 && !caller {
                text.inside x=(format!("{:.2}", from + 5.0)) y=(y + 9.5) { (name) }
            } @else if after {
                text.name x=(format!("{:.2}", to + 4.0)) y=(y + 9.5) { (name) }
            } @else {
                text.name x=(format!("{:.2}", (from - 4.0).max(4.0))) y=(y + 9.5) text-anchor=(if from > 200.0 { "end" } else { "start" }) { (name) }
            }
        }
    }
}

fn distributions(outcome: &Outcome) -> Markup {
    let longest = outcome
        .paths
        .iter()
        .flat_map(|p| &p.pods)
        .map(|pod| pod.life_us / 1000.0)
        .fold(1.0, f64::max)
        * 1.03;
    html! {
        @for (what, of) in [
            ("pod start, ms", (|p| p.start_us) as fn(&crate::outcome::PodOutcome) -> f64),
            ("whole life, ms", |p| p.life_us),
        ] {
            h3 { (what) }
            svg viewBox=(format!("0 0 {WIDTH} {}", outcome.paths.len() as f64 * 44.0 + 22.0)) role="img" {
                @for tick in 0..=10 {
                    @let at = 110.0 + (WIDTH - 130.0) * f64::from(tick) / 10.0;
                    line.grid x1=(at) x2=(at) y1="0" y2=(outcome.paths.len() as f64 * 44.0) {}
                    text.tick x=(at) y=(outcome.paths.len() as f64 * 44.0 + 14.0) text-anchor="middle" { (format!("{:.0}", longest * f64::from(tick) / 10.0)) }
                }
                @for (n, path) in outcome.paths.iter().enumerate() {
                    (strip(path, of, n as f64 * 44.0 + 22.0, longest))
                }
            }
        }
    }
}

fn strip(
    path: &PathOutcome,
    of: fn(&crate::outcome::PodOutcome) -> f64,
    y: f64,
    longest: f64,
) -> Markup {
    let x = |ms: f64| 110.0 + (WIDTH - 130.0) * ms / longest;
    let values: Vec<f64> = path.pods.iter().map(|pod| of(pod) / 1000.0).collect();
    let median = crate::outcome::quantile(&values, 0.5);
    html! {
        text.name x="0" y=(y + 4.0) { (path.name) }
        @for (n, value) in values.iter().enumerate() {
            // Dots that would lie on each other are set apart, always by the same pattern.
            circle cx=(format!("{:.1}", x(*value))) cy=(y + (n * 7 % 5) as f64 * 4.0 - 8.0) r="3.2" class="dot" {
                title { (format!("pod {}: {value:.2} ms", n + 1)) }
            }
        }
        line.median x1=(format!("{:.1}", x(median))) x2=(format!("{:.1}", x(median))) y1=(y - 17.0) y2=(y + 17.0) {}
    }
}

fn memory(outcome: &Outcome) -> Markup {
    let mut names: Vec<&str> =
        outcome.paths.iter().flat_map(|p| &p.layers).map(|l| l.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    html! {
        table {
            thead {
                tr { th { "layer" } @for path in &outcome.paths { th colspan="3" { (path.name) } } }
                tr { th {} @for _ in &outcome.paths { th { "PSS KiB" } th { "processes" } th { "CPU ms" } } }
            }
            tbody {
                @for name in names {
                    tr {
                        th scope="row" { (name) }
                        @for path in &outcome.paths {
                            @if let Some(layer) = path.layers.iter().find(|l| l.name == name) {
                                td.n { (layer.pss_kib) } td.n { (layer.processes) } td.n { (layer.cpu_ms) }
                            } @else {
                                td colspan="3" {}
                            }
                        }
                    }
                }
                tr {
                    th scope="row" { "sum" }
                    @for path in &outcome.paths {
                        td.n { b { (path.layers.iter().map(|l| l.pss_kib).sum::<u64>()) } }
                        td.n { b { (path.layers.iter().map(|l| l.processes).sum::<usize>()) } }
                        td.n { b { (path.layers.iter().map(|l| l.cpu_ms).sum::<u64>()) } }
                    }
                }
            }
        }
    }
}

fn provenance(outcome: &Outcome) -> Markup {
    let host = &outcome.host;
    html! {
        dl.facts {
            dt { "kernel" } dd { "Linux " (host.kernel) }
            dt { "processor" } dd { (host.cpus) " × " (host.cpu) }
            dt { "memory" } dd { (host.memory_mib) " MiB" }
            dt { "cgroups" } dd { (host.cgroups) }
            dt { "user" } dd { @if host.root { "root" } @else { "ordinary, in a user namespace" } }
            dt { "versions" } dd { @for (name, version) in &outcome.versions { (name) " " (version) "  " } }
            dt { "run it again" } dd { code { (outcome.command) } }
        }
    }
}
