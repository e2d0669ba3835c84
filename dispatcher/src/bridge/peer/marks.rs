//! How much of a log is not done with, and for how long: a few marks, whatever the number of messages.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most marks of one log.
const MOST: usize = 64;

/// What was appended within one step of time and bytes.
#[derive(Debug)]
struct Mark {
    /// When the first of it was there.
    since: Instant,
    /// bytes; where the first of it begins
    from: u64,
    /// Sequence behind the last of it.
    next: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Marks {
    marks: VecDeque<Mark>,
    /// bytes; end of the log
    position: u64,
    /// A mark takes what comes within this time,
    step_time: Duration,
    /// bytes; and within this much.
    step_bytes: u64,
}

impl Marks {
    /// Tells `bytes` and `time` apart to one in 32.
    pub(super) fn new(time: Duration, bytes: u64, position: u64) -> Marks {
        Marks { marks: VecDeque::new(), position, step_time: time / 32, step_bytes: bytes / 32 }
    }

    /// The log now ends before message `next`, at `position`.
    pub(super) fn note(&mut self, now: Instant, next: u64, position: u64) {
        let full = self.marks.len() >= MOST;
        match self.marks.back_mut() {
            Some(last) if full || last.takes(now, position, self.step_time, self.step_bytes) => last.next = next,
            _ => self.marks.push_back(Mark { since: now, from: self.position, next }),
        }
        self.position = position;
    }

    /// All messages below `next` are done with.
    pub(super) fn passed(&mut self, next: u64) {
        while self.marks.front().is_some_and(|mark| mark.next <= next) {
            self.marks.pop_front();
        }
    }

    /// bytes; where the log ended when it was last noted
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Since when the oldest message that is not done with is there; at most a step too early.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.marks.front().map(|mark| mark.since)
    }

    /// bytes that are not done with; at most a step too many
    pub(super) fn bytes(&self) -> u64 {
        self.marks.front().map_or(0, |mark| self.position.saturating_sub(mark.from))
    }
}

impl Mark {
    fn takes(&self, now: Instant, position: u64, time: Duration, bytes: u64) -> bool {
        now.saturating_duration_since(self.since) < time && position.saturating_sub(self.from) < bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_few_and_right_to_a_step() {
        let start = Instant::now();
        let mut marks = Marks::new(Duration::from_secs(32), 3200, 1000);
        assert_eq!((marks.oldest(), marks.bytes()), (None, 0));
        for message in 1..=1000 {
            let now = start + Duration::from_millis(10 * message);
            marks.note(now, message, 1000 + 10 * message);
        }
        assert!(marks.marks.len() <= MOST);
        assert_eq!((marks.oldest(), marks.bytes()), (Some(start + Duration::from_millis(10)), 10_000));
        marks.passed(500);
        let (oldest, bytes) = (marks.oldest().unwrap(), marks.bytes());
        assert!(oldest <= start + Duration::from_millis(5010), "too young");
        assert!(oldest >= start + Duration::from_millis(4000), "too old");
        assert!((5000..=5200).contains(&bytes), "{bytes}");
        marks.passed(1000);
        assert_eq!((marks.oldest(), marks.bytes()), (None, 0));
    }

    #[test]
    fn a_log_that_waits_long_keeps_its_oldest_mark() {
        let start = Instant::now();
        let mut marks = Marks::new(Duration::from_secs(32), 3200, 0);
        for message in 1..=1000 {
            marks.note(start + Duration::from_secs(message), message, 1000 * message);
        }
        assert_eq!(marks.marks.len(), MOST);
        assert_eq!((marks.oldest(), marks.bytes()), (Some(start + Duration::from_secs(1)), 1_000_000));
    }
}
