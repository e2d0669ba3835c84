//! Where everything stands in a stream's segment and in its line. The map with all offsets is `docs/layout.md`.

use thiserror::Error;

use crate::atomics::{Fact, Words};
use crate::page::{LayoutError, check_magic};

/// Bytes of a ring unless asked otherwise: both sides' share of it stays in a core's own cache.
pub const DEFAULT_CAPACITY: u64 = 256 * 1024;
/// Smallest ring: a page, on every machine.
pub const MIN_CAPACITY: u64 = 64 * 1024;
/// Largest ring.
pub const MAX_CAPACITY: u64 = 1024 * 1024 * 1024;

/// `b"NSETSTR"` and the major version of this layout, stored last.
const MAGIC: u64 = u64::from_le_bytes(*b"NSETSTR\x01");
/// Word: [`MAGIC`].
const MAGIC_AT: usize = 0x00;
/// Word: bytes of the ring.
const CAPACITY_AT: usize = 0x08;
/// Word: what the ring holds, see [`Content`].
const CONTENT_AT: usize = 0x10;
/// Word: how many messages there were, sent or left out; written before [`ENDED`] is.
pub(crate) const MESSAGES_AT: usize = 0x18;
/// Word: bytes written since the stream began, and [`ENDED`]. A cache line of its own, and none beside it is used: processors
/// fetch lines in pairs.
pub(crate) const WRITTEN_AT: usize = 0x80;
/// Where the ring begins: a multiple of every machine's page.
pub(crate) const RING_AT: usize = 65536;

/// Word of a stream's line in the receiver's node page: bytes read since the stream began, and [`LEFT`].
pub(crate) const READ: usize = 0;

/// Bit of the word at [`WRITTEN_AT`]: nothing more will be written.
pub(crate) const ENDED: u64 = 1 << 63;
/// Bit of the word at [`READ`]: nothing more will be read.
pub(crate) const LEFT: u64 = 1 << 63;

/// Bytes of a frame's header; frames begin at multiples of it.
pub(crate) const HEADER_LEN: usize = 16;
/// First bit of a frame's kind in the first word of its header, above the length.
const KIND_SHIFT: u32 = 32;
/// A message. No other kind is written so far.
const KIND_DATA: u64 = 1;

/// What a stream's ring holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Bytes without borders: [`Sender`](super::Sender), [`Receiver`](super::Receiver).
    Bytes,
    /// Frames: [`FrameSender`](super::FrameSender), [`FrameReceiver`](super::FrameReceiver).
    Frames,
}

impl Content {
    const fn word(self) -> u64 {
        match self {
            Content::Bytes => 1,
            Content::Frames => 2,
        }
    }

    /// Both indices are multiples of that many bytes.
    pub(super) const fn granule(self) -> u64 {
        match self {
            Content::Bytes => 1,
            Content::Frames => HEADER_LEN as u64,
        }
    }
}

/// How a stream's segment is laid out; both sides learn it from the dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamShape {
    /// Bytes of the ring: a power of two, [`MIN_CAPACITY`] to [`MAX_CAPACITY`].
    pub capacity: u64,
    /// What it holds.
    pub content: Content,
}

impl StreamShape {
    /// A ring of [`DEFAULT_CAPACITY`].
    pub fn new(content: Content) -> StreamShape {
        StreamShape { capacity: DEFAULT_CAPACITY, content }
    }
}

/// A stream cannot have that shape. Ask for another capacity.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("a stream of {0} bytes: its ring must have a power of two from {MIN_CAPACITY} to {MAX_CAPACITY} bytes")]
pub struct StreamShapeError(pub u64);

/// Checks a shape.
///
/// # Errors
///
/// When the capacity is outside its range, or no power of two.
pub fn check(shape: StreamShape) -> Result<(), StreamShapeError> {
    let fits = shape.capacity.is_power_of_two() && (MIN_CAPACITY..=MAX_CAPACITY).contains(&shape.capacity);
    if fits { Ok(()) } else { Err(StreamShapeError(shape.capacity)) }
}

/// Bytes of the segment of a stream of that shape, which must have passed [`check`].
pub fn segment_len(shape: StreamShape) -> u64 {
    RING_AT as u64 + shape.capacity
}

/// The sender, before anybody else has the segment: makes a stream out of `ring`, fresh (zeroed) words of that shape.
pub fn create<W: Words>(ring: &W, shape: StreamShape) {
    // Relaxed, both: published by the magic word.
    ring.store(CAPACITY_AT, shape.capacity);
    ring.store(CONTENT_AT, shape.content.word());
    // PAIRS segment-ready: Release here, Acquire in layout::open.
    ring.store_release(MAGIC_AT, MAGIC, Fact::SegmentReady);
}

/// Compares the segment with what the dispatcher said of it.
pub(super) fn open<W: Words>(ring: &W, shape: StreamShape) -> Result<(), LayoutError> {
    // PAIRS segment-ready: Acquire here, Release in layout::create.
    check_magic("stream", ring.load_acquire(MAGIC_AT, Fact::SegmentReady), MAGIC)?;
    for (at, field, expected) in
        [(CAPACITY_AT, "capacity", shape.capacity), (CONTENT_AT, "content", shape.content.word())]
    {
        // Relaxed: published by the magic word.
        let found = ring.load(at);
        if found != expected {
            return Err(LayoutError::Disagrees { what: "stream", field, found, expected });
        }
    }
    Ok(())
}

/// The word with which the header of a message of `len` bytes begins.
pub(super) const fn frame_word(len: usize) -> u64 {
    KIND_DATA << KIND_SHIFT | len as u64
}

/// Bytes of the message behind a header that begins with that word; `None` if no version writes that.
pub(super) const fn message_len(word: u64) -> Option<usize> {
    if word >> KIND_SHIFT == KIND_DATA { Some(word as u32 as usize) } else { None }
}

/// Bytes that a frame with a message of `len` bytes takes.
pub(super) const fn frame_len(len: usize) -> usize {
    HEADER_LEN + len.next_multiple_of(HEADER_LEN)
}

/// Bytes of the longest message that a ring of `capacity` bytes can take.
pub(super) const fn longest_message(capacity: u64) -> usize {
    capacity as usize - HEADER_LEN
}

// The longest message's length fits the header's field.
const _: () = assert!(MAX_CAPACITY <= 1 << KIND_SHIFT);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SharedWords;

    #[test]
    fn capacities_are_powers_of_two_within_bounds() {
        let shape = |capacity| StreamShape { capacity, content: Content::Bytes };
        for capacity in [MIN_CAPACITY, DEFAULT_CAPACITY, MAX_CAPACITY] {
            assert_eq!(check(shape(capacity)), Ok(()));
        }
        for capacity in [0, 1, 32 * 1024, MIN_CAPACITY + 1, 3 * MIN_CAPACITY, 2 * MAX_CAPACITY, u64::MAX] {
            assert_eq!(check(shape(capacity)), Err(StreamShapeError(capacity)));
        }
    }

    #[test]
    fn a_segment_is_compared_with_what_was_said_of_it() {
        let shape = StreamShape { capacity: 64, content: Content::Frames };
        let ring = SharedWords::heap(64);
        assert!(matches!(open(&ring, shape), Err(LayoutError::Magic { what: "stream", found: 0 })));
        create(&ring, shape);
        assert_eq!(open(&ring, shape), Ok(()));
        let disagrees = |field, found, expected| Err(LayoutError::Disagrees { what: "stream", field, found, expected });
        assert_eq!(open(&ring, StreamShape { capacity: 128, ..shape }), disagrees("capacity", 64, 128));
        assert_eq!(open(&ring, StreamShape { content: Content::Bytes, ..shape }), disagrees("content", 2, 1));
        ring.store(MAGIC_AT, MAGIC + (1 << 56));
        assert_eq!(open(&ring, shape), Err(LayoutError::Version { what: "stream", found: 2, known: 1 }));
    }

    #[test]
    fn sizes_follow_from_a_frames_first_word() {
        for (len, frame) in [(0, 16), (1, 32), (16, 32), (17, 48)] {
            assert_eq!((message_len(frame_word(len)), frame_len(len)), (Some(len), frame));
        }
        assert_eq!(frame_len(longest_message(MIN_CAPACITY)) as u64, MIN_CAPACITY);
        for word in [0, 7, 2 << KIND_SHIFT, 3 << KIND_SHIFT | 9, 1 << 48 | frame_word(1), u64::MAX] {
            assert_eq!(message_len(word), None);
        }
    }
}
