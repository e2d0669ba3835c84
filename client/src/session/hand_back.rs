//! Handing back: what a node says to a dispatcher that may not know it.
//!
//! Order: bells and signal pages; what is published, with the logs; what is subscribed; the links of both; `HandedBack`. What
//! was asked for and not answered follows, as if it were new.

use std::sync::Arc;

use nodeset_bus::protocol::{End, HeldLink, ToDispatcher};

use super::connection::{Attached, Outbox};
use super::table::Table;

impl Table {
    pub(super) fn hand_back(&mut self, outbox: &mut Outbox) {
        for (&uid, bell) in &self.own_bells {
            outbox.push_back((ToDispatcher::Bell { uid }, vec![Attached::Bell(Arc::clone(bell))]));
        }
        for (&uid, signal) in &self.own_signals {
            outbox.push_back((ToDispatcher::Signal { uid }, vec![Attached::segment(&signal.segment)]));
        }
        // What was not confirmed starts over: its log was never anybody else's.
        for publication in self.publications.values_mut() {
            publication.start_over();
        }
        for (&id, direct) in self.directs.iter().filter(|(_, it)| it.live) {
            outbox.push_back((direct.advertise(id), Vec::new()));
        }
        let mut links = Vec::new();
        for (&id, publication) in &self.publications {
            if let Some(log) = publication.log.as_ref().filter(|_| publication.live) {
                let advertise = ToDispatcher::Advertise(publication.advertise(id));
                outbox.push_back((advertise, vec![Attached::segment(&log.segment)]));
                links.extend(publication.links.iter().map(|(&link, held)| HeldLink {
                    link,
                    peer: held.peer,
                    end: End::Publisher,
                    line: held.line,
                    tag: held.tag,
                    reliable: held.reliable,
                    demoted: held.demoted,
                }));
            }
        }
        for (&id, subscription) in self.subscriptions.iter().filter(|(_, it)| it.live) {
            outbox.push_back((ToDispatcher::Subscribe(subscription.subscribe(id)), Vec::new()));
            links.extend(subscription.links.iter().map(|(&link, held)| HeldLink {
                link,
                peer: held.peer,
                end: End::Subscriber,
                line: held.line,
                tag: held.tag,
                reliable: held.reliable,
                demoted: false,
            }));
        }
        outbox.extend(links.into_iter().map(|link| (ToDispatcher::HeldLink(link), Vec::new())));
        outbox.push_back((ToDispatcher::HandedBack, Vec::new()));
        for (&id, direct) in self.directs.iter().filter(|(_, it)| !it.live) {
            outbox.push_back((direct.advertise(id), Vec::new()));
        }
        for (&id, publication) in self.publications.iter().filter(|(_, it)| !it.live) {
            outbox.push_back((ToDispatcher::Advertise(publication.advertise(id)), Vec::new()));
        }
        for (&id, subscription) in self.subscriptions.iter().filter(|(_, it)| !it.live) {
            outbox.push_back((ToDispatcher::Subscribe(subscription.subscribe(id)), Vec::new()));
        }
    }
}
