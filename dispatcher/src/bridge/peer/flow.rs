//! Flows: logs of this host that the other side may want, and how far it has them.
//!
//! A flow without a wish of the other side is only a name. With one it has a link, which reads the log; with a link and a
//! connection a channel; and once the other side has opened that, it is sending.

use std::time::{Duration, Instant};

use super::contract::{Action, LogKey, Publication};
use super::marks::Marks;
use super::session::{OutChannel, Owed};
use super::{Peer, Settings};
use crate::bridge::codec::{EndReason, Piece, Quality};

/// What the wishes of the other side come to, for one publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) quality: Quality,
    /// Of those for which publishers wait.
    pub(super) deadline: Duration,
    pub(super) history: u64,
}

/// Whether something reads the log for the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    None,
    Asked,
    There,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) publication: Publication,
    link: LinkState,
    /// Of the link; meaningless without one.
    pub(super) quality: Quality,
    /// How long the publisher waits while nothing is acknowledged, if it does.
    deadline: Duration,
    /// Since when it may wait, or the last acknowledgement while it does.
    stalled: Option<Instant>,
    /// Everything below is with the other side, or was told to it as lost; where a new mirror begins.
    retained: u64,
    /// Sequence behind the newest message.
    pub(super) next: u64,
    /// The publication ended there.
    pub(super) ended: Option<u64>,
    /// It kept too much: what is not sent yet may be lost.
    demoted: bool,
    /// Reliable: what is not acknowledged; lossy: what is not sent.
    pub(super) marks: Marks,
    /// What is not acknowledged is marked from this message on.
    marked_from: u64,
    /// The other side does not take it: it is asked again then, or when it asks for something anew.
    refused: Option<Instant>,
    /// Sequence behind the last message that was ever sent.
    pub(super) high: u64,
    pub(super) channel: Option<u32>,
    pub(super) sending: Option<Sending>,
}

/// A channel that the other side opened.
#[derive(Debug)]
pub(super) struct Sending {
    /// Sequence of the next message to be sent.
    pub(super) sent: u64,
    /// bytes; 0 <= used <= credit
    pub(super) used: u64,
    /// bytes
    pub(super) credit: u64,
    /// bytes; the longest body that the other side takes
    pub(super) longest: u32,
    /// The frame of which the first pieces are sent; `offset` and `len` of the next one.
    pub(super) partial: Option<Piece>,
    /// bytes of credit that the next frame needs; 0: it does not wait
    pub(super) needs: u64,
    /// It stands among those that are ready.
    pub(super) queued: bool,
}

impl Flow {
    fn new(publication: Publication, settings: &Settings) -> Flow {
        Flow {
            publication,
            link: LinkState::None,
            quality: Quality::Lossy,
            deadline: Duration::ZERO,
            stalled: None,
            retained: 0,
            next: 0,
            ended: None,
            demoted: false,
            marks: Flow::marks(Quality::Lossy, settings, 0),
            marked_from: 0,
            refused: None,
            high: 0,
            channel: None,
            sending: None,
        }
    }

    fn marks(quality: Quality, settings: &Settings, position: u64) -> Marks {
        let time = if quality == Quality::Lossy { settings.lossy_patience } else { settings.retention_time };
        Marks::new(time, settings.retention_bytes, position)
    }

    /// Where a new mirror begins.
    pub(super) fn retained(&self) -> u64 {
        self.retained
    }

    /// Messages that are read for the other side, and not acknowledged.
    pub(super) fn behind(&self) -> u64 {
        if self.link == LinkState::There { self.next.saturating_sub(self.retained) } else { 0 }
    }

    /// The connection is over.
    pub(super) fn part(&mut self) {
        (self.channel, self.sending, self.refused) = (None, None, None);
    }

    /// Everything was sent, and nothing more comes.
    pub(super) fn has_ended(&self) -> bool {
        matches!((self.ended, &self.sending), (Some(end), Some(sending)) if sending.sent >= end)
    }

    /// It has a link that keeps messages, but not at any price.
    fn keeps(&self) -> bool {
        self.link == LinkState::There && self.quality == Quality::Reliable && !self.demoted
    }

    /// A link that has kept more, or for longer, than it may.
    fn keeps_too_much(&self, now: Instant, settings: &Settings) -> bool {
        self.keeps() && !self.keeps_less(now, settings.retention_bytes, settings.retention_time)
            || self.given_up_at().is_some_and(|at| at <= now)
    }

    /// When the publisher has waited long enough for a side that takes nothing.
    fn given_up_at(&self) -> Option<Instant> {
        let waits = self.link == LinkState::There && self.quality == Quality::AcrossHosts && !self.demoted;
        // A deadline beyond what the clock can say is none.
        self.stalled.filter(|_| waits)?.checked_add(self.deadline)
    }

    /// What is not acknowledged is no more than that, and no older.
    fn keeps_less(&self, now: Instant, bytes: u64, time: Duration) -> bool {
        let age = self.marks.oldest().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.marks.bytes() <= bytes && age <= time
    }
}

impl Peer {
    pub(super) fn appeared(&mut self, publication: Publication) {
        let log = publication.log;
        if self.flows.contains_key(&log) {
            return;
        }
        self.flows.insert(log, Flow::new(publication, &self.settings));
        self.look_at_wants(log, false);
    }

    /// Compares what the other side wants of a flow with what is done for it. `anew`: it has just asked for it.
    pub(super) fn look_at_wants(&mut self, log: LogKey, anew: bool) {
        let Some(flow) = self.flows.get_mut(&log) else { return };
        let Some(wanted) = self.theirs.wanted(&flow.publication) else {
            return self.unlink(log, EndReason::Unwanted);
        };
        if anew {
            flow.refused = None;
        }
        flow.deadline = wanted.deadline;
        match flow.link {
            LinkState::None if flow.ended.is_some() => return,
            LinkState::None => flow.link = LinkState::Asked,
            _ if flow.quality == wanted.quality => {
                let given_up_at = flow.given_up_at();
                self.sweep_at(given_up_at);
                return self.announce(log);
            }
            _ => {}
        }
        let old = std::mem::replace(&mut flow.quality, wanted.quality);
        flow.stalled = None;
        if (old == Quality::Lossy) != (flow.quality == Quality::Lossy) {
            // Lossy ones are marked for another purpose.
            flow.marks = Flow::marks(flow.quality, &self.settings, flow.marks.position());
            flow.marked_from = flow.next;
        }
        if let Some(since) = flow.marks.oldest().filter(|_| flow.keeps()) {
            // It may keep too much already, for a publisher that waits and says nothing more.
            self.sweep_at(Some(since));
        }
        let resume = !self.settled;
        self.actions.push_back(Action::Link { log, quality: wanted.quality, history: wanted.history, resume });
        self.announce(log);
    }

    /// The link is there: everything from `first` on can be sent; what is new over there begins at `start`.
    pub(super) fn linked(&mut self, log: LogKey, first: u64, start: u64, position: u64) {
        let Some(flow) = self.flows.get_mut(&log).filter(|flow| flow.link == LinkState::Asked) else { return };
        flow.link = LinkState::There;
        let start = start.max(first);
        (flow.retained, flow.high, flow.demoted, flow.stalled) = (start, start, false, None);
        flow.next = flow.ended.unwrap_or(start).max(start);
        flow.marks = Flow::marks(flow.quality, &self.settings, position);
        self.announce(log);
    }

    pub(super) fn not_linked(&mut self, log: LogKey) {
        let Some(flow) = self.flows.get_mut(&log).filter(|flow| flow.link == LinkState::Asked) else { return };
        flow.link = LinkState::None;
        if flow.ended.is_some() {
            self.flows.remove(&log);
        }
    }

    /// Nothing reads the log for the other side any more, which hears why.
    pub(super) fn unlink(&mut self, log: LogKey, reason: EndReason) {
        let Some(flow) = self.flows.get_mut(&log) else { return };
        if flow.link != LinkState::None {
            self.actions.push_back(Action::Unlink { log });
        }
        // What is not wanted is not asked again.
        (flow.link, flow.refused) = (LinkState::None, None);
        let (next, is_over) = (flow.next, flow.ended.is_some());
        flow.sending = None;
        if let Some(channel) = flow.channel.take() {
            self.end_channel(channel, reason, next);
        }
        if is_over {
            self.flows.remove(&log);
        }
    }

    /// Nothing more is sent on a channel.
    fn end_channel(&mut self, channel: u32, reason: EndReason, next: u64) {
        let Some(session) = &mut self.session else { return };
        match session.out.get(&channel) {
            Some(OutChannel::Live(_)) => {
                session.out.insert(channel, OutChannel::Ending(None));
                session.owed.push_back(Owed::End { channel, reason, next });
            }
            Some(OutChannel::Unsaid(_)) => {
                session.out.remove(&channel);
                self.announce_waiting();
            }
            // Its end was said already.
            Some(OutChannel::Ending(_)) | None => {}
        }
    }

    /// Tells the other side of a flow that it wants, if there is a connection and nothing in the way.
    pub(super) fn announce(&mut self, log: LogKey) {
        let Some(session) = self.session.as_mut().filter(|session| session.synced) else { return };
        let Some(flow) = self.flows.get_mut(&log) else { return };
        if flow.link != LinkState::There || flow.channel.is_some() || flow.refused.is_some() {
            return;
        }
        if session.out.len() >= session.remote.max_channels as usize {
            session.waiting.insert(log);
            return;
        }
        session.last_out += 1;
        let channel = session.last_out;
        session.out.insert(channel, OutChannel::Unsaid(log));
        flow.channel = Some(channel);
        session.owed.push_back(Owed::Announce { channel, log });
    }

    /// A channel is free again.
    pub(super) fn announce_waiting(&mut self) {
        if let Some(log) = self.session.as_mut().and_then(|session| session.waiting.pop_first()) {
            self.announce(log);
        }
    }

    pub(super) fn went(&mut self, log: LogKey, next: u64) {
        let Some(flow) = self.flows.get_mut(&log) else { return };
        flow.ended = Some(next);
        flow.next = next;
        if flow.link == LinkState::None || flow.refused.is_some() {
            self.unlink(log, EndReason::Refused);
        } else {
            self.ready(log);
            self.forget_ended();
        }
    }

    /// Without a connection, only so many ends are remembered.
    pub(super) fn forget_ended(&mut self) {
        if self.session.is_some() {
            return;
        }
        let ended: Vec<_> = self.flows.iter().filter(|(_, flow)| flow.ended.is_some()).map(|(&log, _)| log).collect();
        let surplus = ended.len().saturating_sub(self.settings.max_ended);
        for &log in &ended[..surplus] {
            self.unlink(log, EndReason::Finished);
        }
    }

    pub(super) fn available(&mut self, now: Instant, log: LogKey, next: u64, position: u64) {
        let Some(flow) = self.flows.get_mut(&log) else { return };
        if flow.link != LinkState::There {
            return;
        }
        flow.next = flow.next.max(next);
        flow.stalled = None;
        if position > flow.marks.position() {
            flow.marks.note(now, next, position);
        }
        if flow.keeps_too_much(now, &self.settings) {
            self.demote(log);
        } else if flow.keeps() {
            // Half a step of the marks.
            self.sweep.get_or_insert(now + self.settings.retention_time / 64);
        }
        self.ready(log);
    }

    /// The publisher of a log waits for the other side, or is about to.
    pub(super) fn stalled(&mut self, now: Instant, log: LogKey) {
        let Some(flow) = self.flows.get_mut(&log) else { return };
        flow.stalled.get_or_insert(now);
        let given_up_at = flow.given_up_at();
        self.sweep_at(given_up_at);
    }

    /// Flows are to be looked at then, if not before.
    fn sweep_at(&mut self, at: Option<Instant>) {
        self.sweep = [self.sweep, at].into_iter().flatten().min();
    }

    /// The flow may have something to send.
    pub(super) fn ready(&mut self, log: LogKey) {
        let (Some(session), Some(flow)) = (&mut self.session, self.flows.get_mut(&log)) else { return };
        let Some(sending) = &mut flow.sending else { return };
        if !sending.queued && sending.needs == 0 {
            sending.queued = true;
            session.ready.push_back(log);
        }
    }

    /// Gives up those links that keep too much, and tells again of what was refused long ago.
    pub(super) fn sweep_flows(&mut self, now: Instant) {
        let too_much: Vec<_> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.keeps_too_much(now, &self.settings))
            .map(|(&log, _)| log)
            .collect();
        too_much.into_iter().for_each(|log| self.demote(log));
        let again = |flow: &Flow| flow.refused.is_some_and(|at| at <= now);
        let again: Vec<_> = self.flows.iter().filter(|(_, flow)| again(flow)).map(|(&log, _)| log).collect();
        again.into_iter().for_each(|log| self.look_at_wants(log, true));
        let keeps = |flow: &Flow| flow.keeps() && flow.marks.oldest().is_some();
        let next = self.flows.values().any(keeps).then(|| now + self.settings.retention_time / 64);
        let due = |flow: &Flow| [flow.refused, flow.given_up_at()].into_iter().flatten().min();
        self.sweep = self.flows.values().filter_map(due).chain(next).min();
    }

    fn demote(&mut self, log: LogKey) {
        let Some(flow) = self.flows.get_mut(&log) else { return };
        (flow.demoted, flow.stalled) = (true, None);
        self.actions.push_back(Action::Demote { log });
    }

    /// The other side has opened the channel of a flow: it goes on from there.
    pub(super) fn open_flow(&mut self, now: Instant, log: LogKey, next: u64, credit: u64, longest: u32) {
        let Some(flow) = self.flows.get_mut(&log) else { return };
        flow.sending = Some(Sending { sent: next, used: 0, credit, longest, partial: None, needs: 0, queued: false });
        if flow.quality == Quality::Lossy {
            flow.marks.passed(next);
        } else if !flow.demoted {
            // What was read for a mirror from before this peer was made, which is not.
            self.actions.push_back(Action::Retain { log, from: next });
        }
        self.acknowledged(now, log, next);
        self.ready(log);
    }

    /// The other side has everything below `next`.
    pub(super) fn acknowledged(&mut self, now: Instant, log: LogKey, next: u64) {
        let Some(flow) = self.flows.get_mut(&log) else { return };
        if flow.quality == Quality::Lossy {
            flow.retained = flow.retained.max(next);
            return;
        }
        flow.marks.passed(next);
        let is_further = next > flow.retained;
        flow.stalled = flow.stalled.map(|since| if is_further { now } else { since });
        flow.retained = flow.retained.max(next);
        if flow.demoted {
            // Only once it would not be demoted again at once: what it keeps counts from its first message.
            let (bytes, time) = (self.settings.retention_bytes / 2, self.settings.retention_time / 2);
            let is_marked = next >= flow.marked_from;
            if flow.quality == Quality::AcrossHosts || is_marked && flow.keeps_less(now, bytes, time) {
                flow.demoted = false;
                self.actions.push_back(Action::Restore { log, from: next });
                self.sweep.get_or_insert(now + self.settings.retention_time / 64);
            }
        } else if is_further {
            self.actions.push_back(Action::Retain { log, from: next });
        }
    }

    /// The other side does not take a flow.
    pub(super) fn flow_refused(&mut self, now: Instant, log: LogKey) {
        let Some(flow) = self.flows.get_mut(&log) else { return };
        let again = now + self.settings.refused_again;
        flow.refused = Some(again);
        flow.sending = None;
        let (channel, next, has_ended) = (flow.channel.take(), flow.next, flow.ended.is_some());
        self.sweep_at(Some(again));
        if has_ended {
            self.unlink(log, EndReason::Refused);
        }
        if let Some(channel) = channel {
            self.end_channel(channel, EndReason::Refused, next);
        }
    }
}
