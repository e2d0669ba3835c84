//! Loom models of the log: the very same source as in production, over words that loom explores.
//!
//! Each model has broken variants with one fence or ordering removed, in which loom must find a failing execution: a model
//! that cannot fail is no model.

mod model;

use std::sync::Arc;

use loom::thread;
use model::{Light, LoomWords, SHAPE_3, Silent, explore, link, node_page};
use nodeset_bus::atomics::Fact;
use nodeset_bus::clock::Timestamp;
use nodeset_bus::log::{Cursor, CursorFault, CursorSpec, Extensions, Links, NoRoom, Producer, Reach, Retention};

const KEEP_NOTHING: Retention = Retention { depth: 0, history: 0, prompt: 0, spread: 0 };

fn value(sequence: u64) -> u64 {
    1000 + sequence
}

fn publish(producer: &mut Producer<LoomWords>) -> Result<u64, NoRoom> {
    let at = producer.open(16, Reach::Limit)?;
    producer.words().write_payload(at, value(producer.next_sequence()));
    Ok(producer.commit(16))
}

fn cursor(log: &LoomWords, page: &LoomWords, tag: u16, reliable: bool) -> Cursor<LoomWords> {
    Cursor::open(CursorSpec {
        log: log.clone(),
        shape: SHAPE_3,
        page: node_page(page),
        line: 0,
        tag,
        reliable,
        depth: 0,
        history: 0,
        bell: Arc::new(Silent),
        lane: None,
        on_released: Box::new(|| {}),
    })
    .expect("a log")
}

/// Polls; a message must be the one that its sequence says, and follow `expected` without a hole that was not counted.
fn read(cursor: &mut Cursor<LoomWords>, expected: &mut u64) -> Option<u64> {
    match cursor.poll() {
        Ok(Some(frame)) => {
            assert_eq!(frame.sequence, *expected + frame.missed_before, "order, or a gap miscounted");
            assert_eq!(cursor.words().read_payload(cursor.last().offset()), value(frame.sequence), "torn");
            *expected = frame.sequence + 1;
            Some(frame.sequence)
        }
        Ok(None) => None,
        Err(fault) => panic!("{fault}"),
    }
}

/// One producer crosses three borders over three blocks while a lossy consumer reads: no frame is torn, gaps are exact.
fn lossy(broken: Option<Fact>) {
    explore("next block, lossy", 3, move || {
        let log = LoomWords::log(3, broken, Light::Full);
        let page = LoomWords::page(broken, Light::Full);
        let signal = LoomWords::signal(broken, Light::Full);
        let links = Arc::new(Links::new(LoomWords::private(broken)));
        let mut producer = Producer::create(log.clone(), SHAPE_3, 1, KEEP_NOTHING, links.clone());
        let mut reader = cursor(&log, &page, 7, false);
        links.add(link(7, &page, &signal, false, Arc::new(Silent)));
        let reading = thread::spawn(move || {
            let mut expected = 0;
            for _ in 0..2 {
                read(&mut reader, &mut expected);
            }
        });
        for _ in 0..4 {
            // Pins are two blocks at most: the consumer's and the current one.
            publish(&mut producer).expect("a lossy consumer never holds a publisher up");
        }
        reading.join().expect("reader");
    });
}

#[test]
fn a_lossy_consumer_reads_nothing_torn() {
    lossy(None);
}

#[test]
#[should_panic]
fn without_the_producers_fence_a_block_is_reused_under_a_reader() {
    lossy(Some(Fact::FloorBeforeLines));
}

#[test]
#[should_panic]
fn without_the_consumers_fence_a_block_is_entered_while_it_is_reused() {
    lossy(Some(Fact::LineBeforeFloor));
}

#[test]
#[should_panic]
fn without_release_a_frame_is_seen_before_its_payload() {
    lossy(Some(Fact::FrameCommitted));
}

#[test]
#[should_panic]
fn without_release_reads_sink_below_the_store_that_leaves_the_block() {
    lossy(Some(Fact::BlockLeft));
}

/// The same with a reliable consumer beside a lossy one: the reliable one misses nothing.
fn reliable_and_lossy(broken: Option<Fact>) {
    explore("next block, reliable and lossy", 2, move || {
        let log = LoomWords::log(3, broken, Light::Full);
        let pages = [LoomWords::page(broken, Light::Full), LoomWords::page(broken, Light::Full)];
        let signal = LoomWords::signal(broken, Light::Full);
        let links = Arc::new(Links::new(LoomWords::private(broken)));
        let mut producer = Producer::create(log.clone(), SHAPE_3, 1, KEEP_NOTHING, links.clone());
        let mut reliable = cursor(&log, &pages[0], 1, true);
        let mut lossy = cursor(&log, &pages[1], 2, false);
        links.add(link(1, &pages[0], &signal, true, Arc::new(Silent)));
        links.add(link(2, &pages[1], &signal, false, Arc::new(Silent)));
        let reading = thread::spawn(move || {
            let mut expected = 0;
            for _ in 0..2 {
                if let Some(sequence) = read(&mut reliable, &mut expected) {
                    assert_eq!(sequence, expected - 1);
                }
            }
            assert_eq!(reliable.missed(), 0, "a reliable consumer missed a message");
        });
        let skimming = thread::spawn(move || {
            read(&mut lossy, &mut 0);
        });
        for _ in 0..3 {
            match publish(&mut producer) {
                Ok(_) | Err(NoRoom::Full(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        reading.join().expect("reliable");
        skimming.join().expect("lossy");
    });
}

#[test]
fn a_reliable_consumer_beside_a_lossy_one_misses_nothing() {
    reliable_and_lossy(None);
}

/// A reliable consumer joins while the producer crosses borders: from its first message on it misses nothing.
fn join(broken: Option<Fact>) {
    explore("join during a block change", 2, move || {
        let log = LoomWords::log(3, broken, Light::Full);
        let page = LoomWords::page(broken, Light::Full);
        let signal = LoomWords::signal(broken, Light::Full);
        node_page(&page);
        let links = Arc::new(Links::new(LoomWords::private(broken)));
        let mut producer = Producer::create(log.clone(), SHAPE_3, 1, KEEP_NOTHING, links.clone());
        publish(&mut producer).expect("room");
        let joining = thread::spawn(move || {
            // The order of the control protocol: on the list first, then into the log.
            links.add(link(3, &page, &signal, true, Arc::new(Silent)));
            let mut reader = cursor(&log, &page, 3, true);
            let mut expected = None;
            for _ in 0..2 {
                match reader.poll() {
                    Ok(Some(frame)) => {
                        assert!(expected.is_none_or(|expected| frame.sequence == expected), "a hole after joining");
                        assert_eq!(reader.words().read_payload(reader.last().offset()), value(frame.sequence), "torn");
                        expected = Some(frame.sequence + 1);
                    }
                    Ok(None) => {}
                    Err(fault) => panic!("{fault}"),
                }
            }
            assert_eq!(reader.missed(), 0, "missed after joining");
        });
        for _ in 0..2 {
            match publish(&mut producer) {
                Ok(_) | Err(NoRoom::Full(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        joining.join().expect("joining");
    });
}

#[test]
fn a_consumer_that_joins_during_a_block_change_misses_nothing() {
    join(None);
}

#[test]
#[should_panic]
fn without_the_consumers_fence_a_join_meets_a_block_that_goes() {
    join(Some(Fact::LineBeforeFloor));
}

#[test]
#[should_panic]
fn without_the_producers_fence_a_join_is_overlooked() {
    join(Some(Fact::FloorBeforeLines));
}

/// A consumer keeps a message while it reads on: the block stays until the last clone of the pin is gone.
fn keep(broken: Option<Fact>) {
    explore("owned sample across blocks", 3, move || {
        let log = LoomWords::log(3, broken, Light::Full);
        let page = LoomWords::page(broken, Light::Full);
        let signal = LoomWords::signal(broken, Light::Full);
        let links = Arc::new(Links::new(LoomWords::private(broken)));
        let mut producer = Producer::create(log.clone(), SHAPE_3, 1, KEEP_NOTHING, links.clone());
        let mut reader = cursor(&log, &page, 4, false);
        links.add(link(4, &page, &signal, false, Arc::new(Silent)));
        publish(&mut producer).expect("room");
        let keeping = thread::spawn(move || {
            let mut expected = 0;
            assert_eq!(read(&mut reader, &mut expected), Some(0));
            let kept = reader.last();
            let pin = reader.pin().expect("a free word");
            for _ in 0..2 {
                match reader.poll() {
                    Ok(_) | Err(CursorFault::Ended { .. }) => {}
                    Err(fault) => panic!("{fault}"),
                }
            }
            assert_eq!(pin.words().read_payload(kept.offset()), value(0), "reused while it was held");
        });
        for _ in 0..3 {
            // The pin, the consumer's block and the current one: with three blocks there may be no room.
            match publish(&mut producer) {
                Ok(_) | Err(NoRoom::Full(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        keeping.join().expect("keeping");
    });
}

#[test]
fn a_kept_message_stays_while_its_consumer_reads_on() {
    keep(None);
}

#[test]
#[should_panic]
fn without_release_a_pin_is_overlooked_or_given_up_early() {
    keep(Some(Fact::BlockLeft));
}

/// A message that carries something beside its payload: whoever sees the frame sees that as well, whatever stood there.
fn extended(broken: Option<Fact>) {
    explore("extensions", 3, move || {
        let log = LoomWords::log(3, broken, Light::Full);
        let page = LoomWords::page(broken, Light::Full);
        let links = Arc::new(Links::new(LoomWords::private(broken)));
        let mut producer = Producer::create(log.clone(), SHAPE_3, 1, KEEP_NOTHING, links);
        let mut reader = cursor(&log, &page, 5, false);
        let time = Timestamp::from_nanos(77);
        let reading = thread::spawn(move || {
            for _ in 0..2 {
                if reader.poll().expect("no fault").is_some() {
                    assert_eq!(reader.extensions().time, time, "seen before it was written");
                }
            }
        });
        producer.open(32, Reach::Limit).expect("room");
        producer.commit_extended(16, &Extensions { time, ..Extensions::NONE });
        reading.join().expect("reader");
    });
}

#[test]
fn extensions_come_with_their_frame() {
    extended(None);
}

#[test]
#[should_panic]
fn without_release_a_frame_is_seen_before_its_extensions() {
    extended(Some(Fact::FrameCommitted));
}

/// A lossy consumer passes over blocks while the producer reuses them: what it reads then is whole, and gaps are exact.
fn skipping(broken: Option<Fact>) {
    explore("skip to the newest", 2, move || {
        let log = LoomWords::log(3, broken, Light::Full);
        let page = LoomWords::page(broken, Light::Full);
        let signal = LoomWords::signal(broken, Light::Full);
        let links = Arc::new(Links::new(LoomWords::private(broken)));
        let mut producer = Producer::create(log.clone(), SHAPE_3, 1, KEEP_NOTHING, links.clone());
        let mut reader = cursor(&log, &page, 6, false);
        links.add(link(6, &page, &signal, false, Arc::new(Silent)));
        let reading = thread::spawn(move || {
            let mut expected = 0;
            for _ in 0..2 {
                reader.skip_to_newest();
                read(&mut reader, &mut expected);
            }
        });
        for _ in 0..4 {
            publish(&mut producer).expect("a lossy consumer never holds a publisher up");
        }
        reading.join().expect("reader");
    });
}

#[test]
fn a_consumer_that_skips_reads_nothing_torn() {
    skipping(None);
}

#[test]
#[should_panic]
fn without_the_consumers_fence_a_skip_meets_a_block_that_goes() {
    skipping(Some(Fact::LineBeforeFloor));
}
