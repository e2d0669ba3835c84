//! Two peers, a wire between them, a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::message::Schema;
use nodeset_bus::protocol::PublicationId;
use nodeset_bus::topic::{Selector, Topic};

use super::super::*;
use crate::bridge::codec::{Decoded, FrameIn, Hello, LONGEST_WHOLE, Quality, Record, decode, put_frame};

/// How long publishers wait for a side that takes nothing.
pub(super) const DEADLINE: Duration = Duration::from_secs(3);

/// What a mirror was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Message(u64, Vec<u8>),
    Gap(u64, u64),
    Skip(u64, u64),
}

impl Told {
    /// Of the message, or the first one that was left out.
    pub(super) fn sequence(&self) -> u64 {
        let (Told::Message(sequence, _) | Told::Gap(sequence, _) | Told::Skip(sequence, _)) = self;
        *sequence
    }
}

/// The logs and mirrors of one side.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// First held, next, bytes of each body.
    pub(super) logs: BTreeMap<LogKey, (u64, u64, u32)>,
    pub(super) skipped: BTreeSet<u64>,
    pub(super) told: BTreeMap<LogKey, Vec<Told>>,
    loans: BTreeMap<LogKey, (u64, Vec<u8>)>,
}

pub(super) fn body(sequence: u64, len: u32) -> Vec<u8> {
    (0..u64::from(len)).map(|at| (sequence * 31 + at) as u8).collect()
}

impl Outgoing for Store {
    fn next(&mut self, log: LogKey, from: u64, limit: u32) -> Next {
        let (base, next, len) = self.logs[&log];
        if from < base {
            return Next::Gone { held: base };
        }
        if from >= next {
            return Next::Nothing;
        }
        if self.skipped.contains(&from) {
            return Next::Skip { count: 1 };
        }
        if len as usize > LONGEST_WHOLE {
            return Next::Long { flags: 0, len };
        }
        let frame = 16 + len.next_multiple_of(16);
        let plain = (from..next).take_while(|sequence| !self.skipped.contains(sequence)).count() as u32;
        let count = plain.min((limit / frame).max(1));
        Next::Run { count, bytes: count * frame }
    }
}

impl Incoming for Store {
    fn frame(&mut self, log: LogKey, sequence: u64, _flags: u8, body: &[u8]) {
        self.told.entry(log).or_default().push(Told::Message(sequence, body.to_vec()));
    }
    fn open(&mut self, log: LogKey, sequence: u64, _flags: u8, len: u32) {
        let before = self.loans.insert(log, (sequence, vec![0; len as usize]));
        assert!(before.is_none(), "two loans at once");
    }
    fn fill(&mut self, log: LogKey, offset: u32, bytes: &[u8]) {
        let (_, body) = self.loans.get_mut(&log).expect("there is a loan");
        body[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    fn commit(&mut self, log: LogKey, sequence: u64) {
        let (opened, body) = self.loans.remove(&log).expect("there is a loan");
        assert_eq!(opened, sequence);
        self.told.entry(log).or_default().push(Told::Message(sequence, body));
    }
    fn gap(&mut self, log: LogKey, first: u64, count: u64) {
        self.told.entry(log).or_default().push(Told::Gap(first, count));
    }
    fn skip(&mut self, log: LogKey, first: u64, count: u64) {
        self.told.entry(log).or_default().push(Told::Skip(first, count));
    }
}

/// One side: its peer, its store, what it did.
pub(super) struct End {
    pub(super) peer: Peer,
    pub(super) store: Store,
    pub(super) actions: Vec<Action>,
    /// Arrived and not taken.
    buffer: Vec<u8>,
    /// Room and longest body of each mirror that is opened.
    pub(super) room: (u64, u32),
    /// Opens mirrors and links at once.
    pub(super) answers: bool,
    /// What earlier mirrors of a log were told is forgotten.
    pub(super) forgets: bool,
    /// Where mirrors go on that were there before.
    pub(super) held: BTreeMap<LogKey, u64>,
    /// Where new mirrors begin, if not with the first message that is held.
    pub(super) start: Option<u64>,
}

impl End {
    pub(super) fn new(settings: Settings) -> End {
        End {
            peer: Peer::new(settings),
            store: Store::default(),
            actions: Vec::new(),
            buffer: Vec::new(),
            room: (1 << 20, 1 << 20),
            answers: true,
            forgets: false,
            held: BTreeMap::new(),
            start: None,
        }
    }

    pub(super) fn act(&mut self, now: Instant) {
        while let Some(action) = self.peer.poll_action() {
            match &action {
                Action::Link { log, .. } if self.answers => {
                    let (base, ..) = self.store.logs[log];
                    let start = self.start.unwrap_or(base);
                    self.peer.handle(now, Input::Linked { log: *log, first: base, start, position: 0 });
                }
                Action::OpenMirror { publication, first, .. } if self.answers => {
                    let log = publication.log;
                    let next = self.held.get(&log).copied().unwrap_or(*first);
                    let (room, longest) = self.room;
                    self.peer.handle(now, Input::MirrorOpened { log, next, room, longest });
                }
                Action::AbandonLoan { log } => drop(self.store.loans.remove(log).expect("there is a loan")),
                Action::EndMirror { log, .. } => {
                    self.store.loans.remove(log);
                    if self.forgets {
                        self.store.told.remove(log);
                    }
                }
                _ => {}
            }
            self.actions.push(action);
        }
    }

    /// Everything that it wants to write.
    pub(super) fn write(&mut self, now: Instant) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.write_one(now, &mut bytes) {}
        bytes
    }

    /// One record; false when there is none.
    pub(super) fn write_one(&mut self, now: Instant, bytes: &mut Vec<u8>) -> bool {
        let Some(transmit) = self.peer.poll_transmit(now, &mut self.store, bytes) else { return false };
        match transmit {
            Transmit::Record => {}
            Transmit::Frames { log, first, count, .. } => {
                for sequence in first..first + u64::from(count) {
                    let body = body(sequence, self.store.logs[&log].2);
                    put_frame(FrameIn { sequence, flags: 0, body: &body }, bytes);
                }
            }
            Transmit::Piece { log, sequence, offset, len } => {
                let body = body(sequence, self.store.logs[&log].2);
                bytes.extend_from_slice(&body[offset as usize..][..len as usize]);
            }
        }
        self.act(now);
        true
    }

    pub(super) fn read(&mut self, now: Instant, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        let taken = self.peer.receive(now, &self.buffer, &mut self.store);
        self.buffer.drain(..taken);
        self.act(now);
    }

    pub(super) fn drop_buffer(&mut self) {
        self.buffer.clear();
    }

    pub(super) fn tell(&mut self, now: Instant, input: Input) {
        self.peer.handle(now, input);
        self.act(now);
    }

    /// Whether it closed its connection, and why.
    pub(super) fn closed(&self) -> Option<&Reason> {
        self.actions.iter().rev().find_map(|action| match action {
            Action::Close { reason, .. } => Some(reason),
            _ => None,
        })
    }

    pub(super) fn count(&self, is_meant: impl Fn(&Action) -> bool) -> usize {
        self.actions.iter().filter(|action| is_meant(action)).count()
    }
}

/// `a` publishes, `b` subscribes, unless a test does it otherwise.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) a: End,
    pub(super) b: End,
    pub(super) connection: u64,
    /// bytes that arrive at a time
    pub(super) chunk: usize,
}

pub(super) const LOG: LogKey = LogKey { publication: PublicationId(1), epoch: 1 };
pub(super) const OTHER: LogKey = LogKey { publication: PublicationId(2), epoch: 1 };

pub(super) fn publication(log: LogKey, topic: &str) -> Publication {
    Publication {
        log,
        topic: Topic::new(topic).unwrap(),
        schema: Arc::new(Schema::bytes()),
        node: "n-2".to_owned(),
        base_name: "n".to_owned(),
    }
}

pub(super) fn want(selector: &str, quality: Quality) -> Want {
    let deadline = if quality == Quality::AcrossHosts { DEADLINE } else { Duration::ZERO };
    Want { selector: Selector::new(selector).unwrap(), quality, deadline, history: 0 }
}

impl Pair {
    pub(super) fn new() -> Pair {
        Pair::with(|_| ())
    }

    pub(super) fn with(change: impl Fn(&mut Settings)) -> Pair {
        let settings = |local: &str, remote: &str, instance| {
            let mut settings = Settings::new(local, remote, instance);
            change(&mut settings);
            settings
        };
        Pair {
            now: Instant::now(),
            a: End::new(settings("a", "b", 11)),
            b: End::new(settings("b", "a", 22)),
            connection: 0,
            chunk: usize::MAX,
        }
    }

    /// A pair, connected, where `b` wants all that `a` publishes.
    pub(super) fn subscribed(quality: Quality, change: impl Fn(&mut Settings)) -> Pair {
        let mut pair = Pair::with(change);
        pair.b.tell(pair.now, Input::Wanted { interest: InterestId(1), want: want("**", quality) });
        pair.publish(LOG, "t", 20, 0);
        pair.connect();
        pair
    }

    /// `a` has a publication with `count` messages.
    pub(super) fn publish(&mut self, log: LogKey, topic: &str, len: u32, count: u64) {
        self.a.store.logs.insert(log, (0, count, len));
        self.a.tell(self.now, Input::Appeared(publication(log, topic)));
    }

    /// `a` publishes more.
    pub(super) fn more(&mut self, log: LogKey, count: u64) {
        let (_, next, len) = self.a.store.logs.get_mut(&log).unwrap();
        *next += count;
        let (next, position) = (*next, *next * u64::from(16 + len.next_multiple_of(16)));
        self.a.tell(self.now, Input::Available { log, next, position });
    }

    /// `a` dials `b`.
    pub(super) fn connect(&mut self) {
        let hello = self.a.peer.dial();
        let connection = self.next_connection();
        self.a.drop_buffer();
        self.b.drop_buffer();
        self.b.tell(self.now, Input::Connected { connection, role: Role::Accepted, hello });
        let answer = self.answer();
        self.a.tell(self.now, Input::Connected { connection, role: Role::Dialled, hello: answer });
        self.exchange();
    }

    /// What `b` greets with.
    pub(super) fn answer(&mut self) -> Hello {
        let mut bytes = Vec::new();
        assert!(self.b.write_one(self.now, &mut bytes));
        let Ok(Decoded::Record { record: Record::Hello(hello), .. }) = decode(&bytes) else {
            panic!("a greeting comes first");
        };
        hello
    }

    pub(super) fn next_connection(&mut self) -> ConnectionId {
        self.connection += 1;
        ConnectionId(self.connection)
    }

    /// Until nobody has anything to say; acknowledgements included.
    pub(super) fn exchange(&mut self) {
        loop {
            let to_b = self.a.write(self.now);
            let to_a = self.b.write(self.now);
            if to_a.is_empty() && to_b.is_empty() {
                return;
            }
            let chunk = self.chunk;
            to_b.chunks(chunk.min(to_b.len().max(1))).for_each(|part| self.b.read(self.now, part));
            to_a.chunks(chunk.min(to_a.len().max(1))).for_each(|part| self.a.read(self.now, part));
        }
    }

    /// Time passes; whatever is due is done.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = [self.a.peer.poll_timeout(), self.b.peer.poll_timeout()].into_iter().flatten().min();
            let Some(at) = next.filter(|&at| at <= end) else { break };
            self.now = self.now.max(at);
            for one in [&mut self.a, &mut self.b] {
                one.peer.handle_timeout(self.now);
                one.act(self.now);
            }
            self.exchange();
        }
        self.now = end;
    }

    /// The connection breaks.
    pub(super) fn cut(&mut self) {
        let connection = ConnectionId(self.connection);
        self.a.tell(self.now, Input::Disconnected { connection });
        self.b.tell(self.now, Input::Disconnected { connection });
    }

    /// Says something to `b` in the name of `a`.
    pub(super) fn say(&mut self, record: &Record<'_>) {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        self.b.read(self.now, &bytes);
    }

    pub(super) fn told(&self, log: LogKey) -> &[Told] {
        self.b.store.told.get(&log).map_or(&[], |told| told)
    }

    /// That `b` has exactly these messages, and no gap.
    pub(super) fn has(&self, log: LogKey, messages: std::ops::Range<u64>) {
        let len = self.a.store.logs[&log].2;
        let expected: Vec<_> = messages.map(|sequence| Told::Message(sequence, body(sequence, len))).collect();
        let odd = self.told(log).iter().zip(&expected).position(|(told, expected)| told != expected);
        let odd = odd.map(|at| (at, &self.told(log)[at]));
        assert!(self.told(log) == expected, "{} of {}, and {odd:?}", self.told(log).len(), expected.len());
    }
}
