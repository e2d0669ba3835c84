//! What nobody can do to a segment any more once its one writer has sealed it: the promises of `docs/security.md`, tried on
//! this kernel.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nodeset_bus::memory::{Mapping, Segment, SegmentError};
use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use rustix::io::Errno;
use rustix::mm::{MprotectFlags, mprotect};

const LEN: u64 = 8192;

/// A segment as a subscriber gets it: its writer's mapping, and a descriptor that came from the writer.
fn sealed() -> (Mapping, Segment) {
    let segment = Segment::create("seals", LEN).expect("memory");
    let mapping = segment.map_writable().expect("the writer's mapping");
    segment.seal_for_one_writer().expect("the last seals");
    let theirs = Segment::from_fd(OwnedFd::from(segment.try_clone().expect("a descriptor"))).expect("memory");
    theirs.check_one_writer(LEN).expect("all seals");
    (mapping, theirs)
}

fn first_byte(mapping: &Mapping) -> u8 {
    // SAFETY: a mapping has at least a byte, and nobody writes meanwhile.
    unsafe { mapping.as_ptr().read_volatile() }
}

#[test]
fn nobody_maps_it_writable_again() {
    let (_writer, segment) = sealed();
    assert_eq!(segment.map_writable().unwrap_err(), SegmentError::SealedForItsWriter);
    // Nor by a way round: opened afresh, with all rights that its file has.
    let path = format!("/proc/self/fd/{}", segment.fd().as_raw_fd());
    if let Ok(again) = OpenOptions::new().read(true).write(true).open(path) {
        let again = Segment::from_fd(again.into()).unwrap();
        assert_eq!(again.map_writable().unwrap_err(), SegmentError::SealedForItsWriter);
    }
}

#[test]
fn a_mapping_for_reading_never_becomes_one_for_writing() {
    let (_writer, segment) = sealed();
    let reader = segment.map_readable().unwrap();
    let flags = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: the whole mapping, page aligned; only more would be allowed there than before.
    let outcome = unsafe { mprotect(reader.as_ptr().cast_mut().cast(), reader.len(), flags) };
    assert_eq!(outcome, Err(Errno::ACCESS));
}

#[test]
fn nobody_writes_into_it_by_its_descriptor() {
    let (writer, segment) = sealed();
    let mut file = File::from(OwnedFd::from(segment));
    assert!(file.write(b"x").is_err());
    file.seek(SeekFrom::Start(0)).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(fallocate(file.as_fd(), hole, 0, LEN), Err(Errno::PERM));
    assert_eq!(first_byte(&writer), 0);
}

#[test]
fn nobody_changes_its_size() {
    let (writer, segment) = sealed();
    for len in [0, LEN / 2, 2 * LEN] {
        assert_eq!(ftruncate(segment.fd(), len), Err(Errno::PERM));
    }
    assert_eq!((writer.len() as u64, segment.len()), (LEN, LEN));
}

#[test]
fn its_one_writer_goes_on_writing() {
    let (writer, segment) = sealed();
    let reader = segment.map_readable().unwrap();
    // SAFETY: the first byte of this mapping, which nobody reads at the same time.
    unsafe { writer.as_mut_ptr().write_volatile(7) };
    assert_eq!(first_byte(&reader), 7);
}

#[test]
fn memory_lives_as_long_as_somebody_maps_it() {
    let (writer, segment) = sealed();
    // SAFETY: as above.
    unsafe { writer.as_mut_ptr().write_volatile(9) };
    let reader = segment.map_readable().unwrap();
    drop((writer, segment));
    assert_eq!(first_byte(&reader), 9);
}
