//! [`Mapping`]: a segment in this process's address space.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::SegmentError;
use super::segment::system;

/// A whole segment, mapped shared; unmapped when dropped. Page aligned.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    /// bytes; 0 < len, the sealed length of the segment
    len: usize,
    writable: bool,
}

// SAFETY: a mapping belongs to the process, not to a thread; it hands out nothing but its address.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn new(fd: BorrowedFd<'_>, len: u64, writable: bool) -> Result<Mapping, SegmentError> {
        let len = usize::try_from(len).ok().filter(|&len| len > 0).ok_or(SegmentError::TooLong(len))?;
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0) }
            .map_err(system("mapping a segment"))?;
        let base = NonNull::new(base.cast::<u8>()).expect("the kernel maps nothing at address 0 unasked");
        let mapping = Mapping { base, len, writable };
        if writable {
            // A forked child must not write what only this process may write.
            // SAFETY: the range is the mapping just made; the advice changes no byte of it.
            unsafe { madvise(base.as_ptr().cast(), len, Advice::LinuxDontFork) }.map_err(system("MADV_DONTFORK"))?;
        }
        Ok(mapping)
    }

    /// bytes
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a mapping has at least a byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it may be written.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Its first byte. Other processes may write here at any time: only atomics, or what a protocol keeps still.
    pub fn as_ptr(&self) -> *const u8 {
        self.base.as_ptr()
    }

    /// Its first byte, to be written.
    ///
    /// # Panics
    ///
    /// When the mapping is for reading only.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        assert!(self.writable, "this mapping is for reading only");
        self.base.as_ptr()
    }

    /// Touches the pages of `range` ahead of their use; best effort (Linux 5.14).
    pub fn prefault(&self, range: Range<usize>) {
        let begin = range.start.min(self.len) & !4095;
        let end = range.end.min(self.len);
        let advice = if self.writable { Advice::LinuxPopulateWrite } else { Advice::LinuxPopulateRead };
        if begin < end {
            // SAFETY: `begin` lies inside the mapping.
            let first = unsafe { self.base.byte_add(begin) };
            // SAFETY: inside the mapping, page aligned; populating changes no byte. An error leaves the pages to be
            // touched later.
            let _ = unsafe { madvise(first.as_ptr().cast(), end - begin, advice) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, unmapped only here; nobody uses an address of it any more (words and slices borrow it).
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
