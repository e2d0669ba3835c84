//! Segments full of anything: whatever another process wrote there, a reader neither panics nor hangs nor hands out what lies
//! outside of the segment, and one bad neighbour costs the others nothing.
//!
//! Random words, and better: good contents with a few words replaced, most of them by what nearly makes sense. Each test runs
//! a bounded number of cases under a watchdog, since a reader that never returns is one of the things looked for.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use nodeset_bus::atomics::Words;
use nodeset_bus::log::{
    Cursor, CursorFault, CursorSpec, Extensions, Link, Links, NoRoom, Producer, Reach, RequestMark, Retention, Ring,
    segment_len,
};
use nodeset_bus::memory::SharedWords;
use nodeset_bus::page::{LayoutError, NODE_PAGE_LEN, NodePage, PeerPage, SIGNAL_PAGE_LEN, SignalPage};
use nodeset_bus::protocol::{LinkId, LogShape, PublicationId, SubscriptionId};
use nodeset_bus::wake::Alarm;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rkyv::util::AlignedVec;

/// No test waits for a time to pass; this is only how long one that hangs takes.
const DEADLINE: Duration = Duration::from_secs(120);
const SHAPE: LogShape = LogShape { block_len: 4096, blocks: 8 };
/// bytes before the first block: header and block table (`docs/layout.md`)
const BLOCKS_AT: usize = 8192;
const RETENTION: Retention = Retention { depth: 100, history: 0, prompt: 6 * 4096, spread: 0 };
/// More frames than fit into the whole log.
const MANY: usize = 10_000;
const TAG: u16 = 7;

/// The page of the readers of damaged logs. One for all: it is large. Each test has a line of its own.
static PAGE: LazyLock<Arc<NodePage<SharedWords>>> =
    LazyLock::new(|| Arc::new(NodePage::create(SharedWords::heap(NODE_PAGE_LEN as usize))));

#[derive(Default)]
struct Bell(AtomicUsize);

impl Ring for Bell {
    fn ring(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs `test` on a thread of its own; a panic there is one here, and so is no end.
fn watched(test: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = channel::<()>();
    let thread = std::thread::spawn(move || {
        let _ends_with_the_thread = sender;
        test();
    });
    match receiver.recv_timeout(DEADLINE) {
        Err(RecvTimeoutError::Timeout) => panic!("a reader does not return"),
        _ => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
    }
}

fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value)) {
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let run = TestRunner::new(config).run(&strategy, |value| {
        test(value);
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

/// What one might find in a word: anything, small numbers, the greatest ones, commit words.
fn value() -> impl Strategy<Value = u64> {
    let len = prop_oneof![0..64_u64, 0..9000_u64, Just(u64::from(u32::MAX)), any::<u32>().prop_map(u64::from)];
    prop_oneof![
        any::<u64>(),
        0..20_u64,
        (0..20_u64).prop_map(|below| u64::MAX - below),
        (len, 0..6_u64, prop_oneof![6 => Just(0), 3 => 0..4_u8, 1 => any::<u8>()])
            .prop_map(|(len, kind, flags)| len | kind << 32 | u64::from(flags) << 40),
        // Around the greatest generation that a line's word can name.
        (0..4_u64).prop_map(|above| (1 << 48) - 2 + above),
    ]
}

/// Where the damage is: byte offset of a word. Never in what `open` refuses (magic word and shape).
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![
        // follows .. closed
        4 => (4..0x108 / 8_usize).prop_map(|word| 8 * word),
        // The block table.
        4 => (0..SHAPE.blocks as usize * 4).prop_map(|word| 4096 + 8 * word),
        // The first frames of a block.
        4 => (0..SHAPE.blocks as usize, 0..16_usize).prop_map(|(block, word)| BLOCKS_AT + 4096 * block + 8 * word),
        2 => (0..SHAPE.blocks as usize * 512).prop_map(|word| BLOCKS_AT + 8 * word),
    ]
}

fn damage() -> impl Strategy<Value = Vec<(usize, u64)>> {
    prop::collection::vec((place(), value()), 0..12)
}

fn strike(log: &SharedWords, damage: &[(usize, u64)]) {
    for &(at, value) in damage {
        log.store(at, value);
    }
}

/// A log with so many messages of such a length in it.
fn log_with(messages: usize, len: usize) -> (SharedWords, Producer<SharedWords>) {
    let log = SharedWords::heap(segment_len(SHAPE) as usize);
    let links = Arc::new(Links::new(SharedWords::heap(64)));
    let mut producer = Producer::create(log.clone(), SHAPE, 1, RETENTION, links);
    let request = Some(RequestMark { id: u64::MAX, lane: 3 });
    for extensions in [Extensions { tag: Some(7), request, time: None }, Extensions::NONE].iter().cycle().take(messages)
    {
        let front = extensions.frame_bytes();
        producer.open(front + len, Reach::Limit).unwrap();
        producer.open_bytes(front + len)[front..].fill(0xa5);
        producer.commit_extended(len, extensions);
    }
    (log, producer)
}

/// How somebody reads.
#[derive(Clone, Copy, Debug)]
struct Reading {
    reliable: bool,
    depth: u64,
    history: u64,
    publisher_gone: bool,
}

fn reading() -> impl Strategy<Value = Reading> {
    let count = || prop_oneof![0..300_u64, Just(u64::MAX)];
    (any::<bool>(), count(), count(), any::<bool>()).prop_map(|(reliable, depth, history, publisher_gone)| Reading {
        reliable,
        depth,
        history,
        publisher_gone,
    })
}

fn open(log: &SharedWords, line: u32, reading: Reading) -> Result<Cursor<SharedWords>, LayoutError> {
    let cursor = Cursor::open(CursorSpec {
        log: log.clone(),
        shape: SHAPE,
        page: Arc::clone(&PAGE),
        line,
        tag: TAG,
        reliable: reading.reliable,
        depth: reading.depth,
        history: reading.history,
        bell: Arc::new(Bell::default()),
        lane: None,
        on_released: Box::new(|| {}),
    });
    cursor.map(|mut cursor| {
        if reading.publisher_gone {
            cursor.publisher_gone();
        }
        cursor
    })
}

/// Touches every byte of the message that was polled last, in each of the ways in which one can get at it.
fn look_at(cursor: &Cursor<SharedWords>, copy: &mut AlignedVec) {
    let in_place = cursor.payload();
    assert!(in_place.len() <= SHAPE.block_len as usize * SHAPE.blocks as usize);
    cursor.copy_payload(copy);
    assert_eq!(in_place, &copy[..]);
    let extensions = cursor.extensions();
    assert!(extensions.time.is_none_or(|time| (1..1 << 63).contains(&time.as_nanos())));
    if let Ok(kept) = cursor.keep() {
        assert_eq!(kept.payload(), in_place);
    }
}

/// Reads what there is. Nobody writes meanwhile, so it comes to an end.
fn read_out(cursor: &mut Cursor<SharedWords>) {
    let mut copy = AlignedVec::new();
    let mut due = 0;
    for _ in 0..MANY {
        cursor.is_ready();
        if due % 5 == 1 {
            cursor.skip_to_newest();
        }
        match cursor.poll() {
            Ok(Some(frame)) => {
                assert!(frame.sequence >= due, "message {} came again", frame.sequence);
                due = frame.sequence.saturating_add(1);
                look_at(cursor, &mut copy);
            }
            Ok(None) => return,
            Err(CursorFault::Evicted { .. }) => {}
            Err(fault) => {
                let again = cursor.poll().unwrap_err();
                let same = std::mem::discriminant(&fault) == std::mem::discriminant(&again);
                assert!(same, "{fault:?}, then {again:?}");
                return;
            }
        }
    }
    panic!("more messages than fit into the log");
}

#[test]
fn a_log_damaged_before_it_is_opened_is_read_to_an_end() {
    watched(|| {
        let contents = (0..200_usize, 0..600_usize, damage(), reading());
        check(2000, contents, |(messages, len, damage, reading)| {
            let (log, _) = log_with(messages, len);
            strike(&log, &damage);
            read_out(&mut open(&log, 0, reading).unwrap());
        });
    });
}

#[test]
fn a_log_damaged_under_its_reader_is_read_to_an_end() {
    watched(|| {
        let contents = (0..200_usize, 0..600_usize, 0..50_usize, prop::collection::vec(damage(), 1..4), reading());
        check(2000, contents, |(messages, len, read, strikes, reading)| {
            let (log, _) = log_with(messages, len);
            let mut cursor = open(&log, 1, Reading { history: 100, publisher_gone: false, ..reading }).unwrap();
            for _ in 0..read {
                let _ = cursor.poll();
            }
            if reading.publisher_gone {
                cursor.publisher_gone();
            }
            for damage in strikes {
                strike(&log, &damage);
                read_out(&mut cursor);
            }
        });
    });
}

#[test]
fn a_log_of_nothing_but_random_words_is_read_to_an_end() {
    watched(|| {
        let words = segment_len(SHAPE) as usize / 8;
        let contents = (prop::collection::vec(value(), 64), any::<usize>(), reading());
        check(1000, contents, |(values, step, reading)| {
            let (log, _) = log_with(0, 0);
            for word in 4..words {
                log.store(8 * word, values[word.wrapping_mul(step | 1) % values.len()]);
            }
            read_out(&mut open(&log, 2, reading).unwrap());
        });
    });
}

/// A frame whose flags name more than its block has room for is damaged, however short its payload.
#[test]
fn extensions_that_leave_the_block_are_damage() {
    let reading = Reading { reliable: false, depth: 0, history: 1, publisher_gone: false };
    for flags in 0..=255_u64 {
        let (log, mut producer) = log_with(0, 0);
        let mut cursor = open(&log, 5, Reading { history: 0, ..reading }).unwrap();
        // The block's last frame with a payload: it leaves room for three more words of 16 bytes and the closing frame.
        let len = 4096 - 16 - 16 - 3 * 16;
        producer.open(len, Reach::Limit).unwrap();
        producer.commit(len);
        cursor.poll().unwrap().unwrap();
        let at = BLOCKS_AT + 4096 - 4 * 16;
        log.store(at + 8, 1);
        log.store(at, 1 << 32 | flags << 40);
        let fits = flags.count_ones() <= 2;
        match cursor.poll() {
            Ok(Some(frame)) => {
                assert!(fits, "{flags:#b}");
                assert_eq!((frame.sequence, cursor.payload().len()), (1, 0));
                assert_eq!(cursor.extensions().request.is_some(), flags & 2 != 0);
            }
            Err(CursorFault::Corrupt { at: damaged, .. }) => assert!(!fits && damaged == at, "{flags:#b}"),
            other => panic!("{flags:#b}: {other:?}"),
        }
    }
}

#[test]
fn what_does_not_begin_as_a_log_is_refused() {
    let reading = Reading { reliable: true, depth: 0, history: 0, publisher_gone: false };
    check(500, (0..4_usize, any::<u64>()), |(word, value)| {
        // Word 1 is the epoch: any will do.
        let (log, _) = log_with(3, 8);
        let good = log.load(8 * word);
        log.store(8 * word, value);
        assert_eq!(open(&log, 3, reading).is_ok(), value == good || word == 1);
    });
}

/// Changes a log for as long as it lives.
struct Scribbler {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Scribbler {
    fn start(log: SharedWords, writes: Vec<(usize, u64)>) -> Scribbler {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                strike(&log, &writes);
            }
        });
        Scribbler { stop, thread: Some(thread) }
    }
}

impl Drop for Scribbler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

#[test]
fn a_log_that_changes_all_the_time_stops_no_reader() {
    watched(|| {
        let writes = prop::collection::vec((place(), value()), 1..400);
        check(60, (writes, reading()), |(writes, reading)| {
            let (log, _) = log_with(150, 100);
            let scribbler = Scribbler::start(log.clone(), writes);
            let mut copy = AlignedVec::new();
            for _ in 0..40 {
                let mut cursor = open(&log, 4, reading).unwrap();
                for poll in 0..500 {
                    if poll % 50 == 7 {
                        cursor.skip_to_newest();
                    }
                    if let Ok(Some(_)) = cursor.poll() {
                        // Copied, not looked at in place: what changes under a reference is not for safe code.
                        cursor.copy_payload(&mut copy);
                    }
                }
            }
            drop(scribbler);
        });
    });
}

/// What a subscriber may write to its page: any word, and words that carry the link's tag.
fn line_word() -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => value(),
        // from, at, held: a generation. more: a line, which may name itself or another one in a circle.
        4 => (0..60_u64).prop_map(|generation| u64::from(TAG) << 48 | generation),
        4 => prop_oneof![32_760..32_800_u64, 65_530..65_540_u64].prop_map(|line| u64::from(TAG) << 48 | line),
    ]
}

#[test]
fn a_subscriber_that_writes_anything_to_its_page_harms_no_other() {
    let bad_words = SharedWords::heap(NODE_PAGE_LEN as usize);
    NodePage::create(bad_words.clone());
    let good_words = SharedWords::heap(NODE_PAGE_LEN as usize);
    let good_page = Arc::new(NodePage::create(good_words.clone()));
    let signal_words = SharedWords::heap(SIGNAL_PAGE_LEN as usize);
    watched(move || {
        // The link's line, and those that its `more` words may name.
        let line_at = |line: usize| 4096 + 64 * line;
        let at = prop_oneof![
            (0..8_usize).prop_map(move |word| line_at(3) + 8 * word),
            (32_768..32_800_usize, 0..8_usize).prop_map(move |(line, word)| line_at(line) + 8 * word),
            // asleep, heartbeat and the like
            (1..512_usize).prop_map(|word| 8 * word),
        ];
        let writes = prop::collection::vec((at, line_word()), 1..60);
        check(150, (writes, any::<u64>(), any::<bool>()), move |(writes, wanted, reliable)| {
            let (log, mut producer) = log_with(0, 0);
            let links = Arc::clone(producer.links());
            let mut alarm = Alarm::new(&producer, None);
            let link = |number: u64, words: &SharedWords, line, reliable| Link {
                id: LinkId { publication: PublicationId(1), epoch: 1, subscription: SubscriptionId(number) },
                page: PeerPage::open(words.clone()).unwrap(),
                line,
                tag: TAG,
                reliable,
                bell: Arc::new(Bell::default()) as Arc<dyn Ring>,
                signal: SignalPage::open(signal_words.clone()),
                slot: 0,
            };
            let bad = link(1, &bad_words, 3, reliable);
            links.add(bad.clone());
            links.add(link(2, &good_words, 0, true));
            let mut good = Cursor::open(CursorSpec {
                log,
                shape: SHAPE,
                page: Arc::clone(&good_page),
                line: 0,
                tag: TAG,
                reliable: true,
                depth: 100,
                history: 0,
                bell: Arc::new(Bell::default()),
                lane: None,
                on_released: Box::new(|| {}),
            })
            .unwrap();
            for (number, &(at, word)) in (0_u64..).zip(writes.iter().cycle().take(600)) {
                bad_words.store(at, word);
                signal_words.store(4096, wanted);
                if let Err(no_room) = producer.open(400, Reach::Limit) {
                    assert!(matches!(no_room, NoRoom::Full(_)), "{no_room:?}");
                    // Whoever holds everything is taken off the list, as when its process is killed: then there is room.
                    links.remove(bad.id);
                    producer.open(400, Reach::Limit).unwrap();
                    links.add(bad.clone());
                }
                producer.open_bytes(400).fill(number as u8);
                assert_eq!(producer.commit(400), number);
                alarm.after_commit(&mut producer);
                let frame = good.poll().unwrap().unwrap();
                assert_eq!((frame.sequence, frame.missed_before), (number, 0));
                assert_eq!(good.payload(), [number as u8; 400]);
            }
        });
    });
}

#[test]
fn what_does_not_begin_as_a_node_page_is_refused() {
    check(500, any::<u64>(), |first| {
        let words = SharedWords::heap(64);
        words.store(0, first);
        assert!(PeerPage::open(words).is_err());
    });
}
