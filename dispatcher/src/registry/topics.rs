//! Publications and subscriptions, and how their ends find each other.

use std::collections::BTreeSet;

use nodeset_bus::log;
use nodeset_bus::message::Schema;
use nodeset_bus::protocol::{
    About, Advertise, EndReason, Expected, Health, LaneOf, LinkId, LogShape, Mismatch, NodeId, Origin, PublicationId,
    RefusalCode, Subscribe, SubscriptionId, ToNode,
};
use nodeset_bus::topic::{Selector, Topic};
use tracing::{debug, info};

use crate::policy::Deed;

use super::pairing::Joined;
use super::quota::Item;
use super::{Action, Failure, Handle, Kind, Registry, SessionId};

/// How far a publication has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Its log is being made.
    Making,
    /// Its node has the log.
    Granted,
    /// Its log is being checked.
    Checking,
    /// It exists for others.
    Live,
}

/// A publication.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) node: NodeId,
    pub(super) topic: Topic,
    pub(super) schema: Schema,
    pub(super) epoch: u64,
    pub(super) shape: LogShape,
    pub(super) slot: u32,
    /// It is one.
    pub(super) lane: Option<LaneOf>,
    /// What it repeats, when that is a publication of another host.
    pub(super) origin: Option<Origin>,
    pub(super) progress: Progress,
    /// Its node named it since it came back.
    pub(super) confirmed: bool,
    /// It was brought by a node that was attached elsewhere before.
    pub(super) brought: bool,
    pub(super) links: BTreeSet<LinkId>,
    /// Subscriptions with which no link is tried again.
    pub(super) given_up: BTreeSet<SubscriptionId>,
}

impl Publication {
    pub(super) fn is_live(&self) -> bool {
        self.progress == Progress::Live
    }
}

/// A subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) node: NodeId,
    /// What it wants; see `wanting`.
    pub(super) selector: Selector,
    /// `None` reads anything.
    pub(super) schema: Option<Schema>,
    pub(super) reliable: bool,
    /// Its share of what direct publishers send.
    pub(super) weight: u16,
    /// Milliseconds for which publishers of other hosts wait for it.
    pub(super) across_ms: Option<u32>,
    /// Its node named it since it came back.
    pub(super) confirmed: bool,
    /// It was brought by a node that was attached elsewhere before.
    pub(super) brought: bool,
    pub(super) links: BTreeSet<LinkId>,
}

/// Both sides of a topic; subscriptions of patterns stand elsewhere (`wanting`).
#[derive(Debug, Default)]
pub(super) struct TopicEnds {
    pub(super) publications: BTreeSet<PublicationId>,
    pub(super) directs: BTreeSet<PublicationId>,
    pub(super) subscriptions: BTreeSet<SubscriptionId>,
}

/// bytes; what the lists of one answer may have, so that its record does not get too long
const ANSWER_ROOM: usize = 40 * 1024;
/// bytes; what is told of a difference
const DIFFERENCE_ROOM: usize = 2 * 1024;

impl Registry {
    pub(super) fn advertise(&mut self, session: SessionId, node: NodeId, asked: Advertise, descriptors: usize) {
        let id = asked.publication;
        if self.publications.contains_key(&id) {
            self.advertise_again(session, node, asked, descriptors);
            return;
        }
        let lane = asked.lane;
        let publication = match self.new_publication(session, node, asked, descriptors) {
            Ok(publication) => publication,
            Err(Failure { code, text }) => {
                self.refuse(session, About::Publication(id), code, text);
                lane.into_iter().for_each(|lane| self.lane_refused(lane));
                return;
            }
        };
        let (handle, kind) = (Handle::LogOf(id), Kind::Log(publication.shape));
        self.topics.entry(publication.topic.to_string()).or_default().publications.insert(id);
        if let Some(node) = self.nodes.get_mut(&node) {
            node.publications.insert(id);
        }
        let brought = publication.brought;
        let item = Item::Publication { topic: publication.topic.as_str(), shape: publication.shape };
        self.accounts.add(self.uid_of(node), item);
        self.publications.insert(id, publication);
        self.actions.push_back(if brought {
            Action::Adopt { session, descriptor: 0, handle, kind }
        } else {
            Action::Create { handle, kind }
        });
    }

    /// Checks what is asked for and takes a slot.
    fn new_publication(
        &mut self,
        session: SessionId,
        id: NodeId,
        asked: Advertise,
        descriptors: usize,
    ) -> Result<Publication, Failure> {
        let limits = self.settings.limits;
        let invalid = |text: String| Failure::new(RefusalCode::Invalid, text);
        let topic = Topic::new(&asked.topic).map_err(|error| invalid(error.to_string()))?;
        asked.schema.check().map_err(|error| invalid(error.to_string()))?;
        if let Some(lane) = asked.lane {
            self.check_lane(id, lane)?;
        }
        if let Some(origin) = &asked.origin {
            self.check_origin(session, origin)?;
        }
        self.check_rights(session, Deed::Publish, &topic)?;
        if self.publications.len() >= limits.publications {
            return Err(full("publications", limits.publications, "--max-publications"));
        }
        self.check_topics(&asked.topic)?;
        let uid = self.uid_of(id);
        let mut shape = asked.shape;
        if shape.blocks == 0 {
            let smallest = LogShape { blocks: log::MIN_BLOCKS, ..shape };
            log::check(smallest).map_err(|error| invalid(error.to_string()))?;
            shape = log::shape_within(shape.block_len, self.accounts.log_share(uid));
        }
        log::check(shape).map_err(|error| invalid(error.to_string()))?;
        let wanted = u64::from(shape.block_len) * u64::from(shape.blocks);
        if wanted > limits.log_bytes {
            let text = format!(
                "a log of {wanted} bytes ({} blocks of {}); this dispatcher allows {} bytes (a quarter of the memory, or \
                 its --max-log-bytes): ask for fewer or smaller blocks",
                shape.blocks, shape.block_len, limits.log_bytes
            );
            return Err(Failure::new(RefusalCode::Limit, text));
        }
        self.accounts.check(uid, Item::Publication { topic: &asked.topic, shape })?;
        let Some(node) = self.nodes.get_mut(&id) else {
            return Err(Failure::new(RefusalCode::Protocol, "the node is not there"));
        };
        let brought = node.handing_back && descriptors > 0;
        let slot = match asked.slot {
            Some(slot) if brought => {
                if !node.slots.reserve(slot) {
                    let text = format!("slot {slot} is another publication's, or does not exist");
                    return Err(Failure::new(RefusalCode::Damaged, text));
                }
                slot
            }
            None if !brought => node.slots.take().ok_or_else(|| {
                let text =
                    "this node has a publication for each word of its signal pages: end some, or use another node";
                Failure::new(RefusalCode::Limit, text)
            })?,
            _ => {
                let text = "a publication has its log and its slot with it when handed back, and neither when new";
                return Err(Failure::new(RefusalCode::Protocol, text));
            }
        };
        Ok(Publication {
            node: id,
            topic,
            schema: asked.schema,
            epoch: asked.epoch,
            shape,
            slot,
            lane: asked.lane,
            origin: asked.origin,
            progress: if brought { Progress::Checking } else { Progress::Making },
            confirmed: true,
            brought,
            links: BTreeSet::new(),
            given_up: BTreeSet::new(),
        })
    }

    /// A publication that is there already: answered as the first time.
    fn advertise_again(&mut self, session: SessionId, node: NodeId, asked: Advertise, descriptors: usize) {
        let id = asked.publication;
        let about = About::Publication(id);
        let Some(known) = self.publications.get_mut(&id) else { return };
        if known.node != node {
            self.refuse(session, about, RefusalCode::Denied, "that publication is another node's: draw a new id");
            return;
        }
        if (known.epoch, known.topic.as_str(), &known.schema) != (asked.epoch, &asked.topic[..], &asked.schema) {
            let text = "that publication exists with another epoch, topic or type: draw a new id";
            self.refuse(session, about, RefusalCode::Protocol, text);
            return;
        }
        if descriptors > 0 && (asked.slot, asked.shape) != (Some(known.slot), known.shape) {
            let text = "that publication exists with another slot or shape: draw a new id";
            self.refuse(session, about, RefusalCode::Damaged, text);
            return;
        }
        known.confirmed = true;
        match known.progress {
            Progress::Making | Progress::Checking => {}
            Progress::Granted => self.grant(id),
            Progress::Live => {
                let pending = self.pending(&self.publications[&id].links, |link| link.subscriber);
                self.answer(node, pending, Vec::new(), |expected, mismatched| ToNode::Advertised {
                    publication: id,
                    expected,
                    mismatched,
                });
            }
        }
    }

    pub(super) fn log_ready(&mut self, session: SessionId, node: NodeId, id: PublicationId) {
        match self.publications.get_mut(&id).filter(|it| it.node == node) {
            Some(publication) if publication.progress == Progress::Granted => {
                publication.progress = Progress::Checking;
                let kind = Kind::Log(publication.shape);
                self.actions.push_back(Action::Check { handle: Handle::LogOf(id), kind });
            }
            // It was said before; the answer is on its way or was given.
            Some(_) => {}
            None => {
                let text = "there is no such publication: advertise it first";
                self.refuse(session, About::Publication(id), RefusalCode::Protocol, text);
            }
        }
    }

    /// The log was made, adopted or checked.
    pub(super) fn on_log(&mut self, id: PublicationId, result: Result<(), Failure>) {
        let Some(publication) = self.publications.get_mut(&id) else {
            self.actions.push_back(Action::Forget { handle: Handle::LogOf(id) });
            return;
        };
        let session = self.nodes.get(&publication.node).and_then(|node| node.session);
        match (publication.progress, result) {
            (_, Err(Failure { code, text })) => {
                let lane = publication.lane;
                self.drop_publication(id, EndReason::Withdrawn);
                lane.into_iter().for_each(|lane| self.lane_refused(lane));
                if let Some(session) = session {
                    self.refuse(session, About::Publication(id), code, text);
                }
            }
            (Progress::Making, Ok(())) => {
                publication.progress = Progress::Granted;
                self.grant(id);
            }
            (Progress::Checking, Ok(())) => {
                publication.progress = Progress::Live;
                self.go_live(id);
            }
            (Progress::Granted | Progress::Live, Ok(())) => {}
        }
    }

    fn grant(&mut self, id: PublicationId) {
        let Some(it) = self.publications.get(&id) else { return };
        let (node, shape, slot) = (it.node, it.shape, it.slot);
        self.send(node, ToNode::LogGranted { publication: id, shape, slot }, vec![Handle::LogOf(id)]);
    }

    /// The publication exists now: links it with those who wait for it.
    fn go_live(&mut self, id: PublicationId) {
        let Some(publication) = self.publications.get(&id) else { return };
        let (node, topic) = (publication.node, publication.topic.clone());
        info!(event = "advertised", publication = %id, node = self.name_of(node), %topic, schema = publication.schema.name());
        let candidates = match publication.lane {
            Some(lane) => vec![lane.to],
            None => self.subscriptions_of(&topic),
        };
        let mut made = Vec::new();
        let mut mismatched = Vec::new();
        for subscription in candidates {
            match self.join(id, subscription) {
                Joined::Made(link) => made.push(link),
                Joined::Differ { at_publisher, at_subscriber } => {
                    let other = self.subscriptions[&subscription].node;
                    self.differ((node, at_publisher), (other, at_subscriber), &mut mismatched);
                }
                Joined::No => {}
            }
        }
        let expected = self.pending(&made.iter().copied().collect(), |link| link.subscriber);
        self.answer(node, expected, mismatched, |expected, mismatched| ToNode::Advertised {
            publication: id,
            expected,
            mismatched,
        });
        for link in made {
            self.settle(link);
        }
        self.tell_published(id);
    }

    pub(super) fn subscribe(&mut self, session: SessionId, node: NodeId, asked: Subscribe) {
        let id = asked.subscription;
        if let Some(known) = self.subscriptions.get_mut(&id) {
            let same = known.node == node
                && known.selector.to_string() == asked.topic
                && (&known.schema, known.reliable, known.weight) == (&asked.schema, asked.reliable, asked.weight)
                && known.across_ms == asked.across_ms;
            if !same {
                let text = "that subscription exists with another node, topic, type, kind or weight: draw a new id";
                self.refuse(session, About::Subscription(id), RefusalCode::Protocol, text);
                return;
            }
            known.confirmed = true;
            let pending = self.pending(&self.subscriptions[&id].links, |link| link.publisher);
            self.answer_subscribed(node, id, pending, Vec::new());
            return;
        }
        let selector = match self.check_subscribe(session, node, &asked) {
            Ok(selector) => selector,
            Err(Failure { code, text }) => {
                self.refuse(session, About::Subscription(id), code, text);
                return;
            }
        };
        info!(
            event = "subscribed",
            subscription = %id,
            node = self.name_of(node),
            topic = asked.topic,
            reliable = asked.reliable
        );
        self.accounts.add(self.uid_of(node), Item::Subscription { topic: &asked.topic });
        let brought = self.nodes.get(&node).is_some_and(|it| it.handing_back);
        self.want(id, &selector);
        let candidates = self.publications_on(&selector);
        if let Some(node) = self.nodes.get_mut(&node) {
            node.subscriptions.insert(id);
        }
        let Subscribe { schema, reliable, weight, across_ms, .. } = asked;
        let links = BTreeSet::new();
        self.subscriptions.insert(
            id,
            Subscription {
                node,
                selector: selector.clone(),
                schema,
                reliable,
                weight,
                across_ms,
                confirmed: true,
                brought,
                links,
            },
        );

        let mut made = Vec::new();
        let mut mismatched = Vec::new();
        for publication in candidates {
            match self.join(publication, id) {
                Joined::Made(link) => made.push(link),
                Joined::Differ { at_publisher, at_subscriber } => {
                    let other = self.publications[&publication].node;
                    self.differ((node, at_subscriber), (other, at_publisher), &mut mismatched);
                }
                Joined::No => {}
            }
        }
        let mut expected = self.pending(&made.iter().copied().collect(), |link| link.publisher);
        self.want_lanes(id, &selector, &mut expected, &mut mismatched);
        self.answer_subscribed(node, id, expected, mismatched);
        for link in made {
            self.settle(link);
        }
        self.tell_wanted(id);
    }

    fn check_subscribe(&self, session: SessionId, node: NodeId, asked: &Subscribe) -> Result<Selector, Failure> {
        let limits = &self.settings.limits;
        let invalid = |text: String| Failure::new(RefusalCode::Invalid, text);
        let selector = Selector::new(&asked.topic).map_err(|error| invalid(error.to_string()))?;
        if let Some(schema) = &asked.schema {
            schema.check().map_err(|error| invalid(error.to_string()))?;
        }
        let topic = selector.as_topic();
        if let Some(topic) = &topic {
            self.check_rights(session, Deed::Subscribe, topic)?;
        }
        if self.subscriptions.len() >= limits.subscriptions {
            return Err(full("subscriptions", limits.subscriptions, "--max-subscriptions"));
        }
        if let Some(topic) = &topic {
            self.check_topics(topic.as_str())?;
        }
        self.accounts.check(self.uid_of(node), Item::Subscription { topic: &asked.topic })?;
        Ok(selector)
    }

    /// The user of a node that is in the table.
    pub(super) fn uid_of(&self, node: NodeId) -> u32 {
        self.nodes.get(&node).map_or(u32::MAX, |node| node.identity.uid)
    }

    pub(super) fn check_topics(&self, topic: &str) -> Result<(), Failure> {
        let limit = self.settings.limits.topics;
        if self.topics.len() >= limit && !self.topics.contains_key(topic) {
            return Err(full("topics", limit, "--max-topics"));
        }
        Ok(())
    }

    /// Takes a publication out of the table; its links end for their subscribers.
    pub(super) fn drop_publication(&mut self, id: PublicationId, reason: EndReason) {
        let Some(publication) = self.publications.remove(&id) else { return };
        self.log_end("publication_ended", publication.node, publication.topic.as_str());
        let item = Item::Publication { topic: publication.topic.as_str(), shape: publication.shape };
        self.accounts.remove(self.uid_of(publication.node), item);
        if let Some(node) = self.nodes.get_mut(&publication.node) {
            node.publications.remove(&id);
            node.slots.release(publication.slot);
        }
        self.leave_topic(publication.topic.as_str(), |ends| ends.publications.remove(&id));
        self.actions.push_back(Action::Forget { handle: Handle::LogOf(id) });
        if publication.is_live() && publication.lane.is_none() {
            self.tell_withdrawn(id, publication.epoch);
        }
        for link in publication.links {
            self.end_publishing(link, reason);
        }
    }

    /// Takes a subscription out of the table; its links leave their publishers' lists.
    pub(super) fn drop_subscription(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.remove(&id) else { return };
        let topic = subscription.selector.to_string();
        self.log_end("subscription_ended", subscription.node, &topic);
        let item = Item::Subscription { topic: &topic };
        self.accounts.remove(self.uid_of(subscription.node), item);
        if let Some(node) = self.nodes.get_mut(&subscription.node) {
            node.subscriptions.remove(&id);
        }
        for publication in self.publications_on(&subscription.selector) {
            if let Some(publication) = self.publications.get_mut(&publication) {
                publication.given_up.remove(&id);
            }
        }
        self.directs.values_mut().for_each(|direct| direct.forget(id));
        self.want_no_more(id, &subscription.selector);
        self.tell_unwanted(id);
        for link in subscription.links {
            self.end_reading(link);
        }
    }

    /// The end of a node is one line, not one for each of the things that it had.
    fn log_end(&self, event: &'static str, id: NodeId, topic: &str) {
        match self.nodes.get(&id) {
            Some(node) if node.ending.is_none() => info!(event, node = node.name, topic),
            _ => debug!(event, node = %id, topic),
        }
    }

    pub(super) fn leave_topic(&mut self, topic: &str, leave: impl FnOnce(&mut TopicEnds) -> bool) {
        let Some(ends) = self.topics.get_mut(topic) else { return };
        leave(ends);
        if ends.publications.is_empty() && ends.directs.is_empty() && ends.subscriptions.is_empty() {
            self.topics.remove(topic);
        }
    }

    fn answer_subscribed(
        &mut self,
        node: NodeId,
        subscription: SubscriptionId,
        expected: Vec<Expected>,
        mismatched: Vec<Mismatch>,
    ) {
        self.answer(node, expected, mismatched, |expected, mismatched| ToNode::Subscribed {
            subscription,
            expected,
            mismatched,
        });
    }

    /// Answers with both lists; with several answers, which add up, when they do not fit into one record.
    pub(super) fn answer(
        &mut self,
        node: NodeId,
        expected: Vec<Expected>,
        mismatched: Vec<Mismatch>,
        answer: impl Fn(Vec<Expected>, Vec<Mismatch>) -> ToNode,
    ) {
        let mut parts = Vec::new();
        let (mut some_expected, mut some_mismatched, mut room) = (Vec::new(), Vec::new(), ANSWER_ROOM);
        for one in expected {
            let len = size_of::<Expected>() + one.node.len();
            if len > room {
                parts.push(answer(std::mem::take(&mut some_expected), Vec::new()));
                room = ANSWER_ROOM;
            }
            room -= len;
            some_expected.push(one);
        }
        for mut one in mismatched {
            shorten(&mut one.difference);
            let len = size_of::<Mismatch>() + one.node.len() + one.topic.len() + one.difference.len();
            if len > room {
                parts.push(answer(std::mem::take(&mut some_expected), std::mem::take(&mut some_mismatched)));
                room = ANSWER_ROOM;
            }
            room -= len;
            some_mismatched.push(one);
        }
        parts.push(answer(some_expected, some_mismatched));
        for part in parts {
            self.send(node, part, Vec::new());
        }
    }

    /// Those of the links that are still being made, with the name of the node at the other end.
    fn pending(&self, links: &BTreeSet<LinkId>, other: impl Fn(&super::link::Link) -> NodeId) -> Vec<Expected> {
        let pending = links.iter().filter_map(|id| self.links.get(id).filter(|it| it.is_pending()).map(|it| (id, it)));
        let pending = pending.map(|(&link, it)| (link, other(it)));
        let late = |node: NodeId| self.nodes.get(&node).is_some_and(|it| it.health != Health::Alive);
        pending.map(|(link, node)| Expected { link, node: self.name_of(node), late: late(node) }).collect()
    }
}

pub(super) fn full(what: &str, limit: usize, option: &str) -> Failure {
    let text = format!("this dispatcher takes {limit} {what}: end some, or start it with a higher {option}");
    Failure::new(RefusalCode::Limit, text)
}

/// Shortens what is told of a difference, so that it fits into a record with the rest.
pub(super) fn shorten(text: &mut String) {
    if text.len() > DIFFERENCE_ROOM {
        let end = (0..=DIFFERENCE_ROOM).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" ...");
    }
}
