//! Loom models of the stream ring: the very same source as in production, over words that loom explores.
//!
//! One sender and one receiver, and a ring of two messages, so that its places are used again. Each model has a broken
//! variant in which loom must find a failing execution.

mod model;

use loom::thread;
use model::{Light, LoomWords, STREAM_CAPACITY, explore, node_page};
use nodeset_bus::atomics::Fact;
use nodeset_bus::page::PeerPage;
use nodeset_bus::stream::{Content, FrameReceiver, FrameSender, SendError, StreamFault, StreamShape, create};

const SHAPE: StreamShape = StreamShape { capacity: STREAM_CAPACITY as u64, content: Content::Frames };

fn value(sequence: u64) -> u64 {
    1000 + sequence
}

fn pair(broken: Option<Fact>) -> (FrameSender<LoomWords>, FrameReceiver<LoomWords>) {
    let ring = LoomWords::stream(broken);
    let page = LoomWords::page(broken, Light::Full);
    create(&ring, SHAPE);
    let receiver = FrameReceiver::open(ring.clone(), SHAPE.capacity, node_page(&page), 0).expect("a stream");
    let page = PeerPage::open(page).expect("a node page");
    let sender = FrameSender::open(ring, SHAPE.capacity, page, 0).expect("a stream");
    (sender, receiver)
}

/// Writes a message without telling of it.
fn stage(sender: &mut FrameSender<LoomWords>) -> Result<(), SendError> {
    let at = sender.open_frame(16)?;
    sender.ring().write_payload(at, value(sender.next_sequence()));
    sender.stage(16);
    Ok(())
}

/// Takes what is there, at most `polls` times; each message must be the one that its number says.
fn read(receiver: &mut FrameReceiver<LoomWords>, polls: usize, expected: &mut u64) -> Option<StreamFault> {
    for _ in 0..polls {
        match receiver.poll() {
            Ok(Some(place)) => {
                assert_eq!(place.sequence, *expected + place.missed_before, "order, or a gap miscounted");
                assert_eq!(receiver.ring().read_payload(place.at), value(place.sequence), "torn");
                *expected = place.sequence + 1;
            }
            Ok(None) => {}
            Err(fault) => return Some(fault),
        }
    }
    None
}

/// Three messages through a ring of two, one by one; what finds no room is left out. Then the end.
fn one_by_one(broken: Option<Fact>) {
    explore("stream, one by one", 3, move || {
        let (mut sender, mut receiver) = pair(broken);
        let reading = thread::spawn(move || {
            let mut expected = 0;
            let over = read(&mut receiver, 3, &mut expected);
            (receiver, expected, over)
        });
        for _ in 0..3 {
            match stage(&mut sender) {
                Ok(()) => sender.publish(),
                Err(SendError::Full { .. }) => sender.skip(),
                Err(error) => panic!("{error}"),
            }
        }
        sender.finish();
        let (mut receiver, mut expected, over) = reading.join().expect("receiver");
        let end = over.or_else(|| read(&mut receiver, 4, &mut expected));
        assert!(
            matches!(end, Some(StreamFault::Ended { missed }) if expected + missed == 3),
            "the end comes after the last message, and says what was left out: {end:?} after {expected}"
        );
    });
}

#[test]
fn a_receiver_reads_what_was_sent_and_then_the_end() {
    one_by_one(None);
}

#[test]
#[should_panic]
fn without_release_a_message_of_a_stream_is_seen_before_it_is_written() {
    one_by_one(Some(Fact::StreamWritten));
}

#[test]
#[should_panic]
fn without_release_a_message_of_a_stream_is_overwritten_while_it_is_read() {
    one_by_one(Some(Fact::StreamRead));
}

/// Two messages told at once, twice: all or none of a batch is there.
fn batches(broken: Option<Fact>) {
    explore("stream, batches", 3, move || {
        let (mut sender, mut receiver) = pair(broken);
        let reading = thread::spawn(move || {
            let mut expected = 0;
            for _ in 0..2 {
                assert_eq!(read(&mut receiver, 1, &mut expected), None);
                if expected % 2 == 1 {
                    let before = expected;
                    assert_eq!(read(&mut receiver, 1, &mut expected), None);
                    assert_eq!(expected, before + 1, "half a batch");
                }
            }
            receiver
        });
        let mut sent = 0;
        for _ in 0..2 {
            if stage(&mut sender).is_ok() {
                if stage(&mut sender).is_ok() {
                    sent += 2;
                    sender.publish();
                } else {
                    // Half a batch that was not told of does not exist.
                    break;
                }
            }
        }
        assert!(sent >= 2, "the ring was empty");
        let receiver = reading.join().expect("receiver");
        assert_eq!(receiver.missed(), 0);
    });
}

#[test]
fn a_batch_is_there_as_a_whole_or_not_at_all() {
    batches(None);
}

#[test]
#[should_panic]
fn without_release_a_batch_is_seen_before_it_is_written() {
    batches(Some(Fact::StreamWritten));
}

#[test]
#[should_panic]
fn without_release_a_batch_overwrites_what_is_read() {
    batches(Some(Fact::StreamRead));
}

/// The receiver goes while the sender sends: the sender hears it, or has sent everything.
#[test]
fn a_receiver_that_leaves_is_heard_of() {
    explore("stream, the receiver leaves", 3, || {
        let (mut sender, receiver) = pair(None);
        let leaving = thread::spawn(move || drop(receiver));
        let refused = (0..3).find_map(|_| {
            let outcome = stage(&mut sender);
            sender.publish();
            outcome.err()
        });
        leaving.join().expect("receiver");
        let after = stage(&mut sender);
        assert!(matches!(refused, Some(SendError::Full { .. } | SendError::ReceiverLeft)), "{refused:?}");
        assert_eq!(after, Err(SendError::ReceiverLeft), "it read nothing, so there is no room");
    });
}
