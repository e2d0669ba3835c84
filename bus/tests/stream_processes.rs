//! A stream between two processes, one of which is killed in the middle of it.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod other_process;
mod stream_pair;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::page::{NODE_PAGE_LEN, NodePage, PeerPage};
use nodeset_bus::stream::{
    FrameReceiver, FrameSender, SendError, StreamFault, create, map_readable, map_writable, segment_len,
};
use nodeset_bus::sys::{pidfd_dead, pidfd_of};
use other_process::{FirstProcess, OtherProcess, play};
use stream_pair::{CAPACITY, FRAMES, byte, message};

const LINE: u32 = 3;
/// Messages that a killed process had sent or received at least.
const ENOUGH: u64 = 5_000;
/// Messages of a stream that ends in order: many times the ring.
const ALL: u64 = 50_000;

fn len(number: u64) -> usize {
    (number * 7919 % 500) as usize
}

/// The ring as its one writer has it.
fn ring() -> (Segment, SharedWords) {
    let segment = Segment::create("stream", segment_len(FRAMES)).unwrap();
    let words = map_writable(&segment, FRAMES).unwrap();
    segment.seal_for_one_writer().unwrap();
    create(&words, FRAMES);
    (segment, words)
}

/// A node page as its one writer has it.
fn page() -> (Segment, Arc<NodePage<SharedWords>>) {
    let segment = Segment::create("node page", NODE_PAGE_LEN).unwrap();
    let words = SharedWords::mapped(segment.map_writable().unwrap());
    segment.seal_for_one_writer().unwrap();
    (segment, Arc::new(NodePage::create(words)))
}

fn peer(page: OwnedFd) -> PeerPage<SharedWords> {
    let page = Segment::from_fd(page).unwrap();
    PeerPage::open(SharedWords::mapped(page.map_readable().unwrap())).unwrap()
}

fn receiver(ring: OwnedFd, page: &Arc<NodePage<SharedWords>>) -> FrameReceiver<SharedWords> {
    let words = map_readable(&Segment::from_fd(ring).unwrap(), FRAMES).unwrap();
    FrameReceiver::open(words, CAPACITY as u64, Arc::clone(page), LINE).unwrap()
}

/// Sends message `number`, waiting for room; false once the receiver is gone.
fn send(
    sender: &mut FrameSender<SharedWords>,
    number: u64,
    mut when_full: impl FnMut(&mut FrameSender<SharedWords>),
) -> bool {
    loop {
        match sender.push(&message(number, len(number))) {
            Ok(sequence) => {
                assert_eq!(sequence, number);
                return true;
            }
            Err(SendError::Full { .. }) => when_full(sender),
            Err(SendError::ReceiverDied | SendError::ReceiverLeft) => return false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Receives what is there; true if that was something.
fn receive(receiver: &mut FrameReceiver<SharedWords>, expected: &mut u64) -> Result<bool, StreamFault> {
    let before = *expected;
    for frame in receiver.frames()? {
        assert_eq!((frame.sequence, frame.missed_before, frame.payload.len()), (*expected, 0, len(*expected)));
        let whole = frame.payload.iter().enumerate().all(|(at, &found)| found == byte(*expected, at));
        assert!(whole, "message {expected} is torn");
        *expected += 1;
    }
    Ok(*expected > before)
}

/// What the second process does.
#[test]
fn other_process() {
    play(|part, first, descriptors| {
        let mut descriptors = descriptors.into_iter();
        let theirs = descriptors.next().expect("each part gets a segment");
        match part {
            "sender" => be_sender(&first, theirs, ALL),
            "sender without an end" => be_sender(&first, theirs, u64::MAX),
            "receiver" => be_receiver(&first, theirs),
            other => panic!("no part {other}"),
        }
    });
}

/// Makes the ring, tells of it, and sends. `page`: the receiver's.
fn be_sender(first: &FirstProcess, page: OwnedFd, messages: u64) {
    let (segment, words) = ring();
    first.tell(&[segment.fd()]);
    first.hear();
    let mut sender = FrameSender::open(words, CAPACITY as u64, peer(page), LINE).unwrap();
    for number in 0..messages {
        assert!(send(&mut sender, number, |_| thread::yield_now()), "the receiver lives");
    }
}

/// Reads until it is killed, or the stream ends.
fn be_receiver(first: &FirstProcess, ring: OwnedFd) {
    let (segment, page) = page();
    let mut receiver = receiver(ring, &page);
    first.tell(&[segment.fd()]);
    let mut expected = 0;
    loop {
        match receive(&mut receiver, &mut expected) {
            Ok(true) => {}
            Ok(false) => thread::yield_now(),
            Err(StreamFault::Ended { missed: 0 }) if expected == ALL => return,
            Err(fault) => panic!("{fault} after {expected} messages"),
        }
    }
}

/// Starts a process that sends to this one.
fn start_sender(part: &str) -> (OtherProcess, FrameReceiver<SharedWords>) {
    let (segment, page) = page();
    let other = OtherProcess::start(part, &[segment.fd()]);
    let receiver = receiver(other.hear().pop().unwrap(), &page);
    other.tell(&[]);
    (other, receiver)
}

/// Starts a process that receives from this one.
fn start_receiver() -> (OtherProcess, FrameSender<SharedWords>) {
    let (segment, words) = ring();
    let other = OtherProcess::start("receiver", &[segment.fd()]);
    let page = peer(other.hear().pop().unwrap());
    (other, FrameSender::open(words, CAPACITY as u64, page, LINE).unwrap())
}

#[test]
fn everything_comes_from_another_process_and_then_the_end() {
    let (other, mut receiver) = start_sender("sender");
    let mut expected = 0;
    let end = loop {
        match receive(&mut receiver, &mut expected) {
            Ok(true) => {}
            Ok(false) => thread::yield_now(),
            Err(fault) => break fault,
        }
    };
    assert_eq!((end, expected), (StreamFault::Ended { missed: 0 }, ALL));
    other.finish();
}

#[test]
fn everything_goes_to_another_process_and_then_the_end() {
    let (other, mut sender) = start_receiver();
    for number in 0..ALL {
        assert!(send(&mut sender, number, |_| thread::yield_now()));
    }
    sender.finish();
    other.finish();
}

#[test]
fn a_sender_that_is_killed_leaves_whole_messages_and_an_end() {
    let (mut other, mut receiver) = start_sender("sender without an end");
    let mut expected = 0;
    while expected < ENOUGH {
        if !receive(&mut receiver, &mut expected).unwrap() {
            thread::yield_now();
        }
    }
    other.kill();
    receiver.sender_died();
    while receive(&mut receiver, &mut expected).map_err(|fault| assert_eq!(fault, StreamFault::SenderDied)).is_ok() {}
    assert_eq!(receiver.missed(), 0);
}

#[test]
fn a_receiver_that_is_killed_stops_nobody() {
    let (mut other, mut sender) = start_receiver();
    for number in 0..ENOUGH {
        assert!(send(&mut sender, number, |_| thread::yield_now()));
    }
    let pidfd = pidfd_of(other.pid()).unwrap();
    other.kill();
    // A sender that finds no room asks the kernel.
    let mut number = ENOUGH;
    let look = |sender: &mut FrameSender<SharedWords>| {
        if pidfd_dead(pidfd.as_fd()) {
            sender.receiver_died();
        }
    };
    while send(&mut sender, number, look) {
        number += 1;
        assert!(number < ENOUGH + CAPACITY as u64 / 16, "nobody reads, and there is always room");
    }
    assert_eq!(sender.push(b"more"), Err(SendError::ReceiverDied));
}
