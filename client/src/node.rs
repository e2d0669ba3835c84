//! Nodes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nodeset_bus::message::Message;
use nodeset_bus::protocol::endpoint::{DEFAULT_INSTANCE, Endpoint};
use nodeset_bus::protocol::{Claim, Listing};

use crate::error::ConnectError;
use crate::event::{NodeChange, NodeEvent};
use crate::handlers::Handlers;
use crate::options::AppOptions;
use crate::publisher::PublisherBuilder;
use crate::service::Clients;
use crate::session::{Command, Handle, Settings, attach_first};
use crate::subscriber::SubscriberBuilder;

/// Longest time a dispatcher may take to welcome a new node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an embedded dispatcher leaves the place of a standalone one empty.
const STANDBY: Duration = Duration::from_secs(5);
/// Longest time between two attempts to attach again.
const BACKOFF_LIMIT: Duration = Duration::from_secs(1);

/// A participant of the bus: makes publishers and subscribers.
///
/// Cheap to clone; all clones are the same node. It leaves when the last clone is gone, and with it everything made from it:
/// publishers, subscribers, samples.
///
/// ```
/// use nodeset::Node;
///
/// let node = Node::builder("camera").instance("doc-node").embedded().connect()?;
/// let mut publisher = node.publisher::<str>("lens/state").create()?;
/// let mut subscriber = node.subscriber::<str>("lens/state").create()?;
/// publisher.publish("open")?;
/// assert_eq!(&*subscriber.receive()?, "open");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "a node leaves when the last handle is dropped"]
pub struct Node {
    pub(crate) handle: Arc<Handle>,
    pub(crate) handlers: Arc<Handlers>,
    pub(crate) clients: Arc<Clients>,
}

impl Node {
    /// Begins to make a node.
    pub fn builder(name: impl Into<String>) -> NodeBuilder {
        NodeBuilder {
            name: name.into(),
            instance: DEFAULT_INSTANCE.to_owned(),
            socket: None,
            claim: Claim::Suffix,
            embedded: false,
            connect_timeout: CONNECT_TIMEOUT,
            standby: STANDBY,
            backoff_limit: BACKOFF_LIMIT,
        }
    }

    /// A node as the command line says; `name` where it says nothing.
    ///
    /// ```
    /// use nodeset::{AppOptions, Node};
    ///
    /// let options = AppOptions { instance: "doc-from-options".to_owned(), ..AppOptions::default() };
    /// let node = Node::from_options(&options, "camera")?;
    /// assert_eq!(&*node.name(), "camera");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn from_options(options: &AppOptions, name: &str) -> Result<Node, ConnectError> {
        NodeBuilder::from_options(options, name).connect()
    }

    /// The node's name on its host: the one asked for, perhaps with a suffix.
    ///
    /// ```
    /// use nodeset::Node;
    ///
    /// let builder = Node::builder("camera").instance("doc-name").embedded();
    /// let (first, second) = (builder.clone().connect()?, builder.connect()?);
    /// assert_eq!((&*first.name(), &*second.name()), ("camera", "camera-2"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(&self) -> Arc<str> {
        self.handle.core.info().name
    }

    /// The name of its host, as the dispatcher says.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("camera").instance("doc-host").embedded().connect()?;
    /// let address = format!("{}@{}/lens/state", node.name(), node.host());
    /// let subscriber = node.subscriber::<str>(address).create()?; // of this node only
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn host(&self) -> Arc<str> {
        self.handle.core.info().host
    }

    /// Whether a dispatcher is there now. Messages flow either way; new links need one.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("camera").instance("doc-is-attached").embedded().connect()?;
    /// assert!(node.is_attached());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_attached(&self) -> bool {
        self.handle.core.info().attached
    }

    /// Begins to make a publisher of `topic`, a plain one.
    pub fn publisher<T: Message + ?Sized>(&self, topic: impl AsRef<str>) -> PublisherBuilder<T> {
        PublisherBuilder::new(Arc::clone(&self.handle), topic.as_ref())
    }

    /// Begins to make a subscriber of `topic`: a plain one (`robot/arm/pose`), a pattern (`robot/*/pose`, `robot/**`), or the
    /// messages of one node only (`arm@local/robot/**`). `*` stands for one level, `**` for any number of them, none included;
    /// node and host may be `*`, and the host `local`. Publications that come later are linked as well.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("camera").instance("doc-patterns").embedded().connect()?;
    /// let mut subscriber = node.subscriber::<str>("lens/**").create()?;
    /// let mut publisher = node.publisher::<str>("lens/left/state").create()?;
    /// publisher.publish("open")?;
    /// let sample = subscriber.receive()?;
    /// assert_eq!((sample.topic(), &*sample), ("lens/left/state", "open"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscriber<T: Message + ?Sized>(&self, topic: impl AsRef<str>) -> SubscriberBuilder<T> {
        SubscriberBuilder::new(Arc::clone(&self.handle), topic.as_ref())
    }

    /// Calls `handler` with whatever happens to the node from now on, on its session thread ([`NodeEvent::HandlerFailed`]: on
    /// the one that runs the handlers): it must not block. It takes the place of an earlier one.
    ///
    /// ```
    /// use nodeset::{Node, NodeEvent};
    ///
    /// let node = Node::builder("camera").instance("doc-on-event").embedded().connect()?;
    /// node.on_event(|event| match event {
    ///     NodeEvent::Detached { reason } => eprintln!("no dispatcher, but messages go on: {reason}"),
    ///     NodeEvent::Attached { .. } => eprintln!("there is one again"),
    ///     _ => {}
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_event(&self, handler: impl Fn(&NodeEvent) + Send + Sync + 'static) {
        let mut slot = self.handle.core.handler.lock().unwrap_or_else(PoisonError::into_inner);
        let before = slot.replace(Arc::new(handler));
        drop(slot);
        // It may hold anything, even the last handle of a node: not dropped under the lock.
        drop(before);
    }

    /// Calls `handler` for each other node of this host that is there, and from now on whenever one comes, leaves, dies, or
    /// becomes slow or stopped; on the node's session thread: it must not block. It takes the place of an earlier one. When
    /// the dispatcher is replaced, only what changed meanwhile is told.
    ///
    /// ```
    /// use nodeset::{Node, NodeChange};
    ///
    /// # let instance = "doc-on-node";
    /// let node = Node::builder("supervisor").instance(instance).embedded().connect()?;
    /// node.on_node(|change| match change {
    ///     NodeChange::Left { node, died: true } => eprintln!("{} died", node.name),
    ///     NodeChange::Health(node) => eprintln!("{} is {}", node.name, node.health),
    ///     _ => {}
    /// });
    /// # Ok::<(), nodeset::ConnectError>(())
    /// ```
    pub fn on_node(&self, handler: impl Fn(&NodeChange) + Send + Sync + 'static) {
        self.handle.core.command(Command::WatchNodes(Arc::new(handler)));
    }

    /// Asks the dispatcher for its table: nodes with their health, publications, subscriptions. Opens a connection of its own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nodeset::{Listing, Node};
    ///
    /// let node = Node::builder("camera").instance("doc-node-list").embedded().connect()?;
    /// let table = node.list(Duration::from_secs(10))?;
    /// assert!(table.iter().any(|row| matches!(row, Listing::Node { state, .. } if state.name == "camera")));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; [`ConnectError::Nobody`] when no dispatcher runs.
    pub fn list(&self, timeout: Duration) -> Result<Vec<Listing>, ConnectError> {
        crate::list(&self.handle.core.endpoint, timeout)
    }

    /// Tries to attach at once, if the node is detached and waits before its next attempt, or was replaced.
    ///
    /// ```
    /// use nodeset::{Node, NodeEvent};
    ///
    /// let node = Node::builder("camera").instance("doc-reconnect").embedded().connect()?;
    /// node.on_event({
    ///     let name = node.name();
    ///     move |event| {
    ///         if let NodeEvent::Replaced { pid, .. } = event {
    ///             eprintln!("process {pid} is {name} now: press R to ask for the name again");
    ///         }
    ///     }
    /// });
    /// // When R is pressed:
    /// node.reconnect_now();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reconnect_now(&self) {
        self.handle.core.command(Command::ReconnectNow);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.handle.core.info();
        f.debug_struct("Node").field("name", &info.name).field("attached", &info.attached).finish_non_exhaustive()
    }
}

/// A node about to be made.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{ConnectError, Node};
///
/// let builder = Node::builder("gripper")
///     .instance("doc-node-builder")
///     .embedded()
///     .connect_timeout(Duration::from_secs(10))
///     .standby(Duration::from_secs(1))
///     .reconnect_at_most(Duration::from_millis(100));
/// let first = builder.clone().unique().connect()?;
/// // The name is its own,
/// assert!(matches!(builder.clone().unique().connect(), Err(ConnectError::NameTaken { .. })));
/// // unless it is taken from it.
/// let second = builder.replace(true).connect()?;
/// assert_eq!(&*second.name(), "gripper");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `connect`"]
pub struct NodeBuilder {
    name: String,
    instance: String,
    socket: Option<PathBuf>,
    claim: Claim,
    embedded: bool,
    connect_timeout: Duration,
    standby: Duration,
    backoff_limit: Duration,
}

impl NodeBuilder {
    /// As the command line says; `name` where it says nothing. Embedded unless it says `--no-embedded`.
    ///
    /// ```
    /// use nodeset::{AppOptions, NodeBuilder};
    ///
    /// let options = AppOptions { instance: "doc-builder-options".to_owned(), ..AppOptions::default() };
    /// let node = NodeBuilder::from_options(&options, "camera").unique().connect()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_options(options: &AppOptions, name: &str) -> NodeBuilder {
        let mut builder = Node::builder(options.node_name.as_deref().unwrap_or(name)).instance(&options.instance);
        builder.socket.clone_from(&options.dispatcher);
        if options.no_embedded { builder } else { builder.embedded() }
    }

    /// The dispatcher of that name, among those of this user; default `default`.
    pub fn instance(mut self, name: impl Into<String>) -> NodeBuilder {
        self.instance = name.into();
        self
    }

    /// The dispatcher at that socket, instead of the one that follows from the instance's name.
    ///
    /// ```
    /// use nodeset::Node;
    ///
    /// let folder = tempfile::tempdir()?;
    /// let node = Node::builder("alone").socket(folder.path().join("own.sock")).embedded().connect()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn socket(mut self, path: impl AsRef<Path>) -> NodeBuilder {
        self.socket = Some(path.as_ref().to_owned());
        self
    }

    /// The name belongs to this node alone: [`connect`](Self::connect) fails with [`ConnectError::NameTaken`] when a node of
    /// this host has or asked for it. By default a name that is taken gets a suffix (`mnode-2`), and so does that of a node
    /// that comes later and does not ask for this.
    pub fn unique(mut self) -> NodeBuilder {
        if self.claim == Claim::Suffix {
            self.claim = Claim::Unique;
        }
        self
    }

    /// Whether this node takes its name over from a node of the same user that has it. That one is told
    /// ([`NodeEvent::Replaced`]) and detached; its process lives on. A name of another user's node is refused, as by
    /// [`unique`](Self::unique). Default: false.
    pub fn replace(mut self, replace: bool) -> NodeBuilder {
        self.claim = match (replace, self.claim) {
            (true, _) => Claim::Replace,
            (false, Claim::Replace) => Claim::Suffix,
            (false, other) => other,
        };
        self
    }

    /// Runs the dispatcher on a thread of this process while nobody else does. A standalone one that starts later takes over
    /// from it unasked. Without the crate's feature `embedded` it does nothing.
    pub fn embedded(mut self) -> NodeBuilder {
        self.embedded = true;
        self
    }

    /// How long the dispatcher may take to answer; default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> NodeBuilder {
        self.connect_timeout = timeout;
        self
    }

    /// How long an embedded node leaves the place of a standalone dispatcher empty that vanished, since somebody will rather
    /// start that one again; default 5 s.
    pub fn standby(mut self, standby: Duration) -> NodeBuilder {
        self.standby = standby;
        self
    }

    /// The longest time between two attempts to attach again; default 1 s.
    pub fn reconnect_at_most(mut self, limit: Duration) -> NodeBuilder {
        self.backoff_limit = limit.max(Duration::from_millis(1));
        self
    }

    /// Attaches the node.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect(self) -> Result<Node, ConnectError> {
        let endpoint = Endpoint::resolve(&self.instance, self.socket.as_deref())?;
        let first = attach_first(Settings {
            endpoint,
            name: self.name,
            claim: self.claim,
            embedded: self.embedded,
            connect_timeout: self.connect_timeout,
            standby: self.standby,
            backoff_limit: self.backoff_limit,
        })?;
        Ok(Node { handle: Handle::start(first)?, handlers: Arc::default(), clients: Arc::default() })
    }
}
