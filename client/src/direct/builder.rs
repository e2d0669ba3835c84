//! Direct publishers about to be made.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use nodeset_bus::log::{self, MIN_BLOCKS, Retention};
use nodeset_bus::message::Message;
use nodeset_bus::protocol::{LogShape, PublicationId};
use nodeset_bus::topic::Topic;

use super::DirectPublisher;
use super::schedule::Schedule;
use crate::error::AdvertiseError;
use crate::publisher::ANSWER_TIMEOUT;
use crate::random;
use crate::session::{Command, DirectRequest, DirectShared, Handle};
use crate::wait::{WaitStrategy, after};

/// Messages that may wait for one subscriber.
const BACKLOG: u64 = 1024;

/// A direct publisher about to be made: [`PublisherBuilder::direct`](crate::PublisherBuilder::direct).
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, WaitStrategy};
///
/// let node = Node::builder("boss").instance("doc-direct-builder").embedded().connect()?;
/// let jobs = node
///     .publisher::<str>("jobs")
///     .direct()
///     .backlog(1) // the next job when the last one is done
///     .redeliver(true) // what a dead worker had not done goes to another one
///     .deadline(Duration::from_secs(60))
///     .wait(WaitStrategy::Block)
///     .link_timeout(Duration::from_millis(500))
///     .create()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens before `create`"]
pub struct DirectPublisherBuilder<T: Message + ?Sized> {
    handle: Arc<Handle>,
    topic: String,
    /// Of each lane.
    shape: LogShape,
    timestamps: bool,
    backlog: u64,
    redeliver: bool,
    deadline: Duration,
    wait: WaitStrategy,
    link_timeout: Duration,
    messages: PhantomData<fn(&T)>,
}

impl<T: Message + ?Sized> DirectPublisherBuilder<T> {
    pub(crate) fn new(
        handle: Arc<Handle>,
        topic: String,
        shape: LogShape,
        timestamps: bool,
        deadline: Duration,
        wait: WaitStrategy,
        link_timeout: Duration,
    ) -> DirectPublisherBuilder<T> {
        DirectPublisherBuilder {
            handle,
            topic,
            shape,
            timestamps,
            backlog: BACKLOG,
            redeliver: false,
            deadline,
            wait,
            link_timeout,
            messages: PhantomData,
        }
    }

    /// How many messages may wait for a subscriber before it is passed over; at least 1, default 1024. With 1, each gets the
    /// next one only when it has handled the last one: right for jobs that take long, or that differ much.
    pub fn backlog(mut self, messages: u64) -> Self {
        self.backlog = messages.max(1);
        self
    }

    /// Gives what a subscriber that left or died had not handled to another one, in place: nothing is copied, and it waits for
    /// another one to come if there is none. By default it is lost, and counted. The dispatcher brings the two together: without
    /// one, it is done as soon as there is one again.
    pub fn redeliver(mut self, redeliver: bool) -> Self {
        self.redeliver = redeliver;
        self
    }

    /// How long [`DirectPublisher::publish`] waits for a subscriber that takes the message; default 1 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How it waits.
    pub fn wait(mut self, wait: WaitStrategy) -> Self {
        self.wait = wait;
        self
    }

    /// How long [`create`](Self::create) waits for the lanes to subscribers that are there; default 1 s.
    pub fn link_timeout(mut self, timeout: Duration) -> Self {
        self.link_timeout = timeout;
        self
    }

    /// Makes the publisher. Returns when it has a lane to every subscriber of the topic that is there and answers, at the latest
    /// after the link timeout; [`DirectPublisher::pending`] says who is missing.
    ///
    /// # Errors
    ///
    /// See [`AdvertiseError`].
    pub fn create(self) -> Result<DirectPublisher<T>, AdvertiseError> {
        let topic =
            Topic::new(&self.topic).map_err(|source| AdvertiseError::Topic { topic: self.topic.clone(), source })?;
        let schema = T::schema();
        schema.check()?;
        let shape = self.shape;
        log::check(LogShape { blocks: if shape.blocks == 0 { MIN_BLOCKS } else { shape.blocks }, ..shape })?;
        let topic: Arc<str> = topic.as_str().into();
        let shared = Arc::new(DirectShared::default());
        let (reply, answer) = bounded(1);
        // From here on dropping it takes the publication back.
        let mut publisher = DirectPublisher {
            lanes: Vec::new(),
            schedule: Schedule::default(),
            id: PublicationId(random()),
            topic: Arc::clone(&topic),
            shared: Arc::clone(&shared),
            handle: self.handle,
            timestamps: self.timestamps,
            backlog: self.backlog,
            redeliver: self.redeliver,
            deadline: self.deadline,
            wait: self.wait,
            lost: 0,
            messages: PhantomData,
        };
        let asked = publisher.handle.core.command(Command::AdvertiseDirect(DirectRequest {
            publication: publisher.id,
            topic,
            schema,
            shape,
            // A lane is its subscriber's alone, which is reliable.
            retention: Retention { depth: 0, ..Retention::default() },
            redeliver: self.redeliver,
            shared,
            reply,
        }));
        if !asked {
            return Err(AdvertiseError::Closed);
        }
        match answer.recv_timeout(ANSWER_TIMEOUT) {
            Ok(answer) => answer?,
            Err(error) if error.is_timeout() => {
                return Err(AdvertiseError::TimedOut { topic: self.topic, waited: ANSWER_TIMEOUT });
            }
            Err(_) => return Err(AdvertiseError::Closed),
        }
        publisher.shared.links.wait_settled(after(Instant::now(), self.link_timeout));
        publisher.take_news();
        Ok(publisher)
    }
}

impl<T: Message + ?Sized> fmt::Debug for DirectPublisherBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectPublisherBuilder").field("topic", &self.topic).finish_non_exhaustive()
    }
}
