//! Receivers of streams.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::protocol::LinkId;

use super::codec::{Bytes, Codec};
use super::error::StreamError;
use super::mark::Mark;
use super::topic_of;
use crate::armed::Readiness;
use crate::error::{ReceiveError, SubscribeError};
use crate::session::Handle;
use crate::subscriber::{Found, Subscriber, SubscriberBuilder};

/// An item that was received; derefs to what the codec makes of it.
///
/// ```
/// use nodeset::Node;
///
/// let node = Node::builder("speaker").instance("doc-stream-item").embedded().connect()?;
/// let mut speaker = node.stream_receiver("sound").create()?;
/// let mut sound = node.stream("sound").create()?;
/// sound.push(b"la")?;
/// let item = speaker.receive()?;
/// assert_eq!((item.sender(), item.missed_before(), item.len()), ("speaker", 0, 2));
/// let bytes: &[u8] = item.into_view(); // for as long as the receiver is borrowed
/// assert_eq!(bytes, b"la");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StreamItem<'a, C: Codec + 'a> {
    view: C::View<'a>,
    sender: &'a str,
    missed_before: u64,
}

impl<'a, C: Codec> StreamItem<'a, C> {
    /// Name of the node that sent it.
    pub fn sender(&self) -> &'a str {
        self.sender
    }

    /// Items that the sender left out for this receiver directly before it.
    pub fn missed_before(&self) -> u64 {
        self.missed_before
    }

    /// The item, for as long as the receiver is borrowed.
    pub fn into_view(self) -> C::View<'a> {
        self.view
    }
}

impl<'a, C: Codec> Deref for StreamItem<'a, C> {
    type Target = C::View<'a>;

    fn deref(&self) -> &C::View<'a> {
        &self.view
    }
}

impl<'a, C: Codec> fmt::Debug for StreamItem<'a, C>
where
    C::View<'a>: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamItem").field("sender", &self.sender).field("item", &self.view).finish_non_exhaustive()
    }
}

/// The receiving end of a stream, of all its senders: [`Node::stream_receiver`](crate::Node::stream_receiver).
///
/// The order of each sender is kept. It begins with the first item that a sender pushes after it joined.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, Readiness};
///
/// let node = Node::builder("speaker").instance("doc-stream-receiver").embedded().connect()?;
/// let mut speaker = node.stream_receiver("sound").create()?;
/// let mut sound = node.stream("sound").create()?;
/// assert_eq!((speaker.senders(), speaker.name()), (1, "sound"));
/// assert!(speaker.try_receive()?.is_none()); // never waits
///
/// sound.push_all([&b"do"[..], b"re"])?;
/// assert!(matches!(speaker.arm()?, Readiness::Ready)); // for event loops
/// assert_eq!(*speaker.receive()?, b"do"); // waits
/// let second = speaker.receive_timeout(Duration::from_secs(1))?;
/// assert_eq!(*second.expect("it was pushed"), b"re");
/// assert_eq!(speaker.missed(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing is received any more when this is dropped"]
pub struct StreamReceiver<C: Codec> {
    subscriber: Subscriber<[u8]>,
    codec: C,
    name: Arc<str>,
    senders: Vec<Sender>,
    /// Changes of the subscriber's links that `senders` knows of.
    known_changes: u64,
    /// Names of senders that are gone without having finished, and not told yet.
    gone: VecDeque<Arc<str>>,
    missed: u64,
}

/// One sender.
struct Sender {
    link: LinkId,
    node: Arc<str>,
    finished: bool,
}

/// An item that is there, not decoded yet.
struct Next {
    found: Found,
    missed_before: u64,
}

impl<C: Codec> StreamReceiver<C> {
    /// The next item; waits for it, also for senders to come.
    ///
    /// # Errors
    ///
    /// See [`StreamError`]; receiving can go on after each of them.
    pub fn receive(&mut self) -> Result<StreamItem<'_, C>, StreamError> {
        loop {
            if let Some(next) = self.next(|subscriber, known| subscriber.find_or_change(known, None))? {
                return self.item(next);
            }
        }
    }

    /// The next item, if it is there. Never waits.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn try_receive(&mut self) -> Result<Option<StreamItem<'_, C>>, StreamError> {
        match self.next(|subscriber, _| subscriber.poll())? {
            Some(next) => self.item(next).map(Some),
            None => Ok(None),
        }
    }

    /// The next item, if it comes within `timeout`.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<StreamItem<'_, C>>, StreamError> {
        // A timeout beyond what the clock can say is none.
        let deadline = Instant::now().checked_add(timeout);
        match self.next(|subscriber, known| subscriber.find_or_change(known, deadline))? {
            Some(next) => self.item(next).map(Some),
            None => Ok(None),
        }
    }

    /// How many senders are linked.
    pub fn senders(&mut self) -> usize {
        self.subscriber.publishers()
    }

    /// Items that senders left out for this receiver so far.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For an event loop that polls this receiver's descriptor: see [`Subscriber::arm`](crate::Subscriber::arm). Receive until
    /// nothing is there, then arm.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor left.
    pub fn arm(&mut self) -> Result<Readiness, ReceiveError> {
        if self.gone.is_empty() { self.subscriber.arm() } else { Ok(Readiness::Ready) }
    }

    pub(crate) fn subscriber(&self) -> &Subscriber<[u8]> {
        &self.subscriber
    }

    /// The next item that `find` finds, or what there is to tell instead.
    fn next(
        &mut self,
        mut find: impl FnMut(&mut Subscriber<[u8]>, u64) -> Result<Option<Found>, ReceiveError>,
    ) -> Result<Option<Next>, StreamError> {
        loop {
            if let Some(sender) = self.gone.pop_front() {
                return Err(StreamError::SenderLost { sender });
            }
            let found = find(&mut self.subscriber, self.known_changes)?;
            let changed = self.look_at_senders();
            let Some(found) = found else {
                // Whoever came or went ended the wait, but not its time.
                if changed {
                    continue;
                }
                return Ok(None);
            };
            let inlet = &self.subscriber.ports[found.port].inlet;
            match Mark::of(inlet.extensions()) {
                Mark::Item { missed } => {
                    self.missed = self.missed.saturating_add(missed);
                    return Ok(Some(Next { found, missed_before: missed }));
                }
                Mark::Finished { missed } => {
                    let link = inlet.id();
                    self.missed = self.missed.saturating_add(missed);
                    if let Some(sender) = self.senders.iter_mut().find(|it| it.link == link) {
                        sender.finished = true;
                    }
                    let sender = Arc::clone(&self.subscriber.ports[found.port].publisher.node);
                    return Err(StreamError::Finished { sender, missed });
                }
            }
        }
    }

    /// Notes who came, and who went without having finished; says whether anybody did either.
    fn look_at_senders(&mut self) -> bool {
        let changes = self.subscriber.link_changes();
        if changes == self.known_changes {
            return false;
        }
        self.known_changes = changes;
        let ports = &self.subscriber.ports;
        let gone = &mut self.gone;
        self.senders.retain(|sender| {
            let here = ports.iter().any(|port| port.inlet.id() == sender.link);
            if !here && !sender.finished {
                gone.push_back(Arc::clone(&sender.node));
            }
            here
        });
        for port in ports {
            let link = port.inlet.id();
            if !self.senders.iter().any(|sender| sender.link == link) {
                self.senders.push(Sender { link, node: Arc::clone(&port.publisher.node), finished: false });
            }
        }
        true
    }

    fn item(&mut self, next: Next) -> Result<StreamItem<'_, C>, StreamError> {
        let copied = self.subscriber.copy_if_needed(&next.found);
        let port = &self.subscriber.ports[next.found.port];
        let bytes = if copied { &self.subscriber.copy[..] } else { port.inlet.payload() };
        let sender = &port.publisher.node;
        match self.codec.decode(bytes) {
            Ok(view) => Ok(StreamItem { view, sender, missed_before: next.missed_before }),
            Err(reason) => Err(StreamError::Codec { sender: Arc::clone(sender), reason }),
        }
    }
}

impl<C: Codec> AsFd for StreamReceiver<C> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.subscriber.as_fd()
    }
}

impl<C: Codec> fmt::Debug for StreamReceiver<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReceiver").field("name", &self.name).field("missed", &self.missed).finish_non_exhaustive()
    }
}

/// A receiver about to be made: [`Node::stream_receiver`](crate::Node::stream_receiver).
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, Typed};
///
/// let node = Node::builder("speaker").instance("doc-stream-receiver-builder").embedded().connect()?;
/// let speaker = node
///     .stream_receiver("sound")
///     .codec(Typed::<f32>::new()) // as its senders
///     .copied() // of senders that may be hostile
///     .link_timeout(Duration::from_millis(500))
///     .create()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens before `create`"]
pub struct StreamReceiverBuilder<C> {
    handle: Arc<Handle>,
    name: String,
    codec: C,
    copied: bool,
    link_timeout: Option<Duration>,
}

impl StreamReceiverBuilder<Bytes> {
    pub(super) fn new(handle: Arc<Handle>, name: &str) -> StreamReceiverBuilder<Bytes> {
        StreamReceiverBuilder { handle, name: name.to_owned(), codec: Bytes, copied: false, link_timeout: None }
    }
}

impl<C> StreamReceiverBuilder<C> {
    /// How bytes become items; the senders need the same one. By default items are bytes.
    pub fn codec<D: Codec>(self, codec: D) -> StreamReceiverBuilder<D> {
        let StreamReceiverBuilder { handle, name, codec: _, copied, link_timeout } = self;
        StreamReceiverBuilder { handle, name, codec, copied, link_timeout }
    }

    /// Copies every item before it is decoded, whoever sent it: right for senders that may be hostile. Those of other users are
    /// copied anyway.
    pub fn copied(mut self) -> Self {
        self.copied = true;
        self
    }

    /// How long [`create`](Self::create) waits for the lanes of senders that are there; default 1 s.
    pub fn link_timeout(mut self, timeout: Duration) -> Self {
        self.link_timeout = Some(timeout);
        self
    }
}

impl<C: Codec> StreamReceiverBuilder<C> {
    /// Makes the receiver. Returns when every sender that is there and answers has a lane to it, at the latest after the link
    /// timeout.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn create(self) -> Result<StreamReceiver<C>, SubscribeError> {
        let topic =
            topic_of(&self.name).map_err(|source| SubscribeError::Topic { topic: self.name.clone(), source })?;
        let mut builder = SubscriberBuilder::<[u8]>::new(self.handle, &topic).reliable().expecting(self.codec.schema());
        if self.copied {
            builder = builder.copied();
        }
        if let Some(timeout) = self.link_timeout {
            builder = builder.link_timeout(timeout);
        }
        Ok(StreamReceiver {
            subscriber: builder.create()?,
            codec: self.codec,
            name: self.name.into(),
            senders: Vec::new(),
            known_changes: 0,
            gone: VecDeque::new(),
            missed: 0,
        })
    }
}

impl<C> fmt::Debug for StreamReceiverBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReceiverBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
