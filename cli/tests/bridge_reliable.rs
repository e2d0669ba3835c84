//! Who waits for whom, when another host takes nothing for a while.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod hosts;

use std::time::Duration;

use hosts::Host;
use nodeset::{PublishError, Publisher, Subscriber, SubscriberBuilder};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);
/// bytes; of each message, which begins with its number
const LEN: usize = 64 << 10;

/// A publisher on host a, and a subscriber on host b.
struct Pair {
    publisher: Publisher<[u8]>,
    subscriber: Subscriber<[u8]>,
    a: Host,
    b: Host,
    place: TempDir,
}

impl Pair {
    fn start(how: impl Fn(SubscriberBuilder<[u8]>) -> SubscriberBuilder<[u8]>, deadline: Duration) -> Pair {
        let place = TempDir::new().unwrap();
        let a = Host::start(place.path(), "a", &["--listen", "127.0.0.1:0", "--peer", "b"]);
        let b = Host::start(place.path(), "b", &["--peer", &format!("a={}", a.address())]);
        let subscriber = how(b.node("reader").subscriber("numbers")).create().unwrap();
        let camera = a.node("camera");
        let publisher = camera.publisher::<[u8]>("numbers").block_len(1 << 20).blocks(4).deadline(deadline);
        let publisher = publisher.create().unwrap();
        publisher.wait_for_subscribers(1, DEADLINE).unwrap();
        Pair { publisher, subscriber, a, b, place }
    }

    fn signal_b(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.b.child), signal).unwrap();
    }

    /// Starts the dispatcher of host a anew, where it was.
    fn start_a(&mut self) {
        let address = self.a.address().to_owned();
        self.a = Host::start(self.place.path(), "a", &["--listen", &address, "--peer", "b"]);
    }

    fn start_b(&mut self) {
        let to_a = format!("a={}", self.a.address());
        self.b = Host::start(self.place.path(), "b", &["--peer", &to_a]);
    }

    fn publish_all(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.publish(number).unwrap();
        }
    }

    fn publish(&mut self, number: u64) -> Result<u64, PublishError> {
        let mut message = vec![number as u8; LEN];
        message[..8].copy_from_slice(&number.to_le_bytes());
        self.publisher.publish(&message[..])
    }

    /// Receives up to message `last`, each one as it was sent and in order; gives how many were missed.
    fn receive_to(&mut self, from: u64, last: u64) -> u64 {
        let (mut due, mut missed) = (from, 0);
        while due <= last {
            let sample = self.subscriber.receive_timeout(DEADLINE).unwrap().expect("a message");
            assert_eq!(sample.sequence(), due + sample.missed_before());
            let payload = sample.payload();
            assert_eq!(payload[..8], sample.sequence().to_le_bytes());
            assert!(payload[8..].iter().all(|&byte| byte == sample.sequence() as u8), "message {due} is damaged");
            missed += sample.missed_before();
            due = sample.sequence() + 1;
        }
        missed
    }
}

#[test]
fn publishers_wait_for_a_host_that_hangs_where_it_was_asked_for() {
    let mut pair = Pair::start(|it| it.reliable_across_hosts(DEADLINE), Duration::from_millis(200));
    pair.signal_b(Signal::STOP);
    let mut sent = 0;
    let refused = loop {
        match pair.publish(sent) {
            Ok(_) => sent += 1,
            Err(refused) => break refused,
        }
        assert!(sent < 2_000, "nobody waits");
    };
    assert!(
        matches!(&refused, PublishError::Full { slowest: Some(slowest), .. } if &**slowest == "bridge"),
        "{refused}"
    );
    pair.signal_b(Signal::CONT);
    assert_eq!(pair.receive_to(0, sent - 1), 0);
    // And it goes on.
    pair.publish(sent).unwrap();
    assert_eq!(pair.receive_to(sent, sent), 0);
}

#[test]
fn a_host_that_takes_nothing_is_waited_for_until_the_deadline() {
    const MESSAGES: u64 = 1_000;
    let mut pair = Pair::start(|it| it.reliable_across_hosts(Duration::from_millis(300)), DEADLINE);
    pair.publish(0).unwrap();
    assert_eq!(pair.receive_to(0, 0), 0);
    pair.signal_b(Signal::STOP);
    pair.publish_all(1..MESSAGES);
    pair.signal_b(Signal::CONT);
    let missed = pair.receive_to(1, MESSAGES - 1);
    assert!(missed > 0, "62 MiB were kept for it");
    assert_eq!(pair.subscriber.missed(), missed);
}

#[test]
fn a_host_that_hangs_holds_nobody_up_where_it_was_not_asked_for() {
    const MESSAGES: u64 = 2_000;
    let mut pair = Pair::start(SubscriberBuilder::reliable, Duration::from_millis(200));
    pair.publish(0).unwrap();
    assert_eq!(pair.receive_to(0, 0), 0);
    pair.signal_b(Signal::STOP);
    pair.publish_all(1..MESSAGES);
    pair.signal_b(Signal::CONT);
    let missed = pair.receive_to(1, MESSAGES - 1);
    assert!(missed > 0, "125 MB were kept for it");
    assert_eq!(pair.subscriber.missed(), missed);
}

#[test]
fn the_dispatcher_of_the_subscriber_may_be_killed() {
    const ROUNDS: u64 = 4;
    const PART: u64 = 40;
    let mut pair = Pair::start(|it| it.reliable_across_hosts(DEADLINE), DEADLINE);
    for round in 0..ROUNDS {
        let begin = round * 3 * PART;
        // What is on its way, what is published while nobody is there, and what comes later.
        pair.publish_all(begin..begin + PART);
        pair.b.kill();
        pair.publish_all(begin + PART..begin + 2 * PART);
        pair.start_b();
        pair.publish_all(begin + 2 * PART..begin + 3 * PART);
        assert_eq!(pair.receive_to(begin, begin + 3 * PART - 1), 0, "in round {round}");
    }
    assert_eq!(pair.subscriber.missed(), 0);
}

#[test]
fn the_dispatcher_of_the_publisher_may_be_killed() {
    // As many as a log keeps anyway, and more.
    for (away, loses) in [(20, false), (500, true)] {
        let mut pair = Pair::start(|it| it.reliable_across_hosts(DEADLINE), DEADLINE);
        pair.publish_all(0..40);
        assert_eq!(pair.receive_to(0, 39), 0);
        pair.a.kill();
        pair.publish_all(40..40 + away);
        pair.start_a();
        let missed = pair.receive_to(40, 39 + away);
        assert_eq!(missed > 0, loses, "{missed} of {away} are lost");
        // And it goes on.
        pair.publish_all(40 + away..80 + away);
        assert_eq!(pair.receive_to(40 + away, 79 + away), 0);
    }
}
