//! What another host may not say; and anything at all.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use super::pair::{LOG, OTHER, Pair, Told, body, want};
use crate::bridge::codec::{Announced, EndReason, FrameIn, Piece, Quality, Record, put_frame};

/// What `b` says when `a` says this, in the midst of sending `LOG` (channel 1), of which it has sent 10 messages.
fn answer(record: &Record<'_>) -> Option<String> {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.more(LOG, 10);
    pair.exchange();
    pair.say(record);
    let Reason::Violation(text) = pair.b.closed()? else { panic!("{:?}", pair.b.closed()) };
    // The other side hears the same.
    let Some(Action::Close { goodbye, .. }) = pair.b.actions.last() else { panic!("it closes") };
    pair.a.read(pair.now, &goodbye.clone());
    let heard = pair.a.closed().expect("it was told").to_string();
    assert!(heard.contains(text), "{heard}");
    Some(text.clone())
}

fn run(first: u64, count: u32) -> Vec<u8> {
    let mut frames = Vec::new();
    for sequence in first..first + u64::from(count) {
        put_frame(FrameIn { sequence, flags: 0, body: &body(sequence, 20) }, &mut frames);
    }
    frames
}

fn announced(topic: &'static str, schema: &'static [u8]) -> Announced<'static> {
    let (node, base_name) = ("n", "n");
    Announced { publication: 9, epoch: 1, first: 0, quality: Quality::Lossy, node, base_name, topic, schema }
}

#[test]
fn what_breaks_a_rule_ends_the_connection_and_both_hear_why() {
    let frames = run(10, 1);
    let many = run(10, 1300);
    let piece = Piece { sequence: 10, flags: 0, total: 9000, offset: 0, len: 10 };
    let want =
        |interest, selector| Record::Want { interest, quality: Quality::Lossy, deadline: 0, history: 0, selector };
    let greeting = Pair::new().a.peer.dial();
    for (record, text) in [
        (Record::Hello(greeting), "it greets twice"),
        (Record::Synced, "it has said all its interests twice"),
        (Record::Pong { token: 99 }, "it answers a ping that was not sent"),
        (Record::Pong { token: 0 }, "it answers a ping that was not sent"),
        (Record::Unwant { interest: 3 }, "it ends an interest that is not"),
        (want(1, "a//b"), "`a//b` is not a topic, address or pattern: at byte 2"),
        (want(1, "n@local/b"), "it wants what is local to itself"),
        (Record::Announce { channel: 2, announced: announced("a/*", &[]) }, "is not a topic"),
        (Record::Announce { channel: 2, announced: announced("a", &[1; 40]) }, "NSET"),
        (Record::End { channel: 2, reason: EndReason::Finished, next: 0 }, "it ends a channel that is not"),
        (Record::Open { channel: 1, next: 0, credit: 0, longest: 0 }, "it speaks of a channel that is not"),
        (Record::Refuse { channel: 1, text: "" }, "it speaks of a channel that is not"),
        (Record::Progress { channel: 1, next: 0, credit: 0 }, "it speaks of a channel that is not"),
        (Record::Closed { channel: 1 }, "it closes a channel that was not ended"),
        (Record::Gap { channel: 1, first: 11, count: 1 }, "it leaves out messages where it is not"),
        (Record::Gap { channel: 1, first: 9, count: 5 }, "it leaves out messages where it is not"),
        (Record::Skip { channel: 2, first: 9, count: 5 }, "it sends on a channel that is not"),
        (Record::Run { channel: 1, first: 9, count: 1, frames: &frames }, "it sends messages where it is not"),
        (Record::Run { channel: 7, first: 10, count: 1, frames: &frames }, "it sends on a channel that is not"),
        (Record::Piece { channel: 1, piece: Piece { offset: 16, ..piece } }, "it sends a piece of another frame"),
        (Record::Piece { channel: 1, piece: Piece { sequence: 11, ..piece } }, "it sends a piece of another frame"),
        (Record::Piece { channel: 1, piece: Piece { total: 8192, ..piece } }, "it sends in pieces what it may not"),
        (Record::Piece { channel: 1, piece: Piece { total: 2 << 20, ..piece } }, "it sends in pieces what it may not"),
        (Record::Piece { channel: 1, piece: Piece { total: 1 << 20, ..piece } }, "it sends more than it was granted"),
    ] {
        let said = answer(&record).unwrap_or_else(|| panic!("{record:?} is taken"));
        assert!(said.contains(text), "{record:?}: {said}");
    }
    assert_eq!(answer(&Record::Run { channel: 1, first: 10, count: 1, frames: &frames }), None, "this is right");
    assert_eq!(answer(&Record::Run { channel: 1, first: 10, count: 1300, frames: &many }), None, "and this");
}

#[test]
fn more_than_was_granted_is_not_taken() {
    let mut pair = Pair::new();
    pair.b.room = (480, 100);
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(1), want: want("**", Quality::Reliable) });
    pair.publish(LOG, "t", 20, 0);
    pair.connect();
    let frames = run(0, 11);
    pair.say(&Record::Run { channel: 1, first: 0, count: 11, frames: &frames });
    let violation = Reason::Violation("it sends more than it was granted".to_owned());
    assert_eq!(pair.b.closed(), Some(&violation));
    assert!(pair.told(LOG).is_empty());
}

#[test]
fn a_receiver_cannot_take_back_what_it_said() {
    for (next, credit) in [(11, 1 << 20), (10, 5)] {
        let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
        pair.more(LOG, 10);
        pair.exchange();
        let mut bytes = Vec::new();
        Record::Progress { channel: 1, next, credit }.encode(&mut bytes);
        pair.a.read(pair.now, &bytes);
        assert!(matches!(pair.a.closed(), Some(Reason::Violation(_))), "{next} {credit}");
    }
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    let mut bytes = Vec::new();
    Record::Open { channel: 1, next: 0, credit: 0, longest: 0 }.encode(&mut bytes);
    pair.a.read(pair.now, &bytes);
    assert_eq!(pair.a.closed(), Some(&Reason::Violation("it opens a channel twice".to_owned())));
}

#[test]
fn too_many_interests_and_channels_are_not_taken() {
    let mut pair = Pair::subscribed(Quality::Reliable, |settings| {
        (settings.max_interests, settings.max_channels) = (2, 1);
    });
    for interest in 1..=2 {
        pair.say(&Record::Want { interest, quality: Quality::Lossy, deadline: 0, history: 0, selector: "a" });
        assert_eq!(pair.b.closed(), None);
    }
    pair.say(&Record::Want { interest: 3, quality: Quality::Lossy, deadline: 0, history: 0, selector: "a" });
    assert_eq!(pair.b.closed(), Some(&Reason::Violation("it has more interests than it may".to_owned())));
    pair.a.tell(pair.now, Input::Disconnected { connection: ConnectionId(1) });
    pair.connect();
    let schema = nodeset_bus::protocol::record::encode(&nodeset_bus::message::Schema::bytes()).unwrap();
    let announced = Announced { schema: &schema, ..announced("a", &[]) };
    pair.say(&Record::Announce { channel: 5, announced });
    assert_eq!(pair.b.closed(), Some(&Reason::Violation("it has more channels than it may".to_owned())));
}

#[test]
fn one_that_asks_without_reading_is_given_up() {
    let mut pair = Pair::subscribed(Quality::Reliable, |settings| settings.max_channels = 8);
    let schema = nodeset_bus::protocol::record::encode(&nodeset_bus::message::Schema::bytes()).unwrap();
    for channel in 2..2000 {
        let announced = Announced { publication: u64::from(channel), schema: &schema, ..announced("a", &[]) };
        pair.say(&Record::Announce { channel, announced });
        pair.say(&Record::End { channel, reason: EndReason::Unwanted, next: 0 });
        assert!(pair.b.peer.owed() < 500);
    }
    assert_eq!(pair.b.closed(), Some(&Reason::Flood));
}

#[test]
fn a_damaged_run_ends_its_publication_and_nothing_else() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.publish(OTHER, "u", 20, 0);
    pair.exchange();
    let mut frames = run(0, 3);
    // As its publisher may do it while it is being sent.
    frames[2 * 48 + 8] = 77;
    pair.say(&Record::Run { channel: 1, first: 0, count: 3, frames: &frames });
    assert_eq!(pair.told(LOG), [0, 1].map(|sequence| Told::Message(sequence, body(sequence, 20))));
    let text = "message 77 came in the place of message 2".to_owned();
    assert_eq!(pair.b.actions.last(), Some(&Action::EndMirror { log: LOG, end: MirrorEnd::Damaged(text) }));
    // What is still on its way for it is dropped.
    pair.say(&Record::Run { channel: 1, first: 3, count: 3, frames: &run(3, 3) });
    let piece = Piece { sequence: 6, flags: 0, total: 9000, offset: 0, len: 16 };
    pair.say(&Record::Piece { channel: 1, piece });
    pair.b.read(pair.now, &[0; 16]);
    pair.more(OTHER, 5);
    pair.exchange();
    pair.has(OTHER, 0..5);
    assert_eq!((pair.a.closed(), pair.b.closed()), (None, None));
}

#[test]
fn greetings_are_read_before_it_is_known_whose_they_are() {
    let hello = Pair::new().a.peer.dial();
    let greet = |change: &dyn Fn(&mut crate::bridge::codec::Hello)| {
        let mut hello = hello.clone();
        change(&mut hello);
        let mut bytes = Vec::new();
        Record::Hello(hello).encode(&mut bytes);
        greeting(&bytes)
    };
    assert!(matches!(greet(&|_| ()), Ok(Greeting::Hello { .. })));
    let versions = greet(&|hello| (hello.oldest, hello.newest) = (2, 7)).unwrap_err();
    assert_eq!(versions.to_string(), "it speaks versions 2 to 7 of the bridge protocol, this side 1 to 1");
    assert!(greet(&|hello| (hello.oldest, hello.newest) = (0, 9)).is_ok());
    assert!(matches!(greet(&|hello| hello.oldest = 8), Err(Reason::Violation(_))));
    assert!(matches!(greet(&|hello| hello.host = "a b".to_owned()), Err(Reason::Violation(_))));
    assert!(matches!(greet(&|hello| hello.patience = 99), Err(Reason::Violation(_))));
    assert_eq!(greeting(&[]), Ok(Greeting::Incomplete));
    let goodbye = greeting(&Reason::Duplicate.goodbye()).unwrap_err();
    assert!(matches!(goodbye, Reason::Theirs { code: 1, .. }));
    let mut ping = Vec::new();
    Record::Ping { token: 1 }.encode(&mut ping);
    assert!(matches!(greeting(&ping), Err(Reason::Violation(_))));
    // Nobody is read further who could go on without end.
    assert!(matches!(greeting(&[0, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Reason::Violation(_))));
}

/// That what a mirror was told goes on without a hole and without a repetition.
fn is_gapless(told: &BTreeMap<LogKey, Vec<Told>>) {
    for told in told.values() {
        let mut next = None;
        for one in told {
            let (first, count) = match one {
                Told::Message(sequence, _) => (*sequence, 1),
                Told::Gap(first, count) | Told::Skip(first, count) => (*first, *count),
            };
            assert!(next.is_none_or(|next| next == first), "{first} came in the place of {next:?}");
            next = Some(first + count);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Anything may arrive, at any time, in any parts.
    #[test]
    fn any_bytes_are_received_without_harm(bytes in vec(any::<u8>(), 0..400), kind in 1..18u8, split in 1..50usize) {
        let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
        pair.more(LOG, 3);
        pair.exchange();
        let mut likely = vec![bytes.len() as u8, 0, 0, 0, kind, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        likely.extend_from_slice(&bytes);
        for part in likely.chunks(split) {
            pair.b.read(pair.now, part);
        }
        is_gapless(&pair.b.store.told);
    }

    /// A real conversation in which bytes are changed: both sides stay whole, and go on over the next connection.
    #[test]
    fn a_conversation_may_be_changed_anywhere(faults in vec((0..12usize, any::<u16>(), any::<u8>()), 1..6), chunk in 1..300usize) {
        let mut pair = Pair::subscribed(Quality::Reliable, |settings| settings.turn = 1000);
        // A damaged publication ends; its next mirror begins where it likes.
        pair.b.forgets = true;
        pair.publish(OTHER, "long", 9000, 0);
        pair.exchange();
        for round in 0..12 {
            pair.more(LOG, 7);
            pair.more(OTHER, 1);
            let (mut to_b, mut to_a) = (pair.a.write(pair.now), pair.b.write(pair.now));
            for &(_, at, value) in faults.iter().filter(|(when, ..)| *when == round) {
                let hit = if at % 2 == 0 { &mut to_b } else { &mut to_a };
                let len = hit.len().max(1);
                if let Some(byte) = hit.get_mut(usize::from(at) % len) {
                    *byte ^= value;
                }
            }
            to_b.chunks(chunk).for_each(|part| pair.b.read(pair.now, part));
            to_a.chunks(chunk).for_each(|part| pair.a.read(pair.now, part));
            if !pair.a.peer.is_connected() || !pair.b.peer.is_connected() {
                let connection = ConnectionId(pair.connection);
                pair.a.tell(pair.now, Input::Disconnected { connection });
                pair.b.tell(pair.now, Input::Disconnected { connection });
                pair.connect();
            }
        }
        is_gapless(&pair.b.store.told);
    }
}
