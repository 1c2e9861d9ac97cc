//! `org.systemd.property.NAME` annotations: properties in GVariant's text format, as runc takes
//! them (docs/systemd.md, "Auxiliary properties").

use std::collections::BTreeMap;

use super::Property;
use crate::{Error, Result, dbus::Value};

/// The properties among the annotations of a configuration.
///
/// # Errors
///
/// runc's texts with the annotation's name.
pub(super) fn properties(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>> {
    let named = |(key, text): (&String, &String)| {
        let name = key.strip_prefix("org.systemd.property.")?;
        Some(property(name, text).map_err(|e| {
            Error::Invalid(match e {
                Wrong::Name(e) => format!("annotation {key} name incorrect: {e}"),
                Wrong::Value(e) => format!("annotation {key}={text} value parse error: {e}"),
            })
        }))
    };
    annotations.iter().filter_map(named).collect()
}

enum Wrong {
    Name(&'static str),
    Value(String),
}

fn property(name: &str, text: &str) -> std::result::Result<Property, Wrong> {
    if name.len() < 3 {
        return Err(Wrong::Name("too short"));
    }
    if !name.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(Wrong::Name("contains non-alphabetic character"));
    }
    let value = parse(text).map_err(Wrong::Value)?;
    // Documented in seconds (TimeoutStopSec), but over D-Bus in microseconds (TimeoutStopUSec).
    match name.strip_suffix("Sec") {
        Some(stem) if stem.ends_with(|c: char| c.is_ascii_lowercase()) => {
            let value =
                microseconds(&value).ok_or_else(|| Wrong::Value("not a number".to_owned()))?;
            Ok(Property { name: format!("{stem}USec").into(), value: Value::Uint64(value) })
        }
        _ => Ok(Property { name: name.to_owned().into(), value }),
    }
}

fn microseconds(value: &Value) -> Option<u64> {
    let seconds: i128 = match value {
        Value::Byte(v) => (*v).into(),
        Value::Int16(v) => (*v).into(),
        Value::Uint16(v) => (*v).into(),
        Value::Int32(v) => (*v).into(),
        Value::Uint32(v) => (*v).into(),
        Value::Int64(v) => (*v).into(),
        Value::Uint64(v) => (*v).into(),
        // A float's conversion saturates.
        Value::Double(v) => return Some((v * 1e6) as u64),
        _ => return None,
    };
    u64::try_from(seconds * 1_000_000).ok()
}

/// A value in GVariant's text format: booleans, numbers, strings, byte strings and arrays of them,
/// with the type in front where it is not the default (`uint64 5`, `@t 5`).
fn parse(text: &str) -> std::result::Result<Value, String> {
    let mut parser = Parser { text, depth: 0 };
    let value = parser.value(None)?;
    match parser.text.trim_start() {
        "" => Ok(value),
        rest => Err(format!("unexpected {rest:?} after the value")),
    }
}

/// The keywords of types with their codes.
const TYPES: [(&str, &str); 12] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

struct Parser<'a> {
    text: &'a str,
    depth: u8,
}

type Parsed<T> = std::result::Result<T, String>;

impl<'a> Parser<'a> {
    fn word(&mut self) -> &'a str {
        let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ']' | '[' | '\'' | '"');
        let end = self.text.find(ends).unwrap_or(self.text.len());
        let (word, rest) = self.text.split_at(end);
        self.text = rest;
        word
    }

    fn value(&mut self, wanted: Option<&str>) -> Parsed<Value> {
        self.text = self.text.trim_start();
        if let Some(rest) = self.text.strip_prefix('@') {
            self.text = rest;
            let code = self.word();
            let element = code.trim_start_matches('a');
            if !TYPES.iter().any(|(_, c)| *c == element) {
                return Err(format!("type {code:?} is not supported"));
            }
            return self.typed(code, wanted);
        }
        if let Some(rest) = self.text.strip_prefix('[') {
            self.text = rest;
            return self.array(wanted);
        }
        if self.text.starts_with(['\'', '"']) {
            let text = String::from_utf8(self.quoted()?).map_err(|_| "not UTF-8".to_owned())?;
            return match wanted.unwrap_or("s") {
                "s" => Ok(Value::Text(text)),
                "o" => Ok(Value::Path(text)),
                "g" => Ok(Value::Signature(text)),
                other => Err(format!("a string is no {other:?}")),
            };
        }
        let before = self.text;
        match self.word() {
            "" if before.is_empty() => Err("empty".to_owned()),
            "" => Err(format!("unexpected {before:?}")),
            "b" if self.text.starts_with(['\'', '"']) => {
                let mut bytes = self.quoted()?;
                bytes.push(0);
                match wanted.unwrap_or("ay") {
                    "ay" => Ok(Value::bytes(&bytes)),
                    other => Err(format!("a byte string is no {other:?}")),
                }
            }
            word @ ("true" | "false") => match wanted.unwrap_or("b") {
                "b" => Ok(Value::Bool(word == "true")),
                other => Err(format!("a boolean is no {other:?}")),
            },
            word => match TYPES.iter().find(|(keyword, _)| *keyword == word) {
                Some((_, code)) => self.typed(code, wanted),
                None => number(word, wanted),
            },
        }
    }

    /// The value after its type.
    fn typed(&mut self, code: &str, wanted: Option<&str>) -> Parsed<Value> {
        if wanted.is_some_and(|wanted| wanted != code) {
            return Err(format!("type {code:?} where {wanted:?} is needed"));
        }
        self.deeper(|parser| parser.value(Some(code)))
    }

    fn deeper<T>(&mut self, step: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        if self.depth > 16 {
            return Err("nested too deeply".to_owned());
        }
        let result = step(self);
        self.depth -= 1;
        result
    }

    fn array(&mut self, wanted: Option<&str>) -> Parsed<Value> {
        let mut element = match wanted.map(|code| code.strip_prefix('a')) {
            None => None,
            Some(Some(element)) => Some(element.to_owned()),
            Some(None) => return Err(format!("an array is no {wanted:?}")),
        };
        let mut values = Vec::new();
        loop {
            self.text = self.text.trim_start();
            if let Some(rest) = self.text.strip_prefix(']') {
                self.text = rest;
                let element = element.ok_or("the type of an empty array is not known")?;
                return Ok(Value::Array(element, values));
            }
            if !values.is_empty() {
                self.text = self.text.strip_prefix(',').ok_or("no comma between elements")?;
            }
            let value = self.deeper(|parser| parser.value(element.as_deref()))?;
            element.get_or_insert_with(|| value.signature());
            values.push(value);
        }
    }

    /// A string's bytes, whose first is its quote.
    fn quoted(&mut self) -> Parsed<Vec<u8>> {
        let mut chars = self.text.chars();
        let quote = chars.next();
        let mut out = String::new();
        loop {
            let c = chars.next().ok_or("unterminated string")?;
            if Some(c) == quote {
                self.text = chars.as_str();
                return Ok(out.into_bytes());
            }
            out.push(match c {
                '\\' => match chars.next().ok_or("unterminated string")? {
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    u @ ('u' | 'U') => {
                        let len = if u == 'u' { 4 } else { 8 };
                        let digits = chars.as_str().get(..len).ok_or("unterminated string")?;
                        chars = chars.as_str()[len..].chars();
                        u32::from_str_radix(digits, 16)
                            .ok()
                            .and_then(char::from_u32)
                            .filter(|c| *c != '\0')
                            .ok_or_else(|| format!("{digits:?} is no character"))?
                    }
                    other => other,
                },
                '\0' => return Err("a string cannot hold a zero".to_owned()),
                c => c,
            });
        }
    }
}

fn number(word: &str, wanted: Option<&str>) -> Parsed<Value> {
    let bad = || format!("bad number or unknown word {word:?}");
    let is_float = word.contains(['.', 'e', 'E']) && !word.contains("0x");
    let code = wanted.unwrap_or(if is_float { "d" } else { "i" });
    if code == "d" {
        let starts = word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
        return word.parse().ok().filter(|_| starts).map(Value::Double).ok_or_else(bad);
    }
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let magnitude = match digits {
        d if d.starts_with(['+', '-']) => None,
        d if d.starts_with("0x") => u64::from_str_radix(&d[2..], 16).ok(),
        d if d.len() > 1 && d.starts_with('0') => u64::from_str_radix(&d[1..], 8).ok(),
        d => d.parse().ok(),
    };
    let value = magnitude.map(i128::from).ok_or_else(bad)?;
    let value = if negative { -value } else { value };
    let range = |_| format!("{word} is out of the range of {code:?}");
    Ok(match code {
        "y" => Value::Byte(value.try_into().map_err(range)?),
        "n" => Value::Int16(value.try_into().map_err(range)?),
        "q" => Value::Uint16(value.try_into().map_err(range)?),
        "i" => Value::Int32(value.try_into().map_err(range)?),
        "u" => Value::Uint32(value.try_into().map_err(range)?),
        "x" => Value::Int64(value.try_into().map_err(range)?),
        "t" => Value::Uint64(value.try_into().map_err(range)?),
        other => return Err(format!("a number is no {other:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_gvariant_writes_them() {
        let texts = |texts: &[&str]| {
            Value::Array("s".into(), texts.iter().map(|t| Value::text(*t)).collect())
        };
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("5", Value::Int32(5)),
            ("-0x10", Value::Int32(-16)),
            ("1.5", Value::Double(1.5)),
            ("uint64 123456789", Value::Uint64(123_456_789)),
            ("@t 7", Value::Uint64(7)),
            ("byte 255", Value::Byte(255)),
            ("'inactive-or-failed'", Value::text("inactive-or-failed")),
            (r#""it's \u00e9\n""#, Value::text("it's é\n")),
            ("['a', 'b']", texts(&["a", "b"])),
            ("@as []", texts(&[])),
            ("[uint32 1, 2]", Value::Array("u".into(), vec![Value::Uint32(1), Value::Uint32(2)])),
            ("b'ab'", Value::bytes(b"ab\0")),
            ("objectpath '/a'", Value::Path("/a".into())),
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&value), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "",
            "nonsense",
            "'open",
            "[1, 'a']",
            "[]",
            "[1 2]",
            "byte 256",
            "uint64 -1",
            "5 5",
            "@a{sv} {}",
            "{'a': 1}",
            "<5>",
            "@ay",
            "uint64",
            "1.5.5",
            "inf",
            "'\\u0000'",
            "string 5",
        ] {
            assert!(parse(text).is_err(), "{text:?}: {:?}", parse(text));
        }
        let deep = "[".repeat(5000);
        assert!(parse(&deep).is_err());
    }

    fn of(key: &str, text: &str) -> Result<Vec<Property>> {
        properties(&BTreeMap::from([
            (key.to_owned(), text.to_owned()),
            ("unrelated".to_owned(), "x".to_owned()),
        ]))
    }

    #[test]
    fn seconds_become_microseconds() {
        for (name, text, property, value) in [
            ("TimeoutStopSec", "2", "TimeoutStopUSec", Value::Uint64(2_000_000)),
            ("TimeoutStopSec", "0.5", "TimeoutStopUSec", Value::Uint64(500_000)),
            ("TimeoutStopUSec", "uint64 7", "TimeoutStopUSec", Value::Uint64(7)),
            // No lower-case letter is before it: this is a name of its own.
            ("CPUQuotaPerSecUSec", "uint64 7", "CPUQuotaPerSecUSec", Value::Uint64(7)),
            ("CollectMode", "'inactive'", "CollectMode", Value::text("inactive")),
        ] {
            let found = of(&format!("org.systemd.property.{name}"), text).expect(name);
            assert_eq!((&*found[0].name, &found[0].value), (property, &value));
            assert_eq!(found.len(), 1);
        }
    }

    #[test]
    fn refusals_have_runcs_words() {
        for (key, text, words) in [
            (
                "org.systemd.property.X",
                "5",
                "annotation org.systemd.property.X name incorrect: too short",
            ),
            (
                "org.systemd.property.Mem-Max",
                "5",
                "annotation org.systemd.property.Mem-Max name incorrect: contains non-alphabetic \
                 character",
            ),
            (
                "org.systemd.property.TimeoutStopSec",
                "'2'",
                "annotation org.systemd.property.TimeoutStopSec='2' value parse error: not a number",
            ),
        ] {
            assert_eq!(of(key, text).expect_err(key).to_string(), words);
        }
    }
}
