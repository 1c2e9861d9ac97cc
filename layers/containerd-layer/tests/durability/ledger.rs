//! What a client was told, and so what must be there after a kill.

use std::collections::{BTreeMap, BTreeSet};

/// What nobody was told yet.
const UNKNOWN: &str = "unknown";

/// What there may be under each name: one thing when the last call was answered, the thing before
/// and the thing after it when the daemon was killed meanwhile. Nothing is a thing, too.
#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<String, BTreeSet<Option<String>>>);

impl Ledger {
    /// A call is on its way that makes `name` what `value` says.
    pub(crate) fn begun(&mut self, name: &str, value: Option<&str>) {
        let possible = self.0.entry(name.to_owned()).or_insert_with(|| BTreeSet::from([None]));
        possible.insert(value.map(str::to_owned));
    }

    /// A call is on its way that makes `name`, and only its answer says what it is: until then it
    /// is [`UNKNOWN`].
    pub(crate) fn begun_unknown(&mut self, name: &str) {
        self.begun(name, Some(UNKNOWN));
    }

    /// It was answered.
    pub(crate) fn done(&mut self, name: &str, value: Option<&str>) {
        self.0.insert(name.to_owned(), BTreeSet::from([value.map(str::to_owned)]));
    }

    /// The names that are there, with what they are.
    pub(crate) fn present(&self) -> Vec<(String, String)> {
        let certain = |(name, possible): (&String, &BTreeSet<Option<String>>)| {
            let value = possible.first().filter(|_| possible.len() == 1)?.clone()?;
            Some((name.clone(), value))
        };
        self.0.iter().filter_map(certain).collect()
    }

    /// Compares with what is there, and takes it as known from now on.
    pub(crate) fn settle(&mut self, mut found: BTreeMap<String, String>) {
        for (name, possible) in &self.0 {
            let value = found.remove(name);
            let unknown = value.is_some() && possible.contains(&Some(UNKNOWN.to_owned()));
            assert!(
                unknown || possible.contains(&value),
                "{name} is {value:?}, and was told to be one of {possible:?}"
            );
            if let Some(value) = value {
                found.insert(name.clone(), value);
            }
        }
        for name in found.keys() {
            assert!(self.0.contains_key(name), "{name} is there, and nobody made it");
        }
        let settled = found.into_iter().map(|(name, value)| (name, BTreeSet::from([Some(value)])));
        self.0 = settled.collect();
    }
}
