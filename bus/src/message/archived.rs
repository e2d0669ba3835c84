//! How types that rkyv archives are written and seen: every one of them is a message.

use std::fmt;
use std::num::NonZeroUsize;

use rkyv::api::access_with_context;
use rkyv::bytecheck::CheckBytes;
use rkyv::primitive::{ArchivedU16, ArchivedU64, ArchivedUsize};
use rkyv::rancor::{Source, Strategy, Trace};
use rkyv::ser::Serializer;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Place, Serialize};

use super::room::{Fault, LazyArena, LazyShare, RoomWriter};
use super::schema::Schema;
use super::{Describe, InvalidMessage, MAX_ALIGN, Message, Room, Scratch, WriteError};

/// bytes; the most a typed message may have: rkyv's relative pointers have 32 bits and a sign.
pub const MAX_TYPED_LEN: usize = i32::MAX as usize;

/// levels; how deep a message may nest through pointers (boxes, vectors, strings, maps) to be seen by a subscriber.
pub const MAX_DEPTH: usize = 256;

/// What rkyv's `Serialize` is asked to work with.
pub(super) type RoomSerializer<'a> = Strategy<Serializer<RoomWriter<'a>, LazyArena<'a>, LazyShare<'a>>, Fault>;

/// What rkyv's `CheckBytes` is asked to work with.
pub(super) type PayloadValidator<'a> = Strategy<Validator<ArchiveValidator<'a>, SharedValidator>, InvalidMessage>;

// One format for all processes: features of rkyv change it for a whole build, and so it is checked here.
const _: () = {
    // SAFETY:
    // - both types have two bytes, and a pair of bytes has no invalid patterns
    let bytes = unsafe { std::mem::transmute::<ArchivedU16, [u8; 2]>(ArchivedU16::from_native(1)) };
    assert!(bytes[0] == 1, "messages are little-endian: build rkyv without its feature `big_endian`");
    assert!(align_of::<ArchivedU64>() == 8, "messages are aligned: build rkyv without its feature `unaligned`");
    assert!(
        size_of::<ArchivedUsize>() == 4,
        "messages have 32-bit pointers: build rkyv without its features `pointer_width_16` and `pointer_width_64`"
    );
};

impl<T> Message for T
where
    T: Describe + for<'a> Serialize<RoomSerializer<'a>>,
    T::Archived: for<'a> CheckBytes<PayloadValidator<'a>>,
{
    type View = T::Archived;

    fn schema() -> Schema {
        Schema::of::<T>()
    }

    #[inline]
    fn write(&self, room: &mut Room<'_>, scratch: &mut Scratch) -> Result<usize, WriteError> {
        write(self, room, scratch)
    }

    #[inline]
    fn view(payload: &[u8]) -> Result<&T::Archived, InvalidMessage> {
        const DEPTH: NonZeroUsize = NonZeroUsize::new(MAX_DEPTH + 1).expect("more than zero");
        let mut validator =
            Validator::new(ArchiveValidator::with_max_depth(payload, Some(DEPTH)), SharedValidator::new());
        access_with_context::<T::Archived, _, InvalidMessage>(payload, &mut validator)
    }

    #[inline]
    unsafe fn view_unchecked(payload: &[u8]) -> &T::Archived {
        // SAFETY:
        // - a valid archive with its root at the end, aligned: the caller's promise
        unsafe { rkyv::access_unchecked::<T::Archived>(payload) }
    }
}

/// Writes any type that rkyv can archive, described or not.
#[inline]
pub(super) fn write<T>(value: &T, room: &mut Room<'_>, scratch: &mut Scratch) -> Result<usize, WriteError>
where
    T: for<'a> Serialize<RoomSerializer<'a>>,
{
    const {
        assert!(align_of::<T::Archived>() <= MAX_ALIGN, "a message's archived type is aligned to at most 16 bytes");
        assert!(size_of::<T::Archived>() <= MAX_TYPED_LEN, "a typed message has at most 2 GiB");
    }

    if const { copies_as_it_is::<T>() } {
        // SAFETY:
        // - valid for reads of its size: it is a reference
        // - every byte is initialised: rkyv's `COPY_OPTIMIZATION` attests that the type has no padding
        let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) };
        return room.fill(bytes);
    }

    let (arena, share) = scratch.open();
    let mut serializer = Serializer::new(RoomWriter::new(room), arena, share);
    let resolver = value.serialize(Strategy::<_, Fault>::wrap(&mut serializer))?;
    let writer = &mut serializer.writer;
    match writer.reserve_zeroed(size_of::<T::Archived>(), align_of::<T::Archived>())? {
        None => Err(WriteError::Overflow { needed: writer.len() }),
        Some((position, at)) => {
            // SAFETY:
            // - aligned: a room starts at a multiple of 16, `position` is one of the type's alignment, at most 16
            // - valid for reads and writes of the type's size, all of it initialised: reserved and zeroed above
            let place = unsafe { Place::new_unchecked(position, at.as_ptr().cast::<T::Archived>()) };
            value.resolve(resolver, place);
            Ok(writer.len())
        }
    }
}

/// Whether the archived form of a `T` is the bytes of the `T`.
const fn copies_as_it_is<T: Archive>() -> bool {
    let copies = T::COPY_OPTIMIZATION.is_enabled();
    assert!(!copies || size_of::<T>() == size_of::<T::Archived>(), "rkyv copies types only when both forms are equal");
    copies
}

impl Trace for InvalidMessage {
    fn trace<R: fmt::Debug + fmt::Display + Send + Sync + 'static>(self, trace: R) -> Self {
        Self { reason: format!("{}; {trace}", self.reason).into() }
    }
}

impl Source for InvalidMessage {
    #[cold]
    fn new<T: std::error::Error + Send + Sync + 'static>(source: T) -> Self {
        Self::new(&source)
    }
}
