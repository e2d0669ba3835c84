//! Logs of this host that are read for one other host, and what of them is kept until that host has it.
//!
//! Frames are copied out of the log once, into chunks that can be given to `writev` as they are. So what is kept for a host that
//! is slow or away holds no publisher up: its blocks are free again as soon as they were copied. Only for a link
//! [`AcrossHosts`](Quality::AcrossHosts) reading stops when [`WINDOW`] is kept; then the publisher waits.

use std::collections::{BTreeMap, VecDeque};

use nodeset_bus::inlet::{Extensions, Inlet, InletFault};
use nodeset_bus::memory::SharedWords;
use nodeset_bus::protocol::SubscriptionId;
use nodeset_bus::wake::Wish;
use rkyv::util::AlignedVec;

use super::codec::{FrameIn, LONGEST_WHOLE, Quality, put_frame};
use super::peer::{LogKey, Next, Outgoing};

/// bytes; frames are collected in chunks of about this length
const CHUNK: usize = 64 << 10;
/// bytes; kept of a log for which the publisher waits
const WINDOW: u64 = 8 << 20;
/// bytes; kept of a log of which nothing needs to be kept: what can be sent without waiting
const LOSSY_WINDOW: u64 = 1 << 20;
/// Messages of one log before others have their turn.
const MESSAGES_A_TURN: usize = 4096;

/// All logs that one other host is sent.
#[derive(Default)]
pub(super) struct Sources {
    by_log: BTreeMap<LogKey, Source>,
}

/// One of them.
pub(super) struct Source {
    pub(super) subscription: SubscriptionId,
    quality: Quality,
    /// messages
    history: u64,
    /// Nothing of it is kept any more.
    demoted: bool,
    inlet: Option<(Box<Inlet>, bool)>,
    chunks: VecDeque<Chunk>,
    /// bytes of all chunks
    kept: u64,
    /// Sequence behind the last message that is no longer kept.
    dropped: u64,
    /// What was asked for last: it is being sent, and stays where it is.
    asked: u64,
    /// Sequence behind the newest message that was read.
    next: u64,
    /// bytes read since it was linked
    position: u64,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    body: Vec<u8>,
    copied: AlignedVec,
}

/// Frames that follow one another without a hole.
struct Chunk {
    /// Sequence of the first one.
    first: u64,
    /// Messages from here to the first one were left out on purpose; what is missing before that is lost.
    skipped_from: u64,
    /// Where each begins.
    starts: Vec<u32>,
    bytes: Vec<u8>,
    /// It is one long frame.
    long: Option<(u8, u32)>,
}

/// What reading had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Sequence behind the newest message.
    pub(super) next: u64,
    /// bytes from the beginning to the end
    pub(super) position: u64,
    /// Something new was read.
    pub(super) news: bool,
    /// There may be more at once.
    pub(super) more: bool,
    /// Nothing more comes.
    pub(super) ended: bool,
    /// There is more, and it is not read before something is dropped.
    pub(super) stalled: bool,
}

impl Sources {
    pub(super) fn get(&mut self, log: LogKey) -> Option<&mut Source> {
        self.by_log.get_mut(&log)
    }

    /// Reads a log from its link on; what is new over there begins with so many messages from before.
    pub(super) fn insert(&mut self, log: LogKey, subscription: SubscriptionId, quality: Quality, history: u64) {
        self.by_log.insert(log, Source { history, ..Source::new(subscription, quality) });
    }

    pub(super) fn remove(&mut self, log: LogKey) -> Option<SubscriptionId> {
        self.by_log.remove(&log).map(|source| source.subscription)
    }

    pub(super) fn log_of(&self, subscription: SubscriptionId) -> Option<LogKey> {
        self.by_log.iter().find(|(_, source)| source.subscription == subscription).map(|(&log, _)| log)
    }

    pub(super) fn logs(&self) -> Vec<LogKey> {
        self.by_log.keys().copied().collect()
    }

    pub(super) fn linked(&self) -> Vec<LogKey> {
        self.by_log.iter().filter(|(_, source)| source.inlet.is_some()).map(|(&log, _)| log).collect()
    }

    /// What to wish for before sleeping.
    pub(super) fn wishes(&self) -> impl Iterator<Item = &Wish<SharedWords>> + Clone {
        self.by_log
            .values()
            .filter(|source| source.has_room())
            .filter_map(|it| it.inlet.as_ref())
            .map(|(it, _)| it.wish())
    }

    /// Whether something is to be read.
    pub(super) fn is_ready(&self) -> bool {
        self.by_log
            .values()
            .any(|source| source.has_room() && source.inlet.as_ref().is_some_and(|(inlet, _)| inlet.is_ready()))
    }

    /// The bytes that [`Outgoing::next`] told of: frames from `first` on.
    pub(super) fn frames(&self, log: LogKey, first: u64, bytes: usize) -> Option<&[u8]> {
        let chunk = self.by_log.get(&log)?.chunk_of(first)?;
        let start = *chunk.starts.get((first - chunk.first) as usize)? as usize;
        chunk.bytes.get(start..start.checked_add(bytes)?)
    }

    /// A part of a long frame's extensions and payload.
    pub(super) fn piece(&self, log: LogKey, sequence: u64, offset: usize, len: usize) -> Option<&[u8]> {
        let chunk = self.by_log.get(&log)?.chunk_of(sequence)?;
        chunk.bytes.get(offset..offset.checked_add(len)?)
    }
}

impl Outgoing for Sources {
    fn next(&mut self, log: LogKey, from: u64, limit: u32) -> Next {
        let Some(source) = self.by_log.get_mut(&log) else { return Next::Nothing };
        source.asked = from;
        source.next_at(from, limit as usize)
    }
}

impl Source {
    fn new(subscription: SubscriptionId, quality: Quality) -> Source {
        Source {
            subscription,
            quality,
            history: 0,
            demoted: false,
            inlet: None,
            chunks: VecDeque::new(),
            kept: 0,
            dropped: 0,
            asked: 0,
            next: 0,
            position: 0,
            scratch: Scratch::default(),
        }
    }

    /// The log is there; gives the sequence of the first message, and of the one with which a new mirror begins.
    pub(super) fn linked(&mut self, inlet: Box<Inlet>, foreign: bool) -> (u64, u64) {
        self.next = inlet.next_sequence();
        self.dropped = self.next;
        let start = inlet.entered_at().saturating_sub(self.history).max(self.next);
        self.inlet = Some((inlet, foreign));
        (self.next, start)
    }

    pub(super) fn set_quality(&mut self, quality: Quality) {
        self.quality = quality;
    }

    /// The publisher's process died.
    pub(super) fn publisher_gone(&mut self) {
        if let Some((inlet, _)) = &mut self.inlet {
            inlet.publisher_gone();
        }
    }

    /// What is below is not needed any more.
    pub(super) fn retain(&mut self, from: u64) {
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= from) {
            self.drop_chunk(0);
        }
    }

    pub(super) fn set_demoted(&mut self, demoted: bool) {
        self.demoted = demoted;
        self.give_way();
    }

    fn drop_chunk(&mut self, at: usize) {
        if let Some(chunk) = self.chunks.remove(at) {
            self.kept -= chunk.bytes.len() as u64;
            self.dropped = self.dropped.max(chunk.end());
        }
    }

    fn keeps_all(&self) -> bool {
        self.quality != Quality::Lossy && !self.demoted
    }

    fn has_room(&self) -> bool {
        self.quality != Quality::AcrossHosts || self.demoted || self.kept < WINDOW
    }

    /// There is more, and it is not read before something is dropped.
    fn is_stalled(&self) -> bool {
        !self.has_room() && self.inlet.as_ref().is_some_and(|(inlet, _)| inlet.is_ready())
    }

    /// Drops the oldest, where nothing needs to be kept; neither the newest, nor what is being sent.
    fn give_way(&mut self) {
        while !self.keeps_all() && self.kept > LOSSY_WINDOW {
            let at = usize::from(self.chunks.front().is_some_and(|oldest| oldest.has(self.asked)));
            if at + 1 >= self.chunks.len() {
                return;
            }
            self.drop_chunk(at);
        }
    }

    /// Reads what is there, a bounded piece of it.
    pub(super) fn read(&mut self) -> Progress {
        let (mut news, mut more, mut ended) = (false, false, false);
        for turn in 1..=MESSAGES_A_TURN {
            if !self.has_room() {
                break;
            }
            let Some((inlet, foreign)) = &mut self.inlet else { break };
            match inlet.poll() {
                Ok(Some(frame)) => {
                    let extensions = inlet.extensions();
                    let Scratch { body, copied } = &mut self.scratch;
                    body.clear();
                    extensions.to_bytes(body);
                    if *foreign {
                        inlet.copy_payload(copied);
                        body.extend_from_slice(copied);
                    } else {
                        body.extend_from_slice(inlet.payload());
                    }
                    self.append(frame.sequence, frame.missed_before, &extensions);
                    (news, more) = (true, turn == MESSAGES_A_TURN);
                }
                Ok(None) => break,
                // Given up by its publisher: what is lost is a hole that the next message shows.
                Err(InletFault::Evicted { .. }) => {}
                Err(InletFault::Ended { missed }) => {
                    self.next = inlet.next_sequence().saturating_add(missed);
                    ended = true;
                    break;
                }
                Err(_) => {
                    ended = true;
                    break;
                }
            }
        }
        if ended {
            self.inlet = None;
        }
        self.give_way();
        let stalled = self.is_stalled();
        Progress { next: self.next, position: self.position, news, more, ended, stalled }
    }

    /// Appends the message in `scratch`.
    fn append(&mut self, sequence: u64, missed: u64, extensions: &Extensions) {
        let body = &self.scratch.body;
        let (before, flags) = (self.kept, extensions.frame_flags());
        let skipped_from = self.next.saturating_add(missed).min(sequence);
        if body.len() > LONGEST_WHOLE {
            let long = Some((flags, body.len() as u32));
            self.chunks.push_back(Chunk { first: sequence, skipped_from, starts: vec![0], bytes: body.clone(), long });
            self.kept += body.len() as u64;
        } else {
            let follows = self.chunks.back().is_some_and(|last| last.takes(sequence, body.len()));
            if !follows {
                let (starts, bytes) = (Vec::new(), Vec::with_capacity(CHUNK));
                self.chunks.push_back(Chunk { first: sequence, skipped_from, starts, bytes, long: None });
            }
            if let Some(chunk) = self.chunks.back_mut() {
                let start = chunk.bytes.len();
                chunk.starts.push(start as u32);
                put_frame(FrameIn { sequence, flags, body }, &mut chunk.bytes);
                self.kept += (chunk.bytes.len() - start) as u64;
            }
        }
        self.position += self.kept - before;
        self.next = sequence.saturating_add(1);
    }

    fn chunk_of(&self, sequence: u64) -> Option<&Chunk> {
        let at = self.chunks.partition_point(|chunk| chunk.end() <= sequence);
        self.chunks.get(at).filter(|chunk| chunk.first <= sequence)
    }

    fn next_at(&self, from: u64, limit: usize) -> Next {
        if from < self.dropped {
            return Next::Gone { held: self.dropped };
        }
        let at = self.chunks.partition_point(|chunk| chunk.end() <= from);
        let Some(chunk) = self.chunks.get(at) else {
            return if from < self.next { Next::Gone { held: self.next } } else { Next::Nothing };
        };
        if from < chunk.first {
            return if from < chunk.skipped_from {
                Next::Gone { held: chunk.skipped_from }
            } else {
                Next::Skip { count: chunk.first - from }
            };
        }
        if let Some((flags, len)) = chunk.long {
            return Next::Long { flags, len };
        }
        chunk.run((from - chunk.first) as usize, limit)
    }
}

impl Chunk {
    /// Sequence behind the last one.
    fn end(&self) -> u64 {
        self.first + self.starts.len() as u64
    }

    fn has(&self, sequence: u64) -> bool {
        (self.first..self.end()).contains(&sequence)
    }

    fn takes(&self, sequence: u64, len: usize) -> bool {
        self.long.is_none() && self.end() == sequence && self.bytes.len() + len + 32 <= CHUNK
    }

    /// Frames from that one on, up to `limit` bytes, at least one.
    fn run(&self, at: usize, limit: usize) -> Next {
        let start = self.starts[at] as usize;
        let ends = self.starts[at + 1..].iter().map(|&it| it as usize).chain([self.bytes.len()]);
        let (mut count, mut bytes) = (0, 0);
        for end in ends {
            if count > 0 && end - start > limit {
                break;
            }
            (count, bytes) = (count + 1, (end - start) as u32);
        }
        Next::Run { count, bytes }
    }
}

#[cfg(test)]
mod tests {
    use nodeset_bus::protocol::PublicationId;

    use super::*;

    fn source(quality: Quality) -> Source {
        Source::new(SubscriptionId(1), quality)
    }

    impl Source {
        fn add(&mut self, sequence: u64, missed: u64, len: usize) {
            self.scratch.body = vec![sequence as u8; len];
            self.append(sequence, missed, &Extensions::NONE);
        }
    }

    #[test]
    fn runs_long_frames_and_holes_are_told_apart() {
        let mut source = source(Quality::Reliable);
        for sequence in 0..3 {
            source.add(sequence, 0, 20);
        }
        source.add(3, 0, LONGEST_WHOLE + 1);
        // Two were left out, then three lost and one left out.
        source.add(6, 0, 20);
        source.add(11, 3, 20);
        assert_eq!(source.next_at(0, 1), Next::Run { count: 1, bytes: 48 });
        assert_eq!(source.next_at(1, 1000), Next::Run { count: 2, bytes: 96 });
        assert_eq!(source.next_at(3, 1), Next::Long { flags: 0, len: LONGEST_WHOLE as u32 + 1 });
        assert_eq!(source.next_at(4, 1), Next::Skip { count: 2 });
        assert_eq!(source.next_at(5, 1), Next::Skip { count: 1 });
        assert_eq!(source.next_at(7, 1), Next::Gone { held: 10 });
        assert_eq!(source.next_at(10, 1), Next::Skip { count: 1 });
        assert_eq!(source.next_at(12, 1), Next::Nothing);
        // What is done with is gone; a hole right behind it is still known.
        source.retain(4);
        assert_eq!(source.next_at(2, 1), Next::Gone { held: 4 });
        assert_eq!(source.next_at(4, 1), Next::Skip { count: 2 });
    }

    /// A peer was given up while pieces of a long message were on their way, and the next piece was gone.
    #[test]
    fn what_is_being_sent_stays_until_something_else_is_asked_for() {
        const LEN: usize = LONGEST_WHOLE + 1;
        let log = LogKey { publication: PublicationId(1), epoch: 1 };
        let mut sources = Sources::default();
        sources.insert(log, SubscriptionId(1), Quality::Reliable, 0);
        for sequence in 0..1000 {
            sources.get(log).unwrap().add(sequence, 0, LEN);
        }
        assert_eq!(sources.next(log, 5, 1), Next::Long { flags: 0, len: LEN as u32 });
        let source = sources.get(log).unwrap();
        source.set_demoted(true);
        assert!(source.kept <= LOSSY_WINDOW + LEN as u64);
        assert_eq!(sources.piece(log, 5, LEN - 1, 1), Some(&[5][..]));
        let Next::Gone { held } = sources.next(log, 6, 1) else { panic!("what was dropped is there") };
        assert_eq!(sources.next(log, held, 1), Next::Long { flags: 0, len: LEN as u32 });
        let source = sources.get(log).unwrap();
        source.retain(held);
        assert_eq!((source.chunks[0].first, source.dropped), (held, held));
        assert_eq!(source.kept, source.chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum::<u64>());
    }

    #[test]
    fn what_need_not_be_kept_gives_way() {
        let mut source = source(Quality::Reliable);
        let fill = |source: &mut Source, from: u64| {
            for sequence in from..from + 1000 {
                source.add(sequence, 0, 4000);
            }
            source.give_way();
        };
        fill(&mut source, 0);
        assert!(source.kept > 3 * LOSSY_WINDOW);
        source.set_demoted(true);
        assert!(source.kept <= LOSSY_WINDOW && source.dropped > 0);
        source.set_demoted(false);
        fill(&mut source, 1000);
        assert!(source.kept > 3 * LOSSY_WINDOW);
        source.set_quality(Quality::AcrossHosts);
        assert!(source.has_room());
        fill(&mut source, 2000);
        assert!(!source.has_room(), "the publisher would not wait");
        source.set_demoted(true);
        assert!(source.has_room(), "it was given up, and the publisher still waits");
        source.set_demoted(false);
        source.retain(2999);
        assert!(source.has_room());
    }
}
