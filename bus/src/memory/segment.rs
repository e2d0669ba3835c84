//! [`Segment`]: unnamed, sized, sealed memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    FsWord, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate, memfd_create,
};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use thiserror::Error;

use super::Mapping;

/// Nobody resizes it.
const SIZED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);
/// Nobody maps it writable any more, and nobody adds or can undo that.
const ONE_WRITER: SealFlags = SIZED.union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);
/// Nobody resizes it, and nobody can make it read-only for the others.
const SHARED: SealFlags = SIZED.union(SealFlags::SEAL);

/// A segment could not be made, or is not what it should be.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentError {
    /// The kernel refused. Too many descriptors: raise `ulimit -n`; out of memory: free some, or lower the limits.
    #[error("{doing} failed: {source}{}", cure(*.source))]
    System {
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// What was handed over is a file, a pipe, huge pages or the like. Refuse whoever did that.
    #[error("a received descriptor is not memory from memfd_create(2) of ordinary pages: its sender is at fault")]
    NotMemory,
    /// Its one writer has it, for good. Ask for a new segment: a publisher that starts again gets a new log.
    #[error("the segment is sealed for the writer that mapped it first: ask for a new one to write to")]
    SealedForItsWriter,
    /// It is not sealed as it must be: whoever handed it over could change it under us. Refuse it.
    #[error("the segment is not sealed as it must be, it lacks {missing}: its sender is at fault")]
    Seals {
        /// The seals that are missing.
        missing: String,
    },
    /// It has another size than it must have. Refuse it.
    #[error("the segment has {found} bytes, it must have {expected}: its sender is at fault")]
    Len {
        /// bytes
        found: u64,
        /// bytes
        expected: u64,
    },
    /// Without a byte there is nothing to map. Give a length.
    #[error("a segment of no bytes cannot be mapped: give it a length")]
    Empty,
    /// Longer than this machine can address. Make it smaller.
    #[error("a segment of {0} bytes is more than this machine can map: make it smaller")]
    TooLong(u64),
}

/// bytes; what `memfd_create(2)` takes as a name, without the final NUL
const MAX_NAME: usize = 249;
/// From `linux/magic.h`: where the kernel keeps memfds of ordinary pages.
const TMPFS_MAGIC: FsWord = 0x0102_1994;

fn cure(error: Errno) -> &'static str {
    match error {
        Errno::MFILE => " (this process has too many open descriptors: raise its limit, `ulimit -n`)",
        Errno::NFILE => " (the system has too many open descriptors: raise fs.file-max)",
        Errno::NOMEM => " (no memory, or too many mappings: raise vm.max_map_count, or free memory)",
        Errno::ACCESS => " (forbidden here: see vm.memfd_noexec and the security policy of the container)",
        Errno::FBIG => " (longer than a file may be: make it smaller, or raise `ulimit -f`)",
        Errno::NOSYS => " (the kernel is too old, or its calls are filtered: Linux 5.10 or newer is needed)",
        _ => "",
    }
}

pub(super) fn system(doing: &'static str) -> impl FnOnce(Errno) -> SegmentError {
    move |source| SegmentError::System { doing, source }
}

/// Unnamed memory of a fixed size, by its descriptor. It lives as long as somebody holds a descriptor or a mapping of it.
#[derive(Debug)]
pub struct Segment {
    fd: OwnedFd,
    /// bytes; cannot change, sealed
    len: u64,
}

impl Segment {
    /// Makes a segment of `len` zeroed bytes that cannot be resized, for one writer. Untouched pages cost no memory. `name`
    /// is only for people (`/proc/PID/maps`): it is cut after 249 bytes.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; the text says what to do.
    pub fn create(name: &str, len: u64) -> Result<Segment, SegmentError> {
        Segment::create_sealed(name, len, SIZED)
    }

    /// The same for a segment with several writers (a signal page).
    ///
    /// # Errors
    ///
    /// When the kernel refuses; the text says what to do.
    pub fn create_shared(name: &str, len: u64) -> Result<Segment, SegmentError> {
        Segment::create_sealed(name, len, SHARED)
    }

    fn create_sealed(name: &str, len: u64, seals: SealFlags) -> Result<Segment, SegmentError> {
        check_len(len)?;
        // The kernel would not refuse it: it would end the process (SIGXFSZ).
        if getrlimit(Resource::Fsize).current.is_some_and(|most| len > most) {
            return Err(SegmentError::System { doing: "sizing a segment", source: Errno::FBIG });
        }
        let name = label(name);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // MFD_NOEXEC_SEAL came with Linux 6.3; before, EINVAL.
        let fd = memfd_create(&name, flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|error| if error == Errno::INVAL { memfd_create(&name, flags) } else { Err(error) })
            .map_err(system("memfd_create"))?;
        ftruncate(&fd, len).map_err(system("sizing a segment"))?;
        fcntl_add_seals(&fd, seals).map_err(system("sealing a segment"))?;
        Ok(Segment { fd, len })
    }

    /// Takes a descriptor that came from another process.
    ///
    /// # Errors
    ///
    /// When it is no memfd, or could be resized under us.
    pub fn from_fd(fd: OwnedFd) -> Result<Segment, SegmentError> {
        let seals = fcntl_get_seals(&fd).map_err(|error| match error {
            // No kind of file that has seals; a path, not an open file.
            Errno::INVAL | Errno::BADF => SegmentError::NotMemory,
            source => SegmentError::System { doing: "reading the seals of a received descriptor", source },
        })?;
        // Huge pages have seals as well, but run out: whoever touches one then gets SIGBUS.
        let system_of_it = fstatfs(&fd).map_err(system("asking what a received descriptor is"))?;
        if system_of_it.f_type != TMPFS_MAGIC {
            return Err(SegmentError::NotMemory);
        }
        check_seals(seals, SIZED)?;
        // After the seals: from here on the size cannot change.
        let len = fstat(&fd).map_err(system("reading the size of a received segment"))?.st_size;
        let len = u64::try_from(len).map_err(|_| SegmentError::NotMemory)?;
        check_len(len)?;
        Ok(Segment { fd, len })
    }

    /// The writer, after it mapped the segment: nobody maps it writable any more, not even the writer. Doing it twice does
    /// no harm.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn seal_for_one_writer(&self) -> Result<(), SegmentError> {
        match fcntl_add_seals(&self.fd, SealFlags::FUTURE_WRITE | SealFlags::SEAL) {
            // Further seals are forbidden: fine if these are there.
            Err(Errno::PERM) => check_seals(self.seals()?, ONE_WRITER),
            outcome => outcome.map_err(system("sealing a segment")),
        }
    }

    /// Reads back, from this descriptor, that the segment has one writer for good.
    ///
    /// # Errors
    ///
    /// When it has not, or has another size.
    pub fn check_one_writer(&self, len: u64) -> Result<(), SegmentError> {
        self.check(ONE_WRITER, len)
    }

    /// Reads back, from this descriptor, that the segment stays writable for all who share it.
    ///
    /// # Errors
    ///
    /// When it does not, or has another size.
    pub fn check_shared(&self, len: u64) -> Result<(), SegmentError> {
        self.check(SHARED, len)
    }

    fn check(&self, needed: SealFlags, expected: u64) -> Result<(), SegmentError> {
        check_seals(self.seals()?, needed)?;
        if self.len != expected {
            return Err(SegmentError::Len { found: self.len, expected });
        }
        Ok(())
    }

    fn seals(&self) -> Result<SealFlags, SegmentError> {
        fcntl_get_seals(&self.fd).map_err(system("reading the seals of a segment"))
    }

    /// Maps the whole segment for reading and writing. A child of fork does not get the mapping.
    ///
    /// # Errors
    ///
    /// When it was sealed for one writer, or the kernel refuses.
    pub fn map_writable(&self) -> Result<Mapping, SegmentError> {
        Mapping::new(self.fd.as_fd(), self.len, true)
    }

    /// Maps the whole segment for reading.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn map_readable(&self) -> Result<Mapping, SegmentError> {
        Mapping::new(self.fd.as_fd(), self.len, false)
    }

    /// Maps the segment for reading and writing, and directly behind it once more the part from `ring_at` (bytes, whole
    /// pages) on: the bytes of a ring are then one behind the other wherever one starts. A child of fork does not get it.
    ///
    /// # Errors
    ///
    /// When it was sealed for one writer, there is nothing behind `ring_at`, or the kernel refuses.
    pub fn map_ring_writable(&self, ring_at: u64) -> Result<Mapping, SegmentError> {
        Mapping::ring(self.fd.as_fd(), self.len, ring_at, true)
    }

    /// The same for reading.
    ///
    /// # Errors
    ///
    /// When there is nothing behind `ring_at`, or the kernel refuses.
    pub fn map_ring_readable(&self, ring_at: u64) -> Result<Mapping, SegmentError> {
        Mapping::ring(self.fd.as_fd(), self.len, ring_at, false)
    }

    /// bytes; at least 1
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a segment has at least a byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The same memory by another descriptor.
    ///
    /// # Errors
    ///
    /// When there are too many descriptors.
    pub fn try_clone(&self) -> Result<Segment, SegmentError> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).map_err(system("duplicating a descriptor"))?;
        Ok(Segment { fd, len: self.len })
    }

    /// Whether both are the same memory (same `st_dev` and `st_ino`).
    pub fn is_same_memory(&self, other: &Segment) -> bool {
        match (fstat(&self.fd), fstat(&other.fd)) {
            (Ok(ours), Ok(theirs)) => ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino,
            _ => false,
        }
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Segment> for OwnedFd {
    fn from(segment: Segment) -> OwnedFd {
        segment.fd
    }
}

fn check_len(len: u64) -> Result<(), SegmentError> {
    if len == 0 {
        return Err(SegmentError::Empty);
    }
    // Rust's slices and pointer offsets end there.
    if isize::try_from(len).is_err() { Err(SegmentError::TooLong(len)) } else { Ok(()) }
}

/// What the kernel takes as a name for `name`.
fn label(name: &str) -> String {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].replace('\0', "?")
}

fn check_seals(found: SealFlags, needed: SealFlags) -> Result<(), SegmentError> {
    let missing: Vec<&str> = [
        (SealFlags::SHRINK, "F_SEAL_SHRINK"),
        (SealFlags::GROW, "F_SEAL_GROW"),
        (SealFlags::FUTURE_WRITE, "F_SEAL_FUTURE_WRITE"),
        (SealFlags::SEAL, "F_SEAL_SEAL"),
    ]
    .into_iter()
    .filter(|&(seal, _)| needed.contains(seal) && !found.contains(seal))
    .map(|(_, name)| name)
    .collect();
    // A signal page that somebody sealed against writing would silence its users.
    let frozen = needed == SHARED && found.intersects(SealFlags::FUTURE_WRITE | SealFlags::WRITE);
    if missing.is_empty() && !frozen {
        return Ok(());
    }
    Err(SegmentError::Seals { missing: if frozen { "the right to write".to_owned() } else { missing.join(", ") } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_sealed_step_by_step() {
        let segment = Segment::create("steps", 4096).unwrap();
        let missing = |missing: &str| SegmentError::Seals { missing: missing.to_owned() };
        assert_eq!(segment.check_one_writer(4096), Err(missing("F_SEAL_FUTURE_WRITE, F_SEAL_SEAL")));
        assert_eq!(segment.check_shared(4096), Err(missing("F_SEAL_SEAL")));
        segment.seal_for_one_writer().unwrap();
        segment.seal_for_one_writer().unwrap();
        segment.check_one_writer(4096).unwrap();
        assert_eq!(segment.check_one_writer(8192), Err(SegmentError::Len { found: 4096, expected: 8192 }));
        assert_eq!(segment.check_shared(4096), Err(missing("the right to write")));
    }

    #[test]
    fn a_shared_segment_stays_shared() {
        let segment = Segment::create_shared("shared", 4096).unwrap();
        segment.check_shared(4096).unwrap();
        assert!(segment.seal_for_one_writer().is_err());
        segment.check_shared(4096).unwrap();
    }

    #[test]
    fn lengths_that_cannot_be_mapped_are_refused() {
        assert_eq!(Segment::create("none", 0).unwrap_err(), SegmentError::Empty);
        assert_eq!(Segment::create("all", u64::MAX).unwrap_err(), SegmentError::TooLong(u64::MAX));
    }

    #[test]
    fn any_name_will_do() {
        for name in ["", "a\0b", &"ü".repeat(1000)] {
            Segment::create(name, 1).unwrap();
        }
        assert_eq!(label(&"ü".repeat(1000)).len(), 248);
    }

    #[test]
    fn what_is_no_sealed_memory_is_refused() {
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(Segment::from_fd(pipe).unwrap_err(), SegmentError::NotMemory);
        let folder = std::fs::File::open("/").unwrap();
        assert!(Segment::from_fd(folder.into()).is_err());
        let open = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&open, 4096).unwrap();
        let refused = Segment::from_fd(open).unwrap_err();
        assert!(refused.to_string().contains("lacks F_SEAL_SHRINK, F_SEAL_GROW"), "{refused}");
        let empty = memfd_create("empty", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        fcntl_add_seals(&empty, SIZED).unwrap();
        assert_eq!(Segment::from_fd(empty).unwrap_err(), SegmentError::Empty);
    }

    #[test]
    fn huge_pages_are_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
        // Where the kernel has none, nobody can send one.
        let Ok(huge) = memfd_create("huge", flags) else { return };
        fcntl_add_seals(&huge, SIZED).unwrap();
        assert_eq!(Segment::from_fd(huge).unwrap_err(), SegmentError::NotMemory);
    }

    #[test]
    fn the_same_memory_is_known_again() {
        let one = Segment::create("same", 4096).unwrap();
        let other = Segment::create("same", 4096).unwrap();
        let again = Segment::from_fd(one.try_clone().unwrap().into()).unwrap();
        assert!(one.is_same_memory(&again));
        assert!(!one.is_same_memory(&other));
        assert_eq!(again.len(), 4096);
    }
}
