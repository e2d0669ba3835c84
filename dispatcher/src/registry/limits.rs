//! What is refused.

/// The most there may be of each kind of thing. Every refusal names its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// nodes, attached or not, and sessions
    pub nodes: usize,
    /// publications of all nodes
    pub publications: usize,
    /// subscriptions of all nodes
    pub subscriptions: usize,
    /// different topics
    pub topics: usize,
    /// links of all nodes
    pub links: usize,
    /// bytes; the most that the blocks of one log may have
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            nodes: 4096,
            publications: 65_536,
            subscriptions: 65_536,
            topics: 65_536,
            links: 262_144,
            log_bytes: 1 << 40,
        }
    }
}
