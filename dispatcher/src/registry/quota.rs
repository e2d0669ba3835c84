//! What one user may have, and what each has.

use std::collections::BTreeMap;

use nodeset_bus::log;
use nodeset_bus::page::NODE_PAGE_LEN;
use nodeset_bus::protocol::{LogShape, RefusalCode};

use super::{Failure, Limits};

/// The part of a limit that a user other than the dispatcher's own (and root) may have unless something else is said: one
/// in so many.
const PART_OF_OTHERS: usize = 4;
/// The part of a user's bytes that a log gets whose publisher asked for no size: one in so many.
const PART_OF_A_LOG: u64 = 16;

/// The most that each user may have of each kind of thing. What is `None` follows from [`Limits`]: for the dispatcher's own
/// user and root there is no other limit than those; each other user may have a quarter of them, and as many bytes as one
/// log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas {
    /// nodes, attached or not
    pub nodes: Option<usize>,
    /// publications of all the user's nodes
    pub publications: Option<usize>,
    /// subscriptions of all the user's nodes
    pub subscriptions: Option<usize>,
    /// different topics that the user publishes or subscribes
    pub topics: Option<usize>,
    /// segments made for the user's nodes: one a node, one a publication
    pub segments: Option<usize>,
    /// bytes of these segments, whether touched or not: they cannot grow beyond that
    pub bytes: Option<u64>,
}

/// The same for one user, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quota {
    nodes: usize,
    publications: usize,
    subscriptions: usize,
    topics: usize,
    segments: usize,
    bytes: u64,
}

impl Quotas {
    fn of(&self, limits: &Limits, own: bool) -> Quota {
        let count = |said: Option<usize>, all: usize| said.unwrap_or(if own { all } else { all / PART_OF_OTHERS });
        let segments = limits.nodes.saturating_add(limits.publications);
        Quota {
            nodes: count(self.nodes, limits.nodes),
            publications: count(self.publications, limits.publications),
            subscriptions: count(self.subscriptions, limits.subscriptions),
            topics: count(self.topics, limits.topics),
            segments: count(self.segments, segments),
            bytes: self.bytes.unwrap_or(if own { u64::MAX } else { limits.log_bytes }),
        }
    }
}

/// Something that counts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item<'a> {
    Node,
    Publication {
        topic: &'a str,
        shape: LogShape,
    },
    /// A direct publication: its lanes count for themselves.
    Direct {
        topic: &'a str,
    },
    Subscription {
        topic: &'a str,
    },
}

impl Item<'_> {
    /// bytes of the segment that is made for it
    fn bytes(&self) -> Option<u64> {
        match self {
            Item::Node => Some(NODE_PAGE_LEN),
            Item::Publication { shape, .. } => Some(log::segment_len(*shape)),
            Item::Direct { .. } | Item::Subscription { .. } => None,
        }
    }

    fn topic(&self) -> Option<&str> {
        match self {
            Item::Node => None,
            Item::Publication { topic, .. } | Item::Direct { topic } | Item::Subscription { topic } => Some(topic),
        }
    }
}

/// What a user has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usage {
    nodes: usize,
    publications: usize,
    subscriptions: usize,
    /// How many publications and subscriptions of the user's each topic has; none has 0.
    topics: BTreeMap<String, usize>,
    segments: usize,
    bytes: u64,
}

/// What all users have.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    quotas: Quotas,
    limits: Limits,
    /// This user and root have no quota but the ones that were set.
    own: u32,
    /// Users that have something.
    users: BTreeMap<u32, Usage>,
}

impl Accounts {
    pub(super) fn new(quotas: Quotas, limits: Limits, own: u32) -> Accounts {
        Accounts { quotas, limits, own, users: BTreeMap::new() }
    }

    fn quota(&self, uid: u32) -> Quota {
        self.quotas.of(&self.limits, uid == self.own || uid == 0)
    }

    /// bytes; the most that a log may have whose publisher asked for no size.
    pub(super) fn log_share(&self, uid: u32) -> u64 {
        self.limits.log_bytes.min(self.quota(uid).bytes / PART_OF_A_LOG)
    }

    /// Whether that user may have one more of that.
    pub(super) fn check(&self, uid: u32, item: Item<'_>) -> Result<(), Failure> {
        let none = Usage::default();
        let (has, may) = (self.users.get(&uid).unwrap_or(&none), self.quota(uid));
        let count = |what: &str, has: usize, may: usize, option: &str| {
            if has < may {
                return Ok(());
            }
            let text = format!(
                "user {uid} has {has} {what}, and this dispatcher allows each user {may}: end some, or start it with a \
                 higher {option}"
            );
            Err(Failure::new(RefusalCode::Limit, text))
        };
        match item {
            Item::Node => count("nodes", has.nodes, may.nodes, "--user-nodes")?,
            Item::Publication { .. } | Item::Direct { .. } => {
                count("publications", has.publications, may.publications, "--user-publications")?;
            }
            Item::Subscription { .. } => {
                count("subscriptions", has.subscriptions, may.subscriptions, "--user-subscriptions")?;
            }
        }
        if item.topic().is_some_and(|topic| !has.topics.contains_key(topic)) {
            count("topics", has.topics.len(), may.topics, "--user-topics")?;
        }
        let Some(bytes) = item.bytes() else { return Ok(()) };
        count("segments", has.segments, may.segments, "--user-segments")?;
        if bytes > may.bytes.saturating_sub(has.bytes) {
            let text = format!(
                "user {uid} has {} bytes of segments, {bytes} more are needed, and this dispatcher allows each user {}: \
                 ask for fewer or smaller blocks, end something, or start it with a higher --user-bytes",
                has.bytes, may.bytes
            );
            return Err(Failure::new(RefusalCode::Limit, text));
        }
        Ok(())
    }

    pub(super) fn add(&mut self, uid: u32, item: Item<'_>) {
        let has = self.users.entry(uid).or_default();
        match item {
            Item::Node => has.nodes += 1,
            Item::Publication { .. } | Item::Direct { .. } => has.publications += 1,
            Item::Subscription { .. } => has.subscriptions += 1,
        }
        if let Some(topic) = item.topic() {
            *has.topics.entry(topic.to_owned()).or_default() += 1;
        }
        if let Some(bytes) = item.bytes() {
            has.segments += 1;
            has.bytes += bytes;
        }
    }

    /// Takes back what was added.
    pub(super) fn remove(&mut self, uid: u32, item: Item<'_>) {
        let Some(has) = self.users.get_mut(&uid) else { return };
        match item {
            Item::Node => has.nodes -= 1,
            Item::Publication { .. } | Item::Direct { .. } => has.publications -= 1,
            Item::Subscription { .. } => has.subscriptions -= 1,
        }
        if let Some(topic) = item.topic() {
            if let Some(ends) = has.topics.get_mut(topic) {
                *ends -= 1;
                if *ends == 0 {
                    has.topics.remove(topic);
                }
            }
        }
        if let Some(bytes) = item.bytes() {
            has.segments -= 1;
            has.bytes -= bytes;
        }
        if *has == Usage::default() {
            self.users.remove(&uid);
        }
    }

    /// Whether nobody has anything.
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: LogShape = LogShape { block_len: 4096, blocks: 4 };

    #[test]
    fn what_was_added_and_removed_leaves_nothing() {
        let mut accounts = Accounts::new(Quotas::default(), Limits::default(), 1000);
        let items = [
            Item::Node,
            Item::Publication { topic: "a", shape: SHAPE },
            Item::Subscription { topic: "a" },
            Item::Subscription { topic: "b" },
        ];
        for item in items {
            accounts.add(7, item);
        }
        let has = &accounts.users[&7];
        assert_eq!((has.nodes, has.publications, has.subscriptions), (1, 1, 2));
        assert_eq!((has.topics.len(), has.segments), (2, 2));
        assert_eq!(has.bytes, NODE_PAGE_LEN + log::segment_len(SHAPE));
        for item in items {
            assert!(!accounts.is_empty());
            accounts.remove(7, item);
        }
        assert!(accounts.is_empty());
    }

    #[test]
    fn each_quota_is_named_where_it_is_reached() {
        let page = NODE_PAGE_LEN;
        let publication = Item::Publication { topic: "new", shape: SHAPE };
        let subscription = Item::Subscription { topic: "new" };
        let none = Quotas::default();
        for (quotas, item, option) in [
            (Quotas { nodes: Some(1), ..none }, Item::Node, "--user-nodes"),
            (Quotas { publications: Some(1), ..none }, publication, "--user-publications"),
            (Quotas { subscriptions: Some(1), ..none }, subscription, "--user-subscriptions"),
            (Quotas { topics: Some(1), ..none }, publication, "--user-topics"),
            (Quotas { topics: Some(1), ..none }, subscription, "--user-topics"),
            (Quotas { segments: Some(2), ..none }, publication, "--user-segments"),
            (Quotas { bytes: Some(page + log::segment_len(SHAPE)), ..none }, publication, "--user-bytes"),
        ] {
            let mut accounts = Accounts::new(quotas, Limits::default(), 1000);
            for had in [Item::Node, Item::Publication { topic: "a", shape: SHAPE }, Item::Subscription { topic: "a" }] {
                accounts.check(1000, had).unwrap();
                accounts.add(1000, had);
            }
            let refused = accounts.check(1000, item).unwrap_err();
            assert_eq!(refused.code, RefusalCode::Limit);
            assert!(refused.text.contains(option) && refused.text.contains("user 1000"), "{}", refused.text);
            accounts.check(1001, item).unwrap_or_else(|_| panic!("{option}: another user has nothing yet"));
        }
    }

    #[test]
    fn others_have_a_part_unless_it_is_said_otherwise() {
        let limits = Limits { nodes: 8, log_bytes: 1 << 20, ..Limits::default() };
        let accounts = Accounts::new(Quotas::default(), limits, 1000);
        for own in [0, 1000] {
            assert_eq!((accounts.quota(own).nodes, accounts.quota(own).bytes), (8, u64::MAX));
            assert_eq!(accounts.log_share(own), 1 << 20);
        }
        assert_eq!((accounts.quota(7).nodes, accounts.quota(7).bytes), (2, 1 << 20));
        assert_eq!(accounts.log_share(7), (1 << 20) / PART_OF_A_LOG);
        let said = Accounts::new(Quotas { nodes: Some(5), ..Quotas::default() }, limits, 1000);
        assert_eq!([said.quota(1000).nodes, said.quota(7).nodes], [5, 5]);
    }
}
