//! Kubernetes' quantities: `500m`, `1.5Gi`, `1e3` (apimachinery's `resource.Quantity`).

/// A number, exact to a billionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity {
    nanos: i128,
}

const NANO: i128 = 1_000_000_000;

/// The suffixes with what a unit of them is, in billionths.
const SUFFIXES: [(&str, i128); 16] = [
    ("Ki", NANO << 10),
    ("Mi", NANO << 20),
    ("Gi", NANO << 30),
    ("Ti", NANO << 40),
    ("Pi", NANO << 50),
    ("Ei", NANO << 60),
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("k", NANO * 1_000),
    ("M", NANO * 1_000_000),
    ("G", NANO * 1_000_000_000),
    ("T", NANO * 1_000_000_000_000),
    ("P", NANO * 1_000_000_000_000_000),
    ("E", NANO * 1_000_000_000_000_000_000),
    ("", NANO),
];

impl Quantity {
    /// Reads a quantity; `None` when it is none, or too large to hold. What is finer than a
    /// billionth is rounded up, as the API server rounds.
    pub(crate) fn parse(text: &str) -> Option<Quantity> {
        let digits = text.trim_start_matches(['+', '-']);
        if text.len() - digits.len() > 1 {
            return None;
        }
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(end);
        let unit = match suffix.strip_prefix(['e', 'E']).filter(|e| !e.is_empty()) {
            Some(exponent) if exponent != "i" => {
                let exponent: i32 = exponent.parse().ok()?;
                let power = u32::try_from(exponent.checked_add(9)?).ok()?;
                10i128.checked_pow(power)?
            }
            _ => SUFFIXES.iter().find(|(s, _)| *s == suffix)?.1,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut nanos = whole.checked_mul(unit)?;
        if !fraction.is_empty() {
            let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
            let part = fraction.parse::<i128>().ok()?.checked_mul(unit)?;
            nanos = nanos.checked_add(part.checked_add(scale - 1)? / scale)?;
        }
        Some(Quantity { nanos: if text.starts_with('-') { -nanos } else { nanos } })
    }

    /// In thousandths, rounded up: millicores.
    pub(crate) fn milli(self) -> i64 {
        up(self.nanos, 1_000_000)
    }

    /// In ones, rounded up: bytes.
    pub(crate) fn value(self) -> i64 {
        up(self.nanos, NANO)
    }

    /// Whether it is below zero.
    pub(crate) fn is_negative(self) -> bool {
        self.nanos < 0
    }
}

fn up(nanos: i128, unit: i128) -> i64 {
    i64::try_from(nanos.saturating_add(unit - 1).div_euclid(unit)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, milli, value) in [
            ("1", 1000, 1),
            ("500m", 500, 1),
            ("0.1", 100, 1),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("1e3", 1_000_000, 1000),
            ("12E2", 1_200_000, 1200),
            (".5", 500, 1),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(quantity.milli(), milli, "{text}");
            assert_eq!(quantity.value(), value, "{text}");
        }
        assert_eq!(Quantity::parse("1E").unwrap().value(), 1_000_000_000_000_000_000);
        assert_eq!(Quantity::parse("1Ei").unwrap().value(), 1 << 60);
        for bad in ["", "x", "1K", "1.2.3", "--1", "1mi", "e3", "1e", "."] {
            assert!(Quantity::parse(bad).is_none(), "{bad}");
        }
    }
}
