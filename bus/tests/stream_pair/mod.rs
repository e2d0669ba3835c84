//! Both ends of a stream in one process, over memory that is mapped twice for each of them, as between two.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]
#![allow(dead_code, reason = "each test file uses its share")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::page::{LINES, NODE_PAGE_LEN, NodePage, PeerPage};
use nodeset_bus::stream::{
    Content, FrameReceiver, FrameSender, Receiver, Sender, StreamShape, create, map_readable, map_writable, segment_len,
};

/// bytes
pub(crate) const CAPACITY: usize = 64 * 1024;
/// In frames.
pub(crate) const FRAMES: StreamShape = StreamShape { capacity: CAPACITY as u64, content: Content::Frames };
/// In bytes.
pub(crate) const BYTES: StreamShape = StreamShape { capacity: CAPACITY as u64, content: Content::Bytes };

/// The page of all receivers: it is large. Each has a line of its own.
static PAGE: LazyLock<(SharedWords, Arc<NodePage<SharedWords>>)> = LazyLock::new(|| {
    let words = SharedWords::heap(NODE_PAGE_LEN as usize);
    (words.clone(), Arc::new(NodePage::create(words)))
});
static LINE: AtomicU32 = AtomicU32::new(0);

/// The memory of a stream, with a line that nobody else uses at this time.
pub(crate) struct Memory {
    pub(crate) segment: Segment,
    /// As its sender maps it.
    pub(crate) ours: SharedWords,
    /// As its receiver maps it.
    pub(crate) theirs: SharedWords,
    pub(crate) line: u32,
}

impl Memory {
    pub(crate) fn new(shape: StreamShape) -> Memory {
        let segment = Segment::create("stream", segment_len(shape)).unwrap();
        let ours = map_writable(&segment, shape).unwrap();
        create(&ours, shape);
        let theirs = map_readable(&segment, shape).unwrap();
        Memory { segment, ours, theirs, line: LINE.fetch_add(1, Ordering::Relaxed) % LINES }
    }

    /// The receiver's page, as it writes it.
    pub(crate) fn page() -> Arc<NodePage<SharedWords>> {
        Arc::clone(&PAGE.1)
    }

    /// The receiver's page, as the sender reads it.
    pub(crate) fn peer() -> PeerPage<SharedWords> {
        LazyLock::force(&PAGE);
        PeerPage::open(PAGE.0.clone()).unwrap()
    }

    pub(crate) fn frames(&self) -> (FrameSender<SharedWords>, FrameReceiver<SharedWords>) {
        let capacity = CAPACITY as u64;
        let receiver = FrameReceiver::open(self.theirs.clone(), capacity, Memory::page(), self.line).unwrap();
        (FrameSender::open(self.ours.clone(), capacity, Memory::peer(), self.line).unwrap(), receiver)
    }

    pub(crate) fn bytes(&self) -> (Sender<SharedWords>, Receiver<SharedWords>) {
        let receiver = Receiver::open(self.theirs.clone(), BYTES, Memory::page(), self.line).unwrap();
        (Sender::open(self.ours.clone(), BYTES, Memory::peer(), self.line).unwrap(), receiver)
    }
}

/// Byte `at` of the message with that number: follows from both.
pub(crate) fn byte(number: u64, at: usize) -> u8 {
    (number.wrapping_mul(31).wrapping_add(at as u64 * 7) >> 1) as u8
}

/// A whole message.
pub(crate) fn message(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| byte(number, at)).collect()
}
