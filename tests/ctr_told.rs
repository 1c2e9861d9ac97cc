//! What a real containerd and strata-containerd tell of themselves: events and metrics. See `ctr.rs`.

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

use rig::{HANG, eventually};
use table::{
    Side, compare,
    sides::{A_ENDS, A_RUNS, with_sides},
};

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
    with_sides("ctr-events", |sides| {
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
    });
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
    with_sides("ctr-metrics", |sides| {
        compare(A_RUNS, sides);
        let told = |side: &Side| {
            metrics(&side.names["metrics"]).iter().map(|m| side.normal(m)).collect::<Vec<_>>()
        };
        eventually(|| told(&sides[0]).len() > 40);
        assert_eq!(told(&sides[0]), told(&sides[1]));
        compare(A_ENDS, sides);
        assert!(told(&sides[1]).is_empty());
    });
}
