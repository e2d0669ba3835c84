//! Which publications a subscription wants.
//!
//! A subscription of a plain topic stands in that topic's entry. Any other one, of a pattern or of one node's publications,
//! stands in an index of patterns, so that a publication finds its subscriptions by its topic in either case.
//!
//! What the bridge publishes is what nodes of other hosts publish: it is wanted by their names and hosts, never by those of the
//! bridge.
//!
//! Rights: a plain topic is checked once, when it is subscribed. Any other subscription is everybody's to have, and each
//! publication that it would be linked to (or is, when it comes from another dispatcher) is checked on its own: `**` gives
//! whoever subscribes it what they may read, of what there is and of what will be; what they may not, they are told of.
//!
//! Types: a plain topic is of one type, and whoever subscribes it says which. A pattern is not: it takes what is of its type,
//! and both ends are told of the rest. It keeps nobody from publishing.

use std::ops::Bound;

use nodeset_bus::protocol::{Mismatch, NodeId, Origin, PublicationId, RefusalCode, SubscriptionId, ToNode};
use nodeset_bus::topic::{Selector, Topic, check_node_name};
use tracing::debug;

use crate::policy::Deed;

use super::topics::{Publication, Subscription, TopicEnds};
use super::{Failure, Registry, SessionId};

impl Registry {
    /// Enters a subscription where publications look for it.
    pub(super) fn want(&mut self, id: SubscriptionId, selector: &Selector) {
        match selector.as_topic() {
            Some(topic) => {
                self.topics.entry(topic.as_str().to_owned()).or_default().subscriptions.insert(id);
            }
            None => {
                self.patterns.insert(selector.pattern(), id);
            }
        }
    }

    pub(super) fn want_no_more(&mut self, id: SubscriptionId, selector: &Selector) {
        match selector.as_topic() {
            Some(topic) => self.leave_topic(topic.as_str(), |ends| ends.subscriptions.remove(&id)),
            None => {
                self.patterns.remove(selector.pattern(), &id);
            }
        }
    }

    /// The subscriptions that mean that topic, in the order of their ids; a node that they name is not looked at.
    pub(super) fn subscriptions_of(&self, topic: &Topic) -> Vec<SubscriptionId> {
        let plain = self.topics.get(topic.as_str()).into_iter().flat_map(|ends| &ends.subscriptions);
        let mut found: Vec<_> = plain.chain(self.patterns.matching(topic)).copied().collect();
        found.sort_unstable();
        found
    }

    /// The publications on topics that are meant. Looks at all topics that begin with what stands before the first wildcard.
    pub(super) fn publications_on(&self, selector: &Selector) -> Vec<PublicationId> {
        let publications = self.topics_on(selector).flat_map(|ends| &ends.publications);
        let meant = publications.filter(|id| self.publications.get(id).is_some_and(|it| selector.matches(&it.topic)));
        meant.copied().collect()
    }

    /// The topics among which those that are meant are.
    pub(super) fn topics_on(&self, selector: &Selector) -> impl Iterator<Item = &TopicEnds> {
        let plain = selector.pattern().as_topic();
        let prefix = match &plain {
            Some(topic) => topic.as_str().to_owned(),
            None => selector.pattern().literal_prefix().to_owned(),
        };
        let is_plain = plain.is_some();
        let topics = self.topics.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        topics
            .take_while(move |(topic, _)| if is_plain { **topic == prefix } else { topic.starts_with(&prefix) })
            .map(|(_, ends)| ends)
    }

    /// Whether a publication is one of those that a subscription wants and its node may read.
    pub(super) fn wants(&self, subscription: &Subscription, publication: &Publication) -> bool {
        self.means(subscription, publication) && self.may_read(subscription, &publication.topic)
    }

    /// Whether a subscription means a publication.
    pub(super) fn means(&self, subscription: &Subscription, publication: &Publication) -> bool {
        let Some(origin) = &publication.origin else {
            return self.means_of(subscription, &publication.topic, publication.node);
        };
        let names = [origin.node.as_str(), origin.base_name.as_str()];
        let selector = &subscription.selector;
        selector.matches(&publication.topic) && selector.wants_node_of(names, &origin.host)
    }

    /// Only the bridge repeats publications of other hosts; it runs in this process.
    pub(super) fn check_origin(&self, session: SessionId, origin: &Origin) -> Result<(), Failure> {
        let is_own = self.sessions.get(&session).is_some_and(|it| it.identity.pid == self.settings.pid);
        if !is_own {
            let text = "only the dispatcher itself publishes for nodes of other hosts: publish in your own name";
            return Err(Failure::new(RefusalCode::Denied, text));
        }
        check_node_name(&origin.node)
            .and_then(|()| check_node_name(&origin.base_name))
            .and_then(|()| check_node_name(&origin.host))
            .map_err(|error| Failure::new(RefusalCode::Invalid, error.to_string()))
    }

    /// Whether a subscription means what that node of this host publishes on a topic.
    pub(super) fn means_of(&self, subscription: &Subscription, topic: &Topic, publisher: NodeId) -> bool {
        subscription.selector.matches(topic) && self.wants_node(&subscription.selector, publisher)
    }

    /// Whether its node may read a topic that a subscription means; what was subscribed as a plain topic it may.
    pub(super) fn may_read(&self, subscription: &Subscription, topic: &Topic) -> bool {
        subscription.selector.as_topic().is_some()
            || self.nodes.get(&subscription.node).is_some_and(|node| node.session.is_some())
                && self.check_read(subscription, topic).is_ok()
    }

    /// The same with the reason, of a node that is there.
    pub(super) fn check_read(&self, subscription: &Subscription, topic: &Topic) -> Result<(), Failure> {
        let session = self.nodes.get(&subscription.node).and_then(|node| node.session);
        match session.filter(|_| subscription.selector.as_topic().is_none()) {
            Some(session) => self.check_rights(session, Deed::Subscribe, topic),
            None => Ok(()),
        }
    }

    /// Tells a subscriber what it is not linked to.
    pub(super) fn deny(&mut self, id: SubscriptionId, topic: &Topic, denied: Failure) {
        let Some(subscription) = self.subscriptions.get(&id) else { return };
        let Failure { text, .. } = denied;
        debug!(event = "not_linked", pattern = %subscription.selector, %topic, reason = text);
        let node = subscription.node;
        self.send(node, ToNode::Denied { subscription: id, topic: topic.to_string(), text }, Vec::new());
    }

    /// Tells both ends that they do not speak of the same type. If the subscription is one that says what its topic is of, the one
    /// that asks is not told, but answered: its request fails.
    pub(super) fn differ(
        &mut self,
        (asks, for_it): (NodeId, Mismatch),
        (other, for_other): (NodeId, Mismatch),
        answer: &mut Vec<Mismatch>,
    ) {
        let insists = self.subscriptions.get(&for_it.subscription).is_some_and(|it| {
            let pattern = it.selector.pattern();
            // Those of reserved levels are what the ends of one service agreed on.
            pattern.as_topic().is_some() || pattern.levels().any(|level| level.starts_with('$'))
        });
        if insists {
            answer.push(for_it);
        } else {
            self.send(asks, ToNode::Mismatch(for_it), Vec::new());
        }
        self.send(other, ToNode::Mismatch(for_other), Vec::new());
    }

    fn wants_node(&self, selector: &Selector, id: NodeId) -> bool {
        let Some(node) = self.nodes.get(&id) else { return false };
        selector.wants_node([node.name.as_str(), node.base_name.as_str()], &self.settings.host)
    }
}
