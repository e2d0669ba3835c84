//! One cache line, bounced: the shortest way for one bit of news between two cores.
//!
//! One word alone in its line. Odd values are the first process's turn to be read, even ones the second's; each spins
//! on plain loads, without a pause instruction (a pause is as long as the whole trip on some processors).

use std::sync::atomic::Ordering;

use super::shared::Shared;
use super::worker::{Finish, Role, WorkError};
use super::{Budget, Clock, Recorder, Report, monotonic_ns};

/// Set in the word when the first process is done with a run.
const STOP: u64 = 1 << 63;
/// Round trips at the start of a run that are not counted: page faults, cold caches.
const WARM_UP: u64 = 1000;

/// Sends first and takes the time.
pub struct LinePing {
    shared: Shared,
    clock: Clock,
}

impl LinePing {
    /// Over that memory.
    pub fn new(shared: Shared) -> LinePing {
        LinePing { shared, clock: Clock::calibrate() }
    }
}

impl Role for LinePing {
    fn run(&mut self, budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let (word, clock) = (self.shared.bounced(), self.clock);
        let mut recorder = Recorder::new(clock);
        let mut value = 0;
        let mut bounce = || {
            value += 2;
            let sent = clock.ticks();
            // PAIRS limit-line-bounced: Release here and in LineEcho, Acquire at the other.
            word.store(value - 1, Ordering::Release);
            // PAIRS limit-line-bounced: Acquire here, Release in LineEcho.
            while word.load(Ordering::Acquire) != value {}
            clock.ticks() - sent
        };
        for _ in 0..WARM_UP {
            bounce();
        }
        let started_ns = monotonic_ns();
        // The clock of the budget is read outside of what is timed.
        while !budget.is_spent(recorder.count(), started_ns) {
            recorder.round_trip(bounce());
        }
        let ended_ns = monotonic_ns();
        // PAIRS limit-line-bounced: Release here, Acquire in LineEcho.
        word.store(STOP | 1, Ordering::Release);
        // PAIRS limit-line-bounced: Acquire here, Release in LineEcho.
        while word.load(Ordering::Acquire) != 0 {}
        let messages = recorder.count();
        Ok(Report { started_ns, ended_ns, messages, latency: recorder.one_way(), ..Report::default() })
    }
}

/// Answers each value with the next.
pub struct LineEcho {
    shared: Shared,
}

impl LineEcho {
    /// Over that memory.
    pub fn new(shared: Shared) -> LineEcho {
        LineEcho { shared }
    }
}

impl Role for LineEcho {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let word = self.shared.bounced();
        let started_ns = monotonic_ns();
        let mut messages = 0;
        loop {
            // PAIRS limit-line-bounced: Acquire here, Release in LinePing.
            let value = word.load(Ordering::Acquire);
            if value % 2 == 0 {
                continue;
            }
            let answer = if value & STOP == 0 { value + 1 } else { 0 };
            // PAIRS limit-line-bounced: Release here, Acquire in LinePing.
            word.store(answer, Ordering::Release);
            if answer == 0 {
                return Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, ..Report::default() });
            }
            messages += 1;
        }
    }
}
