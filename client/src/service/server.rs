//! Servers: they answer requests.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::log::RequestMark;
use nodeset_bus::message::Message;
use tracing::warn;

use super::BLOCK_LEN;
use super::exchange::Part;
use super::names::{self, EndId};
use crate::error::{AdvertiseError, PublishError, ReceiveError, ServeError};
use crate::publisher::{ANSWER_TIMEOUT, BegunPublisher, Publisher, PublisherBuilder};
use crate::sample::Sample;
use crate::session::Handle;
use crate::subscriber::{Found, Subscriber, SubscriberBuilder};
use crate::wait::WaitStrategy;

/// How long a reply waits for a client that does not read the ones before.
const DEADLINE: Duration = Duration::from_secs(1);

/// Answers the requests of type `Req` on a topic with replies of type `Rep`.
///
/// Several servers of one topic share its clients' requests: each client asks them in turn. Dropped, or if its process dies, its
/// clients learn at once that it is gone. It can be attached to a [`WaitSet`](crate::WaitSet); [`Node::serve`](crate::Node::serve)
/// makes one whose requests a function answers.
///
/// ```
/// use std::time::Duration;
/// use nodeset::Node;
///
/// let node = Node::builder("adder").instance("doc-server").embedded().connect()?;
/// let mut server = node.server::<(i32, i32), i32>("sum").create()?;
/// let adder = std::thread::spawn(move || {
///     let request = server.receive().expect("a request");
///     let sum = request.0 + request.1;
///     request.reply(&sum)
/// });
/// let sum = node.request::<(i32, i32), i32>("sum", &(2, 3), Duration::from_secs(10))?;
/// assert_eq!(*sum, 5);
/// adder.join().expect("it ends")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nobody answers any more when this is dropped"]
pub struct Server<Req: Message + ?Sized, Rep: Message + ?Sized> {
    /// Says that it is there. Goes first, so that no client comes to one that is going.
    _offer: Publisher<Rep>,
    requests: Subscriber<Req>,
    clients: Vec<KnownClient<Rep>>,
    /// Changes of links of `requests` that `clients` knows of.
    known: u64,
    id: EndId,
    topic: Arc<str>,
    plan: Plan,
}

/// How replies are published.
struct Plan {
    handle: Arc<Handle>,
    block_len: u32,
    timestamps: bool,
    deadline: Duration,
    wait: WaitStrategy,
}

/// A client whose requests come.
struct KnownClient<Rep: Message + ?Sized> {
    /// Where they come.
    calls: Arc<str>,
    replies: Replies<Rep>,
}

/// The way back to a client.
enum Replies<Rep: Message + ?Sized> {
    Begun(Box<BegunPublisher<Rep>>),
    Open(Box<Publisher<Rep>>),
    /// There will be none: what the client asks is not heard, and it finds no server in this one.
    Refused,
}

/// A request that was found.
struct Call {
    found: Found,
    client: usize,
    id: u64,
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> Server<Req, Rep> {
    /// The next request; waits for it.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`]; receiving can go on after each of them.
    pub fn receive(&mut self) -> Result<Request<'_, Req, Rep>, ReceiveError> {
        loop {
            if let Some(call) = self.find(None)? {
                return self.request(call);
            }
        }
    }

    /// The next request, if one is there. Never waits.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("adder").instance("doc-server-try").embedded().connect()?;
    /// let mut server = node.server::<(i32, i32), i32>("sum").create()?;
    /// assert!(server.try_receive()?.is_none()); // nobody asks
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn try_receive(&mut self) -> Result<Option<Request<'_, Req, Rep>>, ReceiveError> {
        loop {
            let found = self.requests.poll()?;
            self.meet();
            let Some(found) = found else { return Ok(None) };
            if let Some(call) = self.accept(found) {
                return self.request(call).map(Some);
            }
        }
    }

    /// The next request, if it comes within `timeout`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let node = nodeset::Node::builder("adder").instance("doc-server-timeout").embedded().connect()?;
    /// let mut server = node.server::<(i32, i32), i32>("sum").create()?;
    /// assert!(server.receive_timeout(Duration::from_millis(1))?.is_none()); // nobody asks
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Request<'_, Req, Rep>>, ReceiveError> {
        match self.find(Instant::now().checked_add(timeout))? {
            Some(call) => self.request(call).map(Some),
            None => Ok(None),
        }
    }

    /// The topic.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("adder").instance("doc-server-topic").embedded().connect()?;
    /// let server = node.server::<(i32, i32), i32>("sum").create()?;
    /// assert_eq!(server.topic(), "sum");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// How many clients are linked.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let node = nodeset::Node::builder("adder").instance("doc-server-clients").embedded().connect()?;
    /// let mut server = node.server::<(i32, i32), i32>("sum").create()?;
    /// let mut client = node.client::<(i32, i32), i32>("sum").create()?;
    /// while server.clients() == 0 {
    ///     // Takes the links that came, too.
    ///     server.receive_timeout(Duration::from_millis(1))?;
    ///     client.servers();
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.topic)
    }

    /// What is waited for.
    pub(crate) fn requests(&self) -> &Subscriber<Req> {
        &self.requests
    }

    fn find(&mut self, deadline: Option<Instant>) -> Result<Option<Call>, ReceiveError> {
        loop {
            let found = self.requests.find_or_change(self.known, deadline)?;
            self.meet();
            if let Some(call) = found.and_then(|found| self.accept(found)) {
                return Ok(Some(call));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
        }
    }

    /// Clients came or went: opens or closes the way back to them.
    #[inline]
    fn meet(&mut self) {
        if self.requests.link_changes() != self.known {
            self.meet_changed();
        }
    }

    #[cold]
    fn meet_changed(&mut self) {
        let Server { requests, clients, known, id, topic, plan, .. } = self;
        *known = requests.link_changes();
        clients.retain(|client| requests.ports.iter().any(|port| port.publisher.topic == client.calls));
        for port in &requests.ports {
            let calls = &port.publisher.topic;
            if clients.iter().any(|client| client.calls == *calls) {
                continue;
            }
            let Some(client) = EndId::last_of(calls) else { continue };
            let replies = match plan.publisher(&names::reply(topic, client, *id)).begin() {
                Ok(begun) => Replies::Begun(Box::new(begun)),
                Err(error) => refused(topic, &port.publisher.node, &error),
            };
            clients.push(KnownClient { calls: Arc::clone(calls), replies });
        }
    }

    /// A message came: a request, if it says so and its client can be answered.
    #[inline]
    fn accept(&mut self, found: Found) -> Option<Call> {
        let port = &self.requests.ports[found.port];
        let RequestMark { id, .. } = port.inlet.request_mark()?;
        let calls = &port.publisher.topic;
        let client = self.clients.iter().position(|client| client.calls == *calls)?;
        let replies = &mut self.clients[client].replies;
        if !matches!(replies, Replies::Open(_)) && !replies.open(&self.topic, &port.publisher.node) {
            return None;
        }
        Some(Call { found, client, id })
    }

    #[inline(always)]
    fn request(&mut self, call: Call) -> Result<Request<'_, Req, Rep>, ReceiveError> {
        let Call { found, client, id } = call;
        let Replies::Open(publisher) = &mut self.clients[client].replies else {
            unreachable!("a call is accepted only from a client that can be answered");
        };
        let mut answering = Answering { publisher, plan: &self.plan, id, over: false };
        match self.requests.sample(found) {
            Ok(sample) => Ok(Request { sample, answering }),
            Err(error) => {
                answering.abandon();
                Err(error)
            }
        }
    }
}

impl Plan {
    fn publisher<T: Message + ?Sized>(&self, topic: &str) -> PublisherBuilder<T> {
        let builder = PublisherBuilder::new(Arc::clone(&self.handle), topic);
        builder.block_len(self.block_len).timestamps(self.timestamps).deadline(self.deadline).wait(self.wait)
    }
}

impl<Rep: Message + ?Sized> Replies<Rep> {
    /// The dispatcher has answered by now: the client asks only after it was linked to this.
    #[cold]
    fn open(&mut self, topic: &str, client: &str) -> bool {
        *self = match std::mem::replace(self, Replies::Refused) {
            Replies::Begun(begun) => match begun.finish_by(Instant::now() + ANSWER_TIMEOUT) {
                Ok(publisher) => Replies::Open(Box::new(publisher)),
                Err(error) => refused(topic, client, &error),
            },
            other => other,
        };
        matches!(self, Replies::Open(_))
    }
}

fn refused<Rep: Message + ?Sized>(topic: &str, client: &str, error: &AdvertiseError) -> Replies<Rep> {
    warn!(event = "client_not_linked", topic, client, %error);
    Replies::Refused
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> fmt::Debug for Server<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("topic", &self.topic).field("clients", &self.clients()).finish_non_exhaustive()
    }
}

/// A request that was received: derefs to its message, in place, as a [`Sample`]. It is answered by one [`reply`](Self::reply), or by
/// any number of [`send`](Self::send) and an [`end`](Self::end). Dropped before, the client learns at once that it is not
/// answered ([`RequestError::Unanswered`](crate::RequestError::Unanswered)).
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, RequestError};
///
/// let node = Node::builder("speller").instance("doc-request").embedded().connect()?;
/// let mut server = node.server::<str, str>("spell").create()?;
/// let speller = std::thread::spawn(move || {
///     let mut request = server.receive()?;
///     assert_eq!((request.client(), request.sample().publisher()), ("speller", "speller"));
///     for letter in request.message().split_inclusive(char::is_alphabetic) {
///         request.send(letter)?;
///     }
///     request.end()?;
///     server.receive()?.reply("the one and only")?;
///     drop(server.receive()?); // not answered
///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// });
///
/// let mut client = node.client::<str, str>("spell").create()?;
/// let mut answer = client.ask("abc", Duration::from_secs(10))?;
/// let mut letters = Vec::new();
/// while let Some(letter) = answer.receive()? {
///     letters.push(letter.to_owned());
/// }
/// assert_eq!(letters, ["a", "b", "c"]);
/// assert_eq!(&*client.request("", Duration::from_secs(10))?, "the one and only");
/// let unanswered = client.request("?", Duration::from_secs(10)).unwrap_err();
/// assert!(matches!(unanswered, RequestError::Unanswered { .. }));
/// speller.join().expect("it ends").expect("it answers");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a request that is dropped is not answered"]
pub struct Request<'a, Req: Message + ?Sized, Rep: Message + ?Sized> {
    sample: Sample<'a, Req>,
    answering: Answering<'a, Rep>,
}

impl<'a, Req: Message + ?Sized, Rep: Message + ?Sized> Request<'a, Req, Rep> {
    /// Answers, or gives the last one of several replies: serialised straight into shared memory. Waits for a client that has
    /// not read so many replies that its log is full, at most for the server's deadline.
    ///
    /// # Errors
    ///
    /// See [`PublishError`]. A client that has gone meanwhile is none.
    pub fn reply(mut self, reply: &Rep) -> Result<(), PublishError> {
        self.answering.send(reply, Part::Last)
    }

    /// Gives one of several replies. More may follow, then [`reply`](Self::reply) or [`end`](Self::end).
    ///
    /// # Errors
    ///
    /// As [`reply`](Self::reply); this one was not sent then.
    pub fn send(&mut self, reply: &Rep) -> Result<(), PublishError> {
        self.answering.send(reply, Part::Reply)
    }

    /// No reply follows.
    ///
    /// # Errors
    ///
    /// As [`reply`](Self::reply).
    pub fn end(mut self) -> Result<(), PublishError> {
        self.answering.end()
    }

    /// What was asked, for as long as the server is borrowed.
    pub fn message(&self) -> &'a Req::View {
        self.sample.view()
    }

    /// What was asked, with all that is known of it: its host, its publish time ([`ClientBuilder::timestamps`]), its schema.
    ///
    /// [`ClientBuilder::timestamps`]: crate::ClientBuilder::timestamps
    pub fn sample(&self) -> &Sample<'a, Req> {
        &self.sample
    }

    /// Name of the node that asks.
    pub fn client(&self) -> &'a str {
        self.sample.publisher()
    }

    /// The message, and what answers it.
    pub(super) fn split(self) -> (Sample<'a, Req>, Answering<'a, Rep>) {
        (self.sample, self.answering)
    }
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> Deref for Request<'_, Req, Rep> {
    type Target = Req::View;

    fn deref(&self) -> &Req::View {
        &self.sample
    }
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> fmt::Debug for Request<'_, Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("client", &self.client())
            .field("id", &self.answering.id)
            .finish_non_exhaustive()
    }
}

/// The answer to a request, as far as it was given. Dropped before its end, that is told.
pub(super) struct Answering<'a, Rep: Message + ?Sized> {
    publisher: &'a mut Publisher<Rep>,
    plan: &'a Plan,
    id: u64,
    over: bool,
}

impl<Rep: Message + ?Sized> Answering<'_, Rep> {
    pub(super) fn send(&mut self, reply: &Rep, part: Part) -> Result<(), PublishError> {
        self.publisher.publish_marked(reply, part.mark(self.id), self.plan.deadline)?;
        self.over = part != Part::Reply;
        Ok(())
    }

    fn end(&mut self) -> Result<(), PublishError> {
        self.publisher.publish_mark(Part::End.mark(self.id), self.plan.deadline)?;
        self.over = true;
        Ok(())
    }

    fn abandon(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            // A client that leaves no room for it waits for nothing.
            let _ = self.publisher.publish_mark(Part::Abandoned.mark(self.id), Duration::ZERO);
        }
    }
}

impl<Rep: Message + ?Sized> Drop for Answering<'_, Rep> {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// A server about to be made.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, WaitStrategy};
///
/// let node = Node::builder("maps").instance("doc-server-builder").embedded().connect()?;
/// let server = node
///     .server::<str, [u8]>("maps/tile")
///     .block_len(1 << 20) // bytes, for long replies
///     .deadline(Duration::from_millis(100)) // of clients that do not read them
///     .timestamps(true)
///     .copied()
///     .wait(WaitStrategy::Yield)
///     .create()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens before `create`"]
pub struct ServerBuilder<Req: Message + ?Sized, Rep: Message + ?Sized> {
    requests: SubscriberBuilder<Req>,
    offer: PublisherBuilder<Rep>,
    id: EndId,
    topic: String,
    plan: Plan,
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> ServerBuilder<Req, Rep> {
    pub(super) fn new(handle: &Arc<Handle>, topic: &str) -> ServerBuilder<Req, Rep> {
        let id = EndId::new();
        ServerBuilder {
            requests: SubscriberBuilder::new(Arc::clone(handle), &names::all_calls(topic, id)).reliable(),
            offer: PublisherBuilder::new(Arc::clone(handle), &names::offer(topic, id)).block_len(4096).blocks(4),
            id,
            topic: topic.to_owned(),
            plan: Plan {
                handle: Arc::clone(handle),
                block_len: BLOCK_LEN,
                timestamps: false,
                deadline: DEADLINE,
                wait: WaitStrategy::default(),
            },
        }
    }

    /// How it waits for requests.
    pub fn wait(mut self, wait: WaitStrategy) -> Self {
        self.requests = self.requests.wait(wait);
        self.plan.wait = wait;
        self
    }

    /// How long a reply waits for a client that does not read the ones before; default 1 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.plan.deadline = deadline;
        self
    }

    /// bytes of a block of the log of each client's replies; a power of two from 4 KiB to 64 MiB, default 16 KiB. Longer replies
    /// take several blocks.
    pub fn block_len(mut self, bytes: u32) -> Self {
        self.plan.block_len = bytes;
        self
    }

    /// Each reply says when it was given ([`Sample::age`]); off by default. It costs 16 bytes a reply, and reading a clock.
    pub fn timestamps(mut self, on: bool) -> Self {
        self.plan.timestamps = on;
        self
    }

    /// Copies requests before they are checked, whoever makes them ([`SubscriberBuilder::copied`](crate::SubscriberBuilder::copied)).
    pub fn copied(mut self) -> Self {
        self.requests = self.requests.copied();
        self
    }

    /// Makes the server. Clients that are there find it from now on; requests are taken in [`Server::receive`].
    ///
    /// # Errors
    ///
    /// See [`ServeError`].
    pub fn create(self) -> Result<Server<Req, Rep>, ServeError> {
        let ServerBuilder { requests, offer, id, topic, plan } = self;
        names::check(&topic).map_err(|source| AdvertiseError::Topic { topic: topic.clone(), source })?;
        // Nobody knows its number before the offer is there.
        let requests = requests.create()?;
        let offer = offer.create()?;
        let known = requests.link_changes();
        let topic = topic.into();
        Ok(Server { _offer: offer, requests, clients: Vec::new(), known, id, topic, plan })
    }
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> fmt::Debug for ServerBuilder<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder").field("topic", &self.topic).finish_non_exhaustive()
    }
}
