//! strata-runc beside crun, runc and the limit, interleaved, on the bundle that `runc spec` writes.
//!
//! `just bench-runtime [N]`; as root, with whatever of the peers is installed. All of them run in a
//! mount namespace without the unified cgroup hierarchy, where there is another: crun 1.8 refuses a
//! hybrid.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has no result"
)]

mod contender;
mod look;
#[path = "../machine.rs"]
mod machine;
mod steps;

use std::{fs, path::Path, process::Command, time::Instant};

use contender::{Bundle, Contender, contenders};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

/// Rounds before the measured ones.
const WARM_UP: usize = 5;
/// What is measured, in the order of a life.
const VERBS: [&str; 4] = ["run", "create", "start", "delete"];

fn main() {
    // cargo passes --bench.
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(100);
    if !nix::unistd::getuid().is_root() {
        println!("SKIP: needs root");
        return;
    }
    let unified = own_mounts();
    nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
    let bundle = Bundle::new();
    let contenders = contenders(&bundle);
    println!("# A container's life, {rounds} rounds, interleaved\n");
    println!("{}{unified}\n", machine::describe());
    for contender in &contenders {
        println!("- {}: {}", contender.name, contender.version());
    }
    let mut times = vec![vec![Vec::new(); VERBS.len()]; contenders.len()];
    for round in 0..WARM_UP + rounds {
        for (contender, times) in contenders.iter().zip(&mut times) {
            let took = one_life(contender, &bundle, round);
            if round >= WARM_UP {
                for (times, took) in times.iter_mut().zip(took) {
                    times.push(took);
                }
            }
        }
    }
    println!("\nMilliseconds: median [p99], and the medians' ratio to strata-runc's.\n");
    table(&contenders, &times);
    println!(
        "\n| | peak RSS of run, KiB | system calls of run | waiting init, PSS KiB | program, KiB |"
    );
    println!("| --- | --- | --- | --- | --- |");
    for contender in &contenders {
        println!("{}", look::size(contender, &bundle));
    }
    steps::print(&contenders[0], &bundle);
}

/// How long each of [`VERBS`] takes, in milliseconds; for the limit there is only `run`.
fn one_life(contender: &Contender, bundle: &Bundle, round: usize) -> Vec<f64> {
    let timed = |command: &mut Command| {
        let begun = Instant::now();
        let status = command.status().expect("the runtime");
        let took = begun.elapsed().as_secs_f64() * 1e3;
        assert!(status.success(), "{command:?}: {status}");
        took
    };
    let mut took = vec![timed(&mut contender.run(bundle, &format!("run-{round}")))];
    if contender.is_runtime() {
        let id = format!("life-{round}");
        took.push(timed(&mut contender.create(bundle, &id)));
        let pid = bundle.pid();
        took.push(timed(contender.verb("start").arg(&id)));
        // The container's process became this one's child when the runtime ended.
        nix::sys::wait::waitpid(pid, None).expect("the container's end");
        took.push(timed(contender.verb("delete").arg(&id)));
    }
    took
}

fn table(contenders: &[Contender], times: &[Vec<Vec<f64>>]) {
    let of = |q: f64, times: &[f64]| {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        times.get(((times.len() as f64 - 1.0) * q).round() as usize).copied()
    };
    println!("| | {} |", VERBS.join(" | "));
    println!("| --- | --- | --- | --- | --- |");
    for (contender, own) in contenders.iter().zip(times) {
        let cells = own.iter().zip(&times[0]).map(|(times, ours)| {
            match (of(0.5, times), of(0.99, times), of(0.5, ours)) {
                (Some(p50), Some(p99), Some(ours)) => {
                    format!(" {p50:.2} [{p99:.2}] {:.2} |", p50 / ours)
                }
                _ => " |".to_owned(),
            }
        });
        println!("| {} |{}", contender.name, cells.collect::<String>());
    }
}

/// Gives this process mounts of its own, without the unified hierarchy of a hybrid machine.
fn own_mounts() -> &'static str {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
    let unified = Path::new("/sys/fs/cgroup/unified");
    if fs::read_dir(unified).map_or(true, |mut dir| dir.next().is_none()) {
        return "";
    }
    umount2(unified, MntFlags::MNT_DETACH).expect("the unified hierarchy");
    ", cgroup v1 (the unified hierarchy hidden)"
}
