//! Looking at a log and at a link's line from outside, through a descriptor: for tools, so nothing is mapped and nothing trusted.
//!
//! Everything is read by `pread(2)` and only ever becomes a number. A writer that lies, lies about itself.

use std::os::fd::BorrowedFd;

use rustix::io::{Result, pread};

use crate::line::LineWords;
use crate::page::line_at;
use crate::protocol::LogShape;

use super::frame::{CommitWord, HEADER_LEN, KIND_DATA};
use super::layout::{self, Layout};

/// bytes that are read of a block at a time
const PIECE: usize = 4096;

/// What a log looked like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogState {
    /// Sequence of the message that comes next.
    pub next_sequence: u64,
    /// bytes of blocks that were ever in use
    pub touched_bytes: u64,
    /// Its publisher waits for room.
    pub waiting: bool,
    /// Generation and first sequence of each block that carries one.
    blocks: Vec<(u64, u64)>,
}

impl LogState {
    /// Messages from the first one of the block that a reader reads to the newest.
    pub fn behind(&self, reads: u64) -> u64 {
        let first = self.blocks.iter().find(|(generation, _)| *generation == reads).map(|&(_, first)| first);
        self.next_sequence.saturating_sub(first.unwrap_or(self.next_sequence))
    }
}

/// Looks at one log again and again; what was counted once is not counted again.
#[derive(Debug)]
pub struct Glimpse {
    layout: Layout,
    /// Where counting goes on: in that generation's block, at that offset, with that sequence.
    generation: u64,
    at: usize,
    next: u64,
}

impl Glimpse {
    /// Of a log of that shape.
    pub fn new(shape: LogShape) -> Glimpse {
        Glimpse { layout: Layout::new(shape), generation: 0, at: 0, next: 0 }
    }

    /// Looks.
    ///
    /// # Errors
    ///
    /// When the descriptor cannot be read.
    pub fn look(&mut self, log: BorrowedFd<'_>) -> Result<LogState> {
        let header = words(log, 0, layout::CLOSED_AT / 8 + 1)?;
        let word = |at: usize| header.get(at / 8).copied().unwrap_or(0);
        let touched = usize::try_from(word(layout::TOUCHED_AT)).unwrap_or(usize::MAX).min(self.layout.blocks);
        let rows = words(log, layout::TABLE_AT, touched * (layout::ROW_LEN / 8))?;
        let rows = rows.chunks_exact(layout::ROW_LEN / 8).map(|row| (row[0], row[1]));
        let rows: Vec<_> = rows.enumerate().filter(|(_, (generation, _))| *generation != 0).collect();
        let newest = rows.iter().max_by_key(|(_, (generation, _))| *generation);
        if let Some(&(index, (generation, first))) = newest {
            if generation != self.generation {
                let first = first.max(word(layout::FIRST_AT));
                (self.generation, self.at, self.next) = (generation, self.layout.block_at(index), first);
            }
            self.count(log)?;
        }
        Ok(LogState {
            next_sequence: self.next,
            touched_bytes: (touched * self.layout.block_len) as u64,
            waiting: word(layout::WAITING_AT) != 0,
            blocks: rows.into_iter().map(|(_, row)| row).collect(),
        })
    }

    /// Counts the messages behind the last one that was counted.
    fn count(&mut self, log: BorrowedFd<'_>) -> Result<()> {
        // No log has more frames in its newest block, or run of blocks, than its pool has headers.
        let end = self.layout.len();
        loop {
            let piece = words(log, self.at, PIECE.min(end.saturating_sub(self.at)) / 8)?;
            let begin = self.at;
            loop {
                let inside = (self.at - begin) / 8;
                let (Some(&commit), Some(&sequence)) = (piece.get(inside), piece.get(inside + 1)) else { break };
                let word = CommitWord(commit);
                if !word.is_wellformed() || word.kind() != KIND_DATA {
                    return Ok(());
                }
                self.next = sequence.saturating_add(1);
                self.at = self.at.saturating_add(word.frame_len()).min(end);
            }
            if self.at == begin || self.at + HEADER_LEN > end {
                return Ok(());
            }
        }
    }
}

/// What a subscriber says of one link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineState {
    /// Generation that it reads; `None` when it reads none.
    pub reads: Option<u64>,
    /// Blocks in which it holds samples, as far as the line itself says; more lines may.
    pub held: u32,
    /// Messages that it missed so far.
    pub missed: u64,
}

/// Looks at a link's line in its subscriber's node page.
///
/// # Errors
///
/// When the descriptor cannot be read.
pub fn glimpse_line(page: BorrowedFd<'_>, line: u32, tag: u16) -> Result<LineState> {
    let found = LineWords::of(&words(page, line_at(line), 8)?, tag);
    Ok(LineState { reads: found.at, held: found.held, missed: found.missed })
}

/// Whether a node wants its bell rung: none of its threads looks at its logs now.
///
/// # Errors
///
/// When the descriptor cannot be read.
pub fn glimpse_asleep(page: BorrowedFd<'_>) -> Result<bool> {
    Ok(words(page, crate::page::ASLEEP_AT, 1)?.first().is_some_and(|word| *word != 0))
}

/// Words from `at` on, as many as there are.
fn words(fd: BorrowedFd<'_>, at: usize, count: usize) -> Result<Vec<u64>> {
    let mut bytes = vec![0; 8 * count];
    let mut got = 0;
    while got < bytes.len() {
        match pread(fd, &mut bytes[got..], (at + got) as u64)? {
            0 => break,
            more => got += more,
        }
    }
    let whole = bytes[..got].chunks_exact(8);
    Ok(whole.map(|word| u64::from_ne_bytes(word.try_into().expect("chunks of eight have eight bytes"))).collect())
}
