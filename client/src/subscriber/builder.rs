//! Subscribers about to be made.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use nodeset_bus::message::{Message, Schema};
use nodeset_bus::protocol::SubscriptionId;
use nodeset_bus::topic::Selector;
use rkyv::util::AlignedVec;

use super::{Copying, Subscriber};
use crate::armed::Watch;
use crate::error::SubscribeError;
use crate::publisher::{ANSWER_TIMEOUT, LINK_TIMEOUT};
use crate::random;
use crate::session::{Command, Handle, SubscribeRequest, SubscriptionShared};
use crate::wait::{Chase, SpinBudget, WaitStrategy, after};

/// The most of [`SubscriberBuilder::weight`].
const MOST_WEIGHT: u16 = 100;

/// messages that a lossy subscriber goes back when it was lapped
const DEPTH: u64 = 64;

/// A subscriber about to be made.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, WaitStrategy};
///
/// let node = Node::builder("reader").instance("doc-subscriber-builder").embedded().connect()?;
/// let mut publisher = node.publisher::<str>("log/lines").history(10).create()?;
/// publisher.publish("started")?;
///
/// // Every line, also the last ones from before.
/// let mut every = node.subscriber::<str>("log/lines").reliable().history(10).create()?;
/// assert_eq!(&*every.receive()?, "started");
///
/// // Those that are new, as soon as they come, at the price of a core.
/// let newest = node.subscriber::<str>("log/lines").lossy().depth(1).wait(WaitStrategy::Spin).create()?;
///
/// // Those of publishers that are not to be trusted, or of users that are.
/// let careful = node.subscriber::<str>("log/lines").copied().create()?;
/// let careless = node.subscriber::<str>("log/lines").trust_publishers().create()?;
///
/// // Of direct publishers, three times as much as others get; publishers that do not answer are not waited for.
/// let strong = node.subscriber::<str>("jobs").weight(3).link_timeout(Duration::ZERO).create()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens before `create`"]
pub struct SubscriberBuilder<T: Message + ?Sized> {
    handle: Arc<Handle>,
    topic: String,
    any_schema: bool,
    /// In place of the type's own.
    schema: Option<Schema>,
    reliable: bool,
    /// How long publishers of other hosts wait for it.
    across_hosts: Option<Duration>,
    weight: u16,
    depth: u64,
    history: u64,
    wait: WaitStrategy,
    link_timeout: Duration,
    copying: Copying,
    messages: PhantomData<fn() -> Box<T>>,
}

impl SubscriberBuilder<[u8]> {
    /// Takes messages of every type, as bytes; [`Sample::schema`](crate::Sample::schema) says what they are. For tools.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("tool").instance("doc-any-schema").embedded().connect()?;
    /// let mut publisher = node.publisher::<u32>("count").create()?;
    /// let mut spy = node.subscriber::<[u8]>("**").any_schema().create()?;
    /// publisher.publish(&7)?;
    /// let sample = spy.receive()?;
    /// assert_eq!((sample.schema().name(), sample.payload()), ("u32", &7_u32.to_le_bytes()[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn any_schema(mut self) -> Self {
        self.any_schema = true;
        self
    }

    /// Takes the bytes of messages of that type.
    pub(crate) fn expecting(mut self, schema: Schema) -> Self {
        self.schema = Some(schema);
        self
    }
}

impl<T: Message + ?Sized> SubscriberBuilder<T> {
    pub(crate) fn new(handle: Arc<Handle>, topic: &str) -> SubscriberBuilder<T> {
        SubscriberBuilder {
            handle,
            topic: topic.to_owned(),
            any_schema: false,
            schema: None,
            reliable: false,
            across_hosts: None,
            weight: 1,
            depth: DEPTH,
            history: 0,
            wait: WaitStrategy::default(),
            link_timeout: LINK_TIMEOUT,
            copying: Copying::default(),
            messages: PhantomData,
        }
    }

    /// Gets every message: publishers wait for it when it is slow, up to their deadline.
    ///
    /// Publishers of other hosts do not wait: their hosts keep what this one has not taken, up to 64 MiB and 5 s of it a
    /// publication. What is lost beyond that is counted ([`Subscriber::missed`]).
    pub fn reliable(mut self) -> Self {
        (self.reliable, self.across_hosts) = (true, None);
        self
    }

    /// As [`reliable`](Self::reliable), and publishers of other hosts wait for it as well: when it is slow, when its host cannot be
    /// reached, while the dispatcher of its host is started again.
    ///
    /// `deadline`, to a millisecond and at most 49 days, is how long they wait while nothing at all is taken: then this
    /// host is given up by theirs, what is lost until it is back is counted ([`Subscriber::missed`]), and they go on. While it
    /// takes something, however slowly, they wait. Publishing has a deadline of its own
    /// ([`PublisherBuilder::deadline`](crate::PublisherBuilder::deadline)), after which it fails and loses nothing.
    ///
    /// Of several subscribers of one host that mean a publication, the longest deadline counts.
    ///
    /// ```
    /// use std::time::Duration;
    /// # let node = nodeset::Node::builder("reader").instance("doc-across-hosts").embedded().connect()?;
    /// // Of the camera of host `a`, also when the network is gone for a minute.
    /// let every = node.subscriber::<[u8]>("camera@a/front").reliable_across_hosts(Duration::from_secs(60)).create()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reliable_across_hosts(mut self, deadline: Duration) -> Self {
        (self.reliable, self.across_hosts) = (true, Some(deadline));
        self
    }

    /// May lose messages when it is slow, and learns how many; nobody waits for it. The default.
    pub fn lossy(mut self) -> Self {
        (self.reliable, self.across_hosts) = (false, None);
        self
    }

    /// Its share of what each direct publisher sends ([`DirectPublisher`](crate::DirectPublisher)), beside the other subscribers';
    /// 1 to 100, default 1. Plain publishers send every message to all.
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }

    /// How many messages a lossy subscriber that lost some goes back from the newest; default 64.
    pub fn depth(mut self, messages: u64) -> Self {
        self.depth = messages;
        self
    }

    /// How many messages from before it was linked it begins with, if they are still held; default 0.
    pub fn history(mut self, messages: u64) -> Self {
        self.history = messages;
        self
    }

    /// How it waits.
    pub fn wait(mut self, wait: WaitStrategy) -> Self {
        self.wait = wait;
        self
    }

    /// How long [`create`](Self::create) waits for the links to publishers that are there; default 1 s.
    pub fn link_timeout(mut self, timeout: Duration) -> Self {
        self.link_timeout = timeout;
        self
    }

    /// Reads messages of publishers of other users in place, too. By default they are copied before they are checked, since
    /// such a publisher could change them afterwards; see `docs/security.md`.
    pub fn trust_publishers(mut self) -> Self {
        self.copying = Copying::Never;
        self
    }

    /// Copies every message before it is checked, whoever published it: right for publishers that may be hostile or corrupt their
    /// own memory, also those of the own user. Costs one pass over the message; what is kept
    /// ([`Sample::into_owned`](crate::Sample::into_owned)) then pins no memory of the publisher's.
    pub fn copied(mut self) -> Self {
        self.copying = Copying::Always;
        self
    }

    /// Makes the subscriber. Returns when it is linked to every publisher of what it subscribes that is there and answers, at the latest
    /// after the link timeout; [`Subscriber::pending`] says who is missing.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn create(self) -> Result<Subscriber<T>, SubscribeError> {
        if let Err(source) = Selector::new(&self.topic) {
            return Err(SubscribeError::Topic { topic: self.topic, source });
        }
        if !(1..=MOST_WEIGHT).contains(&self.weight) {
            return Err(SubscribeError::Weight { topic: self.topic, weight: self.weight });
        }
        let schema: Option<Schema> = (!self.any_schema).then(|| self.schema.unwrap_or_else(T::schema));
        if let Some(schema) = &schema {
            schema.check()?;
        }
        let topic: Arc<str> = self.topic.as_str().into();
        let shared = Arc::new(SubscriptionShared::default());
        let (reply, answer) = bounded(1);
        // From here on dropping it takes the subscription back.
        let subscriber = Subscriber {
            ports: Vec::new(),
            next: 0,
            has_lanes: false,
            shared: Arc::clone(&shared),
            topic: Arc::clone(&topic),
            id: SubscriptionId(random()),
            handle: self.handle,
            wait: self.wait,
            budget: SpinBudget::new(),
            chase: Chase::default(),
            received: 0,
            link_changes: 0,
            copying: self.copying,
            copy: AlignedVec::new(),
            missed_earlier: 0,
            due: Vec::new(),
            left: VecDeque::new(),
            watch: Watch::default(),
            #[cfg(feature = "tokio")]
            task: crate::asynchronous::WaitingTask::default(),
            messages: PhantomData,
        };
        let asked = subscriber.handle.core.command(Command::Subscribe(SubscribeRequest {
            subscription: subscriber.id,
            topic,
            schema,
            reliable: self.reliable,
            weight: self.weight,
            across_ms: self.across_hosts.map(|deadline| u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX)),
            depth: self.depth,
            history: self.history,
            shared,
            reply,
        }));
        if !asked {
            return Err(SubscribeError::Closed);
        }
        match answer.recv_timeout(ANSWER_TIMEOUT) {
            Ok(answer) => answer?,
            Err(error) if error.is_timeout() => {
                return Err(SubscribeError::TimedOut { topic: self.topic, waited: ANSWER_TIMEOUT });
            }
            Err(_) => return Err(SubscribeError::Closed),
        }
        subscriber.shared.wait_settled(after(Instant::now(), self.link_timeout));
        Ok(subscriber)
    }
}

impl<T: Message + ?Sized> fmt::Debug for SubscriberBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriberBuilder").field("topic", &self.topic).finish_non_exhaustive()
    }
}
