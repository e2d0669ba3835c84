//! What the registry wants done.

use nodeset_bus::protocol::{LogShape, NodeId, PublicationId, ToNode};

use super::SessionId;
use super::news::News;

/// Names a descriptor that the dispatcher holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Handle {
    /// A node's page.
    PageOf(NodeId),
    /// The bell of a node that peers of that user ring.
    BellOf(NodeId, u32),
    /// The signal page of a publisher node for subscribers of that user.
    SignalOf(NodeId, u32),
    /// A publication's log.
    LogOf(PublicationId),
    /// The pidfd of a node's process.
    PidfdOf(NodeId),
}

/// What a descriptor must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A node page, sealed for one writer once the node has it.
    Page,
    /// An event descriptor that does not block.
    Bell,
    /// A signal page, for several writers.
    Signal,
    /// A log of that shape, sealed for one writer once its publisher has it.
    Log(LogShape),
}

/// Work whose outcome comes back as [`Input::Done`](super::Input::Done).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// Of [`Action::Watch`].
    Watch(NodeId),
    /// Of [`Action::Create`].
    Create(Handle),
    /// Of [`Action::Adopt`].
    Adopt(Handle),
    /// Of [`Action::Check`].
    Check(Handle),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send a message.
    Send {
        /// To whom.
        session: SessionId,
        /// What.
        message: ToNode,
        /// With copies of these descriptors, in this order.
        descriptors: Vec<Handle>,
    },
    /// Keep the session's pidfd as the node's, and watch it and the life-line (the first descriptor of the message just
    /// handled) until [`Action::Forget`] of the pidfd; what was watched for that node before is dropped. A death comes as
    /// [`Input::Died`](super::Input::Died).
    Watch {
        /// Whose process.
        session: SessionId,
        /// Which node.
        node: NodeId,
    },
    /// Make something.
    Create {
        /// What to call it.
        handle: Handle,
        /// What.
        kind: Kind,
    },
    /// Keep a descriptor of the message just handled, if it is what it must be, with all its seals.
    Adopt {
        /// Whose message.
        session: SessionId,
        /// Which of its descriptors, from 0.
        descriptor: usize,
        /// What to call it.
        handle: Handle,
        /// What it must be.
        kind: Kind,
    },
    /// Read seals and size back from the dispatcher's own descriptor, now that the one writer says it is ready.
    Check {
        /// What.
        handle: Handle,
        /// What it must be.
        kind: Kind,
    },
    /// Close a descriptor; what was already given to be sent keeps its copy.
    Forget {
        /// Which.
        handle: Handle,
    },
    /// End a session after what was given for it; the registry has forgotten it.
    Close {
        /// Which.
        session: SessionId,
    },
    /// Send the table, at the pace at which the session reads ([`ListCursor`](super::ListCursor)), then `ListingEnd`.
    List {
        /// To whom.
        session: SessionId,
    },
    /// Tell the bridge.
    Tell(News),
    /// Hand the socket to the dispatcher behind this session, then end.
    Leave {
        /// The successor.
        session: SessionId,
    },
}
