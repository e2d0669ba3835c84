//! What arrives: every record is checked against what may come now. What may not ends the connection; what only damages one
//! publication ends that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::message::Schema;
use nodeset_bus::protocol::PublicationId;
use nodeset_bus::topic::{Host, Selector, Topic, check_node_name};
use rkyv::util::AlignedVec;

use super::Peer;
use super::contract::{Action, Expects, Incoming, LogKey, MirrorEnd, Publication, Want};
use super::reason::Reason;
use super::session::{Arriving, InChannel, OutChannel, Owed};
use super::transmit::long_frame_len;
use crate::bridge::codec::{Announced, Decoded, EndReason, FramesError, LONGEST_WHOLE, Piece, Record, decode, frames};

/// A rule that was broken.
fn violation(text: impl Into<String>) -> Reason {
    Reason::Violation(text.into())
}

impl Peer {
    /// Where the next bytes of the connection are best read to.
    pub fn expects(&self) -> Expects {
        match self.session.as_ref().and_then(|session| session.arriving) {
            Some(Arriving { log: Some(log), offset, left }) => Expects::Payload { log, offset, len: left },
            _ => Expects::Records,
        }
    }

    /// So many bytes were read from the connection straight into the loan that [`expects`](Self::expects) named.
    ///
    /// # Panics
    ///
    /// When that were not expected.
    pub fn filled(&mut self, now: Instant, len: u32, mirrors: &mut dyn Incoming) {
        let session = self.session.as_mut().expect("bytes are expected only while connected");
        session.heard = now;
        let arriving = session.arriving.as_mut().expect("a payload was expected");
        assert!(len <= arriving.left, "{len} bytes were filled in where {} were expected", arriving.left);
        arriving.left -= len;
        arriving.offset += len;
        let arriving = *arriving;
        if arriving.left == 0 {
            session.arriving = None;
            if let Some(log) = arriving.log {
                self.piece_is_there(now, log, arriving.offset, mirrors);
            }
        }
    }

    /// Takes bytes that arrived on the connection; returns how many it took. The others are the beginning of a record: they
    /// are to be given again, with what follows them. After the connection was closed all are taken.
    pub fn receive(&mut self, now: Instant, bytes: &[u8], mirrors: &mut dyn Incoming) -> usize {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            let Some(session) = &mut self.session else { return bytes.len() };
            if !bytes.is_empty() {
                session.heard = now;
            }
            if let Some(arriving) = session.arriving {
                let len = rest.len().min(arriving.left as usize);
                if len == 0 {
                    return taken;
                }
                if let Some(log) = arriving.log {
                    mirrors.fill(log, arriving.offset, &rest[..len]);
                }
                self.filled(now, len as u32, mirrors);
                taken += len;
                continue;
            }
            let (record, len) = match decode(rest) {
                Ok(Decoded::Incomplete { .. }) => return taken,
                Ok(Decoded::Record { record, len }) => (record, len),
                Err(invalid) => {
                    self.close(invalid.into());
                    return bytes.len();
                }
            };
            taken += len;
            if let Err(reason) = self.take_record(now, record, mirrors) {
                self.close(reason);
                return bytes.len();
            }
        }
    }

    fn take_record(&mut self, now: Instant, record: Record<'_>, mirrors: &mut dyn Incoming) -> Result<(), Reason> {
        let Some(session) = &mut self.session else { return Ok(()) };
        if session.owed.len() > session.most_owed(self.settings.max_channels, self.interests.len()) {
            return Err(Reason::Flood);
        }
        match record {
            Record::Hello(_) => Err(violation("it greets twice")),
            Record::Goodbye { code, text } => {
                let (connection, reason) = (session.connection, Reason::theirs(code, text));
                self.actions.push_back(Action::Close { connection, goodbye: Vec::new(), reason: reason.clone() });
                self.part(reason);
                Ok(())
            }
            Record::Ping { token } => {
                session.pong = Some(token);
                Ok(())
            }
            Record::Pong { token } => self.pong(now, token),
            Record::Want { interest, quality, deadline, history, selector } => {
                let selector = Selector::new(selector).map_err(|error| violation(error.to_string()))?;
                let deadline = Duration::from_millis(deadline.into());
                self.take_want(interest, Want { selector, quality, deadline, history })
            }
            Record::Unwant { interest } => {
                let want = self.theirs.remove(interest).ok_or_else(|| violation("it ends an interest that is not"))?;
                self.they_do_not_want(Some(&want.selector));
                Ok(())
            }
            Record::Synced => self.take_synced(now),
            Record::Announce { channel, announced } => self.take_announce(channel, &announced),
            Record::End { channel, reason, next } => self.take_end(channel, reason, next, mirrors),
            Record::Open { channel, next, credit, longest } => self.take_open(now, channel, next, credit, longest),
            Record::Refuse { channel, .. } => self.take_refuse(now, channel),
            Record::Closed { channel } => self.take_closed(channel),
            Record::Progress { channel, next, credit } => self.take_progress(now, channel, next, credit),
            Record::Gap { channel, first, count } => self.take_hole(now, channel, first, count, true, mirrors),
            Record::Skip { channel, first, count } => self.take_hole(now, channel, first, count, false, mirrors),
            Record::Run { channel, first, count, frames } => self.take_run(now, channel, first, count, frames, mirrors),
            Record::Piece { channel, piece } => self.take_piece(channel, piece, mirrors),
        }
    }

    fn pong(&mut self, now: Instant, token: u64) -> Result<(), Reason> {
        let Some(session) = &mut self.session else { return Ok(()) };
        if token == 0 || token > session.pings {
            return Err(violation("it answers a ping that was not sent"));
        }
        if let Some((expected, at)) = session.pinged {
            if expected == token {
                session.pinged = None;
                self.status.round_trip = Some(now.saturating_duration_since(at));
            }
        }
        Ok(())
    }

    fn take_want(&mut self, interest: u32, want: Want) -> Result<(), Reason> {
        if self.theirs.len() >= self.settings.max_interests as usize {
            return Err(violation("it has more interests than it may"));
        }
        if want.selector.target().is_some_and(|target| target.host == Host::Local) {
            return Err(violation("it wants what is local to itself"));
        }
        let selector = want.selector.clone();
        if !self.theirs.add(interest, want) {
            return Err(violation("it has two interests of one number"));
        }
        self.they_want(&selector);
        Ok(())
    }

    fn take_synced(&mut self, now: Instant) -> Result<(), Reason> {
        if !self.theirs.synced() {
            return Err(violation("it has said all its interests twice"));
        }
        if self.theirs.has_earlier() {
            self.returned = Some(now + self.settings.return_grace);
        }
        if let Some(session) = &mut self.session {
            session.synced = true;
        }
        self.they_do_not_want(None);
        Ok(())
    }

    // What the sending side of a publication says.

    fn take_announce(&mut self, channel: u32, announced: &Announced<'_>) -> Result<(), Reason> {
        let publication = read_publication(announced)?;
        let Some(session) = &mut self.session else { return Ok(()) };
        if channel <= session.last_in {
            return Err(violation("it uses the number of a channel twice"));
        }
        if session.incoming.len() >= self.settings.max_channels as usize {
            return Err(violation("it has more channels than it may"));
        }
        if self.mirrors.get(&publication.log).is_some_and(|mirror| mirror.channel.is_some()) {
            return Err(violation("it sends one publication on two channels"));
        }
        session.last_in = channel;
        self.mirror_announced(channel, publication, announced.first, announced.quality);
        Ok(())
    }

    fn take_end(
        &mut self,
        channel: u32,
        reason: EndReason,
        next: u64,
        mirrors: &mut dyn Incoming,
    ) -> Result<(), Reason> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let state = session.incoming.remove(&channel).ok_or_else(|| violation("it ends a channel that is not"))?;
        session.owed.push_back(Owed::Closed(channel));
        let InChannel::Live(log) = state else { return Ok(()) };
        let Some(mirror) = self.mirrors.remove(&log) else { return Ok(()) };
        let end = match reason {
            EndReason::Finished => MirrorEnd::Finished,
            EndReason::Unwanted | EndReason::Refused => MirrorEnd::Unwanted,
        };
        let missing = mirror.log.as_ref().map_or(0, |state| next.saturating_sub(state.next));
        if let Some(state) = mirror.log.filter(|_| missing > 0 && end == MirrorEnd::Finished) {
            self.status.missed += missing;
            mirrors.gap(log, state.next, missing);
        }
        self.actions.push_back(Action::EndMirror { log, end });
        Ok(())
    }

    /// The mirror of a channel whose messages are taken; `None`: what comes on it is dropped.
    fn mirror_of(&self, channel: u32) -> Result<Option<LogKey>, Reason> {
        match self.session.as_ref().and_then(|session| session.incoming.get(&channel)) {
            Some(InChannel::Live(log)) => match self.mirrors.get(log) {
                Some(mirror) if mirror.log.as_ref().is_some_and(|state| state.is_open) => Ok(Some(*log)),
                _ => Err(violation("it sends on a channel that was not opened")),
            },
            Some(InChannel::Refused) => Ok(None),
            None => Err(violation("it sends on a channel that is not")),
        }
    }

    fn take_hole(
        &mut self,
        now: Instant,
        channel: u32,
        first: u64,
        count: u64,
        is_loss: bool,
        mirrors: &mut dyn Incoming,
    ) -> Result<(), Reason> {
        let Some(log) = self.mirror_of(channel)? else { return Ok(()) };
        let Some(state) = self.mirrors.get_mut(&log).and_then(|mirror| mirror.log.as_mut()) else { return Ok(()) };
        if state.partial.is_some() || state.next != first {
            return Err(violation("it leaves out messages where it is not"));
        }
        if is_loss {
            mirrors.gap(log, first, count);
            self.status.missed += count;
        } else {
            mirrors.skip(log, first, count);
        }
        self.commit(now, log, first + count, 0);
        Ok(())
    }

    fn take_run(
        &mut self,
        now: Instant,
        channel: u32,
        first: u64,
        count: u32,
        run: &[u8],
        mirrors: &mut dyn Incoming,
    ) -> Result<(), Reason> {
        let Some(log) = self.mirror_of(channel)? else { return Ok(()) };
        let Some(state) = self.mirrors.get(&log).and_then(|mirror| mirror.log.as_ref()) else { return Ok(()) };
        if state.partial.is_some() || state.next != first {
            return Err(violation("it sends messages where it is not"));
        }
        if !state.grants(run.len() as u64) {
            return Err(violation("it sends more than it was granted"));
        }
        let mut next = first;
        for frame in frames(first, count, run) {
            match frame {
                Ok(frame) => mirrors.frame(log, frame.sequence, frame.flags, frame.body),
                Err(error) => return self.take_damage(now, log, next, &error),
            }
            next += 1;
        }
        self.commit(now, log, next, run.len() as u64);
        self.status.received += u64::from(count);
        self.status.received_bytes += run.len() as u64;
        Ok(())
    }

    /// The publication cannot go on; what came before the damage is there.
    fn take_damage(&mut self, now: Instant, log: LogKey, next: u64, error: &FramesError) -> Result<(), Reason> {
        self.commit(now, log, next, 0);
        self.damaged(log, error.to_string());
        Ok(())
    }

    fn take_piece(&mut self, channel: u32, piece: Piece, mirrors: &mut dyn Incoming) -> Result<(), Reason> {
        let log = self.mirror_of(channel)?;
        if let Some(log) = log {
            self.check_piece(log, &piece)?;
            if piece.offset == 0 {
                mirrors.open(log, piece.sequence, piece.flags, piece.total);
            }
        }
        if let Some(session) = &mut self.session {
            session.arriving = Some(Arriving { log, offset: piece.offset, left: piece.len });
        }
        Ok(())
    }

    fn check_piece(&mut self, log: LogKey, piece: &Piece) -> Result<(), Reason> {
        let Some(state) = self.mirrors.get_mut(&log).and_then(|mirror| mirror.log.as_mut()) else { return Ok(()) };
        let fits = match &state.partial {
            Some(partial) => {
                let expected = (partial.sequence, partial.flags, partial.total, partial.offset);
                (piece.sequence, piece.flags, piece.total, piece.offset) == expected
            }
            None => piece.offset == 0 && piece.sequence == state.next,
        };
        if !fits {
            return Err(violation("it sends a piece of another frame than the next one"));
        }
        if piece.total as usize <= LONGEST_WHOLE || piece.total > state.longest {
            return Err(violation("it sends in pieces what it may not"));
        }
        if !state.grants(long_frame_len(piece.total)) {
            return Err(violation("it sends more than it was granted"));
        }
        state.partial = Some(*piece);
        Ok(())
    }

    /// A piece is there, and its frame up to `offset`.
    fn piece_is_there(&mut self, now: Instant, log: LogKey, offset: u32, mirrors: &mut dyn Incoming) {
        let Some(state) = self.mirrors.get_mut(&log).and_then(|mirror| mirror.log.as_mut()) else { return };
        let Some(partial) = &mut state.partial else { return };
        partial.offset = offset;
        let Piece { sequence, total, .. } = *partial;
        if offset == total {
            state.partial = None;
            mirrors.commit(log, sequence);
            self.commit(now, log, sequence + 1, long_frame_len(total));
            self.status.received += 1;
            self.status.received_bytes += long_frame_len(total);
        }
    }

    /// A mirror has everything below `next`.
    fn commit(&mut self, now: Instant, log: LogKey, next: u64, bytes: u64) {
        let Some(state) = self.mirrors.get_mut(&log).and_then(|mirror| mirror.log.as_mut()) else { return };
        let at_once = state.commit(next, bytes, self.settings.ack_bytes);
        let Some(session) = &mut self.session else { return };
        if at_once {
            session.due_now(log);
        } else {
            session.due_soon(now, log);
        }
    }

    // What the receiving side of a publication says.

    /// The flow of a channel; `None`: it has ended, which the other side could not know yet.
    fn flow_of(&self, channel: u32) -> Result<Option<LogKey>, Reason> {
        match self.session.as_ref().and_then(|session| session.out.get(&channel)) {
            Some(OutChannel::Live(log)) => Ok(Some(*log)),
            Some(OutChannel::Ending(_)) => Ok(None),
            Some(OutChannel::Unsaid(_)) | None => Err(violation("it speaks of a channel that is not")),
        }
    }

    fn take_open(&mut self, now: Instant, channel: u32, next: u64, credit: u64, longest: u32) -> Result<(), Reason> {
        let Some(log) = self.flow_of(channel)? else { return Ok(()) };
        if self.flows.get(&log).is_some_and(|flow| flow.sending.is_some()) {
            return Err(violation("it opens a channel twice"));
        }
        self.open_flow(now, log, next, credit, longest);
        Ok(())
    }

    fn take_refuse(&mut self, now: Instant, channel: u32) -> Result<(), Reason> {
        if let Some(log) = self.flow_of(channel)? {
            self.flow_refused(now, log);
        }
        Ok(())
    }

    fn take_closed(&mut self, channel: u32) -> Result<(), Reason> {
        let Some(session) = &mut self.session else { return Ok(()) };
        match session.out.remove(&channel) {
            Some(OutChannel::Ending(finished)) => {
                if let Some(log) = finished {
                    self.flow_finished(log);
                }
                self.announce_waiting();
                Ok(())
            }
            _ => Err(violation("it closes a channel that was not ended")),
        }
    }

    /// The other side has everything, and knows that nothing more comes.
    fn flow_finished(&mut self, log: LogKey) {
        if self.flows.remove(&log).is_some() {
            self.actions.push_back(Action::Unlink { log });
        }
    }

    fn take_progress(&mut self, now: Instant, channel: u32, next: u64, credit: u64) -> Result<(), Reason> {
        let Some(log) = self.flow_of(channel)? else { return Ok(()) };
        let Some(flow) = self.flows.get_mut(&log) else { return Ok(()) };
        let Some(sending) = &mut flow.sending else {
            return Err(violation("it acknowledges on a channel that it did not open"));
        };
        if next > sending.sent || credit < sending.credit {
            return Err(violation("it acknowledges what was not sent, or takes credit back"));
        }
        sending.credit = credit;
        if sending.needs <= credit {
            sending.needs = 0;
        }
        self.acknowledged(now, log, next);
        self.ready(log);
        Ok(())
    }
}

/// Checks all that an announcement says.
fn read_publication(announced: &Announced<'_>) -> Result<Publication, Reason> {
    let topic = Topic::new(announced.topic).map_err(|error| violation(error.to_string()))?;
    for name in [announced.node, announced.base_name] {
        check_node_name(name).map_err(|error| violation(error.to_string()))?;
    }
    let mut schema = AlignedVec::<16>::with_capacity(announced.schema.len());
    schema.extend_from_slice(announced.schema);
    let schema: Schema =
        nodeset_bus::protocol::record::decode(&schema).map_err(|error| violation(error.to_string()))?;
    schema.check().map_err(|error| violation(error.to_string()))?;
    Ok(Publication {
        log: LogKey { publication: PublicationId(announced.publication), epoch: announced.epoch },
        topic,
        schema: Arc::new(schema),
        node: announced.node.to_owned(),
        base_name: announced.base_name.to_owned(),
    })
}
