//! Where everything stands in a log's segment. The map with all offsets is `docs/layout.md`.

use thiserror::Error;

use crate::protocol::LogShape;

/// Bytes of a block unless asked otherwise: what fits the second-level cache a few times.
pub const DEFAULT_BLOCK_LEN: u32 = 64 * 1024;
/// Smallest block.
pub const MIN_BLOCK_LEN: u32 = 4 * 1024;
/// Largest block.
pub const MAX_BLOCK_LEN: u32 = 64 * 1024 * 1024;
/// Fewest blocks: the one being written, one being read, one pinned, one to move on to.
pub const MIN_BLOCKS: u32 = 4;
/// Most blocks of a pool.
pub const MAX_BLOCKS: u32 = 1 << 24;
/// Longest payload: what the commit word can say, less the room for extensions.
pub const MAX_PAYLOAD: u64 = u32::MAX as u64 - 32;

/// `b"NSETLOG"` and the major version of this layout, stored last.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"NSETLOG\x01");
/// Word: [`MAGIC`].
pub(crate) const MAGIC_AT: usize = 0x00;
/// Word: the log's epoch.
pub(crate) const EPOCH_AT: usize = 0x08;
/// Word: bytes of a block.
pub(crate) const BLOCK_LEN_AT: usize = 0x10;
/// Word: blocks of the pool.
pub(crate) const BLOCKS_AT: usize = 0x18;
/// Word: the publication of the same node whose log this one goes on from, 0 if none.
pub(crate) const FOLLOWS_AT: usize = 0x20;
/// Word: sequence of the log's first message; those before it were another log's.
pub(crate) const FIRST_AT: usize = 0x28;
/// Word: generation of the newest block, 1 and up.
pub(crate) const CURRENT_AT: usize = 0x40;
/// Word: index of the newest block; a hint, checked against the table.
pub(crate) const CURRENT_INDEX_AT: usize = 0x48;
/// Word: generations below it are gone, even if their bytes still stand.
pub(crate) const FLOOR_AT: usize = 0x50;
/// Word: blocks that were ever in use; the table's rows beyond it are zero.
pub(crate) const TOUCHED_AT: usize = 0x58;
/// Word: 1 while the producer waits for room and wants its bell rung.
pub(crate) const WAITING_AT: usize = 0x80;
/// Word: how commits are fenced, see `wake`.
pub(crate) const FENCING_AT: usize = 0xc0;
/// Word: 0 while the log is open, else 1 + the sequence that would have come next.
pub(crate) const CLOSED_AT: usize = 0x100;
/// Where the block table begins.
pub(crate) const TABLE_AT: usize = 4096;
/// Bytes of a row: generation, first sequence, blocks of the run, reserved.
pub(crate) const ROW_LEN: usize = 32;

/// Offsets that follow from a shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// bytes; a power of two from [`MIN_BLOCK_LEN`] to [`MAX_BLOCK_LEN`] (models use smaller ones)
    pub(crate) block_len: usize,
    /// blocks of the pool; at least 2
    pub(crate) blocks: usize,
    /// byte offset of block 0; a multiple of 4096
    pub(crate) blocks_at: usize,
}

impl Layout {
    /// Lays out a shape that was checked.
    pub(crate) fn new(shape: LogShape) -> Layout {
        let blocks = shape.blocks as usize;
        let blocks_at = (TABLE_AT + blocks * ROW_LEN).next_multiple_of(4096);
        Layout { block_len: shape.block_len as usize, blocks, blocks_at }
    }

    /// Byte offset of a block.
    pub(crate) fn block_at(&self, index: usize) -> usize {
        self.blocks_at + index * self.block_len
    }

    /// Byte offset of a block's row in the table.
    pub(crate) fn row_at(&self, index: usize) -> usize {
        TABLE_AT + index * ROW_LEN
    }

    /// Bytes of the whole segment.
    pub(crate) fn len(&self) -> usize {
        self.blocks_at + self.blocks * self.block_len
    }
}

/// A log cannot have that shape.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShapeError {
    /// Ask for another block length.
    #[error("a block of {0} bytes: it must be a power of two from {MIN_BLOCK_LEN} to {MAX_BLOCK_LEN}")]
    BlockLen(u32),
    /// Ask for another number of blocks.
    #[error("a log of {0} blocks: it must have {MIN_BLOCKS} to {MAX_BLOCKS}")]
    Blocks(u32),
}

/// Checks a shape.
///
/// # Errors
///
/// Says which part is outside its range.
pub fn check(shape: LogShape) -> Result<(), ShapeError> {
    if !shape.block_len.is_power_of_two() || !(MIN_BLOCK_LEN..=MAX_BLOCK_LEN).contains(&shape.block_len) {
        return Err(ShapeError::BlockLen(shape.block_len));
    }
    if !(MIN_BLOCKS..=MAX_BLOCKS).contains(&shape.blocks) {
        return Err(ShapeError::Blocks(shape.blocks));
    }
    Ok(())
}

/// Bytes of the segment of a log of that shape, which must have passed [`check`].
pub fn segment_len(shape: LogShape) -> u64 {
    Layout::new(shape).len() as u64
}

/// The shape of a log whose pool may take at most `bytes`, in blocks of `block_len` bytes (as [`check`] allows them).
pub fn shape_within(block_len: u32, bytes: u64) -> LogShape {
    let blocks = (bytes / u64::from(block_len)).clamp(u64::from(MIN_BLOCKS), u64::from(MAX_BLOCKS));
    LogShape { block_len, blocks: blocks as u32 }
}
