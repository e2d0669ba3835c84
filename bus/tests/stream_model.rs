//! The stream ring against a plain model, a queue: sequences of operations in one thread, and two threads at full speed.
//!
//! Whatever happens: what comes out is what went in, in order; what was left out is counted; the end comes after all of it.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod stream_pair;

use std::collections::VecDeque;
use std::thread;

use nodeset_bus::memory::SharedWords;
use nodeset_bus::stream::{FrameReceiver, FrameSender, Receiver, SendError, Sender, StreamFault};
use proptest::prelude::*;
use stream_pair::{CAPACITY, Memory, byte, message};

const HEADER: usize = 16;

fn frame_len(len: usize) -> usize {
    HEADER + len.next_multiple_of(HEADER)
}

/// Lengths: small ones mostly, and all that lie around what the ring can take.
fn len() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0..200_usize,
        3 => 0..20_000_usize,
        1 => (0..40_usize).prop_map(|below| CAPACITY + 8 - below),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    PushAll(Vec<usize>),
    /// So many of that length, written in place.
    PushWith(usize, usize),
    /// Reserve that much, commit that share of it (in 1/256).
    Reserve(usize, u8),
    /// Reserve all there is, commit at most that much.
    ReserveAll(usize),
    Skip,
    Pop(usize),
    /// Take at most so many of those that are there.
    Frames(usize),
    PopCopied,
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => len().prop_map(Step::Push),
        2 => prop::collection::vec(len(), 0..20).prop_map(Step::PushAll),
        2 => (0..20_usize, len()).prop_map(|(count, len)| Step::PushWith(count, len)),
        2 => (len(), any::<u8>()).prop_map(|(len, share)| Step::Reserve(len, share)),
        1 => len().prop_map(Step::ReserveAll),
        1 => Just(Step::Skip),
        4 => (1..8_usize).prop_map(Step::Pop),
        2 => (0..30_usize).prop_map(Step::Frames),
        1 => Just(Step::PopCopied),
        1 => Just(Step::Release),
    ];
    prop::collection::vec(step, 1..60)
}

/// Both ends, and what must be between them.
struct Frames {
    sender: Option<FrameSender<SharedWords>>,
    receiver: FrameReceiver<SharedWords>,
    /// number and length of each message in the ring
    queue: VecDeque<(u64, usize)>,
    next: u64,
    /// number that the receiver expects
    expected: u64,
    received: u64,
    /// bytes of the ring that the receiver has not given back for certain
    unread: usize,
}

impl Frames {
    fn new() -> Frames {
        let (sender, receiver) = Memory::new(stream_pair::FRAMES).frames();
        Frames { sender: Some(sender), receiver, queue: VecDeque::new(), next: 0, expected: 0, received: 0, unread: 0 }
    }

    fn sent(&mut self, len: usize) {
        self.queue.push_back((self.next, len));
        self.next += 1;
        self.unread += frame_len(len);
    }

    /// Checks a refusal: too long is what never fits, and full is only said when the ring may be.
    fn refused(&self, len: usize, error: SendError) {
        match error {
            SendError::TooLong { limit, .. } => assert!(len > limit && limit == CAPACITY - HEADER),
            SendError::Full { free } => {
                assert!(frame_len(len) > free, "{free} bytes are free, {len} were refused");
                assert!(self.unread + frame_len(len) > CAPACITY, "{} bytes unread, {len} were refused", self.unread);
            }
            other => panic!("{other}"),
        }
    }

    fn send(&mut self, step: Step) {
        let mut sender = self.sender.take().unwrap();
        match step {
            Step::Push(len) => match sender.push(&message(self.next, len)) {
                Ok(sequence) => {
                    assert_eq!(sequence, self.next);
                    self.sent(len);
                }
                Err(error) => self.refused(len, error),
            },
            Step::PushAll(lens) => {
                let messages: Vec<Vec<u8>> =
                    (self.next..).zip(&lens).map(|(number, &len)| message(number, len)).collect();
                match sender.push_all(&messages) {
                    Ok(pushed) => lens[..pushed].iter().for_each(|&len| self.sent(len)),
                    Err(error) => self.refused(lens[0], error),
                }
            }
            Step::PushWith(count, len) => {
                let first = self.next;
                let write = |at: usize, place: &mut [u8]| place.copy_from_slice(&message(first + at as u64, len));
                match sender.push_with(count, len, write) {
                    Ok(pushed) => (0..pushed).for_each(|_| self.sent(len)),
                    Err(error) => self.refused(len, error),
                }
            }
            Step::Reserve(len, share) => match sender.reserve(len) {
                Ok(place) => {
                    assert_eq!((place.len(), place.as_ptr() as usize % 16), (len, 0));
                    let taken = len * usize::from(share) / 256;
                    place[..taken].copy_from_slice(&message(self.next, taken));
                    // What lies behind a shorter message is written over by the next one.
                    place[taken..].fill(0xee);
                    assert_eq!(sender.commit(taken), self.next);
                    self.sent(taken);
                }
                Err(error) => self.refused(len, error),
            },
            Step::ReserveAll(most) => match sender.reserve_all() {
                Ok(place) => {
                    let taken = most.min(place.len());
                    place[..taken].copy_from_slice(&message(self.next, taken));
                    sender.commit(taken);
                    self.sent(taken);
                }
                Err(error) => self.refused(0, error),
            },
            Step::Skip => {
                sender.skip();
                self.next += 1;
            }
            _ => unreachable!("a step of the receiver"),
        }
        self.sender = Some(sender);
    }

    fn came(&mut self, sequence: u64, missed_before: u64, payload: &[u8]) {
        let (number, len) = self.queue.pop_front().expect("nothing was sent");
        assert_eq!((sequence, missed_before, payload.len()), (number, number - self.expected, len));
        assert!(payload.iter().enumerate().all(|(at, &found)| found == byte(number, at)), "message {number} is torn");
        self.expected = number + 1;
        self.received += 1;
    }

    /// Whether the next one came; without one, everything that was read is given back.
    fn pop(&mut self) -> bool {
        match self.receiver.pop().unwrap() {
            Some(frame) => {
                let (sequence, missed, payload) = (frame.sequence, frame.missed_before, frame.payload.to_vec());
                assert_eq!(frame.payload.as_ptr() as usize % 16, 0);
                self.came(sequence, missed, &payload);
                true
            }
            None => {
                assert_eq!(self.queue.len(), 0, "there is something, and nothing came");
                self.given_back();
                false
            }
        }
    }

    fn given_back(&mut self) {
        self.unread = self.queue.iter().map(|&(_, len)| frame_len(len)).sum();
    }

    fn receive(&mut self, step: Step) {
        match step {
            Step::Pop(times) => {
                (0..times).all(|_| self.pop());
            }
            Step::Frames(most) => {
                let taken: Vec<(u64, u64, Vec<u8>)> = self
                    .receiver
                    .frames()
                    .unwrap()
                    .take(most)
                    .map(|frame| (frame.sequence, frame.missed_before, frame.payload.to_vec()))
                    .collect();
                if most > 0 {
                    assert_eq!(taken.is_empty(), self.queue.is_empty());
                }
                for (sequence, missed_before, payload) in taken {
                    self.came(sequence, missed_before, &payload);
                }
            }
            Step::PopCopied => {
                let mut copy = rkyv::util::AlignedVec::new();
                match self.receiver.pop_copied(&mut copy).unwrap() {
                    Some(place) => self.came(place.sequence, place.missed_before, &copy),
                    None => assert!(self.queue.is_empty()),
                }
            }
            Step::Release => {
                self.receiver.release();
                self.given_back();
            }
            _ => unreachable!("a step of the sender"),
        }
    }

    /// The sender ends the stream: everything comes, then the end, and again.
    fn finish(&mut self) {
        self.sender.take().unwrap().finish();
        while !self.queue.is_empty() {
            assert!(self.pop());
        }
        let ended = StreamFault::Ended { missed: self.next - self.expected };
        for _ in 0..2 {
            assert_eq!(self.receiver.pop(), Err(ended));
        }
        assert!(self.receiver.is_ready());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_come_out_as_they_went_in(steps in steps()) {
        let mut model = Frames::new();
        for step in steps {
            match step {
                Step::Push(_) | Step::PushAll(_) | Step::PushWith(..) | Step::Reserve(..) | Step::ReserveAll(_) | Step::Skip => model.send(step),
                _ => model.receive(step),
            }
            prop_assert_eq!(model.receiver.missed() + model.received, model.expected);
        }
        model.finish();
    }

    #[test]
    fn bytes_come_out_as_they_went_in(
        steps in prop::collection::vec((any::<bool>(), 0..CAPACITY + 100, any::<u8>()), 1..100),
    ) {
        let (mut sender, mut receiver) = Memory::new(stream_pair::BYTES).bytes();
        let (mut written, mut read) = (0_u64, 0_u64);
        let at = |index: u64| byte(1, index as usize);
        for (sends, len, share) in steps {
            if sends {
                let part = len * usize::from(share) / 255;
                match sender.reserve(len) {
                    Ok(place) => {
                        prop_assert_eq!(place.len(), len);
                        (written..).zip(&mut place[..part]).for_each(|(index, byte)| *byte = at(index));
                        sender.commit(part);
                        written += part as u64;
                    }
                    Err(SendError::TooLong { .. }) => prop_assert!(len > CAPACITY),
                    Err(error) => {
                        receiver.release();
                        prop_assert_eq!(sender.room(), Ok(CAPACITY - (written - read) as usize), "{}", error);
                    }
                }
            } else {
                let there = receiver.peek(len).unwrap();
                prop_assert!(there.len() as u64 <= written - read);
                prop_assert!(there.len() >= len.min((written - read) as usize));
                prop_assert!((read..).zip(there).all(|(index, &byte)| byte == at(index)));
                let part = there.len() * usize::from(share) / 255;
                receiver.advance(part);
                read += part as u64;
            }
            prop_assert_eq!((sender.written(), receiver.read()), (written, read));
        }
        sender.finish();
        if written > read {
            prop_assert_eq!(receiver.peek(CAPACITY + 1).unwrap().len() as u64, written - read);
            prop_assert!(receiver.is_complete());
            receiver.advance((written - read) as usize);
        }
        prop_assert_eq!(receiver.peek(1), Err(StreamFault::Ended { missed: 0 }));
    }
}

/// A message as long as the ring, from every place in it: nothing wraps.
#[test]
fn a_message_may_fill_the_whole_ring_wherever_it_begins() {
    let (mut sender, mut receiver) = Memory::new(stream_pair::FRAMES).frames();
    let longest = sender.longest_message();
    for number in 0..50 {
        let (short, long) = (2 * number, 2 * number + 1);
        assert_eq!(sender.push(&message(short, 1000)), Ok(short));
        assert_eq!(receiver.pop().unwrap().unwrap().payload, message(short, 1000));
        receiver.release();
        assert_eq!(sender.push(&message(long, longest)), Ok(long));
        assert_eq!(sender.push(&[]), Err(SendError::Full { free: 0 }));
        assert_eq!(receiver.pop().unwrap().unwrap().payload, message(long, longest));
        assert_eq!(receiver.pop(), Ok(None));
    }
}

/// What was handed out stays as it is while it is borrowed, however much the sender has to say.
#[test]
fn nothing_is_given_back_while_it_is_looked_at() {
    let (mut sender, mut receiver) = Memory::new(stream_pair::FRAMES).frames();
    let mut number = 0;
    while sender.push(&message(number, 1000)).is_ok() {
        number += 1;
    }
    let held: Vec<&[u8]> = receiver.frames().unwrap().map(|frame| frame.payload).collect();
    assert_eq!(held.len() as u64, number);
    assert!(matches!(sender.push(&message(number, 1000)), Err(SendError::Full { .. })));
    for (number, held) in (0..).zip(held) {
        assert_eq!(held, message(number, 1000));
    }
    assert_eq!(receiver.pop(), Ok(None));
    assert_eq!(sender.push(&message(number, 1000)), Ok(number));
}

#[test]
fn a_sender_hears_that_its_receiver_left_or_died() {
    let (mut sender, receiver) = Memory::new(stream_pair::FRAMES).frames();
    drop(receiver);
    assert_eq!(sender.reserve_all().map(|place| place.len()), Err(SendError::ReceiverLeft));
    let (mut sender, _receiver) = Memory::new(stream_pair::FRAMES).frames();
    sender.push(b"in time").unwrap();
    sender.receiver_died();
    assert_eq!(sender.push(b"too late"), Err(SendError::ReceiverDied));
}

#[test]
fn a_receiver_reads_what_a_dead_sender_sent_and_then_hears_of_it() {
    let (mut sender, mut receiver) = Memory::new(stream_pair::FRAMES).frames();
    sender.push(b"told").unwrap();
    // Written, and not told: its sender dies before.
    sender.reserve(5).unwrap().copy_from_slice(b"never");
    sender.stage(5);
    std::mem::forget(sender);
    receiver.sender_died();
    assert_eq!(receiver.pop().unwrap().unwrap().payload, b"told");
    assert_eq!(receiver.pop(), Err(StreamFault::SenderDied));
    assert_eq!(receiver.pop(), Err(StreamFault::SenderDied));
}

#[test]
#[should_panic(expected = "committed where")]
fn more_than_is_free_cannot_be_committed() {
    let (mut sender, _receiver) = Memory::new(stream_pair::BYTES).bytes();
    sender.commit(CAPACITY + 1);
}

#[test]
#[should_panic(expected = "taken where")]
fn more_than_is_there_cannot_be_taken() {
    let (_sender, mut receiver) = Memory::new(stream_pair::BYTES).bytes();
    receiver.advance(1);
}

/// Many messages of many lengths, two threads, no rest.
#[test]
fn two_threads_at_full_speed() {
    const MESSAGES: u64 = 200_000;
    let len = |number: u64| (number * 7919 % 300) as usize;
    let (mut sender, mut receiver) = Memory::new(stream_pair::FRAMES).frames();
    let sending = thread::spawn(move || {
        let mut number = 0;
        while number < MESSAGES {
            let batch: Vec<Vec<u8>> = (number..MESSAGES.min(number + 13)).map(|n| message(n, len(n))).collect();
            match sender.push_all(&batch) {
                Ok(pushed) => number += pushed as u64,
                Err(SendError::Full { .. }) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    });
    let mut expected = 0;
    let ended = loop {
        let mut frames = match receiver.frames() {
            Ok(frames) => frames.peekable(),
            Err(fault) => break fault,
        };
        if frames.peek().is_none() {
            thread::yield_now();
        }
        for frame in frames {
            assert_eq!((frame.sequence, frame.payload.len()), (expected, len(expected)));
            assert!(frame.payload.iter().enumerate().all(|(at, &found)| found == byte(expected, at)));
            expected += 1;
        }
    };
    sending.join().unwrap();
    assert_eq!((ended, expected), (StreamFault::Ended { missed: 0 }, MESSAGES));
}

/// The same with bytes: what is read in pieces of other lengths than it was written in.
#[test]
fn two_threads_with_bytes_at_full_speed() {
    const BYTES: u64 = 20_000_000;
    let (mut sender, mut receiver): (Sender<SharedWords>, Receiver<SharedWords>) =
        Memory::new(stream_pair::BYTES).bytes();
    let sending = thread::spawn(move || {
        let mut index = 0_u64;
        while index < BYTES {
            let piece = (index % 4099).min(BYTES - index).max(1) as usize;
            match sender.reserve(piece) {
                Ok(place) => {
                    (index..).zip(place).for_each(|(index, byte)| *byte = (index % 251) as u8);
                    sender.commit(piece);
                    index += piece as u64;
                }
                Err(SendError::Full { .. }) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    });
    let mut index = 0_u64;
    let ended = loop {
        match receiver.peek(1) {
            Ok([]) => thread::yield_now(),
            Ok(there) => {
                let taken = there.len().min(1 + (index % 5003) as usize);
                assert!((index..).zip(&there[..taken]).all(|(index, &byte)| byte == (index % 251) as u8), "at {index}");
                receiver.advance(taken);
                index += taken as u64;
            }
            Err(fault) => break fault,
        }
    };
    sending.join().unwrap();
    assert_eq!((ended, index), (StreamFault::Ended { missed: 0 }, BYTES));
}
