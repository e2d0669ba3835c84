//! [`Mapping`]: a segment in this process's address space.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::SegmentError;
use super::segment::system;

/// A whole segment, mapped shared; unmapped when dropped. Page aligned.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    /// bytes; 0 < len, the sealed length of the segment, and once more that of its ring if it has one
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
        let base = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0) }
            .map_err(|error| refusal(error, writable))?;
        let mapping = Mapping { base: not_null(base), len, writable };
        mapping.keep_from_children()?;
        Ok(mapping)
    }

    /// Maps a segment of `len` bytes whose part from `ring_at` on is a ring: once as a whole, and directly behind it that
    /// part again. So whatever begins in the ring and is no longer than it has its bytes one behind the other.
    pub(super) fn ring(fd: BorrowedFd<'_>, len: u64, ring_at: u64, writable: bool) -> Result<Mapping, SegmentError> {
        let ring_len = len.checked_sub(ring_at).filter(|&ring| ring > 0).ok_or(SegmentError::Empty)?;
        let whole = len.checked_add(ring_len).and_then(|whole| isize::try_from(whole).ok());
        let whole = whole.ok_or(SegmentError::TooLong(len))? as usize;
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            mmap_anonymous(std::ptr::null_mut(), whole, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)
        }
        .map_err(system("reserving addresses for a ring"))?;
        // From here on its drop gives back all of the addresses, whatever is mapped there by then.
        let mapping = Mapping { base: not_null(base), len: whole, writable };
        for (at, part, offset) in [(0, len as usize, 0), (len as usize, ring_len as usize, ring_at)] {
            // SAFETY: `at` lies inside the addresses just reserved.
            let place = unsafe { mapping.base.byte_add(at) };
            // SAFETY: replaces addresses that were just reserved for that and that nobody knows yet: `at` + `part` is at
            // most `whole`.
            unsafe { mmap(place.as_ptr().cast(), part, protection, MapFlags::SHARED | MapFlags::FIXED, fd, offset) }
                .map_err(|error| refusal(error, writable))?;
        }
        mapping.keep_from_children()?;
        Ok(mapping)
    }

    /// A forked child must not write what only this process may write.
    fn keep_from_children(&self) -> Result<(), SegmentError> {
        if self.writable {
            // SAFETY: the range is this mapping; the advice changes no byte of it.
            unsafe { madvise(self.base.as_ptr().cast(), self.len, Advice::LinuxDontFork) }
                .map_err(system("MADV_DONTFORK"))?;
        }
        Ok(())
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

fn refusal(error: Errno, writable: bool) -> SegmentError {
    let sealed = writable && error == Errno::PERM;
    if sealed { SegmentError::SealedForItsWriter } else { system("mapping a segment")(error) }
}

fn not_null(base: *mut std::ffi::c_void) -> NonNull<u8> {
    NonNull::new(base.cast()).expect("the kernel maps nothing at address 0 unasked")
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
    use super::super::{Segment, SegmentError, SharedWords};
    use super::Mapping;
    use crate::atomics::Words;

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
    fn a_rings_bytes_stand_there_twice() {
        let page = rustix::param::page_size();
        let segment = Segment::create("ring", 3 * page as u64).unwrap();
        let ours = segment.map_ring_writable(page as u64).unwrap();
        segment.seal_for_one_writer().unwrap();
        let theirs = segment.map_ring_readable(page as u64).unwrap();
        assert_eq!((ours.len(), theirs.len()), (5 * page, 5 * page));
        let words = [ours, theirs].map(SharedWords::mapped);
        // Across the ring's end: its last word and, behind it, its first one.
        for (at, value) in [(3 * page - 8, 7), (3 * page, 8)] {
            words[0].store(at, value);
        }
        assert_eq!((words[1].load(3 * page - 8), words[1].load(5 * page - 8)), (7, 7));
        assert_eq!((words[1].load(page), words[1].load(3 * page), words[1].load(0)), (8, 8, 0));
    }

    #[test]
    fn what_is_no_ring_is_refused_and_leaves_nothing_mapped() {
        let page = rustix::param::page_size() as u64;
        let segment = Segment::create("no-ring", 2 * page).unwrap();
        assert_eq!(segment.map_ring_readable(2 * page).unwrap_err(), SegmentError::Empty);
        assert_eq!(segment.map_ring_readable(u64::MAX).unwrap_err(), SegmentError::Empty);
        assert!(segment.map_ring_readable(page / 2).is_err(), "no whole page");
        segment.seal_for_one_writer().unwrap();
        assert_eq!(segment.map_ring_writable(page).unwrap_err(), SegmentError::SealedForItsWriter);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains("no-ring"), "{maps}");
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
