//! [`SharedWords`]: words in mapped memory, or on the heap for tests and for what stays in the process.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence, fence};

use rkyv::util::AlignedVec;

use super::Mapping;
use crate::atomics::{Fact, Words};

/// One cache line of zeroed words.
#[repr(align(64))]
struct Line([AtomicU64; 8]);

/// What keeps the memory alive.
enum Owner {
    Mapped(Mapping),
    Heap(#[allow(dead_code, reason = "owns the words that `base` points to")] Box<[Line]>),
}

/// Words of 64 bits that several processes may touch at once. A clone names the same words.
#[derive(Clone)]
pub struct SharedWords {
    base: NonNull<AtomicU64>,
    /// bytes that may be read; a multiple of 8
    len: usize,
    /// bytes that may be written: `len`, or 0 in a mapping made for reading
    writable: usize,
    owner: Arc<Owner>,
}

// SAFETY:
// - the memory is only touched through atomics, or as bytes by whoever keeps the contract of `bytes` and `bytes_mut`;
// - `owner` (mapping or box of atomics) may be dropped by any thread.
unsafe impl Send for SharedWords {}
// SAFETY: as for Send; no method hands out unsynchronised access without an unsafe contract.
unsafe impl Sync for SharedWords {}

impl std::fmt::Debug for SharedWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedWords").field("len", &self.len).field("writable", &(self.writable > 0)).finish()
    }
}

impl SharedWords {
    /// The words of a whole mapping.
    pub fn mapped(mapping: Mapping) -> SharedWords {
        let len = mapping.len() & !7;
        let writable = if mapping.is_writable() { len } else { 0 };
        let base =
            NonNull::new(mapping.as_ptr().cast::<AtomicU64>().cast_mut()).expect("a mapping is not at address 0");
        SharedWords { base, len, writable, owner: Arc::new(Owner::Mapped(mapping)) }
    }

    /// At least `len` zeroed bytes on the heap, 64-byte aligned.
    pub fn heap(len: usize) -> SharedWords {
        let lines: Box<[Line]> = (0..len.div_ceil(64)).map(|_| Line(Default::default())).collect();
        let len = lines.len() * 64;
        let base = lines.first().map_or(NonNull::dangling(), |line| NonNull::from(&line.0[0]));
        SharedWords { base, len, writable: len, owner: Arc::new(Owner::Heap(lines)) }
    }

    /// Bytes that may be read.
    pub fn len(&self) -> usize {
        self.len
    }

    /// There is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Touches `range` ahead of its use, so that the hot path meets no page fault; best effort.
    pub fn prefault(&self, range: std::ops::Range<usize>) {
        if let Owner::Mapped(mapping) = &*self.owner {
            mapping.prefault(range);
        }
    }

    #[inline(always)]
    fn word(&self, at: usize, limit: usize) -> &AtomicU64 {
        if at % 8 != 0 || at >= limit {
            outside(at, 8, limit);
        }
        // SAFETY:
        // - `limit` is at most `len`, and `len` is a multiple of 8, so an aligned `at` below it leaves room for a word;
        // - memory of `len` bytes from `base` on stays mapped while `owner` lives, which `self` keeps.
        let word = unsafe { self.base.byte_add(at) };
        // SAFETY:
        // - aligned: mappings and lines are, and `at` is a multiple of 8;
        // - other processes touch it too, which atomics allow; nobody holds a plain reference to it while it is in use
        //   as a word (contracts of `bytes` and `bytes_mut`).
        unsafe { word.as_ref() }
    }

    /// The bytes from `at` on, in place.
    ///
    /// # Panics
    ///
    /// When they do not lie inside.
    ///
    /// # Safety
    ///
    /// While the slice lives nobody writes these bytes: the caller has pinned the block in which they lie (or has not given
    /// back that part of a stream's ring), and trusts the writer not to write to what it committed (see
    /// `docs/security.md`).
    #[inline]
    pub unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
        if at > self.len || len > self.len - at {
            outside(at, len, self.len);
        }
        // SAFETY: inside the memory that `owner` keeps, checked above.
        let first = unsafe { self.base.cast::<u8>().byte_add(at) };
        // SAFETY:
        // - in bounds and mapped, as above; any bytes are valid for u8;
        // - not written while the slice lives: the caller's contract.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), len) }
    }

    /// The bytes from `at` on, in place, to be written.
    ///
    /// # Panics
    ///
    /// When they do not lie inside, or may not be written.
    ///
    /// # Safety
    ///
    /// While the slice lives nobody else reads or writes these bytes: they lie behind the last committed frame of a block
    /// that only this producer owns, or in the part of a stream's ring that its receiver has given back.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "like a cell: exclusive access is the caller's contract")]
    pub unsafe fn bytes_mut(&self, at: usize, len: usize) -> &mut [u8] {
        if at > self.writable || len > self.writable - at {
            outside(at, len, self.writable);
        }
        // SAFETY: inside the memory that `owner` keeps, checked above.
        let first = unsafe { self.base.cast::<u8>().byte_add(at) };
        // SAFETY:
        // - in bounds, mapped and writable, as above; whatever stands there is a valid u8;
        // - exclusive: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), len) }
    }

    /// Copies `len` bytes from `at` on into `into`, by atomic loads of whole words: right also while somebody writes them.
    ///
    /// # Panics
    ///
    /// When `at` is not a multiple of 8 or the bytes do not lie inside.
    pub fn copy_to(&self, at: usize, len: usize, into: &mut AlignedVec) {
        into.clear();
        into.resize(len, 0);
        for (index, bytes) in into.chunks_mut(8).enumerate() {
            // Relaxed: each word is taken once; whether they fit together is for the validation that follows.
            let word = self.word(at + 8 * index, self.len).load(Ordering::Relaxed).to_le_bytes();
            bytes.copy_from_slice(&word[..bytes.len()]);
        }
    }
}

/// A store that others see: two points at which `crash_table` kills the process, and nothing else anywhere else.
#[inline(always)]
#[cfg_attr(nodeset_failpoints, track_caller)]
fn shared_store<R>(store: impl FnOnce() -> R) -> R {
    #[cfg(nodeset_failpoints)]
    return crate::failpoint::around(std::panic::Location::caller(), store);
    #[cfg(not(nodeset_failpoints))]
    store()
}

// By value and out of line: what `assert!` would format by reference costs the hot path stores to the stack, and stores are what
// it has least of while the lines it writes are still on their way.
#[cold]
#[inline(never)]
fn outside(at: usize, len: usize, limit: usize) -> ! {
    panic!("{len} bytes at {at:#x} lie outside of {limit:#x} accessible bytes, or are no whole word")
}

impl Words for SharedWords {
    fn is_same(&self, other: &Self) -> bool {
        self.base == other.base
    }

    #[inline(always)]
    fn load(&self, at: usize) -> u64 {
        self.word(at, self.len).load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn load_acquire(&self, at: usize, _fact: Fact) -> u64 {
        // PAIRS words: Acquire here, Release in store_release; the fact is named by the caller.
        self.word(at, self.len).load(Ordering::Acquire)
    }

    #[inline(always)]
    #[cfg_attr(nodeset_failpoints, track_caller)]
    fn store(&self, at: usize, value: u64) {
        shared_store(|| self.word(at, self.writable).store(value, Ordering::Relaxed));
    }

    #[inline(always)]
    #[cfg_attr(nodeset_failpoints, track_caller)]
    fn store_release(&self, at: usize, value: u64, _fact: Fact) {
        // PAIRS words: Release here, Acquire in load_acquire; the fact is named by the caller.
        shared_store(|| self.word(at, self.writable).store(value, Ordering::Release));
    }

    #[inline(always)]
    #[cfg_attr(nodeset_failpoints, track_caller)]
    fn swap(&self, at: usize, value: u64) -> u64 {
        shared_store(|| self.word(at, self.writable).swap(value, Ordering::Relaxed))
    }

    #[inline(always)]
    #[cfg_attr(nodeset_failpoints, track_caller)]
    fn add_release(&self, at: usize, value: u64, _fact: Fact) {
        // PAIRS words: Release here, Acquire in load_acquire; the fact is named by the caller.
        shared_store(|| self.word(at, self.writable).fetch_add(value, Ordering::Release));
    }

    #[inline(always)]
    fn will_write(&self, at: usize) {
        let at = self.base.as_ptr().wrapping_byte_add(at);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads and writes nothing and never faults, whatever the address; processors that lack it take
        // it for a no-op. (The intrinsic becomes a prefetch for reading unless the target has `prfchw`.)
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    #[inline(always)]
    fn will_read(&self, at: usize) {
        let at = self.base.as_ptr().wrapping_byte_add(at);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch changes nothing and never faults, whatever the address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    #[inline(always)]
    fn fence(&self, _fact: Fact) {
        // PAIRS words: SeqCst on both sides; the fact and its other side are named by the caller.
        fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn light_fence(&self, _fact: Fact) {
        // PAIRS words: the other side's membarrier makes this a full fence; the fact is named by the caller.
        compiler_fence(Ordering::SeqCst);
    }

    fn heavy_fence(&self, _fact: Fact) -> bool {
        crate::sys::membarrier()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_name_the_same_words() {
        let words = SharedWords::heap(100);
        assert_eq!(words.len(), 128);
        words.clone().store(8, 7);
        assert_eq!(words.load(8), 7);
        let mut bytes = AlignedVec::new();
        words.copy_to(8, 5, &mut bytes);
        assert_eq!(bytes[..], [7, 0, 0, 0, 0]);
    }

    #[test]
    #[should_panic(expected = "lie outside")]
    fn a_word_outside_is_a_panic_not_a_wild_read() {
        SharedWords::heap(64).load(64);
    }
}
