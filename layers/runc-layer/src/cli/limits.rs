//! `update`: flags to a resources object.

use serde_json::{Map, Value, json};

use super::{
    Invocation, Outcome,
    options::{Option_, number, value},
};

/// The options that set one number or text: flag, section of the resources object, key, kind.
const FIELDS: [(&str, &str, &str, Kind); 15] = [
    ("--blkio-weight", "blockIO", "weight", Kind::Number),
    ("--cpu-period", "cpu", "period", Kind::Number),
    ("--cpu-quota", "cpu", "quota", Kind::Number),
    ("--cpu-burst", "cpu", "burst", Kind::Number),
    ("--cpu-share", "cpu", "shares", Kind::Number),
    ("--cpu-rt-period", "cpu", "realtimePeriod", Kind::Number),
    ("--cpu-rt-runtime", "cpu", "realtimeRuntime", Kind::Number),
    ("--cpuset-cpus", "cpu", "cpus", Kind::Text),
    ("--cpuset-mems", "cpu", "mems", Kind::Text),
    ("--cpu-idle", "cpu", "idle", Kind::Number),
    ("--memory", "memory", "limit", Kind::Bytes),
    ("--memory-reservation", "memory", "reservation", Kind::Bytes),
    ("--memory-swap", "memory", "swap", Kind::Bytes),
    ("--kernel-memory-tcp", "memory", "kernelTCP", Kind::Bytes),
    ("--pids-limit", "pids", "limit", Kind::Number),
];

#[derive(Clone, Copy)]
enum Kind {
    Number,
    Bytes,
    Text,
}

pub(super) const OPTIONS: [Option_; 18] = [
    value(&["--resources", "-r"]),
    value(&["--blkio-weight"]),
    value(&["--cpu-period"]),
    value(&["--cpu-quota"]),
    value(&["--cpu-burst"]),
    value(&["--cpu-share"]),
    value(&["--cpu-rt-period"]),
    value(&["--cpu-rt-runtime"]),
    value(&["--cpuset-cpus"]),
    value(&["--cpuset-mems"]),
    value(&["--cpu-idle"]),
    value(&["--memory"]),
    value(&["--memory-reservation"]),
    value(&["--memory-swap"]),
    value(&["--kernel-memory-tcp"]),
    number(&["--pids-limit"]),
    // Ignored, as runc has ignored it since 1.0.
    value(&["--kernel-memory"]),
    value(&["--l3-cache-schema"]),
];

pub(super) fn update(invocation: &Invocation<'_>) -> Outcome {
    let o = &invocation.options;
    let id = o.rest.first().map_or("", String::as_str);
    // Whether it is there comes before what is asked of it.
    invocation.runtime.state(id)?;
    let resources = match o.get("--resources") {
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes)?;
            bytes
        }
        Some(path) => {
            std::fs::read(path).map_err(|e| format!("open {path}: {}", crate::Errno::from(e)))?
        }
        None => {
            let mut sections: Map<String, Value> = Map::new();
            for (name, section, key, kind) in FIELDS {
                let Some(text) = o.get(name).filter(|text| !text.is_empty()) else { continue };
                let bad = || format!("{}: {text}", bad_name(name));
                let value = match kind {
                    Kind::Text => json!(text),
                    Kind::Number => json!(text.parse::<i64>().map_err(|_| bad())?),
                    Kind::Bytes => json!(
                        bytes(text)
                            .ok_or_else(|| format!("{}: invalid size: '{text}'", bad_name(name)))?
                    ),
                };
                let section = sections.entry(section).or_insert_with(|| json!({}));
                section[key] = value;
            }
            Value::Object(sections).to_string().into_bytes()
        }
    };
    if o.get("--l3-cache-schema").is_some() {
        return Err("Intel RDT/CAT: l3 cache schema is not enabled".into());
    }
    invocation.runtime.update(id, &resources)?;
    Ok(0)
}

fn bad_name(name: &str) -> String {
    format!("invalid value for {}", name.trim_start_matches('-'))
}

/// A size with a unit: `512m`, `1G`, `100`, `-1`.
fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, unit) = match lower.char_indices().last()? {
        (at, 'k') => (&lower[..at], 1 << 10),
        (at, 'm') => (&lower[..at], 1 << 20),
        (at, 'g') => (&lower[..at], 1 << 30),
        (at, 't') => (&lower[..at], 1i64 << 40),
        _ => (lower, 1),
    };
    digits.trim().parse::<i64>().ok().filter(|n| *n >= 0)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes() {
        for (text, n) in
            [("100", 100), ("1k", 1024), ("512m", 512 << 20), ("2GB", 2 << 30), ("-1", -1)]
        {
            assert_eq!(bytes(text), Some(n), "{text}");
        }
        assert_eq!(bytes("many"), None);
        assert_eq!(bytes("-5"), None);
    }
}
