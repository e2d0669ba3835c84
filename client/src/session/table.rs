//! The table: what the node holds, and what it answers to the dispatcher and to its own threads.
//!
//! What is to be said goes into an outbox. While no dispatcher is there the outbox is thrown away: everything that matters is
//! in here, and is handed back.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use nodeset_bus::log;
use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::outlet::Outlet;
use nodeset_bus::page::{SIGNAL_PAGE_LEN, SLOTS, SignalPage};
use nodeset_bus::protocol::{
    About, Expected, LinkId, LogShape, Mismatch, PublicationId, RefusalCode, SubscriptionId, ToDispatcher, ToNode,
};
use nodeset_bus::sys::Bell;
use tracing::{debug, warn};

use super::connection::{Attached, Outbox};
use super::lanes::Direct;
use super::peers::Peers;
use super::publications::{AdvertiseRequest, Log, Publication};
use super::subscriptions::{SubscribeRequest, Subscription};
use super::{Command, Core, Handle};
use crate::error::{AdvertiseError, EnterError, SubscribeError};
use crate::event::NodeEvent;

/// See the module.
pub(super) struct Table {
    pub(super) core: Arc<Core>,
    /// For the links: whatever came from one keeps the session alive.
    pub(super) handle: Weak<Handle>,
    pub(super) publications: HashMap<PublicationId, Publication>,
    pub(super) directs: HashMap<PublicationId, Direct>,
    pub(super) subscriptions: HashMap<SubscriptionId, Subscription>,
    pub(super) peers: Peers,
    /// Rung by peers of that user.
    pub(super) own_bells: HashMap<u32, Arc<Bell>>,
    /// For subscribers of that user.
    pub(super) own_signals: HashMap<u32, OwnSignal>,
}

/// One of the node's signal pages.
pub(super) struct OwnSignal {
    pub(super) segment: Arc<Segment>,
    pub(super) page: SignalPage<SharedWords>,
}

/// Says something without descriptors.
pub(super) fn say(outbox: &mut Outbox, message: ToDispatcher) {
    outbox.push_back((message, Vec::new()));
}

impl Table {
    pub(super) fn new(core: Arc<Core>, handle: Weak<Handle>) -> rustix::io::Result<Table> {
        Ok(Table {
            core,
            handle,
            publications: HashMap::new(),
            directs: HashMap::new(),
            subscriptions: HashMap::new(),
            peers: Peers::new()?,
            own_bells: HashMap::new(),
            own_signals: HashMap::new(),
        })
    }

    /// Readable when a peer died.
    pub(super) fn peers_fd(&self) -> BorrowedFd<'_> {
        self.peers.fd()
    }

    /// The node leaves: whoever waits for an answer gets none.
    pub(super) fn abandon(&mut self) {
        self.publications.clear();
        self.directs.clear();
        self.subscriptions.clear();
    }

    // Asked by the node's own threads.

    pub(super) fn advertise(&mut self, request: AdvertiseRequest, outbox: &mut Outbox) {
        let id = request.publication;
        let publication = Publication::new(request);
        say(outbox, ToDispatcher::Advertise(publication.advertise(id)));
        self.publications.insert(id, publication);
    }

    pub(super) fn withdraw(&mut self, id: PublicationId, outbox: &mut Outbox) {
        if self.publications.remove(&id).is_some() {
            say(outbox, ToDispatcher::Unadvertise { publication: id });
        }
    }

    pub(super) fn subscribe(&mut self, request: SubscribeRequest, outbox: &mut Outbox) {
        let SubscribeRequest { subscription: id, topic, schema, reliable, weight, across_ms, .. } = request;
        let SubscribeRequest { depth, history, shared, reply, .. } = request;
        let subscription = Subscription {
            topic,
            schema,
            reliable,
            weight,
            across_ms,
            depth,
            history,
            shared,
            reply: Some(reply),
            live: false,
            closed: false,
            links: HashMap::new(),
        };
        say(outbox, ToDispatcher::Subscribe(subscription.subscribe(id)));
        self.subscriptions.insert(id, subscription);
    }

    pub(super) fn close(&mut self, id: SubscriptionId, outbox: &mut Outbox) {
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.closed = true;
            self.end_closed(id, outbox);
        }
    }

    /// A subscription ends once its subscriber and all its samples are gone.
    fn end_closed(&mut self, id: SubscriptionId, outbox: &mut Outbox) {
        if self.subscriptions.get(&id).is_some_and(|it| it.closed && it.links.is_empty()) {
            self.subscriptions.remove(&id);
            say(outbox, ToDispatcher::Unsubscribe { subscription: id });
        }
    }

    /// The subscriber learned that the publisher gave it up; its inlet is released next.
    pub(super) fn given_up(&mut self, id: LinkId) {
        let link =
            self.subscriptions.get_mut(&id.subscription).and_then(|subscription| subscription.links.get_mut(&id));
        if let Some(link) = link {
            link.evicted = true;
        }
    }

    pub(super) fn released(&mut self, id: LinkId, tag: u16, outbox: &mut Outbox) {
        let Some(subscription) = self.subscriptions.get_mut(&id.subscription) else { return };
        let Some(link) = subscription.links.get(&id).filter(|link| link.tag == tag).cloned() else { return };
        subscription.links.remove(&id);
        say(outbox, ToDispatcher::LinkLeft { link: id, evicted: link.evicted });
        if !link.ended && !subscription.closed {
            // Given up by the subscriber itself; the dispatcher makes a fresh one if both ends still want it.
            debug!(event = "link_left", ?id);
        }
        self.end_closed(id.subscription, outbox);
    }

    // Said by the dispatcher.

    pub(super) fn on_message(&mut self, message: ToNode, descriptors: Vec<OwnedFd>, outbox: &mut Outbox) {
        match message {
            ToNode::LogGranted { publication, shape, slot } => {
                self.log_granted(publication, shape, slot, descriptors, outbox);
            }
            ToNode::Advertised { publication, expected, mismatched } => {
                self.advertised(publication, expected, mismatched, outbox);
            }
            ToNode::Subscribed { subscription, expected, mismatched } => {
                self.subscribed(subscription, expected, mismatched, outbox);
            }
            ToNode::Refused { about, code, text } => self.refused(about, code, text, outbox),
            ToNode::LaneWanted(wanted) => self.lane_wanted(wanted, outbox),
            ToNode::Mismatch(mismatch) => self.tell_mismatch(mismatch),
            ToNode::Denied { subscription, topic, text } => self.tell_denied(subscription, topic, text),
            ToNode::Peer(peer) => {
                let node = peer.name.clone();
                complain(&node, self.peers.introduce(peer, descriptors));
            }
            ToNode::ForgetPeer { node, died } => {
                if !self.has_links_with(node) {
                    self.peers.forget(node, died);
                }
            }
            ToNode::OwnSignal { uid } => complain("this node", self.own_signal(uid, descriptors)),
            ToNode::OwnBell { uid } => complain("this node", self.own_bell(uid, descriptors)),
            ToNode::Signal { node } => complain("a publisher", self.peers.signal(node, descriptors)),
            ToNode::ListLink(link) => self.list_link(link, outbox),
            ToNode::EnterLink(link) => self.enter_link(link, descriptors, outbox),
            ToNode::LinkReady { link } => self.link_ready(link, outbox),
            ToNode::LinkLate { link } => self.link_late(link),
            ToNode::Demote { link } => self.demote(link),
            ToNode::RemoveLink { link, died } => {
                self.remove_link(link, died, outbox);
                say(outbox, ToDispatcher::LinkRemoved { link });
            }
            ToNode::LinkEnded { link, reason } => self.link_ended(link, reason, outbox),
            // Of the session itself, or for tools.
            ToNode::Welcome(_)
            | ToNode::Leaving
            | ToNode::NameTaken(_)
            | ToNode::Replaced(_)
            | ToNode::Renamed { .. }
            | ToNode::NodeIs(_)
            | ToNode::NodeGone { .. }
            | ToNode::NodesComplete
            | ToNode::Listing(_)
            | ToNode::ListingEnd => {}
        }
    }

    fn log_granted(
        &mut self,
        id: PublicationId,
        shape: LogShape,
        slot: u32,
        descriptors: Vec<OwnedFd>,
        outbox: &mut Outbox,
    ) {
        let Some(publication) = self.publications.get_mut(&id) else {
            say(outbox, ToDispatcher::Unadvertise { publication: id });
            return;
        };
        if publication.log.is_some() {
            return;
        }
        match make_log(shape, slot, publication, descriptors) {
            Ok((segment, mut outlet)) => {
                if let Some(policy) = publication.evict {
                    let core = Arc::clone(&self.core);
                    // Of a node that has left nobody asks.
                    outlet.set_evict(
                        policy,
                        Box::new(move |link| {
                            let _ = core.command(Command::Evicted(link));
                        }),
                    );
                }
                let links = Arc::clone(outlet.links());
                publication.log = Some(Log { segment: Arc::new(segment), shape, slot, links });
                publication.outlet = Some(Box::new(outlet));
                say(outbox, ToDispatcher::LogReady { publication: id });
            }
            Err(error) => self.fail_publication(id, error, outbox),
        }
    }

    fn advertised(
        &mut self,
        id: PublicationId,
        expected: Vec<Expected>,
        mismatched: Vec<Mismatch>,
        outbox: &mut Outbox,
    ) {
        if self.direct_advertised(id, &expected, &mismatched) {
            return;
        }
        let Some(publication) = self.publications.get_mut(&id) else {
            say(outbox, ToDispatcher::Unadvertise { publication: id });
            return;
        };
        let linked = !expected.is_empty() || !publication.links.is_empty();
        publication.shared.expect(expected);
        let Some(outlet) = publication.outlet.take() else {
            mismatched.into_iter().for_each(|mismatch| self.tell_mismatch(mismatch));
            return;
        };
        publication.live = true;
        if publication.lane.is_some() {
            self.lane_advertised(id, outlet, linked, outbox);
            return;
        }
        if let Some(Mismatch { topic, node, difference, .. }) = mismatched.into_iter().next() {
            self.fail_publication(id, AdvertiseError::Mismatch { topic, node, difference }, outbox);
        } else if publication.reply.take().is_some_and(|reply| reply.send(Ok(outlet)).is_err()) {
            // Nobody waits any more.
            self.withdraw(id, outbox);
        }
    }

    fn fail_publication(&mut self, id: PublicationId, error: AdvertiseError, outbox: &mut Outbox) {
        let Some(publication) = self.publications.remove(&id) else { return };
        self.lane_failed(id, &publication, &error);
        if let Some(reply) = publication.reply {
            // Whoever asked may have given up.
            let _ = reply.send(Err(error));
        }
        say(outbox, ToDispatcher::Unadvertise { publication: id });
    }

    fn subscribed(
        &mut self,
        id: SubscriptionId,
        expected: Vec<Expected>,
        mismatched: Vec<Mismatch>,
        outbox: &mut Outbox,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else {
            say(outbox, ToDispatcher::Unsubscribe { subscription: id });
            return;
        };
        subscription.live = true;
        let Some(reply) = subscription.reply.take() else {
            mismatched.into_iter().for_each(|mismatch| self.tell_mismatch(mismatch));
            return;
        };
        let links = &subscription.links;
        subscription.shared.expect(expected, |link| links.contains_key(&link));
        let answer = match mismatched.into_iter().next() {
            None => Ok(()),
            Some(Mismatch { topic, node, difference, .. }) => Err(SubscribeError::Mismatch { topic, node, difference }),
        };
        // A subscriber that is not made, or that nobody waits for any more, closes itself where it is dropped.
        let _ = reply.send(answer);
    }

    fn refused(&mut self, about: About, code: RefusalCode, text: String, outbox: &mut Outbox) {
        match about {
            About::Publication(id) if self.directs.contains_key(&id) => {
                let Some(direct) = self.directs.get_mut(&id) else { return };
                let topic = direct.topic().to_string();
                match direct.reply.take() {
                    Some(reply) => {
                        let _ = reply.send(Err(AdvertiseError::Refused { topic, code, text }));
                    }
                    None => {
                        warn!(event = "publication_refused", topic, text);
                        self.core.tell(&NodeEvent::Refused { reason: format!("publication of `{topic}`: {text}") });
                    }
                }
            }
            About::Publication(id) => {
                let Some(publication) = self.publications.get(&id) else { return };
                let topic = publication.topic.to_string();
                if publication.live {
                    // It could not be handed back. Its links go on; new subscribers do not find it.
                    warn!(event = "publication_refused", topic, text);
                    self.core.tell(&NodeEvent::Refused { reason: format!("publication of `{topic}`: {text}") });
                } else {
                    self.fail_publication(id, AdvertiseError::Refused { topic, code, text }, outbox);
                }
            }
            About::Subscription(id) => {
                let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
                let topic = subscription.topic.to_string();
                match subscription.reply.take() {
                    Some(reply) => {
                        let _ = reply.send(Err(SubscribeError::Refused { topic, code, text }));
                    }
                    None => {
                        warn!(event = "subscription_refused", topic, text);
                        self.core.tell(&NodeEvent::Refused { reason: format!("subscription of `{topic}`: {text}") });
                    }
                }
            }
            About::Link(id) => {
                warn!(event = "link_refused", ?id, text);
                // Refused when it was handed back: no longer waited for. Its pins stay until its reader is gone.
                self.demote(id);
                if let Some(publication) = self.publications.get(&id.publication) {
                    publication.shared.gone(id);
                }
                if let Some(subscription) = self.subscriptions.get(&id.subscription) {
                    subscription.shared.not_coming(id);
                }
                self.core.tell(&NodeEvent::Refused { reason: text });
            }
            About::Session | About::Replace => {}
        }
    }

    /// Says no to all who wait for an answer of the dispatcher.
    pub(super) fn refuse_waiting(&mut self, code: RefusalCode, text: &str, outbox: &mut Outbox) {
        let publications = self.publications.iter().filter(|(_, it)| !it.live).map(|(&id, _)| About::Publication(id));
        let subscriptions = self.subscriptions.iter().filter(|(_, it)| it.reply.is_some());
        let directs = self.directs.iter().filter(|(_, it)| !it.live).map(|(&id, _)| About::Publication(id));
        let waiting: Vec<_> =
            publications.chain(directs).chain(subscriptions.map(|(&id, _)| About::Subscription(id))).collect();
        for about in waiting {
            self.refused(about, code, text.to_owned(), outbox);
        }
    }

    pub(super) fn tell_mismatch(&self, mismatch: Mismatch) {
        let Mismatch { topic, node, difference, .. } = mismatch;
        warn!(event = "type_mismatch", topic, peer = node, difference);
        self.core.tell(&NodeEvent::Mismatch { topic: topic.into(), peer: node.into(), difference });
    }

    fn tell_denied(&self, id: SubscriptionId, topic: String, reason: String) {
        let Some(subscription) = self.subscriptions.get(&id) else { return };
        let subscription = Arc::clone(&subscription.topic);
        warn!(event = "topic_denied", topic, subscription = &*subscription, reason);
        self.core.tell(&NodeEvent::Denied { topic: topic.into(), subscription, reason });
    }

    fn own_signal(&mut self, uid: u32, descriptors: Vec<OwnedFd>) -> Result<(), EnterError> {
        let Some(descriptor) = descriptors.into_iter().next() else {
            return Err(EnterError::Protocol("`OwnSignal` came without a page"));
        };
        let segment = Segment::from_fd(descriptor)?;
        segment.check_shared(SIGNAL_PAGE_LEN)?;
        let page = SignalPage::open(SharedWords::mapped(segment.map_writable()?));
        self.own_signals.entry(uid).or_insert(OwnSignal { segment: Arc::new(segment), page });
        Ok(())
    }

    fn own_bell(&mut self, uid: u32, descriptors: Vec<OwnedFd>) -> Result<(), EnterError> {
        let Some(descriptor) = descriptors.into_iter().next() else {
            return Err(EnterError::Protocol("`OwnBell` came without a bell"));
        };
        if self.own_bells.contains_key(&uid) {
            return Ok(());
        }
        let bell = Arc::new(Bell::from_fd(descriptor).map_err(|_| EnterError::Protocol("the bell that came is none"))?);
        self.core
            .waiter
            .add_bell(Arc::clone(&bell))
            .map_err(|_| EnterError::Protocol("the bell that came cannot be waited on"))?;
        self.own_bells.insert(uid, bell);
        Ok(())
    }
}

impl Attached {
    /// A segment, to go with a message.
    pub(super) fn segment(segment: &Arc<Segment>) -> Attached {
        Attached::Segment(Arc::clone(segment))
    }
}

fn make_log(
    shape: LogShape,
    slot: u32,
    publication: &Publication,
    descriptors: Vec<OwnedFd>,
) -> Result<(Segment, Outlet), AdvertiseError> {
    let failed = |source| AdvertiseError::Log { topic: publication.topic.to_string(), source };
    let descriptor =
        descriptors.into_iter().next().ok_or(AdvertiseError::Protocol("`LogGranted` came without a log"))?;
    log::check(shape)?;
    if slot >= SLOTS {
        return Err(AdvertiseError::Protocol("the slot that was granted lies outside of the signal page"));
    }
    let segment = Segment::from_fd(descriptor).map_err(failed)?;
    if segment.len() < log::segment_len(shape) {
        return Err(AdvertiseError::Protocol("the log that came is too short for its shape"));
    }
    let mapping = segment.map_writable().map_err(failed)?;
    let mut outlet = Outlet::create(mapping, shape, publication.epoch, publication.retention);
    if let Some(time) = publication.give_back_after {
        outlet.give_back_after(time);
    }
    if let Some(follows) = publication.follows {
        outlet.set_follows(follows);
    }
    segment.seal_for_one_writer().map_err(failed)?;
    Ok((segment, outlet))
}

fn complain(about: &str, result: Result<(), EnterError>) {
    if let Err(error) = result {
        warn!(event = "introduction_refused", about, %error);
    }
}
