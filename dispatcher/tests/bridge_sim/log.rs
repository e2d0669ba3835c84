//! A publication's log as the bridge of its host sees it, and what its messages are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nodeset_dispatcher::bridge::codec::{FrameIn, LONGEST_WHOLE, Quality, put_frame};
use nodeset_dispatcher::bridge::peer::{LogKey, Next, Outgoing, Publication};

use super::random::mix;

/// bytes; the longest body of a message
pub(crate) const LONGEST: u64 = 40_000;
/// bytes of frames that a log holds, unless a link keeps more
pub(crate) const CAPACITY: u64 = 128 * 1024;

/// The shortest time for which a subscription has publishers wait.
pub(crate) const SHORTEST_WAIT: Duration = Duration::from_millis(150);

/// What message `sequence` of a log is; a pure function, so that everybody can check it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// Its flags and its body.
    Data(u8, Vec<u8>),
    /// It was filtered out.
    Skipped,
}

pub(crate) fn is_skipped(log: LogKey, sequence: u64) -> bool {
    mix(log.publication.0 ^ mix(sequence ^ 1)) % 40 == 0
}

/// bytes of the body
pub(crate) fn body_len(log: LogKey, sequence: u64) -> u64 {
    let number = mix(log.publication.0 ^ mix(sequence ^ 2));
    let len = number >> 8;
    match number % 32 {
        0 => LONGEST_WHOLE as u64 + 1 + len % (LONGEST - LONGEST_WHOLE as u64),
        1 => LONGEST_WHOLE as u64 - len % 64,
        2 => 0,
        _ => 16 + len % 300,
    }
}

fn flags(log: LogKey, sequence: u64) -> u8 {
    if body_len(log, sequence) >= 16 && mix(log.publication.0 ^ mix(sequence ^ 3)) % 4 == 0 { 1 } else { 0 }
}

/// bytes; a body begins within so many of the noise
const NOISE_LEN: usize = 16_381;

/// What all bodies are parts of.
fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| (0..NOISE_LEN as u64 + LONGEST).map(|at| mix(at) as u8).collect())
}

pub(crate) fn message(log: LogKey, sequence: u64) -> Message {
    if is_skipped(log, sequence) {
        return Message::Skipped;
    }
    let begin = mix(log.publication.0 ^ mix(log.epoch ^ mix(sequence))) as usize % NOISE_LEN;
    let body = noise()[begin..begin + body_len(log, sequence) as usize].to_vec();
    Message::Data(flags(log, sequence), body)
}

/// bytes that a frame takes in a log
pub(crate) fn frame_len(body: u64) -> u64 {
    16 + body.next_multiple_of(16)
}

fn message_len(log: LogKey, sequence: u64) -> u64 {
    if is_skipped(log, sequence) { 32 } else { frame_len(body_len(log, sequence)) }
}

/// What one peer's bridge reads of a log.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) quality: Quality,
    /// Everything from here on is kept, unless lossy or demoted.
    pub(crate) from: u64,
    pub(crate) demoted: bool,
    /// Since when its publisher waits, or the last acknowledgement while it does.
    pub(crate) stalled: Option<Instant>,
    /// The other side may hear of a gap although it asked for reliability.
    pub(crate) excused: bool,
}

#[derive(Debug)]
pub(crate) struct LocalLog {
    pub(crate) publication: Publication,
    pub(crate) base: u64,
    pub(crate) next: u64,
    /// bytes from the beginning of all time to `next`
    pub(crate) position: u64,
    lens: VecDeque<u64>,
    /// bytes; the sum of `lens`
    held: u64,
    pub(crate) ended: bool,
    /// By peer. The one of a dispatcher that was restarted stays until its successor knows what the peer wants.
    pub(crate) links: BTreeMap<usize, Link>,
}

impl LocalLog {
    pub(crate) fn new(publication: Publication, first: u64) -> LocalLog {
        LocalLog {
            publication,
            base: first,
            next: first,
            position: 77,
            lens: VecDeque::new(),
            held: 0,
            ended: false,
            links: BTreeMap::new(),
        }
    }

    /// Publishes one message; false when the publisher would have to wait.
    pub(crate) fn publish(&mut self) -> bool {
        let len = message_len(self.publication.log, self.next);
        self.make_room(len);
        if self.held + len > CAPACITY {
            return false;
        }
        self.lens.push_back(len);
        self.held += len;
        self.position += len;
        self.next += 1;
        self.links.values_mut().for_each(|link| link.stalled = None);
        true
    }

    /// The publisher waits; gives the peers for which it does.
    pub(crate) fn wait(&mut self, now: Instant) -> impl Iterator<Item = usize> {
        let waits = |link: &Link| link.quality == Quality::AcrossHosts && !link.demoted;
        self.links.iter_mut().filter(move |(_, link)| waits(link)).map(move |(&peer, link)| {
            link.stalled.get_or_insert(now);
            peer
        })
    }

    fn make_room(&mut self, len: u64) {
        let kept = self.links.values().filter(|link| link.quality != Quality::Lossy && !link.demoted);
        let kept = kept.map(|link| link.from).min().unwrap_or(self.next);
        while self.held + len > CAPACITY && self.base < kept {
            self.held -= self.lens.pop_front().expect("what is held has a length");
            self.base += 1;
        }
    }

    /// bytes; where message `sequence` begins
    pub(crate) fn position_of(&self, sequence: u64) -> u64 {
        let behind = self.lens.iter().skip((sequence - self.base) as usize).sum::<u64>();
        self.position - behind
    }
}

/// The logs of a host, for one of its peers.
pub(crate) struct Logs<'a> {
    pub(crate) logs: &'a BTreeMap<LogKey, LocalLog>,
    pub(crate) peer: usize,
}

impl Outgoing for Logs<'_> {
    fn next(&mut self, key: LogKey, from: u64, limit: u32) -> Next {
        let log = &self.logs[&key];
        assert!(log.links.contains_key(&self.peer), "it reads what is not linked");
        if from < log.base {
            return Next::Gone { held: log.base };
        }
        if from >= log.next {
            return Next::Nothing;
        }
        let skipped = (from..log.next).take_while(|&sequence| is_skipped(key, sequence)).count() as u64;
        if skipped > 0 {
            return Next::Skip { count: skipped };
        }
        let len = body_len(key, from);
        if len > LONGEST_WHOLE as u64 {
            return Next::Long { flags: flags(key, from), len: len as u32 };
        }
        let (mut count, mut bytes) = (1, frame_len(len));
        for sequence in from + 1..log.next {
            let len = body_len(key, sequence);
            if is_skipped(key, sequence) || len > LONGEST_WHOLE as u64 || bytes + frame_len(len) > u64::from(limit) {
                break;
            }
            count += 1;
            bytes += frame_len(len);
        }
        Next::Run { count, bytes: bytes as u32 }
    }
}

impl Logs<'_> {
    /// What the peer said that it sends from the log.
    pub(crate) fn put_frames(&self, key: LogKey, first: u64, count: u32, out: &mut Vec<u8>) {
        assert!(first >= self.logs[&key].base, "what is being sent is gone");
        for sequence in first..first + u64::from(count) {
            let Message::Data(flags, body) = message(key, sequence) else { panic!("it sends what was filtered out") };
            put_frame(FrameIn { sequence, flags, body: &body }, out);
        }
    }

    pub(crate) fn put_piece(&self, key: LogKey, sequence: u64, offset: u32, len: u32, out: &mut Vec<u8>) {
        let Message::Data(_, body) = message(key, sequence) else { panic!("it sends what was filtered out") };
        out.extend_from_slice(&body[offset as usize..][..len as usize]);
    }
}
