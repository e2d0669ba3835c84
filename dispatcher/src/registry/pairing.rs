//! Links from their making to their end.

use nodeset_bus::protocol::{
    About, EndReason, EnterLink, LinkId, ListLink, Mismatch, NodeId, Peer, PublicationId, RefusalCode, SubscriptionId,
    ToNode,
};
use tracing::{debug, warn};

use super::link::{Link, PublisherEnd, SubscriberEnd};
use super::node::Shared;
use super::topics::shorten;
use super::{Action, Failure, Handle, Kind, Registry};

/// What came of bringing a publication and a subscription together that may want it.
#[derive(Debug)]
pub(super) enum Joined {
    /// A new link; [`Registry::settle`] takes its first step.
    Made(LinkId),
    /// They do not speak of the same type.
    Differ {
        /// For the publisher.
        at_publisher: Mismatch,
        /// For the subscriber.
        at_subscriber: Mismatch,
    },
    /// Not now: there is a link, or one of them does not answer, or it was given up, or is denied.
    No,
}

impl Registry {
    /// Brings a publication and a subscription that wants it together, once both answer.
    pub(super) fn join(&mut self, publication_id: PublicationId, subscription_id: SubscriptionId) -> Joined {
        let (Some(publication), Some(subscription)) =
            (self.publications.get(&publication_id), self.subscriptions.get(&subscription_id))
        else {
            return Joined::No;
        };
        let id = LinkId { publication: publication_id, epoch: publication.epoch, subscription: subscription_id };
        let (publisher, subscriber) = (publication.node, subscription.node);
        let reliable = subscription.reliable || publication.lane.is_some();
        if !publication.is_live()
            || publication.lane.is_some_and(|lane| lane.to != subscription_id)
            || !self.means(subscription, publication)
            || publication.given_up.contains(&subscription_id)
            || self.links.contains_key(&id)
            || !self.answers(publisher)
            || !self.answers(subscriber)
        {
            return Joined::No;
        }
        if let Err(denied) = self.check_read(subscription, &publication.topic) {
            let topic = publication.topic.clone();
            self.deny(subscription_id, &topic, denied);
            return Joined::No;
        }
        if let Some(wanted) = subscription.schema.as_ref().filter(|it| !it.matches(&publication.schema)) {
            let mismatch = |node, difference: Option<String>| {
                let mut difference = difference.unwrap_or_default();
                shorten(&mut difference);
                Mismatch {
                    publication: publication_id,
                    subscription: subscription_id,
                    topic: publication.topic.to_string(),
                    node: self.name_of(node),
                    difference,
                }
            };
            return Joined::Differ {
                at_publisher: mismatch(subscriber, publication.schema.difference(wanted)),
                at_subscriber: mismatch(publisher, wanted.difference(&publication.schema)),
            };
        }
        let limit = self.settings.limits.links;
        if self.links.len() >= limit {
            let text = format!("this dispatcher takes {limit} links: end some, or start it with a higher --max-links");
            self.give_up(id, publisher, subscriber, Failure::new(RefusalCode::Limit, text));
            return Joined::No;
        }
        let Some((line, tag)) = self.nodes.get_mut(&subscriber).and_then(|node| node.lines.take()) else {
            let text = "the subscriber's node page has a link in each of its lines: use another node for some";
            self.give_up(id, publisher, subscriber, Failure::new(RefusalCode::Limit, text));
            return Joined::No;
        };
        self.add_link(
            id,
            Link {
                publisher,
                subscriber,
                line,
                tag,
                line_taken: true,
                reliable,
                demoted: false,
                ever_demoted: false,
                announced: false,
                publishing: PublisherEnd::Waiting,
                reading: SubscriberEnd::Waiting,
            },
        );
        Joined::Made(id)
    }

    /// Brings two ends together that did not meet before, outside an answer to either.
    pub(super) fn join_late(&mut self, publication: PublicationId, subscription: SubscriptionId) {
        match self.join(publication, subscription) {
            Joined::Made(link) => self.settle(link),
            Joined::Differ { at_publisher, at_subscriber } => {
                let (one, other) = (&self.publications[&publication], &self.subscriptions[&subscription]);
                // Two that were handed back had met at an earlier dispatcher.
                if !(one.brought && other.brought) {
                    let (publisher, subscriber) = (one.node, other.node);
                    self.send(publisher, ToNode::Mismatch(at_publisher), Vec::new());
                    self.send(subscriber, ToNode::Mismatch(at_subscriber), Vec::new());
                }
            }
            Joined::No => {}
        }
    }

    pub(super) fn add_link(&mut self, id: LinkId, link: Link) {
        if let Some(publication) = self.publications.get_mut(&id.publication) {
            publication.links.insert(id);
        }
        if let Some(subscription) = self.subscriptions.get_mut(&id.subscription) {
            subscription.links.insert(id);
        }
        *self.shared.entry(pair(link.publisher, link.subscriber)).or_default() += 1;
        self.links.insert(id, link);
    }

    /// Takes the next step of making a link, as far as it can be taken now. Called whenever something changed that a step
    /// may have waited for; does nothing otherwise.
    pub(super) fn settle(&mut self, id: LinkId) {
        let Some(&link) = self.links.get(&id) else { return };
        let Link { publisher, subscriber, .. } = link;
        match (link.publishing, link.reading) {
            (PublisherEnd::Gone, SubscriberEnd::Gone) => self.erase(id),
            (PublisherEnd::Waiting, SubscriberEnd::Waiting | SubscriberEnd::Asked | SubscriberEnd::Entered)
                if self.answers(publisher) && self.answers(subscriber) && self.have_shared(&link) =>
            {
                self.tell_own(publisher);
                self.introduce(publisher, subscriber, false);
                self.change(id, |link| link.publishing = PublisherEnd::Asked);
                let Link { line, tag, reliable, .. } = link;
                self.send(
                    publisher,
                    ToNode::ListLink(ListLink { link: id, subscriber, line, tag, reliable }),
                    Vec::new(),
                );
            }
            (PublisherEnd::Listed, SubscriberEnd::Waiting) if self.answers(subscriber) && self.have_shared(&link) => {
                self.tell_own(subscriber);
                self.introduce(subscriber, publisher, true);
                self.send_enter(id, &link);
            }
            (PublisherEnd::Listed, SubscriberEnd::Entered) if !link.announced && self.answers(publisher) => {
                debug!(event = "link_ready", ?id, line = link.line);
                self.change(id, |link| link.announced = true);
                self.send(publisher, ToNode::LinkReady { link: id }, Vec::new());
            }
            _ => {}
        }
    }

    pub(super) fn settle_all(&mut self, node: NodeId) {
        for link in self.links_of(node) {
            self.settle(link);
        }
    }

    fn send_enter(&mut self, id: LinkId, link: &Link) {
        let Some(publication) = self.publications.get(&id.publication) else { return };
        let enter = EnterLink {
            link: id,
            publisher: link.publisher,
            topic: publication.topic.to_string(),
            schema: publication.schema.clone(),
            shape: publication.shape,
            slot: publication.slot,
            line: link.line,
            tag: link.tag,
            reliable: link.reliable,
            lane: publication.lane.map(|lane| lane.first),
            origin: publication.origin.clone(),
        };
        self.change(id, |link| link.reading = SubscriberEnd::Asked);
        self.send(link.subscriber, ToNode::EnterLink(enter), vec![Handle::LogOf(id.publication)]);
    }

    pub(super) fn link_listed(&mut self, node: NodeId, id: LinkId) {
        match self.links.get_mut(&id) {
            Some(link) if link.publisher == node => {
                if link.publishing == PublisherEnd::Asked {
                    link.publishing = PublisherEnd::Listed;
                    self.settle(id);
                }
            }
            // What does not exist must not stay on anybody's list.
            _ => self.send(node, ToNode::RemoveLink { link: id, died: false }, Vec::new()),
        }
    }

    pub(super) fn link_entered(&mut self, node: NodeId, id: LinkId) {
        match self.links.get_mut(&id) {
            Some(link) if link.subscriber == node => {
                if link.reading == SubscriberEnd::Asked {
                    link.reading = SubscriberEnd::Entered;
                    self.settle(id);
                }
            }
            _ => self.send(node, ToNode::LinkEnded { link: id, reason: EndReason::Withdrawn }, Vec::new()),
        }
    }

    pub(super) fn link_removed(&mut self, node: NodeId, id: LinkId) {
        let Some(link) = self.links.get_mut(&id).filter(|it| it.publisher == node) else { return };
        match link.publishing {
            PublisherEnd::Removing => {
                link.publishing = PublisherEnd::Gone;
                self.settle(id);
            }
            // Unasked: the publisher saw the subscriber's process dead before we did.
            PublisherEnd::Asked | PublisherEnd::Listed => {
                self.never_again(id);
                self.end_publishing(id, EndReason::Withdrawn);
            }
            PublisherEnd::Unknown | PublisherEnd::Waiting | PublisherEnd::Gone => {}
        }
    }

    pub(super) fn link_left(&mut self, node: NodeId, id: LinkId, evicted: bool) {
        let Some(link) = self.links.get(&id).filter(|it| it.subscriber == node) else { return };
        match link.reading {
            SubscriberEnd::Asked | SubscriberEnd::Entered => {
                // A demoted reader leaves in order to be linked afresh; it may know of its publisher's doing before we do. Any other one could not read this log, and would
                // not be able to the next time.
                if !link.ever_demoted && !evicted {
                    if link.reading == SubscriberEnd::Asked {
                        warn!(event = "link_not_entered", ?id, subscriber = self.name_of(node));
                    }
                    self.never_again(id);
                }
                self.end_reading(id);
            }
            SubscriberEnd::Ending(_) => self.end_reading(id),
            SubscriberEnd::Unknown | SubscriberEnd::Waiting | SubscriberEnd::Gone => {}
        }
    }

    /// The publisher does not look at the link any more: withdrawn, or dead.
    pub(super) fn end_publishing(&mut self, id: LinkId, reason: EndReason) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.publishing = PublisherEnd::Gone;
        match link.reading {
            SubscriberEnd::Unknown | SubscriberEnd::Waiting => link.reading = SubscriberEnd::Gone,
            SubscriberEnd::Asked | SubscriberEnd::Entered => {
                link.reading = SubscriberEnd::Ending(reason);
                let subscriber = link.subscriber;
                self.tell_end(subscriber, ToNode::LinkEnded { link: id, reason });
            }
            SubscriberEnd::Ending(_) | SubscriberEnd::Gone => {}
        }
        self.halves.remove(&id);
        self.settle(id);
    }

    /// The subscriber does not write the line any more: it left, unsubscribed, or is dead.
    pub(super) fn end_reading(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.reading = SubscriberEnd::Gone;
        let subscriber = link.subscriber;
        match link.publishing {
            PublisherEnd::Unknown | PublisherEnd::Waiting => link.publishing = PublisherEnd::Gone,
            PublisherEnd::Asked | PublisherEnd::Listed => {
                link.publishing = PublisherEnd::Removing;
                let publisher = link.publisher;
                let died = self.nodes.get(&subscriber).is_some_and(|it| it.ending == Some(EndReason::Died));
                self.tell_end(publisher, ToNode::RemoveLink { link: id, died });
            }
            PublisherEnd::Removing | PublisherEnd::Gone => {}
        }
        self.halves.remove(&id);
        self.settle(id);
    }

    /// The subscriber's session is gone while its process may live: nobody waits for it, its pins stay.
    pub(super) fn demote(&mut self, id: LinkId) {
        let lane = self.is_lane(id.publication);
        let Some(link) = self.links.get_mut(&id) else { return };
        let heard = matches!(link.reading, SubscriberEnd::Asked | SubscriberEnd::Entered | SubscriberEnd::Unknown);
        let listed = matches!(link.publishing, PublisherEnd::Asked | PublisherEnd::Listed);
        // A lane holds nobody else back: what its reader has not handled is kept while its process lives.
        if link.demoted || !heard || !listed || lane {
            return;
        }
        link.demoted = true;
        link.ever_demoted = true;
        let publisher = link.publisher;
        self.tell_end(publisher, ToNode::Demote { link: id });
    }

    /// Tells one end of a link what became of it. A node that is handing back hears it after `HandedBack`, if it holds the link
    /// at all: its answer to what it hears twice, or about a link that it does not hold, would be taken for one about the
    /// link that comes next under the same name.
    pub(super) fn tell_end(&mut self, node: NodeId, message: ToNode) {
        if self.nodes.get(&node).is_some_and(|node| !node.handing_back) {
            self.send(node, message, Vec::new());
        }
    }

    /// Both ends are done with the link: its line may be used again, and a fresh link made if both still want one.
    fn erase(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else { return };
        self.halves.remove(&id);
        if let Some(publication) = self.publications.get_mut(&id.publication) {
            publication.links.remove(&id);
        }
        if self.is_lane(id.publication) {
            // Its publisher says whose the rest is.
            self.never_again(id);
        }
        if let Some(subscription) = self.subscriptions.get_mut(&id.subscription) {
            subscription.links.remove(&id);
        }
        if let Some(node) = self.nodes.get_mut(&link.subscriber).filter(|_| link.line_taken) {
            node.lines.release(link.line);
        }
        self.unshare(link.publisher, link.subscriber);
        self.join_late(id.publication, id.subscription);
    }

    fn unshare(&mut self, one: NodeId, other: NodeId) {
        let key = pair(one, other);
        let Some(count) = self.shared.get_mut(&key) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.shared.remove(&key);
        for (forgetful, forgotten) in [(one, other), (other, one)] {
            let known = self.nodes.get_mut(&forgetful).and_then(|node| node.introduced.remove(&forgotten));
            let ended = self.departed.get(&forgotten).copied();
            let died = ended.or_else(|| self.nodes.get(&forgotten)?.ending) == Some(EndReason::Died);
            if known.is_some_and(|known| known.peer || known.signal) {
                self.send(forgetful, ToNode::ForgetPeer { node: forgotten, died }, Vec::new());
            }
            if self.departed.contains_key(&forgotten) && !self.has_shared(forgotten) {
                self.departed.remove(&forgotten);
            }
        }
    }

    /// Whether any link names that node.
    pub(super) fn has_shared(&self, node: NodeId) -> bool {
        self.shared.keys().any(|&(one, other)| one == node || other == node)
    }

    /// Whether bells and signal page of a link exist; has them made if not, after which the link is settled again.
    pub(super) fn have_shared(&mut self, link: &Link) -> bool {
        let (Some(publisher), Some(subscriber)) = (self.nodes.get(&link.publisher), self.nodes.get(&link.subscriber))
        else {
            return false;
        };
        let (publisher_uid, subscriber_uid) = (publisher.identity.uid, subscriber.identity.uid);
        let mut all = true;
        for (node, uid, kind) in [
            (link.subscriber, publisher_uid, Kind::Bell),
            (link.publisher, subscriber_uid, Kind::Bell),
            (link.publisher, subscriber_uid, Kind::Signal),
        ] {
            let Some(owner) = self.nodes.get_mut(&node) else { return false };
            let (shelf, handle) = match kind {
                Kind::Signal => (&mut owner.signals, Handle::SignalOf(node, uid)),
                _ => (&mut owner.bells, Handle::BellOf(node, uid)),
            };
            match shelf.get(&uid) {
                Some(shared) => all &= shared.made,
                None => {
                    shelf.insert(uid, Shared::default());
                    self.actions.push_back(Action::Create { handle, kind });
                    all = false;
                }
            }
        }
        all
    }

    /// Something that links of that node need for peers of that user cannot be made: those links are given up.
    pub(super) fn lack(&mut self, id: NodeId, uid: u32, handle: Handle, failure: Failure) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match handle {
            Handle::SignalOf(..) => node.signals.remove(&uid),
            _ => node.bells.remove(&uid),
        };
        for link_id in self.links_of(id) {
            let Some(&link) = self.links.get(&link_id) else { continue };
            let other = if link.publisher == id { link.subscriber } else { link.publisher };
            let waits =
                matches!(link.publishing, PublisherEnd::Waiting) || matches!(link.reading, SubscriberEnd::Waiting);
            if waits && self.nodes.get(&other).is_some_and(|it| it.identity.uid == uid) {
                self.give_up(link_id, link.publisher, link.subscriber, failure.clone());
                if link.publishing == PublisherEnd::Waiting {
                    self.end_publishing(link_id, EndReason::Withdrawn);
                } else {
                    self.end_reading(link_id);
                }
            }
        }
    }

    /// Tells both ends that there will be no link between them.
    fn give_up(&mut self, id: LinkId, publisher: NodeId, subscriber: NodeId, failure: Failure) {
        let Failure { code, text } = failure;
        warn!(
            event = "link_given_up",
            ?id,
            publisher = self.name_of(publisher),
            subscriber = self.name_of(subscriber),
            ?code,
            text
        );
        self.never_again(id);
        for node in [publisher, subscriber] {
            self.send(node, ToNode::Refused { about: About::Link(id), code, text: text.clone() }, Vec::new());
        }
    }

    pub(super) fn never_again(&mut self, id: LinkId) {
        if self.subscriptions.contains_key(&id.subscription) {
            if let Some(publication) = self.publications.get_mut(&id.publication) {
                publication.given_up.insert(id.subscription);
            }
        }
    }

    /// Tells `to` of `of`, unless it knows.
    fn introduce(&mut self, to: NodeId, of: NodeId, with_signal: bool) {
        let Some(uid) = self.nodes.get(&to).map(|node| node.identity.uid) else { return };
        let Some(peer) = self.nodes.get(&of) else { return };
        let peer = Peer { node: of, name: peer.name.clone(), uid: peer.identity.uid, pid: peer.identity.pid };
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let known = node.introduced.entry(of).or_default();
        let before = *known;
        known.peer = true;
        known.signal |= with_signal;
        if !before.peer {
            let handles = vec![Handle::PageOf(of), Handle::BellOf(of, uid), Handle::PidfdOf(of)];
            self.send(to, ToNode::Peer(peer), handles);
        }
        if with_signal && !before.signal {
            self.send(to, ToNode::Signal { node: of }, vec![Handle::SignalOf(of, uid)]);
        }
    }

    /// A bell or signal page of `of` for that user is new: those of that user who know `of` are told again.
    pub(super) fn introduce_again(&mut self, of: NodeId, uid: u32, signal: bool) {
        let knowing = self.nodes.iter().filter(|(_, node)| {
            node.identity.uid == uid
                && node.session.is_some()
                && node.introduced.get(&of).is_some_and(|known| if signal { known.signal } else { known.peer })
        });
        let knowing: Vec<NodeId> = knowing.map(|(&id, _)| id).collect();
        if knowing.is_empty() {
            return;
        }
        self.tell_own(of);
        for to in knowing {
            if let Some(known) = self.nodes.get_mut(&to).and_then(|node| node.introduced.get_mut(&of)) {
                if signal {
                    known.signal = false;
                } else {
                    known.peer = false;
                }
            }
            self.introduce(to, of, signal);
        }
    }

    pub(super) fn change(&mut self, id: LinkId, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(&id) {
            change(link);
        }
    }
}

fn pair(one: NodeId, other: NodeId) -> (NodeId, NodeId) {
    (one.min(other), one.max(other))
}
