//! Sessions that want to hear of all nodes of this host: who is there, how it is, and who went.
//!
//! What a watcher is told of a node is always its whole state, so that hearing it twice does no harm. A dispatcher that has
//! just started does not know who died before it; it says `NodesComplete` once all others had the time to come back.

use std::time::Instant;

use nodeset_bus::protocol::{EndReason, Health, NodeId, NodeState, ToNode};
use tracing::info;

use super::node::Node;
use super::{Registry, SessionId};

impl Node {
    pub(super) fn state(&self, id: NodeId) -> NodeState {
        NodeState {
            node: id,
            name: self.name.clone(),
            base_name: self.base_name.clone(),
            pid: self.identity.pid,
            uid: self.identity.uid,
            health: self.health,
        }
    }
}

impl Registry {
    /// When all that could come back after this dispatcher's start has had the time to.
    pub(super) fn settles_at(&self) -> Instant {
        self.settings.started + self.settings.grace
    }

    /// When watchers are to be told that all who could come back have had the time to.
    pub(super) fn settles_for_watchers(&self) -> Option<Instant> {
        (!self.settled && self.sessions.values().any(|it| it.watches)).then(|| self.settles_at())
    }

    pub(super) fn settle_nodes(&mut self, now: Instant) {
        if !self.settled && now >= self.settles_at() {
            self.settled = true;
            for session in self.watching() {
                self.send_session(session, ToNode::NodesComplete, Vec::new());
            }
        }
    }

    /// A session wants to hear of all nodes from now on.
    pub(super) fn watch_nodes(&mut self, now: Instant, session: SessionId) {
        self.settle_nodes(now);
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.watches = true;
        let present: Vec<_> =
            self.nodes.iter().filter(|(_, node)| node.announced).map(|(&id, node)| node.state(id)).collect();
        for state in present {
            self.send_session(session, ToNode::NodeIs(state), Vec::new());
        }
        if self.settled {
            self.send_session(session, ToNode::NodesComplete, Vec::new());
        }
    }

    /// A node takes part from now on.
    pub(super) fn announce(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.announced) {
            node.announced = true;
            self.tell_watchers_of(id);
        }
    }

    /// Something about a node changed.
    pub(super) fn tell_watchers_of(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id).filter(|node| node.announced) else { return };
        let state = node.state(id);
        for session in self.watching() {
            self.send_session(session, ToNode::NodeIs(state.clone()), Vec::new());
        }
    }

    /// A node that was announced is gone.
    pub(super) fn tell_watchers_gone(&mut self, node: NodeId, reason: EndReason) {
        let died = reason == EndReason::Died;
        for session in self.watching() {
            self.send_session(session, ToNode::NodeGone { node, died }, Vec::new());
        }
    }

    /// A node's heart beats again, or beats are missing. It keeps all that it has; those who wait for it need not any more.
    pub(super) fn on_health(&mut self, id: NodeId, health: Health) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.health != health) else { return };
        node.health = health;
        info!(event = "node_health", node = %id, name = node.name, %health);
        self.tell_watchers_of(id);
        if health == Health::Alive {
            return;
        }
        for link_id in self.links_of(id) {
            if let Some(&link) = self.links.get(&link_id).filter(|link| link.is_pending()) {
                let other = if link.publisher == id { link.subscriber } else { link.publisher };
                self.send(other, ToNode::LinkLate { link: link_id }, Vec::new());
            }
        }
    }

    fn watching(&self) -> Vec<SessionId> {
        self.sessions.iter().filter(|(_, session)| session.watches).map(|(&id, _)| id).collect()
    }
}
