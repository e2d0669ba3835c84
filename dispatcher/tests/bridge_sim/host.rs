//! A host: its publishers and subscribers, which outlive its dispatcher, and a peer for each other host, which does not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nodeset_bus::topic;
use nodeset_dispatcher::bridge::codec::{HEADER_LEN, MAX_BODY, Quality};
use nodeset_dispatcher::bridge::peer::{Action, LogKey, Peer, Publication, Settings, Transmit, Want};
use nodeset_dispatcher::bridge::peer::{Expects, Incoming, Input, InterestId};

use super::log::{LocalLog, Logs, SHORTEST_WAIT};
use super::mirror::{Mirror, Mirrors};
use super::random::Random;

/// What one host keeps about another one.
pub(crate) struct Side {
    pub(crate) peer: Peer,
    /// Connections, each with what arrived and was not taken; `None`: the other side has not greeted yet.
    pub(crate) wires: BTreeMap<u64, (bool, Vec<u8>)>,
    pub(crate) active: Option<u64>,
    pub(crate) dialling: Option<u64>,
    /// This host dials that one.
    pub(crate) dials: bool,
    pub(crate) mirrors: BTreeMap<LogKey, Mirror>,
    /// Asked for, not answered.
    pub(crate) opening: BTreeSet<LogKey>,
    pub(crate) linking: BTreeSet<LogKey>,
    pub(crate) linked: BTreeSet<LogKey>,
    pub(crate) timer_at: Option<Instant>,
}

pub(crate) struct Host {
    pub(crate) name: String,
    /// How often its dispatcher was started.
    pub(crate) life: u32,
    pub(crate) sides: BTreeMap<usize, Side>,
    pub(crate) logs: BTreeMap<LogKey, LocalLog>,
    pub(crate) wants: BTreeMap<u32, Want>,
    pub(crate) last_interest: u32,
}

/// Times and limits that make everything happen within seconds.
pub(crate) fn settings(local: &str, remote: &str, instance: u64) -> Settings {
    let mut settings = Settings::new(local, remote, instance);
    settings.turn = 4096;
    settings.retention_bytes = 48 * 1024;
    settings.retention_time = Duration::from_millis(700);
    settings.lossy_patience = Duration::from_millis(60);
    settings.heartbeat = Duration::from_millis(150);
    settings.silence = Duration::from_millis(500);
    settings.ack_bytes = 4096;
    settings.refused_again = Duration::from_millis(400);
    settings.return_grace = Duration::from_millis(1000);
    settings.mirror_grace = Duration::from_millis(1500);
    settings
}

impl Side {
    pub(crate) fn new(settings: Settings, dials: bool) -> Side {
        Side {
            peer: Peer::new(settings),
            wires: BTreeMap::new(),
            active: None,
            dialling: None,
            dials,
            mirrors: BTreeMap::new(),
            opening: BTreeSet::new(),
            linking: BTreeSet::new(),
            linked: BTreeSet::new(),
            timer_at: None,
        }
    }

    /// Gives the peer what arrived on its connection; some payloads directly, as from a socket.
    pub(crate) fn feed(&mut self, now: Instant, wire: u64, truth: &BTreeMap<LogKey, u64>, random: &mut Random) -> u64 {
        let mut delivered = 0;
        let Some((_, buffer)) = self.wires.get_mut(&wire) else { return 0 };
        let mut mirrors = Mirrors { mirrors: &mut self.mirrors, truth, delivered: &mut delivered };
        if let Expects::Payload { log, offset, len } = self.peer.expects() {
            if !buffer.is_empty() && random.one_in(2) {
                let len = (len as usize).min(buffer.len());
                mirrors.fill(log, offset, &buffer[..len]);
                self.peer.filled(now, len as u32, &mut mirrors);
                buffer.drain(..len);
            }
        }
        let taken = self.peer.receive(now, buffer, &mut mirrors);
        buffer.drain(..taken);
        assert!(buffer.len() < HEADER_LEN + MAX_BODY, "a whole record was not taken");
        delivered
    }

    /// bytes that the peer wants to write now; empty: none.
    pub(crate) fn write(&mut self, now: Instant, logs: &BTreeMap<LogKey, LocalLog>, peer: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut logs = Logs { logs, peer };
        let Some(transmit) = self.peer.poll_transmit(now, &mut logs, &mut bytes) else {
            assert!(bytes.is_empty(), "a head without a record");
            return bytes;
        };
        let head = bytes.len();
        match transmit {
            Transmit::Record => {}
            Transmit::Frames { log, first, count, bytes: len } => {
                logs.put_frames(log, first, count, &mut bytes);
                assert_eq!(bytes.len() - head, len as usize);
            }
            Transmit::Piece { log, sequence, offset, len } => {
                logs.put_piece(log, sequence, offset, len, &mut bytes);
                assert!(len <= 4096, "more than a turn");
            }
        }
        bytes
    }
}

impl Host {
    /// What a new peer is told first.
    pub(crate) fn tell_wants(&mut self, now: Instant, peer: usize) {
        let side = self.sides.get_mut(&peer).expect("there is a side for each peer");
        for (&interest, want) in &self.wants {
            side.peer.handle(now, Input::Wanted { interest: InterestId(interest), want: want.clone() });
        }
    }

    /// The dispatcher of this host ends; what its nodes hold stays.
    pub(crate) fn forget_links(&mut self) {
        for log in self.logs.values_mut() {
            for link in log.links.values_mut() {
                // Nobody can keep more than the log itself; only those wait who said so.
                if link.quality != Quality::AcrossHosts {
                    (link.demoted, link.excused) = (true, true);
                }
            }
        }
    }

    /// Nobody reads logs that ended and are linked to nobody.
    pub(crate) fn drop_ended(&mut self) {
        self.logs.retain(|_, log| !log.ended || !log.links.is_empty());
    }
}

/// Whether any of these wants means a publication of host `publisher`.
pub(crate) fn is_wanted(wants: &BTreeMap<u32, Want>, publication: &Publication, publisher: &str) -> bool {
    let names = [&*publication.node, &*publication.base_name];
    wants.values().any(|Want { selector, .. }| {
        let is_local = selector.target().is_some_and(|target| target.host == topic::Host::Local);
        !is_local && selector.matches(&publication.topic) && selector.wants_node(names, publisher)
    })
}

/// What an action changes in the logs of a host; true: a publisher gives up waiting for the peer.
pub(crate) fn change_log(now: Instant, log: &mut LocalLog, peer: usize, action: &Action) -> bool {
    let end = log.next;
    let base = log.base;
    let link = log.links.get_mut(&peer).expect("it speaks of a link that is not");
    match action {
        Action::Retain { from, .. } => {
            assert!(*from <= end, "it has more than there is");
            link.stalled = link.stalled.map(|since| if *from > link.from { now } else { since });
            link.from = link.from.max(*from);
        }
        Action::Demote { .. } => {
            let given_up = link.quality == Quality::AcrossHosts;
            let waited = link.stalled.is_some_and(|since| now.saturating_duration_since(since) >= SHORTEST_WAIT);
            assert!(link.quality == Quality::Reliable || given_up && waited, "it is given up too early: {link:?}");
            (link.demoted, link.excused, link.stalled) = (true, true, None);
            return given_up;
        }
        Action::Restore { from, .. } => {
            link.demoted = false;
            link.from = (*from).max(base);
        }
        other => panic!("{other:?} is about no link"),
    }
    false
}
