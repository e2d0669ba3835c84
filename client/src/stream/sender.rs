//! Senders of streams.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use nodeset_bus::log::{self, DEFAULT_BLOCK_LEN, Retention};
use nodeset_bus::protocol::PublicationId;

use super::codec::{Bytes, Codec};
use super::error::PushError;
use super::fan::{Fan, OnFull};
use super::topic_of;
use crate::error::{AdvertiseError, NotEnoughSubscribers};
use crate::publisher::{ANSWER_TIMEOUT, LINK_TIMEOUT};
use crate::random;
use crate::session::{Command, DirectRequest, DirectShared, Handle};
use crate::wait::after;

/// bytes of a lane, unless asked otherwise
const CAPACITY: u64 = 512 * 1024;
/// How long a sender waits for a receiver, unless asked otherwise.
const DEADLINE: Duration = Duration::from_secs(1);

/// The sending end of a stream: [`Node::stream`](crate::Node::stream).
///
/// Every receiver gets every item from when it joined on, in order, each over a lane of its own in shared memory. The
/// dispatcher is needed to join only: streams go on without it. One that leaves or dies is taken off, and the others notice
/// nothing; [`NodeEvent::Linked`](crate::NodeEvent::Linked) and [`LinkEnded`](crate::NodeEvent::LinkEnded) tell of it.
///
/// Dropped without [`finish`](Self::finish), receivers hear that it is gone without having finished.
///
/// ```
/// use std::time::Duration;
/// use nodeset::Node;
///
/// let node = Node::builder("microphone").instance("doc-stream-sender").embedded().connect()?;
/// let mut speaker = node.stream_receiver("sound").create()?;
/// let mut sound = node.stream("sound").create()?;
/// sound.wait_for_receivers(1, Duration::from_secs(10))?;
/// assert_eq!(sound.receivers(), [node.name()]);
///
/// assert_eq!(sound.push(b"do")?, 1); // receivers that got it
/// assert_eq!(sound.push_all([&b"re"[..], b"mi"])?, 2); // items
/// assert_eq!((sound.name(), sound.pushed(), sound.left_out()), ("sound", 3, 0));
/// assert_eq!(sound.lost(), 0);
/// sound.finish()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "its receivers lose their sender when this is dropped"]
pub struct StreamSender<C: Codec> {
    codec: C,
    fan: Fan,
    /// items
    pushed: u64,
}

impl<C: Codec> StreamSender<C> {
    /// Pushes an item to all receivers; returns how many got it, which may be none. If there is no room for it with one of
    /// them, the sender waits, leaves that one out, or fails: [`StreamBuilder::on_full`]. Encodes it once, copies it once a
    /// receiver; no system call while everybody is awake.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; nobody got it then.
    pub fn push(&mut self, item: &C::Item) -> Result<usize, PushError> {
        let bytes = self.codec.encode(item).map_err(PushError::Codec)?;
        let reached = self.fan.push(bytes)?;
        self.pushed += 1;
        Ok(reached)
    }

    /// Pushes one item after another; returns how many there were.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; everybody got those before, [`pushed`](Self::pushed) tells how many.
    pub fn push_all<'a>(&mut self, items: impl IntoIterator<Item = &'a C::Item>) -> Result<u64, PushError>
    where
        C::Item: 'a,
    {
        let before = self.pushed;
        for item in items {
            self.push(item)?;
        }
        Ok(self.pushed - before)
    }

    /// Says that nothing more comes: each receiver hears it after everything before. Waits for the receivers as
    /// [`push`](Self::push) does, but leaves nobody out.
    ///
    /// # Errors
    ///
    /// [`PushError::Full`] when a receiver had no room for it: that one gets what was pushed, then hears that the sender is
    /// gone; all others heard the end.
    pub fn finish(mut self) -> Result<(), PushError> {
        self.fan.finish()
    }

    /// Names of the nodes that get the next item.
    pub fn receivers(&mut self) -> Vec<Arc<str>> {
        self.fan.receivers()
    }

    /// Waits until there are at least `wanted` receivers; returns how many there are.
    ///
    /// # Errors
    ///
    /// When there are fewer after `timeout`.
    pub fn wait_for_receivers(&mut self, wanted: usize, timeout: Duration) -> Result<usize, NotEnoughSubscribers> {
        let found = self.fan.shared.links.wait_ready(wanted, after(Instant::now(), timeout));
        if found >= wanted {
            return Ok(found);
        }
        Err(NotEnoughSubscribers { topic: Arc::clone(&self.fan.stream), wanted, found, waited: timeout })
    }

    /// Items pushed so far.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Items that were left out so far: one for each receiver that did not get one.
    pub fn left_out(&self) -> u64 {
        self.fan.left_out
    }

    /// Items that receivers which left or died had not handled.
    pub fn lost(&mut self) -> u64 {
        self.fan.take_news();
        self.fan.lost
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.fan.stream
    }
}

impl StreamSender<Bytes> {
    /// Pushes an item of at most `len` bytes that `write` writes in place, straight into the lane of one receiver; they are copied
    /// to the others. It is given bytes that hold anything, and returns how many of them are the item. It is not called while
    /// nobody receives.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("counter").instance("doc-push-with").embedded().connect()?;
    /// let mut receiver = node.stream_receiver("count").create()?;
    /// let mut sender = node.stream("count").create()?;
    /// sender.push_with(100, |bytes| {
    ///     bytes[..3].copy_from_slice(b"one");
    ///     3
    /// })?;
    /// assert_eq!(*receiver.receive()?, b"one");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn push_with(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> usize) -> Result<usize, PushError> {
        let reached = self.fan.push_with(len, write)?;
        self.pushed += 1;
        Ok(reached)
    }
}

impl<C: Codec> fmt::Debug for StreamSender<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSender")
            .field("name", &self.fan.stream)
            .field("pushed", &self.pushed)
            .finish_non_exhaustive()
    }
}

/// A sender about to be made: [`Node::stream`](crate::Node::stream).
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, OnFull, Typed};
///
/// let node = Node::builder("microphone").instance("doc-stream-builder").embedded().connect()?;
/// let sound = node
///     .stream("sound")
///     .codec(Typed::<f32>::new())
///     .capacity(4 << 20) // bytes that may wait for each receiver
///     .on_full(OnFull::Wait(Duration::from_millis(100)))
///     .link_timeout(Duration::from_millis(500))
///     .create()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens before `create`"]
pub struct StreamBuilder<C> {
    handle: Arc<Handle>,
    name: String,
    codec: C,
    on_full: OnFull,
    /// bytes
    capacity: u64,
    link_timeout: Duration,
}

impl StreamBuilder<Bytes> {
    pub(super) fn new(handle: Arc<Handle>, name: &str) -> StreamBuilder<Bytes> {
        StreamBuilder {
            handle,
            name: name.to_owned(),
            codec: Bytes,
            on_full: OnFull::Wait(DEADLINE),
            capacity: CAPACITY,
            link_timeout: LINK_TIMEOUT,
        }
    }
}

impl<C> StreamBuilder<C> {
    /// How items become bytes; by default they are bytes.
    pub fn codec<D: Codec>(self, codec: D) -> StreamBuilder<D> {
        let StreamBuilder { handle, name, codec: _, on_full, capacity, link_timeout } = self;
        StreamBuilder { handle, name, codec, on_full, capacity, link_timeout }
    }

    /// What happens when a receiver has no room for an item; by default the sender waits up to a second.
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.on_full = on_full;
        self
    }

    /// bytes that may wait for each receiver, rounded to blocks of 64 KiB, at least four of them; default 512 KiB. The longest
    /// item, encoded, is half of what is left without one block, in whole blocks, less 32 bytes: 192 KiB by default.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = bytes;
        self
    }

    /// How long [`create`](Self::create) waits for the lanes to receivers that are there; default 1 s.
    pub fn link_timeout(mut self, timeout: Duration) -> Self {
        self.link_timeout = timeout;
        self
    }
}

impl<C: Codec> StreamBuilder<C> {
    /// Makes the sender. Returns when it has a lane to every receiver that is there and answers, at the latest after the link
    /// timeout.
    ///
    /// # Errors
    ///
    /// See [`AdvertiseError`].
    pub fn create(self) -> Result<StreamSender<C>, AdvertiseError> {
        let topic =
            topic_of(&self.name).map_err(|source| AdvertiseError::Topic { topic: self.name.clone(), source })?;
        let schema = self.codec.schema();
        schema.check()?;
        let shape = log::shape_within(DEFAULT_BLOCK_LEN, self.capacity);
        let shared = Arc::new(DirectShared::default());
        let id = PublicationId(random());
        // From here on dropping it takes the publication back.
        let mut fan = Fan::new(id, self.name.as_str().into(), Arc::clone(&shared), self.handle, self.on_full);
        let (reply, answer) = bounded(1);
        let asked = fan.handle.core.command(Command::AdvertiseDirect(DirectRequest {
            publication: id,
            topic: topic.into(),
            schema,
            shape,
            // A lane is its receiver's alone, which is reliable.
            retention: Retention { depth: 0, ..Retention::default() },
            redeliver: false,
            shared,
            reply,
        }));
        if !asked {
            return Err(AdvertiseError::Closed);
        }
        match answer.recv_timeout(ANSWER_TIMEOUT) {
            Ok(answer) => answer?,
            Err(error) if error.is_timeout() => {
                return Err(AdvertiseError::TimedOut { topic: self.name, waited: ANSWER_TIMEOUT });
            }
            Err(_) => return Err(AdvertiseError::Closed),
        }
        fan.shared.links.wait_settled(after(Instant::now(), self.link_timeout));
        fan.take_news();
        Ok(StreamSender { codec: self.codec, fan, pushed: 0 })
    }
}

impl<C> fmt::Debug for StreamBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
