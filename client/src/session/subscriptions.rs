//! What the node subscribes: from the request to the inlets, and the way by which they reach their subscriber.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crossbeam::channel::Sender;
use nodeset_bus::inlet::Inlet;
use nodeset_bus::message::Schema;
use nodeset_bus::protocol::{Expected, LinkId, NodeId, PublicationId, Subscribe, SubscriptionId};

use super::Awaited;
use crate::error::SubscribeError;

/// A subscriber is being made.
pub(crate) struct SubscribeRequest {
    pub(crate) subscription: SubscriptionId,
    pub(crate) topic: Arc<str>,
    /// `None` reads anything.
    pub(crate) schema: Option<Schema>,
    pub(crate) reliable: bool,
    pub(crate) weight: u16,
    pub(crate) across_ms: Option<u32>,
    pub(crate) depth: u64,
    pub(crate) history: u64,
    pub(crate) shared: Arc<SubscriptionShared>,
    pub(crate) reply: Sender<Result<(), SubscribeError>>,
}

/// One end of a link, on its way to or with its subscriber.
pub(crate) struct Port {
    pub(crate) inlet: Inlet,
    pub(crate) publisher: Arc<Publisher>,
    /// Its log goes on from that publication's.
    pub(crate) follows: Option<PublicationId>,
    /// That one is read first, and not yet to its end.
    pub(crate) behind: bool,
    /// Its publisher stopped waiting for it while no dispatcher was there to make a fresh link: it is read on for so long.
    pub(crate) evicted: bool,
}

impl Port {
    pub(super) fn new(inlet: Inlet, publisher: Arc<Publisher>) -> Port {
        let follows = inlet.follows();
        Port { inlet, publisher, follows, behind: false, evicted: false }
    }
}

/// Whose messages come through a port.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) node: Arc<str>,
    /// Of that node.
    pub(crate) host: Arc<str>,
    /// Where it publishes: one of those that the subscription means.
    pub(crate) topic: Arc<str>,
    /// What it publishes, for those who read anything.
    pub(crate) schema: Schema,
    /// Of another user than this one or root: its bytes may change after they were checked.
    pub(crate) foreign: bool,
    /// The log on another host that this one repeats.
    pub(crate) origin: Option<Origin>,
}

/// A log of another host: its publication there, and its epoch.
pub(crate) type Origin = (PublicationId, u64);

/// What the session thread tells a subscriber.
pub(crate) enum Arrival {
    /// A new link.
    Port(Box<Port>),
    /// That link's publisher is gone.
    Gone(LinkId),
}

/// What a subscriber and the session thread share.
#[derive(Default)]
pub(crate) struct SubscriptionShared {
    /// Something is in the inbox. Beside the lock, so that looking costs a load.
    fresh: AtomicBool,
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

#[derive(Default)]
struct Inbox {
    arrivals: VecDeque<Arrival>,
    /// The subscriber is gone.
    closed: bool,
    /// Links that are on their way, by the name of their publisher's node.
    expected: HashMap<LinkId, Awaited>,
}

impl SubscriptionShared {
    /// Gives the subscriber something; gives it back when there is none any more.
    pub(super) fn push(&self, arrival: Arrival) -> Option<Arrival> {
        {
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            if let Arrival::Port(port) = &arrival {
                inbox.expected.remove(&port.inlet.id());
            }
            if inbox.closed {
                return Some(arrival);
            }
            inbox.arrivals.push_back(arrival);
            // PAIRS inbox-fresh: Release here, Acquire in SubscriptionShared::is_fresh (the lock orders the contents, too).
            self.fresh.store(true, Ordering::Release);
        }
        self.changed.notify_all();
        None
    }

    /// Lets the subscriber look at its links again.
    pub(crate) fn touch(&self) {
        // PAIRS inbox-fresh: Release here, Acquire in SubscriptionShared::is_fresh.
        self.fresh.store(true, Ordering::Release);
    }

    pub(super) fn expect(&self, expected: Vec<Expected>, has: impl Fn(LinkId) -> bool) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        for Expected { link, node, late } in expected {
            if !has(link) {
                inbox.expected.insert(link, Awaited { node: node.into(), late });
            }
        }
    }

    /// The other end of a link has become slow or stopped.
    pub(super) fn late(&self, link: LinkId) {
        if let Some(awaited) = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).expected.get_mut(&link) {
            awaited.late = true;
        }
        self.changed.notify_all();
    }

    /// A link will not come.
    pub(super) fn not_coming(&self, link: LinkId) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).expected.remove(&link);
        self.changed.notify_all();
    }

    /// Whether something arrived.
    #[inline]
    pub(crate) fn is_fresh(&self) -> bool {
        // PAIRS inbox-fresh: Acquire here, Release in SubscriptionShared::push and touch.
        self.fresh.load(Ordering::Acquire)
    }

    /// What arrived.
    pub(crate) fn take(&self) -> VecDeque<Arrival> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: under the lock, and so ordered with the stores of `push`.
        self.fresh.store(false, Ordering::Relaxed);
        std::mem::take(&mut inbox.arrivals)
    }

    /// The subscriber goes; what arrived is given back, to be dropped outside the lock.
    pub(crate) fn close(&self) -> VecDeque<Arrival> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.closed = true;
        std::mem::take(&mut inbox.arrivals)
    }

    /// Names of the nodes whose links are on their way.
    pub(crate) fn pending(&self) -> Vec<Arc<str>> {
        self.inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .expected
            .values()
            .map(|it| Arc::clone(&it.node))
            .collect()
    }

    /// Waits until no link is on its way but from those who are late, or until the deadline.
    pub(crate) fn wait_settled(&self, deadline: Instant) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        while !inbox.expected.values().all(|it| it.late) {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return;
            }
            inbox = self.changed.wait_timeout(inbox, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One subscription of the node.
pub(super) struct Subscription {
    /// What is subscribed: a topic, an address or a pattern.
    pub(super) topic: Arc<str>,
    pub(super) schema: Option<Schema>,
    pub(super) reliable: bool,
    pub(super) weight: u16,
    pub(super) across_ms: Option<u32>,
    pub(super) depth: u64,
    pub(super) history: u64,
    pub(super) shared: Arc<SubscriptionShared>,
    /// Who waits for the dispatcher's answer.
    pub(super) reply: Option<Sender<Result<(), SubscribeError>>>,
    /// The dispatcher knows it.
    pub(super) live: bool,
    /// The subscriber is gone; some of its samples may not be.
    pub(super) closed: bool,
    /// Its links, as this end holds them.
    pub(super) links: HashMap<LinkId, IncomingLink>,
}

/// One link of it.
#[derive(Debug, Clone)]
pub(super) struct IncomingLink {
    pub(super) peer: NodeId,
    /// Of its publication.
    pub(super) topic: Arc<str>,
    pub(super) line: u32,
    pub(super) tag: u16,
    pub(super) reliable: bool,
    /// Its end was said already.
    pub(super) ended: bool,
    /// The publisher gave it up.
    pub(super) evicted: bool,
}

impl Subscription {
    /// What to say to a dispatcher.
    pub(super) fn subscribe(&self, subscription: SubscriptionId) -> Subscribe {
        Subscribe {
            subscription,
            topic: self.topic.to_string(),
            schema: self.schema.clone(),
            reliable: self.reliable,
            weight: self.weight,
            across_ms: self.across_ms,
        }
    }
}
