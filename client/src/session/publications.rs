//! What the node publishes: from the request to the outlet, and the list of its links.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use nodeset_bus::evict::Evict;
use nodeset_bus::log::Retention;
use nodeset_bus::memory::Segment;
use nodeset_bus::message::Schema;
use nodeset_bus::outlet::{Links, Outlet};
use nodeset_bus::protocol::{Advertise, Expected, LinkId, LogShape, NodeId, PublicationId};

use super::Awaited;
use super::lanes::Lane;
use crate::error::AdvertiseError;

/// A publisher is being made.
pub(crate) struct AdvertiseRequest {
    pub(crate) publication: PublicationId,
    pub(crate) topic: Arc<str>,
    pub(crate) schema: Schema,
    pub(crate) shape: LogShape,
    pub(crate) retention: Retention,
    pub(crate) evict: Option<Evict>,
    /// How long a log needs little before a fresh one takes its place.
    pub(crate) give_back_after: Duration,
    /// The publication of the same publisher that this one takes the place of.
    pub(crate) follows: Option<PublicationId>,
    pub(crate) shared: Arc<PublicationShared>,
    pub(crate) reply: Sender<Result<Box<Outlet>, AdvertiseError>>,
}

/// What a publisher and the session thread share.
#[derive(Default)]
pub(crate) struct PublicationShared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// Links that are on their way, by the name of their subscriber's node.
    expected: HashMap<LinkId, Awaited>,
    /// Those that are ready.
    ready: HashMap<LinkId, Arc<str>>,
}

impl PublicationShared {
    pub(super) fn expect(&self, expected: Vec<Expected>) {
        self.change(|progress| {
            for Expected { link, node, late } in expected {
                if !progress.ready.contains_key(&link) {
                    progress.expected.insert(link, Awaited { node: node.into(), late });
                }
            }
        });
    }

    pub(super) fn ready(&self, link: LinkId, node: Arc<str>) {
        self.change(|progress| {
            progress.expected.remove(&link);
            progress.ready.insert(link, node);
        });
    }

    pub(super) fn gone(&self, link: LinkId) {
        self.change(|progress| {
            progress.expected.remove(&link);
            progress.ready.remove(&link);
        });
    }

    /// The other end of a link has become slow or stopped.
    pub(super) fn late(&self, link: LinkId) {
        self.change(|progress| {
            if let Some(awaited) = progress.expected.get_mut(&link) {
                awaited.late = true;
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Whether a link is ready to each of these subscriptions, and none is on its way.
    pub(crate) fn covers(&self, links: &[LinkId]) -> bool {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = |wanted: &LinkId| progress.ready.keys().any(|it| it.subscription == wanted.subscription);
        progress.expected.is_empty() && links.iter().all(ready)
    }

    /// How many links are ready.
    pub(crate) fn ready_count(&self) -> usize {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).ready.len()
    }

    /// Name of the node at the other end.
    pub(crate) fn name_of(&self, link: LinkId) -> Option<Arc<str>> {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.ready.get(&link).or_else(|| progress.expected.get(&link).map(|it| &it.node)).cloned()
    }

    /// Names of the nodes whose links are on their way.
    pub(crate) fn pending(&self) -> Vec<Arc<str>> {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .expected
            .values()
            .map(|it| Arc::clone(&it.node))
            .collect()
    }

    /// Waits until no link is on its way but to those who are late, or until the deadline.
    pub(crate) fn wait_settled(&self, deadline: Instant) {
        self.wait(deadline, |progress| progress.expected.values().all(|it| it.late));
    }

    /// Waits until so many links are ready; says how many are.
    pub(crate) fn wait_ready(&self, wanted: usize, deadline: Instant) -> usize {
        self.wait(deadline, |progress| progress.ready.len() >= wanted);
        self.ready_count()
    }

    fn wait(&self, deadline: Instant, done: impl Fn(&Progress) -> bool) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        while !done(&progress) {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining == Duration::ZERO {
                return;
            }
            progress = self.changed.wait_timeout(progress, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One publication of the node: asked for (no log), granted (a log, and the outlet waits for the dispatcher to confirm it),
/// or live.
pub(super) struct Publication {
    pub(super) topic: Arc<str>,
    pub(super) schema: Schema,
    pub(super) epoch: u64,
    /// As asked for.
    pub(super) shape: LogShape,
    pub(super) retention: Retention,
    pub(super) evict: Option<Evict>,
    pub(super) give_back_after: Option<Duration>,
    pub(super) follows: Option<PublicationId>,
    pub(super) shared: Arc<PublicationShared>,
    /// Who waits for the dispatcher's answer.
    pub(super) reply: Option<Sender<Result<Box<Outlet>, AdvertiseError>>>,
    /// Until its publisher gets it.
    pub(super) outlet: Option<Box<Outlet>>,
    pub(super) log: Option<Log>,
    /// It exists: the dispatcher confirmed it.
    pub(super) live: bool,
    /// Its links, as this end holds them.
    pub(super) links: HashMap<LinkId, OutgoingLink>,
    /// It is one.
    pub(super) lane: Option<Lane>,
}

/// A log as the session thread needs it.
pub(super) struct Log {
    pub(super) segment: Arc<Segment>,
    pub(super) shape: LogShape,
    pub(super) slot: u32,
    pub(super) links: Arc<Links>,
}

/// One link of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutgoingLink {
    pub(super) peer: NodeId,
    pub(super) line: u32,
    pub(super) tag: u16,
    pub(super) reliable: bool,
    pub(super) demoted: bool,
}

impl Publication {
    pub(super) fn new(request: AdvertiseRequest) -> Publication {
        let AdvertiseRequest {
            topic, schema, shape, retention, evict, give_back_after, follows, shared, reply, ..
        } = request;
        Publication {
            topic,
            schema,
            epoch: 1,
            shape,
            retention,
            evict,
            give_back_after: Some(give_back_after),
            follows,
            shared,
            reply: Some(reply),
            outlet: None,
            log: None,
            live: false,
            links: HashMap::new(),
            lane: None,
        }
    }

    /// A lane of a direct publication.
    pub(super) fn lane(
        topic: Arc<str>,
        schema: Schema,
        shape: LogShape,
        retention: Retention,
        shared: Arc<PublicationShared>,
        lane: Lane,
    ) -> Publication {
        Publication {
            topic,
            schema,
            epoch: 1,
            shape,
            retention,
            evict: None,
            // It is short: it waits for its reader rather than grow.
            give_back_after: None,
            follows: None,
            shared,
            reply: None,
            outlet: None,
            log: None,
            live: false,
            links: HashMap::new(),
            lane: Some(lane),
        }
    }

    /// Back to where it was only asked for, unless it exists: a log that was not confirmed was never anybody else's.
    pub(super) fn start_over(&mut self) {
        if !self.live {
            self.outlet = None;
            self.log = None;
            self.links.clear();
        }
    }

    /// What to say to a dispatcher: with the slot when it is handed back, with the wished shape when it is new.
    pub(super) fn advertise(&self, publication: PublicationId) -> Advertise {
        let (shape, slot) = match self.log.as_ref().filter(|_| self.live) {
            Some(log) => (log.shape, Some(log.slot)),
            None => (self.shape, None),
        };
        Advertise {
            publication,
            epoch: self.epoch,
            topic: self.topic.to_string(),
            schema: self.schema.clone(),
            shape,
            slot,
            lane: self.lane.as_ref().map(|lane| lane.of),
            origin: None,
        }
    }
}
