//! The steps of one run by name, from a trace of its system calls.

use std::collections::BTreeMap;

use crate::{
    contender::{Bundle, Contender},
    look::traced,
};

/// What begins or has these words belongs to this step; the first that fits, counts. Mounts come
/// before, each by its target.
const STEPS: [(&str, &[&str]); 11] = [
    ("waiting for the other process", &["wait", "poll(", "recvmsg(", "<... "]),
    ("exec: the runtime, itself once more from a sealed place, the program", &["execve"]),
    ("clone3 with its namespaces", &["clone3("]),
    ("seccomp filter", &["seccomp(", "PR_SET_SECCOMP"]),
    ("pivot_root", &["pivot_root(", "umount2(", "chroot("]),
    ("capabilities and ids", &["PR_CAP", "capset(", "capget(", "setres", "setgroups("]),
    ("copies of mounts and their attributes", &["open_tree(", "mount_setattr("]),
    ("devices and links", &["mknodat(", "mknod(", "symlink("]),
    ("the record", &["/state/"]),
    ("cgroup", &["/sys/fs/cgroup"]),
    ("loopback", &["SIOCSIFFLAGS"]),
];

/// Prints how long each step of a run takes.
pub(crate) fn print(contender: &Contender, bundle: &Bundle) {
    bundle.add_filter();
    let Some(text) = traced(contender, bundle, &["-T", "-y", "-s", "80"]) else {
        println!("\nSKIP: the steps need strace");
        return;
    };
    let mut order = Vec::new();
    let mut sums: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    for line in text.lines() {
        let Some((call, time)) = line.rsplit_once('<') else { continue };
        let Some(us) = time.strip_suffix('>').and_then(|t| t.parse::<f64>().ok()) else { continue };
        let call = call.split_once(char::is_whitespace).map_or("", |(_, call)| call.trim());
        let name = name(call);
        let sum = sums.entry(name.clone()).or_insert_with(|| {
            order.push(name);
            (0, 0.0)
        });
        *sum = (sum.0 + 1, sum.1 + us * 1e6);
    }
    println!(
        "\nThe steps of one run with a seccomp filter, under strace, which adds some 20 µs to"
    );
    println!("each call:\n\n| step | calls | µs |\n| --- | --- | --- |");
    for name in order {
        let (calls, us) = sums[&name];
        println!("| {name} | {calls} | {us:.0} |");
    }
}

fn name(call: &str) -> String {
    if call.starts_with("mount(") || call.starts_with("move_mount(") {
        // The target is the last path that is quoted before the file system's type.
        let quoted: Vec<&str> = call.split('"').skip(1).step_by(2).collect();
        let target = match call.starts_with("mount(NULL") {
            true => quoted.first(),
            false => quoted.get(1).or(quoted.first()),
        };
        return match target {
            // procfs and sysfs go on a directory that was opened before.
            Some(&".") => format!("mount of {}", quoted[0]),
            target => format!("mount on {}", target.unwrap_or(&"?")),
        };
    }
    let fits = |words: &[&str]| words.iter().any(|word| call.contains(word));
    let found = STEPS.iter().find(|(_, words)| fits(words));
    found.map_or("the rest", |(name, _)| name).to_owned()
}
