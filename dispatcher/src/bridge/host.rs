//! One other host, as the bridge's loop has it: its [`Peer`], and the logs that go there and come from there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use nodeset_bus::board::BoardPeer;
use nodeset_bus::inlet::Inlet;
use nodeset_bus::log::DEFAULT_BLOCK_LEN;
use nodeset_bus::outlet::Outlet;
use nodeset_bus::protocol::{LogShape, Origin, PublicationId, SubscriptionId};
use nodeset_bus::topic::Topic;
use tracing::{debug, info, warn};

use super::codec::Quality;
use super::local::{LocalError, LocalNode};
use super::mirrors::{Mirrors, Opened};
use super::outbox::Outbox;
use super::peer::{self, Action, Expects, Input, LogKey, Peer, Reason, Settings};
use super::sources::Sources;
use super::transport::connection::{Connection, ConnectionError, Received};
use super::transport::network::ConnectionId;
use crate::policy::{Deed, Policy};

/// bytes; read from a connection before others have their turn
const BYTES_A_TURN: usize = 4 << 20;

/// What the loop is to do with connections.
pub(super) enum Wish {
    /// Say this, then end it.
    Close(ConnectionId, Vec<u8>, Reason),
}

/// See the module.
pub(super) struct Host {
    name: Arc<str>,
    peer: Peer,
    sources: Sources,
    mirrors: Mirrors,
    /// The publications of this host that the peer knows, and where they publish.
    topics: BTreeMap<LogKey, Topic>,
    /// The connection over which messages go.
    active: Option<ConnectionId>,
    outbox: Outbox,
}

impl Host {
    pub(super) fn new(local: &str, name: &Arc<str>, instance: u64) -> Host {
        Host {
            name: name.clone(),
            peer: Peer::new(Settings::new(local, &**name, instance)),
            sources: Sources::default(),
            mirrors: Mirrors::default(),
            topics: BTreeMap::new(),
            active: None,
            outbox: Outbox::default(),
        }
    }

    pub(super) fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }

    /// For people.
    pub(super) fn on_board(&self) -> BoardPeer {
        let status = self.peer.status();
        BoardPeer {
            host: self.name.to_string(),
            connected: status.connected,
            round_trip_ns: status.round_trip.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            connections: status.connections,
            sent: status.sent,
            sent_bytes: status.sent_bytes,
            resent: status.resent,
            lost: status.lost,
            received: status.received,
            received_bytes: status.received_bytes,
            missed: status.missed,
            behind: self.peer.behind(),
            last_end: status.last_end.as_ref().map(Reason::to_string),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.peer.is_connected()
    }

    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    pub(super) fn active(&self) -> Option<ConnectionId> {
        self.active
    }

    pub(super) fn handle(&mut self, now: Instant, input: Input) {
        match &input {
            Input::Appeared(publication) => {
                self.topics.insert(publication.log, publication.topic.clone());
            }
            Input::Disconnected { connection } if self.active.is_some_and(|id| id.number() == connection.0) => {
                self.active = None;
                self.outbox.clear();
            }
            _ => {}
        }
        self.peer.handle(now, input);
    }

    /// A publication of this host ended. What is read of it is read to its end first.
    pub(super) fn withdrawn(&mut self, now: Instant, log: LogKey) {
        self.topics.remove(&log);
        if self.sources.get(log).is_none() {
            self.peer.handle(now, Input::Went { log, next: 0 });
        }
    }

    /// Carries out what the peer wants; gives what only the loop can do.
    pub(super) fn carry_out(
        &mut self,
        now: Instant,
        local: &mut LocalNode,
        policy: &Policy,
    ) -> Result<Vec<Wish>, LocalError> {
        let mut wishes = Vec::new();
        while let Some(action) = self.peer.poll_action() {
            match action {
                Action::Close { connection, goodbye, reason } => {
                    let id = ConnectionId::from_number(connection.0);
                    let mut goodbye = goodbye;
                    if self.active == Some(id) {
                        if !matches!(reason, Reason::Stopping | Reason::Removed) {
                            info!(event = "host_lost", host = %self.name, why = %reason);
                        }
                        self.active = None;
                        if self.outbox.clear() {
                            // Within another record it would be misread.
                            goodbye.clear();
                        }
                    }
                    wishes.push(Wish::Close(id, goodbye, reason));
                }
                Action::Established { connection, restarted } => {
                    info!(event = "host_connected", host = %self.name, restarted);
                    self.active = Some(ConnectionId::from_number(connection.0));
                    self.outbox.clear();
                }
                Action::Link { log, quality, history, resume } => {
                    self.link(now, local, policy, (log, quality, history, resume))?;
                }
                Action::Unlink { log } => {
                    if let Some(subscription) = self.sources.remove(log) {
                        local.leave(subscription);
                    }
                }
                Action::Retain { log, from } => {
                    if let Some(source) = self.sources.get(log) {
                        source.retain(from);
                    }
                }
                Action::Demote { log } => self.set_demoted(log, true),
                Action::Restore { log, from } => {
                    self.set_demoted(log, false);
                    if let Some(source) = self.sources.get(log) {
                        source.retain(from);
                    }
                }
                Action::OpenMirror { publication, first, .. } => {
                    self.open_mirror(now, local, policy, publication, first)?;
                }
                Action::EndMirror { log, end } => {
                    debug!(event = "mirror_ended", host = %self.name, ?log, ?end);
                    if let Some(publication) = self.mirrors.remove(log) {
                        local.withdraw(publication);
                    }
                }
                Action::AbandonLoan { log } => self.mirrors.abandon(log),
            }
        }
        Ok(wishes)
    }

    fn set_demoted(&mut self, log: LogKey, demoted: bool) {
        if let Some(source) = self.sources.get(log) {
            if demoted {
                warn!(event = "host_too_slow", host = %self.name, ?log, "what it has not read is lost for it");
            }
            source.set_demoted(demoted);
        }
    }

    fn link(
        &mut self,
        now: Instant,
        local: &mut LocalNode,
        policy: &Policy,
        (log, quality, history, resume): (LogKey, Quality, u64, bool),
    ) -> Result<(), LocalError> {
        if let Some(source) = self.sources.get(log) {
            source.set_quality(quality);
            return Ok(());
        }
        let Some(topic) = self.topics.get(&log) else {
            self.peer.handle(now, Input::NotLinked { log });
            return Ok(());
        };
        if let Err(denied) = policy.check_peer(&self.name, Deed::Subscribe, topic) {
            warn!(event = "host_denied", host = %self.name, why = %denied);
            self.peer.handle(now, Input::NotLinked { log });
            return Ok(());
        }
        let reliable = quality != Quality::Lossy;
        let from_before = if resume { u64::MAX } else { history };
        let subscription = local.read(topic, (log.publication, log.epoch), reliable, from_before)?;
        self.sources.insert(log, subscription, quality, history);
        Ok(())
    }

    fn open_mirror(
        &mut self,
        now: Instant,
        local: &mut LocalNode,
        policy: &Policy,
        publication: peer::Publication,
        first: u64,
    ) -> Result<(), LocalError> {
        let log = publication.log;
        if let Err(denied) = policy.check_peer(&self.name, Deed::Publish, &publication.topic) {
            warn!(event = "host_denied", host = %self.name, why = %denied);
            self.peer.handle(now, Input::MirrorFailed { log, text: denied.to_string() });
            return Ok(());
        }
        let shape = LogShape { block_len: DEFAULT_BLOCK_LEN, blocks: 0 };
        let origin = Origin {
            host: self.name.to_string(),
            node: publication.node,
            base_name: publication.base_name,
            publication: log.publication,
            epoch: log.epoch,
        };
        let id = local.publish(&publication.topic, (*publication.schema).clone(), shape, origin)?;
        self.mirrors.insert(log, id, first);
        Ok(())
    }

    // What the local node says.

    fn log_of(&self, subscription: SubscriptionId) -> Option<LogKey> {
        self.sources.log_of(subscription)
    }

    /// False when that is no log that goes to this host.
    pub(super) fn reading(
        &mut self,
        now: Instant,
        subscription: SubscriptionId,
        inlet: Box<Inlet>,
        foreign: bool,
    ) -> Option<(Box<Inlet>, bool)> {
        let Some(log) = self.log_of(subscription) else { return Some((inlet, foreign)) };
        if let Some(source) = self.sources.get(log) {
            let (first, start) = source.linked(inlet, foreign);
            self.peer.handle(now, Input::Linked { log, first, start, position: 0 });
        }
        None
    }

    pub(super) fn not_reading(&mut self, now: Instant, subscription: SubscriptionId) {
        let Some(log) = self.log_of(subscription) else { return };
        self.sources.remove(log);
        self.peer.handle(now, Input::NotLinked { log });
        if !self.topics.contains_key(&log) {
            self.peer.handle(now, Input::Went { log, next: 0 });
        }
    }

    pub(super) fn publisher_gone(&mut self, subscription: SubscriptionId) {
        if let Some(source) = self.log_of(subscription).and_then(|log| self.sources.get(log)) {
            source.publisher_gone();
        }
    }

    /// Gives the outlet back when that is no mirror of this host's publications.
    pub(super) fn publishing(
        &mut self,
        now: Instant,
        publication: PublicationId,
        outlet: Box<Outlet>,
        shape: LogShape,
    ) -> Option<Box<Outlet>> {
        let Some(log) = self.mirrors.log_of(publication) else { return Some(outlet) };
        if let Some(Opened { next, room, longest }) = self.mirrors.opened(log, outlet, shape) {
            self.peer.handle(now, Input::MirrorOpened { log, next, room, longest });
        }
        None
    }

    pub(super) fn not_publishing(&mut self, now: Instant, publication: PublicationId, text: &str) {
        let Some(log) = self.mirrors.log_of(publication) else { return };
        self.mirrors.remove(log);
        self.peer.handle(now, Input::MirrorFailed { log, text: text.to_owned() });
    }

    /// Everything that it had on this host ends.
    pub(super) fn end(&mut self, local: &mut LocalNode) {
        for log in self.sources.logs() {
            if let Some(subscription) = self.sources.remove(log) {
                local.leave(subscription);
            }
        }
        for log in self.mirrors.logs() {
            if let Some(publication) = self.mirrors.remove(log) {
                local.withdraw(publication);
            }
        }
    }

    // Messages.

    /// Reads what is there in the logs that go to this host; true: there is more.
    pub(super) fn read_logs(&mut self, now: Instant) -> bool {
        let mut more = false;
        for log in self.sources.linked() {
            let Some(source) = self.sources.get(log) else { continue };
            let progress = source.read();
            more |= progress.more;
            if progress.news {
                let (next, position) = (progress.next, progress.position);
                self.peer.handle(now, Input::Available { log, next, position });
            }
            if progress.stalled {
                self.peer.handle(now, Input::Stalled { log });
            }
            if progress.ended {
                self.peer.handle(now, Input::Went { log, next: progress.next });
            }
        }
        more
    }

    /// Takes what arrived behind a greeting, or anything else that was read; gives what is not a whole record yet.
    pub(super) fn take(&mut self, now: Instant, bytes: &[u8]) -> usize {
        self.peer.receive(now, bytes, &mut self.mirrors)
    }

    /// Reads from the connection, straight into place where it can. `buffer` has what is no whole record yet in front,
    /// `filled` bytes. True: there may be more.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        buffer: &mut [u8],
        filled: &mut usize,
    ) -> Result<Received, ConnectionError> {
        let mut total = 0;
        while total < BYTES_A_TURN {
            if let (Expects::Payload { log, offset, len }, 0) = (self.peer.expects(), *filled) {
                if let Some(place) = self.mirrors.place(log, offset as usize, len as usize) {
                    match connection.read(place)? {
                        Received::Bytes(count) => {
                            self.peer.filled(now, count as u32, &mut self.mirrors);
                            total += count;
                            continue;
                        }
                        other => return Ok(other),
                    }
                }
            }
            match connection.read(&mut buffer[*filled..])? {
                Received::Bytes(count) => {
                    total += count;
                    *filled += count;
                    let taken = self.peer.receive(now, &buffer[..*filled], &mut self.mirrors);
                    buffer.copy_within(taken..*filled, 0);
                    *filled -= taken;
                }
                other => return Ok(other),
            }
        }
        Ok(Received::Bytes(total))
    }

    /// After bytes came: mirrors that cannot go on, and room that is granted.
    pub(super) fn settle(&mut self, now: Instant, local: &mut LocalNode) {
        for (log, text) in self.mirrors.take_failed() {
            if let Some(publication) = self.mirrors.remove(log) {
                warn!(event = "mirror_failed", host = %self.name, ?log, text);
                local.withdraw(publication);
                self.peer.handle(now, Input::MirrorFailed { log, text });
            }
        }
        for (log, freed) in self.mirrors.grants() {
            self.peer.handle(now, Input::Room { log, freed });
        }
    }

    /// Writes what there is to say to the connection, as far as it takes it. True: there is more, and it would take it.
    pub(super) fn transmit(&mut self, now: Instant, connection: &mut Connection) -> Result<bool, ConnectionError> {
        self.outbox.transmit(now, &mut self.peer, &mut self.sources, connection)
    }
}
