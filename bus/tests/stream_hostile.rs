//! A stream whose other side writes anything: neither end panics, hangs, or touches what lies outside of the ring, and a word
//! that cannot be ends the stream for good.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod stream_pair;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nodeset_bus::atomics::Words;
use nodeset_bus::memory::{Segment, SegmentError, SharedWords};
use nodeset_bus::page::LayoutError;
use nodeset_bus::stream::{
    FrameReceiver, FrameSender, Receiver, SendError, StreamFault, StreamShape, map_readable, segment_len,
};
use proptest::prelude::*;
use rkyv::util::AlignedVec;
use stream_pair::{BYTES, CAPACITY, FRAMES, Memory, message};

/// Byte offsets of words, see `docs/layout.md`.
const MESSAGES_AT: usize = 0x18;
const WRITTEN_AT: usize = 0x80;
const RING_AT: usize = 65536;
/// Bit of an index: the end.
const LAST: u64 = 1 << 63;

/// Byte offset of the receiver's word in its page.
fn read_at(memory: &Memory) -> usize {
    4096 + 64 * memory.line as usize
}

/// What one might find in a word: anything, the greatest ones, and what nearly makes sense.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..40_u64).prop_map(|below| u64::MAX - below),
        0..2 * CAPACITY as u64,
        (0..2 * CAPACITY as u64 / 16).prop_map(|granules| 16 * granules),
        (0..2 * CAPACITY as u64 / 16).prop_map(|granules| (16 * granules) | LAST),
        // Headers.
        (0..3_u64, 0..CAPACITY as u64 + 40).prop_map(|(kind, len)| kind << 32 | len),
        (0..40_u64).prop_map(|below| (1 << 32) + u64::from(u32::MAX) - below),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    /// Word (byte offset in the sender's segment) and value.
    Damage(usize, u64),
    /// The true sender sends that much.
    Push(usize),
    Pop,
    Copy,
    Frames,
    Release,
    Died,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = prop_oneof![
        4 => Just(WRITTEN_AT),
        1 => Just(MESSAGES_AT),
        4 => (0..40_usize).prop_map(|word| RING_AT + 8 * word),
        1 => (0..(RING_AT + CAPACITY) / 8).prop_map(|word| 8 * word),
    ];
    let step = prop_oneof![
        4 => (place, value()).prop_map(|(at, value)| Step::Damage(at, value)),
        3 => (0..300_usize).prop_map(Step::Push),
        4 => Just(Step::Pop),
        2 => Just(Step::Copy),
        2 => Just(Step::Frames),
        1 => Just(Step::Release),
        1 => Just(Step::Died),
    ];
    prop::collection::vec(step, 1..80)
}

/// Touches each byte: one that is not mapped would end the process.
fn touch(payload: &[u8]) -> u64 {
    assert!(payload.len() <= CAPACITY);
    payload.iter().map(|&byte| u64::from(byte)).sum()
}

fn receive(receiver: &mut FrameReceiver<SharedWords>, step: &Step) -> Result<(), StreamFault> {
    match step {
        Step::Pop => receiver.pop().map(|frame| {
            frame.map(|frame| touch(frame.payload));
        }),
        Step::Copy => {
            let mut copy = AlignedVec::new();
            receiver.pop_copied(&mut copy).map(|_| {
                touch(&copy);
            })
        }
        Step::Frames => receiver.frames().map(|frames| {
            // A ring full of headers, and not one more.
            let sums: Vec<u64> = frames.map(|frame| touch(frame.payload)).collect();
            assert!(sums.len() <= CAPACITY / 16);
        }),
        Step::Release => {
            receiver.release();
            Ok(())
        }
        _ => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_receiver_survives_a_hostile_sender(steps in steps()) {
        let memory = Memory::new(FRAMES);
        let (mut sender, mut receiver) = memory.frames();
        let mut over: Option<StreamFault> = None;
        for step in steps {
            match step {
                Step::Damage(at, value) => memory.ours.store(at, value),
                Step::Push(len) => {
                    let _ = sender.push(&message(0, len));
                }
                Step::Died => receiver.sender_died(),
                step => {
                    let outcome = receive(&mut receiver, &step);
                    if let (Some(over), false) = (over, matches!(step, Step::Release)) {
                        prop_assert_eq!(outcome, Err(over), "the end is for good");
                    }
                    over = over.or(outcome.err());
                }
            }
        }
    }

    #[test]
    fn a_receiver_of_bytes_survives_a_hostile_sender(
        steps in prop::collection::vec((value(), 0..CAPACITY + 9, any::<bool>()), 1..40),
    ) {
        let memory = Memory::new(BYTES);
        let (_sender, mut receiver) = memory.bytes();
        for (value, at_least, all) in steps {
            memory.ours.store(WRITTEN_AT, value);
            if let Ok(there) = receiver.peek(at_least) {
                let len = there.len();
                touch(there);
                receiver.advance(if all { len } else { len / 2 });
            }
        }
    }

    #[test]
    fn a_sender_survives_a_hostile_receiver(
        steps in prop::collection::vec((value(), prop::collection::vec(0..CAPACITY + 9, 0..4)), 1..40),
    ) {
        let memory = Memory::new(FRAMES);
        let (mut sender, _receiver) = memory.frames();
        let page = Memory::page();
        let mut over = None;
        for (value, lens) in steps {
            page.words().store(read_at(&memory), value);
            let outcome = sender.reserve_all().map(|place| place.fill(1));
            if let Some(over) = over {
                prop_assert_eq!(outcome, Err(over), "the end is for good");
            }
            over = over.or(outcome.err().filter(|error| !matches!(error, SendError::Full { .. })));
            for len in lens {
                let _ = sender.push(&message(0, len));
            }
        }
    }
}

/// The other side's words change at any time, not only between calls.
#[test]
fn both_ends_survive_words_that_change_under_them() {
    for seed in 0..40_u64 {
        let memory = Memory::new(FRAMES);
        let (mut sender, mut receiver) = memory.frames();
        let done = Arc::new(AtomicBool::new(false));
        let (ring, page, read_at, over) = (memory.ours.clone(), Memory::page(), read_at(&memory), Arc::clone(&done));
        let hostile = thread::spawn(move || {
            let mut state = seed;
            let mut next = || {
                // A linear congruential generator, Knuth's constants.
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                state >> 20
            };
            while !over.load(Ordering::Relaxed) {
                let near = 16 * (next() % (CAPACITY as u64 / 16));
                match next() % 4 {
                    0 => ring.store(WRITTEN_AT, near),
                    1 => page.words().store(read_at, near),
                    2 => ring.store(RING_AT + near as usize, 1 << 32 | (next() % 600)),
                    _ => ring.store(RING_AT + 8 * (next() as usize % (CAPACITY / 8)), next()),
                }
            }
        });
        let mut copy = AlignedVec::new();
        for number in 0..2000 {
            let _ = sender.push(&message(number, 100));
            if receiver.pop_copied(&mut copy).is_ok() {
                touch(&copy);
            }
        }
        done.store(true, Ordering::Relaxed);
        hostile.join().unwrap();
    }
}

#[test]
fn an_index_that_cannot_be_is_named() {
    let memory = Memory::new(FRAMES);
    let (mut sender, mut receiver) = memory.frames();
    sender.push(b"one").unwrap();
    Memory::page().words().store(read_at(&memory), 48);
    assert_eq!(sender.reserve_all().map(|_| ()), Err(SendError::Corrupt { found: 48, written: 32 }));
    memory.ours.store(WRITTEN_AT, CAPACITY as u64 + 16);
    let damaged = receiver.pop().map(|_| ()).unwrap_err();
    assert_eq!(
        damaged.to_string(),
        "the sender's ring is damaged at byte 0 of the stream: a write index that went back, or beyond the ring"
    );
}

#[test]
fn an_end_before_what_was_read_is_damage() {
    let memory = Memory::new(FRAMES);
    let (mut sender, mut receiver) = memory.frames();
    sender.push(b"one").unwrap();
    sender.finish();
    memory.ours.store(MESSAGES_AT, 0);
    assert_eq!(receiver.pop().unwrap().unwrap().payload, b"one");
    assert!(matches!(receiver.pop(), Err(StreamFault::Corrupt { at: 32, .. })));
    assert!(matches!(receiver.pop(), Err(StreamFault::Corrupt { at: 32, .. })));
}

#[test]
fn a_segment_of_another_length_or_content_is_refused() {
    let short = Segment::create("short", segment_len(FRAMES) - 4096).unwrap();
    let refused = map_readable(&short, FRAMES).unwrap_err();
    assert_eq!(refused, SegmentError::Len { found: segment_len(FRAMES) - 4096, expected: segment_len(FRAMES) });
    let empty = Segment::create("empty", segment_len(FRAMES)).unwrap();
    let words = map_readable(&empty, FRAMES).unwrap();
    let refused = FrameReceiver::open(words.clone(), CAPACITY as u64, Memory::page(), 0).unwrap_err();
    assert_eq!(refused, LayoutError::Magic { what: "stream", found: 0 });
    let refused = FrameSender::open(words, CAPACITY as u64, Memory::peer(), 0).unwrap_err();
    assert_eq!(refused, LayoutError::Magic { what: "stream", found: 0 });
    let bytes = Memory::new(BYTES);
    let refused = Receiver::open(bytes.theirs.clone(), FRAMES, Memory::page(), bytes.line).unwrap_err();
    assert_eq!(refused, LayoutError::Disagrees { what: "stream", field: "content", found: 1, expected: 2 });
    let other = StreamShape { capacity: 2 * BYTES.capacity, ..BYTES };
    let refused = Receiver::open(bytes.theirs.clone(), other, Memory::page(), bytes.line).unwrap_err();
    assert!(matches!(refused, LayoutError::Disagrees { field: "capacity", .. }), "{refused}");
}
