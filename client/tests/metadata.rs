//! What a sample says beside its message: who published it, where, when, under which number and tag.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::time::Duration;

use nodeset::{Node, Timestamp};
use support::{DEADLINE, Other, Place};

/// What the other process does; as a test of its own it does nothing.
#[test]
fn roles() {
    let Some((role, socket)) = support::role() else { return };
    let node = Node::builder(role).socket(socket).connect().unwrap();
    let mut publisher = node.publisher::<str>("words").timestamps(true).create().unwrap();
    publisher.wait_for_subscribers(1, DEADLINE).unwrap();
    publisher.publish("plain").unwrap();
    publisher.publish_tagged("tagged", u64::MAX).unwrap();
    std::thread::park();
}

#[test]
fn a_message_of_another_process_says_who_when_and_what_for() {
    let place = Place::new();
    let node = place.node("reader");
    let mut subscriber = node.subscriber::<str>("words").reliable().create().unwrap();
    let before = Timestamp::now();
    let _speaker = Other::start("speaker", &place.socket());
    let plain = subscriber.receive_timeout(DEADLINE).unwrap().expect("a message").into_owned().unwrap();
    let tagged = subscriber.receive_timeout(DEADLINE).unwrap().expect("a message");
    assert_eq!((plain.sequence(), plain.publisher(), plain.topic(), plain.tag()), (0, "speaker", "words", None));
    assert_eq!((tagged.sequence(), tagged.tag()), (1, Some(u64::MAX)));
    assert_eq!((plain.host(), tagged.host()), (&*node.host(), &*node.host()));
    assert!(before <= plain.published_at().unwrap() && plain.published_at() <= tagged.published_at());
    assert!(tagged.published_at().unwrap() <= Timestamp::now());
    assert!(plain.age().unwrap() <= Timestamp::now().since(before));
    // What is kept, and its clones, say the same.
    let (tag, time) = (tagged.tag(), tagged.published_at());
    let kept = tagged.into_owned().unwrap().clone();
    assert_eq!((kept.tag(), kept.published_at(), &*kept), (tag, time, "tagged"));
}

#[test]
fn what_was_not_sent_is_not_there() {
    let place = Place::new();
    let node = place.node("node");
    let mut publisher = node.publisher::<[u8]>("bytes").create().unwrap();
    let mut readers = [
        node.subscriber::<[u8]>("bytes").reliable().create().unwrap(),
        node.subscriber::<[u8]>("bytes").reliable().copied().create().unwrap(),
    ];
    publisher.publish(b"plain").unwrap();
    publisher.publish_tagged(b"tagged", 0).unwrap();
    publisher.loan(4).unwrap().send();
    let mut loan = publisher.loan_tagged(5, 3).unwrap();
    assert_eq!(*loan, [0; 5]);
    loan.copy_from_slice(b"image");
    loan.send();
    // More than fits into a block.
    let mut long = publisher.loan_tagged(200_000, 4).unwrap();
    long.fill(9);
    long.send_first(150_000);
    publisher.publish_tagged(&[8; 200_000], 5).unwrap();
    for reader in &mut readers {
        for (payload, tag) in [
            (b"plain".to_vec(), None),
            (b"tagged".to_vec(), Some(0)),
            (vec![0; 4], None),
            (b"image".to_vec(), Some(3)),
            (vec![9; 150_000], Some(4)),
            (vec![8; 200_000], Some(5)),
        ] {
            let sample = reader.receive_timeout(DEADLINE).unwrap().expect("a message");
            assert_eq!((sample.payload(), sample.tag()), (payload.as_slice(), tag));
            assert_eq!((sample.published_at(), sample.age()), (None, None));
        }
        assert!(reader.try_receive().unwrap().is_none());
    }
}

#[test]
fn a_direct_publisher_stamps_and_tags_as_well() {
    let place = Place::new();
    let node = place.node("node");
    let mut worker = node.subscriber::<str>("jobs").create().unwrap();
    let mut jobs = node.publisher::<str>("jobs").timestamps(true).direct().create().unwrap();
    let before = Timestamp::now();
    jobs.publish("dig").unwrap();
    jobs.publish_tagged("sow", 7).unwrap();
    jobs.publish_to_tagged("node", "reap", 8).unwrap();
    jobs.try_publish("rest").unwrap();
    for (text, tag) in [("dig", None), ("sow", Some(7)), ("reap", Some(8)), ("rest", None)] {
        let job = worker.receive_timeout(DEADLINE).unwrap().expect("a job");
        assert_eq!((&*job, job.tag()), (text, tag));
        assert!(job.published_at() >= Some(before));
    }
}

#[test]
fn what_a_worker_had_not_handled_keeps_its_tag() {
    let place = Place::new();
    let node = place.node("node");
    let mut jobs = node.publisher::<str>("jobs").direct().redeliver(true).create().unwrap();
    let lazy = node.subscriber::<str>("jobs").create().unwrap();
    jobs.publish_tagged("dig", 7).unwrap();
    let mut worker = node.subscriber::<str>("jobs").create().unwrap();
    drop(lazy);
    let job = worker.receive_timeout(DEADLINE).unwrap().expect("a job");
    assert_eq!((&*job, job.tag()), ("dig", Some(7)));
}

#[test]
fn requests_and_replies_say_when_they_were_made_if_asked_to() {
    let place = Place::new();
    let node = place.node("node");
    for stamps in [true, false] {
        let mut server = node.server::<str, str>("echo").timestamps(stamps).create().unwrap();
        let answering = std::thread::spawn(move || {
            let request = server.receive().unwrap();
            let asked = request.sample().published_at();
            assert_eq!((request.sample().topic().starts_with("echo/$call/"), request.client()), (true, "node"));
            let text = request.message();
            request.reply(text).unwrap();
            asked
        });
        let mut client = node.client::<str, str>("echo").timestamps(stamps).create().unwrap();
        let before = Timestamp::now();
        let answered = client.request("hello", DEADLINE).unwrap().published_at();
        let asked = answering.join().unwrap();
        assert_eq!((asked.is_some(), answered.is_some()), (stamps, stamps));
        assert!(!stamps || (asked >= Some(before) && answered >= asked), "{before:?} {asked:?} {answered:?}");
    }
}

#[test]
fn loans_are_stamped_when_they_are_sent() {
    let place = Place::new();
    let node = place.node("node");
    let mut publisher = node.publisher::<[u8]>("bytes").timestamps(true).create().unwrap();
    let mut subscriber = node.subscriber::<[u8]>("bytes").reliable().create().unwrap();
    for number in 0..1000_u64 {
        let mut loan = publisher.loan_uninit(number as usize).unwrap();
        loan.fill(number as u8);
        let written = Timestamp::now();
        assert_eq!(loan.send(), number);
        let sample = subscriber.receive_timeout(DEADLINE).unwrap().expect("a message");
        assert_eq!(*sample, vec![number as u8; number as usize]);
        assert!(sample.published_at().unwrap() >= written);
        assert!(sample.age().unwrap() < Duration::from_secs(3600), "an age of the time since 1970");
    }
}
