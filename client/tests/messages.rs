//! Messages between nodes, through the public interface only.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]
use std::path::PathBuf;
use std::time::Duration;

use nodeset::{Message, Node, NodeBuilder, PublishError, Readiness, ReceiveError, WaitStrategy};
use rkyv::{Archive, Deserialize, Serialize};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Archive, Serialize, Deserialize, Message, Debug, Clone, PartialEq)]
struct Reading {
    core: u32,
    loads: Vec<f32>,
    host: String,
}

/// A place for a dispatcher of the test's own.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(TempDir::new().unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("d.sock")
    }

    fn builder(&self, name: &str) -> NodeBuilder {
        Node::builder(name).socket(self.socket()).embedded()
    }

    fn node(&self, name: &str) -> Node {
        self.builder(name).connect().unwrap()
    }
}

#[test]
fn typed_messages_cross_in_order() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let mut publisher = one.publisher::<Reading>("machine/load").create().unwrap();
    let mut subscriber = other.subscriber::<Reading>("machine/load").reliable().create().unwrap();
    assert_eq!(publisher.wait_for_subscribers(1, DEADLINE).unwrap(), 1);
    assert_eq!(publisher.subscribers(), 1);
    assert_eq!(subscriber.publishers(), 1);
    for core in 0..1000 {
        let host = "h".repeat(core as usize % 7);
        publisher.publish(&Reading { core, loads: vec![0.5; core as usize % 5], host: host.clone() }).unwrap();
        let sample = subscriber.receive().unwrap();
        assert_eq!(sample.core, core);
        assert_eq!(sample.loads.len(), core as usize % 5);
        assert_eq!(sample.host, host.as_str());
        assert_eq!((sample.publisher(), sample.topic(), sample.missed_before()), ("one", "machine/load", 0));
    }
    assert!(subscriber.try_receive().unwrap().is_none());
    assert_eq!(subscriber.missed(), 0);
}

#[test]
fn whoever_comes_first_finds_the_other() {
    let place = Place::new();
    let node = place.node("only");
    let mut subscriber = node.subscriber::<str>("chat").reliable().create().unwrap();
    assert_eq!(subscriber.publishers(), 0);
    let mut publisher = node.publisher::<str>("chat").create().unwrap();
    // Linked when `create` returns.
    assert_eq!(publisher.subscribers(), 1);
    publisher.publish("hello").unwrap();
    assert_eq!(&*subscriber.receive().unwrap(), "hello");
    // And those who come later.
    let mut late = node.subscriber::<str>("chat").reliable().create().unwrap();
    publisher.publish("again").unwrap();
    assert_eq!(&*late.receive().unwrap(), "again");
    assert_eq!(&*subscriber.receive().unwrap(), "again");
}

#[test]
fn loans_are_written_in_place_and_samples_can_be_kept() {
    let place = Place::new();
    let node = place.node("camera");
    let mut publisher = node.publisher::<[u8]>("image").create().unwrap();
    let mut subscriber = node.subscriber::<[u8]>("image").reliable().create().unwrap();
    drop(publisher.loan(1000).unwrap()); // abandoned: as if it had never been
    let mut kept = Vec::new();
    for image in 0..40_u8 {
        let mut loan = publisher.loan(100_000).unwrap();
        assert!(loan.iter().all(|&byte| byte == 0));
        loan.fill(image);
        assert_eq!(loan.send(), u64::from(image) + kept.first().map_or(0, nodeset::OwnedSample::sequence));
        kept.push(subscriber.receive().unwrap().into_owned().unwrap());
    }
    let mut short = publisher.loan_uninit(100).unwrap();
    short[..3].copy_from_slice(b"abc");
    short.send_first(3);
    assert_eq!(&*subscriber.receive().unwrap(), b"abc");
    drop((publisher, subscriber, node));
    for (image, sample) in kept.iter().enumerate() {
        assert_eq!(sample.len(), 100_000);
        assert!(sample.iter().all(|&byte| byte as usize == image), "image {image}");
    }
}

#[test]
fn what_is_copied_holds_nothing_of_its_publishers() {
    let place = Place::new();
    let node = place.node("camera");
    let mut publisher = node.publisher::<[u8]>("image").block_len(4096).blocks(4).create().unwrap();
    let mut subscriber = node.subscriber::<[u8]>("image").reliable().copied().create().unwrap();
    let mut kept = Vec::new();
    // Each takes a block of its own, of four.
    for image in 0..64_u8 {
        publisher.try_publish(&[image; 4000]).unwrap();
        kept.push(subscriber.receive().unwrap().into_owned().unwrap());
    }
    for (image, sample) in kept.iter().enumerate() {
        assert!(sample.len() == 4000 && sample.iter().all(|&byte| byte as usize == image), "image {image}");
    }
}

#[test]
fn a_blocked_thread_wakes_for_each_message() {
    let place = Place::new();
    for wait in [WaitStrategy::Block, WaitStrategy::Yield, WaitStrategy::Spin] {
        let (one, other) = (place.node("one"), place.node("other"));
        let there = one.publisher::<[u8]>("ping").create().unwrap();
        let mut back = one.subscriber::<[u8]>("pong").reliable().wait(wait).create().unwrap();
        let echo = std::thread::spawn(move || {
            let mut ping = other.subscriber::<[u8]>("ping").reliable().wait(wait).create().unwrap();
            let mut pong = other.publisher::<[u8]>("pong").create().unwrap();
            loop {
                let sample = ping.receive().unwrap();
                pong.publish(&sample).unwrap();
                if sample.is_empty() {
                    return;
                }
            }
        });
        let mut publisher = there;
        publisher.wait_for_subscribers(1, DEADLINE).unwrap();
        for round in (0..200_u32).rev() {
            let text = vec![round as u8; round as usize];
            publisher.publish(&text).unwrap();
            let answer = back.receive_timeout(DEADLINE).unwrap().expect("an answer");
            assert_eq!(&*answer, &text[..]);
        }
        echo.join().unwrap();
    }
}

#[test]
fn several_threads_of_a_node_wait_without_taking_each_others_wake() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    const TOPICS: usize = 4;
    const ROUNDS: u32 = 300;
    let mut publishers: Vec<_> =
        (0..TOPICS).map(|at| one.publisher::<u32>(format!("topic/{at}")).create().unwrap()).collect();
    let threads: Vec<_> = (0..TOPICS)
        .map(|at| {
            let mut subscriber = other.subscriber::<u32>(format!("topic/{at}")).reliable().create().unwrap();
            let mut answer = other.publisher::<u32>(format!("answer/{at}")).create().unwrap();
            std::thread::spawn(move || {
                for round in 0..ROUNDS {
                    assert_eq!(*subscriber.receive().unwrap(), round);
                    answer.publish(&round).unwrap();
                }
            })
        })
        .collect();
    let mut answers: Vec<_> =
        (0..TOPICS).map(|at| one.subscriber::<u32>(format!("answer/{at}")).reliable().create().unwrap()).collect();
    for round in 0..ROUNDS {
        for at in 0..TOPICS {
            publishers[at].publish(&round).unwrap();
            if (round as usize + at) % 3 == 0 {
                // Now and then nothing else is on its way.
                assert_eq!(*answers[at].receive_timeout(DEADLINE).unwrap().expect("an answer"), round);
            }
        }
        for at in (0..TOPICS).filter(|at| (round as usize + at) % 3 != 0) {
            assert_eq!(*answers[at].receive_timeout(DEADLINE).unwrap().expect("an answer"), round);
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_full_log_names_who_is_slow_and_goes_on_when_it_reads() {
    let place = Place::new();
    let (one, other) = (place.node("fast"), place.node("slow"));
    let mut publisher =
        one.publisher::<[u8]>("data").block_len(4096).blocks(8).deadline(Duration::from_millis(50)).create().unwrap();
    let mut subscriber = other.subscriber::<[u8]>("data").reliable().create().unwrap();
    let mut sent = 0_u32;
    let full = loop {
        match publisher.publish(&[sent as u8; 1000]) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
    };
    let PublishError::Full { slowest, waited, .. } = &full else { panic!("{full}") };
    assert_eq!(slowest.as_deref(), Some("slow"));
    assert!(*waited >= Duration::from_millis(50));
    assert!(full.to_string().contains("node `slow`"), "{full}");
    assert!(matches!(publisher.try_publish(&[0; 1000]), Err(PublishError::Full { .. })));
    assert!(matches!(publisher.publish(&[0; 40_000]), Err(PublishError::TooLong { .. })));
    for expected in 0..sent {
        assert_eq!(&*subscriber.receive().unwrap(), &[expected as u8; 1000]);
    }
    publisher.publish(&[7; 1000]).unwrap();
    assert_eq!(&*subscriber.receive().unwrap(), &[7; 1000]);
    assert_eq!(subscriber.missed(), 0);
}

#[test]
fn a_publisher_that_sleeps_for_room_is_woken_by_a_reader() {
    let place = Place::new();
    let (one, other) = (place.node("fast"), place.node("slow"));
    let mut publisher = one.publisher::<[u8]>("data").block_len(4096).blocks(4).deadline(DEADLINE).create().unwrap();
    let mut subscriber = other.subscriber::<[u8]>("data").reliable().create().unwrap();
    const MESSAGES: u32 = 2000;
    let reader = std::thread::spawn(move || {
        for expected in 0..MESSAGES {
            let sample = subscriber.receive().unwrap();
            assert_eq!(&sample[..4], &expected.to_le_bytes());
            if expected % 50 == 0 {
                std::thread::yield_now();
            }
        }
    });
    let mut message = [0; 900];
    for number in 0..MESSAGES {
        message[..4].copy_from_slice(&number.to_le_bytes());
        publisher.publish(&message).unwrap();
    }
    reader.join().unwrap();
}

#[test]
fn a_lossy_subscriber_counts_what_it_missed() {
    let place = Place::new();
    let node = place.node("node");
    let mut publisher = node.publisher::<u64>("counter").block_len(4096).blocks(8).create().unwrap();
    let mut subscriber = node.subscriber::<u64>("counter").create().unwrap();
    const MESSAGES: u64 = 100_000;
    for number in 0..MESSAGES {
        publisher.publish(&number).unwrap();
    }
    drop(publisher);
    let (mut received, mut expected) = (0, 0);
    while let Some(sample) = subscriber.receive_timeout(Duration::ZERO).unwrap() {
        expected += sample.missed_before();
        assert_eq!(*sample, expected);
        expected += 1;
        received += 1;
    }
    assert!(received > 0);
    assert_eq!(received + subscriber.missed(), MESSAGES);
}

#[test]
fn an_event_loop_waits_on_the_descriptor() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let mut publisher = one.publisher::<u64>("ticks").create().unwrap();
    let mut subscriber = other.subscriber::<u64>("ticks").reliable().create().unwrap();
    const MESSAGES: u64 = 2000;
    let writer = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            publisher.publish(&number).unwrap();
            if number % 7 == 0 {
                std::thread::yield_now();
            }
        }
        publisher
    });
    let mut due = 0;
    while due < MESSAGES {
        while let Some(sample) = subscriber.try_receive().unwrap() {
            assert_eq!(*sample, due);
            due += 1;
        }
        if let Readiness::Armed(armed) = subscriber.arm().unwrap() {
            if due == MESSAGES {
                break;
            }
            let timeout = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&subscriber, PollFlags::IN)], Some(&timeout)).unwrap();
            assert_eq!(ready, 1, "nothing came after {due} messages");
            drop(armed);
        }
    }
    drop(writer.join().unwrap());
}

#[test]
fn two_types_on_one_topic_are_refused_in_either_order() {
    #[derive(Archive, Serialize, Deserialize, Message)]
    #[message(name = "Reading")]
    struct Other {
        core: u64,
        loads: Vec<f32>,
        host: String,
    }
    let place = Place::new();
    let node = place.node("first");
    let publisher = node.publisher::<Reading>("load").create().unwrap();
    let error = node.subscriber::<Other>("load").create().unwrap_err().to_string();
    assert!(error.contains("core") && error.contains("first"), "{error}");
    drop(publisher);
    let _subscriber = node.subscriber::<Other>("load").create().unwrap();
    let error = node.publisher::<Reading>("load").create().unwrap_err().to_string();
    assert!(error.contains("core") && error.contains("first"), "{error}");
    // Tools read anything.
    let mut publisher = node.publisher::<str>("text").create().unwrap();
    let mut any = node.subscriber::<[u8]>("text").any_schema().create().unwrap();
    publisher.publish("as bytes").unwrap();
    let sample = any.receive().unwrap();
    assert_eq!(&*sample, b"as bytes");
    assert!(sample.schema().is_text());
}

#[test]
fn bad_topics_names_and_shapes_are_refused_with_a_reason() {
    let place = Place::new();
    let node = place.node("node");
    for topic in ["", "a//b", "/a", "a/x*", "with space", "a/b@c"] {
        let error = node.publisher::<u32>(topic).create().unwrap_err().to_string();
        assert!(error.contains(topic), "{error}");
        let error = node.subscriber::<u32>(topic).create().unwrap_err().to_string();
        assert!(error.contains(topic), "{error}");
    }
    node.publisher::<u32>("a").block_len(1000).create().unwrap_err();
    node.publisher::<u32>("a").blocks(1).create().unwrap_err();
    let error = place.builder("a b").connect().unwrap_err().to_string();
    assert!(error.contains("a b"), "{error}");
    let error = Node::builder("x").socket(place.0.path().join("nobody.sock")).connect().unwrap_err().to_string();
    assert!(error.contains("nodeset-dispatcher"), "{error}");
}

#[test]
fn samples_outlive_their_node_and_a_publisher_that_ends_is_drained() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let mut publisher = one.publisher::<str>("news").create().unwrap();
    let mut subscriber = other.subscriber::<str>("news").reliable().create().unwrap();
    publisher.publish("first").unwrap();
    publisher.publish("last").unwrap();
    drop((publisher, one));
    let first = subscriber.receive().unwrap().into_owned().unwrap();
    assert_eq!(&*subscriber.receive().unwrap(), "last");
    assert!(subscriber.receive_timeout(Duration::ZERO).unwrap().is_none());
    drop((subscriber, other));
    assert_eq!(&*first, "first");
    // Found again by those who come later.
    let node = place.node("three");
    let again = node.publisher::<str>("news").create().unwrap();
    assert_eq!(again.subscribers(), 0);
}

#[test]
fn iterators_yield_samples_to_keep() {
    let place = Place::new();
    let node = place.node("node");
    let mut publisher = node.publisher::<u32>("n").create().unwrap();
    let mut subscriber = node.subscriber::<u32>("n").reliable().create().unwrap();
    for number in 0..10 {
        publisher.publish(&number).unwrap();
    }
    let all: Result<Vec<_>, ReceiveError> = subscriber.iter().take(10).collect();
    assert!(all.unwrap().iter().map(|sample| **sample).eq(0..10));
}

/// Bug: a publisher panicked when it published an empty message while its block was filled to the end.
/// Cause: "no room for a payload" and "room for one of 0 bytes, behind a header" were the same number.
/// Cure: a block is asked whether a message fits, header and all.
#[test]
fn empty_messages_cross_also_where_a_block_ends() {
    const BLOCK: u32 = 4096;
    let place = Place::new();
    let node = place.node("node");
    let mut publisher = node.publisher::<[u8]>("nothing").block_len(BLOCK).create().unwrap();
    let mut subscriber = node.subscriber::<[u8]>("nothing").reliable().create().unwrap();
    // 255 frames fill a block: its end is met by each of the ways.
    for number in 0..BLOCK {
        match number % 4 {
            0 => publisher.publish(&[]).unwrap(),
            1 => publisher.try_publish(&[]).unwrap(),
            _ => publisher.loan(0).unwrap().send(),
        };
        assert!(subscriber.receive().unwrap().is_empty());
    }
}

/// Bug: a publisher with lossy subscribers only could get stuck with `Full`, for good.
/// Cause: messages kept in case somebody falls behind (`depth`) filled a small log, and nobody could make room.
/// Cure: what is only kept gives way.
#[test]
fn a_publisher_with_lossy_subscribers_only_never_waits() {
    let place = Place::new();
    let node = place.node("node");
    let mut publisher = node.publisher::<[u8]>("images").block_len(4096).blocks(8).create().unwrap();
    let mut subscriber = node.subscriber::<[u8]>("images").create().unwrap();
    for number in 0..1000_u64 {
        publisher.try_publish(&[number as u8; 2500]).unwrap();
    }
    let mut seen = 0;
    while let Some(sample) = subscriber.try_receive().unwrap() {
        assert!(sample.iter().all(|&byte| byte == sample.sequence() as u8));
        seen += 1 + sample.missed_before();
    }
    assert_eq!(seen, 1000);
}
