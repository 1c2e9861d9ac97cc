//! Docker's filters: JSON of `{"key": ["value"]}`, or `{"key": {"value": true}}`.

use std::collections::HashMap;

use hops::{HopError, Result};
use serde::Deserialize;

/// What a list is filtered by.
#[derive(Debug, Default)]
pub(crate) struct Filters(HashMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Set(HashMap<String, bool>),
}

impl Filters {
    /// Reads the query's `filters`, whose keys are to be among `known`.
    ///
    /// # Errors
    /// Docker's words for what is no filter.
    pub(crate) fn parse(text: Option<&str>, known: &[&str]) -> Result<Filters> {
        let Some(text) = text.filter(|t| !t.trim().is_empty()) else {
            return Ok(Filters::default());
        };
        let read: HashMap<String, Values> = serde_json::from_str(text)
            .map_err(|e| HopError::invalid(format!("invalid filter: {e}")))?;
        let mut filters = HashMap::new();
        for (key, values) in read {
            if !known.contains(&key.as_str()) {
                return Err(HopError::invalid(format!("Invalid filter '{key}'")));
            }
            let values = match values {
                Values::List(list) => list,
                Values::Set(set) => set.into_iter().filter(|(_, on)| *on).map(|(v, _)| v).collect(),
            };
            filters.insert(key, values);
        }
        Ok(Filters(filters))
    }

    /// Whether one of the key's values fits; true when nothing is asked of it.
    pub(crate) fn any(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        match self.0.get(key) {
            Some(values) if !values.is_empty() => values.iter().any(|v| fits(v)),
            _ => true,
        }
    }

    /// Whether all of the key's values fit.
    pub(crate) fn all(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        self.0.get(key).is_none_or(|values| values.iter().all(|v| fits(v)))
    }

    /// The key's values.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether anything is asked of the key.
    pub(crate) fn has(&self, key: &str) -> bool {
        !self.values(key).is_empty()
    }

    /// Whether `labels` are those that `label` asks for, as `key` or `key=value`.
    pub(crate) fn labels(&self, labels: Option<&HashMap<String, String>>) -> bool {
        self.all("label", |wanted| {
            let (key, value) = match wanted.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (wanted, None),
            };
            labels
                .and_then(|l| l.get(key))
                .is_some_and(|have| value.is_none_or(|value| value == have))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_others_refused() {
        for text in [r#"{"label":["a=b"]}"#, r#"{"label":{"a=b":true,"c":false}}"#] {
            let filters = Filters::parse(Some(text), &["label"]).unwrap();
            assert!(filters.labels(Some(&HashMap::from([("a".to_owned(), "b".to_owned())]))));
            assert!(!filters.labels(Some(&HashMap::from([("a".to_owned(), "c".to_owned())]))));
            assert!(!filters.labels(None));
        }
        for bad in ["x", "[]", r#"{"label":1}"#, r#"{"x":["y"]}"#] {
            assert!(Filters::parse(Some(bad), &["label"]).is_err(), "{bad}");
        }
    }
}
