//! Samples: messages that were received, in place.
//!
//! The only module of this crate with `unsafe` in it: an owned sample looks at its bytes again and again, without checking them
//! each time.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use nodeset_bus::clock::Timestamp;
use nodeset_bus::inlet::{Extensions, Frame, Kept};
use nodeset_bus::message::{InvalidMessage, Message, Schema};
use rkyv::util::AlignedVec;

use crate::error::ReceiveError;
use crate::session::{Port, PublisherInfo};
use crate::subscriber::{Found, Subscriber};

/// A message that was received: borrowed from its subscriber, in place. Derefs to the archived form of the message's type,
/// which was checked.
///
/// [`into_owned`](Sample::into_owned) makes one that outlives the next receive.
///
/// ```
/// use nodeset::Node;
///
/// let node = Node::builder("scales").instance("doc-sample").embedded().connect()?;
/// let mut publisher = node.publisher::<u32>("scales/grams").timestamps(true).create()?;
/// let mut subscriber = node.subscriber::<u32>("scales/*").create()?;
/// publisher.publish_tagged(&250, 7)?;
///
/// let sample = subscriber.receive()?;
/// assert_eq!(*sample, 250); // as archived, in place
/// assert_eq!(sample.view().to_native(), 250);
/// assert_eq!((sample.topic(), sample.publisher(), sample.host()), ("scales/grams", "scales", &*node.host()));
/// assert_eq!((sample.sequence(), sample.missed_before(), sample.tag()), (0, 0, Some(7)));
/// assert_eq!((sample.schema().name(), sample.payload().len()), ("u32", 4));
/// println!("published at {:?}, {:?} ago", sample.published_at(), sample.age());
///
/// let kept = sample.into_owned()?; // outlives the next receive
/// assert!(subscriber.try_receive()?.is_none());
/// assert_eq!(*kept, 250);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sample<'a, T: Message + ?Sized> {
    view: &'a T::View,
    payload: &'a [u8],
    frame: Frame,
    port: &'a Port,
    /// The bytes are the subscriber's own copy.
    copied: bool,
}

impl<'a, T: Message + ?Sized> Sample<'a, T> {
    /// The message, for as long as the subscriber is borrowed.
    pub fn view(&self) -> &'a T::View {
        self.view
    }

    /// Sequence number of the message in its publication: grows by one with each.
    pub fn sequence(&self) -> u64 {
        self.frame.sequence
    }

    /// How many messages of this publication were missed right before this one.
    pub fn missed_before(&self) -> u64 {
        self.frame.missed_before
    }

    /// Name of the node that published it.
    pub fn publisher(&self) -> &'a str {
        &self.port.publisher.node
    }

    /// Name of the host of that node.
    pub fn host(&self) -> &'a str {
        &self.port.publisher.host
    }

    /// When it was published, if its publisher says so ([`PublisherBuilder::timestamps`](crate::PublisherBuilder::timestamps)).
    pub fn published_at(&self) -> Option<Timestamp> {
        self.port.inlet.extensions().time
    }

    /// How long ago it was published, if its publisher says so. Zero rather than negative, where its host's clock is ahead of
    /// this one's, or was set back.
    pub fn age(&self) -> Option<Duration> {
        self.published_at().map(Timestamp::elapsed)
    }

    /// The number that its publisher sent beside it, if it did
    /// ([`Publisher::publish_tagged`](crate::Publisher::publish_tagged)).
    pub fn tag(&self) -> Option<u64> {
        self.port.inlet.extensions().tag
    }

    /// The topic on which it was published: never a pattern, also when that was subscribed.
    pub fn topic(&self) -> &'a str {
        &self.port.publisher.topic
    }

    /// What its publisher publishes.
    pub fn schema(&self) -> &'a Schema {
        &self.port.publisher.schema
    }

    /// Its bytes.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Keeps the message beyond the next receive, still in place (unless it had to be copied because its publisher is another
    /// user). What is kept costs the publisher memory, never time.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::TooManyHeld`].
    pub fn into_owned(self) -> Result<OwnedSample<T>, ReceiveError> {
        let bytes = if self.copied {
            let mut copy = AlignedVec::with_capacity(self.payload.len());
            copy.extend_from_slice(self.payload);
            Bytes::Copied(Arc::new(copy))
        } else {
            Bytes::Kept(self.port.inlet.keep()?)
        };
        Ok(OwnedSample {
            bytes,
            frame: self.frame,
            extensions: self.port.inlet.extensions(),
            publisher: Arc::clone(&self.port.publisher),
            view: PhantomData,
        })
    }
}

impl<T: Message + ?Sized> Deref for Sample<'_, T> {
    type Target = T::View;

    #[inline]
    fn deref(&self) -> &T::View {
        self.view
    }
}

impl<T: Message + ?Sized> fmt::Debug for Sample<'_, T>
where
    T::View: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample")
            .field("sequence", &self.sequence())
            .field("message", &self.view)
            .finish_non_exhaustive()
    }
}

/// A message that is kept: it stays where it is for as long as this lives, whatever its subscriber, its node or its publisher
/// does. Cheap to clone.
///
/// ```
/// use nodeset::{Node, OwnedSample};
///
/// let node = Node::builder("scales").instance("doc-owned-sample").embedded().connect()?;
/// let mut publisher = node.publisher::<u32>("scales/grams").timestamps(true).create()?;
/// let mut subscriber = node.subscriber::<u32>("scales/grams").reliable().create()?;
/// for grams in [250, 300] {
///     publisher.publish_tagged(&grams, 7)?;
/// }
/// let samples: Vec<OwnedSample<u32>> = subscriber.iter().take(2).collect::<Result<_, _>>()?;
/// drop((publisher, subscriber));
///
/// let last = samples[1].clone(); // the same bytes
/// assert_eq!(*last, 300);
/// assert_eq!((last.topic(), last.publisher(), last.host()), ("scales/grams", "scales", &*node.host()));
/// assert_eq!((last.sequence(), last.missed_before(), last.tag()), (1, 0, Some(7)));
/// assert_eq!((last.schema().name(), last.payload().len()), ("u32", 4));
/// println!("published at {:?}, {:?} ago", last.published_at(), last.age());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct OwnedSample<T: Message + ?Sized> {
    bytes: Bytes,
    frame: Frame,
    extensions: Extensions,
    publisher: Arc<PublisherInfo>,
    view: PhantomData<Box<T::View>>,
}

#[derive(Clone)]
enum Bytes {
    Kept(Kept),
    Copied(Arc<AlignedVec>),
}

impl<T: Message + ?Sized> OwnedSample<T> {
    /// Sequence number of the message in its publication: grows by one with each.
    pub fn sequence(&self) -> u64 {
        self.frame.sequence
    }

    /// How many messages of this publication were missed right before this one.
    pub fn missed_before(&self) -> u64 {
        self.frame.missed_before
    }

    /// Name of the node that published it.
    pub fn publisher(&self) -> &str {
        &self.publisher.node
    }

    /// Name of the host of that node.
    pub fn host(&self) -> &str {
        &self.publisher.host
    }

    /// When it was published, if its publisher says so ([`PublisherBuilder::timestamps`](crate::PublisherBuilder::timestamps)).
    pub fn published_at(&self) -> Option<Timestamp> {
        self.extensions.time
    }

    /// How long ago it was published, if its publisher says so. Zero rather than negative, where its host's clock is ahead of
    /// this one's, or was set back.
    pub fn age(&self) -> Option<Duration> {
        self.published_at().map(Timestamp::elapsed)
    }

    /// The number that its publisher sent beside it, if it did
    /// ([`Publisher::publish_tagged`](crate::Publisher::publish_tagged)).
    pub fn tag(&self) -> Option<u64> {
        self.extensions.tag
    }

    /// The topic on which it was published: never a pattern, also when that was subscribed.
    pub fn topic(&self) -> &str {
        &self.publisher.topic
    }

    /// What its publisher publishes.
    pub fn schema(&self) -> &Schema {
        &self.publisher.schema
    }

    /// Its bytes.
    pub fn payload(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Kept(kept) => kept.payload(),
            Bytes::Copied(copy) => copy,
        }
    }
}

impl<T: Message + ?Sized> Deref for OwnedSample<T> {
    type Target = T::View;

    #[inline]
    fn deref(&self) -> &T::View {
        // SAFETY:
        // - the bytes are the same that were checked when the sample was made: committed frames do not change (a publisher that
        //   could do otherwise is another user's, and then the bytes are a copy of our own), and the block is held
        unsafe { T::view_unchecked(self.payload()) }
    }
}

impl<T: Message + ?Sized> Clone for OwnedSample<T> {
    fn clone(&self) -> Self {
        OwnedSample {
            bytes: self.bytes.clone(),
            frame: self.frame,
            extensions: self.extensions,
            publisher: Arc::clone(&self.publisher),
            view: PhantomData,
        }
    }
}

impl<T: Message + ?Sized> fmt::Debug for OwnedSample<T>
where
    T::View: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedSample")
            .field("sequence", &self.sequence())
            .field("message", &&**self)
            .finish_non_exhaustive()
    }
}

/// A message that is kept, whose bytes were not checked yet: nobody looks at them before.
pub(crate) struct Unchecked<T: Message + ?Sized>(OwnedSample<T>);

impl<T: Message + ?Sized> Unchecked<T> {
    /// Checks it.
    pub(crate) fn check(self) -> Result<OwnedSample<T>, ReceiveError> {
        match T::view(self.0.payload()) {
            Ok(_) => Ok(self.0),
            Err(source) => Err(ReceiveError::Invalid {
                topic: Arc::clone(&self.0.publisher.topic),
                publisher: Arc::clone(&self.0.publisher.node),
                source,
            }),
        }
    }
}

impl<T: Message + ?Sized> Subscriber<T> {
    /// What was found, checked.
    #[inline(always)]
    pub(crate) fn sample(&mut self, found: Found) -> Result<Sample<'_, T>, ReceiveError> {
        let copied = self.copy_if_needed(&found);
        let port = &self.ports[found.port];
        let payload = if copied { &self.copy[..] } else { port.inlet.payload() };
        match T::view(payload) {
            Ok(view) => Ok(Sample { view, payload, frame: found.frame, port, copied }),
            Err(source) => Err(self.invalid(&found, source)),
        }
    }

    /// Keeps what was found, before anybody looks at it.
    pub(crate) fn keep(&mut self, found: &Found) -> Result<Unchecked<T>, ReceiveError> {
        let copied = self.copy_if_needed(found);
        let port = &self.ports[found.port];
        let bytes = if copied {
            Bytes::Copied(Arc::new(std::mem::take(&mut self.copy)))
        } else {
            Bytes::Kept(port.inlet.keep()?)
        };
        Ok(Unchecked(OwnedSample {
            bytes,
            frame: found.frame,
            extensions: port.inlet.extensions(),
            publisher: Arc::clone(&port.publisher),
            view: PhantomData,
        }))
    }

    #[cold]
    fn invalid(&self, found: &Found, source: InvalidMessage) -> ReceiveError {
        let publisher = &self.ports[found.port].publisher;
        ReceiveError::Invalid { topic: Arc::clone(&publisher.topic), publisher: Arc::clone(&publisher.node), source }
    }

    /// As [`try_receive`](Self::try_receive), without checking the message's bytes.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("trusting").instance("doc-unchecked").embedded().connect()?;
    /// let mut publisher = node.publisher::<str>("own/words").create()?;
    /// let mut subscriber = node.subscriber::<str>("own/words").create()?;
    /// publisher.publish("hello")?;
    /// // SAFETY: the only publisher of this dispatcher's topic is the one above.
    /// let sample = unsafe { subscriber.try_receive_unchecked() }?;
    /// assert_eq!(&*sample.expect("it was published"), "hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_receive`](Self::try_receive).
    ///
    /// # Safety
    ///
    /// Every publisher of the topic is a program that publishes messages of type `T` through this library, and does not write to
    /// its log otherwise.
    pub unsafe fn try_receive_unchecked(&mut self) -> Result<Option<Sample<'_, T>>, ReceiveError> {
        let Some(found) = self.poll()? else { return Ok(None) };
        let copied = self.copy_if_needed(&found);
        let port = &self.ports[found.port];
        let payload = if copied { &self.copy[..] } else { port.inlet.payload() };
        // SAFETY:
        // - the payload is a message of type T: the caller's contract
        let view = unsafe { T::view_unchecked(payload) };
        Ok(Some(Sample { view, payload, frame: found.frame, port, copied }))
    }
}
