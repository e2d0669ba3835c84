//! When which host is dialled: decides, and touches nothing.
//!
//! Hosts are dialled beside each other. After a failure a host is left alone for a while that doubles up to [`Backoff::most`],
//! with jitter, so that hosts that lost the same network do not come back in step. A host that is connected, whoever dialled,
//! is not dialled.
//!
//! Call [`poll_action`](Dialer::poll_action) until `None` after each input, and [`handle_timeout`](Dialer::handle_timeout)
//! when [`poll_timeout`](Dialer::poll_timeout) is due.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a host is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure, and after a connection was lost.
    pub first: Duration,
    /// After many.
    pub most: Duration,
    /// An attempt that takes longer has failed.
    pub attempt: Duration,
    /// A connection that held for so long was a good one: the next failure is a first one.
    pub good_after: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            first: Duration::from_millis(20),
            most: Duration::from_secs(1),
            attempt: Duration::from_secs(2),
            good_after: Duration::from_secs(5),
        }
    }
}

/// Connections lost at once in a row after which it is not waited any longer: 80 ms.
const MOST_LOSSES: u32 = 3;

/// What the owner is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Begin to connect; say [`failed`](Dialer::failed) or [`connected`](Dialer::connected).
    Dial {
        /// Host.
        name: Arc<str>,
        /// Where it listens.
        address: SocketAddr,
    },
    /// Drop the attempt, which takes too long or is not wanted any more. Nothing is to be said.
    GiveUp {
        /// Host.
        name: Arc<str>,
    },
}

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    attempt: Attempt,
    /// Connections there, dialled by either side.
    connections: usize,
    /// When the first of those came.
    since: Option<Instant>,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// Not before this time; meaningless while it is connected.
    At(Instant),
    /// It is being dialled, and has failed at this time.
    Until(Instant),
}

/// Decides when to dial.
#[derive(Debug)]
pub struct Dialer {
    backoff: Backoff,
    targets: BTreeMap<Arc<str>, Target>,
    actions: VecDeque<Action>,
    random: u64,
}

impl Dialer {
    /// Without hosts. The same `seed` gives the same jitter.
    pub fn new(backoff: Backoff, seed: u64) -> Dialer {
        Dialer { backoff, targets: BTreeMap::new(), actions: VecDeque::new(), random: seed }
    }

    /// From now on that host is dialled, at once. One that is dialled already at the same address goes on as before.
    pub fn add(&mut self, now: Instant, name: &Arc<str>, address: SocketAddr) {
        if self.targets.get(name).is_some_and(|target| target.address == address) {
            return;
        }
        let connections = self.remove(name);
        let since = (connections > 0).then_some(now);
        let target = Target { address, attempt: Attempt::At(now), connections, since, failures: 0 };
        self.targets.insert(name.clone(), target);
        self.handle_timeout(now);
    }

    /// That host is not dialled any more; says how many connections there were.
    pub fn remove(&mut self, name: &Arc<str>) -> usize {
        let Some(target) = self.targets.remove(name) else { return 0 };
        self.actions.retain(|action| !matches!(action, Action::Dial { name: it, .. } if it == name));
        if matches!(target.attempt, Attempt::Until(_)) {
            self.actions.push_back(Action::GiveUp { name: name.clone() });
        }
        target.connections
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Instant, name: &Arc<str>) {
        let Some(target) = self.targets.get_mut(name) else { return };
        if matches!(target.attempt, Attempt::Until(_)) {
            target.failures = target.failures.saturating_add(1);
            target.attempt = Attempt::At(now + pause(&self.backoff, &mut self.random, target.failures));
        }
    }

    /// There is a connection to that host, `by_us`: it is the attempt that succeeded.
    pub fn connected(&mut self, now: Instant, name: &Arc<str>, by_us: bool) {
        let Some(target) = self.targets.get_mut(name) else { return };
        target.connections += 1;
        target.since.get_or_insert(now);
        if by_us {
            target.attempt = Attempt::At(now);
        }
    }

    /// One of its connections is lost. If it was the last one, the host is dialled again, the first time almost at once.
    pub fn lost(&mut self, now: Instant, name: &Arc<str>) {
        let Some(target) = self.targets.get_mut(name) else { return };
        target.connections = target.connections.saturating_sub(1);
        if target.connections > 0 {
            return;
        }
        let good = target.since.take().is_some_and(|since| now.duration_since(since) >= self.backoff.good_after);
        // The way there is known to work, so it is not left alone for long, however often it is cut.
        target.failures = if good { 1 } else { (target.failures + 1).min(MOST_LOSSES) };
        if matches!(target.attempt, Attempt::At(_)) {
            target.attempt = Attempt::At(now + pause(&self.backoff, &mut self.random, target.failures));
        }
    }

    /// Something was heard of that host, so the way to it is there again: it is dialled at once.
    pub fn heard(&mut self, now: Instant, name: &Arc<str>) {
        if let Some(Target { attempt: Attempt::At(at), .. }) = self.targets.get_mut(name) {
            *at = now.min(*at);
            self.handle_timeout(now);
        }
    }

    /// How often that host was not reached, or lost soon, in a row.
    pub fn failures(&self, name: &Arc<str>) -> u32 {
        self.targets.get(name).map_or(0, |target| target.failures)
    }

    /// Acts on what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (name, target) in &mut self.targets {
            match target.attempt {
                Attempt::At(at) if at <= now && target.connections == 0 => {
                    target.attempt = Attempt::Until(now + self.backoff.attempt);
                    self.actions.push_back(Action::Dial { name: name.clone(), address: target.address });
                }
                Attempt::Until(until) if until <= now => {
                    target.failures = target.failures.saturating_add(1);
                    target.attempt = Attempt::At(now + pause(&self.backoff, &mut self.random, target.failures));
                    self.actions.push_back(Action::GiveUp { name: name.clone() });
                }
                _ => {}
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None`: when something else happened.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = |target: &Target| match target.attempt {
            Attempt::At(at) => (target.connections == 0).then_some(at),
            Attempt::Until(until) => Some(until),
        };
        self.targets.values().filter_map(due).min()
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}

/// Between a half and the whole of what is doubled with each failure.
fn pause(backoff: &Backoff, random: &mut u64, failures: u32) -> Duration {
    let doubled = backoff.first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(backoff.most);
    doubled.mul_f64(0.5 + 0.5 * fraction(random))
}

/// SplitMix64: 0 <= fraction < 1. Nobody gains from foreseeing it.
fn fraction(random: &mut u64) -> f64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    struct Bench {
        dialer: Dialer,
        start: Instant,
        b: Arc<str>,
    }

    impl Bench {
        fn new() -> Bench {
            let (mut dialer, start, b) = (Dialer::new(Backoff::default(), 1), Instant::now(), Arc::from("b"));
            dialer.add(start, &b, address(1));
            Bench { dialer, start, b }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn actions(&mut self) -> Vec<Action> {
            std::iter::from_fn(|| self.dialer.poll_action()).collect()
        }

        fn dial(&self) -> Vec<Action> {
            vec![Action::Dial { name: self.b.clone(), address: address(1) }]
        }

        fn give_up(&self) -> Vec<Action> {
            vec![Action::GiveUp { name: self.b.clone() }]
        }
    }

    #[test]
    fn hosts_are_dialled_beside_each_other_at_once() {
        let (mut dialer, now) = (Dialer::new(Backoff::default(), 1), Instant::now());
        for port in 1..=20 {
            dialer.add(now, &Arc::from(format!("host-{port}")), address(port));
        }
        assert_eq!(std::iter::from_fn(|| dialer.poll_action()).count(), 20);
    }

    #[test]
    fn pauses_double_to_the_most_and_differ() {
        let mut bench = Bench::new();
        let (mut now, mut pauses) = (bench.start, Vec::new());
        for _ in 0..12 {
            assert_eq!(bench.actions(), bench.dial());
            bench.dialer.failed(now, &bench.b);
            let due = bench.dialer.poll_timeout().unwrap();
            pauses.push(due - now);
            bench.dialer.handle_timeout(due - Duration::from_nanos(1));
            assert_eq!(bench.actions(), []);
            now = due;
            bench.dialer.handle_timeout(now);
        }
        let Backoff { first, most, .. } = Backoff::default();
        for (failures, pause) in pauses.iter().enumerate() {
            let whole = (first * (1 << failures)).min(most);
            assert!(*pause >= whole / 2 && *pause <= whole, "{failures}: {pause:?}");
        }
        assert_ne!(pauses[10], pauses[11], "there is no jitter");
    }

    #[test]
    fn an_attempt_that_hangs_is_given_up_and_repeated() {
        let mut bench = Bench::new();
        bench.actions();
        assert_eq!(bench.dialer.poll_timeout(), Some(bench.at(2_000)));
        bench.dialer.handle_timeout(bench.at(2_000));
        assert_eq!(bench.actions(), bench.give_up());
        bench.dialer.handle_timeout(bench.at(2_020));
        assert_eq!(bench.actions(), bench.dial());
    }

    #[test]
    fn a_connected_host_is_not_dialled_until_its_last_connection_is_lost() {
        let mut bench = Bench::new();
        bench.actions();
        bench.dialer.connected(bench.at(1), &bench.b, true);
        bench.dialer.connected(bench.at(2), &bench.b, false);
        assert_eq!(bench.dialer.poll_timeout(), None);
        bench.dialer.lost(bench.at(10_000), &bench.b);
        bench.dialer.handle_timeout(bench.at(20_000));
        assert_eq!(bench.actions(), []);
        bench.dialer.lost(bench.at(20_000), &bench.b);
        assert!(bench.dialer.poll_timeout().unwrap() <= bench.at(20_020));
        bench.dialer.handle_timeout(bench.at(20_020));
        assert_eq!(bench.actions(), bench.dial());
    }

    #[test]
    fn connections_that_end_at_once_are_dialled_more_slowly_but_not_for_long() {
        let mut bench = Bench::new();
        let mut now = bench.start;
        for _ in 0..10 {
            assert_eq!(bench.actions(), bench.dial());
            bench.dialer.connected(now, &bench.b, true);
            bench.dialer.lost(now, &bench.b);
            let due = bench.dialer.poll_timeout().unwrap();
            now = due;
            bench.dialer.handle_timeout(now);
        }
        bench.dialer.connected(now, &bench.b, true);
        bench.dialer.lost(now, &bench.b);
        let (due, whole) = (bench.dialer.poll_timeout().unwrap(), 4 * Backoff::default().first);
        assert!(due >= now + whole / 2 && due <= now + whole);
    }

    #[test]
    fn who_dials_us_meanwhile_is_not_dialled_again() {
        let mut bench = Bench::new();
        bench.actions();
        bench.dialer.connected(bench.at(1), &bench.b, false);
        bench.dialer.failed(bench.at(2), &bench.b);
        bench.dialer.handle_timeout(bench.at(60_000));
        assert_eq!(bench.actions(), []);
    }

    #[test]
    fn a_host_that_is_heard_of_is_dialled_at_once() {
        let mut bench = Bench::new();
        bench.actions();
        for _ in 0..9 {
            bench.dialer.failed(bench.at(0), &bench.b);
            bench.dialer.heard(bench.at(0), &bench.b);
            assert_eq!(bench.actions(), bench.dial());
        }
    }

    #[test]
    fn a_host_that_is_removed_or_moves_is_given_up() {
        let mut bench = Bench::new();
        bench.actions();
        bench.dialer.add(bench.at(1), &bench.b, address(1));
        assert_eq!(bench.actions(), [], "nothing changed");
        bench.dialer.add(bench.at(1), &bench.b, address(2));
        let moved = Action::Dial { name: bench.b.clone(), address: address(2) };
        assert_eq!(bench.actions(), [bench.give_up(), vec![moved]].concat());
        bench.dialer.remove(&bench.b);
        assert_eq!(bench.actions(), bench.give_up());
        for late in [Dialer::failed, Dialer::lost, Dialer::heard] {
            late(&mut bench.dialer, bench.start, &bench.b);
        }
        assert_eq!((bench.actions(), bench.dialer.poll_timeout()), (vec![], None));
    }
}
