//! [`Receiver`]: the reading end of a stream, bytes without borders.

use std::sync::Arc;

use thiserror::Error;

use crate::atomics::{Fact, Words};
use crate::page::{LINES, LayoutError, NodePage, line_at};

use super::layout::{self, ENDED, LEFT, READ, RING_AT, StreamShape, WRITTEN_AT};

/// Nothing more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StreamFault {
    /// The sender ended the stream, and everything was read.
    #[error("the stream ended; {missed} messages at its end were left out")]
    Ended {
        /// Messages that the sender left out at the end; of a stream of bytes always 0.
        missed: u64,
    },
    /// The sender's process died; everything it had sent was read.
    #[error("the sender of the stream died")]
    SenderDied,
    /// The ring says what it cannot say. The stream is of no further use.
    #[error("the sender's ring is damaged at byte {at} of the stream: {what}")]
    Corrupt {
        /// bytes since the stream began
        at: u64,
        /// What was found.
        what: &'static str,
    },
}

/// bytes; a look that finds less finds a little
const FEW: u64 = 4096;
/// Pauses of the processor before a receiver that is close behind a busy sender looks again: one microsecond, more or less.
const PAUSES: u32 = 32;

/// The reading end. Dropping it tells the sender that nobody reads any more.
#[derive(Debug)]
// Apart from whatever else its owner has: it is written with each message.
#[repr(align(128))]
pub struct Receiver<W: Words> {
    ring: W,
    page: Arc<NodePage<W>>,
    /// byte offset of this stream's word in the page
    read_at: usize,
    shape: StreamShape,
    /// bytes since the stream began, as all of these; released <= next <= written; the next byte to read
    next: u64,
    /// What the sender may write over: nothing below is borrowed.
    released: u64,
    /// As loaded last; written <= released + capacity.
    written: u64,
    /// Once this many bytes are read the sender is told, without waiting for the next look.
    release_every: u64,
    /// The kernel says that there is no sender any more.
    sender_died: bool,
    /// `written` is the last one.
    complete: bool,
    /// The last look found something.
    found_last: bool,
    /// The last two looks in a row found something, the last one only a little: the sender is busy, and this end faster.
    close_behind: bool,
    over: Option<StreamFault>,
}

impl<W: Words> Receiver<W> {
    /// The receiver of `ring`. `page` is its own node page; `line` is the stream's line there, which no link uses. To be
    /// opened before the sender is: it clears what an earlier use left in the line.
    ///
    /// # Errors
    ///
    /// When the segment is not a stream of that shape.
    pub fn open(ring: W, shape: StreamShape, page: Arc<NodePage<W>>, line: u32) -> Result<Receiver<W>, LayoutError> {
        debug_assert!(line < LINES);
        layout::open(&ring, shape)?;
        let receiver = Receiver {
            ring,
            page,
            read_at: line_at(line) + READ,
            shape,
            next: 0,
            released: 0,
            written: 0,
            release_every: shape.capacity / 8,
            sender_died: false,
            complete: false,
            found_last: false,
            close_behind: false,
            over: None,
        };
        receiver.store_read(0);
        Ok(receiver)
    }

    /// The ring's words.
    pub fn ring(&self) -> &W {
        &self.ring
    }

    /// The stream's shape.
    pub fn shape(&self) -> StreamShape {
        self.shape
    }

    /// Bytes read since the stream began.
    pub fn read(&self) -> u64 {
        self.next
    }

    /// Bytes that are there as far as is known without another look.
    #[inline(always)]
    pub(super) fn known(&self) -> usize {
        (self.written - self.next) as usize
    }

    /// How many bytes are there to read; looks at the sender's word only if fewer than `at_least` are known.
    ///
    /// Whatever was handed out before must not be in use any more: looking gives it back.
    ///
    /// # Errors
    ///
    /// When there are none, and none will come.
    #[inline(always)]
    pub fn poll_bytes(&mut self, at_least: usize) -> Result<usize, StreamFault> {
        if self.known() < at_least {
            self.look()?;
        } else if self.next - self.released >= self.release_every {
            self.release();
        }
        Ok(self.known())
    }

    /// Nothing more will come than what is there: the last look found the end, or was made after the sender died. Whoever
    /// waits for more than that waits for ever.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Byte offset of the next byte in the ring's words.
    #[inline(always)]
    pub(super) fn place(&self) -> usize {
        RING_AT + (self.next & (self.shape.capacity - 1)) as usize
    }

    #[inline(never)]
    fn look(&mut self) -> Result<(), StreamFault> {
        self.release();
        if let Some(over) = self.over {
            return Err(over);
        }
        if self.close_behind {
            // Each look takes the index's line from the sender, and each line that is read before it is full is taken twice.
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
        }
        // PAIRS stream-written: Acquire here, Release in Sender::publish and Sender::drop.
        let word = self.ring.load_acquire(WRITTEN_AT, Fact::StreamWritten);
        let found = word & !ENDED;
        let limit = self.released + self.shape.capacity;
        if !(self.written..=limit).contains(&found) || found % self.shape.content.granule() != 0 {
            return Err(self.corrupt("a write index that went back, or beyond the ring"));
        }
        let came = found - self.written;
        self.close_behind = self.found_last && (1..FEW).contains(&came);
        self.found_last = came > 0;
        self.written = found;
        // Told of its death before the load above, so that was the sender's last word.
        self.complete = word & ENDED != 0 || self.sender_died;
        match self.complete && found == self.next {
            true if word & ENDED != 0 => self.end(StreamFault::Ended { missed: 0 }),
            true => self.end(StreamFault::SenderDied),
            false => Ok(()),
        }
    }

    fn end(&mut self, fault: StreamFault) -> Result<(), StreamFault> {
        self.over = Some(fault);
        Err(fault)
    }

    /// What was found cannot be: nothing of it is read, now or later.
    #[cold]
    pub(super) fn corrupt(&mut self, what: &'static str) -> StreamFault {
        let fault = StreamFault::Corrupt { at: self.next, what };
        self.written = self.next;
        self.over = Some(fault);
        fault
    }

    /// Goes on behind the next `len` bytes. The sender may write over them after the next look, or after `release`.
    ///
    /// # Panics
    ///
    /// When fewer are there.
    #[inline(always)]
    pub fn advance(&mut self, len: usize) {
        if len > self.known() {
            beyond(len, self.known());
        }
        self.next += len as u64;
    }

    /// Gives back at once all that was read. Looking for more does it as well, so this is for whoever reads and then does
    /// something else for long.
    #[inline(always)]
    pub fn release(&mut self) {
        if self.released != self.next {
            self.released = self.next;
            self.store_read(self.next);
        }
    }

    #[inline(always)]
    fn store_read(&self, word: u64) {
        // PAIRS stream-read: Release here, Acquire in Sender::look.
        self.page.words().store_release(self.read_at, word, Fact::StreamRead);
    }

    /// The kernel says that the sender's process is dead: once everything is read, the stream is over.
    pub fn sender_died(&mut self) {
        self.sender_died = true;
    }

    /// Whether there is something to read or to hear; changes nothing. The last look before going to sleep.
    pub fn is_ready(&self) -> bool {
        // Relaxed: only a hint, `look` loads the word again.
        self.known() > 0 || self.over.is_some() || self.sender_died || self.ring.load(WRITTEN_AT) != self.written
    }
}

impl<W: Words> Drop for Receiver<W> {
    fn drop(&mut self) {
        self.store_read(self.next | LEFT);
    }
}

#[cold]
#[inline(never)]
fn beyond(len: usize, known: usize) -> ! {
    panic!("{len} bytes taken where {known} are there")
}
