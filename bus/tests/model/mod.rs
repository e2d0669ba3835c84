//! What the loom models share: words whose every access loom explores, and a runner that counts executions.
#![allow(dead_code, reason = "each model uses a part")]

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicU64 as StdU64, AtomicUsize, Ordering as StdOrdering};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use nodeset_bus::atomics::{Fact, Words};
use nodeset_bus::log::{Link, Ring};
use nodeset_bus::page::{NodePage, PeerPage, SignalPage};
use nodeset_bus::protocol::{LinkId, LogShape, PublicationId, SubscriptionId};

/// A block of the models holds one message of 16 bytes and the closing frame: every publish crosses a border.
pub(crate) const BLOCK_LEN: usize = 64;
/// First block, for up to 3 blocks (see `Layout::new`).
const BLOCKS_AT: usize = 8192;
/// The ring of a stream in the models holds two frames with a message of 16 bytes.
pub(crate) const STREAM_CAPACITY: usize = 2 * STREAM_FRAME;
const STREAM_FRAME: usize = 32;
const STREAM_RING_AT: usize = 65536;

/// What a light fence is in a model.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Light {
    /// A full one: the other side's `membarrier` makes it so.
    Full,
    /// None at all, and the other side has no `membarrier`.
    Nothing,
}

struct Inner {
    /// Explored by loom; `None` for words that this model leaves alone.
    live: Vec<Option<AtomicU64>>,
    /// The others: written before the threads start, or by one thread only.
    quiet: Vec<StdU64>,
    /// One for each message that can lie there at once.
    payloads: Vec<UnsafeCell<u64>>,
    /// Where the first message lies, and how far they are apart.
    messages: (usize, usize),
    broken: Option<Fact>,
    light: Light,
}

// SAFETY: the payload cells are loom's, which checks every access to them.
unsafe impl Send for Inner {}
// SAFETY: as for Send.
unsafe impl Sync for Inner {}

/// See the module.
#[derive(Clone)]
pub(crate) struct LoomWords(StdArc<Inner>);

impl LoomWords {
    pub(crate) fn new(len: usize, live: &[usize], broken: Option<Fact>, light: Light) -> LoomWords {
        LoomWords::with_messages(len, live, 0, (0, 1), broken, light)
    }

    fn with_messages(
        len: usize,
        live: &[usize],
        payloads: usize,
        messages: (usize, usize),
        broken: Option<Fact>,
        light: Light,
    ) -> LoomWords {
        let mut words: Vec<Option<AtomicU64>> = (0..len / 8).map(|_| None).collect();
        for &at in live {
            words[at / 8] = Some(AtomicU64::new(0));
        }
        LoomWords(StdArc::new(Inner {
            live: words,
            quiet: (0..len / 8).map(|_| StdU64::new(0)).collect(),
            payloads: (0..payloads).map(|_| UnsafeCell::new(0)).collect(),
            messages,
            broken,
            light,
        }))
    }

    /// A log of `blocks` blocks. Explored: floor, current, waiting, fencing, the generations and all commit words.
    pub(crate) fn log(blocks: u32, broken: Option<Fact>, light: Light) -> LoomWords {
        let mut live = vec![0x40, 0x50, 0x80, 0xc0];
        for block in 0..blocks as usize {
            live.push(4096 + 32 * block);
            live.extend([0, 16, 32, 48].map(|at| BLOCKS_AT + BLOCK_LEN * block + at));
        }
        let (len, messages) = (BLOCKS_AT + blocks as usize * BLOCK_LEN, (BLOCKS_AT, BLOCK_LEN));
        LoomWords::with_messages(len, &live, blocks as usize, messages, broken, light)
    }

    /// A stream of [`STREAM_CAPACITY`]. Explored: the write index and both words of each header.
    pub(crate) fn stream(broken: Option<Fact>) -> LoomWords {
        let frames = STREAM_CAPACITY / STREAM_FRAME;
        let headers = (0..frames).flat_map(|frame| [0, 8].map(|at| STREAM_RING_AT + frame * STREAM_FRAME + at));
        let live: Vec<usize> = [0x80].into_iter().chain(headers).collect();
        let (len, messages) = (STREAM_RING_AT + STREAM_CAPACITY, (STREAM_RING_AT, STREAM_FRAME));
        LoomWords::with_messages(len, &live, frames, messages, broken, Light::Full)
    }

    /// A node page. Explored: `asleep`, and of line 0 `from`, `at`, the last `held` word (the first to be used) and `done`.
    pub(crate) fn page(broken: Option<Fact>, light: Light) -> LoomWords {
        LoomWords::new(4096 + 64, &[0x40, 4096, 4096 + 8, 4096 + 40, 4096 + 48], broken, light)
    }

    /// A signal page with one word.
    pub(crate) fn signal(broken: Option<Fact>, light: Light) -> LoomWords {
        LoomWords::new(4096 + 64, &[4096], broken, light)
    }

    /// One word of a process.
    pub(crate) fn private(broken: Option<Fact>) -> LoomWords {
        LoomWords::new(8, &[0], broken, Light::Full)
    }

    /// Writes a payload, unsynchronised: loom fails if anyone may read it at the same time.
    pub(crate) fn write_payload(&self, at: usize, value: u64) {
        // SAFETY: loom checks that the access is exclusive.
        self.payload(at).with_mut(|cell| unsafe { *cell = value });
    }

    /// Reads a payload, unsynchronised: loom fails if anyone may write it at the same time.
    pub(crate) fn read_payload(&self, at: usize) -> u64 {
        // SAFETY: loom checks that nobody writes.
        self.payload(at).with(|cell| unsafe { *cell })
    }

    fn payload(&self, at: usize) -> &UnsafeCell<u64> {
        let (first, distance) = self.0.messages;
        &self.0.payloads[(at - first) / distance]
    }

    fn ordering(&self, fact: Fact, ordering: Ordering) -> Ordering {
        if self.0.broken == Some(fact) { Ordering::Relaxed } else { ordering }
    }

    fn live(&self, at: usize) -> Result<&AtomicU64, &StdU64> {
        self.0.live[at / 8].as_ref().ok_or(&self.0.quiet[at / 8])
    }
}

impl Words for LoomWords {
    fn is_same(&self, other: &Self) -> bool {
        StdArc::ptr_eq(&self.0, &other.0)
    }

    fn load(&self, at: usize) -> u64 {
        match self.live(at) {
            Ok(word) => word.load(Ordering::Relaxed),
            Err(quiet) => quiet.load(StdOrdering::SeqCst),
        }
    }

    fn load_acquire(&self, at: usize, fact: Fact) -> u64 {
        match self.live(at) {
            Ok(word) => word.load(self.ordering(fact, Ordering::Acquire)),
            Err(quiet) => quiet.load(StdOrdering::SeqCst),
        }
    }

    fn store(&self, at: usize, value: u64) {
        match self.live(at) {
            Ok(word) => word.store(value, Ordering::Relaxed),
            Err(quiet) => quiet.store(value, StdOrdering::SeqCst),
        }
    }

    fn store_release(&self, at: usize, value: u64, fact: Fact) {
        match self.live(at) {
            Ok(word) => word.store(value, self.ordering(fact, Ordering::Release)),
            Err(quiet) => quiet.store(value, StdOrdering::SeqCst),
        }
    }

    fn swap(&self, at: usize, value: u64) -> u64 {
        match self.live(at) {
            Ok(word) => word.swap(value, Ordering::Relaxed),
            Err(quiet) => quiet.swap(value, StdOrdering::SeqCst),
        }
    }

    fn add_release(&self, at: usize, value: u64, fact: Fact) {
        match self.live(at) {
            Ok(word) => word.fetch_add(value, self.ordering(fact, Ordering::Release)),
            Err(quiet) => quiet.fetch_add(value, StdOrdering::SeqCst),
        };
    }

    fn fence(&self, fact: Fact) {
        if self.0.broken != Some(fact) {
            fence(Ordering::SeqCst);
        }
    }

    fn light_fence(&self, fact: Fact) {
        if self.0.light == Light::Full {
            self.fence(fact);
        }
    }

    fn heavy_fence(&self, fact: Fact) -> bool {
        if self.0.light == Light::Full {
            self.fence(fact);
        }
        self.0.light == Light::Full
    }
}

/// A bell for models in which nobody sleeps.
pub(crate) struct Silent;

impl Ring for Silent {
    fn ring(&self) {}
}

pub(crate) const SHAPE_3: LogShape = LogShape { block_len: BLOCK_LEN as u32, blocks: 3 };

/// A link whose line is line 0 of `page`.
pub(crate) fn link(
    number: u64,
    page: &LoomWords,
    signal: &LoomWords,
    reliable: bool,
    bell: StdArc<dyn Ring>,
) -> Link<LoomWords> {
    let id = LinkId { publication: PublicationId(1), epoch: 1, subscription: SubscriptionId(number) };
    Link {
        id,
        page: PeerPage::open(page.clone()).expect("a node page"),
        line: 0,
        tag: number as u16,
        reliable,
        bell,
        signal: SignalPage::open(signal.clone()),
        slot: 0,
    }
}

/// A node page, made before its peers look at it.
pub(crate) fn node_page(words: &LoomWords) -> StdArc<NodePage<LoomWords>> {
    StdArc::new(NodePage::create(words.clone()))
}

/// Explores `model` with at most that many preemptions, prints how many executions that took, and fails if there was no
/// choice to explore.
pub(crate) fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let executions = StdArc::new(AtomicUsize::new(0));
    let counted = StdArc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(move || {
        counted.fetch_add(1, StdOrdering::Relaxed);
        model();
    });
    let executions = executions.load(StdOrdering::Relaxed);
    println!("model {name}: {executions} executions");
    assert!(executions > 1, "model {name} explored nothing");
}
