//! What the kernel enforces for sealed segments: shown on the real kernel, in this process and from another one.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod other_process;

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nodeset_bus::atomics::Words;
use nodeset_bus::memory::{Mapping, Segment, SegmentError, SharedWords};
use other_process::{FirstProcess, OtherProcess, play, wait_readable};
use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, inotify};
use rustix::io::{Errno, pwrite};
use rustix::mm::{MprotectFlags, mprotect};

/// bytes; of the log in these tests
const LEN: u64 = 64 * 1024;
/// What stands in its first word.
const CONTENT: u64 = 0x0123_4567_89ab_cdef;

/// A log as its publisher has it: mapped, sealed, with something in it.
fn publish() -> (Segment, SharedWords) {
    let log = Segment::create("log", LEN).unwrap();
    let words = SharedWords::mapped(log.map_writable().unwrap());
    log.seal_for_one_writer().unwrap();
    log.check_one_writer(LEN).unwrap();
    words.store(0, CONTENT);
    (log, words)
}

fn map(log: &Segment) -> SharedWords {
    SharedWords::mapped(log.map_readable().unwrap())
}

/// The same file, opened anew for reading and writing: what makes a mere read-only descriptor worthless as protection.
fn reopen(log: &OwnedFd) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", log.as_raw_fd());
    File::options().read(true).write(true).open(path).expect("opening it anew is allowed, using that is not").into()
}

fn maps_it_writable(log: OwnedFd) {
    let refused = Segment::from_fd(log).unwrap().map_writable().unwrap_err();
    assert_eq!(refused, SegmentError::SealedForItsWriter);
}

fn truncates_it(log: OwnedFd) {
    for len in [0, LEN / 2, LEN - 1] {
        assert_eq!(ftruncate(&log, len), Err(Errno::PERM));
    }
}

fn grows_it(log: OwnedFd) {
    assert_eq!(ftruncate(&log, LEN + 1), Err(Errno::PERM));
    assert_eq!(fallocate(&log, FallocateFlags::empty(), 0, 2 * LEN), Err(Errno::PERM));
    assert!(pwrite(&log, &[1], LEN).is_err());
}

fn reopens_it_and_maps_it_writable(log: OwnedFd) {
    maps_it_writable(reopen(&log));
}

fn reopens_it_and_truncates_it(log: OwnedFd) {
    truncates_it(reopen(&log));
    let path = format!("/proc/self/fd/{}", log.as_raw_fd());
    let refused = File::options().write(true).truncate(true).open(path).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::PERM.raw_os_error()));
}

fn writes_to_it(log: OwnedFd) {
    assert_eq!(pwrite(&log, &[1], 0), Err(Errno::PERM));
    assert_eq!(pwrite(reopen(&log), &[1], 0), Err(Errno::PERM));
}

fn punches_a_hole(log: OwnedFd) {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(fallocate(&log, hole, 0, 4096), Err(Errno::PERM));
}

fn adds_seals(log: OwnedFd) {
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE, SealFlags::empty()] {
        assert_eq!(fcntl_add_seals(&log, seal), Err(Errno::PERM));
    }
}

fn turns_a_mapping_for_reading_into_one_for_writing(log: OwnedFd) {
    let mapping = Segment::from_fd(log).unwrap().map_readable().unwrap();
    assert_eq!(make_writable(&mapping), Err(Errno::ACCESS));
}

fn make_writable(mapping: &Mapping) -> rustix::io::Result<()> {
    // SAFETY: the range is the whole mapping, which stays as it is for all who read it.
    unsafe { mprotect(mapping.as_ptr().cast_mut().cast(), mapping.len(), MprotectFlags::READ | MprotectFlags::WRITE) }
}

/// Each attempt of a subscriber is one test in this process and one from another process.
macro_rules! refused {
    ($($attempt:ident),* $(,)?) => {
        mod refused_here {
            $(#[test]
            fn $attempt() {
                let (log, ours) = super::publish();
                super::$attempt(log.try_clone().unwrap().into());
                super::is_as_it_was(&log, &ours);
            })*
        }

        mod refused_elsewhere {
            $(#[test]
            fn $attempt() {
                let (log, ours) = super::publish();
                super::OtherProcess::start(stringify!($attempt), &[log.fd()]).finish();
                super::is_as_it_was(&log, &ours);
            })*
        }

        fn attempt(name: &str) -> Option<fn(OwnedFd)> {
            $(if name == stringify!($attempt) {
                return Some($attempt);
            })*
            None
        }
    };
}

refused![
    maps_it_writable,
    truncates_it,
    grows_it,
    reopens_it_and_maps_it_writable,
    reopens_it_and_truncates_it,
    writes_to_it,
    punches_a_hole,
    adds_seals,
    turns_a_mapping_for_reading_into_one_for_writing,
];

fn is_as_it_was(log: &Segment, ours: &SharedWords) {
    log.check_one_writer(LEN).unwrap();
    assert_eq!(Segment::from_fd(log.try_clone().unwrap().into()).unwrap().len(), LEN);
    assert_eq!(ours.load(0), CONTENT);
    assert_eq!(map(log).load(0), CONTENT);
}

/// What the second process does.
#[test]
fn other_process() {
    play(|part, first, mut descriptors| {
        let log = descriptors.pop().expect("each part gets a segment");
        match part {
            "publisher" => be_publisher(Segment::from_fd(log).unwrap(), &first),
            "holder of a descriptor" => {
                first.tell(&[]);
                first.wait_for_the_end();
            }
            "holder of a mapping" => {
                let mapping = Segment::from_fd(log).unwrap().map_readable().unwrap();
                mapping.prefault(0..mapping.len());
                first.tell(&[]);
                first.wait_for_the_end();
            }
            name => attempt(name).expect("a part that is known")(log),
        }
    });
}

fn be_publisher(log: Segment, first: &FirstProcess) {
    let words = SharedWords::mapped(log.map_writable().unwrap());
    first.tell(&[]);
    first.hear();
    log.seal_for_one_writer().unwrap();
    words.store(0, CONTENT);
    first.tell(&[]);
    first.hear();
    words.store(8, CONTENT);
    assert_eq!(log.map_writable().unwrap_err(), SegmentError::SealedForItsWriter);
    first.tell(&[]);
    first.wait_for_the_end();
}

#[test]
fn the_dispatcher_sees_from_its_own_descriptor_when_a_segment_has_one_writer() {
    let log = Segment::create("log", LEN).unwrap();
    let publisher = OtherProcess::start("publisher", &[log.fd()]);
    publisher.hear();
    assert!(matches!(log.check_one_writer(LEN), Err(SegmentError::Seals { .. })));
    publisher.tell(&[]);
    publisher.hear();
    log.check_one_writer(LEN).unwrap();
    assert_eq!(log.map_writable().unwrap_err(), SegmentError::SealedForItsWriter);
    // Only now may anybody map it; the publisher goes on writing to what it mapped before.
    let words = map(&log);
    assert_eq!((words.load(0), words.load(8)), (CONTENT, 0));
    publisher.tell(&[]);
    publisher.hear();
    assert_eq!(words.load(8), CONTENT);
    drop(publisher);
    // What a dead publisher committed stays, and nobody can become its writer again.
    assert_eq!(words.load(8), CONTENT);
    assert_eq!(log.map_writable().unwrap_err(), SegmentError::SealedForItsWriter);
}

/// Why nobody but its writer maps a segment before the last seals are there: the right to write stays with the mapping.
#[test]
fn who_maps_it_before_the_last_seals_keeps_the_right_to_write() {
    let log = Segment::create("log", LEN).unwrap();
    let early = log.map_readable().unwrap();
    let _ours = log.map_writable().unwrap();
    log.seal_for_one_writer().unwrap();
    log.check_one_writer(LEN).unwrap();
    assert_eq!(make_writable(&early), Ok(()));
    assert_eq!(make_writable(&log.map_readable().unwrap()), Err(Errno::ACCESS));
}

#[test]
fn a_shared_segment_has_several_writers_and_nobody_takes_that_from_them() {
    let signals = Segment::create_shared("signals", 4096).unwrap();
    let (ours, theirs) = (signals.map_writable().unwrap(), signals.map_writable().unwrap());
    let (ours, theirs) = (SharedWords::mapped(ours), SharedWords::mapped(theirs));
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
        assert_eq!(fcntl_add_seals(signals.as_fd(), seal), Err(Errno::PERM));
    }
    assert_eq!(ftruncate(signals.as_fd(), 0), Err(Errno::PERM));
    assert_eq!(ftruncate(signals.as_fd(), 8192), Err(Errno::PERM));
    ours.store(0, 1);
    theirs.store(8, 2);
    assert_eq!((theirs.load(0), ours.load(8)), (1, 2));
    signals.check_shared(4096).unwrap();
}

/// Tells when the kernel frees a segment: when the last descriptor and the last mapping of the unnamed file are gone, it
/// reports that and ends the watch.
struct Watch {
    inotify: OwnedFd,
}

impl Watch {
    fn new(segment: &Segment) -> Watch {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
        let path = format!("/proc/self/fd/{}", segment.fd().as_raw_fd());
        inotify::add_watch(&inotify, path, inotify::WatchFlags::DELETE_SELF).unwrap();
        Watch { inotify }
    }

    fn is_freed(&self) -> bool {
        let mut space = [MaybeUninit::uninit(); 512];
        match inotify::Reader::new(&self.inotify, &mut space).next() {
            Ok(event) => {
                assert!(event.events().contains(inotify::ReadFlags::DELETE_SELF), "{event:?}");
                true
            }
            Err(Errno::AGAIN) => false,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn memory_is_freed_when_the_last_holder_is_killed() {
    let (log, ours) = publish();
    let watch = Watch::new(&log);
    let mut descriptor = OtherProcess::start("holder of a descriptor", &[log.fd()]);
    let mut mapping = OtherProcess::start("holder of a mapping", &[log.fd()]);
    descriptor.hear();
    mapping.hear();

    // Its publisher leaves: others hold it.
    drop((log, ours));
    assert!(!watch.is_freed());
    descriptor.kill();
    // A mapping alone holds it too.
    assert!(!watch.is_freed());
    mapping.kill();
    wait_readable(&watch.inotify);
    assert!(watch.is_freed());
}

#[test]
fn a_descriptor_on_its_way_holds_the_memory_too() {
    let (log, ours) = publish();
    let watch = Watch::new(&log);
    let (here, there) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let message = nodeset_bus::protocol::ToDispatcher::List;
    nodeset_bus::protocol::record::send(here.as_fd(), &message, &[log.fd()]).unwrap();
    drop((log, ours));
    assert!(!watch.is_freed());
    // Nobody took it: the memory goes with the socket.
    drop((here, there));
    wait_readable(&watch.inotify);
    assert!(watch.is_freed());
}

#[test]
fn a_read_only_descriptor_cannot_be_mapped_writable_either() {
    let log = Segment::create("log", LEN).unwrap();
    let path = format!("/proc/self/fd/{}", log.fd().as_raw_fd());
    let reader = Segment::from_fd(File::open(path).unwrap().into()).unwrap();
    assert!(reader.is_same_memory(&log));
    let refused = reader.map_writable().unwrap_err();
    assert!(matches!(refused, SegmentError::System { source: Errno::ACCESS, .. }), "{refused}");
    reader.map_readable().unwrap();
}
