//! Publishers about to be made.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::evict::Evict;
use nodeset_bus::log::{self, DEFAULT_BLOCK_LEN, MIN_BLOCKS, Retention};
use nodeset_bus::message::Message;
use nodeset_bus::protocol::LogShape;
use nodeset_bus::topic::Topic;

use super::{ANSWER_TIMEOUT, BegunPublisher, LINK_TIMEOUT, Plan, Publisher};
use crate::direct::DirectPublisherBuilder;
use crate::error::AdvertiseError;
use crate::session::Handle;
use crate::wait::{WaitStrategy, after};

/// How long a log needs little before a fresh one takes its place.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(5);

/// How long `publish` waits for room.
const DEADLINE: Duration = Duration::from_secs(1);

/// A publisher about to be made.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Evict, Node, WaitStrategy};
///
/// let node = Node::builder("camera").instance("doc-publisher-builder").embedded().connect()?;
/// let publisher = node
///     .publisher::<[u8]>("camera/image")
///     .block_len(1 << 20) // bytes
///     .blocks(64)
///     .depth(8) // messages
///     .history(1)
///     .deadline(Duration::from_millis(100))
///     .evict(Evict::After(Duration::from_secs(1)))
///     .give_back_after(Duration::from_secs(10))
///     .wait(WaitStrategy::Yield)
///     .link_timeout(Duration::from_millis(500))
///     .create()?;
/// assert!(publisher.longest_message() > 1 << 20);
///
/// // Or to one subscriber each.
/// let jobs = node.publisher::<str>("camera/jobs").direct().create()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens before `create`"]
pub struct PublisherBuilder<T: Message + ?Sized> {
    pub(super) handle: Arc<Handle>,
    pub(super) topic: String,
    pub(super) plan: Plan,
    pub(super) deadline: Duration,
    pub(super) wait: WaitStrategy,
    pub(super) link_timeout: Duration,
    pub(super) messages: PhantomData<fn(&T)>,
}

impl<T: Message + ?Sized> PublisherBuilder<T> {
    pub(crate) fn new(handle: Arc<Handle>, topic: &str) -> PublisherBuilder<T> {
        PublisherBuilder {
            handle,
            topic: topic.to_owned(),
            plan: Plan {
                shape: LogShape { block_len: DEFAULT_BLOCK_LEN, blocks: 0 },
                retention: Retention::default(),
                evict: None,
                give_back_after: GIVE_BACK_AFTER,
                timestamps: false,
            },
            deadline: DEADLINE,
            wait: WaitStrategy::default(),
            link_timeout: LINK_TIMEOUT,
            messages: PhantomData,
        }
    }

    /// bytes of a block of the log; a power of two from 4 KiB to 64 MiB, default 64 KiB. Longer messages take several blocks.
    pub fn block_len(mut self, bytes: u32) -> Self {
        self.plan.shape.block_len = bytes;
        self
    }

    /// The most blocks that the log may grow to, at least 4. Default: what fits into a quarter of the memory. Blocks that were
    /// never needed cost nothing.
    pub fn blocks(mut self, blocks: u32) -> Self {
        self.plan.shape.blocks = blocks;
        self
    }

    /// How many messages are kept for lossy subscribers that fall behind; default 64.
    pub fn depth(mut self, messages: u64) -> Self {
        self.plan.retention.depth = messages;
        self
    }

    /// How many messages are kept for subscribers that join late and ask for history; default 0.
    pub fn history(mut self, messages: u64) -> Self {
        self.plan.retention.history = messages;
        self
    }

    /// Gives up reliable subscribers that hold the log back; by default nobody is, and `publish` waits for them up to its
    /// deadline. Who is given up keeps what it reads; it learns of it, with the exact count of what it missed, when it gets to
    /// messages that are gone, and is linked afresh. The publisher's node is told
    /// ([`NodeEvent::Evicted`](crate::NodeEvent::Evicted)).
    pub fn evict(mut self, policy: Evict) -> Self {
        self.plan.evict = Some(policy);
        self
    }

    /// How long [`Publisher::publish`] waits for room; default 1 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long the log needs less than a quarter of its memory before a fresh, short one takes its place, if it has taken 16 MiB
    /// or more; default 5 s. It happens while publishing, costs no message, and is seen by others as a publication that ends
    /// while another one goes on with its numbers.
    pub fn give_back_after(mut self, time: Duration) -> Self {
        self.plan.give_back_after = time;
        self
    }

    /// Each message says when it was published ([`Sample::published_at`](crate::Sample::published_at),
    /// [`Sample::age`](crate::Sample::age)); off by default. It costs 16 bytes a message, and reading a clock.
    ///
    /// ```
    /// use nodeset::{Node, Timestamp};
    ///
    /// let node = Node::builder("clock").instance("doc-timestamps").embedded().connect()?;
    /// let mut publisher = node.publisher::<str>("clock/chime").timestamps(true).create()?;
    /// let mut subscriber = node.subscriber::<str>("clock/chime").create()?;
    /// let before = Timestamp::now();
    /// publisher.publish("ding")?;
    /// let sample = subscriber.receive()?;
    /// assert!(sample.published_at() >= Some(before));
    /// println!("{} is {:?} old", &*sample, sample.age().expect("its publisher sends the time"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timestamps(mut self, on: bool) -> Self {
        self.plan.timestamps = on;
        self
    }

    /// How it waits.
    pub fn wait(mut self, wait: WaitStrategy) -> Self {
        self.wait = wait;
        self
    }

    /// How long [`create`](Self::create) waits for the links to subscribers that are there; default 1 s.
    pub fn link_timeout(mut self, timeout: Duration) -> Self {
        self.link_timeout = timeout;
        self
    }

    /// Each message goes to *one* subscriber instead of all. Of what was set, blocks (of each lane), timestamps, deadline, way to wait
    /// and link timeout are taken over.
    pub fn direct(self) -> DirectPublisherBuilder<T> {
        DirectPublisherBuilder::new(
            self.handle,
            self.topic,
            self.plan.shape,
            self.plan.timestamps,
            self.deadline,
            self.wait,
            self.link_timeout,
        )
    }

    /// Makes the publisher. Returns when it is linked to every subscriber of the topic that is there and answers, at the
    /// latest after the link timeout; [`Publisher::pending`] says who is missing.
    ///
    /// # Errors
    ///
    /// See [`AdvertiseError`].
    pub fn create(self) -> Result<Publisher<T>, AdvertiseError> {
        let link_timeout = self.link_timeout;
        let publisher = self.begin()?.finish_by(Instant::now() + ANSWER_TIMEOUT)?;
        publisher.shared.wait_settled(after(Instant::now(), link_timeout));
        Ok(publisher)
    }

    /// Asks for the publisher without waiting for it.
    pub(crate) fn begin(self) -> Result<BegunPublisher<T>, AdvertiseError> {
        let topic =
            Topic::new(&self.topic).map_err(|source| AdvertiseError::Topic { topic: self.topic.clone(), source })?;
        let schema = T::schema();
        schema.check()?;
        let shape = self.plan.shape;
        log::check(LogShape { blocks: if shape.blocks == 0 { MIN_BLOCKS } else { shape.blocks }, ..shape })?;
        let topic: Arc<str> = topic.as_str().into();
        let asked = self.plan.ask(&self.handle, &topic, schema, None).ok_or(AdvertiseError::Closed)?;
        Ok(BegunPublisher::new(self, topic, asked))
    }
}

impl<T: Message + ?Sized> fmt::Debug for PublisherBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublisherBuilder").field("topic", &self.topic).finish_non_exhaustive()
    }
}
