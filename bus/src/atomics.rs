//! The one way to the shared words: every atomic access of the log, the pages and the wake-up goes through [`Words`].
//!
//! Loom's atomics hold an index instead of a value and cannot be cast from mapped bytes, so the algorithms are generic
//! over where their words live: `SharedWords` in mapped (or heap) memory, loom's own in the models
//! under `tests/`. The very same source runs under both.
//!
//! Every access that orders something names the [`Fact`] it publishes or learns. The labels are those of
//! `docs/memory-model.md`; a model breaks one fact at a time and must then find a failing execution.

/// What an ordered access publishes, learns or keeps apart. Each has two ends; see `docs/memory-model.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// A frame's bytes, by its commit word: Release in the producer, Acquire in the consumer.
    FrameCommitted,
    /// A block's generation, its first sequence and its zeroed first word, by the block table: Release in the producer,
    /// Acquire in a consumer that enters.
    BlockOpened,
    /// The newest generation, by the header: Release in the producer, Acquire in a consumer that looks for it.
    CurrentMoved,
    /// All reads from a block are over, by `from`, `at` or `held`: Release in the consumer, Acquire in the producer.
    BlockLeft,
    /// Floor before lines (producer) against line before floor (consumer): a full fence on both sides.
    FloorBeforeLines,
    /// The consumer's side of [`Fact::FloorBeforeLines`].
    LineBeforeFloor,
    /// `waiting` before lines (producer) against line before `waiting` (consumer): a full fence on both sides.
    WaitingBeforeLines,
    /// The consumer's side of [`Fact::WaitingBeforeLines`].
    LineBeforeWaiting,
    /// `waiting` before `done` (producer of a lane) against `done` before `waiting` (its consumer): a compiler fence in the
    /// consumer against a `membarrier` of the producer, or a full fence.
    DoneBeforeWaiting,
    /// The producer's side of [`Fact::DoneBeforeWaiting`].
    WaitingBeforeDone,
    /// A changed list of links, by its version: Release where it changes, Acquire in the producer.
    LinksChanged,
    /// Commit before `wake_wanted` (producer): a full fence, or a compiler fence against a `membarrier` of the sleeper.
    CommitBeforeWanted,
    /// `wake_wanted` before the last look at the log (sleeper): a full fence or a `membarrier`.
    WantedBeforeLook,
    /// The producer's switch to unfenced commits is visible before the first of them: a full fence.
    ModeBeforeCommit,
    /// A segment's header, by its version word: Release where it is made, Acquire where it is opened.
    SegmentReady,
    /// Bytes of a stream, by the write index: Release in the sender, Acquire in the receiver.
    StreamWritten,
    /// All reads of a stream's bytes are over, by the read index: Release in the receiver, Acquire in the sender.
    StreamRead,
}

/// Words of 64 bits that several parties may touch at once, addressed by byte offset (a multiple of 8).
///
/// A clone names the same words.
///
/// # Panics
///
/// Every access panics when `at` is not a multiple of 8 or lies outside: offsets that come from another process are checked
/// before they get here, so that is a bug of ours.
pub trait Words: Clone + Send + Sync + 'static {
    /// Whether both name the same words.
    fn is_same(&self, other: &Self) -> bool;
    /// Relaxed: orders nothing; whoever calls says why that is enough.
    fn load(&self, at: usize) -> u64;
    /// Acquire: learns `fact`.
    fn load_acquire(&self, at: usize, fact: Fact) -> u64;
    /// Relaxed: orders nothing; whoever calls says why that is enough.
    fn store(&self, at: usize, value: u64);
    /// Release: publishes `fact`.
    fn store_release(&self, at: usize, value: u64, fact: Fact);
    /// Relaxed: orders nothing; whoever calls says why that is enough.
    fn swap(&self, at: usize, value: u64) -> u64;
    /// Adds, with Release: publishes `fact`.
    fn add_release(&self, at: usize, value: u64, fact: Fact);
    /// A hint, for any offset: the line there will be written soon.
    #[inline(always)]
    fn will_write(&self, _at: usize) {}
    /// A hint, for any offset: the line there will be read soon.
    #[inline(always)]
    fn will_read(&self, _at: usize) {}
    /// Sequentially consistent fence.
    fn fence(&self, fact: Fact);
    /// The cheap side of an asymmetric fence: only the compiler is held back, the other side brings a `heavy_fence`.
    fn light_fence(&self, fact: Fact);
    /// The dear side of an asymmetric fence: `membarrier`. False where the kernel does not allow it.
    fn heavy_fence(&self, fact: Fact) -> bool;
}
