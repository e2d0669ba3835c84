//! The producer's own account of its blocks: which are in use, which are free, which were never touched.
//!
//! Private memory of the producer: nothing in here can be changed by another process. Free blocks are handed out most
//! recently freed first, so that a publication touches little memory; or, when it is fast, longest freed first and spread over
//! more memory than a core's own cache holds (`docs/decisions/spread.md`). A long message takes a run of adjacent blocks, and
//! freed runs are used again, coalesced, before untouched blocks are.

use std::collections::VecDeque;

use super::allowance::Allowance;
use super::layout::MIN_BLOCKS;

/// One block, or a run of adjacent ones, that carries a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// 1 and up, one more with every block
    pub(crate) generation: u64,
    /// index of its first block in the pool
    pub(crate) index: u32,
    /// blocks of the run; at least 1
    pub(crate) run: u32,
    /// sequence of its first message
    pub(crate) first_sequence: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Oldest first; generations rise without a hole.
    in_use: VecDeque<Block>,
    /// Below the floor, but pinned by some reader.
    pinned: Vec<Block>,
    /// Most recently freed last; an entry whose stamp is not the block's own is stale.
    free: VecDeque<(u32, u64)>,
    /// A touched block: the stamp of its entry in `free`, or 0 while it is in use.
    stamps: Vec<u64>,
    last_stamp: u64,
    /// free blocks among the touched; 0 <= free_blocks <= stamps.len()
    free_blocks: u32,
    /// blocks of the pool; stamps.len() <= limit
    limit: u32,
    /// bytes of a block
    block_len: u64,
    /// Asked before untouched blocks are taken, but for the first [`MIN_BLOCKS`].
    allowance: Allowance,
    /// one more than the highest generation that was ever freed
    freed_below: u64,
}

impl Pool {
    pub(crate) fn new(limit: u32, block_len: u64) -> Pool {
        Pool {
            in_use: VecDeque::new(),
            pinned: Vec::new(),
            free: VecDeque::new(),
            stamps: Vec::new(),
            last_stamp: 0,
            free_blocks: 0,
            limit,
            block_len,
            allowance: Allowance::unlimited(),
            freed_below: 1,
        }
    }

    /// Takes `run` adjacent blocks; `None` when the limit stands in the way. A single block is one that was in use lately, or,
    /// with `spread` above 0, another one until so many were touched.
    pub(crate) fn take(&mut self, run: u32, spread: u32) -> Option<u32> {
        let index = if run == 1 { self.take_one(spread) } else { self.take_run(run) }?;
        for stamp in &mut self.stamps[index as usize..(index + run) as usize] {
            *stamp = 0;
        }
        Some(index)
    }

    fn take_one(&mut self, spread: u32) -> Option<u32> {
        if self.touched() < spread {
            if let Some(index) = self.extend(1) {
                return Some(index);
            }
        }
        self.pop_free(spread).or_else(|| self.extend(1))
    }

    fn pop_free(&mut self, spread: u32) -> Option<u32> {
        let next = |free: &mut VecDeque<_>| if spread > 0 { free.pop_front() } else { free.pop_back() };
        while let Some((index, stamp)) = next(&mut self.free) {
            if self.stamps[index as usize] == stamp {
                self.free_blocks -= 1;
                return Some(index);
            }
        }
        None
    }

    /// Takes the next of `spread` blocks that take turns, if it is free already.
    pub(crate) fn take_turn(&mut self, spread: u32) -> Option<u32> {
        let index = if spread == 0 || self.touched() < spread { None } else { self.pop_free(spread) }?;
        self.stamps[index as usize] = 0;
        Some(index)
    }

    /// First fit among the touched blocks, the last of them together with untouched ones.
    fn take_run(&mut self, run: u32) -> Option<u32> {
        let mut adjacent = 0;
        if self.free_blocks > 0 {
            for (index, &stamp) in self.stamps.iter().enumerate() {
                adjacent = if stamp == 0 { 0 } else { adjacent + 1 };
                if adjacent == run {
                    self.free_blocks -= run;
                    return Some(index as u32 + 1 - run);
                }
            }
        }
        let first = self.extend(run - adjacent)?;
        self.free_blocks -= adjacent;
        Some(first - adjacent)
    }

    fn extend(&mut self, blocks: u32) -> Option<u32> {
        let first = self.stamps.len() as u32;
        let end = first.checked_add(blocks).filter(|&end| end <= self.limit)?;
        // With fewer a log could not go on at all.
        if end > MIN_BLOCKS && !self.allowance.take(u64::from(blocks) * self.block_len) {
            return None;
        }
        self.stamps.resize(end as usize, 0);
        Some(first)
    }

    /// From now on `left` is asked how many bytes there are before untouched blocks are taken.
    pub(crate) fn ask_before_growing(&mut self, left: fn() -> u64) {
        self.allowance = Allowance::asking(left);
    }

    /// Whether it would have grown, had there been memory.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.allowance.is_refused()
    }

    /// Puts the newest block into use.
    pub(crate) fn push(&mut self, block: Block) {
        debug_assert!(self.in_use.back().is_none_or(|last| last.generation + 1 == block.generation));
        self.in_use.push_back(block);
    }

    /// Frees what lies below `floor` and is not among `pins`; a pinned block waits for its pin.
    pub(crate) fn reclaim(&mut self, floor: u64, pins: &[u64]) {
        let mut still_pinned = std::mem::take(&mut self.pinned);
        still_pinned.retain(|block| {
            let pinned = pins.contains(&block.generation);
            if !pinned {
                self.release(*block);
            }
            pinned
        });
        self.pinned = still_pinned;
        while let Some(block) = self.in_use.front().copied().filter(|block| block.generation < floor) {
            self.in_use.pop_front();
            if pins.contains(&block.generation) { self.pinned.push(block) } else { self.release(block) }
        }
        if self.free.len() > 64 + 2 * self.stamps.len() {
            let stamps = &self.stamps;
            self.free.retain(|&(index, stamp)| stamps[index as usize] == stamp);
        }
    }

    fn release(&mut self, block: Block) {
        self.freed_below = self.freed_below.max(block.generation + 1);
        self.free_blocks += block.run;
        for index in (block.index..block.index + block.run).rev() {
            self.last_stamp += 1;
            self.stamps[index as usize] = self.last_stamp;
            self.free.push_back((index, self.last_stamp));
        }
    }

    /// The generation of the block that holds `sequence`, or of the oldest one in use.
    pub(crate) fn generation_holding(&self, sequence: u64) -> u64 {
        let after = self.in_use.partition_point(|block| block.first_sequence <= sequence);
        self.in_use.get(after.saturating_sub(1)).map_or(0, |block| block.generation)
    }

    /// Sequence of the first message of that generation's block, or of the oldest one in use after it.
    pub(crate) fn first_sequence_from(&self, generation: u64) -> u64 {
        let at = self.in_use.partition_point(|block| block.generation < generation);
        self.in_use.get(at).or(self.in_use.back()).map_or(0, |block| block.first_sequence)
    }

    /// Below this, blocks were given to other messages: the floor never goes below it again.
    pub(crate) fn freed_below(&self) -> u64 {
        self.freed_below
    }

    /// Blocks that were ever in use.
    pub(crate) fn touched(&self) -> u32 {
        self.stamps.len() as u32
    }

    /// Blocks in use or pinned.
    pub(crate) fn occupied(&self) -> u32 {
        self.touched() - self.free_blocks
    }

    /// Generations below the floor may be freed at the next border.
    pub(crate) fn has_pinned(&self) -> bool {
        !self.pinned.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(pool: &mut Pool, generation: u64, run: u32) -> Option<u32> {
        let index = pool.take(run, 0)?;
        pool.push(Block { generation, index, run, first_sequence: generation * 10 });
        Some(index)
    }

    #[test]
    fn the_most_recently_freed_block_comes_first() {
        let mut pool = Pool::new(8, 4096);
        for generation in 1..=4 {
            assert_eq!(put(&mut pool, generation, 1), Some(generation as u32 - 1));
        }
        pool.reclaim(4, &[]);
        assert_eq!((pool.touched(), pool.occupied(), pool.freed_below()), (4, 1, 4));
        assert_eq!(put(&mut pool, 5, 1), Some(2));
        assert_eq!(put(&mut pool, 6, 1), Some(1));
        assert_eq!(put(&mut pool, 7, 1), Some(0));
        assert_eq!(put(&mut pool, 8, 1), Some(4), "untouched only when nothing is free");
    }

    #[test]
    fn spread_blocks_take_turns() {
        let mut pool = Pool::new(8, 4096);
        let mut seen = Vec::new();
        for generation in 1..=12 {
            let index = pool.take(1, 4).unwrap();
            pool.push(Block { generation, index, run: 1, first_sequence: generation });
            pool.reclaim(generation, &[]);
            seen.push(index);
        }
        assert_eq!(seen, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(pool.touched(), 4);
        assert_eq!(pool.take_turn(4), Some(0), "free already");
        assert_eq!(pool.take_turn(0), None, "these take no turns");
        assert_eq!(pool.take_turn(5), None, "one more is to be touched first");
        assert_eq!(pool.take(1, 0), Some(2), "the one freed last");
        assert_eq!(pool.take_turn(4), Some(1));
        assert_eq!(pool.take_turn(4), None, "the last one is in use");
    }

    #[test]
    fn a_pinned_block_is_freed_once_its_pin_is_gone() {
        let mut pool = Pool::new(4, 4096);
        put(&mut pool, 1, 1);
        put(&mut pool, 2, 1);
        put(&mut pool, 3, 1);
        pool.reclaim(3, &[1]);
        assert!(pool.has_pinned());
        assert_eq!(pool.take(1, 0), Some(1));
        pool.reclaim(3, &[]);
        assert!(!pool.has_pinned());
        assert_eq!(pool.take(1, 0), Some(0));
    }

    #[test]
    fn freed_runs_are_coalesced_and_used_before_untouched_blocks() {
        let mut pool = Pool::new(10, 4096);
        assert_eq!(put(&mut pool, 1, 2), Some(0));
        assert_eq!(put(&mut pool, 2, 2), Some(2));
        assert_eq!(put(&mut pool, 3, 1), Some(4));
        pool.reclaim(3, &[]);
        assert_eq!(put(&mut pool, 4, 4), Some(0));
        assert_eq!(put(&mut pool, 5, 2), Some(5));
        pool.reclaim(6, &[]);
        assert_eq!(put(&mut pool, 6, 9), Some(0), "the free tail grows into untouched blocks");
        assert_eq!(pool.take(2, 0), None);
        assert_eq!(pool.take(1, 0), Some(9));
        assert_eq!(pool.take(1, 0), None);
    }

    #[test]
    fn long_messages_reach_a_steady_footprint() {
        let mut pool = Pool::new(10_000, 4096);
        for generation in 1..=100_000u64 {
            put(&mut pool, generation, 96).unwrap();
            pool.reclaim(generation.saturating_sub(1), &[]);
            assert!(pool.free.len() <= 64 + 2 * pool.stamps.len() + 96);
        }
        assert!(pool.touched() <= 4 * 96, "{}", pool.touched());
    }

    #[test]
    fn the_block_that_holds_a_sequence_is_found() {
        let mut pool = Pool::new(4, 4096);
        for generation in 1..=3 {
            put(&mut pool, generation, 1);
        }
        assert_eq!(pool.generation_holding(0), 1);
        assert_eq!(pool.generation_holding(19), 1);
        assert_eq!(pool.generation_holding(20), 2);
        assert_eq!(pool.generation_holding(u64::MAX), 3);
    }
}
