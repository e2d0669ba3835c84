//! Payload bytes in place: the only plain references into a log.

use std::mem::MaybeUninit;

use rkyv::util::AlignedVec;

use crate::memory::SharedWords;

use super::Payload;
use super::cursor::Cursor;
use super::held::Pin;
use super::producer::Producer;

#[cold]
#[inline(never)]
fn beyond(len: usize, room: usize) -> ! {
    panic!("{len} bytes opened where there is room for {room}")
}

impl Producer<SharedWords> {
    /// The bytes that `open` or `room` gave, before they are committed: whatever stood there before.
    ///
    /// # Panics
    ///
    /// When the current block does not have that much room.
    #[inline(always)]
    pub fn open_bytes(&mut self, len: usize) -> &mut [u8] {
        let (at, room) = self.room();
        if len > room {
            beyond(len, room);
        }
        // SAFETY: behind the last committed frame of the current block: no reader goes there before the commit word, only
        // this producer writes, and `self` is borrowed while the slice lives.
        unsafe { self.words().bytes_mut(at, len) }
    }
}

impl Producer<SharedWords> {
    /// The same bytes, for reading.
    ///
    /// # Panics
    ///
    /// As [`open_bytes`](Self::open_bytes).
    #[inline(always)]
    pub fn peek_bytes(&self, len: usize) -> &[u8] {
        let (at, room) = self.room();
        if len > room {
            beyond(len, room);
        }
        // SAFETY: as in open_bytes; `self` is borrowed, so nobody writes while the slice lives.
        unsafe { self.words().bytes(at, len) }
    }
}

impl Producer<SharedWords> {
    /// All the room of the current block, to be written by a serialiser that never reads what stands there.
    #[inline]
    pub fn open_room(&mut self) -> &mut [MaybeUninit<u8>] {
        let (_, room) = self.room();
        let bytes = self.open_bytes(room);
        let (first, len) = (bytes.as_mut_ptr().cast::<MaybeUninit<u8>>(), bytes.len());
        // SAFETY: the same bytes, borrowed as before; a byte is also a MaybeUninit byte, and whoever leaves some of them
        // uninitialised leaves in memory that other processes map what stood there before.
        unsafe { std::slice::from_raw_parts_mut(first, len) }
    }
}

impl Cursor<SharedWords> {
    /// The message that was polled last, in place, 16-byte aligned; empty if the last poll gave none.
    ///
    /// Its bytes are what the publisher committed. A publisher that is not trusted could still change them
    /// (`docs/security.md`): then use [`copy_payload`](Self::copy_payload).
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let Payload { at, len } = self.last();
        // SAFETY: a polled message lies inside its block, which `at` in our line keeps until the next poll, for which
        // `self` would have to be borrowed anew. It is committed: its one writer does not touch it before that.
        unsafe { self.words().bytes(at, len) }
    }

    /// Copies the message that was polled last: right also while a hostile publisher writes to it.
    pub fn copy_payload(&self, into: &mut AlignedVec) {
        let Payload { at, len } = self.last();
        self.words().copy_to(at, len, into);
    }
}

impl Pin<SharedWords> {
    /// A message of the pinned block, in place.
    ///
    /// # Safety
    ///
    /// `payload` was [`Cursor::last`] when this pin was taken.
    pub unsafe fn payload(&self, payload: Payload) -> &[u8] {
        // SAFETY: the message lies in the block that this pin's `held` word keeps (contract), and is committed.
        unsafe { self.words().bytes(payload.at, payload.len) }
    }
}

/// One message that stays where it is for as long as this lives, however far the cursor went.
#[derive(Clone)]
pub struct Kept {
    pin: std::sync::Arc<Pin<SharedWords>>,
    payload: Payload,
}

impl Cursor<SharedWords> {
    /// Keeps the message that was polled last.
    ///
    /// # Errors
    ///
    /// When this link holds messages in too many blocks already.
    pub fn keep(&self) -> Result<Kept, super::TooManyHeld> {
        Ok(Kept { pin: self.pin()?, payload: self.last() })
    }
}

impl Kept {
    /// The message, in place, 16-byte aligned.
    pub fn payload(&self) -> &[u8] {
        // SAFETY: made by Cursor::keep, which takes pin and place together.
        unsafe { self.pin.payload(self.payload) }
    }
}
