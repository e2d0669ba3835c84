//! Wait sets: one thread waits for messages on many topics, of one node or several, for timers, and for foreign descriptors.
//! See [`WaitSet`].
//!
//! How it works: each node's descriptor stands, edge-triggered, in the set's own epoll instance, each foreign one level-triggered. A wait
//! looks at everything first. If nothing is ready it takes a ticket of each node, makes its wishes, looks once more and
//! sleeps, as a single subscriber does (`wait`). Tickets and wishes outlive a wait that ended for another reason than a
//! message: a set that is woken by a fast timer does not make its wishes again each time.

mod key;
mod source;

use std::any::Any;
use std::fmt;
use std::ops::{Index, IndexMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use nodeset_bus::sys::Bell;
use rustix::event::epoll;
use rustix::io::Errno;

pub use key::{Id, Key, Ready};
pub use source::{Descriptor, Source, Timer};

use crate::error::WaitError;
use crate::wait::{Ringer, SpinBudget, Ticket, Waiter, timespec};
pub(crate) use source::{Kind, Member, Receives};

/// Looks between two looks at the clock.
const LOOKS: u32 = 64;
/// Descriptors of which one wait hears at most; the others are heard of by the next ones, in turns.
const EVENTS: usize = 64;

/// What an event of the epoll instance is about: in the upper half of its data, beside an index.
mod about {
    /// Somebody else took what a node's descriptor rang for.
    pub(super) const TAKEN: u32 = 0;
    /// [`WakeHandle`](super::WakeHandle).
    pub(super) const WAKE: u32 = 1;
    /// A node rang.
    pub(super) const NODE: u32 = 2;
    /// A foreign descriptor is ready.
    pub(super) const DESCRIPTOR: u32 = 3;
}

/// Waits for many things at once, on one thread: subscribers ([`Subscriber`](crate::Subscriber)), timers ([`Timer`]) and
/// foreign descriptors ([`Descriptor`]).
///
/// The set owns what is attached to it; the key that [`attach`](Self::attach) returns leads to it. Other threads and tasks may
/// wait for other subscribers of the same nodes at the same time.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, Timer, WaitSet};
///
/// let node = Node::builder("robot").instance("doc-wait-set").embedded().connect()?;
/// let mut publisher = node.publisher::<u32>("robot/speed").create()?;
///
/// let mut set = WaitSet::new()?;
/// let speeds = set.attach(node.subscriber::<u32>("robot/speed").create()?)?;
/// let orders = set.attach(node.subscriber::<str>("robot/orders").create()?)?;
/// let ticks = set.attach(Timer::every(Duration::from_millis(10)))?;
///
/// let (mut ticked, mut sum) = (0, 0);
/// while ticked < 3 {
///     let ready = set.wait()?;
///     if ready.has(ticks) {
///         ticked += 1;
///         publisher.publish(&ticked)?;
///     }
///     if ready.has(speeds) {
///         while let Some(speed) = set[speeds].try_receive()? {
///             sum += speed.to_native();
///         }
///     }
///     assert!(!ready.has(orders));
/// }
/// while let Some(speed) = set[speeds].try_receive()? {
///     sum += speed.to_native();
/// }
/// assert_eq!(sum, 6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WaitSet {
    /// Tells its keys from those of other sets.
    id: u64,
    epoll: OwnedFd,
    /// Rung by whoever takes what a node's descriptor rang for.
    taken: Arc<Ringer>,
    /// The same, for tickets.
    waker: Waker,
    /// Rung by wake handles.
    wake: Arc<Ringer>,
    nodes: Vec<WaitingNode>,
    /// Number of the next node.
    next_node: u32,
    members: Vec<Slot>,
    /// How many members are foreign descriptors.
    descriptors: usize,
    budget: SpinBudget,
}

/// A node whose subscribers are waited for.
struct WaitingNode {
    /// Tells it from the others that are or were here.
    number: u32,
    waiter: Arc<Waiter>,
    /// From the wait that found no message to the one that finds one.
    ticket: Option<Ticket>,
    /// The wishes of its subscribers hold: nothing rang since they were made.
    wished: bool,
    /// How many members are its subscribers; it is forgotten with the last one.
    subscribers: usize,
}

/// A place for a member.
struct Slot {
    /// Grows with each member that leaves.
    generation: u32,
    member: Option<Box<dyn Member>>,
    /// Of a subscriber: the number of its node.
    node: Option<u32>,
}

/// Ends a wait of a [`WaitSet`] from another thread.
///
/// ```
/// let mut set = nodeset::WaitSet::new()?;
/// let handle = set.wake_handle();
/// let other = std::thread::spawn(move || handle.wake());
/// assert!(set.wait()?.is_empty());
/// other.join().expect("it only wakes");
/// # Ok::<(), nodeset::WaitError>(())
/// ```
#[derive(Clone)]
pub struct WakeHandle(Arc<Ringer>);

impl WakeHandle {
    /// Ends the wait that goes on now, or else the next one that would have to sleep. Several at once may end one only.
    pub fn wake(&self) {
        self.0.0.ring();
    }
}

impl fmt::Debug for WakeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakeHandle").finish_non_exhaustive()
    }
}

impl WaitSet {
    /// An empty set. Costs three descriptors.
    ///
    /// # Errors
    ///
    /// [`WaitError::System`], when the process has too many descriptors (`ulimit -n`).
    pub fn new() -> Result<WaitSet, WaitError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = |about| -> Result<Arc<Ringer>, WaitError> {
            let bell = Bell::new()?;
            epoll::add(&epoll, &bell, data(about, 0), epoll::EventFlags::IN)?;
            Ok(Arc::new(Ringer(bell)))
        };
        let (taken, wake) = (bell(about::TAKEN)?, bell(about::WAKE)?);
        Ok(WaitSet {
            id: crate::random(),
            epoll,
            waker: Waker::from(Arc::clone(&taken)),
            taken,
            wake,
            nodes: Vec::new(),
            next_node: 0,
            members: Vec::new(),
            descriptors: 0,
            budget: SpinBudget::new(),
        })
    }

    /// Waits for this, too, from the next wait on. The key leads to it: `set[key]`.
    ///
    /// ```
    /// # use nodeset::{Node, WaitSet};
    /// # let node = Node::builder("reader").instance("doc-attach").embedded().connect()?;
    /// let mut set = WaitSet::new()?;
    /// let lines = set.attach(node.subscriber::<str>("log/lines").create()?)?;
    /// assert_eq!(set[lines].topic(), "log/lines");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`WaitError::Descriptor`] for descriptors that cannot be waited for; [`WaitError::System`].
    pub fn attach<S: Source>(&mut self, source: S) -> Result<Key<S>, WaitError> {
        let index = self.free_slot();
        let node = match source.kind() {
            Kind::Subscriber(subscriber) => Some(self.join_node(subscriber.waiter())?),
            Kind::Descriptor(descriptor, flags) => {
                epoll::add(&self.epoll, descriptor, data(about::DESCRIPTOR, index as u32), flags)
                    .map_err(|errno| WaitError::Descriptor(errno.into()))?;
                self.descriptors += 1;
                None
            }
            Kind::Timer => None,
        };
        let slot = &mut self.members[index];
        slot.member = Some(Box::new(source));
        slot.node = node;
        Ok(Key::new(Id { set: self.id, index, generation: slot.generation }))
    }

    /// Gives back what was attached; `None` if it was given back already, or is of another set.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use nodeset::{Timer, WaitSet};
    /// let (mut set, timer) = (WaitSet::new()?, Timer::every(Duration::from_secs(1)));
    /// let key = set.attach(timer)?;
    /// assert_eq!(set.detach(key), Some(timer));
    /// assert_eq!(set.detach(key), None);
    /// # Ok::<(), nodeset::WaitError>(())
    /// ```
    pub fn detach<S: Source>(&mut self, key: Key<S>) -> Option<S> {
        let slot = self.members.get_mut(key.id().index).filter(|slot| key.id().is(self.id, slot.generation))?;
        let member = slot.member.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        if let Some(node) = slot.node.take() {
            self.leave_node(node);
        }
        if let Kind::Descriptor(descriptor, _) = member.kind() {
            self.descriptors -= 1;
            // Fails only if it was closed behind our back, and then the kernel has removed it.
            let _ = epoll::delete(&self.epoll, descriptor);
        }
        let member: Box<dyn Any> = member;
        member.downcast().ok().map(|source| *source)
    }

    /// What was attached; `None` if it was given back, or is of another set, where `set[key]` panics.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nodeset::{Timer, WaitSet};
    ///
    /// let (mut set, timer) = (WaitSet::new()?, Timer::after(Duration::from_secs(1)));
    /// let key = set.attach(timer)?;
    /// assert_eq!(set.get(key), Some(&timer));
    /// set.detach(key);
    /// assert_eq!(set.get(key), None);
    /// # Ok::<(), nodeset::WaitError>(())
    /// ```
    pub fn get<S: Source>(&self, key: Key<S>) -> Option<&S> {
        let slot = self.members.get(key.id().index).filter(|slot| key.id().is(self.id, slot.generation))?;
        let member: &dyn Any = slot.member.as_deref()?;
        member.downcast_ref()
    }

    /// The same, to receive from, or to change.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nodeset::{Timer, WaitSet};
    ///
    /// let mut set = WaitSet::new()?;
    /// let key = set.attach(Timer::after(Duration::from_secs(3600)))?;
    /// if let Some(timer) = set.get_mut(key) {
    ///     *timer = Timer::after(Duration::ZERO);
    /// }
    /// assert!(set.wait()?.has(key));
    /// # Ok::<(), nodeset::WaitError>(())
    /// ```
    pub fn get_mut<S: Source>(&mut self, key: Key<S>) -> Option<&mut S> {
        let slot = self.members.get_mut(key.id().index).filter(|slot| key.id().is(self.id, slot.generation))?;
        let member: &mut dyn Any = slot.member.as_deref_mut()?;
        member.downcast_mut()
    }

    /// Ends waits of this set from other threads.
    ///
    /// ```
    /// let mut set = nodeset::WaitSet::new()?;
    /// set.wake_handle().wake();
    /// assert!(set.wait()?.is_empty()); // returned at once
    /// # Ok::<(), nodeset::WaitError>(())
    /// ```
    pub fn wake_handle(&self) -> WakeHandle {
        WakeHandle(Arc::clone(&self.wake))
    }

    /// Waits until something is ready, and says what: subscribers that have something to receive, timers that are over,
    /// descriptors that are ready. Nothing is taken: what is not received is ready the next time, too. A subscriber may be ready
    /// only because it has heard of a publisher, and then have no message. Nothing is ready only if a [`WakeHandle`] ended the
    /// wait.
    ///
    /// Looks for some microseconds, then sleeps.
    ///
    /// # Errors
    ///
    /// [`WaitError::System`].
    pub fn wait(&mut self) -> Result<Ready, WaitError> {
        self.wait_for(None)
    }

    /// The same, at most until `deadline`; then nothing is ready.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// let deadline = Instant::now() + Duration::from_millis(1);
    /// let mut set = nodeset::WaitSet::new()?;
    /// assert!(set.wait_until(deadline)?.is_empty());
    /// assert!(Instant::now() >= deadline);
    /// # Ok::<(), nodeset::WaitError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_until(&mut self, deadline: Instant) -> Result<Ready, WaitError> {
        self.wait_for(Some(deadline))
    }

    /// The same, at most so long.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let mut set = nodeset::WaitSet::new()?;
    /// assert!(set.wait_timeout(Duration::from_millis(1))?.is_empty());
    /// # Ok::<(), nodeset::WaitError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Ready, WaitError> {
        // A timeout beyond what the clock can say is none.
        self.wait_for(Instant::now().checked_add(timeout))
    }

    fn wait_for(&mut self, deadline: Option<Instant>) -> Result<Ready, WaitError> {
        let mut ready = Ready::default();
        loop {
            let until = earlier(self.look(&mut ready), deadline);
            if ready.is_empty() && self.spin_briefly(until) {
                self.look(&mut ready);
            }
            let mut woken = false;
            if ready.is_empty() {
                let at_most = self.prepare_sleep();
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                let timeout = if self.is_any_ready() { Some(Duration::ZERO) } else { earlier(left, at_most) };
                woken = self.take_events(&mut ready, timeout)?;
                self.look(&mut ready);
            } else if self.descriptors > 0 {
                // Subscribers that always have something keep nobody else from being heard.
                woken = self.take_events(&mut ready, Some(Duration::ZERO))?;
            }
            if woken || !ready.is_empty() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.rest(&ready);
                return Ok(ready.sorted());
            }
        }
    }

    /// Finds the subscribers that are ready and the timers that are over. Says when the next timer will be.
    fn look(&mut self, ready: &mut Ready) -> Option<Instant> {
        let (mut next, mut now) = (None, None);
        for (index, slot) in self.members.iter_mut().enumerate() {
            let Some(member) = &mut slot.member else { continue };
            let id = Id { set: self.id, index, generation: slot.generation };
            if let Some(timer) = member.timer_mut() {
                if timer.take(*now.get_or_insert_with(Instant::now)) {
                    ready.add(id);
                }
                next = earlier(next, timer.due());
            } else if matches!(member.kind(), Kind::Subscriber(subscriber) if subscriber.is_ready()) {
                ready.add(id);
            }
        }
        next
    }

    /// Whether a subscriber is ready.
    fn is_any_ready(&self) -> bool {
        self.subscribers().any(|(_, subscriber)| subscriber.is_ready())
    }

    /// Looks for messages for as long as it is worth it.
    fn spin_briefly(&mut self, until: Option<Instant>) -> bool {
        if self.nodes.is_empty() {
            return false;
        }
        let now = Instant::now();
        let until = earlier(Some(now + self.budget.duration()), until);
        let mut came = false;
        while !came && until.is_some_and(|until| Instant::now() < until) {
            came = (0..LOOKS).any(|_| {
                std::hint::spin_loop();
                self.is_any_ready()
            });
        }
        if came {
            self.budget.hit()
        } else {
            self.budget.missed()
        }
        came
    }

    /// The steps before sleeping, for each node. Says how long one may sleep at most.
    fn prepare_sleep(&mut self) -> Option<Duration> {
        let mut at_most = None;
        for at in 0..self.nodes.len() {
            let WaitingNode { waiter, ticket, wished, .. } = &mut self.nodes[at];
            *wished &= ticket.is_some();
            let quiet = ticket.get_or_insert_with(|| waiter.ticket()).wake_with(&self.waker);
            if quiet && *wished {
                continue;
            }
            let WaitingNode { number, ticket: Some(ticket), .. } = &self.nodes[at] else { continue };
            let mut wishes = Vec::new();
            for (_, subscriber) in self.subscribers().filter(|(node, _)| node == number) {
                subscriber.wishes(&mut wishes);
            }
            let limit = ticket.wish(wishes.iter().copied());
            at_most = earlier(at_most, limit);
            // Where wishes cannot be made visible they are made again each time.
            self.nodes[at].wished = limit.is_none();
        }
        at_most
    }

    /// Sleeps, and takes what happened. Says whether a wake handle was used.
    fn take_events(&mut self, ready: &mut Ready, timeout: Option<Duration>) -> Result<bool, WaitError> {
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let happened = match epoll::wait(&self.epoll, &mut events[..], timeout.map(timespec).as_ref()) {
            Ok((happened, _)) => happened,
            Err(Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let mut woken = false;
        for event in happened {
            let (about, index) = ((event.data.u64() >> 32) as u32, event.data.u64() as u32);
            match about {
                about::TAKEN => {
                    self.taken.0.drain();
                    self.nodes.iter_mut().for_each(|node| node.wished = false);
                }
                about::WAKE => woken |= self.wake.0.drain(),
                about::NODE => {
                    self.nodes.iter_mut().filter(|node| node.number == index).for_each(|node| node.wished = false);
                }
                _ => {
                    let index = index as usize;
                    if let Some(slot) = self.members.get(index).filter(|slot| slot.member.is_some()) {
                        ready.add(Id { set: self.id, index, generation: slot.generation });
                    }
                }
            }
        }
        Ok(woken)
    }

    /// Gives back the tickets of nodes whose subscribers are ready: they do not sleep.
    fn rest(&mut self, ready: &Ready) {
        for id in ready {
            let of = self.members[id.index].node;
            self.nodes.iter_mut().filter(|node| Some(node.number) == of).for_each(|node| node.ticket = None);
        }
    }

    /// The subscribers, each with the number of its node.
    fn subscribers(&self) -> impl Iterator<Item = (u32, &dyn source::Receives)> {
        self.members.iter().filter_map(|slot| match slot.member.as_ref()?.kind() {
            Kind::Subscriber(subscriber) => Some((slot.node?, subscriber)),
            _ => None,
        })
    }

    fn free_slot(&mut self) -> usize {
        self.members.iter().position(|slot| slot.member.is_none()).unwrap_or_else(|| {
            self.members.push(Slot { generation: 0, member: None, node: None });
            self.members.len() - 1
        })
    }

    /// The number of a node that now has one more subscriber here.
    fn join_node(&mut self, waiter: &Arc<Waiter>) -> Result<u32, WaitError> {
        if let Some(node) = self.nodes.iter_mut().find(|node| Arc::ptr_eq(&node.waiter, waiter)) {
            node.subscribers += 1;
            node.wished = false;
            return Ok(node.number);
        }
        let number = self.next_node;
        epoll::add(&self.epoll, waiter, data(about::NODE, number), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        self.next_node = number.wrapping_add(1);
        let waiter = Arc::clone(waiter);
        self.nodes.push(WaitingNode { number, waiter, ticket: None, wished: false, subscribers: 1 });
        Ok(number)
    }

    fn leave_node(&mut self, number: u32) {
        let Some(at) = self.nodes.iter().position(|node| node.number == number) else { return };
        self.nodes[at].subscribers -= 1;
        if self.nodes[at].subscribers == 0 {
            let node = self.nodes.swap_remove(at);
            // It is open, and was registered.
            let _ = epoll::delete(&self.epoll, &node.waiter);
        }
    }
}

impl<S: Source> Index<Key<S>> for WaitSet {
    type Output = S;

    /// # Panics
    ///
    /// If it was detached, or is of another set; [`WaitSet::get`] does not.
    fn index(&self, key: Key<S>) -> &S {
        self.get(key).expect("the key is of this set, and what it leads to was not detached")
    }
}

impl<S: Source> IndexMut<Key<S>> for WaitSet {
    /// # Panics
    ///
    /// If it was detached, or is of another set; [`WaitSet::get_mut`] does not.
    fn index_mut(&mut self, key: Key<S>) -> &mut S {
        self.get_mut(key).expect("the key is of this set, and what it leads to was not detached")
    }
}

impl fmt::Debug for WaitSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.iter().filter(|slot| slot.member.is_some()).count();
        f.debug_struct("WaitSet").field("members", &members).finish_non_exhaustive()
    }
}

fn data(about: u32, index: u32) -> epoll::EventData {
    epoll::EventData::new_u64(u64::from(about) << 32 | u64::from(index))
}

/// The smaller one of those that are.
fn earlier<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
