//! Clocks cheap enough to stand inside a round trip of two hundred nanoseconds.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: one clock for all processes of the machine.
///
/// Costs some 20 ns (no system call where the kernel's clock source is the time stamp counter).
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Counts ticks: the processor's time stamp counter where it runs at one rate in every state of sleep, else
/// [`monotonic_ns`].
///
/// Ticks of one process only compare with ticks of the same process.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    counter: bool,
    ns_per_tick: f64,
    /// Ticks by which the reading goes on, at least 1; some processors count in steps of 10 ns.
    step: u64,
}

impl Clock {
    /// Finds out what this machine has and how long a tick is; takes 20 ms where there is a counter.
    pub fn calibrate() -> Clock {
        if !counter::is_steady() {
            return Clock { counter: false, ns_per_tick: 1.0, step: smallest_step(monotonic_ns) };
        }
        const CALIBRATION_NS: u64 = 20_000_000;
        let (ns, ticks) = (monotonic_ns(), counter::read());
        while monotonic_ns() - ns < CALIBRATION_NS {
            std::hint::spin_loop();
        }
        let (ns, ticks) = (monotonic_ns() - ns, counter::read() - ticks);
        Clock { counter: true, ns_per_tick: ns as f64 / ticks as f64, step: smallest_step(counter::read) }
    }

    /// This clock, as if its readings went on by so many ticks.
    #[cfg(test)]
    pub(super) fn with_step(self, step: u64) -> Clock {
        Clock { step, ..self }
    }

    /// The time now; never goes back by more than the skew of two cores' counters, which Linux keeps at 0.
    #[inline(always)]
    pub fn ticks(&self) -> u64 {
        if self.counter { counter::read() } else { monotonic_ns() }
    }

    /// How many ticks a duration has.
    pub fn ticks_in(&self, duration: std::time::Duration) -> u64 {
        (duration.as_nanos() as f64 / self.ns_per_tick) as u64
    }

    /// Nanoseconds of one tick.
    pub fn ns_per_tick(&self) -> f64 {
        self.ns_per_tick
    }

    /// Ticks between one reading and the next possible one.
    pub fn step(&self) -> u64 {
        self.step
    }
}

/// By how much a counter goes on at once: the smallest common difference of two readings, if nearly all others are
/// multiples of it (give or take the one tick of a rounded conversion); else 1.
fn smallest_step(read: impl Fn() -> u64) -> u64 {
    let mut last = read();
    let differences: Vec<u64> = (0..10_000)
        .map(|turn| {
            // Different distances, or a constant cost of reading would look like a step.
            for moment in 0..turn % 13 {
                std::hint::black_box(moment);
            }
            let now = read();
            now.saturating_sub(std::mem::replace(&mut last, now))
        })
        .filter(|difference| *difference > 1)
        .collect();
    let count = |wanted: u64| differences.iter().filter(|difference| **difference == wanted).count();
    let Some(smallest) = differences.iter().copied().filter(|step| count(*step) * 50 >= differences.len()).min() else {
        return 1;
    };
    let step = (smallest..smallest + 3).max_by_key(|step| count(*step)).unwrap_or(smallest);
    let multiples = differences.iter().filter(|difference| (**difference + 1) % step <= 2).count();
    if multiples * 100 >= differences.len() * 95 { step } else { 1 }
}

#[cfg(target_arch = "x86_64")]
mod counter {
    /// Whether the counter neither stops nor changes its rate, as the kernel found out.
    pub(super) fn is_steady() -> bool {
        let Ok(cpuinfo) = std::fs::read_to_string("/proc/cpuinfo") else { return false };
        let Some(flags) = cpuinfo.lines().find(|line| line.starts_with("flags")) else { return false };
        ["constant_tsc", "nonstop_tsc"].iter().all(|wanted| flags.split_whitespace().any(|flag| flag == *wanted))
    }

    /// Not ordered against the loads and stores around it, so it may be early by some of their latency: the same for
    /// everything that is measured with it.
    #[inline(always)]
    pub(super) fn read() -> u64 {
        // SAFETY: the instruction reads a register and touches no memory; every x86-64 processor has it, and Linux
        // leaves it to user programs.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod counter {
    pub(super) fn is_steady() -> bool {
        false
    }

    pub(super) fn read() -> u64 {
        super::monotonic_ns()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ticks_and_nanoseconds_agree() {
        let clock = Clock::calibrate();
        let (ns, ticks) = (monotonic_ns(), clock.ticks());
        while monotonic_ns() - ns < 10_000_000 {}
        let counted = (clock.ticks() - ticks) as f64 * clock.ns_per_tick();
        assert!(counted >= 9_900_000.0, "10 ms passed and the clock counted {counted} ns");
    }

    #[test]
    fn a_counter_that_goes_on_in_steps_is_found_out() {
        let turn = std::cell::Cell::new(0u64);
        let counter = |step: u64| {
            turn.set(turn.get() + 19 + turn.get() % 23);
            turn.get() / step * step
        };
        assert_eq!(smallest_step(|| counter(26)), 26);
        assert_eq!(smallest_step(|| counter(1)), 1);
    }

    #[test]
    fn a_duration_has_as_many_ticks_as_its_nanoseconds() {
        let clock = Clock::calibrate();
        let ns = clock.ticks_in(Duration::from_millis(1)) as f64 * clock.ns_per_tick();
        assert!((ns - 1e6).abs() < 1e3, "{ns}");
    }
}
