//! A link's line: the 64 bytes of a node page in which a subscriber says what it still needs of a log.
//!
//! Written by the subscriber alone, read by the publisher at the borders of its blocks. Each word carries the link's tag
//! above a generation; 0, or another tag, asks for nothing.
//!
//! | word | says |
//! |---|---|
//! | `from` | reliable: keep every generation from this one on |
//! | `at` | the generation being read |
//! | `held` x 4 | generations in which owned samples live |
//! | `done` | messages missed so far, for tools (in a lane, which misses none: sequence of the first message not handled yet) |
//! | `more` | index of a further line: seven `held` words and a `more` |
//!
//! # Who dies where
//!
//! Any subset of the stores may have happened when the subscriber dies: its words keep blocks until the publisher learns from the
//! kernel that the process is gone and takes the link off its list. The publisher never waits for a word to change
//! without watching that.

use crate::atomics::{Fact, Words};
use crate::page::{ALL_LINES, LINES};

/// Bytes of the word `from` in a line.
pub(crate) const FROM: usize = 0;
/// Offset of the word `at`.
pub(crate) const AT: usize = 8;
/// Offset of the first `held` word of the main line.
const HELD: usize = 16;
/// `held` words of the main line.
const HELD_IN_LINE: usize = 4;
/// Offset of the word `done`.
const DONE: usize = 48;
/// Offset of the word `more`.
const MORE: usize = 56;
/// `held` words of a further line, from its start.
const HELD_IN_FURTHER: usize = 7;
/// Further lines a publisher follows: enough for [`MAX_HELD`] blocks.
const MAX_FURTHER: usize = (MAX_HELD - HELD_IN_LINE).div_ceil(HELD_IN_FURTHER);
/// Blocks in which one link may hold owned samples at once.
pub(crate) const MAX_HELD: usize = 1024;

/// Bits of a generation in a word.
const GENERATION_BITS: u32 = 48;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;

/// Whether a line's word can name that generation: a log that says otherwise is damaged.
pub(crate) fn is_generation(generation: u64) -> bool {
    (1..=GENERATION_MASK).contains(&generation)
}

/// What a line's word says for this link: tag above generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u16);

impl Tag {
    pub(crate) fn new(tag: u16) -> Tag {
        Tag(tag)
    }

    /// The word that names `generation`.
    pub(crate) fn word(self, generation: u64) -> u64 {
        debug_assert!(generation <= GENERATION_MASK);
        u64::from(self.0) << GENERATION_BITS | generation
    }

    /// The generation of a word, if it names one of this link.
    fn generation(self, word: u64) -> Option<u64> {
        let generation = word & GENERATION_MASK;
        (word >> GENERATION_BITS == u64::from(self.0) && generation != 0).then_some(generation)
    }
}

/// What the words of a line say, for tools.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LineWords {
    pub(crate) at: Option<u64>,
    /// `held` words of the line itself that are set
    pub(crate) held: u32,
    pub(crate) missed: u64,
}

impl LineWords {
    /// Of the words of a line, as many as could be read.
    pub(crate) fn of(words: &[u64], tag: u16) -> LineWords {
        let generation = |at: usize| words.get(at / 8).and_then(|word| Tag::new(tag).generation(*word));
        let held = (0..HELD_IN_LINE).filter(|index| generation(HELD + 8 * index).is_some()).count();
        LineWords { at: generation(AT), held: held as u32, missed: generation(DONE).unwrap_or(0) }
    }
}

/// The publisher's view of a line. All that it reads is hostile input: it only ever becomes a number that is compared.
#[derive(Clone, Debug)]
pub(crate) struct LineView<W> {
    page: W,
    line: u32,
    tag: Tag,
}

impl<W: Words> LineView<W> {
    pub(crate) fn new(page: W, line: u32, tag: u16) -> LineView<W> {
        debug_assert!(line < LINES);
        LineView { page, line, tag: Tag::new(tag) }
    }

    fn at(line: u32) -> usize {
        crate::page::line_at(line)
    }

    /// What a reliable subscriber keeps.
    pub(crate) fn from(&self) -> Option<u64> {
        // PAIRS block-left: Acquire here, Release in OwnLine::set.
        self.tag.generation(self.page.load_acquire(Self::at(self.line) + FROM, Fact::BlockLeft))
    }

    /// Of a lane: the sequence of the first message that the subscriber has not handled yet; 0 when it does not say.
    pub(crate) fn done(&self) -> u64 {
        // Relaxed: a number; the block's reuse hangs on `from` and `at` alone. See Cursor::handled for the wake-up.
        self.tag.generation(self.page.load(Self::at(self.line) + DONE)).unwrap_or(0)
    }

    /// Adds the generations below `floor` that this link pins to `pins`.
    pub(crate) fn collect_pins(&self, floor: u64, pins: &mut Vec<u64>) {
        let mut add = |word| {
            if let Some(generation) = self.tag.generation(word).filter(|&generation| generation < floor) {
                // Many that stand still stand in one block.
                if pins.last() != Some(&generation) {
                    pins.push(generation);
                }
            }
        };
        let main = Self::at(self.line);
        // `at` before `held`: the reader copies `at` into `held` before it moves `at`, so whoever sees the move sees the copy.
        // PAIRS block-left: Acquire here, Release in OwnLine::set (Cursor::enter).
        add(self.page.load_acquire(main + AT, Fact::BlockLeft));
        for index in 0..HELD_IN_LINE {
            // PAIRS block-left: Acquire here, Release in OwnLine::hold.
            add(self.page.load_acquire(main + HELD + 8 * index, Fact::BlockLeft));
        }
        let mut more = main + MORE;
        for _ in 0..MAX_FURTHER {
            // Relaxed: a further line is named before any of its words is used, and `at`, loaded above, moved after that.
            let Some(line) = self.tag.generation(self.page.load(more)).and_then(further_line) else { return };
            let further = Self::at(line);
            for index in 0..HELD_IN_FURTHER {
                // PAIRS block-left: Acquire here, Release in OwnLine::hold.
                add(self.page.load_acquire(further + 8 * index, Fact::BlockLeft));
            }
            more = further + MORE;
        }
    }
}

/// Checks the line number that a `more` word names.
fn further_line(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|line| (LINES..ALL_LINES).contains(line))
}

/// The subscriber's own line.
#[derive(Clone, Debug)]
pub(crate) struct OwnLine<W> {
    page: W,
    /// byte offset in the page
    at: usize,
    tag: Tag,
}

impl<W: Words> OwnLine<W> {
    pub(crate) fn new(page: W, line: u32, tag: u16) -> OwnLine<W> {
        debug_assert!(line < LINES);
        OwnLine { page, at: crate::page::line_at(line), tag: Tag::new(tag) }
    }

    /// Asks for nothing, whatever an earlier link left here.
    #[cfg_attr(nodeset_failpoints, track_caller)]
    pub(crate) fn clear_all(&self) {
        for word in (0..64).step_by(8) {
            // PAIRS block-left: Release here, Acquire in LineView::from and LineView::collect_pins.
            self.page.store_release(self.at + word, 0, Fact::BlockLeft);
        }
    }

    /// Sets one of the words `from` and `at`; generation 0 clears it.
    #[cfg_attr(nodeset_failpoints, track_caller)]
    pub(crate) fn set(&self, word: usize, generation: u64) {
        let value = if generation == 0 { 0 } else { self.tag.word(generation) };
        // PAIRS block-left: Release here, Acquire in LineView::from and LineView::collect_pins.
        self.page.store_release(self.at + word, value, Fact::BlockLeft);
    }

    /// Says how many messages were missed so far. Nothing depends on it.
    pub(crate) fn set_missed(&self, missed: u64) {
        // Relaxed: a tool looks at it, by itself.
        self.page.store(self.at + DONE, self.tag.word(missed.min(GENERATION_MASK)));
    }

    /// Of a lane: all messages before `sequence` are handled.
    #[inline]
    pub(crate) fn set_done(&self, sequence: u64) {
        // Relaxed: as in `LineView::done`.
        self.page.store(self.at + DONE, self.tag.word(sequence.min(GENERATION_MASK)));
    }

    /// The cheap fence between a store to this line and a load from the log, against the other side's `membarrier`.
    #[inline]
    pub(crate) fn light_fence(&self, fact: Fact) {
        // PAIRS words: passed on; the fact and its other side are named by the caller.
        self.page.light_fence(fact);
    }

    /// Fence between a store to this line and a load from the log.
    pub(crate) fn fence(&self, fact: Fact) {
        // PAIRS words: passed on; the fact and its other side are named by the caller.
        self.page.fence(fact);
    }

    /// Offsets of the `held` words of the main line.
    pub(crate) fn held_words(&self) -> impl Iterator<Item = usize> + use<W> {
        let first = self.at + HELD;
        (0..HELD_IN_LINE).map(move |index| first + 8 * index)
    }

    /// Offset of the main line's `more` word.
    pub(crate) fn more_word(&self) -> usize {
        self.at + MORE
    }

    /// Names `line` in the `more` word at `more`; returns its `held` words and its own `more` word.
    #[cfg_attr(nodeset_failpoints, track_caller)]
    pub(crate) fn chain(&self, more: usize, line: u32) -> (Vec<usize>, usize) {
        let at = crate::page::line_at(line);
        let held: Vec<usize> = (0..HELD_IN_FURTHER).map(|index| at + 8 * index).collect();
        for &word in held.iter().chain(&[at + MORE]) {
            // Relaxed: the store that names this line comes after it and is Release.
            self.page.store(word, 0);
        }
        // PAIRS block-left: Release here, Acquire of `at` in LineView::collect_pins (`at` moves later).
        self.page.store_release(more, self.tag.word(u64::from(line)), Fact::BlockLeft);
        (held, at + MORE)
    }

    /// Sets a `held` word; generation 0 clears it.
    #[cfg_attr(nodeset_failpoints, track_caller)]
    pub(crate) fn hold(&self, word: usize, generation: u64) {
        let value = if generation == 0 { 0 } else { self.tag.word(generation) };
        // PAIRS block-left: Release here, Acquire in LineView::collect_pins.
        self.page.store_release(word, value, Fact::BlockLeft);
    }
}
