//! ctr, line by line, on a real containerd and on strata-containerd: what runs, and what becomes of
//! it. See `ctr.rs`.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod machine;
mod rig;
mod table;

use std::process::{Command, Stdio};

use regex::Regex;

use rig::need;
use table::{
    compare,
    sides::{A_ENDS, A_RUNS, on_both, with_sides},
};

#[test]
fn runs() {
    on_both("ctr-run", "
        run --rm nosuch r{n}
        run
        run --rm {image}
        images import {archive}
        run --rm --runtime {runtime} {image} r{n} echo hello
        run --rm --runtime {runtime} {image} r{n} sh -c 'echo out; echo err >&2; exit 7'
        <typed> run --rm --runtime {runtime} {image} r{n} busybox head -c 5
        run --rm --runtime {runtime} {image} r{n} nosuch
        ? run --rm --runtime {runtime} {image} r{n} /etc
        run --rm --runtime {runtime} {image} r{n} /etc/passwd
        run --rm --runtime {runtime} {image} r{n} sh -c 'kill -9 $$'
        run --rm --runtime {runtime} {image} a/b true
        run --rm --runtime {runtime} {image} '' true
        run --rm --runtime io.containerd.nosuch.v9 {image} r{n} true
        run --rm --runtime nosuch {image} r{n} true
        run --rm --runtime /nosuch/shim {image} r{n} true
        run --rm --runtime {runtime} --snapshotter nosuch {image} r{n} true
        run --rm --runtime {runtime} --snapshotter native {image} r{n} cat /etc/motd
        run --rm --runc-binary /nosuch/runc {image} r{n} true
        run --rm --runc-binary runc {image} r{n} echo runc
        run --rm --runtime {runtime} --env A=b {image} r{n} sh -c 'echo $A $PATH'
        run --rm --runtime {runtime} --cwd /bin {image} r{n} sh -c 'echo $PWD'
        run --rm --runtime {runtime} --cwd /nosuch {image} r{n} sh -c 'echo $PWD'
        # run --rm --user 65534 {image} r{n} id
        run --rm --runtime {runtime} --read-only {image} r{n} touch /x
        run --rm --runtime {runtime} --mount type=bind,src={dir},dst=/mnt,options=rbind:ro {image} r{n} touch /mnt/x
        ? run --rm --runtime {runtime} --mount type=bind,src=/nosuch,dst=/mnt,options=rbind:ro {image} r{n} true
        run --rm --runtime {runtime} --mount nonsense {image} r{n} true
        run --rm --runtime {runtime} --net-host {image} r{n} sh -c 'ls /etc; hostname'
        run --rm --runtime {runtime} --privileged {image} r{n} grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status
        run --rm --runtime {runtime} {image} r{n} grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status
        run --rm --runtime {runtime} --seccomp {image} r{n} grep -E 'Seccomp:' /proc/self/status
        run --rm --runtime {runtime} --cap-add CAP_SYS_ADMIN --cap-drop CAP_CHOWN {image} r{n} grep CapEff /proc/self/status
        run --rm --runtime {runtime} --cap-add nosuch {image} r{n} true
        run --rm --runtime {runtime} --allow-new-privs {image} r{n} grep NoNewPrivs /proc/self/status
        run --rm --runtime {runtime} --memory-limit 67108864 {image} r{n} sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true'
        ? run --rm --runtime {runtime} --memory-limit 1 {image} r{n} true
        run --rm --runtime {runtime} --cpus 0.5 --mount type=bind,src=/sys/fs/cgroup,dst=/mnt,options=rbind:ro {image} r{n} cat /mnt/cpu/{ns}/r{n}/cpu.cfs_quota_us
        run --rm --runtime {runtime} --cpu-quota 25000 --cpu-period 50000 --mount type=bind,src=/sys/fs/cgroup,dst=/mnt,options=rbind:ro {image} r{n} cat /mnt/cpu/{ns}/r{n}/cpu.cfs_quota_us
        run --rm --runtime {runtime} --cpu-shares 512 --mount type=bind,src=/sys/fs/cgroup,dst=/mnt,options=rbind:ro {image} r{n} cat /mnt/cpu/{ns}/r{n}/cpu.shares
        ? run --rm --runtime {runtime} --cgroup '' {image} r{n} cat /proc/self/cgroup
        run --rm --runtime {runtime} --device /dev/null {image} r{n} ls /dev
        run --rm --runtime {runtime} --device /dev/nosuch {image} r{n} true
        run --rm --runtime {runtime} --with-ns network:/proc/self/ns/net {image} r{n} true
        ? run --rm --runtime {runtime} --with-ns network:/nosuch {image} r{n} true
        run --rm --runtime {runtime} --with-ns nosuch:/nosuch {image} r{n} true
        ? run --rm --runtime {runtime} --rootfs /nosuch r{n} true
        run --rm --uidmap 0:100000:65536 --gidmap 0:100000:65536 {image} r{n} cat /proc/self/uid_map
        run --rm --runtime {runtime} --uidmap 0:100000:65536 --gidmap 0:100000:65536 {image} r{n} cat /proc/self/uid_map
        ? run --rm --runtime {runtime} --tty {image} r{n} true
        run --rm --runtime {runtime} --null-io {image} r{n} echo x
        run --rm --runtime {runtime} --pid-file {dir}/pid {image} r{n} true
        run --rm --runtime {runtime} --pid-file /nosuch/pid {image} left true
        ~ tasks ls
        tasks rm -f left
        containers rm left
        run --rm --runtime {runtime} --log-uri file://{dir}/log {image} r{n} echo logged
        run --rm --runtime {runtime} --log-uri nosuch://{dir}/log {image} r{n} echo logged
        run --rm --runtime {runtime} --label x=y --annotation a=b {image} r{n} true
        run --rm --runtime {runtime} --platform linux/arm64 {image} r{n} true
        run --rm --runtime {runtime} --platform nonsense/x/y/z {image} r{n} true
        run --rm --runtime {runtime} --no-pivot {image} r{n} echo nopivot
        run --rm --runtime {runtime} --rootfs-propagation rshared {image} r{n} true
        ? run --rm --runtime {runtime} --rootfs-propagation nosuch {image} r{n} true
        ? run --rm --runtime {runtime} --apparmor-profile nosuch {image} r{n} true
        run --rm --runtime {runtime} --gpus 0 {image} r{n} true
        run --rm --runc-systemd-cgroup {image} r{n} true
        run --rm --runtime {runtime} --config /nosuch r{n}
        run --rm -d --runtime {runtime} {image} r{n} true
        leases create --id gc
        leases rm --sync gc
        containers ls
        ~ tasks ls
        snapshots ls
    ");
}

#[test]
fn tasks_and_containers() {
    on_both("ctr-tasks", "
        images import {archive}
        containers ls
        tasks ls
        containers create --runtime {runtime} {image} a
        containers create nosuch b
        containers create
        containers create --runtime {runtime} --label x=y --env A=b {image} b sleep 1000
        containers create --runtime {runtime} {image} b sleep 1000
        containers create --runtime {runtime} {image} a--b sleep 1000
        containers create --config /nosuch c
        containers ls
        containers ls -q
        containers ls labels.x==y
        containers ls image==nosuch
        containers ls 'id~=^b'
        ? containers info a
        ? containers info b
        containers info nosuch
        containers info
        containers label b c=d
        containers label b x=
        containers label b
        containers label nosuch c=d
        containers label
        containers ls
        tasks start nosuch
        tasks start
        tasks ls
        tasks start -d b
        tasks start -d b
        ~ tasks ls
        # tasks ps b
        tasks ps a
        tasks ps nosuch
        tasks ps
        containers rm b
        tasks rm b
        tasks rm a
        tasks rm nosuch
        tasks rm
        tasks exec --exec-id e b sh -c 'echo $A; exit 3'
        tasks exec --exec-id e --cwd /bin --user 65534 b sh -c 'echo $PWD; id -u'
        ? tasks exec --exec-id e --user nosuch b true
        <typed> tasks exec --exec-id e b cat
        tasks exec --exec-id e b nosuch
        ? tasks exec --exec-id e b /etc
        tasks exec --exec-id '' b true
        tasks exec b true
        tasks exec --exec-id e nosuch true
        tasks exec --exec-id e a true
        ? tasks exec --exec-id e --tty b true
        tasks exec -d --exec-id long b sleep 1000
        tasks exec -d --exec-id long b sleep 1000
        # tasks ps b
        ~ shim --id b state
        shim --id a state
        tasks kill --exec-id long b
        tasks kill --exec-id nosuch b
        tasks kill -s nosuch b
        ? tasks kill -s 99 b
        tasks kill nosuch
        tasks kill a
        tasks kill
        # tasks metrics b
        ? tasks metrics --format json b
        tasks metrics nosuch
        tasks metrics a
        tasks metrics
        tasks pause b
        ~ tasks ls
        tasks pause b
        tasks exec --exec-id p b true
        tasks resume b
        tasks resume b
        ~ tasks ls
        tasks pause nosuch
        tasks resume nosuch
        tasks resume a
        tasks pause a
        ? tasks checkpoint b
        tasks attach nosuch
        tasks attach a
        tasks kill -s KILL b
        @ tasks rm b
        tasks kill b
        tasks ls
        run -d --runtime {runtime} {image} c sh -c 'exit 5'
        @ tasks rm c
        run -d --runtime {runtime} {image} c true
        containers rm c
        run -d --runtime {runtime} {image} d sh -c 'trap \"exit 4\" TERM; while true; do sleep 0.1; done'
        tasks kill --all d
        @ tasks rm d
        run -d --runtime {runtime} {image} e sleep 1000
        run -d --runtime {runtime} {image} e sleep 1000
        tasks rm -f e
        tasks start nosuch
        run -d --runtime {runtime} --with-ns pid:/proc/self/ns/pid {image} h sleep 1000
        tasks exec --exec-id e h true
        tasks kill -s KILL --all h
        @ tasks rm h
        containers rm h
        run -d --runtime {runtime} {image} o sh -c 'exec sleep 1000'
        tasks exec -d --exec-id e --log-uri file://{dir}/exec.log o echo logged
        tasks exec --exec-id f --fifo-dir {dir}/fifos o echo fifos
        tasks kill -s INT o
        tasks kill -s 9 o
        @ tasks rm o
        containers rm o
        tasks rm --exec-id nosuch e
        containers rm d e
        containers rm nosuch
        containers rm a nosuch b
        containers rm
        containers rm --keep-snapshot a
        containers checkpoint nosuch x
        containers restore nosuch x
        containers ls
        snapshots ls
    ");
}

#[test]
fn terminals() {
    need!("script");
    with_sides("ctr-tty", |sides| {
        compare(A_RUNS, sides);
        // ctr resizes the terminal of what may have ended, and script passes its input's end on.
        let noise = Regex::new(r"ERRO\[\d+\] resize pty[^\n]*\n|\^@|\r|\x08").unwrap();
        for line in [
            "run --rm --tty --runtime {runtime} {image} t sh -c 'test -t 0 && test -t 1 && echo tty; exit 3'",
            "tasks exec --tty --exec-id e a sh -c 'test -t 0 && test -t 1 && echo tty; exit 4'",
            "run --rm --tty --runtime {runtime} {image} u nosuch",
        ] {
            let [real, strata] = sides.each_ref().map(|side| {
                let words = side.ctr.args.iter().map(|arg| arg.to_str().unwrap());
                let command = format!("ctr {} {line}", words.collect::<Vec<_>>().join(" "));
                // A terminal for ctr itself.
                let out = Command::new("timeout")
                    .args(["120", "script", "-qec", &side.filled(&command), "/dev/null"])
                    .stdin(Stdio::null())
                    .output()
                    .unwrap();
                let said = side.normal(&String::from_utf8_lossy(&out.stdout));
                (out.status.code(), noise.replace_all(&said, "").trim().to_owned())
            });
            assert_eq!(real, strata, "{line}");
        }
        compare(A_ENDS, sides);
    });
}
