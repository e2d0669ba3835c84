//! Loom models of waiting for readers: a producer that sleeps because its log is full is rung when a reader leaves a block; one
//! of a lane that waits for its reader to handle something is rung when it does.

mod model;

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use model::{Light, LoomWords, SHAPE_3, Silent, explore, link, node_page};
use nodeset_bus::atomics::Fact;
use nodeset_bus::log::{Cursor, CursorSpec, Lane, Links, NoRoom, Producer, Reach, Retention, Ring};

struct Doorbell(AtomicBool);

impl Ring for Doorbell {
    fn ring(&self) {
        // Like an eventfd: a system call orders everything.
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Whether there is room for one more message now.
fn has_room(producer: &mut Producer<LoomWords>) -> bool {
    match producer.open(16, Reach::Limit) {
        Ok(_) => true,
        Err(NoRoom::Full(_)) => false,
        Err(other) => panic!("{other:?}"),
    }
}

/// Three messages fill the three blocks; a reliable reader goes from the first block to the second one, while the producer
/// finds no room and goes to sleep.
fn full(broken: Option<Fact>) {
    explore("waiting for room", 3, move || {
        let log = LoomWords::log(3, broken, Light::Full);
        let page = LoomWords::page(broken, Light::Full);
        let signal = LoomWords::signal(broken, Light::Full);
        let links = Arc::new(Links::new(LoomWords::private(broken)));
        let keep_nothing = Retention { depth: 0, history: 0, prompt: 0, spread: 0 };
        let mut producer = Producer::create(log.clone(), SHAPE_3, 1, keep_nothing, links.clone());
        let doorbell = Arc::new(Doorbell(AtomicBool::new(false)));
        let mut reader = Cursor::open(CursorSpec {
            log,
            shape: SHAPE_3,
            page: node_page(&page),
            line: 0,
            tag: 1,
            reliable: true,
            depth: 0,
            history: 0,
            bell: doorbell.clone(),
            lane: None,
            on_released: Box::new(|| {}),
        })
        .expect("a log");
        links.add(link(1, &page, &signal, true, Arc::new(Silent)));
        for sequence in 0..3 {
            assert!(has_room(&mut producer));
            assert_eq!(producer.commit(16), sequence);
        }
        assert!(!has_room(&mut producer), "the reader is still in the first block");
        let reading = thread::spawn(move || {
            for sequence in 0..2 {
                let frame = reader.poll().expect("no fault").expect("a message");
                assert_eq!((frame.sequence, frame.missed_before), (sequence, 0));
            }
            // It stays where it is: leaving the log would ring once more.
            reader
        });
        producer.arm_room();
        let asleep = !has_room(&mut producer);
        let reader = reading.join().expect("reader");
        if asleep {
            assert!(doorbell.0.load(Ordering::SeqCst), "asleep for ever, with room");
        }
        assert!(has_room(&mut producer), "the first block was left");
        drop(reader);
    });
}

#[test]
fn a_producer_that_waits_for_room_is_woken() {
    full(None);
}

#[test]
#[should_panic(expected = "asleep for ever")]
fn without_the_producers_fence_it_waits_for_ever() {
    full(Some(Fact::WaitingBeforeLines));
}

#[test]
#[should_panic(expected = "asleep for ever")]
fn without_the_consumers_fence_nobody_rings_it() {
    full(Some(Fact::LineBeforeWaiting));
}

/// A message waits in a lane; its reader takes it and says that it is handled, while the producer finds too much waiting and
/// goes to sleep.
fn handled(light: Light, broken: Option<Fact>) {
    explore("waiting for a lane's reader", 3, move || {
        let log = LoomWords::log(3, broken, light);
        let page = LoomWords::page(broken, light);
        let signal = LoomWords::signal(broken, light);
        let links = Arc::new(Links::new(LoomWords::private(broken)));
        let keep_nothing = Retention { depth: 0, history: 0, prompt: 0, spread: 0 };
        let mut producer = Producer::create(log.clone(), SHAPE_3, 1, keep_nothing, links.clone());
        let doorbell = Arc::new(Doorbell(AtomicBool::new(false)));
        let mut reader = Cursor::open(CursorSpec {
            log,
            shape: SHAPE_3,
            page: node_page(&page),
            line: 0,
            tag: 1,
            reliable: true,
            depth: 0,
            history: 0,
            bell: doorbell.clone(),
            // Without `membarrier` the reader fences by itself, and needs nothing of the producer but a fence.
            lane: Some(Lane { first: 0, light: true }),
            on_released: Box::new(|| {}),
        })
        .expect("a log");
        links.add(link(1, &page, &signal, true, Arc::new(Silent)));
        assert!(has_room(&mut producer));
        producer.commit(16);
        assert_eq!(producer.done(), 0, "it waits");
        let reading = thread::spawn(move || {
            reader.poll().expect("no fault").expect("a message");
            reader.handled();
            // It stays where it is: leaving the log would ring once more.
            reader
        });
        producer.arm_done();
        let asleep = producer.done() == 0;
        let reader = reading.join().expect("reader");
        if asleep {
            assert!(doorbell.0.load(Ordering::SeqCst), "asleep for ever, with nothing to wait for");
        }
        assert_eq!(producer.done(), 1);
        drop(reader);
    });
}

#[test]
fn a_producer_that_waits_for_a_lanes_reader_is_woken() {
    handled(Light::Full, None);
}

#[test]
#[should_panic(expected = "asleep for ever")]
fn without_the_readers_fence_a_lanes_producer_waits_for_ever() {
    handled(Light::Full, Some(Fact::DoneBeforeWaiting));
}

#[test]
#[should_panic(expected = "asleep for ever")]
fn without_membarrier_a_light_fence_leaves_a_lanes_producer_asleep() {
    handled(Light::Nothing, None);
}
