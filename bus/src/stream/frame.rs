//! [`FrameSender`] and [`FrameReceiver`]: messages of any length in a stream.
//!
//! A frame is a header of 16 bytes (length and kind; the message's number) and the message, packed to 16 bytes: so each
//! message is 16-byte aligned, and rkyv can read it in place. Numbers of messages that the sender left out on purpose
//! ([`FrameSender::skip`]) are missing, which is how the receiver counts them.

use std::sync::Arc;

use crate::atomics::Words;
use crate::page::{LayoutError, NodePage, PeerPage};

use super::layout::{
    Content, HEADER_LEN, MESSAGES_AT, StreamShape, frame_len, frame_word, longest_message, message_len,
};
use super::receiver::{Receiver, StreamFault};
use super::sender::{SendError, Sender};

/// The writing end of a stream of frames. Dropping it ends the stream; what was staged still counts.
#[derive(Debug)]
pub struct FrameSender<W: Words> {
    pub(super) bytes: Sender<W>,
    /// number of the next message; from 0 on
    sequence: u64,
}

impl<W: Words> FrameSender<W> {
    /// See [`Sender::open`]; a ring of `capacity` bytes.
    ///
    /// # Errors
    ///
    /// When the segment is not a stream of frames of that capacity.
    pub fn open(ring: W, capacity: u64, page: PeerPage<W>, line: u32) -> Result<FrameSender<W>, LayoutError> {
        let shape = StreamShape { capacity, content: Content::Frames };
        Ok(FrameSender { bytes: Sender::open(ring, shape, page, line)?, sequence: 0 })
    }

    /// The ring's words.
    pub fn ring(&self) -> &W {
        self.bytes.ring()
    }

    /// Number of the next message.
    pub fn next_sequence(&self) -> u64 {
        self.sequence
    }

    /// Bytes of the longest message that this stream can take.
    pub fn longest_message(&self) -> usize {
        longest_message(self.bytes.shape().capacity)
    }

    /// Makes room for a message of `len` bytes; returns the offset at which it goes, a multiple of 16.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[inline(always)]
    pub fn open_frame(&mut self, len: usize) -> Result<usize, SendError> {
        if len > self.longest_message() {
            return Err(SendError::TooLong { len, limit: self.longest_message() });
        }
        Ok(self.bytes.open_bytes(frame_len(len))? + HEADER_LEN)
    }

    /// Takes the message of `len` bytes that was written at the place that `open_frame` gave (at least as long), without
    /// telling the receiver yet; returns its number.
    ///
    /// # Panics
    ///
    /// When there was less room.
    #[inline(always)]
    pub fn stage(&mut self, len: usize) -> u64 {
        self.write_header(self.bytes.place(), len, self.sequence);
        self.stage_written(len)
    }

    /// The header at byte offset `at` of the ring's words, where there is room for it.
    #[inline(always)]
    pub(super) fn write_header(&self, at: usize, len: usize, sequence: u64) {
        // Relaxed, both: published by the write index.
        self.bytes.ring().store(at, frame_word(len));
        self.bytes.ring().store(at + 8, sequence);
    }

    /// As `stage`, for a message whose header is written already.
    #[inline(always)]
    pub(super) fn stage_written(&mut self, len: usize) -> u64 {
        self.bytes.stage(frame_len(len));
        let sequence = self.sequence;
        self.sequence += 1;
        sequence
    }

    /// Takes over what a batch wrote: frames up to index `next`, messages up to number `sequence`.
    #[inline(always)]
    pub(super) fn staged(&mut self, next: u64, sequence: u64) {
        self.bytes.next = next;
        self.sequence = sequence;
    }

    /// Tells the receiver of all that was staged.
    #[inline(always)]
    pub fn publish(&mut self) {
        self.bytes.publish();
    }

    /// Takes and tells in one: [`stage`](Self::stage) and [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// When there was less room.
    #[inline(always)]
    pub fn commit(&mut self, len: usize) -> u64 {
        let sequence = self.stage(len);
        self.publish();
        sequence
    }

    /// Leaves a message out on purpose, because there is no room for it: the receiver will count it as missed.
    pub fn skip(&mut self) {
        self.sequence += 1;
    }

    /// The kernel says that the receiver's process is dead: nothing more can be sent.
    pub fn receiver_died(&mut self) {
        self.bytes.receiver_died();
    }

    /// Ends the stream in order: the receiver reads what is there, then hears of the end. Dropping does the same.
    pub fn finish(self) {}
}

impl<W: Words> Drop for FrameSender<W> {
    fn drop(&mut self) {
        // Relaxed: published by the end, which the drop of `bytes` stores next.
        self.bytes.ring().store(MESSAGES_AT, self.sequence);
    }
}

/// Where a message of a stream lies, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePlace {
    /// byte offset in the ring's words; a multiple of 16
    pub at: usize,
    /// bytes
    pub len: usize,
    /// The sender's number of it, from 0 on.
    pub sequence: u64,
    /// Messages that the sender left out directly before it.
    pub missed_before: u64,
}

/// The reading end of a stream of frames. Dropping it tells the sender that nobody reads any more.
#[derive(Debug)]
pub struct FrameReceiver<W: Words> {
    pub(super) bytes: Receiver<W>,
    /// number of the message that comes next if none was left out
    expected: u64,
    missed: u64,
    /// Once the end was heard of: messages left out at the end.
    missed_at_end: Option<u64>,
}

impl<W: Words> FrameReceiver<W> {
    /// See [`Receiver::open`]; a ring of `capacity` bytes.
    ///
    /// # Errors
    ///
    /// When the segment is not a stream of frames of that capacity.
    pub fn open(ring: W, capacity: u64, page: Arc<NodePage<W>>, line: u32) -> Result<FrameReceiver<W>, LayoutError> {
        let shape = StreamShape { capacity, content: Content::Frames };
        Ok(FrameReceiver {
            bytes: Receiver::open(ring, shape, page, line)?,
            expected: 0,
            missed: 0,
            missed_at_end: None,
        })
    }

    /// The ring's words.
    pub fn ring(&self) -> &W {
        self.bytes.ring()
    }

    /// Messages that the sender left out so far.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The next message, if it is there. It stays as it is until the next call that takes `self` exclusively.
    ///
    /// # Errors
    ///
    /// When no further message will come.
    #[inline(always)]
    pub fn poll(&mut self) -> Result<Option<FramePlace>, StreamFault> {
        match self.bytes.poll_bytes(1) {
            Ok(0) => Ok(None),
            Ok(_) => self.take().map(Some),
            Err(fault) => Err(self.over(fault)),
        }
    }

    /// Looks for messages.
    #[inline(always)]
    pub(super) fn look(&mut self) -> Result<(), StreamFault> {
        self.bytes.poll_bytes(1).map(|_| ()).map_err(|fault| self.over(fault))
    }

    /// Adds to an end what was left out there.
    #[cold]
    fn over(&mut self, fault: StreamFault) -> StreamFault {
        if !matches!(fault, StreamFault::Ended { .. }) {
            return fault;
        }
        if self.missed_at_end.is_none() {
            // Relaxed: published by the end. Loaded once: the sender could change it.
            let messages = self.bytes.ring().load(MESSAGES_AT);
            let Some(missed) = messages.checked_sub(self.expected) else {
                return self.bytes.corrupt("an end before messages that were read");
            };
            self.missed += missed;
            self.missed_at_end = Some(missed);
        }
        StreamFault::Ended { missed: self.missed_at_end.unwrap_or(0) }
    }

    /// The next of the messages that are known to be there, without a look for more.
    #[inline(always)]
    pub(super) fn take_known(&mut self) -> Option<FramePlace> {
        // A fault is kept: the next poll says it.
        if self.bytes.known() == 0 { None } else { self.take().ok() }
    }

    /// The message at the next byte; there is at least a header.
    #[inline(always)]
    fn take(&mut self) -> Result<FramePlace, StreamFault> {
        let at = self.bytes.place();
        // Relaxed, both: published by the write index. Loaded once: the sender could change them.
        let (word, sequence) = (self.bytes.ring().load(at), self.bytes.ring().load(at + 8));
        let Some(len) = message_len(word).filter(|&len| frame_len(len) <= self.bytes.known()) else {
            return Err(self.bytes.corrupt("a frame of an unknown kind, or longer than what was written"));
        };
        let (Some(missed_before), Some(expected)) = (sequence.checked_sub(self.expected), sequence.checked_add(1))
        else {
            return Err(self.bytes.corrupt("a message's number that was there before, or beyond the last one"));
        };
        self.bytes.advance(frame_len(len));
        self.expected = expected;
        // No overflow: all that was missed lies below `expected`.
        self.missed += missed_before;
        Ok(FramePlace { at: at + HEADER_LEN, len, sequence, missed_before })
    }

    /// Gives back at once all that was read, see [`Receiver::release`].
    pub fn release(&mut self) {
        self.bytes.release();
    }

    /// The kernel says that the sender's process is dead: once everything is read, the stream is over.
    pub fn sender_died(&mut self) {
        self.bytes.sender_died();
    }

    /// Whether there is something to read or to hear, see [`Receiver::is_ready`].
    pub fn is_ready(&self) -> bool {
        self.bytes.is_ready()
    }
}
