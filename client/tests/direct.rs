//! Direct publishers: each message to one subscriber, and what becomes of it when that one dies.
//!
//! The other processes are this test's own program, started again for one of the [`roles`].

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nodeset::{AdvertiseError, DeliverError, DirectPublisher, Node, NodeEvent, Subscriber};
use support::{DEADLINE, Other, Place, events, message, wait_for};

/// What the other processes do; as a test of its own it does nothing.
#[test]
fn roles() {
    let Some((role, socket)) = support::role() else { return };
    let node = Node::builder(role.clone()).socket(socket).embedded().standby(Duration::ZERO).connect().unwrap();
    match role.as_str() {
        // Takes ten, keeps the last one in hand, and stands still.
        "worker" => {
            let mut subscriber = node.subscriber::<[u8]>("jobs").create().unwrap();
            println!("ready");
            let mut numbers = Vec::new();
            for _ in 0..10 {
                numbers.push(number(&subscriber.receive().unwrap()).to_string());
            }
            println!("had {}", numbers.join(" "));
            std::thread::park();
        }
        // Handles all there is, as long as it lives.
        "diligent" => {
            let mut subscriber = node.subscriber::<[u8]>("jobs").create().unwrap();
            println!("ready");
            for count in 1.. {
                let _ = number(&subscriber.receive().unwrap());
                if count == 500 {
                    println!("busy");
                }
            }
        }
        "dispatcher" => {
            println!("ready");
            std::thread::park();
        }
        other => panic!("no such role: {other}"),
    }
}

fn number(message: &[u8]) -> u64 {
    u64::from_le_bytes(message[..8].try_into().unwrap())
}

fn jobs(node: &Node) -> nodeset::DirectPublisherBuilder<[u8]> {
    node.publisher::<[u8]>("jobs").direct().deadline(DEADLINE)
}

/// What is there for a subscriber now.
fn drain(subscriber: &mut Subscriber<[u8]>) -> Vec<u64> {
    std::iter::from_fn(|| subscriber.try_receive().unwrap().map(|sample| number(&sample))).collect()
}

/// Receives until all of `due` came, each once; hands the others back.
fn receive_all(subscriber: &mut Subscriber<[u8]>, mut due: BTreeSet<u64>) {
    while !due.is_empty() {
        let sample = subscriber.receive_timeout(DEADLINE).unwrap().expect("a message");
        let number = number(&sample);
        assert!(due.remove(&number), "{number} was not due, or came twice");
    }
}

fn publish(publisher: &mut DirectPublisher<[u8]>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        publisher.publish(&message(number)).unwrap();
    }
}

#[test]
fn each_message_goes_to_one_subscriber_by_its_weight() {
    let place = Place::new();
    let node = place.node("test");
    let mut subscribers: Vec<_> =
        [1, 1, 2].map(|weight| node.subscriber::<[u8]>("jobs").weight(weight).create().unwrap()).into();
    // By a pattern is as good.
    let mut pattern = node.subscriber::<[u8]>("**").create().unwrap();
    let mut publisher = jobs(&node).create().unwrap();
    assert_eq!(publisher.subscribers(), 4);
    publish(&mut publisher, 0..500);
    let mut all = drain(&mut pattern);
    assert_eq!(all.len(), 100);
    for (subscriber, share) in subscribers.iter_mut().zip([100, 100, 200]) {
        let had = drain(subscriber);
        assert_eq!(had.len(), share);
        assert!(had.is_sorted(), "in the order in which they were sent");
        assert_eq!(subscriber.missed(), 0);
        all.extend(had);
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..500));
}

#[test]
fn whoever_comes_later_gets_a_lane_and_whoever_leaves_has_none() {
    let place = Place::new();
    let node = place.node("test");
    let mut publisher = jobs(&node).create().unwrap();
    assert!(matches!(publisher.try_publish(&message(0)), Err(DeliverError::NoSubscriber { .. })));
    let mut subscriber = node.subscriber::<[u8]>("jobs").create().unwrap();
    assert_eq!(subscriber.publishers(), 1, "linked when it was made");
    publish(&mut publisher, 0..10);
    assert!(drain(&mut subscriber).into_iter().eq(0..10));
    let events = events(&node);
    drop(subscriber);
    wait_for(&events, |event| matches!(event, NodeEvent::LinkEnded { peer_subscribes: true, .. }));
    assert!(matches!(publisher.try_publish(&message(0)), Err(DeliverError::NoSubscriber { .. })));
    assert_eq!((publisher.subscribers(), publisher.lost()), (0, 0), "it had handled all of them");
}

#[test]
fn a_publisher_that_waits_for_a_subscriber_is_woken_when_one_comes() {
    let place = Place::new();
    let node = place.node("test");
    let mut publisher = jobs(&node).create().unwrap();
    let sending = std::thread::spawn(move || {
        publish(&mut publisher, 0..1);
        publisher
    });
    let mut subscriber = node.subscriber::<[u8]>("jobs").create().unwrap();
    assert_eq!(number(&subscriber.receive_timeout(DEADLINE).unwrap().unwrap()), 0);
    drop(sending.join().unwrap());
}

#[test]
fn a_full_lane_is_passed_over_and_a_full_topic_is_waited_for() {
    let place = Place::new();
    let node = place.node("test");
    let mut slow = node.subscriber::<[u8]>("jobs").create().unwrap();
    let quick = place.node("quick");
    let mut other = quick.subscriber::<[u8]>("jobs").create().unwrap();
    let mut publisher = jobs(&node).backlog(3).create().unwrap();
    for number in 0..20 {
        publisher.try_publish(&message(number)).unwrap();
        drain(&mut other);
    }
    let full = publisher.waiting();
    assert_eq!(full.iter().map(|(_, waiting)| *waiting).max(), Some(3), "{full:?}");
    // Now the other one stands still as well.
    let sent = (20..).take_while(|&number| publisher.try_publish(&message(number)).is_ok()).count();
    assert_eq!(sent, 3);
    let Err(DeliverError::Full { waited, .. }) = publisher.try_publish(&message(0)) else { panic!("not full") };
    assert_eq!(waited, Duration::ZERO);
    // One that waits goes on as soon as something is handled: here the first one of three, which is in the same block.
    let sending = std::thread::spawn(move || {
        publish(&mut publisher, 100..101);
        publisher
    });
    assert!(slow.receive_timeout(DEADLINE).unwrap().is_some());
    assert!(slow.receive_timeout(DEADLINE).unwrap().is_some());
    drop(sending.join().unwrap());
    assert_eq!(slow.missed() + other.missed(), 0);
}

#[test]
fn a_message_may_be_for_one_node() {
    let place = Place::new();
    let nodes = ["test", "worker", "worker", "other"].map(|name| place.node(name));
    let mut workers: Vec<_> = nodes[1..].iter().map(|it| it.subscriber::<[u8]>("jobs").create().unwrap()).collect();
    let mut publisher = jobs(&nodes[0]).create().unwrap();
    for number in 0..10 {
        publisher.publish_to("worker-2", &message(number)).unwrap();
    }
    for number in 10..20 {
        publisher.publish_to("worker@local", &message(number)).unwrap();
    }
    let had: Vec<_> = workers.iter_mut().map(drain).collect();
    assert_eq!(had[1][..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!((had[0].len(), had[1].len(), had[2].len()), (5, 15, 0), "{had:?}");
    let missing = publisher.try_publish_to("nobody", &message(0)).unwrap_err();
    assert!(missing.to_string().contains("no node `nobody`"), "{missing}");
}

#[test]
fn what_a_killed_worker_had_not_handled_goes_to_another_one() {
    let place = Place::new();
    let node = place.node("test");
    let mut publisher = jobs(&node).redeliver(true).create().unwrap();
    let mut worker = Other::start("worker", &place.socket());
    worker.wait_for("ready");
    publisher.wait_for_subscribers(1, DEADLINE).unwrap();
    // More than a block of them.
    publish(&mut publisher, 0..400);
    let had: Vec<u64> = worker.rest_of("had ").split(' ').map(|number| number.parse().unwrap()).collect();
    assert!(had.into_iter().eq(0..10));
    let mut heir = node.subscriber::<[u8]>("jobs").create().unwrap();
    publisher.wait_for_subscribers(2, DEADLINE).unwrap();
    worker.kill();
    // Exactly those; the tenth was in hand. The publisher's own thread does nothing meanwhile.
    receive_all(&mut heir, (9..400).collect());
    publish(&mut publisher, 400..500);
    receive_all(&mut heir, (400..500).collect());
    assert!(drain(&mut heir).is_empty());
    assert_eq!((publisher.lost(), heir.missed()), (0, 0));
}

#[test]
fn what_nobody_can_take_over_waits_for_somebody_to_come() {
    let place = Place::new();
    let node = place.node("test");
    let mut publisher = jobs(&node).redeliver(true).create().unwrap();
    let events = events(&node);
    for round in 0..3 {
        let mut worker = Other::start("worker", &place.socket());
        worker.wait_for("ready");
        publisher.wait_for_subscribers(1, DEADLINE).unwrap();
        // From the second round on it inherits, too: what it has in hand of that waits again.
        publish(&mut publisher, round * 100..round * 100 + 100);
        worker.wait_for("had ");
        worker.kill();
        while publisher.subscribers() > 0 {
            wait_for(&events, |event| matches!(event, NodeEvent::LinkEnded { died: true, .. }));
        }
        assert!(matches!(publisher.try_publish(&message(0)), Err(DeliverError::NoSubscriber { .. })));
    }
    let mut heir = node.subscriber::<[u8]>("jobs").create().unwrap();
    let mut had = BTreeSet::new();
    // Each of three workers handled nine and had one in hand.
    while had.len() < 300 - 27 {
        let sample = heir.receive_timeout(DEADLINE).unwrap().expect("a message");
        assert!(had.insert(number(&sample)), "{} came twice", number(&sample));
    }
    assert!(drain(&mut heir).is_empty());
    assert_eq!(publisher.lost(), 0);
}

#[test]
fn without_redelivery_it_is_lost_and_counted() {
    let place = Place::new();
    let node = place.node("test");
    let mut publisher = jobs(&node).create().unwrap();
    let mut worker = Other::start("worker", &place.socket());
    worker.wait_for("ready");
    publisher.wait_for_subscribers(1, DEADLINE).unwrap();
    publish(&mut publisher, 0..100);
    worker.wait_for("had ");
    let events = events(&node);
    worker.kill();
    wait_for(&events, |event| matches!(event, NodeEvent::LinkEnded { died: true, .. }));
    assert_eq!(publisher.lost(), 91);
}

#[test]
fn workers_and_dispatchers_may_die_while_jobs_go_on() {
    let place = Place::new();
    let mut dispatcher = Other::start("dispatcher", &place.socket());
    dispatcher.wait_for("ready");
    let node = place.node("test");
    let mut steady = node.subscriber::<[u8]>("jobs").create().unwrap();
    let mut publisher = jobs(&node).redeliver(true).backlog(50).create().unwrap();
    let sending = std::thread::spawn(move || {
        publish(&mut publisher, 0..30_000);
        publisher
    });
    let receiving = std::thread::spawn(move || {
        let mut had = BTreeSet::new();
        while let Some(sample) = steady.receive_timeout(Duration::from_secs(5)).unwrap() {
            assert!(had.insert(number(&sample)), "{} came twice", number(&sample));
            if had.len() % 64 == 0 {
                std::thread::yield_now();
            }
        }
        (had, steady)
    });
    let mut killed = 0;
    while !sending.is_finished() && killed < 6 {
        let mut worker = Other::start("diligent", &place.socket());
        worker.wait_for("ready");
        if killed % 2 == 1 {
            dispatcher.kill();
            dispatcher = Other::start("dispatcher", &place.socket());
        }
        worker.kill();
        killed += 1;
    }
    let mut publisher = sending.join().unwrap();
    let (had, steady) = receiving.join().unwrap();
    assert!(killed > 1 && !had.is_empty());
    // What the others had in hand when they died came here; what they had handled did not.
    assert_eq!((publisher.lost(), steady.missed()), (0, 0));
    assert!(publisher.waiting().iter().all(|(_, waiting)| *waiting == 0), "{:?}", publisher.waiting());
}

#[test]
fn another_type_is_told_to_both() {
    let place = Place::new();
    let node = place.node("test");
    let _subscriber = node.subscriber::<str>("jobs").create().unwrap();
    let error = jobs(&node).create().unwrap_err();
    assert!(matches!(error, AdvertiseError::Mismatch { .. }), "{error}");
    let _publisher = node.publisher::<[u8]>("tasks").direct().create().unwrap();
    let error = node.subscriber::<str>("tasks").create().unwrap_err();
    assert!(error.to_string().contains("tasks"), "{error}");
    let weight = node.subscriber::<[u8]>("jobs").weight(0).create().unwrap_err();
    assert!(weight.to_string().contains("1 to 100"), "{weight}");
}

#[test]
fn subscribers_drain_what_a_publisher_that_is_gone_sent() {
    let place = Place::new();
    let node = place.node("test");
    let mut subscriber = node.subscriber::<[u8]>("jobs").create().unwrap();
    let mut publisher = jobs(&node).create().unwrap();
    publish(&mut publisher, 0..50);
    drop(publisher);
    let until = Instant::now() + DEADLINE;
    let mut had = Vec::new();
    while subscriber.publishers() > 0 && Instant::now() < until {
        had.extend(drain(&mut subscriber));
    }
    assert!(had.into_iter().eq(0..50));
}
