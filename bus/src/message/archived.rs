//! How types that rkyv archives are written and seen: every one of them is a message.

use std::fmt;
use std::num::NonZeroUsize;

use rkyv::api::access_with_context;
use rkyv::bytecheck::CheckBytes;
use rkyv::primitive::{ArchivedU16, ArchivedU64, ArchivedUsize};
use rkyv::rancor::{Failure, Source, Strategy, Trace};
use rkyv::ser::Serializer;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Place, Portable, Serialize};

use super::room::{LazyArena, LazyShare, Reserved, RoomWriter};
use super::schema::Schema;
use super::{Describe, InvalidMessage, MAX_ALIGN, Message, Room, Scratch, WriteError};

/// bytes; the most a typed message may have: rkyv's relative pointers have 32 bits and a sign.
pub const MAX_TYPED_LEN: usize = i32::MAX as usize;

/// levels; how deep a message may nest through pointers (boxes, vectors, strings, maps) to be seen by a subscriber.
pub const MAX_DEPTH: usize = 256;

/// What rkyv's `Serialize` is asked to work with.
pub(super) type RoomSerializer<'a, E> = Strategy<Serializer<RoomWriter<'a>, LazyArena<'a>, LazyShare<'a>>, E>;

/// What rkyv's `CheckBytes` is asked to work with.
pub(super) type PayloadValidator<'a, E> = Strategy<Validator<ArchiveValidator<'a>, SharedValidator>, E>;

/// What rkyv can write into a room: everything that it can archive.
///
/// Twice, since an error that says something is slow to hand on even where it never happens (measured: viewing 72 bytes of
/// ten mixed fields takes 14 ns with a text in the error, 3 ns without). So everything is tried with [`Failure`], which
/// has no bytes, and what fails is done again to learn why.
#[diagnostic::on_unimplemented(
    message = "rkyv cannot write `{Self}` into a frame",
    note = "derive rkyv's `Archive`, `Serialize` and `Deserialize` beside `Message`"
)]
pub trait WriteArchived:
    for<'a> Serialize<RoomSerializer<'a, Failure>> + for<'a> Serialize<RoomSerializer<'a, Explained>>
{
}

impl<T> WriteArchived for T where
    T: for<'a> Serialize<RoomSerializer<'a, Failure>> + for<'a> Serialize<RoomSerializer<'a, Explained>>
{
}

/// What rkyv can check in a payload; twice, like [`WriteArchived`].
#[diagnostic::on_unimplemented(
    message = "rkyv cannot check the bytes of a received `{Self}`",
    note = "it lacks bytecheck's `CheckBytes`, which rkyv's derive adds with its feature `bytecheck`"
)]
pub trait CheckArchived:
    Portable + for<'a> CheckBytes<PayloadValidator<'a, Failure>> + for<'a> CheckBytes<PayloadValidator<'a, Explained>>
{
}

impl<A> CheckArchived for A where
    A: Portable
        + for<'a> CheckBytes<PayloadValidator<'a, Failure>>
        + for<'a> CheckBytes<PayloadValidator<'a, Explained>>
{
}

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
    T: Describe + WriteArchived,
    T::Archived: CheckArchived,
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
        const { check_limits::<T::Archived>() };
        match access_with_context::<T::Archived, _, Failure>(payload, &mut validator(payload)) {
            Ok(view) => Ok(view),
            Err(Failure) => Err(why_invalid::<T::Archived>(payload)),
        }
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
pub(super) fn write<T: WriteArchived>(
    value: &T,
    room: &mut Room<'_>,
    scratch: &mut Scratch,
) -> Result<usize, WriteError> {
    const { check_limits::<T::Archived>() };
    if const { copies_as_it_is::<T>() } {
        // SAFETY:
        // - valid for reads of its size: it is a reference
        // - every byte is initialised: rkyv's `COPY_OPTIMIZATION` attests that the type has no padding
        let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) };
        return room.fill(bytes);
    }

    match serialize::<T, Failure>(value, room, scratch) {
        Ok(Outcome::Written(len)) => Ok(len),
        Ok(Outcome::Overflow { needed }) => Err(WriteError::Overflow { needed }),
        Ok(Outcome::TooLong) => Err(WriteError::TooLong { limit: MAX_TYPED_LEN }),
        Err(Failure) => Err(why_unserializable(value, room, scratch)),
    }
}

/// How an attempt to write ended that did not fail for a reason of the type's own.
enum Outcome {
    /// The message is there, of this length.
    Written(usize),
    /// It did not fit and would have this length.
    Overflow { needed: usize },
    /// Longer than [`MAX_TYPED_LEN`].
    TooLong,
}

#[inline]
fn serialize<T, E>(value: &T, room: &mut Room<'_>, scratch: &mut Scratch) -> Result<Outcome, E>
where
    T: for<'a> Serialize<RoomSerializer<'a, E>>,
    E: Source,
{
    let (arena, share) = scratch.open();
    let mut serializer = Serializer::new(RoomWriter::new(room), arena, share);
    let resolver = match value.serialize(Strategy::<_, E>::wrap(&mut serializer)) {
        Ok(resolver) => resolver,
        Err(_) if serializer.writer.is_too_long() => return Ok(Outcome::TooLong),
        Err(error) => return Err(error),
    };
    let writer = &mut serializer.writer;
    match writer.reserve_zeroed(size_of::<T::Archived>(), align_of::<T::Archived>()) {
        Reserved::At(position, at) => {
            // SAFETY:
            // - aligned: a room starts at a multiple of 16, `position` is one of the type's alignment, at most 16
            // - valid for reads and writes of the type's size, all of it initialised: reserved and zeroed above
            let place = unsafe { Place::new_unchecked(position, at.as_ptr().cast::<T::Archived>()) };
            value.resolve(resolver, place);
            Ok(Outcome::Written(writer.len()))
        }
        Reserved::NoRoom => Ok(Outcome::Overflow { needed: writer.len() }),
        Reserved::TooLong => Ok(Outcome::TooLong),
    }
}

/// What no archived type may exceed; when it is compiled.
const fn check_limits<A>() {
    assert!(align_of::<A>() <= MAX_ALIGN, "a message's archived type is aligned to at most 16 bytes");
    assert!(size_of::<A>() <= MAX_TYPED_LEN, "a typed message has at most 2 GiB");
}

/// Whether the archived form of a `T` is the bytes of the `T`.
const fn copies_as_it_is<T: Archive>() -> bool {
    let copies = T::COPY_OPTIMIZATION.is_enabled();
    assert!(!copies || size_of::<T>() == size_of::<T::Archived>(), "rkyv copies types only when both forms are equal");
    copies
}

#[inline]
fn validator(payload: &[u8]) -> Validator<ArchiveValidator<'_>, SharedValidator> {
    const DEPTH: NonZeroUsize = NonZeroUsize::new(MAX_DEPTH + 1).expect("more than zero");
    Validator::new(ArchiveValidator::with_max_depth(payload, Some(DEPTH)), SharedValidator::new())
}

#[cold]
#[inline(never)]
fn why_invalid<A: CheckArchived>(payload: &[u8]) -> InvalidMessage {
    match access_with_context::<A, _, Explained>(payload, &mut validator(payload)) {
        Err(explained) => InvalidMessage { reason: explained.0 },
        Ok(_) => InvalidMessage::new(&"they changed while they were checked, the publisher writes to what it has sent"),
    }
}

#[cold]
#[inline(never)]
fn why_unserializable<T: WriteArchived>(value: &T, room: &mut Room<'_>, scratch: &mut Scratch) -> WriteError {
    match serialize::<T, Explained>(value, room, scratch) {
        Err(explained) => WriteError::Unserializable(explained.0),
        Ok(_) => WriteError::Unserializable("it failed, but did not fail again to say why".into()),
    }
}

/// An error with a reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Explained(Box<str>);

impl Trace for Explained {
    fn trace<R: fmt::Debug + fmt::Display + Send + Sync + 'static>(self, trace: R) -> Self {
        Self(format!("{}; {trace}", self.0).into())
    }
}

impl Source for Explained {
    #[cold]
    fn new<T: std::error::Error + Send + Sync + 'static>(source: T) -> Self {
        Self(source.to_string().into())
    }
}
