//! The bridge's node on the bus of its own host: publishes what comes from other hosts, reads what goes there.
//!
//! It speaks to the dispatcher as any node does, over its socket. It lives and dies with that dispatcher's process, so it never
//! hands anything back. Everything happens on the bridge's thread: its owner has a `mio` loop, says
//! [`handle`](LocalNode::handle) for each token that [is its own](LocalNode::owns), calls [`beat`](LocalNode::beat) when
//! [`beats_at`](LocalNode::beats_at) is due, and takes what happened from [`poll_event`](LocalNode::poll_event).
//!
//! Before it sleeps, the owner says [`flush`](LocalNode::flush), then [`wish`](LocalNode::wish) with all logs that it reads,
//! and sleeps only if none of them has something to say; afterwards [`awake`](LocalNode::awake).

mod links;
mod neighbours;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use mio::{Registry, Token};
use nodeset_bus::inlet::Inlet;
use nodeset_bus::memory::SharedWords;
use nodeset_bus::message::Schema;
use nodeset_bus::outlet::{Links, Outlet};
use nodeset_bus::page::{HEARTBEAT_EVERY, NodePage, SignalPage};
use nodeset_bus::protocol::endpoint::Endpoint;
use nodeset_bus::protocol::{
    About, Advertise, LinkId, LogShape, NodeId, Origin, PublicationId, Subscribe, SubscriptionId, ToDispatcher, ToNode,
};
use nodeset_bus::sys::Bell;
use nodeset_bus::topic::Topic;
use nodeset_bus::wake::{self, Wish};
use thiserror::Error;

use neighbours::Neighbours;
use session::Session;

/// Where a publisher cannot be told by `membarrier` that somebody sleeps, a sleeper looks again after this time.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Messages of the dispatcher that are taken before others have their turn.
const MESSAGES_A_TURN: usize = 256;

/// The bridge cannot take part in the bus of its own host. It is over; start the dispatcher again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The kernel refused something.
    #[error("{doing} failed")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The dispatcher does not take it.
    #[error("the dispatcher refuses the bridge: {0}")]
    Refused(String),
    /// The dispatcher says what it must not: a bug.
    #[error("the dispatcher broke the control protocol: {0}")]
    Protocol(&'static str),
    /// The dispatcher ends.
    #[error("the dispatcher has gone")]
    Gone,
}

/// What happened.
pub enum Event {
    /// It has its place: from now on it can publish and subscribe.
    Attached,
    /// The answer to [`LocalNode::publish`].
    Publishing {
        /// Which.
        publication: PublicationId,
        /// Where its messages go.
        outlet: Box<Outlet>,
        /// Of its log.
        shape: LogShape,
    },
    /// The other answer.
    NotPublishing {
        /// Which.
        publication: PublicationId,
        /// Why.
        text: String,
    },
    /// The answer to [`LocalNode::read`].
    Reading {
        /// Which.
        subscription: SubscriptionId,
        /// Where its messages come from.
        inlet: Box<Inlet>,
        /// Its publisher is of another user than this process or root: it may change bytes while they are read.
        foreign: bool,
    },
    /// The other answer.
    NotReading {
        /// Which.
        subscription: SubscriptionId,
        /// Why.
        text: String,
    },
    /// What is read ended: its publisher withdrew it, or died. What is there can still be read.
    Ended {
        /// Which.
        subscription: SubscriptionId,
        /// Its publisher died.
        died: bool,
    },
    /// A publisher committed something, or a reader left a block.
    Rung,
}

/// What is read is one publication, and no other one on its topic.
struct Reading {
    publication: PublicationId,
    epoch: u64,
    history: u64,
    /// Until it is entered, or cannot be.
    awaited: bool,
    /// The owner was told of its end.
    ended: bool,
    link: Option<(LinkId, NodeId)>,
    /// It is over once its link is left.
    closed: bool,
}

struct Publishing {
    links: Option<Arc<Links>>,
    slot: u32,
    /// Until the dispatcher confirms it, and whoever subscribes it by then is linked: nothing is committed before.
    outlet: Option<(Box<Outlet>, LogShape)>,
    /// The dispatcher confirmed it.
    live: bool,
    /// Links that are on their way, to nodes that answer.
    expected: BTreeSet<LinkId>,
    /// Who is linked.
    subscribers: BTreeMap<LinkId, NodeId>,
}

/// See the module.
pub struct LocalNode {
    id: NodeId,
    session: Session,
    page: Option<Arc<NodePage<SharedWords>>>,
    /// The end of the life-line that hangs up with this process; the dispatcher has the other one.
    _life_line: OwnedFd,
    neighbours: Neighbours,
    bells: BTreeMap<u32, Bell>,
    signals: BTreeMap<u32, SignalPage<SharedWords>>,
    publishing: BTreeMap<PublicationId, Publishing>,
    reading: BTreeMap<SubscriptionId, Reading>,
    /// Links whose inlets are gone.
    released: Receiver<LinkId>,
    release: Sender<LinkId>,
    events: VecDeque<Event>,
    registry: Registry,
    first_token: usize,
    next_token: usize,
    /// Tokens end before this one.
    last_token: usize,
    beats: u64,
    beats_at: Instant,
}

impl LocalNode {
    /// Connects to the dispatcher at `endpoint`, as a node of that name. Tokens from `tokens.start` on, before `tokens.end`,
    /// are its own.
    ///
    /// # Errors
    ///
    /// Nobody listens there, or there are no descriptors.
    pub fn connect(
        endpoint: &Endpoint,
        name: &str,
        registry: Registry,
        tokens: std::ops::Range<usize>,
        now: Instant,
    ) -> Result<LocalNode, LocalError> {
        let id = NodeId(random()?);
        let (session, life_line) = Session::connect(endpoint, id, name)?;
        session.register(&registry, Token(tokens.start))?;
        let (release, released) = unbounded();
        Ok(LocalNode {
            id,
            session,
            page: None,
            _life_line: life_line,
            neighbours: Neighbours::default(),
            bells: BTreeMap::new(),
            signals: BTreeMap::new(),
            publishing: BTreeMap::new(),
            reading: BTreeMap::new(),
            released,
            release,
            events: VecDeque::new(),
            registry,
            first_token: tokens.start,
            next_token: tokens.start + 1,
            last_token: tokens.end,
            beats: 0,
            beats_at: now,
        })
    }

    /// Which node it is.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Whether an event with that token is for it.
    pub fn owns(&self, token: Token) -> bool {
        (self.first_token..self.last_token).contains(&token.0)
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Repeats the publication `origin` of another host on `topic`; answered by an event. After [`Event::Attached`] only.
    ///
    /// # Errors
    ///
    /// There are no random numbers.
    pub fn publish(
        &mut self,
        topic: &Topic,
        schema: Schema,
        shape: LogShape,
        origin: Origin,
    ) -> Result<PublicationId, LocalError> {
        let publication = PublicationId(random()?);
        let (topic, origin) = (topic.to_string(), Some(origin));
        let asked = Advertise { publication, epoch: 1, topic, schema, shape, slot: None, lane: None, origin };
        self.session.say(ToDispatcher::Advertise(asked));
        let links = None;
        let (subscribers, live, expected) = (BTreeMap::new(), false, BTreeSet::new());
        self.publishing.insert(publication, Publishing { links, live, expected, slot: 0, outlet: None, subscribers });
        Ok(publication)
    }

    /// Ends a publication; its outlet was finished, or is dropped.
    pub fn withdraw(&mut self, publication: PublicationId) {
        if self.publishing.remove(&publication).is_some() {
            self.session.say(ToDispatcher::Unadvertise { publication });
        }
    }

    /// Reads one publication of `topic`, with so many messages from before; answered by an event. After [`Event::Attached`] only.
    ///
    /// A subscription of its own: it is linked to all publications of the topic, and leaves those that it does not want.
    ///
    /// # Errors
    ///
    /// There are no random numbers.
    pub fn read(
        &mut self,
        topic: &Topic,
        (publication, epoch): (PublicationId, u64),
        reliable: bool,
        history: u64,
    ) -> Result<SubscriptionId, LocalError> {
        let subscription = SubscriptionId(random()?);
        // No share of what direct publishers send: that is for one subscriber of this host.
        let (topic, weight) = (topic.to_string(), 0);
        let asked = Subscribe { subscription, topic, schema: None, reliable, weight, across_ms: None };
        self.session.say(ToDispatcher::Subscribe(asked));
        let (link, awaited, ended, closed) = (None, true, false, false);
        self.reading.insert(subscription, Reading { publication, epoch, history, awaited, ended, link, closed });
        Ok(subscription)
    }

    /// Reads it no more; its inlet is dropped before or after that.
    pub fn leave(&mut self, subscription: SubscriptionId) {
        let Some(reading) = self.reading.get_mut(&subscription) else { return };
        reading.closed = true;
        self.end_closed(subscription);
    }

    fn end_closed(&mut self, subscription: SubscriptionId) {
        if self.reading.get(&subscription).is_some_and(|reading| reading.closed && reading.link.is_none()) {
            self.reading.remove(&subscription);
            self.session.say(ToDispatcher::Unsubscribe { subscription });
        }
    }

    /// The kernel says that something of it is ready.
    ///
    /// # Errors
    ///
    /// The bridge is over.
    pub fn handle(&mut self, token: Token) -> Result<(), LocalError> {
        if token.0 == self.first_token {
            return Ok(());
        }
        match self.neighbours.died(token) {
            Some(node) => self.bury(node),
            None => self.events.push_back(Event::Rung),
        }
        Ok(())
    }

    /// Takes what the dispatcher said; to be called once each turn. True: there may be more.
    ///
    /// # Errors
    ///
    /// The bridge is over.
    pub fn turn(&mut self) -> Result<bool, LocalError> {
        while let Ok(link) = self.released.try_recv() {
            self.left(link);
        }
        let mut more = true;
        for _ in 0..MESSAGES_A_TURN {
            let Some((message, descriptors)) = self.session.receive()? else {
                more = false;
                break;
            };
            self.on_message(message, descriptors)?;
        }
        Ok(more)
    }

    /// Says what there is to say; to be called before each sleep.
    ///
    /// # Errors
    ///
    /// The bridge is over.
    pub fn flush(&mut self) -> Result<(), LocalError> {
        self.session.flush()
    }

    /// When [`beat`](Self::beat) is due.
    pub fn beats_at(&self) -> Instant {
        self.beats_at
    }

    /// Shows the dispatcher that it runs.
    pub fn beat(&mut self, now: Instant) {
        if now >= self.beats_at {
            self.beats_at = now + HEARTBEAT_EVERY;
            self.beats += 1;
            if let Some(page) = &self.page {
                page.beat(self.beats);
            }
        }
    }

    /// The steps before sleeping: from now on commits in these logs ring. Look once more at each of them, then sleep, at most
    /// as long as this says.
    #[must_use]
    pub fn wish<'a>(&self, logs: impl IntoIterator<Item = &'a Wish<SharedWords>> + Clone) -> Option<Duration> {
        let page = self.page.as_ref()?;
        wake::wish(page, logs.clone());
        (!wake::make_visible(page, logs)).then_some(LOOK_AGAIN)
    }

    /// It sleeps no more: nobody needs to ring.
    pub fn awake(&self) {
        if let Some(page) = &self.page {
            page.set_asleep(false);
        }
    }

    fn token(&mut self) -> Result<Token, LocalError> {
        if self.next_token == self.last_token {
            return Err(LocalError::Protocol("it introduced more nodes than there are numbers for"));
        }
        self.next_token += 1;
        Ok(Token(self.next_token - 1))
    }

    fn on_message(&mut self, message: ToNode, descriptors: Vec<OwnedFd>) -> Result<(), LocalError> {
        let mut descriptors = descriptors.into_iter();
        let first = descriptors.next();
        match message {
            ToNode::Welcome(_) => self.welcome(first)?,
            ToNode::Leaving => return Err(LocalError::Gone),
            ToNode::NameTaken(_) | ToNode::Replaced(_) => {
                return Err(LocalError::Refused("another node has its name".to_owned()));
            }
            ToNode::Refused { about, text, .. } => self.refused(about, text)?,
            ToNode::Peer(peer) => {
                let token = self.token()?;
                let rest = [first, descriptors.next(), descriptors.next()];
                self.neighbours.introduce(&self.registry, token, &peer, rest)?;
            }
            ToNode::ForgetPeer { node, .. } => self.neighbours.forget(&self.registry, node),
            ToNode::Signal { node } => self.neighbours.signal(node, first)?,
            ToNode::OwnSignal { uid } => {
                self.signals.insert(uid, neighbours::signal_page(first)?);
            }
            ToNode::OwnBell { uid } => self.own_bell(uid, first)?,
            ToNode::LogGranted { publication, shape, slot } => self.log_granted(publication, shape, slot, first),
            ToNode::Advertised { publication, expected, .. } => self.advertised(publication, &expected),
            ToNode::Subscribed { subscription, expected, .. } => self.subscribed(subscription, &expected),
            ToNode::ListLink(link) => self.list_link(link),
            ToNode::LinkReady { link } | ToNode::LinkLate { link } => self.no_longer_expected(link),
            ToNode::RemoveLink { link, .. } => self.remove_link(link),
            ToNode::Demote { link } => self.demote(link),
            ToNode::EnterLink(link) => self.enter_link(link, first),
            ToNode::LinkEnded { link, reason } => self.link_ended(link, reason),
            // For people, for tools, or for nodes that do what the bridge does not.
            ToNode::Renamed { .. }
            | ToNode::LaneWanted(_)
            | ToNode::Mismatch(_)
            | ToNode::Denied { .. }
            | ToNode::NodeIs(_)
            | ToNode::NodeGone { .. }
            | ToNode::NodesComplete
            | ToNode::Listing(_)
            | ToNode::ListingEnd => {}
        }
        Ok(())
    }

    fn refused(&mut self, about: About, text: String) -> Result<(), LocalError> {
        match about {
            About::Session => return Err(LocalError::Refused(text)),
            About::Publication(publication) => {
                if self.publishing.remove(&publication).is_some() {
                    self.events.push_back(Event::NotPublishing { publication, text });
                }
            }
            About::Subscription(subscription) => {
                if self.reading.remove(&subscription).is_some() {
                    self.events.push_back(Event::NotReading { subscription, text });
                }
            }
            About::Link(_) | About::Replace => {}
        }
        Ok(())
    }

    fn own_bell(&mut self, uid: u32, descriptor: Option<OwnedFd>) -> Result<(), LocalError> {
        let descriptor = descriptor.ok_or(LocalError::Protocol("`OwnBell` came without a bell"))?;
        let bell = Bell::from_fd(descriptor).map_err(|source| LocalError::System { doing: "taking a bell", source })?;
        let token = self.token()?;
        session::watch(&self.registry, &bell, token)?;
        self.bells.insert(uid, bell);
        Ok(())
    }
}

pub(super) fn random() -> Result<u64, LocalError> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| LocalError::System { doing: "drawing a random number", source: error.into() })?;
    Ok(u64::from_ne_bytes(bytes))
}
