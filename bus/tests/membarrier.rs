//! Litmus test of the asymmetric fence on the real kernel: what the models take `membarrier` for, a full fence on both
//! sides, must be true between two processes.
//!
//! Store buffering: the producer stores `x` and loads `y` with a compiler fence between, the sleeper stores `y` and loads `x`
//! with `membarrier` between. Forbidden: neither sees the other. Both words only grow, so no round needs to wait for the
//! other side: whoever loaded `x` = v after it stored `y` = j knows that the producer's loads from its round v + 1 on must see
//! j, or that round's store and load passed both of the sleeper's. The producer notes the first of its rounds that saw j.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod other_process;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nodeset_bus::atomics::{Fact, Words};
use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::sys::{available_cores, membarrier, membarrier_register};
use other_process::{FirstProcess, OtherProcess, play};

const ROUNDS: u64 = 20_000;
/// Rounds during which the producer ran that make a test of it.
const ENOUGH: usize = 1000;
/// Offsets in the shared segment: the two words, each on a line of its own, and the producer's notes.
const X: usize = 0;
const Y: usize = 256;
const NOTES: usize = 4096;

fn note(round: u64) -> usize {
    NOTES + 8 * usize::try_from(round).expect("rounds are few")
}

/// The producer: as it commits and looks at `wake_wanted`.
fn produce(words: &SharedWords) {
    let mut seen = 0;
    for round in 1.. {
        words.store(X, round);
        words.light_fence(Fact::CommitBeforeWanted);
        let y = words.load(Y);
        if y != seen {
            for newly in seen + 1..=y {
                words.store(note(newly), round);
            }
            seen = y;
            if y == ROUNDS {
                return;
            }
        }
    }
}

/// The sleeper: as it stores `wake_wanted` and looks at the log. Returns what it saw in each round.
fn look(words: &SharedWords, fence: impl Fn()) -> Vec<u64> {
    while words.load(X) == 0 {
        std::thread::yield_now();
    }
    (1..=ROUNDS)
        .map(|round| {
            words.store(Y, round);
            fence();
            words.load(X)
        })
        .collect()
}

/// How often neither side saw the other.
fn misses(words: &SharedWords, looks: &[u64]) -> usize {
    (1..).zip(looks).filter(|&(round, &seen)| words.load(note(round)) > seen + 1).count()
}

fn shared() -> (Segment, SharedWords) {
    let segment = Segment::create_shared("litmus", note(ROUNDS) as u64 + 8).unwrap();
    let words = SharedWords::mapped(segment.map_writable().unwrap());
    words.prefault(0..words.len());
    (segment, words)
}

#[test]
fn other_process() {
    play(|_part, first: FirstProcess, mut descriptors: Vec<OwnedFd>| {
        let segment = Segment::from_fd(descriptors.pop().expect("the shared segment")).unwrap();
        let words = SharedWords::mapped(segment.map_writable().unwrap());
        words.prefault(0..words.len());
        assert!(membarrier_register());
        first.tell(&[]);
        produce(&words);
        first.tell(&[]);
    });
}

#[test]
fn membarrier_makes_the_compiler_fence_of_another_process_a_full_one() {
    if !membarrier() {
        eprintln!("skipped: this kernel has no membarrier, or forbids it");
        return;
    }
    if is_one_core() {
        return;
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut met = 0;
    while met < ENOUGH {
        let (segment, words) = shared();
        let producer = OtherProcess::start("producer", &[segment.fd()]);
        producer.hear();
        let looks = look(&words, || assert!(words.heavy_fence(Fact::WantedBeforeLook)));
        producer.hear();
        producer.finish();
        assert_eq!(misses(&words, &looks), 0);
        met += looks.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(
            met >= ENOUGH || Instant::now() < deadline,
            "the two hardly ever ran at the same time: nothing was tested"
        );
    }
    eprintln!("{met} rounds met a running producer, none missed it");
}

/// The test above can fail: without `membarrier` both sides miss each other soon.
#[test]
fn without_membarrier_both_sides_miss_each_other() {
    if is_one_core() {
        return;
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (_segment, words) = shared();
        let looks = std::thread::scope(|scope| {
            scope.spawn(|| produce(&words));
            look(&words, || words.light_fence(Fact::WantedBeforeLook))
        });
        let missed = misses(&words, &looks);
        if missed > 0 {
            eprintln!("{missed} of {ROUNDS} rounds missed");
            return;
        }
        assert!(Instant::now() < deadline, "no store was ever buffered: this litmus test shows nothing here");
    }
}

/// Then nothing can be seen: a switch between processes is a fence.
fn is_one_core() -> bool {
    let one = available_cores().len() < 2;
    if one {
        eprintln!("skipped: it takes two cores");
    }
    one
}
