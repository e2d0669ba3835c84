//! Memory that a spike took comes back, and no message is lost, repeated or out of order over it.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::time::{Duration, Instant};

use nodeset::{Publisher, Subscriber};
use support::{DEADLINE, Place};

/// bytes of each message
const LEN: usize = 50_000;
/// Messages of a spike: 40 MB.
const SPIKE: u64 = 800;
/// bytes; a log that is as short as it can be
const SHORT: u64 = 8 << 20;

fn message(number: u64) -> Vec<u8> {
    let mut message = vec![number as u8; LEN];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message
}

/// Reads everything up to message `next`, without a hole.
fn read(subscriber: &mut Subscriber<[u8]>, due: &mut u64, next: u64) {
    while *due < next {
        let sample = subscriber.receive_timeout(DEADLINE).unwrap().expect("a message");
        assert_eq!((sample.sequence(), sample.missed_before()), (*due, 0));
        assert_eq!(*sample, message(*due));
        *due += 1;
    }
}

fn spike(publisher: &mut Publisher<[u8]>) {
    for _ in 0..SPIKE {
        let number = publisher.next_sequence();
        publisher.publish(&message(number)).unwrap();
    }
    assert!(publisher.log_bytes() >= SPIKE * LEN as u64, "{}", publisher.log_bytes());
}

/// Publishes and reads, one by one, until the log is short again.
fn calm_down(publisher: &mut Publisher<[u8]>, readers: &mut [(&mut Subscriber<[u8]>, &mut u64)], as_try: bool) {
    let until = Instant::now() + DEADLINE;
    while publisher.log_bytes() > SHORT {
        assert!(Instant::now() < until, "the log still has {} bytes", publisher.log_bytes());
        let number = publisher.next_sequence();
        let sent = if as_try { publisher.try_publish(&message(number)) } else { publisher.publish(&message(number)) };
        assert_eq!(sent.unwrap(), number);
        for (reader, due) in readers.iter_mut() {
            read(reader, due, number + 1);
        }
    }
}

#[test]
fn after_a_spike_a_fresh_log_takes_the_place_of_the_long_one() {
    let place = Place::new();
    let (one, other, third) = (place.node("one"), place.node("other"), place.node("third"));
    let builder = one.publisher::<[u8]>("data").give_back_after(Duration::from_millis(20));
    let mut publisher = builder.timestamps(true).create().unwrap();
    let mut slow = other.subscriber::<[u8]>("data").reliable().create().unwrap();
    let mut also = third.subscriber::<[u8]>("data").reliable().create().unwrap();
    let (mut slow_due, mut also_due) = (0, 0);
    for as_try in [false, true, false] {
        spike(&mut publisher);
        let next = publisher.next_sequence();
        read(&mut slow, &mut slow_due, next);
        read(&mut also, &mut also_due, next);
        calm_down(&mut publisher, &mut [(&mut slow, &mut slow_due), (&mut also, &mut also_due)], as_try);
        assert_eq!(publisher.subscribers(), 2);
    }
    assert_eq!((slow.missed(), also.missed()), (0, 0));
    assert_eq!(slow.publishers(), 1, "the old logs are gone");

    // Who comes now has nothing to do with the old ones.
    let mut late = other.subscriber::<[u8]>("data").reliable().create().unwrap();
    let number = publisher.next_sequence();
    publisher.publish(&message(number)).unwrap();
    let sample = late.receive_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!((sample.sequence(), sample.missed_before()), (number, 0));
    assert!(sample.published_at().is_some(), "messages of the fresh log say when they were published, as before");
}

#[test]
fn a_reader_that_is_behind_reads_the_old_log_to_its_end_first() {
    let place = Place::new();
    let (one, other, third) = (place.node("one"), place.node("other"), place.node("third"));
    let mut publisher = one.publisher::<[u8]>("data").give_back_after(Duration::from_millis(20)).create().unwrap();
    let mut quick = other.subscriber::<[u8]>("data").reliable().create().unwrap();
    let mut behind = third.subscriber::<[u8]>("data").reliable().create().unwrap();
    let (mut quick_due, mut behind_due) = (0, 0);
    spike(&mut publisher);
    let next = publisher.next_sequence();
    read(&mut quick, &mut quick_due, next);
    read(&mut behind, &mut behind_due, next);
    // From now on it stays a few messages behind, so that it has some of both logs before it.
    let until = Instant::now() + DEADLINE;
    while publisher.log_bytes() > SHORT || publisher.next_sequence() < behind_due + 5 {
        assert!(Instant::now() < until);
        let number = publisher.next_sequence();
        publisher.publish(&message(number)).unwrap();
        read(&mut quick, &mut quick_due, number + 1);
        read(&mut behind, &mut behind_due, (number + 1).saturating_sub(20).max(next));
    }
    for _ in 0..50 {
        let number = publisher.next_sequence();
        publisher.publish(&message(number)).unwrap();
    }
    read(&mut behind, &mut behind_due, publisher.next_sequence());
    read(&mut quick, &mut quick_due, publisher.next_sequence());
    assert_eq!((behind.missed(), quick.missed()), (0, 0));
}

#[test]
fn whoever_reads_a_sample_of_the_old_log_keeps_it() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let mut publisher = one.publisher::<[u8]>("data").give_back_after(Duration::from_millis(20)).create().unwrap();
    let mut subscriber = other.subscriber::<[u8]>("data").reliable().create().unwrap();
    spike(&mut publisher);
    let kept = subscriber.receive().unwrap().into_owned().unwrap();
    let mut due = 1;
    read(&mut subscriber, &mut due, SPIKE);
    calm_down(&mut publisher, &mut [(&mut subscriber, &mut due)], false);
    drop((publisher, one, subscriber));
    assert_eq!(*kept, *message(0));
}
