//! Direct publications and their lanes, as the session thread holds them.
//!
//! A lane is a publication like any other one here; what is different stands in this module: it is made when the dispatcher says
//! that a subscription wants it, its outlet goes to the [`DirectPublisher`](crate::DirectPublisher), and when its reader is
//! gone, what that one had not handled may be another one's. The log itself is passed on then: nothing is copied, and the
//! publisher's own thread need not do anything.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::Sender;
use nodeset_bus::log::{Glimpse, Retention};
use nodeset_bus::message::Schema;
use nodeset_bus::outlet::{Outlet, keep_for_another};
use nodeset_bus::protocol::{
    AdvertiseDirect, Expected, LaneOf, LaneWanted, LinkId, LogShape, Mismatch, PublicationId, SubscriptionId,
    ToDispatcher,
};
use tracing::{debug, info};

use super::connection::Outbox;
use super::publications::{Publication, PublicationShared};
use super::table::{Table, say};
use crate::error::AdvertiseError;
use crate::event::NodeEvent;

/// A direct publisher is being made.
pub(crate) struct DirectRequest {
    pub(crate) publication: PublicationId,
    pub(crate) topic: Arc<str>,
    pub(crate) schema: Schema,
    /// Of each lane.
    pub(crate) shape: LogShape,
    pub(crate) retention: Retention,
    /// What a subscriber that is gone had not handled goes to another one.
    pub(crate) redeliver: bool,
    pub(crate) shared: Arc<DirectShared>,
    pub(crate) reply: Sender<Result<(), AdvertiseError>>,
}

/// A lane, on its way to its publisher.
pub(crate) struct OpenedLane {
    pub(crate) id: PublicationId,
    /// Name of the subscriber's node.
    pub(crate) node: Arc<str>,
    pub(crate) weight: u16,
    pub(crate) outlet: Box<Outlet>,
}

/// What the session thread tells a direct publisher.
pub(crate) enum LaneNews {
    /// There is a lane; its subscriber is not in it yet.
    Opened(OpenedLane),
    /// The subscriber of that lane is in it.
    Ready(PublicationId),
    /// The subscriber of that lane is gone.
    Closed {
        lane: PublicationId,
        /// Sequence of the first message that it had not handled.
        done: u64,
    },
}

/// What a direct publisher and the session thread share.
#[derive(Default)]
pub(crate) struct DirectShared {
    /// Something is in `news`. Beside the lock, so that looking costs a load.
    fresh: AtomicBool,
    news: Mutex<VecDeque<LaneNews>>,
    /// The links of all lanes to the subscriptions that they were made for.
    pub(crate) links: Arc<PublicationShared>,
}

impl DirectShared {
    fn push(&self, news: LaneNews) {
        let mut queue = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(news);
        // PAIRS inbox-fresh: Release here, Acquire in DirectShared::is_fresh (the lock orders the contents, too).
        self.fresh.store(true, Ordering::Release);
    }

    /// Whether there is news.
    #[inline]
    pub(crate) fn is_fresh(&self) -> bool {
        // PAIRS inbox-fresh: Acquire here, Release in DirectShared::push.
        self.fresh.load(Ordering::Acquire)
    }

    /// What is new.
    pub(crate) fn take(&self) -> VecDeque<LaneNews> {
        let mut queue = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: under the lock, and so ordered with the stores of `push`.
        self.fresh.store(false, Ordering::Relaxed);
        std::mem::take(&mut queue)
    }
}

/// One direct publication of the node.
pub(super) struct Direct {
    topic: Arc<str>,
    schema: Schema,
    shape: LogShape,
    retention: Retention,
    redeliver: bool,
    shared: Arc<DirectShared>,
    /// Who waits for the dispatcher's answer.
    pub(super) reply: Option<Sender<Result<(), AdvertiseError>>>,
    /// It exists: the dispatcher confirmed it.
    pub(super) live: bool,
    /// Counts whose turn it is to take over what another one left.
    turn: usize,
}

impl Direct {
    /// What to say to a dispatcher.
    pub(super) fn advertise(&self, publication: PublicationId) -> ToDispatcher {
        ToDispatcher::AdvertiseDirect(AdvertiseDirect {
            publication,
            topic: self.topic.to_string(),
            schema: self.schema.clone(),
        })
    }

    pub(super) fn topic(&self) -> &Arc<str> {
        &self.topic
    }
}

/// What is different where a publication is a lane.
pub(super) struct Lane {
    /// As the dispatcher is told.
    pub(super) of: LaneOf,
    /// Name of the node that it was made for.
    node: Arc<str>,
    weight: u16,
    /// The reader that it was made for is gone.
    orphan: bool,
    /// It was passed on to `of.to`, whose link has not ended since.
    passed: bool,
    /// The link in whose place what nobody handled yet is kept.
    keeper: Option<LinkId>,
    /// The publisher sends nothing more: sequence after its last message.
    closed_at: Option<u64>,
}

impl Table {
    // Asked by the node's own threads.

    pub(super) fn advertise_direct(&mut self, request: DirectRequest, outbox: &mut Outbox) {
        let DirectRequest { publication: id, topic, schema, shape, retention, redeliver, shared, reply } = request;
        let reply = Some(reply);
        let direct = Direct { topic, schema, shape, retention, redeliver, shared, reply, live: false, turn: 0 };
        outbox.push_back((direct.advertise(id), Vec::new()));
        self.directs.insert(id, direct);
    }

    /// The publisher is gone. Its lanes are drained by whoever reads them.
    pub(super) fn withdraw_direct(&mut self, id: PublicationId, outbox: &mut Outbox) {
        if self.directs.remove(&id).is_none() {
            return;
        }
        say(outbox, ToDispatcher::Unadvertise { publication: id });
        for lane in self.lanes_of(id) {
            self.withdraw(lane, outbox);
        }
    }

    /// The publisher sends nothing more over that lane, which ends before `end`.
    pub(super) fn lane_closed(&mut self, id: PublicationId, end: u64, outbox: &mut Outbox) {
        let Some(lane) = self.publications.get_mut(&id).and_then(|it| it.lane.as_mut()) else { return };
        lane.closed_at = Some(end);
        self.find_heir(id, outbox);
    }

    // Said by the dispatcher.

    pub(super) fn lane_wanted(&mut self, wanted: LaneWanted, outbox: &mut Outbox) {
        let LaneWanted { publication: direct_id, subscription, node, weight } = wanted;
        let Some(direct) = self.directs.get(&direct_id) else { return };
        let id = direct_id.lane_to(subscription);
        // Asked twice; or the old one is still being drained: its end is answered by another request.
        if self.publications.contains_key(&id) {
            return;
        }
        let of = LaneOf { direct: direct_id, to: subscription, first: 0 };
        let lane = Lane { of, node: node.into(), weight, orphan: false, passed: false, keeper: None, closed_at: None };
        let Direct { topic, schema, shape, retention, shared, .. } = direct;
        let (topic, links) = (Arc::clone(topic), Arc::clone(&shared.links));
        let publication = Publication::lane(topic, schema.clone(), *shape, *retention, links, lane);
        say(outbox, ToDispatcher::Advertise(publication.advertise(id)));
        self.publications.insert(id, publication);
    }

    /// The direct publication is there, or one of its lanes. False when it is neither.
    pub(super) fn direct_advertised(
        &mut self,
        id: PublicationId,
        expected: &[Expected],
        mismatched: &[Mismatch],
    ) -> bool {
        let Some(direct) = self.directs.get_mut(&id) else { return false };
        direct.live = true;
        direct.shared.links.expect(expected.to_vec());
        let Some(reply) = direct.reply.take() else {
            mismatched.iter().for_each(|mismatch| self.tell_mismatch(mismatch.clone()));
            return true;
        };
        let answer = match mismatched.first().cloned() {
            None => Ok(()),
            Some(Mismatch { topic, node, difference, .. }) => Err(AdvertiseError::Mismatch { topic, node, difference }),
        };
        // A publisher that is not made withdraws what it asked for.
        let _ = reply.send(answer);
        true
    }

    /// A lane exists for the dispatcher.
    pub(super) fn lane_advertised(
        &mut self,
        id: PublicationId,
        outlet: Box<Outlet>,
        linked: bool,
        outbox: &mut Outbox,
    ) {
        let Some(publication) = self.publications.get_mut(&id) else { return };
        let Some(lane) = &publication.lane else { return };
        let shared = self.directs.get(&lane.of.direct).map(|direct| Arc::clone(&direct.shared));
        let Some(shared) = shared.filter(|_| linked) else {
            // Its subscription, or its publisher, went meanwhile.
            publication.shared.gone(link_of(id, lane.of.to));
            self.withdraw(id, outbox);
            return;
        };
        let (node, weight) = (Arc::clone(&lane.node), lane.weight);
        shared.push(LaneNews::Opened(OpenedLane { id, node, weight, outlet }));
    }

    pub(super) fn lane_ready(&mut self, id: LinkId, peer: Arc<str>, outbox: &mut Outbox) {
        let Some(publication) = self.publications.get_mut(&id.publication) else { return };
        let (Some(lane), Some(log)) = (&mut publication.lane, &publication.log) else { return };
        // Whoever is in the log now keeps what it needs itself.
        if let Some(keeper) = lane.keeper.take_if(|keeper| *keeper != id) {
            log.links.remove(keeper);
        }
        if lane.orphan {
            return;
        }
        let direct_id = lane.of.direct;
        if let Some(direct) = self.directs.get(&direct_id) {
            direct.shared.push(LaneNews::Ready(id.publication));
            // After the news, which whoever waits for this looks for next.
            direct.shared.links.ready(id, peer);
            // The publisher may wait for it.
            self.core.waiter.kick();
        }
        // It can take over what others left.
        for orphan in self.lanes_of(direct_id) {
            self.find_heir(orphan, outbox);
        }
    }

    /// The reader of a lane is gone: the link leaves the list, and what it had not handled is looked after. Called instead of
    /// taking the link off the list.
    pub(super) fn lane_left(&mut self, id: LinkId, outbox: &mut Outbox) {
        let Some(publication) = self.publications.get_mut(&id.publication) else { return };
        let (Some(lane), Some(log)) = (&mut publication.lane, &publication.log) else { return };
        let direct = self.directs.get(&lane.of.direct);
        lane.of.first = lane.of.first.max(log.links.done(id).unwrap_or(0));
        lane.passed = false;
        let redeliver = direct.is_some_and(|direct| direct.redeliver);
        if redeliver && lane.keeper.is_none() && keep_for_another(&log.links, id) {
            lane.keeper = Some(id);
        } else {
            log.links.remove(id);
        }
        let (first, was_orphan, heir, direct_id) = (lane.of.first, lane.orphan, lane.of.to, lane.of.direct);
        lane.orphan = true;
        if let Some(direct) = direct.filter(|_| !was_orphan) {
            direct.shared.push(LaneNews::Closed { lane: id.publication, done: first });
            self.core.waiter.kick();
        }
        // This one, and those that it was to take over.
        for orphan in self.lanes_of(direct_id) {
            let concerned = orphan == id.publication
                || self.publications.get(&orphan).and_then(|it| it.lane.as_ref()).is_some_and(|it| it.of.to == heir);
            if concerned {
                self.find_heir(orphan, outbox);
            }
        }
    }

    /// Gives what a lane's reader left to another one, if there is something and somebody; withdraws the lane once everything is
    /// handled and nothing more comes.
    fn find_heir(&mut self, id: PublicationId, outbox: &mut Outbox) {
        let Some(publication) = self.publications.get(&id) else { return };
        let (Some(lane), Some(log)) = (&publication.lane, &publication.log) else { return };
        if !lane.orphan || !publication.links.is_empty() {
            return;
        }
        let (LaneOf { direct: direct_id, first, to }, passed) = (lane.of, lane.passed);
        let redeliver = self.directs.get(&direct_id).is_some_and(|direct| direct.redeliver);
        let over = lane.closed_at.is_some_and(|end| first >= end || !redeliver);
        let end = lane.closed_at.or_else(|| {
            let seen = Glimpse::new(log.shape).look(log.segment.fd().as_fd());
            seen.ok().map(|state| state.next_sequence)
        });
        let heirs = self.live_readers(direct_id);
        if over {
            self.withdraw(id, outbox);
            return;
        }
        // Passed on a second time while the link is on its way, it would be read by both.
        let is_awaited = passed && heirs.iter().any(|(heir, _)| *heir == to);
        if !redeliver || is_awaited || heirs.is_empty() || end.is_some_and(|end| first >= end) {
            return;
        }
        let Some(direct) = self.directs.get_mut(&direct_id) else { return };
        direct.turn += 1;
        let (to, node) = heirs[direct.turn % heirs.len()].clone();
        info!(event = "lane_passed_on", topic = &*direct.topic, to = &*node, first);
        let lane = self.publications.get_mut(&id).and_then(|it| it.lane.as_mut());
        if let Some(lane) = lane {
            (lane.of.to, lane.passed) = (to, true);
            say(outbox, ToDispatcher::PassLane { publication: id, to, first });
        }
    }

    /// The subscriptions, and names of their nodes, that read lanes of their own.
    fn live_readers(&self, direct: PublicationId) -> Vec<(SubscriptionId, Arc<str>)> {
        let mut readers: Vec<_> = self
            .publications
            .iter()
            .filter_map(|(id, it)| it.lane.as_ref().map(|lane| (id, it, lane)))
            .filter(|(_, _, lane)| lane.of.direct == direct && !lane.orphan)
            .filter(|(id, it, lane)| it.links.contains_key(&link_of(**id, lane.of.to)))
            .map(|(_, _, lane)| (lane.of.to, Arc::clone(&lane.node)))
            .collect();
        readers.sort_unstable();
        readers
    }

    fn lanes_of(&self, direct: PublicationId) -> Vec<PublicationId> {
        let lanes =
            self.publications.iter().filter(|(_, it)| it.lane.as_ref().is_some_and(|it| it.of.direct == direct));
        lanes.map(|(&id, _)| id).collect()
    }

    /// A lane could not be made.
    pub(super) fn lane_failed(&self, id: PublicationId, publication: &Publication, error: &AdvertiseError) {
        let Some(lane) = &publication.lane else { return };
        publication.shared.gone(link_of(id, lane.of.to));
        debug!(event = "lane_not_made", topic = &*publication.topic, to = &*lane.node, %error);
        let reason = format!("lane of `{}` to node `{}`: {error}", publication.topic, lane.node);
        self.core.tell(&NodeEvent::Refused { reason });
    }
}

/// The link of a lane.
fn link_of(lane: PublicationId, to: SubscriptionId) -> LinkId {
    LinkId { publication: lane, epoch: 1, subscription: to }
}
