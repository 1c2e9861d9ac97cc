//! What does not change from round to round: sizes, counts, and the steps of one run.

use std::{fs, process::Command};

use nix::sys::signal::{Signal, kill};

use crate::{
    contender::{Bundle, Contender},
    machine::installed,
};

/// A row: peak resident set and system calls of `run`, PSS of the waiting init, program.
pub(crate) fn size(contender: &Contender, bundle: &Bundle) -> String {
    let rss = peak_rss(contender, bundle).map_or_else(|| "?".to_owned(), |kib| kib.to_string());
    let calls = calls(contender, bundle).map_or_else(|| "?".to_owned(), |calls| calls.to_string());
    let pss = waiting_pss(contender, bundle).map_or_else(String::new, |kib| kib.to_string());
    let program = fs::metadata(&contender.program).map_or(0, |m| m.len() / 1024);
    format!("| {} | {rss} | {calls} | {pss} | {program} |", contender.name)
}

/// Measured from a small program: a child begins with the resident set that its maker had.
fn peak_rss(contender: &Contender, bundle: &Bundle) -> Option<u64> {
    let run = contender.run(bundle, "rss");
    let measured = Command::new(bundle.path("limit"))
        .arg("rss")
        .arg(run.get_program())
        .args(run.get_args())
        .output()
        .ok()?;
    String::from_utf8_lossy(&measured.stdout).trim().parse().ok()
}

/// The lines that strace writes of one `run`.
pub(crate) fn traced(contender: &Contender, bundle: &Bundle, options: &[&str]) -> Option<String> {
    installed("strace")?;
    let run = contender.run(bundle, "traced");
    let out = bundle.path("strace");
    let status = Command::new("strace")
        .arg("-f")
        .args(options)
        .arg("-o")
        .arg(&out)
        .arg(run.get_program())
        .args(run.get_args())
        .status()
        .ok()?;
    status.success().then(|| fs::read_to_string(out).ok())?
}

fn calls(contender: &Contender, bundle: &Bundle) -> Option<u64> {
    let text = traced(contender, bundle, &["-c"])?;
    let total = text.lines().rev().find(|line| line.ends_with("total"))?;
    total.split_whitespace().nth(3)?.parse().ok()
}

fn waiting_pss(contender: &Contender, bundle: &Bundle) -> Option<u64> {
    if !contender.is_runtime() {
        return None;
    }
    let created = contender.create(bundle, "pss").status().ok()?;
    assert!(created.success());
    let pid = bundle.pid();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    kill(pid, Signal::SIGKILL).ok()?;
    nix::sys::wait::waitpid(pid, None).ok()?;
    contender.verb("delete").args(["--force", "pss"]).status().ok()?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    pss.trim().trim_end_matches("kB").trim().parse().ok()
}
