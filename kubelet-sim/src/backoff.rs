//! How long a container that ends again and again is left alone
//! (`flowcontrol.Backoff` as the kubelet sets it up, Kubernetes 1.20 to 1.33).

/// The first wait and the longest, in nanoseconds.
const FIRST: i64 = 10_000_000_000;
const LONGEST: i64 = 300_000_000_000;

/// One container's waits. All times are nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    /// The wait in force; 0 before the first restart, which waits for nothing.
    wait: i64,
    /// When it was last lengthened.
    at: i64,
}

impl Backoff {
    fn stale(self, now: i64) -> bool {
        now - self.at > 2 * LONGEST
    }

    /// When a container that ended at `ended` may be started again; `None` when it may now.
    pub(crate) fn until(self, ended: i64, now: i64) -> Option<i64> {
        let until = ended + self.wait;
        (self.wait > 0 && !self.stale(now) && now < until).then_some(until)
    }

    /// The wait in force, in nanoseconds.
    pub(crate) fn wait(self) -> i64 {
        self.wait
    }

    /// Notes a start: the next wait is twice as long, up to five minutes, and ten seconds after a
    /// container has kept quiet for ten minutes.
    pub(crate) fn next(&mut self, now: i64) {
        let fresh = self.wait == 0 || self.stale(now);
        self.wait = if fresh { FIRST } else { (self.wait * 2).min(LONGEST) };
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_ten_seconds_to_five_minutes() {
        const S: i64 = 1_000_000_000;
        let mut backoff = Backoff::default();
        let (mut now, mut waits) = (1000 * S, Vec::new());
        for _ in 0..8 {
            waits.push(backoff.until(now, now).map_or(0, |until| (until - now) / S));
            now = backoff.until(now, now).unwrap_or(now);
            backoff.next(now);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        now += 601 * S;
        assert_eq!(backoff.until(now, now), None);
        backoff.next(now);
        assert_eq!(backoff.wait(), FIRST);
    }
}
