//! What is sent next: first what is owed, then messages, a turn a flow.

use std::time::Instant;

use super::contract::{LogKey, Next, Outgoing, Transmit};
use super::flow::Flow;
use super::session::{OutChannel, Owed};
use super::{Peer, Settings};
use crate::bridge::codec::{Announced, EndReason, HEADER_LEN, MAX_DATA, Piece, Quality, Record, put_run_head};

/// What a flow's turn gave.
enum Turn {
    Sent(Transmit),
    /// Nothing was to be sent; it is another one's turn.
    Nothing,
}

impl Peer {
    /// What is to be written to the connection: a head is appended to `head`, what follows it is named. `None`: nothing now.
    ///
    /// Control records go first; then flows that have something, in turn, each at most [`Settings::turn`] bytes.
    pub fn poll_transmit(&mut self, now: Instant, logs: &mut dyn Outgoing, head: &mut Vec<u8>) -> Option<Transmit> {
        if self.transmit_control(now, head) {
            return Some(Transmit::Record);
        }
        loop {
            let session = self.session.as_mut()?;
            let log = session.ready.pop_front()?;
            if let Turn::Sent(transmit) = self.take_turn(now, log, logs, head) {
                return Some(transmit);
            }
        }
    }

    fn transmit_control(&mut self, now: Instant, head: &mut Vec<u8>) -> bool {
        loop {
            let Some(session) = &mut self.session else { return false };
            // A greeting goes before everything else.
            if !matches!(session.owed.front(), Some(Owed::Hello)) {
                if let Some(token) = session.pong.take() {
                    Record::Pong { token }.encode(head);
                    return true;
                }
                if let Some(token) = session.next_ping(now) {
                    Record::Ping { token }.encode(head);
                    return true;
                }
            }
            let is_sent = if let Some(owed) = session.owed.pop_front() {
                self.encode_owed(owed, head)
            } else if let Some(log) = session.progress.pop_first() {
                self.encode_progress(log, head)
            } else {
                return false;
            };
            if is_sent {
                return true;
            }
        }
    }

    /// False when there is nothing to say about it any more.
    fn encode_owed(&mut self, owed: Owed, head: &mut Vec<u8>) -> bool {
        let Some(session) = &mut self.session else { return false };
        match owed {
            Owed::Hello => {
                let attempt = session.remote.attempt;
                Record::Hello(self.hello(attempt)).encode(head);
            }
            Owed::Want(interest) => {
                let Some(want) = self.interests.get(&interest) else { return false };
                if session.told.len() >= session.remote.max_interests as usize {
                    session.surplus.insert(interest);
                    self.status.untold = session.surplus.len();
                    return false;
                }
                session.told.insert(interest);
                let selector = want.selector.to_string();
                let record = Record::Want {
                    interest: interest.0,
                    quality: want.quality,
                    deadline: u32::try_from(want.deadline.as_millis()).unwrap_or(u32::MAX),
                    history: want.history,
                    selector: &selector,
                };
                record.encode(head);
            }
            Owed::Unwant(interest) => Record::Unwant { interest: interest.0 }.encode(head),
            Owed::Synced => Record::Synced.encode(head),
            Owed::Announce { channel, log } => return self.encode_announce(channel, log, head),
            Owed::End { channel, reason, next } => Record::End { channel, reason, next }.encode(head),
            Owed::Open(log) => {
                let Some(mirror) = self.mirrors.get_mut(&log) else { return false };
                let (Some(channel), Some(state)) = (mirror.channel, &mut mirror.log) else { return false };
                let credit = state.open();
                Record::Open { channel, next: state.next, credit, longest: state.longest }.encode(head);
            }
            Owed::Refuse { channel, text } => Record::Refuse { channel, text: &text }.encode(head),
            Owed::Closed(channel) => Record::Closed { channel }.encode(head),
        }
        true
    }

    fn encode_progress(&mut self, log: LogKey, head: &mut Vec<u8>) -> bool {
        let Some(mirror) = self.mirrors.get_mut(&log) else { return false };
        let (Some(channel), Some(state)) = (mirror.channel, &mut mirror.log) else { return false };
        if !state.is_open {
            return false;
        }
        let credit = state.tell();
        Record::Progress { channel, next: state.next, credit }.encode(head);
        true
    }

    fn encode_announce(&mut self, channel: u32, log: LogKey, head: &mut Vec<u8>) -> bool {
        let (Some(flow), Some(session)) = (self.flows.get_mut(&log), &mut self.session) else { return false };
        // It was given up meanwhile.
        if flow.channel != Some(channel) {
            return false;
        }
        let publication = &flow.publication;
        // It was checked when it came from its node; one that cannot be said cannot be mirrored.
        let Ok(schema) = nodeset_bus::protocol::record::encode(&*publication.schema) else {
            self.unlink(log, EndReason::Refused);
            return false;
        };
        session.out.insert(channel, OutChannel::Live(log));
        let announced = Announced {
            publication: log.publication.0,
            epoch: log.epoch,
            first: flow.retained(),
            quality: flow.quality,
            node: &publication.node,
            base_name: &publication.base_name,
            topic: publication.topic.as_str(),
            schema: &schema,
        };
        Record::Announce { channel, announced }.encode(head);
        true
    }

    /// A flow's turn: at most one data record, a gap, or the end.
    fn take_turn(&mut self, now: Instant, log: LogKey, logs: &mut dyn Outgoing, head: &mut Vec<u8>) -> Turn {
        let Some(flow) = self.flows.get_mut(&log) else { return Turn::Nothing };
        let (Some(channel), Some(sending)) = (flow.channel, &mut flow.sending) else { return Turn::Nothing };
        sending.queued = false;
        let turn = if sending.partial.is_some() {
            send_piece(flow, log, channel, &self.settings, head)
        } else if let Some(newest) = overdue(flow, now, &self.settings) {
            self.status.lost += lose(flow, channel, newest, head);
            Turn::Sent(Transmit::Record)
        } else if flow.has_ended() {
            return self.finish_flow(log, channel, head);
        } else {
            self.send_next(log, channel, logs, head)
        };
        if let Turn::Sent(_) = turn {
            self.ready(log);
        }
        turn
    }

    /// What stands next in the log.
    fn send_next(&mut self, log: LogKey, channel: u32, logs: &mut dyn Outgoing, head: &mut Vec<u8>) -> Turn {
        let Some(flow) = self.flows.get_mut(&log) else { return Turn::Nothing };
        let Some(sending) = &mut flow.sending else { return Turn::Nothing };
        let credit = sending.credit - sending.used;
        let most = u64::from(self.settings.turn.min(MAX_DATA as u32));
        let limit = credit.clamp(1, most) as u32;
        match logs.next(log, sending.sent, limit) {
            Next::Nothing => Turn::Nothing,
            Next::Run { bytes, .. } if u64::from(bytes) > credit => {
                sending.needs = sending.used + u64::from(bytes);
                Turn::Nothing
            }
            Next::Run { count, bytes } => {
                let first = sending.sent;
                put_run_head(channel, first, count, bytes, head);
                sending.used += u64::from(bytes);
                self.status.sent_bytes += u64::from(bytes);
                (self.status.sent, self.status.resent) = counted(flow, u64::from(count), &self.status);
                Turn::Sent(Transmit::Frames { log, first, count, bytes })
            }
            Next::Long { len, .. } if len > sending.longest => {
                let next = sending.sent + 1;
                self.status.lost += lose(flow, channel, next, head);
                Turn::Sent(Transmit::Record)
            }
            Next::Long { len, .. } if long_frame_len(len) > credit => {
                sending.needs = sending.used + long_frame_len(len);
                Turn::Nothing
            }
            Next::Long { flags, len } => {
                sending.used += long_frame_len(len);
                sending.partial = Some(Piece { sequence: sending.sent, flags, total: len, offset: 0, len: 0 });
                self.status.sent_bytes += long_frame_len(len);
                (self.status.sent, self.status.resent) = counted(flow, 0, &self.status);
                send_piece(flow, log, channel, &self.settings, head)
            }
            Next::Skip { count } => {
                Record::Skip { channel, first: sending.sent, count }.encode(head);
                pass(flow, count);
                Turn::Sent(Transmit::Record)
            }
            Next::Gone { held } if held > sending.sent => {
                self.status.lost += lose(flow, channel, held, head);
                Turn::Sent(Transmit::Record)
            }
            Next::Gone { .. } => Turn::Nothing,
        }
    }

    /// Everything was sent, and nothing more comes.
    fn finish_flow(&mut self, log: LogKey, channel: u32, head: &mut Vec<u8>) -> Turn {
        let (Some(flow), Some(session)) = (self.flows.get_mut(&log), &mut self.session) else { return Turn::Nothing };
        session.out.insert(channel, OutChannel::Ending(Some(log)));
        flow.sending = None;
        Record::End { channel, reason: EndReason::Finished, next: flow.next }.encode(head);
        Turn::Sent(Transmit::Record)
    }
}

/// bytes that a long frame takes in a log
pub(super) fn long_frame_len(len: u32) -> u64 {
    HEADER_LEN as u64 + u64::from(len).next_multiple_of(16)
}

/// A lossy flow whose messages wait too long: where it goes on.
fn overdue(flow: &Flow, now: Instant, settings: &Settings) -> Option<u64> {
    let sending = flow.sending.as_ref()?;
    let since = flow.marks.oldest().filter(|_| flow.quality == Quality::Lossy)?;
    let newest = flow.next.checked_sub(1)?;
    (newest > sending.sent && now.saturating_duration_since(since) > settings.lossy_patience).then_some(newest)
}

/// Tells that everything below `next` is lost; returns how many these are.
fn lose(flow: &mut Flow, channel: u32, next: u64, head: &mut Vec<u8>) -> u64 {
    let Some(sending) = &flow.sending else { return 0 };
    let (first, count) = (sending.sent, next - sending.sent);
    Record::Gap { channel, first, count }.encode(head);
    pass(flow, count);
    count
}

/// So many messages are done with on this side.
fn pass(flow: &mut Flow, count: u64) {
    let Some(sending) = &mut flow.sending else { return };
    sending.sent += count;
    flow.high = flow.high.max(sending.sent);
    if flow.quality == Quality::Lossy {
        flow.marks.passed(sending.sent);
    }
}

/// Counts messages that are sent now (0: one in pieces, which is not passed yet), and those among them that were sent before.
fn counted(flow: &mut Flow, count: u64, status: &super::Status) -> (u64, u64) {
    let sent = flow.sending.as_ref().map_or(0, |sending| sending.sent);
    let messages = count.max(1);
    let again = flow.high.min(sent + messages).saturating_sub(sent);
    pass(flow, count);
    (status.sent + messages, status.resent + again)
}

/// The next piece of a long frame.
fn send_piece(flow: &mut Flow, log: LogKey, channel: u32, settings: &Settings, head: &mut Vec<u8>) -> Turn {
    let Some(sending) = &mut flow.sending else { return Turn::Nothing };
    let Some(mut piece) = sending.partial.take() else { return Turn::Nothing };
    piece.len = (piece.total - piece.offset).min(settings.turn).min(MAX_DATA as u32);
    Record::Piece { channel, piece }.encode(head);
    let Piece { sequence, offset, len, .. } = piece;
    if offset + len < piece.total {
        sending.partial = Some(Piece { offset: offset + len, ..piece });
    } else {
        pass(flow, 1);
    }
    Turn::Sent(Transmit::Piece { log, sequence, offset, len })
}
