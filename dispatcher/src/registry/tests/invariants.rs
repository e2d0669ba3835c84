//! What must hold after each input, whatever it was.

use super::super::link::{PublisherEnd, SubscriberEnd};
use super::*;

impl Table {
    /// Panics with what is wrong.
    pub(super) fn check(&self) {
        self.registry.check_links();
        self.registry.check_tables();
        for handle in &self.held {
            let owned = match handle {
                Handle::PageOf(node) | Handle::PidfdOf(node) => self.registry.nodes.contains_key(node),
                Handle::BellOf(node, uid) => {
                    self.registry.nodes.get(node).is_some_and(|node| node.bells.contains_key(uid))
                }
                Handle::SignalOf(node, uid) => {
                    self.registry.nodes.get(node).is_some_and(|node| node.signals.contains_key(uid))
                }
                Handle::LogOf(publication) => self.registry.publications.contains_key(publication),
            };
            assert!(owned, "{handle:?} is kept for nobody");
        }
    }
}

impl Registry {
    fn check_links(&self) {
        let mut shared = BTreeMap::new();
        let mut lines = BTreeMap::new();
        for (id, link) in &self.links {
            let pair = (link.publisher.min(link.subscriber), link.publisher.max(link.subscriber));
            *shared.entry(pair).or_insert(0) += 1;
            assert_ne!(link.tag, 0, "{id:?}");

            // Both ends agree: neither goes on with a link that the other one is done with.
            let sound = match (link.publishing, link.reading) {
                (PublisherEnd::Gone, SubscriberEnd::Gone) | (PublisherEnd::Unknown, SubscriberEnd::Unknown) => false,
                (PublisherEnd::Gone, reading) => matches!(reading, SubscriberEnd::Ending(_)),
                (PublisherEnd::Removing, reading) => {
                    matches!(reading, SubscriberEnd::Ending(_) | SubscriberEnd::Gone)
                }
                (_, reading) => !matches!(reading, SubscriberEnd::Ending(_) | SubscriberEnd::Gone),
            };
            assert!(sound, "{id:?}: {link:?}");

            // No end of a link is alive without what it is an end of.
            if !matches!(link.publishing, PublisherEnd::Unknown | PublisherEnd::Gone) {
                let publication = &self.publications[&id.publication];
                assert_eq!((publication.node, publication.epoch), (link.publisher, id.epoch), "{id:?}");
                assert!(publication.links.contains(id), "{id:?}");
            }
            if !matches!(link.reading, SubscriberEnd::Unknown | SubscriberEnd::Gone) {
                let subscription = &self.subscriptions[&id.subscription];
                assert_eq!(subscription.node, link.subscriber, "{id:?}");
                assert!(subscription.links.contains(id), "{id:?}");
                assert!(link.line_taken || matches!(link.reading, SubscriberEnd::Ending(_)), "{id:?}: {link:?}");
            }
            assert_eq!(link.is_half(), self.halves.contains_key(id), "{id:?}: {link:?}");

            // No two links on one line.
            if link.line_taken {
                let other = lines.insert((link.subscriber, link.line), id);
                assert_eq!(other, None, "line {} of {} has {id:?} as well", link.line, link.subscriber);
            }
        }
        assert_eq!(shared, self.shared);
        assert!(self.halves.keys().all(|half| self.links.contains_key(half)));
        for (id, node) in &self.nodes {
            for line in node.lines.taken() {
                assert!(lines.contains_key(&(*id, line)), "line {line} of {id} is lost");
            }
            for (&(_, line), _) in lines.range((*id, 0)..=(*id, u32::MAX)) {
                assert!(node.lines.taken().any(|taken| taken == line), "line {line} of {id} could be given away");
            }
        }
    }

    fn check_tables(&self) {
        let mut slots = BTreeSet::new();
        for (id, publication) in &self.publications {
            assert!(self.nodes[&publication.node].publications.contains(id));
            assert!(self.topics[publication.topic.as_str()].publications.contains(id));
            assert!(publication.links.iter().all(|link| self.links.contains_key(link)));
            assert!(publication.given_up.iter().all(|it| self.subscriptions.contains_key(it)));
            assert!(slots.insert((publication.node, publication.slot)), "two publications have one slot");
        }
        for (id, direct) in &self.directs {
            assert!(self.nodes[&direct.node].directs.contains(id));
            assert!(self.topics[direct.topic.as_str()].directs.contains(id));
            assert!(direct.given_up().iter().all(|it| self.subscriptions.contains_key(it)));
        }
        let mut patterns = 0;
        for (id, subscription) in &self.subscriptions {
            assert!(self.nodes[&subscription.node].subscriptions.contains(id));
            match subscription.selector.as_topic() {
                Some(topic) => assert!(self.topics[topic.as_str()].subscriptions.contains(id)),
                None => patterns += 1,
            }
            assert!(subscription.links.iter().all(|link| self.links.contains_key(link)));
        }
        assert_eq!(self.patterns.len(), patterns, "subscriptions that are gone are still looked for");
        for (topic, ends) in &self.topics {
            let nobodys = ends.publications.is_empty() && ends.directs.is_empty() && ends.subscriptions.is_empty();
            assert!(!nobodys, "{topic} is nobody's");
            assert!(ends.directs.iter().all(|it| self.directs.contains_key(it)));
            assert!(ends.publications.iter().all(|it| self.publications.contains_key(it)));
            assert!(ends.subscriptions.iter().all(|it| self.subscriptions.contains_key(it)));
        }
        let names: BTreeMap<_, _> = self.nodes.iter().map(|(&id, node)| (node.name.clone(), id)).collect();
        assert_eq!(names, self.names);
        assert_eq!(names.len(), self.nodes.len(), "two nodes have one name");
        for (id, node) in &self.nodes {
            assert!(!self.departed.contains_key(id));
            assert_eq!(node.ending, None, "{id} should have left");
            if let Some(session) = node.session {
                assert!(self.sessions.contains_key(&session));
            } else {
                assert!(node.named.is_empty() && !node.handing_back);
            }
            assert!(node.publications.iter().all(|it| self.publications.contains_key(it)));
            assert!(node.directs.iter().all(|it| self.directs.contains_key(it)));
            assert!(node.subscriptions.iter().all(|it| self.subscriptions.contains_key(it)));
            // What a node knows of others ends with the last link that they share.
            for peer in node.introduced.keys() {
                let pair = (*id.min(peer), *id.max(peer));
                assert!(self.shared.contains_key(&pair), "{id} still knows {peer}");
            }
        }
        assert!(self.departed.keys().all(|it| self.has_shared(*it)), "an id is kept from use for nothing");
    }
}
