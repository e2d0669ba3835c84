//! Clients: they make requests.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::log::RequestMark;
use nodeset_bus::message::Message;

use super::BLOCK_LEN;
use super::exchange::{Exchange, Heard};
use super::names::{self, EndId};
use super::servers::{CallPlan, Servers, has_port};
use crate::error::{ReceiveError, RequestError, SubscribeError};
use crate::publisher::ANSWER_TIMEOUT;
use crate::sample::Sample;
use crate::session::Handle;
use crate::subscriber::{Found, Subscriber, SubscriberBuilder};
use crate::wait::WaitStrategy;

/// Makes requests of type `Req` to the servers of a topic, which reply with `Rep`.
///
/// It makes one request at a time; the servers that are there are asked in turn. For several at once, make several clients.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, Sample};
///
/// let node = Node::builder("echo").instance("doc-client").embedded().connect()?;
/// node.serve("echo", |text: Sample<'_, str>| text.to_uppercase())?;
/// let (running, stop) = (node.clone(), node.stop_handle());
/// let running = std::thread::spawn(move || running.run());
///
/// let mut client = node.client::<str, String>("echo").create()?;
/// for text in ["hello", "again"] {
///     let reply = client.request(text, Duration::from_secs(10))?; // in place: nothing is copied
///     assert_eq!(&**reply, text.to_uppercase());
/// }
/// stop.stop();
/// running.join().expect("handlers do not end their thread")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "its links to servers end when this is dropped"]
pub struct Client<Req: Message + ?Sized, Rep: Message + ?Sized> {
    topic: Arc<str>,
    id: EndId,
    servers: Servers<Req>,
    /// Of servers: nothing is published there.
    offers: Subscriber<Rep>,
    replies: Subscriber<Rep>,
    /// Number of the last request.
    last: u64,
}

/// A request that was sent.
struct Sent {
    exchange: Exchange,
    /// Which of the servers it was sent to; they stay the same until the next request.
    server: usize,
    /// Changes of links of replies up to which that one was there.
    known: u64,
    since: Instant,
    /// `None`: for ever.
    until: Option<Instant>,
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> Client<Req, Rep> {
    /// Makes a request and waits for the reply, at most for `deadline`, which begins with the call: also while no server is
    /// there. Of several replies it is the first one; [`ask`](Self::ask) gives all.
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    pub fn request(&mut self, request: &Req, deadline: Duration) -> Result<Sample<'_, Rep>, RequestError> {
        let mut sent = self.send(request, deadline)?;
        match self.next_reply(&mut sent)? {
            Some(found) => Ok(self.replies.sample(found)?),
            None => Err(self.unanswered(&sent)),
        }
    }

    /// Makes a request that is answered by any number of replies, all within `deadline`. Returns when it was sent.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use nodeset::Node;
    /// # let node = Node::builder("letters").instance("doc-ask").embedded().connect()?;
    /// let mut server = node.server::<str, str>("letters").create()?;
    /// let answering = std::thread::spawn(move || {
    ///     let mut request = server.receive()?;
    ///     for letter in request.message().split("") {
    ///         request.send(letter)?;
    ///     }
    ///     request.end()?;
    ///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    /// });
    /// let mut client = node.client::<str, str>("letters").create()?;
    /// let mut answer = client.ask("abc", Duration::from_secs(10))?;
    /// let mut all = String::new();
    /// while let Some(letter) = answer.receive()? {
    ///     all.push_str(&letter);
    /// }
    /// assert_eq!(all, "abc");
    /// answering.join().expect("it ends")?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    pub fn ask(&mut self, request: &Req, deadline: Duration) -> Result<Answer<'_, Req, Rep>, RequestError> {
        let sent = self.send(request, deadline)?;
        Ok(Answer { client: self, sent })
    }

    /// How many servers are linked.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("asks").instance("doc-client-servers").embedded().connect()?;
    /// let mut client = node.client::<str, str>("weather").create()?;
    /// assert_eq!(client.servers(), 0); // nobody serves that so far
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn servers(&mut self) -> usize {
        // What went wrong with a link is told by the next request.
        let _ = self.servers.update(&mut self.offers, &mut self.replies);
        self.servers.usable()
    }

    /// Waits until at least `wanted` servers are linked; says how many are, which are fewer once `timeout` is over.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let node = nodeset::Node::builder("asks").instance("doc-client-wait").embedded().connect()?;
    /// let mut client = node.client::<str, str>("weather").create()?;
    /// assert_eq!(client.wait_for_servers(1, Duration::from_millis(1))?, 0); // there is none
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`RequestError`]; [`RequestError::NoServer`] is none of them.
    pub fn wait_for_servers(&mut self, wanted: usize, timeout: Duration) -> Result<usize, RequestError> {
        self.await_servers(wanted, Instant::now().checked_add(timeout))
    }

    /// The topic.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("asks").instance("doc-client-topic").embedded().connect()?;
    /// let client = node.client::<str, str>("weather").create()?;
    /// assert_eq!(client.topic(), "weather");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic(&self) -> &str {
        &self.topic
    }

    fn send(&mut self, request: &Req, deadline: Duration) -> Result<Sent, RequestError> {
        if !self.servers.are_current(&self.offers, &self.replies) {
            self.servers.update(&mut self.offers, &mut self.replies)?;
        }
        self.last += 1;
        let mark = RequestMark { id: self.last, lane: self.id.as_word() };
        let at_once = self.servers.send_at_once(request, mark)?;
        // Only now, while the request is on its way: the clock takes as long as a message.
        let since = Instant::now();
        let until = since.checked_add(deadline);
        let server = match at_once {
            Some(at) => at,
            None => self.send_later(request, mark, since, until)?,
        };
        Ok(Sent { exchange: Exchange::new(self.last), server, known: self.replies.link_changes(), since, until })
    }

    /// No server takes it at once: waits for one.
    #[cold]
    fn send_later(
        &mut self,
        request: &Req,
        mark: RequestMark,
        since: Instant,
        until: Option<Instant>,
    ) -> Result<usize, RequestError> {
        loop {
            if let Some(at) = self.servers.send(request, mark, until)? {
                return Ok(at);
            }
            if self.await_servers(1, until)? == 0 {
                let unlinked = self.servers.len();
                return Err(RequestError::NoServer {
                    topic: Arc::clone(&self.topic),
                    waited: since.elapsed(),
                    unlinked,
                });
            }
        }
    }

    /// Waits until so many servers are linked. Says how many are.
    #[cold]
    fn await_servers(&mut self, wanted: usize, until: Option<Instant>) -> Result<usize, RequestError> {
        let waiter = Arc::clone(self.offers.waiter());
        loop {
            let mut ticket = waiter.ticket();
            self.servers.update(&mut self.offers, &mut self.replies)?;
            let usable = self.servers.usable();
            if usable >= wanted {
                return Ok(usable);
            }
            let answered_by = until.unwrap_or_else(|| Instant::now() + ANSWER_TIMEOUT);
            if let Err(error) = self.servers.await_answers(answered_by) {
                self.servers.forget_refused();
                return Err(error.into());
            }
            // What the dispatcher said just now may have been all that was missing.
            if self.servers.usable() >= wanted {
                continue;
            }
            // Links are told to all threads of the node, whatever they wait for.
            if !ticket.sleep(until, None).map_err(ReceiveError::Wait)? {
                self.servers.update(&mut self.offers, &mut self.replies)?;
                return Ok(self.servers.usable());
            }
        }
    }

    /// The next reply to a request; `None` at the end of its answer.
    fn next_reply(&mut self, sent: &mut Sent) -> Result<Option<Found>, RequestError> {
        while !sent.exchange.is_over() {
            match self.replies.find_or_change(sent.known, sent.until) {
                Ok(Some(found)) => {
                    let port = &self.replies.ports[found.port];
                    let Some(mark) = port.inlet.request_mark() else { continue };
                    if port.publisher.topic != self.servers.get(sent.server).replies {
                        continue;
                    }
                    match sent.exchange.hear(mark) {
                        Heard::Reply => return Ok(Some(found)),
                        Heard::Abandoned => return Err(self.unanswered(sent)),
                        Heard::End | Heard::Nothing => {}
                    }
                }
                Ok(None) => self.look_after(sent)?,
                Err(error @ ReceiveError::Wait(_)) => return Err(error.into()),
                // Of one link: if it is the one that matters, it is gone now.
                Err(_) => self.look_after(sent)?,
            }
        }
        Ok(None)
    }

    /// Nothing came: is the server still there, and is there still time?
    #[cold]
    fn look_after(&self, sent: &mut Sent) -> Result<(), RequestError> {
        let of = self.servers.get(sent.server);
        let (topic, server) = (Arc::clone(&self.topic), Arc::clone(&of.node));
        sent.known = self.replies.link_changes();
        if !has_port(&self.replies, &of.replies) {
            sent.exchange.finish();
            return Err(RequestError::ServerGone { topic, server });
        }
        if sent.until.is_some_and(|until| Instant::now() >= until) {
            sent.exchange.finish();
            return Err(RequestError::TimedOut { topic, server, waited: sent.since.elapsed() });
        }
        Ok(())
    }

    #[cold]
    fn unanswered(&self, sent: &Sent) -> RequestError {
        let server = Arc::clone(&self.servers.get(sent.server).node);
        RequestError::Unanswered { topic: Arc::clone(&self.topic), server }
    }
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> fmt::Debug for Client<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("topic", &self.topic).field("id", &self.id).finish_non_exhaustive()
    }
}

/// The answer to a request, reply by reply ([`Client::ask`]). Dropped before its end, what is left of it is dropped as well.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, Request};
///
/// let node = Node::builder("counter").instance("doc-answer").embedded().connect()?;
/// let server = node.server::<u32, u32>("count").create()?;
/// node.handle_requests(server, |mut request: Request<'_, u32, u32>| {
///     (0..request.to_native()).try_for_each(|number| request.send(&number))?;
///     request.end()
/// });
/// let (running, stop) = (node.clone(), node.stop_handle());
/// let running = std::thread::spawn(move || running.run());
///
/// let mut client = node.client::<u32, u32>("count").create()?;
/// let mut answer = client.ask(&3, Duration::from_secs(10))?;
/// assert_eq!(answer.server(), "counter");
/// let mut sum = 0;
/// while let Some(number) = answer.receive()? {
///     sum += number.to_native();
/// }
/// assert_eq!(sum, 3);
/// stop.stop();
/// running.join().expect("handlers do not end their thread")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the replies are in here"]
pub struct Answer<'a, Req: Message + ?Sized, Rep: Message + ?Sized> {
    client: &'a mut Client<Req, Rep>,
    sent: Sent,
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> Answer<'_, Req, Rep> {
    /// The next reply; waits for it, at most until the request's deadline. `None` at the end.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. Nothing follows, except after [`RequestError::Receive`].
    pub fn receive(&mut self) -> Result<Option<Sample<'_, Rep>>, RequestError> {
        match self.client.next_reply(&mut self.sent)? {
            Some(found) => Ok(Some(self.client.replies.sample(found)?)),
            None => Ok(None),
        }
    }

    /// Name of the node that answers.
    pub fn server(&self) -> &str {
        &self.client.servers.get(self.sent.server).node
    }
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> fmt::Debug for Answer<'_, Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("server", &self.server()).field("exchange", &self.sent.exchange).finish()
    }
}

/// A client about to be made.
///
/// ```
/// use nodeset::{Node, WaitStrategy};
///
/// let node = Node::builder("asks").instance("doc-client-builder").embedded().connect()?;
/// let client = node
///     .client::<[u8], str>("images/describe")
///     .block_len(1 << 20) // bytes, for long requests
///     .timestamps(true)
///     .copied()
///     .wait(WaitStrategy::Spin)
///     .create()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing happens before `create`"]
pub struct ClientBuilder<Req: Message + ?Sized, Rep: Message + ?Sized> {
    handle: Arc<Handle>,
    topic: String,
    block_len: u32,
    timestamps: bool,
    wait: WaitStrategy,
    copied: bool,
    messages: PhantomData<fn(&Req, &Rep)>,
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> ClientBuilder<Req, Rep> {
    pub(super) fn new(handle: &Arc<Handle>, topic: &str) -> ClientBuilder<Req, Rep> {
        ClientBuilder {
            handle: Arc::clone(handle),
            topic: topic.to_owned(),
            block_len: BLOCK_LEN,
            timestamps: false,
            wait: WaitStrategy::default(),
            copied: false,
            messages: PhantomData,
        }
    }

    /// How it waits for replies.
    pub fn wait(mut self, wait: WaitStrategy) -> Self {
        self.wait = wait;
        self
    }

    /// bytes of a block of the log of requests to each server; a power of two from 4 KiB to 64 MiB, default 16 KiB. Longer
    /// requests take several blocks.
    pub fn block_len(mut self, bytes: u32) -> Self {
        self.block_len = bytes;
        self
    }

    /// Each request says when it was made ([`Sample::age`] of [`Request::sample`](crate::Request::sample)); off by default. It
    /// costs 16 bytes a request, and reading a clock.
    pub fn timestamps(mut self, on: bool) -> Self {
        self.timestamps = on;
        self
    }

    /// Copies replies before they are checked, whoever gives them ([`SubscriberBuilder::copied`](crate::SubscriberBuilder::copied)).
    pub fn copied(mut self) -> Self {
        self.copied = true;
        self
    }

    /// Makes the client. It does not wait for servers: the first request does.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn create(self) -> Result<Client<Req, Rep>, SubscribeError> {
        let ClientBuilder { handle, topic, block_len, timestamps, wait, copied, .. } = self;
        names::check(&topic).map_err(|source| SubscribeError::Topic { topic: topic.clone(), source })?;
        let (id, topic): (_, Arc<str>) = (EndId::new(), topic.into());
        let replies =
            SubscriberBuilder::new(Arc::clone(&handle), &names::all_replies(&topic, id)).reliable().wait(wait);
        let replies = if copied { replies.copied() } else { replies }.create()?;
        // After that, so that whoever answers an offer is heard.
        let offers = SubscriberBuilder::new(Arc::clone(&handle), &names::all_offers(&topic)).create()?;
        let plan = CallPlan { handle, topic: Arc::clone(&topic), client: id, block_len, timestamps, wait };
        Ok(Client { topic, id, servers: Servers::new(plan), offers, replies, last: 0 })
    }
}

impl<Req: Message + ?Sized, Rep: Message + ?Sized> fmt::Debug for ClientBuilder<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("topic", &self.topic).finish_non_exhaustive()
    }
}
