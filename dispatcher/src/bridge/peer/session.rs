//! What belongs to the one connection that is used.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::connection::interval;
use super::{ConnectionId, InterestId, LogKey, Role};
use crate::bridge::codec::{EndReason, Hello};

/// A record that is to be sent. What it says is taken from the state when it is sent.
#[derive(Debug)]
pub(super) enum Owed {
    Hello,
    Want(InterestId),
    Unwant(InterestId),
    Synced,
    /// Only if the channel was not given up meanwhile.
    Announce {
        channel: u32,
        log: LogKey,
    },
    End {
        channel: u32,
        reason: EndReason,
        next: u64,
    },
    Open(LogKey),
    Refuse {
        channel: u32,
        text: String,
    },
    Closed(u32),
}

/// A channel on which we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutChannel {
    /// `Announce` is owed.
    Unsaid(LogKey),
    /// `Announce` was sent.
    Live(LogKey),
    /// `End` is owed or was sent; the other side may still speak of it. The log, if that was its end.
    Ending(Option<LogKey>),
}

/// A channel on which the other side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InChannel {
    Live(LogKey),
    /// `Refuse` is owed or was sent; what still comes is dropped.
    Refused,
}

/// The rest of a piece, which is on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arriving {
    /// Where it belongs; `None`: dropped.
    pub(super) log: Option<LogKey>,
    /// bytes; where in the frame's body
    pub(super) offset: u32,
    /// bytes; > 0
    pub(super) left: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: ConnectionId,
    pub(super) role: Role,
    /// Its greeting.
    pub(super) remote: Hello,
    /// When the other side was last heard.
    pub(super) heard: Instant,
    /// When the next ping is due.
    pub(super) ping_at: Instant,
    ping: bool,
    interval: Duration,
    /// The ping that was not answered yet.
    pub(super) pinged: Option<(u64, Instant)>,
    pub(super) pings: u64,
    /// To be answered.
    pub(super) pong: Option<u64>,
    pub(super) owed: VecDeque<Owed>,
    /// Interests that the other side heard of.
    pub(super) told: BTreeSet<InterestId>,
    /// Those for which it has no room.
    pub(super) surplus: BTreeSet<InterestId>,
    /// It has said all that it wants.
    pub(super) synced: bool,
    /// Channels are numbered from 1.
    pub(super) last_out: u32,
    pub(super) out: BTreeMap<u32, OutChannel>,
    /// Flows for which there is no channel now.
    pub(super) waiting: BTreeSet<LogKey>,
    pub(super) last_in: u32,
    pub(super) incoming: BTreeMap<u32, InChannel>,
    /// Flows that may have something to send, each once, in the order in which it is their turn.
    pub(super) ready: VecDeque<LogKey>,
    pub(super) arriving: Option<Arriving>,
    /// Mirrors whose progress is to be told now, after all that is owed.
    pub(super) progress: BTreeSet<LogKey>,
    /// Mirrors whose progress is told at `due_at`.
    pub(super) due: BTreeSet<LogKey>,
    pub(super) due_at: Option<Instant>,
    pub(super) ack_delay: Duration,
    /// When mirrors end that were not announced again.
    pub(super) grace: Option<Instant>,
}

impl Session {
    pub(super) fn new(
        now: Instant,
        connection: ConnectionId,
        role: Role,
        remote: Hello,
        heartbeat: Duration,
    ) -> Session {
        let interval = interval(heartbeat, remote.patience);
        Session {
            connection,
            role,
            remote,
            heard: now,
            ping_at: now,
            ping: false,
            interval,
            pinged: None,
            pings: 0,
            pong: None,
            owed: VecDeque::new(),
            told: BTreeSet::new(),
            surplus: BTreeSet::new(),
            synced: false,
            last_out: 0,
            out: BTreeMap::new(),
            waiting: BTreeSet::new(),
            last_in: 0,
            incoming: BTreeMap::new(),
            ready: VecDeque::new(),
            arriving: None,
            progress: BTreeSet::new(),
            due: BTreeSet::new(),
            due_at: None,
            ack_delay: Duration::ZERO,
            grace: None,
        }
    }

    pub(super) fn silent_at(&self, silence: Duration) -> Instant {
        self.heard + silence
    }

    pub(super) fn next_time(&self, silence: Duration) -> Instant {
        let times = [Some(self.silent_at(silence)), Some(self.ping_at), self.due_at, self.grace];
        times.into_iter().flatten().fold(self.ping_at, Instant::min)
    }

    /// A ping is owed, if it is time for one.
    pub(super) fn owe_ping(&mut self, now: Instant) {
        if self.ping_at <= now {
            self.ping_at = now + self.interval;
            self.ping = true;
        }
    }

    /// The ping that is owed.
    pub(super) fn next_ping(&mut self, now: Instant) -> Option<u64> {
        if !std::mem::take(&mut self.ping) {
            return None;
        }
        self.pings += 1;
        // One that waits for its answer is measured to the end.
        self.pinged.get_or_insert((self.pings, now));
        Some(self.pings)
    }

    /// The progress of that mirror is to be told, together with that of others.
    pub(super) fn due_soon(&mut self, now: Instant, log: LogKey) {
        self.due.insert(log);
        self.due_at.get_or_insert(now + self.ack_delay);
    }

    /// The progress of that mirror is to be told at once.
    pub(super) fn due_now(&mut self, log: LogKey) {
        self.due.remove(&log);
        self.progress.insert(log);
    }

    pub(super) fn owe_due(&mut self, now: Instant) {
        if self.due_at.is_some_and(|at| at <= now) {
            self.due_at = None;
            self.progress.append(&mut self.due);
        }
    }

    /// Records that may be owed to a side that reads: more are not asked for by one that keeps to its own limits.
    pub(super) fn most_owed(&self, max_channels: u32, interests: usize) -> usize {
        let theirs = self.remote.max_channels as usize;
        256 + 4 * (max_channels as usize + theirs.min(self.out.len() + 1)) + 4 * interests
    }
}
