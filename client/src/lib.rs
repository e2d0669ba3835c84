//! NodeSet: programs on one machine hand each other messages through shared memory, in well under a microsecond.
//!
//! ```
//! use nodeset::{Message, Node};
//! use rkyv::{Archive, Deserialize, Serialize};
//!
//! #[derive(Archive, Serialize, Deserialize, Message)]
//! struct Pose {
//!     x: f64,
//!     y: f64,
//! }
//!
//! # let instance = "doc-first";
//! // In one program:
//! let node = Node::builder("robot").instance(instance).embedded().connect()?;
//! let mut publisher = node.publisher::<Pose>("robot/pose").create()?;
//!
//! // In another one:
//! let node = Node::builder("screen").instance(instance).embedded().connect()?;
//! let mut subscriber = node.subscriber::<Pose>("robot/pose").create()?;
//!
//! publisher.publish(&Pose { x: 1.0, y: 2.0 })?;
//! let pose = subscriber.receive()?; // in place: nothing is copied
//! assert_eq!(pose.x, 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it guarantees
//!
//! - A message is written once, into shared memory, and read there; while both sides are awake no system call is made.
//! - A *reliable* subscriber gets every message of every publication it is linked to, in the order of that publication. A
//!   *lossy* one (the default) may lose messages when it is slow, and is told exactly how many.
//! - A subscriber cannot damage a publisher's memory, nor a publisher a subscriber's: the kernel enforces it.
//! - The death of any process, also of the dispatcher, leaves all others working. Memory is freed by the kernel.
//! - Nothing here panics because of what another process did.
//!
//! # What it does not promise
//!
//! - Order between different publishers.
//! - Messages that were published before a subscriber was linked, beyond the `history` it asked for.
//! - That a reliable publication goes on while a live subscriber does not read: then publishing says so, after a deadline.
//!
//! # Trade-offs
//!
//! A node has one thread of its own, for what it says to the dispatcher; messages never pass it. Waiting threads spin for some
//! microseconds before they sleep ([`WaitStrategy`]).
//!
//! # Ways to wait
//!
//! A thread in [`Subscriber::receive`]; functions that are called, with [`Node::on`] and [`Node::run`]; a [`WaitSet`] for many
//! topics, timers and foreign descriptors on one thread; a task in a Tokio runtime (`Subscriber::receive_async`); an event loop
//! of one's own ([`Subscriber::arm`]). Those of one node may be mixed: none takes the wake-up of another one.
//!
//! # Requests
//!
//! [`Node::serve`] answers requests, [`Node::request`] makes one; [`Server`] and [`Client`] do the same for those who answer
//! several times or ask often.
//!
//! # Streams
//!
//! [`Node::stream`] pushes items to all that receive a stream ([`Node::stream_receiver`]), through a [`Codec`] and over a lane of
//! its own to each: nothing is lost unless the sender chose so, and the end is said.
//!
//! # Features
//!
//! - `lz4` (default): the compressing codec of streams, `Lz4`.
//! - `embedded` (default): a node may run the dispatcher on a thread of its own process.
//! - `tokio`: `Subscriber::receive_async`, and subscribers are `futures_core::Stream`s.
//!
//! # Reading order
//!
//! [`Node`], [`Publisher`], [`Subscriber`], [`Sample`], [`WaitSet`]; inside: `session` (the thread that speaks to the
//! dispatcher), `wait` (how threads sleep).

#![deny(unsafe_code)]
#![warn(missing_debug_implementations, unnameable_types)]
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]

mod armed;
#[cfg(feature = "tokio")]
mod asynchronous;
mod direct;
mod error;
mod event;
mod handlers;
mod loan;
mod node;
mod options;
mod publisher;
#[allow(unsafe_code)]
mod sample;
mod service;
mod session;
mod state;
mod stream;
mod subscriber;
mod table;
mod wait;
pub mod wait_set;

pub use armed::{Armed, Readiness};
#[cfg(feature = "tokio")]
pub use asynchronous::Receive;
pub use direct::{DirectPublisher, DirectPublisherBuilder};
pub use error::{
    AdvertiseError, ConnectError, DeliverError, NotEnoughSubscribers, PublishError, ReceiveError, RequestError,
    RunError, ServeError, SubscribeError, WaitError,
};
pub use event::{NodeChange, NodeEvent, NodeInfo};
pub use handlers::{HandlerFailure, HandlerId, Outcome, RunEnd, StopHandle};
pub use loan::Loan;
pub use node::{Node, NodeBuilder};
pub use options::{AppOptions, LogFormat, LogLevelError};
pub use publisher::{Publisher, PublisherBuilder};
pub use sample::{OwnedSample, Sample};
pub use service::{Answer, Client, ClientBuilder, Request, Server, ServerBuilder};
pub use state::{State, StateReader, StateWriter};
#[cfg(feature = "lz4")]
pub use stream::Lz4;
pub use stream::{
    Bytes, Codec, CodecError, OnFull, PushError, StreamBuilder, StreamError, StreamItem, StreamReceiver,
    StreamReceiverBuilder, StreamSender, Typed,
};
pub use subscriber::{Samples, Subscriber, SubscriberBuilder};
pub use table::list;
pub use wait::WaitStrategy;
pub use wait_set::{Descriptor, Timer, WaitSet};

// Of other crates, each with an example of how it is met here.

/// ```
/// use nodeset::{Node, Timestamp};
///
/// let node = Node::builder("clock").instance("doc-timestamp").embedded().connect()?;
/// let mut publisher = node.publisher::<str>("clock/chime").timestamps(true).create()?;
/// let mut subscriber = node.subscriber::<str>("clock/chime").create()?;
/// publisher.publish("ding")?;
/// let published: Option<Timestamp> = subscriber.receive()?.published_at();
/// println!("{:?} ago", published.expect("its publisher says so").elapsed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use nodeset_bus::clock::Timestamp;

/// ```
/// use std::time::Duration;
/// use nodeset::{Evict, Node};
///
/// let node = Node::builder("hurried").instance("doc-evict").embedded().connect()?;
/// let by_number = node.publisher::<str>("news").evict(Evict::Lag(10_000)).create()?;
/// let by_time = node.publisher::<str>("old/news").evict(Evict::After(Duration::from_secs(1))).create()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use nodeset_bus::evict::Evict;

/// ```
/// use nodeset::message::Schema;
/// use nodeset::{Message, Node};
/// use rkyv::{Archive, Deserialize, Serialize};
///
/// #[derive(Archive, Serialize, Deserialize, Message)]
/// struct Pose {
///     x: f64,
///     turns: Vec<f32>,
/// }
///
/// let schema: Schema = Pose::schema();
/// println!("what is published as {schema}");
/// assert!(schema.matches(&Pose::schema()) && !schema.matches(&f64::schema()));
/// ```
#[doc(inline)]
pub use nodeset_bus::message::{self, Message, Schema};

/// ```
/// use nodeset::{AppOptions, Endpoint, EndpointError};
///
/// let options = AppOptions { instance: "no/such/name".to_owned(), ..AppOptions::default() };
/// let endpoint: Result<Endpoint, EndpointError> = options.endpoint();
/// println!("{}", endpoint.unwrap_err());
/// ```
#[doc(inline)]
pub use nodeset_bus::protocol::endpoint::{Endpoint, EndpointError};

/// ```
/// use std::time::Duration;
/// use nodeset::{Health, Listing, Node, NodeId, NodeState};
///
/// # // Run once for each of the names below, at the same time.
/// # let instance = format!("doc-listing-{}", std::process::id());
/// let node = Node::builder("camera").instance(instance).embedded().connect()?;
/// let publisher = node.publisher::<str>("camera/state").create()?;
/// for row in node.list(Duration::from_secs(10))? {
///     match row {
///         Listing::Node { state: NodeState { node: id, name, health, .. }, .. } if *name == *node.name() => {
///             let id: NodeId = id;
///             println!("{name} is {id}");
///             assert_eq!(health, Health::Alive);
///         }
///         Listing::Publication { topic, .. } => assert_eq!(topic, "camera/state"),
///         _ => {}
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use nodeset_bus::protocol::{Health, Listing, NodeId, NodeState};

/// ```
/// use nodeset::{AdvertiseError, Node, RefusalCode};
///
/// let node = Node::builder("greedy").instance("doc-refusal-code").embedded().connect()?;
/// match node.publisher::<str>("much").create() {
///     Err(AdvertiseError::Refused { code: RefusalCode::Limit, text, .. }) => eprintln!("{text}"), // names the limit
///     Err(AdvertiseError::Refused { code: RefusalCode::Denied, text, .. }) => eprintln!("{text}"), // names the rule
///     other => drop(other?),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use nodeset_bus::protocol::RefusalCode;

/// ```
/// use nodeset::topic::{Pattern, Topic};
///
/// let (pattern, topic) = (Pattern::new("robot/*/pose")?, Topic::new("robot/arm/pose")?);
/// assert!(pattern.matches(&topic));
/// assert!(Topic::new("robot//pose").unwrap_err().to_string().contains("at byte 6"));
/// # Ok::<(), nodeset::causes::AddressError>(())
/// ```
#[doc(inline)]
pub use nodeset_bus::topic;

/// The crate by which messages are archived: derive with the one that NodeSet was built with.
///
/// ```
/// use nodeset::Message;
/// use nodeset::rkyv::{self, Archive, Deserialize, Serialize};
///
/// #[derive(Archive, Serialize, Deserialize, Message)]
/// #[rkyv(crate = nodeset::rkyv)]
/// struct Pose {
///     x: f64,
/// }
///
/// let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&Pose { x: 1.0 })?;
/// assert_eq!(Pose::view(&bytes)?.x, 1.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub use rkyv;

/// What a dispatcher knows, read without a session, also after it died: for tools.
///
/// ```
/// use nodeset::board;
///
/// match board::read(1000, "default") {
///     Ok(board) => println!("{} publications at {}", board.publications.len(), board.socket),
///     Err(error) => println!("{error}"),
/// }
/// ```
pub mod board {
    #[doc(inline)]
    pub use nodeset_bus::board::{Board, BoardError, BoardLink, BoardPeer, BoardPublication, path, read};
}

/// What errors are caused by: the types of their sources, for those who look into them.
///
/// ```
/// use nodeset::causes::AddressError;
/// use nodeset::{Node, SubscribeError};
///
/// let node = Node::builder("reader").instance("doc-causes").embedded().connect()?;
/// if let Err(SubscribeError::Topic { source, .. }) = node.subscriber::<str>("a//b").create() {
///     let cause: AddressError = source;
///     assert!(cause.to_string().contains("at byte 2"));
/// }
/// # Ok::<(), nodeset::ConnectError>(())
/// ```
pub mod causes {
    pub use nodeset_bus::inlet::TooManyHeld;
    pub use nodeset_bus::log::ShapeError;
    pub use nodeset_bus::memory::SegmentError;
    pub use nodeset_bus::message::{InvalidMessage, SchemaError};
    pub use nodeset_bus::protocol::record::{RecordError, SendError};
    pub use nodeset_bus::topic::AddressError;
    pub use rustix::io::Errno;
}

#[doc(hidden)]
pub use nodeset_bus::message::private as __private;

/// A random number that nobody else has drawn.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Eight bytes always come at once; before the machine has any entropy the call waits for it.
    while rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(bytes.len()) {}
    u64::from_ne_bytes(bytes)
}

// Runs the example in the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
