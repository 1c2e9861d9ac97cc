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
use serde_json::Value;

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

/// The answer for `config`; one that does not come, or comes late, fails with the document.
fn answer(config: &[u8]) -> Result<Vec<String>, Error> {
    let started = Instant::now();
    let answer = catch_unwind(|| runc_layer::check(config));
    let text = String::from_utf8_lossy(config);
    assert!(started.elapsed() < Duration::from_secs(10), "it took long to answer {text}");
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
