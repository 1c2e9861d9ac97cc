//! Configurations that nobody would write, through the entry that `fuzz/` fuzzes: the same corpus
//! and the same changes, as many as a test has time for. `just fuzz` looks farther.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    fs,
    panic::catch_unwind,
    path::Path,
    time::{Duration, Instant},
};

use runc_layer::Error;
use serde_json::{Value, json};

#[allow(dead_code, unreachable_pub, reason = "shared with the fuzzer, which is another crate")]
#[path = "../fuzz/mutate.rs"]
mod mutate;

use mutate::{Random, mutate};

/// How many changed documents; without optimisation each takes some tenths of a millisecond.
const ROUNDS: usize = 10_000;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
    let mut corpus: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .collect();
    corpus.sort();
    corpus
}

/// What nothing but a loop that grows with the square of its input takes.
const HANG: Duration = Duration::from_secs(60);

/// The answer for `config`; without one, or with one that was as good as none, the document is told.
fn answer(config: &[u8]) -> Result<Vec<String>, Error> {
    let started = Instant::now();
    let answer = catch_unwind(|| runc_layer::check(config));
    let text = String::from_utf8_lossy(config);
    assert!(started.elapsed() < HANG, "it hung on {}", text.get(..1000).unwrap_or(&text));
    answer.unwrap_or_else(|_| panic!("no answer for {text}"))
}

#[test]
fn every_configuration_of_the_corpus_is_answered() {
    let corpus = corpus();
    for (name, config) in &corpus {
        let answer = answer(config);
        // What people would write is a plan; the rest, with a hash for its name, was found.
        if let (Some(_), Err(e)) = (name.strip_suffix(".json"), &answer) {
            // Labels depend on the machine.
            assert_eq!(name, "labels.json", "{e}");
        }
    }
    assert!(corpus.len() > 15, "{}", corpus.len());
}

#[test]
fn every_changed_configuration_is_answered_and_refusals_name_the_field() {
    let documents: Vec<Value> =
        corpus().iter().filter_map(|(_, text)| serde_json::from_slice(text).ok()).collect();
    let mut random = Random::new(20_261_127);
    let (mut plans, mut refusals) = (0, 0);
    for _ in 0..ROUNDS {
        let mut document = documents[random.below(documents.len())].clone();
        mutate(&mut document, &documents, &mut random);
        match answer(document.to_string().as_bytes()) {
            Ok(_) => plans += 1,
            Err(Error::Spec { field, .. }) => {
                assert!(field.starts_with("config.json"), "{field}");
                refusals += 1;
            }
            Err(other) => assert!(!other.to_string().is_empty()),
        }
    }
    // Otherwise the changes would not get past the first check, or change nothing.
    assert!(plans > ROUNDS / 20 && refusals > ROUNDS / 20, "{plans} plans, {refusals} refusals");
}

#[test]
fn large_configurations_are_answered_as_well() {
    let mut document = json!({
        "ociVersion": "1.2.0", "process": {"args": ["x"], "cwd": "/"}, "root": {"path": "."},
        "linux": {"namespaces": [{"type": "mount"}]},
    });
    // Twenty thousand mounts in one tmpfs took half a minute of looking for what covers them.
    let mounts = (0..20_000).map(|i| {
        json!({"destination": format!("/dev/{i}"), "type": "bind", "source": "/a", "options": ["rbind"]})
    });
    let dev = json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"});
    document["mounts"] = [dev].into_iter().chain(mounts).collect();
    assert!(answer(document.to_string().as_bytes()).is_ok());
    document["mounts"] = json!([]);
    let test = |i: u64| json!({"index": 0, "value": i, "op": "SCMP_CMP_GT"});
    let rules = (0..20_000)
        .map(|i| json!({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [test(i)]}));
    document["linux"]["seccomp"] =
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules.collect::<Vec<_>>()});
    let refused = answer(document.to_string().as_bytes()).unwrap_err().to_string();
    assert!(refused.contains("the kernel takes 4096"), "{refused}");
}
