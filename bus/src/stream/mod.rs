//! The stream ring: one sender, one receiver, bytes or frames, written and read in place.
//!
//! Where a log keeps blocks for any number of readers, a stream has exactly one, so a ring with two indices is all there is:
//! how far the sender wrote, and how far the receiver read. Each index is written by one side only and lies in memory that
//! the other side cannot write: `written` in the ring's segment, `read` in a line of the receiver's node page.
//!
//! The ring is mapped twice, back to back ([`map_writable`]), so that whatever begins in it is contiguous: there is no
//! wrapping in any slice, and a message may be as long as the ring.
//!
//! | layer | sender | receiver |
//! |---|---|---|
//! | bytes | [`Sender`] | [`Receiver`] |
//! | frames: messages of any length, 16-byte aligned, numbered | [`FrameSender`] | [`FrameReceiver`] |
//!
//! # Why no byte is read before it is written, or overwritten before it was read
//!
//! Indices count bytes since the stream began; `read <= next of the receiver <= written <= next of the sender <= read +
//! capacity`, and the place of index *i* is *i* modulo the capacity.
//!
//! 1. The sender writes only from its `next` up to the `read` that it loaded last + capacity. It then stores `written` with
//!    Release. (`stream-written`)
//! 2. The receiver loads `written` with Acquire and reads only below it: it sees all that stands there.
//! 3. The receiver stores `read` with Release when it is done with the bytes below: when what it handed out is borrowed no
//!    more. (`stream-read`)
//! 4. The sender loads `read` with Acquire: those reads are over before it writes there again.
//!
//! No fence is needed, because neither side has to see both: an old value of the other's index means less room, or fewer
//! bytes, and nothing else.
//!
//! # What makes it fast
//!
//! Each side remembers the other's index and looks again only when that is used up. So the sender loads `read` about once a
//! ring, and the receiver loads `written` once for all that came meanwhile. The receiver stores `read` when it has given back
//! an eighth of the ring, or before it looks for more. A batch stores `written` once.
//! A receiver that is close behind a busy sender, and faster, pauses for about a microsecond before it looks again, so that
//! it reads whole lines. What was tried and measured: `docs/decisions/stream.md`.
//!
//! # Who dies where
//!
//! Bytes behind `written` do not exist for the receiver: a sender that dies between any two stores leaves whole messages and
//! nothing else. The receiver learns from the kernel that it died ([`Receiver::sender_died`]), reads what is there, then
//! hears [`StreamFault::SenderDied`]. A receiver that dies leaves a `read` that stands still: the sender runs out of room,
//! and hears [`SendError::ReceiverDied`] as soon as it was told ([`Sender::receiver_died`]). Nobody waits for anybody here.
//!
//! # What the other side can do
//!
//! Each index is loaded once and compared with what is possible; one that is not ends the stream for whoever read it
//! ([`StreamFault::Corrupt`], [`SendError::Corrupt`]). So does a frame that is longer than what was written. Places are taken
//! modulo the ring's own capacity, never from the other side. A sender could still change bytes that it published:
//! see `docs/security.md`, and [`FrameReceiver::pop_copied`].

mod frame;
mod in_place;
mod layout;
mod receiver;
mod sender;

pub use frame::{FramePlace, FrameReceiver, FrameSender};
pub use in_place::{Frame, Frames, map_readable, map_writable};
pub use layout::{
    Content, DEFAULT_CAPACITY, MAX_CAPACITY, MIN_CAPACITY, StreamShape, StreamShapeError, check, create, segment_len,
};
pub use receiver::{Receiver, StreamFault};
pub use sender::{SendError, Sender};
