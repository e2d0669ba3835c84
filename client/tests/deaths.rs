//! Real processes, killed in the middle of traffic: nobody else notices beyond an event.
//!
//! The other processes are this test's own program, started again for one of the [`roles`].

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::time::Duration;

use nodeset::{Node, NodeEvent, PublishError, Subscriber};
use rustix::process::Signal;
use support::{DEADLINE, Other, Place, check, events, message, wait_for};

/// What the other processes do; as a test of its own it does nothing.
#[test]
fn roles() {
    let Some((role, socket)) = support::role() else { return };
    let node = Node::builder(role.clone()).socket(socket).embedded().standby(Duration::ZERO).connect().unwrap();
    match role.as_str() {
        "publisher" => {
            let mut publisher = node.publisher::<[u8]>("data").deadline(DEADLINE).create().unwrap();
            publisher.wait_for_subscribers(1, DEADLINE).unwrap();
            for number in 0.. {
                publisher.publish(&message(number)).unwrap();
            }
        }
        "subscriber" => {
            let mut subscriber = node.subscriber::<[u8]>("data").reliable().create().unwrap();
            println!("ready");
            for number in 0.. {
                check(&subscriber.receive().unwrap(), number);
                if number % 1000 == 0 {
                    println!("at {number}");
                }
            }
        }
        // Keeps what it gets and never lets go.
        "holder" => {
            let mut subscriber = node.subscriber::<[u8]>("data").reliable().create().unwrap();
            println!("ready");
            let _kept = subscriber.receive().unwrap().into_owned().unwrap();
            println!("at 0");
            std::thread::park();
        }
        "dispatcher" => {
            println!("ready");
            std::thread::park();
        }
        other => panic!("no such role: {other}"),
    }
}

fn read(subscriber: &mut Subscriber<[u8]>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let sample = subscriber.receive_timeout(DEADLINE).unwrap().expect("a message");
        check(&sample, number);
        assert_eq!(sample.missed_before(), 0);
    }
}

#[test]
fn a_publisher_that_is_killed_leaves_what_it_committed() {
    let place = Place::new();
    let node = place.node("test");
    let events = events(&node);
    let mut subscriber = node.subscriber::<[u8]>("data").reliable().create().unwrap();
    for round in 0..5 {
        let mut publisher = Other::start("publisher", &place.socket());
        // In the middle of its traffic, which fills the log while it is not read fast enough.
        read(&mut subscriber, 0..5_000 + 700 * round);
        publisher.kill();
        wait_for(&events, |event| matches!(event, NodeEvent::LinkEnded { died: true, peer_subscribes: false, .. }));
        let mut number = 5_000 + 700 * round;
        // All that it committed is still there; nothing is torn.
        while subscriber.publishers() > 0 {
            if let Some(sample) = subscriber.receive_timeout(Duration::ZERO).unwrap() {
                check(&sample, number);
                number += 1;
            }
        }
    }
    assert_eq!(subscriber.missed(), 0);
}

#[test]
fn a_reliable_subscriber_that_is_killed_stops_nobody() {
    let place = Place::new();
    let node = place.node("test");
    let mut publisher = node.publisher::<[u8]>("data").block_len(4096).blocks(32).deadline(DEADLINE).create().unwrap();
    let mut survivor = node.subscriber::<[u8]>("data").reliable().create().unwrap();
    let mut number = 0;
    for role in ["subscriber", "holder", "subscriber"] {
        let mut victim = Other::start(role, &place.socket());
        victim.wait_for("ready");
        publisher.wait_for_subscribers(2, DEADLINE).unwrap();
        if role == "subscriber" && number > 0 {
            // It checks numbers from 0 on: only the first round lets it read.
            victim.kill();
            publisher.publish(&message(number)).unwrap();
            read(&mut survivor, number..number + 1);
            number += 1;
            continue;
        }
        let until = number + 3_000;
        let mut killed = false;
        while number < until {
            match publisher.try_publish(&message(number)) {
                Ok(_) => {
                    read(&mut survivor, number..number + 1);
                    number += 1;
                }
                Err(PublishError::Full { slowest, .. }) => {
                    // The holder has let the log run full: it dies while it is waited for.
                    if role == "holder" && !killed {
                        assert_eq!(slowest.as_deref(), Some("holder"));
                        victim.signal(Signal::KILL);
                        killed = true;
                    }
                    publisher.publish(&message(number)).unwrap();
                    read(&mut survivor, number..number + 1);
                    number += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(killed, role == "holder");
        victim.kill();
    }
    assert_eq!(survivor.missed(), 0);
}

#[test]
fn a_stopped_subscriber_is_named_and_catches_up_when_it_goes_on() {
    let place = Place::new();
    let node = place.node("test");
    let mut publisher =
        node.publisher::<[u8]>("data").block_len(4096).blocks(16).deadline(Duration::from_millis(20)).create().unwrap();
    let mut slow = Other::start("subscriber", &place.socket());
    slow.wait_for("ready");
    publisher.wait_for_subscribers(1, DEADLINE).unwrap();
    slow.signal(Signal::STOP);
    let mut number = 0;
    let full = loop {
        match publisher.publish(&message(number)) {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(full.to_string().contains("`subscriber`"), "{full}");
    slow.signal(Signal::CONT);
    // It checks each of them.
    while number <= 5_000 {
        match publisher.publish(&message(number)) {
            Ok(_) => number += 1,
            Err(PublishError::Full { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    slow.wait_for("at 5000");
}

#[test]
fn messages_go_on_while_dispatchers_die_and_nodes_find_the_next_one() {
    let place = Place::new();
    let mut dispatcher = Other::start("dispatcher", &place.socket());
    dispatcher.wait_for("ready");
    let (one, other) = (place.node("one"), place.node("other"));
    let attached = [events(&one), events(&other)];
    let mut publisher = one.publisher::<[u8]>("data").create().unwrap();
    let mut subscriber = other.subscriber::<[u8]>("data").reliable().create().unwrap();
    publisher.wait_for_subscribers(1, DEADLINE).unwrap();
    let mut number = 0;
    let mut pass = |publisher: &mut nodeset::Publisher<[u8]>, subscriber: &mut Subscriber<[u8]>| {
        for _ in 0..1000 {
            publisher.publish(&message(number)).unwrap();
            read(subscriber, number..number + 1);
            number += 1;
        }
    };
    pass(&mut publisher, &mut subscriber);
    dispatcher.kill();
    // Nobody waits for anything.
    pass(&mut publisher, &mut subscriber);
    for events in &attached {
        wait_for(events, |event| matches!(event, NodeEvent::Detached { .. }));
        wait_for(events, |event| matches!(event, NodeEvent::Attached { .. }));
    }
    // The links that were are still there, and only once; new ones are made.
    pass(&mut publisher, &mut subscriber);
    assert_eq!((publisher.subscribers(), subscriber.publishers()), (1, 1));
    let mut late = other.subscriber::<[u8]>("data").reliable().create().unwrap();
    assert_eq!(publisher.wait_for_subscribers(2, DEADLINE).unwrap(), 2);
    publisher.publish(b"to both").unwrap();
    assert_eq!(&*late.receive_timeout(DEADLINE).unwrap().unwrap(), b"to both");
    assert_eq!(&*subscriber.receive_timeout(DEADLINE).unwrap().unwrap(), b"to both");
    assert_eq!(subscriber.missed(), 0);
}
