//! A real containerd beside strata-containerd.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, TcpListener},
};

use super::{Side, compare};
use crate::rig::{self, CTR_IMAGE, Rig, need};

/// A real containerd and strata-containerd, each with its own namespace, runtime and directory.
pub(crate) fn sides(rig: &mut Rig) -> [Side; 2] {
    let archive = rig.path("image.tar");
    fs::write(&archive, rig::archive_of(&[rig::busybox_layer(), second_layer()])).unwrap();
    let pid = std::process::id();
    let mut runtimes = ["io.containerd.runc.v2", "io.containerd.strata.v2"].into_iter();
    let mut sides = ["real", "strata"].into_iter();
    // An address of this process's own: a port that is free at everybody's may be another's by the
    // time a daemon takes it.
    let own = Ipv4Addr::from_bits(Ipv4Addr::new(127, 128, 0, 0).to_bits() | pid);
    let free = || TcpListener::bind((own, 0)).unwrap().local_addr().unwrap().to_string();
    let metrics = BTreeMap::from(["real", "strata"].map(|side| (side, free())));
    rig.both_containerds(|side| metrics[side].clone()).map(|ctr| {
        let side = sides.next().unwrap();
        let ns = format!("ctr-{side}-{pid}");
        let mut ctr = ctr;
        ctr.args.extend(["-n".into(), (&ns).into()]);
        let names = BTreeMap::from([
            ("archive", archive.display().to_string()),
            ("dir", rig.path(side).display().to_string()),
            ("image", CTR_IMAGE.to_owned()),
            ("metrics", metrics[side].clone()),
            ("ns", ns),
            ("runtime", runtimes.next().unwrap().to_owned()),
        ]);
        Side { ctr, names }
    })
}

/// A layer that removes a link, replaces a file and adds a directory.
fn second_layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for (name, text) in [("bin/.wh.hostname", ""), ("etc/motd", "hello\n"), ("data/new", "new\n")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        layer.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    layer.into_inner().unwrap()
}

/// What is left of the sides' namespaces: what a test that failed had still running, and what both
/// runtimes leave wherever a container ran, the cgroup above its containers'.
pub(crate) struct Leftovers<'a>(&'a [Side; 2]);

impl<'a> Leftovers<'a> {
    /// What is removed when this is dropped, before the daemons are.
    pub(crate) fn of(sides: &'a [Side; 2]) -> Leftovers<'a> {
        Leftovers(sides)
    }
}

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let mut dirs: Vec<_> = controllers.map(|entry| entry.path()).collect();
        dirs.push("/sys/fs/cgroup".into());
        for side in self.0 {
            for task in side.run("tasks ls -q", "").stdout.lines() {
                side.run(&format!("tasks rm -f {task}"), "");
            }
            for dir in &dirs {
                // Most are not there.
                let _ = fs::remove_dir(dir.join(&side.names["ns"]));
            }
        }
    }
}

/// Has `test` drive daemons of its own.
pub(crate) fn with_sides(name: &str, test: impl FnOnce(&[Side; 2])) {
    need!("containerd", "ctr", "busybox", "containerd-shim-runc-v2", "runc", "timeout");
    let mut rig = Rig::new(name);
    let sides = sides(&mut rig);
    let leftovers = Leftovers::of(&sides);
    test(&sides);
    drop(leftovers);
    rig.end();
}

/// Runs `table` on daemons of its own.
pub(crate) fn on_both(name: &str, table: &str) {
    with_sides(name, |sides| compare(table, sides));
}

/// Has the container `a` run until it is ended.
pub(crate) const A_RUNS: &str = "
    images import {archive}
    run -d --runtime {runtime} {image} a sleep 1000
";

/// Ends the container `a`.
pub(crate) const A_ENDS: &str = "
    tasks kill -s KILL a
    @ tasks rm a
    containers rm a
";
