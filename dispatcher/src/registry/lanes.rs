//! Direct publications and their lanes.
//!
//! A direct publication has no log. Each subscription that wants it gets a *lane*: a publication of its own, linked with that
//! subscription alone, which the publisher makes when it hears `LaneWanted`. So all that is known of publications and links
//! (hand-back, deaths, quotas, the board) holds for lanes. What a subscription that is gone had not handled, the publisher may
//! pass on to another one (`PassLane`): the lane is linked with that one then.

use std::collections::BTreeSet;

use nodeset_bus::message::Schema;
use nodeset_bus::protocol::{
    About, AdvertiseDirect, Expected, Health, LaneOf, LaneWanted, LinkId, Mismatch, NodeId, PublicationId, RefusalCode,
    SubscriptionId, ToNode,
};
use nodeset_bus::topic::{Selector, Topic};
use tracing::info;

use crate::policy::Deed;

use super::quota::Item;
use super::topics::{full, shorten};
use super::{Failure, Registry, SessionId};

/// A direct publication.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) node: NodeId,
    pub(super) topic: Topic,
    schema: Schema,
    /// Its node named it since it came back.
    pub(super) confirmed: bool,
    /// Subscriptions whose lanes could not be made.
    given_up: BTreeSet<SubscriptionId>,
}

impl Direct {
    #[cfg(test)]
    pub(super) fn given_up(&self) -> &BTreeSet<SubscriptionId> {
        &self.given_up
    }

    /// That subscription is gone.
    pub(super) fn forget(&mut self, subscription: SubscriptionId) {
        self.given_up.remove(&subscription);
    }
}

/// The first log of a lane has this epoch, and there is no other one.
const LANE_EPOCH: u64 = 1;

impl Registry {
    pub(super) fn advertise_direct(&mut self, session: SessionId, node: NodeId, asked: AdvertiseDirect) {
        let id = asked.publication;
        if let Err(Failure { code, text }) = self.add_direct(session, node, asked) {
            self.refuse(session, About::Publication(id), code, text);
            return;
        }
        let mut expected = Vec::new();
        let mut mismatched = Vec::new();
        for subscription in self.subscriptions_of(&self.directs[&id].topic) {
            match self.want_lane(id, subscription) {
                Wanted::Lane(_) => expected.push(self.expected_by_publisher(id, subscription)),
                Wanted::Differ { at_publisher, at_subscriber } => {
                    let subscriber = self.subscriptions[&subscription].node;
                    self.differ((node, at_publisher), (subscriber, at_subscriber), &mut mismatched);
                }
                Wanted::No => {}
            }
        }
        self.answer(node, expected, mismatched, |expected, mismatched| ToNode::Advertised {
            publication: id,
            expected,
            mismatched,
        });
    }

    fn add_direct(&mut self, session: SessionId, node: NodeId, asked: AdvertiseDirect) -> Result<(), Failure> {
        let AdvertiseDirect { publication: id, topic, schema } = asked;
        if self.publications.contains_key(&id) {
            return Err(Failure::new(RefusalCode::Protocol, "a publication has that id: draw a new one"));
        }
        if let Some(known) = self.directs.get_mut(&id) {
            if (known.node, known.topic.as_str(), &known.schema) != (node, &topic[..], &schema) {
                let text = "that publication exists with another node, topic or type: draw a new id";
                return Err(Failure::new(RefusalCode::Protocol, text));
            }
            known.confirmed = true;
            return Ok(());
        }
        let invalid = |text: String| Failure::new(RefusalCode::Invalid, text);
        let topic = Topic::new(&topic).map_err(|error| invalid(error.to_string()))?;
        schema.check().map_err(|error| invalid(error.to_string()))?;
        self.check_rights(session, Deed::Publish, &topic)?;
        let limit = self.settings.limits.publications;
        if self.directs.len() >= limit {
            return Err(full("direct publications", limit, "--max-publications"));
        }
        self.check_topics(topic.as_str())?;
        let uid = self.uid_of(node);
        let item = Item::Direct { topic: topic.as_str() };
        self.accounts.check(uid, item)?;
        self.accounts.add(uid, item);
        info!(event = "advertised_direct", publication = %id, node = self.name_of(node), %topic, schema = schema.name());
        self.topics.entry(topic.as_str().to_owned()).or_default().directs.insert(id);
        if let Some(node) = self.nodes.get_mut(&node) {
            node.directs.insert(id);
        }
        self.directs.insert(id, Direct { node, topic, schema, confirmed: true, given_up: BTreeSet::new() });
        Ok(())
    }

    /// Takes a direct publication out of the table; its lanes are withdrawn by themselves.
    pub(super) fn drop_direct(&mut self, id: PublicationId) {
        let Some(direct) = self.directs.remove(&id) else { return };
        self.accounts.remove(self.uid_of(direct.node), Item::Direct { topic: direct.topic.as_str() });
        if let Some(node) = self.nodes.get_mut(&direct.node) {
            node.directs.remove(&id);
        }
        self.leave_topic(direct.topic.as_str(), |ends| ends.directs.remove(&id));
    }

    /// The direct publications on topics that are meant.
    pub(super) fn directs_on(&self, selector: &Selector) -> Vec<PublicationId> {
        let meant = self.topics_on(selector).flat_map(|ends| &ends.directs);
        meant.copied().filter(|id| self.directs.get(id).is_some_and(|it| selector.matches(&it.topic))).collect()
    }

    /// Has a lane made between a direct publication and a subscription, if that wants it and has none.
    pub(super) fn want_lane(&mut self, direct_id: PublicationId, subscription_id: SubscriptionId) -> Wanted {
        let (Some(direct), Some(subscription)) =
            (self.directs.get(&direct_id), self.subscriptions.get(&subscription_id))
        else {
            return Wanted::No;
        };
        let takes = subscription.weight > 0 && self.means_of(subscription, &direct.topic, direct.node);
        if !takes || direct.given_up.contains(&subscription_id) {
            return Wanted::No;
        }
        if !self.may_read(subscription, &direct.topic) {
            if let (true, Err(denied)) = (self.answers(subscription.node), self.check_read(subscription, &direct.topic))
            {
                let topic = direct.topic.clone();
                self.deny(subscription_id, &topic, denied);
            }
            return Wanted::No;
        }
        let (publisher, subscriber, weight) = (direct.node, subscription.node, subscription.weight);
        if let Some(wanted) = subscription.schema.as_ref().filter(|it| !it.matches(&direct.schema)) {
            let mismatch = |node, difference: Option<String>| {
                let mut difference = difference.unwrap_or_default();
                shorten(&mut difference);
                let topic = direct.topic.to_string();
                let (publication, subscription) = (direct_id, subscription_id);
                Mismatch { publication, subscription, topic, node: self.name_of(node), difference }
            };
            return Wanted::Differ {
                at_publisher: mismatch(subscriber, direct.schema.difference(wanted)),
                at_subscriber: mismatch(publisher, wanted.difference(&direct.schema)),
            };
        }
        let lane = direct_id.lane_to(subscription_id);
        if !self.publications.contains_key(&lane) {
            let node = self.name_of(subscriber);
            let wanted = LaneWanted { publication: direct_id, subscription: subscription_id, node, weight };
            self.send(publisher, ToNode::LaneWanted(wanted), Vec::new());
        }
        Wanted::Lane(LinkId { publication: lane, epoch: LANE_EPOCH, subscription: subscription_id })
    }

    /// The same, outside an answer to either.
    pub(super) fn want_lane_late(&mut self, direct: PublicationId, subscription: SubscriptionId) {
        if let Wanted::Differ { at_publisher, at_subscriber } = self.want_lane(direct, subscription) {
            let (publisher, subscriber) = (self.directs[&direct].node, self.subscriptions[&subscription].node);
            self.send(publisher, ToNode::Mismatch(at_publisher), Vec::new());
            self.send(subscriber, ToNode::Mismatch(at_subscriber), Vec::new());
        }
    }

    /// What a new subscription shall wait for: the lanes of direct publications.
    pub(super) fn want_lanes(
        &mut self,
        subscription: SubscriptionId,
        selector: &Selector,
        expected: &mut Vec<Expected>,
        mismatched: &mut Vec<Mismatch>,
    ) {
        for direct in self.directs_on(selector) {
            let publisher = self.directs[&direct].node;
            match self.want_lane(direct, subscription) {
                Wanted::Lane(link) => {
                    expected.push(Expected { link, node: self.name_of(publisher), late: self.is_late(publisher) })
                }
                Wanted::Differ { at_publisher, at_subscriber } => {
                    let subscriber = self.subscriptions[&subscription].node;
                    self.differ((subscriber, at_subscriber), (publisher, at_publisher), mismatched);
                }
                Wanted::No => {}
            }
        }
    }

    pub(super) fn is_lane(&self, id: PublicationId) -> bool {
        self.publications.get(&id).is_some_and(|it| it.lane.is_some())
    }

    /// Whether a lane is what its publisher may make.
    pub(super) fn check_lane(&self, node: NodeId, lane: LaneOf) -> Result<(), Failure> {
        // A direct publication that was not handed back yet is the node's own, or nobody's.
        if self.directs.get(&lane.direct).is_none_or(|it| it.node == node) {
            return Ok(());
        }
        Err(Failure::new(RefusalCode::Denied, "a lane belongs to a direct publication of the same node"))
    }

    fn expected_by_publisher(&self, direct: PublicationId, subscription: SubscriptionId) -> Expected {
        let link = LinkId { publication: direct.lane_to(subscription), epoch: LANE_EPOCH, subscription };
        let subscriber = self.subscriptions[&subscription].node;
        Expected { link, node: self.name_of(subscriber), late: self.is_late(subscriber) }
    }

    fn is_late(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|it| it.health != Health::Alive)
    }

    /// A lane cannot be made: its subscription does not wait for it any more.
    pub(super) fn lane_refused(&mut self, lane: LaneOf) {
        let Some(subscriber) = self.subscriptions.get(&lane.to).map(|it| it.node) else { return };
        if let Some(direct) = self.directs.get_mut(&lane.direct) {
            direct.given_up.insert(lane.to);
        }
        let link = LinkId { publication: lane.direct.lane_to(lane.to), epoch: LANE_EPOCH, subscription: lane.to };
        let text = "the publisher could not make a lane to this subscription; its own log says why";
        let refused = ToNode::Refused { about: About::Link(link), code: RefusalCode::Limit, text: text.to_owned() };
        self.send(subscriber, refused, Vec::new());
    }

    /// A lane is withdrawn by its publisher: if the subscription that gave it its name is there still, it gets another one.
    pub(super) fn lane_withdrawn(&mut self, id: PublicationId, lane: LaneOf) {
        let named_for = self.directs.get(&lane.direct).map(|direct| self.subscriptions_of(&direct.topic));
        let named_for = named_for.into_iter().flatten().find(|&it| lane.direct.lane_to(it) == id);
        if let Some(subscription) = named_for {
            self.want_lane_late(lane.direct, subscription);
        }
    }

    /// What the reader of a lane left is for another one.
    pub(super) fn pass_lane(&mut self, node: NodeId, id: PublicationId, to: SubscriptionId, first: u64) {
        let Some(publication) = self.publications.get_mut(&id).filter(|it| it.node == node) else { return };
        let Some(lane) = &mut publication.lane else { return };
        (lane.to, lane.first) = (to, first);
        publication.given_up.remove(&to);
        self.join_late(id, to);
    }

    pub(super) fn forgive_lanes(&mut self, node: NodeId) {
        let Some(node) = self.nodes.get(&node) else { return };
        for direct in &node.directs {
            if let Some(direct) = self.directs.get_mut(direct) {
                direct.given_up.clear();
            }
        }
        for subscription in &node.subscriptions {
            self.directs.values_mut().for_each(|direct| {
                direct.given_up.remove(subscription);
            });
        }
    }

    /// Brings together all that a node has with all that wants it.
    pub(super) fn want_all_lanes(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let mut pairs = Vec::new();
        for direct in &node.directs {
            let subscriptions = self.subscriptions_of(&self.directs[direct].topic);
            pairs.extend(subscriptions.into_iter().map(|subscription| (*direct, subscription)));
        }
        for subscription in &node.subscriptions {
            let directs = self.directs_on(&self.subscriptions[subscription].selector);
            let others = directs.into_iter().filter(|it| self.directs[it].node != id);
            pairs.extend(others.map(|direct| (direct, *subscription)));
        }
        for (direct, subscription) in pairs {
            self.want_lane_late(direct, subscription);
        }
    }
}

/// What came of bringing a direct publication and a subscription together.
pub(super) enum Wanted {
    /// There is, or will be, a lane, with that link.
    Lane(LinkId),
    /// They do not speak of the same type.
    Differ {
        /// For the publisher.
        at_publisher: Mismatch,
        /// For the subscriber.
        at_subscriber: Mismatch,
    },
    /// It does not want it, or there can be none.
    No,
}
