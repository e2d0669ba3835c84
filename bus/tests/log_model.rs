//! The log against a plain model: a list of what was published, and what each reader has seen of it.
//!
//! Sequences of operations (publish, read, fall behind, keep, drop, join, demote, leave) in one thread, over words on the heap; and
//! once several threads at full speed. Whatever happens: no torn message, order kept, received + missed = published.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nodeset_bus::atomics::Words;
use nodeset_bus::clock::Timestamp;
use nodeset_bus::log::{
    Cursor, CursorFault, CursorSpec, Extensions, Kept, Link, Links, NoRoom, Producer, Reach, RequestMark, Retention,
    Ring, segment_len,
};
use nodeset_bus::memory::SharedWords;
use nodeset_bus::page::{NODE_PAGE_LEN, NodePage, PeerPage, SIGNAL_PAGE_LEN, SignalPage};
use nodeset_bus::protocol::{LinkId, LogShape, PublicationId, SubscriptionId};
use proptest::prelude::*;

/// Counts how often it rang.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Ring for Bell {
    fn ring(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A message: its number, then bytes that follow from number and place.
fn payload(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number.wrapping_mul(31).wrapping_add(at as u64 * 7) >> 1) as u8).collect()
}

/// What a message carries beside its payload: each combination comes up, values follow from the number.
fn extensions(number: u64) -> Extensions {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let choice = mixed >> 59;
    // Most carry nothing, as in life.
    if choice & 0b11000 != 0 {
        return Extensions::NONE;
    }
    Extensions {
        time: Timestamp::from_nanos(1 + number).filter(|_| choice & 1 != 0),
        tag: (choice & 2 != 0).then_some(mixed),
        request: (choice & 4 != 0).then_some(RequestMark { id: number, lane: !mixed }),
    }
}

struct Publication {
    producer: Producer<SharedWords>,
    links: Arc<Links<SharedWords>>,
    log: SharedWords,
    shape: LogShape,
    retention: Retention,
    /// One node page for all readers, each on its own line.
    page: Arc<NodePage<SharedWords>>,
    peer: PeerPage<SharedWords>,
    signal: SignalPage<SharedWords>,
    bell: Arc<Bell>,
    /// Lengths of all messages.
    published: Vec<usize>,
    next_line: u32,
}

impl Publication {
    fn new(shape: LogShape, retention: Retention) -> Publication {
        let log = SharedWords::heap(segment_len(shape) as usize);
        let links = Arc::new(Links::new(SharedWords::heap(64)));
        let page_words = SharedWords::heap(NODE_PAGE_LEN as usize);
        let page = Arc::new(NodePage::create(page_words.clone()));
        Publication {
            producer: Producer::create(log.clone(), shape, 1, retention, Arc::clone(&links)),
            links,
            log,
            shape,
            retention,
            page,
            peer: PeerPage::open(page_words).unwrap(),
            signal: SignalPage::open(SharedWords::heap(SIGNAL_PAGE_LEN as usize)),
            bell: Arc::new(Bell::default()),
            published: Vec::new(),
            next_line: 0,
        }
    }

    fn join(&mut self, reliable: bool) -> Reader {
        let line = self.next_line;
        self.next_line += 1;
        let id = LinkId { publication: PublicationId(1), epoch: 1, subscription: SubscriptionId(u64::from(line)) };
        let tag = line as u16 % 1000 + 1;
        // The publisher lists the link first, then the reader enters: as with two processes.
        self.links.add(Link {
            id,
            page: self.peer.clone(),
            line,
            tag,
            reliable,
            bell: Arc::clone(&self.bell) as Arc<dyn Ring>,
            signal: self.signal.clone(),
            slot: 0,
        });
        let released = Arc::new(AtomicUsize::new(0));
        let on_released = Arc::clone(&released);
        let cursor = Cursor::open(CursorSpec {
            log: self.log.clone(),
            shape: self.shape,
            page: Arc::clone(&self.page),
            line,
            tag,
            reliable,
            depth: self.retention.depth,
            history: 0,
            bell: Arc::clone(&self.bell) as Arc<dyn Ring>,
            lane: None,
            on_released: Box::new(move || {
                on_released.fetch_add(1, Ordering::Relaxed);
            }),
        })
        .unwrap();
        assert!(cursor.is_in(), "nobody moves while it joins");
        let due = self.published.len() as u64;
        Reader { cursor, id, reliable, due, joined: due, received: 0, kept: Vec::new(), released }
    }

    /// Goes on where another log ended that had so many messages; `readers` joined before.
    fn go_on_from(&mut self, earlier: usize, readers: &mut [Reader]) {
        self.producer.start_at(earlier as u64);
        self.published.resize(earlier, 0);
        for reader in readers {
            (reader.due, reader.joined) = (earlier as u64, earlier as u64);
        }
    }

    /// Publishes a message, if there is room.
    fn publish(&mut self, len: usize, reach: Reach) -> Result<(), NoRoom> {
        let number = self.published.len() as u64;
        let extensions = extensions(number);
        let front = extensions.frame_bytes();
        self.producer.open(front + len, reach)?;
        self.producer.open_bytes(front + len)[front..].copy_from_slice(&payload(number, len));
        let sequence = match front {
            0 => self.producer.commit(len),
            _ => self.producer.commit_extended(len, &extensions),
        };
        assert_eq!(sequence, number);
        self.published.push(len);
        Ok(())
    }
}

struct Reader {
    cursor: Cursor<SharedWords>,
    id: LinkId,
    /// It loses nothing.
    reliable: bool,
    /// Of the next message.
    due: u64,
    joined: u64,
    received: u64,
    kept: Vec<(Kept, u64)>,
    released: Arc<AtomicUsize>,
}

impl Reader {
    /// Reads one message, if there is one; checks it against all that was published.
    fn read(&mut self, published: &[usize]) -> bool {
        match self.cursor.poll() {
            Ok(Some(frame)) => {
                assert_eq!(frame.sequence, self.due + frame.missed_before);
                assert!(!self.reliable || frame.missed_before == 0, "a reliable reader missed {}", frame.missed_before);
                let len = published[frame.sequence as usize];
                assert_eq!(self.cursor.payload(), payload(frame.sequence, len), "message {}", frame.sequence);
                assert_eq!(self.cursor.extensions(), extensions(frame.sequence), "message {}", frame.sequence);
                self.due = frame.sequence + 1;
                self.received += 1;
                true
            }
            Ok(None) => {
                // A lossy one that was lapped may stand in a block that is still empty: its loss is counted at the next message.
                let has_all = self.due == published.len() as u64;
                assert!(has_all || !self.reliable, "nothing came though something is there");
                false
            }
            Err(CursorFault::Evicted { missed }) => {
                assert!(!self.reliable, "nobody demoted it");
                self.due += missed;
                true
            }
            Err(fault) => panic!("{fault}"),
        }
    }

    /// All that is left, up to the end of the log.
    fn drain(&mut self, published: &[usize]) {
        let missed = loop {
            match self.cursor.poll() {
                Ok(Some(frame)) => {
                    assert_eq!(frame.sequence, self.due + frame.missed_before);
                    assert_eq!(self.cursor.extensions(), extensions(frame.sequence), "message {}", frame.sequence);
                    self.due = frame.sequence + 1;
                    self.received += 1;
                }
                Err(CursorFault::Evicted { missed }) => self.due += missed,
                Err(CursorFault::Ended { missed }) => break missed,
                other => panic!("{other:?} before the end"),
            }
        };
        assert_eq!(self.due + missed, published.len() as u64);
        assert!(!self.reliable || self.cursor.missed() == 0);
        assert_eq!(self.received + self.cursor.missed(), published.len() as u64 - self.joined);
    }

    fn check_kept(&self, published: &[usize]) {
        for (kept, number) in &self.kept {
            assert_eq!(kept.payload(), payload(*number, published[*number as usize]), "kept message {number}");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish {
        len: usize,
        limit: bool,
    },
    /// Room that is given back.
    Abandon {
        len: usize,
    },
    Read {
        reader: usize,
        messages: usize,
    },
    Keep {
        reader: usize,
    },
    LetGo {
        reader: usize,
    },
    Join {
        reliable: bool,
    },
    Demote {
        reader: usize,
    },
    Leave {
        reader: usize,
    },
    Skip {
        reader: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![6 => 0..200_usize, 3 => 200..3000_usize, 1 => 3000..14_000_usize];
    prop_oneof![
        12 => (len.clone(), any::<bool>()).prop_map(|(len, limit)| Step::Publish { len, limit }),
        1 => len.prop_map(|len| Step::Abandon { len }),
        8 => (any::<usize>(), 1..20_usize).prop_map(|(reader, messages)| Step::Read { reader, messages }),
        2 => any::<usize>().prop_map(|reader| Step::Keep { reader }),
        1 => any::<usize>().prop_map(|reader| Step::LetGo { reader }),
        1 => any::<bool>().prop_map(|reliable| Step::Join { reliable }),
        1 => any::<usize>().prop_map(|reader| Step::Demote { reader }),
        1 => any::<usize>().prop_map(|reader| Step::Leave { reader }),
        1 => any::<usize>().prop_map(|reader| Step::Skip { reader }),
    ]
}

/// More with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(128)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn whatever_readers_do_nothing_is_torn_lost_or_repeated(
        steps in prop::collection::vec(step(), 1..400),
        blocks in 9..40_u32,
        depth in 0..100_u64,
        fast in any::<bool>(),
        // The log may go on from another one that had so many messages.
        earlier in prop_oneof![Just(0), 1..50_usize],
    ) {
        let shape = LogShape { block_len: 4096, blocks };
        let spread = if fast { 6 * 4096 } else { 0 };
        let retention = Retention { depth, history: 0, prompt: 5 * 4096, spread };
        let mut publication = Publication::new(shape, retention);
        let mut readers = vec![publication.join(true), publication.join(false)];
        publication.go_on_from(earlier, &mut readers);
        for step in steps {
            let count = readers.len();
            match step {
                Step::Publish { len, limit } => {
                    let reach = if limit { Reach::Limit } else { Reach::Prompt };
                    match publication.publish(len, reach) {
                        Ok(()) => {}
                        Err(NoRoom::Outgrown) => prop_assert!(false, "only an outlet says so"),
                        Err(NoRoom::TooLong { limit }) => {
                            let front = extensions(publication.published.len() as u64).frame_bytes();
                            prop_assert!((front + len) as u64 > limit);
                        }
                        Err(NoRoom::Behind(blocker)) => {
                            prop_assert!(!limit);
                            let blocker = readers.iter().find(|reader| reader.id == blocker).unwrap();
                            prop_assert!(blocker.reliable, "nobody waits for a lossy reader");
                        }
                        Err(NoRoom::Full(blocker)) => {
                            // Somebody holds it: a reliable reader, or samples that are kept.
                            let holds = |reader: &Reader| Some(reader.id) == blocker;
                            prop_assert!(blocker.is_none() || readers.iter().any(holds));
                            let kept = readers.iter().any(|reader| !reader.kept.is_empty());
                            let behind = readers.iter().any(|it| it.reliable && it.due < publication.published.len() as u64);
                            // Few blocks, and a run of adjacent ones is asked for.
                            let cut_up = len > 4096 - 48 - 32;
                            prop_assert!(kept || behind || cut_up, "full though nobody holds anything");
                        }
                    }
                }
                Step::Abandon { len } => {
                    let opened = publication.producer.open(len, Reach::Limit);
                    publication.producer.open_bytes(if opened.is_ok() { len } else { 0 }).fill(0xff);
                }
                Step::Read { reader, messages } if count > 0 => {
                    let reader = &mut readers[reader % count];
                    for _ in 0..messages {
                        if !reader.read(&publication.published) {
                            break;
                        }
                    }
                }
                Step::Keep { reader } if count > 0 => {
                    let reader = &mut readers[reader % count];
                    let before = reader.received;
                    if reader.read(&publication.published) && reader.received > before {
                        reader.kept.push((reader.cursor.keep().unwrap(), reader.due - 1));
                    }
                }
                Step::LetGo { reader } if count > 0 => {
                    let reader = &mut readers[reader % count];
                    reader.check_kept(&publication.published);
                    reader.kept.clear();
                }
                Step::Join { reliable } if count < 6 => readers.push(publication.join(reliable)),
                Step::Demote { reader } if count > 0 => {
                    let reader = &mut readers[reader % count];
                    prop_assert!(publication.links.demote(reader.id));
                    reader.reliable = false;
                }
                Step::Skip { reader } if count > 0 => readers[reader % count].cursor.skip_to_newest(),
                Step::Leave { reader } if count > 1 => {
                    let reader = readers.swap_remove(reader % count);
                    let Reader { cursor, id, kept, released, .. } = reader;
                    drop(cursor);
                    prop_assert_eq!(released.load(Ordering::Relaxed), usize::from(kept.is_empty()));
                    for (kept, number) in &kept {
                        let len = publication.published[*number as usize];
                        prop_assert_eq!(kept.payload(), payload(*number, len));
                    }
                    drop(kept);
                    prop_assert_eq!(released.load(Ordering::Relaxed), 1);
                    prop_assert!(publication.links.remove(id));
                }
                _ => {}
            }
        }
        publication.producer.finish();
        for reader in &mut readers {
            reader.check_kept(&publication.published);
            reader.drain(&publication.published);
            reader.check_kept(&publication.published);
        }
    }
}

/// Whoever wants nothing but the newest message finds it behind few others, however much was published since.
#[test]
fn who_skips_finds_the_newest_message_in_the_next_block() {
    let shape = LogShape { block_len: 4096, blocks: 64 };
    for spread in [0, 32 * 4096] {
        let retention = Retention { depth: 1, history: 1, prompt: 4 * 4096, spread };
        let mut publication = Publication::new(shape, retention);
        let (mut lossy, mut reliable) = (publication.join(false), publication.join(true));
        let mut lengths = (0..).map(|number| if number % 31 == 0 { 5000 } else { number * 37 % 200 });
        for round in 0..300 {
            for _ in 0..round % 40 {
                publication.publish(lengths.next().unwrap(), Reach::Limit).unwrap();
            }
            lossy.cursor.skip_to_newest();
            let before = lossy.received;
            while lossy.read(&publication.published) {}
            assert_eq!(lossy.due, publication.published.len() as u64, "the newest is not there");
            assert!(lossy.received - before <= lossy.cursor.per_block() as u64);
            // One that is to have all skips nothing.
            reliable.cursor.skip_to_newest();
            while reliable.read(&publication.published) {}
        }
        assert!(lossy.cursor.missed() > 0, "nothing was skipped");
        publication.producer.finish();
        lossy.cursor.skip_to_newest();
        lossy.drain(&publication.published);
        reliable.drain(&publication.published);
    }
}

/// Several threads at full speed: a reliable reader and two lossy ones, one of which dawdles.
#[test]
fn threads_at_full_speed_tear_nothing() {
    const MESSAGES: u64 = 300_000;
    let shape = LogShape { block_len: 4096, blocks: 64 };
    let retention = Retention { depth: 8, history: 0, prompt: 4 * 4096, spread: 8 * 4096 };
    let mut publication = Publication::new(shape, retention);
    let readers = [publication.join(true), publication.join(false), publication.join(false)];
    let len =
        |number: u64| (number.wrapping_mul(0x9e37_79b9) >> 7) as usize % if number % 97 == 0 { 9000 } else { 150 };
    std::thread::scope(|scope| {
        for (at, mut reader) in readers.into_iter().enumerate() {
            scope.spawn(move || {
                let mut kept = Vec::new();
                loop {
                    match reader.cursor.poll() {
                        Ok(Some(frame)) => {
                            assert_eq!(frame.sequence, reader.due + frame.missed_before);
                            assert!(!reader.reliable || frame.missed_before == 0);
                            let expected = payload(frame.sequence, len(frame.sequence));
                            assert_eq!(reader.cursor.payload(), expected, "message {}", frame.sequence);
                            assert_eq!(reader.cursor.extensions(), extensions(frame.sequence));
                            reader.due = frame.sequence + 1;
                            reader.received += 1;
                            if at == 2 && reader.received % 64 == 0 {
                                kept.push((reader.cursor.keep().unwrap(), expected));
                                if kept.len() == 8 {
                                    std::thread::yield_now();
                                    for (kept, expected) in kept.drain(..) {
                                        assert_eq!(kept.payload(), expected);
                                    }
                                }
                            }
                        }
                        Ok(None) => std::thread::yield_now(),
                        Err(CursorFault::Ended { missed }) => {
                            assert_eq!(reader.due + missed, MESSAGES);
                            assert_eq!(reader.received + reader.cursor.missed(), MESSAGES);
                            return;
                        }
                        Err(fault) => panic!("{fault}"),
                    }
                }
            });
        }
        for number in 0..MESSAGES {
            loop {
                match publication.publish(len(number), Reach::Limit) {
                    Ok(()) => break,
                    Err(NoRoom::Full(_)) => std::thread::yield_now(),
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        publication.producer.finish();
    });
    // Nothing here relies on the words being mapped.
    assert!(publication.log.load(0) != 0);
}

#[test]
fn what_was_left_out_is_no_loss_and_what_is_lost_is_counted() {
    let shape = LogShape { block_len: 4096, blocks: 8 };
    let mut publication = Publication::new(shape, Retention::default());
    let mut reader = publication.join(true);
    // Over several blocks, so that both also stand where one begins.
    let (mut next, mut missed) = (0, 0);
    for round in 0..200_u64 {
        assert_eq!(publication.producer.next_sequence(), next);
        let at = publication.producer.open(64, Reach::Limit).unwrap();
        publication.log.store(at, next);
        assert_eq!(publication.producer.commit(8), next);
        let frame = reader.cursor.poll().unwrap().unwrap();
        assert_eq!((frame.sequence, frame.missed_before), (next, missed), "round {round}");
        (next, missed) = (next + 1, 0);
        if round % 2 == 0 {
            assert_eq!(publication.producer.skip(round + 1, Reach::Limit).unwrap(), next);
            next += round + 1;
        }
        if round % 3 == 0 {
            publication.producer.lose(round);
            missed = round;
            next += round;
        }
    }
    publication.producer.lose(7);
    publication.producer.finish();
    assert_eq!(reader.cursor.poll().unwrap_err(), CursorFault::Ended { missed: missed + 7 });
}
