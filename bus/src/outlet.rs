//! The publisher's end of its links: the log, the list of links, the wake-up.
//!
//! No sockets, no threads: a client's publisher and a bridge use the same type.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::clock::Timestamp;
use crate::evict::{Evict, Evictor, OnEvicted};
use crate::footprint::Footprint;
use crate::log::{self, Extensions, NoRoom, Producer, Reach, Retention};
use crate::memory::{Mapping, SharedWords};
use crate::message::{Message, Room, Scratch, WriteError};
use crate::page::NodePage;
use crate::protocol::{LinkId, LogShape, PublicationId};
use crate::sys;
use crate::wake::{self, Alarm, QUIET_COMMITS};

/// The list of links of a publication.
pub type Links = log::Links<SharedWords>;
/// A link, as the publisher needs it.
pub type OutletLink = log::Link<SharedWords>;

/// Of a lane: the reader of a link is gone. What it had not handled stays, until the link is taken off the list. Says whether
/// the link was on it.
pub fn keep_for_another(links: &Links, id: LinkId) -> bool {
    struct Nobody;
    impl log::Ring for Nobody {
        fn ring(&self) {}
    }
    links.keep(id, &NodePage::create(SharedWords::heap(KEEPER_PAGE_LEN)), Arc::new(Nobody))
}

/// bytes; a page with one line
const KEEPER_PAGE_LEN: usize = 8192;

/// Why a message was not published. Nothing was lost or sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutletError {
    /// There is no room now.
    #[error("no room for the message now: {0:?}")]
    NoRoom(NoRoom),
    /// The message cannot be serialised.
    #[error("the message cannot be serialised: {0}")]
    Unserializable(String),
}

/// See the module.
pub struct Outlet {
    producer: Producer<SharedWords>,
    alarm: Alarm<SharedWords>,
    scratch: Scratch,
    /// Each message carries the time of its commit.
    stamping: bool,
    /// bytes of the last payload that did not fit where it was tried first
    expected_len: usize,
    /// bytes; where there is room for so many, a message is tried as a plain one: `expected_len`, or more than there can be
    /// while messages are stamped, so that plain ones do not pay for the question
    plain_len: usize,
    pace: Pace,
    evictor: Option<Evictor>,
    footprint: Option<Footprint>,
}

/// How fast blocks are filled, looked at where one ends.
struct Pace {
    /// Of the block that was begun last.
    generation: u64,
    since: Instant,
    /// A block that is filled within this time is filled fast.
    limit: Duration,
}

/// bytes a second; a publication that fills whole blocks at this rate is fast
const FAST: u64 = 64 << 20;

impl Outlet {
    /// Makes a log of that shape, which must have passed [`log::check`], in `segment`: fresh memory that only this process
    /// can write.
    pub fn create(segment: Mapping, shape: LogShape, epoch: u64, retention: Retention) -> Outlet {
        let words = SharedWords::mapped(segment);
        // What the first messages touch.
        let first = log::segment_len(shape) - u64::from(shape.block_len) * u64::from(shape.blocks);
        words.prefault(0..4096);
        words.prefault(first as usize..first as usize + 4 * shape.block_len as usize);
        let links = Arc::new(Links::new(SharedWords::heap(64)));
        let mut producer = Producer::create(words, shape, epoch, retention, links);
        producer.ask_before_growing(sys::memory_left);
        let alarm = Alarm::new(&producer, sys::membarrier_register().then_some(QUIET_COMMITS));
        let limit = Duration::from_nanos(u64::from(shape.block_len) * 1_000_000_000 / FAST);
        let pace = Pace { generation: producer.generation(), since: Instant::now(), limit };
        Outlet {
            producer,
            alarm,
            scratch: Scratch::default(),
            stamping: false,
            expected_len: 0,
            plain_len: 0,
            pace,
            evictor: None,
            footprint: None,
        }
    }

    /// The list of links, for the thread that speaks to the dispatcher.
    pub fn links(&self) -> &Arc<Links> {
        self.producer.links()
    }

    /// From now on, reliable subscribers are given up as `policy` says, each of which `on_evicted` is told, on the thread that
    /// publishes.
    pub fn set_evict(&mut self, policy: Evict, on_evicted: OnEvicted) {
        self.evictor = Some(Evictor::new(policy, on_evicted));
    }

    /// Gives up whom the policy gives up now; also done by itself wherever a block ends. Returns when the next one would be due.
    pub fn evict_laggards(&mut self) -> Option<Instant> {
        self.evictor.as_mut()?.look(&mut self.producer, Instant::now())
    }

    /// From now on, [`NoRoom::Outgrown`] is said where a block ends, once the log needs little of its memory for `after`.
    pub fn give_back_after(&mut self, after: Duration) {
        self.footprint = Some(Footprint::new(after, Instant::now()));
    }

    /// Does not say so again for a while.
    pub fn stay(&mut self, time: Duration) {
        if let (Some(footprint), Some(until)) = (&mut self.footprint, Instant::now().checked_add(time)) {
            footprint.quiet(until);
        }
    }

    /// This log goes on from another one of the same node: subscribers of both read that one to its end first. Before anybody
    /// else has it.
    pub fn set_follows(&mut self, publication: PublicationId) {
        self.producer.set_follows(publication.0);
    }

    /// Numbers messages from `sequence` on: where the log ended from which this one goes on.
    ///
    /// # Panics
    ///
    /// When something was published already.
    pub fn start_at(&mut self, sequence: u64) {
        self.producer.start_at(sequence);
    }

    /// bytes of blocks that were ever in use
    pub fn touched_bytes(&self) -> u64 {
        self.producer.footprint().1
    }

    /// Whether the log would have grown when it last had to, had the control group had memory left ([`sys::memory_left`]).
    pub fn is_short_of_memory(&self) -> bool {
        self.producer.is_short_of_memory()
    }

    /// From now on each message that is not given a publish time carries the time of its commit.
    pub fn set_stamping(&mut self, on: bool) {
        self.stamping = on;
        self.expect(self.expected_len);
    }

    fn expect(&mut self, len: usize) {
        self.expected_len = len;
        self.plain_len = if self.stamping { usize::MAX } else { len };
    }

    /// Sequence of the next message.
    pub fn next_sequence(&self) -> u64 {
        self.producer.next_sequence()
    }

    /// bytes of the longest payload
    pub fn longest_payload(&self) -> u64 {
        self.producer.longest_payload()
    }

    /// Blocks of the log that were ever in use.
    pub fn touched_blocks(&self) -> u32 {
        self.producer.touched_blocks()
    }

    /// Serialises `message` straight into the open frame, trims it to what it took, commits it and wakes who sleeps. Returns
    /// its sequence. Never waits; no allocation in steady state, no system call unless somebody sleeps.
    ///
    /// # Errors
    ///
    /// When there is no room within `reach`, or the message cannot be serialised.
    #[inline]
    pub fn try_publish<T: Message + ?Sized>(&mut self, message: &T, reach: Reach) -> Result<u64, OutletError> {
        match self.publish_at_once(message) {
            Some(sequence) => Ok(sequence),
            None => self.publish_uncommonly(message, reach),
        }
    }

    /// The common case of [`try_publish`](Self::try_publish), all of it inlined into the caller: a plain message that fits into
    /// the current block. `None` if it is not that case; nothing was published then.
    #[inline(always)]
    pub fn publish_at_once<T: Message + ?Sized>(&mut self, message: &T) -> Option<u64> {
        if !self.producer.fits(self.plain_len) {
            return None;
        }
        let mut open = Room::from_slice(self.producer.open_room());
        let len = message.write(&mut open, &mut self.scratch).ok()?;
        Some(self.commit(len))
    }

    /// The current block may be too short for the message, or it is to be stamped.
    #[cold]
    #[inline(never)]
    fn publish_uncommonly<T: Message + ?Sized>(&mut self, message: &T, reach: Reach) -> Result<u64, OutletError> {
        if self.stamping {
            self.try_publish_extended(message, Extensions::NONE, reach)
        } else {
            self.publish_elsewhere(message, Extensions::NONE, 0, reach)
        }
    }

    /// As [`try_publish`](Self::try_publish), with `extensions` beside the message.
    ///
    /// # Errors
    ///
    /// As [`try_publish`](Self::try_publish).
    pub fn try_publish_extended<T: Message + ?Sized>(
        &mut self,
        message: &T,
        extensions: Extensions,
        reach: Reach,
    ) -> Result<u64, OutletError> {
        match self.publish_extended_at_once(message, extensions) {
            Some(sequence) => Ok(sequence),
            None => self.publish_elsewhere(message, extensions, self.front_of(&extensions), reach),
        }
    }

    /// The common case of [`try_publish_extended`](Self::try_publish_extended), as [`publish_at_once`](Self::publish_at_once).
    #[inline(always)]
    pub fn publish_extended_at_once<T: Message + ?Sized>(
        &mut self,
        message: &T,
        extensions: Extensions,
    ) -> Option<u64> {
        let front = self.front_of(&extensions);
        if !self.producer.fits(front.saturating_add(self.expected_len)) {
            return None;
        }
        let mut open = Room::from_slice(&mut self.producer.open_room()[front..]);
        let len = message.write(&mut open, &mut self.scratch).ok()?;
        Some(self.commit_extended(len, extensions))
    }

    /// bytes between header and payload of a message with `extensions`
    #[inline(always)]
    fn front_of(&self, extensions: &Extensions) -> usize {
        // Whatever the time will be, it takes as much room.
        let time = if self.stamping { Timestamp::from_nanos(1) } else { None };
        Extensions { time: extensions.time.or(time), ..*extensions }.frame_bytes()
    }

    /// The current block is too short for the message.
    #[cold]
    #[inline(never)]
    fn publish_elsewhere<T: Message + ?Sized>(
        &mut self,
        message: &T,
        extensions: Extensions,
        front: usize,
        reach: Reach,
    ) -> Result<u64, OutletError> {
        self.look_at_border().map_err(OutletError::NoRoom)?;
        let mut len = self.expected_len;
        let mut guessed = true;
        loop {
            if let Err(no_room) = self.producer.open(len.saturating_add(front), reach) {
                // The guess came from another message: this one may fit where that would not, or never fit at all.
                let exact = if guessed { self.measure(message)? } else { len };
                if exact == len {
                    return Err(OutletError::NoRoom(no_room.behind(front)));
                }
                (len, guessed) = (exact, false);
                continue;
            }
            let mut open = Room::from_slice(&mut self.producer.open_room()[front..]);
            let room = open.capacity();
            match message.write(&mut open, &mut self.scratch) {
                Ok(written) => {
                    // Long messages of one topic are of about one length: the next one is not tried in vain.
                    self.expect(if len > 0 { written } else { 0 });
                    return Ok(if front == 0 {
                        self.commit(written)
                    } else {
                        self.commit_extended(written, extensions)
                    });
                }
                Err(WriteError::Overflow { needed }) if needed > room => (len, guessed) = (needed, false),
                Err(WriteError::Overflow { needed }) => {
                    return Err(OutletError::Unserializable(format!(
                        "its serialisation asks for more than the {needed} bytes that it counted"
                    )));
                }
                Err(other) => return Err(self.unwritable(other)),
            }
        }
    }

    /// bytes that the message takes
    fn measure<T: Message + ?Sized>(&mut self, message: &T) -> Result<usize, OutletError> {
        match message.write(&mut Room::from_slice(&mut []), &mut self.scratch) {
            Ok(written) => Ok(written),
            Err(WriteError::Overflow { needed }) => Ok(needed),
            Err(other) => Err(self.unwritable(other)),
        }
    }

    fn unwritable(&self, error: WriteError) -> OutletError {
        match error {
            WriteError::TooLong { limit } => {
                let limit = self.producer.longest_payload().min(limit as u64);
                OutletError::NoRoom(NoRoom::TooLong { limit })
            }
            other => OutletError::Unserializable(other.to_string()),
        }
    }

    /// Whether a payload of `len` bytes fits without moving on to another block: then [`try_open`](Self::try_open) cannot fail.
    #[inline(always)]
    pub fn has_room(&self, len: usize) -> bool {
        if self.stamping { self.has_room_extended(len, &Extensions::NONE) } else { self.producer.fits(len) }
    }

    /// The same for a message with `extensions`, and [`try_open_extended`](Self::try_open_extended).
    #[inline]
    pub fn has_room_extended(&self, len: usize, extensions: &Extensions) -> bool {
        self.producer.fits(len.saturating_add(self.front_of(extensions)))
    }

    /// Opens a frame for a payload of up to `len` bytes, to be written in place. Never waits.
    ///
    /// # Errors
    ///
    /// When there is no room within `reach`.
    #[inline(always)]
    pub fn try_open(&mut self, len: usize, reach: Reach) -> Result<OpenFrame<'_>, NoRoom> {
        if self.stamping {
            return self.try_open_extended(len, Extensions::NONE, reach);
        }
        if !self.producer.fits(len) {
            self.open_elsewhere(len, reach)?;
        }
        Ok(OpenFrame { outlet: self, len, front: 0, extensions: Extensions::NONE })
    }

    /// As [`try_open`](Self::try_open), for a message with `extensions`.
    ///
    /// # Errors
    ///
    /// As [`try_open`](Self::try_open).
    #[inline]
    pub fn try_open_extended(
        &mut self,
        len: usize,
        extensions: Extensions,
        reach: Reach,
    ) -> Result<OpenFrame<'_>, NoRoom> {
        let front = self.front_of(&extensions);
        let whole = len.saturating_add(front);
        if !self.producer.fits(whole) {
            self.open_elsewhere(whole, reach).map_err(|no_room| no_room.behind(front))?;
        }
        Ok(OpenFrame { outlet: self, len, front, extensions })
    }

    #[cold]
    #[inline(never)]
    fn open_elsewhere(&mut self, len: usize, reach: Reach) -> Result<(), NoRoom> {
        self.look_at_border()?;
        self.producer.open(len, reach).map(drop)
    }

    /// What is looked at only where a block ends.
    fn look_at_border(&mut self) -> Result<(), NoRoom> {
        self.look_at_pace();
        self.evict_laggards();
        let Some(footprint) = &mut self.footprint else { return Ok(()) };
        let (in_use, touched) = self.producer.footprint();
        if footprint.look(in_use, touched, Instant::now()) { Err(NoRoom::Outgrown) } else { Ok(()) }
    }

    /// At a block's end: was it filled fast?
    fn look_at_pace(&mut self) {
        let generation = self.producer.generation();
        if generation != self.pace.generation {
            let now = Instant::now();
            self.producer.set_fast(now - self.pace.since < self.pace.limit);
            self.pace.generation = generation;
            self.pace.since = now;
        }
    }

    #[inline(always)]
    fn commit(&mut self, len: usize) -> u64 {
        let sequence = self.producer.commit(len);
        self.alarm.after_commit(&mut self.producer);
        sequence
    }

    #[inline(always)]
    fn commit_extended(&mut self, len: usize, mut extensions: Extensions) -> u64 {
        if self.stamping && extensions.time.is_none() {
            extensions.time = Some(Timestamp::now());
        }
        let sequence = self.producer.commit_extended(len, &extensions);
        self.alarm.after_commit(&mut self.producer);
        sequence
    }

    /// Says that the next `count` messages were left out on purpose, which is no loss, and wakes who sleeps.
    ///
    /// # Errors
    ///
    /// When there is no room within `reach`.
    pub fn skip(&mut self, count: u64, reach: Reach) -> Result<(), NoRoom> {
        self.producer.skip(count, reach)?;
        self.alarm.after_commit(&mut self.producer);
        Ok(())
    }

    /// Says that the next `count` messages are lost. Subscribers count them at the next message, or at the end.
    pub fn lose(&mut self, count: u64) {
        self.producer.lose(count);
    }

    /// Frees what readers have left, as is done by itself wherever a block ends: for those who wait for room before they open a
    /// frame. Looks at the line of each link.
    pub fn free_what_was_left(&mut self) {
        self.producer.free_what_was_left();
    }

    /// bytes of blocks that somebody may still read, or that are kept
    pub fn occupied_bytes(&self) -> u64 {
        self.producer.footprint().0
    }

    /// The publisher is about to wait for room: its bell rings from now on whenever a reader leaves a block. Try once more,
    /// then sleep.
    pub fn arm_room(&mut self) {
        self.producer.arm_room();
    }

    /// Of a lane: as [`arm_room`](Self::arm_room), for a reader that handles something ([`done`](Self::done)). False where that
    /// may go unnoticed: then do not sleep long.
    pub fn arm_done(&mut self) -> bool {
        self.producer.arm_done()
    }

    /// Of a lane: sequence of the first message that its reader has not handled yet, as it says.
    pub fn done(&mut self) -> u64 {
        self.producer.done()
    }

    /// The wait is over.
    pub fn disarm_room(&mut self) {
        self.producer.disarm_room();
    }

    /// Ends the log and wakes every subscriber: they drain it and learn its last sequence. Nothing may be published afterwards.
    pub fn finish(&mut self) {
        self.producer.finish();
        self.producer.refresh_links();
        wake::wake_all(self.producer.known());
    }
}

/// Room for one payload at the end of the log. Dropped without `commit`, nothing was sent and nothing is lost.
pub struct OpenFrame<'a> {
    outlet: &'a mut Outlet,
    /// bytes; as asked for
    len: usize,
    /// bytes of extensions before the payload
    front: usize,
    extensions: Extensions,
}

impl<'a> OpenFrame<'a> {
    /// The payload's bytes, 16-byte aligned. They hold whatever stood there before: parts of older messages of this
    /// publication, perhaps.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.outlet.producer.open_bytes(self.front + self.len)[self.front..]
    }

    /// The same, for reading.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.outlet.producer.peek_bytes(self.front + self.len)[self.front..]
    }

    /// The payload's bytes for longer than this frame is open: whoever opens a frame of the same length and with the same kinds of
    /// extensions next finds them as they are left.
    pub fn into_bytes(self) -> &'a mut [u8] {
        let OpenFrame { outlet, len, front, .. } = self;
        &mut outlet.producer.open_bytes(front + len)[front..]
    }

    /// Commits the first `len` bytes as the message, wakes who sleeps, and returns the message's sequence.
    ///
    /// # Panics
    ///
    /// When `len` is more than was opened.
    #[inline(always)]
    pub fn commit(self, len: usize) -> u64 {
        if len > self.len {
            more_than_opened(len, self.len);
        }
        if self.front == 0 { self.outlet.commit(len) } else { self.outlet.commit_extended(len, self.extensions) }
    }
}

#[cold]
#[inline(never)]
fn more_than_opened(len: usize, opened: usize) -> ! {
    panic!("committed {len} bytes of {opened}")
}
