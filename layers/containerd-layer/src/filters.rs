//! containerd's filter language: `labels."a.b"==c`, `name~=regex`, `id!=x`, or a bare field for
//! presence. A comma within one filter is *and*, several filters are *or*, no filter is everything.

use crate::{Error, Result};
use std::borrow::Cow;

/// Something whose fields a filter can ask for.
pub trait Fields {
    /// The value at `path` (for labels `["labels", key]`), or nothing when it is not set.
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>>;
}

/// A parsed list of filters.
#[derive(Debug, Clone, Default)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Debug, Clone)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    /// Nothing does not match anything: it was no regular expression, which containerd only logs.
    Matches(Option<regex::Regex>),
}

/// The characters of operators.
const OPERATOR: [char; 3] = ['=', '!', '~'];

impl Filters {
    /// Parses the filters of one request.
    ///
    /// # Errors
    /// `InvalidArgument` naming the filter and the place in it.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self> {
        filters.iter().map(|f| Parser::new(f.as_ref()).filter()).collect::<Result<_>>().map(Self)
    }

    /// Whether any of the filters accepts `item`.
    pub fn matches(&self, item: &impl Fields) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|selectors| selectors.iter().all(|s| s.matches(item)))
    }
}

impl Selector {
    fn matches(&self, item: &impl Fields) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = item.field(&path);
        match (&self.test, value) {
            (Test::Present, value) => value.is_some(),
            (Test::NotEqual(want), value) => value.as_deref() != Some(want),
            (_, None) => false,
            (Test::Equal(want), Some(value)) => value == *want,
            (Test::Matches(regex), Some(value)) => {
                regex.as_ref().is_some_and(|regex| regex.is_match(&value))
            }
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// containerd's error for what is found here.
    fn error(&self, reason: &str) -> Error {
        let (before, rest) = self.text.split_at(self.at);
        let mut after = rest.chars();
        let place = match after.next() {
            Some(here) => format!("{before} >|{here}|< {}", after.as_str()),
            None => before.to_owned(),
        };
        // The kind stands twice in containerd's text.
        let inner = Error::invalid(format_args!("parse error: [{place}]: {reason}"));
        Error::invalid(format_args!("filters: {inner}"))
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn filter(mut self) -> Result<Vec<Selector>> {
        let mut selectors = Vec::new();
        if self.text.is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            if self.rest().is_empty() {
                return Ok(selectors);
            }
            if !self.eat(",") {
                let found = self.rest().chars().next().unwrap_or_default();
                return Err(self.error(&format!("unexpected input: {found}")));
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.word(true)?];
        while self.eat(".") {
            path.push(self.word(true)?);
        }
        let test = if self.eat("==") {
            Test::Equal(self.word(false)?)
        } else if self.eat("!=") {
            Test::NotEqual(self.word(false)?)
        } else if self.eat("~=") {
            let pattern = self.word(false)?;
            let regex = regex::Regex::new(&pattern);
            if let Err(error) = &regex {
                tracing::error!(pattern, %error, "in a filter");
            }
            Test::Matches(regex.ok())
        } else if self.rest().starts_with(OPERATOR) {
            let rest = self.rest();
            let end = rest.find(|c: char| !OPERATOR.contains(&c)).unwrap_or(rest.len());
            return Err(self.error(&format!("unsupported operator {:?}", &rest[..end])));
        } else {
            Test::Present
        };
        Ok(Selector { path, test })
    }

    /// A quoted string, or a run of characters that end neither a field nor a value.
    fn word(&mut self, field: bool) -> Result<String> {
        let quote = self.rest().chars().next();
        if let Some(quote @ ('"' | '/' | '|')) = quote
            && (quote == '"' || !field)
        {
            return self.quoted(quote);
        }
        let stop = |c: char| {
            if field {
                !(c.is_ascii_alphanumeric() || c == '_' || c == '-')
            } else {
                c == ',' || c.is_whitespace()
            }
        };
        let end = self.rest().find(stop).unwrap_or(self.rest().len());
        if end == 0 {
            let wanted =
                if field { "expected field or quoted" } else { "expected value or quoted" };
            return Err(self.error(wanted));
        }
        let word = self.rest()[..end].to_owned();
        self.at += end;
        Ok(word)
    }

    fn quoted(&mut self, quote: char) -> Result<String> {
        let mut word = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, 'n')) => word.push('\n'),
                    Some((_, 't')) => word.push('\t'),
                    // In a regular expression only the quote itself is escaped.
                    Some((_, c)) if quote == '"' || c == quote => word.push(c),
                    Some((_, c)) => word.extend(['\\', c]),
                    None => break,
                },
                c if c == quote => {
                    self.at += i + 1;
                    return Ok(word);
                }
                c => word.push(c),
            }
        }
        Err(self.error("quoted literal not terminated"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    struct Item(BTreeMap<&'static str, &'static str>);

    impl Fields for Item {
        fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
            self.0.get(path.join("/").as_str()).map(|v| Cow::Borrowed(*v))
        }
    }

    fn matches(filters: &[&str]) -> bool {
        let item = Item(BTreeMap::from([("name", "docker.io/x:1"), ("labels/a.b", "c,d")]));
        Filters::parse(filters).unwrap().matches(&item)
    }

    #[test]
    fn operators() {
        for (filters, want) in [
            (&[][..], true),
            (&[""], true),
            (&["name==docker.io/x:1"], true),
            (&["name==docker.io/x"], false),
            (&["name!=x"], true),
            (&["name~=^docker"], true),
            (&["name~=/x:[0-9]$/"], true),
            (&[r#"labels."a.b"=="c,d""#], true),
            (&[r#"labels."a.b""#], true),
            (&["labels.missing"], false),
            (&["labels.missing!=x"], true),
            (&["name==x", "labels.\"a.b\""], true),
            (&["name==x,labels.\"a.b\""], false),
        ] {
            assert_eq!(matches(filters), want, "{filters:?}");
        }
    }

    #[test]
    fn bad_filters_name_their_place() {
        for bad in ["==x", "name=x", "name==\"x", "name==", "name==a b", "a..b"] {
            let error = Filters::parse(&[bad]).unwrap_err();
            assert_eq!(error.kind, crate::Kind::InvalidArgument);
            assert!(error.message.contains("parse error"), "{bad}: {error}");
        }
        // What is no regular expression matches nothing, and is no error.
        assert!(!matches(&["name~=("]));
    }
}
