//! One other host: what it wants, what it is sent, what comes from it, over however many connections. A state machine
//! without sockets, clock or threads.
//!
//! How to drive a [`Peer`]:
//! - [`handle`](Peer::handle) takes what happened, [`receive`](Peer::receive) bytes that arrived; after each of them carry out
//!   what [`poll_action`](Peer::poll_action) gives, in that order, until it gives nothing;
//! - while the connection takes bytes, write what [`poll_transmit`](Peer::poll_transmit) gives; ask again after each input;
//! - call [`handle_timeout`](Peer::handle_timeout) when the time that [`poll_timeout`](Peer::poll_timeout) names has come; ask
//!   again after each call of anything else.
//!
//! # What survives a connection
//!
//! | kept | until |
//! |---|---|
//! | interests of this host | they are taken away |
//! | interests of the other side | it is connected again and has said all that it wants ([`Record::Synced`]); if it was restarted, [`Settings::return_grace`] later |
//! | a flow: a log of this host that is sent | nobody over there wants it, or its end was confirmed |
//! | a mirror: a log that comes from the other side | nobody here wants it, it ended, or is not announced again in time |
//!
//! Channels, credit and what is half sent belong to a connection. Where a log goes on is always said by the receiving side,
//! from what it has committed: so each message is there once, whatever was lost with a connection. The sending side only
//! says what it still holds.
//!
//! # Memory
//!
//! No message is ever kept in here. A flow and a mirror take a few hundred bytes each; their number is limited by what both
//! sides said in their greetings, and so is what is owed to a side that does not read ([`Reason::Flood`]).

mod connection;
mod contract;
mod flow;
mod greeting;
mod interest;
mod marks;
mod mirror;
mod reason;
mod receive;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod transmit;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

pub use contract::{
    Action, ConnectionId, Expects, Incoming, Input, InterestId, LogKey, MirrorEnd, Next, Outgoing, Publication, Role,
    Transmit, Want,
};
pub use greeting::{Greeting, greeting};
pub use reason::Reason;
pub use settings::Settings;

#[cfg(doc)]
use crate::bridge::codec::Record;

use connection::Attempts;
use flow::Flow;
use interest::Theirs;
use mirror::Mirror;
use session::{Owed, Session};

/// See the module.
#[derive(Debug)]
pub struct Peer {
    settings: Settings,
    interests: BTreeMap<InterestId, Want>,
    theirs: Theirs,
    flows: BTreeMap<LogKey, Flow>,
    mirrors: BTreeMap<LogKey, Mirror>,
    attempts: Attempts,
    session: Option<Session>,
    actions: VecDeque<Action>,
    /// When all nodes of a side that was restarted have had the time to come back, and we would have heard of it.
    returned: Option<Instant>,
    /// The other side has no mirror any more that it had before this peer was made.
    settled: bool,
    /// When it is looked next for links that keep too much, and for what was refused; `None`: there are none.
    sweep: Option<Instant>,
    status: Status,
}

/// What people want to know of a peer. Counters never fall.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Whether it is connected.
    pub connected: bool,
    /// The last round trip that was measured.
    pub round_trip: Option<Duration>,
    /// Connections so far.
    pub connections: u64,
    /// messages sent, those sent again included
    pub sent: u64,
    /// bytes of frames sent
    pub sent_bytes: u64,
    /// messages sent again after a connection broke
    pub resent: u64,
    /// messages that the other side was told to be lost
    pub lost: u64,
    /// messages that arrived
    pub received: u64,
    /// bytes of frames that arrived
    pub received_bytes: u64,
    /// messages that the other side said to be lost
    pub missed: u64,
    /// Interests of this host that the other side has no room for.
    pub untold: usize,
    /// Why the last connection ended.
    pub last_end: Option<Reason>,
}

impl Peer {
    /// Of a host to which there is no connection yet.
    pub fn new(settings: Settings) -> Peer {
        Peer {
            theirs: Theirs::new(settings.local.clone()),
            settings,
            interests: BTreeMap::new(),
            flows: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            attempts: Attempts::default(),
            session: None,
            actions: VecDeque::new(),
            returned: None,
            settled: false,
            sweep: None,
            status: Status::default(),
        }
    }

    /// Whether messages can be exchanged: it need not be dialled.
    pub fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// For people.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Messages of all flows that the other side has not acknowledged.
    pub fn behind(&self) -> u64 {
        self.flows.values().map(Flow::behind).sum()
    }

    /// Control records that wait to be sent: bounded by what both sides want and have, whatever is said.
    pub fn owed(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.owed.len() + session.progress.len())
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Connected { connection, role, hello } => self.connected(now, connection, role, hello),
            Input::Disconnected { connection } => {
                if self.session.as_ref().is_some_and(|session| session.connection == connection) {
                    self.part(Reason::Broken);
                }
            }
            Input::Wanted { interest, want } => self.wanted(interest, want),
            Input::Unwanted { interest } => self.unwanted(interest),
            Input::Appeared(publication) => self.appeared(publication),
            Input::Went { log, next } => self.went(log, next),
            Input::Linked { log, first, start, position } => self.linked(log, first, start, position),
            Input::NotLinked { log } => self.not_linked(log),
            Input::Available { log, next, position } => self.available(now, log, next, position),
            Input::Stalled { log } => self.stalled(now, log),
            Input::MirrorOpened { log, next, room, longest } => self.mirror_opened(log, next, room, longest),
            Input::MirrorFailed { log, text } => self.mirror_failed(log, &text),
            Input::Room { log, freed } => self.room(now, log, freed),
            Input::Leave { reason } => self.close(reason),
        }
    }

    /// The time has come that [`poll_timeout`](Self::poll_timeout) named; calling it early or late does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.sweep.is_some_and(|at| at <= now) {
            self.sweep_flows(now);
        }
        if self.returned.is_some_and(|at| at <= now) {
            self.returned = None;
            self.theirs.forget_earlier();
            self.they_do_not_want(None);
        }
        let Some(session) = &mut self.session else { return };
        if session.silent_at(self.settings.silence) <= now {
            return self.close(Reason::Silent);
        }
        session.owe_ping(now);
        session.owe_due(now);
        if session.grace.is_some_and(|at| at <= now) {
            session.grace = None;
            self.settled = true;
            self.end_vanished();
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None`: not before something else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let session = self.session.as_ref().map(|session| session.next_time(self.settings.silence));
        [session, self.sweep, self.returned].into_iter().flatten().min()
    }

    /// What is to be done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Owes the other side a record; nothing without a connection, which begins with everything anyway.
    fn owe(&mut self, owed: Owed) {
        if let Some(session) = &mut self.session {
            session.owed.push_back(owed);
        }
    }
}
