//! Shared memory of two processes for the raw limits: one bounced line, or a ring of batches. All unsafe code of the
//! measurements is here and in [`clock`](super::clock).
//!
//! The memory begins with one page of lines (64 bytes each, one atomic word in front), then come the batches. Each
//! role is claimed by an atomic exchange in the memory itself, so a second writer or reader is refused rather than
//! undefined behaviour. Both processes are this very program; a hostile one is out of scope here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nodeset_bus::memory::{Mapping, Segment, SegmentError};

use super::Budget;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes in front of the batches.
const LINES_LEN: usize = 4096;
/// Bytes of the ring: it stays in a core's second-level cache, as a log with prompt readers does.
pub const RING_LEN: usize = 256 * 1024;
/// Bytes of a batch; divides the ring, so no batch wraps and nothing is checked per byte.
pub const BATCH_LEN: usize = 16 * 1024;
const BATCHES: u64 = (RING_LEN / BATCH_LEN) as u64;

/// Which line of the first page is what.
#[derive(Debug, Clone, Copy)]
enum Line {
    /// Bits: which roles are taken.
    Claims,
    /// The bounced word.
    Bounced,
    /// Batches written since the beginning; by the writer.
    Written,
    /// Batches read since the beginning; by the reader.
    Read,
    /// Runs that the writer ended; by the writer.
    Ended,
}

/// One end of such memory.
#[derive(Clone)]
pub struct Shared {
    segment: Arc<Segment>,
    mapping: Arc<Mapping>,
}

/// What a process does in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingRole {
    /// Fills batches.
    Writer,
    /// Sums them.
    Reader,
}

impl Shared {
    /// Fresh memory; pass [`fd`](Shared::fd) to the other processes.
    pub fn create() -> Result<Shared, SegmentError> {
        Shared::map(Segment::create("nodeset-limit", (LINES_LEN + RING_LEN) as u64)?)
    }

    /// The memory that another process made.
    pub fn open(fd: OwnedFd) -> Result<Shared, SegmentError> {
        Shared::map(Segment::from_fd(fd)?)
    }

    fn map(segment: Segment) -> Result<Shared, SegmentError> {
        let mapping = segment.map_writable()?;
        assert!(mapping.len() >= LINES_LEN + RING_LEN, "memory of a limit has {} bytes", mapping.len());
        mapping.prefault(0..mapping.len());
        Ok(Shared { segment: Arc::new(segment), mapping: Arc::new(mapping) })
    }

    /// For other processes to open.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// The word that is bounced; alone in its line.
    pub fn bounced(&self) -> &AtomicU64 {
        self.line(Line::Bounced)
    }

    fn line(&self, line: Line) -> &AtomicU64 {
        // SAFETY: the offset is below LINES_LEN (five lines) and `map` checked the length.
        let word = unsafe { self.mapping.as_mut_ptr().add(line as usize * LINE) };
        // SAFETY:
        // - Aligned: a mapping begins at a page, lines at 64 bytes.
        // - Valid as long as `&self`, which keeps the mapping.
        // - All processes reach the first page through this function only, hence atomically.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// Becomes the only writer or the only reader of the ring, for good.
    pub fn claim(&self, role: RingRole) -> io::Result<Ring> {
        let bit = match role {
            RingRole::Writer => 1,
            RingRole::Reader => 2,
        };
        // Relaxed: nothing is published by a claim; the words below are 0 from the start.
        if self.line(Line::Claims).fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return Err(io::Error::other(format!("the ring has its {role:?} already")));
        }
        Ok(Ring { shared: self.clone(), role, at: 0, other: 0, runs: 0 })
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// One end of the ring of batches.
pub struct Ring {
    shared: Shared,
    role: RingRole,
    /// Batches that this end is done with.
    at: u64,
    /// Batches that the other end was done with when last looked: `other <= at` at the writer, `at <= other` at the
    /// reader.
    other: u64,
    /// Runs done.
    runs: u64,
}

impl Ring {
    /// Writes batches until the budget is spent, each filled by `fill` (which must write all of it), then ends the
    /// run. Returns how many.
    ///
    /// # Panics
    /// At a reader.
    pub fn write_run(&mut self, budget: Budget, started_ns: u64, mut fill: impl FnMut(&mut [u8], u64)) -> u64 {
        assert_eq!(self.role, RingRole::Writer);
        let first = self.at;
        // Time is looked at once a ring, or it would cost a batch a percent.
        let over = |done: u64| match budget {
            Budget::Messages(limit) => done >= limit,
            Budget::Time(_) => done % BATCHES == 0 && budget.is_spent(done, started_ns),
        };
        while !over(self.at - first) {
            while self.at - self.other == BATCHES {
                // PAIRS limit-batch-read: Acquire here, Release in `read_run`: the reader's loads of that batch are over.
                self.other = self.shared.line(Line::Read).load(Ordering::Acquire);
            }
            let number = self.at;
            fill(self.batch_mut(), number);
            self.at += 1;
            // PAIRS limit-batch-written: Release here, Acquire in `read_run`: the batch's bytes.
            self.shared.line(Line::Written).store(self.at, Ordering::Release);
        }
        self.runs += 1;
        // PAIRS limit-run-ended: Release here, Acquire in `read_run`: the last count of batches written.
        self.shared.line(Line::Ended).store(self.runs, Ordering::Release);
        self.at - first
    }

    /// Hands each batch to `read`, in order, until the writer ended the run. Returns how many.
    ///
    /// # Panics
    /// At a writer.
    pub fn read_run(&mut self, mut read: impl FnMut(&[u8], u64)) -> u64 {
        assert_eq!(self.role, RingRole::Reader);
        self.runs += 1;
        let first = self.at;
        loop {
            if self.at == self.other && !self.await_batch() {
                return self.at - first;
            }
            read(self.batch(), self.at);
            self.at += 1;
            // PAIRS limit-batch-read: Release here, Acquire in `write_run`.
            self.shared.line(Line::Read).store(self.at, Ordering::Release);
        }
    }

    /// Waits for a batch; false when the run is over.
    fn await_batch(&mut self) -> bool {
        loop {
            // PAIRS limit-run-ended: Acquire here, Release in `write_run`; looked at first, so that the count below is
            // the last one when it says that the run ended.
            let ended = self.shared.line(Line::Ended).load(Ordering::Acquire) == self.runs;
            // PAIRS limit-batch-written: Acquire here, Release in `write_run`.
            self.other = self.shared.line(Line::Written).load(Ordering::Acquire);
            if self.at != self.other {
                return true;
            }
            if ended {
                return false;
            }
        }
    }

    fn batch_ptr(&self) -> *mut u8 {
        let offset = LINES_LEN + (self.at % BATCHES) as usize * BATCH_LEN;
        // SAFETY: the offset is at most LINES_LEN + RING_LEN - BATCH_LEN, and `map` checked the length.
        unsafe { self.shared.mapping.as_mut_ptr().add(offset) }
    }

    fn batch_mut(&mut self) -> &mut [u8] {
        // SAFETY:
        // - BATCH_LEN bytes from there are in the mapping, which `self` keeps; memory of a memfd is initialised.
        // - Nobody else touches them: the claim makes this the only writer, and the caller saw at - other < BATCHES,
        //   so the reader left this batch and waits until it is written.
        unsafe { std::slice::from_raw_parts_mut(self.batch_ptr(), BATCH_LEN) }
    }

    fn batch(&self) -> &[u8] {
        // SAFETY:
        // - BATCH_LEN bytes from there are in the mapping, which `self` keeps; memory of a memfd is initialised.
        // - Nobody writes them: the caller saw at < other, and the writer waits until `Read` has passed this batch.
        unsafe { std::slice::from_raw_parts(self.batch_ptr(), BATCH_LEN) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{fill, monotonic_ns};

    #[test]
    fn a_role_is_taken_once() {
        let shared = Shared::create().unwrap();
        let _writer = shared.claim(RingRole::Writer).unwrap();
        assert!(shared.claim(RingRole::Writer).is_err());
        let other = Shared::open(shared.fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(other.claim(RingRole::Writer).is_err());
        assert!(other.claim(RingRole::Reader).is_ok());
    }

    #[test]
    fn every_batch_arrives_once_in_order_and_whole_in_each_run() {
        let shared = Shared::create().unwrap();
        let (mut writer, mut reader) =
            (shared.claim(RingRole::Writer).unwrap(), shared.claim(RingRole::Reader).unwrap());
        for batches in [1, BATCHES, 3 * BATCHES + 5] {
            let read = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let written = writer.write_run(Budget::Messages(batches), monotonic_ns(), fill::fill);
                    assert_eq!(written, batches);
                });
                reader.read_run(|bytes, number| assert!(fill::is_intact(bytes, number), "batch {number}"))
            });
            assert_eq!(read, batches);
        }
    }
}
