//! Whether nodes run: alive, slow or stopped, from the heartbeats in their pages. A state machine that is told the time.
//!
//! It is for people and for those who would rather not wait; it never cuts anybody off. Who is *dead* the kernel says
//! (`health`), not a clock.
//!
//! A node's session thread changes one word of its page at least every
//! [`HEARTBEAT_EVERY`]. The dispatcher looks as often, and calls a node
//!
//! - *slow* when the word has been the same for `slow_after`,
//! - *stopped* when it has been for `stopped_after`, or when a beat is missing and the kernel says that the process is stopped
//!   (SIGSTOP, a debugger),
//! - *alive* as soon as the word changes.
//!
//! Time in which nobody looked counts for nobody: a dispatcher that was itself stopped, or whose machine slept, finds
//! everybody as it left them.

use std::time::{Duration, Instant};

use nodeset_bus::page::HEARTBEAT_EVERY;
use nodeset_bus::protocol::Health;

/// From when on a silent node is not alive any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// At least twice [`HEARTBEAT_EVERY`]: a beat and the look at it may lie that far apart.
    pub slow_after: Duration,
    /// At least `slow_after`.
    pub stopped_after: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { slow_after: Duration::from_millis(1500), stopped_after: Duration::from_secs(5) }
    }
}

/// One node's heartbeat.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulse {
    /// What the word was last.
    beat: u64,
    /// Since when it has been that, less the time in which nobody looked.
    silent_since: Instant,
    health: Health,
}

impl Pulse {
    pub(crate) fn new(now: Instant, beat: u64) -> Pulse {
        Pulse { beat, silent_since: now, health: Health::Alive }
    }

    /// Looks at the word; says what the node is if that changed. `is_stopped` asks the kernel, and is only called when a beat is
    /// missing.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        beat: u64,
        patience: Patience,
        is_stopped: impl FnOnce() -> bool,
    ) -> Option<Health> {
        if beat != self.beat {
            (self.beat, self.silent_since) = (beat, now);
        }
        let silent = now.saturating_duration_since(self.silent_since);
        let missing = silent > HEARTBEAT_EVERY + HEARTBEAT_EVERY / 4;
        let health = if silent >= patience.stopped_after {
            Health::Stopped
        } else if missing && (self.health == Health::Stopped || is_stopped()) {
            // Only a beat ends it: the kernel is not asked again.
            Health::Stopped
        } else if silent >= patience.slow_after {
            Health::Slow
        } else if silent.is_zero() {
            Health::Alive
        } else {
            // Neither a beat nor a reason to think otherwise.
            self.health
        };
        let changed = health != self.health;
        self.health = health;
        changed.then_some(health)
    }

    /// For so long nobody looked, beyond what is usual.
    pub(crate) fn excuse(&mut self, unseen: Duration) {
        self.silent_since += unseen;
    }

    /// Begins anew: the node was away, and nobody expected it to beat.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.silent_since = now;
    }
}

/// When it was looked last, and when it is to be looked next.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rounds {
    last: Option<Instant>,
}

impl Rounds {
    /// When the next look is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.last.map(|last| last + HEARTBEAT_EVERY)
    }

    /// Somebody is there to look at: the first round begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.last.get_or_insert(now);
    }

    /// Nobody is there any more.
    pub(crate) fn end(&mut self) {
        self.last = None;
    }

    /// If a look is due, says for how long nobody looked beyond what is usual.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Duration> {
        let due = self.due().filter(|due| *due <= now)?;
        self.last = Some(now);
        let late = now.saturating_duration_since(due);
        // A turn that lasted a little longer than usual is no gap.
        Some(if late > HEARTBEAT_EVERY { late } else { Duration::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { slow_after: Duration::from_secs(2), stopped_after: Duration::from_secs(6) };

    /// A node and a clock that goes on by itself only when told to.
    struct Bed {
        now: Instant,
        pulse: Pulse,
        beat: u64,
    }

    impl Bed {
        fn new() -> Bed {
            let now = Instant::now();
            Bed { now, pulse: Pulse::new(now, 7), beat: 7 }
        }

        fn look(&mut self, stopped: bool) -> Option<Health> {
            self.now += HEARTBEAT_EVERY;
            self.pulse.look(self.now, self.beat, PATIENCE, || stopped)
        }

        /// What is told in so many rounds, and in which.
        fn silence(&mut self, rounds: u32, stopped: bool) -> Vec<(u32, Health)> {
            (1..=rounds).filter_map(|round| Some((round, self.look(stopped)?))).collect()
        }
    }

    #[test]
    fn a_beating_heart_is_alive_whatever_the_number() {
        let mut bed = Bed::new();
        for beat in [8, 9, 0, u64::MAX, 3] {
            bed.beat = beat;
            assert_eq!(bed.look(true), None, "nobody asks the kernel");
        }
        // Every second look sees nothing new.
        for round in 0..20 {
            bed.beat += round % 2;
            assert_eq!(bed.look(false), None);
        }
    }

    #[test]
    fn silence_is_slow_then_stopped_and_told_once_each() {
        let mut bed = Bed::new();
        assert_eq!(bed.silence(100, false), [(4, Health::Slow), (12, Health::Stopped)]);
        bed.beat += 1;
        assert_eq!(bed.look(false), Some(Health::Alive));
        assert_eq!(bed.look(false), None);
    }

    #[test]
    fn one_that_the_kernel_says_is_stopped_is_so_with_the_first_missing_beat() {
        let mut bed = Bed::new();
        assert_eq!(bed.silence(5, true), [(2, Health::Stopped)]);
        // It goes on, but has not beaten yet.
        assert_eq!(bed.silence(5, false), []);
        bed.beat += 1;
        assert_eq!(bed.look(true), Some(Health::Alive));
    }

    #[test]
    fn a_slow_one_may_turn_out_to_be_stopped() {
        let mut bed = Bed::new();
        assert_eq!(bed.silence(4, false), [(4, Health::Slow)]);
        assert_eq!(bed.look(true), Some(Health::Stopped));
    }

    #[test]
    fn time_in_which_nobody_looked_is_excused() {
        let mut bed = Bed::new();
        let mut rounds = Rounds::default();
        assert_eq!(rounds.due(), None);
        rounds.begin(bed.now);
        assert_eq!(rounds.due(), Some(bed.now + HEARTBEAT_EVERY));
        assert_eq!(rounds.take(bed.now + HEARTBEAT_EVERY / 2), None);
        bed.now += HEARTBEAT_EVERY;
        assert_eq!(rounds.take(bed.now + HEARTBEAT_EVERY / 2), Some(Duration::ZERO), "late, but no gap");
        bed.now += HEARTBEAT_EVERY / 2;
        // An hour later, the dispatcher having been stopped like everybody else.
        bed.now += Duration::from_secs(3600) + HEARTBEAT_EVERY;
        let unseen = rounds.take(bed.now).unwrap();
        assert_eq!(unseen, Duration::from_secs(3600));
        bed.pulse.excuse(unseen);
        assert_eq!(bed.pulse.look(bed.now, bed.beat, PATIENCE, || false), None);
        rounds.end();
        assert_eq!(rounds.due(), None);
    }

    #[test]
    fn one_that_comes_back_has_all_the_time_again() {
        let mut bed = Bed::new();
        bed.silence(3, false);
        bed.pulse.restart(bed.now);
        assert_eq!(bed.silence(3, false), []);
        assert_eq!(bed.look(false), Some(Health::Slow));
    }
}
