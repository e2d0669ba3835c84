//! Waking up: how a publisher learns, for the price of one cached load a message, that somebody sleeps.
//!
//! # The steps
//!
//! A subscriber that goes to sleep: `asleep` = 1 in its node page; `wake_wanted` = 1 in the signal page of each publication
//! it reads ([`wish`]); [`make_visible`]; looks once more at its logs; sleeps on its bells.
//!
//! A publisher, after each commit: a light fence; loads `wake_wanted`; if it is set, takes it (swap to 0), fences,
//! reads `asleep` of each linked node and rings the bells of those who sleep ([`Alarm::after_commit`]).
//!
//! # Why no wake is lost
//!
//! Store `wake_wanted`, load the log on one side; store the commit word, load `wake_wanted` on the other: Dekker's pattern.
//! With a full fence between store and load on both sides at least one side sees the other. A full fence a message is what
//! the publisher cannot afford, so:
//!
//! 1. *Unfenced mode.* The publisher has a compiler fence only, and the sleeper executes `membarrier`, which puts a full
//!    fence into every running thread of the registered processes
//!    (<https://man7.org/linux/man-pages/man2/membarrier.2.html>). It costs the sleeper some microseconds.
//! 2. *Fenced mode.* The publisher has the full fence, and the sleeper needs none but its own. A publisher whose last
//!    commits woke somebody is in this mode: it pays for system calls anyway, and sleepers are spared the `membarrier`.
//! 3. *To fenced:* between the last unfenced commit and the store of the mode stands the full fence of the wake that caused
//!    it. A sleeper whose own fence comes later sees those commits; one whose fence came earlier is found asleep by the
//!    scan behind that fence.
//! 4. *To unfenced:* the mode is stored, then a full fence, then the first unfenced commit. A sleeper that still loads
//!    `fenced` made its fence before that one, so the publisher's later loads see its wish.
//!
//! No counts are kept, so nothing drifts when someone dies asleep: its wish costs one scan.

use std::sync::Arc;

use crate::atomics::{Fact, Words};
use crate::log::{FENCING_AT, Link, Producer};
use crate::page::{NodePage, SignalPage};

/// Commits without a wish after which fences are given up.
pub const QUIET_COMMITS: u32 = 256;
/// Value of the mode word: a sleeper needs no `membarrier`.
const FENCED: u64 = 1;

/// The publisher's side.
pub struct Alarm<W> {
    /// The words to look at after each commit: one a signal page, so one a user among the subscribers.
    wanted: Vec<(SignalPage<W>, u32)>,
    /// Version of the list of links that `wanted` was made from. The producer looks the list up at other times, too.
    version: u64,
    fenced: bool,
    /// Commits without a wish after which fences are given up; `None` where sleepers cannot make up for that.
    quiet_limit: Option<u32>,
    /// commits since the last wish; counted in fenced mode only
    quiet: u32,
}

impl<W: Words> Alarm<W> {
    /// Begins in fenced mode, and leaves it after that many commits without a wish ([`QUIET_COMMITS`]); `None` where sleepers
    /// cannot make up for missing fences (`membarrier` is not registered).
    pub fn new(producer: &Producer<W>, quiet_limit: Option<u32>) -> Alarm<W> {
        // Relaxed: nobody reads the log before its subscribers are linked, which happens by messages.
        producer.words().store(FENCING_AT, FENCED);
        let mut alarm = Alarm { wanted: Vec::new(), version: 0, fenced: true, quiet_limit, quiet: 0 };
        alarm.relist(producer);
        alarm
    }

    /// To be called after every commit (or several in a row): wakes who sleeps.
    #[inline(always)]
    pub fn after_commit(&mut self, producer: &mut Producer<W>) {
        if self.fenced {
            self.fenced_look(producer);
        } else {
            // PAIRS commit-before-wanted: keeps the commit word before the load of `wake_wanted`, with the sleeper's membarrier
            // in make_visible.
            producer.words().light_fence(Fact::CommitBeforeWanted);
            if producer.links().version() != self.version || self.is_wanted() {
                self.wake(producer);
            }
        }
    }

    #[inline]
    fn is_wanted(&self) -> bool {
        self.wanted.iter().any(|(signal, slot)| signal.is_wanted(*slot))
    }

    #[inline(never)]
    fn fenced_look(&mut self, producer: &mut Producer<W>) {
        // PAIRS commit-before-wanted: keeps the commit word before the load of `wake_wanted`; the sleeper's side is
        // make_visible.
        producer.words().fence(Fact::CommitBeforeWanted);
        if producer.links().version() != self.version || self.is_wanted() {
            self.wake(producer);
        } else if let Some(limit) = self.quiet_limit {
            self.quiet += 1;
            if self.quiet >= limit {
                self.fenced = false;
                // Relaxed: ordered by the fence.
                producer.words().store(FENCING_AT, 0);
                // PAIRS mode-before-commit: keeps the mode before the next commit; the sleeper's side is make_visible.
                producer.words().fence(Fact::ModeBeforeCommit);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn wake(&mut self, producer: &mut Producer<W>) {
        producer.refresh_links();
        if producer.known_version() != self.version {
            self.relist(producer);
        }
        let mut woken = false;
        for (signal, slot) in self.wanted.iter().filter(|(signal, slot)| signal.is_wanted(*slot)) {
            signal.take(*slot);
            woken = true;
        }
        if !woken {
            return;
        }
        // A wish that is taken belongs to everybody on that page; `asleep` says who still sleeps. The fence keeps the loads
        // of `asleep` behind the swap.
        // PAIRS commit-before-wanted: as in fenced_look; the sleeper's side is make_visible.
        producer.words().fence(Fact::CommitBeforeWanted);
        for link in producer.known().iter().filter(|link| link.page.is_asleep()) {
            link.bell.ring();
        }
        self.quiet = 0;
        if !self.fenced {
            self.fenced = true;
            // Relaxed: case 3.
            producer.words().store(FENCING_AT, FENCED);
        }
    }

    /// Collects the words to look at, one a signal page.
    fn relist(&mut self, producer: &Producer<W>) {
        self.wanted.clear();
        self.version = producer.known_version();
        for link in producer.known() {
            if !self.wanted.iter().any(|(signal, _)| signal.is_same(&link.signal)) {
                self.wanted.push((link.signal.clone(), link.slot));
            }
        }
    }
}

/// Wakes everybody on the list who sleeps, whatever they wished: a publication ends.
pub fn wake_all<W: Words>(links: &[Arc<Link<W>>]) {
    for link in links {
        link.bell.ring();
    }
}

/// One publication that a sleeper wants to hear of.
#[derive(Debug, Clone)]
pub struct Wish<W> {
    pub(crate) log: W,
    pub(crate) signal: SignalPage<W>,
    pub(crate) slot: u32,
}

impl<W: Words> Wish<W> {
    /// The log, and the publication's word in the signal page.
    pub fn new(log: W, signal: SignalPage<W>, slot: u32) -> Wish<W> {
        Wish { log, signal, slot }
    }
}

/// The first steps of going to sleep: from now on commits of these publications ring, once each of them can see it
/// ([`make_visible`]).
pub fn wish<'a, W: Words>(page: &NodePage<W>, wishes: impl IntoIterator<Item = &'a Wish<W>>) {
    page.set_asleep(true);
    for wish in wishes {
        wish.signal.want(wish.slot);
    }
}

/// Makes the wishes visible to the publishers; afterwards the sleeper must look once more at each log, then may sleep.
///
/// Says false when that could not be done (the kernel forbids `membarrier` in this process but not in a publisher's): the
/// sleeper must then wake up by itself every few milliseconds.
#[must_use]
pub fn make_visible<'a, W: Words>(page: &NodePage<W>, wishes: impl IntoIterator<Item = &'a Wish<W>>) -> bool {
    // PAIRS commit-before-wanted, mode-before-commit: keeps the wishes before the loads of the mode and of the logs.
    page.words().fence(Fact::WantedBeforeLook);
    // Relaxed: cases 3 and 4.
    let all_fenced = wishes.into_iter().all(|wish| wish.log.load(FENCING_AT) == FENCED);
    // PAIRS commit-before-wanted: the light fence in Alarm::after_commit.
    all_fenced || page.words().heavy_fence(Fact::WantedBeforeLook)
}
