//! The other nodes of this host, as the dispatcher tells of them, and what that changes for those who watch them.
//!
//! The dispatcher says whole states, more than once, and a new dispatcher says all of them again. What became of a node while
//! there was no dispatcher nobody says: one that is not named again until the dispatcher is complete is gone.

use std::collections::BTreeMap;

use nodeset_bus::protocol::{NodeId, NodeState};

use crate::event::{NodeChange, NodeInfo};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: BTreeMap<NodeId, Known>,
}

#[derive(Debug)]
struct Known {
    info: NodeInfo,
    /// The dispatcher to which this node is attached has named it.
    confirmed: bool,
}

impl Nodes {
    /// All that are there, as if they had just come.
    pub(super) fn present(&self) -> Vec<NodeChange> {
        self.known.values().map(|known| NodeChange::Joined(known.info.clone())).collect()
    }

    /// The dispatcher is gone: the next one has to name them again.
    pub(super) fn doubt(&mut self) {
        self.known.values_mut().for_each(|known| known.confirmed = false);
    }

    /// A node is there, in that state.
    pub(super) fn is(&mut self, state: NodeState) -> Vec<NodeChange> {
        let id = state.node;
        let info = NodeInfo::from(state);
        let Some(before) = self.known.insert(id, Known { info: info.clone(), confirmed: true }) else {
            return vec![NodeChange::Joined(info)];
        };
        let mut changes = Vec::new();
        if before.info.name != info.name {
            changes.push(NodeChange::Renamed { before: before.info.name, node: info.clone() });
        }
        if before.info.health != info.health {
            changes.push(NodeChange::Health(info));
        }
        changes
    }

    /// A node is gone.
    pub(super) fn gone(&mut self, id: NodeId, died: bool) -> Option<NodeChange> {
        self.known.remove(&id).map(|known| NodeChange::Left { node: known.info, died })
    }

    /// The dispatcher has named all that are there.
    pub(super) fn complete(&mut self) -> Vec<NodeChange> {
        let missing: Vec<_> = self.known.iter().filter(|(_, known)| !known.confirmed).map(|(&id, _)| id).collect();
        missing.into_iter().filter_map(|id| self.gone(id, false)).collect()
    }
}

#[cfg(test)]
mod tests {
    use nodeset_bus::protocol::Health;

    use super::*;

    fn state(id: u64, name: &str, health: Health) -> NodeState {
        let base_name = "base".to_owned();
        NodeState { node: NodeId(id), name: name.to_owned(), base_name, pid: 1, uid: 2, health }
    }

    fn info(name: &str, health: Health) -> NodeInfo {
        NodeInfo::from(state(0, name, health))
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut nodes = Nodes::default();
        assert_eq!(nodes.is(state(1, "a", Health::Alive)), [NodeChange::Joined(info("a", Health::Alive))]);
        assert_eq!(nodes.is(state(1, "a", Health::Alive)), []);
        assert_eq!(nodes.is(state(1, "a", Health::Slow)), [NodeChange::Health(info("a", Health::Slow))]);
        let renamed = NodeChange::Renamed { before: "a".into(), node: info("b", Health::Alive) };
        assert_eq!(nodes.is(state(1, "b", Health::Alive)), [renamed, NodeChange::Health(info("b", Health::Alive))]);
        let left = NodeChange::Left { node: info("b", Health::Alive), died: true };
        assert_eq!(nodes.gone(NodeId(1), true), Some(left));
        assert_eq!(nodes.gone(NodeId(1), true), None);
        assert_eq!(nodes.present(), []);
    }

    #[test]
    fn one_that_the_next_dispatcher_does_not_name_is_gone_once_that_is_complete() {
        let mut nodes = Nodes::default();
        for (id, name) in [(1, "stays"), (2, "goes")] {
            nodes.is(state(id, name, Health::Alive));
        }
        assert_eq!(nodes.complete(), [], "nobody is missing");
        nodes.doubt();
        assert_eq!(nodes.is(state(1, "stays", Health::Alive)), []);
        assert_eq!(nodes.complete(), [NodeChange::Left { node: info("goes", Health::Alive), died: false }]);
        assert_eq!(nodes.present(), [NodeChange::Joined(info("stays", Health::Alive))]);
        assert_eq!(nodes.complete(), []);
    }
}
