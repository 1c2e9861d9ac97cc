//! Points in time as Docker writes them: RFC 3339 in UTC, nanoseconds without trailing zeros.

use std::time::{SystemTime, UNIX_EPOCH};

/// What Go's zero time looks like: a container that was never started, or has not ended.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64)
}

/// The year, the month and the day of a day since the epoch (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// The day since the epoch of a date (Howard Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// Go's `time.RFC3339Nano` of `nanos`; [`NEVER`] for zero.
pub(crate) fn rfc3339(nanos: i64) -> String {
    if nanos == 0 {
        return NEVER.to_owned();
    }
    let fraction = format!("{:09}", nanos.rem_euclid(SECOND));
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{}{dot}{fraction}Z", seconds_text(nanos))
}

/// The same with all nine digits, as `docker logs -t` prints them.
pub(crate) fn rfc3339_fixed(nanos: i64) -> String {
    format!("{}.{:09}Z", seconds_text(nanos), nanos.rem_euclid(SECOND))
}

fn seconds_text(nanos: i64) -> String {
    let seconds = nanos.div_euclid(SECOND);
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    let of_day = seconds.rem_euclid(DAY);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// Reads a time as Docker's queries give it: `seconds[.fraction]`, or RFC 3339.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let fraction = |digits: &str| -> Option<i64> {
        let nine: String = digits.chars().chain("000000000".chars()).take(9).collect();
        nine.parse().ok()
    };
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        return whole.parse::<i64>().ok()?.checked_mul(SECOND)?.checked_add(fraction(part)?);
    }
    let (date, clock) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|n| n.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone_at = clock.find(['Z', '+', '-'])?;
    let (clock, zone) = clock.split_at(zone_at);
    let offset = match zone {
        "Z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let east = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if zone.starts_with('-') { -east } else { east }
        }
    };
    let (clock, part) = clock.split_once('.').unwrap_or((clock, ""));
    let mut clock = clock.splitn(3, ':').map(|n| n.parse::<i64>().ok());
    let (h, m, s) = (clock.next()??, clock.next()??, clock.next()??);
    let seconds = days(year, month, day) * DAY + h * 3600 + m * 60 + s - offset;
    seconds.checked_mul(SECOND)?.checked_add(fraction(part)?)
}

/// An amount of time in the words of `docker ps` (go-units' `HumanDuration`).
pub(crate) fn human(seconds: i64) -> String {
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{} minutes", seconds / 60),
        _ => match (seconds + 1800) / 3600 {
            1 => "About an hour".to_owned(),
            hours @ 2..48 => format!("{hours} hours"),
            hours @ 48..336 => format!("{} days", hours / 24),
            hours @ 336..1440 => format!("{} weeks", hours / 24 / 7),
            hours @ 1440..17520 => format!("{} months", hours / 24 / 30),
            hours => format!("{} years", hours / 24 / 365),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them_and_read_back() {
        for (nanos, text) in [
            (1_795_492_538_822_760_979, "2026-11-24T03:55:38.822760979Z"),
            (1_795_492_538_820_000_000, "2026-11-24T03:55:38.82Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(nanos), text);
            assert_eq!(parse(text), Some(nanos));
        }
        assert_eq!(rfc3339(0), NEVER);
        assert_eq!(rfc3339_fixed(951_782_400_000_000_000), "2000-02-29T00:00:00.000000000Z");
    }

    #[test]
    fn queries_give_seconds_or_zones() {
        assert_eq!(parse("12.5"), Some(12_500_000_000));
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Some(0));
        for bad in ["", "yesterday", "2026-11-24", "1.2.3"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
