//! The subscriber's end of one link: cursor, line, pins.
//!
//! No sockets, no threads: a client's subscriber and a bridge use the same type.

use std::sync::Arc;

use rkyv::util::AlignedVec;

use crate::log::{self, Cursor, CursorSpec, Lane, RequestMark, Ring};
use crate::memory::{Mapping, SharedWords};
use crate::page::{LayoutError, NodePage, SignalPage};
use crate::protocol::{LinkId, LogShape, PublicationId};
use crate::sys;
use crate::wake::Wish;

pub use crate::log::{CursorFault as InletFault, Extensions, Frame, Kept, TooManyHeld};

/// How often an inlet tries to enter the log before it leaves it to its first polls.
const TRIES: usize = 1000;

/// What an inlet is made of.
pub struct InletSpec {
    /// Which link.
    pub id: LinkId,
    /// The publication's log, mapped for reading.
    pub log: Mapping,
    /// What the dispatcher said of it.
    pub shape: LogShape,
    /// The subscriber's own node page.
    pub page: Arc<NodePage<SharedWords>>,
    /// The link's line in it.
    pub line: u32,
    /// The tag that the line's words carry.
    pub tag: u16,
    /// The publisher keeps everything for this link.
    pub reliable: bool,
    /// messages that a lossy link goes back when it was lapped
    pub depth: u64,
    /// messages from before the link that it begins with, if they are still held
    pub history: u64,
    /// The publisher's signal page for our user.
    pub signal: SignalPage<SharedWords>,
    /// The publication's word in it.
    pub slot: u32,
    /// The publisher's bell, rung when it waits for room.
    pub bell: Arc<dyn Ring>,
    /// The log is a lane, for this link alone, which begins with the message of that sequence.
    pub lane: Option<u64>,
    /// Called once the inlet and all its pins are gone.
    pub on_released: Box<dyn FnOnce() + Send + Sync>,
}

/// See the module.
pub struct Inlet {
    id: LinkId,
    cursor: Cursor<SharedWords>,
    wish: Wish<SharedWords>,
}

impl Inlet {
    /// Enters the log. From now on a reliable link misses nothing, whenever it is polled.
    ///
    /// # Errors
    ///
    /// When the segment is not the log that the dispatcher described.
    pub fn enter(spec: InletSpec) -> Result<Inlet, LayoutError> {
        let needed = log::segment_len(spec.shape);
        if (spec.log.len() as u64) < needed {
            return Err(LayoutError::Len { what: "log", found: spec.log.len() as u64, needed });
        }
        let words = SharedWords::mapped(spec.log);
        let mut cursor = Cursor::open(CursorSpec {
            log: words.clone(),
            shape: spec.shape,
            page: spec.page,
            line: spec.line,
            tag: spec.tag,
            reliable: spec.reliable,
            depth: spec.depth,
            history: spec.history,
            bell: spec.bell,
            lane: spec.lane.map(|first| Lane { first, light: sys::membarrier_register() }),
            on_released: spec.on_released,
        })?;
        // Only a publisher that crosses a border in the very moment makes it fail, so a few tries do.
        for _ in 0..TRIES {
            if cursor.is_in() || cursor.join() {
                break;
            }
            std::thread::yield_now();
        }
        Ok(Inlet { id: spec.id, cursor, wish: Wish::new(words, spec.signal, spec.slot) })
    }

    /// Which link this is.
    pub fn id(&self) -> LinkId {
        self.id
    }

    /// The next message, if one is there. Never blocks, allocates nothing, calls no system.
    ///
    /// # Errors
    ///
    /// After `Evicted` reading goes on; after `Ended` and `Corrupt` nothing more comes.
    #[inline(always)]
    pub fn poll(&mut self) -> Result<Option<Frame>, InletFault> {
        self.cursor.poll()
    }

    /// Passes over what stands before the newest block, for those who want nothing but the newest message: it is in the next
    /// ones that are polled, at most [`per_block`](Self::per_block). What was passed over counts as missed. A reliable link
    /// passes over nothing. Where nothing is to be done, it costs one load.
    #[inline]
    pub fn skip_to_newest(&mut self) {
        self.cursor.skip_to_newest();
    }

    /// The most messages that a block of the log can hold.
    pub fn per_block(&self) -> usize {
        self.cursor.per_block()
    }

    /// The message that was polled last, in place, 16-byte aligned; empty if the last poll gave none.
    ///
    /// Its bytes are what the publisher committed. A publisher that is not trusted could still change them
    /// (`docs/security.md`): then use [`copy_payload`](Self::copy_payload).
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.cursor.payload()
    }

    /// What the message that was polled last carries beside its payload.
    #[inline]
    pub fn extensions(&self) -> Extensions {
        self.cursor.extensions()
    }

    /// Of these, which request it is or answers.
    #[inline]
    pub fn request_mark(&self) -> Option<RequestMark> {
        self.cursor.request_mark()
    }

    /// Copies the message that was polled last: right also while a hostile publisher writes to it.
    pub fn copy_payload(&self, into: &mut AlignedVec) {
        self.cursor.copy_payload(into);
    }

    /// Keeps the message that was polled last, for a sample that outlives the next poll.
    ///
    /// # Errors
    ///
    /// When this link holds samples in too many blocks.
    pub fn keep(&self) -> Result<Kept, TooManyHeld> {
        self.cursor.keep()
    }

    /// Whether the log is a lane: for this link alone.
    #[inline]
    pub fn is_lane(&self) -> bool {
        self.cursor.is_lane()
    }

    /// Of a lane: every message that was polled is handled, nobody else need do it. Nothing in any other log.
    #[inline]
    pub fn handled(&mut self) {
        self.cursor.handled();
    }

    /// Messages lost so far on this link.
    pub fn missed(&self) -> u64 {
        self.cursor.missed()
    }

    /// Sequence behind the newest message when the log was entered; 0 while it could not be.
    pub fn entered_at(&self) -> u64 {
        self.cursor.entered_at()
    }

    /// Sequence of the next message that was not seen nor counted as missed.
    pub fn next_sequence(&self) -> u64 {
        self.cursor.next_sequence()
    }

    /// The publication of the same node whose log this one goes on from: read that one to its end first.
    pub fn follows(&self) -> Option<PublicationId> {
        Some(self.cursor.follows()).filter(|&id| id != 0).map(PublicationId)
    }

    /// Whether `poll` has something to say.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.cursor.is_ready()
    }

    /// As [`is_ready`](Self::is_ready), for those who look again and again: has the line after the next frame's first one
    /// brought meanwhile, which comes too late otherwise.
    #[inline]
    pub fn look(&self) -> bool {
        self.cursor.look()
    }

    /// The publisher's process is dead: once drained, `poll` says `Ended`.
    pub fn publisher_gone(&mut self) {
        self.cursor.publisher_gone();
    }

    /// What to wish for before going to sleep ([`wake::wish`](crate::wake::wish)).
    pub fn wish(&self) -> &Wish<SharedWords> {
        &self.wish
    }
}
