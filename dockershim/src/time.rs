//! Docker's times: RFC 3339 to nanoseconds since 1970.

/// The time in nanoseconds since 1970; 0 for Docker's "never" (the year 1), for an empty text and
/// for one that is no time.
pub(crate) fn nanos(text: Option<&str>) -> i64 {
    text.and_then(parse).filter(|n| *n > 0).unwrap_or(0)
}

fn parse(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?;
    let digits = rest.strip_prefix('.').unwrap_or("");
    let digits = &digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())];
    let fraction = format!("{digits:0<9}").get(..9)?.parse::<i64>().ok()?;
    let zone = rest.trim_start_matches('.').trim_start_matches(|c: char| c.is_ascii_digit());
    let offset = match zone {
        "Z" | "z" => 0,
        zone => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    // Days since 1970 in the Gregorian calendar, its year begun in March so that leap days come
    // last.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction)
}

/// Now, in nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_nanoseconds() {
        for (text, expected) in [
            ("1970-01-01T00:00:01Z", 1_000_000_000),
            ("2000-02-29T12:00:00.5Z", 951_825_600_500_000_000),
            ("2026-11-24T03:35:09.123456789Z", 1_795_491_309_123_456_789),
            ("2026-11-24T04:35:09.123456789+01:00", 1_795_491_309_123_456_789),
            ("0001-01-01T00:00:00Z", 0),
            ("", 0),
            ("yesterday", 0),
        ] {
            assert_eq!(nanos(Some(text)), expected, "{text}");
        }
    }
}
