//! What travels in a frame: messages, how they are written in place, seen in place and told apart.
//!
//! A [`Message`] is a type of fixed fields that describes itself ([`Describe`], by `#[derive(Message)]`) and that rkyv
//! archives, or one of the two plain ones: `[u8]` (any bytes) and `str` (UTF-8 text). Primitives, `String`, `Vec`, maps
//! and the like are messages too.
//!
//! ```
//! use nodeset_bus::message::{Message, Room, Scratch};
//! use rkyv::{Archive, Deserialize, Serialize};
//!
//! #[derive(Archive, Serialize, Deserialize, Message)]
//! #[message(crate = "nodeset_bus")] // programs that use the crate `nodeset` leave this out
//! struct Pose {
//!     x: f64,
//!     y: f64,
//!     frame: String,
//! }
//!
//! # use std::mem::MaybeUninit;
//! # #[repr(align(16))]
//! # struct Memory([MaybeUninit<u8>; 256]);
//! # let mut memory = Memory([MaybeUninit::uninit(); 256]);
//! # let memory = &mut memory.0;
//! let pose = Pose { x: 1.5, y: -2.0, frame: "odometry of the left wheel".to_owned() };
//! let mut scratch = Scratch::new(); // kept by a publisher
//! let len = pose.write(&mut Room::from_slice(memory), &mut scratch)?;
//!
//! # let payload = unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<u8>(), len) };
//! let seen = Pose::view(payload)?; // in place: nothing is copied
//! assert_eq!(seen.x, 1.5);
//! assert_eq!(seen.frame, "odometry of the left wheel");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is guaranteed
//!
//! - **In place.** rkyv writes into the open frame itself, into memory that was neither zeroed nor copied before. Only the
//!   root (the fixed part of the type) is zeroed in place right before its fields are stored, so that padding carries
//!   nothing; for types without padding the compiler removes those stores. Types that rkyv can copy as they are (no
//!   padding, every field a plain number or array) are one copy of their size.
//! - **No memory of the process leaks into padding.** rkyv writes nested values through zeroed places and copies only
//!   types that have no padding; the root see above; gaps between parts are written as zeros.
//! - **No allocation per message** once the [`Scratch`] has grown to what the messages need.
//! - **Any bytes may be viewed**: [`Message::view`] checks everything that the view can reach (bounds, alignment,
//!   overlaps, enum tags, UTF-8, nesting depth) and never panics.
//! - **One format**: little-endian, aligned, 32-bit relative pointers, asserted when this crate is compiled, so that
//!   processes which were built with other features of rkyv cannot disagree silently.
//!
//! # Limits
//!
//! Archived alignment at most [`MAX_ALIGN`] (compile-time error), a typed message at most [`MAX_TYPED_LEN`] bytes, nesting
//! through pointers at most [`MAX_DEPTH`] levels (a subscriber refuses more, since a hostile chain of boxes would
//! overflow its stack).
//!
//! # Modules in reading order
//!
//! `archived` (the rkyv types' way in and out), `room` (where they are written), [`describe`](Describe) and
//! [`schema`](Schema) (how two programs find out whether they speak of the same type), [`value`](Value) (what tools show).

mod archived;
mod describe;
mod room;
mod schema;
#[cfg(test)]
mod tests;
mod value;

pub use nodeset_derive::Message;

pub use self::archived::{MAX_DEPTH, MAX_TYPED_LEN};
pub use self::describe::{Describe, Record, Types};
pub use self::room::{Room, Scratch};
pub use self::schema::{Field, Schema, SchemaError, Shape, Type, Variant};
pub use self::value::Value;

/// The most an archived type may be aligned to: where a frame's payload starts.
pub const MAX_ALIGN: usize = 16;

/// What the derive macro's code refers to. Not for use by hand: it changes with the macro.
#[doc(hidden)]
pub mod private {
    pub use std::format;
    pub use std::string::String;
    pub use std::vec::Vec;

    pub use rkyv;

    pub use super::describe::{Describe, Types};
    pub use super::schema::{Shape, Variant};
}

/// A type that can be published.
///
/// Implemented for every type that is [`Describe`] and that rkyv can archive: derive both, as shown in the
/// [module's documentation](self). `[u8]` and `str` are messages that travel as they are.
///
/// The derive macro takes these attributes:
///
/// | attribute | on | what it does |
/// |---|---|---|
/// | `#[message(opaque = "uuid/1")]` | a field | The field's type is not described but named by this label. For types of other crates and for fields with `#[rkyv(with = ...)]`, where it is required. Both ends must use the same label; change it when the type's archived form changes. |
/// | `#[message(opaque = "point/2")]` | the type | The same for the whole type: required with `#[rkyv(as = ...)]`. |
/// | `#[message(name = "Pose")]` | the type | Its name in the schema, when it is not that of the Rust type. |
/// | `#[message(crate = "path")]` | the type | Where `__private` is found; default `::nodeset`. |
///
/// Structs of all three kinds and enums work, also with type and const parameters (each type parameter must be
/// [`Describe`]). Lifetimes do not: a message owns what it says. A field whose type is not described is an error:
///
/// ```compile_fail,E0277
/// use nodeset_bus::message::Message;
/// use rkyv::{Archive, Deserialize, Serialize, rend::u16_le};
///
/// #[derive(Archive, Serialize, Deserialize, Message)]
/// #[message(crate = "nodeset_bus")]
/// struct Reading {
///     value: u16_le, // add #[message(opaque = "u16_le/1")]
/// }
/// ```
///
/// So is an archived type that is aligned to more than a frame's payload, where it is used:
///
/// ```compile_fail,E0080
/// use nodeset_bus::message::{Message, Room, Scratch};
/// use rkyv::{Archive, Deserialize, Serialize};
///
/// #[derive(Archive, Serialize, Deserialize, Message)]
/// #[rkyv(attr(repr(align(32))))]
/// #[message(crate = "nodeset_bus")]
/// struct Line(u8);
///
/// let _ = Line(0).write(&mut Room::from_slice(&mut []), &mut Scratch::new());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "not a message",
    note = "derive it: `#[derive(Archive, Serialize, Deserialize, Message)]` (the first three are rkyv's)"
)]
pub trait Message {
    /// What a reader sees in place: the archived type, or `[u8]` and `str` themselves.
    type View: ?Sized;

    /// Describes the message type. Allocates: ask once for a publisher or subscriber, not for each message.
    fn schema() -> Schema;

    /// Writes the message to the start of `room` and returns how many bytes it took.
    ///
    /// Neither allocates (once `scratch` has grown) nor zeroes; nothing is written outside `room`. After an error the
    /// room's bytes are unspecified.
    ///
    /// # Errors
    ///
    /// [`WriteError::Overflow`] says how long the message is when it does not fit, to the byte: try again with that.
    fn write(&self, room: &mut Room<'_>, scratch: &mut Scratch) -> Result<usize, WriteError>;

    /// Checks a received payload and returns the view of it. `payload` has the exact length that [`write`](Self::write)
    /// returned; it is aligned to [`MAX_ALIGN`].
    ///
    /// Never panics, whatever the bytes are; allocates only for an error's text and for types with shared pointers.
    ///
    /// The bytes must not change while the view is borrowed; see `docs/security.md` on what that asks of a publisher.
    ///
    /// # Errors
    ///
    /// [`InvalidMessage`] when the bytes are not such a message: the publisher is broken or hostile, trying again does
    /// not help.
    fn view(payload: &[u8]) -> Result<&Self::View, InvalidMessage>;

    /// Like [`view`](Self::view) without any check.
    ///
    /// # Safety
    ///
    /// - `payload` holds, unchanged, what [`write`](Self::write) of this very type wrote, at its exact length
    /// - it is aligned to [`MAX_ALIGN`]
    unsafe fn view_unchecked(payload: &[u8]) -> &Self::View;
}

impl Message for [u8] {
    type View = [u8];

    fn schema() -> Schema {
        Schema::bytes()
    }

    #[inline]
    fn write(&self, room: &mut Room<'_>, _scratch: &mut Scratch) -> Result<usize, WriteError> {
        room.fill(self)
    }

    #[inline]
    fn view(payload: &[u8]) -> Result<&[u8], InvalidMessage> {
        Ok(payload)
    }

    #[inline]
    unsafe fn view_unchecked(payload: &[u8]) -> &[u8] {
        payload
    }
}

impl Message for str {
    type View = str;

    fn schema() -> Schema {
        Schema::text()
    }

    #[inline]
    fn write(&self, room: &mut Room<'_>, _scratch: &mut Scratch) -> Result<usize, WriteError> {
        room.fill(self.as_bytes())
    }

    #[inline]
    fn view(payload: &[u8]) -> Result<&str, InvalidMessage> {
        std::str::from_utf8(payload).map_err(|error| InvalidMessage::new(&error))
    }

    #[inline]
    unsafe fn view_unchecked(payload: &[u8]) -> &str {
        // SAFETY:
        // - valid UTF-8: the caller says that the bytes were written by `write`, from a `str`
        unsafe { std::str::from_utf8_unchecked(payload) }
    }
}

/// Why a message was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It does not fit. Try again with that much room, or give up when no frame can be that long.
    #[error("the message takes {needed} bytes, more than there is room for")]
    Overflow {
        /// bytes; the message's exact length
        needed: usize,
    },
    /// It is longer than any typed message may be. Give up: split it, or publish `[u8]`.
    #[error("the message is longer than {limit} bytes, the most a typed message may have; split it, or publish `[u8]`")]
    TooLong {
        /// bytes; [`MAX_TYPED_LEN`]
        limit: usize,
    },
    /// The type's own serialisation failed; the text says why. Give up, or publish another value.
    #[error("the message cannot be serialised: {0}")]
    Unserializable(Box<str>),
}

/// Why received bytes are not a message of the expected type: the publisher is broken or hostile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a valid message: {reason}")]
pub struct InvalidMessage {
    reason: Box<str>,
}

impl InvalidMessage {
    /// With the reason's text.
    #[cold]
    pub fn new(reason: &dyn std::fmt::Display) -> Self {
        Self { reason: reason.to_string().into() }
    }
}
