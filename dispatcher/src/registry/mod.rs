//! The subscription table: who is here, what is published and wanted, and which links exist. A state machine without
//! sockets, descriptors, clock or threads.
//!
//! [`Registry::handle`] takes what happened, [`Registry::poll_action`] gives what is to be done about it. Descriptors
//! appear only as names ([`Handle`]); whoever drives the registry keeps the real ones. Work that can fail (make a segment,
//! check one, watch a process) is an action as well, and its outcome comes back as [`Input::Done`].
//!
//! How to drive it:
//! - after each `handle` and `handle_timeout`, call `poll_action` until it gives nothing, and carry out the actions in that
//!   order; messages to one session must arrive in the order in which they were given;
//! - call [`handle_timeout`](Registry::handle_timeout) when the time that [`poll_timeout`](Registry::poll_timeout) names has
//!   come; ask again after each `handle`.
//!
//! # Wanted state
//!
//! No message is kept for a node that is not attached. Each link knows how far either end has got (`link`), so what a
//! node must still hear follows from the table when the node comes back and says what it holds.
//!
//! # What an entry waits for
//!
//! | entry | ends when |
//! |---|---|
//! | session | it hangs up, breaks the rules, or its node is gone |
//! | node | its process died or it said goodbye; a session that hangs up leaves the node in the table |
//! | publication, subscription | its node withdraws it or is gone |
//! | link | *both* ends are done with it: the publisher no longer looks at the line, the subscriber no longer writes it |

mod action;
mod hand_back;
mod input;
mod lanes;
mod limits;
mod lines;
mod link;
mod listing;
mod naming;
mod news;
mod node;
mod pairing;
mod quota;
mod session;
#[cfg(test)]
mod tests;
mod topics;
mod wanting;
mod watchers;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use nodeset_bus::protocol::{About, EndReason, LinkId, NodeId, PublicationId, RefusalCode, SubscriptionId, ToNode};
use nodeset_bus::topic::PatternIndex;
use tracing::{debug, warn};

pub use action::{Action, Handle, Kind, Task};
pub use input::{Failure, Identity, Input, SessionId};
pub use limits::Limits;
pub use listing::{LinkRow, ListCursor, PublicationRow};
pub use news::{News, Published};
pub use quota::Quotas;

use crate::policy::Policy;
use lanes::Direct;
use link::Link;
use node::Node;
use quota::Accounts;
use session::Session;
use topics::{Publication, Subscription, TopicEnds};

/// What a registry is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this host.
    pub host: String,
    /// The dispatcher's process.
    pub pid: u32,
    /// The dispatcher's user: this user and root may replace an embedded dispatcher.
    pub uid: u32,
    /// The dispatcher runs on a thread of some node's process.
    pub embedded: bool,
    /// When it started: until the grace period after it is over, nodes come back that an earlier dispatcher had.
    pub started: Instant,
    /// How long a link that only one end named waits for the other end, and names wait for those who had them.
    pub grace: Duration,
    /// What is refused.
    pub limits: Limits,
    /// What each user may have of it.
    pub quotas: Quotas,
    /// Who may publish and subscribe what.
    pub policy: Policy,
    /// Anything random: where the tags of lines begin whose history is not known.
    pub seed: u64,
}

/// The subscription table.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    sessions: BTreeMap<SessionId, Session>,
    nodes: BTreeMap<NodeId, Node>,
    /// Who has which name; each node has one.
    names: BTreeMap<String, NodeId>,
    /// Nodes that are gone, and how, while a link still names them; their ids cannot be used again yet.
    departed: BTreeMap<NodeId, EndReason>,
    /// Watchers were told that all who could come back have had the time to.
    settled: bool,
    publications: BTreeMap<PublicationId, Publication>,
    directs: BTreeMap<PublicationId, Direct>,
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    topics: BTreeMap<String, TopicEnds>,
    /// Subscriptions of anything but a plain topic, by their patterns.
    patterns: PatternIndex<SubscriptionId>,
    links: BTreeMap<LinkId, Link>,
    accounts: Accounts,
    /// Links that only one end named so far, and until when the other end has time; `None`: that time is over.
    halves: BTreeMap<LinkId, Option<Instant>>,
    /// How many links two nodes share (in either direction; smaller id first): at none they forget each other.
    shared: BTreeMap<(NodeId, NodeId), u32>,
    /// A bridge wants to know what there is.
    bridged: bool,
    actions: VecDeque<Action>,
}

impl Registry {
    /// An empty table.
    pub fn new(settings: Settings) -> Registry {
        Registry {
            accounts: Accounts::new(settings.quotas, settings.limits, settings.uid),
            settings,
            sessions: BTreeMap::new(),
            nodes: BTreeMap::new(),
            names: BTreeMap::new(),
            departed: BTreeMap::new(),
            settled: false,
            publications: BTreeMap::new(),
            directs: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            topics: BTreeMap::new(),
            patterns: PatternIndex::new(),
            links: BTreeMap::new(),
            halves: BTreeMap::new(),
            shared: BTreeMap::new(),
            bridged: false,
            actions: VecDeque::new(),
        }
    }

    /// Takes note of what happened at `now`. Inputs about sessions and nodes that are no longer there are ignored.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Opened { session, identity, groups } => self.on_opened(session, identity, groups),
            Input::Message { session, message, descriptors } => self.on_message(now, session, message, descriptors),
            Input::Closed { session } => self.on_closed(session),
            Input::Died { node } => self.on_died(node),
            Input::Health { node, health } => self.on_health(node, health),
            Input::Done { task, result } => self.on_done(task, result),
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.halves.values().flatten().copied().chain(self.settles_for_watchers()).min()
    }

    /// Does what is due at `now`; does nothing when called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire_halves(now);
        self.settle_nodes(now);
    }

    /// Whether nobody and nothing is in the table.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
            && self.nodes.is_empty()
            && self.names.is_empty()
            && self.departed.is_empty()
            && self.publications.is_empty()
            && self.directs.is_empty()
            && self.subscriptions.is_empty()
            && self.topics.is_empty()
            && self.patterns.is_empty()
            && self.links.is_empty()
            && self.halves.is_empty()
            && self.shared.is_empty()
            && self.accounts.is_empty()
    }

    /// Other rights, for what is asked for from now on. What exists stays: memory that somebody has mapped cannot be taken
    /// back.
    pub fn set_policy(&mut self, policy: Policy) {
        self.settings.policy = policy;
    }

    /// The process of a node that has a session.
    pub fn attached_process(&self, node: NodeId) -> Option<u32> {
        self.nodes.get(&node).filter(|node| node.session.is_some()).map(|node| node.identity.pid)
    }

    /// The sessions that exist.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// Gives a message to a node, if it is attached; if not, the table says all there is to say when it comes back.
    fn send(&mut self, node: NodeId, message: ToNode, descriptors: Vec<Handle>) {
        if let Some(session) = self.nodes.get(&node).and_then(|node| node.session) {
            self.send_session(session, message, descriptors);
        }
    }

    fn send_session(&mut self, session: SessionId, message: ToNode, descriptors: Vec<Handle>) {
        self.actions.push_back(Action::Send { session, message, descriptors });
    }

    /// Says no to one request; the session goes on.
    fn refuse(&mut self, session: SessionId, about: About, code: RefusalCode, text: impl Into<String>) {
        let text = text.into();
        warn!(event = "refused", %session, ?about, ?code, text);
        self.send_session(session, ToNode::Refused { about, code, text }, Vec::new());
    }

    /// Says no to a session and ends it. Its node is treated as after a hang-up.
    fn refuse_session(&mut self, session: SessionId, code: RefusalCode, text: impl Into<String>) {
        self.refuse(session, About::Session, code, text);
        self.close(session);
    }

    fn close(&mut self, session: SessionId) {
        debug!(event = "session_closed", %session);
        self.actions.push_back(Action::Close { session });
        self.on_closed(session);
    }

    fn on_done(&mut self, task: Task, result: Result<(), Failure>) {
        match task {
            Task::Watch(node) => self.on_watched(node, result),
            Task::Create(handle) | Task::Adopt(handle) | Task::Check(handle) => match handle {
                Handle::PageOf(node) => self.on_page(node, result),
                Handle::LogOf(publication) => self.on_log(publication, result),
                Handle::BellOf(node, uid) => self.on_bell(node, uid, result),
                Handle::SignalOf(node, uid) => self.on_signal(node, uid, result),
                // Pidfds come with their session, nothing is made or checked.
                Handle::PidfdOf(_) => {}
            },
        }
    }
}
