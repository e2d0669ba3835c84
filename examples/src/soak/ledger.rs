//! How many messages each publisher has committed, in memory that outlives it; when the chaos began, and how long messages of
//! the pairs that nobody touches took before and since.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use nodeset_bus::atomics::Words;
use nodeset_bus::memory::{Segment, SegmentError, SharedWords};

/// Publishers that can have an entry, dead ones included.
pub const ENTRIES: u64 = 1 << 17;

/// Where what is not about one publisher begins: a page of its own.
const COMMON_AT: usize = ENTRIES as usize * 8;
const COMMON_LEN: u64 = 4096;

/// What is not about one publisher; nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Common {
    /// When the first one was killed, on the monotonic clock; 0 before.
    ChaosBegan,
    /// Of 100 messages of the untouched pair 99 took at most so long, while nobody was killed.
    CalmP99,
    /// The same, since.
    ChaosP99,
    /// The same as the last, of the pair on a bus of its own.
    ApartP99,
}

/// One word a publisher: the messages it has committed.
#[derive(Clone)]
pub struct Ledger {
    segment: Arc<Segment>,
    words: SharedWords,
}

impl Ledger {
    /// A new one; pass [`fd`](Ledger::fd) to the other processes.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn create() -> Result<Ledger, SegmentError> {
        Ledger::map(Segment::create_shared("nodeset-soak", ENTRIES * 8 + COMMON_LEN)?)
    }

    /// Another process's.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn open(fd: OwnedFd) -> Result<Ledger, SegmentError> {
        Ledger::map(Segment::from_fd(fd)?)
    }

    fn map(segment: Segment) -> Result<Ledger, SegmentError> {
        let words = SharedWords::mapped(segment.map_writable()?);
        Ok(Ledger { segment: Arc::new(segment), words })
    }

    /// For other processes to open.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// Says something to all.
    pub fn say(&self, what: Common, nanoseconds: u64) {
        // Relaxed: nothing else is read because of it.
        self.words.store(COMMON_AT + 8 * what as usize, nanoseconds);
    }

    /// What was said; 0 before.
    pub fn said(&self, what: Common) -> u64 {
        // Relaxed: as above.
        self.words.load(COMMON_AT + 8 * what as usize)
    }

    /// Publisher `entry` has committed so many.
    pub fn set(&self, entry: u64, committed: u64) {
        // Relaxed: read when the publisher is dead or done, which the kernel and the parent's word order.
        self.words.store(entry as usize * 8, committed);
    }

    /// What publisher `entry` has committed.
    pub fn committed(&self, entry: u64) -> u64 {
        // Relaxed: as above.
        self.words.load(entry as usize * 8)
    }
}
