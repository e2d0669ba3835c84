//! Subscribers.

mod builder;

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::inlet::{Frame, InletFault};
use nodeset_bus::message::Message;
use nodeset_bus::protocol::{LinkId, SubscriptionId};
use rkyv::util::AlignedVec;

pub use builder::SubscriberBuilder;

use crate::armed::Watch;
use crate::error::ReceiveError;
use crate::sample::{OwnedSample, Sample};
use crate::session::{Arrival, Command, Handle, Origin, Port, SubscriptionShared};
use crate::wait::{Chase, SpinBudget, Ticket, WaitStrategy, Waiter};

/// Looks between two looks at the clock, where time matters more than who comes meanwhile.
const LOOKS: u32 = 64;
/// A strategy that spins gives way to other threads after so many looks.
const LOOKS_BEFORE_YIELD: u32 = 4096;
/// Logs of other hosts of which it is known where reading them ended; of older ones it is forgotten.
const REMEMBERED: usize = 1024;

/// Receives messages of type `T` from all publishers of a topic, or of all topics of a pattern.
///
/// The order of each publication is kept; between publications there is none.
///
/// ```
/// use std::time::Duration;
/// use nodeset::Node;
///
/// let node = Node::builder("reader").instance("doc-subscriber").embedded().connect()?;
/// let mut subscriber = node.subscriber::<u32>("count/*").reliable().create()?;
/// let mut publisher = node.publisher::<u32>("count/up").create()?;
/// assert_eq!((subscriber.publishers(), subscriber.topic()), (1, "count/*"));
/// assert!(subscriber.pending().is_empty()); // no publisher is on the way
///
/// assert!(subscriber.try_receive()?.is_none()); // never waits
/// for number in 1..=4 {
///     publisher.publish(&number)?;
/// }
/// assert_eq!(*subscriber.receive()?, 1); // waits
/// let second = subscriber.receive_timeout(Duration::from_secs(1))?;
/// assert_eq!(*second.expect("it was published"), 2);
/// for number in subscriber.iter().take(2) {
///     println!("{}", *number?);
/// }
/// assert_eq!(subscriber.missed(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the subscription ends when this is dropped"]
pub struct Subscriber<T: Message + ?Sized> {
    pub(crate) ports: Vec<Port>,
    /// Which port is looked at first.
    next: usize,
    /// Some links are lanes: their publishers are told what is handled.
    has_lanes: bool,
    shared: Arc<SubscriptionShared>,
    pub(crate) topic: Arc<str>,
    id: SubscriptionId,
    handle: Arc<Handle>,
    wait: WaitStrategy,
    budget: SpinBudget,
    chase: Chase,
    /// messages
    received: u64,
    /// Links that came or ended so far.
    link_changes: u64,
    copying: Copying,
    /// The message received last, if its publisher is not to be trusted.
    pub(crate) copy: AlignedVec,
    /// Messages missed on links that are gone, or between two links to one publication.
    missed_earlier: u64,
    /// Links that were given up, and the sequence that was due.
    due: Vec<(LinkId, u64)>,
    /// Logs of other hosts that were read and may come again by another way, and the sequence that was due; newest first.
    left: VecDeque<(Origin, u64)>,
    /// For an event loop that waits for it.
    pub(crate) watch: Watch,
    /// Of a task that waits for it.
    #[cfg(feature = "tokio")]
    pub(crate) task: crate::asynchronous::WaitingTask,
    messages: PhantomData<fn() -> Box<T>>,
}

/// Where a message was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) port: usize,
    pub(crate) frame: Frame,
}

/// Which messages are copied before they are checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Copying {
    /// Those of publishers of other users (neither this one nor root).
    #[default]
    OfOthers,
    Always,
    Never,
}

impl<T: Message + ?Sized> Subscriber<T> {
    /// The next message; waits for it, also for publishers to come.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`]; receiving can go on after each of them.
    #[inline(always)]
    pub fn receive(&mut self) -> Result<Sample<'_, T>, ReceiveError> {
        loop {
            if let Some(found) = self.find(None)? {
                return self.sample(found);
            }
        }
    }

    /// The next message, if one is there. Never waits, allocates nothing, calls no system.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    #[inline(always)]
    pub fn try_receive(&mut self) -> Result<Option<Sample<'_, T>>, ReceiveError> {
        match self.poll()? {
            Some(found) => self.sample(found).map(Some),
            None => Ok(None),
        }
    }

    /// The next message, if it comes within `timeout`.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Sample<'_, T>>, ReceiveError> {
        // A timeout beyond what the clock can say is none.
        match self.find(Instant::now().checked_add(timeout))? {
            Some(found) => self.sample(found).map(Some),
            None => Ok(None),
        }
    }

    /// All messages from now on, waiting for each.
    pub fn iter(&mut self) -> Samples<'_, T> {
        Samples { subscriber: self }
    }

    /// Messages missed so far, of all publications.
    pub fn missed(&self) -> u64 {
        self.missed_earlier + self.ports.iter().map(|port| port.inlet.missed()).sum::<u64>()
    }

    /// How many publishers are linked.
    pub fn publishers(&mut self) -> usize {
        self.take_arrivals();
        self.ports.len()
    }

    /// Names of the publishers' nodes whose links are on their way.
    pub fn pending(&self) -> Vec<Arc<str>> {
        self.shared.pending()
    }

    /// What was subscribed: a topic, an address or a pattern. [`Sample::topic`] says where a message was published.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Waits until there is something to receive, or the deadline is over.
    #[inline(always)]
    pub(crate) fn find(&mut self, deadline: Option<Instant>) -> Result<Option<Found>, ReceiveError> {
        match self.poll() {
            Ok(None) => self.find_waiting(deadline, None),
            found => found,
        }
    }

    /// As [`find`](Self::find), but returns as well once there is another number of [`link_changes`](Self::link_changes) than
    /// `known`: a link came, or ended and was drained.
    #[inline(always)]
    pub(crate) fn find_or_change(
        &mut self,
        known: u64,
        deadline: Option<Instant>,
    ) -> Result<Option<Found>, ReceiveError> {
        match self.poll() {
            Ok(None) if self.link_changes == known => self.find_waiting(deadline, Some(known)),
            found => found,
        }
    }

    /// Whether links may have come or ended since the last [`poll`](Self::poll); without a look at any log.
    #[inline]
    pub(crate) fn has_arrivals(&self) -> bool {
        self.shared.is_fresh()
    }

    /// How often a link came or ended so far.
    #[inline]
    pub(crate) fn link_changes(&self) -> u64 {
        self.link_changes
    }

    /// The same, when there is nothing now.
    #[inline(never)]
    fn find_waiting(&mut self, deadline: Option<Instant>, known: Option<u64>) -> Result<Option<Found>, ReceiveError> {
        loop {
            self.chase.pause(self.received);
            let came = match self.wait {
                WaitStrategy::Spin => self.spin(deadline, LOOKS_BEFORE_YIELD, LOOKS_BEFORE_YIELD),
                WaitStrategy::Yield => self.spin(deadline, 1, LOOKS),
                WaitStrategy::Block => self.spin_briefly(deadline) || self.sleep(deadline)?,
            };
            let found = self.poll()?;
            let changed = known.is_some_and(|known| known != self.link_changes);
            // A damaged log may look ready for ever and never give a message.
            if !came || changed || found.is_some() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(found);
            }
        }
    }

    /// Looks until something comes; false when the deadline is over. Whoever reads the clock does not see what comes meanwhile:
    /// it takes as long as a message.
    fn spin(&mut self, deadline: Option<Instant>, looks_before_yield: u32, looks_before_clock: u32) -> bool {
        let mut look = 0_u32;
        loop {
            // Wraps after minutes of looking: a multiple of all that it is compared with.
            look = look.wrapping_add(1);
            if self.look() {
                self.chase.came(look);
                return true;
            }
            if look > LOOKS {
                std::hint::spin_loop();
            }
            if look % looks_before_yield == 0 {
                std::thread::yield_now();
            }
            if look % looks_before_clock == 0 && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
        }
    }

    /// Looks for as long as it is worth it.
    fn spin_briefly(&mut self, deadline: Option<Instant>) -> bool {
        // The first looks without the clock: reading it takes longer than many a message.
        for look in 1..=LOOKS {
            if self.look() {
                self.chase.came(look);
                return true;
            }
        }
        let mut until = Instant::now() + self.budget.duration();
        if let Some(deadline) = deadline {
            until = until.min(deadline);
        }
        let came = self.spin(Some(until), u32::MAX, LOOKS);
        self.chase.came(u32::MAX);
        if came {
            self.budget.hit()
        } else {
            self.budget.missed()
        }
        came
    }

    /// Sleeps until something may have come; false when the deadline is over.
    fn sleep(&mut self, deadline: Option<Instant>) -> Result<bool, ReceiveError> {
        let mut ticket = self.handle.core.waiter.ticket();
        let at_most = self.wish(&ticket);
        if self.is_ready() {
            return Ok(true);
        }
        ticket.sleep(deadline, at_most).map_err(ReceiveError::Wait)
    }

    /// The steps before sleeping, see [`Ticket::wish`].
    #[must_use]
    pub(crate) fn wish(&self, ticket: &Ticket) -> Option<Duration> {
        ticket.wish(self.ports.iter().map(|port| port.inlet.wish()))
    }

    /// What the threads and tasks of its node wait with.
    pub(crate) fn waiter(&self) -> &Arc<Waiter> {
        &self.handle.core.waiter
    }

    /// As `is_ready`, by those who look again and again.
    #[inline]
    fn look(&self) -> bool {
        self.ports.iter().any(|port| port.inlet.look()) || self.shared.is_fresh()
    }

    /// Whether [`poll`](Self::poll) has something to say.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        self.ports.iter().any(|port| port.inlet.is_ready()) || self.shared.is_fresh()
    }

    /// The next message of any port, in turns.
    #[inline(always)]
    pub(crate) fn poll(&mut self) -> Result<Option<Found>, ReceiveError> {
        if self.has_lanes {
            self.handled();
        }
        self.refresh();
        let mut port = self.next;
        for _ in 0..self.ports.len() {
            if port >= self.ports.len() {
                port = 0;
            }
            if self.ports[port].behind {
                port += 1;
                continue;
            }
            match self.ports[port].inlet.poll() {
                Ok(None) => port += 1,
                Ok(Some(frame)) => {
                    self.next = port + 1;
                    self.received += 1;
                    if self.due.is_empty() {
                        return Ok(Some(Found { port, frame }));
                    }
                    if let Some(frame) = self.continued(port, frame) {
                        return Ok(Some(Found { port, frame }));
                    }
                }
                Err(fault) => {
                    if let Some(error) = self.on_fault(port, fault) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Takes the links that came.
    #[inline(always)]
    pub(crate) fn refresh(&mut self) {
        if self.shared.is_fresh() {
            self.take_arrivals();
            self.give_up_evicted();
        }
    }

    /// Whoever asks for the next message has handled the last one.
    #[inline(always)]
    fn handled(&mut self) {
        match &mut self.ports[..] {
            [port] => port.inlet.handled(),
            ports => ports.iter_mut().for_each(|port| port.inlet.handled()),
        }
    }

    /// A link to a publication that was read before: what lies between is counted, what was had already is left out.
    #[cold]
    fn continued(&mut self, port: usize, mut frame: Frame) -> Option<Frame> {
        let id = self.ports[port].inlet.id();
        let Some(at) = self.due.iter().position(|(link, _)| *link == id) else { return Some(frame) };
        let due = self.due[at].1;
        if frame.sequence < due {
            return None;
        }
        self.due.swap_remove(at);
        let between = frame.sequence - due;
        self.missed_earlier += between - frame.missed_before.min(between);
        frame.missed_before = between;
        Some(frame)
    }

    /// Says what the user has to know.
    #[cold]
    fn on_fault(&mut self, port: usize, fault: InletFault) -> Option<ReceiveError> {
        let of = &self.ports[port].publisher;
        let (topic, publisher) = (Arc::clone(&of.topic), Arc::clone(&of.node));
        match fault {
            InletFault::Evicted { missed } => {
                if self.handle.core.info().attached {
                    self.give_up(port);
                } else {
                    // Nobody could make a fresh link.
                    self.ports[port].evicted = true;
                }
                Some(ReceiveError::Evicted { topic, publisher, missed })
            }
            InletFault::Corrupt { what, .. } => {
                self.retire(port);
                Some(ReceiveError::Damaged { topic, publisher, what })
            }
            // The end. Whoever takes its place was linked before.
            _ => {
                self.take_arrivals();
                self.retire(port);
                if self.ports.iter().any(|port| port.evicted) {
                    // What arrived was taken in the middle of a turn.
                    self.shared.touch();
                }
                None
            }
        }
    }

    /// Gives up a link, so that a fresh reliable one is made; what lies between is counted then.
    fn give_up(&mut self, port: usize) {
        let (link, due) = (self.ports[port].inlet.id(), self.ports[port].inlet.next_sequence());
        self.due.push((link, due));
        self.handle.core.command(Command::GivenUp(link));
        self.retire(port);
    }

    /// Gives up what was read on only because there was no dispatcher, once there is one.
    fn give_up_evicted(&mut self) {
        while let Some(port) = self.ports.iter().position(|port| port.evicted) {
            if !self.handle.core.info().attached {
                return;
            }
            self.give_up(port);
        }
    }

    /// Drops a port; what it missed stays counted.
    fn retire(&mut self, port: usize) {
        let gone = self.ports.swap_remove(port);
        self.link_changes += 1;
        self.missed_earlier += gone.inlet.missed();
        let (publication, next) = (gone.inlet.id().publication, gone.inlet.next_sequence());
        let mut goes_on = false;
        for port in self.ports.iter().filter(|port| port.follows == Some(publication)) {
            let link = port.inlet.id();
            self.due.retain(|(due, _)| *due != link);
            self.due.push((link, next));
            goes_on = true;
        }
        if let Some(origin) = gone.publisher.origin.filter(|_| !goes_on) {
            self.left.push_front((origin, next));
            self.left.truncate(REMEMBERED);
        }
        self.order_ports();
    }

    /// A log of another host is repeated anew by a dispatcher that was restarted: it goes on where the last one ended.
    fn continue_origin(&mut self, port: &mut Port) {
        let Some(origin) = port.publisher.origin else { return };
        let link = port.inlet.id();
        let before = self.ports.iter().find(|other| other.publisher.origin == Some(origin));
        if let Some(before) = before.filter(|other| other.inlet.id().publication != link.publication) {
            port.follows = Some(before.inlet.id().publication);
        } else if let Some(at) = self.left.iter().position(|(left, _)| *left == origin) {
            let next = self.left.remove(at).map_or(0, |(_, next)| next);
            if self.due.iter().all(|(due, _)| *due != link) {
                self.due.push((link, next));
            }
        }
    }

    /// A log that goes on from another one is read after that one.
    fn order_ports(&mut self) {
        self.has_lanes = self.ports.iter().any(|port| port.inlet.is_lane());
        for at in 0..self.ports.len() {
            let Some(before) = self.ports[at].follows else { continue };
            self.ports[at].behind = self.ports.iter().any(|port| port.inlet.id().publication == before);
        }
    }

    #[cold]
    fn take_arrivals(&mut self) {
        for arrival in self.shared.take() {
            match arrival {
                Arrival::Port(mut port) => {
                    self.continue_origin(&mut port);
                    self.ports.push(*port);
                    self.link_changes += 1;
                }
                Arrival::Gone(link) => {
                    if let Some(port) = self.ports.iter_mut().find(|port| port.inlet.id() == link) {
                        port.inlet.publisher_gone();
                    }
                }
            }
        }
        self.order_ports();
    }

    /// Copies a message whose publisher could change it after it was checked. Says whether it did.
    #[inline(always)]
    pub(crate) fn copy_if_needed(&mut self, found: &Found) -> bool {
        let port = &self.ports[found.port];
        let copied = match self.copying {
            Copying::OfOthers => port.publisher.foreign,
            Copying::Always => true,
            Copying::Never => false,
        };
        if copied {
            port.inlet.copy_payload(&mut self.copy);
        }
        copied
    }
}

impl<T: Message + ?Sized> Drop for Subscriber<T> {
    fn drop(&mut self) {
        // A panic may have ended the handling of the last message: then it is another one's to do.
        if !std::thread::panicking() {
            self.handled();
        }
        self.ports.clear();
        drop(self.shared.close());
        self.handle.core.command(Command::CloseSubscription(self.id));
    }
}

impl<T: Message + ?Sized> fmt::Debug for Subscriber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("topic", &self.topic).field("id", &self.id).finish_non_exhaustive()
    }
}

/// All messages of a subscriber, each kept for as long as its sample lives.
///
/// ```
/// # let node = nodeset::Node::builder("reader").instance("doc-samples").embedded().connect()?;
/// let mut publisher = node.publisher::<u32>("count").create()?;
/// let mut subscriber = node.subscriber::<u32>("count").reliable().create()?;
/// for number in 1..=3 {
///     publisher.publish(&number)?;
/// }
/// let mut sum = 0;
/// for number in &mut subscriber {
///     sum += number?.to_native();
///     if sum == 6 {
///         break;
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "an iterator does nothing unless it is used"]
pub struct Samples<'a, T: Message + ?Sized> {
    subscriber: &'a mut Subscriber<T>,
}

impl<T: Message + ?Sized> Iterator for Samples<'_, T> {
    type Item = Result<OwnedSample<T>, ReceiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.subscriber.receive().and_then(Sample::into_owned))
    }
}

impl<'a, T: Message + ?Sized> IntoIterator for &'a mut Subscriber<T> {
    type Item = Result<OwnedSample<T>, ReceiveError>;
    type IntoIter = Samples<'a, T>;

    fn into_iter(self) -> Samples<'a, T> {
        self.iter()
    }
}
