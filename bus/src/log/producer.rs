//! The producing end of a log.
//!
//! # Why no reader ever meets bytes of another message
//!
//! 1. *A frame appears whole.* Its payload, the zero behind it and its sequence are stored before its commit word
//!    (Release); a consumer reads them after it loaded the commit word (Acquire). What stood behind the frame before was
//!    overwritten by that zero, so no stale word is ever taken for a header.
//! 2. *A block is reused only when nobody is in it.* The producer stores `floor`, fences, then reads every line. A consumer
//!    stores `at`, fences, then reads `floor`. One of the two sees the other: either the producer sees `at` and keeps the
//!    block, or the consumer sees that the block lies below the floor and does not read it. (The hazard-pointer handshake:
//!    Michael, "Hazard Pointers: Safe Memory Reclamation for Lock-Free Objects", 2004; once a block instead of once a read.)
//! 3. *A floor once acted upon stays.* A reliable `from` below the stored floor puts it back, but never below
//!    `freed_below`: blocks under that may already carry other messages.
//! 4. *A consumer leaves with Release*, the producer reads the lines with Acquire: reads of the old payload do not sink
//!    below the store that gives the block away.
//! 5. *A new block is ready before anyone is sent to it*: its first word is zero and its generation stands in the table
//!    before the closing frame that names it is committed.
//!
//! # If the producer dies
//!
//! Between any two stores: the frame has no commit word, so nobody sees it; a new block without a closing frame naming it
//! is in nobody's way. Consumers drain what was committed and hear of the death from the kernel.

use std::sync::Arc;

use crate::atomics::{Fact, Words};
use crate::line::LineView;
use crate::protocol::{LinkId, LogShape};

use super::extension::Extensions;
use super::frame::{CommitWord, HEADER_LEN, KIND_CLOSING, KIND_DATA, KIND_END, KIND_SKIP, frame_len};
use super::layout::{self, Layout};
use super::links::{Link, Links};
use super::pool::{Block, Pool};

/// bytes; how far ahead lines are asked for
const AHEAD: usize = 1024;

/// A reliable link that is behind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Laggard {
    pub(crate) link: LinkId,
    /// Of the block that it reads.
    pub(crate) generation: u64,
    /// From that block's first message to the newest.
    pub(crate) messages: u64,
}

/// What a log keeps beyond what its reliable subscribers still need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// messages kept for lossy subscribers that fall behind, while there are any
    pub depth: u64,
    /// messages kept for subscribers that join late
    pub history: u64,
    /// bytes of blocks that `Reach::Prompt` may occupy before the producer rather waits for its reliable readers
    pub prompt: u64,
    /// bytes of blocks that a fast publication takes turns with
    pub spread: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { depth: 64, history: 0, prompt: 4 * u64::from(layout::DEFAULT_BLOCK_LEN), spread: 4 << 20 }
    }
}

/// How far the log may grow for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only within what the cache holds, while reliable readers are behind.
    Prompt,
    /// To the limit of the pool.
    Limit,
}

/// Why there is no room for a message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The reliable reader that is furthest behind holds more than [`Reach::Prompt`] allows: wait for it, or ask again with
    /// [`Reach::Limit`].
    Behind(LinkId),
    /// The pool's limit is reached; the reader, if any, that holds it up.
    Full(Option<LinkId>),
    /// There is room, but the log is longer than it need be: go on in a fresh one, or ask again after
    /// [`Outlet::stay`](crate::outlet::Outlet::stay).
    Outgrown,
    /// It never fits: the longest payload this log can take.
    TooLong {
        /// bytes
        limit: u64,
    },
}

impl NoRoom {
    /// What it means for the payload behind `front` bytes of extensions.
    pub(crate) fn behind(self, front: usize) -> NoRoom {
        match self {
            NoRoom::TooLong { limit } => NoRoom::TooLong { limit: limit.saturating_sub(front as u64) },
            other => other,
        }
    }
}

/// One producer of one log. See the module.
pub struct Producer<W: Words> {
    words: W,
    layout: Layout,
    /// offset of the next frame's header; a multiple of 16; next_at <= end_at
    next_at: usize,
    /// offset of the current block's last 16 bytes, kept for its closing frame
    end_at: usize,
    /// of the next message
    sequence: u64,
    current: Block,
    /// as stored in the header; pool.freed_below() <= floor <= current.generation
    floor: u64,
    pool: Pool,
    retention: Retention,
    links: Arc<Links<W>>,
    /// The list of links as of `known_version`.
    known: Vec<Arc<Link<W>>>,
    /// The lines of `known`, side by side: at each border all are read.
    lines: Vec<LineView<W>>,
    /// Those of the reliable ones among them.
    reliable: Vec<(LinkId, LineView<W>)>,
    known_version: u64,
    /// scratch of `reclaim`
    pins: Vec<u64>,
    /// blocks to take turns with; 0 = as few as possible
    spread: u32,
}

impl<W: Words> Producer<W> {
    /// Makes a log out of `words`: fresh, zeroed memory of at least [`segment_len`](super::segment_len) bytes that only this
    /// producer can write. `shape` must have passed [`check`](super::check).
    pub fn create(words: W, shape: LogShape, epoch: u64, retention: Retention, links: Arc<Links<W>>) -> Producer<W> {
        Producer::with_layout(words, Layout::new(shape), epoch, retention, links)
    }

    fn with_layout(words: W, layout: Layout, epoch: u64, retention: Retention, links: Arc<Links<W>>) -> Producer<W> {
        // Relaxed: nobody is given the log before its magic word is stored, with Release, below.
        words.store(layout::EPOCH_AT, epoch);
        words.store(layout::BLOCK_LEN_AT, layout.block_len as u64);
        words.store(layout::BLOCKS_AT, layout.blocks as u64);
        let mut pool = Pool::new(layout.blocks as u32, layout.block_len as u64);
        let index = pool.take(1, 0).expect("a checked shape has blocks");
        let current = Block { generation: 1, index, run: 1, first_sequence: 0 };
        pool.push(current);
        let row = layout.row_at(index as usize);
        words.store(row + 16, 1);
        words.store(row, current.generation);
        words.store(layout::CURRENT_AT, current.generation);
        words.store(layout::FLOOR_AT, 1);
        words.store(layout::TOUCHED_AT, 1);
        // PAIRS segment-ready: Release here, Acquire in Cursor::open.
        words.store_release(layout::MAGIC_AT, layout::MAGIC, Fact::SegmentReady);
        let next_at = layout.block_at(index as usize);
        let end_at = next_at + layout.block_len - HEADER_LEN;
        let mut producer = Producer {
            words,
            layout,
            next_at,
            end_at,
            sequence: 0,
            current,
            floor: 1,
            pool,
            retention,
            known_version: links.version(),
            links,
            known: Vec::new(),
            lines: Vec::new(),
            reliable: Vec::new(),
            pins: Vec::new(),
            spread: 0,
        };
        producer.look_up_links();
        producer
    }

    /// The log's words.
    pub fn words(&self) -> &W {
        &self.words
    }

    /// Of the next message.
    pub fn next_sequence(&self) -> u64 {
        self.sequence
    }

    /// Where the next payload goes, and how many bytes of it the current block can take.
    #[inline]
    pub fn room(&self) -> (usize, usize) {
        (self.next_at + HEADER_LEN, (self.end_at - self.next_at).saturating_sub(HEADER_LEN))
    }

    /// Whether the current block can take a payload of `len` bytes. A block that is filled to its end takes none, not even an
    /// empty one, which needs a header.
    #[inline]
    pub fn fits(&self, len: usize) -> bool {
        // Frames are packed to headers' lengths, so the padding fits wherever the payload does.
        (self.end_at - self.next_at).checked_sub(HEADER_LEN).is_some_and(|room| len <= room)
    }

    /// Makes room for a payload of `len` bytes; returns its offset. Never waits.
    ///
    /// # Errors
    ///
    /// Says who is in the way; nothing is lost, the call may be repeated.
    #[inline]
    pub fn open(&mut self, len: usize, reach: Reach) -> Result<usize, NoRoom> {
        if !self.fits(len) {
            self.next_block(len, reach)?;
        }
        Ok(self.next_at + HEADER_LEN)
    }

    /// Commits the payload that was written at the offset that `open` (or `room`) gave; returns its sequence.
    ///
    /// # Panics
    ///
    /// When `len` is more than there was room for.
    #[inline(always)]
    pub fn commit(&mut self, len: usize) -> u64 {
        self.append(frame_len(len), CommitWord::new(KIND_DATA, len as u32))
    }

    /// The same with `extensions`: the payload was written [`Extensions::frame_bytes`] behind the offset that `open` gave, which
    /// was asked for so many bytes more.
    ///
    /// # Panics
    ///
    /// As [`commit`](Self::commit).
    #[inline(always)]
    pub fn commit_extended(&mut self, len: usize, extensions: &Extensions) -> u64 {
        let word = CommitWord::new(KIND_DATA, len as u32).with_flags(extensions.flags());
        let frame_len = frame_len(extensions.frame_bytes() + len);
        // Checked by `append` as well, but then they would have been written already.
        assert!(frame_len <= self.end_at - self.next_at, "committed more than was opened");
        extensions.write(&self.words, self.next_at);
        self.append(frame_len, word)
    }

    /// Commits a frame of `frame_len` bytes.
    #[inline(always)]
    fn append(&mut self, frame_len: usize, word: CommitWord) -> u64 {
        let at = self.next_at;
        let next = at + frame_len;
        assert!(next <= self.end_at, "committed more than was opened");
        // Relaxed, both: published by the commit word. Nobody reads behind `at` before.
        self.words.store(next, 0);
        self.words.store(at + 8, self.sequence);
        // PAIRS frame-committed: Release here, Acquire in Cursor::poll.
        self.words.store_release(at, word.0, Fact::FrameCommitted);
        self.next_at = next;
        // The lines of a later frame, so that they are this core's when it is written.
        self.words.will_write(next + AHEAD);
        self.words.will_write(next + AHEAD + 64);
        let sequence = self.sequence;
        self.sequence += 1;
        sequence
    }

    /// Says that the next `count` messages were left out on purpose: subscribers count no loss. Returns the sequence of the first
    /// of them.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn skip(&mut self, count: u64, reach: Reach) -> Result<u64, NoRoom> {
        let at = self.open(size_of::<u64>(), reach)?;
        // Relaxed: published by the commit word.
        self.words.store(at, count);
        let word = CommitWord::new(KIND_SKIP, size_of::<u64>() as u32);
        let first = self.append(word.frame_len(), word);
        self.sequence = first.saturating_add(count);
        Ok(first)
    }

    /// Says that the next `count` messages are lost: subscribers count them, at the next message or the end.
    pub fn lose(&mut self, count: u64) {
        self.sequence = self.sequence.saturating_add(count);
    }

    /// Ends the log: subscribers drain it and learn the last sequence.
    pub fn finish(&mut self) {
        let at = self.next_at;
        // The 16 bytes kept for a closing frame take the end frame instead.
        self.words.store(at + 8, self.sequence);
        // PAIRS frame-committed: Release here, Acquire in Cursor::poll.
        self.words.store_release(at, CommitWord::new(KIND_END, 0).0, Fact::FrameCommitted);
        // Relaxed: for tools; readers learn it from the end frame.
        self.words.store(layout::CLOSED_AT, self.sequence + 1);
    }

    /// Says that this log goes on from the one of another publication of the same node. Before anybody else has the log.
    pub(crate) fn set_follows(&mut self, publication: u64) {
        // Relaxed: readers get the log by messages, later.
        self.words.store(layout::FOLLOWS_AT, publication);
    }

    /// Numbers messages from `sequence` on. Those before it are another log's.
    ///
    /// # Panics
    ///
    /// When something was published already.
    pub fn start_at(&mut self, sequence: u64) {
        assert!(self.sequence == 0 && self.current.generation == 1, "numbers begin where a log begins");
        // Relaxed: published by the next commit word.
        self.words.store(layout::FIRST_AT, sequence);
        self.sequence = sequence;
    }

    /// From now on `left` is asked how many bytes there are before memory is touched for the first time. A log whose readers
    /// keep up never asks.
    pub fn ask_before_growing(&mut self, left: fn() -> u64) {
        self.pool.ask_before_growing(left);
    }

    /// Whether the log would have grown when it last had to, had there been memory.
    pub fn is_short_of_memory(&self) -> bool {
        self.pool.is_short_of_memory()
    }

    /// Bytes of blocks in use, and of blocks that were ever in use.
    pub(crate) fn footprint(&self) -> (u64, u64) {
        let block = self.layout.block_len as u64;
        (u64::from(self.pool.occupied()) * block, u64::from(self.pool.touched()) * block)
    }

    /// Says that the producer is about to wait for room: consumers that leave a block ring its bell from now on. Look for room
    /// once more afterwards.
    pub fn arm_room(&mut self) {
        // Relaxed: ordered by the fence.
        self.words.store(layout::WAITING_AT, 1);
        // PAIRS waiting-before-lines: keeps this store before the loads of lines in `reclaim`; the consumer's side is
        // Cursor::left_block.
        self.words.fence(Fact::WaitingBeforeLines);
    }

    /// Says that the producer of a lane is about to wait for its reader to handle something: look at
    /// [`done`](Self::done) once more afterwards. False where the reader's part of it may go unnoticed: then do not sleep long.
    pub fn arm_done(&mut self) -> bool {
        self.arm_room();
        // PAIRS done-before-waiting: keeps the store of `waiting` before the load of `done`; the consumer's side is
        // Cursor::handled.
        self.words.heavy_fence(Fact::WaitingBeforeDone)
    }

    /// Of a lane: sequence of the first message that its reader has not handled yet, at most the next one's. What is no
    /// reader's yet is not handled.
    pub fn done(&mut self) -> u64 {
        self.refresh_links();
        self.reliable.iter().map(|(_, line)| line.done()).min().unwrap_or(0).min(self.sequence)
    }

    /// The wait is over.
    pub fn disarm_room(&mut self) {
        // Relaxed: late, it costs one spare ring.
        self.words.store(layout::WAITING_AT, 0);
    }

    /// Generation of the current block: grows with each.
    pub(crate) fn generation(&self) -> u64 {
        self.current.generation
    }

    /// Whether the publication is fast: then its blocks take turns.
    pub(crate) fn set_fast(&mut self, fast: bool) {
        self.spread = if fast { (self.retention.spread / self.layout.block_len as u64) as u32 } else { 0 };
    }

    /// The version of the list of links as last looked up.
    pub(crate) fn known_version(&self) -> u64 {
        self.known_version
    }

    /// Looks the list of links up again if it changed.
    pub(crate) fn refresh_links(&mut self) {
        let version = self.links.version();
        if version != self.known_version {
            self.known_version = version;
            self.look_up_links();
        }
    }

    fn look_up_links(&mut self) {
        self.known = self.links.copy();
        self.lines = self.known.iter().map(|link| link.view()).collect();
        let reliable = self.known.iter().filter(|link| link.reliable);
        self.reliable = reliable.map(|link| (link.id, link.view())).collect();
    }

    /// The links as last looked up.
    pub(crate) fn known(&self) -> &[Arc<Link<W>>] {
        &self.known
    }

    /// The shared list.
    pub fn links(&self) -> &Arc<Links<W>> {
        &self.links
    }

    /// Blocks that were ever in use.
    pub fn touched_blocks(&self) -> u32 {
        self.pool.touched()
    }

    /// Bytes of the longest payload this log can take.
    pub fn longest_payload(&self) -> u64 {
        // Wherever the block being left stands, one side of it has that many adjacent blocks.
        let run = (self.layout.blocks - 1) / 2 * self.layout.block_len;
        (run - 2 * HEADER_LEN).min(layout::MAX_PAYLOAD as usize) as u64
    }

    #[cold]
    #[inline(never)]
    fn next_block(&mut self, len: usize, reach: Reach) -> Result<(), NoRoom> {
        let limit = self.longest_payload();
        if len as u64 > limit {
            return Err(NoRoom::TooLong { limit });
        }
        let run = (frame_len(len) + HEADER_LEN).div_ceil(self.layout.block_len) as u32;
        let mut kept = self.window();
        // Nobody can be behind: while blocks that take turns are free, the lines need not be read.
        if run == 1 && self.reliable.is_empty() {
            if let Some(index) = self.pool.take_turn(self.spread) {
                self.move_to(index, 1);
                return Ok(());
            }
        }
        let mut slowest = self.reclaim(kept);
        if let (Reach::Prompt, Some(slowest)) = (reach, slowest) {
            let prompt = (self.retention.prompt / self.layout.block_len as u64).max(3 * u64::from(run)).max(3);
            if u64::from(self.pool.occupied() + run) > prompt {
                return Err(NoRoom::Behind(slowest));
            }
        }
        let mut place = self.pool.take(run, self.spread);
        // What is only kept in case somebody falls behind or comes late gives way: nobody could ever make room for it.
        while place.is_none() && kept > 0 {
            kept /= 2;
            slowest = self.reclaim(kept);
            place = self.pool.take(run, self.spread);
        }
        match place {
            Some(index) => self.move_to(index, run),
            None => {
                // Readers rest in the current block until they are sent on. If that is a long run, and room for another is
                // needed, send them to a single block, or they would hold the run for ever.
                if self.current.run > 1 {
                    if let Some(index) = self.pool.take(1, 0) {
                        self.move_to(index, 1);
                    }
                }
                return Err(NoRoom::Full(slowest.or_else(|| self.any_pinner())));
            }
        }
        Ok(())
    }

    /// Closes the current block and goes on in the free run at `index`.
    fn move_to(&mut self, index: u32, run: u32) {
        let next = Block { generation: self.current.generation + 1, index, run, first_sequence: self.sequence };
        let begin = self.layout.block_at(index as usize);
        let row = self.layout.row_at(index as usize);
        // Relaxed: published by the generation. The run's other rows must not name older generations.
        self.words.store(begin, 0);
        for other in index + 1..index + run {
            self.words.store(self.layout.row_at(other as usize), 0);
        }
        self.words.store(row + 8, next.first_sequence);
        self.words.store(row + 16, u64::from(run));
        // PAIRS block-opened: Release here, Acquire in Cursor::enter.
        self.words.store_release(row, next.generation, Fact::BlockOpened);
        self.words.store(layout::TOUCHED_AT, u64::from(self.pool.touched()));
        // The closing frame, last of the block: whoever reads it finds the next block ready.
        let at = self.next_at;
        self.words.store(at + 8, next.generation);
        // PAIRS frame-committed: Release here, Acquire in Cursor::poll.
        self.words.store_release(at, CommitWord::new(KIND_CLOSING, index).0, Fact::FrameCommitted);
        // Relaxed: a hint, checked against the table.
        self.words.store(layout::CURRENT_INDEX_AT, u64::from(index));
        // PAIRS current-moved: Release here, Acquire in Cursor::newest.
        self.words.store_release(layout::CURRENT_AT, next.generation, Fact::CurrentMoved);
        self.pool.push(next);
        self.current = next;
        self.next_at = begin;
        self.end_at = begin + run as usize * self.layout.block_len - HEADER_LEN;
    }

    /// Messages that are kept for lossy subscribers that fall behind, and for late ones.
    fn window(&mut self) -> u64 {
        self.refresh_links();
        let lossy = self.reliable.len() < self.known.len();
        self.retention.history.max(if lossy { self.retention.depth } else { 0 })
    }

    /// Frees what readers have left, as is done wherever a block ends: for a producer that waits for room before it writes.
    pub fn free_what_was_left(&mut self) {
        let kept = self.window();
        self.reclaim(kept);
    }

    /// Frees what nobody needs any more, but for the last `kept` messages; returns the reliable link that holds back the floor,
    /// if one does.
    fn reclaim(&mut self, kept: u64) -> Option<LinkId> {
        self.refresh_links();
        let (target, slowest) = self.lowest_needed(kept);
        if target == self.floor && !self.pool.has_pinned() {
            return slowest;
        }
        // Relaxed: ordered by the fence.
        self.words.store(layout::FLOOR_AT, target);
        // PAIRS floor-before-lines: keeps the floor's store before the loads of the list and of every line; the consumer's
        // side is Cursor::enter.
        self.words.fence(Fact::FloorBeforeLines);
        // A line that leaves the list may be another link's at once: then what was read of it means nothing.
        let (floor, slowest) = loop {
            self.refresh_links();
            let (needed, slowest) = self.lowest_needed(kept);
            let floor = needed.min(target).max(self.pool.freed_below());
            self.pins.clear();
            for line in &self.lines {
                line.collect_pins(floor, &mut self.pins);
            }
            if self.links.version() == self.known_version {
                break (floor, slowest);
            }
        };
        if floor != target {
            // Relaxed: it only ever gives back what `target` took; a reader that saw `target` meanwhile goes to a newer block.
            self.words.store(layout::FLOOR_AT, floor);
        }
        self.floor = floor;
        self.pool.reclaim(floor, &self.pins);
        slowest
    }

    /// The generation from which on everything is needed, and the reliable link that needs it, if it is not the window.
    fn lowest_needed(&self, kept: u64) -> (u64, Option<LinkId>) {
        // Also with nothing to keep, the block being left stays: its readers learn there where to go.
        let mut lowest = self.pool.generation_holding(self.sequence.saturating_sub(kept)).min(self.current.generation);
        let mut slowest = None;
        for (link, line) in &self.reliable {
            if let Some(from) = line.from().filter(|&from| from < lowest) {
                lowest = from;
                slowest = Some(*link);
            }
        }
        (lowest.max(self.pool.freed_below()), slowest)
    }

    /// Reliable links, as last looked up, that read a block before the current one.
    pub(crate) fn laggards(&self) -> impl Iterator<Item = Laggard> {
        self.reliable.iter().filter_map(|(link, line)| {
            let generation = line.from().filter(|&from| from < self.current.generation)?;
            let messages = self.sequence - self.pool.first_sequence_from(generation).min(self.sequence);
            Some(Laggard { link: *link, generation, messages })
        })
    }

    /// Some link that pins blocks below the floor.
    fn any_pinner(&self) -> Option<LinkId> {
        let mut pins = Vec::new();
        self.known.iter().zip(&self.lines).find_map(|(link, line)| {
            line.collect_pins(self.floor, &mut pins);
            (!pins.is_empty()).then_some(link.id)
        })
    }
}
