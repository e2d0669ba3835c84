//! [`Segment`]: unnamed, sized, sealed memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
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
    /// It is not sealed as it must be: whoever handed it over could change it under us.
    #[error("the segment is not sealed as it must be: missing {missing}")]
    Seals {
        /// The seals that are missing.
        missing: String,
    },
    /// It has another size than it must have.
    #[error("the segment has {found} bytes, it must have {expected}")]
    Len {
        /// bytes
        found: u64,
        /// bytes
        expected: u64,
    },
    /// Longer than this machine can address.
    #[error("a segment of {0} bytes is more than this machine can map")]
    TooLong(u64),
}

fn cure(error: Errno) -> &'static str {
    match error {
        Errno::MFILE => " (this process has too many open descriptors: raise its limit, `ulimit -n`)",
        Errno::NFILE => " (the system has too many open descriptors: raise fs.file-max)",
        Errno::NOMEM => " (no memory, or too many mappings: raise vm.max_map_count, or free memory)",
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
    /// is only for people (`/proc/PID/maps`).
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
        if i64::try_from(len).is_err() || usize::try_from(len).is_err() {
            return Err(SegmentError::TooLong(len));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // MFD_NOEXEC_SEAL came with Linux 6.3; before, EINVAL.
        let fd = memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|error| if error == Errno::INVAL { memfd_create(name, flags) } else { Err(error) })
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
        let seals = fcntl_get_seals(&fd).map_err(system("reading the seals of a received descriptor"))?;
        check_seals(seals, SIZED)?;
        // After the seals: from here on the size cannot change.
        let len = fstat(&fd).map_err(system("reading the size of a received segment"))?.st_size;
        Ok(Segment { fd, len: u64::try_from(len).unwrap_or(0) })
    }

    /// The writer, after it mapped the segment: nobody maps it writable any more, not even the writer.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn seal_for_one_writer(&self) -> Result<(), SegmentError> {
        fcntl_add_seals(&self.fd, SealFlags::FUTURE_WRITE | SealFlags::SEAL).map_err(system("sealing a segment"))
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
        check_seals(fcntl_get_seals(&self.fd).map_err(system("reading the seals of a segment"))?, needed)?;
        if self.len != expected {
            return Err(SegmentError::Len { found: self.len, expected });
        }
        Ok(())
    }

    /// Maps the whole segment for reading and writing.
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

    /// bytes
    pub fn len(&self) -> u64 {
        self.len
    }

    /// It has no bytes.
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
