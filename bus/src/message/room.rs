//! Where a message is written, and what is kept between two messages.

use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use rkyv::rancor::Source;
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::sharing::{Share, SharingState};
use rkyv::ser::{Allocator, Positional, Sharing, Writer};

use super::{MAX_ALIGN, MAX_TYPED_LEN, WriteError};

/// Uninitialised bytes of an open frame, aligned to [`MAX_ALIGN`].
pub struct Room<'a> {
    bytes: &'a mut [MaybeUninit<u8>],
}

impl<'a> Room<'a> {
    /// The room that these bytes are.
    ///
    /// # Panics
    ///
    /// When they do not start at a multiple of [`MAX_ALIGN`] (an empty slice may start anywhere).
    #[inline]
    pub fn from_slice(bytes: &'a mut [MaybeUninit<u8>]) -> Self {
        assert!(
            bytes.is_empty() || bytes.as_ptr().addr() % MAX_ALIGN == 0,
            "a frame's payload starts at a multiple of 16"
        );
        Self { bytes }
    }

    /// How many bytes fit.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes, for a [`Message`](super::Message) implemented by hand.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [MaybeUninit<u8>] {
        self.bytes
    }

    /// Copies `bytes` to the start and returns their number.
    ///
    /// # Errors
    ///
    /// [`WriteError::Overflow`] when they do not fit; nothing is written then.
    #[inline]
    pub fn fill(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        if bytes.len() > self.bytes.len() {
            return Err(WriteError::Overflow { needed: bytes.len() });
        }
        // SAFETY:
        // - the source is valid for reads of its length
        // - the room is valid for writes of as many bytes: compared above
        // - they do not overlap: the room is borrowed exclusively
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.bytes.as_mut_ptr().cast::<u8>(), bytes.len()) };
        Ok(bytes.len())
    }
}

impl fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("capacity", &self.capacity()).finish()
    }
}

/// What rkyv needs beside the room, kept between messages so that none of them allocates: an arena for the parts of a
/// message that is being written, and the table of its shared pointers.
///
/// Grows to what the largest message needed (a small part of its length) and keeps that.
pub struct Scratch {
    arena: Arena,
    share: Share,
    /// `share` has entries: of this message, or of one whose serialisation failed or panicked.
    shared: bool,
}

impl Scratch {
    /// An empty one. Allocates 1 KiB.
    pub fn new() -> Self {
        Self { arena: Arena::new(), share: Share::new(), shared: false }
    }

    /// The two parts, ready for another message.
    #[inline]
    pub(super) fn open(&mut self) -> (LazyArena<'_>, LazyShare<'_>) {
        if self.shared {
            self.share.clear();
            self.shared = false;
        }
        (LazyArena::Unused(Some(&mut self.arena)), LazyShare { share: &mut self.share, shared: &mut self.shared })
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// Writes into a room as long as there is any, and counts on from there: one pass gives the message, or its length.
#[derive(Debug)]
pub struct RoomWriter<'a> {
    start: NonNull<u8>,
    /// bytes; valid for writes from `start`
    capacity: usize,
    /// bytes; 0 <= len <= MAX_TYPED_LEN, more than `capacity` once something did not fit
    len: usize,
    /// The message would be longer than [`MAX_TYPED_LEN`].
    too_long: bool,
    _room: PhantomData<&'a mut [MaybeUninit<u8>]>,
}

/// Where the root of a message goes.
pub(super) enum Reserved {
    /// At this position and address; all zero.
    At(usize, NonNull<u8>),
    /// There is no room; it was counted.
    NoRoom,
    /// The message is longer than [`MAX_TYPED_LEN`].
    TooLong,
}

impl<'a> RoomWriter<'a> {
    #[inline]
    pub(super) fn new(room: &'a mut Room<'_>) -> Self {
        Self {
            start: NonNull::from(&mut *room.bytes).cast(),
            capacity: room.bytes.len(),
            len: 0,
            too_long: false,
            _room: PhantomData,
        }
    }

    /// Appends zeros up to a multiple of `align` (a power of two, at most [`MAX_ALIGN`]), then `size` of them.
    #[inline]
    pub(super) fn reserve_zeroed(&mut self, size: usize, align: usize) -> Reserved {
        const ZEROS: [u8; MAX_ALIGN] = [0; MAX_ALIGN];
        let padding = self.len.wrapping_neg() & (align - 1);
        if padding > 0 && !self.append(&ZEROS[..padding]) {
            return Reserved::TooLong;
        }
        let position = self.len;
        if !self.advance(size) {
            return Reserved::TooLong;
        }
        if self.len > self.capacity {
            return Reserved::NoRoom;
        }
        // SAFETY:
        // - `position` is at most `capacity`, up to which `start` is valid: compared above
        let at = unsafe { self.start.add(position) };
        // SAFETY:
        // - valid for writes of `size` bytes: `position + size` is `len`, at most `capacity`
        // - a byte needs no alignment
        unsafe { at.write_bytes(0, size) };
        Reserved::At(position, at)
    }

    /// How long the message is so far.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether writing failed because the message is longer than [`MAX_TYPED_LEN`].
    #[inline]
    pub(super) fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Writes, or only counts where there is no room; says whether the message may still be that long.
    #[inline]
    fn append(&mut self, bytes: &[u8]) -> bool {
        let position = self.len;
        if !self.advance(bytes.len()) {
            return false;
        }
        if self.len <= self.capacity {
            // SAFETY:
            // - `position` is at most `capacity`, up to which `start` is valid: compared above
            let to = unsafe { self.start.add(position) };
            // SAFETY:
            // - the source is valid for reads of its length
            // - the room is valid for writes of as many bytes from `position`: `len` is at most `capacity`
            // - they do not overlap: the room is borrowed exclusively
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        }
        true
    }

    /// Beyond [`MAX_TYPED_LEN`], rkyv's relative pointers could not be represented and it would panic.
    #[inline]
    fn advance(&mut self, by: usize) -> bool {
        self.too_long = by > MAX_TYPED_LEN - self.len;
        if !self.too_long {
            self.len += by;
        }
        !self.too_long
    }
}

impl Positional for RoomWriter<'_> {
    #[inline]
    fn pos(&self) -> usize {
        self.len
    }
}

impl<E: Source> Writer<E> for RoomWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        if self.append(bytes) { Ok(()) } else { Err(E::new(TooLong)) }
    }
}

/// Ends a serialisation; [`RoomWriter::is_too_long`] tells it from the type's own errors.
#[derive(Debug, thiserror::Error)]
#[error("the message is longer than a typed message may be")]
struct TooLong;

/// The arena of a [`Scratch`], acquired when the first byte of it is asked for: most messages never do.
pub enum LazyArena<'a> {
    /// Not yet asked for; `None` only within `push_alloc`.
    Unused(Option<&'a mut Arena>),
    /// In use.
    Acquired(ArenaHandle<'a>),
}

impl fmt::Debug for LazyArena<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LazyArena")
    }
}

// SAFETY:
// - allocations are disjoint and live until popped: they are the handle's own, which promises that; the handle lives as
//   long as this allocator once it is acquired
unsafe impl<E> Allocator<E> for LazyArena<'_> {
    #[inline]
    unsafe fn push_alloc(&mut self, layout: Layout) -> Result<NonNull<[u8]>, E> {
        if let Self::Unused(arena) = self {
            let arena = arena.take().expect("an arena is taken out only to be acquired");
            *self = Self::Acquired(arena.acquire());
        }
        match self {
            // SAFETY:
            // - the caller keeps to the contract of `push_alloc`, which is handed on as it is
            Self::Acquired(handle) => unsafe { handle.push_alloc(layout) },
            Self::Unused(_) => unreachable!("acquired above"),
        }
    }

    #[inline]
    unsafe fn pop_alloc(&mut self, ptr: NonNull<u8>, layout: Layout) -> Result<(), E> {
        match self {
            // SAFETY:
            // - the caller keeps to the contract of `pop_alloc`, which is handed on as it is
            Self::Acquired(handle) => unsafe { handle.pop_alloc(ptr, layout) },
            Self::Unused(_) => unreachable!("popped what was never pushed"),
        }
    }
}

/// The table of shared pointers of a [`Scratch`], which notes that it was used.
pub struct LazyShare<'a> {
    share: &'a mut Share,
    shared: &'a mut bool,
}

impl fmt::Debug for LazyShare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LazyShare")
    }
}

impl<E: Source> Sharing<E> for LazyShare<'_> {
    #[inline]
    fn start_sharing(&mut self, address: usize) -> SharingState {
        *self.shared = true;
        Sharing::<E>::start_sharing(self.share, address)
    }

    #[inline]
    fn finish_sharing(&mut self, address: usize, pos: usize) -> Result<(), E> {
        self.share.finish_sharing(address, pos)
    }
}
