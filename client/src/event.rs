//! What a node is told of.

use std::sync::Arc;

/// Something happened to a node or its links. Messages go on, whatever it is.
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
    /// The other end of a topic has another message type: no link was made.
    Mismatch {
        /// The topic.
        topic: Arc<str>,
        /// The node at the other end.
        peer: Arc<str>,
        /// What differs, seen from here.
        difference: String,
    },
    /// The dispatcher refused something that this node holds or asked for.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Is called with each event, on the node's session thread: it must not block.
pub(crate) type Handler = Arc<dyn Fn(&NodeEvent) + Send + Sync>;
