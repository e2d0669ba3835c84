//! Which node has which name.
//!
//! A name belongs to one node of this host at a time. Who asks for one that is taken gets it with a suffix, is refused, or
//! takes it over, as its hello claims. The name that a node asked for stays beside the one that it has (`base_name`): an
//! address with that name means all of them.
//!
//! # After a dispatcher started
//!
//! The one before it is gone, and nodes come back with the names that they had. Until the grace period is over these stay
//! theirs:
//!
//! | has it | comes | keeps it |
//! |---|---|---|
//! | new node | one that had it before | the one that had it before |
//! | one that had it before | another one that had it before | the one with the smaller id, in whatever order they come |
//! | anybody | new node | who has it |
//!
//! After the grace period, who has a name keeps it. The one that loses its name gets another one, or is told that it was
//! replaced if it wanted no other.

use std::time::Instant;

use nodeset_bus::protocol::{Claim, Hello, NameHolder, NodeId, ToNode};
use nodeset_bus::topic;
use tracing::info;

use super::node::Node;
use super::{Identity, Registry, SessionId};

/// A name that a node cannot have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoName {
    /// Somebody else has it.
    Taken(NameHolder),
    /// All that is left is a suffix, for which it is too long.
    TooLong,
}

impl Registry {
    /// All nodes that an address with that name means: those that asked for it and the one that has it.
    pub fn nodes_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = NodeId> + 'a {
        self.nodes.iter().filter(move |(_, node)| node.base_name == name || node.name == name).map(|(&id, _)| id)
    }

    /// The name for a node that is not in the table, free for it to take.
    pub(super) fn claim_name(&mut self, now: Instant, hello: &Hello, own: Identity) -> Result<String, NoName> {
        let returns = hello.handing_back.then_some(hello.held_name.as_ref()).flatten();
        let wished = returns.unwrap_or(&hello.name);
        let holder = match self.names.get(wished) {
            Some(&holder) => holder,
            // A name with nobody else beside it: nor may others have it with a suffix.
            None if hello.claim == Claim::Unique && returns.is_none() => match self.nodes_named(wished).next() {
                Some(namesake) => return Err(NoName::Taken(self.name_holder(now, namesake))),
                None => return Ok(wished.clone()),
            },
            None => return Ok(wished.clone()),
        };
        let yields = returns.is_some() && now < self.settles_at() && self.yields(holder, hello.node);
        let replaces =
            hello.claim == Claim::Replace && self.nodes.get(&holder).is_some_and(|it| it.identity.uid == own.uid);
        if yields || replaces {
            self.take_name(now, holder, hello, own, replaces)?;
            Ok(wished.clone())
        } else if hello.claim.is_exact() {
            Err(NoName::Taken(self.name_holder(now, holder)))
        } else {
            self.free_name(&hello.name).ok_or(NoName::TooLong)
        }
    }

    /// Whether the holder of a name makes way for a node that had it before; see the module.
    fn yields(&self, holder: NodeId, comes: NodeId) -> bool {
        self.nodes.get(&holder).is_some_and(|node| !node.returned || comes < holder)
    }

    /// Gives the holder of a name another one, so that its own is free.
    fn take_name(
        &mut self,
        now: Instant,
        holder: NodeId,
        hello: &Hello,
        by: Identity,
        replaces: bool,
    ) -> Result<(), NoName> {
        let Some(node) = self.nodes.get(&holder) else { return Ok(()) };
        let (old, exact) = (node.name.clone(), node.exact);
        let Some(new) = self.free_name(&node.base_name) else {
            return Err(NoName::Taken(self.name_holder(now, holder)));
        };
        self.rename(now, holder, new.clone());
        if replaces || exact {
            info!(event = "node_replaced", node = %holder, name = old, by = %hello.node, pid = by.pid, uid = by.uid);
            self.end_replaced(holder, NameHolder { name: old, pid: by.pid, uid: by.uid, seconds: 0 });
        } else {
            info!(event = "node_renamed", node = %holder, from = old, to = new);
            self.send(holder, ToNode::Renamed { name: new }, Vec::new());
        }
        Ok(())
    }

    fn rename(&mut self, now: Instant, id: NodeId, name: String) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        self.names.remove(&node.name);
        self.names.insert(name.clone(), id);
        node.name = name;
        node.named_at = now;
        self.tell_watchers_of(id);
    }

    /// A node loses its session for its name. If it has none, it learns why when it comes.
    fn end_replaced(&mut self, id: NodeId, by: NameHolder) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match node.session {
            Some(session) => {
                self.send_session(session, ToNode::Replaced(by), Vec::new());
                self.close(session);
            }
            None => node.replaced_by = Some(by),
        }
    }

    /// A node that is in the table comes back; says whether it has a name that it accepts. If not, its session is over.
    pub(super) fn confirm_name(&mut self, now: Instant, session: SessionId, hello: &Hello) -> bool {
        let Some(node) = self.nodes.get_mut(&hello.node) else { return true };
        if let Some(by) = node.replaced_by.take() {
            self.send_session(session, ToNode::Replaced(by), Vec::new());
            self.close(session);
            return false;
        }
        if hello.claim.is_exact() && node.name != hello.name {
            if let Some(&holder) = self.names.get(&hello.name) {
                let holder = self.name_holder(now, holder);
                self.refuse_name(session, holder);
                return false;
            }
            self.rename(now, hello.node, hello.name.clone());
        }
        true
    }

    /// Ends a session whose node wants a name that somebody has.
    pub(super) fn refuse_name(&mut self, session: SessionId, holder: NameHolder) {
        info!(event = "name_taken", %session, name = holder.name, pid = holder.pid, uid = holder.uid);
        self.send_session(session, ToNode::NameTaken(holder), Vec::new());
        self.close(session);
    }

    fn name_holder(&self, now: Instant, id: NodeId) -> NameHolder {
        let describe = |node: &Node| NameHolder {
            name: node.name.clone(),
            pid: node.identity.pid,
            uid: node.identity.uid,
            seconds: now.saturating_duration_since(node.named_at).as_secs(),
        };
        let nobody = || NameHolder { name: id.to_string(), pid: 0, uid: 0, seconds: 0 };
        self.nodes.get(&id).map_or_else(nobody, describe)
    }

    /// `wished`, or that with the first free suffix from `-2` on.
    fn free_name(&self, wished: &str) -> Option<String> {
        if !self.names.contains_key(wished) {
            return Some(wished.to_owned());
        }
        // One of the first `names + 1` suffixes is free.
        let suffixed = (2..).map(|n| format!("{wished}-{n}")).find(|name| !self.names.contains_key(name))?;
        topic::check_node_name(&suffixed).ok().map(|()| suffixed)
    }
}
