//! [`Mapping`]: a segment in this process's address space.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::io::Errno;
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
        let len = usize::try_from(len).map_err(|_| SegmentError::TooLong(len))?;
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let base =
            unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0) }.map_err(|error| {
                let sealed = writable && error == Errno::PERM;
                if sealed { SegmentError::SealedForItsWriter } else { system("mapping a segment")(error) }
            })?;
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

    /// Its first byte; page aligned. Other processes may write here at any time: only atomics, or what a protocol keeps
    /// still.
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

    /// Touches the pages of `range` (bytes; what lies outside is left out) ahead of their use, so that the hot path meets
    /// no page fault; best effort (Linux 5.14). A system call, and about a quarter of a microsecond a page.
    ///
    /// A page touched for reading becomes part of the segment too: it costs memory until the segment is gone.
    pub fn prefault(&self, range: Range<usize>) {
        let begin = range.start.min(self.len) & !(rustix::param::page_size() - 1);
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

#[cfg(test)]
mod tests {
    use super::super::Segment;
    use super::Mapping;

    #[test]
    fn two_mappings_of_a_segment_show_the_same_bytes() {
        let segment = Segment::create("two mappings", 10_000).unwrap();
        let (ours, theirs) = (segment.map_writable().unwrap(), segment.map_readable().unwrap());
        assert_eq!((ours.len(), theirs.len()), (10_000, 10_000));
        assert!(ours.is_writable() && !theirs.is_writable());
        assert_eq!(ours.as_ptr() as usize % rustix::param::page_size(), 0);
        // SAFETY: the last byte of a mapping of 10 000, and this thread alone writes it.
        let last = unsafe { ours.as_mut_ptr().byte_add(9_999) };
        // SAFETY: as above.
        unsafe { last.write_volatile(7) };
        // SAFETY: as above.
        let seen = unsafe { theirs.as_ptr().byte_add(9_999) };
        // SAFETY: as above.
        assert_eq!(unsafe { seen.read_volatile() }, 7);
    }

    #[test]
    #[should_panic(expected = "for reading only")]
    fn a_mapping_for_reading_gives_no_pointer_to_write_by() {
        Segment::create("reading", 4096).unwrap().map_readable().unwrap().as_mut_ptr();
    }

    #[test]
    fn any_range_may_be_asked_for_ahead() {
        let segment = Segment::create("prefault", 4 * rustix::param::page_size() as u64 + 1).unwrap();
        let (ours, theirs) = (segment.map_writable().unwrap(), segment.map_readable().unwrap());
        #[allow(clippy::reversed_empty_ranges, reason = "that is the question")]
        for range in [0..0, 1..2, 5000..usize::MAX, usize::MAX..usize::MAX, 9..3] {
            ours.prefault(range.clone());
            theirs.prefault(range);
        }
    }

    #[test]
    fn a_forked_child_does_not_get_what_may_be_written() {
        let segment = Segment::create("fork", 4096).unwrap();
        let (ours, theirs) = (segment.map_writable().unwrap(), segment.map_readable().unwrap());
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        // `dc`: do not copy on fork (proc_pid_smaps(5)).
        let is_copied = |mapping: &Mapping| {
            let begin = format!("{:x}-", mapping.as_ptr() as usize);
            let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&begin));
            let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
            !flags.split_whitespace().any(|flag| flag == "dc")
        };
        assert!(!is_copied(&ours));
        assert!(is_copied(&theirs));
    }
}
