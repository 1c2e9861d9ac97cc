//! `config.json` from a stranger: whatever its bytes are, the runtime answers with a plan or an
//! error, soon and in little memory.

#![no_main]

use std::{fs, sync::OnceLock};

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use serde_json::Value;

#[path = "../mutate.rs"]
mod mutate;

use mutate::{Random, mutate};

fuzz_target!(|config: &[u8]| drop(runc_layer::check(config)));

// Half of the changes are made to the document, so that they are not lost to the JSON parser; the
// other half to its bytes, for the parser's own sake.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    static CORPUS: OnceLock<Vec<Value>> = OnceLock::new();
    let corpus = CORPUS.get_or_init(|| {
        let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/config"));
        let texts = files.into_iter().flatten().flatten().map(|f| fs::read(f.path()));
        texts.flatten().filter_map(|text| serde_json::from_slice(&text).ok()).collect()
    });
    let mut random = Random::new(seed.into());
    if random.below(2) == 0
        && let Ok(mut document) = serde_json::from_slice(&data[..size])
    {
        mutate(&mut document, corpus, &mut random);
        let text = document.to_string();
        if text.len() <= max_size {
            data[..text.len()].copy_from_slice(text.as_bytes());
            return text.len();
        }
    }
    fuzzer_mutate(data, size, max_size)
});
