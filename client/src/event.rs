//! What a node is told of: what happens to itself, and, if it asks for that, to the other nodes of its host.

use std::sync::Arc;

use nodeset_bus::protocol::{Health, NodeState};

use crate::handlers::{HandlerFailure, HandlerId};

/// Something happened to a node or its links. Messages go on, whatever it is.
///
/// ```
/// use std::sync::mpsc;
/// use nodeset::{Node, NodeEvent};
///
/// let node = Node::builder("camera").instance("doc-node-event").embedded().connect()?;
/// let (sender, events) = mpsc::channel();
/// node.on_event(move |event| drop(sender.send(event.clone())));
/// let publisher = node.publisher::<str>("camera/state").create()?;
/// let subscriber = node.subscriber::<str>("camera/state").create()?;
/// for event in events {
///     match event {
///         NodeEvent::Linked { topic, peer, .. } => {
///             assert_eq!((&*topic, &*peer), ("camera/state", "camera"));
///             break;
///         }
///         NodeEvent::Mismatch { topic, peer, difference } => eprintln!("{peer} has another {topic}: {difference}"),
///         NodeEvent::Detached { reason } => eprintln!("no dispatcher: {reason}"),
///         _ => {}
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// The node is attached to a dispatcher (again).
    Attached {
        /// The node's name there.
        name: Arc<str>,
        /// The dispatcher's process.
        dispatcher_pid: u32,
        /// It runs inside some node's process.
        embedded: bool,
    },
    /// The dispatcher is gone. Links that exist go on; new ones are made when the node is attached again, by itself.
    Detached {
        /// How it went.
        reason: String,
    },
    /// The node has another name: one that had its name before came back to a dispatcher that has just started. Nodes that are
    /// linked to it already go on to know it by the one before.
    Renamed {
        /// The new one.
        name: Arc<str>,
    },
    /// Another node has the name that this one insists on: it took it over, or was there first when this one came back. This
    /// node keeps the links at which it publishes; nobody waits for those at which it subscribes. It does not attach again
    /// by itself, only when [`Node::reconnect_now`](crate::Node::reconnect_now) is called.
    Replaced {
        /// The name.
        name: Arc<str>,
        /// The process that has it.
        pid: u32,
        /// Its user.
        uid: u32,
    },
    /// A link is ready: messages flow.
    Linked {
        /// The topic.
        topic: Arc<str>,
        /// The node at the other end.
        peer: Arc<str>,
        /// That node subscribes; else it publishes.
        peer_subscribes: bool,
    },
    /// A link ended: the other end left or died. What was published is still delivered.
    LinkEnded {
        /// The topic.
        topic: Arc<str>,
        /// The node at the other end.
        peer: Arc<str>,
        /// That node subscribed; else it published.
        peer_subscribes: bool,
        /// Its process died.
        died: bool,
    },
    /// A publisher of this node gave up a reliable subscriber ([`Evict`](crate::Evict)).
    Evicted {
        /// The topic.
        topic: Arc<str>,
        /// The subscriber's node.
        peer: Arc<str>,
    },
    /// The other end of a topic has another message type: no link was made. Between a plain topic's ends it is told to the one
    /// that was there first; the other one's `create` fails. A subscription by pattern takes what is of its type: both ends
    /// are told, and both go on.
    Mismatch {
        /// The topic.
        topic: Arc<str>,
        /// The node at the other end.
        peer: Arc<str>,
        /// What differs, seen from here.
        difference: String,
    },
    /// A subscription by pattern, or of one node's publications, means a publication whose topic this user may not subscribe: no
    /// link was made. The others of the subscription are not concerned.
    Denied {
        /// The publication's topic.
        topic: Arc<str>,
        /// What was subscribed.
        subscription: Arc<str>,
        /// Which rule says so.
        reason: String,
    },
    /// The dispatcher refused something that this node holds or asked for.
    Refused {
        /// Why.
        reason: String,
    },
    /// A handler panicked or failed, or was not called because there was something else to know
    /// ([`Node::on`](crate::Node::on)). Told on the thread that runs the handlers, which goes on.
    HandlerFailed {
        /// Which one.
        handler: HandlerId,
        /// Its topic; `None` if it is one of a timer.
        topic: Option<Arc<str>>,
        /// What went wrong.
        failure: HandlerFailure,
    },
}

/// A node of this host, seen from another one.
///
/// ```
/// use std::sync::mpsc;
/// use nodeset::{Health, Node, NodeChange};
///
/// let node = Node::builder("first").instance("doc-node-info").embedded().connect()?;
/// let (sender, changes) = mpsc::channel();
/// node.on_node(move |change| drop(sender.send(change.clone())));
/// let second = Node::builder("first").instance("doc-node-info").embedded().connect()?;
/// let NodeChange::Joined(info) = changes.recv()? else { panic!("nothing else can have happened") };
/// assert_eq!((&*info.name, &*info.base_name), ("first-2", "first"));
/// assert_eq!((info.pid, info.health), (std::process::id(), Health::Alive));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// The name it has.
    pub name: Arc<str>,
    /// The name it asked for, which `mnode` and `mnode-2` share.
    pub base_name: Arc<str>,
    /// Its process, as its dispatcher sees it.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Whether it runs.
    pub health: Health,
}

impl From<NodeState> for NodeInfo {
    fn from(state: NodeState) -> NodeInfo {
        let NodeState { name, base_name, pid, uid, health, .. } = state;
        NodeInfo { name: name.into(), base_name: base_name.into(), pid, uid, health }
    }
}

/// Something happened to another node of this host.
///
/// ```
/// use std::sync::mpsc;
/// use nodeset::{Node, NodeChange};
///
/// let node = Node::builder("watcher").instance("doc-node-change").embedded().connect()?;
/// let (sender, changes) = mpsc::channel();
/// node.on_node(move |change| drop(sender.send(change.clone())));
/// let guest = Node::builder("guest").instance("doc-node-change").embedded().connect()?;
/// assert!(matches!(changes.recv()?, NodeChange::Joined(node) if &*node.name == "guest"));
/// drop(guest);
/// assert!(matches!(changes.recv()?, NodeChange::Left { died: false, .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeChange {
    /// It is there, newly or since before it was asked for.
    Joined(NodeInfo),
    /// It is gone.
    Left {
        /// As it was last.
        node: NodeInfo,
        /// Its process died. False when it left in order, or went while no dispatcher was there to see how.
        died: bool,
    },
    /// It became alive, slow or stopped. Its links stay as they are.
    Health(NodeInfo),
    /// It has another name.
    Renamed {
        /// The one before.
        before: Arc<str>,
        /// As it is now.
        node: NodeInfo,
    },
}

/// Is called with each event, on the node's session thread: it must not block.
pub(crate) type Handler = Arc<dyn Fn(&NodeEvent) + Send + Sync>;
/// The same for changes of other nodes.
pub(crate) type NodeHandler = Arc<dyn Fn(&NodeChange) + Send + Sync>;
