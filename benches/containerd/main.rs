//! strata-containerd beside the real containerd, interleaved, each with its own shim and runtime.
//!
//! `just bench-containerd [ROUNDS]`; as root, with whatever of the peers is installed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has no result"
)]

mod daemons;
mod images;
mod life;
#[path = "../machine.rs"]
mod machine;
mod memory;
mod pull;

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use daemons::{Daemon, Place};
use life::Lives;
use machine::installed;

/// How many containers sleep while the memory is measured.
const ALIVE: usize = 50;
/// How many containers start at once.
const AT_ONCE: usize = 100;

fn main() {
    // cargo passes --bench.
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(100);
    if !nix::unistd::getuid().is_root() {
        return println!("SKIP: needs root");
    }
    if installed("ctr").is_none() {
        return println!("SKIP: ctr is not installed");
    }
    let place = Place::new();
    let mut daemons = vec![Daemon::strata(&place)];
    match installed("containerd") {
        Some(program) => daemons.push(Daemon::containerd(&place, &program)),
        None => println!("SKIP: containerd is not installed"),
    }
    println!("# containerd, {rounds} rounds, interleaved\n\n{}\n", machine::describe());
    let archive = images::small(&place);
    for daemon in &daemons {
        daemon.ctr(&["images", "import", archive.to_str().unwrap()]);
        println!("- {}", daemon.version());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    let lives: Vec<Lives> = daemons.iter().map(|d| runtime.block_on(Lives::new(d))).collect();
    let count = daemons.len();

    println!("\nMilliseconds: median [p99] and the ratio to the last column's median.\n");
    let names: Vec<&str> = daemons.iter().map(|daemon| daemon.name).collect();
    println!("| | {} |\n| --- |{}", names.join(" | "), " --- |".repeat(count));
    row("idle daemon, MiB", &memory::idle(&daemons));
    let version = |n: usize| timed(|| drop(daemons[n].ctr(&["version"])));
    row("ctr version: the client alone", &interleaved(count, rounds, version));
    let run = |n: usize| {
        let daemon: &Daemon = &daemons[n];
        let args = ["run", "--rm", "--runtime", daemon.shim, images::SMALL, "b", "/bin/true"];
        timed(|| drop(daemon.ctr(&args)))
    };
    row("ctr run --rm /bin/true", &interleaved(count, rounds, run));
    let one = |n: usize| runtime.block_on(life::one(&lives[n]));
    row("such a life without ctr", &interleaved(count, rounds, one));
    let (all, shims) = memory::many(&daemons, &lives, &runtime, ALIVE);
    row(&format!("daemon and shims of {ALIVE} containers, MiB"), &all);
    row("a shim per container, MiB", &shims);
    let burst = |n: usize| runtime.block_on(life::burst(&lives[n], AT_ONCE));
    row(&format!("{AT_ONCE} containers started at once"), &interleaved(count, 7, burst));
    pull::measure(&place, &daemons, &runtime, 7);
}

/// What each of `count` took, in milliseconds, after two rounds that do not count.
fn interleaved(count: usize, rounds: usize, measure: impl Fn(usize) -> f64) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); count];
    for round in 0..rounds + 2 {
        for (n, times) in times.iter_mut().enumerate() {
            let took = measure(n);
            if round >= 2 {
                times.push(took);
            }
        }
    }
    times
}

/// How long something takes, in milliseconds.
fn timed(what: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    what();
    begun.elapsed().as_secs_f64() * 1e3
}

/// Runs a program to its good end; its standard output.
fn run(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().expect("a program");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Prints a row; the last column is what the others' ratios are to.
fn row(name: &str, columns: &[Vec<f64>]) {
    let last = columns.last().map_or(1.0, |last| quantile(last, 0.5));
    let cells = columns.iter().map(|own| {
        let p50 = quantile(own, 0.5);
        match own.len() {
            1 => format!(" {p50:.2} {:.2} |", p50 / last),
            _ => format!(" {p50:.1} [{:.1}] {:.2} |", quantile(own, 0.99), p50 / last),
        }
    });
    println!("| {name} |{}", cells.collect::<String>());
}

fn quantile(of: &[f64], q: f64) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() as f64 - 1.0) * q).round() as usize]
}
