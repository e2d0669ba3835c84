//! Sessions: who may say what, and when.

use std::time::Instant;

use nodeset_bus::protocol::{About, EndReason, Hello, NodeId, RefusalCode, ToDispatcher, ToNode, Welcome};
use nodeset_bus::topic::{self, Topic};
use tracing::info;

use crate::policy::{Deed, Who};

use super::naming::NoName;
use super::node::{Node, Stage};
use super::quota::Item;
use super::{Action, Failure, Handle, Identity, Kind, Registry, SessionId};

/// Sessions beyond the limit of nodes, for tools and for those who come back before their old session is closed.
const SPARE_SESSIONS: usize = 64;

/// What a session is to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Has not said hello.
    New,
    /// Only asks.
    Tool,
    /// Speaks for a node.
    Node(NodeId),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) identity: Identity,
    groups: Vec<u32>,
    role: Role,
    /// It wants to hear of all nodes.
    pub(super) watches: bool,
}

impl Session {
    pub(super) fn new(identity: Identity, groups: Vec<u32>) -> Session {
        Session { identity, groups, role: Role::New, watches: false }
    }
}

impl Registry {
    pub(super) fn on_message(&mut self, now: Instant, session: SessionId, message: ToDispatcher, descriptors: usize) {
        let Some(role) = self.sessions.get(&session).map(|it| it.role) else { return };
        match (role, message) {
            (_, ToDispatcher::Replace { standalone }) => self.replace(session, standalone),
            (Role::New, ToDispatcher::Hello(hello)) => self.hello(now, session, hello, descriptors),
            (Role::New, _) => self.refuse_session(session, RefusalCode::Protocol, "the first message must be `Hello`"),
            (_, ToDispatcher::Hello(_)) => {
                self.refuse_session(session, RefusalCode::Protocol, "a session says `Hello` once: connect again");
            }
            (_, ToDispatcher::List) => self.actions.push_back(Action::List { session }),
            (_, ToDispatcher::WatchNodes) => self.watch_nodes(now, session),
            (Role::Tool, ToDispatcher::Goodbye) => self.close(session),
            (Role::Tool, _) => self.refuse_session(
                session,
                RefusalCode::Protocol,
                "a tool can only list and leave: say hello as a node to take part",
            ),
            (Role::Node(node), message) => self.on_node_message(now, session, node, message, descriptors),
        }
    }

    fn on_node_message(
        &mut self,
        now: Instant,
        session: SessionId,
        node: NodeId,
        message: ToDispatcher,
        descriptors: usize,
    ) {
        let Some(known) = self.nodes.get(&node) else { return };
        let ready = known.stage == Stage::Ready;
        match message {
            ToDispatcher::PageReady if known.stage != Stage::Arriving => self.page_ready(node),
            ToDispatcher::Goodbye => self.drop_node(node, EndReason::Withdrawn),
            _ if !ready => {
                let text = "nothing may be asked before `PageReady` was said: say it first";
                self.refuse_session(session, RefusalCode::Protocol, text);
            }
            ToDispatcher::Bell { uid } => self.bell_back(session, node, uid, descriptors),
            ToDispatcher::Signal { uid } => self.signal_back(session, node, uid, descriptors),
            ToDispatcher::HeldLink(held) => self.held_link(now, session, node, held),
            ToDispatcher::HandedBack => self.handed_back(session, node),
            ToDispatcher::Advertise(advertise) => self.advertise(session, node, advertise, descriptors),
            ToDispatcher::LogReady { publication } => self.log_ready(session, node, publication),
            ToDispatcher::Unadvertise { publication } => {
                if self.publications.get(&publication).is_some_and(|it| it.node == node) {
                    let lane = self.publications[&publication].lane;
                    self.drop_publication(publication, EndReason::Withdrawn);
                    lane.into_iter().for_each(|lane| self.lane_withdrawn(publication, lane));
                } else if self.directs.get(&publication).is_some_and(|it| it.node == node) {
                    self.drop_direct(publication);
                }
            }
            ToDispatcher::AdvertiseDirect(direct) => self.advertise_direct(session, node, direct),
            ToDispatcher::PassLane { publication, to, first } => self.pass_lane(node, publication, to, first),
            ToDispatcher::Subscribe(subscribe) => self.subscribe(session, node, subscribe),
            ToDispatcher::Unsubscribe { subscription } => {
                if self.subscriptions.get(&subscription).is_some_and(|it| it.node == node) {
                    self.drop_subscription(subscription);
                }
            }
            ToDispatcher::LinkListed { link } => self.link_listed(node, link),
            ToDispatcher::LinkEntered { link } => self.link_entered(node, link),
            ToDispatcher::LinkRemoved { link } => self.link_removed(node, link),
            ToDispatcher::LinkLeft { link, evicted } => self.link_left(node, link, evicted),
            // Sorted out before.
            ToDispatcher::Hello(_)
            | ToDispatcher::PageReady
            | ToDispatcher::List
            | ToDispatcher::WatchNodes
            | ToDispatcher::Replace { .. } => {}
        }
    }

    fn hello(&mut self, now: Instant, session: SessionId, hello: Hello, descriptors: usize) {
        let Some(identity) = self.sessions.get(&session).map(|it| it.identity) else { return };
        let names = [Some(&hello.name), hello.held_name.as_ref()];
        if let Err(error) = names.into_iter().flatten().try_for_each(|name| topic::check_node_name(name)) {
            self.refuse_session(session, RefusalCode::Invalid, error.to_string());
            return;
        }
        if hello.tool {
            self.set_role(session, Role::Tool);
            let welcome = self.welcome_text(hello.name, identity);
            self.send_session(session, ToNode::Welcome(welcome), Vec::new());
            return;
        }
        let wanted = if hello.handing_back { 2 } else { 1 };
        if descriptors != wanted {
            let text = format!(
                "`Hello` must carry {wanted} descriptors (life-line, page when handed back), not {descriptors}"
            );
            self.refuse_session(session, RefusalCode::Protocol, text);
            return;
        }
        if let Some(known) = self.nodes.get(&hello.node) {
            if known.identity != identity {
                let text = format!("node {} belongs to another process: draw a new id", hello.node);
                self.refuse_session(session, RefusalCode::Denied, text);
                return;
            }
            if !hello.handing_back {
                // It starts over; what it had is gone.
                self.drop_node(hello.node, EndReason::Withdrawn);
            } else if let Some(old) = known.session {
                self.close(old);
            }
        }
        if self.departed.contains_key(&hello.node) {
            let text = format!("node {} was here before and others still let go of it: draw a new id", hello.node);
            self.refuse_session(session, RefusalCode::Denied, text);
            return;
        }
        let known = self.nodes.contains_key(&hello.node);
        let named =
            if known { self.confirm_name(now, session, &hello) } else { self.add_node(now, session, &hello, identity) };
        if !named {
            return;
        }
        let Some(node) = self.nodes.get_mut(&hello.node) else { return };
        node.session = Some(session);
        node.stage = Stage::Arriving;
        node.handing_back = hello.handing_back;
        for publication in &node.publications {
            if let Some(publication) = self.publications.get_mut(publication) {
                publication.confirmed = false;
            }
        }
        for direct in &node.directs {
            if let Some(direct) = self.directs.get_mut(direct) {
                direct.confirmed = false;
            }
        }
        for subscription in &node.subscriptions {
            if let Some(subscription) = self.subscriptions.get_mut(subscription) {
                subscription.confirmed = false;
            }
        }
        self.set_role(session, Role::Node(hello.node));
        self.actions.push_back(Action::Watch { session, node: hello.node });
    }

    fn add_node(&mut self, now: Instant, session: SessionId, hello: &Hello, identity: Identity) -> bool {
        let limit = self.settings.limits.nodes;
        if self.nodes.len() >= limit {
            let text = format!("this dispatcher takes {limit} nodes: end some, or start it with a higher --max-nodes");
            self.refuse_session(session, RefusalCode::Limit, text);
            return false;
        }
        if let Err(Failure { code, text }) = self.accounts.check(identity.uid, Item::Node) {
            self.refuse_session(session, code, text);
            return false;
        }
        let name = match self.claim_name(now, hello, identity) {
            Ok(name) => name,
            Err(NoName::Taken(holder)) => {
                self.refuse_name(session, holder);
                return false;
            }
            Err(NoName::TooLong) => {
                let text = "the name is taken and too long for a suffix: choose a shorter one";
                self.refuse_session(session, RefusalCode::Invalid, text);
                return false;
            }
        };
        // A page from elsewhere has lines whose last tags nobody here knows.
        let before_first =
            if hello.handing_back { (self.settings.seed ^ hello.node.0.rotate_left(17)) as u16 } else { 0 };
        self.accounts.add(identity.uid, Item::Node);
        self.names.insert(name.clone(), hello.node);
        self.nodes.insert(hello.node, Node::new(now, hello, name, identity, before_first));
        true
    }

    /// The node's process is watched, or cannot be.
    pub(super) fn on_watched(&mut self, id: NodeId, result: Result<(), Failure>) {
        let Some(node) = self.nodes.get(&id).filter(|node| node.stage == Stage::Arriving) else { return };
        let Some(session) = node.session else { return };
        let handle = Handle::PageOf(id);
        match result {
            Ok(()) if node.handing_back => {
                self.actions.push_back(Action::Adopt { session, descriptor: 1, handle, kind: Kind::Page });
            }
            Ok(()) => self.actions.push_back(Action::Create { handle, kind: Kind::Page }),
            Err(failure) => self.refuse_session(session, failure.code, failure.text),
        }
    }

    pub(super) fn welcome(&mut self, session: SessionId, id: NodeId, descriptors: Vec<Handle>) {
        let Some(node) = self.nodes.get(&id) else { return };
        let (name, identity) = (node.name.clone(), node.identity);
        info!(
            event = "node_attached",
            node = %id,
            name,
            pid = identity.pid,
            uid = identity.uid,
            handing_back = node.handing_back
        );
        let welcome = self.welcome_text(name, identity);
        self.send_session(session, ToNode::Welcome(welcome), descriptors);
    }

    fn welcome_text(&self, name: String, identity: Identity) -> Welcome {
        Welcome {
            name,
            host: self.settings.host.clone(),
            dispatcher_pid: self.settings.pid,
            embedded: self.settings.embedded,
            uid: identity.uid,
        }
    }

    pub(super) fn on_opened(&mut self, session: SessionId, identity: Identity, groups: Vec<u32>) {
        let limit = self.settings.limits.nodes.saturating_add(SPARE_SESSIONS);
        let full = self.sessions.len() >= limit;
        self.sessions.insert(session, Session::new(identity, groups));
        if full {
            let text =
                format!("this dispatcher takes {limit} sessions: end some, or start it with a higher --max-nodes");
            self.refuse_session(session, RefusalCode::Limit, text);
        }
    }

    pub(super) fn on_closed(&mut self, session: SessionId) {
        let Some(closed) = self.sessions.remove(&session) else { return };
        if let Role::Node(node) = closed.role {
            if self.nodes.get(&node).is_some_and(|node| node.session == Some(session)) {
                self.detach(node);
            }
        }
    }

    pub(super) fn on_died(&mut self, node: NodeId) {
        self.drop_node(node, EndReason::Died);
    }

    fn replace(&mut self, session: SessionId, standalone: bool) {
        let Some(identity) = self.sessions.get(&session).map(|it| it.identity) else { return };
        let own = &self.settings;
        let (code, text) = if identity.uid != own.uid && identity.uid != 0 {
            (RefusalCode::Denied, format!("the dispatcher belongs to user {}, not to user {}", own.uid, identity.uid))
        } else if !own.embedded && !standalone {
            let text = format!("process {} is a dispatcher of its own: end it first, or start with --replace", own.pid);
            (RefusalCode::Unsupported, text)
        } else {
            info!(event = "replaced", by_pid = identity.pid, by_uid = identity.uid);
            self.actions.push_back(Action::Leave { session });
            return;
        };
        self.refuse(session, About::Replace, code, text);
    }

    /// Whether the other end of a session may do that with a topic.
    pub(super) fn check_rights(&self, session: SessionId, deed: Deed, topic: &Topic) -> Result<(), Failure> {
        let Some(Session { identity, groups, .. }) = self.sessions.get(&session) else { return Ok(()) };
        let who = Who { uid: identity.uid, gids: groups };
        let decision = self.settings.policy.check(who, deed, topic);
        decision.map_err(|denied| Failure::new(RefusalCode::Denied, denied.to_string()))
    }

    fn set_role(&mut self, session: SessionId, role: Role) {
        if let Some(known) = self.sessions.get_mut(&session) {
            known.role = role;
        }
    }
}
