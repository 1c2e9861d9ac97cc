//! ctr, line by line, on a real containerd and on strata-containerd: what runs, and what becomes of
//! it. See `ctr.rs`.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod machine;
mod rig;
mod table;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use regex::Regex;

use rig::{HANG, Rig, eventually, need};
use table::{
    Side, compare,
    sides::{Leftovers, on_both, sides},
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

/// What a layer says of its entries, without the times of this run.
fn listing(layer: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(layer);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let mut lines: Vec<String> = entries
        .map(|mut entry| {
            let header = entry.header();
            let (kind, mode) = (header.entry_type(), header.mode().unwrap());
            let owner = (header.uid().unwrap(), header.gid().unwrap());
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let target = entry.link_name().unwrap().map(|target| target.into_owned());
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            format!("{name} {kind:?} {mode:o} {owner:?} {target:?} {text:?}")
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn diffs() {
    need!("containerd", "ctr", "busybox", "containerd-shim-runc-v2", "runc", "timeout", "tar");
    let mut rig = Rig::new("ctr-diff");
    let sides = sides(&mut rig);
    let leftovers = Leftovers::of(&sides);
    compare("
        images import {archive}
        run --runtime {runtime} {image} a sh -c 'echo new >/etc/new; ln -s new /etc/link; rm /etc/motd; echo b >>/etc/passwd; mkdir -p /x/y; rm -rf /data'
        run --runtime {runtime} --snapshotter native {image} b sh -c 'echo new >/etc/new; rm /etc/motd; chmod 700 /data; rm /bin/ls; mkdir /bin/ls'
        snapshots diff nosuch
        snapshots diff a nosuch
        snapshots diff
        snapshots diff --media-type nosuch a
        ? snapshots diff --keep --ref diffed --label x=y a
        ? content ls labels.x==y -q
        ? snapshots diff sha256:080d51178886d1c920cf775f9071eff44bd80646645babf17b357206b4f48f24
        snapshots ls
        leases ls
    ", &sides);
    let diff = |side: &Side, line: &str| {
        let script = format!("snapshots {line}");
        let out =
            Command::new("ctr").args(&side.ctr.args).args(script.split(' ')).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    const TAR: &str = "--media-type application/vnd.oci.image.layer.v1.tar";
    let parent = sides[0].run("snapshots ls", "").stdout;
    let parent = parent.lines().find(|line| line.starts_with("a ")).unwrap();
    let parent = parent.split(' ').nth(1).unwrap();
    for line in [
        format!("diff {TAR} a"),
        format!("diff {TAR} {parent}"),
        format!("--snapshotter native diff {TAR} b"),
        format!("diff {TAR} {parent} a"),
        format!("diff {TAR} a {parent}"),
    ] {
        let [real, strata] = sides.each_ref().map(|side| listing(&diff(side, &line)));
        assert_eq!(real, strata, "{line}");
        assert!(!real.is_empty(), "{line}");
    }
    // Compressed, it is the same layer.
    for side in &sides {
        let mut gunzip = Command::new("gzip")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        gunzip.stdin.take().unwrap().write_all(&diff(side, "diff a")).unwrap();
        let plain = gunzip.wait_with_output().unwrap();
        assert!(plain.status.success());
        assert_eq!(listing(&plain.stdout), listing(&diff(side, &format!("diff {TAR} a"))));
    }
    compare(
        "
        containers rm a b
        snapshots ls
        ns ls
    ",
        &sides,
    );
    drop(leftovers);
    rig.end();
}

/// What `ctr events` says while a table runs: its lines in order, without what is another each time.
fn events(side: &Side, table: &str) -> Vec<String> {
    let mut listener = Command::new("ctr")
        .args(&side.ctr.args)
        .arg("events")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (tell, said) = mpsc::channel();
    let lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    std::thread::spawn(move || lines.map_while(Result::ok).all(|line| tell.send(line).is_ok()));
    // It listens once it hears of something.
    let mut n = 0;
    eventually(|| {
        n += 1;
        let created = side.run(&format!("ns create heard-{n}"), "");
        assert_eq!(created.code, 0, "{}", created.stderr);
        said.recv_timeout(Duration::from_millis(100)).is_ok()
    });
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let begun = Instant::now();
        while side.run(line, "").code != 0 {
            assert!(begun.elapsed() < HANG, "{line}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let mut heard = Vec::new();
    side.run("ns create last", "");
    loop {
        let line = side.normal(&said.recv_timeout(HANG).unwrap());
        if line.contains("\"name\":\"last\"") {
            break;
        }
        if line.contains("heard-") {
            continue;
        }
        let mut line = line;
        for (pattern, with) in [
            (r"\b\d{2,}\b", "N"),
            // A part of it is random.
            (r"extract-N-\S+", "extract"),
            // ctr gives options to the runtime whose name it knows.
            (r#","options":\{"type_url":"containerd.runc.v1.Options"\}"#, ""),
        ] {
            line = Regex::new(pattern).unwrap().replace_all(&line, with).into_owned();
        }
        heard.push(line);
    }
    listener.kill().unwrap();
    listener.wait().unwrap();
    heard.sort();
    heard
}

#[test]
fn what_happens_is_told() {
    need!("containerd", "ctr", "busybox", "containerd-shim-runc-v2", "runc", "timeout");
    let mut rig = Rig::new("ctr-events");
    let sides = sides(&mut rig);
    let leftovers = Leftovers::of(&sides);
    let [real, strata] = sides.each_ref().map(|side| {
        events(
            side,
            "
            images import {archive}
            images label {image} a=b
            images tag {image} example.com/x:1
            run -d --runtime {runtime} {image} a sleep 1000
            tasks exec --exec-id e a true
            tasks pause a
            tasks resume a
            tasks kill -s KILL a
            tasks rm a
            containers label a x=y
            containers rm a
            run -d --runtime {runtime} --memory-limit 67108864 {image} b true
            tasks rm b
            containers rm b
            ns create other
            ns label other x=y
            ns rm other
            images rm example.com/x:1
            snapshots prepare c
            snapshots commit d c
            snapshots rm d
        ",
        )
    });
    let more = |one: &[String], two: &[String]| -> Vec<String> {
        one.iter().filter(|line| !two.contains(line)).cloned().collect()
    };
    assert_eq!(more(&real, &strata), more(&strata, &real));
    assert_eq!(real, strata);
    assert!(real.len() > 20, "{real:?}");
    drop(leftovers);
    rig.end();
}

#[test]
fn terminals() {
    need!("containerd", "ctr", "busybox", "containerd-shim-runc-v2", "runc", "timeout", "script");
    let mut rig = Rig::new("ctr-tty");
    let sides = sides(&mut rig);
    let leftovers = Leftovers::of(&sides);
    compare(
        "
        images import {archive}
        run -d --runtime {runtime} {image} a sleep 1000
    ",
        &sides,
    );
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
    compare(
        "
        tasks kill -s KILL a
        @ tasks rm a
        containers rm a
    ",
        &sides,
    );
    drop(leftovers);
    rig.end();
}

/// The metrics of containers at an address, without their values.
fn metrics(address: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = "GET /v1/metrics HTTP/1.0\r\nHost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.lines().next().unwrap().ends_with("200 OK"), "{text}");
    assert!(text.contains("\ncontainerd_build_info_total{"), "{text}");
    let lines = text.lines().filter(|line| line.starts_with("container_"));
    let mut names: Vec<_> = lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect();
    names.sort();
    names
}

#[test]
fn metrics_have_containerds_names() {
    need!("containerd", "ctr", "busybox", "containerd-shim-runc-v2", "runc", "timeout");
    let mut rig = Rig::new("ctr-metrics");
    let sides = sides(&mut rig);
    let leftovers = Leftovers::of(&sides);
    compare(
        "
        images import {archive}
        run -d --runtime {runtime} {image} a sleep 1000
    ",
        &sides,
    );
    let told = |side: &Side| {
        metrics(&side.names["metrics"]).iter().map(|m| side.normal(m)).collect::<Vec<_>>()
    };
    eventually(|| told(&sides[0]).len() > 40);
    assert_eq!(told(&sides[0]), told(&sides[1]));
    compare(
        "
        tasks kill -s KILL a
        @ tasks rm a
        containers rm a
    ",
        &sides,
    );
    assert!(told(&sides[1]).is_empty());
    drop(leftovers);
    rig.end();
}
