//! All connections to other hosts: dialled, accepted, known, lost. What is said over them is not its business.
//!
//! Whoever owns it has a `mio` loop, gives it each event whose token [is its own](Network::owns), calls
//! [`handle_timeout`](Network::handle_timeout) when [`poll_timeout`](Network::poll_timeout) is due, and after either takes what
//! happened from [`poll_event`](Network::poll_event). Sockets are watched edge-triggered: an open connection is read and
//! written until it says that nothing more goes.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use thiserror::Error;
use tracing::{debug, info, warn};

use super::admission::{Admission, Strangers};
use super::connection::{Connection, Security, Stage};
use super::dialer::{Action, Backoff, Dialer};
use super::listener::Listener;
use super::tls::Tls;
use crate::bridge::config::{BridgeConfig, Changes};

/// Connections that are accepted before others have their turn.
const ACCEPTS_A_TURN: usize = 16;
/// How long a connection that was closed may take to bring over what was taken before.
const LINGER: Duration = Duration::from_secs(1);
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// One of the connections; none is named twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(usize);

impl ConnectionId {
    /// As a number, for those who do not know this type.
    pub fn number(self) -> u64 {
        self.0 as u64
    }

    /// The opposite.
    pub fn from_number(number: u64) -> ConnectionId {
        ConnectionId(number as usize)
    }
}

/// What happened.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A connection can be read and written from now on; it may have something to read already.
    Opened {
        /// Which.
        id: ConnectionId,
        /// Who is there, as its key says; `None` in plain text: then it has to be told ([`Network::identified`]).
        host: Option<Arc<str>>,
        /// Who was dialled; `None`: the other side dialled.
        dialled: Option<Arc<str>>,
    },
    /// An open connection may have more to read, or take more.
    Ready {
        /// Which.
        id: ConnectionId,
    },
    /// An open connection is gone.
    Lost {
        /// Which.
        id: ConnectionId,
        /// Why, for people.
        why: String,
    },
}

/// What a network begins with, beside its configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conduct {
    /// How hosts are dialled.
    pub backoff: Backoff,
    /// What connections may cost before they are known.
    pub strangers: Strangers,
    /// For jitter.
    pub seed: u64,
}

/// The network cannot be what the configuration says.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Another program has that port, or the address is none of this host's.
    #[error(
        "it cannot be listened at {address}: see who has that port, or give another address of this host (--listen)"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The keys cannot be used.
    #[error("the keys cannot be used: make new ones (`nodeset keygen`)")]
    Keys(#[source] rustls::Error),
    /// The kernel refused something else.
    #[error("the kernel refuses to watch sockets")]
    System(#[source] io::Error),
}

/// The connections to other hosts.
#[derive(Debug)]
pub struct Network {
    registry: Registry,
    config: BridgeConfig,
    tls: Option<Tls>,
    listeners: BTreeMap<Token, Listener>,
    connections: BTreeMap<ConnectionId, Entry>,
    dialer: Dialer,
    admission: Admission<ConnectionId>,
    events: VecDeque<Event>,
    /// Connections of others, since the start.
    accepted: u64,
    first_token: usize,
    next_token: usize,
}

#[derive(Debug)]
struct Entry {
    connection: Connection,
    dialled: Option<Arc<str>>,
    /// Who is there, if that is known; the dialer counts it then.
    host: Option<Arc<str>>,
    /// The owner knows it.
    told: bool,
    /// Closed by its owner, who hears no more of it; dropped at this time at the latest.
    closing: Option<Instant>,
}

impl Network {
    /// Listens and dials as `config` says. Tokens from `first_token` on are its own.
    ///
    /// # Errors
    ///
    /// It cannot listen where it should.
    pub fn start(
        registry: Registry,
        first_token: Token,
        config: BridgeConfig,
        conduct: Conduct,
        now: Instant,
    ) -> Result<Network, NetworkError> {
        let mut network = Network {
            registry,
            config: BridgeConfig::none(&config.host),
            tls: None,
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            dialer: Dialer::new(conduct.backoff, conduct.seed),
            admission: Admission::new(conduct.strangers),
            events: VecDeque::new(),
            accepted: 0,
            first_token: first_token.0,
            next_token: first_token.0,
        };
        network.reconfigure(now, config)?;
        Ok(network)
    }

    /// From now on that configuration holds: new hosts are dialled, connections to those that are gone or have changed are
    /// lost, all others go on.
    ///
    /// # Errors
    ///
    /// It cannot listen at one of the addresses; everything else holds. The next call tries again.
    pub fn reconfigure(&mut self, now: Instant, next: BridgeConfig) -> Result<Changes, NetworkError> {
        let changes = self.config.changes_to(&next);
        let tls = match &next.key {
            Some(own) => {
                let known = next.peers.iter().filter_map(|(name, peer)| Some((&**name, peer.key?)));
                Some(Tls::new(own, known).map_err(NetworkError::Keys)?)
            }
            None => None,
        };
        self.tls = tls;
        self.config = next;
        for name in changes.removed.iter().chain(&changes.changed) {
            self.forget(now, name);
        }
        if changes.identity {
            self.lose_all(now, "the name or key of this host was changed", |_| true);
        } else if !changes.is_empty() {
            // They prove who they are against the keys from before.
            self.lose_all(now, "the configuration was changed", |entry| {
                entry.host.is_none() && entry.dialled.is_none()
            });
        }
        for (name, peer) in &self.config.peers {
            if let Some(address) = peer.address {
                self.dialer.add(now, name, address);
            }
        }
        self.listeners.retain(|_, listener| {
            let stays = !changes.closed.contains(&listener.asked);
            if !stays {
                // It is closed right after; the kernel forgets it then.
                let _ = self.registry.deregister(&mut listener.socket);
                info!(event = "bridge_listens_no_more", address = %listener.asked);
            }
            stays
        });
        let mut outcome = Ok(());
        for address in &changes.opened {
            if let Err(error) = self.listen(*address) {
                self.config.listen.remove(address);
                outcome = Err(error);
            }
        }
        self.carry_out(now);
        outcome.map(|()| changes)
    }

    fn forget(&mut self, now: Instant, name: &Arc<str>) {
        self.dialer.remove(name);
        self.lose_all(now, "the configuration of that host was changed", |entry| {
            entry.host.as_ref() == Some(name) || entry.dialled.as_ref() == Some(name)
        });
    }

    fn lose_all(&mut self, now: Instant, why: &str, which: impl Fn(&Entry) -> bool) {
        let ids: Vec<_> = self.connections.iter().filter(|(_, entry)| which(entry)).map(|(id, _)| *id).collect();
        for id in ids {
            self.lose(now, id, why);
        }
    }

    fn listen(&mut self, address: SocketAddr) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Listen { address, source };
        let mut listener = Listener::bind(address).map_err(failed)?;
        let token = self.token();
        self.registry.register(&mut listener.socket, token, Interest::READABLE).map_err(NetworkError::System)?;
        info!(event = "bridge_listens", address = %listener.address, encrypted = self.tls.is_some());
        self.listeners.insert(token, listener);
        Ok(())
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token - 1)
    }

    /// Where it listens: the ports that the kernel chose where none was given.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.listeners.values().map(|listener| listener.address)
    }

    /// What holds now.
    pub fn config(&self) -> &BridgeConfig {
        &self.config
    }

    /// Whether an event with that token is for it.
    pub fn owns(&self, token: Token) -> bool {
        token.0 >= self.first_token
    }

    /// How many connections there are, those that are just made or ended included.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// How many connections of other hosts were accepted since the start, whatever became of them.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// A connection that is open.
    pub fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let entry = self.connections.get_mut(&id)?;
        (entry.told && entry.closing.is_none()).then_some(&mut entry.connection)
    }

    /// The kernel says that a socket is ready.
    pub fn handle(&mut self, now: Instant, token: Token) {
        if let Some(listener) = self.listeners.get_mut(&token) {
            listener.is_ready();
            self.accept(now);
        } else {
            self.go_on(now, ConnectionId(token.0));
        }
        self.carry_out(now);
    }

    fn accept(&mut self, now: Instant) {
        let mut accepted = Vec::new();
        for listener in self.listeners.values_mut() {
            let mut left = ACCEPTS_A_TURN;
            while let Some(connection) = listener.accept(now) {
                accepted.push(connection);
                left -= 1;
                if left == 0 {
                    listener.rest(now);
                    break;
                }
            }
        }
        for (stream, from) in accepted {
            self.take_in(now, stream, from);
        }
    }

    fn take_in(&mut self, now: Instant, stream: TcpStream, from: SocketAddr) {
        self.accepted += 1;
        match Connection::accept(stream, from, self.tls.as_ref()) {
            Ok(connection) => {
                let Some(id) = self.insert(connection, None) else { return };
                debug!(event = "host_connects", %from);
                if let Some(displaced) = self.admission.came(now, id, from.ip().to_canonical()) {
                    self.lose(now, displaced, "too many connections are not known yet");
                }
                self.go_on(now, id);
            }
            Err(error) => warn!(event = "host_refused", %from, why = chain(&error)),
        }
    }

    fn insert(&mut self, mut connection: Connection, dialled: Option<Arc<str>>) -> Option<ConnectionId> {
        let token = self.token();
        if let Err(error) = connection.register(&self.registry, token, BOTH) {
            warn!(event = "host_refused", remote = %connection.remote(), %error);
            return None;
        }
        let id = ConnectionId(token.0);
        self.connections.insert(id, Entry { connection, dialled, host: None, told: false, closing: None });
        Some(id)
    }

    fn go_on(&mut self, now: Instant, id: ConnectionId) {
        // One that ended in this very turn is no longer there.
        let Some(entry) = self.connections.get_mut(&id) else { return };
        let stage = match entry.connection.stage() {
            Stage::Open => entry.connection.flush().map(|_| Stage::Open),
            _ => entry.connection.advance(),
        };
        let received = entry.connection.traffic().received;
        match stage {
            Err(error) => self.lose(now, id, &chain(&error)),
            Ok(Stage::Closed) => drop(self.remove(now, id)),
            Ok(_) if !self.admission.may_go_on(id, received) => self.lose(now, id, "too many bytes before it is known"),
            Ok(Stage::Open) if !entry.told => self.opened(now, id),
            Ok(Stage::Open) => self.events.push_back(Event::Ready { id }),
            Ok(Stage::Connecting | Stage::Handshaking | Stage::Closing) => {}
        }
    }

    fn opened(&mut self, now: Instant, id: ConnectionId) {
        let Some(entry) = self.connections.get_mut(&id) else { return };
        entry.told = true;
        let (host, dialled) = (entry.connection.peer().cloned(), entry.dialled.clone());
        if let Some(host) = &host {
            self.identified(now, id, host);
        }
        self.events.push_back(Event::Opened { id, host, dialled });
    }

    /// The other side of a connection has said who it is, and is believed. False: that host is not among the peers; it is to
    /// be told so and closed.
    pub fn identified(&mut self, now: Instant, id: ConnectionId, host: &str) -> bool {
        let Some((name, _)) = self.config.peers.get_key_value(host) else { return false };
        let Some(entry) = self.connections.get_mut(&id) else { return false };
        if entry.host.is_none() {
            entry.host = Some(name.clone());
            self.admission.settled(id);
            self.dialer.connected(now, name, entry.dialled.as_ref() == Some(name));
        }
        true
    }

    /// Ends a connection in order: what it took still arrives. Nothing more is heard of it.
    pub fn close(&mut self, now: Instant, id: ConnectionId) {
        let Some(entry) = self.connections.get_mut(&id) else { return };
        if entry.closing.is_some() {
            return;
        }
        entry.closing = Some(now + LINGER);
        let stage = entry.connection.close();
        let (host, dialled) = (entry.host.take(), entry.dialled.clone());
        self.admission.settled(id);
        self.gone(now, host.as_ref(), dialled.as_ref());
        if !matches!(stage, Ok(Stage::Closing)) {
            drop(self.remove(now, id));
        }
    }

    /// Ends a connection at once, because of `why`: its owner met an error, or the other side broke the rules.
    pub fn lose(&mut self, now: Instant, id: ConnectionId, why: &str) {
        let Some(entry) = self.remove(now, id) else { return };
        let remote = entry.connection.remote();
        match (&entry.host, &entry.dialled) {
            _ if entry.closing.is_some() => {}
            (Some(host), _) => info!(event = "host_lost", %host, %remote, why),
            (None, Some(host)) => self.say_not_reached(host, remote, why),
            (None, None) => info!(event = "host_refused", %remote, why),
        }
        if entry.told && entry.closing.is_none() {
            self.events.push_back(Event::Lost { id, why: why.to_owned() });
        }
    }

    fn remove(&mut self, now: Instant, id: ConnectionId) -> Option<Entry> {
        let mut entry = self.connections.remove(&id)?;
        self.admission.settled(id);
        // Its descriptor is closed with it; the kernel forgets it then.
        let _ = entry.connection.deregister(&self.registry);
        if entry.closing.is_none() {
            self.gone(now, entry.host.as_ref(), entry.dialled.as_ref());
        }
        Some(entry)
    }

    fn gone(&mut self, now: Instant, host: Option<&Arc<str>>, dialled: Option<&Arc<str>>) {
        match (host, dialled) {
            (Some(host), _) => self.dialer.lost(now, host),
            (None, Some(dialled)) => self.dialer.failed(now, dialled),
            (None, None) => {}
        }
    }

    /// Acts on what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.accept(now);
        while let Some(id) = self.admission.expired(now) {
            self.lose(now, id, "it did not say in time who it is");
        }
        let over = |entry: &Entry| entry.closing.is_some_and(|until| until <= now);
        let over: Vec<_> = self.connections.iter().filter(|(_, entry)| over(entry)).map(|(id, _)| *id).collect();
        for id in over {
            drop(self.remove(now, id));
        }
        self.dialer.handle_timeout(now);
        self.carry_out(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None`: when something else happened.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let closing = self.connections.values().filter_map(|entry| entry.closing).min();
        let listeners = self.listeners.values().filter_map(Listener::due).min();
        [closing, listeners, self.admission.poll_timeout(), self.dialer.poll_timeout()].into_iter().flatten().min()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn carry_out(&mut self, now: Instant) {
        while let Some(action) = self.dialer.poll_action() {
            match action {
                Action::Dial { name, address } => self.dial(now, &name, address),
                Action::GiveUp { name } => {
                    let theirs = |entry: &Entry| entry.dialled.as_ref() == Some(&name) && entry.host.is_none();
                    let id = self.connections.iter().find(|(_, entry)| theirs(entry)).map(|(id, _)| *id);
                    if let Some(id) = id {
                        self.lose(now, id, "it took too long");
                    }
                }
            }
        }
    }

    fn dial(&mut self, now: Instant, name: &Arc<str>, address: SocketAddr) {
        let key = self.config.peers.get(name).and_then(|peer| peer.key);
        let security = match (&self.tls, key) {
            (None, _) => Security::Plain,
            (Some(tls), Some(key)) => Security::Encrypted(tls, key),
            // Nobody is dialled in plain text by mistake.
            (Some(_), None) => return self.not_reached(now, name, address, "that host has no key"),
        };
        let outcome = Connection::dial(address, security).map(|connection| self.insert(connection, Some(name.clone())));
        match outcome {
            Ok(Some(_)) => {}
            Ok(None) => self.not_reached(now, name, address, "its socket cannot be watched"),
            Err(error) => self.not_reached(now, name, address, &chain(&error)),
        }
    }

    fn not_reached(&mut self, now: Instant, host: &Arc<str>, address: SocketAddr, why: &str) {
        self.dialer.failed(now, host);
        self.say_not_reached(host, address, why);
    }

    /// Said once, and not with each attempt.
    fn say_not_reached(&self, host: &Arc<str>, address: SocketAddr, why: &str) {
        if self.dialer.failures(host) == 1 {
            info!(event = "host_not_reached", %host, %address, why, "it is dialled again and again");
        } else {
            debug!(event = "host_not_reached", %host, %address, why);
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    crate::allocate::chain(error)
}
