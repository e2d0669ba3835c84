//! The clock of publish times: TAI, in nanoseconds.
//!
//! One scale for all hosts, without leap seconds: two publish times can be compared, and an age told, wherever they were
//! taken, as exactly as the hosts' clocks agree. The price is that setting the system's clock moves it. Why it was chosen:
//! `docs/decisions/publish-time.md`.

use std::num::NonZeroU64;
use std::time::Duration;

use rustix::time::{ClockId, DynamicClockId, clock_gettime, clock_gettime_dynamic};

/// When a message was published: nanoseconds of International Atomic Time since 1970-01-01T00:00:00 TAI, at least 1 and less
/// than 2^63 (the year 2262).
///
/// As exact as the clock of the publisher's host. The kernel's TAI is UTC plus an offset that its time service sets (`chrony`
/// and `ptp4l` can); where none does, it is 0 and this is UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(NonZeroU64);

impl Timestamp {
    const LAST: u64 = i64::MAX as u64;

    /// The time now. No system call where the kernel offers this clock through its vDSO, as all current ones do.
    #[inline]
    pub fn now() -> Timestamp {
        // Every kernel with memfd has it; an emulated one may not.
        let now = clock_gettime_dynamic(DynamicClockId::Tai).unwrap_or_else(|_| clock_gettime(ClockId::Realtime));
        let nanos = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
        // Not even a clock that is set to before 1970, or beyond 2262, makes it leave its range.
        Timestamp(u64::try_from(nanos).ok().and_then(NonZeroU64::new).unwrap_or(NonZeroU64::MIN))
    }

    /// Of that many nanoseconds, if a time may have so many: from 1 to 2^63 - 1.
    #[inline]
    pub fn from_nanos(nanos: u64) -> Option<Timestamp> {
        NonZeroU64::new(nanos).filter(|nanos| nanos.get() <= Timestamp::LAST).map(Timestamp)
    }

    /// nanoseconds since 1970-01-01T00:00:00 TAI
    #[inline]
    pub fn as_nanos(self) -> u64 {
        self.0.get()
    }

    /// From `earlier` to this; zero if that is later.
    #[inline]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.as_nanos().saturating_sub(earlier.as_nanos()))
    }

    /// From this to now; zero if the clock was set back meanwhile, or another host's is ahead of this one's.
    #[inline]
    pub fn elapsed(self) -> Duration {
        Timestamp::now().since(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_never_zero_nor_beyond_63_bits() {
        assert_eq!(Timestamp::from_nanos(0), None);
        assert_eq!(Timestamp::from_nanos(1 << 63), None);
        let last = Timestamp::from_nanos((1 << 63) - 1).expect("the last time");
        let first = Timestamp::from_nanos(1).expect("the first time");
        assert_eq!(last.since(first).as_nanos(), (1 << 63) - 2);
        assert_eq!(first.since(last), Duration::ZERO);
        assert!(first < Timestamp::now() && Timestamp::now() < last);
        assert_eq!(last.elapsed(), Duration::ZERO);
    }
}
