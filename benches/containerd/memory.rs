//! What the daemons and their shims hold: proportional set sizes, in MiB.

use std::{fs, time::Duration};

use crate::{
    daemons::Daemon,
    life::{self, Lives},
};

/// The daemons with nothing to do.
pub(crate) fn idle(daemons: &[Daemon]) -> Vec<Vec<f64>> {
    daemons.iter().map(|daemon| vec![pss(daemon.running.pid())]).collect()
}

/// The daemons and their shims with `count` containers that sleep; and the shims' part of each.
pub(crate) fn many(
    daemons: &[Daemon],
    lives: &[Lives],
    runtime: &tokio::runtime::Runtime,
    count: usize,
) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let (mut all, mut each) = (Vec::new(), Vec::new());
    for (daemon, lives) in daemons.iter().zip(lives) {
        runtime.block_on(life::start(lives, "sleeper", count));
        std::thread::sleep(Duration::from_secs(2));
        let shims: f64 = shims(daemon).into_iter().map(pss).sum();
        all.push(vec![shims + pss(daemon.running.pid())]);
        each.push(vec![shims / count as f64]);
        runtime.block_on(life::end(lives, "sleeper", count));
    }
    (all, each)
}

/// The processes that were started as shims of a daemon.
fn shims(daemon: &Daemon) -> Vec<u32> {
    let socket = daemon.socket.display().to_string();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            let program = words.next().unwrap_or_default();
            String::from_utf8_lossy(program).contains("containerd-shim")
                && words.any(|word| word == socket.as_bytes())
        })
        .collect()
}

fn pss(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0 kB");
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap_or(0.0) / 1024.0
}
