//! Nodes that were attached before, to this dispatcher or to another one, and bring what they hold.
//!
//! A link exists when both ends name it. One that only one end named waits as a *half* until the other end has said all it
//! holds, or the grace period is over:
//!
//! | named by | other end | then |
//! |---|---|---|
//! | publisher | attached, does not name it | `EnterLink` again, with the line that the publisher looks at; `RemoveLink` if that line is taken or the subscription gone |
//! | publisher | not there in time | `Demote`; the publisher itself sees when that process dies |
//! | subscriber | attached, does not name it | `ListLink` again; `LinkEnded` if the publication is gone |
//! | subscriber | not there in time | `LinkEnded` |
//!
//! No end of a link is believed about the other one's memory: both must agree on line, tag and kind.

use std::time::Instant;

use nodeset_bus::page::LINES;
use nodeset_bus::protocol::{About, End, EndReason, HeldLink, LinkId, NodeId, RefusalCode, ToNode};
use tracing::{info, warn};

use super::link::{Link, PublisherEnd, SubscriberEnd};
use super::node::{Introduced, Shared};
use super::{Action, Handle, Kind, Registry, SessionId};

/// Users whose peers' bells and signal pages are taken over from one node: each costs a descriptor.
const MAX_USERS: usize = 64;

impl Registry {
    pub(super) fn bell_back(&mut self, session: SessionId, node: NodeId, uid: u32, descriptors: usize) {
        self.shared_back(session, node, Handle::BellOf(node, uid), Kind::Bell, descriptors);
    }

    pub(super) fn signal_back(&mut self, session: SessionId, node: NodeId, uid: u32, descriptors: usize) {
        self.shared_back(session, node, Handle::SignalOf(node, uid), Kind::Signal, descriptors);
    }

    fn shared_back(&mut self, session: SessionId, id: NodeId, handle: Handle, kind: Kind, descriptors: usize) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if !node.handing_back || descriptors != 1 {
            let text = "bells and signal pages are handed back one a message, after `Hello` said so";
            self.refuse_session(session, RefusalCode::Protocol, text);
            return;
        }
        let shelf = match handle {
            Handle::SignalOf(..) => &mut node.signals,
            _ => &mut node.bells,
        };
        let (Handle::BellOf(_, uid) | Handle::SignalOf(_, uid)) = handle else { return };
        let known = shelf.contains_key(&uid);
        if !known && shelf.len() >= MAX_USERS {
            let text = format!("a node has bells and signal pages for peers of {MAX_USERS} users at most");
            self.refuse_session(session, RefusalCode::Limit, text);
            return;
        }
        shelf.entry(uid).or_insert(Shared { made: false, told: false }).told = true;
        // What we made ourselves is what the peers have; only an unknown one is taken over.
        if !known {
            self.actions.push_back(Action::Adopt { session, descriptor: 0, handle, kind });
        }
    }

    pub(super) fn held_link(&mut self, now: Instant, session: SessionId, node: NodeId, held: HeldLink) {
        if let Err((code, text)) = self.take_held_link(now, node, held) {
            self.refuse(session, About::Link(held.link), code, text);
        }
    }

    fn take_held_link(&mut self, now: Instant, id: NodeId, held: HeldLink) -> Result<(), (RefusalCode, &'static str)> {
        let HeldLink { link: link_id, peer, end, .. } = held;
        if !self.nodes.get(&id).is_some_and(|node| node.handing_back) {
            return Err((RefusalCode::Protocol, "links are handed back between `Hello` and `HandedBack`"));
        }
        let own = match end {
            End::Publisher => self
                .publications
                .get(&link_id.publication)
                .is_some_and(|it| it.node == id && it.epoch == link_id.epoch && it.confirmed),
            End::Subscriber => {
                self.subscriptions.get(&link_id.subscription).is_some_and(|it| it.node == id && it.confirmed)
            }
        };
        if !own {
            return Err((RefusalCode::Invalid, "its publication or subscription was not handed back: do that first"));
        }
        if held.line >= LINES || held.tag == 0 {
            return Err((RefusalCode::Damaged, "there is no such line or tag"));
        }
        let (publisher, subscriber) = match end {
            End::Publisher => (id, peer),
            End::Subscriber => (peer, id),
        };
        match self.links.get(&link_id) {
            Some(known) if (known.publisher, known.subscriber) != (publisher, subscriber) => {
                return Err((RefusalCode::Damaged, "its two ends name other nodes"));
            }
            Some(known) if (known.line, known.tag, known.reliable) != (held.line, held.tag, held.reliable) => {
                self.name_end(id, peer, link_id, end);
                self.disagree(link_id, held);
            }
            Some(_) => {
                self.name_end(id, peer, link_id, end);
                self.confirm(link_id, held);
            }
            None => {
                if self.links.len() >= self.settings.limits.links {
                    return Err((RefusalCode::Limit, "too many links: start the dispatcher with a higher --max-links"));
                }
                self.add_half(now, link_id, publisher, subscriber, held)?;
                // Only what is in the table: notes about other links would stay.
                self.name_end(id, peer, link_id, end);
            }
        }
        Ok(())
    }

    fn name_end(&mut self, id: NodeId, peer: NodeId, link: LinkId, end: End) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.name_end(link, end);
        let known = node.introduced.entry(peer).or_insert(Introduced::default());
        known.peer = true;
        known.signal |= end == End::Subscriber;
    }

    /// The first end to name a link.
    fn add_half(
        &mut self,
        now: Instant,
        id: LinkId,
        publisher: NodeId,
        subscriber: NodeId,
        held: HeldLink,
    ) -> Result<(), (RefusalCode, &'static str)> {
        let (publishing, reading) = match held.end {
            End::Publisher => (PublisherEnd::Listed, SubscriberEnd::Unknown),
            End::Subscriber => (PublisherEnd::Unknown, SubscriberEnd::Entered),
        };
        let line_taken = held.end == End::Subscriber;
        if line_taken && !self.nodes.get_mut(&subscriber).is_some_and(|it| it.lines.reserve(held.line, held.tag)) {
            return Err((RefusalCode::Damaged, "its line is another link's"));
        }
        let HeldLink { line, tag, reliable, demoted, .. } = held;
        self.add_link(
            id,
            Link {
                publisher,
                subscriber,
                line,
                tag,
                line_taken,
                reliable,
                demoted,
                ever_demoted: demoted,
                announced: false,
                publishing,
                reading,
            },
        );
        self.halves.insert(id, Some(now + self.settings.grace));
        Ok(())
    }

    /// A link that is known already is named by an end of it.
    fn confirm(&mut self, id: LinkId, held: HeldLink) {
        let Some(&link) = self.links.get(&id) else { return };
        match held.end {
            End::Publisher => {
                if let Some(publication) = self.publications.get_mut(&id.publication) {
                    publication.links.insert(id);
                }
                self.change(id, |link| {
                    link.demoted |= held.demoted;
                    link.ever_demoted |= held.demoted;
                    link.publishing = match link.publishing {
                        PublisherEnd::Unknown | PublisherEnd::Waiting | PublisherEnd::Asked | PublisherEnd::Listed => {
                            PublisherEnd::Listed
                        }
                        // It was believed to be gone, and its end was told to the subscriber.
                        PublisherEnd::Removing | PublisherEnd::Gone => PublisherEnd::Removing,
                    }
                });
            }
            End::Subscriber => {
                if let Some(subscription) = self.subscriptions.get_mut(&id.subscription) {
                    subscription.links.insert(id);
                }
                if !link.line_taken {
                    let taken =
                        self.nodes.get_mut(&link.subscriber).is_some_and(|it| it.lines.reserve(link.line, link.tag));
                    if !taken {
                        self.disagree(id, held);
                        return;
                    }
                }
                self.change(id, |link| {
                    link.line_taken = true;
                    link.reading = match link.reading {
                        SubscriberEnd::Ending(reason) => SubscriberEnd::Ending(reason),
                        _ => SubscriberEnd::Entered,
                    }
                });
            }
        }
        if !self.links.get(&id).is_some_and(Link::is_half) {
            self.halves.remove(&id);
        }
    }

    /// The two ends of a link do not mean the same: both are told to let go, then a fresh one can be made.
    fn disagree(&mut self, id: LinkId, held: HeldLink) {
        warn!(event = "link_damaged", ?id, line = held.line, tag = held.tag);
        let Some(&link) = self.links.get(&id) else { return };
        let (publisher, subscriber) = (link.publisher, link.subscriber);
        let publishing = match (held.end, link.publishing) {
            (End::Publisher, _) | (_, PublisherEnd::Asked | PublisherEnd::Listed | PublisherEnd::Removing) => {
                PublisherEnd::Removing
            }
            _ => PublisherEnd::Gone,
        };
        let reading = match (held.end, link.reading) {
            (End::Subscriber, _) | (_, SubscriberEnd::Asked | SubscriberEnd::Entered | SubscriberEnd::Ending(_)) => {
                SubscriberEnd::Ending(EndReason::Withdrawn)
            }
            _ => SubscriberEnd::Gone,
        };
        if let Some(publication) = self.publications.get_mut(&id.publication) {
            publication.links.insert(id);
        }
        if let Some(subscription) = self.subscriptions.get_mut(&id.subscription) {
            subscription.links.insert(id);
        }
        // The line that the subscriber really writes stays taken until it has left.
        let mut line_taken = link.line_taken;
        let mut line = link.line;
        if held.end == End::Subscriber {
            if let Some(node) = self.nodes.get_mut(&subscriber) {
                if line_taken {
                    node.lines.release(line);
                }
                line_taken = node.lines.reserve(held.line, held.tag);
                line = held.line;
            }
        }
        self.change(id, |link| {
            link.publishing = publishing;
            link.reading = reading;
            link.line_taken = line_taken;
            link.line = line;
        });
        self.halves.remove(&id);
        if publishing == PublisherEnd::Removing {
            self.tell_end(publisher, ToNode::RemoveLink { link: id, died: false });
        }
        if reading != SubscriberEnd::Gone {
            self.tell_end(subscriber, ToNode::LinkEnded { link: id, reason: EndReason::Withdrawn });
        }
        self.settle(id);
    }

    /// The node has said all that it holds.
    pub(super) fn handed_back(&mut self, session: SessionId, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if !node.handing_back {
            self.refuse_session(session, RefusalCode::Protocol, "`HandedBack` without `Hello` having said so");
            return;
        }
        info!(event = "handed_back", node = %id, name = node.name);
        let unnamed: Vec<_> = node.publications.iter().filter(|it| !self.publications[it].confirmed).copied().collect();
        let unnamed_too: Vec<_> =
            node.subscriptions.iter().filter(|it| !self.subscriptions[it].confirmed).copied().collect();
        let unnamed_direct: Vec<_> = node.directs.iter().filter(|it| !self.directs[it].confirmed).copied().collect();
        // First the links: the end of one that the node does not hold must not be told to it. Its answer would be taken for
        // one about the link that comes next under the same name.
        for link in self.links_of(id) {
            // In this order: a reader's end is news for a publisher in the same node.
            self.catch_up_subscriber(id, link);
            self.catch_up_publisher(id, link);
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.handing_back = false;
            node.named.clear();
        }
        unnamed_direct.into_iter().for_each(|direct| self.drop_direct(direct));
        for publication in unnamed {
            self.drop_publication(publication, EndReason::Withdrawn);
        }
        for subscription in unnamed_too {
            self.drop_subscription(subscription);
        }
        self.tell_own(id);
        let halves: Vec<_> = self.halves.keys().copied().collect();
        for half in halves {
            self.resolve(half);
        }
        for link_id in self.links_of(id) {
            self.withhold(link_id);
            self.promote(link_id);
            if let Some(&link) = self.links.get(&link_id).filter(|link| !link.is_half()) {
                self.have_shared(&link);
            }
            self.settle(link_id);
        }
        self.forgive(id);
        self.forgive_lanes(id);
        self.join_all(id);
        self.want_all_lanes(id);
    }

    /// A link that an earlier dispatcher made of a pattern, on a topic that the subscriber may not read here, ends at both ends.
    fn withhold(&mut self, id: LinkId) {
        let Some(&link) = self.links.get(&id).filter(|link| !link.is_half()) else { return };
        let (Some(publication), Some(subscription)) =
            (self.publications.get(&id.publication), self.subscriptions.get(&id.subscription))
        else {
            return;
        };
        // One that does not answer is asked about when it does.
        if !subscription.brought || !self.answers(link.subscriber) || self.may_read(subscription, &publication.topic) {
            return;
        }
        info!(event = "link_withheld", ?id, subscriber = self.name_of(link.subscriber));
        if matches!(link.reading, SubscriberEnd::Asked | SubscriberEnd::Entered) {
            let reason = EndReason::Withdrawn;
            self.change(id, |link| link.reading = SubscriberEnd::Ending(reason));
            self.tell_end(link.subscriber, ToNode::LinkEnded { link: id, reason });
        }
        match link.publishing {
            PublisherEnd::Asked | PublisherEnd::Listed => {
                self.change(id, |link| link.publishing = PublisherEnd::Removing);
                self.tell_end(link.publisher, ToNode::RemoveLink { link: id, died: false });
            }
            PublisherEnd::Waiting => self.change(id, |link| link.publishing = PublisherEnd::Gone),
            PublisherEnd::Unknown | PublisherEnd::Removing | PublisherEnd::Gone => {}
        }
    }

    /// A link that was demoted while its subscriber had no session is listed again as what it was. If it lost anything
    /// meanwhile, its reader learns that from the log and leaves.
    fn promote(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let whole = (link.publishing, link.reading) == (PublisherEnd::Listed, SubscriberEnd::Entered);
        if link.demoted && whole && self.answers(link.publisher) && self.answers(link.subscriber) {
            self.change(id, |link| {
                link.demoted = false;
                link.announced = false;
                link.publishing = PublisherEnd::Waiting;
            });
        }
    }

    /// Tells a publisher that came back what it has not heard about a link, or makes good what it has lost.
    fn catch_up_publisher(&mut self, id: NodeId, link_id: LinkId) {
        let Some(&link) = self.links.get(&link_id).filter(|link| link.publisher == id) else { return };
        let named = self.nodes.get(&id).is_some_and(|node| node.has_named(link_id, End::Publisher));
        match (named, link.publishing) {
            (true, PublisherEnd::Removing) => {
                let died = self.departed.get(&link.subscriber) == Some(&EndReason::Died);
                self.send(id, ToNode::RemoveLink { link: link_id, died }, Vec::new());
            }
            (true, PublisherEnd::Listed) => {
                self.change(link_id, |link| link.announced = false);
                if link.demoted {
                    self.send(id, ToNode::Demote { link: link_id }, Vec::new());
                }
            }
            (false, PublisherEnd::Listed) if link.reading == SubscriberEnd::Unknown => {
                self.end_publishing(link_id, EndReason::Withdrawn);
            }
            (false, PublisherEnd::Asked | PublisherEnd::Listed) => self.change(link_id, |link| {
                link.publishing = PublisherEnd::Waiting;
                link.announced = false;
                link.demoted = false;
            }),
            (false, PublisherEnd::Removing) => {
                self.change(link_id, |link| link.publishing = PublisherEnd::Gone);
                self.settle(link_id);
            }
            _ => {}
        }
    }

    /// The same for a subscriber.
    fn catch_up_subscriber(&mut self, id: NodeId, link_id: LinkId) {
        let Some(&link) = self.links.get(&link_id).filter(|link| link.subscriber == id) else { return };
        let named = self.nodes.get(&id).is_some_and(|node| node.has_named(link_id, End::Subscriber));
        match (named, link.reading) {
            (true, SubscriberEnd::Ending(reason)) => {
                self.send(id, ToNode::LinkEnded { link: link_id, reason }, Vec::new());
            }
            // What was demoted is made afresh.
            (false, SubscriberEnd::Asked | SubscriberEnd::Entered)
                if link.demoted || link.publishing == PublisherEnd::Unknown =>
            {
                self.end_reading(link_id);
            }
            (false, SubscriberEnd::Asked | SubscriberEnd::Entered) => {
                self.change(link_id, |link| link.reading = SubscriberEnd::Waiting);
            }
            (false, SubscriberEnd::Ending(_)) => self.end_reading(link_id),
            _ => {}
        }
    }

    /// Both nodes have said all they hold, and one of them does not name the link.
    fn resolve(&mut self, id: LinkId) {
        let Some(&link) = self.links.get(&id) else { return };
        if !self.answers(link.publisher) || !self.answers(link.subscriber) {
            return;
        }
        if link.reading == SubscriberEnd::Unknown {
            let wanted = self.subscriptions.get(&id.subscription).is_some_and(|it| {
                it.node == link.subscriber
                    && (it.reliable == link.reliable || self.is_lane(id.publication))
                    && self.publications.get(&id.publication).is_some_and(|other| self.wants(it, other))
            });
            let taken = wanted
                && !link.demoted
                && self.nodes.get_mut(&link.subscriber).is_some_and(|it| it.lines.reserve(link.line, link.tag));
            if !taken {
                self.end_reading(id);
                return;
            }
            if let Some(subscription) = self.subscriptions.get_mut(&id.subscription) {
                subscription.links.insert(id);
            }
            self.change(id, |link| {
                link.line_taken = true;
                link.reading = SubscriberEnd::Waiting;
            });
        } else {
            let there = self
                .publications
                .get(&id.publication)
                .is_some_and(|it| it.node == link.publisher && it.epoch == id.epoch && it.is_live());
            if !there {
                self.end_publishing(id, EndReason::Withdrawn);
                return;
            }
            if let Some(publication) = self.publications.get_mut(&id.publication) {
                publication.links.insert(id);
            }
            self.change(id, |link| {
                link.publishing = PublisherEnd::Waiting;
                link.demoted = false;
            });
        }
        self.halves.remove(&id);
        self.settle(id);
    }

    /// What was given up is tried again: the node may not have heard of it, and what was lacking may be there now.
    fn forgive(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        for publication in &node.publications {
            if let Some(publication) = self.publications.get_mut(publication) {
                publication.given_up.clear();
            }
        }
        for subscription in &node.subscriptions {
            let Some(it) = self.subscriptions.get(subscription) else { continue };
            for publication in self.publications_on(&it.selector) {
                if let Some(publication) = self.publications.get_mut(&publication) {
                    publication.given_up.remove(subscription);
                }
            }
        }
    }

    /// Brings together all that a node has with all that wants it.
    fn join_all(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let mut pairs = Vec::new();
        for publication in &node.publications {
            let subscriptions = self.subscriptions_of(&self.publications[publication].topic);
            pairs.extend(subscriptions.into_iter().map(|subscription| (*publication, subscription)));
        }
        for subscription in &node.subscriptions {
            let publications = self.publications_on(&self.subscriptions[subscription].selector);
            let others = publications.into_iter().filter(|it| self.publications[it].node != id);
            pairs.extend(others.map(|publication| (publication, *subscription)));
        }
        for (publication, subscription) in pairs {
            self.join_late(publication, subscription);
        }
    }

    /// Halves whose time is over: nobody waits for them any more.
    pub(super) fn expire_halves(&mut self, now: Instant) {
        let due: Vec<_> = self
            .halves
            .iter()
            .filter(|(_, until)| until.is_some_and(|until| until <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            let Some(&link) = self.links.get(&id) else { continue };
            info!(event = "link_half_expired", ?id, ?link.publishing, ?link.reading);
            if link.publishing == PublisherEnd::Unknown {
                self.end_publishing(id, EndReason::Died);
            } else {
                self.halves.insert(id, None);
                self.demote(id);
            }
        }
    }
}
