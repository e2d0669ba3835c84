//! Links from the first message about them to their end, at either side, and what happens when a peer dies.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nodeset_bus::inlet::{Inlet, InletSpec};
use nodeset_bus::log;
use nodeset_bus::memory::Segment;
use nodeset_bus::outlet::OutletLink;
use nodeset_bus::page::{LINES, SLOTS};
use nodeset_bus::protocol::{EndReason, EnterLink, LinkId, ListLink, NodeId, ToDispatcher};
use tracing::{debug, info, warn};

use super::Command;
use super::connection::Outbox;
use super::publications::OutgoingLink;
use super::subscriptions::{Arrival, IncomingLink, Port, Publisher};
use super::table::{Table, say};
use crate::error::EnterError;
use crate::event::NodeEvent;

impl Table {
    // Links, as a publisher.

    pub(super) fn list_link(&mut self, list: ListLink, outbox: &mut Outbox) {
        let ListLink { link: id, subscriber, line, tag, reliable } = list;
        let peer = self.peers.find(subscriber).filter(|peer| !peer.dead && line < LINES);
        let listed = peer.and_then(|peer| {
            let publication = self.publications.get_mut(&id.publication).filter(|it| it.epoch == id.epoch)?;
            let log = publication.log.as_ref()?;
            let signal = self.own_signals.get(&peer.uid)?;
            log.links.add(OutletLink {
                id,
                page: peer.page.clone(),
                line,
                tag,
                reliable,
                bell: Arc::clone(&peer.bell) as Arc<dyn log::Ring>,
                signal: signal.page.clone(),
                slot: log.slot,
            });
            let link = OutgoingLink { peer: subscriber, line, tag, reliable, demoted: false };
            publication.links.insert(id, link);
            Some(())
        });
        let answer = match listed {
            Some(()) => ToDispatcher::LinkListed { link: id },
            None => ToDispatcher::LinkRemoved { link: id },
        };
        say(outbox, answer);
    }

    pub(super) fn link_ready(&mut self, id: LinkId, outbox: &mut Outbox) {
        let Some(publication) = self.publications.get(&id.publication) else { return };
        let (Some(link), Some(log)) = (publication.links.get(&id), publication.log.as_ref()) else { return };
        let Some(peer) = self.peers.find(link.peer) else { return };
        if log.links.set_ready(id) {
            let (topic, peer) = (Arc::clone(&publication.topic), Arc::clone(&peer.name));
            debug!(event = "linked", topic = &*topic, subscriber = &*peer);
            if publication.lane.is_some() {
                self.lane_ready(id, peer.clone(), outbox);
            } else {
                publication.shared.ready(id, Arc::clone(&peer));
            }
            self.core.tell(&NodeEvent::Linked { topic, peer, peer_subscribes: true });
        }
    }

    /// Nobody waits for that link any more; it may still come.
    pub(super) fn link_late(&self, id: LinkId) {
        if let Some(publication) = self.publications.get(&id.publication) {
            publication.shared.late(id);
        }
        if let Some(subscription) = self.subscriptions.get(&id.subscription) {
            subscription.shared.late(id);
        }
    }

    pub(super) fn demote(&mut self, id: LinkId) {
        let Some(publication) = self.publications.get_mut(&id.publication) else { return };
        let Some(link) = publication.links.get_mut(&id) else { return };
        link.demoted = true;
        if publication.log.as_ref().is_some_and(|log| log.links.demote(id)) {
            // Whether its subscriber died or comes again is said next.
            debug!(event = "link_demoted", topic = &*publication.topic, ?id);
            // The publisher may wait for it.
            self.core.waiter.kick();
        }
    }

    /// The publisher took the link's reliability away, as its policy says.
    pub(super) fn evicted(&mut self, id: LinkId) {
        let Some(publication) = self.publications.get_mut(&id.publication) else { return };
        let Some(link) = publication.links.get_mut(&id) else { return };
        link.demoted = true;
        let topic = Arc::clone(&publication.topic);
        let Some(peer) = self.peers.find(link.peer).map(|peer| Arc::clone(&peer.name)) else { return };
        info!(event = "subscriber_evicted", topic = &*topic, subscriber = &*peer);
        self.core.tell(&NodeEvent::Evicted { topic, peer });
    }

    pub(super) fn remove_link(&mut self, id: LinkId, died: bool, outbox: &mut Outbox) {
        let Some(publication) = self.publications.get_mut(&id.publication) else { return };
        let Some(link) = publication.links.remove(&id) else { return };
        let topic = Arc::clone(&publication.topic);
        publication.shared.gone(id);
        if publication.lane.is_some() {
            self.lane_left(id, outbox);
        } else if let Some(log) = &publication.log {
            log.links.remove(id);
        }
        // The publisher may wait for it.
        self.core.waiter.kick();
        let died = died || self.peers.is_dead(link.peer);
        if died {
            self.peers.mourn(link.peer);
        }
        if let Some(peer) = self.peers.find(link.peer) {
            let name = Arc::clone(&peer.name);
            debug!(event = "link_ended", topic = &*topic, subscriber = &*name, died);
            self.core.tell(&NodeEvent::LinkEnded { topic, peer: name, peer_subscribes: true, died });
        }
    }

    // Links, as a subscriber.

    /// Each subscriber looks at its links again.
    pub(super) fn touch_subscriptions(&self) {
        self.subscriptions.values().for_each(|subscription| subscription.shared.touch());
        self.core.waiter.kick();
    }

    pub(super) fn enter_link(&mut self, enter: EnterLink, descriptors: Vec<OwnedFd>, outbox: &mut Outbox) {
        let (id, tag, topic) = (enter.link, enter.tag, enter.topic.clone());
        let known = self.subscriptions.get(&id.subscription).and_then(|it| it.links.get(&id));
        if known.is_some_and(|link| link.tag == tag) {
            say(outbox, ToDispatcher::LinkEntered { link: id });
            return;
        }
        match self.try_enter(enter, descriptors) {
            // Before the port goes to its subscriber, which may drop it at once: then `LinkLeft` follows.
            Ok(Some(port)) => {
                say(outbox, ToDispatcher::LinkEntered { link: id });
                let (publisher, topic) = (Arc::clone(&port.publisher.node), Arc::clone(&port.publisher.topic));
                debug!(event = "linked", topic = &*topic, %publisher);
                if let Some(subscription) = self.subscriptions.get(&id.subscription) {
                    // Given back when the subscriber is gone: dropped here, which says `Released`.
                    drop(subscription.shared.push(Arrival::Port(Box::new(port))));
                    self.core.waiter.kick();
                    self.core.tell(&NodeEvent::Linked { topic, peer: publisher, peer_subscribes: false });
                }
            }
            Ok(None) => say(outbox, ToDispatcher::LinkLeft { link: id, evicted: false }),
            Err(error) => {
                warn!(event = "link_not_entered", topic, %error);
                if let Some(subscription) = self.subscriptions.get(&id.subscription) {
                    subscription.shared.not_coming(id);
                }
                say(outbox, ToDispatcher::LinkLeft { link: id, evicted: false });
            }
        }
    }

    /// `None` when nobody wants it any more.
    fn try_enter(&mut self, enter: EnterLink, descriptors: Vec<OwnedFd>) -> Result<Option<Port>, EnterError> {
        let EnterLink { link: id, publisher, topic, schema, shape, slot, line, tag, reliable, lane, origin } = enter;
        let Some(handle) = self.handle.upgrade() else { return Ok(None) };
        let Some(subscription) = self.subscriptions.get_mut(&id.subscription).filter(|it| !it.closed) else {
            return Ok(None);
        };
        let peer = self.peers.find(publisher).ok_or(EnterError::Protocol("`EnterLink` before `Peer`"))?;
        let signal = peer.signal.clone().ok_or(EnterError::Protocol("`EnterLink` before `Signal`"))?;
        let descriptor =
            descriptors.into_iter().next().ok_or(EnterError::Protocol("`EnterLink` came without a log"))?;
        if line >= LINES || slot >= SLOTS {
            return Err(EnterError::Protocol("the link has its line or slot outside of its page"));
        }
        log::check(shape).map_err(|_| EnterError::Protocol("the log has no valid shape"))?;
        let segment = Segment::from_fd(descriptor)?;
        segment.check_one_writer(log::segment_len(shape))?;
        let mut inlet = Inlet::enter(InletSpec {
            id,
            log: segment.map_readable()?,
            shape,
            page: Arc::clone(&self.core.page),
            line,
            tag,
            reliable,
            depth: subscription.depth,
            history: subscription.history,
            signal,
            slot,
            bell: Arc::clone(&peer.bell) as Arc<dyn log::Ring>,
            lane,
            on_released: Box::new(move || {
                // Where the session thread is gone, the kernel tells everybody.
                let _ = handle.core.command(Command::Released(id, tag));
            }),
        })?;
        if peer.dead {
            inlet.publisher_gone();
        }
        // The subscription's own text, unless that is a pattern.
        let topic = if *subscription.topic == *topic { Arc::clone(&subscription.topic) } else { topic.into() };
        let (of_link, ended) = (Arc::clone(&topic), peer.dead);
        let link = IncomingLink { peer: publisher, topic: of_link, line, tag, reliable, ended, evicted: false };
        subscription.links.insert(id, link);
        let own = self.core.info();
        let foreign = peer.uid != own.uid && peer.uid != 0;
        let (node, host) = match &origin {
            Some(origin) => (origin.node.as_str().into(), origin.host.as_str().into()),
            None => (Arc::clone(&peer.name), own.host),
        };
        let origin = origin.map(|origin| (origin.publication, origin.epoch));
        let publisher = Arc::new(Publisher { node, host, topic, schema, foreign, origin });
        Ok(Some(Port::new(inlet, publisher)))
    }

    pub(super) fn link_ended(&mut self, id: LinkId, reason: EndReason, outbox: &mut Outbox) {
        let Some(subscription) = self.subscriptions.get_mut(&id.subscription) else {
            say(outbox, ToDispatcher::LinkLeft { link: id, evicted: false });
            return;
        };
        subscription.shared.not_coming(id);
        match subscription.links.get(&id) {
            None => say(outbox, ToDispatcher::LinkLeft { link: id, evicted: false }),
            Some(_) => self.end_incoming(id, reason == EndReason::Died),
        }
    }

    /// No more will come from that publisher: its subscriber drains what is there.
    fn end_incoming(&mut self, id: LinkId, died: bool) {
        let Some(subscription) = self.subscriptions.get_mut(&id.subscription) else { return };
        let Some(link) = subscription.links.get_mut(&id).filter(|link| !link.ended) else { return };
        link.ended = true;
        let (peer, topic) = (link.peer, Arc::clone(&link.topic));
        drop(subscription.shared.push(Arrival::Gone(id)));
        self.core.waiter.kick();
        if died {
            self.peers.mourn(peer);
        }
        if let Some(peer) = self.peers.find(peer) {
            let (topic, name) = (topic, Arc::clone(&peer.name));
            debug!(event = "link_ended", topic = &*topic, publisher = &*name, died);
            self.core.tell(&NodeEvent::LinkEnded { topic, peer: name, peer_subscribes: false, died });
        }
    }

    // Deaths.

    /// Ends the links with those whose processes died.
    pub(super) fn bury_dead(&mut self, outbox: &mut Outbox) {
        for dead in self.peers.newly_dead() {
            self.peers.mourn(dead);
            let outgoing: Vec<_> = self
                .publications
                .values()
                .flat_map(|publication| &publication.links)
                .filter_map(|(&id, link)| (link.peer == dead).then_some(id))
                .collect();
            for id in outgoing {
                self.remove_link(id, true, outbox);
                say(outbox, ToDispatcher::LinkRemoved { link: id });
            }
            let incoming: Vec<_> = self
                .subscriptions
                .values()
                .flat_map(|subscription| &subscription.links)
                .filter_map(|(&id, link)| (link.peer == dead).then_some(id))
                .collect();
            for id in incoming {
                self.end_incoming(id, true);
            }
        }
    }

    pub(super) fn has_links_with(&self, node: NodeId) -> bool {
        self.publications.values().flat_map(|it| it.links.values()).any(|link| link.peer == node)
            || self.subscriptions.values().flat_map(|it| it.links.values()).any(|link| link.peer == node)
    }
}
