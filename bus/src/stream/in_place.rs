//! Bytes of a stream in place: the only plain references into a ring.
//!
//! All of them borrow the sender or the receiver: neither moves its index on, or gives anything back, while one lives.

use rkyv::util::AlignedVec;

use crate::memory::{Mapping, Segment, SegmentError, SharedWords};

use super::frame::{FramePlace, FrameReceiver, FrameSender};
use super::layout::{HEADER_LEN, RING_AT, StreamShape, frame_len, segment_len};
use super::receiver::{Receiver, StreamFault};
use super::sender::{SendError, Sender};

/// bytes; what is used of the part before the ring
const HEADER_PAGE: usize = 4096;
/// bytes; how much of a ring is made part of memory when it is mapped, so that its first round is as fast as the others. Of a
/// larger one the rest follows as it is used.
const TOUCHED_AHEAD: usize = 1024 * 1024;

/// Maps a stream's segment for its sender: the ring twice, back to back.
///
/// # Errors
///
/// When the segment has not the length of that shape, or cannot be mapped.
pub fn map_writable(segment: &Segment, shape: StreamShape) -> Result<SharedWords, SegmentError> {
    map(segment, shape, Segment::map_ring_writable)
}

/// Maps a stream's segment for its receiver: the ring twice, back to back.
///
/// # Errors
///
/// When the segment has not the length of that shape, or cannot be mapped.
pub fn map_readable(segment: &Segment, shape: StreamShape) -> Result<SharedWords, SegmentError> {
    map(segment, shape, Segment::map_ring_readable)
}

fn map(
    segment: &Segment,
    shape: StreamShape,
    map_ring: impl Fn(&Segment, u64) -> Result<Mapping, SegmentError>,
) -> Result<SharedWords, SegmentError> {
    let expected = segment_len(shape);
    if segment.len() != expected {
        return Err(SegmentError::Len { found: segment.len(), expected });
    }
    let words = SharedWords::mapped(map_ring(segment, RING_AT as u64)?);
    words.prefault(0..HEADER_PAGE);
    let touched = (shape.capacity as usize).min(TOUCHED_AHEAD);
    for view in [RING_AT, RING_AT + shape.capacity as usize] {
        words.prefault(view..view + touched);
    }
    Ok(words)
}

impl Sender<SharedWords> {
    /// The next `len` bytes, in place, contiguous; then [`commit`](Sender::commit) as many of them as were written. Whatever
    /// stood there before stands there still. Lock-free, no system call.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> Result<&mut [u8], SendError> {
        let at = self.open_bytes(len)?;
        // SAFETY: from the next byte on, up to `len`, everything was read and given back by the receiver (`stream-read`)
        // or was never written; it reads nothing there before the write index says so; only this sender writes, and
        // `self` is borrowed while the slice lives.
        Ok(unsafe { self.ring().bytes_mut(at, len) })
    }

    /// All bytes that are free now, after a look at the receiver, in place; maybe none.
    ///
    /// # Errors
    ///
    /// When the receiver is gone.
    pub fn reserve_all(&mut self) -> Result<&mut [u8], SendError> {
        let len = self.room()?;
        self.reserve(len)
    }

    /// Sends all of `bytes`, or nothing.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[inline(always)]
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.reserve(bytes.len())?.copy_from_slice(bytes);
        self.commit(bytes.len());
        Ok(())
    }
}

impl Receiver<SharedWords> {
    /// All bytes that are there, in place, contiguous; maybe none. Looks for more only if fewer than `at_least` are known;
    /// there may still be fewer. Then [`advance`](Receiver::advance) by as many as are done with. Lock-free, no system call.
    ///
    /// # Errors
    ///
    /// When there are none, and none will come.
    #[inline(always)]
    pub fn peek(&mut self, at_least: usize) -> Result<&[u8], StreamFault> {
        let len = self.poll_bytes(at_least)?;
        // SAFETY: below the write index (`stream-written`), and not given back before the next call that takes `self`
        // exclusively: the sender, trusted as `docs/security.md` says, does not write there.
        Ok(unsafe { self.ring().bytes(self.place(), len) })
    }
}

impl FrameSender<SharedWords> {
    /// Room for a message of `len` bytes, in place, 16-byte aligned; then [`commit`](FrameSender::commit) it, or a shorter one.
    /// Whatever stood there before stands there still. Lock-free, no system call.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> Result<&mut [u8], SendError> {
        let at = self.open_frame(len)?;
        // SAFETY: as in Sender::reserve: `open_frame` made room for header and message.
        Ok(unsafe { self.ring().bytes_mut(at, len) })
    }

    /// All the room that is free now for a message, after a look at the receiver, in place: for a serialiser that does not
    /// know the length beforehand. Maybe none.
    ///
    /// # Errors
    ///
    /// `Full` without room for even an empty message; else when the receiver is gone.
    pub fn reserve_all(&mut self) -> Result<&mut [u8], SendError> {
        let free = self.bytes.room()?;
        self.reserve(free.checked_sub(HEADER_LEN).ok_or(SendError::Full { free })?)
    }

    /// Sends a message; returns its number.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[inline(always)]
    pub fn push(&mut self, message: &[u8]) -> Result<u64, SendError> {
        // The header first: front to back a line that the receiver had is asked for once.
        let at = self.open_frame(message.len())?;
        self.write_header(at - HEADER_LEN, message.len(), self.next_sequence());
        // SAFETY: as in Sender::reserve: `open_frame` made room for header and message.
        unsafe { self.ring().bytes_mut(at, message.len()) }.copy_from_slice(message);
        let sequence = self.stage_written(message.len());
        self.publish();
        Ok(sequence)
    }

    /// Sends as many of the messages as there is room for, and tells the receiver once; returns how many.
    ///
    /// # Errors
    ///
    /// What stands in the way of the first one. An error of a later one is said when that is the first.
    #[inline]
    pub fn push_all<M: AsRef<[u8]>>(&mut self, messages: &[M]) -> Result<usize, SendError> {
        let len_of = |at: usize| messages[at].as_ref().len();
        self.push_each(messages.len(), len_of, |at, place| place.copy_from_slice(messages[at].as_ref()))
    }

    /// Sends as many of `count` messages of `len` bytes each as there is room for, written in place: `write` gets the number
    /// within the batch, from 0 on, and the place, in which stands whatever stood there before. Tells the receiver once;
    /// returns how many.
    ///
    /// # Errors
    ///
    /// What stands in the way of the first one.
    #[inline]
    pub fn push_with(
        &mut self,
        count: usize,
        len: usize,
        write: impl FnMut(usize, &mut [u8]),
    ) -> Result<usize, SendError> {
        self.push_each(count, |_| len, write)
    }

    /// Front to back, and without a store to anything but the ring: so the lines that the receiver had come back several at a
    /// time. What the batch has come to stands in `self` only before a look and at the end.
    #[inline(always)]
    fn push_each(
        &mut self,
        count: usize,
        len_of: impl Fn(usize) -> usize,
        mut write: impl FnMut(usize, &mut [u8]),
    ) -> Result<usize, SendError> {
        let (limit, first) = (self.longest_message(), self.next_sequence());
        let (mut next, mut end) = (self.bytes.next, self.bytes.limit());
        let mut pushed = 0;
        while pushed < count {
            let len = len_of(pushed);
            if pushed == 0 || len > limit || frame_len(len) as u64 > end - next {
                self.staged(next, first + pushed as u64);
                match self.open_frame(len) {
                    Ok(_) => end = self.bytes.limit(),
                    Err(error) if pushed == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            let at = self.bytes.place_of(next);
            self.write_header(at, len, first + pushed as u64);
            // SAFETY: as in Sender::reserve: header and message end before `end`.
            write(pushed, unsafe { self.ring().bytes_mut(at + HEADER_LEN, len) });
            next += frame_len(len) as u64;
            pushed += 1;
        }
        self.staged(next, first + pushed as u64);
        self.publish();
        Ok(pushed)
    }
}

/// A message of a stream, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The sender's number of it, from 0 on.
    pub sequence: u64,
    /// Messages that the sender left out directly before it.
    pub missed_before: u64,
    /// The message, 16-byte aligned.
    pub payload: &'a [u8],
}

impl FrameReceiver<SharedWords> {
    /// # Safety
    ///
    /// `place` came from `poll` or `take_known`, and `self` was not used exclusively since but by `take_known`.
    #[inline(always)]
    unsafe fn frame(&self, place: FramePlace) -> Frame<'_> {
        let FramePlace { at, len, sequence, missed_before } = place;
        // SAFETY: a message that was polled lies below the write index, and is given back only by the next look, poll or
        // release (contract): the sender, trusted as `docs/security.md` says, does not write there.
        let payload = unsafe { self.ring().bytes(at, len) };
        Frame { sequence, missed_before, payload }
    }

    /// The next message, in place, if it is there. Lock-free, no system call.
    ///
    /// # Errors
    ///
    /// When no further message will come.
    #[inline(always)]
    pub fn pop(&mut self) -> Result<Option<Frame<'_>>, StreamFault> {
        let place = self.poll()?;
        // SAFETY: just polled, and `self` is borrowed while the frame lives.
        Ok(place.map(|place| unsafe { self.frame(place) }))
    }

    /// All messages that are there, in place: one look at the sender, one index given back for all of them. Those not taken
    /// from the iterator come next time.
    ///
    /// # Errors
    ///
    /// When no further message will come.
    #[inline]
    pub fn frames(&mut self) -> Result<Frames<'_>, StreamFault> {
        self.look()?;
        Ok(Frames { receiver: self })
    }

    /// The next message, if it is there, copied to `into` (which is cleared) by whole words: right also while a hostile
    /// sender writes to it. Says its place and number; the bytes there are not to be looked at.
    ///
    /// # Errors
    ///
    /// When no further message will come.
    pub fn pop_copied(&mut self, into: &mut AlignedVec) -> Result<Option<FramePlace>, StreamFault> {
        let place = self.poll()?;
        if let Some(place) = place {
            self.ring().copy_to(place.at, place.len, into);
        }
        Ok(place)
    }
}

/// The messages that were there when [`FrameReceiver::frames`] looked.
#[derive(Debug)]
pub struct Frames<'a> {
    receiver: &'a mut FrameReceiver<SharedWords>,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Frame<'a>> {
        let place = self.receiver.take_known()?;
        // SAFETY: just taken, and `self` is borrowed while this frame lives.
        let Frame { sequence, missed_before, payload } = unsafe { self.receiver.frame(place) };
        let (first, len) = (payload.as_ptr(), payload.len());
        // SAFETY:
        // - the same bytes, which stay mapped while the receiver lives, and it is borrowed for 'a;
        // - they are not given back while it is: only `take_known` is called, which gives nothing back.
        let payload = unsafe { std::slice::from_raw_parts(first, len) };
        Some(Frame { sequence, missed_before, payload })
    }
}
