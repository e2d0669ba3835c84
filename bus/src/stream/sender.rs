//! [`Sender`]: the writing end of a stream, bytes without borders.

use thiserror::Error;

use crate::atomics::{Fact, Words};
use crate::page::{LINES, LayoutError, PeerPage, line_at};

use super::layout::{self, ENDED, LEFT, READ, RING_AT, StreamShape, WRITTEN_AT};

/// Nothing could be sent. Nothing is lost by it: what was to be sent is still the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The receiver has to read first: wait, leave it out, or give up.
    #[error("the stream is full: {free} bytes are free until its receiver reads on")]
    Full {
        /// bytes of the ring that are free now
        free: usize,
    },
    /// It never fits. Split it, or ask for a larger ring.
    #[error("{len} bytes are more than this stream can ever take, which is {limit}: ask for a larger ring")]
    TooLong {
        /// bytes
        len: usize,
        /// bytes
        limit: usize,
    },
    /// The receiver said that it reads no more. Give the stream up.
    #[error("the receiver left the stream")]
    ReceiverLeft,
    /// The receiver's process died. Give the stream up.
    #[error("the receiver of the stream died")]
    ReceiverDied,
    /// The receiver says that it read what it cannot have read. Give the stream up.
    #[error("the receiver's page is damaged: it says {found} bytes were read, of {written} written")]
    Corrupt {
        /// What its page says.
        found: u64,
        /// bytes since the stream began
        written: u64,
    },
}

/// The writing end. Dropping it ends the stream; what was staged still counts.
#[derive(Debug)]
// Apart from whatever else its owner has: it is written with each message.
#[repr(align(128))]
pub struct Sender<W: Words> {
    ring: W,
    page: PeerPage<W>,
    /// byte offset of the receiver's word in its page
    read_at: usize,
    shape: StreamShape,
    /// bytes since the stream began, as all of these; published <= next <= read + capacity; where the next byte goes
    pub(super) next: u64,
    /// What the receiver may know of.
    published: u64,
    /// As loaded last; read <= published.
    read: u64,
    /// The receiver is gone, or its word was damaged: nothing more is sent.
    over: Option<SendError>,
}

impl<W: Words> Sender<W> {
    /// The sender of `ring`, which [`create`](super::create) made and nobody has written to since. `page` is the receiver's
    /// node page; `line` is the stream's line there, which the receiver has opened.
    ///
    /// # Errors
    ///
    /// When the segment is not a stream of that shape.
    pub fn open(ring: W, shape: StreamShape, page: PeerPage<W>, line: u32) -> Result<Sender<W>, LayoutError> {
        debug_assert!(line < LINES);
        layout::open(&ring, shape)?;
        Ok(Sender { ring, page, read_at: line_at(line) + READ, shape, next: 0, published: 0, read: 0, over: None })
    }

    /// The ring's words.
    pub fn ring(&self) -> &W {
        &self.ring
    }

    /// The stream's shape.
    pub fn shape(&self) -> StreamShape {
        self.shape
    }

    /// Bytes written since the stream began.
    pub fn written(&self) -> u64 {
        self.published
    }

    /// Bytes that are free as far as is known without another look.
    #[inline(always)]
    fn free(&self) -> u64 {
        self.shape.capacity - (self.next - self.read)
    }

    /// Makes sure that `len` bytes are free; returns the offset at which they begin. Looks at the receiver's word only if
    /// what is known of it is not enough.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[inline(always)]
    pub fn open_bytes(&mut self, len: usize) -> Result<usize, SendError> {
        if len as u64 > self.free() || self.over.is_some() {
            self.look(len)?;
        }
        Ok(self.place())
    }

    /// Byte offset of the next byte in the ring's words.
    #[inline(always)]
    pub(super) fn place(&self) -> usize {
        self.place_of(self.next)
    }

    /// Byte offset of the byte with that index in the ring's words.
    #[inline(always)]
    pub(super) fn place_of(&self, index: u64) -> usize {
        RING_AT + (index & (self.shape.capacity - 1)) as usize
    }

    /// The index up to which may be written as far as is known without another look.
    #[inline(always)]
    pub(super) fn limit(&self) -> u64 {
        self.read + self.shape.capacity
    }

    /// Bytes that are free now, after a look at the receiver's word.
    ///
    /// # Errors
    ///
    /// When the receiver is gone.
    pub fn room(&mut self) -> Result<usize, SendError> {
        self.look(0)?;
        Ok(self.free() as usize)
    }

    #[cold]
    #[inline(never)]
    fn look(&mut self, len: usize) -> Result<(), SendError> {
        if let Some(over) = self.over {
            return Err(over);
        }
        if len as u64 > self.shape.capacity {
            return Err(SendError::TooLong { len, limit: self.shape.capacity as usize });
        }
        // PAIRS stream-read: Acquire here, Release in Receiver::store_read.
        let word = self.page.words().load_acquire(self.read_at, Fact::StreamRead);
        let found = word & !LEFT;
        if !(self.read..=self.published).contains(&found) || found % self.shape.content.granule() != 0 {
            return self.end(SendError::Corrupt { found, written: self.published });
        }
        self.read = found;
        if word & LEFT != 0 {
            return self.end(SendError::ReceiverLeft);
        }
        if len as u64 > self.free() {
            return Err(SendError::Full { free: self.free() as usize });
        }
        Ok(())
    }

    fn end(&mut self, error: SendError) -> Result<(), SendError> {
        self.over = Some(error);
        Err(error)
    }

    /// Takes `len` bytes that were written at the place that `open_bytes` gave, without telling the receiver yet.
    ///
    /// # Panics
    ///
    /// When that is more than was free.
    #[inline(always)]
    pub fn stage(&mut self, len: usize) {
        if len as u64 > self.free() {
            beyond(len, self.free());
        }
        self.next += len as u64;
    }

    /// Tells the receiver of all that was staged.
    #[inline(always)]
    pub fn publish(&mut self) {
        self.published = self.next;
        // PAIRS stream-written: Release here, Acquire in Receiver::look.
        self.ring.store_release(WRITTEN_AT, self.next, Fact::StreamWritten);
    }

    /// Takes and tells in one: [`stage`](Self::stage) and [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// When that is more than was free.
    #[inline(always)]
    pub fn commit(&mut self, len: usize) {
        self.stage(len);
        self.publish();
    }

    /// The kernel says that the receiver's process is dead: nothing more can be sent.
    pub fn receiver_died(&mut self) {
        self.over.get_or_insert(SendError::ReceiverDied);
    }

    /// Ends the stream in order: the receiver reads what is there, then hears of the end. Dropping does the same.
    pub fn finish(self) {}
}

impl<W: Words> Drop for Sender<W> {
    fn drop(&mut self) {
        // PAIRS stream-written: Release here, Acquire in Receiver::look.
        self.ring.store_release(WRITTEN_AT, self.next | ENDED, Fact::StreamWritten);
    }
}

#[cold]
#[inline(never)]
fn beyond(len: usize, free: u64) -> ! {
    panic!("{len} bytes committed where {free} were free")
}
