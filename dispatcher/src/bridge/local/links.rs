//! The bridge's links, at either end, from the first message about them to their end.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nodeset_bus::inlet::{Inlet, InletSpec};
use nodeset_bus::log::{self, Retention, Ring};
use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::outlet::{Outlet, OutletLink};
use nodeset_bus::page::{LINES, NODE_PAGE_LEN, NodePage, SLOTS};
use nodeset_bus::protocol::{
    EndReason, EnterLink, Expected, LinkId, ListLink, LogShape, NodeId, PublicationId, SubscriptionId, ToDispatcher,
};
use tracing::{debug, warn};

use super::neighbours::segment_failed;
use super::{Event, LocalError, LocalNode};
use crate::allocate::chain;

/// messages that a lossy link of the bridge goes back when it was lapped: on another host only what is new is of use
const DEPTH: u64 = 1;

impl LocalNode {
    pub(super) fn welcome(&mut self, page: Option<OwnedFd>) -> Result<(), LocalError> {
        let page = page.ok_or(LocalError::Protocol("`Welcome` came without the node's page"))?;
        let segment = Segment::from_fd(page).map_err(segment_failed)?;
        if segment.len() < NODE_PAGE_LEN {
            return Err(LocalError::Protocol("the node's page is too short"));
        }
        let mapping = segment.map_writable().map_err(segment_failed)?;
        segment.seal_for_one_writer().map_err(segment_failed)?;
        let page = NodePage::create(SharedWords::mapped(mapping));
        page.beat(self.beats);
        self.page = Some(Arc::new(page));
        self.session.say(ToDispatcher::PageReady);
        self.events.push_back(Event::Attached);
        Ok(())
    }

    // As a publisher.

    pub(super) fn log_granted(&mut self, id: PublicationId, shape: LogShape, slot: u32, descriptor: Option<OwnedFd>) {
        let Some(publishing) = self.publishing.get_mut(&id).filter(|it| it.links.is_none()) else { return };
        match make_log(shape, slot, descriptor) {
            Ok(outlet) => {
                publishing.links = Some(Arc::clone(outlet.links()));
                publishing.slot = slot;
                publishing.outlet = Some((Box::new(outlet), shape));
                self.session.say(ToDispatcher::LogReady { publication: id });
            }
            Err(error) => {
                self.withdraw(id);
                self.events.push_back(Event::NotPublishing { publication: id, text: chain(&error) });
            }
        }
    }

    pub(super) fn advertised(&mut self, id: PublicationId, expected: &[Expected]) {
        let Some(publishing) = self.publishing.get_mut(&id) else { return };
        publishing.live = true;
        publishing.expected.extend(expected.iter().filter(|it| !it.late).map(|it| it.link));
        self.publish_if_linked(id);
    }

    /// A link is ready, or is not waited for.
    pub(super) fn no_longer_expected(&mut self, id: LinkId) {
        if let Some(publishing) = self.publishing.get_mut(&id.publication) {
            publishing.expected.remove(&id);
            self.publish_if_linked(id.publication);
        }
    }

    fn publish_if_linked(&mut self, id: PublicationId) {
        let publishing = self.publishing.get_mut(&id).filter(|it| it.live && it.expected.is_empty());
        let Some((outlet, shape)) = publishing.and_then(|it| it.outlet.take()) else { return };
        self.events.push_back(Event::Publishing { publication: id, outlet, shape });
    }

    pub(super) fn list_link(&mut self, list: ListLink) {
        let ListLink { link: id, subscriber, line, tag, reliable } = list;
        let listed = self.neighbours.find(subscriber).filter(|it| !it.dead && line < LINES).and_then(|peer| {
            let publishing = self.publishing.get_mut(&id.publication)?;
            let links = publishing.links.as_ref()?;
            let signal = self.signals.get(&peer.uid)?.clone();
            let (page, bell, slot) = (peer.page.clone(), Arc::clone(&peer.bell) as Arc<dyn Ring>, publishing.slot);
            links.add(OutletLink { id, page, line, tag, reliable, bell, signal, slot });
            publishing.subscribers.insert(id, subscriber);
            Some(())
        });
        match listed {
            Some(()) => self.session.say(ToDispatcher::LinkListed { link: id }),
            None => {
                self.session.say(ToDispatcher::LinkRemoved { link: id });
                self.no_longer_expected(id);
            }
        }
    }

    pub(super) fn remove_link(&mut self, id: LinkId) {
        if let Some(publishing) = self.publishing.get_mut(&id.publication) {
            publishing.subscribers.remove(&id);
            if let Some(links) = &publishing.links {
                links.remove(id);
            }
        }
        self.session.say(ToDispatcher::LinkRemoved { link: id });
        self.no_longer_expected(id);
        // There may be room now.
        self.events.push_back(Event::Rung);
    }

    pub(super) fn demote(&mut self, id: LinkId) {
        if let Some(links) = self.publishing.get(&id.publication).and_then(|it| it.links.as_ref()) {
            links.demote(id);
            self.events.push_back(Event::Rung);
        }
    }

    // As a subscriber.

    /// What is to be read may have ended before it was asked for: then no link to it comes.
    pub(super) fn subscribed(&mut self, id: SubscriptionId, expected: &[Expected]) {
        let Some(reading) = self.reading.get_mut(&id) else { return };
        let (publication, epoch) = (reading.publication, reading.epoch);
        let comes = expected.iter().any(|it| (it.link.publication, it.link.epoch) == (publication, epoch));
        if reading.awaited && !comes && reading.link.is_none() {
            self.not_reading(id, "it has ended".to_owned());
        }
    }

    pub(super) fn enter_link(&mut self, enter: EnterLink, log: Option<OwnedFd>) {
        let id = enter.link;
        let wanted = self.reading.get(&id.subscription).filter(|it| !it.closed);
        let wanted = wanted.filter(|it| (it.publication, it.epoch) == (id.publication, id.epoch));
        match wanted {
            Some(reading) if reading.link.is_some() => self.session.say(ToDispatcher::LinkEntered { link: id }),
            // Once left it is not entered again: what came between would be missed without a word.
            Some(reading) if reading.awaited => match self.try_enter(&enter, reading.history, log) {
                Ok(inlet) => {
                    self.session.say(ToDispatcher::LinkEntered { link: id });
                    if let Some(reading) = self.reading.get_mut(&id.subscription) {
                        reading.awaited = false;
                        reading.link = Some((id, enter.publisher));
                    }
                    let uid = self.neighbours.find(enter.publisher).map(|it| it.uid);
                    let foreign = uid.is_none_or(|uid| uid != 0 && uid != rustix::process::geteuid().as_raw());
                    let (subscription, inlet) = (id.subscription, Box::new(inlet));
                    self.events.push_back(Event::Reading { subscription, inlet, foreign });
                }
                Err(error) => {
                    warn!(event = "link_not_entered", topic = enter.topic, why = chain(&error));
                    self.session.say(ToDispatcher::LinkLeft { link: id, evicted: false });
                    self.not_reading(id.subscription, chain(&error));
                }
            },
            // Another publication of the topic.
            _ => self.session.say(ToDispatcher::LinkLeft { link: id, evicted: false }),
        }
    }

    fn try_enter(&self, enter: &EnterLink, history: u64, log: Option<OwnedFd>) -> Result<Inlet, LocalError> {
        let EnterLink { link: id, publisher, shape, slot, line, tag, reliable, .. } = *enter;
        let peer = self.neighbours.find(publisher).ok_or(LocalError::Protocol("`EnterLink` before `Peer`"))?;
        let signal = peer.signal.clone().ok_or(LocalError::Protocol("`EnterLink` before `Signal`"))?;
        let log = log.ok_or(LocalError::Protocol("`EnterLink` came without a log"))?;
        let page = self.page.clone().ok_or(LocalError::Protocol("`EnterLink` before `Welcome`"))?;
        if line >= LINES || slot >= SLOTS {
            return Err(LocalError::Protocol("a link has its line or slot outside of its page"));
        }
        log::check(shape).map_err(|_| LocalError::Protocol("a log has no valid shape"))?;
        let segment = Segment::from_fd(log).map_err(segment_failed)?;
        segment.check_one_writer(log::segment_len(shape)).map_err(segment_failed)?;
        let release = self.release.clone();
        let mut inlet = Inlet::enter(InletSpec {
            id,
            log: segment.map_readable().map_err(segment_failed)?,
            shape,
            page,
            line,
            tag,
            reliable,
            depth: DEPTH,
            history,
            lane: None,
            signal,
            slot,
            bell: Arc::clone(&peer.bell) as Arc<dyn Ring>,
            on_released: Box::new(move || {
                // Where the bridge is gone, its session is, and the dispatcher knows.
                let _ = release.send(id);
            }),
        })
        .map_err(|_| LocalError::Protocol("a log is not what it was said to be"))?;
        if peer.dead {
            inlet.publisher_gone();
        }
        Ok(inlet)
    }

    fn not_reading(&mut self, subscription: SubscriptionId, text: String) {
        if let Some(reading) = self.reading.get_mut(&subscription) {
            reading.awaited = false;
            reading.closed = true;
            self.events.push_back(Event::NotReading { subscription, text });
            self.end_closed(subscription);
        }
    }

    pub(super) fn left(&mut self, id: LinkId) {
        self.session.say(ToDispatcher::LinkLeft { link: id, evicted: false });
        if let Some(reading) = self.reading.get_mut(&id.subscription) {
            reading.link = None;
            self.end_closed(id.subscription);
        }
    }

    pub(super) fn link_ended(&mut self, id: LinkId, reason: EndReason) {
        let reading = self.reading.get(&id.subscription);
        if reading.is_some_and(|it| it.link.is_some_and(|(link, _)| link == id)) {
            self.ended(id.subscription, reason == EndReason::Died);
            return;
        }
        self.session.say(ToDispatcher::LinkLeft { link: id, evicted: false });
        if reading.is_some_and(|it| it.awaited && (it.publication, it.epoch) == (id.publication, id.epoch)) {
            self.not_reading(id.subscription, "it has ended".to_owned());
        }
    }

    fn ended(&mut self, subscription: SubscriptionId, died: bool) {
        if let Some(reading) = self.reading.get_mut(&subscription).filter(|it| !it.ended) {
            reading.ended = true;
            self.events.push_back(Event::Ended { subscription, died });
        }
    }

    /// The process of a node died: the dispatcher may not have noticed yet, and nobody waits for its readers any more.
    pub(super) fn bury(&mut self, node: NodeId) {
        debug!(event = "neighbour_died", %node);
        let mut removed = Vec::new();
        for publishing in self.publishing.values_mut() {
            let theirs: Vec<_> = publishing.subscribers.iter().filter(|it| *it.1 == node).map(|it| *it.0).collect();
            removed.extend(theirs);
        }
        for link in removed {
            self.remove_link(link);
        }
        let ended = self.reading.iter().filter(|(_, it)| it.link.is_some_and(|(_, publisher)| publisher == node));
        for subscription in ended.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.ended(subscription, true);
        }
        self.events.push_back(Event::Rung);
    }
}

fn make_log(shape: LogShape, slot: u32, descriptor: Option<OwnedFd>) -> Result<Outlet, LocalError> {
    let descriptor = descriptor.ok_or(LocalError::Protocol("`LogGranted` came without a log"))?;
    log::check(shape).map_err(|_| LocalError::Protocol("a log has no valid shape"))?;
    if slot >= SLOTS {
        return Err(LocalError::Protocol("a slot lies outside of the signal page"));
    }
    let segment = Segment::from_fd(descriptor).map_err(segment_failed)?;
    if segment.len() < log::segment_len(shape) {
        return Err(LocalError::Protocol("a log is too short for its shape"));
    }
    let mapping = segment.map_writable().map_err(segment_failed)?;
    let outlet = Outlet::create(mapping, shape, 1, Retention::default());
    segment.seal_for_one_writer().map_err(segment_failed)?;
    Ok(outlet)
}
