//! Node pages and signal pages: the small segments beside the logs.
//!
//! A *node page* is written by its node alone: its state, whether it sleeps, and a 64-byte line a link (`line.rs`), in which
//! the subscriber says what it still needs of a log. A *signal page* is written by a publisher node and by the subscribers
//! of one user; it carries one `wake_wanted` word a publication and nothing on which memory safety depends.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

use crate::atomics::{Fact, Words};

/// How many lines a node page has.
pub(crate) const ALL_LINES: u32 = 65_536;
/// Lines that the dispatcher may assign to links: `0..LINES`. Those above are the node's own, for links that hold samples in
/// many blocks.
pub const LINES: u32 = ALL_LINES / 2;
/// Bytes of a node page's header.
const LINES_AT: usize = 4096;
/// Bytes of a line: one cache line.
const LINE_LEN: usize = 64;
/// Bytes of a node page; untouched pages cost no memory.
pub const NODE_PAGE_LEN: u64 = LINES_AT as u64 + ALL_LINES as u64 * LINE_LEN as u64;
/// How many publications a node can have: words of a signal page.
pub const SLOTS: u32 = 65_536;
/// Bytes of a signal page; untouched pages cost no memory.
pub const SIGNAL_PAGE_LEN: u64 = 4096 + SLOTS as u64 * 64;

/// A node's heart beats at least this often while it is attached to a dispatcher, which looks as often.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);

/// `b"NSETNOD"` and the major version of this layout, stored last.
const MAGIC: u64 = u64::from_le_bytes(*b"NSETNOD\x01");
/// Word: [`MAGIC`].
const MAGIC_AT: usize = 0x00;
/// Word: 1 while the node sleeps and wants its bell rung.
pub(crate) const ASLEEP_AT: usize = 0x40;
/// Word: grows while the node's session thread is alive.
const HEARTBEAT_AT: usize = 0x80;

/// Byte offset of a line.
pub(crate) fn line_at(line: u32) -> usize {
    LINES_AT + line as usize * LINE_LEN
}

/// Byte offset of a publication's word in a signal page; each has a cache line of its own.
pub(crate) fn slot_at(slot: u32) -> usize {
    4096 + slot as usize * 64
}

/// A segment is not what it should be.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// The other process did not finish making it, or made something else.
    #[error("the {what} does not begin as one: its first word is {found:#018x}; was it made by another program?")]
    Magic {
        /// Node page, log.
        what: &'static str,
        /// Its first word.
        found: u64,
    },
    /// The other process speaks another version.
    #[error(
        "the {what} has layout version {found}, this program knows {known}: use the same release of NodeSet on both sides"
    )]
    Version {
        /// Node page, log.
        what: &'static str,
        /// Theirs.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// Too small for what it must hold.
    #[error("the {what} has {found} bytes, it must have {needed}")]
    Len {
        /// Node page, signal page, log.
        what: &'static str,
        /// Bytes.
        found: u64,
        /// Bytes.
        needed: u64,
    },
    /// Its header contradicts what the dispatcher said.
    #[error("the {what} says {found} for its {field}, the dispatcher said {expected}")]
    Disagrees {
        /// Log.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// In the segment.
        found: u64,
        /// In the message.
        expected: u64,
    },
}

/// Compares a magic word: seven letters and the layout's version.
pub(crate) fn check_magic(what: &'static str, found: u64, expected: u64) -> Result<(), LayoutError> {
    let [found_bytes, expected_bytes] = [found.to_le_bytes(), expected.to_le_bytes()];
    if found == expected {
        Ok(())
    } else if found_bytes[..7] == expected_bytes[..7] {
        Err(LayoutError::Version { what, found: found_bytes[7], known: expected_bytes[7] })
    } else {
        Err(LayoutError::Magic { what, found })
    }
}

/// A node's own page.
#[derive(Debug)]
pub struct NodePage<W> {
    words: W,
    /// Lines above [`LINES`] that no link uses; grows on demand.
    spare: Mutex<Spare>,
}

#[derive(Debug)]
struct Spare {
    returned: Vec<u32>,
    /// LINES <= next <= ALL_LINES
    next: u32,
}

impl<W: Words> NodePage<W> {
    /// Makes a page out of `words`, fresh (zeroed) memory of [`NODE_PAGE_LEN`] bytes that only this node can write.
    pub fn create(words: W) -> NodePage<W> {
        // PAIRS segment-ready: Release here, Acquire in PeerPage::open.
        words.store_release(MAGIC_AT, MAGIC, Fact::SegmentReady);
        NodePage { words, spare: Mutex::new(Spare { returned: Vec::new(), next: LINES }) }
    }

    /// The page's words.
    pub fn words(&self) -> &W {
        &self.words
    }

    /// Says whether this node wants its bell rung.
    pub fn set_asleep(&self, asleep: bool) {
        // Relaxed: make_visible fences behind it; clearing it late costs one spare ring.
        self.words.store(ASLEEP_AT, u64::from(asleep));
    }

    /// Stores a value that differs from the last one: the session thread runs.
    pub fn beat(&self, value: u64) {
        // Relaxed: a number for people, it orders nothing.
        self.words.store(HEARTBEAT_AT, value);
    }

    /// A line for more `held` words; `None` when all are in use.
    pub(crate) fn take_spare_line(&self) -> Option<u32> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.returned.pop().or_else(|| {
            let line = spare.next;
            (line < ALL_LINES).then(|| {
                spare.next += 1;
                line
            })
        })
    }

    /// Gives lines back.
    pub(crate) fn return_spare_lines(&self, lines: impl IntoIterator<Item = u32>) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).returned.extend(lines);
    }
}

/// Another node's page, as a publisher reads it.
#[derive(Debug, Clone)]
pub struct PeerPage<W> {
    words: W,
}

impl<W: Words> PeerPage<W> {
    /// Opens a page of at least [`NODE_PAGE_LEN`] bytes.
    ///
    /// # Errors
    ///
    /// When it is not a node page, or one of another version.
    pub fn open(words: W) -> Result<PeerPage<W>, LayoutError> {
        // PAIRS segment-ready: Acquire here, Release in NodePage::create.
        check_magic("node page", words.load_acquire(MAGIC_AT, Fact::SegmentReady), MAGIC)?;
        Ok(PeerPage { words })
    }

    /// The page's words.
    pub fn words(&self) -> &W {
        &self.words
    }

    /// Whether the node wants its bell rung.
    pub fn is_asleep(&self) -> bool {
        // Relaxed: the producer took `wake_wanted` and fenced before it looks here.
        self.words.load(ASLEEP_AT) != 0
    }

    /// Changes while the node's session thread runs.
    pub fn heartbeat(&self) -> u64 {
        // Relaxed: a number for people, it orders nothing.
        self.words.load(HEARTBEAT_AT)
    }
}

/// A page of `wake_wanted` words. Zeroed memory is a valid one.
#[derive(Debug, Clone)]
pub struct SignalPage<W> {
    words: W,
}

impl<W: Words> SignalPage<W> {
    /// Opens a page of [`SIGNAL_PAGE_LEN`] bytes.
    pub fn open(words: W) -> SignalPage<W> {
        SignalPage { words }
    }

    /// Whether both are the same page.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.words.is_same(&other.words)
    }

    /// Wishes to be woken by that publication.
    pub(crate) fn want(&self, slot: u32) {
        // Relaxed: make_visible fences behind it, before the sleeper's last look.
        self.words.store(slot_at(slot), 1);
    }

    /// Whether somebody wishes to be woken: the one load that every commit makes.
    #[inline]
    pub(crate) fn is_wanted(&self, slot: u32) -> bool {
        // Relaxed: a fence, or the sleeper's membarrier, stands between the commit and this load.
        self.words.load(slot_at(slot)) != 0
    }

    /// Takes the wish.
    pub(crate) fn take(&self, slot: u32) {
        // Relaxed: the producer fences behind it, before it looks who sleeps.
        self.words.swap(slot_at(slot), 0);
    }
}
