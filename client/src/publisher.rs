//! Publishers.

mod begun;
mod builder;
mod marked;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, TryRecvError, bounded};
use nodeset_bus::evict::Evict;
use nodeset_bus::log::{Extensions, NoRoom, Reach, Retention};
use nodeset_bus::message::{Message, Schema};
use nodeset_bus::outlet::{Outlet, OutletError};
use nodeset_bus::protocol::{LinkId, LogShape, PublicationId};

use tracing::{info, warn};

use crate::error::{AdvertiseError, NotEnoughSubscribers, PublishError};
use crate::loan::Loan;
use crate::random;
use crate::session::{AdvertiseRequest, Command, Handle, PublicationShared};
use crate::wait::{WaitStrategy, after};

pub(crate) use begun::BegunPublisher;
pub use builder::PublisherBuilder;

/// How long making a publisher or subscriber waits for the dispatcher, which may just be replaced by another one.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long making a publisher or subscriber waits for those that are already there.
pub(crate) const LINK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a publisher rather waits for its readers than let the log outgrow the cache.
const PATIENCE: Duration = Duration::from_millis(1);
/// After patience was in vain, the log grows without it for so long.
const IMPATIENCE: Duration = Duration::from_millis(100);
/// Looks between two yields.
const LOOKS: u32 = 64;

/// Publishes messages of type `T` on one topic.
///
/// Dropped, it ends the publication: its subscribers get what was published, then learn the end.
///
/// ```
/// use std::time::Duration;
/// use nodeset::Node;
///
/// let node = Node::builder("camera").instance("doc-publisher").embedded().connect()?;
/// let mut subscriber = node.subscriber::<str>("camera/state").create()?;
/// let mut publisher = node.publisher::<str>("camera/state").create()?;
/// publisher.wait_for_subscribers(1, Duration::from_secs(10))?;
/// assert_eq!((publisher.topic(), publisher.subscribers()), ("camera/state", 1));
/// assert!(publisher.pending().is_empty()); // nobody is on the way
///
/// assert_eq!(publisher.next_sequence(), 0);
/// assert_eq!(publisher.publish("open")?, 0); // waits for reliable subscribers, if need be
/// assert_eq!(publisher.try_publish("closed")?, 1); // does not
/// assert_eq!(&*subscriber.receive()?, "open");
///
/// assert!(publisher.longest_message() > 1_000_000);
/// assert!(publisher.log_bytes() < 1_000_000); // so far
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the publication ends when this is dropped"]
pub struct Publisher<T: Message + ?Sized> {
    outlet: Outlet,
    topic: Arc<str>,
    id: PublicationId,
    shared: Arc<PublicationShared>,
    handle: Arc<Handle>,
    plan: Plan,
    hand_over: HandOver,
    deadline: Duration,
    wait: WaitStrategy,
    /// Until then it is not waited for readers that are behind: they did not catch up the last time.
    impatient_until: Option<Instant>,
    messages: PhantomData<fn(&T)>,
}

impl<T: Message + ?Sized> Publisher<T> {
    /// Publishes a message: serialised straight into shared memory, then visible to all subscribers at once. Returns its
    /// sequence number.
    ///
    /// Allocates nothing in steady state and calls no system, unless a subscriber sleeps or there is no room: then it waits for
    /// reliable subscribers, up to the publisher's deadline (1 s unless set).
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; the message was not sent then.
    #[inline(always)]
    pub fn publish(&mut self, message: &T) -> Result<u64, PublishError> {
        match self.outlet.publish_at_once(message) {
            Some(sequence) => Ok(sequence),
            None => self.publish_uncommonly(message),
        }
    }

    /// A block ends, or somebody has to be waited for.
    #[inline(never)]
    fn publish_uncommonly(&mut self, message: &T) -> Result<u64, PublishError> {
        match self.outlet.try_publish(message, Reach::Prompt) {
            Ok(sequence) => Ok(sequence),
            Err(error) => self.retry(error, |outlet, reach| outlet.try_publish(message, reach)),
        }
    }

    /// As [`publish`](Self::publish), but never waits.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    #[inline]
    pub fn try_publish(&mut self, message: &T) -> Result<u64, PublishError> {
        match self.outlet.try_publish(message, Reach::Limit) {
            Ok(sequence) => Ok(sequence),
            Err(OutletError::NoRoom(NoRoom::Outgrown)) => {
                self.hand_over();
                self.outlet.try_publish(message, Reach::Limit).map_err(|error| self.explain(error, Duration::ZERO))
            }
            Err(error) => Err(self.explain(error, Duration::ZERO)),
        }
    }

    /// As [`publish`](Self::publish), with a number beside the message, whatever it means to its publisher and subscribers
    /// ([`Sample::tag`](crate::Sample::tag)). It costs 16 bytes.
    ///
    /// ```
    /// use nodeset::Node;
    ///
    /// let node = Node::builder("camera").instance("doc-tag").embedded().connect()?;
    /// let mut publisher = node.publisher::<str>("camera/text").create()?;
    /// let mut subscriber = node.subscriber::<str>("camera/text").create()?;
    /// publisher.publish_tagged("in view", 7)?;
    /// publisher.publish("gone")?;
    /// assert_eq!(subscriber.receive()?.tag(), Some(7));
    /// assert_eq!(subscriber.receive()?.tag(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_tagged(&mut self, message: &T, tag: u64) -> Result<u64, PublishError> {
        let extensions = tagged(tag);
        match self.outlet.try_publish_extended(message, extensions, Reach::Prompt) {
            Ok(sequence) => Ok(sequence),
            Err(error) => self.retry(error, |outlet, reach| outlet.try_publish_extended(message, extensions, reach)),
        }
    }

    /// How many subscribers are linked.
    pub fn subscribers(&self) -> usize {
        self.shared.ready_count()
    }

    /// Names of the subscribers' nodes whose links are on their way.
    pub fn pending(&self) -> Vec<Arc<str>> {
        self.shared.pending()
    }

    /// Waits until at least `wanted` subscribers are linked. Returns how many are.
    ///
    /// # Errors
    ///
    /// When there are fewer after `timeout`.
    pub fn wait_for_subscribers(&self, wanted: usize, timeout: Duration) -> Result<usize, NotEnoughSubscribers> {
        let found = self.shared.wait_ready(wanted, after(Instant::now(), timeout));
        if found >= wanted {
            return Ok(found);
        }
        Err(NotEnoughSubscribers { topic: Arc::clone(&self.topic), wanted, found, waited: timeout })
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Sequence number of the next message; they grow by one.
    pub fn next_sequence(&self) -> u64 {
        self.outlet.next_sequence()
    }

    /// bytes; the longest message that ever fits
    pub fn longest_message(&self) -> u64 {
        self.outlet.longest_payload()
    }

    /// bytes of the log that were ever in use: what this publisher costs, beside its node. After a spike a fresh log takes its
    /// place ([`PublisherBuilder::give_back_after`]).
    pub fn log_bytes(&self) -> u64 {
        self.outlet.touched_bytes()
    }

    /// There was no room: waits for it.
    #[cold]
    #[inline(never)]
    fn retry<R>(
        &mut self,
        mut error: OutletError,
        mut attempt: impl FnMut(&mut Outlet, Reach) -> Result<R, OutletError>,
    ) -> Result<R, PublishError> {
        let since = Instant::now();
        loop {
            match self.wait_as_needed(since, error, &mut attempt) {
                Err(OutletError::NoRoom(NoRoom::Outgrown)) => {
                    self.hand_over();
                    match attempt(&mut self.outlet, Reach::Prompt) {
                        Ok(done) => return Ok(done),
                        Err(other) => error = other,
                    }
                }
                Err(error) => return Err(self.explain(error, since.elapsed())),
                Ok(done) => return Ok(done),
            }
        }
    }

    /// Waits for whom `error` says, up to the deadline.
    fn wait_as_needed<R>(
        &mut self,
        since: Instant,
        mut error: OutletError,
        attempt: &mut impl FnMut(&mut Outlet, Reach) -> Result<R, OutletError>,
    ) -> Result<R, OutletError> {
        if let OutletError::NoRoom(NoRoom::Behind(_)) = error {
            match self.be_patient(since, attempt) {
                Ok(done) => return Ok(done),
                Err(other) => error = other,
            }
            if let OutletError::NoRoom(NoRoom::Behind(_)) = error {
                match attempt(&mut self.outlet, Reach::Limit) {
                    Ok(done) => return Ok(done),
                    Err(other) => error = other,
                }
            }
        }
        if let OutletError::NoRoom(NoRoom::Full(_)) = error {
            self.outlet.arm_room();
            let outcome = self.wait_for_room(since, attempt);
            self.outlet.disarm_room();
            return outcome;
        }
        Err(error)
    }

    /// Waits a moment for readers that are only just behind: a log that stays in the cache is faster than one that grows.
    fn be_patient<R>(
        &mut self,
        since: Instant,
        attempt: &mut impl FnMut(&mut Outlet, Reach) -> Result<R, OutletError>,
    ) -> Result<R, OutletError> {
        if self.impatient_until.is_some_and(|until| since < until) {
            return attempt(&mut self.outlet, Reach::Prompt);
        }
        self.impatient_until = None;
        for look in 1.. {
            match attempt(&mut self.outlet, Reach::Prompt) {
                Err(OutletError::NoRoom(NoRoom::Behind(blocker))) => {
                    if look % LOOKS == 0 {
                        std::thread::yield_now();
                        let now = Instant::now();
                        if now - since >= PATIENCE {
                            self.impatient_until = Some(now + IMPATIENCE);
                            return Err(OutletError::NoRoom(NoRoom::Behind(blocker)));
                        }
                    } else {
                        // The readers need the cache lines that are looked at.
                        (0..16).for_each(|_| std::hint::spin_loop());
                    }
                }
                other => return other,
            }
        }
        unreachable!("the loop has no end of its own")
    }

    /// The log is as long as it may get: sleeps until a reader has left a block.
    fn wait_for_room<R>(
        &mut self,
        since: Instant,
        attempt: &mut impl FnMut(&mut Outlet, Reach) -> Result<R, OutletError>,
    ) -> Result<R, OutletError> {
        let deadline = after(since, self.deadline);
        // Whoever waits for room needs what there is.
        self.outlet.stay(self.deadline);
        let waiter = Arc::clone(&self.handle.core.waiter);
        let mut ticket = waiter.ticket();
        loop {
            let full = match attempt(&mut self.outlet, Reach::Limit) {
                Err(OutletError::NoRoom(NoRoom::Full(blocker))) => OutletError::NoRoom(NoRoom::Full(blocker)),
                other => return other,
            };
            // Whoever is given up meanwhile may be who is in the way.
            let until = self.outlet.evict_laggards().map_or(deadline, |due| due.min(deadline));
            let in_time = match self.wait {
                WaitStrategy::Block => ticket.sleep(Some(until), None).unwrap_or_else(|_| {
                    std::thread::yield_now();
                    Instant::now() < deadline
                }),
                WaitStrategy::Spin | WaitStrategy::Yield => {
                    std::thread::yield_now();
                    Instant::now() < deadline
                }
            };
            if !in_time && Instant::now() >= deadline {
                return Err(full);
            }
        }
    }

    fn explain(&self, error: OutletError, waited: Duration) -> PublishError {
        let full = |slowest: Option<LinkId>| PublishError::Full {
            topic: Arc::clone(&self.topic),
            slowest: slowest.and_then(|link| self.shared.name_of(link)),
            waited,
            short_of_memory: self.outlet.is_short_of_memory(),
        };
        match error {
            OutletError::NoRoom(NoRoom::Behind(link)) => full(Some(link)),
            OutletError::NoRoom(NoRoom::Full(link)) => full(link),
            OutletError::NoRoom(NoRoom::Outgrown) => full(None),
            OutletError::NoRoom(NoRoom::TooLong { limit }) => {
                PublishError::TooLong { topic: Arc::clone(&self.topic), limit }
            }
            OutletError::Unserializable(reason) => PublishError::Unserializable(reason),
            other => PublishError::Unserializable(other.to_string()),
        }
    }
}

/// What a publication is made of, each time.
#[derive(Debug, Clone, Copy)]
struct Plan {
    shape: LogShape,
    retention: Retention,
    evict: Option<Evict>,
    give_back_after: Duration,
    /// Each message carries its publish time.
    timestamps: bool,
}

/// A publication that was asked for.
struct Asked {
    id: PublicationId,
    shared: Arc<PublicationShared>,
    answer: Receiver<Result<Box<Outlet>, AdvertiseError>>,
}

impl Plan {
    /// Asks for a publication; `None` when the node is gone.
    fn ask(&self, handle: &Handle, topic: &Arc<str>, schema: Schema, follows: Option<PublicationId>) -> Option<Asked> {
        let Plan { shape, retention, evict, give_back_after, timestamps: _ } = *self;
        let id = PublicationId(random());
        let shared = Arc::new(PublicationShared::default());
        let (reply, answer) = bounded(1);
        let asked = handle.core.command(Command::Advertise(AdvertiseRequest {
            publication: id,
            topic: Arc::clone(topic),
            schema,
            shape,
            retention,
            evict,
            give_back_after,
            follows,
            shared: Arc::clone(&shared),
            reply,
        }));
        asked.then_some(Asked { id, shared, answer })
    }
}

/// Going on in a fresh log, which takes a few messages between the processes meanwhile.
#[derive(Default)]
enum HandOver {
    #[default]
    No,
    /// For a fresh log.
    Asked(Asked),
    /// It is there; its links may not all be.
    Granted { id: PublicationId, shared: Arc<PublicationShared>, outlet: Box<Outlet> },
}

impl HandOver {
    /// The publication that is being made.
    fn id(&self) -> Option<PublicationId> {
        match self {
            HandOver::No => None,
            HandOver::Asked(Asked { id, .. }) | HandOver::Granted { id, .. } => Some(*id),
        }
    }
}

/// Between two steps.
const STEP: Duration = Duration::from_millis(10);
/// After a fresh log was refused, the old one is kept for so long.
const REFUSED: Duration = Duration::from_secs(60);

impl<T: Message + ?Sized> Publisher<T> {
    /// The log is longer than it need be: one step on the way to a fresh one. Never waits.
    ///
    /// Once every link of the old log has its counterpart in the fresh one, the old one ends and the fresh one goes on with its
    /// numbers; subscribers of both read the old one to its end first.
    #[cold]
    #[inline(never)]
    fn hand_over(&mut self) {
        let mut again_after = STEP;
        self.hand_over = match std::mem::take(&mut self.hand_over) {
            HandOver::No => match self.plan.ask(&self.handle, &self.topic, T::schema(), Some(self.id)) {
                Some(asked) => HandOver::Asked(asked),
                None => HandOver::No,
            },
            HandOver::Asked(asked) => match asked.answer.try_recv() {
                Ok(Ok(outlet)) => HandOver::Granted { id: asked.id, shared: asked.shared, outlet },
                Err(TryRecvError::Empty) => HandOver::Asked(asked),
                Ok(Err(error)) => {
                    warn!(event = "log_not_given_back", topic = &*self.topic, %error);
                    again_after = REFUSED;
                    HandOver::No
                }
                Err(TryRecvError::Disconnected) => {
                    again_after = REFUSED;
                    HandOver::No
                }
            },
            HandOver::Granted { id, shared, outlet } if shared.covers(&self.outlet.links().ids()) => {
                self.go_on_in(id, shared, *outlet);
                return;
            }
            granted @ HandOver::Granted { .. } => granted,
        };
        self.outlet.stay(again_after);
    }

    fn go_on_in(&mut self, id: PublicationId, shared: Arc<PublicationShared>, mut outlet: Outlet) {
        let (before, after) = (self.outlet.touched_bytes(), outlet.touched_bytes());
        info!(event = "log_given_back", topic = &*self.topic, bytes = before.saturating_sub(after));
        outlet.start_at(self.outlet.next_sequence());
        outlet.set_stamping(self.plan.timestamps);
        let mut old = std::mem::replace(&mut self.outlet, outlet);
        let old_id = std::mem::replace(&mut self.id, id);
        self.shared = shared;
        old.finish();
        self.handle.core.command(Command::Withdraw(old_id));
    }
}

impl Publisher<[u8]> {
    /// Room for a message of `len` bytes, in shared memory, zeroed: write it in place, then [`Loan::send`] it. Waits for room
    /// as [`publish`](Self::publish) does.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("camera").instance("doc-loan-zeroed").embedded().connect()?;
    /// let mut publisher = node.publisher::<[u8]>("camera/image").create()?;
    /// let mut image = publisher.loan(4)?;
    /// assert_eq!(*image, [0; 4]);
    /// image.copy_from_slice(&[1, 2, 3, 4]);
    /// image.send();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    pub fn loan(&mut self, len: usize) -> Result<Loan<'_>, PublishError> {
        let mut loan = self.loan_uninit(len)?;
        loan.fill(0);
        Ok(loan)
    }

    /// As [`loan`](Self::loan), without the zeros: it holds whatever stood there before, such as older messages of this
    /// publisher. For those who write all of it.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("camera").instance("doc-loan-uninit").embedded().connect()?;
    /// let mut publisher = node.publisher::<[u8]>("camera/image").create()?;
    /// let mut subscriber = node.subscriber::<[u8]>("camera/image").create()?;
    /// let mut image = publisher.loan_uninit(6_000_000)?;
    /// image.fill(255); // all of it
    /// image.send();
    /// assert!(subscriber.receive()?.iter().all(|pixel| *pixel == 255));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    #[inline(always)]
    pub fn loan_uninit(&mut self, len: usize) -> Result<Loan<'_>, PublishError> {
        if !self.outlet.has_room(len) {
            self.make_room(len, Extensions::NONE)?;
        }
        // Nobody else could have taken it.
        match self.outlet.try_open(len, Reach::Limit) {
            Ok(frame) => Ok(Loan::new(frame)),
            Err(no_room) => Err(refused(&self.topic, no_room)),
        }
    }

    /// As [`loan`](Self::loan), for a message with a number beside it, as in [`publish_tagged`](Self::publish_tagged).
    ///
    /// ```
    /// # let node = nodeset::Node::builder("camera").instance("doc-loan-tagged").embedded().connect()?;
    /// let mut publisher = node.publisher::<[u8]>("camera/image").create()?;
    /// let mut subscriber = node.subscriber::<[u8]>("camera/image").create()?;
    /// publisher.loan_tagged(640 * 480, 7)?.send();
    /// assert_eq!(subscriber.receive()?.tag(), Some(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    pub fn loan_tagged(&mut self, len: usize, tag: u64) -> Result<Loan<'_>, PublishError> {
        let extensions = tagged(tag);
        if !self.outlet.has_room_extended(len, &extensions) {
            self.make_room(len, extensions)?;
        }
        match self.outlet.try_open_extended(len, extensions, Reach::Limit) {
            Ok(frame) => {
                let mut loan = Loan::new(frame);
                loan.fill(0);
                Ok(loan)
            }
            Err(no_room) => Err(refused(&self.topic, no_room)),
        }
    }
}

fn tagged(tag: u64) -> Extensions {
    Extensions { tag: Some(tag), ..Extensions::NONE }
}

impl Publisher<[u8]> {
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, len: usize, extensions: Extensions) -> Result<(), PublishError> {
        let open = |outlet: &mut Outlet, reach| {
            outlet.try_open_extended(len, extensions, reach).map(drop).map_err(OutletError::NoRoom)
        };
        match open(&mut self.outlet, Reach::Prompt) {
            Ok(()) => Ok(()),
            Err(error) => self.retry(error, open),
        }
    }
}

#[cold]
fn refused(topic: &Arc<str>, no_room: NoRoom) -> PublishError {
    let topic = Arc::clone(topic);
    match no_room {
        NoRoom::TooLong { limit } => PublishError::TooLong { topic, limit },
        _ => PublishError::Full { topic, slowest: None, waited: Duration::ZERO, short_of_memory: false },
    }
}

impl<T: Message + ?Sized> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.outlet.finish();
        for id in [Some(self.id), self.hand_over.id()].into_iter().flatten() {
            self.handle.core.command(Command::Withdraw(id));
        }
    }
}

impl<T: Message + ?Sized> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("topic", &self.topic).field("id", &self.id).finish_non_exhaustive()
    }
}
