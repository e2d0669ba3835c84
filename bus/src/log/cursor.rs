//! The consuming end of a log: a subscriber's place in it.
//!
//! Everything that is read here was written by another process and is taken as hostile: loaded once, checked, then used.
//! The one thing that is not checked is a payload's content; that is the message layer's.
//!
//! The safety argument stands at the producer's module; the cursor's part of it is [`Cursor::enter`].

use std::sync::{Arc, OnceLock};

use thiserror::Error;

use crate::atomics::{Fact, Words};
use crate::line::{AT, FROM, OwnLine, is_generation};
use crate::page::{LayoutError, NodePage, check_magic};
use crate::protocol::LogShape;

use super::extension::{Extensions, RequestMark};
use super::frame::{CommitWord, HEADER_LEN, KIND_CLOSING, KIND_DATA, KIND_END, KIND_SKIP};
use super::held::{Held, Pin, TooManyHeld};
use super::layout::{self, Layout};
use super::links::Ring;

/// How often a consumer tries to enter what it wants before it takes the newest, and the newest before it leaves it to the
/// next poll.
const TRIES: usize = 3;

/// A message was polled; its bytes are at the cursor ([`Cursor::payload`]) until the next `poll`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The publisher's number of it: consecutive from 0.
    pub sequence: u64,
    /// Messages lost directly before it.
    pub missed_before: u64,
}

/// Something else than a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CursorFault {
    /// No further message will come: the publisher ended, or died and was drained. `missed` messages were lost at the end.
    #[error("the publication ended; {missed} messages at its end were missed")]
    Ended {
        /// Messages lost at the end; 0 where the publisher died before it could say.
        missed: u64,
    },
    /// The link is no longer reliable: it was too slow for its policy, or its session ended. Reading goes on, lossy.
    #[error("the publisher stopped waiting for this subscriber: {missed} messages were missed")]
    Evicted {
        /// Messages lost before the next one.
        missed: u64,
    },
    /// The log says what it cannot say. The link is of no further use.
    #[error("the publisher's log is damaged at byte {at:#x}: {what}")]
    Corrupt {
        /// Byte offset.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

/// Where a cursor stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// 0 = nowhere
    generation: u64,
    /// offset of the next frame's header
    next_at: usize,
    /// offset of the block's (or run's) end
    end_at: usize,
}

impl Place {
    /// In no block. It points at the log's first word, which is never 0 and never a plain frame that fits, so `poll` needs no
    /// test of its own for it.
    const NOWHERE: Place = Place { generation: 0, next_at: layout::MAGIC_AT, end_at: 0 };
}

/// What a cursor is made of.
pub struct CursorSpec<W: Words> {
    /// The log.
    pub log: W,
    /// What the dispatcher said of it.
    pub shape: LogShape,
    /// The subscriber's own node page.
    pub page: Arc<NodePage<W>>,
    /// The link's line in it.
    pub line: u32,
    /// The tag that the line's words carry.
    pub tag: u16,
    /// The producer keeps everything for this cursor.
    pub reliable: bool,
    /// messages that a lossy cursor goes back when it was lapped
    pub depth: u64,
    /// messages from before the link that it begins with, if they are still held
    pub history: u64,
    /// The publisher's, rung when it waits for room.
    pub bell: Arc<dyn Ring>,
    /// The log is a lane: for this cursor alone.
    pub lane: Option<Lane>,
    /// Called once the cursor and all its pins are gone.
    pub on_released: Box<dyn FnOnce() + Send + Sync>,
}

/// What is different where a log is for one consumer alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Sequence of the first message that is this consumer's; those before were handled by another one.
    pub first: u64,
    /// This process takes part in `membarrier`: what it stores needs no full fence.
    pub light: bool,
}

/// See the module.
pub struct Cursor<W: Words> {
    log: W,
    layout: Layout,
    held: Arc<Held<W>>,
    line: OwnLine<W>,
    bell: Arc<dyn Ring>,
    place: Place,
    /// of the next message
    expected: u64,
    /// Messages before it are stepped over: those beyond `depth` or `history`.
    wanted: u64,
    missed: u64,
    depth: u64,
    reliable: bool,
    lane: Option<Lane>,
    /// As told to the publisher of a lane.
    done: u64,
    /// The first frame after a lap of a reliable cursor reports it.
    evicted: bool,
    publisher_gone: bool,
    /// Sequence behind the newest message when it entered the log.
    entered_at: u64,
    /// Not in the log yet: the history to begin with.
    joining: Option<u64>,
    /// Nothing more comes: what `poll` says from now on.
    over: Option<CursorFault>,
    /// Holds the block at `place` once a pin was asked for.
    pin: OnceLock<Arc<Pin<W>>>,
    /// The message that was polled last; it lies in the block at `place`. Of length 0 where there is none.
    last: Payload,
    /// Those of the last message that had any, and the sequence of the message behind that one. Whether they are those of the
    /// last message is told by that number, so plain messages do not touch them.
    extended: (Extensions, u64),
}

/// Where a payload lies in its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// byte offset; a multiple of 16
    pub(crate) at: usize,
    /// bytes
    pub(crate) len: usize,
}

impl Payload {
    /// Byte offset in the log; a multiple of 16.
    pub fn offset(self) -> usize {
        self.at
    }
}

impl<W: Words> Cursor<W> {
    /// Opens the log and enters it: behind its newest message, or `history` messages before that.
    ///
    /// # Errors
    ///
    /// When the segment is not a log of that shape.
    pub fn open(spec: CursorSpec<W>) -> Result<Cursor<W>, LayoutError> {
        Cursor::with_layout(Layout::new(spec.shape), spec)
    }

    fn with_layout(layout: Layout, spec: CursorSpec<W>) -> Result<Cursor<W>, LayoutError> {
        let log = spec.log;
        // PAIRS segment-ready: Acquire here, Release in Producer::create.
        check_magic("log", log.load_acquire(layout::MAGIC_AT, Fact::SegmentReady), layout::MAGIC)?;
        for (at, field, expected) in [
            (layout::BLOCK_LEN_AT, "block length", layout.block_len as u64),
            (layout::BLOCKS_AT, "number of blocks", layout.blocks as u64),
        ] {
            let found = log.load(at);
            if found != expected {
                return Err(LayoutError::Disagrees { what: "log", field, found, expected });
            }
        }
        let line = OwnLine::new(spec.page.words().clone(), spec.line, spec.tag);
        line.clear_all();
        let held = Held::new(spec.page, line.clone(), Arc::clone(&spec.bell), log.clone(), spec.on_released);
        let mut cursor = Cursor {
            log,
            layout,
            held,
            line,
            bell: spec.bell,
            place: Place::NOWHERE,
            expected: 0,
            wanted: 0,
            missed: 0,
            depth: spec.depth,
            reliable: spec.reliable,
            lane: spec.lane,
            done: 0,
            evicted: false,
            publisher_gone: false,
            entered_at: 0,
            joining: Some(spec.history),
            over: None,
            pin: OnceLock::new(),
            last: Payload::default(),
            extended: (Extensions::NONE, 0),
        };
        if let Some(Lane { first, .. }) = spec.lane {
            cursor.tell_done(first);
        }
        cursor.join();
        Ok(cursor)
    }

    /// The next message, if one is there. Never blocks, allocates nothing, calls no system.
    ///
    /// # Errors
    ///
    /// See [`CursorFault`]; after `Evicted` the cursor reads on, after the others it says the same again.
    #[inline(always)]
    pub fn poll(&mut self) -> Result<Option<Frame>, CursorFault> {
        let at = self.place.next_at;
        // PAIRS frame-committed: Acquire here, Release in Producer::append.
        let word = CommitWord(self.log.load_acquire(at, Fact::FrameCommitted));
        if word.is_plain_data() {
            if let Some(frame) = self.take_next(at, word, HEADER_LEN) {
                return Ok(Some(frame));
            }
        } else if word.0 == 0 && !self.publisher_gone {
            return Ok(None);
        } else if word.is_extended_data() {
            return self.poll_extended(at, word);
        }
        self.poll_uncommon()
    }

    /// The message that was committed at `at`, if it is the next one in sequence; its payload is `front` bytes behind that.
    #[inline(always)]
    fn take_next(&mut self, at: usize, word: CommitWord, front: usize) -> Option<Frame> {
        let next_at = at + front + (word.len() as usize).next_multiple_of(16);
        // Relaxed: published by the commit word.
        let sequence = self.log.load(at + 8);
        let expected = sequence.wrapping_add(1);
        // A frame leaves room for another header in its block. Behind the last sequence of all comes 0, which is never above
        // `wanted`.
        if next_at >= self.place.end_at || sequence != self.expected || expected <= self.wanted {
            return None;
        }
        self.place.next_at = next_at;
        self.expected = expected;
        self.last = Payload { at: at + front, len: word.len() as usize };
        Some(Frame { sequence, missed_before: 0 })
    }

    /// A message with extensions.
    #[inline(never)]
    fn poll_extended(&mut self, at: usize, word: CommitWord) -> Result<Option<Frame>, CursorFault> {
        let Some(frame) = self.take_next(at, word, word.payload_offset()) else { return self.poll_uncommon() };
        self.extended = (Extensions::read(&self.log, at, word), self.expected);
        Ok(Some(frame))
    }

    /// Everything but the next message in sequence.
    #[cold]
    #[inline(never)]
    fn poll_uncommon(&mut self) -> Result<Option<Frame>, CursorFault> {
        if let Some(fault) = self.over {
            return Err(fault);
        }
        if self.place.generation == 0 && !self.join() && !self.resync() {
            return self.nothing();
        }
        let mut resyncs = 0;
        loop {
            let at = self.place.next_at;
            // PAIRS frame-committed: Acquire here, Release in Producer::append, finish and move_to.
            let word = CommitWord(self.log.load_acquire(at, Fact::FrameCommitted));
            if word.0 == 0 {
                return self.nothing();
            }
            if !word.is_wellformed() {
                return self.corrupt(at, "a commit word with reserved bits");
            }
            // Relaxed, both: published by the commit word.
            let second = self.log.load(at + 8);
            // Messages of the log that this one goes on from were never this one's to miss.
            self.expected = self.expected.max(self.log.load(layout::FIRST_AT).min(second));
            match word.kind() {
                KIND_CLOSING => {
                    if second <= self.place.generation {
                        return self.corrupt(at, "a closing frame that names no newer block");
                    }
                    if !self.go_to(word.len() as usize, second) {
                        resyncs += 1;
                        // A log in which no block leads on would send us back for ever.
                        if !self.resync() || resyncs == TRIES {
                            return self.nothing();
                        }
                    }
                }
                KIND_END => {
                    let Some(missed) = second.checked_sub(self.expected) else {
                        return self.corrupt(at, "an end before messages that were read");
                    };
                    self.count_missed(missed);
                    return self.end(CursorFault::Ended { missed });
                }
                kind => {
                    let next_at = at + word.frame_len();
                    if next_at + HEADER_LEN > self.place.end_at {
                        return self.corrupt(at, "a frame that leaves its block");
                    }
                    if kind != KIND_DATA && kind != KIND_SKIP {
                        // Of a later version: step over it.
                        self.place.next_at = next_at;
                        continue;
                    }
                    if kind == KIND_DATA && second < self.wanted {
                        // Older than depth or history reach. What was lost is counted at the next message.
                        self.place.next_at = next_at;
                        continue;
                    }
                    let Some(missed) = second.checked_sub(self.expected) else {
                        return self.corrupt(at, "a sequence that was there before");
                    };
                    if self.evicted {
                        self.evicted = false;
                        self.count_missed(missed);
                        self.expected = second;
                        return Err(CursorFault::Evicted { missed });
                    }
                    self.place.next_at = next_at;
                    if kind == KIND_SKIP {
                        // Relaxed: published by the commit word.
                        let skipped = if word.len() >= 8 { self.log.load(at + word.payload_offset()) } else { 0 };
                        let Some(expected) = second.checked_add(skipped) else {
                            return self.corrupt(at, "a filler frame beyond the last sequence");
                        };
                        self.count_missed(missed);
                        self.expected = expected;
                        continue;
                    }
                    let Some(expected) = second.checked_add(1) else {
                        return self.corrupt(at, "a sequence beyond the last one");
                    };
                    self.count_missed(missed);
                    self.expected = expected;
                    self.last = Payload { at: at + word.payload_offset(), len: word.len() as usize };
                    if word.flags() != 0 {
                        self.extended = (Extensions::read(&self.log, at, word), expected);
                    }
                    return Ok(Some(Frame { sequence: second, missed_before: missed }));
                }
            }
        }
    }

    /// Whether `poll` has something to say: the last look before going to sleep.
    #[inline]
    pub fn is_ready(&self) -> bool {
        // Relaxed: only a hint, `poll` loads the word again. Nowhere, the word is never 0.
        self.publisher_gone || self.log.load(self.place.next_at) != 0
    }

    /// As `is_ready`, and asks for the line after the next frame's first one.
    #[inline]
    pub fn look(&self) -> bool {
        self.log.will_read(self.place.next_at + 64);
        self.is_ready()
    }

    /// Messages lost so far.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn count_missed(&mut self, missed: u64) {
        if missed > 0 {
            self.missed += missed;
            if self.lane.is_none() {
                self.line.set_missed(self.missed);
            }
        }
    }

    /// Whether the log is for this cursor alone.
    #[inline]
    pub fn is_lane(&self) -> bool {
        self.lane.is_some()
    }

    /// Of a lane: every message that was polled is handled. Wakes its producer if it waits for that; nothing in any other log.
    #[inline]
    pub fn handled(&mut self) {
        let Some(Lane { light, .. }) = self.lane.filter(|_| self.done != self.expected) else { return };
        self.tell_done(self.expected);
        if light {
            // PAIRS done-before-waiting: keeps the store of `done` before the load of `waiting`; the producer's side is
            // Producer::arm_done, whose `membarrier` makes it a full fence.
            self.line.light_fence(Fact::DoneBeforeWaiting);
        } else {
            // PAIRS done-before-waiting: as above, where this process takes no part in `membarrier`.
            self.line.fence(Fact::DoneBeforeWaiting);
        }
        if self.log.load(layout::WAITING_AT) != 0 {
            self.bell.ring();
        }
    }

    fn tell_done(&mut self, sequence: u64) {
        self.done = sequence;
        self.line.set_done(sequence);
    }

    /// Sequence behind the newest message when it entered the log; 0 before that.
    pub(crate) fn entered_at(&self) -> u64 {
        self.entered_at
    }

    /// Sequence of the next message that was neither seen nor counted as missed.
    pub fn next_sequence(&self) -> u64 {
        self.expected
    }

    /// The publication of the same node whose log this one goes on from; 0 if none. Only as true as its publisher.
    pub fn follows(&self) -> u64 {
        // Relaxed: written before anybody else had the log.
        self.log.load(layout::FOLLOWS_AT)
    }

    /// The publisher's process is dead: once what it committed is drained, `poll` says `Ended`.
    pub fn publisher_gone(&mut self) {
        self.publisher_gone = true;
    }

    /// The log's words.
    pub fn words(&self) -> &W {
        &self.log
    }

    /// Whether the cursor is in the log; until then each poll tries again to enter it.
    pub fn is_in(&self) -> bool {
        self.joining.is_none()
    }

    /// Where the message that was polled last lies.
    pub fn last(&self) -> Payload {
        self.last
    }

    /// What the message that was polled last carries beside its payload.
    #[inline]
    pub fn extensions(&self) -> Extensions {
        let (extensions, behind) = &self.extended;
        if *behind == self.expected { *extensions } else { Extensions::NONE }
    }

    /// Of these, which request it is or answers. Takes what it needs from where it was just written, word by word.
    #[inline]
    pub fn request_mark(&self) -> Option<RequestMark> {
        let (extensions, behind) = &self.extended;
        extensions.request.as_ref().filter(|_| *behind == self.expected).map(|mark| RequestMark { ..*mark })
    }

    /// Keeps the block in which the last polled message lies, for as long as a clone of the pin lives.
    ///
    /// # Errors
    ///
    /// When this link holds samples in too many blocks already.
    pub fn pin(&self) -> Result<Arc<Pin<W>>, TooManyHeld> {
        if let Some(pin) = self.pin.get() {
            return Ok(Arc::clone(pin));
        }
        let pin = self.held.pin(self.place.generation)?;
        Ok(Arc::clone(self.pin.get_or_init(|| pin)))
    }

    /// No message is there now; after the publisher's death, none will be.
    fn nothing(&mut self) -> Result<Option<Frame>, CursorFault> {
        if self.publisher_gone { self.end(CursorFault::Ended { missed: 0 }) } else { Ok(None) }
    }

    fn end(&mut self, fault: CursorFault) -> Result<Option<Frame>, CursorFault> {
        self.over = Some(match fault {
            // Said once, counted once.
            CursorFault::Ended { .. } => CursorFault::Ended { missed: 0 },
            other => other,
        });
        self.leave();
        Err(fault)
    }

    fn corrupt(&mut self, at: usize, what: &'static str) -> Result<Option<Frame>, CursorFault> {
        self.end(CursorFault::Corrupt { at, what })
    }

    /// Asks for nothing any more, besides what pins hold.
    fn leave(&mut self) {
        self.pin = OnceLock::new();
        self.last = Payload::default();
        self.place = Place::NOWHERE;
        // What a lane's consumer did not handle is kept for another one: the producer decides.
        if self.lane.is_none() {
            self.line.set(FROM, 0);
        }
        self.line.set(AT, 0);
        self.left_block();
    }

    /// A block was left: wakes the producer if it waits for that.
    fn left_block(&self) {
        // PAIRS waiting-before-lines: keeps the stores to the line before the load of `waiting`; the producer's side is
        // Producer::arm_room.
        self.line.fence(Fact::LineBeforeWaiting);
        if self.log.load(layout::WAITING_AT) != 0 {
            self.bell.ring();
        }
    }

    /// Enters the block that a closing frame named. False when it is gone.
    fn go_to(&mut self, index: usize, generation: u64) -> bool {
        if index >= self.layout.blocks || !self.enter(index, generation) {
            return false;
        }
        if self.reliable {
            self.line.set(FROM, generation);
        }
        self.left_block();
        true
    }

    /// The consumer's half of the handshake: `at` first, then a fence, then the floor. The block that was read so far is
    /// released by the same store.
    fn enter(&mut self, index: usize, generation: u64) -> bool {
        self.pin = OnceLock::new();
        self.last = Payload::default();
        if !is_generation(generation) {
            return false;
        }
        self.line.set(AT, generation);
        // PAIRS floor-before-lines: keeps the line's store before the load of the floor; the producer's side is
        // Producer::reclaim.
        self.line.fence(Fact::LineBeforeFloor);
        let row = self.layout.row_at(index);
        // Relaxed: ordered by the fence.
        let floor = self.log.load(layout::FLOOR_AT);
        // PAIRS block-opened: Acquire here, Release in Producer::move_to.
        if floor > generation || self.log.load_acquire(row, Fact::BlockOpened) != generation {
            return false;
        }
        // Relaxed: published by the generation, and kept by `at` from here on.
        let run = (self.log.load(row + 16) as usize).clamp(1, self.layout.blocks - index);
        let next_at = self.layout.block_at(index);
        self.place = Place { generation, next_at, end_at: next_at + run * self.layout.block_len };
        true
    }

    /// The newest block: its index and generation.
    fn newest(&self) -> Option<(usize, u64)> {
        // PAIRS current-moved: Acquire here, Release in Producer::move_to.
        let generation =
            Some(self.log.load_acquire(layout::CURRENT_AT, Fact::CurrentMoved)).filter(|&it| is_generation(it))?;
        // Relaxed: a hint, checked against the table when the block is entered.
        let hint = self.log.load(layout::CURRENT_INDEX_AT) as usize;
        if hint < self.layout.blocks && self.log.load(self.layout.row_at(hint)) == generation {
            return Some((hint, generation));
        }
        self.rows().find(|&(_, row_generation, _)| row_generation == generation).map(|(index, ..)| (index, generation))
    }

    /// Index, generation and first sequence of every block that carries a generation.
    fn rows(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        let touched = (self.log.load(layout::TOUCHED_AT) as usize).min(self.layout.blocks);
        let rows = (0..touched).map(|index| {
            let row = self.layout.row_at(index);
            // Relaxed: only to choose by; the generation is checked again when the block is entered.
            (index, self.log.load(row), self.log.load(row + 8))
        });
        rows.filter(|&(_, generation, _)| is_generation(generation))
    }

    /// The newest block that begins at or before `sequence`, or the oldest that is not gone.
    fn block_holding(&self, sequence: u64) -> Option<(usize, u64)> {
        let floor = self.log.load(layout::FLOOR_AT);
        let (mut holding, mut oldest) = (None, None);
        for (index, generation, first) in self.rows().filter(|&(_, generation, _)| generation >= floor) {
            if first <= sequence && holding.is_none_or(|(_, best)| generation > best) {
                holding = Some((index, generation));
            }
            if oldest.is_none_or(|(_, best)| generation < best) {
                oldest = Some((index, generation));
            }
        }
        holding.or(oldest)
    }

    /// First sequence of the block that the cursor stands at the beginning of.
    fn first_sequence(&self) -> u64 {
        let index = (self.place.next_at - self.layout.blocks_at) / self.layout.block_len;
        self.log.load(self.layout.row_at(index) + 8)
    }

    /// Begins to read, unless it did: in the newest block, behind its last message, less `history`. True when it is in a
    /// block now.
    pub(crate) fn join(&mut self) -> bool {
        let Some(history) = self.joining else { return false };
        if !self.enter_newest() {
            return false;
        }
        self.joining = None;
        let begin = self.place;
        let first = self.first_sequence();
        self.expected = first;
        let mut behind_last = first;
        while let Some((next_at, sequence)) = self.step() {
            self.place.next_at = next_at;
            behind_last = sequence.saturating_add(1);
        }
        self.entered_at = behind_last;
        let wanted = match self.lane {
            Some(Lane { first, .. }) => first.min(behind_last),
            None => behind_last.saturating_sub(history),
        };
        self.expected = wanted;
        self.wanted = wanted;
        if wanted < behind_last {
            self.place = begin;
            if wanted < first {
                if let Some((index, generation)) =
                    self.block_holding(wanted).filter(|&(_, found)| found < begin.generation)
                {
                    if self.reliable {
                        self.line.set(FROM, generation);
                    }
                    if !self.enter(index, generation) {
                        // Gone meanwhile: begin with the oldest that is not. `from` is below it, so nothing is lost.
                        self.place = Place::NOWHERE;
                        self.resync();
                    }
                }
                if self.place.generation == 0 {
                    // Every block was gone before it was entered: begin anew.
                    self.joining = Some(history);
                    self.left_block();
                    return false;
                }
                // What is no longer held is not missed: it was never promised.
                self.expected = self.expected.max(self.first_sequence());
            }
        }
        self.left_block();
        self.place.generation != 0
    }

    /// The next message's end and sequence, without taking it.
    fn step(&self) -> Option<(usize, u64)> {
        let at = self.place.next_at;
        // PAIRS frame-committed: Acquire here, Release in Producer::append.
        let word = CommitWord(self.log.load_acquire(at, Fact::FrameCommitted));
        let next_at = at + word.frame_len();
        (word.kind() == KIND_DATA && next_at + HEADER_LEN <= self.place.end_at)
            .then(|| (next_at, self.log.load(at + 8)))
    }

    /// Enters the newest block, with `from` as well as `at` before the fence: what follows it is kept for a reliable cursor.
    fn enter_newest(&mut self) -> bool {
        for _ in 0..TRIES {
            let Some((index, generation)) = self.newest() else { continue };
            if self.reliable {
                self.line.set(FROM, generation);
            }
            if self.enter(index, generation) {
                return true;
            }
        }
        false
    }

    /// After the wanted block was gone: goes to the oldest within `depth`, or to the newest. False when even that failed, or
    /// the log closed meanwhile; the next poll tries again.
    fn resync(&mut self) -> bool {
        if self.joining.is_some() {
            return false;
        }
        if self.reliable && self.place.generation != 0 {
            // Only a demoted link loses its block.
            self.evicted = true;
            self.reliable = false;
            // Asks for nothing from here on, even if the link is listed as reliable again: its publisher would wait for ever.
            self.line.set(FROM, 0);
        }
        self.place = Place::NOWHERE;
        // A floor that was put back may let blocks in that were read already.
        self.wanted = self.wanted.max(self.expected);
        for _ in 0..TRIES {
            let Some((current, newest)) = self.newest() else { continue };
            let last = self.log.load(self.layout.row_at(current) + 8);
            let wanted = last.saturating_sub(self.depth);
            let Some((index, generation)) = self.block_holding(wanted).filter(|&(_, found)| found <= newest) else {
                continue;
            };
            if self.enter(index, generation) {
                self.wanted = self.wanted.max(wanted);
                self.left_block();
                return true;
            }
        }
        let entered = self.enter_newest();
        self.left_block();
        entered
    }
}

impl<W: Words> Cursor<W> {
    /// Passes over what stands before the newest block, for those who want nothing but the newest message: it is in the next
    /// ones that are polled, at most what a block holds. What was passed over counts as missed. A reliable cursor passes over
    /// nothing. Where nothing is to be done, it costs one load.
    #[inline]
    pub fn skip_to_newest(&mut self) {
        // Relaxed: whoever finds out is the poll that follows. Nowhere, or at the end, there is nothing to leave.
        if self.place.generation != 0 && self.log.load(layout::CURRENT_AT) > self.place.generation && !self.reliable {
            self.skip();
        }
    }

    /// The most messages that a block can hold.
    pub fn per_block(&self) -> usize {
        self.layout.block_len / HEADER_LEN
    }

    #[cold]
    #[inline(never)]
    fn skip(&mut self) {
        // A newest block that is gone already, or is empty so far: then the message is in the one before, or in a newer one.
        if self.enter_newest() && self.is_ready() {
            self.left_block();
        } else {
            self.resync();
        }
    }
}

impl<W: Words> Drop for Cursor<W> {
    fn drop(&mut self) {
        self.leave();
    }
}
