//! Time namespaces: a container that believes to run for longer than the machine.

use std::fs;

use crate::bundle::Bundle;
use serde_json::json;

/// Seconds since the start, from a text like /proc/uptime's.
fn uptime(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

fn bundle(script: &str) -> Option<Bundle> {
    let mut b = Bundle::new(script)?;
    if !std::path::Path::new("/proc/self/timens_offsets").exists() {
        println!("SKIP: needs time namespaces");
        return None;
    }
    b.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    Some(b)
}

#[test]
fn clocks_have_their_offsets() {
    let Some(mut b) = bundle("cat /proc/uptime /proc/self/timens_offsets; exec sleep 1000") else {
        return;
    };
    b.config["linux"]["timeOffsets"] =
        json!({"monotonic": {"secs": 7200, "nanosecs": 5}, "boottime": {"secs": 1_000_000}});
    let host = || uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let before = host();
    assert_eq!(b.create().code, 0, "{}", b.output());
    assert_eq!(b.call(&["start", &b.id]).code, 0);
    b.wait_for_output("boottime");
    let shift = uptime(&b.output());
    assert!(shift >= before + 1_000_000.0 && shift <= host() + 1_000_000.0, "{}", b.output());
    let words: Vec<String> = b.output().split_whitespace().map(str::to_owned).collect();
    assert_eq!(words[2..], ["monotonic", "7200", "5", "boottime", "1000000", "0"]);
    // A process that joins has the same clocks.
    let before = host();
    let said = b.call(&["exec", &b.id, "cat", "/proc/uptime"]);
    let joined = uptime(&said.out);
    assert!(joined >= before + 1_000_000.0 && joined <= host() + 1_000_000.0, "{said:?}");
}

#[test]
fn a_time_namespace_without_offsets_is_a_namespace() {
    let Some(b) = bundle("ls -l /proc/self/ns/time; cat /proc/uptime") else { return };
    let said = b.run();
    let host = fs::read_link("/proc/self/ns/time").unwrap();
    assert!(
        said.out.contains("time:[") && !said.out.contains(&*host.to_string_lossy()),
        "{said:?}"
    );
}

#[test]
fn offsets_that_cannot_be_are_refused() {
    let Some(mut b) = bundle("true") else { return };
    for (offsets, text) in [
        (json!({"boottime": {"secs": -4_000_000_000i64}}), "numerical result out of range"),
        (json!({"monotonic": {"secs": 1, "nanosecs": 1_000_000_000}}), "invalid argument"),
        (json!({"realtime": {"secs": 1}}), "invalid argument"),
    ] {
        b.config["linux"]["timeOffsets"] = offsets;
        let said = b.run();
        let words = format!("failed to set up the time namespace: {text}");
        assert!(said.code == 1 && said.err.contains(&words), "{said:?}");
        b.assert_gone();
    }
    b.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1}});
    let list = b.config["linux"]["namespaces"].as_array_mut().unwrap();
    list.last_mut().unwrap()["path"] = json!("/proc/self/ns/time");
    let said = b.run();
    assert!(said.err.contains("both namespace path and time offsets specified"), "{said:?}");
    b.config["linux"]["namespaces"].as_array_mut().unwrap().pop();
    let said = b.run();
    assert!(said.err.contains("time namespace isn't enabled in the config"), "{said:?}");
    b.assert_gone();
}
