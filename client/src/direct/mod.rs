//! Publishers whose messages each go to one subscriber.
//!
//! Each subscriber has a *lane*: a log of its own, on which nobody else's messages stand. So a message is written once, read in
//! place, and a slow subscriber holds up nobody: its lane fills, and is passed over.
//!
//! Reading order: [`schedule`] (whose turn it is), [`lane`], this module; the session's part is `session/lanes.rs`.

mod builder;
mod lane;
mod schedule;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::log::NoRoom;
use nodeset_bus::message::Message;
use nodeset_bus::outlet::OutletError;
use nodeset_bus::protocol::PublicationId;
use tracing::warn;

use crate::error::{DeliverError, NotEnoughSubscribers};
use crate::session::{Command, DirectShared, Handle, LaneNews};
use crate::wait::{WaitStrategy, after};
pub use builder::DirectPublisherBuilder;
use lane::{Lane, Limit, Refusal};
use schedule::Schedule;

/// How long a publisher that finds all lanes full looks again and again before it sleeps.
const PATIENCE: Duration = Duration::from_micros(200);
/// Pauses between two looks.
const LOOKS: u32 = 64;
/// Where the kernel offers no `membarrier`, a sleeper looks by itself so often.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Publishes messages of type `T` on one topic, each to *one* of its subscribers: in turns, by their weights
/// ([`SubscriberBuilder::weight`](crate::SubscriberBuilder::weight)), or to the node that is named.
///
/// Subscribers need do nothing special: whoever subscribes the topic is one, reliable or not, and loses nothing. A message is
/// *handled* when its subscriber asks for the next one (or is dropped, but not by a panic). A subscriber with too much to do
/// ([`backlog`](DirectPublisherBuilder::backlog)) is passed over.
///
/// When a subscriber dies, what it had not handled is lost, and counted ([`lost`](Self::lost)); or, with
/// [`redeliver`](DirectPublisherBuilder::redeliver), goes to another one, in the order in which it was sent. Such a message may
/// be handled twice, if the subscriber died between handling it and asking for the next one.
///
/// Dropped, it ends the publication: its subscribers get what was published, then learn the end.
///
/// ```
/// use nodeset::Node;
///
/// let node = Node::builder("jobs").instance("doc-direct").embedded().connect()?;
/// let mut ann = node.subscriber::<str>("jobs").create()?;
/// let mut bob = node.subscriber::<str>("jobs").create()?;
/// let mut jobs = node.publisher::<str>("jobs").direct().create()?;
/// for job in ["dig", "sow", "reap", "rest"] {
///     jobs.publish(job)?;
/// }
/// for worker in [&mut ann, &mut bob] {
///     assert!(worker.receive()?.len() > 2);
///     assert!(worker.try_receive()?.is_some());
///     assert!(worker.try_receive()?.is_none(), "two for each");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the publication ends when this is dropped"]
pub struct DirectPublisher<T: Message + ?Sized> {
    lanes: Vec<Lane>,
    schedule: Schedule,
    id: PublicationId,
    topic: Arc<str>,
    shared: Arc<DirectShared>,
    handle: Arc<Handle>,
    /// Each message carries its publish time.
    timestamps: bool,
    /// messages that may wait in a lane
    backlog: u64,
    redeliver: bool,
    deadline: Duration,
    wait: WaitStrategy,
    lost: u64,
    messages: PhantomData<fn(&T)>,
}

/// Which lanes a message may go to.
#[derive(Clone, Copy)]
enum To<'a> {
    Any,
    /// One of that node's.
    Node(&'a str),
}

impl<'a> To<'a> {
    /// `node` is a name, or `name@local`.
    fn node(node: &'a str) -> To<'a> {
        To::Node(node.strip_suffix("@local").unwrap_or(node))
    }
}

/// A message with what it says on its envelope.
struct Letter<'a, T: ?Sized> {
    message: &'a T,
    tag: Option<u64>,
    to: To<'a>,
}

impl<T: Message + ?Sized> DirectPublisher<T> {
    /// Publishes a message to the subscriber whose turn it is, of those that do not have too much to do. While there is none, it
    /// waits for one, up to the publisher's deadline (1 s unless set).
    ///
    /// # Errors
    ///
    /// See [`DeliverError`]; the message was not sent then.
    #[inline(always)]
    pub fn publish(&mut self, message: &T) -> Result<(), DeliverError> {
        if self.publish_in_turn(message) { Ok(()) } else { self.publish_anyhow(message) }
    }

    /// As [`publish`](Self::publish), but never waits.
    ///
    /// ```
    /// use nodeset::{DeliverError, Node};
    ///
    /// let node = Node::builder("boss").instance("doc-direct-try").embedded().connect()?;
    /// let mut worker = node.subscriber::<str>("jobs").create()?;
    /// let mut jobs = node.publisher::<str>("jobs").direct().backlog(1).create()?;
    /// jobs.try_publish("dig")?;
    /// let busy = jobs.try_publish("sow").unwrap_err();
    /// assert!(matches!(busy, DeliverError::Full { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    #[inline(always)]
    pub fn try_publish(&mut self, message: &T) -> Result<(), DeliverError> {
        if self.publish_in_turn(message) { Ok(()) } else { self.try_publish_anyhow(message) }
    }

    /// Publishes a message to a subscriber of that node: to one of them, in turns, if it has several. `node` is its name, or
    /// `name@local`; with the name that further nodes share (`worker` of `worker-2`) any of these is meant. Waits as
    /// [`publish`](Self::publish) does, also for the node to come.
    ///
    /// ```
    /// use nodeset::Node;
    ///
    /// let builder = Node::builder("worker").instance("doc-direct-to").embedded();
    /// let (boss, first, second) = (builder.clone().connect()?, builder.clone().connect()?, builder.connect()?);
    /// let mut idle = first.subscriber::<str>("jobs").create()?;
    /// let mut busy = second.subscriber::<str>("jobs").create()?;
    /// let mut jobs = boss.publisher::<str>("jobs").direct().create()?;
    /// jobs.publish_to(&second.name(), "dig")?;
    /// assert_eq!(&*busy.receive()?, "dig");
    /// assert!(idle.try_receive()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`DeliverError`]; the message was not sent then.
    pub fn publish_to(&mut self, node: &str, message: &T) -> Result<(), DeliverError> {
        self.deliver(&Letter { message, tag: None, to: To::node(node) })
    }

    /// As [`publish`](Self::publish), with a number beside the message, whatever it means to its publisher and subscribers
    /// ([`Sample::tag`](crate::Sample::tag)). It costs 16 bytes. Redelivered, the message keeps it.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("jobs").instance("doc-direct-tag").embedded().connect()?;
    /// let mut worker = node.subscriber::<str>("jobs").create()?;
    /// let mut jobs = node.publisher::<str>("jobs").direct().create()?;
    /// jobs.publish_tagged("dig", 7)?;
    /// assert_eq!(worker.receive()?.tag(), Some(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`DeliverError`]; the message was not sent then.
    pub fn publish_tagged(&mut self, message: &T, tag: u64) -> Result<(), DeliverError> {
        self.deliver(&Letter { message, tag: Some(tag), to: To::Any })
    }

    /// As [`publish_to`](Self::publish_to), with a number beside the message, as in [`publish_tagged`](Self::publish_tagged).
    ///
    /// ```
    /// # let node = nodeset::Node::builder("boss").instance("doc-direct-to-tag").embedded().connect()?;
    /// let mut worker = node.subscriber::<str>("jobs").create()?;
    /// let mut jobs = node.publisher::<str>("jobs").direct().create()?;
    /// jobs.publish_to_tagged("boss", "dig", 7)?;
    /// assert_eq!(worker.receive()?.tag(), Some(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`DeliverError`]; the message was not sent then.
    pub fn publish_to_tagged(&mut self, node: &str, message: &T, tag: u64) -> Result<(), DeliverError> {
        self.deliver(&Letter { message, tag: Some(tag), to: To::node(node) })
    }

    /// As [`publish_to`](Self::publish_to), but never waits.
    ///
    /// ```
    /// use nodeset::{DeliverError, Node};
    ///
    /// let node = Node::builder("boss").instance("doc-direct-try-to").embedded().connect()?;
    /// let mut jobs = node.publisher::<str>("jobs").direct().create()?;
    /// let nobody = jobs.try_publish_to("worker", "dig").unwrap_err();
    /// assert!(matches!(nobody, DeliverError::NoSuchNode { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub fn try_publish_to(&mut self, node: &str, message: &T) -> Result<(), DeliverError> {
        let to = To::node(node);
        let tried = self.attempt(&Letter { message, tag: None, to }, 1);
        tried.map_err(|refusal| self.explain(refusal, to, Duration::ZERO))
    }

    /// How many subscribers there are, as of the last message.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nodeset::Node;
    ///
    /// let node = Node::builder("boss").instance("doc-direct-who").embedded().connect()?;
    /// let mut jobs = node.publisher::<str>("jobs").direct().create()?;
    /// let worker = node.subscriber::<str>("jobs").create()?;
    /// jobs.wait_for_subscribers(1, Duration::from_secs(10))?;
    /// assert_eq!(jobs.subscribers(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribers(&mut self) -> usize {
        self.take_news();
        self.lanes.iter().filter(|lane| lane.ready).count()
    }

    /// Names of the subscribers' nodes whose lanes are on their way.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("boss").instance("doc-direct-pending").embedded().connect()?;
    /// let jobs = node.publisher::<str>("jobs").direct().create()?;
    /// assert!(jobs.pending().is_empty()); // whoever is there has a lane
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pending(&self) -> Vec<Arc<str>> {
        self.shared.links.pending()
    }

    /// Waits until there are at least `wanted` subscribers. Returns how many there are.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nodeset::Node;
    ///
    /// let node = Node::builder("boss").instance("doc-direct-wait").embedded().connect()?;
    /// let jobs = node.publisher::<str>("jobs").direct().create()?;
    /// let worker = node.subscriber::<str>("jobs").create()?;
    /// assert_eq!(jobs.wait_for_subscribers(1, Duration::from_secs(10))?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When there are fewer after `timeout`.
    pub fn wait_for_subscribers(&self, wanted: usize, timeout: Duration) -> Result<usize, NotEnoughSubscribers> {
        let found = self.shared.links.wait_ready(wanted, after(Instant::now(), timeout));
        if found >= wanted {
            return Ok(found);
        }
        Err(NotEnoughSubscribers { topic: Arc::clone(&self.topic), wanted, found, waited: timeout })
    }

    /// Messages that were sent to subscribers which left or died without having handled them, and that went to nobody else.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("boss").instance("doc-direct-lost").embedded().connect()?;
    /// let worker = node.subscriber::<str>("jobs").create()?;
    /// let mut jobs = node.publisher::<str>("jobs").direct().create()?;
    /// jobs.publish("dig")?;
    /// assert_eq!(jobs.lost(), 0);
    /// drop(worker); // without having handled it
    /// while jobs.lost() == 0 {
    ///     std::thread::yield_now();
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lost(&mut self) -> u64 {
        self.take_news();
        self.lost
    }

    /// Messages that wait for each subscriber, by the name of its node.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("boss").instance("doc-direct-waiting").embedded().connect()?;
    /// let worker = node.subscriber::<str>("jobs").create()?;
    /// let mut jobs = node.publisher::<str>("jobs").direct().create()?;
    /// jobs.publish("dig")?;
    /// assert_eq!(jobs.waiting(), [(node.name(), 1)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn waiting(&mut self) -> Vec<(Arc<str>, u64)> {
        self.take_news();
        self.lanes.iter_mut().map(|lane| (Arc::clone(&lane.node), lane.waiting())).collect()
    }

    /// The topic.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("boss").instance("doc-direct-topic").embedded().connect()?;
    /// let jobs = node.publisher::<str>("jobs").direct().create()?;
    /// assert_eq!(jobs.topic(), "jobs");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The common case: whose turn it is takes the message. All that is inlined into the caller.
    #[inline(always)]
    fn publish_in_turn(&mut self, message: &T) -> bool {
        if self.shared.is_fresh() {
            return false;
        }
        let lane = self.schedule.turn().and_then(|turn| self.lanes.get_mut(turn));
        let taken = lane.is_some_and(|lane| lane.publish_on_credit(message));
        if taken {
            self.schedule.advance();
        }
        taken
    }

    #[cold]
    #[inline(never)]
    fn publish_anyhow(&mut self, message: &T) -> Result<(), DeliverError> {
        self.deliver(&Letter { message, tag: None, to: To::Any })
    }

    #[cold]
    #[inline(never)]
    fn try_publish_anyhow(&mut self, message: &T) -> Result<(), DeliverError> {
        let tried = self.attempt(&Letter { message, tag: None, to: To::Any }, 1);
        tried.map_err(|refusal| self.explain(refusal, To::Any, Duration::ZERO))
    }

    /// Publishes it to a subscriber that is meant; waits for one if need be.
    fn deliver(&mut self, letter: &Letter<'_, T>) -> Result<(), DeliverError> {
        match self.attempt(letter, 1) {
            Ok(()) => Ok(()),
            Err(refusal) => self.retry(letter, refusal),
        }
    }

    /// One turn for each lane that is meant, until one takes the message.
    fn attempt(&mut self, letter: &Letter<'_, T>, room: u64) -> Result<(), Refusal> {
        if self.shared.is_fresh() {
            self.take_news();
        }
        let limit = Limit { most: self.backlog, room };
        for _ in 0..self.schedule.len() {
            let Some(turn) = self.schedule.turn() else { break };
            self.schedule.advance();
            let lane = &mut self.lanes[turn];
            if let To::Node(node) = letter.to {
                if !is_of(&lane.node, node) {
                    continue;
                }
            }
            match lane.try_publish(letter.message, letter.tag, limit) {
                Err(Refusal::Full) => {}
                other => return other,
            }
        }
        Err(Refusal::Full)
    }

    /// Waits until a lane takes the message, or the deadline is over.
    #[cold]
    #[inline(never)]
    fn retry(&mut self, letter: &Letter<'_, T>, refusal: Refusal) -> Result<(), DeliverError> {
        let to = letter.to;
        if let Refusal::Never(_) = refusal {
            return Err(self.explain(refusal, to, Duration::ZERO));
        }
        let since = Instant::now();
        let deadline = since.checked_add(self.deadline);
        let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        // Whoever is only just behind catches up sooner than a sleeper wakes. It is left alone until there is room for some more
        // messages, since each look takes a line from it that it writes.
        let mut room = (self.backlog / 8).max(1);
        loop {
            (0..LOOKS).for_each(|_| std::hint::spin_loop());
            match self.attempt(letter, room) {
                Ok(()) => return Ok(()),
                Err(Refusal::Full) => std::thread::yield_now(),
                Err(never) => return Err(self.explain(never, to, since.elapsed())),
            }
            if since.elapsed() >= PATIENCE {
                room = 1;
                if self.wait == WaitStrategy::Block || is_over() {
                    break;
                }
            }
        }
        let waiter = Arc::clone(&self.handle.core.waiter);
        let mut ticket = waiter.ticket();
        let outcome = loop {
            let heard = self.arm();
            match self.attempt(letter, 1) {
                Ok(()) => break Ok(()),
                Err(Refusal::Full) => {}
                Err(never) => break Err(never),
            }
            if is_over() {
                break Err(Refusal::Full);
            }
            let at_most = (!heard).then_some(LOOK_EVERY);
            if ticket.sleep(deadline, at_most).is_err() {
                std::thread::yield_now();
            }
        };
        self.lanes.iter_mut().for_each(|lane| lane.outlet.disarm_room());
        outcome.map_err(|refusal| self.explain(refusal, to, since.elapsed()))
    }

    /// Every subscriber wakes this publisher when it has handled something. Says whether that can be relied on.
    fn arm(&mut self) -> bool {
        let mut heard = true;
        for lane in &mut self.lanes {
            heard &= lane.outlet.arm_done();
        }
        heard
    }

    fn take_news(&mut self) {
        for news in self.shared.take() {
            match news {
                LaneNews::Opened(opened) => self.lanes.push(Lane::new(opened, self.timestamps)),
                LaneNews::Ready(id) => {
                    if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == id) {
                        lane.ready = true;
                    }
                }
                LaneNews::Closed { lane, done } => self.close(lane, done),
            }
        }
        let turns = |lane: &Lane| if lane.ready { lane.weight } else { 0 };
        self.schedule = Schedule::new(&self.lanes.iter().map(turns).collect::<Vec<_>>());
    }

    /// The subscriber of a lane is gone: nothing more is sent over it.
    fn close(&mut self, id: PublicationId, done: u64) {
        let Some(at) = self.lanes.iter().position(|lane| lane.id == id) else { return };
        let mut lane = self.lanes.swap_remove(at);
        let end = lane.outlet.next_sequence();
        lane.outlet.finish();
        if !self.redeliver && done < end {
            self.lost += end - done;
            warn!(event = "messages_lost", topic = &*self.topic, subscriber = &*lane.node, messages = end - done);
        }
        self.handle.core.command(Command::LaneClosed(id, end));
    }

    fn explain(&mut self, refusal: Refusal, to: To<'_>, waited: Duration) -> DeliverError {
        let topic = Arc::clone(&self.topic);
        match refusal {
            Refusal::Never(OutletError::NoRoom(NoRoom::TooLong { limit })) => DeliverError::TooLong { topic, limit },
            Refusal::Never(OutletError::Unserializable(reason)) => DeliverError::Unserializable(reason),
            Refusal::Never(other) => DeliverError::Unserializable(other.to_string()),
            Refusal::Full => {
                let meant = self.lanes.iter_mut().filter(|lane| match to {
                    To::Any => lane.ready,
                    To::Node(node) => lane.ready && is_of(&lane.node, node),
                });
                let waiting = meant.map(|lane| (lane.waiting(), Arc::clone(&lane.node)));
                let busiest = waiting.max_by_key(|(waiting, _)| *waiting).map(|(_, node)| node);
                match (busiest, to) {
                    (Some(busiest), _) => DeliverError::Full { topic, busiest, waited },
                    (None, To::Any) => DeliverError::NoSubscriber { topic, waited },
                    (None, To::Node(node)) => DeliverError::NoSuchNode { topic, node: node.into(), waited },
                }
            }
        }
    }
}

/// Whether a node has that name, or one that further nodes of that name have.
fn is_of(node: &str, name: &str) -> bool {
    let Some(suffix) = node.strip_prefix(name) else { return false };
    suffix.is_empty()
        || suffix
            .strip_prefix('-')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit()))
}

impl<T: Message + ?Sized> Drop for DirectPublisher<T> {
    fn drop(&mut self) {
        self.take_news();
        for mut lane in self.lanes.drain(..) {
            lane.outlet.finish();
        }
        // Takes back what comes from now on, too.
        self.handle.core.command(Command::WithdrawDirect(self.id));
    }
}

impl<T: Message + ?Sized> fmt::Debug for DirectPublisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (topic, id, lanes) = (&self.topic, &self.id, self.lanes.len());
        f.debug_struct("DirectPublisher")
            .field("topic", topic)
            .field("id", id)
            .field("lanes", &lanes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn further_nodes_of_a_name_are_meant_by_it() {
        assert!(is_of("worker", "worker") && is_of("worker-2", "worker") && is_of("worker-2", "worker-2"));
        assert!(!is_of("worker-2", "worker-3") && !is_of("workers", "worker") && !is_of("worker-b", "worker"));
        assert!(!is_of("worker-", "worker") && !is_of("work", "worker"));
    }
}
