//! When a log has grown for a spike that is over: then its publisher goes on in a fresh one (`docs/decisions/hand-over.md`).
//!
//! Looked at where a block ends. Memory of a sealed log cannot be given back piece by piece: the seals that keep others from
//! writing forbid that, too.

use std::time::{Duration, Instant};

/// bytes; a log that touched less is never too long
const FROM: u64 = 16 << 20;
/// It is too long when it touched so many times what it needs.
const TIMES: u64 = 4;

/// What a log needed lately.
#[derive(Debug)]
pub(crate) struct Footprint {
    /// For so long a log needs little before it is given up.
    after: Duration,
    /// bytes; the most that was in use in the period before, and in this one
    before: Option<u64>,
    now: u64,
    /// When this period began.
    since: Instant,
    /// Nothing is said until then.
    quiet_until: Option<Instant>,
}

impl Footprint {
    pub(crate) fn new(after: Duration, now: Instant) -> Footprint {
        Footprint { after, before: None, now: 0, since: now, quiet_until: None }
    }

    /// Takes what is in use, of what was ever in use (bytes both). Says whether the log is too long.
    pub(crate) fn look(&mut self, in_use: u64, touched: u64, now: Instant) -> bool {
        self.now = self.now.max(in_use);
        if now.saturating_duration_since(self.since) >= self.after {
            (self.before, self.now, self.since) = (Some(self.now), in_use, now);
        }
        if touched < FROM || self.quiet_until.is_some_and(|until| now < until) {
            return false;
        }
        self.before.is_some_and(|before| before.max(self.now).saturating_mul(TIMES) <= touched)
    }

    /// Says nothing before that time.
    pub(crate) fn quiet(&mut self, until: Instant) {
        self.quiet_until = Some(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(5);
    const MIB: u64 = 1 << 20;

    #[test]
    fn a_log_is_too_long_once_a_spike_is_over_for_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut it = Footprint::new(AFTER, start);
        assert!(!it.look(100 * MIB, 100 * MIB, at(1)), "it is needed");
        assert!(!it.look(MIB, 100 * MIB, at(2)), "it was needed just now");
        assert!(!it.look(MIB, 100 * MIB, at(6)), "and in the period before");
        assert!(!it.look(MIB, 100 * MIB, at(10)));
        assert!(it.look(MIB, 100 * MIB, at(11)));
        it.quiet(at(20));
        assert!(!it.look(MIB, 100 * MIB, at(19)));
        assert!(it.look(MIB, 100 * MIB, at(20)));
        assert!(!it.look(30 * MIB, 100 * MIB, at(21)), "it is needed again");
    }

    #[test]
    fn a_short_log_never_is() {
        let start = Instant::now();
        let mut it = Footprint::new(AFTER, start);
        assert!((0..100).all(|second| !it.look(0, FROM - 1, start + Duration::from_secs(second))));
    }
}
