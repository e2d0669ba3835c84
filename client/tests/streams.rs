//! Streams: who gets what, what becomes of the slow and the dead, and how they end.
//!
//! The other processes are this test's own program, started again for one of the [`roles`].

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::time::Duration;

use nodeset::{
    AdvertiseError, Bytes, Codec, CodecError, Message, Node, NodeEvent, OnFull, PushError, Schema, StreamError,
    StreamReceiver, StreamSender, Typed, WaitSet,
};
use rkyv::{Archive, Deserialize, Serialize};
use support::{DEADLINE, Other, Place, check, events, message, wait_for};

/// What the other processes do; as a test of its own it does nothing.
#[test]
fn roles() {
    let Some((role, socket)) = support::role() else { return };
    let node = Node::builder(role.clone()).socket(socket).embedded().standby(Duration::ZERO).connect().unwrap();
    match role.as_str() {
        // Takes ten, then stands still.
        "receiver" => {
            let mut receiver = node.stream_receiver("film").create().unwrap();
            println!("ready");
            for _ in 0..10 {
                receiver.receive().unwrap();
            }
            println!("had ten");
            std::thread::park();
        }
        // Sends as long as it lives.
        "sender" => {
            let mut sender = node.stream("film").on_full(OnFull::Wait(DEADLINE)).create().unwrap();
            for number in 0.. {
                sender.push(&message(number)).unwrap();
            }
        }
        "dispatcher" => {
            println!("ready");
            std::thread::park();
        }
        other => panic!("no such role: {other}"),
    }
}

fn receiver(node: &Node) -> StreamReceiver<Bytes> {
    node.stream_receiver("film").create().unwrap()
}

fn sender(node: &Node) -> StreamSender<Bytes> {
    node.stream("film").on_full(OnFull::Wait(DEADLINE)).create().unwrap()
}

/// Receives those numbers, in order.
fn receive(receiver: &mut StreamReceiver<Bytes>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        check(&receiver.receive_timeout(DEADLINE).unwrap().expect("an item"), number);
    }
}

fn push(sender: &mut StreamSender<Bytes>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        sender.push(&message(number)).unwrap();
    }
}

fn expect_finished(receiver: &mut StreamReceiver<Bytes>, expected: u64) {
    match receiver.receive_timeout(DEADLINE) {
        Err(StreamError::Finished { missed, .. }) => assert_eq!(missed, expected),
        other => panic!("not the end: {other:?}"),
    }
    assert!(receiver.try_receive().unwrap().is_none(), "nothing follows the end");
}

#[test]
fn everybody_gets_everything_from_when_it_joined_and_then_the_end() {
    let place = Place::new();
    let node = place.node("projector");
    let mut first = receiver(&place.node("first"));
    let mut sender = sender(&node);
    push(&mut sender, 0..10);
    let mut late = receiver(&place.node("late"));
    assert_eq!(sender.wait_for_receivers(2, DEADLINE).unwrap(), 2);
    push(&mut sender, 10..20);
    assert_eq!(sender.receivers().len(), 2);
    receive(&mut first, 0..5);
    assert_eq!(sender.push_all([&message(20)[..], &message(21)]).unwrap(), 2);
    assert_eq!(
        sender.push_with(600, |bytes| {
            bytes[..support::LEN].copy_from_slice(&message(22));
            support::LEN
        }),
        Ok(2)
    );
    sender.finish().unwrap();
    receive(&mut first, 5..23);
    receive(&mut late, 10..23);
    expect_finished(&mut first, 0);
    expect_finished(&mut late, 0);
}

#[test]
fn one_that_leaves_is_taken_off_and_the_others_notice_nothing() {
    let place = Place::new();
    let node = place.node("projector");
    let events = events(&node);
    let (mut stays, mut leaves) = (receiver(&place.node("stays")), receiver(&place.node("leaves")));
    let mut sender = sender(&node);
    push(&mut sender, 0..5);
    receive(&mut leaves, 0..5);
    assert!(leaves.try_receive().unwrap().is_none());
    drop(leaves);
    wait_for(&events, |event| matches!(event, NodeEvent::LinkEnded { peer, died: false, .. } if &**peer == "leaves"));
    push(&mut sender, 5..10);
    assert_eq!(sender.receivers(), ["stays".into()]);
    assert_eq!(sender.lost(), 0);
    receive(&mut stays, 0..10);
}

#[test]
fn without_receivers_items_go_to_nobody() {
    let place = Place::new();
    let mut sender = sender(&place.node("projector"));
    assert_eq!(sender.push(b"nobody"), Ok(0));
    assert_eq!(sender.push_with(9, |_| unreachable!("there is no lane to write to")), Ok(0));
    sender.finish().unwrap();
}

#[test]
fn a_full_lane_is_waited_for_or_an_error_that_nobody_got() {
    let place = Place::new();
    let node = place.node("projector");
    let (mut slow, mut quick) = (receiver(&place.node("slow")), receiver(&place.node("quick")));
    let mut sender = node.stream("film").on_full(OnFull::Fail).capacity(1).create().unwrap();
    let mut pushed = 0;
    let full = loop {
        match sender.push(&message(pushed)) {
            Ok(2) => pushed += 1,
            other => break other.unwrap_err(),
        }
        receive(&mut quick, pushed - 1..pushed);
    };
    assert!(matches!(&full, PushError::Full { receiver, .. } if &**receiver == "slow"), "{full:?}");
    assert!(quick.try_receive().unwrap().is_none(), "nobody got it");
    let limit = match sender.push(&vec![0; 1 << 20]).unwrap_err() {
        PushError::TooLong { limit, .. } => limit,
        other => panic!("{other:?}"),
    };
    assert!((60_000..1 << 20).contains(&limit), "{limit}");
    receive(&mut slow, 0..pushed);
    assert!(slow.try_receive().unwrap().is_none());
    drop(sender);
    // Before the next one sends: there is no order between senders.
    for receiver in [&mut slow, &mut quick] {
        assert!(matches!(receiver.receive(), Err(StreamError::SenderLost { .. })), "it did not finish");
    }

    // The same, waiting: a slow one holds it up, and nothing is lost.
    let mut sender = node.stream("film").on_full(OnFull::Wait(DEADLINE)).capacity(1).create().unwrap();
    let count = 4 * pushed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            push(&mut sender, 0..count);
            sender.finish().unwrap();
        });
        scope.spawn(|| receive(&mut quick, 0..count));
        receive(&mut slow, 0..count);
    });
    expect_finished(&mut slow, 0);
    expect_finished(&mut quick, 0);
}

#[test]
fn what_is_left_out_is_counted_exactly() {
    let place = Place::new();
    let node = place.node("projector");
    let (mut slow, mut quick) = (receiver(&place.node("slow")), receiver(&place.node("quick")));
    let mut sender = node.stream("film").on_full(OnFull::LeaveOut).capacity(1).create().unwrap();
    let mut had = 0;
    for number in 0..2000 {
        had += u64::from(sender.push(&message(number)).unwrap() == 2);
        receive(&mut quick, number..number + 1);
    }
    assert!(had < 2000 && sender.left_out() == 2000 - had);
    receive(&mut slow, 0..had);
    assert!(slow.try_receive().unwrap().is_none());
    assert_eq!(sender.push(&message(2000)), Ok(2));
    let item = slow.receive().unwrap();
    assert_eq!(item.missed_before(), 2000 - had);
    check(&item, 2000);
    assert_eq!(slow.missed(), 2000 - had);
    receive(&mut quick, 2000..2001);
    sender.finish().unwrap();
    expect_finished(&mut slow, 0);
    expect_finished(&mut quick, 0);
    assert_eq!(quick.missed(), 0);
}

#[test]
fn a_receiver_that_is_killed_holds_up_nobody() {
    let place = Place::new();
    let node = place.node("projector");
    let events = events(&node);
    let mut stays = receiver(&place.node("stays"));
    let mut other = Other::start("receiver", &place.socket());
    other.wait_for("ready");
    let mut sender = node.stream("film").on_full(OnFull::Wait(DEADLINE)).capacity(1).create().unwrap();
    assert_eq!(sender.wait_for_receivers(2, DEADLINE).unwrap(), 2);
    let count = 3000;
    std::thread::scope(|scope| {
        // Far more than the lane of one that stands still takes: without its death this would not end.
        scope.spawn(|| push(&mut sender, 0..count));
        scope.spawn(|| receive(&mut stays, 0..count));
        other.wait_for("had ten");
        other.kill();
    });
    wait_for(&events, |event| matches!(event, NodeEvent::LinkEnded { peer, died: true, .. } if &**peer == "receiver"));
    assert!(sender.lost() > 0);
    sender.finish().unwrap();
    expect_finished(&mut stays, 0);
}

#[test]
fn a_sender_that_is_killed_is_told_after_what_it_sent() {
    let place = Place::new();
    let mut receiver = receiver(&place.node("audience"));
    let mut other = Other::start("sender", &place.socket());
    receive(&mut receiver, 0..500);
    other.kill();
    let mut number = 500;
    let lost = loop {
        match receiver.receive_timeout(DEADLINE) {
            Ok(item) => check(&item.expect("an item or its death"), number),
            Err(error) => break error,
        }
        number += 1;
    };
    assert!(matches!(&lost, StreamError::SenderLost { sender } if &**sender == "sender"), "{lost:?}");
    // Another one takes its place.
    let _again = Other::start("sender", &place.socket());
    receive(&mut receiver, 0..100);
}

#[test]
fn streams_go_on_without_the_dispatcher() {
    let place = Place::new();
    let mut dispatcher = Other::start("dispatcher", &place.socket());
    dispatcher.wait_for("ready");
    let join = |name: &str| {
        let builder = Node::builder(name).socket(place.socket()).reconnect_at_most(Duration::from_millis(20));
        builder.connect().unwrap()
    };
    let (projector, audience) = (join("projector"), join("audience"));
    let mut receiver = receiver(&audience);
    let mut sender = sender(&projector);
    let events = events(&projector);
    push(&mut sender, 0..100);
    receive(&mut receiver, 0..50);
    dispatcher.kill();
    wait_for(&events, |event| matches!(event, NodeEvent::Detached { .. }));
    push(&mut sender, 100..200);
    receive(&mut receiver, 50..200);
    // A new one is handed back what there is, and one more can join.
    let mut dispatcher = Other::start("dispatcher", &place.socket());
    dispatcher.wait_for("ready");
    wait_for(&events, |event| matches!(event, NodeEvent::Attached { .. }));
    let mut late = self::receiver(&join("late"));
    assert_eq!(sender.wait_for_receivers(2, DEADLINE).unwrap(), 2);
    push(&mut sender, 200..300);
    sender.finish().unwrap();
    receive(&mut receiver, 200..300);
    receive(&mut late, 200..300);
    expect_finished(&mut receiver, 0);
    expect_finished(&mut late, 0);
}

#[derive(Archive, Serialize, Deserialize, Message)]
struct Picture {
    number: u32,
    pixels: Vec<u16>,
}

#[test]
fn typed_items_are_seen_in_place() {
    let place = Place::new();
    let node = place.node("projector");
    let mut receiver = node.stream_receiver("film").codec(Typed::<Picture>::new()).create().unwrap();
    let mut sender = node.stream("film").codec(Typed::<Picture>::new()).create().unwrap();
    for number in 0..3 {
        sender.push(&Picture { number, pixels: vec![number as u16; 1000] }).unwrap();
        let picture = receiver.receive().unwrap().into_view();
        assert_eq!(picture.number, number);
        assert!(picture.pixels.len() == 1000 && picture.pixels.iter().all(|pixel| *pixel == number as u16));
    }
    // Another type is an error, not garbage.
    let other = node.stream("film").create();
    assert!(matches!(other, Err(AdvertiseError::Mismatch { .. })), "{other:?}");
}

#[cfg(feature = "lz4")]
#[test]
fn compressed_items_come_back_and_garbage_is_an_error() {
    use nodeset::Lz4;

    /// Says that it is `Lz4`, and sends what it is given.
    struct Liar;

    impl Codec for Liar {
        type Item = [u8];
        type View<'a> = &'a [u8];

        fn schema(&self) -> Schema {
            Lz4::default().schema()
        }

        fn encode<'a>(&'a mut self, item: &'a [u8]) -> Result<&'a [u8], CodecError> {
            Ok(item)
        }

        fn decode<'a>(&'a mut self, bytes: &'a [u8]) -> Result<&'a [u8], CodecError> {
            Ok(bytes)
        }
    }

    let place = Place::new();
    let node = place.node("projector");
    let mut receiver = node.stream_receiver("film").codec(Lz4::default()).create().unwrap();
    let mut sender = node.stream("film").codec(Lz4::default()).create().unwrap();
    let mut liar = node.stream("film").codec(Liar).create().unwrap();
    sender.push(&[7; 100_000]).unwrap();
    assert_eq!(*receiver.receive().unwrap(), [7; 100_000]);
    for garbage in [&[][..], &[1, 2, 3], &[255; 100], &[&u64::MAX.to_le_bytes()[..], &[0; 50]].concat()] {
        liar.push(garbage).unwrap();
        let error = receiver.receive().unwrap_err();
        assert!(matches!(error, StreamError::Codec { .. }), "{error:?}");
    }
    sender.push(b"still there").unwrap();
    assert_eq!(*receiver.receive().unwrap(), b"still there");
}

#[test]
fn a_wait_set_and_an_event_loop_wait_for_it() {
    let place = Place::new();
    let node = place.node("audience");
    let mut set = WaitSet::new().unwrap();
    let key = set.attach(receiver(&node)).unwrap();
    let mut sender = sender(&place.node("projector"));
    std::thread::scope(|scope| {
        scope.spawn(|| push(&mut sender, 0..1));
        let ready = set.wait().unwrap();
        assert!(ready.has(key));
        receive(&mut set[key], 0..1);
    });
    assert!(set[key].try_receive().unwrap().is_none());
    assert!(matches!(set[key].arm().unwrap(), nodeset::Readiness::Armed(_)));
    push(&mut sender, 1..2);
    assert!(matches!(set[key].arm().unwrap(), nodeset::Readiness::Ready));
}

#[test]
fn names_are_checked() {
    let place = Place::new();
    let node = place.node("projector");
    for name in ["", "a//b", "a/*", "arm@local/film"] {
        assert!(matches!(node.stream(name).create(), Err(AdvertiseError::Topic { .. })), "{name}");
        assert!(node.stream_receiver(name).create().is_err(), "{name}");
    }
}
