//! How many messages each publisher has committed, in memory that outlives it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use nodeset_bus::atomics::Words;
use nodeset_bus::memory::{Segment, SegmentError, SharedWords};

/// Publishers that can have an entry, dead ones included.
pub const ENTRIES: u64 = 1 << 17;

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
        Ledger::map(Segment::create_shared("nodeset-soak", ENTRIES * 8)?)
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
