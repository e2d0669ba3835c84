//! Mirrors: logs of this host that repeat those of the other side, number by number.

use std::time::Instant;

use super::Peer;
use super::contract::{Action, LogKey, MirrorEnd, Publication};
use super::session::{InChannel, Owed};
use crate::bridge::codec::{Piece, Quality};

/// See the module.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) publication: Publication,
    /// Without it, the mirror was asked for and is not there yet.
    pub(super) log: Option<MirrorLog>,
    /// Of this connection.
    pub(super) channel: Option<u32>,
}

/// How far a mirror is.
#[derive(Debug)]
pub(super) struct MirrorLog {
    /// Sequence of the next message to be committed.
    pub(super) next: u64,
    /// bytes of frames committed since it was opened
    received: u64,
    /// bytes; there is room for frames up to here; received <= limit
    limit: u64,
    /// bytes; longest frame body that it takes
    pub(super) longest: u32,
    /// bytes; `received` when this connection's channel was opened
    base: u64,
    /// bytes; the limit that the other side was told; base <= told
    told: u64,
    /// bytes committed that the other side was not told of
    untold: u64,
    /// `Open` was sent on this connection.
    pub(super) is_open: bool,
    /// The frame of which some pieces are here; `offset` is what the next one must begin with.
    pub(super) partial: Option<Piece>,
}

impl Mirror {
    /// The connection is over; true when there was an open loan.
    pub(super) fn part(&mut self) -> bool {
        self.channel = None;
        self.log.as_mut().is_some_and(|log| {
            log.is_open = false;
            log.partial.take().is_some()
        })
    }
}

impl MirrorLog {
    /// Whether `bytes` more were granted.
    pub(super) fn grants(&self, bytes: u64) -> bool {
        self.received.saturating_add(bytes) <= self.told
    }

    /// Messages up to `next` are committed, in `bytes` of frames; true when the other side should hear of it at once.
    pub(super) fn commit(&mut self, next: u64, bytes: u64, ack_bytes: u64) -> bool {
        self.next = next;
        self.received += bytes;
        self.untold += bytes;
        // Before that much, or half of what the other side may send, is waiting to be said.
        self.untold >= ack_bytes || self.untold * 2 >= self.told - self.received
    }

    /// What the other side is told when the channel is opened: the credit.
    pub(super) fn open(&mut self) -> u64 {
        self.base = self.received;
        self.is_open = true;
        self.tell()
    }

    /// What the other side is told now: the credit.
    pub(super) fn tell(&mut self) -> u64 {
        self.told = self.limit;
        self.untold = 0;
        self.limit - self.base
    }

    /// More room; true when the other side should hear of it at once.
    fn freed(&mut self, bytes: u64) -> bool {
        self.limit = self.limit.saturating_add(bytes);
        (self.limit - self.told).saturating_mul(4) >= self.limit - self.received
    }
}

impl Peer {
    /// The other side has a publication that this host wants.
    pub(super) fn mirror_announced(&mut self, channel: u32, publication: Publication, first: u64, quality: Quality) {
        let log = publication.log;
        if !self.is_wanted_here(&publication) {
            return self.refuse(channel, "nobody here wants it");
        }
        if let Some(session) = &mut self.session {
            session.incoming.insert(channel, InChannel::Live(log));
        }
        match self.mirrors.get_mut(&log) {
            Some(mirror) => {
                mirror.channel = Some(channel);
                if mirror.log.is_some() {
                    self.owe(Owed::Open(log));
                }
            }
            None => {
                self.actions.push_back(Action::OpenMirror { publication: publication.clone(), first, quality });
                self.mirrors.insert(log, Mirror { publication, log: None, channel: Some(channel) });
            }
        }
    }

    pub(super) fn mirror_opened(&mut self, log: LogKey, next: u64, room: u64, longest: u32) {
        let Some(mirror) = self.mirrors.get_mut(&log).filter(|mirror| mirror.log.is_none()) else { return };
        mirror.log = Some(MirrorLog {
            next,
            received: 0,
            limit: room,
            longest,
            base: 0,
            told: 0,
            untold: 0,
            is_open: false,
            partial: None,
        });
        if mirror.channel.is_some() {
            self.owe(Owed::Open(log));
        }
    }

    pub(super) fn mirror_failed(&mut self, log: LogKey, text: &str) {
        if self.mirrors.contains_key(&log) {
            self.refuse_mirror(log, text);
        }
    }

    pub(super) fn room(&mut self, now: Instant, log: LogKey, freed: u64) {
        let Some(mirror) = self.mirrors.get_mut(&log) else { return };
        let Some(state) = &mut mirror.log else { return };
        let at_once = state.freed(freed);
        let Some(session) = self.session.as_mut().filter(|_| state.is_open) else { return };
        if at_once {
            session.due_now(log);
        } else {
            session.due_soon(now, log);
        }
    }

    /// A mirror is no more; the other side is told why, if it sends.
    pub(super) fn refuse_mirror(&mut self, log: LogKey, text: &str) {
        let channel = self.mirrors.remove(&log).and_then(|mirror| mirror.channel);
        if let Some(channel) = channel {
            self.refuse(channel, text);
        }
    }

    pub(super) fn refuse(&mut self, channel: u32, text: &str) {
        let Some(session) = &mut self.session else { return };
        session.incoming.insert(channel, InChannel::Refused);
        if let Some(arriving) = &mut session.arriving {
            // It is of this channel only if its log has no other.
            if arriving.log.is_some_and(|log| !self.mirrors.contains_key(&log)) {
                arriving.log = None;
            }
        }
        session.owed.push_back(Owed::Refuse { channel, text: text.to_owned() });
    }

    /// What came for a mirror was no message. The publication is at fault, not the connection.
    pub(super) fn damaged(&mut self, log: LogKey, text: String) {
        self.refuse_mirror(log, &text);
        self.actions.push_back(Action::EndMirror { log, end: MirrorEnd::Damaged(text) });
    }

    /// The time is over in which mirrors could be announced again.
    pub(super) fn end_vanished(&mut self) {
        let gone: Vec<_> =
            self.mirrors.iter().filter(|(_, mirror)| mirror.channel.is_none()).map(|(&log, _)| log).collect();
        for log in gone {
            self.mirrors.remove(&log);
            self.actions.push_back(Action::EndMirror { log, end: MirrorEnd::Vanished });
        }
    }
}
