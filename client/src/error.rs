//! What can go wrong, one enum an operation.
//!
//! The text of an error is complete: what was wrong, its cause, what to do. `source()` has the cause once more, for programs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nodeset_bus::inlet::TooManyHeld;
use nodeset_bus::log::ShapeError;
use nodeset_bus::memory::SegmentError;
use nodeset_bus::message::{InvalidMessage, SchemaError};
use nodeset_bus::page::LayoutError;
use nodeset_bus::protocol::RefusalCode;
use nodeset_bus::protocol::endpoint::EndpointError;
use nodeset_bus::protocol::record::{RecordError, SendError};
use nodeset_bus::topic::AddressError;
use thiserror::Error;

/// A node could not be attached to a dispatcher.
///
/// ```
/// use nodeset::{ConnectError, Node};
///
/// match Node::builder("robot").instance("doc-connect-error").connect() {
///     Ok(node) => println!("attached as {}", node.name()),
///     // What can be done is in the text; what may be tried by a program has a variant.
///     Err(error @ ConnectError::Nobody { .. }) => {
///         eprintln!("{error}");
///         Node::builder("robot").instance("doc-connect-error").embedded().connect()?;
///     }
///     Err(error) => return Err(error),
/// }
/// # Ok::<(), ConnectError>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name is not valid: choose another one.
    #[error("`{name}` cannot name a node: {source}")]
    Name {
        /// As given.
        name: String,
        /// Where it is wrong.
        #[source]
        source: AddressError,
    },
    /// There is no such place for a socket, or it cannot be trusted: choose another one, as the text says.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Nobody listens, and this node may not run a dispatcher itself.
    #[error("no dispatcher at {path:?}: start `nodeset-dispatcher`, or let this node run one (embedded)")]
    Nobody {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is not for this user.
    #[error(
        "no permission for the dispatcher's socket {path:?}: run as its user, or give this node a dispatcher of its own with --instance or --dispatcher"
    )]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// Whoever listens there is somebody else's: remove it, or choose another path.
    #[error("the dispatcher at {path:?} belongs to user {found}, neither to this user nor to root: choose another one")]
    ForeignDispatcher {
        /// The socket.
        path: PathBuf,
        /// The dispatcher's user.
        found: u32,
    },
    /// Another node has the name that this one insists on ([`unique`](crate::NodeBuilder::unique),
    /// [`replace`](crate::NodeBuilder::replace)): choose another one, or end that one.
    #[error(
        "a node is called `{name}` already, process {pid} of user {uid}, for {held_for:?}: choose another name, end that process, or take the name over (`replace`, same user only)"
    )]
    NameTaken {
        /// What it is called.
        name: String,
        /// Its process.
        pid: u32,
        /// Its user.
        uid: u32,
        /// How long its dispatcher has known it by that name; whole seconds.
        held_for: Duration,
    },
    /// The dispatcher said no: a limit, a rule or a quota, which the text names.
    #[error("the dispatcher refused this node: {text}")]
    Refused {
        /// For programs.
        code: RefusalCode,
        /// For people.
        text: String,
    },
    /// It listens but does not answer: it hangs, or the machine is overloaded.
    #[error("the dispatcher at {path:?} did not answer within {waited:?}: see what its process does, or try again")]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// What it said could not be taken: use the same release of NodeSet on both sides; the text names a limit, if that is it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Nothing could be said to it: try again, it may just be replaced.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The node's page is not what it must be: use the same release of NodeSet on both sides, or free memory.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The embedded dispatcher did not start: the cause says what to do; or start one of its own (`nodeset-dispatcher`).
    #[error("the embedded dispatcher did not start: {0}")]
    Embedded(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The dispatcher did not keep to the protocol: use the same release of NodeSet on both sides.
    #[error("the dispatcher did not keep to the protocol: {0}")]
    Protocol(&'static str),
    /// The kernel refused: most likely this process has too many descriptors or threads (`ulimit -n`, `ulimit -u`).
    #[error("{doing} failed: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl ConnectError {
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> ConnectError {
        move |errno| ConnectError::System { doing, source: errno.into() }
    }
}

/// A publisher could not be made.
///
/// ```
/// use nodeset::{AdvertiseError, Node};
///
/// let node = Node::builder("sonar").instance("doc-advertise-error").embedded().connect()?;
/// let subscriber = node.subscriber::<u64>("sonar/depth").create()?;
/// match node.publisher::<u32>("sonar/depth").create() {
///     Err(AdvertiseError::Mismatch { node, difference, .. }) => {
///         assert_eq!(node, "sonar");
///         eprintln!("it wants another type: {difference}");
///     }
///     other => drop(other?),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdvertiseError {
    /// The topic is not valid.
    #[error("`{topic}` is no topic: {source}")]
    Topic {
        /// As given.
        topic: String,
        /// Where it is wrong.
        #[source]
        source: AddressError,
    },
    /// The message type cannot be described to others: its description is too long. Name parts of it
    /// (`#[message(opaque = "label/1")]`), or split it.
    #[error("this type cannot be published: {0}")]
    Schema(#[from] SchemaError),
    /// The log cannot have that shape: correct `block_len` or `blocks`.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Somebody who is there subscribed another type: publish that one, or use another topic.
    #[error("`{topic}` carries another type for node `{node}`: {difference}")]
    Mismatch {
        /// The topic.
        topic: String,
        /// Who wants another type.
        node: String,
        /// What differs.
        difference: String,
    },
    /// The dispatcher said no: a limit, a rule or a quota, which the text names.
    #[error("the dispatcher refused to let this node publish `{topic}`: {text}")]
    Refused {
        /// The topic.
        topic: String,
        /// For programs.
        code: RefusalCode,
        /// For people.
        text: String,
    },
    /// No dispatcher answered in time; try again when there is one.
    #[error("no dispatcher answered within {waited:?} about `{topic}`: try again when one runs")]
    TimedOut {
        /// The topic.
        topic: String,
        /// How long.
        waited: Duration,
    },
    /// The log that the dispatcher gave could not be used: free memory or address space (`ulimit -v`), or ask for fewer blocks.
    #[error("the log for `{topic}` cannot be used: {source}; free memory, or ask for fewer blocks")]
    Log {
        /// The topic.
        topic: String,
        /// Why.
        #[source]
        source: SegmentError,
    },
    /// The dispatcher gave something else than was asked for: use the same release of NodeSet on both sides.
    #[error("the dispatcher did not keep to the protocol: {0}")]
    Protocol(&'static str),
    /// The node's session ended; make a new node.
    #[error("the node's session has ended: make a new node")]
    Closed,
}

/// A subscriber could not be made.
///
/// ```
/// use nodeset::{Node, SubscribeError};
///
/// let node = Node::builder("sonar").instance("doc-subscribe-error").embedded().connect()?;
/// match node.subscriber::<u32>("sonar//depth").create() {
///     Err(SubscribeError::Topic { topic, source }) => eprintln!("`{topic}`: {source}"), // says where
///     other => drop(other?),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// It is no topic, address or pattern: correct it.
    #[error("`{topic}` cannot be subscribed: {source}")]
    Topic {
        /// As given.
        topic: String,
        /// Where it is wrong.
        #[source]
        source: AddressError,
    },
    /// The weight is not from 1 to 100: correct it.
    #[error("`{topic}` cannot be subscribed with a weight of {weight}: give one from 1 to 100")]
    Weight {
        /// The topic.
        topic: String,
        /// As given.
        weight: u16,
    },
    /// The message type cannot be described to others: its description is too long. Name parts of it
    /// (`#[message(opaque = "label/1")]`), or split it.
    #[error("this type cannot be subscribed: {0}")]
    Schema(#[from] SchemaError),
    /// Somebody who is there publishes another type: subscribe that one, or use another topic.
    #[error("`{topic}` carries another type from node `{node}`: {difference}")]
    Mismatch {
        /// The topic.
        topic: String,
        /// Who publishes another type.
        node: String,
        /// What differs.
        difference: String,
    },
    /// The dispatcher said no: a limit, a rule or a quota, which the text names.
    #[error("the dispatcher refused to let this node subscribe `{topic}`: {text}")]
    Refused {
        /// The topic.
        topic: String,
        /// For programs.
        code: RefusalCode,
        /// For people.
        text: String,
    },
    /// No dispatcher answered in time; try again when there is one.
    #[error("no dispatcher answered within {waited:?} about `{topic}`: try again when one runs")]
    TimedOut {
        /// The topic.
        topic: String,
        /// How long.
        waited: Duration,
    },
    /// The node's session ended; make a new node.
    #[error("the node's session has ended: make a new node")]
    Closed,
}

/// A message was not published. Nothing was sent, nothing is lost.
///
/// ```
/// use nodeset::{Node, PublishError};
///
/// let node = Node::builder("log").instance("doc-publish-error").embedded().connect()?;
/// let mut publisher = node.publisher::<str>("log/lines").block_len(4096).blocks(4).create()?;
/// let mut slow = node.subscriber::<str>("log/lines").reliable().create()?;
/// let mut published = 0;
/// let full = loop {
///     match publisher.try_publish("nobody reads this") {
///         Ok(_) => published += 1,
///         Err(error) => break error,
///     }
/// };
/// assert!(matches!(full, PublishError::Full { .. }));
/// // Nothing was lost, and there is room again once it reads.
/// for _ in 0..published {
///     slow.receive()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The log is full of what reliable subscribers have not read: try again, or see why the slowest one is slow.
    #[error(
        "the log of `{topic}` is full: {} has not read it{}{}",
        named(slowest),
        after(waited),
        short(short_of_memory)
    )]
    Full {
        /// The topic.
        topic: Arc<str>,
        /// The node that is furthest behind.
        slowest: Option<Arc<str>>,
        /// How long it was waited for room; zero for the calls that do not wait.
        waited: Duration,
        /// It would have grown, but the control group of this process has hardly any memory left (`memory.max`).
        short_of_memory: bool,
    },
    /// The message never fits: send it in parts, or give the publisher more or longer blocks.
    #[error("a message of {topic} is too long: its log takes at most {limit} bytes; use more or longer blocks")]
    TooLong {
        /// The topic.
        topic: Arc<str>,
        /// bytes
        limit: u64,
    },
    /// The value cannot be archived: give another one. Its own `Serialize` says why.
    #[error("the message cannot be serialised: {0}; give another one")]
    Unserializable(String),
}

/// A message for one subscriber was not published. Nothing was sent, nothing is lost.
///
/// ```
/// use nodeset::{DeliverError, Node};
///
/// let node = Node::builder("boss").instance("doc-deliver-error").embedded().connect()?;
/// let mut jobs = node.publisher::<str>("jobs").direct().create()?;
/// match jobs.try_publish("dig") {
///     Err(DeliverError::NoSubscriber { topic, .. }) => println!("nobody works on {topic} yet"),
///     other => other?,
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeliverError {
    /// Nobody subscribes the topic: start a subscriber, or wait longer for one (`deadline`).
    #[error("nobody subscribes `{topic}`{}: start a subscriber", after(waited))]
    NoSubscriber {
        /// The topic.
        topic: Arc<str>,
        /// How long it was waited for one; zero for the calls that do not wait.
        waited: Duration,
    },
    /// That node does not subscribe the topic: see `nodeset list` for who does.
    #[error("no node `{node}` subscribes `{topic}`{}: `nodeset list` says who does", after(waited))]
    NoSuchNode {
        /// The topic.
        topic: Arc<str>,
        /// As asked for.
        node: Arc<str>,
        /// How long it was waited for it; zero for the calls that do not wait.
        waited: Duration,
    },
    /// Every subscriber that is meant has as much to do as it may: start another one, allow more (`backlog`), or try again.
    #[error(
        "every subscriber of `{topic}` that may get this has too much to do{}, most of all node `{busiest}`",
        after(waited)
    )]
    Full {
        /// The topic.
        topic: Arc<str>,
        /// The node for which most messages wait.
        busiest: Arc<str>,
        /// How long it was waited; zero for the calls that do not wait.
        waited: Duration,
    },
    /// The message never fits: send it in parts, or give the publisher more or longer blocks.
    #[error("a message of {topic} is too long: a lane takes at most {limit} bytes; use more or longer blocks")]
    TooLong {
        /// The topic.
        topic: Arc<str>,
        /// bytes
        limit: u64,
    },
    /// The value cannot be archived: give another one. Its own `Serialize` says why.
    #[error("the message cannot be serialised: {0}; give another one")]
    Unserializable(String),
}

fn short(of_memory: &bool) -> &'static str {
    if *of_memory {
        "; it cannot grow, since memory.max of this process' control group is nearly reached: raise that, or free memory"
    } else {
        ""
    }
}

fn named(node: &Option<Arc<str>>) -> String {
    node.as_ref().map_or_else(|| "somebody".to_owned(), |node| format!("node `{node}`"))
}

fn after(waited: &Duration) -> String {
    if waited.is_zero() { String::new() } else { format!(" within {waited:?}") }
}

/// A server could not be made ([`ServerBuilder::create`](crate::ServerBuilder::create)).
///
/// ```
/// use nodeset::{Node, Sample, ServeError};
///
/// let node = Node::builder("echo").instance("doc-serve-error").embedded().connect()?;
/// match node.serve("no such topic", |text: Sample<'_, str>| text.to_owned()) {
///     Err(ServeError::Advertise(_) | ServeError::Subscribe(_)) => eprintln!("cannot serve"),
///     other => drop(other?),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Its requests cannot be subscribed: see there.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// It cannot be announced: see there; a topic that is not valid is told here.
    #[error(transparent)]
    Advertise(#[from] AdvertiseError),
}

/// A request was not answered, or not to its end.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Node, RequestError};
///
/// let node = Node::builder("asks").instance("doc-request-error").embedded().connect()?;
/// match node.request::<str, str>("weather", "Ghent", Duration::from_millis(1)) {
///     Ok(weather) => println!("{}", &*weather),
///     Err(RequestError::NoServer { waited, .. }) => println!("nobody knows after {waited:?}"),
///     // Whether it did what was asked is not known.
///     Err(RequestError::ServerGone { server, .. }) => println!("{server} went before it had answered"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No server was there: start one, or wait longer. The request was not sent.
    #[error("no server of `{topic}` was there within {waited:?}{}: start one, or wait longer", on_their_way(*.unlinked))]
    NoServer {
        /// The topic.
        topic: Arc<str>,
        /// How long.
        waited: Duration,
        /// Servers that were announced but have not met this client: they are busy, or stopped, or their own node knows why not.
        unlinked: usize,
    },
    /// The server's process died, or it was dropped, before it had answered. It may have done what was asked: ask again only
    /// if that does no harm; another server is asked then, if there is one.
    #[error("the server of `{topic}` at node `{server}` went before it had answered: ask again if that does no harm")]
    ServerGone {
        /// The topic.
        topic: Arc<str>,
        /// The server's node.
        server: Arc<str>,
    },
    /// The server gave the request up: its handler panicked, failed, or does not answer this request.
    #[error("the server of `{topic}` at node `{server}` did not answer: its own log may say why")]
    Unanswered {
        /// The topic.
        topic: Arc<str>,
        /// The server's node.
        server: Arc<str>,
    },
    /// The deadline is over. The server may still be at it; what it answers later is dropped.
    #[error("node `{server}` has not answered on `{topic}` within {waited:?}: wait longer, or see what it does")]
    TimedOut {
        /// The topic.
        topic: Arc<str>,
        /// The server's node.
        server: Arc<str>,
        /// How long, from the request on.
        waited: Duration,
    },
    /// It could not be sent: the server does not read its requests, or it does not fit.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The way to the server cannot be made; with [`AdvertiseError::Mismatch`] it takes another type.
    #[error(transparent)]
    Advertise(#[from] AdvertiseError),
    /// The client cannot be made; with [`SubscribeError::Mismatch`] a server answers with another type.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// A reply could not be read: see there. The next request may be made.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

fn on_their_way(unlinked: usize) -> String {
    if unlinked == 0 { String::new() } else { format!(" ({unlinked} announced, but not linked)") }
}

/// Not every expected subscriber was there in time.
///
/// ```
/// use std::time::Duration;
/// use nodeset::Node;
///
/// let node = Node::builder("alone").instance("doc-not-enough").embedded().connect()?;
/// let publisher = node.publisher::<str>("hello").create()?;
/// let few = publisher.wait_for_subscribers(2, Duration::from_millis(1)).unwrap_err();
/// assert_eq!((few.wanted, few.found), (2, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{found} of {wanted} subscribers of `{topic}` are there after {waited:?}: start more, or wait longer; `nodeset list` shows who is there"
)]
#[non_exhaustive]
pub struct NotEnoughSubscribers {
    /// The topic.
    pub topic: Arc<str>,
    /// How many were asked for.
    pub wanted: usize,
    /// How many there are.
    pub found: usize,
    /// How long it was waited.
    pub waited: Duration,
}

/// No message, but something to know. Receiving can go on after each of them.
///
/// ```
/// use nodeset::{Node, ReceiveError};
///
/// let node = Node::builder("reader").instance("doc-receive-error").embedded().connect()?;
/// let mut publisher = node.publisher::<str>("log/lines").create()?;
/// let mut lines = node.subscriber::<str>("log/lines").reliable().create()?;
/// publisher.publish("hello")?;
/// loop {
///     match lines.receive() {
///         Ok(line) => {
///             assert_eq!(&*line, "hello");
///             break;
///         }
///         Err(ReceiveError::Evicted { missed, .. }) => eprintln!("{missed} lines were missed"),
///         Err(error @ ReceiveError::Wait(_)) => return Err(error.into()),
///         // One message, or one publisher, less.
///         Err(error) => eprintln!("{error}"),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The bytes are no message of the type: the publisher is at fault. The message is skipped; receive on, and mend that program.
    #[error(
        "node `{publisher}` published bytes on `{topic}` that are no message of its type: {source}; it is skipped, mend that program"
    )]
    Invalid {
        /// The topic.
        topic: Arc<str>,
        /// Who published it.
        publisher: Arc<str>,
        /// What is wrong.
        #[source]
        source: InvalidMessage,
    },
    /// The publisher stopped waiting for this reliable subscriber. It is linked afresh; what is missed until then is counted.
    /// Receive on, and more quickly, or have the publisher wait longer ([`PublisherBuilder::evict`](crate::PublisherBuilder::evict)).
    #[error(
        "node `{publisher}` stopped waiting for this subscriber of `{topic}`, which was too slow: {missed} messages were missed so far"
    )]
    Evicted {
        /// The topic.
        topic: Arc<str>,
        /// Whose messages.
        publisher: Arc<str>,
        /// How many.
        missed: u64,
    },
    /// The publisher's log is damaged: the link to it is given up. Receive on from others; restart that node.
    #[error("the log of node `{publisher}` for `{topic}` is damaged: {what}; restart that node")]
    Damaged {
        /// The topic.
        topic: Arc<str>,
        /// Whose log.
        publisher: Arc<str>,
        /// What is wrong.
        what: &'static str,
    },
    /// Too many samples of one publisher are kept: drop some.
    #[error(transparent)]
    TooManyHeld(#[from] TooManyHeld),
    /// The kernel did not let this thread wait: most likely the process has too many descriptors (`ulimit -n`).
    #[error("waiting for messages failed: {0}; too many descriptors? (`ulimit -n`)")]
    Wait(rustix::io::Errno),
    /// A message was awaited where no Tokio runtime runs, or in one that is shutting down: await within a runtime, or use
    /// [`receive`](crate::Subscriber::receive). Only with the feature `tokio`.
    #[error("no Tokio runtime runs here: await messages within one, or receive them without `await`")]
    NoRuntime,
}

/// A [`WaitSet`](crate::WaitSet) cannot wait.
///
/// ```
/// use nodeset::{Descriptor, WaitError, WaitSet};
///
/// let mut set = WaitSet::new()?;
/// let file = std::fs::File::open(std::env::current_exe()?)?;
/// let error = set.attach(Descriptor::readable(file)).unwrap_err();
/// assert!(matches!(error, WaitError::Descriptor(_)), "files are always ready");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WaitError {
    /// This descriptor cannot be attached: it is one of a file on disk, which is always ready, or is attached already. Read such
    /// a file without waiting, or attach a duplicate.
    #[error("this descriptor cannot be waited for: {0}; files on disk cannot, and a set takes each descriptor once")]
    Descriptor(#[source] io::Error),
    /// The kernel refused: most likely the process has too many descriptors (`ulimit -n`).
    #[error("waiting failed: {0}; too many descriptors? (`ulimit -n`)")]
    System(#[source] io::Error),
}

impl From<io::Error> for WaitError {
    fn from(source: io::Error) -> WaitError {
        WaitError::System(source)
    }
}

impl From<rustix::io::Errno> for WaitError {
    fn from(errno: rustix::io::Errno) -> WaitError {
        WaitError::System(errno.into())
    }
}

/// The handlers of a node cannot be run ([`Node::run`](crate::Node::run)).
///
/// ```
/// use std::sync::mpsc;
/// use std::time::Duration;
/// use nodeset::{Node, RunError};
///
/// let node = Node::builder("busy").instance("doc-run-error").embedded().connect()?;
/// let (sender, runs) = mpsc::channel();
/// node.every(Duration::from_millis(1), move || drop(sender.send(())));
/// let (running, stop) = (node.clone(), node.stop_handle());
/// let running = std::thread::spawn(move || running.run());
/// runs.recv()?;
/// assert!(matches!(node.run(), Err(RunError::Running)));
/// stop.stop();
/// running.join().expect("handlers do not end their thread")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// They are run already: by another thread, or by the one that calls this handler. One runs them at a time.
    #[error("the handlers of this node are run already: run them once, or make another node")]
    Running,
    /// The kernel did not let this thread wait: see there.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// A link's log cannot be read; for logs, the link is then given up.
#[derive(Debug, Error)]
pub(crate) enum EnterError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("the dispatcher did not keep to the protocol: {0}")]
    Protocol(&'static str),
}
