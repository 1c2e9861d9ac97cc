//! `linux.resources` as properties of a unit (systemd.resource-control(5); which of them, and how
//! they are converted, is runc's: docs/systemd.md of 1.1 and 1.2).
//!
//! The properties are those of systemd 244 (2019) and later.

use super::{
    super::{devices::Policy, limits::refuse, v2},
    Property,
};
use crate::{
    Error, Result,
    dbus::Value,
    spec::{Cpu, Resources},
};

/// The kernel's own period of the cpu controller, in microseconds.
const PERIOD: u64 = 100_000;

/// The properties for `r` on a machine with cgroup `version`; `idles` tells whether systemd knows
/// of an idle weight (since 252).
pub(super) fn of(
    r: &Resources,
    version: u8,
    idles: &mut dyn FnMut() -> Result<bool>,
) -> Result<Vec<Property>> {
    let mut list = Vec::new();
    let mut number = |name, value| list.push(Property::new(name, Value::Uint64(value)));
    // -1 is USEC_INFINITY, CGROUP_LIMIT_MAX and so on: all ones.
    let some = |value: Option<i64>| value.filter(|v| *v != 0).map(|v| v as u64);
    let m = &r.memory;
    if version == 2 {
        some(m.limit).into_iter().for_each(|v| number("MemoryMax", v));
        some(m.reservation).into_iter().for_each(|v| number("MemoryLow", v));
        v2::swap(m)?.into_iter().for_each(|v| number("MemorySwapMax", v as u64));
        if r.cpu.idle == Some(1) && idles()? {
            number("CPUWeight", 0);
        } else if let Some(shares) = r.cpu.shares.filter(|v| *v != 0) {
            number("CPUWeight", v2::weight_of_shares(shares));
        }
        if let Some(weight) = r.block_io.weight.filter(|w| *w != 0) {
            number("IOWeight", v2::io_weight(weight));
        }
    } else {
        some(m.limit).into_iter().for_each(|v| number("MemoryLimit", v));
        r.cpu.shares.filter(|v| *v != 0).into_iter().for_each(|v| number("CPUShares", v));
        if let Some(weight) = r.block_io.weight.filter(|w| *w != 0) {
            number("BlockIOWeight", weight.into());
        }
    }
    if let Some(limit) = r.pids.limit.filter(|l| *l > 0 || *l == -1) {
        number("TasksMax", limit as u64);
    }
    quota(&r.cpu, &mut number);
    for (name, field, text) in
        [("AllowedCPUs", "cpu.cpus", &r.cpu.cpus), ("AllowedMemoryNodes", "cpu.mems", &r.cpu.mems)]
    {
        if !text.is_empty() {
            list.push(Property::new(name, Value::bytes(&bits(field, text)?)));
        }
    }
    if version == 2 {
        for (key, value) in &r.unified {
            unified(&mut list, key, value.trim(), idles)?;
        }
    }
    Ok(list)
}

/// CPUQuotaPerSecUSec is microseconds in a second, of which systemd keeps whole percents: it is
/// rounded up, so that the exact quota, which is written after it, is not more than a parent's.
fn quota(cpu: &Cpu, number: &mut dyn FnMut(&'static str, u64)) {
    let (quota, period) = (cpu.quota.unwrap_or(0), cpu.period.unwrap_or(0));
    if period != 0 {
        number("CPUQuotaPeriodUSec", period);
    }
    if quota > 0 {
        let period = if period == 0 { PERIOD } else { period };
        let each = u128::from(quota.unsigned_abs()) * 1_000_000 / u128::from(period);
        let each = u64::try_from(each).unwrap_or(u64::MAX - 10_000);
        number("CPUQuotaPerSecUSec", each.next_multiple_of(10_000));
    } else if quota < 0 || period != 0 {
        number("CPUQuotaPerSecUSec", u64::MAX);
    }
}

/// Adds the property for the file `key`; one without a property is left to the file.
fn unified(
    list: &mut Vec<Property>,
    key: &str,
    value: &str,
    idles: &mut dyn FnMut() -> Result<bool>,
) -> Result<()> {
    let field = || format!("unified.{key}");
    let whole = |text: &str| {
        text.parse::<u64>().map_err(|_| refuse(&field(), format!("{value:?} is no number")))
    };
    let or_max = |text: &str| if text == "max" { Ok(u64::MAX) } else { whole(text) };
    let mut number = |name, value| list.push(Property::new(name, Value::Uint64(value)));
    match key {
        "cpu.max" => {
            let mut words = value.split_whitespace();
            let first = words.next().unwrap_or_default();
            let cpu = Cpu {
                quota: Some(match first {
                    "max" => -1,
                    text => i64::try_from(whole(text)?).unwrap_or(i64::MAX),
                }),
                period: Some(words.next().map_or(Ok(PERIOD), whole)?),
                ..Cpu::default()
            };
            if words.next().is_some() {
                return Err(refuse(&field(), format!("{value:?} is not \"quota period\"")));
            }
            quota(&cpu, &mut number);
        }
        "cpu.idle" if value == "1" && idles()? => number("CPUWeight", 0),
        "cpu.weight" => number("CPUWeight", whole(value)?),
        "memory.high" => number("MemoryHigh", or_max(value)?),
        "memory.low" => number("MemoryLow", or_max(value)?),
        "memory.min" => number("MemoryMin", or_max(value)?),
        "memory.max" => number("MemoryMax", or_max(value)?),
        "memory.swap.max" => number("MemorySwapMax", or_max(value)?),
        "pids.max" => number("TasksMax", or_max(value)?),
        "cpuset.cpus" | "cpuset.mems" => {
            let name = if key == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
            list.push(Property::new(name, Value::bytes(&bits(&field(), value)?)));
        }
        _ => {}
    }
    Ok(())
}

/// A list such as `0-3,8` as a mask whose first byte has the first eight.
fn bits(field: &str, text: &str) -> Result<Vec<u8>> {
    const MOST: usize = 1 << 16;
    let bad = || refuse(field, format!("{text:?} is no list of numbers"));
    let number = |n: &str| n.trim().parse::<usize>().ok().filter(|n| *n < MOST).ok_or_else(bad);
    let mut mask = Vec::new();
    for range in text.split(',').filter(|range| !range.trim().is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(bad());
        }
        mask.resize(mask.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|n| mask[n / 8] |= 1 << (n % 8));
    }
    if mask.is_empty() { Err(bad()) } else { Ok(mask) }
}

/// The device rules. systemd knows lists of what is allowed only; our own filter, which comes
/// after it, is exact.
pub(super) fn devices(policy: &Policy, warn: &mut dyn FnMut(String)) -> Vec<Property> {
    let entry = |(path, access)| Value::Struct(vec![Value::text(path), Value::Text(access)]);
    let (policy, allowed) = match policy.allowed() {
        Some(allowed) => ("strict", allowed),
        None if policy.allows_all() => ("auto", Vec::new()),
        None => {
            warn(
                "systemd doesn't support blacklist device rules -- applying temporary deny-all \
                 rule"
                    .to_owned(),
            );
            ("strict", Vec::new())
        }
    };
    let list = |entries| Property::new("DeviceAllow", Value::Array("(ss)".to_owned(), entries));
    vec![
        Property::new("DevicePolicy", Value::text(policy)),
        // An empty list forgets what was there; another one adds to it.
        list(Vec::new()),
        list(allowed.into_iter().map(entry).collect()),
    ]
}

/// For a number that an update does not give, what the cgroup has: systemd keeps the two halves of
/// a cpu limit as one.
pub(super) fn complete(cpu: &mut Cpu, now: impl FnOnce() -> Option<(i64, u64)>) {
    let (quota, period) = (cpu.quota.filter(|q| *q != 0), cpu.period.filter(|p| *p != 0));
    if quota.is_some() != period.is_some()
        && let Some((old_quota, old_period)) = now()
    {
        cpu.quota = quota.or(Some(old_quota));
        cpu.period = period.or(Some(old_period));
    }
}

/// The number in `252.39-1~deb12u1` or `v245.4-1.fc32`.
pub(super) fn version(text: &str) -> Result<u32> {
    let digits = text.trim_start_matches('v');
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end]
        .parse()
        .map_err(|_| Error::Systemd(format!("can't parse version {text:?} of systemd")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::decode;

    fn texts(json: &str, cgroup: u8) -> Result<Vec<String>> {
        let resources: Resources = decode(json.as_bytes(), "resources")?;
        let list = of(&resources, cgroup, &mut || Ok(true))?;
        Ok(list
            .iter()
            .map(|p| match &p.value {
                Value::Uint64(u64::MAX) => format!("{}=infinity", p.name),
                Value::Uint64(v) => format!("{}={v}", p.name),
                other => format!("{}={other:?}", p.name),
            })
            .collect())
    }

    #[test]
    fn limits_become_properties() {
        let json = r#"{
            "memory": {"limit": 1000, "swap": 1500, "reservation": 500},
            "cpu": {"shares": 1024, "quota": 12345, "period": 50000},
            "pids": {"limit": -1}, "blockIO": {"weight": 500},
            "unified": {"memory.high": " 900\n", "memory.min": "max", "io.max": "8:0 rbps=1"}
        }"#;
        let v2 = [
            "MemoryMax=1000",
            "MemoryLow=500",
            "MemorySwapMax=500",
            "CPUWeight=39",
            "IOWeight=4950",
            "TasksMax=infinity",
            "CPUQuotaPeriodUSec=50000",
            // 12345 in 50000 is 246900 in a second, 24.69 percent.
            "CPUQuotaPerSecUSec=250000",
            "MemoryHigh=900",
            "MemoryMin=infinity",
        ];
        assert_eq!(texts(json, 2).expect("properties"), v2);
        let v1 = [
            "MemoryLimit=1000",
            "CPUShares=1024",
            "BlockIOWeight=500",
            "TasksMax=infinity",
            "CPUQuotaPeriodUSec=50000",
            "CPUQuotaPerSecUSec=250000",
        ];
        assert_eq!(texts(json, 1).expect("properties"), v1);
        assert_eq!(texts("{}", 2).expect("none"), [""; 0]);
    }

    #[test]
    fn a_quota_is_of_the_kernels_period_and_without_one_there_is_no_limit() {
        for (json, expected) in [
            (r#"{"cpu": {"quota": 50000}}"#, vec!["CPUQuotaPerSecUSec=500000"]),
            (r#"{"cpu": {"quota": -1}}"#, vec!["CPUQuotaPerSecUSec=infinity"]),
            (
                r#"{"cpu": {"period": 5000}}"#,
                vec!["CPUQuotaPeriodUSec=5000", "CPUQuotaPerSecUSec=infinity"],
            ),
            (
                r#"{"unified": {"cpu.max": "max"}}"#,
                vec!["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=infinity"],
            ),
            (
                r#"{"unified": {"cpu.max": "2000 4000"}}"#,
                vec!["CPUQuotaPeriodUSec=4000", "CPUQuotaPerSecUSec=500000"],
            ),
            (r#"{"cpu": {"idle": 1, "shares": 5}}"#, vec!["CPUWeight=0"]),
        ] {
            assert_eq!(texts(json, 2).expect(json), expected, "{json}");
        }
        let huge = format!(r#"{{"cpu": {{"quota": {}, "period": 1}}}}"#, i64::MAX);
        assert_eq!(texts(&huge, 2).expect("no overflow").len(), 2);
    }

    #[test]
    fn lists_of_cpus_are_masks() {
        for (text, expected) in [
            ("0", vec![1]),
            ("1,3-5", vec![0b11_1010]),
            (" 9 ,", vec![0, 0b10]),
            ("0-7,16", vec![0xff, 0, 1]),
        ] {
            assert_eq!(bits("cpu.cpus", text).expect(text), expected, "{text}");
        }
        for text in ["", ",", "a", "3-1", "-1", "1-", "99999999999", "70000"] {
            assert!(bits("cpu.cpus", text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_that_are_none_are_refused_with_their_field() {
        for (json, field) in [
            (r#"{"unified": {"pids.max": "many"}}"#, "unified.pids.max"),
            (r#"{"unified": {"cpu.max": "1 2 3"}}"#, "unified.cpu.max"),
            (r#"{"cpu": {"cpus": "x"}}"#, "cpu.cpus"),
            (r#"{"memory": {"swap": 5}}"#, "memory.swap"),
        ] {
            let said = texts(json, 2).expect_err(json).to_string();
            assert!(said.contains(field), "{said}");
        }
    }

    #[test]
    fn half_of_a_cpu_limit_is_completed() {
        let mut cpu = Cpu { period: Some(5000), ..Cpu::default() };
        complete(&mut cpu, || Some((-1, 100_000)));
        assert_eq!((cpu.quota, cpu.period), (Some(-1), Some(5000)));
        let mut none = Cpu::default();
        complete(&mut none, || Some((1, 2)));
        assert_eq!(none, Cpu::default());
    }

    #[test]
    fn versions() {
        for (text, number) in [("252.39-1~deb12u1", 252), ("v245.4-1.fc32", 245), ("256", 256)] {
            assert_eq!(version(text).expect(text), number);
        }
        assert!(version("x").is_err());
    }
}
