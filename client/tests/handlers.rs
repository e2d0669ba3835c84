//! Handlers: functions that are called with each message, on the thread that runs them.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use nodeset::{Evict, HandlerFailure, Node, NodeEvent, Publisher, RunEnd, RunError, Sample};
use support::{DEADLINE, Place, events, wait_for};

/// What the handlers of a test did, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn publisher(node: &Node, topic: &str) -> Publisher<u64> {
    node.publisher(topic).create().unwrap()
}

/// What failed since the last time.
fn failures(events: &Receiver<NodeEvent>) -> Vec<(Option<Arc<str>>, HandlerFailure)> {
    let failed = |event| match event {
        NodeEvent::HandlerFailed { topic, failure, .. } => Some((topic, failure)),
        _ => None,
    };
    events.try_iter().filter_map(failed).collect()
}

/// Runs until it is stopped, which must not take long.
fn run(node: &Node) {
    assert_eq!(node.run_until(Instant::now() + DEADLINE).unwrap(), RunEnd::Stopped);
}

#[test]
fn each_message_is_handled_in_order() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    const MESSAGES: u64 = 2000;
    let (mut left, mut right) = (publisher(&one, "left"), publisher(&one, "right"));
    let subscriber = |topic: &str| other.subscriber::<u64>(topic).reliable().create().unwrap();
    let (sender, done) = channel();
    for topic in ["left", "right"] {
        let (mut due, sender) = (0, sender.clone());
        other.handle(subscriber(topic), move |number| {
            assert_eq!((number.to_native(), number.topic()), (due, topic));
            due += 1;
            if due == MESSAGES { sender.send(topic) } else { Ok(()) }
        });
    }
    let stop = other.stop_handle();
    let events = events(&other);
    let running = std::thread::spawn(move || run(&other));
    for number in 0..MESSAGES {
        left.publish(&number).unwrap();
        right.publish(&number).unwrap();
        if number % 10 == 0 {
            std::thread::yield_now();
        }
    }
    let mut both = [done.recv_timeout(DEADLINE).unwrap(), done.recv_timeout(DEADLINE).unwrap()];
    both.sort_unstable();
    assert_eq!(both, ["left", "right"]);
    stop.stop();
    running.join().unwrap();
    assert_eq!(failures(&events), []);
}

#[test]
fn a_handler_that_panics_or_fails_is_reported_and_stops_nothing() {
    let place = Place::new();
    let node = place.node("node");
    let (events, log, stop) = (events(&node), Log::default(), node.stop_handle());
    let (mut first, mut second) = (publisher(&node, "first"), publisher(&node, "second"));
    let heard = log.clone();
    node.on("first", move |number: Sample<'_, u64>| match number.to_native() {
        0 => panic!("no {}", "zero"),
        1 => Err("one is odd".to_owned()),
        number => {
            heard.add(format!("first {number}"));
            Ok(())
        }
    })
    .unwrap();
    let heard = log.clone();
    node.on("second", move |number: Sample<'_, u64>| {
        heard.add(format!("second {}", number.to_native()));
        stop.stop();
    })
    .unwrap();
    node.every(Duration::from_millis(1), || Err::<(), _>("tick"));
    (0..3).for_each(|number| assert!(first.publish(&number).is_ok()));
    second.publish(&7).unwrap();
    run(&node);
    assert_eq!(log.take(), ["first 2", "second 7"]);
    let mut failures = failures(&events);
    failures.retain(|(topic, _)| topic.is_some());
    let first = Some("first".into());
    let expected = [
        (first.clone(), HandlerFailure::Panicked("no zero".to_owned())),
        (first, HandlerFailure::Returned("one is odd".to_owned())),
    ];
    assert_eq!(failures, expected);
    // A timer's handler fails, too, and is called again.
    let stop = node.stop_handle();
    for _ in 0..2 {
        let stop = stop.clone();
        let (sender, failed) = channel();
        node.on_event(move |event| {
            if let NodeEvent::HandlerFailed { topic: None, failure, .. } = event {
                sender.send(failure.clone()).unwrap();
                stop.stop();
            }
        });
        run(&node);
        assert_eq!(failed.recv().unwrap(), HandlerFailure::Returned("tick".to_owned()));
    }
}

#[test]
fn what_is_known_instead_of_a_message_is_reported() {
    let place = Place::new();
    let (one, other) = (place.node("fast"), place.node("slow"));
    let mut publisher = one.publisher::<[u8]>("data").block_len(4096).evict(Evict::Lag(100)).create().unwrap();
    let (events, stop) = (events(&other), other.stop_handle());
    let subscriber = other.subscriber::<[u8]>("data").reliable().create().unwrap();
    other.handle(subscriber, move |bytes| {
        if bytes.len() == 1 {
            stop.stop();
        }
    });
    (0..10_000).for_each(|_| assert!(publisher.publish(&[0; 500]).is_ok()));
    let running = std::thread::spawn(move || run(&other));
    // It is told, and linked afresh, in either order.
    let (mut told, mut linked) = (false, 0);
    while !told || linked < 2 {
        match events.recv_timeout(DEADLINE).expect("an event") {
            NodeEvent::HandlerFailed { topic: Some(topic), failure: HandlerFailure::Receive(text), .. } => {
                assert!(&*topic == "data" && text.contains("`fast` stopped waiting"), "{text}");
                told = true;
            }
            NodeEvent::HandlerFailed { failure, .. } => panic!("{failure}"),
            NodeEvent::Linked { .. } => linked += 1,
            _ => {}
        }
    }
    // It is handled on.
    publisher.publish(&[0]).unwrap();
    running.join().unwrap();
}

#[test]
fn a_run_ends_after_the_handler_that_stops_it() {
    let place = Place::new();
    let node = place.node("node");
    let (log, stop) = (Log::default(), node.stop_handle());
    let mut publisher = publisher(&node, "topic");
    let heard = log.clone();
    node.on("topic", move |number: Sample<'_, u64>| {
        heard.add(number.to_native().to_string());
        if *number % 2 == 1 {
            stop.stop();
        }
    })
    .unwrap();
    (0..5).for_each(|number| assert!(publisher.publish(&number).is_ok()));
    for expected in [&["0", "1"][..], &["2", "3"]] {
        run(&node);
        assert_eq!(log.take(), expected);
    }
    // Before it runs: at once, and once.
    node.stop_handle().stop();
    run(&node);
    assert_eq!(log.take(), [""; 0]);
    let deadline = Instant::now() + Duration::from_millis(5);
    assert_eq!(node.run_until(deadline).unwrap(), RunEnd::Deadline);
    assert!(Instant::now() >= deadline);
    assert_eq!(log.take(), ["4"]);
}

#[test]
fn handlers_come_and_go_while_they_run() {
    let place = Place::new();
    let (node, other) = (place.node("node"), place.node("other"));
    let (log, stop) = (Log::default(), node.stop_handle());
    let (mut first, mut second) = (publisher(&other, "first"), publisher(&other, "second"));
    // Captured by a handler, a node of the test's would keep itself.
    let handlers = Arc::new(Mutex::new(Some(node.clone())));
    let never = Arc::new(OnceLock::new());
    let (heard, of_handler, remove) = (log.clone(), Arc::clone(&handlers), Arc::clone(&never));
    node.on("first", move |number: Sample<'_, u64>| {
        let node = of_handler.lock().unwrap();
        let Some(node) = &*node else { return Ok(()) };
        node.off(*remove.get().unwrap());
        let (heard, stop, number) = (heard.clone(), stop.clone(), number.to_native());
        node.on("second", move |other: Sample<'_, u64>| {
            heard.add(format!("first {number}, second {}", other.to_native()));
            stop.stop();
        })
        .map(drop)
    })
    .unwrap();
    let heard = log.clone();
    never.set(node.on("second", move |_: Sample<'_, u64>| heard.add("it was removed")).unwrap()).unwrap();
    // Both are ready at once; the first one removes the other before it is called.
    first.publish(&1).unwrap();
    second.publish(&2).unwrap();
    let running = std::thread::spawn({
        let node = node.clone();
        move || run(&node)
    });
    // Until the second one's new subscriber hears of it.
    while !running.is_finished() {
        second.publish(&3).unwrap();
        std::thread::yield_now();
    }
    running.join().unwrap();
    assert_eq!(log.take(), ["first 1, second 3"]);
    handlers.lock().unwrap().take();
}

#[test]
fn a_handler_that_was_removed_is_not_called() {
    let place = Place::new();
    let (node, log) = (place.node("node"), Log::default());
    let mut publisher = publisher(&node, "topic");
    let end_at_once = || assert_eq!(node.run_until(Instant::now()).unwrap(), RunEnd::Deadline);
    // Before anybody ran it, and after.
    for between in [&|| {}, &end_at_once as &dyn Fn()] {
        let heard = log.clone();
        let removed = node.on("topic", move |_: Sample<'_, u64>| heard.add("it was removed")).unwrap();
        between();
        node.off(removed);
        publisher.publish(&4).unwrap();
        end_at_once();
        assert_eq!(log.take(), [""; 0]);
    }
}

#[test]
fn one_thread_runs_them_at_a_time() {
    let place = Place::new();
    let node = place.node("node");
    let (stop, of_handler, log) = (node.stop_handle(), node.clone(), Log::default());
    let heard = log.clone();
    let id = node.every(Duration::ZERO, move || {
        if let Err(error @ RunError::Running) = of_handler.run() {
            heard.add(error.to_string());
        }
        stop.stop();
    });
    run(&node);
    let [error] = &log.take()[..] else { panic!("it ran more than once") };
    assert!(error.contains("run already"), "{error}");
    node.off(id);
    assert_eq!(node.run_until(Instant::now()).unwrap(), RunEnd::Deadline);
}

#[test]
fn handlers_go_with_their_node() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let publisher = publisher(&one, "topic");
    let events = events(&one);
    let (held, of_handler) = (Arc::new(()), Arc::new(Mutex::new(None)));
    *of_handler.lock().unwrap() = Some(Arc::clone(&held));
    let also = Arc::clone(&of_handler);
    other.on("topic", move |_: Sample<'_, u64>| drop(also.lock().unwrap().take())).unwrap();
    other.run_until(Instant::now()).unwrap();
    other.on("topic", |_: Sample<'_, u64>| {}).unwrap();
    let stop = other.stop_handle();
    assert_eq!(publisher.wait_for_subscribers(2, DEADLINE).unwrap(), 2);
    drop(other);
    for _ in 0..2 {
        wait_for(&events, |event| matches!(event, NodeEvent::LinkEnded { peer_subscribes: true, .. }));
    }
    assert_eq!(Arc::strong_count(&of_handler), 1, "the handler is gone");
    stop.stop();
}
