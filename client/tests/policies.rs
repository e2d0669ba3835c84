//! What a publisher does about reliable subscribers that do not keep up.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nodeset::{Evict, NodeEvent, Publisher, ReceiveError, Subscriber};
use support::{DEADLINE, Place, check, events, message, wait_for};

fn is_evicted(event: &NodeEvent) -> bool {
    matches!(event, NodeEvent::Evicted { peer, .. } if &**peer == "slow")
}

/// What a subscriber got, in order and whole, and how often it was told that it was given up.
#[derive(Debug, Default)]
struct Account {
    received: u64,
    told: u32,
    due: u64,
}

impl Account {
    /// Takes what comes until something is `wanted`.
    fn read(&mut self, subscriber: &mut Subscriber<[u8]>, wanted: impl Fn(&Account) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !wanted(self) {
            match subscriber.receive_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Some(sample)) => {
                    let number = u64::from_le_bytes(sample[..8].try_into().unwrap());
                    check(&sample, number);
                    assert_eq!(sample.missed_before(), number - self.due, "exactly counted, before message {number}");
                    self.due = number + 1;
                    self.received += 1;
                }
                Err(ReceiveError::Evicted { publisher, .. }) => {
                    assert_eq!(&*publisher, "fast");
                    self.told += 1;
                    // What it is told with that is counted already.
                    self.due = self.received + subscriber.missed();
                }
                Ok(None) => panic!("nothing more came: {self:?}"),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// It was given up: reads on until it is told, is linked afresh, and gets all that is published then.
    fn recover(
        &mut self,
        laggard: &mut Subscriber<[u8]>,
        linked: &Receiver<NodeEvent>,
        publisher: &mut Publisher<[u8]>,
    ) {
        linked.try_iter().for_each(drop);
        self.read(laggard, |account| account.told == 1);
        wait_for(linked, |event| matches!(event, NodeEvent::Linked { .. }));
        let next = publisher.next_sequence();
        for number in next..next + 20 {
            publisher.publish(&message(number)).unwrap();
        }
        self.read(laggard, |account| account.due == next + 20);
        assert_eq!(self.received + laggard.missed(), next + 20, "received and missed are all there were");
        assert_eq!(self.told, 1);
        assert!(self.received > 20 && laggard.missed() > 0, "{self:?}, {} missed", laggard.missed());
    }
}

#[test]
fn who_lags_too_far_is_given_up_and_hears_of_it() {
    let place = Place::new();
    let (fast, slow, healthy) = (place.node("fast"), place.node("slow"), place.node("healthy"));
    let (evicted, linked) = (events(&fast), events(&slow));
    let mut publisher = fast.publisher::<[u8]>("data").block_len(4096).evict(Evict::Lag(100)).create().unwrap();
    let mut laggard = slow.subscriber::<[u8]>("data").reliable().create().unwrap();
    let mut reader = healthy.subscriber::<[u8]>("data").reliable().create().unwrap();
    for number in 0..10_000 {
        // The log has no limit of its own worth mentioning: without the policy this would only make it grow.
        publisher.try_publish(&message(number)).unwrap();
        check(&reader.receive().unwrap(), number);
    }
    wait_for(&evicted, is_evicted);
    assert_eq!(reader.missed(), 0, "whoever keeps up is not given up");

    Account::default().recover(&mut laggard, &linked, &mut publisher);
    assert!(!evicted.try_iter().any(|event| matches!(event, NodeEvent::Evicted { .. })), "nobody else was given up");
}

#[test]
fn who_stands_still_is_given_up_in_time_to_publish_on() {
    let place = Place::new();
    let (fast, slow) = (place.node("fast"), place.node("slow"));
    let (evicted, linked) = (events(&fast), events(&slow));
    // Without the policy the first message too many would wait for a minute, and fail.
    let mut publisher = fast
        .publisher::<[u8]>("data")
        .block_len(4096)
        .blocks(8)
        .deadline(DEADLINE)
        .evict(Evict::After(Duration::from_millis(20)))
        .create()
        .unwrap();
    let mut laggard = slow.subscriber::<[u8]>("data").reliable().create().unwrap();
    for number in 0..500 {
        publisher.publish(&message(number)).unwrap();
    }
    wait_for(&evicted, is_evicted);
    Account::default().recover(&mut laggard, &linked, &mut publisher);
}
