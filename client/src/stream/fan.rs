//! The sender's lanes: an item goes to all of them, or to none.
//!
//! Room is made in every lane first, without committing anything; then the item is written to each. So an item that one
//! receiver has no room for reaches nobody, unless that receiver is to be left out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::log::{NoRoom, Reach};
use nodeset_bus::outlet::Outlet;
use nodeset_bus::protocol::PublicationId;
use tracing::warn;

use super::error::PushError;
use super::mark::Mark;
use crate::session::{Command, DirectShared, Handle, LaneNews};

/// How long a sender that finds a lane full looks again and again before it sleeps.
const PATIENCE: Duration = Duration::from_micros(200);
/// Where the kernel offers no `membarrier`, a sleeper looks by itself so often.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a sender does when there is no room for an item in the lane to a receiver.
///
/// ```
/// use nodeset::{Node, OnFull};
///
/// let node = Node::builder("meter").instance("doc-on-full").embedded().connect()?;
/// let mut slow = node.stream_receiver("level").create()?;
/// let mut level = node.stream("level").on_full(OnFull::LeaveOut).create()?;
/// while level.left_out() == 0 {
///     level.push(&[0; 1000])?;
/// }
/// let mut received = 0;
/// while slow.try_receive()?.is_some() {
///     received += 1;
/// }
/// assert_eq!(received + level.left_out(), level.pushed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnFull {
    /// Waits for that receiver, at most so long; then it is an error.
    Wait(Duration),
    /// Leaves the item out for that receiver, which is told how many it missed.
    LeaveOut,
    /// It is an error.
    Fail,
}

/// One lane.
struct Lane {
    id: PublicationId,
    /// Name of its receiver's node.
    node: Arc<str>,
    outlet: Outlet,
    /// Its receiver is in it: before that nothing is sent.
    ready: bool,
    /// There is room for the item that is being pushed.
    fits: bool,
    /// Items left out since the last one that was not.
    left_out: u64,
}

impl Lane {
    fn make_room(&mut self, len: usize, mark: Mark) -> Result<(), NoRoom> {
        self.fits = false;
        self.outlet.try_open_extended(len, mark.extensions(), Reach::Limit).map(drop)?;
        self.fits = true;
        Ok(())
    }

    /// Commits an item; says whether there was room, which was made before.
    fn send(&mut self, bytes: &[u8], mark: Mark) -> bool {
        match self.outlet.try_open_extended(bytes.len(), mark.extensions(), Reach::Limit) {
            Ok(mut frame) => {
                frame.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
                frame.commit(bytes.len());
                self.left_out = 0;
                true
            }
            Err(_) => false,
        }
    }

    fn item(&self) -> Mark {
        Mark::Item { missed: self.left_out }
    }
}

/// Why an item cannot go to everybody now.
enum Refusal {
    /// The receiver of that lane has to read first.
    Full(usize),
    /// It is too long.
    TooLong(u64),
}

/// All lanes of a sender.
pub(super) struct Fan {
    lanes: Vec<Lane>,
    pub(super) id: PublicationId,
    pub(super) stream: Arc<str>,
    pub(super) shared: Arc<DirectShared>,
    pub(super) handle: Arc<Handle>,
    pub(super) on_full: OnFull,
    /// Items that were left out, a receiver each.
    pub(super) left_out: u64,
    /// Items that receivers which are gone had not handled.
    pub(super) lost: u64,
}

impl Fan {
    pub(super) fn new(
        id: PublicationId,
        stream: Arc<str>,
        shared: Arc<DirectShared>,
        handle: Arc<Handle>,
        on_full: OnFull,
    ) -> Fan {
        Fan { lanes: Vec::new(), id, stream, shared, handle, on_full, left_out: 0, lost: 0 }
    }

    /// Names of the nodes that get the next item.
    pub(super) fn receivers(&mut self) -> Vec<Arc<str>> {
        self.take_news();
        self.lanes.iter().filter(|lane| lane.ready).map(|lane| Arc::clone(&lane.node)).collect()
    }

    /// Sends an item to all receivers; returns how many got it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<usize, PushError> {
        self.make_room(bytes.len(), Lane::item)?;
        let mut reached = 0;
        for lane in self.lanes.iter_mut().filter(|lane| lane.ready) {
            let mark = lane.item();
            if lane.fits && lane.send(bytes, mark) {
                reached += 1;
            } else {
                lane.left_out += 1;
                self.left_out += 1;
            }
        }
        Ok(reached)
    }

    /// As [`push`](Self::push), of at most `len` bytes that `write` writes in place: into the first lane, from which they are copied
    /// to the others. It returns how many it wrote.
    pub(super) fn push_with(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> usize) -> Result<usize, PushError> {
        self.make_room(len, Lane::item)?;
        let ready = self.lanes.iter().filter(|lane| lane.ready).count();
        let mut reached = 0;
        let mut fitting = self.lanes.iter_mut().filter(|lane| lane.ready && lane.fits);
        if let Some(first) = fitting.next() {
            let mark = first.item();
            if let Ok(mut frame) = first.outlet.try_open_extended(len, mark.extensions(), Reach::Limit) {
                let used = write(&mut frame.bytes_mut()[..len]).min(len);
                for lane in fitting {
                    let mark = lane.item();
                    lane.fits = lane.send(&frame.bytes()[..used], mark);
                    reached += usize::from(lane.fits);
                }
                frame.commit(used);
                first.left_out = 0;
                reached += 1;
            } else {
                first.fits = false;
            }
        }
        self.lanes.iter_mut().filter(|lane| lane.ready && !lane.fits).for_each(|lane| lane.left_out += 1);
        self.left_out += (ready - reached) as u64;
        Ok(reached)
    }

    /// Tells every receiver that nothing more comes.
    pub(super) fn finish(&mut self) -> Result<(), PushError> {
        let end = |lane: &Lane| Mark::Finished { missed: lane.left_out };
        // Nobody is left out of the end.
        if self.on_full == OnFull::LeaveOut {
            self.on_full = OnFull::Fail;
        }
        let outcome = self.make_room(0, end);
        // Whoever has room hears it, also those that are not ready yet.
        for lane in &mut self.lanes {
            let mark = end(lane);
            if lane.make_room(0, mark).is_ok() {
                lane.send(&[], mark);
            }
        }
        outcome
    }

    /// Makes room for an item of that length in every lane, or in those that are not to be left out.
    fn make_room(&mut self, len: usize, mark: fn(&Lane) -> Mark) -> Result<(), PushError> {
        match self.attempt(len, mark) {
            Ok(()) => Ok(()),
            Err(refusal) => self.wait_for_room(len, mark, refusal),
        }
    }

    fn attempt(&mut self, len: usize, mark: fn(&Lane) -> Mark) -> Result<(), Refusal> {
        if self.shared.is_fresh() {
            self.take_news();
        }
        for (at, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.ready) {
            let mark = mark(lane);
            match lane.make_room(len, mark) {
                Ok(()) => {}
                Err(NoRoom::TooLong { limit }) => return Err(Refusal::TooLong(limit)),
                Err(_) if self.on_full == OnFull::LeaveOut => {}
                Err(_) => return Err(Refusal::Full(at)),
            }
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn wait_for_room(&mut self, len: usize, mark: fn(&Lane) -> Mark, refusal: Refusal) -> Result<(), PushError> {
        let since = Instant::now();
        let (OnFull::Wait(time), Refusal::Full(_)) = (self.on_full, &refusal) else {
            return Err(self.explain(&refusal, len, Duration::ZERO));
        };
        let deadline = since.checked_add(time);
        let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        // Whoever is only just behind catches up sooner than a sleeper wakes.
        while since.elapsed() < PATIENCE {
            std::thread::yield_now();
            match self.attempt(len, mark) {
                Err(Refusal::Full(_)) => {}
                Err(never) => return Err(self.explain(&never, len, since.elapsed())),
                Ok(()) => return Ok(()),
            }
        }
        let waiter = Arc::clone(&self.handle.core.waiter);
        let mut ticket = waiter.ticket();
        let outcome = loop {
            let heard = self.arm();
            match self.attempt(len, mark) {
                Err(Refusal::Full(_)) if !is_over() => {}
                outcome => break outcome,
            }
            let at_most = (!heard).then_some(LOOK_EVERY);
            if ticket.sleep(deadline, at_most).is_err() {
                std::thread::yield_now();
            }
        };
        self.lanes.iter_mut().for_each(|lane| lane.outlet.disarm_room());
        outcome.map_err(|refusal| self.explain(&refusal, len, since.elapsed()))
    }

    /// Every receiver wakes this sender when it has read something. Says whether that can be relied on.
    fn arm(&mut self) -> bool {
        let mut heard = true;
        for lane in &mut self.lanes {
            heard &= lane.outlet.arm_done();
        }
        heard
    }

    fn explain(&self, refusal: &Refusal, len: usize, waited: Duration) -> PushError {
        match *refusal {
            Refusal::Full(at) => PushError::Full { receiver: Arc::clone(&self.lanes[at].node), waited },
            Refusal::TooLong(limit) => PushError::TooLong { len, limit },
        }
    }

    pub(super) fn take_news(&mut self) {
        for news in self.shared.take() {
            match news {
                LaneNews::Opened(opened) => self.lanes.push(Lane {
                    id: opened.id,
                    node: opened.node,
                    outlet: *opened.outlet,
                    ready: false,
                    fits: false,
                    left_out: 0,
                }),
                LaneNews::Ready(id) => {
                    if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == id) {
                        lane.ready = true;
                    }
                }
                LaneNews::Closed { lane, done } => self.close(lane, done),
            }
        }
    }

    /// The receiver of a lane is gone: nothing more is sent over it.
    fn close(&mut self, id: PublicationId, done: u64) {
        let Some(at) = self.lanes.iter().position(|lane| lane.id == id) else { return };
        let mut lane = self.lanes.swap_remove(at);
        let end = lane.outlet.next_sequence();
        lane.outlet.finish();
        if done < end {
            self.lost += end - done;
            warn!(event = "items_lost", stream = &*self.stream, receiver = &*lane.node, items = end - done);
        }
        self.handle.core.command(Command::LaneClosed(id, end));
    }
}

impl Drop for Fan {
    fn drop(&mut self) {
        self.take_news();
        for mut lane in self.lanes.drain(..) {
            lane.outlet.finish();
        }
        // Takes back what comes from now on, too.
        self.handle.core.command(Command::WithdrawDirect(self.id));
    }
}
