//! Who publishes what to whom: the same for everybody who knows the size.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Nodes, their processes, topics and subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// nodes of all processes
    pub nodes: usize,
    /// processes that they are spread over
    pub processes: usize,
    /// topics, each with one publisher
    pub topics: usize,
    /// subscribers of each topic, none of them on the node that publishes it
    pub subscribers: usize,
}

/// Give other numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing to do.
    #[error("there must be at least one process, one topic and one subscriber, and two nodes")]
    Nothing,
    /// A node has at most one subscription a topic here.
    #[error("{subscribers} subscribers of a topic take at least {} nodes; there are {nodes}", subscribers + 1)]
    TooFewNodes {
        /// nodes
        nodes: usize,
        /// subscribers of each topic
        subscribers: usize,
    },
    /// Each process has a node.
    #[error("{processes} processes for {nodes} nodes: there must be at least a node a process")]
    TooManyProcesses {
        /// nodes
        nodes: usize,
        /// processes
        processes: usize,
    },
}

impl Plan {
    /// Whether it can be done.
    ///
    /// # Errors
    ///
    /// See [`PlanError`].
    pub fn check(&self) -> Result<(), PlanError> {
        let Plan { nodes, processes, topics, subscribers } = *self;
        if nodes < 2 || processes == 0 || topics == 0 || subscribers == 0 {
            return Err(PlanError::Nothing);
        }
        if subscribers >= nodes {
            return Err(PlanError::TooFewNodes { nodes, subscribers });
        }
        if processes > nodes {
            return Err(PlanError::TooManyProcesses { nodes, processes });
        }
        Ok(())
    }

    /// Links of all topics.
    pub fn links(&self) -> usize {
        self.topics * self.subscribers
    }

    /// The node that publishes a topic.
    pub fn publisher(&self, topic: usize) -> usize {
        topic % self.nodes
    }

    /// The nodes that subscribe a topic. Those of a node's next topic are others, for as long as there are any: each node gets
    /// many peers.
    pub fn subscribers_of(&self, topic: usize) -> impl Iterator<Item = usize> + use<> {
        let Plan { nodes, subscribers, .. } = *self;
        let (publisher, first) = (self.publisher(topic), topic / nodes * subscribers);
        (0..subscribers).map(move |at| (publisher + 1 + (first + at) % (nodes - 1)) % nodes)
    }

    /// The nodes of a process. Neighbours are in different ones.
    pub fn nodes_of(&self, process: usize) -> impl Iterator<Item = usize> + use<> {
        (process..self.nodes).step_by(self.processes)
    }

    /// The topics that a node publishes.
    pub fn published_by(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        (node..self.topics).step_by(self.nodes)
    }

    /// The topics that a node subscribes.
    pub fn subscribed_by(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        let plan = *self;
        (0..plan.topics).filter(move |&topic| plan.subscribers_of(topic).any(|it| it == node))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { nodes, processes, topics, subscribers } = self;
        write!(f, "{nodes} nodes in {processes} processes, {topics} topics x {subscribers} subscribers")
    }
}

/// What a topic is called.
pub fn topic_name(topic: usize) -> String {
    format!("scale/{topic}")
}

/// What a node is called.
pub fn node_name(node: usize) -> String {
    format!("node-{node}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PLANS: [Plan; 3] = [
        Plan { nodes: 50, processes: 10, topics: 200, subscribers: 5 },
        Plan { nodes: 200, processes: 8, topics: 1000, subscribers: 10 },
        Plan { nodes: 3, processes: 2, topics: 7, subscribers: 2 },
    ];

    #[test]
    fn each_topic_has_its_subscribers_on_other_nodes() {
        for plan in PLANS {
            plan.check().unwrap();
            for topic in 0..plan.topics {
                let nodes: BTreeSet<_> = plan.subscribers_of(topic).collect();
                assert_eq!(nodes.len(), plan.subscribers, "{plan}: topic {topic}");
                assert!(!nodes.contains(&plan.publisher(topic)) && nodes.iter().all(|&node| node < plan.nodes));
            }
        }
    }

    #[test]
    fn each_node_knows_its_own_part() {
        for plan in PLANS {
            let nodes: Vec<_> = (0..plan.processes).flat_map(|process| plan.nodes_of(process)).collect();
            assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), plan.nodes);
            assert_eq!(nodes.iter().map(|&node| plan.published_by(node).count()).sum::<usize>(), plan.topics);
            assert_eq!(nodes.iter().map(|&node| plan.subscribed_by(node).count()).sum::<usize>(), plan.links());
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let plan = |nodes, processes, topics, subscribers| Plan { nodes, processes, topics, subscribers }.check();
        assert_eq!(plan(2, 0, 1, 1), Err(PlanError::Nothing));
        assert_eq!(plan(5, 1, 1, 5), Err(PlanError::TooFewNodes { nodes: 5, subscribers: 5 }));
        assert_eq!(plan(5, 6, 1, 1), Err(PlanError::TooManyProcesses { nodes: 5, processes: 6 }));
    }
}
