//! Messages awaited in a Tokio runtime.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use nodeset::{Node, Publisher, Readiness, ReceiveError, Subscriber};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::{DEADLINE, Place};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_stream::StreamExt;

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn several_threads() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap()
}

fn pair(node: &Node, topic: &str) -> (Publisher<u64>, Subscriber<u64>) {
    let publisher = node.publisher(topic).create().unwrap();
    (publisher, node.subscriber(topic).reliable().create().unwrap())
}

/// The next message, which must be there within the deadline.
async fn next(subscriber: &mut Subscriber<u64>) -> u64 {
    timeout(DEADLINE, subscriber.receive_async()).await.expect("a message").unwrap().to_native()
}

/// Counts how often a task was woken.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A state's changes, awaited; a wait that is given up passes over none.
#[test]
fn a_task_wakes_for_a_change_of_a_state() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    const LAST: u64 = 300;
    for runtime in [one_thread(), several_threads()] {
        let mut writer = one.state::<u64>("count").writer().unwrap();
        let mut reader = other.state::<u64>("count").reader().unwrap();
        runtime.block_on(async {
            assert!(poll_once(pin!(reader.changed_async())).is_pending());
            assert!(timeout(Duration::from_millis(1), reader.changed_async()).await.is_err(), "nothing was set");
            let watch = tokio::spawn(async move {
                let mut seen = 0;
                while seen < LAST {
                    // Given up, whether it was ready or not.
                    let _ = poll_once(pin!(reader.changed_async())).is_ready();
                    let next = match reader.get().unwrap() {
                        Some(value) if value.to_native() > seen => value.to_native(),
                        _ => timeout(DEADLINE, reader.changed_async()).await.expect("a change").unwrap().to_native(),
                    };
                    assert!(next > seen, "{next} after {seen}");
                    seen = next;
                }
            });
            for count in 1..=LAST {
                writer.set(&count).unwrap();
                tokio::task::yield_now().await;
            }
            watch.await.unwrap();
        });
    }
}

#[test]
fn a_task_wakes_for_each_message() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    const ROUNDS: u64 = 500;
    for runtime in [one_thread(), several_threads()] {
        let mut ping: Publisher<u64> = one.publisher("ping").create().unwrap();
        let mut there = other.subscriber::<u64>("ping").reliable().create().unwrap();
        let mut pong: Publisher<u64> = other.publisher("pong").create().unwrap();
        let mut back = one.subscriber::<u64>("pong").reliable().create().unwrap();
        runtime.block_on(async {
            let echo = tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let sample = there.receive_async().await.unwrap();
                    assert_eq!((sample.to_native(), sample.publisher(), sample.missed_before()), (round, "one", 0));
                    pong.publish(&sample.to_native()).unwrap();
                }
            });
            for round in 0..ROUNDS {
                ping.publish(&round).unwrap();
                assert_eq!(next(&mut back).await, round);
            }
            echo.await.unwrap();
        });
    }
}

#[test]
fn publishers_that_come_later_wake_a_task_too() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let mut subscriber = one.subscriber::<u64>("later").reliable().create().unwrap();
    several_threads().block_on(async {
        let listener = tokio::spawn(async move {
            for publication in 0..3 {
                assert_eq!(next(&mut subscriber).await, publication);
            }
        });
        for publication in 0..3 {
            let mut publisher = other.publisher::<u64>("later").create().unwrap();
            publisher.publish(&publication).unwrap();
        }
        listener.await.unwrap();
    });
}

#[test]
fn a_future_that_is_dropped_takes_no_message() {
    let place = Place::new();
    let node = place.node("node");
    let (mut publisher, mut subscriber) = pair(&node, "numbers");
    one_thread().block_on(async {
        for round in (0..400).step_by(4) {
            // Never polled.
            drop(subscriber.receive_async());
            // Polled, and nothing was there.
            assert!(poll_once(pin!(subscriber.receive_async())).is_pending());
            publisher.publish(&round).unwrap();
            drop(subscriber.receive_async());
            // Polled when nothing was there, and dropped after something came.
            assert_eq!(next(&mut subscriber).await, round);
            {
                let mut future = pin!(subscriber.receive_async());
                assert!(poll_once(future.as_mut()).is_pending());
                publisher.publish(&(round + 1)).unwrap();
            }
            assert_eq!(*subscriber.try_receive().unwrap().unwrap(), round + 1);
            // By way of a timer, or of another branch that is quicker.
            publisher.publish(&(round + 2)).unwrap();
            publisher.publish(&(round + 3)).unwrap();
            assert_eq!(next(&mut subscriber).await, round + 2);
            tokio::select! {
                biased;
                () = tokio::task::yield_now() => assert_eq!(next(&mut subscriber).await, round + 3),
                sample = subscriber.receive_async() => assert_eq!(*sample.unwrap(), round + 3),
            }
            assert!(timeout(Duration::from_micros(50), subscriber.receive_async()).await.is_err());
        }
    });
}

#[test]
fn racing_futures_that_are_dropped_lose_nothing() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    const MESSAGES: u64 = 5000;
    let mut publisher = one.publisher::<u64>("race").create().unwrap();
    let mut subscriber = other.subscriber::<u64>("race").reliable().create().unwrap();
    let writer = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            publisher.publish(&number).unwrap();
            if number % 5 == 0 {
                std::thread::yield_now();
            }
        }
        publisher
    });
    several_threads().block_on(async {
        let (mut due, mut dropped) = (0, 0);
        while due < MESSAGES {
            tokio::select! {
                sample = subscriber.receive_async() => {
                    assert_eq!(*sample.unwrap(), due);
                    due += 1;
                }
                () = tokio::time::sleep(Duration::from_micros(due % 3)) => dropped += 1,
            }
        }
        println!("{dropped} futures were dropped");
    });
    drop(writer.join().unwrap());
}

/// The next message, by a thread that sleeps.
fn sleep_for(subscriber: &mut Subscriber<u64>) -> u64 {
    subscriber.receive_timeout(DEADLINE).unwrap().expect("a message").to_native()
}

/// The next message, by an event loop that waits for nothing else.
fn poll_for(subscriber: &mut Subscriber<u64>) -> u64 {
    loop {
        if let Some(number) = subscriber.try_receive().unwrap() {
            return number.to_native();
        }
        if let Readiness::Armed(armed) = subscriber.arm().unwrap() {
            let at_most = Timespec::try_from(armed.at_most().unwrap_or(DEADLINE)).unwrap();
            let ready = poll(&mut [PollFd::new(&*subscriber, PollFlags::IN)], Some(&at_most)).unwrap();
            assert!(ready > 0 || armed.at_most().is_some(), "it was not woken");
        }
    }
}

#[test]
fn whatever_waits_in_a_node_takes_nobody_elses_wake() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    const TOPICS: usize = 8;
    const ROUNDS: u64 = 300;
    let runtime = several_threads();
    let (mut publishers, mut answers, mut tasks, mut threads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for at in 0..TOPICS {
        publishers.push(one.publisher::<u64>(format!("topic/{at}")).create().unwrap());
        let mut subscriber = other.subscriber::<u64>(format!("topic/{at}")).reliable().create().unwrap();
        let mut answer = other.publisher::<u64>(format!("answer/{at}")).create().unwrap();
        answers.push(one.subscriber::<u64>(format!("answer/{at}")).reliable().create().unwrap());
        if at % 4 < 2 {
            tasks.push(runtime.spawn(async move {
                for round in 0..ROUNDS {
                    assert_eq!(next(&mut subscriber).await, round);
                    answer.publish(&round).unwrap();
                }
            }));
            continue;
        }
        threads.push(std::thread::spawn(move || {
            for round in 0..ROUNDS {
                let number = if at % 4 == 2 { sleep_for(&mut subscriber) } else { poll_for(&mut subscriber) };
                assert_eq!(number, round);
                answer.publish(&round).unwrap();
            }
        }));
    }
    for round in 0..ROUNDS {
        for at in 0..TOPICS {
            publishers[at].publish(&round).unwrap();
            if (round as usize + at) % 3 == 0 {
                // Now and then nothing else is on its way.
                assert_eq!(sleep_for(&mut answers[at]), round);
            }
        }
        for at in (0..TOPICS).filter(|at| (round as usize + at) % 3 != 0) {
            assert_eq!(sleep_for(&mut answers[at]), round);
        }
    }
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// The wake-up that no epoll instance hears of: a thread of the node took it before the runtime looked.
#[test]
fn whoever_takes_what_rang_wakes_the_tasks() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let mut publisher = one.publisher::<u64>("topic").create().unwrap();
    let mut awaited = other.subscriber::<u64>("topic").reliable().create().unwrap();
    let mut beside = other.subscriber::<u64>("beside").create().unwrap();
    // A runtime that nobody runs hears nothing.
    let runtime = one_thread();
    let _inside = runtime.enter();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(awaited.receive_async());
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    // A thread that sleeps takes what rang; first of all the rings of the links that were made before.
    let mut sleep = || assert!(beside.receive_timeout(Duration::from_millis(50)).unwrap().is_none());
    sleep();
    let before = woken.0.load(Ordering::SeqCst);
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    publisher.publish(&7).unwrap();
    sleep();
    assert_eq!(woken.0.load(Ordering::SeqCst), before + 1);
    let Poll::Ready(sample) = future.as_mut().poll(&mut Context::from_waker(&waker)) else { panic!("not ready") };
    assert_eq!(*sample.unwrap(), 7);
}

#[test]
fn a_subscriber_can_be_awaited_in_one_runtime_after_another() {
    let place = Place::new();
    let node = place.node("node");
    let (mut publisher, mut subscriber) = pair(&node, "topic");
    let runtimes = [one_thread(), one_thread(), several_threads()];
    for round in 0..30 {
        // The others are there, but nobody runs them.
        let runtime = &runtimes[round as usize % runtimes.len()];
        let publisher = &mut publisher;
        std::thread::scope(|scope| {
            scope.spawn(move || publisher.publish(&round).unwrap());
            assert_eq!(runtime.block_on(next(&mut subscriber)), round);
        });
    }
}

#[test]
fn awaiting_without_a_runtime_says_so_and_loses_nothing() {
    let place = Place::new();
    let node = place.node("node");
    let (mut publisher, mut subscriber) = pair(&node, "topic");
    let Poll::Ready(error) = poll_once(pin!(subscriber.receive_async())) else { panic!("not ready") };
    assert!(matches!(error, Err(ReceiveError::NoRuntime)));
    publisher.publish(&1).unwrap();
    // What is there needs no waiting.
    let Poll::Ready(sample) = poll_once(pin!(subscriber.receive_async())) else { panic!("not ready") };
    assert_eq!(*sample.unwrap(), 1);
}

#[test]
fn a_publisher_that_never_stops_lets_other_tasks_run() {
    let place = Place::new();
    let node = place.node("node");
    let (mut publisher, mut subscriber) = pair(&node, "topic");
    const MESSAGES: u64 = 2000;
    for number in 0..MESSAGES {
        publisher.publish(&number).unwrap();
    }
    let other_ran = Arc::new(AtomicBool::new(false));
    one_thread().block_on(async {
        let set = Arc::clone(&other_ran);
        tokio::spawn(async move { set.store(true, Ordering::SeqCst) });
        for number in 0..MESSAGES {
            assert_eq!(*subscriber.receive_async().await.unwrap(), number);
            if other_ran.load(Ordering::SeqCst) {
                return;
            }
        }
        panic!("no other task ran while {MESSAGES} messages were received");
    });
}

#[test]
fn a_stream_gives_samples_to_keep() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let mut publisher = one.publisher::<u64>("topic").create().unwrap();
    let subscriber = other.subscriber::<u64>("topic").reliable().create().unwrap();
    const MESSAGES: usize = 1000;
    let writer = std::thread::spawn(move || {
        for number in 0..MESSAGES as u64 {
            publisher.publish(&number).unwrap();
            if number % 10 == 0 {
                std::thread::yield_now();
            }
        }
        publisher
    });
    let all = several_threads().block_on(async {
        let stream = subscriber.take(MESSAGES).map(Result::unwrap);
        timeout(DEADLINE, stream.collect::<Vec<_>>()).await.expect("all messages")
    });
    drop(writer.join().unwrap());
    assert!(all.iter().map(|sample| sample.to_native()).eq(0..MESSAGES as u64));
}
