//! Latencies, recorded one by one and summed up as percentiles.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::clock::Clock;

/// What is said of many latencies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of them were at most this long; nanoseconds, as all here.
    pub p50_ns: f64,
    /// 99 of 100.
    pub p99_ns: f64,
    /// 999 of 1 000.
    pub p999_ns: f64,
    /// All of them.
    pub max_ns: f64,
}

/// Records round trips in ticks; recording one takes a few nanoseconds and allocates nothing.
pub struct Recorder {
    round_trips: Histogram<u64>,
    clock: Clock,
}

impl Recorder {
    /// Empty.
    pub fn new(clock: Clock) -> Recorder {
        // Three digits; an hour of a 10 GHz counter is the longest that is told apart.
        let round_trips = Histogram::new_with_bounds(1, 36_000_000_000_000, 3).expect("1 < the bound, digits <= 5");
        Recorder { round_trips, clock }
    }

    /// Takes one round trip.
    #[inline]
    pub fn round_trip(&mut self, ticks: u64) {
        self.round_trips.saturating_record(ticks.max(1));
    }

    /// How many it took.
    pub fn count(&self) -> u64 {
        self.round_trips.len()
    }

    /// Half round trips, in nanoseconds; `None` when it took none.
    pub fn one_way(&self) -> Option<Percentiles> {
        if self.round_trips.is_empty() {
            return None;
        }
        let nanoseconds = |ticks: f64| (ticks * self.clock.ns_per_tick() / 2.0 * 10.0).round() / 10.0;
        Some(Percentiles {
            p50_ns: nanoseconds(self.quantile(0.5)),
            p99_ns: nanoseconds(self.quantile(0.99)),
            p999_ns: nanoseconds(self.quantile(0.999)),
            max_ns: nanoseconds(self.round_trips.max() as f64),
        })
    }

    /// The quantile in ticks. A clock that goes on in steps puts a third of all round trips on one value; between the
    /// neighbouring values the quantile is found by how many of them are below it, as for any grouped data.
    fn quantile(&self, quantile: f64) -> f64 {
        let value = self.round_trips.value_at_quantile(quantile);
        let step = self.clock.step();
        if self.round_trips.equivalent_range(value) >= step {
            return value as f64;
        }
        let middle = (value + step / 2) / step * step;
        let low = middle.saturating_sub(step / 2).max(1);
        let here = self.round_trips.count_between(low, low + step - 1) as f64;
        let below = self.round_trips.count_between(0, low - 1) as f64;
        let inside = (quantile * self.count() as f64 - below) / here;
        low as f64 + inside.clamp(0.0, 1.0) * step as f64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_latency_is_half_a_round_trip() {
        let clock = Clock::calibrate();
        let mut recorder = Recorder::new(clock);
        for microseconds in 1..=1000 {
            recorder.round_trip(clock.ticks_in(Duration::from_micros(microseconds)));
        }
        let found = recorder.one_way().expect("1000 were recorded");
        assert_eq!(recorder.count(), 1000);
        for (found, expected) in
            [(found.p50_ns, 250e3), (found.p99_ns, 495e3), (found.p999_ns, 499.5e3), (found.max_ns, 500e3)]
        {
            assert!((found - expected).abs() <= expected * 0.002, "found {found}, expected {expected}");
        }
    }

    #[test]
    fn quantiles_of_a_clock_with_steps_lie_between_its_values() {
        let clock = Clock::calibrate().with_step(26);
        let mut recorder = Recorder::new(clock);
        // True round trips are spread evenly from 200 to 300 ticks; the clock rounds them.
        for ticks in (200..300).cycle().take(10_000) {
            recorder.round_trip((ticks + 13) / 26 * 26);
        }
        for (quantile, expected) in [(0.5, 250.0), (0.3, 230.0), (0.7, 270.0)] {
            let found = recorder.quantile(quantile);
            assert!((found - expected).abs() < 3.0, "found {found}, expected {expected}");
        }
    }

    #[test]
    fn nothing_recorded_says_nothing() {
        assert_eq!(Recorder::new(Clock::calibrate()).one_way(), None);
    }
}
