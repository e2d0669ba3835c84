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
//! whoever subscribes it what they may read, of what there is and of what will be.

use std::ops::Bound;

use nodeset_bus::protocol::{NodeId, Origin, PublicationId, RefusalCode, SubscriptionId};
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
        let Some(origin) = &publication.origin else {
            return self.wants_of(subscription, &publication.topic, publication.node);
        };
        let (selector, topic) = (&subscription.selector, &publication.topic);
        let names = [origin.node.as_str(), origin.base_name.as_str()];
        selector.matches(topic) && selector.wants_node_of(names, &origin.host) && self.may_read(subscription, topic)
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

    /// The same of what that node publishes there.
    pub(super) fn wants_of(&self, subscription: &Subscription, topic: &Topic, publisher: NodeId) -> bool {
        let selector = &subscription.selector;
        selector.matches(topic) && self.wants_node(selector, publisher) && self.may_read(subscription, topic)
    }

    /// Whether its node may read a topic that a subscription means; what was subscribed as a plain topic it may.
    pub(super) fn may_read(&self, subscription: &Subscription, topic: &Topic) -> bool {
        let selector = &subscription.selector;
        if selector.as_topic().is_some() {
            return true;
        }
        let Some(session) = self.nodes.get(&subscription.node).and_then(|node| node.session) else { return false };
        match self.check_rights(session, Deed::Subscribe, topic) {
            Ok(()) => true,
            Err(denied) => {
                debug!(event = "not_linked", pattern = %selector, %topic, reason = denied.text);
                false
            }
        }
    }

    fn wants_node(&self, selector: &Selector, id: NodeId) -> bool {
        let Some(node) = self.nodes.get(&id) else { return false };
        selector.wants_node([node.name.as_str(), node.base_name.as_str()], &self.settings.host)
    }
}
